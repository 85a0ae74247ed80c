"""Figures of a comparison: violins of per-image scores, and the perception-distortion plane (extra ``report``)."""

import functools
import textwrap
from dataclasses import dataclass
from pathlib import Path

from nriqa_plugin.checks import atomic_path, import_extra
from nriqa_plugin.evaluation.comparison import CHECK, LEVEL, STAR

INK, MUTED, RED, BODY, BODY_AGAINST = '#1c1d21', '#6a6d76', '#b3261e', '#8fb4de', '#e0a064'
FORMATS = ('png', 'pdf')
ROLES = ('distortion', 'perception')
CORNERS = {(False, False): '↙', (False, True): '↖', (True, False): '↘', (True, True): '↗'}  # is right, top better?


@dataclass(frozen=True)
class Value:
    """One method on an axis of a plane that is no mean over images, for example its JND.

    Attributes:
        method, metric (str), higher_better (bool): what it is.
        mean, mean_low, mean_high (float): the number and its 95 % interval, as in
            :class:`~nriqa_plugin.evaluation.comparison.Row`.
    """

    method: str
    metric: str
    higher_better: bool
    mean: float
    mean_low: float
    mean_high: float


def plain_names(draw):
    """Decorator: in the figures that a function draws or saves, a name with dollar signs is text and no formula."""

    @functools.wraps(draw)
    def drawn(*arguments, **options):
        with import_extra('matplotlib', 'report', 'the figures').rc_context({'text.parse_math': False}):
            return draw(*arguments, **options)

    return drawn


@plain_names
def violin_figure(title, panels, against=None, missing=None):
    """One panel a judge, one violin a method: the distribution over images, its mean and its bad tail.

    Args:
        title (str): heading.
        panels (Sequence[tuple[list[Row], dict[str, Sequence[float]]]]): rows of one metric, see
            :func:`~nriqa_plugin.evaluation.comparison.compare_methods`, and the scores by method.
        against (str | None): the method that ★ and ✓ refer to; its violin has another colour.
        missing (dict[str, str] | None): methods without scores and why, named at the right end.

    Returns:
        matplotlib.figure.Figure: the legend says what the marks and intervals are.
    """
    methods, missing = [row.method for row in panels[0][0]], missing or {}
    width = max(4.5, 1.1 + 0.85 * (len(methods) + len(missing)))  # the smallest one fits onto a phone
    figure = _figure((width, 3.3 * len(panels) + 0.9))
    for axes, (rows, samples) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        _violins(axes, rows, samples, against)
        for place, (name, why) in enumerate(missing.items(), len(rows)):
            axes.text(place, 0.5, f'{name}: {why}', rotation=90, ha='center', va='center', color=RED,
                      transform=axes.get_xaxis_transform(), fontsize=8)  # fmt: skip
        axes.set_xticks(range(len(rows) + len(missing)), [*methods, *missing], rotation=30, ha='right')
        axes.set_xlim(-0.6, len(rows) + len(missing) - 0.4)
    figure.suptitle(title, fontsize=11, color=INK)
    _explain(figure, panels, against)
    return figure


@plain_names
def plane_figure(title, distortion, perception, against=None, reverse=False, note=None, size=(6.2, 5), roles=ROLES):
    """The perception-distortion plane (Blau and Michaeli, CVPR 2018): one point a method, with 95 % intervals.

    Args:
        title (str): heading.
        distortion, perception (list[Row | Value]): what the axes x and y show, for the same methods.
        against (str | None): drawn in another colour.
        reverse (bool): turn the axes on which higher is better, so that the best corner is the lower left one, as in
            the papers' planes.
        note (str | None): what the bars are; default: intervals of the mean over images.
        size (tuple[float, float]): width and height in inches.
        roles (tuple[str, str]): what stands before the metrics of x and y; nothing where it is empty.

    Returns:
        matplotlib.figure.Figure: an arrow points to where both metrics are better.

    Raises:
        ValueError: axes of different methods.
    """
    figure = _figure(size)
    axes = figure.subplots()
    for x, y in zip(distortion, perception, strict=True):
        if x.method != y.method:
            raise ValueError(f'the axes hold different methods: {x.method}, {y.method}')
        colour = BODY_AGAINST if x.method == against else BODY
        errors = {axis: _error(r.mean, r.mean_low, r.mean_high) for axis, r in (('xerr', x), ('yerr', y))}
        axes.errorbar(x.mean, y.mean, **errors, fmt='o', color=colour, ecolor=MUTED, elinewidth=0.7, capsize=2,
                      label=x.method, zorder=3)  # fmt: skip
    turned = [reverse and rows[0].higher_better for rows in (distortion, perception)]
    labels = [
        f'{role}{": " if role else ""}{_axis(rows[0])}{", reversed" if turn else ""}'
        for role, rows, turn in zip(roles, (distortion, perception), turned, strict=True)
    ]
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.margins(0.12)
    if turned[0]:
        axes.invert_xaxis()
    if turned[1]:
        axes.invert_yaxis()
    axes.grid(linewidth=0.4, color='#dddddd')
    best = tuple(rows[0].higher_better != turn for rows, turn in zip((distortion, perception), turned, strict=True))
    axes.set_title(f'{CORNERS[best]} better', loc='right' if best[0] else 'left', fontsize=8, color=MUTED)
    figure.suptitle(title, fontsize=11, color=INK)
    note = note or "Means over images; bars: 95 % confidence intervals (Student's t)"
    explain(figure, note)
    _name_points(axes, [(x.method, x.mean, y.mean) for x, y in zip(distortion, perception, strict=True)])
    return figure


@plain_names
def save_figure(figure, path):
    """Write ``path`` with the endings .png and .pdf, each at once or not at all.

    Returns:
        list[Path]
    """
    written = []
    for ending in FORMATS:
        file = Path(f'{path}.{ending}')
        with atomic_path(file) as temporary:
            figure.savefig(temporary, format=ending, dpi=160)
        written.append(file)
    return written


def _violins(axes, rows, samples, against):
    for place, row in enumerate(rows):
        values = list(samples[row.method])
        if max(values) > min(values):  # a density needs a spread
            parts = axes.violinplot([values], [place], widths=0.8, showextrema=False)
            (body,) = parts['bodies']
            body.set(facecolor=BODY_AGAINST if row.method == against else BODY, alpha=0.75, edgecolor='none')
        mean, tail = (row.mean, row.mean_low, row.mean_high), (row.tail, row.tail_low, row.tail_high)
        for shift, (value, low, high), marker, size, colour in ((-0.06, mean, 'o', 4, INK), (0.06, tail, '_', 12, RED)):
            axes.errorbar(place + shift, value, yerr=_error(value, low, high), fmt=marker, color=colour,
                          markersize=size, elinewidth=1.2, capsize=2.5, zorder=3)  # fmt: skip
        if row.mark:
            axes.text(place, 0.98, row.mark, transform=axes.get_xaxis_transform(), ha='center', va='top', color=INK)
    axes.margins(y=0.12)
    axes.set_ylabel(_axis(rows[0]))
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(axis='y', linewidth=0.4, color='#dddddd')
    axes.set_axisbelow(True)


def _name_points(axes, points):
    """Write every point's name where it covers neither another name nor a point, with a line to it unless close by."""
    axes.figure.draw_without_rendering()  # settles the layout, without which nobody knows what lies beside what
    places = axes.transData.transform([(x, y) for _, x, y in points]) * 72 / axes.figure.dpi
    right = axes.bbox.x1 * 72 / axes.figure.dpi
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    for (name, *point), (x, y) in zip(points, places, strict=True):
        width, height = 5.6 * len(name), 11
        tries = [(side, up) for out in range(0, 240, 4) for up in (5 + out, -14 - out) for side in (7, -7 - width)]
        fits = [move for move in tries if x + move[0] + width < right] or tries
        boxes = ((x + left, y + up, x + left + width, y + up + height) for left, up in fits)
        free = (not any(_overlap(box, other) for other in taken) for box in boxes)
        left, up = next((move for move, alone in zip(fits, free, strict=True) if alone), fits[0])
        taken.append((x + left, y + up, x + left + width, y + up + height))
        line = {'arrowstyle': '-', 'color': MUTED, 'linewidth': 0.5, 'shrinkA': 0, 'shrinkB': 3}
        paper = {'facecolor': 'white', 'alpha': 0.7, 'edgecolor': 'none', 'pad': 0.3}
        axes.annotate(name, point, xytext=(left, up), textcoords='offset points', fontsize=9, color=INK, zorder=4,
                      arrowprops=None if (left, up) == tries[0] else line, bbox=paper)  # fmt: skip


def _overlap(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _explain(figure, panels, against):
    rows = panels[0][0]
    tails = ', '.join(dict.fromkeys(f'{r[0].tail_percent:g}th of {r[0].metric}' for r, _ in panels))
    lines = [
        f"{rows[0].n} image{'s' if rows[0].n > 1 else ''}. Dot: mean with 95 % confidence interval (Student's t).",
        f'Red bar: percentile on the bad side ({tails}) with 95 % bootstrap interval.',
    ]
    if against is not None:
        level = f'p < {LEVEL:g}'.replace(' ', '\N{NO-BREAK SPACE}')
        lines.append(f'{STAR}: {against} is better, {CHECK}: this one is better, one-tailed paired t-test over the '
                     f"images, {level} after Holm's correction for the number of methods.")  # fmt: skip
    explain(figure, '\n'.join(lines))


def explain(figure, text):
    """Write a legend below a figure, in lines that are no longer than the figure is wide."""
    room = int(figure.get_figwidth() * 72 / 3.7)  # letters of 7 pt
    unbroken = {'break_on_hyphens': False, 'break_long_words': False}
    lines = [part for line in text.split('\n') for part in textwrap.wrap(line, room, **unbroken)]
    figure.supxlabel('\n'.join(lines), fontsize=7, color=MUTED)


def _error(value, low, high):
    """Lengths of an error bar: 0 where there is no interval, and where it does not reach the value."""
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _axis(row):
    return f'{row.metric} ({"higher" if row.higher_better else "lower"} is better)'


def _figure(size):
    module = import_extra('matplotlib.figure', 'report', 'the figures')
    return module.Figure(figsize=size, layout='constrained')
