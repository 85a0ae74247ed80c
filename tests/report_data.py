"""Small runs for the tests of the report: images of noise, scores that are known, folders as the hosts write them."""

import numpy as np
from PIL import Image

from nriqa_plugin.evaluation.scores import Score, write_scores

METHODS = ('base', 'sharp', 'noisy')
IMAGES = [f'im{i:02d}' for i in range(12)]
JUDGES = {'psnr': (True, 'gt'), 'lpips': (False, 'gt'), 'niqe': (False, '')}
SIZE = (96, 80)  # width, height


def picture(seed, size=SIZE):
    """8-bit noise on a ramp, ``(H, W, 3)``."""
    noise = np.random.default_rng(seed).integers(0, 60, (size[1], size[0], 3))
    return (noise + np.linspace(40, 180, size[0])[None, :, None]).astype(np.uint8)


def score(method, metric, number):
    """Deterministic scores: psnr 9, 10, 11, ... so that text and numbers sort differently; the others spread."""
    shift = METHODS.index(method) * (1 + 0.01 * (number % 3))
    values = {'psnr': 9 + number - 0.5 * shift, 'lpips': 0.4 - 0.05 * shift + 0.01 * (number % 5),
              'niqe': 6 - shift + 0.1 * ((number * 7) % 5)}  # fmt: skip
    return values[metric]


def write_scores_of(folder, method, images=IMAGES, judges=JUDGES):
    """``METHOD.csv`` in ``folder``; returns its path."""
    rows = [
        Score(f'{name}.png', metric, score(method, metric, i), higher, f'hash{metric}', 'a', reference and f'r{name}')
        for metric, (higher, reference) in judges.items()
        for i, name in enumerate(images)
    ]
    write_scores(folder / f'{method}.csv', rows)
    return folder / f'{method}.csv'


def write_pictures(folder, seed=0, images=IMAGES, ending='', size=SIZE):
    """One image a name into ``folder``; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(images):
        Image.fromarray(picture(1000 * seed + i, size)).save(folder / f'{name}{ending}.png')
    return folder


def write_runs_of(folder):
    """Scores, results, ground truths and inputs; returns the arguments of ``nriqa report``."""
    arguments = []
    for seed, method in enumerate(METHODS, 1):
        scores = write_scores_of(folder, method)
        images = write_pictures(folder / 'results' / method, seed, ending=f'_{method}')
        arguments += [f'{method}={scores}', '--images', f'{method}={images}']
    write_pictures(folder / 'gt', 0)
    write_pictures(folder / 'lr', 9, ending='x4', size=(SIZE[0] // 4, SIZE[1] // 4))
    curve = ''.join(f'{100 * i},psnr,{20 + i}\n' for i in range(5))
    (folder / 'curve.csv').write_text('iteration,metric,value\n' + curve)
    return [*arguments, '-r', str(folder / 'gt'), '--lq', str(folder / 'lr'), '--size', '32', '--crops', '4']


def with_curves(folder, arguments):
    """The arguments of ``write_runs_of(folder)`` with each scores file in a folder of its own, beside a curve."""
    changed = list(arguments)
    for number, method in enumerate(METHODS):
        run = folder / 'trained' / method
        run.mkdir(parents=True)
        lines = [f'{100 * i},{metric},{20 + number + i}\n' for metric in ('psnr', 'niqe') for i in range(5)]
        (run / 'validation.csv').write_text('iteration,metric,value\n' + ''.join(lines))
        (run / 'scores.csv').write_bytes((folder / f'{method}.csv').read_bytes())
        changed[changed.index(f'{method}={folder / method}.csv')] = f'{method}={run}'
    return changed


def write_jnd(path, **values):
    """A table as of ``nriqa jnd``: a JND with its interval by condition."""
    lines = [f'{name},{jnd},{jnd - 0.25},{jnd + 0.25}\n' for name, jnd in values.items()]
    path.write_text('condition,jnd,low,high\n' + ''.join(lines))
    return path
