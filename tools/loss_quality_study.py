"""Distorted Kodak centres in known strengths, as a table for `nriqa loss-quality`: an order that is known, no people.

    python tools/loss_quality_study.py ../shared/data/images/kodak24 --out runs/levels
    nriqa loss-quality runs/levels/levels.csv --images runs/levels --loss ssim --out runs/levels/result --within \
        --columns 'image=image,mos=level,mos_better=lower,reference=reference,kind=kind,scene={reference}/{kind}'

Strengths of different kinds do not compare, so the correlation is taken within each image and kind.
"""

import argparse
import csv
from pathlib import Path

import torch
from mdf_study import STRENGTHS
from torchvision.transforms.functional import gaussian_blur

from nriqa_plugin.checks import atomic_path
from nriqa_plugin.evaluation.images import list_images, read_image, write_image
from nriqa_plugin.mdf import JPEG, Downscale, GaussianNoise


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', type=Path, help='folder of clean images')
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--count', type=int, default=24, help='how many images, spread over the folder')
    parser.add_argument('--side', type=int, default=192, help='px of the centres')
    options = parser.parse_args()
    files, rows = list_images(options.images), []
    for file in files[:: max(1, len(files) // options.count)][: options.count]:
        clean = centre(read_image(file), options.side)
        reference = f'clean/{file.stem}.png'
        write(options.out / reference, clean)
        for kind, strengths in STRENGTHS.items():
            for level, strength in enumerate(strengths, 1):
                image = f'{kind}/{level}/{file.stem}.png'
                generator = torch.Generator().manual_seed(int(file.stem) if file.stem.isdigit() else 0)
                write(options.out / image, distorted(clean, kind, strength, generator))
                rows.append((image, reference, kind, level))
    with (
        atomic_path(options.out / 'levels.csv') as temporary,
        open(temporary, 'w', encoding='utf-8', newline='') as out,
    ):
        csv.writer(out, lineterminator='\n').writerows([('image', 'reference', 'kind', 'level'), *rows])


def centre(image, side):
    top, left = ((length - side) // 2 for length in image.shape[-2:])
    return image[:, top : top + side, left : left + side]


def distorted(image, kind, strength, generator):
    """One image ``(3, H, W)``, as an 8-bit file would hold it."""
    if kind == 'blur':
        return gaussian_blur(image[None], 2 * round(3 * strength) + 1, strength)[0]
    makers = {'noise': GaussianNoise, 'jpeg': JPEG, 'downscale': Downscale}
    return makers[kind](strength)(image[None], generator)[0].clamp(0, 1)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)


if __name__ == '__main__':
    main()
