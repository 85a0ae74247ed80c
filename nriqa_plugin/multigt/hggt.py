"""The folders and labels of "Human Guided Ground-truth Generation for Realistic Image Super-resolution" (CVPR 2023).

The data set of Chen et al., arXiv 2303.13069, holds an original and four enhanced versions of each image, and what
three annotators thought of each version beside the original.
"""

import json
import logging
import os
from collections import Counter
from pathlib import Path

from nriqa_plugin.checks import check_file
from nriqa_plugin.multigt.candidate_set import CandidateSet

VERSIONS = ('01', '02', '03', '04')
ANNOTATORS = ('A', 'B', 'C')
LABELS = ('Positive', 'Similar', 'Negative')

logger = logging.getLogger('nriqa_plugin')


def read_hggt(root):
    """All sets that people have labelled, with or without positives; a warning counts images without labels.

    Args:
        root (str): holds ``images/<part>/{original,01,02,03,04}`` with ``NAME.png`` in the first and ``NAME_01.png``
            in the others, and ``labels/<part>/{A,B,C}/NAME.json``, as ``Train`` does with the part ``0-20193``;
            ``Test-100`` has the same folders without a part.

    Returns:
        list[CandidateSet]: five candidates each; a version is positive when two annotators of three said so.

    Raises:
        FileNotFoundError: a folder, an image or a label file is missing.
        ValueError: a label file that is not JSON, or lacks a label.
    """
    sets = []
    for name, paths, answers in read_answers(root):
        majority = [effective_label(of_version) for of_version in zip(*answers, strict=True)]
        positive = (False, *(label == 'Positive' for label in majority))
        sets.append(CandidateSet(name, tuple(map(str, paths)), positive))
    return sets


def read_answers(root):
    """What every annotator said, as :func:`read_hggt` finds it.

    Returns:
        list[tuple[str, list[Path], list[list[str]]]]: name of the set, its five images (the original first), and for
        each annotator the labels of the four versions.
    """
    images, labels = Path(root, 'images'), Path(root, 'labels')
    for folder in (images, labels):
        if not folder.is_dir():
            raise FileNotFoundError(f'layout: hggt: no such folder: {folder}')
    parts = [''] if (images / 'original').is_dir() else _parts(images)
    return [one for part in parts for one in _read_part(images / part, labels / part, part)]


def effective_label(labels):
    """What the majority says; ``Similar`` when all three differ.

    >>> effective_label(['Positive', 'Negative', 'Positive'])
    'Positive'
    """
    label, count = Counter(labels).most_common(1)[0]
    return label if 2 * count > len(labels) else 'Similar'


def _parts(images):
    parts = sorted(entry.name for entry in os.scandir(images) if Path(entry.path, 'original').is_dir())
    if not parts:
        raise FileNotFoundError(f'layout: hggt: neither {images} nor a folder in it has a folder called original')
    return parts


def _read_part(images, labels, part):
    there = {folder: _names(images / folder) for folder in ('original', *VERSIONS)}
    labelled = {annotator: _names(labels / annotator) for annotator in ANNOTATORS}
    names = sorted({name.removesuffix('.json') for of_one in labelled.values() for name in of_one if _is_label(name)})
    if not names:
        raise FileNotFoundError(f'layout: hggt: {labels / ANNOTATORS[0]} holds no label file')
    if without := sorted(name for name in there['original'] if name.endswith('.png') and name[:-4] not in set(names)):
        logger.warning('layout: hggt: %d images of %s have no label file and are left out: %s, ...',
                       len(without), images / 'original', without[0])  # fmt: skip
    sets = []
    for name in names:
        files = {'original': f'{name}.png', **{version: f'{name}_{version}.png' for version in VERSIONS}}
        for folder, file in files.items():
            if file not in there[folder]:
                raise FileNotFoundError(f'layout: hggt: {labels}/*/{name}.json belongs to {images / folder / file}, '
                                        'which is missing')  # fmt: skip
        answers = [_read_labels(labels / annotator / f'{name}.json') for annotator in ANNOTATORS]
        paths = [images / folder / file for folder, file in files.items()]
        sets.append((f'{part}/{name}' if part else name, paths, answers))
    return sets


def _is_label(name):
    return name.endswith('.json') and name[0] != '.'


def _names(folder):
    if not folder.is_dir():
        raise FileNotFoundError(f'layout: hggt: no such folder: {folder}')
    return {entry.name for entry in os.scandir(folder)}


def _read_labels(path):
    """The labels of the four versions; ``Picture_1`` is the original and has none."""
    file = check_file('layout: hggt: label', path)
    try:
        pictures = json.loads(file.read_text(encoding='utf-8'))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f'layout: hggt: {file} is not a JSON file: {error}') from error
    labels = []
    for number in range(2, 2 + len(VERSIONS)):
        picture = pictures.get(f'Picture_{number}') if isinstance(pictures, dict) else None
        label = picture.get('Label') if isinstance(picture, dict) else None
        if label not in LABELS:
            raise ValueError(f'layout: hggt: {file}: Label of Picture_{number} must be one of {LABELS}, got {label!r}')
        labels.append(label)
    return labels
