"""How long a report over many runs takes, and how large it is.

    python benchmarks/bench_report.py --kodak ../shared/data/images/kodak24

Writes runs x images results (crops of the Kodak images, or smooth noise without --kodak, each run with its own noise),
five judges' scores for each and a curve, then calls ``build_report`` once and prints seconds and megabytes.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from nriqa_plugin.evaluation.run_index import Run, RunIndex
from nriqa_plugin.evaluation.scores import Score, write_scores
from nriqa_plugin.report import build_report

JUDGES = {'psnr': (True, 28, 'r'), 'stlpips': (False, 0.2, 'r'), 'niqe': (False, 5, ''), 'musiq': (True, 60, ''),
          'cnniqa': (False, 30, '')}  # fmt: skip


def bases(kodak, count, size):
    """``count`` 8-bit images of ``size`` px a side."""
    if kodak is None:
        return [
            np.asarray(
                Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize(
                    (size, size), Image.BICUBIC
                )
            )
            for i in range(count)
        ]
    files = sorted(Path(kodak).glob('*.png'))
    found = []
    for number in range(count):
        image = Image.open(files[number % len(files)]).convert('RGB')
        left = (number // len(files) * 97) % (image.width - size + 1)
        found.append(np.asarray(image.crop((left, 0, left + size, size))))
    return found


def write_runs(folder, runs, images, size, kodak):
    """The run index of made-up runs whose files really exist."""
    generator = np.random.default_rng(0)
    originals, made = bases(kodak, images, size), []
    (folder / 'gt').mkdir()
    for number, image in enumerate(originals):
        Image.fromarray(image).save(folder / 'gt' / f'{number:03d}.png', compress_level=1)
    for run in range(runs):
        name = f'loss_{run:02d}'
        (folder / name).mkdir()
        for number, image in enumerate(originals):
            noise = generator.normal(0, 2 + run % 5, image.shape)
            result = np.clip(image + noise, 0, 255).astype(np.uint8)
            Image.fromarray(result).save(folder / name / f'{number:03d}.png', compress_level=1)
        rows = [
            Score(f'{number:03d}.png', metric, typical * float(generator.normal(1 + run / 200, 0.1)), higher, 'h', 'i',
                  reference)
            for metric, (higher, typical, reference) in JUDGES.items()
            for number in range(images)
        ]  # fmt: skip
        write_scores(folder / f'{name}.csv', rows)
        curve = ''.join(f'{100 * i},psnr,{26 + 2 * i / 50 + generator.normal(0, 0.1)}\n' for i in range(50))
        (folder / f'{name}_curve.csv').write_text('iteration,metric,value\n' + curve)
        made.append(Run(name, 'network', name, 'data set', folder / f'{name}.csv', folder / name, folder / 'gt',
                        curve=folder / f'{name}_curve.csv'))  # fmt: skip
    return RunIndex(tuple(made), 'loss_00')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kodak', help='folder of the Kodak images')
    parser.add_argument('--runs', type=int, default=20)
    parser.add_argument('--images', type=int, default=100)
    parser.add_argument('--size', type=int, default=512, help='side of an image in px')
    parser.add_argument('--out', help='keep the report here')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        index = write_runs(folder, options.runs, options.images, options.size, options.kodak)
        wall, cpu = time.perf_counter(), time.process_time()
        built = build_report(options.out or folder / 'report.html', index, 'Benchmark')
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f'{options.runs} runs x {options.images} images of {options.size} px: {wall:.1f} s ({cpu:.1f} s of CPU), '
          f'{built.size / 1e6:.1f} MB, {built.crops} crops, peak memory {peak:.2f} GB')  # fmt: skip
    for note in built.notes:
        print('Note:', note)


if __name__ == '__main__':
    main()
