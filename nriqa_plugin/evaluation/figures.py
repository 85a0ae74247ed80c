"""Figures of a comparison: violins of per-image scores, and the perception-distortion plane (extra ``report``)."""

from pathlib import Path

from nriqa_plugin.checks import atomic_path, import_extra
from nriqa_plugin.evaluation.comparison import LEVEL

INK, MUTED, RED, BODY, BODY_AGAINST = '#1c1d21', '#6a6d76', '#b3261e', '#8fb4de', '#e0a064'
FORMATS = ('png', 'pdf')


def violin_figure(title, panels, against=None, missing=None):
    """One panel a judge, one violin a method: the distribution over images, its mean and its bad tail.

    Args:
        title (str): heading.
        panels (Sequence[tuple[list[Row], dict[str, Sequence[float]]]]): rows of one metric, see
            :func:`~nriqa_plugin.evaluation.comparison.compare_methods`, and the scores by method.
        against (str | None): the method that the stars refer to; its violin has another colour.
        missing (dict[str, str] | None): methods without scores and why, named at the right end.

    Returns:
        matplotlib.figure.Figure: the legend says what the marks, intervals and stars are.
    """
    methods, missing = [row.method for row in panels[0][0]], missing or {}
    width = max(5.5, 1.1 + 0.85 * (len(methods) + len(missing)))
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


def plane_figure(title, distortion, perception, against=None):
    """The perception-distortion plane (Blau and Michaeli, CVPR 2018): one point a method, with 95 % intervals.

    Args:
        title (str): heading.
        distortion, perception (list[Row]): rows of the metrics of x and y, for the same methods.
        against (str | None): drawn in another colour.

    Returns:
        matplotlib.figure.Figure: arrows on the axes point to where each metric is better.
    """
    figure = _figure((6.2, 5))
    axes = figure.subplots()
    for x, y in zip(distortion, perception, strict=True):
        if x.method != y.method:
            raise ValueError(f'the axes hold different methods: {x.method}, {y.method}')
        colour = BODY_AGAINST if x.method == against else BODY
        errors = {axis: _error(r.mean, r.mean_low, r.mean_high) for axis, r in (('xerr', x), ('yerr', y))}
        axes.errorbar(x.mean, y.mean, **errors, fmt='o', color=colour, ecolor=MUTED, elinewidth=0.7, capsize=2,
                      label=x.method, zorder=3)  # fmt: skip
        axes.annotate(x.method, (x.mean, y.mean), xytext=(6, 5), textcoords='offset points', fontsize=9, color=INK)
    axes.set_xlabel(f'distortion: {_axis(distortion[0])}')
    axes.set_ylabel(f'perception: {_axis(perception[0])}')
    axes.grid(linewidth=0.4, color='#dddddd')
    corner = (0.97 if distortion[0].higher_better else 0.03, 0.97 if perception[0].higher_better else 0.03)
    inward = tuple(place + (0.12 if place < 0.5 else -0.12) for place in corner)
    axes.annotate('better', corner, inward, xycoords='axes fraction', fontsize=8, color=MUTED, ha='center',
                  va='center', arrowprops={'arrowstyle': '->', 'color': MUTED})  # fmt: skip
    figure.suptitle(title, fontsize=11, color=INK)
    figure.supxlabel("Means over images; bars: 95 % confidence intervals (Student's t)", fontsize=7, color=MUTED)
    return figure


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
        if row.star:
            axes.text(place, 0.98, '★' * len(row.star), transform=axes.get_xaxis_transform(), ha='center', va='top',
                      color=INK)  # fmt: skip
    axes.margins(y=0.12)
    axes.set_ylabel(_axis(rows[0]))
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(axis='y', linewidth=0.4, color='#dddddd')
    axes.set_axisbelow(True)


def _explain(figure, panels, against):
    rows = panels[0][0]
    tails = ', '.join(dict.fromkeys(f'{r[0].tail_percent:g}th of {r[0].metric}' for r, _ in panels))
    lines = [
        f"{rows[0].n} images. Dot: mean with 95 % confidence interval (Student's t). "
        f'Red bar: percentile on the bad side ({tails}) with 95 % bootstrap interval.'
    ]
    if against is not None:
        lines.append(f'★: {against} is better, one-tailed paired t-test over the images, p < {LEVEL:g}, '
                     'not corrected for the number of tests.')  # fmt: skip
    figure.supxlabel('\n'.join(lines), fontsize=7, color=MUTED, wrap=True)


def _error(value, low, high):
    """Lengths of an error bar: 0 where there is no interval, and where it does not reach the value."""
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _axis(row):
    return f'{row.metric} ({"higher" if row.higher_better else "lower"} is better)'


def _figure(size):
    module = import_extra('matplotlib.figure', 'report', 'the figures')
    return module.Figure(figsize=size, layout='constrained')
