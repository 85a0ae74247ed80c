"""Discriminators from files of other projects: the authors' released pickles, and plain state dicts."""

import math
import re
import zipfile
from pathlib import Path

from nriqa_plugin.checks import check_file, check_number, file_hash, load_weights
from nriqa_plugin.mdf.legacy_pickle import Module, is_legacy, read_legacy
from nriqa_plugin.mdf.mdf_file import FORMAT, build_discriminators, save_mdf
from nriqa_plugin.mdf.pyramid import MOST

# What the layers of a discriminator do beside their weights; modules that say otherwise are another network.
GEOMETRY = {
    'Conv2d': {'kernel_size': (3, 3), 'stride': (1, 1), 'padding': (0, 0), 'dilation': (1, 1), 'groups': 1},
    'BatchNorm2d': {'eps': 1e-5, 'affine': True, 'track_running_stats': True},
    'LeakyReLU': {'negative_slope': 0.2},
}
# Of modules within modules, and of parts of one module: many ways through shared ones, or a cycle, have no end.
DEPTH, PARTS = 4, 8


def convert(path, out, task=None, values=(0.0, 1.0)):
    """Write what :func:`read_discriminators` reads as a file of :func:`nriqa_plugin.mdf.mdf_file.save_mdf`.

    Args:
        path (str | Path): the file of another project.
        out (str | Path): the safe file, another one.
        task (str | None): what the discriminators were trained for, a note in the header.
        values (tuple[float, float]): what they are given for black and white. The authors' examples give [0, 1],
            although the statistics in their batch norms show a training on [-1, 1].

    Returns:
        tuple[dict, list[int]]: the header that was written and the widths.

    Raises:
        ValueError, FileNotFoundError: as :func:`read_discriminators`; values that do not rise; ``out`` is ``path``.
    """
    low, high = (check_number('range', value) for value in values)
    if low >= high:
        raise ValueError(f'range must rise, got {low:g} to {high:g}')
    discriminators = read_discriminators('the file to convert', path)
    file = Path(path).expanduser()
    if Path(out).exists() and file.samefile(out):
        raise ValueError(f'{out} is the file to convert, which would be replaced; choose another name')
    header = {'task': task, 'range': [low, high], 'source': file.name, 'source_hash': file_hash(file)}
    save_mdf(out, discriminators, header)
    return header, [network.width for network in discriminators]


def read_discriminators(option, path):
    """Discriminators from a file that is not ours.

    Args:
        option (str): names the file in messages.
        path (str | Path): the MDF authors' file (a list of whole modules in torch's old format, which is read without
            running any code), or state dicts with the keys ``head.conv.weight``, ...: a list of them, a mapping of
            numbers to them, one with the number before every key (``0.head.conv.weight``), or one alone.

    Returns:
        list[Discriminator]: in eval mode, in the order of the file, which is coarsest scale first in the authors'.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, wants to run code, or holds something else.
    """
    file = check_file(option, path)
    if is_legacy(file):
        try:
            content = read_legacy(file)
        except ValueError as error:
            raise ValueError(f'{option}: {error}') from error
    elif zipfile.is_zipfile(file):
        content = load_weights(option, file)
    else:
        raise ValueError(f'{option}: {path} is no file that torch has written (truncated, or another kind of file?)')
    return build_discriminators(option, path, _states(option, path, content))


def _states(option, path, content):
    """The state dicts, in order, as far as there are any."""
    if isinstance(content, Module):
        content = [content]
    if isinstance(content, dict) and content.get('format') == FORMAT:
        raise ValueError(f'{option}: {path} is a safe file of discriminators already; MDFLoss reads it as it is')
    if isinstance(content, dict):
        content = _numbered(content)
    if not isinstance(content, (list, tuple)) or len(content) > MOST:
        return content  # which is refused when they are built
    states = []
    for index, part in enumerate(content):
        try:
            states.append(_state(part) if isinstance(part, Module) else part)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f'{option}: {path}: module {index} is no MDF discriminator: {error}') from error
    return states


def _numbered(content):
    """A mapping as a list: ``{0: state, ...}``, ``{'0.head...': tensor, ...}``, or one state dict."""
    if all(re.fullmatch(r'\d+', str(key)) for key in content):
        return [content[key] for key in sorted(content, key=lambda key: int(str(key)))]
    parts = {}
    for key, value in content.items():
        match = re.fullmatch(r'(?:[A-Za-z_]+\.)?(\d+)\.((?:head|body|tail)\..+)', str(key))
        if not match:
            return [content]
        parts.setdefault(int(match[1]), {})[match[2]] = value
    return [parts[index] for index in sorted(parts)]


def _state(module, depth=0):
    """The state dict of a module that was read as data; every layer must do what ours does."""
    if depth > DEPTH or len(module.attributes['_modules']) > PARTS:
        raise ValueError('more modules within modules than a discriminator has')
    held = module.attributes
    for name, wanted in GEOMETRY.get(module.kind, {}).items():
        if not _equal(held[name], wanted):
            raise ValueError(f'{module.kind} with {name} {held[name]!r} instead of {wanted!r}')
    state = {}
    for group in (held['_parameters'], held['_buffers']):
        state |= {key: value for key, value in group.items() if value is not None}
    for name, part in held['_modules'].items():
        if not isinstance(part, Module):
            raise TypeError(f'{name} is no module')
        state |= {f'{name}.{key}': value for key, value in _state(part, depth + 1).items()}
    return state


def _equal(got, wanted):
    if type(got) is not type(wanted):
        return False
    return math.isclose(got, wanted) if type(got) is float else got == wanted
