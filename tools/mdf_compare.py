"""Train with MDF and with plain losses and compare: the MDF paper's comparison (Mustafa et al., WACV 2022) in small.

    python tools/mdf_study.py train --out runs/mdf          # first: the discriminators
    python tools/mdf_compare.py sisr jpeg --out runs/mdf    # half an hour each on two cores; goes on where it stopped

``sisr``: the pretrained RLFN x4 is fine-tuned on 16 Kodak images. ``jpeg``: a small DnCNN learns to remove JPEG
artifacts of quality 10 from scratch, also with the discriminators of other tasks. Both are families of ``nriqa
compare``, tested on six other Kodak images and on Set5 by PSNR, LPIPS (SqueezeNet) and NIQE. Needs the test data.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import yaml

from nriqa_plugin.evaluation.images import list_images, read_image, write_image

SCALE = 4
TEST = ('03', '07', '15', '19', '20', '23')
VALIDATION = ('12', '22')  # of these a piece only
STEPS = {'sisr': 300, 'jpeg': 500}
PLAIN = {
    'l2': {'l2': {'type': 'MSELoss', 'weight': 1.0}},
    'l1': {'l1': {'type': 'L1Loss', 'weight': 1.0}},
    'ssim': {'ssim': {'type': 'FRIQALoss', 'metric': 'ssim', 'scale': 'unit', 'weight': 2.0}},
}
# Files of discriminators in the result folder, by loss.
MDF = {
    'sisr': {'mdf': 'sisr', 'mdf_authors': 'Ds_SISR'},
    'jpeg': {'mdf': 'jpeg', 'mdf_denoise': 'denoise', 'mdf_authors': 'Ds_JPEG'},
}


def write_images(data, out):
    """Kodak in three parts and Set5, each as HR and LR: MATLAB's bicubic, as for RLFN's pretraining."""
    from basicsr.utils.matlab_functions import imresize

    for path in list_images(data / 'images' / 'kodak24'):
        image = read_image(path)
        part = 'test' if path.stem in TEST else 'val' if path.stem in VALIDATION else 'train'
        image = image[:, 128:384, 256:512] if part == 'val' else image
        write_image(out / part / 'HR' / f'{path.stem}.png', image)
        write_image(out / part / 'LR' / f'{path.stem}.png', imresize(image, 1 / SCALE))
    for path in list_images(data / 'images' / 'set5' / 'HR'):
        low = data / 'images' / 'set5' / f'LR_x{SCALE}' / f'{path.stem}x{SCALE}{path.suffix}'
        for kind, file in (('HR', path), ('LR', low)):
            write_image(out / 'set5' / kind / f'{path.stem}.png', read_image(file))


def base(task, data, images):
    """The option file that all trainings of a task share."""
    sisr = task == 'sisr'

    def dataset(part):
        common = {'name': part, 'io_backend': {'type': 'disk'}, 'dataroot_gt': str(images / part / 'HR')}
        if sisr:
            return {**common, 'type': 'CheckedPairedImageDataset', 'dataroot_lq': str(images / part / 'LR')}
        return {**common, 'type': 'DegradedImageDataset', 'degradation': {'type': 'jpeg', 'quality': 10}}

    sampling = {'gt_size': 64 if sisr else 48, 'batch_size_per_gpu': 4, 'use_hflip': True}
    network = {'type': 'RLFN', 'upscale': SCALE}
    if not sisr:
        network = {'type': 'DnCNN', 'in_nc': 3, 'out_nc': 3, 'nc': 32, 'nb': 10, 'act_mode': 'BR'}
    return {
        'name': task,
        'model_type': 'PerceptualModel',
        'base_model': 'SRModel',
        'scale': SCALE if sisr else 1,
        'num_gpu': 'auto',
        'manual_seed': 0,
        'datasets': {
            'train': {**dataset('train'), **sampling, 'use_rot': True, 'num_worker_per_gpu': 0,
                      'dataset_enlarge_ratio': 1000},
            'val': dataset('val'),
        },
        'network_g': network,
        'path': {'pretrain_network_g': str(data / 'weights' / 'rlfn_s_x4.pth') if sisr else None,
                 'param_key_g': None, 'resume_state': None},
        'train': {
            'optim_g': {'type': 'Adam', 'lr': 1e-4 if sisr else 1e-3, 'betas': [0.9, 0.99]},
            'scheduler': {'type': 'CosineAnnealingRestartLR', 'periods': [STEPS[task]], 'restart_weights': [1],
                          'eta_min': 1e-6},
            'total_iter': STEPS[task],
            'warmup_iter': -1,
            'pixel_opt': {'type': 'LossSum', 'grad_norms': True, 'terms': PLAIN['l2']},
        },
        'val': {'val_freq': STEPS[task] // 4, 'save_img': False, 'save_best': 'loss',
                'metrics': {'loss': {'type': 'calculate_loss', 'better': 'lower'}}},
        'logger': {'print_freq': 10, 'save_checkpoint_freq': STEPS[task] // 4, 'use_tb_logger': False, 'wandb': None},
    }  # fmt: skip


def family(task, data, images, out):
    """The family file of a task."""
    sets = {'Kodak': images / 'test', 'Set5': images / 'set5'}
    degraded = {'degradation': {'type': 'jpeg', 'quality': 10}}
    squeeze = str(data / 'weights' / 'squeezenet1_1-torchvision-fp16.pth')
    files = {name: {'type': 'MDFLoss', 'weights': str(out / f'{file}.pth'), 'weight': 1.0}
             for name, file in MDF[task].items()}  # fmt: skip
    border = SCALE if task == 'sisr' else 0
    return {
        'base': f'{task}_base.yml',
        'losses': {**PLAIN, **{name: {name: term} for name, term in files.items()}},
        'against': 'l2',
        'test': {name: {'gt': str(folder / 'HR'), **({'lq': str(folder / 'LR')} if task == 'sisr' else degraded)}
                 for name, folder in sets.items()},
        'judges': [
            {'metric': 'psnr', 'crop_border': border, 'options': {'y_channel': True}},
            {'metric': 'lpips', 'weights': squeeze, 'options': {'net': 'squeeze'}},
            {'metric': 'niqe', 'crop_border': border},
        ],
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('tasks', nargs='+', choices=STEPS)
    parser.add_argument('--out', type=Path, default=Path('runs/mdf'))
    parser.add_argument('--data', type=Path, help='test data; default: NRIQA_TEST_DATA, else ../shared/data')
    args = parser.parse_args()
    data = args.data or Path(os.environ.get('NRIQA_TEST_DATA') or Path(__file__).parents[2] / 'shared' / 'data')
    data, out = data.resolve(), args.out.resolve()
    if not (data / 'weights').is_dir():
        parser.error(f'no test data at {data}: name its folder with --data or NRIQA_TEST_DATA')
    nriqa = [sys.executable, '-m', 'nriqa_plugin']
    for released in ('Ds_SISR', 'Ds_JPEG'):
        if not (out / f'{released}.pth').is_file():
            source, task = data / 'weights' / f'{released}.pth', released[3:].lower()
            subprocess.run(
                [*nriqa, 'convert-mdf', source, '--out', out / f'{released}.pth', '--task', task], check=True
            )
    write_images(data, out / 'images')
    for task in args.tasks:
        plugin = 'plugin: !!python/name:nriqa_plugin.basicsr.VERSION\n'
        (out / f'{task}_base.yml').write_text(
            plugin + yaml.safe_dump(base(task, data, out / 'images'), sort_keys=False)
        )
        file = out / f'{task}_family.yml'
        file.write_text(yaml.safe_dump(family(task, data, out / 'images', out), sort_keys=False))
        subprocess.run([*nriqa, 'compare', file, '--out', out / f'compare_{task}'], check=True)


if __name__ == '__main__':
    main()
