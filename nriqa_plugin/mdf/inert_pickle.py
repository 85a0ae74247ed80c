"""An unpickler that builds plain values and instances of a few known classes, and can do nothing else."""

import pickle

# All that torch writes in its old format, which is protocol 2. Among the rest are opcodes that call by other ways, and
# some that reserve memory as a file says.
OPCODES = (
    'PROTO', 'STOP', 'MARK', 'BINPUT', 'LONG_BINPUT', 'BINGET', 'LONG_BINGET',
    'NONE', 'NEWTRUE', 'NEWFALSE', 'BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT', 'BINUNICODE',
    'EMPTY_TUPLE', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3', 'EMPTY_LIST', 'APPEND', 'APPENDS',
    'EMPTY_DICT', 'SETITEM', 'SETITEMS', 'GLOBAL', 'REDUCE', 'NEWOBJ', 'BUILD', 'BINPERSID',
)  # fmt: skip


class Sealed(type):
    """For stand-ins: nothing can be set on the class itself, since a pickle's BUILD also takes classes."""

    def __setattr__(cls, name, value):
        raise pickle.UnpicklingError(f'it wants to change {cls.__name__}')


class Mapping(dict, metaclass=Sealed):
    """For dictionaries and ``OrderedDict``; has no attributes, so that its methods stay what they are.

    Keys are text or whole numbers: the hash of tuples within tuples, a million deep, would end the process.
    """

    __slots__ = ()

    def __init__(self):
        super().__init__()

    def __setitem__(self, key, value):
        if type(key) not in (str, int):
            raise pickle.UnpicklingError('a key that is neither text nor a number')
        super().__setitem__(key, value)

    def __setstate__(self, state):
        """State dicts carry notes (``_metadata``), which nobody needs."""


class _Opcodes(dict):
    def __missing__(self, opcode):
        raise pickle.UnpicklingError(f'opcode {opcode:#04x}, which torch does not write')


class InertUnpickler(pickle._Unpickler):
    """Python's own unpickler; the one in C neither lets opcodes be left out nor lists numbered 2 ** 31 at no cost.

    Args:
        stream: with ``read`` and ``readline``.
        stand_ins (dict[tuple[str, str], type]): which class of ours is taken for a name ``(module, name)``.

    Raises (in ``load``): ``pickle.UnpicklingError`` for any other name or opcode, and nearly anything for bytes that
    are no pickle.
    """

    dispatch = _Opcodes({code: pickle._Unpickler.dispatch[code] for code in (getattr(pickle, n)[0] for n in OPCODES)})

    def __init__(self, stream, stand_ins):
        super().__init__(stream)
        self._stand_ins = stand_ins

    def find_class(self, module, name):
        if (module, name) not in self._stand_ins:
            raise pickle.UnpicklingError(f'it wants to use {module}.{name}, which is no part of a discriminator')
        return self._stand_ins[module, name]

    def load_empty_dictionary(self):
        self.append(Mapping())

    dispatch[pickle.EMPTY_DICT[0]] = load_empty_dictionary
