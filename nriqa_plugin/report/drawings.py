"""The figures of a report, drawn once: as SVG in the page's own colours, and as PNG and PDF for papers."""

import csv
import io
import math
import re

from nriqa_plugin.checks import check_file, import_extra, unknown_name
from nriqa_plugin.evaluation.figures import (
    BODY,
    BODY_AGAINST,
    INK,
    MUTED,
    RED,
    ROLES,
    Value,
    explain,
    plain_names,
    plane_figure,
    violin_figure,
)

JND = 'jnd'
JND_COLUMNS = ('condition', 'jnd', 'low', 'high')
PLANES = 8  # at most so many by default
FEW = 8  # methods
# Named colours of the page by those of the figures; the six series come again with another dash.
SERIES = ('#0b66c3', '#c8500a', '#0f7a6c', '#7b3fc4', '#b01e63', '#6b7280')
DASHES = ('-', '--', ':', '-.')
VARIABLES = {
    INK: 'ink', MUTED: 'muted', RED: 'bad', BODY: 'body', BODY_AGAINST: 'against', '#dddddd': 'line',
    '#ffffff': 'card', '#000000': 'ink', **{colour: f'series-{i}' for i, colour in enumerate(SERIES, 1)},
}  # fmt: skip


def violins(place, metric, title):
    """The violins of one judge, see :func:`~nriqa_plugin.evaluation.figures.violin_figure`."""
    rows = place.rows[metric]
    samples = {name: list(scores.values()) for name, scores in place.samples[metric].items()}
    against = place.baseline if place.baseline in samples else None
    return violin_figure(title, [(rows, samples)], against)


def tiers(judges):
    """The metrics of the three tiers: pixels (PSNR), deep features (shift-tolerant LPIPS), no reference.

    Args:
        judges (Iterable[Judge]): those of a place.

    Returns:
        tuple[str | None, str | None, list[str]]: when PSNR or LPIPS-ST was not scored, the closest judge with a ground
        truth stands for it.
    """
    full = [judge.metric for judge in judges if judge.reference]
    pixels = _first(full, r'psnr', r'ssim', r'l1$|l2$|mse|mae|rmse')
    features = _first(
        [metric for metric in full if metric != pixels], r'st.?lpips|lpips.?st', r'lpips', r'dists|pieapp', r''
    )
    if pixels is None and features is not None:  # any ground truth is better than none for the axis of distortion
        pixels, features = features, _first([metric for metric in full if metric != features], r'')
    return pixels, features, [judge.metric for judge in judges if not judge.reference]


def planes_of(place, jnd=None, wanted=None):
    """The axes of the planes of a place.

    Args:
        place (Place): with its judges.
        jnd (dict | None): see :func:`read_jnd`.
        wanted (Sequence[tuple[str, str]] | None): metrics of x and y, ``jnd`` among them; default: each pair of tiers
            (JND first, without a ground truth against the first two judges), at most ``PLANES``.

    Returns:
        tuple[list[tuple[str, str]], int]: the pairs, and how many more there would be.

    Raises:
        ValueError: a wanted metric that was not scored.
    """
    known = [*place.judges, *([JND] if jnd else [])]
    if wanted:
        for metric in (metric for pair in wanted for metric in pair):
            if metric not in known:
                raise unknown_name('metric in --plane:', metric, known)
        return list(wanted), 0
    pixels, features, blind = tiers(place.judges.values())
    distortions = [metric for metric in (pixels, features) if metric]
    pairs = [(pixels, features)] if pixels and features else []
    pairs = [(metric, JND) for metric in distortions or blind[:2] if jnd] + pairs
    pairs += [(x, y) for y in blind for x in distortions]
    return pairs[:PLANES], max(0, len(pairs) - PLANES)


def plane(place, pair, title, jnd=None):
    """One perception-distortion plane with the best corner at the lower left; None if fewer than two methods have
    both numbers.
    """
    axes, both = [_axis(place, metric, jnd) for metric in pair], with_both(place, pair, jnd)
    if len(both) < 2:
        return None
    x, y = ([axis[name] for name in both] for axis in axes)
    blind = pair[0] in place.judges and not place.judges[pair[0]].reference
    bars = "Student's t over images; JND: bootstrap over observers" if JND in pair else "Student's t over images"
    size = (4.8, 4.0) if len(both) <= FEW else (6.2, 5.0)  # the small one fits onto a phone
    note = f'Bars: 95 % confidence intervals ({bars})'
    return plane_figure(title, x, y, place.baseline, reverse=True, note=note, size=size,
                        roles=('', '') if blind else ROLES)  # fmt: skip


def with_both(place, pair, jnd=None):
    """The methods that have both numbers of a plane."""
    axes = [_axis(place, metric, jnd) for metric in pair]
    return [name for name in place.methods if all(name in axis for axis in axes)]


@plain_names
def curves(place, metric, title):
    """Validation values of one metric during training, one line a method; None when no method has any."""
    found = {name: own[metric] for name, own in place.curves.items() if own.get(metric)}
    if not found:
        return None
    figures, small = import_extra('matplotlib.figure', 'report', 'the report'), len(found) <= FEW
    figure = figures.Figure(figsize=(4.5, 3.6) if small else (6.2, 3.6), layout='constrained')  # small: for a phone
    axes = figure.subplots()
    for name, points in found.items():
        number = place.methods.index(name)
        style = {'color': SERIES[number % len(SERIES)], 'linestyle': DASHES[number // len(SERIES) % len(DASHES)]}
        axes.plot(*zip(*points, strict=True), **style, linewidth=1.5, marker='.', markersize=4, label=_shown(name))
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(axis='y', linewidth=0.4, color='#dddddd')
    axes.set_xlabel('iteration', fontsize=8)
    judge = place.judges.get(metric)
    better = f' ({"higher" if judge.higher_better else "lower"} is better)' if judge else ''
    axes.set_ylabel(f'{metric}{better}', fontsize=8)
    axes.tick_params(labelsize=8)
    axes.ticklabel_format(useOffset=False, style='plain')
    axes.locator_params(axis='x', nbins=5)
    if small:
        figure.legend(loc='outside lower center', ncols=min(len(found), 3), fontsize=8, frameon=False)
    else:
        figure.legend(loc='outside right upper', fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=11, color=INK)
    return figure


def read_jnd(path):
    """A table of ``nriqa jnd``: ``{condition: (jnd, low, high)}``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: other columns, a condition twice, or a JND that is no finite number; naming file and line.
    """
    found = {}
    with open(check_file('--jnd', path), encoding='utf-8-sig', newline='') as file:
        rows = csv.DictReader(file)
        if not set(JND_COLUMNS) <= set(rows.fieldnames or ()):
            raise ValueError(f'{path} must have the columns {", ".join(JND_COLUMNS)}, it has {rows.fieldnames}')
        for number, row in enumerate(rows, 2):
            try:
                values = tuple(float(row[column] or math.nan) for column in JND_COLUMNS[1:])
            except (TypeError, ValueError):
                raise ValueError(f'{path}, line {number}: {row} holds something else than numbers') from None
            if not math.isfinite(values[0]):
                raise ValueError(f'{path}, line {number}: the JND of {row["condition"]} is {row["jnd"]!r}')
            if row['condition'] in found:
                raise ValueError(f'{path}, line {number}: {row["condition"]} stands twice')
            found[row['condition']] = values
    return found


@plain_names
def as_svg(figure, name):
    """A figure as an ``<svg>`` whose colours are the page's variables, and the legend below it as text: the page sets
    it larger than the figure could on a phone. Ids begin with ``name``.
    """
    matplotlib = import_extra('matplotlib', 'report', 'the report')
    file, below = io.StringIO(), figure.get_supxlabel()
    if below:
        figure.supxlabel('')
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': name}):
        figure.savefig(file, format='svg', transparent=True, metadata={'Date': None})
    if below:
        explain(figure, below)
    text = file.getvalue()
    text = text[text.index('<svg') :]
    text = re.sub(r'<(metadata|style)\b.*?</\1>', '', text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|url\(#|href="#)', rf'\g<1>{name}-', text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f'var(--{variable})')
    return text, ' '.join(below.split())


def _shown(name):
    """A name as a legend shows it: matplotlib leaves out those that begin with an underscore."""
    return f' {name}' if name.startswith('_') else name


def _axis(place, metric, jnd):
    if metric == JND:
        return {name: Value(name, 'JND', True, *jnd[name]) for name in place.methods if name in jnd}
    return {row.method: row for row in place.rows[metric]}


def _first(metrics, *patterns):
    """The first metric by the first pattern that any of them has."""
    return next((m for pattern in patterns for m in metrics if re.search(pattern, m, re.IGNORECASE)), None)
