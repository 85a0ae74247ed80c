"""Reads files that torch wrote before its zip format, also of whole modules, without running any code in them."""

import math
import pickle
import struct
from pathlib import Path

import torch

from nriqa_plugin.mdf.inert_pickle import InertUnpickler, Mapping, Sealed

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
DEPTH = 32  # of dictionaries, lists and modules in each other
DTYPES = {'FloatStorage': torch.float32, 'LongStorage': torch.int64}
MODULES = {
    ('torch.nn.modules.conv', 'Conv2d'),
    ('torch.nn.modules.batchnorm', 'BatchNorm2d'),
    ('torch.nn.modules.activation', 'LeakyReLU'),
    ('torch.nn.modules.container', 'Sequential'),
    ('SinGAN.models', 'WDiscriminator'),
    ('SinGAN.models', 'ConvBlock'),
}


def is_legacy(path):
    """Whether a file begins as torch's old format does."""
    with open(Path(path).expanduser(), 'rb') as file:
        return file.read(len(_HEAD)) == _HEAD


def read_legacy(path):
    """What such a file holds, its modules as :class:`Module` records, its tensors as tensors.

    Only the names of a discriminator's parts are known, and they stand for classes of ours that keep what they are
    given: nothing that the file names is imported, called or executed.

    Args:
        path (str | Path): the file.

    Raises:
        ValueError: it names anything else, is truncated or damaged, or no such file at all.
        OSError: it cannot be read.
    """
    try:
        return _read(Path(path).read_bytes())
    # Bytes that are no pickle make the unpickler raise nearly anything.
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, struct.error,
            ArithmeticError, RuntimeError, ImportError, MemoryError) as error:  # fmt: skip
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f'{path}: not read: {reason}') from error


class Module:
    """A module as data.

    Attributes:
        kind (str): its class's name.
        attributes (dict): what it held: plain values, tensors, and dictionaries of these and of modules.
    """

    __slots__ = ('attributes',)
    kind = ''

    def __setstate__(self, state):
        if not isinstance(state, dict):
            raise pickle.UnpicklingError('a module without attributes')
        self.attributes = state


def _read(content):
    stream = _Stream(content)
    for expected in (MAGIC, VERSION):
        if _Unpickler(stream, {}).load() != expected:
            raise ValueError("not a file in torch's old format")
    system = _Unpickler(stream, {}).load()
    if not isinstance(system, dict) or system.get('little_endian') is not True:
        raise ValueError('stored on a big-endian machine')
    storages = {}
    found = _Unpickler(stream, storages).load()
    keys = _Unpickler(stream, {}).load()
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
        raise ValueError('its tensors are not those that it announces')
    for key in keys:
        storages[key].fill(stream)
    return _with_tensors(found, {})


def _with_tensors(value, known, depth=0):
    """The same, with its tensors built; ``known`` holds what was done already."""
    if depth > DEPTH:
        raise ValueError('its parts lie in each other without end')
    if id(value) in known:
        return known[id(value)]

    def built(part):
        return _with_tensors(part, known, depth + 1)

    new = value
    if isinstance(value, _Tensor):
        new = value.built()
    elif isinstance(value, Module):
        value.attributes = built(value.attributes)
    elif isinstance(value, dict):
        new = {key: built(part) for key, part in value.items()}
    elif isinstance(value, (list, tuple)):
        new = type(value)(built(part) for part in value)
    known[id(value)] = new
    return new


class _Stream:
    """The file as the unpickler reads it, with the bytes that are left known."""

    def __init__(self, content):
        self.content, self.position = content, 0

    @property
    def left(self):
        return len(self.content) - self.position

    def read(self, count=-1):
        end = len(self.content) if count < 0 else self.position + count
        part = self.content[self.position : end]
        self.position += len(part)
        return part

    def readline(self):
        end = self.content.find(b'\n', self.position)
        return self.read(self.left if end < 0 else end + 1 - self.position)

    def read_exactly(self, count):
        if count > self.left:
            raise EOFError('it ends too early (truncated?)')
        return self.read(count)


class _Storage(metaclass=Sealed):
    """For a storage's type: its values, known when the file is read to its end."""

    __slots__ = ('count', 'values')
    dtype = None

    def __setstate__(self, state):
        raise pickle.UnpicklingError('a storage that wants to be changed')

    def fill(self, stream):
        """Read the values."""
        (count,) = struct.unpack('<q', stream.read_exactly(8))
        if count != self.count:
            raise ValueError(f'tensor data of {count} instead of {self.count} values')
        raw = bytearray(stream.read_exactly(count * self.dtype.itemsize))
        self.values = torch.frombuffer(raw, dtype=self.dtype) if count else torch.zeros(0, dtype=self.dtype)


class _Tensor(metaclass=Sealed):
    """For ``torch._utils._rebuild_tensor_v2``: a view of a storage."""

    __slots__ = ('layout', 'storage')

    def __init__(self, storage, offset, size, stride, requires_grad=False, hooks=None):
        if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
            raise pickle.UnpicklingError('a tensor that is none')
        self.storage, self.layout = storage, (tuple(size), tuple(stride), offset)

    def __setstate__(self, state):
        raise pickle.UnpicklingError('a tensor that wants to be changed')

    def built(self):
        size, stride, offset = self.layout
        needed = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else 0
        # Strides of 0 would make a few values as large a tensor as one likes.
        if max(needed, math.prod(size)) > self.storage.count:
            raise ValueError('a tensor larger than its data')
        # Not copied: many tensors may share one storage.
        return self.storage.values.as_strided(size, stride, offset)


class _Parameter(metaclass=Sealed):
    """For ``torch._utils._rebuild_parameter``: the tensor."""

    def __new__(cls, data, requires_grad=False, hooks=None):
        return data


STORAGES = [Sealed(name, (_Storage,), {'__slots__': (), 'dtype': dtype}) for name, dtype in DTYPES.items()]


def _stand_ins():
    names = {
        ('collections', 'OrderedDict'): Mapping,
        ('torch._utils', '_rebuild_tensor_v2'): _Tensor,
        ('torch._utils', '_rebuild_parameter'): _Parameter,
    }
    names |= {('torch', kind.__name__): kind for kind in STORAGES}
    for module, name in MODULES:
        names[module, name] = Sealed(name, (Module,), {'__slots__': (), 'kind': name})
    return names


STAND_INS = _stand_ins()


class _Unpickler(InertUnpickler):
    """Fills ``storages`` with what the pickle announces."""

    def __init__(self, stream, storages):
        super().__init__(stream, STAND_INS)
        self.stream, self.storages, self.announced = stream, storages, 0

    def persistent_load(self, pid):
        kind, *rest = pid
        if kind == 'module':  # (class, file, source code): the code is only text
            return rest[0]
        storage_type, key, _, count, view = rest
        known = kind == 'storage' and storage_type in STORAGES and view is None
        if not known or type(key) is not str or type(count) is not int:
            raise pickle.UnpicklingError(f'a part of unknown kind {str(kind)[:40]!r}')
        if key not in self.storages:
            self.announced += max(0, count) * storage_type.dtype.itemsize
            if count < 0 or self.announced > len(self.stream.content):
                raise EOFError(f'it announces {count} values, more than it holds (truncated?)')
            self.storages[key] = storage_type()
            self.storages[key].count = count
        return self.storages[key]


_HEAD = pickle.dumps(MAGIC, protocol=2)
