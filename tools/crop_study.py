"""Do crops rank images as whole images do? A training sees crops only, a benchmark scores whole images::

    python tools/crop_study.py --images kodak24 --models results/BSRGAN results/SwinIR --judge niqe \\
        --judge piqe --judge cnniqa:weights=CNNIQA-LIVE.pth --judge psnr

``--images`` is a folder of clean photographs. Each is also blurred, made noisy and JPEG-coded at two levels, which
gives every judge something to rank; the clean ones are looked at alone, too. ``--models`` are folders of
results, one per model (no ground truth needed, so only no-reference judges score them). Judges are written as in
``nriqa score -m``. Scores are kept per judge, a run that was killed goes on at the judge where it stopped; the page is
written anew after every judge.
"""

import argparse
import io
import json
import math
import re
import textwrap
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from nriqa_plugin.checks import atomic_path
from nriqa_plugin.cli import parse_judge
from nriqa_plugin.evaluation.images import list_images, read_image
from nriqa_plugin.iqa import create_scorer

SIZES = (128, 192, 256)
LEVELS = {'clean': (0,), 'blur': (1, 2.5), 'noise': (8, 25), 'jpeg': (50, 15)}
DRAWS = 200  # of one crop per image
RESAMPLES = 1000  # of the photographs, for the confidence interval
BATCH = 8


def degrade(image, kind, level, generator):
    """A degraded copy, rounded to 8 bits.

    Args:
        image (Tensor): ``(3, H, W)`` RGB in [0, 1].
        kind (str): a key of ``LEVELS``.
        level (float): sigma of the blur in px, sigma of the noise in grey levels, or JPEG's quality.
        generator (torch.Generator): of the noise.
    """
    if kind == 'blur':
        radius = math.ceil(3 * level)
        kernel = torch.exp(-torch.arange(-radius, radius + 1).square() / (2 * level**2))
        kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
        padded = functional.pad(image[None], [radius] * 4, mode='reflect')
        image = functional.conv2d(functional.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)[0]
    elif kind == 'noise':
        image = image + level / 255 * torch.randn(image.shape, generator=generator)
    elif kind == 'jpeg':
        buffer = io.BytesIO()
        Image.fromarray(_bytes(image).permute(1, 2, 0).numpy()).save(buffer, 'JPEG', quality=level)
        image = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255
    return _bytes(image).float() / 255


def _bytes(image):
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def grid(image, size):
    """All crops of a centred grid without overlap, ``(n, 3, size, size)``; n is 0 when none fits."""
    rows, columns = (side // size for side in image.shape[-2:])
    if not rows * columns:
        return image.new_empty(0, 3, size, size)
    top, left = (image.shape[-2] - rows * size) // 2, (image.shape[-1] - columns * size) // 2
    image = image[:, top : top + rows * size, left : left + columns * size]
    return image.unfold(1, size, size).unfold(2, size, size).permute(1, 2, 0, 3, 4).reshape(-1, 3, size, size)


def graded(folder):
    """Yield ``(photograph, version, image, reference)`` for every photograph and degradation."""
    for path in list_images(folder):
        reference = read_image(path)
        for kind, levels in LEVELS.items():
            for level in levels:
                generator = torch.Generator().manual_seed(zlib.crc32(f'{path.stem} {level}'.encode()))
                yield path.stem, f'{kind} {level}', degrade(reference, kind, level, generator), reference


def results_of_models(folders):
    """Yield ``(photograph, model, image, None)`` for the photographs that all models have."""
    files = {folder.name: {path.stem: path for path in list_images(folder)} for folder in folders}
    for photograph in sorted(set.intersection(*(set(of_model) for of_model in files.values()))):
        for model, of_model in files.items():
            yield photograph, model, read_image(of_model[photograph]), None


def score_all(judge, images):
    """Scores of whole images and of all their crops; NaN where the judge is undefined.

    Returns:
        list[dict]: ``photograph``, ``version``, ``whole`` and a list of scores for every size of ``SIZES``.
    """
    rows = []
    for photograph, version, image, reference in images:
        row = {'photograph': photograph, 'version': version}
        for size in ('whole', *SIZES):
            crops, refs = (
                None if x is None else x[None] if size == 'whole' else grid(x, size) for x in (image, reference)
            )
            fits = size == 'whole' or size >= judge.min_side
            row[str(size)] = _scores(judge, crops, refs) if fits else []
        row['whole'] = row['whole'][0]
        rows.append(row)
    return rows


def _scores(judge, images, refs):
    scores = []
    with torch.no_grad():
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            scores += judge.raw_scores(images[part], refs[part] if judge.needs_reference else None).tolist()
    return [score if math.isfinite(score) else math.nan for score in scores]


# --- statistics ---


def rank_correlation(a, b):
    """Spearman's rho (ties share their mean rank); NaN when one side does not vary."""
    a, b = (_ranks(np.asarray(values, dtype=float)) for values in (a, b))
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt((a @ a) * (b @ b))
    return a @ b / scale if scale else math.nan


def _ranks(values):
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def study(rows, size, seed=0):
    """What the crops of one size tell about the whole images.

    Returns:
        dict: ``mean``: rho between the mean over an image's crops and the whole image's score; ``low`` and ``high``:
        its 95 % bootstrap interval over photographs; ``single``: rho for one random crop per image, averaged over
        draws; ``within``: median standard deviation between the crops of an image, in units of the standard deviation
        between whole images; ``bias``: mean difference between crops and whole images, in the same units. None when
        nothing was scored at this size.
    """
    rows = [row for row in rows if math.isfinite(row['whole']) and np.isfinite(row[str(size)]).any()]
    if not rows:
        return None
    whole = np.array([row['whole'] for row in rows])
    crops = [np.array(row[str(size)]) for row in rows]
    crops = [values[np.isfinite(values)] for values in crops]
    mean = np.array([values.mean() for values in crops])
    generator = np.random.default_rng(seed)
    single = [
        rank_correlation([values[generator.integers(len(values))] for values in crops], whole) for _ in range(DRAWS)
    ]
    by_photograph = {}
    for index, row in enumerate(rows):
        by_photograph.setdefault(row['photograph'], []).append(index)
    groups, resampled = list(by_photograph.values()), []
    for _ in range(RESAMPLES):
        index = np.concatenate([groups[i] for i in generator.integers(len(groups), size=len(groups))])
        resampled.append(rank_correlation(mean[index], whole[index]))
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    between = whole.std(ddof=1)
    spreads = [values.std(ddof=1) for values in crops if len(values) > 1]
    return {
        'images': len(rows),
        'mean': rank_correlation(mean, whole),
        'low': low,
        'high': high,
        'single': float(np.mean(single)),
        'within': float(np.median(spreads)) / between if spreads else math.nan,
        'bias': float((mean - whole).mean()) / between,
    }


# --- the page ---

PAGE = """# Crops against whole images

Training scores crops, a benchmark scores whole images. This page tells how well one stands for the other. It is written
by `tools/crop_study.py`; do not edit it.

{conclusions}

**How it was measured.** Photographs: {photographs}. Models: {models}. Whole images are scored, and all crops of a
centred grid without overlap, which leaves a margin out where a side is no multiple of the crop's (a quarter of a
768 x 512 image at 192 px, nothing at 128 and 256 px).

- *Mean of crops*: Spearman's rank correlation between the mean score of an image's crops and the score of the whole
  image, with its 95 % bootstrap interval ({resamples} resamples of the photographs, not of single images, because
  versions of one photograph belong together).
- *One crop*: the same for a single random crop per image, averaged over {draws} draws: what a training with one crop
  per image sees.
- *Spread*: the standard deviation between the crops of one image (median over the images) divided by the standard
  deviation between whole images. Above 1, where the crop was cut matters more than which image it was cut from.
- *Shift*: the mean of (crops - whole image) in the same unit. Where it is far from 0, scores of crops cannot be
  compared with scores of whole images.
- *Images*: full-reference judges score the degraded copies only, since a clean one is its own reference; so their
  figures are of fewer images than those of the others.

{tables}

## What was not studied

{missing}

## Other judges, other images

Every judge of `nriqa score -m` can be studied, also with weights of your own:

```bash
python tools/crop_study.py --images FOLDER --models FOLDER FOLDER --judge musiq:weights=musiq_koniq.pth --judge topiq_nr
```

`--images` wants clean photographs, `--models` one folder of results per model. Scores are kept in
`runs/crops.jsonl`; a judge that is there is not scored again (`--again`: it is).
"""

SETS = {
    'graded': 'Photographs, clean and degraded ({images} images: blur sigma 1, 2.5 px; noise sigma 8, 25 of 255; JPEG '
    'quality 50, 15{degraded})',
    'clean': 'Clean photographs alone ({images} images; full-reference judges have nothing to rank here)',
    'models': 'Results of super-resolution models ({images} images; no ground truth, so no full-reference judge)',
}
HEADS = {
    'graded': 'On clean and degraded photographs together',
    'clean': 'On clean photographs alone',
    'models': 'On results of super-resolution models',
}
MISSING = """Judges whose weights were not at hand when this page was made, which are nearly all the learned ones of
pyiqa (MUSIQ, TOPIQ, MANIQA, CLIP-IQA, LIQE, NIMA, HyperIQA, DBCNN, ...; [judges.md](judges.md) lists them all): random
weights say nothing about ranking. The next section tells how to study them. Many of them resize or cut patches by
themselves, so do not expect the figures above to hold for them.{unscored}"""
NEED_NO_WEIGHTS = ('entropy', 'fsim', 'gmsd', 'ms_ssim', 'niqe', 'piqe', 'psnr', 'ssim', 'vsi')


def page(results):
    """The page of all results, ``{(judge, set): row}``."""
    tables, all_found = [], {}
    for key, title in SETS.items():
        lines, images, degraded = [], 0, 0
        for (judge, of_set), row in results.items():
            if of_set != ('models' if key == 'models' else 'graded') or (key == 'clean' and row['needs_reference']):
                continue
            scores = [s for s in row['scores'] if key != 'clean' or s['version'].startswith('clean')]
            if row['needs_reference']:
                scores = [s for s in scores if not s['version'].startswith('clean')]  # a distance to itself
            for size in SIZES:
                found = study(scores, size)
                if found is None:
                    lines.append(f'| {judge} | {size} | needs {row["min_side"]} px | | | |')
                    continue
                images = max(images, found['images'])
                degraded = max(degraded, row['needs_reference'] and found['images'])
                all_found.setdefault((key, size), []).append((found, parse_judge(judge)[0]))
                lines.append(f'| {judge} | {size} | {found["mean"]:.3f} ({found["low"]:.3f} to {found["high"]:.3f}) | '
                             f'{found["single"]:.3f} | {found["within"]:.2f} | {found["bias"]:+.2f} |')  # fmt: skip
        if lines:
            degraded = f'; full-reference judges: the {degraded} degraded ones' if degraded else ''
            title = title.format(images=images, degraded=degraded)
            tables += [f'## {title}', '', '| judge | crop, px | mean of crops (95 % interval) | '
                       'one crop | spread | shift |', '|---|---:|---|---:|---:|---:|', *lines, '']  # fmt: skip
    folders = {row['set']: ', '.join(row['folders']) for row in results.values()}
    left = ', '.join(sorted(set(NEED_NO_WEIGHTS) - {parse_judge(judge)[0] for judge, _ in results}))
    unscored = f'\n\nNot scored yet, although they need no weights: {left}.' if left else ''
    return PAGE.format(
        conclusions=_conclusions(all_found),
        draws=DRAWS,
        missing=MISSING.format(unscored=unscored),
        models=folders.get('models', 'none'),
        photographs=folders.get('graded', 'none'),
        resamples=RESAMPLES,
        tables='\n'.join(tables),
    )


def _conclusions(found):
    """Plain numbers, a sentence or two per set of images.

    Args:
        found (dict): lists of (statistics, judge) by (set, size).
    """
    sentences = []
    for key, what in HEADS.items():
        both = [found.get((key, size), []) for size in (SIZES[0], SIZES[-1])]
        # Medians over different judges could not be compared: some need more than the smallest crop.
        small, large = ({judge for _, judge in rows} for rows in both)
        common = small & large
        out = f', without {", ".join(sorted(large - small))}' if large - small else ''
        parts = []
        for size, rows in zip((SIZES[0], SIZES[-1]), both, strict=True):
            if rows := [(row, judge) for row, judge in rows if judge in common]:
                means = sorted((row['mean'], judge) for row, judge in rows)
                low, high = (f'{mean:.2f} ({judge})' for mean, judge in (means[0], means[-1]))
                single, within = (np.median([row[field] for row, _ in rows]) for field in ('single', 'within'))
                parts.append(
                    f'at {size} px {low} to {high} for the mean over all crops, {single:.2f} (median) for a single '
                    f'crop, with a spread of {within:.2f}'
                )
        if parts:
            sentences.append(
                f'{what}, crops rank images like whole images with a rank correlation of: {"; ".join(parts)}. '
                f'Both are of the {len(common)} judges that can score {SIZES[0]} px{out}.'
            )
    shifts = {}
    for rows in found.values():
        for row, judge in rows:
            shifts[judge] = max(shifts.get(judge, 0), abs(row['bias']))
    if far := sorted(judge for judge, shift in shifts.items() if shift > 1):
        sentences.append(f'Not to be compared between crops and whole images (shift above 1): {", ".join(far)}.')
    return '\n'.join(
        textwrap.fill(f'- {sentence}', 120, subsequent_indent='  ', break_on_hyphens=False) for sentence in sentences
    )


def read_results(file):
    """``{(judge, set): row}``; the last line about a judge counts."""
    results = {}
    if file.exists():
        for line in file.read_text(encoding='utf-8').splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # the run was killed while it wrote
                continue
            results[row['judge'], row['set']] = row
    return results


def main():
    """Score what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=Path, help='folder of clean photographs')
    parser.add_argument('--models', type=Path, nargs='+', help='folders of results, one per model')
    parser.add_argument('--judge', action='append', default=[], metavar='NAME:key=value,...', help='repeatable')
    parser.add_argument('--page', type=Path, default=Path('docs/crops.md'), help='(default: %(default)s)')
    parser.add_argument('--results', type=Path, default=Path('runs/crops.jsonl'), help='(default: %(default)s)')
    parser.add_argument('--again', action='store_true', help='score judges that have results once more')
    args = parser.parse_args()
    results = read_results(args.results)
    sets = {'graded': (args.images, graded), 'models': (args.models, results_of_models)}
    args.results.parent.mkdir(parents=True, exist_ok=True)
    for text in args.judge:
        name, options = parse_judge(text)
        judge = create_scorer(name, **options)
        label = re.sub(r'weights=[^,]*/', 'weights=', text)
        for key, (folder, images) in sets.items():
            done = (label, key) in results and not args.again
            if folder is None or done or (key == 'models' and judge.needs_reference):
                continue
            print(f'{label}: {key} ...', flush=True)
            row = {
                'judge': label,
                'set': key,
                'folders': [path.name for path in (folder if key == 'models' else [folder])],
                'min_side': judge.min_side,
                'needs_reference': judge.needs_reference,
                'scores': score_all(judge, images(folder)),
            }
            results[label, key] = row
            with open(args.results, 'a', encoding='utf-8') as file:
                file.write(json.dumps(row) + '\n')
            write(args.page, results)
    write(args.page, results)


def write(path, results):
    """Write the page, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(page(results), encoding='utf-8')


if __name__ == '__main__':
    main()
