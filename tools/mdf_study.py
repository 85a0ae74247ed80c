"""Train MDF discriminators on Kodak images and measure what they see: Mustafa et al. (WACV 2022) in small.

    python tools/mdf_study.py train --out runs/mdf      # an hour or two on two cores; goes on where it stopped
    python tools/mdf_study.py measure --out runs/mdf    # tables as Markdown, scores as CSV

``train`` runs ``nriqa train-mdf`` for every set of discriminators below. ``measure`` distorts the centres of the Kodak
images that no training saw, each distortion in five strengths, and asks per image whether the loss rises with the
strength (Spearman's rank correlation) and how much of it falls on each kind of distortion at equal PSNR. Needs the
test data.
"""

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from scipy.stats import spearmanr
from torchvision.transforms.functional import gaussian_blur

from nriqa_plugin.checks import atomic_path
from nriqa_plugin.evaluation.images import list_images, read_image
from nriqa_plugin.mdf import JPEG, Downscale, GaussianNoise, load_mdf

SEED_IMAGE, MORE_IMAGES = '08', ('19', '05', '13')
SYNTHETIC = ('pyramid-permutation', 'pink-noise', 'contrast-rings')
TASKS = ('sisr', 'denoise', 'jpeg')
SCALES, CROP = 6, 48  # of the trainings
SIDE = 96  # px of the centres that are measured
PSNR = 28  # dB at which distortions are compared

STRENGTHS = {
    'blur': (0.5, 0.8, 1.2, 2.0, 3.5),  # standard deviation in px
    'noise': (4, 8, 15, 25, 45),  # standard deviation in 8-bit levels
    'jpeg': (50, 30, 18, 9, 4),  # quality, falling
    'downscale': (1.5, 2, 3, 4.5, 7),
}
OWN = {'sisr': ('downscale', 'blur'), 'denoise': ('noise',), 'jpeg': ('jpeg',)}


def runs(out):
    """Options of ``nriqa train-mdf`` by name of the run; the ablations, all of one budget, ask about the seed image."""
    kodak = [f'{{kodak}}/{name}.png' for name in (SEED_IMAGE, *MORE_IMAGES)]
    trainings = {task: {'task': task, 'images': kodak[:1], 'iterations': 300} for task in TASKS}
    images = {'image A': kodak[:1], 'image B': kodak[1:2], 'images A, B': kodak[:2], 'four images': kodak}
    images |= {kind: [str(out / f'{kind}.png')] for kind in SYNTHETIC}
    return trainings | {f'sisr short, {name}': {'task': 'sisr', 'images': files, 'iterations': 100}
                        for name, files in images.items()}  # fmt: skip


def file_of(out, name):
    return out / f'{name.replace(", ", "_").replace(" ", "_")}.pth'


def train(data, out, only, options):
    """Every training that is not there yet, or those whose name is in ``only``."""
    kodak = data / 'images' / 'kodak24'
    for name, training in runs(out).items():
        file = file_of(out, name)
        if file.is_file() or (only and name not in only):
            continue
        print(f'== {name}', flush=True)
        kind = name.removeprefix('sisr short, ')
        if kind in SYNTHETIC and not (out / f'{kind}.png').is_file():
            made_from = ['--from', str(kodak / f'{SEED_IMAGE}.png')] if kind == SYNTHETIC[0] else []
            nriqa('make-seed', kind, '--out', out / f'{kind}.png', *made_from)
        images = [part for image in training['images'] for part in ('--image', image.format(kodak=kodak))]
        budget = ('--scales', SCALES, '--iterations', training['iterations'], '--crop', CROP)
        nriqa('train-mdf', *images, '--task', training['task'], '--out', file, *(options or budget))


def nriqa(*arguments):
    subprocess.run([sys.executable, '-m', 'nriqa_plugin', *map(str, arguments)], check=True)


@torch.no_grad()
def distances(discriminators, bounds, images, clean):
    """``(N, K)``: what each discriminator adds to the released form of the loss; and the mean of its last map."""
    low, high = bounds
    images, clean = (low + (high - low) * batch for batch in (images, clean))
    columns, realness = [], []
    for network in discriminators:
        taps, taps_clean = _taps(network, images), _taps(network, clean)
        squared = [(a - b).square().mean((1, 2, 3)) for a, b in zip(taps, taps_clean, strict=True)]
        columns.append(sum(squared))
        realness.append(taps[-1].mean((1, 2, 3)))
    return torch.stack(columns, 1), torch.stack(realness, 1)


def _taps(network, images):
    head = network.head(images)
    body = network.body(head)
    return head, body, network.tail(body)


def distort(kind, strength, image):
    """``(1, 3, H, W)`` in [0, 1], the same noise for every strength."""
    generator = torch.Generator().manual_seed(0)
    if kind == 'blur':
        return gaussian_blur(image, 2 * int(4 * strength) + 3, strength)
    made = {'noise': GaussianNoise, 'jpeg': JPEG, 'downscale': Downscale}[kind](strength)
    return made(image, generator)


def measure(data, out):
    """Write ``distances.csv`` with a row for every image, distortion and set of discriminators; print the tables."""
    files = {name: file_of(out, name) for name in runs(out) if file_of(out, name).is_file()}
    for name, released in (('authors, sisr', 'Ds_SISR'), ('authors, jpeg', 'Ds_JPEG')):
        files[name] = out / f'{released}.pth'
        if not files[name].is_file():
            nriqa('convert-mdf', data / 'weights' / f'{released}.pth', '--out', files[name])
    sets = {name: load_mdf('weights', file) for name, file in files.items()}
    rows = []
    for path in track(list_images(data / 'images' / 'kodak24'), 'measuring'):
        if path.stem == SEED_IMAGE:
            continue
        image = read_image(path)
        top, left = ((side - SIDE) // 2 for side in image.shape[1:])
        clean = image[None, :, top : top + SIDE, left : left + SIDE]
        kinds = [(kind, level, value) for kind, values in STRENGTHS.items() for level, value in enumerate(values)]
        spoiled = torch.cat([distort(kind, value, clean) for kind, _, value in kinds] + [clean])
        psnr = -10 * torch.log10((spoiled - clean).square().mean((1, 2, 3)))
        for name, (discriminators, header) in sets.items():
            bounds = header.get('range', (0, 1))
            value, real = distances(discriminators[:8], bounds, spoiled, clean)
            for index, (kind, level, _) in enumerate(kinds):
                row = {'set': name, 'image': path.stem, 'distortion': kind, 'level': level}
                row |= {'psnr': float(psnr[index]), 'realer': float((real[-1] > real[index]).float().mean())}
                rows.append(row | {f'scale_{k}': float(part) for k, part in enumerate(value[index])})
    with atomic_path(out / 'distances.csv') as temporary, open(temporary, 'w', newline='') as file:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(file, columns, restval='')
        writer.writeheader()
        writer.writerows(rows)
    tables(rows, sets)


def tables(rows, sets):
    """Print what the rows say."""
    held_out = {row['image'] for row in rows} - set(MORE_IMAGES)
    print(
        f'\nCentres of {SIDE} px. Single tasks and the authors: 23 images; the ablations: the {len(held_out)} that no\n'
        'training saw. Spearman correlation of loss and strength per image, mean (lowest image); share of the loss by\n'
        f'distortion at {PSNR} dB, mean over images; share of distorted images that the last maps call less real than\n'
        'the clean one.\n'
    )
    kinds = list(STRENGTHS)
    print(
        '| discriminators | ' + ' | '.join(kinds) + ' | ' + ' | '.join(f'{k}, share' for k in kinds) + ' | less real |'
    )
    print('|---' * (2 * len(kinds) + 2) + '|')
    for name in sets:
        mine = [
            row
            for row in rows
            if row['set'] == name and (name in TASKS or 'authors' in name or row['image'] in held_out)
        ]
        correlations = [spearman_text(mine, kind, total) for kind in kinds]
        shares = shares_at_equal_psnr(mine, total)
        real = np.mean([row['realer'] for row in mine])
        print(f'| {name} | ' + ' | '.join(correlations) + ' | ' + ' | '.join(f'{100 * shares[k]:.0f} %' for k in kinds)
              + f' | {100 * real:.0f} % |')  # fmt: skip
    print('\nNumber of scales, coarsest first: mean Spearman over all distortions and images.\n')
    print('| discriminators | ' + ' | '.join(map(str, range(1, 9))) + ' |')
    print('|---' * 9 + '|')
    for name, (discriminators, _) in sets.items():
        mine = [row for row in rows if row['set'] == name and row['image'] in held_out]
        cells = []
        for count in range(1, min(8, len(discriminators)) + 1):
            values = [np.mean(correlations_of(mine, kind, lambda row: prefix(row, count))) for kind in kinds]  # noqa: B023
            cells.append(f'{np.mean(values):.3f}')
        print(f'| {name} | ' + ' | '.join(cells + [''] * (8 - len(cells))) + ' |')


def prefix(row, count):
    return sum(row[f'scale_{k}'] for k in range(count))


def total(row):
    return prefix(row, sum(key.startswith('scale_') for key in row))


def correlations_of(rows, kind, value):
    """Spearman's correlation of strength and loss for every image."""
    found = []
    for image in sorted({row['image'] for row in rows}):
        ladder = sorted(
            (row['level'], value(row)) for row in rows if row['image'] == image and row['distortion'] == kind
        )
        found.append(spearmanr(*zip(*ladder, strict=True)).statistic)
    return found


def spearman_text(rows, kind, value):
    found = correlations_of(rows, kind, value)
    return f'{np.mean(found):.3f} ({min(found):.1f})'


def shares_at_equal_psnr(rows, value):
    """How a loss is spread over the kinds of distortion when each costs the same PSNR, mean over images."""
    per_image = []
    for image in {row['image'] for row in rows}:
        levels = {}
        for kind in STRENGTHS:
            ladder = sorted(
                (row['psnr'], value(row)) for row in rows if (row['image'], row['distortion']) == (image, kind)
            )
            psnr, losses = (np.array(column) for column in zip(*ladder, strict=True))
            if psnr[0] <= PSNR <= psnr[-1]:
                levels[kind] = np.exp(np.interp(PSNR, psnr, np.log(losses)))
        if len(levels) == len(STRENGTHS):  # every kind reaches that PSNR on this image
            per_image.append({kind: level / sum(levels.values()) for kind, level in levels.items()})
    if not per_image:
        return dict.fromkeys(STRENGTHS, float('nan'))
    return {kind: np.mean([shares[kind] for shares in per_image]) for kind in STRENGTHS}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('command', choices=('train', 'measure'))
    parser.add_argument('--out', type=Path, default=Path('runs/mdf'))
    parser.add_argument('--data', type=Path, help='test data; default: NRIQA_TEST_DATA, else ../shared/data')
    parser.add_argument('--only', action='append', help='train this run only; may be given several times')
    args, options = parser.parse_known_args()  # further options go to nriqa train-mdf
    data = args.data or Path(os.environ.get('NRIQA_TEST_DATA') or Path(__file__).parents[2] / 'shared' / 'data')
    data, out = data.resolve(), args.out.resolve()
    if not (data / 'weights').is_dir():
        parser.error(f'no test data at {data}: name its folder with --data or NRIQA_TEST_DATA')
    out.mkdir(parents=True, exist_ok=True)
    if args.command == 'train':
        train(data, out, args.only, options)
    elif options:
        parser.error(f'unknown options: {" ".join(options)}')
    else:
        measure(data, out)


if __name__ == '__main__':
    main()
