"""Which frames of a clip make one item of a data set."""

from typing import NamedTuple

from nriqa_plugin.checks import check_number


class Window(NamedTuple):
    """Consecutive frames of one clip.

    Attributes:
        clip (int): its place in the data set.
        name (str): the clip's, with ``@START`` where it is not the whole clip.
        start, stop (int): frames.
    """

    clip: int
    name: str
    start: int
    stop: int


def split_windows(clips, frames=None):
    """Every clip whole, or in windows of ``frames`` one after the other.

    Args:
        clips (list[Clip])
        frames (int | None)

    Returns:
        tuple[list[Window], int]: and how many frames are left over at the ends of clips.
    """
    found, left = [], 0
    for index, clip in enumerate(clips):
        length = frames or len(clip.gt)
        count = len(clip.gt) // length
        left += len(clip.gt) - count * length
        for start in range(0, count * length, length):
            name = clip.name if length == len(clip.gt) else f'{clip.name}@{start:08d}'
            found.append(Window(index, name, start, start + length))
    return found, left


def check_intervals(intervals):
    """Return distances between frames as a list of whole numbers from 1, or raise naming ``interval_list``."""
    if not isinstance(intervals, (list, tuple)) or not intervals:
        raise TypeError(f'interval_list must be a list of whole numbers, got {intervals!r}')
    return [check_number('interval_list', interval, low=1, integer=True) for interval in intervals]
