"""Make the clips of the simple VSR study: Moving MNIST's own file when there is one, else a substitute::

    python tools/moving_mnist.py --mnist mnist_test_seq.npy     # (20, 10000, 64, 64), as published
    python tools/moving_mnist.py                                # substitute: needs pip install scikit-learn

The substitute moves the 8 x 8 digits that come with scikit-learn (1797 handwritten ones; UCI, Alpaydin and Kaynak),
enlarged to 20 x 20 px in a box of 28 x 28 as MNIST's are. The first 1437 are for training, the last 360 for the test:
no digit is in both. Writes ``train.npy`` and ``test.npy``, ``(clips, 20, 64, 64)`` uint8, and ``source.json``, which
says what they are made of.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from nriqa_plugin.checks import atomic_path
from nriqa_plugin.clips.moving_digits import FRAMES, moving_digits, split_original

TRAIN_DIGITS = 1437  # four of five
BOX, INNER = 28, 20  # px, as in MNIST
ORIGINAL = 'Moving MNIST'
SUBSTITUTE = "substitute for Moving MNIST: scikit-learn's 8x8 digits, enlarged"


def substitute_digits():
    """Digits ``(K, 28, 28)`` uint8 for training and for the test, disjoint.

    Raises:
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('the substitute needs scikit-learn: pip install scikit-learn, or give --mnist') from error
    from PIL import Image

    small = (load_digits().images * (255 / 16)).round().astype(np.uint8)
    boxes = np.zeros((len(small), BOX, BOX), np.uint8)
    margin = (BOX - INNER) // 2
    for box, digit in zip(boxes, small, strict=True):
        large = Image.fromarray(digit).resize((INNER, INNER), Image.BICUBIC)
        box[margin : margin + INNER, margin : margin + INNER] = large
    return boxes[:TRAIN_DIGITS], boxes[TRAIN_DIGITS:]


def write(out, train, test, source, **more):
    """``train.npy``, ``test.npy`` and ``source.json`` in the folder ``out``."""
    for name, clips in (('train', train), ('test', test)):
        with atomic_path(out / f'{name}.npy') as temporary:
            np.save(temporary, clips)
    with atomic_path(out / 'source.json') as temporary:
        clips = {'train': len(train), 'test': len(test)}
        temporary.write_text(json.dumps({'source': source, 'clips': clips, **more}, indent=1) + '\n')


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('datasets/moving_digits'))
    parser.add_argument('--mnist', type=Path, help="Moving MNIST's published .npy file")
    parser.add_argument('--train', type=int, default=8000, help='clips of the substitute')
    parser.add_argument('--test', type=int, default=2000)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(arguments)
    try:
        if args.mnist is not None:
            train, test = split_original(np.load(args.mnist, mmap_mode='r', allow_pickle=False))
            write(args.out, train, test, ORIGINAL, file=args.mnist.name)
        else:
            digits = substitute_digits()
            train, test = (
                moving_digits(one, clips, FRAMES, seed=args.seed + i)
                for i, (one, clips) in enumerate(zip(digits, (args.train, args.test), strict=True))
            )
            numbers = {'train': len(digits[0]), 'test': len(digits[1])}
            write(args.out, train, test, SUBSTITUTE, digits=numbers, seed=args.seed)
    except (ImportError, OSError, TypeError, ValueError) as error:
        parser.error(str(error))
    print(f'{args.out}: {len(train)} clips for training, {len(test)} for the test ({source_of(args.out)})')


def source_of(folder):
    """What the clips in a folder are made of, as ``source.json`` says it."""
    return json.loads((Path(folder) / 'source.json').read_text())['source']


if __name__ == '__main__':
    main()
