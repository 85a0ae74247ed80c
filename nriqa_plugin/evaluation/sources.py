"""What is scored: images and clips, found in folders and video files, paired with their references, and decoded.

A unit stands for one file: :class:`ImageFile` gives one picture, :class:`VideoClip` one for every frame. Units are
decoded in a background thread, in order, and hand out :class:`Picture`.
"""

import logging
import os
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from nriqa_plugin.checks import file_hash
from nriqa_plugin.evaluation.images import EXTENSIONS as IMAGE_EXTENSIONS
from nriqa_plugin.evaluation.images import few, list_images, pair_images, partners, read_hashed_image
from nriqa_plugin.evaluation.scores import frame_name
from nriqa_plugin.evaluation.video import FrameFolder, VideoFile, in_order, is_video, joint_hash

NOT, ALONE, WITH_REFERENCES = range(3)  # how a picture is needed

logger = logging.getLogger('nriqa_plugin')


class Picture(NamedTuple):
    """One decoded image, ``(3, H, W)`` RGB in [0, 1], with its references, and where it comes from (for errors)."""

    name: str
    image: Tensor
    references: list
    image_hash: str
    reference_hash: str
    where: str


class ImageFile:
    """An image file and its references.

    Args:
        name (str): as it is stored.
        path (Path), references (Sequence[Path]): the files.
    """

    __slots__ = ('name', 'path', 'references')
    many = False

    def __init__(self, name, path, references=()):
        self.name, self.path, self.references = name, path, tuple(references)

    def fingerprint(self, with_references):
        """Hashes of the image and, if wanted, of its references together."""
        return file_hash(self.path), self._joint(map(file_hash, self.references)) if with_references else ''

    def pictures(self, need):
        """Decode what ``need(name)`` says: nothing, the image alone, or its references too."""
        needed = need(self.name)
        if needed == NOT:
            return
        image, image_hash = read_hashed_image(self.path)
        references, hashes = [], []
        if needed == WITH_REFERENCES and self.references:
            references, hashes = zip(*map(read_hashed_image, self.references), strict=True)
        yield Picture(self.name, image, list(references), image_hash, self._joint(hashes), str(self.path))

    def produce(self, image):
        """The picture to be scored, on its device: the image itself."""
        return image

    @staticmethod
    def _joint(hashes):
        hashes = list(hashes)
        return joint_hash(hashes) if hashes else ''


class VideoClip:
    """A clip whose frames come in one stream, with the stream of its reference.

    Args:
        name (str): as it is stored; the n-th further frame is called ``name::n``.
        frames, reference (VideoFile | FrameFolder | None): the streams.
    """

    many = True

    def __init__(self, name, frames, reference=None):
        self.name, self.path, self.frames, self.reference = name, frames.path, frames, reference

    def fingerprint(self, with_references):
        return self.frames.hash(), self.reference.hash() if with_references and self.reference else ''

    def pictures(self, need):
        """As of an image, frame by frame; every frame is decoded, so that what is missing or damaged is found.

        Raises:
            ValueError: clip and reference have not the same number of frames, or one of them is damaged.
        """
        image_hash, reference_hash = self.fingerprint(self.reference is not None)
        frames = self.frames.frames(lambda i: need(frame_name(self.name, i)) != NOT)
        pairs = ((image, None) for image in frames)
        missing = object()
        if self.reference is not None:
            wanted = self.reference.frames(lambda i: need(frame_name(self.name, i)) == WITH_REFERENCES)
            pairs = zip_longest(frames, wanted, fillvalue=missing)
        number = 0
        for number, (image, reference) in enumerate(pairs):
            if image is missing or reference is missing:
                rest = number + 1 + sum(1 for _ in pairs)
                own, other = (number, rest) if image is missing else (rest, number)
                raise ValueError(f'{self.frames.path} has {own} frames, its reference {self.reference.path} has '
                                 f'{other}')  # fmt: skip
            if image is not None:
                given = [] if reference is None else [reference]
                hashes = image_hash, reference_hash if given else ''
                yield Picture(frame_name(self.name, number), image, given, *hashes, f'{self.path}, frame {number}')

    def produce(self, image):
        return image


def find_units(images, references=None, suffix='', clips=False):
    """Find what is to be scored.

    Args:
        images (str | Path): a folder of images, a folder of clips (subfolders of frames), a video file, or a folder of
            videos.
        references (str | Path | None): the same; clips and videos pair by name without ending and may be mixed, a
            single clip pairs with a single one of any name.
        suffix (str): ending of the names of images, frames or clips; not stored.
        clips (bool): take a folder of images for the frames of one clip.

    Returns:
        tuple[dict[str, ImageFile | VideoClip], bool]: by stored name (a clip's by the name of its first frame), in
        order; and whether they are clips.

    Raises:
        FileNotFoundError: a missing folder or file.
        ValueError: nothing to score, names that do not pair, or two that would be stored under one name.
    """
    own = _clips_in(images)
    others = None if references is None else _clips_in(references)
    if own is None and not others and not clips:
        return _images(images, references, suffix), False
    own = own or _single(images)
    if references is None:
        pairs = [(clip, None) for clip in own.values()]
    else:
        pairs = _paired(images, own, references, others or _single(references), suffix)
    units = {}
    for clip, reference in pairs:
        for unit in _units(clip, reference, suffix):
            _add(units, unit, suffix)
    return units, True


def _images(images, references, suffix):
    pairs = [(p, ()) for p in list_images(images)] if references is None else [
        (image, (reference,)) for image, reference in pair_images(images, references, suffix)
    ]  # fmt: skip
    units = {}
    for image, reference in pairs:
        _add(units, ImageFile(image.stem.removesuffix(suffix) + image.suffix, image, reference), suffix)
    return units


def _add(units, unit, suffix):
    if unit.name in units:
        first = units[unit.name].path
        raise ValueError(f'{unit.path.name} and {first.name} are both called {unit.name} without {suffix!r}')
    units[unit.name] = unit


def _clips_in(path):
    """``{name without ending: clip}`` of a video, or a folder of videos or of clips; None for a folder of images."""
    path = Path(path)
    if path.is_file():
        if not is_video(path):
            raise ValueError(f'{path} is neither a folder nor a video; give the folder of the image')
        return {path.stem: VideoFile(path)}
    if not path.is_dir():
        raise FileNotFoundError(f'no such folder: {path}')
    inside = [entry for entry in path.iterdir() if entry.name[0] != '.']
    videos = sorted(entry for entry in inside if is_video(entry) and entry.is_file())
    if any(entry.suffix.lower() in IMAGE_EXTENSIONS and entry.is_file() for entry in inside):
        if videos:
            logger.warning(f'{path} holds images: its {len(videos)} videos are not scored; give them one by one')
        return None
    folders = sorted(entry for entry in inside if entry.is_dir())
    if videos:
        if folders:
            logger.warning(f'{path} holds videos: its {len(folders)} folders are not scored')
        found = [(video.stem, VideoFile(video)) for video in videos]
    else:
        found = [(folder.name, _one_clip(folder)) for folder in folders]
    stems = dict(found)
    if len(stems) < len(found):
        raise ValueError(f'{path} holds videos with the same name but for the ending')
    return stems or None


def _single(folder):
    clip = _one_clip(folder)
    return {clip.name: clip}


def _one_clip(folder):
    # By its own name, not by that of what a link points to.
    return FrameFolder(os.path.basename(os.path.abspath(folder)), in_order(list_images(folder)))


def _paired(images, own, references, others, suffix):
    if len(own) == len(others) == 1:
        return [(*own.values(), *others.values())]
    pairs, taken, alone = [], set(), []
    for stem, clip in own.items():
        partner = next((name for name in partners(stem, suffix) if name in others), None)
        if partner is None or partner in taken:
            alone.append(stem)
            continue
        taken.add(partner)
        pairs.append((clip, others[partner]))
    if alone or others.keys() - taken:
        raise ValueError(f'{images} and {references} do not pair by name: {few(alone)} without a reference, '
                         f'{few(sorted(others.keys() - taken))} without a clip')  # fmt: skip
    return pairs


def _units(clip, reference, suffix):
    """The units of one clip: files frame by frame where both are folders."""
    if isinstance(clip, VideoFile):
        name = clip.path.stem.removesuffix(suffix) + clip.path.suffix
    else:
        name = clip.name.removesuffix(suffix)
    if isinstance(clip, VideoFile) or isinstance(reference, VideoFile):
        return [VideoClip(name, clip, reference)]
    if reference is None:
        return [ImageFile(frame_name(name, i), path) for i, path in enumerate(clip.paths)]
    if len(clip.paths) != len(reference.paths):
        raise ValueError(f'{clip.path} has {len(clip.paths)} frames, its reference {reference.path} has '
                         f'{len(reference.paths)}')  # fmt: skip
    partner = dict(pair_images(clip.path, reference.path, suffix))
    return [ImageFile(frame_name(name, i), path, (partner[path],)) for i, path in enumerate(clip.paths)]
