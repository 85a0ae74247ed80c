"""Relative gain: by how many percent a test improves on a baseline, whatever the judge's direction and units."""

import logging
import math
from collections import Counter
from dataclasses import dataclass

from nriqa_plugin.checks import file_hash, in_place, unknown_name
from nriqa_plugin.evaluation.images import few
from nriqa_plugin.evaluation.scores import dataset_mean, read_scores, write_scores

__all__ = ['Baseline', 'Gain', 'all_gains', 'gains', 'read_baseline', 'relative_gain', 'write_scores']

logger = logging.getLogger('nriqa_plugin')

MISSING, ANOTHER = 'missing scores', 'baseline file of another data set'


def relative_gain(test_mean, baseline_mean, higher_better):
    """Eq. 1 of Kashkarov et al., 'Can No-Reference Quality-Assessment Methods Serve as Perceptual Losses for
    Super-Resolution?' (arXiv 2405.20392): ``100 * s * (mean_T - mean_B) / mean_B``.

    Args:
        test_mean, baseline_mean (float): mean scores over the same images.
        higher_better (bool): direction of the judge; ``s`` is +1 when true, else -1.

    Returns:
        float: percent; positive is better.

    Raises:
        ValueError: a mean that is not finite, or a baseline mean that is not positive.
    """
    _check_baseline('the baseline', baseline_mean)
    if not math.isfinite(test_mean):
        raise ValueError(f'the relative gain needs a finite mean of the test, got {test_mean}')
    return _gain(test_mean, baseline_mean, higher_better)


@dataclass(frozen=True)
class Baseline:
    """One metric of a scores file, to compare others with.

    Attributes:
        metric (str): name of the judge.
        mean (float): mean score over the ``n`` images.
        n (int): number of images.
        higher_better (bool): direction.
        judge_hash (str): which weights of the judge.
        names (tuple[str, ...]): the images, sorted.
        hash (str): first 12 hex digits of the file's SHA-256.
    """

    metric: str
    mean: float
    n: int
    higher_better: bool
    judge_hash: str
    names: tuple
    hash: str

    def __post_init__(self):
        _check_baseline(f'the baseline of {self.metric}', self.mean)

    def gain(self, score):
        """Relative gain in percent of one score or of a tensor of scores.

        Its mean over images is Eq. 1 for their mean score, since Eq. 1 is affine in ``mean_T``.
        """
        return _gain(score, self.mean, self.higher_better)

    def check_same_images(self, names):
        """Check that other scores are of the same images.

        Raises:
            ValueError: with the first names that differ.
        """
        check_same_images(self.metric, self.names, names)


@dataclass(frozen=True)
class Gain:
    """One line of a table of relative gains; ``gain`` is in percent, positive is better, NaN where Eq. 1 has none."""

    metric: str
    higher_better: bool
    n: int
    baseline_mean: float
    test_mean: float
    gain: float
    judge_hash: str
    baseline_hash: str


def read_baseline(path, metric):
    """Read one metric of a scores file as a baseline.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, a metric that it lacks (the closest ones are shown), or a mean that is not
            positive and finite.
    """
    return _baseline(read_scores(path), metric, file_hash(path))


def check_same_images(metric, baseline_names, test_names):
    """Check that two lists of scores are of the same images.

    Raises:
        ValueError: with the metric and the first names that differ; they are called missing scores where one list holds
            all of the other, else another data set.
    """
    own, other = Counter(iter(baseline_names)), Counter(iter(test_names))
    if own != other:
        partly = own and other and (own <= other or other <= own)
        raise ValueError(
            f'{MISSING if partly else ANOTHER}: {metric} of {sum(own.values())} images in the baseline, of '
            f'{sum(other.values())} in the test; only in the baseline: {few(sorted((own - other).elements()))}, '
            f'only in the test: {few(sorted((other - own).elements()))}'
        )


def gains(baseline_file, test_file, metrics=None):
    """Relative gains of one scores file over another.

    Args:
        baseline_file, test_file (str | Path): files of ``score_folder``.
        metrics (Sequence[str] | None): which metrics; by default all whose baseline is positive (the others are named
            in a warning), and both files must hold the same.

    Returns:
        list[Gain]: in the order of ``metrics``, else sorted by metric.

    Raises:
        ValueError: other metrics, images, references, weights of a judge or direction, a metric of ``metrics`` whose
            baseline is not positive, or no metric with a positive baseline.
    """
    rows = all_gains(baseline_file, test_file, metrics)
    for row in rows:
        if math.isnan(row.gain):
            logger.warning('%s', without_gain(row, baseline_file))
    return [row for row in rows if not math.isnan(row.gain)]


def all_gains(baseline_file, test_file, metrics=None):
    """As :func:`gains`, but a metric without a positive baseline has its row too, with NaN for its gain.

    Only where ``metrics`` is None: one that was asked for is an error.
    """
    base, test, base_hash = read_scores(baseline_file), read_scores(test_file), file_hash(baseline_file)
    if metrics is not None:
        return [gain_between(base, test, metric, base_hash) for metric in metrics]
    if base.metrics != test.metrics:
        raise ValueError(f'{baseline_file} holds {", ".join(base.metrics)}, {test_file} holds '
                         f'{", ".join(test.metrics)}; name the metrics to compare')  # fmt: skip
    # ``pattern`` is 0 for clean images; that the others have gains is no reason to refuse them all.
    divides = {metric: _divides(base.mean(metric)) for metric in base.metrics}
    some = any(divides.values())
    return [
        gain_between(base, test, metric, base_hash) if divides[metric] or not some
        else _undefined(base, test, metric, base_hash)
        for metric in base.metrics
    ]  # fmt: skip


def without_gain(row, baseline_file):
    """Why a row of :func:`all_gains` has no gain."""
    return (f'{row.metric} has no relative gain: its mean in {baseline_file} is {row.baseline_mean:g}, and Eq. 1 '
            'divides by it, so it must be positive and finite')  # fmt: skip


def gain_between(base, test, metric, base_hash=''):
    """The :class:`Gain` of one metric between two :class:`~nriqa_plugin.evaluation.scores.Scores`, as :func:`gains`."""
    baseline, rows = _baseline(base, metric, base_hash), test.of(metric)
    check_comparable(base, test, metric)
    test_mean = dataset_mean(rows)
    with in_place(metric):
        gain = relative_gain(test_mean, baseline.mean, baseline.higher_better)
    return Gain(metric, baseline.higher_better, baseline.n, baseline.mean, test_mean, gain,
                baseline.judge_hash, base_hash)  # fmt: skip


def _undefined(base, test, metric, base_hash):
    check_comparable(base, test, metric)
    first, n = base.of(metric)[0], len(base.of(metric))
    return Gain(metric, first.higher_better, n, base.mean(metric), test.mean(metric), math.nan, first.judge_hash,
                base_hash)  # fmt: skip


def check_comparable(base, test, metric):
    """Check that two :class:`~nriqa_plugin.evaluation.scores.Scores` hold one metric of the same images by one judge.

    Raises:
        ValueError: a metric that one lacks, other images, weights of the judge, direction or references; naming them.
    """
    old_rows, rows = base.of(metric), test.of(metric)
    check_same_images(metric, (row.image for row in old_rows), (row.image for row in rows))
    old, new = old_rows[0], rows[0]
    if old.judge_hash != new.judge_hash:
        raise ValueError(f'{metric} was scored by two judges: {old.judge_hash} in {base.path}, '
                         f'{new.judge_hash} in {test.path}')  # fmt: skip
    if old.higher_better != new.higher_better:
        raise ValueError(f'{base.path} and {test.path} contradict each other on the direction of {metric}')
    for old, new in zip(old_rows, rows, strict=True):
        if old.reference_hash and new.reference_hash and old.reference_hash != new.reference_hash:
            raise ValueError(f'{metric} of {new.image} was scored against two references in {base.path}, {test.path}')


def _baseline(scores, metric, file_digest):
    if metric not in scores.metrics:
        raise unknown_name(f'metric in the baseline {scores.path}:', metric, scores.metrics)
    rows = scores.of(metric)
    names = tuple(row.image for row in rows)
    average = dataset_mean(rows)
    return Baseline(metric, average, len(rows), rows[0].higher_better, rows[0].judge_hash, names, file_digest)


def _gain(test, baseline_mean, higher_better):
    return 100 * (1 if higher_better else -1) * (test - baseline_mean) / baseline_mean


def _check_baseline(what, value):
    if not _divides(value):
        raise ValueError(f'{what} has the mean {value}: the relative gain divides by it, so it must be positive and '
                         'finite')  # fmt: skip


def _divides(value):
    return math.isfinite(value) and value > 0
