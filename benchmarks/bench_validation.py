"""A validation with five judges in one pass against five validations with one judge each.

    python benchmarks/bench_validation.py [--images 8] [--side 256] [--runs 5]

Counts what is decoded and converted, and times both in turns (CPU time, one thread, MSRResNet x4).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from mmagic.datasets.transforms import LoadImageFromFile
from mmagic_runner import build_runner, write_pairs

import nriqa_plugin.mmagic  # noqa: F401
from nriqa_plugin.mmagic.metrics import IQAMetric

JUDGES = ['niqe', 'psnr', 'ssim', 'gmsd', 'vsi']


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=8)
    parser.add_argument('--side', type=int, default=256)
    parser.add_argument('--runs', type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = count_calls(decoded=(LoadImageFromFile, 'transform'), converted=(IQAMetric, '_to_unit_rgb'))
    with tempfile.TemporaryDirectory() as folder:
        images = write_pairs(Path(folder), options.side, options.images)
        loss = {'type': 'L1Loss'}
        together = [build_runner(images, loss, [{'type': 'IQAMetric', 'judges': JUDGES, 'device': 'cpu'}], 1)]
        apart = [build_runner(images, loss, [{'type': 'IQAMetric', 'judges': [j], 'device': 'cpu'}], 1) for j in JUDGES]
        rows = []
        for _ in range(options.runs):
            row = []
            for runners in (together, apart):
                counts.update(decoded=0, converted=0)
                start = time.process_time()
                for runner in runners:
                    runner.val()
                row.append((time.process_time() - start, *counts.values()))
            rows.append(row)
    rows = rows[1:] or rows  # the first run warms up
    print(
        f'{options.images} images of {options.side} px, {len(rows)} paired runs, one thread, torch {torch.__version__}'
    )
    for name, column in (('five judges, one pass', 0), ('five passes', 1)):
        seconds = statistics.median(row[column][0] for row in rows)
        _, decoded, converted = rows[0][column]
        print(f'{name:24s}{seconds:7.2f} s, {decoded} files decoded, {converted} images converted')
    print(f'five passes / one pass = {statistics.median(row[1][0] / row[0][0] for row in rows):.2f}')


def count_calls(**methods):
    """``{name: calls}`` of methods, counted from now on."""
    counts = dict.fromkeys(methods, 0)

    def counted(name, method):
        def call(*args, **kwargs):
            counts[name] += 1
            return method(*args, **kwargs)

        return call

    for name, (owner, method) in methods.items():
        setattr(owner, method, counted(name, getattr(owner, method)))
    return counts


if __name__ == '__main__':
    main()
