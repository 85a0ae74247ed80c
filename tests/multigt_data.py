"""Small sets of candidate ground truths, in every layout, for the tests."""

import json

import numpy as np
from PIL import Image

LEVELS = (60, 120, 180, 90, 150)  # mean brightness of candidates 0, 1, ...; candidate 2 is the brightest
COLUMNS = ('gt', 'gt_01', 'gt_02', 'gt_03', 'gt_04')


def picture(level, height=64, width=80, seed=0):
    """Noise around a level, 8-bit RGB; every pixel differs from its neighbours, so that positions can be told apart."""
    noise = np.random.default_rng(seed).integers(-40, 41, (height, width, 3))
    return Image.fromarray((level + noise).clip(0, 255).astype(np.uint8))


def write_sets(root, names=('a', 'b'), count=3, lq=4, **size):
    """``gt/``, ``gt_01/``, ... and with ``lq`` the folder ``lq/`` of 1/lq of the size; returns ``root``."""
    for k, column in enumerate(COLUMNS[:count]):
        (root / column).mkdir(parents=True, exist_ok=True)
        for i, name in enumerate(names):
            picture(LEVELS[k], seed=10 * k + i, **size).save(root / column / f'{name}.png')
    if lq:
        (root / 'lq').mkdir(exist_ok=True)
        for name in names:
            image = Image.open(root / 'gt' / f'{name}.png')
            image.resize((image.width // lq, image.height // lq), Image.BICUBIC).save(root / 'lq' / f'{name}.png')
    return root


def write_hggt(root, labels, part='0-20193', **size):
    """HGGT's folders; ``labels`` is ``{name: three strings of four letters P, S or N}``, one string per annotator."""
    letters = {'P': 'Positive', 'S': 'Similar', 'N': 'Negative'}
    for i, (name, votes) in enumerate(labels.items()):
        for k, folder in enumerate(('original', '01', '02', '03', '04')):
            path = root / 'images' / part / folder / (f'{name}.png' if k == 0 else f'{name}_{folder}.png')
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(LEVELS[k], seed=10 * k + i, **size).save(path)
        for annotator, vote in zip('ABC', votes, strict=True):
            pictures = {'Picture_1': {'Name': name, 'File': f'{name}.png', 'Label': None}}
            for k, letter in enumerate(vote, 2):
                file = f'{name}_{k - 1:02d}.png'
                pictures[f'Picture_{k}'] = {'Name': file[:-4], 'File': file, 'Label': letters[letter]}
            path = root / 'labels' / part / annotator / f'{name}.json'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(pictures))
    return root


def write_lmdb(folder, target, damage=False):
    """A folder of images as BasicSR's lmdb: encoded files (cut off on wish) and ``meta_info.txt``."""
    import lmdb

    lines = []
    environment = lmdb.open(str(target), map_size=1 << 24)
    with environment.begin(write=True) as transaction:
        for path in sorted(folder.glob('*.png')):
            transaction.put(path.stem.encode(), path.read_bytes()[: 100 if damage else None])
            width, height = Image.open(path).size
            lines.append(f'{path.name} ({height},{width},3) 1\n')
    environment.close()
    (target / 'meta_info.txt').write_text(''.join(lines))
    return target
