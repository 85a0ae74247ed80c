"""YAML without surprises: nothing in a file is run, and ``!!python/name:`` lines of option files stay what they are."""

from pathlib import Path

from nriqa_plugin.checks import import_extra

NAME_TAG = 'tag:yaml.org,2002:python/name:'


class PythonName(str):
    """The name behind ``!!python/name:``; it is not imported."""


def read_yaml(path):
    """The content of a YAML file.

    Raises:
        ValueError: it is not YAML, or holds another tag that might run code.
    """
    yaml = _yaml()
    loader = type('Loader', (yaml.SafeLoader,), {})
    loader.add_multi_constructor(NAME_TAG, lambda loader, suffix, node: PythonName(suffix))
    try:
        return yaml.load(Path(path).read_text(encoding='utf-8'), loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is not readable as YAML: {error}') from error


def yaml_text(content):
    """The text of a YAML file that :func:`read_yaml` reads back.

    Raises:
        ValueError: it holds something that YAML has no plain form for.
    """
    yaml = _yaml()
    dumper = type('Dumper', (yaml.SafeDumper,), {'ignore_aliases': lambda self, data: True})
    dumper.add_representer(PythonName, lambda dumper, name: dumper.represent_scalar(NAME_TAG + name, ''))
    try:
        return yaml.dump(content, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
    except yaml.YAMLError as error:
        raise ValueError(f'cannot be written as YAML: {error}') from error


def yaml_value(text):
    """A value on the command line, as YAML reads it: numbers, true, lists, else text."""
    return _yaml().safe_load(text)


def _yaml():
    return import_extra('yaml', 'basicsr', 'nriqa compare')
