"""What clips are cut out of: videos, folders of frames, still images."""

import re
from pathlib import Path
from typing import NamedTuple

from nriqa_plugin.clips.folders import find_clips
from nriqa_plugin.evaluation.images import list_images
from nriqa_plugin.evaluation.video import FrameFolder, VideoFile, in_order, is_video


class Source(NamedTuple):
    """One picture source.

    Attributes:
        name (str): without ``/`` and spaces; what its clips are named after.
        kind (str): ``video``, ``frames`` or ``still``.
        path (Path): the file or folder.
        frames: with ``frames(wanted)`` and ``hash()`` as :class:`nriqa_plugin.evaluation.video.VideoFile`.
    """

    name: str
    kind: str
    path: Path
    frames: object


def find_sources(paths, stills=False):
    """The sources that paths stand for, in their order.

    Args:
        paths (Sequence[str | Path]): a video; a folder of frames; a folder of videos, or of folders of frames. With
            ``stills`` an image, or a folder of images.
        stills (bool): every image is a source of its own.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: nothing in it, a file of another kind, or two sources of one name.
    """
    sources, seen = [], {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f'no such file or folder: {path}')
        for source in _stills(path) if stills else _moving(path):
            if source.name in seen:
                raise ValueError(f'{seen[source.name]} and {source.path} would both give clips named '
                                 f'{source.name!r}; rename one')  # fmt: skip
            seen[source.name] = source.path
            sources.append(source)
    return sources


def _stills(path):
    images = list_images(path) if path.is_dir() else [path]
    return [Source(_plain(image.stem), 'still', image, FrameFolder(image.stem, [image])) for image in images]


def _moving(path):
    if path.is_file():
        if not is_video(path):
            raise ValueError(f'{path} is no video; single images are for moving windows')
        return [Source(_plain(path.stem), 'video', path, VideoFile(path))]
    videos = in_order(file for file in path.iterdir() if is_video(file) and file.is_file())
    if videos:
        return [Source(_plain(file.stem), 'video', file, VideoFile(file)) for file in videos]
    if not any(entry.is_dir() and entry.name[0] != '.' for entry in path.iterdir()):
        name = path.resolve().name
        return [Source(_plain(name), 'frames', path, FrameFolder(name, in_order(list_images(path))))]
    found = find_clips('source', path)
    return [
        Source(_plain(n), 'frames', path / n, FrameFolder(n, [Path(f) for f in files])) for n, files in found.items()
    ]


def _plain(name):
    return re.sub(r'[/\s]+', '_', name)
