"""Clips as folders of frames: found, paired with their LQ clips, and refused with the clip's name when they do not fit.

A clip is a folder that holds images, at any depth below the root; its name is its path from there, with ``/``.
"""

import os
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from nriqa_plugin.checks import check_file
from nriqa_plugin.evaluation.images import EXTENSIONS, few
from nriqa_plugin.evaluation.video import in_order

LQ_FOLDER = re.compile(r'(BI|BD|LR|LQ|bicubic)([-_]bicubic)?([-_]?X?\d+)?|X\d+', re.IGNORECASE)


class Clip(NamedTuple):
    """One clip: its frames' paths in order (numbers in names count as such), of GT and, where there are any, of LQ."""

    name: str
    gt: tuple
    lq: tuple | None = None


def find_clips(option, root, meta_info_file=None):
    """The clips below a folder, as ``{name: paths}`` in the order of their names or of the list.

    Args:
        option (str): how messages name the folder.
        root (str | Path): hidden files and folders in it, and files that are no images, are left out.
        meta_info_file (str | Path | None): the clips to take, as :func:`listed_clips` reads them.

    Raises:
        FileNotFoundError: no such folder or list.
        ValueError: no clips; frames beside clip folders; GT beside an LQ folder, unless there is a list; a listed clip
            that is missing, empty or of another length.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f'{option}: no such folder: {root}')
    found = {}
    if meta_info_file is not None:
        for name, stated in listed_clips(meta_info_file).items():
            if not (root / name).is_dir():
                raise FileNotFoundError(f'{option}: {root} has no clip {name!r}, which {meta_info_file} lists')
            found[name] = _frames(root / name)
            if not found[name]:
                raise ValueError(f'{option}: the clip {name!r} in {root} has no frames')
            if stated not in (None, len(found[name])):
                raise ValueError(f'{option}: the clip {name!r} in {root} has {len(found[name])} frames, '
                                 f'{meta_info_file} says {stated}')  # fmt: skip
    else:
        for folder, below, _ in os.walk(root, followlinks=True):
            below[:] = sorted(name for name in below if name[0] != '.')
            _refuse_both_kinds(option, Path(folder), below)
            frames, name = _frames(folder), Path(folder).relative_to(root).as_posix()
            if frames and name == '.':
                raise ValueError(f'{option}: {root} holds frames itself; it must hold a folder for every clip')
            if frames and below:
                raise ValueError(f'{option}: the clip {name!r} in {root} holds frames and folders')
            if frames:
                found[name] = frames
            elif not below:
                if name == '.':
                    break
                raise ValueError(f'{option}: the clip {name!r} in {root} has no frames; known endings: '
                                 f'{" ".join(EXTENSIONS)}')  # fmt: skip
        found = dict(sorted(found.items()))
    if not found:
        raise ValueError(f'{option}: no clips in {meta_info_file or root}')
    return found


def listed_clips(file):
    """The clips that a list names, as ``{name: number of frames or None}``.

    A line is ``NAME``, ``NAME FRAMES SHAPE`` (as BasicSR's lists), ``NAME SHAPE`` or ``NAME/FRAME.png SHAPE`` (as
    mmagic's); empty lines are passed over.

    Raises:
        FileNotFoundError: no such list.
        ValueError: it is empty, or a name leads out of the folder.
    """
    found = {}
    for line in check_file('meta_info_file', file).read_text(encoding='utf-8').splitlines():
        words = line.split()
        if not words:
            continue
        name = PurePosixPath(words[0].replace('\\', '/'))
        if name.suffix.lower() in EXTENSIONS:
            name = name.parent
        if name.is_absolute() or '..' in name.parts or name.as_posix() == '.':
            raise ValueError(f'meta_info_file: {file} names the clip {words[0]!r}; a path inside the folder is wanted')
        found[name.as_posix()] = int(words[1]) if len(words) > 1 and words[1].isdigit() else None
    if not found:
        raise ValueError(f'meta_info_file: {file} lists no clips')
    return found


def clips_of(names):
    """Names of frames, such as an lmdb's keys ``CLIP/FRAME``, as ``{clip: names in order}``.

    Raises:
        ValueError: a name without a clip.
    """
    found = defaultdict(list)
    for name in names:
        clip = PurePosixPath(name).parent.as_posix()
        if clip == '.':
            raise ValueError(f'the frame {name!r} belongs to no clip; CLIP/FRAME is wanted')
        found[clip].append(name)
    return {clip: tuple(in_order(found[clip])) for clip in sorted(found)}


def pair_clips(gt, lq, roots=('dataroot_gt', 'dataroot_lq')):
    """Every GT clip with its LQ clip, by name.

    Args:
        gt (dict): ``{name: paths}``.
        lq (dict | None): the same, None where LQ is made on the fly.
        roots (Sequence[str]): how messages name the two.

    Returns:
        list[Clip]

    Raises:
        ValueError: clips without a partner, with another number of frames, or whose frames have other names.
    """
    if lq is None:
        return [Clip(name, frames) for name, frames in gt.items()]
    alone, unused = [name for name in gt if name not in lq], [name for name in lq if name not in gt]
    if alone or unused:
        raise ValueError(f'{roots[0]} and {roots[1]} do not pair by name: {few(alone)} without LQ, '
                         f'{few(unused)} without GT')  # fmt: skip
    for name, frames in gt.items():
        if len(frames) != len(lq[name]):
            raise ValueError(f'the clip {name!r} has {len(frames)} GT frames, but {len(lq[name])} LQ frames')
        for one, other in zip(frames, lq[name], strict=True):
            if Path(one).stem != Path(other).stem:
                raise ValueError(f'the clip {name!r}: the GT frame {Path(one).name} and the LQ frame '
                                 f'{Path(other).name} do not pair by name')  # fmt: skip
    return [Clip(name, frames, lq[name]) for name, frames in gt.items()]


def check_length(clips, frames):
    """Refuse clips with fewer frames than a window.

    Args:
        clips (list[Clip])
        frames (int): what a window spans.

    Raises:
        ValueError: naming the first clip that is too short.
    """
    short = [clip for clip in clips if len(clip.gt) < frames]
    if short:
        more = f'; {len(short) - 1} more are too short' if len(short) > 1 else ''
        raise ValueError(f'the clip {short[0].name!r} has {len(short[0].gt)} frames, a window {frames}{more}')


def check_sizes(clip, gt, lq, scale, gt_size=1):
    """Refuse frames of a clip that differ in size or do not fit.

    Args:
        clip (Clip)
        gt, lq (Sequence[tuple[int, int]]): height and width of some of its frames, in order; lq empty without LQ.
        scale (int): GT is so many times larger.
        gt_size (int): px that are cut from GT.

    Raises:
        ValueError: naming the clip, and the frame where it is one.
    """
    for what, sizes, paths in (('GT', gt, clip.gt), ('LQ', lq, clip.lq)):
        for path, size in zip(paths or (), sizes, strict=False):
            if size != sizes[0]:
                raise ValueError(f'the clip {clip.name!r} has frames of unequal size: the {what} frame {path} is '
                                 f'{_px(size)}, the first {_px(sizes[0])}')  # fmt: skip
    height, width = gt[0]
    if lq and (lq[0][0] > height or lq[0][1] > width):
        raise ValueError(f'the clip {clip.name!r} is {_px(gt[0])}, its LQ {_px(lq[0])}: larger than GT; are the two '
                         'folders swapped?')  # fmt: skip
    if min(height, width) < gt_size:
        raise ValueError(f'the clip {clip.name!r} is {_px(gt[0])}, smaller than gt_size: {gt_size}')
    if height % scale or width % scale:
        raise ValueError(f'the clip {clip.name!r} is {_px(gt[0])}, no multiple of scale: {scale}; cut it '
                         '(tools/make_clips.py does)')  # fmt: skip
    if lq and (height, width) != (lq[0][0] * scale, lq[0][1] * scale):
        raise ValueError(f'the clip {clip.name!r} is {_px(gt[0])}, its LQ {_px(lq[0])}: not {scale} times as large')


def check_first_frames(clips, scale, gt_size=1):
    """:func:`check_sizes` by the header of every clip's first frame, without decoding one."""
    for clip in clips:
        check_sizes(clip, [_size(clip.gt[0])], [_size(clip.lq[0])] if clip.lq else [], scale, gt_size)


def _size(path):
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise ValueError(f'{path} is not a readable image (truncated or damaged?): {error}') from error


def _refuse_both_kinds(option, folder, below):
    """The folder above both kinds would give LQ clips as ground truth."""
    lq = [name for name in below if LQ_FOLDER.fullmatch(name)]
    if 'GT' in below and lq:
        raise ValueError(f'{option}: {folder} holds GT beside {lq[0]}, ground truth and LQ in one; give '
                         f'{folder / "GT"} as ground truth and {folder / lq[0]} as LQ')  # fmt: skip


def _px(size):
    return f'{size[1]} x {size[0]} px'


def _frames(folder):
    with os.scandir(folder) as entries:
        found = [e.path for e in entries if Path(e.name).suffix.lower() in EXTENSIONS and e.name[0] != '.']
    return tuple(in_order(found))
