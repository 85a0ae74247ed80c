"""What the flagged images look like: the worst region of each, as PNG strips and as one page that needs no network."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nriqa_plugin import __version__
from nriqa_plugin.checks import atomic_path, import_extra
from nriqa_plugin.evaluation.artifacts import PATTERN
from nriqa_plugin.evaluation.crops import Crop, window_means
from nriqa_plugin.evaluation.csv_file import write_csv
from nriqa_plugin.evaluation.images import to_8_bit, write_image

COLUMNS = ('image', 'flagged', 'reasons', 'judge', 'judge_gain', 'reference_gain', 'amplitude', 'errors', 'period',
           'local', 'flat_windows', 'crop_top', 'crop_left', 'crop_size')  # fmt: skip
ZOOM = 3  # the page shows faint dots enlarged, pixel by pixel
GAP = 4  # px between the pictures of a strip
BATCH = 16  # windows
AMPLIFIED = 8  # times the difference to the baseline, around grey


def worst_crop(finding, item, size=96, judge=None, flat=None):
    """The region of a flagged image that shows best why.

    For a pattern the middle of the window where it is clearest; else where the reference judge got worse most, on
    windows of ``size`` px side by side; without that judge where the squared error grew most, and without a ground
    truth where result and baseline differ most.

    Args:
        finding (Finding), item (Item): of the image.
        size (int): side in px; a smaller image is cropped to a square.
        judge (Scorer | None): the reference judge; its smallest side is kept to.
        flat (Callable | None): as in :func:`nriqa_plugin.evaluation.artifacts.examine`: one of its windows.

    Returns:
        Crop
    """
    result, baseline, reference = item.read()
    height, width = result.shape[-2:]
    if flat is not None:
        windows = flat(result, reference)
        size = windows[0][2]
        windows = [(top, left) for top, left, _ in windows]
    else:
        size = min(max(size, judge.min_side if judge else 1), height, width)
        windows = [(top, left) for top in _starts(height, size) for left in _starts(width, size)]
    if PATTERN in finding.kinds:
        found = finding.pattern
        middle = found.top + found.height / 2 - size / 2, found.left + found.width / 2 - size / 2
        if flat is None:
            top, left = (
                min(max(round(start), 0), side - size) for start, side in zip(middle, (height, width), strict=True)
            )
        else:
            top, left = min(windows, key=lambda window: sum((a - b) ** 2 for a, b in zip(window, middle, strict=True)))
    else:
        growth = _growth(result, baseline, reference, windows, size, judge)
        top, left = windows[int(np.argmax(growth))]
    return Crop(finding.image, top, left, size)


def write_table(path, findings, crops):
    """One row an image, as CSV; ``crops`` by image."""
    lines = [COLUMNS]
    for finding in findings:
        found, crop = finding.pattern, crops.get(finding.image)
        pattern = [found.amplitude, found.errors, found.period, found.local] if found else [''] * 4
        place = [crop.top, crop.left, crop.size] if crop else [''] * 3
        numbers = ['' if value is None else value for value in (finding.judge_gain, finding.reference_gain)]
        lines.append([finding.image, bool(finding.reasons), '; '.join(finding.reasons), finding.judge, *numbers,
                      *pattern, '' if finding.flat is None else finding.flat, *place])  # fmt: skip
    write_csv(path, lines)


def pictures(crop, item):
    """The named crops of a region: result, baseline, ground truth if there is one, amplified difference."""
    result, baseline, reference = item.read()
    rows, columns = slice(crop.top, crop.top + crop.size), slice(crop.left, crop.left + crop.size)
    shown = {'result': result, 'baseline': baseline, 'ground truth': reference}
    shown[f'{AMPLIFIED} x (result - baseline)'] = (0.5 + AMPLIFIED * (result - baseline)).clamp(0, 1)
    return {name: to_8_bit(image[:, rows, columns]) for name, image in shown.items() if image is not None}


def write_strip(path, shown):
    """The pictures side by side as one PNG."""
    gap = np.full((next(iter(shown.values())).shape[0], GAP, 3), 255, np.uint8)
    parts = [part for picture in shown.values() for part in (gap, picture)][1:]
    write_image(path, np.concatenate(parts, 1))


def write_page(path, title, findings, regions, notes=()):
    """An HTML file with the pictures of every region.

    Args:
        path (str | Path): the file.
        title (str): its heading.
        findings (Sequence[Finding]): all of them; only the flagged ones are listed.
        regions (dict[str, dict[str, ndarray]]): :func:`pictures` by image, in the order of the page.
        notes (Sequence[str]): plain sentences under the heading.
    """
    jinja2 = import_extra('jinja2', 'report', 'the page of artifacts')
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)
    by_image = {finding.image: finding for finding in findings}
    html = environment.get_template('artifacts.html.j2').render(
        title=title,
        version=__version__,
        total=len(findings),
        flagged=sum(bool(finding.reasons) for finding in findings),
        notes=list(notes),
        regions=[
            (by_image[image], [(name, _data_uri(picture), ZOOM * picture.shape[1]) for name, picture in shown.items()])
            for image, shown in regions.items()
        ],
    )
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding='utf-8')


def file_name(text):
    """A text as a name that every file system takes."""
    return re.sub(r'[^\w.-]+', '_', text)


@torch.no_grad()
def _growth(result, baseline, reference, windows, size, judge):
    """How much worse each window of the result is than the baseline's."""
    if judge is None or judge.min_side > size or reference is None:
        grown = (result - (baseline if reference is None else reference)).square().mean(0)
        if reference is not None:
            grown = grown - (baseline - reference).square().mean(0)
        means = window_means(grown.double(), size)
        return [means[top, left].item() for top, left in windows]
    cuts = ([image[:, top : top + size, left : left + size] for top, left in windows]
            for image in (result, baseline, reference))  # fmt: skip
    after, before = [], []
    for cut in zip(*(torch.stack(windows).split(BATCH) for windows in cuts), strict=True):
        new, old, truth = (windows.to(judge.device) for windows in cut)
        after.append(judge(new, truth))
        before.append(judge(old, truth))
    grown = torch.cat(after) - torch.cat(before)
    return (-grown if judge.higher_better else grown).tolist()


def _starts(side, size):
    return sorted({*range(0, side - size + 1, size), side - size})


def _data_uri(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, 'PNG')
    return f'data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'
