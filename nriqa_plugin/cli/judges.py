"""Judges as they are written on the command line: ``NAME:key=value,key=value``."""

import re
from functools import partial


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


def split_metrics(text):
    """A list of judges in one text: ``niqe,cnniqa:weights=FILE,stride=16,musiq`` has three.

    Returns:
        tuple[bool, list[str]]: whether ``all`` is in it, and the others; nothing for None.
    """
    parts = [part.strip() for part in re.split(r',(?!\s*\w+=)', text)] if text else []
    if '' in parts:
        raise ValueError(f'--metrics {text}: a name is empty')
    return 'all' in parts, [part for part in parts if part != 'all']


def judges_of(texts):
    """What builds the judges that texts name, by a name that tells them apart: further ones show their options.

    Returns:
        dict[str, callable]: in the order of ``texts``; each judge has the name it stands under.

    Raises:
        ValueError: the same judge twice, or as :func:`parse_judge`.
    """
    found = {}
    for text in texts:
        name, options = parse_judge(text)
        if name in found:
            shown = ','.join(f'{key}={value}' for key, value in options.items() if key != 'weights')
            name = f'{name}:{shown}' if shown else name
        if name in found:
            raise ValueError(f'the judge {name} is named twice')
        found[name] = partial(_called, name, text)
    return found


def _called(name, text):
    judge = judge_of(text)
    judge.name = name
    return judge
