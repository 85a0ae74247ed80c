"""A report in one HTML file: tables of scores and gains, training curves, crops side by side. Needs no network."""

import base64
import io
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from torch.nn import functional

from nriqa_plugin import __version__
from nriqa_plugin.checks import atomic_path, file_hash, import_extra, unknown_name
from nriqa_plugin.evaluation.crops import Crop, check_same_size, worst_crops
from nriqa_plugin.evaluation.relative_gain import gains
from nriqa_plugin.evaluation.scores import read_scores

__all__ = ['Crop', 'Judge', 'Method', 'methods_from_scores', 'worst_crops', 'write_report']

SERIES = 6  # colours in the template, --series-1 and up; after that they come again, dashed


@dataclass(frozen=True)
class Judge:
    """A column of the table: how the scores were made.

    Attributes:
        metric (str): name, the key in ``Method.scores``, ``.gains`` and ``.curve``.
        higher_better (bool): direction.
        n (int): number of images behind each mean; 0 if there is no table of it, only a curve.
        judge_hash, baseline_hash (str): which weights of the judge, which baseline file.
    """

    metric: str
    higher_better: bool
    n: int = 0
    judge_hash: str = ''
    baseline_hash: str = ''


@dataclass
class Method:
    """A row of the table, a line in the curves and a column of the crops; every part may be left out.

    Attributes:
        name (str): how the report calls it.
        scores (dict[str, float]): mean score by metric, in the judge's units.
        gains (dict[str, float]): relative gain by metric, in percent; none for the baseline itself.
        curve (dict[str, list[tuple[int, float]]]): validation score by metric, as (iteration, value).
        images (dict[str, Tensor]): results by image name, RGB in [0, 1], ``(3, H, W)``.
    """

    name: str
    scores: dict = field(default_factory=dict)
    gains: dict = field(default_factory=dict)
    curve: dict = field(default_factory=dict)
    images: dict = field(default_factory=dict)


def write_report(path, title, methods, judges, lq=None, reference=None, crops=None, notes=()):
    """Write the report.

    Args:
        path (str | Path): the HTML file.
        title (str): its heading.
        methods (Sequence[Method]): in the order of the table; the first is usually the baseline.
        judges (Sequence[Judge]): one for each metric that the methods name.
        lq (dict[str, Tensor] | None): low-resolution inputs by image name, shown enlarged without smoothing.
        reference (dict[str, Tensor] | None): ground truths by image name, RGB in [0, 1], ``(3, H, W)``.
        crops (Sequence[Crop] | None): regions to show; by default the three that :func:`worst_crops` finds.
        notes (Sequence[str]): plain sentences below everything else.

    Raises:
        ValueError: no method, two of one name, a metric without a judge, or images of one name that differ in size.
        ImportError: jinja2 or matplotlib is missing; ``pip install 'nriqa-plugin[report]'``.
    """
    _check(methods, judges)
    images = {method.name: method.images for method in methods if method.images}
    if crops is None:
        crops = worst_crops(images, reference, 96, 3) if images else []
    jinja2 = import_extra('jinja2', 'report', 'the report')
    markup = import_extra('markupsafe', 'report', 'the report').Markup
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)
    html = environment.get_template('report.html.j2').render(
        title=title,
        version=__version__,
        methods=[(method.name, *_series(i), any(method.curve.values())) for i, method in enumerate(methods)],
        judges=[judge for judge in judges if any(judge.metric in method.scores for method in methods)],
        rows=[_row(method, methods, judges) for method in methods],
        # matplotlib escapes what it writes, and it is given numbers only.
        plots=[(judge, markup(svg)) for judge in judges if (svg := _plot(judge, methods))],
        regions=[_region(crop, images, lq or {}, reference or {}) for crop in crops],
        notes=list(notes),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding='utf-8')


def methods_from_scores(files, baseline):
    """The table of a report from scores files.

    Args:
        files (dict[str, str | Path]): scores file by name of the method.
        baseline (str): which of them the others are compared with.

    Returns:
        tuple[list[Method], list[Judge]]: the baseline first.

    Raises:
        ValueError: files that :func:`gains` cannot compare, or an unknown baseline.
    """
    if baseline not in files:
        raise unknown_name('baseline', baseline, files)
    read = read_scores(files[baseline])
    methods = [Method(baseline, {metric: read.mean(metric) for metric in read.metrics})]
    judges = [_judge(read.of(metric), file_hash(files[baseline])) for metric in read.metrics]
    for name, file in files.items():
        if name != baseline:
            rows = gains(files[baseline], file)
            scores = read_scores(file)
            means = {metric: scores.mean(metric) for metric in scores.metrics}
            methods.append(Method(name, means, {r.metric: r.gain for r in rows}))
    return methods, judges


def _judge(rows, baseline_hash):
    return Judge(rows[0].metric, rows[0].higher_better, len(rows), rows[0].judge_hash, baseline_hash)


def _check(methods, judges):
    if not methods:
        raise ValueError('a report needs at least one method')
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise ValueError(f'two methods of one name: {names}')
    known = [judge.metric for judge in judges]
    for method in methods:
        for metric in [*method.scores, *method.gains, *method.curve]:
            if metric not in known:
                raise unknown_name(f'metric of the method {method.name}:', metric, known)


def _row(method, methods, judges):
    """Name and cells of one method: (score, gain or '', CSS class of the gain, is it shown as the best)."""
    cells = []
    for judge in judges:
        scores = [other.scores[judge.metric] for other in methods if judge.metric in other.scores]
        if not scores:
            continue
        score, gain = method.scores.get(judge.metric), method.gains.get(judge.metric)
        largest, best = max(map(abs, scores)), (max if judge.higher_better else min)(scores)
        text = '' if score is None else _number(score, largest)
        is_best = len(scores) > 1 and text == _number(best, largest)  # equal as shown is equal to the reader
        shown = '' if gain is None else f'{gain:+.2f}'
        if shown in ('+0.00', '-0.00'):
            shown = '0.00'
        tone = {'+': 'good', '-': 'bad'}.get(shown[:1], 'none')
        cells.append((text, shown and _typeset(shown + ' %'), tone, is_best))
    return method.name, cells


def _number(value, largest):
    """As many decimals for a whole column as its largest value needs to show four digits."""
    if not math.isfinite(largest) or largest == 0:
        return _typeset(f'{value:.4g}')
    return _typeset(f'{value:.{max(3 - math.floor(math.log10(largest)), 0)}f}')


def _typeset(number):
    return number.replace('-', '\N{MINUS SIGN}').replace('inf', '\N{INFINITY}')


def _series(index):
    """Colour number and whether the line is dashed."""
    return index % SERIES + 1, index >= SERIES


def _plot(judge, methods):
    """One small plot as SVG, coloured by the page's own variables; '' when there is no curve of this metric."""
    curves = [(_series(i), sorted(m.curve[judge.metric])) for i, m in enumerate(methods) if m.curve.get(judge.metric)]
    if not curves:
        return ''
    matplotlib = import_extra('matplotlib', 'report', 'the report')
    figures = import_extra('matplotlib.figure', 'report', 'the report')
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': judge.metric}):
        figure = figures.Figure(figsize=(4, 2.4), layout='constrained')
        axes = figure.subplots()
        for (colour, dashed), points in curves:
            x, y = zip(*points, strict=True)
            style = {'color': _placeholder(colour), 'linewidth': 1.8, 'solid_capstyle': 'round'}
            axes.plot(x, y, '--' if dashed else '-', marker='o', markersize=4, markevery=[len(x) - 1], **style)
        axes.spines[['top', 'right', 'left']].set_visible(False)
        axes.spines['bottom'].set_color(_placeholder(7))
        axes.tick_params(length=0, labelsize=9, pad=5, labelcolor=_placeholder(8))
        axes.grid(axis='y', color=_placeholder(7), linewidth=0.7)
        axes.set_axisbelow(True)
        axes.locator_params(nbins=5)
        axes.ticklabel_format(useOffset=False, style='plain')
        svg = io.StringIO()
        figure.savefig(svg, format='svg', transparent=True, metadata={'Date': None})
    text = svg.getvalue()
    text = text[text.index('<svg') :]
    for number, name in enumerate([f'series-{i}' for i in range(1, SERIES + 1)] + ['line', 'muted'], 1):
        text = text.replace(_placeholder(number), f'var(--{name})')
    return text


def _placeholder(number):
    """A colour that nothing else has, to be replaced by a variable of the page."""
    return f'#01020{number}'


def _region(crop, images, lq, reference):
    """Everything the template shows of one crop: its frame on a thumbnail and a tile per picture."""
    shown = {name: group[crop.image] for name, group in images.items() if crop.image in group}
    if crop.image in reference:
        shown = {'Ground truth': reference[crop.image], **shown}
    if not shown:
        raise unknown_name('image of a crop:', crop.image, {name for group in images.values() for name in group})
    check_same_size(crop.image, list(shown.values()))
    whole = reference.get(crop.image, list(shown.values())[-1])
    height, width = whole.shape[-2:]
    if crop.image in lq:
        enlarged = functional.interpolate(lq[crop.image][None], size=(height, width), mode='nearest')[0]
        shown = {'Input': enlarged, **shown}
    box = [100 * v for v in (crop.left / width, crop.top / height, crop.size / width, crop.size / height)]
    rows, columns = slice(crop.top, crop.top + crop.size), slice(crop.left, crop.left + crop.size)
    tiles = [(name, _data_uri(image[:, rows, columns])) for name, image in shown.items()]
    return {'crop': crop, 'thumbnail': _data_uri(whole, 320), 'box': box, 'tiles': tiles}


def _data_uri(image, limit=None):
    """A picture as text: PNG, or a JPEG of at most ``limit`` px a side."""
    pixels = (image.detach().cpu().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    picture, file = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    if limit:
        picture.thumbnail((limit, limit))
        picture.save(file, 'JPEG', quality=85)
    else:
        picture.save(file, 'PNG')
    return f'data:image/{"jpeg" if limit else "png"};base64,{base64.b64encode(file.getvalue()).decode()}'
