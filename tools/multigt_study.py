"""Several ground truths and LoRA with the pretrained RLFN x4, on real images: what is chosen, and what comes of it.

Two parts, both judged by the relative gain over the pretrained network on Set5:

``preference``: ten photographs with the outputs of four SR models as candidates, on which people voted. Does the judge
pick what people pick? Trained with the target drawn at random, by SMA and AMO, and among the people's favourites.

``kodak``: Kodak24 with sharpened, denoised and detail-enhanced versions and a second model's (a denoiser's) as
candidates. Random against AMO with CNNIQA, NIQE and both; then fine-tuning on CNNIQA, with LoRA and of all weights, at
two weights of the judge and without it. Does LoRA hold back the gaming?

Needs the test data. Every training is a run of the stock ``python -m basicsr.train``; a finished one is not run again::

    python tools/multigt_study.py kodak --out runs/multigt --steps 1000
"""

import argparse
import csv
import os
import re
import shutil
from collections import Counter
from pathlib import Path

from real_run import PIXEL, judges, options, write_images
from rich.console import Console
from rich.table import Table

from nriqa_plugin.evaluation.images import list_images, read_image, write_image
from nriqa_plugin.evaluation.report import methods_from_scores, write_report
from nriqa_plugin.evaluation.scoring import score_folder
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.multigt.making import make_gts
from nriqa_plugin.stock_runs import curve_of, results_of, train

MODELS = ('BSRGAN', 'RealESRGAN', 'ResShift', 'SwinIR')
GT_SIZE, BATCH = 192, 2  # NIQE needs 192 px
CHOSEN = re.compile(r'\bgt_(\d+): ([\d.e+-]+)')
CONSOLE = Console(width=150)


def cnniqa(data):
    """CNNIQA as an option of terms and choices."""
    return {'metric': 'cnniqa', 'weights': str(data / 'weights' / 'CNNIQA-LIVE.pth'), 'options': {'full_cover': True}}


def choices(data, part):
    """The choice of the ground truth by name of the run."""
    judge = cnniqa(data)
    if part == 'preference':
        return {
            'random': {'method': 'random'},
            'people': {'method': 'upos'},
            'sma': {'method': 'sma', **judge},
            'amo': {'method': 'amo', **judge},
        }
    both = {'ensemble': [{**judge, 'weight': 1.0}, {'metric': 'niqe', 'weight': 1.0, 'range': [2, 22]}]}  # like slopes
    return {
        'random': {'method': 'random'},
        'amo_cnniqa': {'method': 'amo', **judge},
        'amo_niqe': {'method': 'amo', 'metric': 'niqe'},
        'amo_both': {'method': 'amo', **both},
    }


def finetunings(data):
    """Terms, LoRA's rank (none: all weights are trained) and learning rate by name; all go on from ``amo_cnniqa``."""

    def judged(weight, *more):
        return [PIXEL, {'type': 'NRIQALoss', **cnniqa(data), 'weight': weight}, *more]

    def perceptual(weight):
        features = str(data / 'weights' / 'squeezenet1_1-torchvision-fp16.pth')
        layers = {'fire2': 1.0, 'fire4': 1.0, 'fire9': 1.0}
        return {'type': 'VGGLoss', 'backbone': 'squeezenet1_1', 'weights': features, 'layers': layers, 'weight': weight}

    return {
        'ft_x10_full': (judged(0.0005), None, None),
        'ft_x10_lora': (judged(0.0005), 8, None),
        'ft_x1_full': (judged(0.00005), None, None),
        'ft_x1_lora': (judged(0.00005), 8, None),
        'ft_none_full': ([PIXEL], None, None),
        'ft_x10_rank4': (judged(0.0005), 4, None),
        'ft_x10_rank32': (judged(0.0005), 32, None),
        **{f'ft_x10_perceptual{weight}': (judged(0.0005, perceptual(weight / 10)), 8, None) for weight in (1, 3, 10)},
        'ft_x10_lr3e-5': (judged(0.0005), 8, 3e-5),
        'ft_x10_lr3e-4': (judged(0.0005), 8, 3e-4),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('part', choices=('preference', 'kodak'))
    parser.add_argument('--out', type=Path, default=Path('runs/multigt'))
    parser.add_argument('--steps', type=int, default=1000)
    parser.add_argument('--lr', type=float, default=1e-4)
    parser.add_argument('--only', nargs='+', metavar='RUN', help='train these; the report shows all that are finished')
    parser.add_argument('--report-only', action='store_true', help='train nothing')
    parser.add_argument('--data', type=Path, help='test data; default: NRIQA_TEST_DATA, else ../shared/data')
    args = parser.parse_args()
    data = args.data or Path(os.environ.get('NRIQA_TEST_DATA') or Path(__file__).parents[2] / 'shared' / 'data')
    data, out = data.resolve(), args.out.resolve() / args.part
    if not (data / 'weights').is_dir():
        parser.error(f'no test data at {data}: name its folder with --data or NRIQA_TEST_DATA')
    if not (out / 'data' / 'val').is_dir():
        write_images(data, out)
    sets = out / 'sets'
    if args.part == 'preference':
        votes = read_votes(data)
        write_preference(data, sets, votes)
        compare_with_people(data, votes)
    else:
        second = {'weights': str(data / 'weights' / 'dncnn_25.pth')}
        enhancers = [('unsharp', {}), ('denoise', {}), ('detail', {}), ('model', second)]
        make_gts(data / 'images' / 'kodak24', out / 'candidates', enhancers)
        without_compression(out / 'candidates', sets)
    index = sets / 'index.csv' if args.part == 'preference' else None
    settings = {}
    for name, selection in choices(data, args.part).items():
        settings[name] = multigt(data, out, name, args, selection, sets, index)
    if args.part == 'kodak':
        for name, (terms, rank, lr) in finetunings(data).items():
            selection = {'method': 'amo', **cnniqa(data)}
            settings[name] = multigt(data, out, name, args, selection, sets, index, terms, lr)
            start_from(settings[name], out / 'experiments' / 'amo_cnniqa' / 'models' / f'net_g_{args.steps}.pth', rank)
    if not args.report_only:
        if not finished(out, 'start', 1):
            train(out, 'start', options(data, out, 'start', [PIXEL], 1, 0.0), lambda step: None)
        for name, setting in settings.items():
            if name in (args.only or settings) and not finished(out, name, args.steps):
                CONSOLE.print(f'training {name}')
                shutil.rmtree(out / 'experiments' / name, ignore_errors=True)
                train(out, name, setting, lambda step: None)
    report(data, out, [name for name in settings if finished(out, name, args.steps)])


def without_compression(made, sets):
    """BMP copies: reading ten PNG files a step takes as long as the step itself."""
    for path in made.glob('gt*/*.png'):
        copy = sets / path.parent.name / f'{path.stem}.bmp'
        if not copy.is_file():
            write_image(copy, read_image(path))


def multigt(data, out, name, args, selection, sets, index, terms=(PIXEL,), lr=None):
    """The option file of ``real_run`` with several ground truths instead of one."""
    setting = options(data, out, name, [*terms], args.steps, lr or args.lr)
    train_set = {'name': 'train', 'type': 'MultiGTDataset', 'dataroot_gt': str(sets), 'gt_size': GT_SIZE}
    if index:
        train_set |= {'layout': 'index', 'index': str(index)}
    else:
        train_set['dataroot_lq'] = str(out / 'data' / 'train' / 'LR')
    sampling = {'use_hflip': True, 'use_rot': True, 'batch_size_per_gpu': BATCH, 'num_worker_per_gpu': 0}
    setting['datasets']['train'] = {
        **train_set, **sampling, 'dataset_enlarge_ratio': 1000, 'io_backend': {'type': 'disk'},
    }  # fmt: skip
    setting['train']['gt_selection'] = {'type': 'AMOSampler', **selection, 'panel_every': args.steps // 4}
    setting['val']['val_freq'] = max(1, args.steps // 4)
    return setting


def start_from(setting, checkpoint, rank):
    """Go on from another run's network, with or without LoRA around it."""
    setting['path'] |= {'pretrain_network_g': str(checkpoint), 'param_key_g': 'params'}
    if rank:
        setting['network_g'] = {'type': 'LoRANet', 'rank': rank, 'base': setting['network_g']}


def finished(out, name, steps):
    """Whether a training has reached its last validation."""
    model = out / 'experiments' / name / 'models' / f'net_g_{steps}.pth'
    return model.is_file() and any(
        iteration == steps for points in curve_of(out, name).values() for iteration, _ in points
    )


def read_votes(data):
    """``{image: Counter of (winner, loser)}``."""
    votes = {}
    with open(data / 'preference' / 'votes.csv', newline='') as file:
        for row in csv.DictReader(file):
            pair = {row['left'], row['right']}
            if row['chosen'] in pair and len(pair) == 2:
                loser = (pair - {row['chosen']}).pop()
                votes.setdefault(row['image'], Counter())[row['chosen'], loser] += 1
    return votes


def win_shares(votes):
    """Share of an image's votes that each model won, among those that it took part in."""
    won, shown = Counter(), Counter()
    for (winner, loser), count in votes.items():
        won[winner] += count
        shown.update({winner: count, loser: count})
    return {model: won[model] / shown[model] for model in MODELS}


def write_preference(data, sets, votes):
    """An index of the four models' outputs; positive is what won more than half of its votes."""
    sets.mkdir(parents=True, exist_ok=True)
    images = data / 'preference' / 'images'
    with open(sets / 'index.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['name', 'lq', *(f'gt_{i:02}' for i in range(1, 5)), 'positive'])
        for path in list_images(images / 'LR'):
            shares = win_shares(votes[path.name])
            positive = ' '.join(str(i) for i, model in enumerate(MODELS, 1) if shares[model] > 0.5)
            writer.writerow([path.stem, path, *(images / model / path.name for model in MODELS), positive])


def compare_with_people(data, votes):
    """How often each judge agrees with a vote, and picks the image's favourite."""
    names = sorted(votes)
    table = Table(title='Judges against people: ten photographs, outputs of four models')
    for title in ('judge', 'agrees with a vote', 'its best is the favourite', *(f'picks {m}' for m in MODELS)):
        table.add_column(title)
    favourites = {name: max(MODELS, key=win_shares(votes[name]).get) for name in names}
    picked = Counter(favourites.values())
    table.add_row('people', '', '', *(str(picked[model]) for model in MODELS))
    images = {
        (n, m): read_image(data / 'preference' / 'images' / m / n)[None] for n in names for m in MODELS
    }  # fmt: skip
    for judge in (create_scorer(**scorer(cnniqa(data))), create_scorer('niqe'), create_scorer('pattern')):
        sign = 1 if judge.higher_better else -1
        scores = {key: sign * judge(image).item() for key, image in images.items()}
        pairs = [(scores[n, a] > scores[n, b], count) for n in names for (a, b), count in votes[n].items()]
        right, total = sum(count for agrees, count in pairs if agrees), sum(count for _, count in pairs)
        best = {n: max(MODELS, key=lambda m, n=n: scores[n, m]) for n in names}
        hits, picked = sum(best[n] == favourites[n] for n in names), Counter(best.values())
        row = (f'{right}/{total} = {right / total:.1%}', f'{hits}/{len(names)}')
        table.add_row(judge.name, *row, *(str(picked[model]) for model in MODELS))
    CONSOLE.print(table)


def scorer(option):
    """Arguments of ``create_scorer`` from those of a term."""
    return {'name': option['metric'], 'weights': option['weights'], **option['options']}


def report(data, out, names):
    """Score the Set5 results, print the relative gains and the shares of the candidates, write the HTML report."""
    folders = {'pretrained': results_of(out, 'start'), **{name: results_of(out, name) for name in names}}
    files = {name: out / 'scores' / f'{name}.csv' for name in folders}
    for name, folder in folders.items():
        files[name].unlink(missing_ok=True)
        score_folder(folder, [*judges(data), create_scorer('pattern')], files[name], out / 'data' / 'val' / 'HR')
    methods, columns = methods_from_scores(files, 'pretrained')
    table = Table(title='Set5 x4: mean score (relative gain over the pretrained network, %); shares of the candidates')
    for title in ('run', *(f'{judge.metric} {"↑" if judge.higher_better else "↓"}' for judge in columns), 'chosen'):
        table.add_column(title)
    for method in methods:
        gains = {j.metric: f' ({method.gains[j.metric]:+.1f})' if j.metric in method.gains else '' for j in columns}
        cells = [f'{method.scores[j.metric]:.4f}{gains[j.metric]}' for j in columns]
        table.add_row(method.name, *cells, shares(out, method.name))
        method.images = {path.name: read_image(path) for path in list_images(folders[method.name])}
        method.curve = curve_of(out, method.name, [judge.metric for judge in columns]) if method.gains else {}
    CONSOLE.print(table)
    low, high = ({p.name: read_image(p) for p in list_images(out / 'data' / 'val' / kind)} for kind in ('LR', 'HR'))
    notes = [f'RLFN-S x4, pretrained; crops of {GT_SIZE} px, batches of {BATCH}. Crops: where the runs differ most.']
    write_report(out / 'report.html', f'Several ground truths: {out.name}', methods, columns, low, high, notes=notes)
    CONSOLE.print(f'Report: {out / "report.html"}', soft_wrap=True)


def shares(out, name):
    """Mean share of each candidate over the training, as its log tells."""
    found = {}
    for log in (out / 'experiments' / name).glob('train_*.log'):
        for number, share in CHOSEN.findall(log.read_text()):
            found.setdefault(int(number), []).append(float(share))
    return ' '.join(f'{sum(values) / len(values):.0%}' for _, values in sorted(found.items()))


if __name__ == '__main__':
    main()
