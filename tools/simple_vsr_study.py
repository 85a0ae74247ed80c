"""Perceptual against pixel loss on SimpleVSR (Weatherly et al.), and the mixture that the authors name as future work::

    python tools/moving_mnist.py --out datasets/moving_digits
    python tools/simple_vsr_study.py --clips datasets/moving_digits --vgg vgg19-dcbb9e9d.pth
    python tools/simple_vsr_study.py --clips datasets/moving_digits --squeezenet squeezenet1_1.pth --steps 800

Three trainings of ``options/basicsr/simple_vsr_x2_*.yml`` through the stock ``python -m basicsr.train``. The default is
the published schedule; ``--steps`` ends it earlier and says so. Then the table of the paper, with images in [0, 1] as 8
bits (the published 83 dB compare outputs in [0, 1] with targets in 0 to 255), curves, and the sheet of predictions. A
training that is complete is not run again. Without VGG-19's file, SqueezeNet's features stand in for it.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nriqa_plugin.archs import SimpleVSR
from nriqa_plugin.archs.simple_vsr import bicubic_middle
from nriqa_plugin.checks import atomic_path, load_weights
from nriqa_plugin.clips.bicubic import to_8_bits
from nriqa_plugin.clips.digit_windows import DigitWindows
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.stock_runs import curve_of, train

RECIPES = Path(__file__).resolve().parents[1] / 'options' / 'basicsr'
RUNS = ('perceptual', 'mse', 'mixture')
SQUEEZENET = {
    'type': 'VGGLoss', 'layers': dict.fromkeys(('relu1', 'fire3', 'fire5', 'fire7', 'fire9'), 1.0),
    'backbone': 'squeezenet1_1', 'imagenet_norm': False, 'grey': True,
}  # fmt: skip
LOG_LINE = re.compile(r'iter: *([\d,]+), .*?(l_pix: .*)')
TERM = re.compile(r'(\w+): (\d\.\d+e[+-]\d+)')
BATCH, SHOWN = 50, 8  # clips scored at once; columns of the sheet
VALIDATED = 50  # clips, one by one


def options(args, name, out):
    """The option file of one training: the shipped one with local files, and as many steps as asked for."""
    text = (RECIPES / f'simple_vsr_x2_{name}.yml').read_text()
    opt = yaml.safe_load(re.sub(r'(?m)^plugin:.*', '', text))  # stock_runs.train writes its own
    opt['name'], opt['network_g']['form'] = name, args.form
    opt['path']['experiments_root'] = str(out / 'experiments')
    for split, file in (('train', 'train'), ('val', 'test')):
        opt['datasets'][split] |= {'file': str(args.clips / f'{file}.npy')}
    terms = opt['train']['pixel_opt']['terms']
    if 'perceptual' in terms:
        term = terms['perceptual']
        if args.squeezenet is not None:
            terms['perceptual'] = {**SQUEEZENET, 'weights': str(args.squeezenet), 'weight': term['weight']}
        else:
            term['weights'] = str(args.vgg)
    smaller = opt['datasets']['train']['batch_size_per_gpu'] / args.batch  # the schedule is one of epochs
    milestones = opt['train']['scheduler']['milestones']
    opt['train']['scheduler']['milestones'] = [round(step * smaller) for step in milestones]
    steps = args.steps or round(opt['train']['total_iter'] * smaller)
    opt['train']['total_iter'] = steps
    opt['datasets']['train'] |= {'num_worker_per_gpu': 0, 'batch_size_per_gpu': args.batch}
    if not torch.cuda.is_available():
        opt['train']['optim_g']['fused'] = True  # the same result, and the matrix of 33.5 M is updated 8 times faster
    opt['val']['val_freq'] = max(1, steps // 4)
    opt['datasets']['val']['clips'] = min(args.test, VALIDATED)
    opt['logger'] |= {'print_freq': max(1, steps // 80), 'save_checkpoint_freq': steps, 'use_tb_logger': False}
    return opt


def weights_file(out, name, steps):
    """Where a training of so many steps leaves its weights."""
    return out / 'experiments' / name / 'models' / f'net_g_{steps}.pth'


def training_curves(out, name):
    """``{what: [(iteration, value), ...]}`` from the training's newest log: losses and gradient norms of the terms."""
    curves = {}
    logs = sorted((out / 'experiments' / name).glob('train_*.log'), key=lambda path: path.stat().st_mtime)
    for line in logs[-1].read_text().splitlines():
        if found := LOG_LINE.search(line):
            for key, value in TERM.findall(found[2]):
                curves.setdefault(key, []).append((int(found[1].replace(',', '')), float(value)))
    return curves


@torch.no_grad()
def predictions(windows, nets):
    """What stands in the sheet and in the table, by name: ``(N, 1, 64, 64)`` as 8 bits in [0, 1].

    ``input`` is the small middle frame, each px as four.
    """
    found = {}
    for first in range(0, len(windows), BATCH):
        indices = range(first, min(first + BATCH, len(windows)))
        lq, gt = map(torch.stack, zip(*(windows.window(i, windows.fixed_start(i)) for i in indices), strict=True))
        small = lq[:, lq.shape[1] // 2].repeat_interleave(2, -1).repeat_interleave(2, -2)
        made = {'input': small, 'bicubic': bicubic_middle(lq), 'target': gt, 'black': torch.zeros_like(gt)}
        for name, images in {**made, **{name: net(lq) for name, net in nets.items()}}.items():
            found.setdefault(name, []).append(to_8_bits(images))
    return {name: torch.cat(images) for name, images in found.items()}


@torch.no_grad()
def table(images, judges):
    """``{row: {judge: (mean, standard error)}}``; a grey image goes to a judge as three equal channels."""
    target, rows = images['target'].expand(-1, 3, -1, -1), {}
    for name in (name for name in images if name not in ('input', 'target')):
        pred = images[name].expand(-1, 3, -1, -1)
        rows[name] = {}
        for judge in judges:
            scores = torch.cat([judge(pred[i : i + BATCH], target[i : i + BATCH]) for i in range(0, len(pred), BATCH)])
            rows[name][judge.name] = (scores.mean().item(), scores.std().item() / len(scores) ** 0.5)
    return rows


def markdown(rows, judges):
    """The table as Markdown, an arrow for each judge's direction."""
    heads = [f'{judge.name} {"↑" if judge.higher_better else "↓"}' for judge in judges]
    lines = ['| | ' + ' | '.join(heads) + ' |', '|---|' + '---:|' * len(heads)]
    for name, scores in rows.items():
        cells = (f'{scores[judge.name][0]:.4f} ± {scores[judge.name][1]:.4f}' for judge in judges)
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def draw_sheet(file, images, title):
    """Rows: input, bicubic, target, each training; columns: clips spread over the test set."""
    from matplotlib.figure import Figure

    names = [name for name in images if name != 'black']
    columns = np.linspace(0, len(images['target']) - 1, SHOWN).round().astype(int)
    figure = Figure(figsize=(1.2 * SHOWN + 1, 1.25 * len(names) + 0.4), layout='constrained')
    grid = figure.subplots(len(names), SHOWN, squeeze=False)
    for row, name in zip(grid, names, strict=True):
        row[0].set_ylabel(name, fontsize=10)
        for axes, column in zip(row, columns, strict=True):
            axes.imshow(images[name][column, 0].numpy(), cmap='gray', vmin=0, vmax=1, interpolation='nearest')
            axes.set(xticks=[], yticks=[])
    figure.suptitle(title, fontsize=10)
    figure.savefig(file, dpi=120)


def draw_curves(file, out, title):
    """The training losses, each divided by its own first value, and the two metrics of the validation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout='constrained')
    axes = figure.subplots(1, 3)
    for name in RUNS:
        for key, points in training_curves(out, name).items():
            if key.startswith('l_') and key != 'l_pix':
                steps, values = zip(*points, strict=True)
                axes[0].plot(steps, np.divide(values, values[0]), label=f'{name}: {key[2:]}')
        for one, metric in zip(axes[1:], ('psnr', 'ssim'), strict=True):
            one.plot(*zip(*curve_of(out, name)[metric], strict=True), marker='o', label=name)
    axes[0].set(title='loss of the batches / first one', yscale='log')
    axes[1].set(title='PSNR, dB (validation)')
    axes[2].set(title='SSIM (validation)')
    for one in axes:
        one.set_xlabel('iteration')
        one.grid(alpha=0.3)
        one.legend(fontsize=7)
    figure.suptitle(title, fontsize=10)
    figure.savefig(file, dpi=120)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--clips', type=Path, default=Path('datasets/moving_digits'), help='of tools/moving_mnist.py')
    parser.add_argument('--out', type=Path, default=Path('runs/simple_vsr'))
    features = parser.add_mutually_exclusive_group(required=True)
    features.add_argument('--vgg', type=Path, help="torchvision's VGG-19, as published")
    features.add_argument('--squeezenet', type=Path, help="torchvision's SqueezeNet 1.1, as a stand-in")
    parser.add_argument('--judge-weights', type=Path, help='backbone of LPIPS(squeeze); default: --squeezenet')
    parser.add_argument('--form', choices=('released', 'paper'), default='released')
    parser.add_argument('--steps', type=int, help='batches; default: the published 50 epochs, 25 000 of 16 clips')
    parser.add_argument('--batch', type=int, default=16, help='clips of a batch')
    parser.add_argument('--test', type=int, default=2000, help='clips in the table')
    args = parser.parse_args()
    for option in ('clips', 'out', 'vgg', 'squeezenet', 'judge_weights'):
        if (path := getattr(args, option)) is not None:
            setattr(args, option, path.resolve())  # the stock script runs in another folder
            if option != 'out' and not path.exists():
                parser.error(f'--{option.replace("_", "-")}: there is no {path}')
    return args


def main():
    args = arguments()
    console, out = Console(width=140), args.out
    out.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn('{task.description:<12}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        for name in RUNS:
            opt = options(args, name, out)
            steps = opt['train']['total_iter']
            task = bar.add_task(name, total=steps)
            if not weights_file(out, name, steps).is_file():
                train(out, name, opt, lambda step, task=task: bar.update(task, completed=step))
    windows = DigitWindows(args.clips / 'test.npy', clips=args.test)
    nets = {}
    for name in RUNS:
        nets[name] = SimpleVSR(args.form).eval()
        nets[name].load_state_dict(load_weights(name, weights_file(out, name, steps))['params'])
    judges = [create_scorer('psnr'), create_scorer('ssim')]
    if args.judge_weights or args.squeezenet:
        judges.append(create_scorer('lpips', args.judge_weights or args.squeezenet, net='squeeze'))
    images = predictions(windows, nets)
    rows = table(images, judges)
    from moving_mnist import source_of  # beside this file

    source = source_of(args.clips)
    features = 'VGG-19' if args.vgg else 'SqueezeNet 1.1 features in place of VGG-19'
    run = f'SimpleVSR ({args.form}), {steps} batches of {args.batch} clips'
    title = f'{run}; {features}; {source}'
    draw_sheet(out / 'sheet.png', images, f'{run}\n{features}; {source}')
    draw_curves(out / 'curves.png', out, title)
    norms = {key: value for key, value in training_curves(out, 'mixture').items() if key.startswith('grad_')}
    pulls = ', '.join(f'{key[5:]} {values[0][1]:.2e} first, {values[-1][1]:.2e} last' for key, values in norms.items())
    text = (
        f'# {title}\n\n{len(windows)} test clips, mean ± standard error; images in [0, 1] as 8 bits.\n\n'
        f'{markdown(rows, judges)}\n\nGradient norms in the mixture, weights included: {pulls}.\n\n'
        '![predictions](sheet.png)\n\n![curves](curves.png)\n'
    )
    with atomic_path(out / 'results.md') as temporary:
        temporary.write_text(text)
    console.print(text, markup=False)


if __name__ == '__main__':
    main()
