"""Small images, small configs and the stock scripts of mmagic, for the tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import ROOT

ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT), 'PYTHONWARNINGS': 'ignore'}
TERMS = [
    {'type': 'L1Loss', 'weight': 1.0},
    {
        'type': 'NRIQALoss',
        'metric': 'tests.judges:TinyNet',
        'weight': 0.5,
        'warmup_iter': 20,
        'crop': 16,
        'augment': True,
    },
]
JUDGES = ['tests.judges:Brightness', 'tests.judges:Darkness', 'tests.judges:Distance']
SEED = {'randomness': {'seed': 3}}


def stock_script(name):
    """Path of ``train.py`` or ``test.py`` that mmagic installs."""
    import mmagic

    return str(Path(mmagic.__file__).parent / '.mim' / 'tools' / f'{name}.py')


def write_images(folder, side=64, count=2, frames=None):
    """Smooth random images ``gt/one.png`` and ``lq/one.png`` (x1/4), or clips ``gt/000/00000000.png``."""
    rng = np.random.default_rng(0)
    for i in range(count):
        for t in range(frames or 1):
            small = Image.fromarray(rng.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8))
            for kind, image in (('gt', small.resize((side, side), Image.BICUBIC)), ('lq', small)):
                name = ('one', 'two', 'three', 'four')[i] if frames is None else f'{i:03d}/{t:08d}'
                path = folder / kind / f'{name}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    return folder


def paired(folder, **more):
    """Options of ``BasicImageDataset`` for :func:`write_images`."""
    return {'data_root': str(folder), 'data_prefix': {'img': 'lq', 'gt': 'gt'}, 'ann_file': '', **more}


def pipeline(order='rgb'):
    """Loads a pair as it is, without crops and flips."""
    load = [{'type': 'LoadImageFromFile', 'key': key, 'channel_order': order} for key in ('img', 'gt')]
    return [*load, {'type': 'PackInputs'}]


def write_config(folder, name, base, **options):
    """A config file that inherits from ``base``, a file of ours or a stock one, and changes ``options``."""
    base = base if '::' in base else str(ROOT / 'options' / 'mmagic' / base)
    lines = [
        f'_base_ = {base!r}',
        f'work_dir = {str(folder / name)!r}',
        f'save_dir = {str(folder)!r}',
        'load_from = None',
    ]
    file = folder / f'{name}.py'
    file.write_text('\n'.join([*lines, *(f'{key} = {value!r}' for key, value in options.items())]) + '\n')
    return file


def short_run(folder, steps=4, interval=2, **checkpoint):
    """Options that are the same for every small training: a few steps, everything logged, nothing drawn."""
    return {
        'train_cfg': {'max_iters': steps, 'val_interval': interval},
        'custom_hooks': [],
        'default_hooks': {
            'logger': {'interval': 1},
            'checkpoint': {
                'interval': interval,
                'out_dir': str(folder),
                **{'save_best': 'gain/darkness', **checkpoint},
            },
        },
        **SEED,
    }


def run(script, folder, *arguments, launcher=(sys.executable,)):
    """Run a stock script on a config in ``folder``."""
    command = [*launcher, stock_script(script) if '.py' not in script else script, *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=1500)
    result.text = result.stdout + result.stderr
    return result


def logged(folder, name):
    """``{iteration: scalars}`` of the training steps that the last run of a config logged, and its validations."""
    last = max(path for path in (folder / name).iterdir() if (path / 'vis_data').is_dir())
    rows = [json.loads(line) for line in (last / 'vis_data' / 'scalars.json').read_text().splitlines()]
    timings = ('time', 'data_time', 'memory')
    plain = [{key: value for key, value in row.items() if key not in timings} for row in rows]
    steps = {row['iter']: row for row in plain if 'lr' in row or any(key.startswith('loss') for key in row)}
    validations = {row['step']: row for row in plain if 'PSNR' in row}
    return steps, validations


def forget_after(folder, name, iteration):
    """Let the next ``--resume`` start from the checkpoint of an earlier iteration."""
    for path in (folder / name).glob('iter_*.pth'):
        if int(path.stem.removeprefix('iter_')) > iteration:
            path.unlink()
    (folder / name / 'last_checkpoint').write_text(str(folder / name / f'iter_{iteration}.pth'))
