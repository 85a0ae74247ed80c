"""Fine-tune the pretrained RLFN x4 on Kodak24 with a judge alone, with a judge and LPIPS, and with the pixel loss only.

Asks the question of Kashkarov et al. (arXiv 2405.20392) with real weights on a CPU: does the judge get gamed when it is
optimised alone (it improves, LPIPS gets worse), and does LPIPS beside it prevent that? Needs the test data::

    python tools/real_run.py --out runs/real --steps 1000

Every training is a run of the stock ``python -m basicsr.train``; option files, logs, scores of the Set5 results and
``report.html`` stay in the result folder. A training stops early when its judge has not improved for 5 validations.
"""

import argparse
import os
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from nriqa_plugin.evaluation.images import list_images, read_image
from nriqa_plugin.evaluation.report import methods_from_scores, write_report
from nriqa_plugin.evaluation.scoring import score_folder
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.stock_runs import StopTraining, curve_of, results_of, slug, train

SCALE = 4
STALL = 5  # validations
PIXEL_ONLY = 'pixel'
PIXEL = {'type': 'CharbonnierLoss', 'weight': 1.0}
LUMA = {'crop_border': SCALE, 'y_channel': True}


def runs(data):
    """Terms by name of the run; weights are those of Table I, for CNNIQA its rule for a judge of 0..100."""
    weights = data / 'weights'
    cnniqa = {
        'type': 'NRIQALoss',
        'metric': 'cnniqa',
        'weights': str(weights / 'CNNIQA-LIVE.pth'),
        'options': {'full_cover': True},
    }
    lpips = {
        'type': 'FRIQALoss',
        'metric': 'lpips',
        'weights': str(weights / 'squeezenet1_1-torchvision-fp16.pth'),
        'options': {'net': 'squeeze'},
        'weight': 0.05,
    }
    return {
        PIXEL_ONLY: [PIXEL],
        'pixel + CNNIQA': [PIXEL, {**cnniqa, 'weight': 0.00005}],
        'pixel + CNNIQA + LPIPS': [PIXEL, {**cnniqa, 'weight': 0.00005}, lpips],
        'pixel + 10 x CNNIQA': [PIXEL, {**cnniqa, 'weight': 0.0005}],
        'pixel + 10 x CNNIQA + LPIPS': [PIXEL, {**cnniqa, 'weight': 0.0005}, lpips],
        'CNNIQA without pixel loss': [{**cnniqa, 'weight': 0.00005}],
    }


def judges(data):
    """The judges of the table; NIQE is in no loss."""
    weights = data / 'weights'
    return [
        create_scorer('psnr', **LUMA),
        create_scorer('ssim', **LUMA),
        create_scorer('niqe', crop_border=SCALE),
        create_scorer('cnniqa', weights / 'CNNIQA-LIVE.pth'),
        create_scorer('lpips', weights / 'squeezenet1_1-torchvision-fp16.pth', net='squeeze'),
    ]


def write_images(data, out):
    """Kodak24 in 128 px steps for training (HR, bicubic x1/4) and Set5 under plain names for validation."""
    import cv2
    import numpy as np
    from basicsr.utils.matlab_functions import imresize

    for folder in ('train/HR', 'train/LR', 'val/HR', 'val/LR'):
        (out / 'data' / folder).mkdir(parents=True, exist_ok=True)
    for path in list_images(data / 'images' / 'kodak24'):
        image = cv2.imread(str(path))
        small = imresize(image.astype(np.float32) / 255, 1 / SCALE)  # MATLAB's bicubic, as for the pretraining
        cv2.imwrite(str(out / 'data' / 'train' / 'HR' / path.name), image)
        cv2.imwrite(str(out / 'data' / 'train' / 'LR' / path.name), (small * 255).round().clip(0, 255).astype(np.uint8))
    for path in list_images(data / 'images' / 'set5' / 'HR'):
        name = f'{path.stem}.png'
        low = data / 'images' / 'set5' / f'LR_x{SCALE}' / f'{path.stem}x{SCALE}{path.suffix}'
        cv2.imwrite(str(out / 'data' / 'val' / 'HR' / name), cv2.imread(str(path)))
        cv2.imwrite(str(out / 'data' / 'val' / 'LR' / name), cv2.imread(str(low)))


def options(data, out, name, terms, steps, lr):
    """The option file of one run, as a dict."""

    def dataset(split):
        roots = {f'dataroot_{key}': str(out / 'data' / split / kind) for key, kind in (('gt', 'HR'), ('lq', 'LR'))}
        return {'name': split, 'type': 'CheckedPairedImageDataset', **roots, 'io_backend': {'type': 'disk'}}

    weights = data / 'weights'
    sampling = {'gt_size': 128, 'use_hflip': True, 'use_rot': True, 'batch_size_per_gpu': 4}
    judged = {
        'psnr': {'type': 'calculate_psnr', 'crop_border': SCALE, 'test_y_channel': True},
        'ssim': {'type': 'calculate_ssim', 'crop_border': SCALE, 'test_y_channel': True},
        'niqe': {'type': 'calculate_iqa', 'metric': 'niqe', 'crop_border': SCALE},
        'cnniqa': {'type': 'calculate_iqa', 'metric': 'cnniqa', 'weights': str(weights / 'CNNIQA-LIVE.pth')},
        'lpips': {
            'type': 'calculate_iqa',
            'metric': 'lpips',
            'weights': str(weights / 'squeezenet1_1-torchvision-fp16.pth'),
            'options': {'net': 'squeeze'},
        },
    }
    schedule = {'type': 'CosineAnnealingRestartLR', 'periods': [steps], 'restart_weights': [1], 'eta_min': 1.0e-6}
    return {
        'name': name,
        'model_type': 'PerceptualModel',
        'base_model': 'SRModel',
        'scale': SCALE,
        'num_gpu': 'auto',
        'manual_seed': 0,
        'datasets': {
            'train': {**dataset('train'), **sampling, 'num_worker_per_gpu': 0, 'dataset_enlarge_ratio': 1000},
            'val': dataset('val'),
        },
        'network_g': {'type': 'RLFN', 'upscale': SCALE},
        'path': {
            'experiments_root': str(out / 'experiments'),
            'pretrain_network_g': str(weights / 'rlfn_s_x4.pth'),
            'param_key_g': None,
            'resume_state': None,
        },
        'train': {
            'optim_g': {'type': 'Adam', 'lr': lr, 'betas': [0.9, 0.99]},
            'scheduler': schedule,
            'total_iter': steps,
            'warmup_iter': -1,
            'pixel_opt': {'type': 'LossSum', 'grad_norms': True, 'terms': terms},
        },
        'val': {'val_freq': max(1, steps // 10), 'save_img': True, 'metrics': judged},
        'logger': {'print_freq': 10, 'save_checkpoint_freq': steps, 'use_tb_logger': False, 'wandb': None},
    }


def stalled(curve):
    """Whether CNNIQA (lower is better) has not improved for ``STALL`` validations."""
    values = [value for _, value in curve.get('cnniqa', ())]
    return len(values) > STALL and min(values[-STALL:]) >= min(values[:-STALL])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('runs/real'))
    parser.add_argument('--steps', type=int, default=1000)
    parser.add_argument('--lr', type=float, default=1e-4)
    parser.add_argument('--data', type=Path, help='test data; default: NRIQA_TEST_DATA, else ../shared/data')
    args = parser.parse_args()
    data = args.data or Path(os.environ.get('NRIQA_TEST_DATA') or Path(__file__).parents[2] / 'shared' / 'data')
    data, out = data.resolve(), args.out.resolve()
    if not (data / 'weights').is_dir():
        parser.error(f'no test data at {data}: name its folder with --data or NRIQA_TEST_DATA')
    write_images(data, out)
    notes = []
    columns = (TextColumn('{task.description:<26}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as bar:
        start = options(data, out, 'start', [PIXEL], 1, 0.0)
        train(out, 'start', start, lambda step: None)  # one step at learning rate 0: the pretrained network's images
        for name, terms in runs(data).items():
            task = bar.add_task(name, total=args.steps)

            def watch(step, name=name, task=task):
                bar.update(task, completed=step)
                if name != PIXEL_ONLY and stalled(curve_of(out, slug(name), ('cnniqa',))):
                    raise StopTraining

            try:
                train(out, slug(name), options(data, out, slug(name), terms, args.steps, args.lr), watch)
            except RuntimeError as error:  # a judge without an anchor may wreck the network: that is a finding
                notes.append(f'{name}: the training broke down: {str(error).splitlines()[-1]}')
    report(data, out, notes)


def report(data, out, notes):
    """Score the Set5 results of all runs, print the relative gains and write the HTML report."""
    folders = {'pretrained': results_of(out, 'start')}
    for name in runs(data):
        try:
            folders[name] = results_of(out, slug(name))
        except ValueError as error:
            notes.append(str(error))
    files = {name: out / 'scores' / f'{slug(name)}.csv' for name in folders}
    for name, folder in folders.items():
        files[name].unlink(missing_ok=True)
        score_folder(folder, judges(data), files[name], references=out / 'data' / 'val' / 'HR')
    methods, columns = methods_from_scores(files, 'pretrained')
    table = Table(title='Set5 x4: mean score (relative gain over the pretrained network, %)')
    for title in ('run', *(f'{judge.metric} {"↑" if judge.higher_better else "↓"}' for judge in columns)):
        table.add_column(title)
    for method in methods:
        gains = [f' ({method.gains[j.metric]:+.1f})' if method.gains else '' for j in columns]
        table.add_row(method.name, *(f'{method.scores[j.metric]:.4f}{g}' for j, g in zip(columns, gains, strict=True)))
        method.images = {path.name: read_image(path) for path in list_images(folders[method.name])}
        method.curve = curve_of(out, slug(method.name), [judge.metric for judge in columns])
    pictures = {
        kind: {p.name: read_image(p) for p in list_images(out / 'data' / 'val' / kind)} for kind in ('LR', 'HR')
    }
    notes = [
        'RLFN-S x4, pretrained, fine-tuned on Kodak24 (128 px crops, batch 4). NIQE is in no loss.',
        'Crops are the places where the runs differ most.',
        *notes,
    ]
    title = 'A judge alone, and with LPIPS beside it'
    write_report(out / 'report.html', title, methods, columns, pictures['LR'], pictures['HR'], notes=notes)
    console = Console(width=140)
    console.print(table)
    for note in notes:
        console.print(note)
    console.print(f'Report: {out / "report.html"}', soft_wrap=True)


if __name__ == '__main__':
    main()
