"""One pass of ``nriqa score`` with five judges against five plain loops over the same folder.

    python benchmarks/bench_scoring.py --data ../shared/data [--threads 1] [--runs 3] [--images 24]
    python benchmarks/bench_scoring.py --memory             # peak of memory, 100 against 10,000 small images

The folder is Kodak24 as JPEG of quality 50, stored as PNG, with the originals as ground truth. Each loop reads every
image and calls the public implementation: basicsr's ``calculate_psnr``, ``calculate_ssim`` and ``calculate_niqe``, the
package ``lpips``, and for CNNIQA, which is in no package with these weights, the public loader's steps patch by patch.
Both sides run in one process, in turns; judges and networks are built outside the clock. ``--threads 0`` leaves torch
and OpenCV as they are.
"""

import argparse
import io
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nriqa_plugin.evaluation.scoring import score_folder
from nriqa_plugin.iqa import Scorer, create_scorer

PSNR, SSIM, NIQE, CNNIQA, LPIPS = 'psnr', 'ssim', 'niqe', 'cnniqa', 'lpips'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path(__file__).resolve().parents[2] / 'shared' / 'data')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--images', type=int, default=24)
    parser.add_argument('--memory', action='store_true')
    parser.add_argument('--peak-of', type=int, help='used by --memory itself')
    options = parser.parse_args()
    if options.peak_of:
        print(peak_of(options.peak_of))
    elif options.memory:
        memory()
    else:
        with tempfile.TemporaryDirectory() as folder:
            speed(options, Path(folder))


def speed(options, folder):
    import cv2

    if options.threads:
        torch.set_num_threads(options.threads)
        cv2.setNumThreads(options.threads)
    write_images(options, folder)
    weights = {name: str(options.data / 'weights' / file) for name, file in {
        CNNIQA: 'CNNIQA-LIVE.pth', LPIPS: 'squeezenet1_1-torchvision-fp16.pth',
    }.items()}  # fmt: skip
    judges = [create_scorer(PSNR), create_scorer(SSIM), create_scorer(NIQE), create_scorer(CNNIQA, weights[CNNIQA]),
              create_scorer(LPIPS, weights[LPIPS], net='squeeze')]  # fmt: skip
    loops = plain_loops(judges)
    ratios, found = [], []
    for run in range(options.runs + 1):  # the first one warms up
        sides = {
            'one pass': lambda run=run: one_pass(folder, judges, run),
            'five loops': lambda: five_loops(folder, loops),
        }
        row = {}
        for name in sorted(sides, reverse=bool(run % 2)):
            start = time.perf_counter(), time.process_time()
            row[name] = sides[name]()
            row[name] = (time.perf_counter() - start[0], time.process_time() - start[1], row[name])
        if run:
            found.append(row)
            ratios.append([row['five loops'][i] / row['one pass'][i] for i in (0, 1)])
    print(f'{options.images} images of 768 x 512 px, {options.runs} paired runs, {torch.get_num_threads()} torch '
          f'thread(s), torch {torch.__version__}')  # fmt: skip
    for name in ('one pass', 'five loops'):
        wall, cpu = (statistics.median(row[name][i] for row in found) for i in (0, 1))
        print(f'{name:12s}{wall:8.2f} s, of the processors {cpu:.2f} s')
    wall, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f'five loops / one pass: {wall:.2f} (time), {cpu:.2f} (processors); each pair: '
          f'{", ".join(f"{pair[0]:.2f}" for pair in ratios)}')  # fmt: skip
    for metric, values in found[0]['five loops'][2].items():
        ours = found[0]['one pass'][2][metric]
        deviation = [abs(a - b) / abs(b) for a, b in zip(ours, values, strict=True)]
        print(f'{metric:8s} mean {np.mean(ours):9.5f} against {np.mean(values):9.5f}, relative deviation: largest '
              f'{max(deviation):.1e}, of the mean {abs(np.mean(ours) / np.mean(values) - 1):.1e}')  # fmt: skip


def write_images(options, folder):
    for kind in ('gt', 'test'):
        (folder / kind).mkdir()
    for file in sorted((options.data / 'images' / 'kodak24').glob('*.png'))[: options.images]:
        image, jpeg = Image.open(file).convert('RGB'), io.BytesIO()
        image.save(jpeg, 'JPEG', quality=50)
        Image.open(jpeg).save(folder / 'test' / file.name)
        image.save(folder / 'gt' / file.name)


def one_pass(folder, judges, run):
    scores = score_folder(folder / 'test', judges, folder / f'{run}.csv', folder / 'gt', 'cpu')
    return {metric: [row.score for row in scores.of(metric)] for metric in scores.metrics}


def five_loops(folder, loops):
    files = sorted((folder / 'test').iterdir())
    return {metric: [loop(file, folder / 'gt' / file.name) for file in files] for metric, loop in loops.items()}


def plain_loops(judges):
    """``{metric: function of two files}``, with the same weights as ours."""
    import cv2
    import lpips
    from basicsr.metrics.niqe import calculate_niqe
    from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_ssim

    def read(file):
        return cv2.imread(str(file))

    network = judges[4].network
    patches = judges[3].network

    @torch.no_grad()
    def distance(file, reference):
        images = (lpips.im2tensor(lpips.load_image(str(path))) for path in (file, reference))
        return network(*images).item()

    @torch.no_grad()
    def cnniqa(file, _):
        image = np.asarray(Image.open(file).convert('RGB'), dtype=np.float64) / 255
        return patches(torch.from_numpy(normalised_patches(image)).float()).mean().item()

    return {
        PSNR: lambda file, reference: calculate_psnr(read(file), read(reference), 0),
        SSIM: lambda file, reference: calculate_ssim(read(file), read(reference), 0),
        NIQE: lambda file, _: float(calculate_niqe(read(file), 0)),
        CNNIQA: cnniqa,
        LPIPS: distance,
    }


def normalised_patches(image):
    """What the public loader feeds to CNNIQA: each 32 x 32 patch less its local mean, by its local deviation + 1."""
    from scipy.signal import convolve2d

    grey = image @ np.array([0.299, 0.587, 0.114])
    kernel = np.full((3, 3), 1 / 9)
    made = []
    for top in range(0, grey.shape[0] - 32, 32):
        for left in range(0, grey.shape[1] - 32, 32):
            patch = grey[top : top + 32, left : left + 32]
            mean = convolve2d(patch, kernel, mode='same', boundary='symm')
            square = convolve2d(patch**2, kernel, mode='same', boundary='symm')
            made.append((patch - mean) / (np.sqrt(np.maximum(square - mean**2, 0)) + 1))
    return np.stack(made)[:, None]


def memory():
    """Peaks of fresh processes: the kernel's count of resident memory."""
    peaks = {}
    for count in (100, 10000):
        command = [sys.executable, __file__, '--peak-of', str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[count] = [float(value) for value in done.stdout.split()[-2:]]
        print(f'{count:6d} images x 5 judges: peak {peaks[count][0]:.1f} MB, with a second run that finds all done '
              f'{peaks[count][1]:.1f} MB')  # fmt: skip
    grown = peaks[10000][0] - peaks[100][0]
    print(f'grown by {grown:.1f} MB, {100 * grown / peaks[100][0]:.1f} %, {grown * 2**20 / 9900 / 5:.0f} bytes a row')


def peak_of(count):
    judges = [create_scorer(name) for name in (PSNR, SSIM, 'gmsd')] + [Mean(), Contrast()]
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for kind in ('gt', 'test'):
            (folder / kind).mkdir()
            for i in range(count):
                pixels[0, 0] = i % 256, i // 256, kind == 'gt'
                Image.fromarray(pixels).save(folder / kind / f'{i:06d}.png')
        peaks = []
        for _ in range(2):
            score_folder(folder / 'test', judges, folder / 's.csv', folder / 'gt', 'cpu', progress=False)
            peaks.append(peak())
    return ' '.join(map(str, peaks))


class Mean(Scorer):
    """A judge that costs nothing."""

    name = 'mean'

    def score(self, pred, ref=None):
        return pred.flatten(1).mean(1)


class Contrast(Mean):
    """Another one."""

    name = 'contrast'

    def score(self, pred, ref=None):
        return pred.flatten(1).std(1)


def peak():
    return int(re.search(r'VmHWM:\s+(\d+) kB', Path('/proc/self/status').read_text())[1]) / 1024


if __name__ == '__main__':
    main()
