"""Which clips of a list are for the test: a choice that everybody who has the list makes alike."""

import hashlib

from nriqa_plugin.checks import check_number


def pick(names, count, seed=0):
    """The ``count`` names whose SHA-256 of ``SEED:NAME`` is smallest, in the order in which they came.

    The choice depends on the names alone, not on their order, and a smaller one is part of every larger one.

    Args:
        names (Sequence[str]): all different.
        count (int): at least 1.
        seed (int)

    Raises:
        ValueError: fewer names than ``count``, or one twice.
    """
    names = list(names)
    check_number('count', count, low=1, integer=True)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'the list names {twice!r} twice')
    if count > len(names):
        raise ValueError(f'count: {count} clips cannot be picked out of {len(names)}')
    chosen = set(sorted(names, key=lambda name: hashlib.sha256(f'{seed}:{name}'.encode()).digest())[:count])
    return [name for name in names if name in chosen]
