"""Several methods on the same images: means, bad tails and tests against one of them, as rows of a table."""

import math
from dataclasses import dataclass, replace

import numpy as np

from nriqa_plugin.checks import unknown_name
from nriqa_plugin.evaluation.significance import PValue, holm, one_tailed_t_test, stars, wilcoxon_one_tailed
from nriqa_plugin.evaluation.statistics import mean_with_ci, percentile_with_ci

LEVEL = 0.05  # of the test
STAR, CHECK = '★', '✓'  # the other is better, this one is better
NOTE = (
    "p: one-tailed paired t-test and Wilcoxon's signed-rank test over the images, both by Holm's correction for the "
    f'number of methods in one data set and metric; where the t-test is below {LEVEL:g}, {STAR} marks a method that is '
    f'worse and {CHECK} one that is better.'
)
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
            this method and of this method being better; NaN for ``against`` itself, and without one.
        holm_against_better, holm_better (float): the same by Holm's correction for the number of methods that are
            tested against ``against`` on this data set by this metric.
        wilcoxon_against_better, wilcoxon_better (float): one-tailed Wilcoxon signed-rank tests, corrected likewise.
        star (str): ``*`` when ``holm_against_better`` is below 0.05.
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
    p_against_better: PValue = math.nan
    p_better: PValue = math.nan
    holm_against_better: PValue = math.nan
    holm_better: PValue = math.nan
    wilcoxon_against_better: PValue = math.nan
    wilcoxon_better: PValue = math.nan
    star: str = ''

    @property
    def mark(self):
        """What tables and plots show: ``★`` if ``against`` is better, ``✓`` if this method is, else nothing."""
        return STAR if self.star else CHECK if self.holm_better < LEVEL else ''


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
    values = {method: [scores[image] for image in images] for method, scores in samples.items()}
    percent = TAIL if higher_better else 100 - TAIL
    rows = []
    for method, own in values.items():
        tail = percentile_with_ci(own, percent, np.random.default_rng(seed), resamples=resamples)
        rows.append(Row(dataset, method, metric, higher_better, len(images), *mean_with_ci(own), percent, *tail))
    return rows if against is None else _tested(rows, values, against, higher_better)


def _tested(rows, values, against, higher_better):
    """The rows with what the tests against one method say; those of one call are corrected together."""

    def p_values(test, against_better):
        found = []
        for row in rows:
            pair = (values[against], values[row.method]) if against_better else (values[row.method], values[against])
            found.append(math.nan if row.method == against else float(test(*pair, higher_better).p))
        return found

    columns = {}
    for side in ('against_better', 'better'):
        columns[f'p_{side}'] = p_values(one_tailed_t_test, side == 'against_better')
        columns[f'holm_{side}'] = holm(columns[f'p_{side}'])
        columns[f'wilcoxon_{side}'] = holm(p_values(wilcoxon_one_tailed, side == 'against_better'))
    columns['star'] = [stars(p, (LEVEL,)) for p in columns['holm_against_better']]
    each = zip(*columns.values(), strict=True)
    return [replace(row, **dict(zip(columns, numbers, strict=True))) for row, numbers in zip(rows, each, strict=True)]


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
        '| data set | metric | loss | n | mean [95 % CI] | bad tail [95 % CI] | p (reference better): t, Wilcoxon '
        '| p (better): t, Wilcoxon |',
        '|---|---|---|---:|---:|---:|---:|---:|',
    ]
    for r in rows:
        arrow = '↑' if r.higher_better else '↓'
        mean = f'{r.mean:.4f} [{r.mean_low:.4f}, {r.mean_high:.4f}]'
        tail = f'{r.tail:.4f} [{r.tail_low:.4f}, {r.tail_high:.4f}] ({r.tail_percent:g}th)'
        worse, better = (
            '' if math.isnan(t) else f'{t:.3g}, {wilcoxon:.3g}'
            for t, wilcoxon in ((r.holm_against_better, r.wilcoxon_against_better), (r.holm_better, r.wilcoxon_better))
        )
        worse, better = f'{worse} {r.mark * (r.mark == STAR)}'.strip(), f'{better} {r.mark * (r.mark == CHECK)}'.strip()
        cells = (r.dataset, f'{r.metric} {arrow}', r.method, r.n, mean, tail, worse, better)
        lines.append(f'| {" | ".join(map(str, cells))} |')
    if any(not math.isnan(r.holm_better) for r in rows):
        lines += ['', NOTE]
    return '\n'.join(lines) + '\n'
