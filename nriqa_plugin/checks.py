"""Input validation with named errors: what was wrong, what came in, what is allowed."""

import contextlib
import difflib
import functools
import hashlib
import importlib
import inspect
import math
import os
import pickle
import re
import tempfile
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path

import torch

TORCH_STARTS = (b'PK', b'\x80')  # a zip archive, or a pickle as in torch's old format
YAML_NUMBER = re.compile(r'[-+]?\d+(\.\d*([eE][-+]\d+)?)?')  # of YAML 1.1, as PyYAML reads it


def unknown_name(what, got, allowed):
    """A ``ValueError`` that shows the closest of the ``allowed`` names, then all of them."""
    allowed = [str(name) for name in sorted(allowed)]
    return ValueError(f'unknown {what} {got!r}.{did_you_mean(got, allowed)} Allowed: {", ".join(allowed)}')


def did_you_mean(got, allowed):
    """`` Did you mean 'a' or 'b'?`` with the closest of the ``allowed`` names; '' when none is close."""
    close = difflib.get_close_matches(str(got), allowed, n=3, cutoff=0.5)
    return f' Did you mean {" or ".join(map(repr, close))}?' if close else ''


def check_keys(owner, got, allowed):
    """Refuse option keys that ``owner`` does not know (a typo must not be ignored)."""
    for key in got:
        if key not in allowed:
            raise unknown_name(f'option of {owner}:', key, allowed)


def checks_options(cls):
    """Class decorator: an unknown keyword is refused with the closest names, instead of Python's bare ``TypeError``."""
    accepted, init = inspect.signature(cls).parameters, cls.__init__

    @functools.wraps(init)
    def checked_init(self, *args, **options):
        check_keys(type(self).__name__, options, accepted)
        init(self, *args, **options)

    cls.__init__ = checked_init
    return cls


def check_choice(option, value, allowed):
    """Return ``value`` if it is one of ``allowed``."""
    if value not in allowed:
        raise unknown_name(f'value for {option}:', value, allowed)
    return value


def check_number(option, value, low=-math.inf, high=math.inf, integer=False):
    """Return ``value`` if it is a finite number in ``[low, high]``; with ``integer`` one without a decimal point.

    Raises:
        TypeError: not a number, or a float such as 7.0 where an integer is wanted. Numeric text is named as such: YAML
            reads ``5e-5`` as text and ``5.0e-5`` as a number, BasicSR's ``--force_yml`` both as text.
        ValueError: not finite or out of range.
    """
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            fix = _as_integer(float(value)) if integer else _as_number(value, float(value))
            raise TypeError(f'{option} must be a number, got the text {value!r}; {fix}')
    kind = 'an integer' if integer else 'a number'
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f'{option} must be {kind}, got {value!r}')
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f'{option} must be finite{_limits(low, high)}, got {value!r}')
    if integer and not isinstance(value, Integral):
        whole = int(value) == value
        fix = f' without a decimal point, got {value!r}; write {int(value)}' if whole else f', got {value!r}'
        raise TypeError(f'{option} must be {kind}{fix}')
    return int(value) if integer else value


def _limits(low, high):
    """`` and ...``: what a number must be beside finite."""
    if math.isinf(low) and math.isinf(high):
        return ''
    if math.isinf(low) or math.isinf(high):
        return f' and at most {high}' if math.isinf(low) else f' and at least {low}'
    return f' and in [{low}, {high}]'


def check_flag(option, value):
    """Return ``value`` if it is true or false; text such as ``'false'`` would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f'{option} must be true or false, got {value!r}')
    return value


def _as_integer(number):
    """How to write an integer that arrived as text."""
    return f'write {int(number)} without quotes' if number.is_integer() else 'write an integer'


def _as_number(text, number):
    """How to write a number that arrived as text."""
    if not YAML_NUMBER.fullmatch(text):
        return (f'write it with a decimal point and a signed exponent, for example {_yaml_float(number)} '
                f'(YAML reads {text} as text)')  # fmt: skip
    plain = f' or {Decimal(repr(number)):f}' if text[0].isdigit() else ''
    return f"write it without quotes; on BasicSR's command line (--force_yml) write !!float{text}{plain}"


def _yaml_float(number):
    text = f'{number:e}'
    mantissa, exponent = text.split('e')
    mantissa = mantissa.rstrip('0')
    return f'{mantissa}0e{exponent}' if mantissa.endswith('.') else f'{mantissa}e{exponent}'


class in_place:
    """Prefix the message of an error about options, files or downloads with where it happened."""

    def __init__(self, where):
        self.where = where

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind in (ValueError, TypeError, ImportError, FileNotFoundError, RuntimeError):
            raise kind(f'{self.where}: {error}') from error


def check_images(name, images, channels=3, min_side=1, dims=(4,), needed_by='this judge'):
    """Check type, dimensions, channel count and size of a batch of images, without reading its values.

    Args:
        name (str): how the error calls the tensor, for example ``'pred'``.
        images (Tensor): ``(N, C, H, W)``, or ``(N, T, C, H, W)`` when 5 is in ``dims``.
        needed_by (str): who asks, for the message.

    Raises:
        TypeError: not a floating-point tensor, or half precision on a CPU.
        ValueError: wrong number of dimensions or channels, or a side below ``min_side``.
    """
    if not isinstance(images, torch.Tensor):
        raise TypeError(f'{name} must be a torch.Tensor, got {type(images).__name__}')
    if not images.is_floating_point():
        raise TypeError(f'{name} must be floating point in [0, 1], got {images.dtype}; divide 8-bit images by 255')
    if images.dtype == torch.float16 and images.device.type == 'cpu':
        raise TypeError(f'{name} is float16 on a CPU, which {needed_by} cannot score; convert it with .float()')
    if images.dim() not in dims:
        shapes = ' or '.join('(N, C, H, W)' if d == 4 else '(N, T, C, H, W)' for d in dims)
        raise ValueError(f'{name} must have the shape {shapes}, got {tuple(images.shape)}')
    if images.shape[-3] != channels:
        raise ValueError(f'{needed_by} wants {channels} channels, {name} has {images.shape[-3]}: {tuple(images.shape)}')
    if min(images.shape[-2:]) < min_side:
        raise ValueError(f'{needed_by} needs at least {min_side} px a side, {name} is {tuple(images.shape)}')


def check_unit_range(name, images, slack=0.1):
    """Check that values are finite and lie in [0, 1], give or take ``slack`` (networks overshoot a little).

    Raises:
        ValueError: NaN or infinite values, or values that look like another range (0..255, [-1, 1]).
    """
    low, high = (v.item() for v in torch.aminmax(images.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f'{name} holds NaN or infinite values')
    if low < -slack or high > 1 + slack:
        hint = '; divide 8-bit images by 255' if high > 2 else ''
        raise ValueError(f'{name} must lie in [0, 1], got values in [{low:.4g}, {high:.4g}]{hint}')


def import_extra(module, extra, needed_by):
    """Import an optional package where it is used; when it is missing, say which extra brings it.

    Raises:
        ImportError: with the one line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition('.')[0]:
            raise
        raise ImportError(f"{needed_by} needs the package {error.name}: pip install 'nriqa-plugin[{extra}]'") from error


def import_dotted(what, path):
    """The object that ``package.module:name`` stands for.

    Raises:
        ValueError: there is no such module, or no such name in it.
    """
    module_name, _, attribute = path.partition(':')
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise ValueError(f'{what} {path!r}: there is no module {error.name!r} on the Python path') from error
        raise
    except AttributeError as error:
        raise ValueError(f'{what} {path!r}: {module_name} has no {attribute!r}') from error


def check_device(device):
    """Return ``device`` as a ``torch.device`` that can be used; ``auto`` is a GPU if there is one.

    Raises:
        ValueError: there is no such device here.
    """
    if device == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'device {str(device)!r} cannot be used: {str(error).splitlines()[0]}') from error
    return torch.device(device)


def check_file(option, path):
    """Return ``path`` as a ``Path`` if a file is there, else raise ``FileNotFoundError`` naming the option."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f'{option}: no such file: {path}')
    return file


def load_weights(option, path):
    """Read a checkpoint on the CPU with ``weights_only=True``: no code in it can run.

    Raises:
        FileNotFoundError: the file that ``option`` names is missing.
        ValueError: it is truncated, another kind of file, or a pickle that wants to run code.
    """
    file, start = check_file(option, path), b''
    try:
        with open(file, 'rb') as opened:
            start = opened.read(2)
        return torch.load(file, map_location='cpu', weights_only=True)
    except Exception as error:  # letters are opcodes of pickle: the unpickler raises all kinds of errors
        if start and not start.startswith(TORCH_STARTS):
            raise ValueError(f'{option}: {path} is not a checkpoint: torch has not written this file '
                             '(text, an image?)') from error  # fmt: skip
        if isinstance(error, pickle.UnpicklingError):
            raise ValueError(f'{option}: {path} was refused: it is not a plain file of tensors and might run code '
                             f'({str(error).splitlines()[0]})') from error  # fmt: skip
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f'{option}: {path} is not a readable checkpoint (truncated or damaged?): {reason}') from error


def fill_weights(option, path, module, state):
    """Load ``state`` strictly into ``module``; a mismatch names the file and the first differing keys.

    Raises:
        ValueError: ``state`` belongs to another network.
    """
    if not isinstance(state, dict):
        raise ValueError(f'{option}: {path} holds a {type(state).__name__}, not a state dict')
    own = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    got = {key: tuple(getattr(value, 'shape', ())) for key, value in state.items()}
    if own != got:
        differing = sorted(key for key in own.keys() | got.keys() if own.get(key) != got.get(key))
        lines = [f'{key}: expected {own.get(key, "nothing")}, file has {got.get(key, "nothing")}' for key in differing]
        more = f' (and {len(lines) - 3} more)' if len(lines) > 3 else ''
        raise ValueError(f'{option}: {path} belongs to another network than {type(module).__name__}: '
                         f'{"; ".join(lines[:3])}{more}')  # fmt: skip
    module.load_state_dict(state)
    return module


def tensors_hash(tensors, text=''):
    """The first 12 hex digits of SHA-256 over ``text`` and ``(name, Tensor)`` pairs: which weights these are."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def file_hash(path):
    """The first 12 hex digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside ``path`` and rename it to ``path`` on success: never half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(temporary)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
