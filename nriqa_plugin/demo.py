"""The main job on photographs that the scikit-image package ships: train, fine-tune with NIQE, measure, report.

Every training is a run of the stock ``python -m basicsr.train`` on an option file that stays in the result folder.
"""

from pathlib import Path

from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nriqa_plugin.checks import import_extra
from nriqa_plugin.evaluation.images import list_images, read_image
from nriqa_plugin.evaluation.report import methods_from_scores, write_report
from nriqa_plugin.evaluation.scoring import score_folder
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.stock_runs import curve_of, results_of, slug, train

SCALE = 4
# Natural photographs only; both views of the stereo pair are in the training split.
TRAINING = ('astronaut.png', 'rocket.jpg', 'motorcycle_left.png', 'motorcycle_right.png')
HELD_OUT = ('chelsea.png', 'coffee.png')
BASELINE_STEPS, FINETUNE_STEPS = 300, 60
MIN_GAIN_OVER_BICUBIC = 0.3  # dB

PIXEL = {'type': 'L1Loss', 'weight': 1.0}
NIQE = {'type': 'NRIQALoss', 'metric': 'niqe', 'weight': 0.001}
SSIM = {'type': 'FRIQALoss', 'metric': 'ssim', 'weight': 0.1}
PIXEL_ONLY, WITH_NIQE, WITH_BOTH = 'pixel', 'pixel + NIQE', 'pixel + NIQE + SSIM'
FINETUNINGS = {PIXEL_ONLY: [PIXEL], WITH_NIQE: [PIXEL, NIQE], WITH_BOTH: [PIXEL, NIQE, SSIM]}
NOTES = (
    'A tiny network, four training photographs and minutes on a CPU: this shows that the plumbing works and what the '
    'numbers look like, not how good a loss is.',
    'A judge that is trained on improves first, so NIQE and SSIM are no independent evidence in the rows that optimise '
    'them. Look at the crops, and at a judge that is in no loss.',
    f'PSNR and SSIM are measured on the luma channel with {SCALE} px cut off each side. Relative gains are Eq. 1 of '
    'Kashkarov et al. (arXiv 2405.20392) over the baseline network.',
)


def run_demo(out, baseline_steps=BASELINE_STEPS, finetune_steps=FINETUNE_STEPS):
    """Run the whole demo.

    Args:
        out (str | Path): result folder; earlier trainings in it are renamed by BasicSR, nothing is deleted.
        baseline_steps, finetune_steps (int): iterations of the trainings.

    Returns:
        tuple[list[Method], list[Judge], Path, list[str]]: the table, the report, and what the self-checks found wrong.

    Raises:
        ImportError: an extra (basicsr, iqa, report) is missing; the message names it.
        RuntimeError: a training failed; the message holds the end of its output.
    """
    for module, extra in (('basicsr', 'basicsr'), ('piq', 'iqa'), ('matplotlib', 'report'), ('jinja2', 'report')):
        import_extra(module, extra, 'nriqa demo')
    out = Path(out).resolve()
    write_photographs(out / 'data')
    columns = (TextColumn('{task.description:<32}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as bar:

        def run(name, options, task):
            train(out, name, options, lambda step: bar.update(task, completed=step))

        tasks = {name: bar.add_task(f'fine-tune, {name}', total=finetune_steps, start=False) for name in FINETUNINGS}
        run('baseline', baseline_options(out, baseline_steps), bar.add_task('baseline', total=baseline_steps))
        weights = out / 'experiments' / 'baseline' / 'models' / 'net_g_latest.pth'
        for name, terms in FINETUNINGS.items():
            bar.start_task(tasks[name])
            run(slug(name), finetune_options(out, slug(name), terms, finetune_steps, weights), tasks[name])
    return measure(out)


def write_photographs(folder):
    """Write ``{train,val}/{HR,LR}/*.png``: RGB photographs cut to whole LR pixels, and their bicubic x1/4."""
    source = Path(import_extra('skimage', 'report', 'nriqa demo').__file__).parent / 'data'
    for split, names in (('train', TRAINING), ('val', HELD_OUT)):
        for kind in ('HR', 'LR'):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            picture = Image.open(source / name).convert('RGB')
            small = tuple(side // SCALE for side in picture.size)
            picture = picture.crop((0, 0, SCALE * small[0], SCALE * small[1]))
            png = Path(name).with_suffix('.png').name
            # An embedded colour profile would only make OpenCV warn at every read.
            picture.save(folder / split / 'HR' / png, icc_profile=None)
            picture.resize(small, Image.BICUBIC).save(folder / split / 'LR' / png, icc_profile=None)


def baseline_options(out, steps):
    """The baseline: stock ``SRModel``, L1 on 128 px crops."""
    pixel_opt = {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'}
    options = _options(out, 'baseline', steps, gt_size=128, batch=8, lr=1e-3, pixel_opt=pixel_opt)
    return {'model_type': 'SRModel', **options}


def finetune_options(out, name, terms, steps, weights):
    """One fine-tuning: ``PerceptualModel`` with a ``LossSum`` on 192 px crops, the smallest that NIQE takes."""
    options = _options(out, name, steps, gt_size=192, batch=4, lr=2e-4, pixel_opt={'type': 'LossSum', 'terms': terms})
    options['path']['pretrain_network_g'] = str(weights)
    options['val']['metrics']['niqe_gain'] = {
        'type': 'calculate_relative_gain', 'metric': 'niqe', 'crop_border': SCALE, 'baseline': 'start'
    }  # fmt: skip
    return {'model_type': 'PerceptualModel', 'base_model': 'SRModel', **options}


def _options(out, name, steps, gt_size, batch, lr, pixel_opt):
    def dataset(split):
        roots = {f'dataroot_{key}': str(out / 'data' / split / kind) for key, kind in (('gt', 'HR'), ('lq', 'LR'))}
        return {'name': split, 'type': 'CheckedPairedImageDataset', **roots, 'io_backend': {'type': 'disk'}}

    sampling = {'gt_size': gt_size, 'use_hflip': True, 'use_rot': True, 'batch_size_per_gpu': batch}
    loading = {'num_worker_per_gpu': 0, 'dataset_enlarge_ratio': 1000}
    network = {'type': 'MSRResNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 32, 'num_block': 4, 'upscale': SCALE}
    psnr = {'type': 'calculate_psnr', 'crop_border': SCALE, 'test_y_channel': True}
    niqe = {'type': 'calculate_iqa', 'metric': 'niqe', 'crop_border': SCALE, 'better': 'lower'}
    schedule = {'type': 'CosineAnnealingRestartLR', 'periods': [steps], 'restart_weights': [1], 'eta_min': 1.0e-5}
    return {
        'name': name,
        'scale': SCALE,
        'num_gpu': 'auto',
        'manual_seed': 0,
        'datasets': {'train': {**dataset('train'), **sampling, **loading}, 'val': dataset('val')},
        'network_g': network,
        'path': {'experiments_root': str(out / 'experiments'), 'pretrain_network_g': None, 'resume_state': None},
        'train': {
            'optim_g': {'type': 'Adam', 'lr': lr, 'betas': [0.9, 0.99]},
            'scheduler': schedule,
            'total_iter': steps,
            'warmup_iter': -1,
            'pixel_opt': pixel_opt,
        },
        'val': {'val_freq': max(1, steps // 3), 'save_img': True, 'metrics': {'psnr': psnr, 'niqe': niqe}},
        'logger': {'print_freq': 5, 'save_checkpoint_freq': steps, 'use_tb_logger': False, 'wandb': None},
    }


def measure(out):
    """Score bicubic, baseline and the fine-tuned networks on the held-out photographs, and write the report."""
    folders = {'bicubic': _bicubic(out), 'baseline': results_of(out, 'baseline')}
    folders |= {name: results_of(out, slug(name)) for name in FINETUNINGS}
    luma = {'crop_border': SCALE, 'y_channel': True}
    judges = [create_scorer('psnr', **luma), create_scorer('ssim', **luma), create_scorer('niqe', crop_border=SCALE)]
    files = {}
    for name, folder in folders.items():
        files[name] = out / 'scores' / f'{slug(name)}.csv'
        files[name].unlink(missing_ok=True)
        score_folder(folder, judges, files[name], references=out / 'data' / 'val' / 'HR')
    methods, columns = methods_from_scores(files, 'baseline')
    for method in methods:
        method.images = {path.name: read_image(path) for path in list_images(folders[method.name])}
        method.curve = curve_of(out, slug(method.name), ('psnr', 'niqe'))
    report = out / 'report.html'
    held_out = {
        kind: {p.name: read_image(p) for p in list_images(out / 'data' / 'val' / kind)} for kind in ('LR', 'HR')
    }
    title = 'Fine-tuning with a no-reference judge: the demo'
    write_report(report, title, methods, columns, held_out['LR'], held_out['HR'], notes=NOTES)
    return methods, columns, report, failed_checks({method.name: method.scores for method in methods})


def failed_checks(scores):
    """What the demo promises and did not keep: the baseline beats bicubic, NIQE falls when it is optimised."""
    failed = []
    gain = scores['baseline']['psnr'] - scores['bicubic']['psnr']
    if not gain >= MIN_GAIN_OVER_BICUBIC:
        failed.append(f'the baseline beats bicubic by {gain:.2f} dB, wanted {MIN_GAIN_OVER_BICUBIC} dB')
    if not scores[WITH_NIQE]['niqe'] < scores[PIXEL_ONLY]['niqe']:
        failed.append(f'NIQE with the NIQE term is {scores[WITH_NIQE]["niqe"]:.2f}, '
                      f'not below {scores[PIXEL_ONLY]["niqe"]:.2f} without')  # fmt: skip
    return failed


def _bicubic(out):
    folder = out / 'results' / 'bicubic'
    folder.mkdir(parents=True, exist_ok=True)
    for path in list_images(out / 'data' / 'val' / 'LR'):
        small = Image.open(path)
        small.resize(tuple(SCALE * side for side in small.size), Image.BICUBIC).save(folder / path.name)
    return folder
