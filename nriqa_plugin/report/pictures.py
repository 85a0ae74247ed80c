"""Which file shows which image: results, ground truths and inputs under the names that the scores have."""

import re
from pathlib import Path

from PIL import Image

from nriqa_plugin.evaluation.images import EXTENSIONS, common_ending, few
from nriqa_plugin.evaluation.scores import FRAME

NUMBER = re.compile(r'_(\d+)$')


def image_key(name):
    """The name under which scores and files of one image meet: without the ending of its format."""
    stem, dot, ending = name.rpartition('.')
    return stem if dot and FRAME not in name and f'.{ending.lower()}' in EXTENSIONS else name


def find_pictures(folder, names=(), suffix='', run=''):
    """The image files of a folder and its subfolders (clips) by :func:`image_key`.

    Args:
        folder (str | Path): the results of one run, the ground truths, or the inputs.
        names (Container[str]): the keys that are known already; a file whose name has more at its end is taken for one
            of them when what it has more is ``suffix``, ``_RUN``, the same for all files, or an iteration as the hosts
            write it: the newest file of an image counts.
        suffix, run (str): see ``names``.

    Returns:
        dict[str, Path]: sorted by key.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: two files of one name.
    """
    folder, found = Path(folder), {}
    if not folder.is_dir():
        raise FileNotFoundError(f'no such folder: {folder}')
    files = {path: image_key(path.relative_to(folder).as_posix()) for path in sorted(folder.rglob('*'))
             if path.suffix.lower() in EXTENSIONS and not _is_hidden(path.relative_to(folder))}  # fmt: skip
    endings = [suffix, f'_{run}', common_ending([key for key in files.values() if key not in names], names)]
    for path, name in files.items():
        key, iteration = _key(name, names, [ending for ending in endings if ending.strip('_')])
        if key in found and iteration == found[key][0]:
            raise ValueError(f'{path} and {found[key][1]} are both an image {key!r}')
        if key not in found or iteration > found[key][0]:
            found[key] = (iteration, path)
    return {key: path for key, (_, path) in sorted(found.items())}


def check_sizes(pictures):
    """Refuse results of one image that differ in size; only the files' headers are read.

    Args:
        pictures (dict[str, dict[str, Path]]): files by run and key; ground truths may be among them.

    Raises:
        ValueError: naming both files and sizes, or a file that is no image.
    """
    first = {}
    for files in pictures.values():
        for key, path in files.items():
            try:
                with Image.open(path) as image:
                    size = image.size
            except OSError as error:
                raise ValueError(f'{path} is not a readable image: {error}') from error
            there, other = first.setdefault(key, (size, path))
            if there != size:
                raise ValueError(f'{key}: {other} is {there[0]}x{there[1]} and {path} is {size[0]}x{size[1]}; '
                                 'only results of one size can be compared')  # fmt: skip


def missing_pictures(pictures, keys):
    """By run the keys without a file; runs that lack none, or that have no images at all, are left out."""
    lacking = {name: [key for key in keys if key not in files] for name, files in pictures.items() if files}
    return {name: lack for name, lack in lacking.items() if lack}


def missing_note(pictures, keys):
    """One sentence for each run with missing images."""
    return [f'{name}: no picture of {few(lack)} of {len(keys)} images.'
            for name, lack in missing_pictures(pictures, keys).items()]  # fmt: skip


def _is_hidden(path):
    return any(part.startswith('.') for part in path.parts)


def _key(key, names, endings):
    """``(key, iteration)``; the iteration is -1 when the file's name has none."""
    if key in names:
        return key, -1
    for ending in endings:
        if key.endswith(ending):
            bare = key.removesuffix(ending)
            if bare in names or not names:
                return bare, -1
    number = NUMBER.search(key)
    if number:
        bare = key[: number.start()]
        parent, _, stem = bare.rpartition('/')
        if parent and parent == stem and (stem in names or not names):  # BasicSR's baby/baby_5000.png
            return stem, int(number[1])
        if bare in names:
            return bare, int(number[1])
    return key, -1
