"""The table of judges on mean opinion scores: SROCC, PLCC and KROCC with their intervals."""

import math
from dataclasses import dataclass

import numpy as np

from nriqa_plugin.evaluation.images import few
from nriqa_plugin.preference.mos import correlate


@dataclass(frozen=True)
class Row:
    """One judge; positive correlations are right whatever its direction. Intervals are of 95 %; ``note`` is on PLCC."""

    judge: str
    higher_better: bool
    n: int
    srocc: float
    srocc_low: float
    srocc_high: float
    plcc: float
    plcc_low: float
    plcc_high: float
    krocc: float
    krocc_low: float
    krocc_high: float
    judge_hash: str
    note: str = ''


def correlation_rows(opinions, judges, seed=0, resamples=1000):
    """One row for each judge, sorted by SROCC.

    Args:
        opinions (Sequence[Opinion]): images of one scene are drawn together in the bootstrap if all have one.
        judges (Sequence[JudgeScores]): their scores of these images.

    Returns:
        list[Row]: those of judges that give all images the same score are NaN and come last.

    Raises:
        ValueError: images that a judge has not scored, or scores that are not finite.
    """
    groups = [one.scene for one in opinions] if scenes_of(opinions) else None
    mos, rows = [one.mos for one in opinions], []
    for judge in judges:
        missing = [one.image for one in opinions if one.image not in judge.scores]
        if missing:
            raise ValueError(f'{judge.judge} has no score for {few(missing)} of the images that have an opinion')
        scores = np.array([judge.scores[one.image] for one in opinions])
        if not np.isfinite(scores).all():
            bad = [one.image for one, score in zip(opinions, scores, strict=True) if not math.isfinite(score)]
            raise ValueError(f'{judge.judge}: the score is not finite for {few(bad)}')
        found = correlate(
            scores if judge.higher_better else -scores, mos, np.random.default_rng(seed), groups, resamples
        )
        numbers = (*found.srocc, *found.plcc, *found.krocc)
        rows.append(
            Row(judge.judge, judge.higher_better, found.n, *numbers, judge.judge_hash, _note(judge.judge, found))
        )
    return sorted(rows, key=lambda row: (math.isnan(row.srocc), -row.srocc, row.judge))


def _note(judge, found):
    if not found.degenerate:
        return ''
    if math.isnan(found.plcc.value):
        return f'{judge} has no PLCC: its logistic curve cannot be fitted ({found.degenerate})'
    return f"PLCC's logistic fit is degenerate for {judge} ({found.degenerate})"


def scenes_of(opinions):
    """How many scenes (references) there are; 0 where not all images have one."""
    scenes = {one.scene for one in opinions}
    return 0 if '' in scenes else len(scenes)


def mos_markdown(rows, title, groups, seed, resamples, failed=None, notes=()):
    """The rows as a page.

    Args:
        groups (int): scenes or references, which the bootstrap draws; 0 if it draws images.
        failed (dict[str, str] | None): judges that could not be asked, and why.
        notes (Sequence[str]): sentences below the others.
    """
    drawn = f'the {groups} scenes or references with all their images' if groups else 'single images'
    lines = [
        f'# {title}', '',
        f'- {rows[0].n} images. SROCC: Spearman, KROCC: Kendall (tau-b), PLCC: Pearson after a logistic curve of four '
        'parameters was fitted to all images. Positive is right, whatever the direction of a judge.',
        f'- Intervals: 95 %, percentile bootstrap over {drawn}, {resamples} resamples, seed {seed}; PLCC keeps its '
        'curve.', *(f'- {note}' for note in notes), '',
        '| judge | better | SROCC | PLCC | KROCC |', '|---|---|---:|---:|---:|',
    ]  # fmt: skip
    for row in rows:
        cells = [f'`{row.judge}`', 'higher' if row.higher_better else 'lower', *correlation_texts(row)]
        lines.append('| ' + ' | '.join(cells) + ' |')
    if failed:
        lines += ['', f'## Not asked: {len(failed)}', '', *(f'- `{name}`: {why}' for name, why in failed.items())]
    return '\n'.join([*lines, ''])


def correlation_texts(row):
    """SROCC, PLCC and KROCC of a row with their intervals; a judge that gives all images the same score has none."""
    if math.isnan(row.srocc):
        return ['constant'] * 3
    return [_interval_text(*(getattr(row, name + end) for end in ('', '_low', '_high')))
            for name in ('srocc', 'plcc', 'krocc')]  # fmt: skip


def _interval_text(value, low, high):
    if math.isnan(value):
        return 'none'
    return f'{value:.3f}' if math.isnan(low) else f'{value:.3f} [{low:.3f}, {high:.3f}]'
