"""Cuts clips of equal length out of videos and stills: GT, bicubic LQ, and the lists that both hosts read.

``OUT[/SPLIT]/{GT,BIxSCALE}/CLIP/FRAME.png``, ``OUT[/SPLIT]/meta_info.txt`` (``CLIP FRAMES (H,W,3)``),
``OUT[/SPLIT]/clips.csv`` (where every clip comes from) and ``OUT/making.json`` (what has been made, and how).
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from nriqa_plugin.checks import check_choice, check_number, in_place
from nriqa_plugin.clips.bicubic import bicubic_down, to_8_bits
from nriqa_plugin.clips.moving_window import MovingWindow, cut_path, draw_path
from nriqa_plugin.clips.record import LAYOUTS, Record
from nriqa_plugin.clips.regions import GAP, Region, check_apart, check_inside
from nriqa_plugin.evaluation.images import write_image

logger = logging.getLogger('nriqa_plugin')


@dataclass(frozen=True)
class Making:
    """How clips are cut.

    Attributes:
        frames (int): of a clip.
        step (int | None): frames from the start of one clip to the start of the next; None: as many as a clip has.
        scale (int): LQ is so many times smaller, by MATLAB's bicubic interpolation of the 8-bit GT frame.
        layout (str): ``plain`` (``NAME_0000/00000000.png``) or ``vimeo`` (``NAME/0000/im1.png``).
        regions (dict): Region by split (``train``, ``test``); empty: whole frames, no splits.
        gap (int): px that regions lie apart at least.
        window (MovingWindow | None): for stills: the window that moves over them. Their clips' names begin with
            ``synthetic_``.

    Raises:
        ValueError, TypeError: a value out of range, regions that lie too near, a window larger than a region.
    """

    frames: int = 7
    step: int | None = None
    scale: int = 4
    layout: str = 'plain'
    regions: dict = field(default_factory=dict)
    gap: int = GAP
    window: MovingWindow | None = None

    def __post_init__(self):
        for key in ('frames', 'scale') + (('step',) if self.step is not None else ()):
            check_number(key, getattr(self, key), low=1, integer=True)
        check_choice('layout', self.layout, LAYOUTS)
        check_number('gap', self.gap, low=0, integer=True)
        check_apart(self.regions, self.gap)
        if self.window is not None:
            self.window.check()
            if self.window.width % self.scale or self.window.height % self.scale:
                raise ValueError(f'the window must be whole multiples of scale: {self.scale}, got '
                                 f'{self.window.width}x{self.window.height}')  # fmt: skip

    def settings(self):
        """Everything that the pictures depend on, as JSON has it."""
        return json.loads(json.dumps(asdict(self)))


def make_clips(sources, out, making=None):
    """Make all clips of all sources; what an earlier run has finished is not made again.

    A clip appears at once or not at all, its LQ before its GT; the lists are written when all sources are finished.
    Of a source that is refused no clips stay; those of the sources before it do, and the next run lists them.

    Args:
        sources (list[Source]): stills where ``making.window`` is given.
        out (str | Path)
        making (Making | None)

    Returns:
        dict: number of clips by split ('' without regions), those from earlier runs included.

    Raises:
        ValueError: fewer frames than a clip, frames of unequal size, a damaged video or image, a region beyond the
            frames, or a folder that was made in another way or from other files; naming the file.
    """
    making, out = making or Making(), Path(out)
    for source in sources:
        if source.kind == 'frames':  # known without decoding anything
            _check_long_enough(source, len(source.frames.paths), making.frames)
    record = Record(out)
    _remove_unfinished(out)
    for source in sources:
        name = f'synthetic_{source.name}' if source.kind == 'still' else source.name
        if record.begin(name, source.frames.hash(), making.settings()):
            cut = _still_clips if making.window else _video_clips
            with record.undone_if_refused(name):
                record.finish(name, list(cut(source, name, out, making)))
    record.write_lists(making.regions or ('',))
    return {split: len(record.rows(split)) for split in making.regions or ('',)}


def _video_clips(source, name, out, making):
    """Cut one source, frame by frame; yields ``(split, row)`` for every clip."""
    step = making.step or making.frames
    count, size, clips, number = 0, None, {}, 0
    for number, frame in enumerate(source.frames.frames(), 1):
        size = size or tuple(frame.shape[-2:])
        if tuple(frame.shape[-2:]) != size:
            files = getattr(source.frames, 'paths', None)
            what = files[number - 1].name if files else f'frame {number}'
            raise ValueError(f'{source.path} has frames of unequal size: {what} is {frame.shape[-1]} x '
                             f'{frame.shape[-2]} px, the first {size[1]} x {size[0]} px')  # fmt: skip
        if (number - 1) % step == 0:
            clips[number - 1] = []
        for start in list(clips):
            clips[start].append(frame)
            if len(clips[start]) == making.frames:
                clip = torch.stack(clips.pop(start))
                for split, region in _parts(making, size, source.path):
                    row = _write(region.of(clip), out / split, name, count, making)
                    known = {'source': str(source.path), 'kind': source.kind, 'first_frame': start}
                    yield split, {**row, **known, 'region': str(region)}
                count += 1
    _check_long_enough(source, number, making.frames)
    left = number - (count - 1) * step - making.frames
    if left > 0:
        logger.info('%s: the last %d of %d frames make no whole clip', source.path, left, number)


def _still_clips(source, name, out, making):
    """Clips of a window that moves over a still; yields ``(split, row)``."""
    (image,) = source.frames.frames()
    window, size = making.window, (making.window.height, making.window.width)
    for split, region in _parts(making, image.shape[-2:], source.path):
        part = region.of(image)
        for count in range(window.count):
            seed = hashlib.sha256(f'{window.seed}:{source.name}:{split}:{count}'.encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(seed[:7], 'big'))
            with in_place(str(source.path)):
                path = draw_path(window, part.shape[-2:], making.frames, generator)
            row = _write(cut_path(part, path, size), out / split, name, count, making)
            corners = [f'{x + region.left:g},{y + region.top:g}' for y, x in (path[0].tolist(), path[-1].tolist())]
            known = {'source': str(source.path), 'kind': 'synthetic', 'region': str(region)}
            yield split, {**row, **known, 'first_corner': corners[0], 'last_corner': corners[1]}


def _check_long_enough(source, frames, wanted):
    if frames < wanted:
        raise ValueError(f'{source.path} has {frames} frames, too few for a clip of {wanted}')


def _parts(making, size, path):
    """``(split, Region)``; whole frames are cut to multiples of scale at their right and lower sides."""
    if not making.regions:
        height, width = (side - side % making.scale for side in size)
        if not height or not width:
            raise ValueError(f'{path} is {size[1]} x {size[0]} px, too small for scale: {making.scale}')
        return [('', Region(0, 0, width, height))]
    for split, region in making.regions.items():
        check_inside(region, size, str(path), split)
    return list(making.regions.items())


def _write(clip, folder, name, count, making):
    """Write one clip unless it is there, LQ first, so that a clip with GT is whole; returns its row of the table."""
    separator, template, first = LAYOUTS[making.layout]
    clip_name = f'{name}{separator}{count:04d}'
    lq, gt = folder / f'BIx{making.scale}' / clip_name, folder / 'GT' / clip_name
    for target in (lq, gt):
        if not target.is_dir():  # else an earlier run has made it
            with _whole_folder(target) as unfinished:
                for number, image in enumerate(clip, first):
                    small = bicubic_down(to_8_bits(image.double()), making.scale) if target == lq else image
                    write_image(unfinished / template.format(number), small)
    height, width = clip.shape[-2:]
    return {'clip': clip_name, 'frames': making.frames, 'height': height, 'width': width}


@contextlib.contextmanager
def _whole_folder(path):
    """Yield a folder under a temporary name and rename it to ``path`` on success."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix='.unfinished-', dir=path.parent))
    try:
        yield unfinished
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(unfinished, 0o777 & ~umask)
        os.rename(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _remove_unfinished(out):
    for folder in out.rglob('.unfinished-*'):
        shutil.rmtree(folder)
