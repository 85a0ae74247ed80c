"""The heat map of relative gains: losses by judges, numbers in cells, colours diverging from 0 (extra ``report``)."""

import math
import textwrap

from nriqa_plugin.checks import import_extra
from nriqa_plugin.evaluation.figures import INK, MUTED, RED, plain_names
from nriqa_plugin.evaluation.gain_tables import percent

# Blue is better and red worse, which also eyes that confuse red and green tell apart.
COLOURS = 'RdBu'
LINEAR = 1.0  # percent; beyond it colours follow the logarithm, or one gain of 83 % would bleach all the others
SMALLEST = 2.0  # percent at the ends of the scale at least: noise must not look like a result
EMPTY_CELL = '#e8e8ea'
MARKS = 'Black frame: the loss optimises this judge. Red frame and ▼: it optimises the judge and yet lowers it.'
OWN = 'own judge'  # id of the frames


@plain_names
def heat_map(title, matrix, notes=()):
    """Draw a matrix of relative gains.

    Args:
        title (str): heading.
        matrix (GainMatrix): see :func:`~nriqa_plugin.evaluation.gain_matrix.gain_matrix`.
        notes (Sequence[str]): sentences below those that explain the figure.

    Returns:
        matplotlib.figure.Figure: the loss's own judges are framed, in red and with a triangle where they fell.
    """
    rows, columns = len(matrix.losses), len(matrix.metrics)
    widest = max(map(len, matrix.losses), default=4)
    cell = (0.62, 0.31)  # inches
    size = (max(6.0, 1.8 + 0.075 * widest + cell[0] * (columns + 2.3)), 2.2 + cell[1] * rows)
    explained = [MARKS, *matrix.notes(lowered=False), *notes]
    lines = [line for note in explained for line in textwrap.wrap(note, int(16 * size[0]))]
    size = (size[0], size[1] + 0.115 * len(lines))
    figure = import_extra('matplotlib.figure', 'report', 'the heat map').Figure(figsize=size, layout='constrained')
    axes = figure.subplots()
    norm, colours = _scale(matrix)
    for y, loss in enumerate(matrix.losses):
        for x, metric in enumerate(matrix.metrics):
            _cell(axes, x, y, matrix.gain(loss, metric), norm, colours, lowered=matrix.lowers_own(loss, metric))
        for x, gain in enumerate((matrix.mean(loss), matrix.mean_of_others(loss)), columns):
            _cell(axes, x + 0.25, y, gain, norm, colours)
    for y, loss in enumerate(matrix.losses):  # above every cell, or neighbours would cover half of a frame
        for x, metric in enumerate(matrix.metrics):
            if metric in matrix.own[loss]:
                _frame(axes, x, y, RED if matrix.lowers_own(loss, metric) else INK)
    _axes(axes, matrix, rows, columns)
    _colour_bar(figure, axes, norm, colours)
    figure.suptitle(title, fontsize=11, color=INK)
    figure.supxlabel('\n'.join(lines), fontsize=7, color=MUTED, x=0.01, ha='left')
    return figure


def _scale(matrix):
    gains = [matrix.gain(loss, metric) for loss in matrix.losses for metric in matrix.metrics]
    limit = max([SMALLEST, *(abs(gain) for gain in gains if math.isfinite(gain))])
    colours = import_extra('matplotlib', 'report', 'the heat map').colormaps[COLOURS]
    module = import_extra('matplotlib.colors', 'report', 'the heat map')
    return module.AsinhNorm(LINEAR, -limit, limit), colours


def _cell(axes, x, y, gain, norm, colours, lowered=False):
    patches = import_extra('matplotlib.patches', 'report', 'the heat map')
    empty = math.isnan(gain)
    colour = EMPTY_CELL if empty else colours(norm(gain))
    style = {'facecolor': colour, 'edgecolor': 'white', 'linewidth': 1.0}
    axes.add_patch(patches.Rectangle((x - 0.5, y - 0.5), 1, 1, **style))
    text = percent(gain) + ('▼' if lowered else '')
    axes.text(x, y, text, ha='center', va='center', fontsize=8, color=MUTED if empty else _ink_on(colour), zorder=4)


def _frame(axes, x, y, colour):
    patches = import_extra('matplotlib.patches', 'report', 'the heat map')
    for edge, width in (('white', 3.6), (colour, 1.8)):  # the white one parts a red frame from a red cell
        box = patches.Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor=edge, linewidth=width, zorder=3)
        box.set_gid(OWN if edge == colour else None)
        axes.add_patch(box)


def _ink_on(colour):
    """Black or white, whichever contrasts more (relative luminance of WCAG)."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour[:3]]
    return 'white' if sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) < 0.179 else 'black'


def _axes(axes, matrix, rows, columns):
    arrows = [f'{metric} {"↑" if matrix.higher_better[metric] else "↓"}' for metric in matrix.metrics]
    places = [*range(columns), columns + 0.25, columns + 1.25]
    axes.set_xticks(places, [*arrows, 'mean', 'others'], rotation=40, ha='left', rotation_mode='anchor', fontsize=8.5)
    axes.set_yticks(range(rows), matrix.losses, fontsize=8.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, colors=INK)
    axes.set(xlim=(-0.5, columns + 1.75), ylim=(rows - 0.5, -0.5))
    axes.spines[:].set_visible(False)


def _colour_bar(figure, axes, norm, colours):
    mappable = import_extra('matplotlib.cm', 'report', 'the heat map').ScalarMappable(norm, colours)
    bar = figure.colorbar(mappable, ax=axes, location='right', fraction=0.04, pad=0.015, aspect=25)
    steps = [step for step in (1, 3, 10, 30, 100, 300, 1000, 10000) if step <= norm.vmax]
    ticks = [-step for step in reversed(steps)] + [0, *steps]
    bar.set_ticks(
        ticks, labels=[f'{tick:+d}'.replace('-', '\N{MINUS SIGN}') if tick else '0' for tick in ticks], fontsize=7.5
    )
    bar.minorticks_off()
    bar.outline.set_visible(False)
    bar.set_label('relative gain in %', fontsize=8, color=INK)
