"""The figure of a JND scale: scores with their intervals, and who was preferred to whom (extra ``report``)."""

import math

from nriqa_plugin.checks import import_extra
from nriqa_plugin.evaluation.figures import BODY, INK, MUTED, RED, plain_names

ACROSS = 4  # panels in a line
LEVEL = 0.05


@plain_names
def jnd_figure(title, scale):
    """Scores in JND with their intervals; for a single scene also the matrix of shares.

    Args:
        title (str): heading.
        scale (JNDScale): of :func:`~nriqa_plugin.preference.jnd.jnd_scale`.

    Returns:
        matplotlib.figure.Figure: a panel a scene with the same axis and order; with one scene beside it a matrix whose
        cell says how often the condition of its row was preferred to that of its column, with a star where the
        difference of the scores is significant.
    """
    scenes = {}
    for row in scale.rows:
        scenes.setdefault(row.scene, []).append(row)
    most, single = max(map(len, scenes.values())), len(scenes) == 1
    across = 2 if single else min(ACROSS, len(scenes))
    down = math.ceil(len(scenes) / across)
    size = (3.1 * across + 1.2, (0.36 * most + 0.9) * down + 0.9)
    if single:
        size = (5.2 + 0.62 * most + 1.2, max(2.6, 0.5 * most + 1.6))
    figure = import_extra('matplotlib.figure', 'report', 'the figures').Figure(figsize=size, layout='constrained')
    panels = figure.subplots(down, across, squeeze=False, sharex=not single)
    for axes in panels.flat[1 if single else len(scenes) :]:
        axes.set_visible(False)
    places = _places(scale.rows)
    for axes, (scene, rows) in zip(panels.flat, scenes.items(), strict=False):
        _points(axes, sorted(rows, key=lambda row: (row.part, places[row.condition])))
        axes.set_title('' if single else scene, fontsize=9, color=INK)
        axes.set_xlabel(f'JND ({_zero(scale.zero[scene], rows)})', fontsize=8)
    if single:
        panels.flat[1].set_visible(True)
        _matrix(panels.flat[1], next(iter(scenes.values())), scale.pairs)
    figure.suptitle(title, fontsize=11, color=INK)
    figure.supxlabel(_note(scale, single), fontsize=7, color=MUTED)
    return figure


def _zero(zero, rows):
    """What is 0 in each part, said once where it is the same."""
    texts = []
    for part, names in enumerate(zero):
        number = sum(row.part == part for row in rows)
        mean = 'mean' if len(names) == number else f'mean of {len(names)} of {number} conditions'
        texts.append(f'{names[0] if len(names) == 1 else mean} = 0')
    return '; '.join(dict.fromkeys(texts))


def _places(rows):
    """Conditions by their mean score over the scenes, best first: the same order in all panels."""
    scores = {}
    for row in rows:
        scores.setdefault(row.condition, []).append(row.jnd)
    means = {name: math.fsum(found) / len(found) for name, found in scores.items()}
    return {name: place for place, name in enumerate(sorted(means, key=lambda name: -means[name]))}


def _points(axes, rows):
    for place, row in enumerate(rows):
        error = None if math.isnan(row.low) else [[max(0.0, row.jnd - row.low)], [max(0.0, row.high - row.jnd)]]
        axes.errorbar(row.jnd, place, xerr=error, fmt='o', color=INK, ecolor=MUTED, elinewidth=1.2, capsize=2.5,
                      markersize=5, zorder=3)  # fmt: skip
    axes.axvline(0, color=MUTED, linewidth=0.6, linestyle=':')
    axes.set_yticks(range(len(rows)), [row.condition for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    for part in range(1, len(rows)):
        if rows[part].part != rows[part - 1].part:  # never compared
            axes.axhline(part - 0.5, color=RED, linewidth=0.8)
    axes.tick_params(axis='x', labelsize=8, labelbottom=True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(axis='x', linewidth=0.4, color='#dddddd')
    axes.set_axisbelow(True)


def _matrix(axes, rows, pairs):
    names = [row.condition for row in rows]
    place = {name: i for i, name in enumerate(names)}
    cells = [[math.nan] * len(names) for _ in names]
    for pair in pairs:
        i, j = place[pair.condition], place[pair.other]
        cells[i][j], cells[j][i] = pair.share, 1 - pair.share
        for row, column, share in ((i, j, pair.share), (j, i, 1 - pair.share)):
            if not math.isnan(share):
                star = '★' if pair.p_holm < LEVEL else ''
                axes.text(column, row, f'{100 * share:.0f}{star}', ha='center', va='center', fontsize=8, color=INK)
    colours = import_extra('matplotlib.colors', 'report', 'the figures')
    shades = colours.LinearSegmentedColormap.from_list('share', ['#f0c9a0', '#ffffff', BODY])
    axes.imshow(cells, vmin=0, vmax=1, cmap=shades, aspect='auto')
    axes.set_xticks(range(len(names)), names, rotation=30, ha='right', fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel('% of the votes for the row over the column', fontsize=8)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _note(scale, single):
    whose = f'{scale.observers} observers' if scale.observers else 'votes'
    lines = ['Thurstone Case V; 1 JND is preferred by 75 %.']
    if any(not math.isnan(row.low) for row in scale.rows):
        lines[0] += f' Bars: {100 * scale.level:g} % bootstrap intervals over {whose}.'
    if single:
        lines.append(f"★: scores differ, p < {LEVEL:g} after Holm's correction for the number of pairs.")
    return '\n'.join(lines)
