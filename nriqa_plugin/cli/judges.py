"""Judges as they are written on the command line: ``NAME:key=value,key=value``."""

import re


def judge_of(text):
    """The judge that ``text`` names, as :func:`parse_judge` reads it."""
    from nriqa_plugin.iqa import create_scorer

    name, options = parse_judge(text)
    return create_scorer(name, **options)


def parse_judge(text, option='--metric'):
    """Split ``name:key=value,key=value`` into the name and its options.

    The name may be a dotted path ``module:factory``. Values that read as whole or decimal numbers, ``true`` or
    ``false`` become these; ``weights`` stays text. ``option`` names the text in errors.

    Returns:
        tuple[str, dict]

    Raises:
        ValueError: an option without a value, or given twice.
    """
    name, options = text, {}
    match = re.match(r'(.+?):(\w+=.*)$', text)
    if match:
        name = match[1]
        for part in re.split(r',(?=\w+=)', match[2]):
            key, _, value = part.partition('=')
            if not value:
                raise ValueError(f'{option} {text}: the option {key!r} has no value')
            if key in options:
                raise ValueError(f'{option} {text}: the option {key!r} is given twice')
            options[key] = value if key == 'weights' else _value(value)
    return name, options


def _value(text):
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
