"""Screening in two stages: all judges on a few pairs, the best of them on all (as in arXiv 2504.18524)."""

import numpy as np

from nriqa_plugin.checks import check_number
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.iqa.pyiqa_tables import NO_JUDGE, metric_configs

# Without a reference; of pyiqa's metrics of the same name it is the built-in one.
BUILT_IN_NR = ('niqe', 'cnniqa', 'pattern')


def no_reference_judges():
    """The names of all no-reference judges: the built-in ones, then those of pyiqa that score single images.

    Returns:
        list[str]: only the built-in ones where pyiqa is not installed.
    """
    configs = metric_configs()
    of_pyiqa = [
        name
        for name, config in sorted(configs.items())
        if config['metric_mode'] == 'NR' and config['metric_opts']['type'] not in NO_JUDGE and name not in BUILT_IN_NR
    ]
    return [*BUILT_IN_NR, *of_pyiqa]


def build_each(names, given=None, build=create_scorer):
    """Build judges one after the other, so that only one is in memory.

    Args:
        names (Sequence[str]): judges.
        given (dict[str, callable] | None): by name what builds a judge of certain options instead.

    Yields:
        tuple[str, Scorer | None, str]: name, and the judge or the reason why it cannot be built here.
    """
    given = given or {}
    for name in names:
        try:
            yield name, given[name]() if name in given else build(name), ''
        except Exception as error:  # constructors of other packages raise all kinds of errors
            yield name, None, first_line(error)


def first_line(error):
    """An error as one line."""
    return ' '.join(str(error).split()) or type(error).__name__


def sample_pairs(pairs, count, seed):
    """The places of ``count`` pairs, drawn at random without replacement from those whose votes are not even.

    Raises:
        ValueError: fewer such pairs.
    """
    decided = np.flatnonzero(~np.isnan(pairs.majority))
    count = check_number('stage1', count, low=1, integer=True)
    if count > len(decided):
        raise ValueError(f'stage1: {count} pairs asked for, but there are {len(decided)} with a majority')
    return np.sort(np.random.default_rng(seed).choice(decided, count, replace=False))


def keepers(rows, count):
    """The names of the ``count`` best rows by accuracy on pairs, then on votes, then by name.

    Args:
        rows (Sequence): with ``judge``, ``pair_accuracy`` and ``vote_accuracy``.
    """
    count = check_number('keep', count, low=1, integer=True)
    ranked = sorted(rows, key=lambda row: (-row.pair_accuracy, -row.vote_accuracy, row.judge))
    return [row.judge for row in ranked[:count]]
