"""Several methods on the same images: means, bad tails and tests against one of them, as rows of a table."""

import math
from dataclasses import dataclass

import numpy as np

from nriqa_plugin.checks import unknown_name
from nriqa_plugin.evaluation.statistics import mean_with_ci, one_tailed_t_test, percentile_with_ci, stars

LEVEL = 0.05  # of the test
TAIL = 5  # percent: the 5th percentile, where lower scores are better the 95th


@dataclass(frozen=True)
class Row:
    """One method by one judge.

    Attributes:
        dataset, method, metric (str): what was scored by what.
        higher_better (bool): direction of the score.
        n (int): number of images.
        mean, mean_low, mean_high (float): mean and its 95 % confidence interval (Student's t over images).
        tail_percent (float): which percentile is the bad tail: 5, or 95 where lower is better.
        tail, tail_low, tail_high (float): that percentile and its 95 % bootstrap interval.
        p_against_better, p_better (float): one-tailed paired t-tests over images, of ``against`` being better than
            this method and of this method being better; NaN for ``against`` itself.
        star (str): ``*`` when ``against`` is better at 0.05.
    """

    dataset: str
    method: str
    metric: str
    higher_better: bool
    n: int
    mean: float
    mean_low: float
    mean_high: float
    tail_percent: float
    tail: float
    tail_low: float
    tail_high: float
    p_against_better: float
    p_better: float
    star: str


def compare_methods(dataset, metric, higher_better, samples, against=None, seed=0, resamples=2000):
    """One row for each method.

    Args:
        dataset, metric (str), higher_better (bool): go into the rows.
        samples (dict[str, dict[str, float]]): scores by method and image.
        against (str | None): the method that the others are tested against.
        seed (int): of the bootstrap; every method draws the same images, so the intervals compare.
        resamples (int): of the bootstrap.

    Returns:
        list[Row]: in the order of ``samples``.

    Raises:
        ValueError: methods that were scored on different images, scores that are not finite (the message names method
            and image), or an unknown ``against``.
    """
    if against is not None and against not in samples:
        raise unknown_name('method to test against:', against, samples)
    images = _common_images(dataset, metric, samples)
    rows = []
    for method, scores in samples.items():
        values = [scores[image] for image in images]
        percent = TAIL if higher_better else 100 - TAIL
        tail = percentile_with_ci(values, percent, np.random.default_rng(seed), resamples=resamples)
        worse = better = math.nan
        if against not in (None, method):
            reference = [samples[against][image] for image in images]
            worse = one_tailed_t_test(reference, values, higher_better).p
            better = one_tailed_t_test(values, reference, higher_better).p
        mean = mean_with_ci(values)
        numbers = (len(images), *mean, percent, *tail, float(worse), float(better), stars(worse, (LEVEL,)))
        rows.append(Row(dataset, method, metric, higher_better, *numbers))
    return rows


def _common_images(dataset, metric, samples):
    """The images of all methods, sorted."""
    first = next(iter(samples), None)
    if first is None:
        raise ValueError('no method to compare')
    for method, scores in samples.items():
        if scores.keys() != samples[first].keys():
            other = sorted(scores.keys() ^ samples[first].keys())
            raise ValueError(f'{dataset}, {metric}: {method} and {first} were scored on different images: {other[:3]}')
        for image, score in scores.items():
            if not math.isfinite(score):
                raise ValueError(f'{dataset}, {metric}: the score of {image} by {method} is {score}')
    return sorted(samples[first])


def markdown_table(rows):
    """The rows as a Markdown table."""
    lines = [
        '| data set | metric | loss | n | mean [95 % CI] | bad tail [95 % CI] | p (reference better) | p (better) |',
        '|---|---|---|---:|---:|---:|---:|---:|',
    ]
    for r in rows:
        arrow = '↑' if r.higher_better else '↓'
        mean = f'{r.mean:.4f} [{r.mean_low:.4f}, {r.mean_high:.4f}]'
        tail = f'{r.tail:.4f} [{r.tail_low:.4f}, {r.tail_high:.4f}] ({r.tail_percent:g}th)'
        p = '' if math.isnan(r.p_against_better) else f'{r.p_against_better:.3g} {r.star}'.strip()
        better = '' if math.isnan(r.p_better) else f'{r.p_better:.3g}'
        lines.append(f'| {r.dataset} | {r.metric} {arrow} | {r.method} | {r.n} | {mean} | {tail} | {p} | {better} |')
    return '\n'.join(lines) + '\n'
