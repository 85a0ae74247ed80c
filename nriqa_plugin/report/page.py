"""The page itself: what the template is given, with style and script inlined and nothing fetched from anywhere."""

import base64
import hashlib
import json
import math
from pathlib import Path

from nriqa_plugin import __version__
from nriqa_plugin.checks import import_extra
from nriqa_plugin.evaluation.comparison import CHECK, STAR

HERE = Path(__file__).parent
SMALLEST = 2.0  # percent at the ends of the colour scale at least, as in the heat map for papers
DASH = '\N{EN DASH}'  # for what is not there


def render(title, places, matrix, drawings, hashes, regions, notes):
    """The HTML of a report.

    Args:
        title (str): heading.
        places (Sequence[Place]): with their statistics.
        matrix (GainMatrix | None): relative gains.
        drawings (Sequence[Drawing]): figures.
        hashes (dict[str, str]): baseline files, by name of the run.
        regions (Sequence[Region]): with data URIs.
        notes (Sequence[str]): plain sentences.

    Returns:
        str
    """
    jinja2 = import_extra('jinja2', 'report', 'the report')
    markup = import_extra('markupsafe', 'report', 'the report').Markup
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)
    script = '\n'.join((HERE / name).read_text(encoding='utf-8') for name in ('viewer.js', 'table.js'))
    return environment.get_template('page.html.j2').render(
        title=title,
        version=__version__,
        style=markup((HERE / 'style.css').read_text(encoding='utf-8')),
        script=markup(script),
        script_hash=base64.b64encode(hashlib.sha256(f'\n{script}\n'.encode()).digest()).decode(),
        data=markup(_json(_data(places, regions))),
        several=len(places) > 1,
        places=[{'place': place, 'rows': _rows(place, matrix)} for place in places],
        heat=_heat(matrix),
        matrix=matrix,
        # matplotlib escapes what it writes.
        drawings=[(drawing, markup(drawing.svg)) for drawing in drawings],
        runs=sum(len(place.methods) for place in places),
        hashes=hashes,
        scored=any(place.rows for place in places),
        regions=len(regions),
        notes=notes,
        number=number,
        p_value=p_value,
    )


def number(value, largest=None):
    """As many decimals as ``largest`` needs to show four digits; a dash for NaN."""
    largest = abs(value) if largest is None else largest
    if math.isnan(value):
        return DASH
    if not math.isfinite(largest) or largest == 0:
        text = f'{value:.4g}'
    else:
        text = f'{value:.{min(max(3 - math.floor(math.log10(largest)), 0), 12)}f}'
    if float(text) == 0:
        text = text.removeprefix('-')
    return text.replace('-', '\N{MINUS SIGN}').replace('inf', '\N{INFINITY}')


def p_value(value):
    """A p value as tables show it; a dash for NaN."""
    return DASH if math.isnan(value) else '< 0.001' if value < 0.001 else f'{value:.3f}'


def percent(gain):
    """A gain with its sign; a dash for NaN."""
    if math.isnan(gain):
        return DASH
    text = f'{gain:+.1f}' if abs(gain) < 99.95 else f'{gain:+.0f}'
    return '0.0' if float(text) == 0 else text.replace('-', '\N{MINUS SIGN}')


def _rows(place, matrix):
    """``(method, [cell or None for each judge])`` of the table of scores."""
    gains = {} if matrix is None else {
        (cell.loss, cell.metric): cell.gain for cell in matrix.cells
        if (cell.network, cell.dataset) == (place.network, place.dataset)
    }  # fmt: skip
    by_metric = {metric: {row.method: row for row in rows} for metric, rows in place.rows.items()}
    return [
        (method, [_cell(place, rows, method, gains.get((place.losses[method], metric)))
                  for metric, rows in by_metric.items()])
        for method in place.methods
    ]  # fmt: skip


def _cell(place, rows, method, gain):
    if method not in rows:
        return None
    row = rows[method]
    means = [other.mean for other in rows.values()]
    largest, best = max(map(abs, means)), (max if row.higher_better else min)(means)
    text = number(row.mean, largest)
    return {
        'mean': text,
        'ci': ''
        if math.isnan(row.mean_low)
        else f'{number(row.mean_low, largest)} to {number(row.mean_high, largest)}',
        'best': len(means) > 1 and text == number(best, largest),  # equal as shown is equal to the reader
        'star': row.mark if row.mark == STAR else '',
        'better': row.mark == CHECK,
        'gain': '' if gain is None else f'{percent(gain)} %',
        'tone': '' if gain is None or percent(gain) == '0.0' else 'good' if gain > 0 else 'bad',
    }


def _heat(matrix):
    """``(loss, [cell for each judge], mean, mean of others)`` of the heat map."""
    if matrix is None:
        return []
    gains = [matrix.gain(loss, metric) for loss in matrix.losses for metric in matrix.metrics]
    limit = max([SMALLEST, *(abs(gain) for gain in gains if math.isfinite(gain))])

    def cell(gain, own=False, lowered=False):
        shade = 0 if math.isnan(gain) else min(1, math.asinh(abs(gain)) / math.asinh(limit))
        return {'text': percent(gain), 'shade': f'{shade:.3f}', 'side': 'neg' if gain < 0 else 'pos', 'own': own,
                'lowered': lowered}  # fmt: skip

    return [
        (
            loss,
            [cell(matrix.gain(loss, m), m in matrix.own[loss], matrix.lowers_own(loss, m)) for m in matrix.metrics],
            [cell(matrix.mean(loss)), cell(matrix.mean_of_others(loss))],
        )
        for loss in matrix.losses
    ]


def _data(places, regions):
    """What the page's script works on."""
    return {'places': [_place_data(place) for place in places], 'regions': [_region_data(region) for region in regions]}


def _place_data(place):
    images = sorted({image for samples in place.samples.values() for own in samples.values() for image in own})
    scores = {
        metric: [[_finite(samples[method][image]) if image in samples.get(method, ()) else None for image in images]
                 for method in place.methods]
        for metric, samples in place.samples.items()
    }  # fmt: skip
    return {
        'label': place.label,
        'methods': place.methods,
        'baseline': place.methods.index(place.baseline) if place.baseline else None,
        'images': images,
        'judges': [{'metric': judge.metric, 'higher': judge.higher_better} for judge in place.judges.values()],
        'scores': scores,
    }


def region_size(region):
    """Bytes that a region takes on the page."""
    return len(_json(_region_data(region)).encode()) + len(', ')


def _json(content):
    # A closing tag inside a name must not end the element.
    return json.dumps(content, ensure_ascii=False).replace('<', '\\u003c')


def _region_data(region):
    crop = region.crop
    box = [100 * crop.left / region.width, 100 * crop.top / region.height,
           100 * crop.size / region.width, 100 * crop.size / region.height]  # fmt: skip
    return {
        'place': region.place, 'image': crop.image, 'left': crop.left, 'top': crop.top, 'size': crop.size,
        'box': [round(value, 3) for value in box], 'thumbnail': region.thumbnail,
        'names': list(region.tiles), 'tiles': list(region.tiles.values()),
    }  # fmt: skip


def _finite(value):
    """JSON knows no infinity; PSNR of equal images is."""
    return value if math.isfinite(value) else None
