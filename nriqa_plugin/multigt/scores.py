"""A file of candidates' scores, so that a training needs no judge.

Text, one JSON object a line. The first says whose scores these are::

    {"format": "nriqa candidate scores 1", "judge": "musiq", "judge_hash": "0123456789ab", "higher_better": true,
     "patch": 256, "stride": 64}

Every further line is one candidate, ``scores`` one number for the whole image, or with ``patch`` a table of rows over
the grid positions ``(stride * row, stride * column)``; null where the judge is undefined::

    {"set": "0001", "candidate": 2, "image_hash": "ba9876543210", "size": [512, 512], "scores": [[61.2, ...], ...]}

Scores are in the judge's own units and direction;
:class:`nriqa_plugin.multigt.score_table.ScoreTable` gives them with higher is better.
"""

import contextlib
import json
import math
import os
from dataclasses import asdict, dataclass

import numpy as np

from nriqa_plugin.checks import atomic_path, check_file, check_keys, check_number

FORMAT = 'nriqa candidate scores 1'


@dataclass(frozen=True)
class ScoresHeader:
    """Whose scores a file holds.

    Attributes:
        judge, judge_hash (str): name and ``weights_hash()`` of the judge.
        higher_better (bool): direction of its scores.
        patch, stride (int | None): side and distance of the patches in px of the ground truth; None for whole images.
    """

    judge: str
    judge_hash: str
    higher_better: bool
    patch: int | None = None
    stride: int | None = None

    def __post_init__(self):
        if (self.patch is None) != (self.stride is None):
            raise ValueError(f'patch and stride go together, got patch {self.patch}, stride {self.stride}')
        if self.patch is not None:
            check_number('patch', self.patch, low=1, integer=True)
            check_number('stride', self.stride, low=1, integer=True)

    def described(self):
        """As one reads it."""
        what = 'whole images' if self.patch is None else f'patches of {self.patch} px every {self.stride} px'
        return f'{self.judge} ({self.judge_hash}) of {what}'

    @classmethod
    def of(cls, judge, patch=None, stride=None):
        """The header for a :class:`nriqa_plugin.iqa.Scorer`."""
        return cls(judge.name, judge.weights_hash(), judge.higher_better, patch, stride)

    def grid(self, height, width):
        """``(tops, lefts)`` of the patches of an image, as ranges."""
        if min(height, width) < self.patch:
            raise ValueError(f'an image of {height} x {width} px holds no patch of {self.patch} px')
        return range(0, height - self.patch + 1, self.stride), range(0, width - self.patch + 1, self.stride)

    def shape(self, height, width):
        """Of the table of an image: ``()`` for whole images."""
        return () if self.patch is None else tuple(map(len, self.grid(height, width)))


class ScoreWriter:
    """Appends candidates to a scores file; opened again after a crash it goes on where the file is whole.

    Args:
        path (str | Path): made with its folder if it is not there.
        header (ScoresHeader): has to be that of the file, if there is one.

    Attributes:
        done (dict[tuple[str, int], str]): image hash of every (set, candidate) in the file.

    Raises:
        ValueError: the file has another header, or is damaged elsewhere than at its end.
    """

    def __init__(self, path, header):
        self.header, self.done = header, {}
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        self.file = open(path, 'a+b')  # noqa: SIM115, closed by close()
        try:
            self._go_on(path)
        except BaseException:
            self.file.close()
            raise

    def _go_on(self, path):
        self.file.seek(0)
        data = self.file.read()
        whole = data.rfind(b'\n') + 1
        if whole:
            found, rows = parse_scores(path, data[:whole])
            if found != self.header:
                raise ValueError(f'{path} holds other scores: {found.described()}, wanted {self.header.described()}; '
                                 'name another file, or delete this one')  # fmt: skip
            self.done = {key: row['image_hash'] for key, row in rows.items()}
        self.file.truncate(whole)
        if not whole:
            self._write({'format': FORMAT, **asdict(self.header)})

    def add(self, name, candidate, image_hash, size, scores):
        """Append one candidate; it is on the disk when this returns.

        Args:
            name (str), candidate (int): the set and the number of the candidate in it.
            image_hash (str): :func:`nriqa_plugin.checks.file_hash` of the file (or of the bytes in the data base).
            size (tuple[int, int]): height and width in px.
            scores (Tensor | ndarray | float): the judge's own, one number or the table over the grid.

        Raises:
            ValueError: there already, or a table of another shape than the grid has.
        """
        if (name, candidate) in self.done:
            raise ValueError(f'candidate {candidate} of {name} is in the file already')
        table = np.asarray(scores, dtype=np.float64)
        expected = self.header.shape(*size)
        if table.shape != expected:
            raise ValueError(f'candidate {candidate} of {name}: scores of the shape {table.shape}, the grid has '
                             f'{expected}')  # fmt: skip
        numbers = _rounded(table.tolist())
        self._write({'set': name, 'candidate': int(candidate), 'image_hash': image_hash,
                     'size': [int(side) for side in size], 'scores': numbers})  # fmt: skip
        self.done[name, candidate] = image_hash

    def _write(self, row):
        self.file.write(json.dumps(row, separators=(',', ':'), allow_nan=False).encode() + b'\n')
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self):
        self.file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def merge_scores(path, parts):
    """Put files of one header together, at once or not at all; a candidate may be in several if it is the same.

    Raises:
        ValueError: other headers, or one candidate with two contents.
    """
    header, merged = None, {}
    for part in parts:
        found, rows = parse_scores(part, check_file('scores', part).read_bytes())
        if header not in (None, found):
            raise ValueError(
                f'{part} holds other scores than {parts[0]}: {found.described()}, there {header.described()}'
            )
        header = found
        for key, row in rows.items():
            if merged.setdefault(key, row) != row:
                raise ValueError(f'{part}: candidate {key[1]} of {key[0]} has another content than in an earlier file')
    with atomic_path(path) as temporary, open(temporary, 'wb') as file:
        rows = [{'format': FORMAT, **asdict(header)}, *(merged[key] for key in sorted(merged))]
        file.writelines(json.dumps(row, separators=(',', ':'), allow_nan=False).encode() + b'\n' for row in rows)


def parse_scores(path, data):
    """``(header, {(set, candidate): row})`` of the bytes of a file."""
    rows = {}
    header = None
    for number, line in enumerate(data.splitlines(), 1):
        where = f'{path}, line {number}'
        try:
            row = json.loads(line)
        except ValueError as error:
            hint = '; it is not finished' if not data.endswith(b'\n') else ''
            raise ValueError(f'scores: {where} is damaged{hint}: {error}') from error
        if header is None:
            header = _header(where, row)
            continue
        with _named(where):
            key = (row['set'], row['candidate'])
            height, width = row['size']
            shape = np.shape(row['scores'])
            if not isinstance(row['image_hash'], str):
                raise TypeError('image_hash is no text')
        if shape != header.shape(height, width):
            raise ValueError(f'scores: {where}: a table of the shape {shape}, the grid has '
                             f'{header.shape(height, width)}')  # fmt: skip
        if key in rows:
            raise ValueError(f'scores: {where}: candidate {key[1]} of {key[0]!r} is there twice')
        rows[key] = row
    if header is None:
        raise ValueError(f'scores: {path} is empty')
    return header, rows


@contextlib.contextmanager
def _named(where):
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'scores: {where} is damaged: {error!r}') from error


def _header(where, row):
    if not isinstance(row, dict) or row.pop('format', None) != FORMAT:
        raise ValueError(f'scores: {where}: not a file of candidate scores ({FORMAT})')
    check_keys(f'scores: {where}', row, ScoresHeader.__dataclass_fields__)
    with _named(where):
        return ScoresHeader(**row)


def _rounded(value):
    """Floats with seven digits, as float32 has them; None for what is not finite."""
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f'{value:.7g}') if math.isfinite(value) else None
