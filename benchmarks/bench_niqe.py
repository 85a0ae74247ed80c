"""How much faster NIQE is here than BasicSR's ``calculate_niqe``, in one process, on 768 x 512 photographs.

    python benchmarks/bench_niqe.py [--threads 1] [--runs 12]

Every run times the three candidates on the same image, one after the other; medians are over the runs, and so is
the median of the runs' ratios. Without Kodak24 in ``$NRIQA_TEST_DATA`` a photograph of scikit-image is used.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import cv2
import torch
from basicsr.metrics.niqe import calculate_niqe

from nriqa_plugin.iqa.niqe import NIQE


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--runs', type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)

    source, images = photographs()
    judge = NIQE()
    calculate_niqe(images[0], 0)  # warm-up
    ours_backward(judge, images[0])
    rows = []
    for run in range(options.runs):
        image = images[run % len(images)]
        rows.append([seconds(f) for f in (
            lambda image=image: calculate_niqe(image, 0),
            lambda image=image: ours(judge, image),
            lambda image=image: ours_backward(judge, image),
        )])  # fmt: skip

    basicsr, forward, backward = (1000 * statistics.median(column) for column in zip(*rows, strict=True))
    print(f'{source}, {options.runs} paired runs, {torch.get_num_threads()} torch thread(s) of {os.cpu_count()} cores, '
          f'torch {torch.__version__}')  # fmt: skip
    print(f'basicsr calculate_niqe    {basicsr:7.1f} ms')
    for name, time_ms, column in (('forward', forward, 1), ('forward and backward', backward, 2)):
        ratio = statistics.median(row[0] / row[column] for row in rows)
        print(f'ours, {name:20s}{time_ms:7.1f} ms   basicsr / ours = {ratio:.1f}')


def photographs():
    """Name of the source and 8-bit BGR images ``(H, W, 3)``."""
    root = os.environ.get('NRIQA_TEST_DATA') or Path(__file__).resolve().parents[2] / 'shared' / 'data'
    files = sorted((Path(root) / 'images' / 'kodak24').glob('*.png'))
    if files:
        return 'Kodak24', [cv2.imread(str(file)) for file in files]
    from skimage.data import astronaut

    return 'astronaut, 768 x 512', [cv2.resize(astronaut()[..., ::-1], (768, 512), interpolation=cv2.INTER_CUBIC)]


def as_tensor(image):
    return torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255


@torch.no_grad()
def ours(judge, image):
    return judge(as_tensor(image)).item()


def ours_backward(judge, image):
    pixels = as_tensor(image).requires_grad_()
    judge(pixels).sum().backward()
    return pixels.grad


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == '__main__':
    main()
