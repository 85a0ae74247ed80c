"""Cached scores of candidate ground truths, looked up while training."""

import math

import numpy as np

from nriqa_plugin.checks import check_file
from nriqa_plugin.multigt.scores import parse_scores


class ScoreTable:
    """The scores of a file, higher is better.

    Args:
        path (str): written by :class:`ScoreWriter`.
        judge (str | None): name that the scores must be of; None takes any.
        judge_hash (str | None): hash of the judge's weights and options, where the judge itself is at hand.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another judge or other weights, an unfinished or damaged file.
    """

    def __init__(self, path, judge=None, judge_hash=None):
        self.path = str(path)
        self.header, rows = parse_scores(path, check_file('scores', path).read_bytes())
        if judge is not None and judge != self.header.judge:
            raise ValueError(f'scores: {path} holds scores by {self.header.judge}, the judge is {judge}')
        if judge_hash is not None and judge_hash != self.header.judge_hash:
            raise ValueError(f'scores: {path} was scored by other weights or options of {self.header.judge} '
                             f'({self.header.judge_hash}, now {judge_hash})')  # fmt: skip
        sign = 1 if self.header.higher_better else -1
        self.hashes = {key: row['image_hash'] for key, row in rows.items()}
        self.sizes = {key: tuple(row['size']) for key, row in rows.items()}
        self.tables = {
            key: sign * np.array(_with_nan(row['scores']), dtype=np.float32) for key, row in rows.items()
        }  # fmt: skip

    @property
    def is_grid(self):
        """Whether these are scores of patches, not of whole images."""
        return self.header.patch is not None

    def check_sets(self, sets, side=None, stride=None):
        """Every candidate of the sets is there, and crops of this ``side`` at multiples of ``stride`` are on the grid.

        Raises:
            ValueError: with the number of missing ones and the first of them; or a side or stride, in px, that does
                not fit.
        """
        wanted = [(one.name, k) for one in sets for k, path in enumerate(one.paths) if path is not None]
        missing = [key for key in wanted if key not in self.hashes]
        if missing:
            name, number = missing[0]
            raise ValueError(f'scores: {self.path} lacks {len(missing)} of {len(wanted)} candidates (the first: number '
                             f'{number} of {name!r}); finish it with nriqa score-gts')  # fmt: skip
        if self.is_grid and side not in (None, self.header.patch):
            raise ValueError(
                f'scores: {self.path} was made for crops of {self.header.patch} px, the data set has {side}'
            )
        if self.is_grid and stride is not None and stride % self.header.stride:
            raise ValueError(f'scores: {self.path} has a grid of {self.header.stride} px; crops at multiples of '
                             f'{stride} px are not on it')  # fmt: skip

    def check_hash(self, name, candidate, image_hash):
        """Refuse an image that has changed since it was scored.

        Raises:
            ValueError: naming set and candidate.
        """
        known = self.hashes.get((name, candidate))
        if known is not None and known != image_hash:
            raise ValueError(f'scores: {self.path} belongs to other data: candidate {candidate} of {name!r} has the '
                             f'hash {image_hash}, when it was scored {known}')  # fmt: skip

    def look_up(self, name, candidate, crop=None):
        """The score of one candidate, higher is better.

        Args:
            crop (tuple[int, int, int] | None): top, left and side in px of the crop, before flips and rotations; for
                scores of patches only.

        Returns:
            float: NaN where the judge was undefined.

        Raises:
            ValueError: the candidate is not in the file, or the crop is not on the grid.
        """
        table = self.tables.get((name, candidate))
        if table is None:
            raise ValueError(f'scores: {self.path} has no candidate {candidate} of {name!r}; finish it with '
                             'nriqa score-gts')  # fmt: skip
        if not self.is_grid:
            return float(table)
        if crop is None:
            raise ValueError(f'scores: {self.path} holds scores of patches, and no crop is known')
        top, left, side = crop
        patch, stride = self.header.patch, self.header.stride
        if side != patch:
            raise ValueError(f'scores: {self.path} was made for crops of {patch} px, this one has {side}')
        row, column = top // stride, left // stride
        if top % stride or left % stride or row >= table.shape[0] or column >= table.shape[1]:
            raise ValueError(f'scores: the crop at ({top}, {left}) of {name!r} is not on the grid of {stride} px; '
                             f'set crop_stride: {stride} (BasicSR), MultiGTCrop(stride={stride}) (mmagic)')  # fmt: skip
        return float(table[row, column])


def _with_nan(value):
    if isinstance(value, list):
        return [_with_nan(part) for part in value]
    return math.nan if value is None else value
