"""Figures of a screening: accuracies with their intervals, and rank correlations between judges (extra ``report``)."""

import math

from nriqa_plugin.checks import import_extra
from nriqa_plugin.evaluation.figures import BODY, BODY_AGAINST, INK, MUTED, RED, plain_names


@plain_names
def accuracy_figure(title, screening):
    """One line a judge, the best on top: accuracy per pair and per vote with 95 % intervals.

    Args:
        title (str): heading.
        screening (Screening): what was found.

    Returns:
        matplotlib.figure.Figure: chance and the highest accuracy per vote that is possible are marked.
    """
    rows = screening.rows
    figure = _figure((6.4, 1.6 + 0.42 * len(rows)))
    axes = figure.subplots()
    kinds = (
        ('per pair', BODY, -0.19, lambda r: (r.pair_accuracy, r.pair_low, r.pair_high)),
        ('per vote', BODY_AGAINST, 0.19, lambda r: (r.vote_accuracy, r.vote_low, r.vote_high)),
    )
    for label, colour, shift, of in kinds:
        values = [[100 * number for number in of(row)] for row in rows]
        errors = [
            [_length(value, low) for value, low, _ in values],
            [_length(high, value) for value, _, high in values],
        ]
        places = [place + shift for place in range(len(rows))]
        axes.barh(places, [value for value, _, _ in values], 0.36, color=colour, label=label)
        axes.errorbar([v for v, _, _ in values], places, xerr=errors, fmt='none', ecolor=INK, elinewidth=1, capsize=2)
    axes.axvline(50, color=MUTED, linewidth=0.8, linestyle='--', label='chance')
    axes.axvline(100 * screening.majority.share.value, color=RED, linewidth=0.8, label='highest possible per vote')
    axes.set_yticks(
        range(len(rows)), [f'{row.judge} {"↑" if row.higher_better else "↓"}' for row in rows], fontsize=8.5
    )
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.45, -0.55))
    axes.set_xlabel('agreement with people in %', fontsize=8.5)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(axis='x', linewidth=0.4, color='#dddddd')
    axes.set_axisbelow(True)
    figure.legend(loc='outside lower center', ncols=4, fontsize=7.5, frameon=False)
    figure.suptitle(title, fontsize=11, color=INK)
    return figure


@plain_names
def rank_figure(title, names, ranks):
    """The matrix of Spearman's correlations between judges, with the numbers in the cells.

    Args:
        title (str): heading.
        names (Sequence[str]): J judges.
        ranks (ndarray): ``(J, J)`` in [-1, 1]; NaN stays grey.

    Returns:
        matplotlib.figure.Figure
    """
    cells, names_take = 0.46 * len(names), 0.085 * max(map(len, names))  # inches
    figure = _figure((max(4.2, cells + names_take + 1.3), cells + 0.7 * names_take + 0.9))
    axes = figure.subplots()
    axes.set_facecolor('#e8e8ea')
    image = axes.imshow(ranks, cmap='RdBu', vmin=-1, vmax=1, aspect='auto')
    for y, line in enumerate(ranks):
        for x, value in enumerate(line):
            text, colour = ('', MUTED) if math.isnan(value) else (f'{value:.2f}', 'white' if abs(value) > 0.65 else INK)
            axes.text(x, y, text, ha='center', va='center', fontsize=7.5, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=40, ha='right', rotation_mode='anchor', fontsize=8.5)
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    figure.supxlabel("Spearman's rank correlation over the images", fontsize=7.5, color=MUTED)
    figure.suptitle(title, fontsize=11, color=INK)
    return figure


def _length(high, low):
    """Of one side of an error bar; 0 where there is no interval."""
    return 0.0 if math.isnan(high) or math.isnan(low) else max(0.0, high - low)


def _figure(size):
    return import_extra('matplotlib.figure', 'report', 'the figures').Figure(figsize=size, layout='constrained')
