"""Test results of a video network, which lie in a folder for each clip, as the flat folder that is scored and shown."""

import os
import re
import shutil
from pathlib import Path

from nriqa_plugin.evaluation.images import EXTENSIONS, list_images
from nriqa_plugin.evaluation.video import in_order

WINDOW = re.compile(r'(.+)@(\d{8})')  # as nriqa_plugin.clips.windows names them


def is_folder_of_clips(folder):
    """Whether the images lie deeper, in folders."""
    folder = Path(folder)
    entries = [*folder.iterdir()] if folder.is_dir() else []
    return any(path.is_dir() for path in entries) and not any(path.suffix.lower() in EXTENSIONS for path in entries)


def flat_clips(results, references, suffix, out):
    """Links ``CLIP_FRAME`` to every frame of a result and of its ground truth.

    Args:
        results (Path): ``CLIP/FRAME<suffix>.png``, clips at any depth (``_`` for ``/`` in the links' names); the frames
            of a clip are paired with those of its ground truth by their order, in which numbers count as such, since
            recurrent models number them from 0, and a single one with the middle frame. ``CLIP@START`` is a window of
            the clip from that frame on.
        references (Path): ``CLIP/FRAME.png``, of the same clips or more.
        suffix (str): ending of the results' names.
        out (Path): gets ``results`` and ``references``; what is there is replaced.

    Returns:
        tuple[Path, Path]: the two folders.

    Raises:
        ValueError: a clip without ground truth, or with another number of frames; a single frame of a window.
    """
    made = [out / 'results', out / 'references']
    shutil.rmtree(out, ignore_errors=True)
    for folder in made:
        folder.mkdir(parents=True)
    for clip in sorted(path for path in results.rglob('*') if path.is_dir() and not is_folder_of_clips(path)):
        frames = in_order(list_images(clip))
        name, truths = _ground_truth(clip, clip.relative_to(results).as_posix(), references, len(frames))
        for frame, truth in zip(frames, truths, strict=True):
            link = f'{name.replace("/", "_")}_{truth.stem}'
            for folder, path, ending in ((made[0], frame, suffix), (made[1], truth, '')):
                os.symlink(path.resolve(), folder / f'{link}{ending}{path.suffix}')
    return tuple(made)


def _ground_truth(clip, name, references, count):
    """The clip's name and its ``count`` true frames, of ``clip``'s own window where it is one."""
    window = None if (references / name).is_dir() else WINDOW.fullmatch(name)
    name = window[1] if window else name
    if not (references / name).is_dir():
        raise ValueError(f'the clip {clip.name} in {clip.parent} has no ground truth in {references}')
    truths = in_order(list_images(references / name))
    if window and count == 1:
        raise ValueError(f'{clip} has one frame: which one of its window it is cannot be told; test clips whole')
    if window:
        truths = truths[int(window[2]) :][:count]
    elif count == 1:
        truths = [truths[len(truths) // 2]]
    if count != len(truths):
        raise ValueError(f'{clip} has {count} frames, but its ground truth {references / name} has {len(truths)}')
    return name, truths
