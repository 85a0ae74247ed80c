"""The table of relative gains: losses by judges, averaged over networks and data sets (Fig. 2 of arXiv 2405.20392)."""

import math
from dataclasses import dataclass, field

from nriqa_plugin.checks import check_choice, file_hash, in_place, unknown_name
from nriqa_plugin.evaluation.csv_file import DUST
from nriqa_plugin.evaluation.relative_gain import gain_between, relative_gain
from nriqa_plugin.evaluation.scores import clip_mean, mean, read_scores

ERROR, EMPTY = 'error', 'empty'  # what becomes of a judge whose baseline is not positive


@dataclass(frozen=True)
class Cell:
    """The gain of one loss by one judge for one network on one data set; ``gain`` is in percent, positive is better.

    Attributes:
        own (bool): the loss optimises this judge.
        baseline_hash (str): first 12 hex digits of the SHA-256 of the baseline's scores file.
    """

    loss: str
    network: str
    dataset: str
    metric: str
    higher_better: bool
    n: int
    baseline_mean: float
    test_mean: float
    gain: float
    own: bool
    judge_hash: str
    baseline_hash: str


@dataclass(frozen=True)
class GainMatrix:
    """Rows are losses, columns judges.

    Attributes:
        baseline (str): what the gains are over.
        losses, metrics (tuple[str, ...]): rows and columns, in their order.
        places (tuple[tuple[str, str], ...]): the ``(network, data set)`` that every mean is over.
        cells (tuple[Cell, ...]): one for each loss, judge and place.
        own (dict[str, frozenset]): by loss the judges that it optimises, among the columns.
        higher_better (dict[str, bool]): direction by judge; gains are positive where better whatever it is.
        per_image (bool): gains of single images averaged; otherwise gains of mean scores, as in the paper.
        missing (dict[str, tuple]): by loss the places without scores of it; such a row has no means.
        undefined (dict[str, str]): judges without gains, and why.
    """

    baseline: str
    losses: tuple
    metrics: tuple
    places: tuple
    cells: tuple
    own: dict
    higher_better: dict
    per_image: bool = False
    missing: dict = field(default_factory=dict)
    undefined: dict = field(default_factory=dict)

    def gain(self, loss, metric):
        """Mean gain over all places; NaN where a place is missing or the judge has no gain."""
        gains = [cell.gain for cell in self.cells if (cell.loss, cell.metric) == (loss, metric)]
        return mean(gains) if len(gains) == len(self.places) else math.nan

    def mean(self, loss):
        """Mean of the row over all judges that have gains; NaN in an incomplete row."""
        return self._mean(loss, [metric for metric in self.metrics if metric not in self.undefined])

    def mean_of_others(self, loss):
        """The same over the judges that the loss does not optimise; NaN when there is none."""
        own = self.own[loss] | self.undefined.keys()
        return self._mean(loss, [metric for metric in self.metrics if metric not in own])

    def _mean(self, loss, metrics):
        return mean(self.gain(loss, metric) for metric in metrics) if metrics else math.nan

    def lowers_own(self, loss, metric):
        """Whether the loss optimises this judge and yet the judge's mean gain is negative."""
        return metric in self.own[loss] and self.gain(loss, metric) < -DUST

    def lowered(self, loss):
        """The own judges that a loss lowers."""
        return [metric for metric in self.metrics if self.lowers_own(loss, metric)]

    def notes(self, lowered=True):
        """What a reader of the table must know, as plain sentences; ``lowered``: also every own judge that fell."""
        return [*_explanations(self), *(_lowered(self) if lowered else ()), *gaps(self)]


def gain_matrix(index, metrics=None, per_image=False, undefined=ERROR, losses=None):
    """Relative gains (:func:`~nriqa_plugin.evaluation.relative_gain.relative_gain`) of every run over the baseline.

    Args:
        index (RunIndex): runs with scores files, and the loss that is the baseline in each place.
        metrics (Sequence[str] | None): the columns; default: every metric, sorted, the same in all runs.
        per_image (bool): False: the mean score over the images first, then the gain, as in the paper. True: the gain
            of every image first (then every image's baseline must be positive), then the mean; over clips for video.
        undefined (str): ``error``, or ``empty`` to leave out a judge with a baseline that is not positive.
        losses (Sequence[str] | None): the rows, also such without any run; default: those of the index.

    Returns:
        GainMatrix

    Raises:
        ValueError: no baseline, a run without scores, a judge that is missing in a run or for some of its images,
            other images, references or weights of a judge than the baseline's, a baseline that is not positive; the
            message names loss, network, data set and judge.
    """
    check_choice('undefined', undefined, (ERROR, EMPTY))
    if index.baseline is None:
        known = ', '.join(dict.fromkeys(run.loss for run in index.runs))
        raise ValueError(f'relative gains need a baseline: name one of the losses {known}')
    scores, hashes = {}, {}
    for run in index.runs:
        if run.scores is None:
            raise ValueError(f'{_where(run)}: it has no scores file')
        scores[run], hashes[run] = read_scores(run.scores), file_hash(run.scores)
    first = index.baseline_of(index.runs[0])
    named, metrics = metrics is not None, list(dict.fromkeys(scores[first].metrics if metrics is None else metrics))
    for run in index.runs:
        if not named and (more := [metric for metric in scores[run].metrics if metric not in metrics]):
            raise ValueError(f'{_where(run)} has {", ".join(more)}, which {_where(first)} has not; '
                             'name the metrics to compare')  # fmt: skip
        for metric in metrics:
            if metric in scores[run].metrics:
                continue
            owner = next((other for other in index.runs if metric in scores[other].metrics), None)
            if owner is None:
                raise unknown_name(f'metric of {_where(run)} ({run.scores}):', metric, scores[run].metrics)
            raise ValueError(f'{_where(run)} ({run.scores}) has no scores of {metric}, which {_where(owner)} has: '
                             'score it by this judge too, or name the metrics to compare')  # fmt: skip
    bad = _without_gain(index, scores, metrics, per_image)
    if bad and undefined == ERROR:
        raise ValueError(f'{next(iter(bad.values()))}; `undefined: empty` leaves such columns empty')
    cells = []
    for run in index.runs:
        base = index.baseline_of(run)
        for metric in metrics:
            if run is not base and metric not in bad:
                cells.append(_cell(run, metric, scores[base], scores[run], hashes[base], per_image))
    found = list(dict.fromkeys(run.loss for run in index.runs if run.loss != index.baseline))
    losses = [loss for loss in losses if loss != index.baseline] if losses is not None else found
    if not losses:
        raise ValueError(f'every run is one of the baseline {index.baseline}: there is nothing to compare with it')
    if unlisted := [loss for loss in found if loss not in losses]:
        raise unknown_name('loss of a run:', unlisted[0], losses)
    places = tuple(index.places)
    there = {(run.loss, run.place) for run in index.runs}
    missing = {loss: tuple(place for place in places if (loss, place) not in there) for loss in losses}
    return GainMatrix(
        baseline=index.baseline, losses=tuple(losses), metrics=tuple(metrics), places=places, cells=tuple(cells),
        own={loss: _own(index, loss, metrics) for loss in losses},
        higher_better={metric: scores[first].of(metric)[0].higher_better for metric in metrics},
        per_image=per_image, missing={loss: gone for loss, gone in missing.items() if gone}, undefined=bad,
    )  # fmt: skip


def _where(run):
    return f'{run.loss} of {run.network} on {run.dataset}'


def _own(index, loss, metrics):
    return frozenset(m for run in index.runs if run.loss == loss for m in run.optimised) & frozenset(metrics)


def _without_gain(index, scores, metrics, per_image):
    """Judges that cannot be divided by, with the first place and image where they cannot."""
    bad = {}
    for run in index.runs:
        if run.loss != index.baseline:
            continue
        for metric in metrics:
            mean_score = scores[run].mean(metric)
            wrong = [('the mean', mean_score)] if not 0 < mean_score < math.inf else []
            if per_image and not wrong:
                wrong = [(row.image, row.score) for row in scores[run].of(metric) if not 0 < row.score < math.inf]
            for what, value in wrong[:1]:
                bad.setdefault(metric, f'{metric} has no relative gain: the baseline of {run.network} on {run.dataset} '
                                       f'({what}) is {value:g}, and Eq. 1 divides by it')  # fmt: skip
    return bad


def _cell(run, metric, base, test, base_hash, per_image):
    with in_place(_where(run)):
        found = gain_between(base, test, metric, base_hash)
    gain = found.gain
    if per_image:
        pairs = zip(base.of(metric), test.of(metric), strict=True)
        gain = clip_mean((new.image, relative_gain(new.score, old.score, found.higher_better)) for old, new in pairs)
    return Cell(run.loss, run.network, run.dataset, metric, found.higher_better, found.n, found.baseline_mean,
                found.test_mean, gain, metric in run.optimised, found.judge_hash, base_hash)  # fmt: skip


def _explanations(matrix):
    networks, datasets = (list(dict.fromkeys(place[i] for place in matrix.places)) for i in (0, 1))
    how = ('the relative gains of single images, averaged' if matrix.per_image else
           'mean score over the images first, then the relative gain')  # fmt: skip
    yield (f'Relative gain in percent over the baseline {matrix.baseline} (arXiv 2405.20392, Eq. 1), positive is '
           f'better whatever the direction of the judge: {how}, then the mean over networks ({", ".join(networks)}) '
           f'and data sets ({", ".join(datasets)}), {len(matrix.places)} in all.')  # fmt: skip
    yield ('mean: over all judges of the row; others: over those that the loss does not optimise, which is the fairer '
           'one where a loss raises its own judge.')  # fmt: skip


def _lowered(matrix):
    for loss in matrix.losses:
        for metric in matrix.lowered(loss):
            cells = [cell for cell in matrix.cells if (cell.loss, cell.metric) == (loss, metric)]
            fell = sum(cell.gain < 0 for cell in cells)
            yield (f'{loss} lowers its own judge {metric}: {matrix.gain(loss, metric):+.2f} % '
                   f'(lower in {fell} of {len(cells)}).')  # fmt: skip


def gaps(matrix):
    """What the table lacks, and why, as plain sentences."""
    for loss, places in matrix.missing.items():
        gone = ', '.join(f'{network} on {dataset}' for network, dataset in places)
        yield f'{loss} has no means: its scores are missing for {gone}.'
    yield from (f'Column left empty: {reason}.' for reason in matrix.undefined.values())
