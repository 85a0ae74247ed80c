"""Judges together: which pair or triple of judges agrees best with people.

Judges are combined by adding their margins, each divided by its root mean square over the pairs: every judge has one
vote, and a clear preference counts more than a slight one. The best combination of the data it was chosen on flatters
itself, so that its accuracy is also cross-validated: scales and choice come from the other scenes.
"""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from nriqa_plugin.checks import check_number
from nriqa_plugin.preference.screening import Agreement, agreement, share_ci

FOLDS = 10
CHUNK = 4_000_000  # numbers
MOST = 200_000  # combinations


@dataclass(frozen=True)
class Combination:
    """The best so many judges.

    Attributes:
        judges (tuple[str, ...]): best on all pairs, in the order of the judges given.
        in_sample (float): its accuracy on the pairs that it was chosen on: too high.
        cross_validated (Agreement): accuracy of choosing so many judges on the other scenes, with its interval.
        folds (int): into how many parts the scenes went.
        chosen_in (int): in how many of them the same judges were chosen.
    """

    judges: tuple
    in_sample: float
    cross_validated: Agreement
    folds: int
    chosen_in: int


def best_combination(pairs, judges, size, core=None, seed=0, resamples=2000):
    """The best ``size`` judges by :func:`~nriqa_plugin.preference.screening.pair_accuracy`.

    Args:
        pairs (Pairs): what people said; pairs of even votes are left out.
        judges (dict[str, ndarray]): margins ``(P,)`` by name. Among combinations that are equally good the first wins.
        size (int): how many judges.
        core (str | None): a judge that has to be one of them.
        seed (int): of the folds and of the bootstrap over scenes.

    Returns:
        Combination | None: None when there are fewer judges than ``size``, or fewer than two scenes.

    Raises:
        ValueError: too many combinations to try.
    """
    size = check_number('size', size, low=1, high=len(judges) + 1, integer=True)
    decided = np.flatnonzero(~np.isnan(pairs.majority))
    names = list(judges)
    scenes, scene = np.unique(pairs.scene[decided], return_inverse=True)
    if size > len(names) or len(scenes) < 2:
        return None
    if comb(len(names), size) > MOST:
        raise ValueError(f'there are {comb(len(names), size)} ways to choose {size} of {len(names)} judges; '
                         f'screen fewer (at most {MOST})')  # fmt: skip
    subsets = [subset for subset in combinations(range(len(names)), size) if not core or names.index(core) in subset]
    tries = np.zeros((len(subsets), len(names)))
    for row, subset in zip(tries, subsets, strict=True):
        row[list(subset)] = 1
    margin = np.stack([_finite(judges[name][decided]) for name in names])
    answer = pairs.majority[decided]
    everything = np.ones(len(decided), dtype=bool)
    best, in_sample = _best(tries, margin, answer, everything)
    generator = np.random.default_rng(seed)
    folds = min(FOLDS, len(scenes))
    fold = generator.permutation(len(scenes)) % folds
    held_out, chosen_in = np.empty(len(decided)), 0
    for number in range(folds):
        test = fold[scene] == number
        chosen, _ = _best(tries, margin, answer, ~test)
        chosen_in += chosen == best
        held_out[test] = agreement(tries[chosen] @ _scaled(margin, ~test)[:, test], answer[test])
    share = share_ci(held_out, scene, seed=seed, resamples=resamples)
    members = tuple(names[j] for j in subsets[best])
    return Combination(members, in_sample, Agreement(share, len(held_out)), folds, int(chosen_in))


def _best(tries, margin, answer, use):
    """Place and accuracy of the best row of ``tries`` on the pairs ``use``; a few rows at a time."""
    scaled, answer = _scaled(margin, use)[:, use], answer[use]
    at_once = max(1, CHUNK // len(answer))
    accuracy = np.concatenate([
        agreement(tries[start : start + at_once] @ scaled, answer).mean(1) for start in range(0, len(tries), at_once)
    ])  # fmt: skip
    best = int(accuracy.argmax())
    return best, float(accuracy[best])


def _scaled(margin, use):
    """Margins by their root mean square over the pairs ``use``; a judge that never tells stays silent."""
    size = np.sqrt((margin[:, use] ** 2).mean(1, keepdims=True))
    return margin / np.where(size > 0, size, 1.0)


def _finite(margin):
    """An infinite margin (of PSNR) counts as the largest finite one."""
    finite = margin[np.isfinite(margin)]
    most = np.abs(finite).max(initial=0.0) or 1.0
    return np.clip(margin, -most, most)
