"""The table of a screening: every judge by its agreement with people, and the best judges together."""

from dataclasses import dataclass

import numpy as np

from nriqa_plugin.checks import unknown_name
from nriqa_plugin.preference.judge_combinations import Combination, best_combination
from nriqa_plugin.preference.pairs import margins
from nriqa_plugin.preference.screening import (
    Agreement,
    majority_ceiling,
    observer_ceiling,
    pair_accuracy,
    rank_matrix,
    rescue,
    vote_accuracy,
)

SIZES = (1, 2, 3)  # of combinations; a core judge alone is none


@dataclass(frozen=True)
class Row:
    """One judge.

    Attributes:
        judge (str), higher_better (bool): what was asked.
        pairs (int), pair_accuracy, pair_low, pair_high (float): share of the pairs in which it agrees with the
            majority, and its 95 % bootstrap interval over scenes.
        votes (int), vote_accuracy, vote_low, vote_high (float): the same for single votes.
        undecided (int): pairs in which both images have the same score; they count one half.
        core_wrong (int), rescue, rescue_low, rescue_high (float): pairs in which the core judge is wrong, and the
            accuracy on these; NaN without a core judge.
        judge_hash (str): of its weights, where they are known.
    """

    judge: str
    higher_better: bool
    pairs: int
    pair_accuracy: float
    pair_low: float
    pair_high: float
    votes: int
    vote_accuracy: float
    vote_low: float
    vote_high: float
    undecided: int
    core_wrong: int
    rescue: float
    rescue_low: float
    rescue_high: float
    judge_hash: str


@dataclass(frozen=True)
class Screening:
    """What a screening found; rows are sorted by accuracy on pairs, the best first.

    Attributes:
        core (str | None): the judge that complementarity is about.
        combinations (tuple[Combination, ...]): the best one, two and three judges, as many as there are; with a core
            judge the best two and three that hold it.
        ranks (ndarray): Spearman's correlation between the judges over the images, in the order of ``rows``.
        majority (Agreement): the highest accuracy per vote that is possible.
        observer (Agreement): how well one person predicts the majority of the others; ``n`` is 0 if nobody is named.
        scenes, images, ties, all_ties, even, repeated (int): counts of the data, see
            :class:`~nriqa_plugin.preference.pairs.Pairs`; ``even`` are pairs without a majority.
    """

    core: str | None
    rows: tuple
    combinations: tuple[Combination, ...]
    ranks: np.ndarray
    majority: Agreement
    observer: Agreement
    scenes: int
    images: int
    ties: int
    all_ties: int
    even: int
    repeated: int


def screen(pairs, judges, core=None, seed=0, resamples=2000, together=True):
    """Screen judges on pairs.

    Args:
        pairs (Pairs): what people said.
        judges (Sequence[JudgeScores]): what the judges say of the same images.
        core (str | None): one of the judges: the others are also tried where it is wrong, and combinations hold it.
        seed, resamples (int): of the bootstrap; all judges meet the same resamples.
        together (bool): also look for the best judges together.

    Returns:
        Screening

    Raises:
        ValueError: no judge, two of one name, an unknown core, no pair with a majority, or images that a judge has not
            scored.
    """
    by_name = {one.judge: one for one in judges}
    if not judges or len(by_name) != len(judges):
        raise ValueError('no judge to screen' if not judges else 'two judges have the same name')
    if core is not None and core not in by_name:
        raise unknown_name('core judge', core, by_name)
    if np.isnan(pairs.majority).all():
        raise ValueError('the votes on every pair are even: nobody can be right')
    bootstrap = {'seed': seed, 'resamples': resamples}
    margin = {one.judge: margins(pairs, one.judge, one.scores, one.higher_better) for one in judges}
    rows = [_row(pairs, one, margin[one.judge], core and margin[core], core, bootstrap) for one in judges]
    rows.sort(key=lambda row: (-row.pair_accuracy, -row.vote_accuracy, row.judge))
    ordered = {row.judge: margin[row.judge] for row in rows}
    sizes = [size for size in SIZES if together and size > (core is not None)]
    found = [best_combination(pairs, ordered, size, core, seed, resamples) for size in sizes if size <= len(rows)]
    oriented = [
        [_sign(by_name[row.judge]) * by_name[row.judge].scores[image] for image in pairs.images] for row in rows
    ]
    return Screening(
        core,
        tuple(rows),
        tuple(one for one in found if one is not None),
        rank_matrix(oriented),
        majority_ceiling(pairs, **bootstrap),
        observer_ceiling(pairs, **bootstrap),
        len(np.unique(pairs.scene)),
        len(pairs.images),
        pairs.ties,
        pairs.all_ties,
        int(np.isnan(pairs.majority).sum()),
        pairs.repeated,
    )


def _row(pairs, one, margin, core_margin, core, bootstrap):
    on_pairs, on_votes = (measure(pairs, margin, **bootstrap) for measure in (pair_accuracy, vote_accuracy))
    if core is None or one.judge == core:
        core_wrong, saved = 0, (float('nan'),) * 3
    else:
        result = rescue(pairs, core_margin, margin, **bootstrap)
        core_wrong, saved = result.n, result.share
    undecided = int((margin == 0).sum())
    return Row(one.judge, one.higher_better, on_pairs.n, *on_pairs.share, on_votes.n, *on_votes.share, undecided,
               core_wrong, *saved, one.judge_hash)  # fmt: skip


def _sign(judge):
    return 1 if judge.higher_better else -1
