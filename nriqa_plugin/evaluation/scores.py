"""The scores file: a tidy CSV with one row per image and metric."""

import csv
import io
import math
import sys
from collections import Counter
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from nriqa_plugin import __version__
from nriqa_plugin.checks import atomic_path, check_file, unknown_name


@dataclass(frozen=True, slots=True)
class Score:
    """One row; the fields are the columns.

    Attributes:
        image (str): file name relative to the folder.
        metric (str): name of the judge.
        score (float): in the judge's native units.
        higher_better (bool): direction of the score.
        judge_hash (str): ``weights_hash()`` of the judge.
        image_hash, reference_hash (str): first 12 hex digits of the files' SHA-256; empty if there is no file.
        version (str): of this package, when the score was made.
    """

    image: str
    metric: str
    score: float
    higher_better: bool
    judge_hash: str
    image_hash: str = ''
    reference_hash: str = ''
    version: str = __version__


FRAME = '::'  # between a clip's name and the number of a frame

COLUMNS = tuple(field.name for field in fields(Score))
HEADER = ','.join(COLUMNS) + '\n'


@dataclass(frozen=True)
class Scores:
    """A scores file that was read: ``path`` and its ``rows``."""

    path: Path
    rows: tuple

    @property
    def metrics(self):
        """The metrics in the file, sorted."""
        return sorted({row.metric for row in self.rows})

    def of(self, metric):
        """The rows of one metric, sorted by image; a ``ValueError`` shows the closest names."""
        rows = [row for row in self.rows if row.metric == metric]
        if not rows:
            raise unknown_name(f'metric in {self.path}:', metric, self.metrics)
        return sorted(rows, key=lambda row: row.image)

    def mean(self, metric):
        """The mean score of one metric over its images."""
        return dataset_mean(self.of(metric))


def read_scores(path):
    """Read a scores file.

    Returns:
        Scores

    Raises:
        FileNotFoundError: no such file.
        ValueError: wrong columns, a damaged row, a score that is NaN or no number, two rows of one image and metric,
            or one metric scored by two judges; the message names file and line.
    """
    file = check_file('scores file', path)
    rows = _parse(file, _lines(file))
    if not rows:
        raise ValueError(f'{path} holds no scores')
    return Scores(file, tuple(rows))


def read_unfinished(path):
    """The rows of a scores file whose writer may have been killed: a last line without its end is left out.

    Raises:
        ValueError: as :func:`read_scores`; also when the file never was a scores file.
    """
    with open(path, 'rb') as file:
        start = file.readline()
    if not start.endswith(b'\n') and HEADER.encode().startswith(start):
        return []
    return _parse(path, _lines(path, torn=start.endswith(b'\n')))


def write_scores(path, rows):
    """Write :class:`Score` rows, sorted by metric and image, under a temporary name that is then renamed."""
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8', newline='') as file:
        file.write(HEADER)
        file.writelines(map(csv_line, sorted(rows, key=order)))


def order(row):
    """The key by which a finished file is sorted."""
    return row.metric, row.image


def score_row(image, judge, score, image_hash='', reference_hash='', judge_hash=None, metric=None):
    """The row for one score of a judge; ``judge_hash`` spares hashing its weights again."""
    judge_hash = judge.weights_hash() if judge_hash is None else judge_hash
    metric = judge.name if metric is None else metric
    return Score(image, metric, float(score), judge.higher_better, judge_hash, image_hash, reference_hash)


def csv_line(row):
    """One row as text, with its line end."""
    if '\n' in row.image or '\r' in row.image:
        raise ValueError(f'a line break in a file name cannot be stored: {row.image!r}')
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerow(astuple(row))
    return text.getvalue()


def clip_of(image):
    """The clip that a frame belongs to, by its name ``clip::7``; an image is a clip of its own."""
    return image.partition(FRAME)[0]


class FrameNames:
    """Names scores as they come: an image by its own name, the n-th further frame of a clip ``clip::n``."""

    def __init__(self):
        self.frames = Counter()

    def next(self, image):
        """The name for one more score of an image or clip."""
        self.frames[image] += 1
        return frame_name(image, self.frames[image] - 1)


def frame_name(clip, number):
    """The name of a frame: the clip's own for the first one (and for an image), else ``clip::number``."""
    return f'{clip}{FRAME}{number}' if number else clip


def dataset_mean(rows):
    """Mean score over images; over the means of clips for video, as BasicSR reports it for clips of unequal length."""
    return clip_mean((row.image, row.score) for row in rows)


def clip_mean(scores):
    """:func:`dataset_mean` of ``(image, score)`` pairs."""
    clips = {}
    for image, score in scores:
        clips.setdefault(clip_of(image), []).append(score)
    return mean(mean(scores) for scores in clips.values())


def mean(values):
    """Mean of an iterable of numbers; the sum is exact before it is rounded."""
    values = list(values)
    return math.fsum(values) / len(values)


def _lines(path, torn=False):
    """The lines of a file; when it is ``torn``, without a last one that has no end."""
    with open(path, 'rb') as file:
        for number, line in enumerate(file):
            if not (torn and not line.endswith(b'\n')):
                yield line.decode('utf-8' if number else 'utf-8-sig')  # spreadsheets put a byte order mark in front


def _parse(path, lines):
    header, rows, seen, judges = None, [], {}, {}
    try:
        for number, values in enumerate(csv.reader(lines, strict=True), 1):
            if header is None:
                header = _checked_header(path, values)
            elif values:
                rows.append(_checked_row(f'{path}, line {number}', header, values, number, seen, judges))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f'{path} is not a CSV file: {error}') from error
    if header is None:
        _checked_header(path, [])
    return rows


def _checked_header(path, header):
    if sorted(header) != sorted(COLUMNS):
        raise ValueError(f'{path} is not a scores file: its columns are {header}, they must be {list(COLUMNS)}')
    return header


def _checked_row(where, header, values, number, seen, judges):
    """One row; ``seen`` (lines by metric and image) and ``judges`` remember those above."""
    row = _row(where, header, values)
    lines = seen.setdefault(row.metric, {})
    if row.image in lines:
        raise ValueError(f'{where}: {row.metric} of {row.image} stands in line {lines[row.image]} too')
    lines[row.image] = number
    judge = (row.judge_hash, row.higher_better)
    if judges.setdefault(row.metric, judge) != judge:
        raise ValueError(f'{where}: {row.metric} by another judge or direction than in the lines above: '
                         f'{judge}, above {judges[row.metric]}')  # fmt: skip
    return row


def _row(where, header, values):
    if len(values) != len(header):
        raise ValueError(f'{where}: {len(values)} values for {len(header)} columns')
    row = dict(zip(header, map(sys.intern, values), strict=True))  # names and hashes come again in many rows
    if not row['image'] or not row['metric']:
        raise ValueError(f'{where}: no image or no metric')
    try:
        row['score'] = float(row['score'])
    except ValueError:
        raise ValueError(f'{where}: the score of {row["image"]} is no number: {row["score"]!r}') from None
    if math.isnan(row['score']):
        raise ValueError(f'{where}: the score of {row["image"]} is NaN')
    direction = row['higher_better'].lower()
    if direction not in ('true', 'false'):
        raise ValueError(f'{where}: higher_better must be True or False, got {row["higher_better"]!r}')
    row['higher_better'] = direction == 'true'
    return Score(**row)
