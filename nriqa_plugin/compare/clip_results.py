"""Test results of a video network, which lie in a folder for each clip, as the flat folder that is scored and shown."""

import os
import shutil
from pathlib import Path

from nriqa_plugin.evaluation.images import EXTENSIONS, list_images


def is_folder_of_clips(folder):
    """Whether the images lie one folder deeper."""
    folder = Path(folder)
    entries = [*folder.iterdir()] if folder.is_dir() else []
    return any(path.is_dir() for path in entries) and not any(path.suffix.lower() in EXTENSIONS for path in entries)


def flat_clips(results, references, suffix, out):
    """Links ``CLIP_FRAME`` to every frame of a result and of its ground truth.

    Args:
        results (Path): ``CLIP/FRAME<suffix>.png``; the frames of a clip are paired with those of its ground truth by
            their order, since recurrent models number them from 0, and a single one with the middle frame.
        references (Path): ``CLIP/FRAME.png``, of the same clips or more.
        suffix (str): ending of the results' names.
        out (Path): gets ``results`` and ``references``; what is there is replaced.

    Returns:
        tuple[Path, Path]: the two folders.

    Raises:
        ValueError: a clip without ground truth, or with another number of frames.
    """
    made = [out / 'results', out / 'references']
    shutil.rmtree(out, ignore_errors=True)
    for folder in made:
        folder.mkdir(parents=True)
    for clip in sorted(path for path in results.iterdir() if path.is_dir()):
        if not (references / clip.name).is_dir():
            raise ValueError(f'the clip {clip.name} in {results} has no ground truth in {references}')
        frames, truths = list_images(clip), list_images(references / clip.name)
        if len(frames) == 1:
            truths = [truths[len(truths) // 2]] if truths else []
        if len(frames) != len(truths):
            raise ValueError(f'{clip} has {len(frames)} frames, but its ground truth {references / clip.name} has '
                             f'{len(truths)}')  # fmt: skip
        for frame, truth in zip(frames, truths, strict=True):
            name = f'{clip.name}_{truth.stem}'
            for folder, path, ending in ((made[0], frame, suffix), (made[1], truth, '')):
                os.symlink(path.resolve(), folder / f'{name}{ending}{path.suffix}')
    return tuple(made)
