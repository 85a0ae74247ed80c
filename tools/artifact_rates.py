"""Measure the periodic-pattern detector of ``nriqa artifacts`` and write docs/artifacts.md.

    python tools/artifact_rates.py --runs runs/real

``--runs`` is the result folder of ``tools/real_run.py``: its networks give real results of fine-tuning with a judge,
and an honest fine-tuning (pixel loss only) as control. Without it there are no such rows. What was measured is in
``runs/artifact_rates.jsonl``; a second call goes on where the first one stopped (``--again``: from the start).
"""

import argparse
import io
import json
import os
from pathlib import Path

import numpy as np
import torch
from artifact_page import write_page
from PIL import Image
from torch.nn import functional

from nriqa_plugin.archs import RLFN
from nriqa_plugin.evaluation.flat_areas import detail_map, flat_windows
from nriqa_plugin.evaluation.images import list_images, read_image, to_8_bit
from nriqa_plugin.evaluation.periodic import find_pattern

SCALE = 4
MODELS = ('BSRGAN', 'RealESRGAN', 'ResShift', 'SwinIR')
PERIODS = (2, 3, 4, 8, 16)  # px, of the planted dots
LEVELS = (2, 4, 8)
PART = 128  # px, side of the part of an image that has dots
FLAT_SIZES = (32, 64, 96, 128, 192)
DEGRADATIONS = ('blur', 'noise8', 'jpeg90', 'jpeg50', 'jpeg20')
HONEST = 'pixel'  # the run of tools/real_run.py without judge


class Images:
    """The images of all cases by data set and kind, made when they are asked for."""

    def __init__(self, data, runs):
        self.folders = {
            ('kodak', 'truth'): data / 'images' / 'kodak24',
            ('set5', 'low'): data / 'images' / 'set5' / f'LR_x{SCALE}',
            ('models', 'low'): data / 'preference' / 'images' / 'LR',
            **{('models', model): data / 'preference' / 'images' / model for model in MODELS},
        }
        self.made, self.built = {}, {}
        self.networks = {'pretrained': data / 'weights' / 'rlfn_s_x4.pth'}
        for folder in sorted((runs / 'experiments').iterdir()) if runs else ():
            file = folder / 'models' / 'net_g_latest.pth'
            if file.is_file() and folder.name != 'start':
                self.networks[folder.name] = file
            elif folder.name != 'start':  # ended early: its last validation images are left
                self.folders['set5', folder.name] = runs / 'results' / folder.name

    def names(self, dataset):
        low = ('kodak', 'truth') if dataset == 'kodak' else (dataset, 'low')
        return [path.name for path in list_images(self.folders[low])]

    def get(self, dataset, kind, name):
        """One image, rounded to 8 bits as a file would be."""
        if (dataset, kind) in self.folders:
            folder = self.folders[dataset, kind]
            of_run = dataset == 'set5' and kind != 'low'
            return read_image(folder / (Path(name.replace(f'x{SCALE}', '')).stem + '.png' if of_run else name))
        if kind == 'low':
            return eight_bit(functional.interpolate(self.get(dataset, 'truth', name)[None], scale_factor=1 / SCALE,
                                                    mode='bicubic', antialias=True)[0])  # fmt: skip
        if kind in ('bicubic', *self.networks):
            return self.enlarged(dataset, kind, name)
        return degraded(self.get(dataset, 'truth', name), kind)

    @torch.no_grad()
    def enlarged(self, dataset, kind, name):
        if (dataset, kind, name) not in self.made:
            self.made[dataset, kind, name] = to_8_bit(self._enlarge(dataset, kind, name))
        return torch.from_numpy(self.made[dataset, kind, name]).permute(2, 0, 1).float() / 255

    def _enlarge(self, dataset, kind, name):
        low = self.get(dataset, 'low', name)[None]
        if kind == 'bicubic':
            return functional.interpolate(low, scale_factor=SCALE, mode='bicubic')[0]
        return self.network(kind)(low)[0]

    def network(self, name):
        if name in self.built:
            return self.built[name]
        state = torch.load(self.networks[name], map_location='cpu', weights_only=True)
        network = RLFN(upscale=SCALE).eval()
        network.load_state_dict(state.get('params', state))
        self.built[name] = network
        return network


def eight_bit(image):
    return image.clamp(0, 1).mul(255).round() / 255


def degraded(image, kind):
    """``jpeg50``: JPEG of that quality; ``noise8``: Gaussian noise of that many levels; ``blur``: 5 px box."""
    if kind.startswith('jpeg'):
        file = io.BytesIO()
        Image.fromarray(to_8_bit(image)).save(file, 'JPEG', quality=int(kind[4:]))
        return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255
    if kind.startswith('noise'):
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
        return eight_bit(image + int(kind[5:]) / 255 * noise)
    return eight_bit(functional.avg_pool2d(image[None], 5, 1, 2, count_include_pad=False)[0])


def planted(image, levels, period, whole):
    """Dots on every ``period``-th pixel, everywhere or in the middle part only."""
    dots = torch.zeros_like(image)
    dots[:, ::period, ::period] = levels / 255
    if not whole:
        height, width = image.shape[-2:]
        top, left = (height - PART) // 2, (width - PART) // 2
        inside = torch.zeros(height, width)
        inside[top : top + PART, left : left + PART] = 1
        dots *= inside
    return eight_bit(image + dots)


def cases(images):
    """What is measured: (table, dataset, result, baseline, levels, period, whole), without images."""
    clean = [('kodak', 'truth', base) for base in ('', 'bicubic', 'pretrained')]
    clean += [('kodak', 'pretrained', base) for base in ('', 'bicubic', 'truth')]
    clean += [('kodak', 'bicubic', 'pretrained')]
    clean += [('kodak', kind, 'truth') for kind in DEGRADATIONS]
    clean += [('models', model, 'pretrained') for model in MODELS]
    if HONEST in images.networks:
        clean += [(dataset, HONEST, 'pretrained') for dataset in ('kodak', 'models', 'set5')]
    for case in clean:
        yield 'clean', *case, 0, 0, True
    for run in images.networks:
        if run not in ('pretrained', HONEST):
            for dataset in ('models', 'set5'):
                yield 'real', dataset, run, 'pretrained', 0, 0, True
    for dataset, run in images.folders:
        if dataset == 'set5' and run != 'low':
            yield 'real', dataset, run, 'pretrained', 0, 0, True
    result = HONEST if HONEST in images.networks else 'pretrained'
    before = 'pretrained' if HONEST in images.networks else 'bicubic'
    for base in (before, '', 'truth'):
        for levels in LEVELS if base == before else LEVELS[:1]:
            for period in PERIODS if base == before else PERIODS[::2]:
                for whole in (True, False):
                    yield 'planted', 'kodak', result, base, levels, period, whole


def step(case):
    """Every how many images of Kodak are measured: fewer of what is easy to find or only compared."""
    kind, base, levels = case[2], case[3], case[4]
    if levels > LEVELS[0] or (levels and base in ('', 'truth')):
        return 4
    return 2 if levels or kind in DEGRADATIONS else 1


def measure(images, case, name):
    """One row: what the detector says."""
    _, dataset, result, base, levels, period, whole = case
    image = images.get(dataset, result, name)
    if levels:
        image = planted(image, levels, period, whole)
    found = find_pattern(image, images.get(dataset, base, name) if base else None)
    row = dict(zip(('table', 'dataset', 'result', 'base', 'levels', 'period', 'whole'), case, strict=True), image=name)
    return row | {'found': found and {'amplitude': found.amplitude, 'period': found.period, 'local': found.local}}


def flat_share(images):
    """Per window size: share of Kodak's area in flat windows, number of images with one."""
    for size in FLAT_SIZES:
        truths = [images.get('kodak', 'truth', name) for name in images.names('kodak')]
        counts = [len(flat_windows(truth, size)) for truth in truths]
        area = sum(count * size**2 for count in counts) / sum(t.shape[1] * t.shape[2] for t in truths)
        least = sorted(detail_map(truth, size).min().item() for truth in truths)
        yield {'size': size, 'share': area, 'images': sum(count > 0 for count in counts), 'of': len(truths),
               'median_least': least[len(least) // 2]}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=Path, help='result folder of tools/real_run.py')
    parser.add_argument('--store', type=Path, default=Path('runs/artifact_rates.jsonl'))
    parser.add_argument('--page', type=Path, default=Path(__file__).parents[1] / 'docs' / 'artifacts.md')
    parser.add_argument('--again', action='store_true', help='measure everything again')
    parser.add_argument('--data', type=Path, help='test data; default: NRIQA_TEST_DATA, else ../shared/data')
    args = parser.parse_args()
    data = args.data or Path(os.environ.get('NRIQA_TEST_DATA') or Path(__file__).parents[2] / 'shared' / 'data')
    if not (data / 'weights').is_dir():
        parser.error(f'no test data at {data}: name its folder with --data or NRIQA_TEST_DATA')
    images = Images(data, args.runs)
    args.store.parent.mkdir(parents=True, exist_ok=True)
    if args.again:
        args.store.unlink(missing_ok=True)
    rows = [json.loads(line) for line in args.store.read_text().splitlines()] if args.store.is_file() else []
    done = {key(row) for row in rows}
    wanted = [(case, name) for case in cases(images) for name in images.names(case[1])[:: step(case)]]
    with open(args.store, 'a', encoding='utf-8') as file:
        for number, (case, name) in enumerate(wanted, 1):
            if (*case, name) not in done:
                rows.append(measure(images, case, name))
                file.write(json.dumps(rows[-1]) + '\n')
                file.flush()
                print(f'{number}/{len(wanted)}', *case, name, rows[-1]['found'], flush=True)
    keys = {(*case, name) for case, name in wanted}
    write_page(args.page, [row for row in rows if key(row) in keys], list(flat_share(images)))


def key(row):
    return tuple(row[k] for k in ('table', 'dataset', 'result', 'base', 'levels', 'period', 'whole', 'image'))


if __name__ == '__main__':
    main()
