"""Image files: reading one, listing a folder, pairing results with their references."""

import contextlib
import hashlib
import io
import shlex
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps

from nriqa_plugin.checks import atomic_path

# What Pillow's decoders raise on broken files.
DAMAGED = (
    OSError, SyntaxError, EOFError, ValueError, TypeError, LookupError, OverflowError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
EXTENSIONS = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def read_image(path):
    """Decode an image file. EXIF rotation is applied, as viewers and OpenCV do; colour profiles are ignored.

    Args:
        path (str | Path): 8-bit RGB, grey (repeated to three channels) or palette image, or 16-bit grey.

    Returns:
        Tensor: RGB in [0, 1], ``(3, H, W)``, float32.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, not an image, truncated, with an alpha channel, with several frames, with 16-bit colours
            (Pillow would drop the lower byte) or in another colour space; the message names the file.
    """
    return _decode(_read(path), path)


def read_hashed_image(path):
    """:func:`read_image`, and the first 12 hex digits of the SHA-256 of the very bytes that were decoded."""
    data = _read(path)
    return _decode(data, path), hashlib.sha256(data).hexdigest()[:12]


def _read(path):
    path = Path(path)
    if path.is_dir():
        raise ValueError(f'{path} is a folder, not an image')
    if not path.is_file():
        raise FileNotFoundError(f'no such image: {path}')
    return path.read_bytes()


def _decode(data, path):
    try:
        with _refused_when_truncated(), Image.open(io.BytesIO(data)) as image:
            refused = _what_would_be_lost(image, _bits_per_channel(image, data))
            pixels = None if refused else _to_array(ImageOps.exif_transpose(image))
    except DAMAGED as error:
        raise ValueError(f'{path} is not a readable image (truncated or damaged?): {error}') from error
    if refused:
        raise ValueError(f'{path} {refused}')
    if pixels.ndim == 2:
        pixels = pixels[:, :, None].repeat(3, axis=2)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


@contextlib.contextmanager
def _refused_when_truncated():
    """Pillow fills what is missing with grey once any package (pyiqa does) has set this for the whole process."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def write_image(path, image):
    """Write an 8-bit image, at once or not at all.

    Args:
        path (str | Path): its ending says the format, for example ``.png``; missing folders are made.
        image (ndarray | Tensor): as in :func:`to_8_bit`.
    """
    with atomic_path(path) as temporary:
        Image.fromarray(to_8_bit(image)).save(temporary)


def to_8_bit(image):
    """A copy of an image on the CPU, 8-bit RGB ``(H, W, 3)``.

    Args:
        image (ndarray | Tensor): 8-bit RGB ``(H, W, 3)``, or RGB in [0, 1] ``(3, H, W)``.
    """
    if isinstance(image, torch.Tensor):
        image = image.detach().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    return np.array(image, order='C')


def list_images(folder):
    """The image files directly in a folder, sorted by name; hidden and other files are left out.

    Returns:
        list[Path]: with an ending in ``EXTENSIONS``, in any case.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'no such folder: {folder}')
    found = [p for p in folder.iterdir() if _is_image(p)]
    if not found:
        hint = ' (its subfolders are not searched)' if any(p.is_dir() for p in folder.iterdir()) else ''
        raise ValueError(f'no image in {folder}{hint}; known endings: {" ".join(EXTENSIONS)}')
    return sorted(found, key=lambda p: p.name)


def holds_clips(folder):
    """Whether a folder holds no image itself, but subfolders that do, as clips are stored."""
    folder = Path(folder)
    if not folder.is_dir() or any(map(_is_image, folder.iterdir())):
        return False
    inside = (entry for entry in folder.iterdir() if entry.name[0] != '.' and entry.is_dir())
    return any(_is_image(file) for entry in inside for file in entry.iterdir())


def pair_images(folder, reference_folder, suffix='', partner='reference', options=('--suffix', '--suffix')):
    """Pair every image with its reference by file name without ending.

    Args:
        folder, reference_folder (str | Path): images and references.
        suffix (str): what one side may have more, such as ``x4`` (``babyx4.png`` and ``baby.png``), or ``_NAME`` for
            results of a BasicSR run called NAME. An exact match comes first.
        partner (str): how errors call the reference.
        options (tuple[str, str]): how the command calls the suffix of the images, and that of the references.

    Returns:
        list[tuple[Path, Path]]: (image, reference), sorted by image.

    Raises:
        FileNotFoundError: a missing folder.
        ValueError: an image or a reference that is left over, or that has two partners; when one suffix would pair
            all images that are left over, it is named.
    """
    images, references = _by_stem(folder), _by_stem(reference_folder)
    pairs, taken, alone = [], {}, {}
    for stem, image in images.items():
        name = next((name for name in partners(stem, suffix) if name in references), None)
        if name is None:
            alone[stem] = image.name
            continue
        if name in taken:
            raise ValueError(f'{references[name]} is the {partner} of both {taken[name].name} and {image.name}')
        taken[name] = image
        pairs.append((image, references[name]))
    unused = {stem: reference.name for stem, reference in references.items() if stem not in taken}
    if alone or unused:
        more = ((option, common_ending(list(ours), theirs.keys()))
                for option, ours, theirs in zip(options, (alone, unused), (unused, alone), strict=True))  # fmt: skip
        hint = next((f'; they would pair with {option} {shlex.quote(e)}' for option, e in more if e), '')
        raise ValueError(
            f'{folder} and {reference_folder} do not pair by name'
            f'{f" with the suffix {suffix!r}" if suffix else ""}: '
            f'{few(alone.values())} without a {partner}, {few(unused.values())} without an image{hint}'
        )
    return pairs


def few(names, count=3):
    """``none``, or the number of names and the first of them, for messages."""
    names = list(names)
    if not names:
        return 'none'
    return f'{len(names)} ({", ".join(names[:count])}{", ..." if len(names) > count else ""})'


def partners(stem, suffix):
    """The names that belong to a name, the best first: itself, with the suffix, without it."""
    yield stem
    if suffix:
        yield stem + suffix
        if stem.endswith(suffix):
            yield stem[: -len(suffix)]


def _is_image(path):
    return path.suffix.lower() in EXTENSIONS and path.name[0] != '.' and path.is_file()


def _by_stem(folder):
    stems = {}
    for path in list_images(folder):
        if path.stem in stems:
            raise ValueError(
                f'{path.name} and {stems[path.stem].name} in {folder} have the same name but for the ending'
            )
        stems[path.stem] = path
    return stems


def common_ending(stems, references):
    """The shortest ending that all ``stems`` share and without which each is one of ``references``; '' if none is."""
    starts = [name for name in references if stems and stems[0].startswith(name)]
    endings = [stems[0][len(name) :] for name in sorted(starts, key=len, reverse=True)]
    fits = (e for e in endings if all(s.endswith(e) and s[: len(s) - len(e)] in references for s in stems))
    return next(fits, '')


def _bits_per_channel(image, data):
    """Pillow opens 16-bit RGB as 8-bit without a word, so the depth is read from the file's own header."""
    if image.format == 'PNG':
        return data[24]  # 8 bytes signature, 8 of chunk header, width, height, then the depth
    if image.format == 'TIFF':
        return max(image.tag_v2.get(258, (1,)))  # BitsPerSample
    return 8


def _what_would_be_lost(image, depth):
    """Why an image is refused: it could only be converted by dropping or inventing something; '' if it is not."""
    if getattr(image, 'n_frames', 1) > 1:
        return f'holds {image.n_frames} frames; save them as single images'
    if image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in image.info:
        return 'has transparency, which no judge sees; flatten it to RGB first'
    grey16 = depth == 16 and image.mode.startswith('I')
    if depth > 8 and not grey16:
        return f'has {depth} bits per channel; convert it to 8-bit RGB (16 bits: grey only)'
    if image.mode not in ('1', 'L', 'P', 'RGB') and not grey16:
        return f'is {image.mode}; convert it to RGB or grey'
    return ''


def _to_array(image):
    """``(H, W)`` or ``(H, W, 3)`` float32 in [0, 1]."""
    if image.mode.startswith('I'):
        return np.asarray(image).astype(np.float32) / 65535
    image = image.convert({'1': 'L', 'P': 'RGB'}.get(image.mode, image.mode))
    return np.asarray(image).astype(np.float32) / 255
