"""What ``nriqa doctor`` reports, with and without an option file."""

import copy
import logging
import math
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from nriqa_plugin.cli import app
from nriqa_plugin.doctor import environment
from nriqa_plugin.doctor.findings import Findings, reason_of
from nriqa_plugin.doctor.step_cost import measure_step, training_batch
from nriqa_plugin.evaluation.scores import score_row, write_scores
from nriqa_plugin.iqa.scorer import BUILT_IN, create_scorer
from nriqa_plugin.losses import LossSum

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = 'plugin: !!python/name:nriqa_plugin.basicsr.VERSION\n'
JUDGE = 'tests.judges:TinyNet'
L1 = {'type': 'L1Loss', 'weight': 2.0}
TINY = {'type': 'NRIQALoss', 'metric': JUDGE, 'weight': 0.1}
SCHEDULE = {'optim_g': {'type': 'Adam', 'lr': 1.0e-4}, 'scheduler': {'type': 'MultiStepLR'}, 'total_iter': 9}
VALIDATION = {'val_freq': 1, 'save_img': False}


def doctor(*arguments):
    return CliRunner().invoke(app, ['doctor', *map(str, arguments)], env={'COLUMNS': '250', 'NRIQA_DEBUG': '0'})


def row(result, first):
    """The words of the table's line that starts with ``first``."""
    (line,) = [line for line in result.stdout.splitlines() if line.split()[:1] == [first]]
    return line.split()


# -------------------------------------------------------------------------------------------- environment


def test_importing_the_doctor_loads_no_framework():
    code = 'import sys, nriqa_plugin.doctor; print({"basicsr", "mmcv", "mmengine", "mmagic"} & set(sys.modules))'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT).stdout == 'set()\n'


def test_versions_and_every_built_in_judge_are_listed(monkeypatch):
    monkeypatch.setattr(environment, 'FRAMEWORKS', {})
    result = doctor()
    assert result.exit_code == 0, result.output
    assert row(result, 'torch')[1] == torch.__version__
    for name in BUILT_IN:
        assert row(result, name)[0] == name
    assert row(result, 'psnr') == ['psnr', 'higher', '↑', '0', '..', '∞', '1', 'px', 'yes', 'yes']
    assert row(result, 'cnniqa')[1:9] == ['lower', '↓', '0', '..', '100', '32', 'px', 'no']
    assert 'needs the option weights' in result.stdout


def test_a_missing_or_outdated_extra_is_reported_with_its_hint(monkeypatch):
    wanted = ['torch>=2.1', 'piq>=0.8; extra == "iqa"', 'pyiqa==1.0; extra == "iqa"', 'jinja2; extra == "report"']
    installed = {'pyiqa': '0.9', 'jinja2': '3.0'}

    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(environment.metadata, 'requires', lambda name: wanted)
    monkeypatch.setattr(environment.metadata, 'version', version)
    rows = {name: rest for name, *rest in environment.extras(Findings())}
    assert rows['iqa'] == ['missing', 'piq>=0.8, pyiqa==1.0 (found 0.9)', "pip install 'nriqa-plugin[iqa]'"]
    assert rows['report'] == ['installed', '', '']
    monkeypatch.setattr(environment, 'FRAMEWORKS', {})
    result = doctor()
    assert "pip install 'nriqa-plugin[iqa]'" in result.stdout
    assert result.exit_code == 0, 'an extra that one does without is no fault'


def test_a_broken_basicsr_of_the_current_folder_is_named_with_reason_and_hint(monkeypatch, tmp_path):
    (tmp_path / 'basicsr').mkdir()
    (tmp_path / 'basicsr' / '__init__.py').write_text('import torchvision.transforms.functional_tensor\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environment, 'FRAMEWORKS', {'basicsr': ('basicsr', 'nriqa_plugin.basicsr')})
    monkeypatch.setattr(environment, 'EXTRAS', ())
    monkeypatch.setattr(environment, 'BUILT_IN', {})
    result = doctor()
    assert result.exit_code == 1
    assert row(result, 'basicsr')[1:3] == ['no:', 'basicsr']
    assert f'{tmp_path / "basicsr"} (the copy in the current folder)' in result.stdout
    (line,) = result.stderr.splitlines()
    assert 'functional_tensor' in line
    assert 'pip install basicsr-fixed' in line


@pytest.mark.parametrize(
    ('code', 'reason'),
    [
        ('import os; os._exit(3)', 'died with exit code 3'),
        ('import time; time.sleep(60)', 'no answer within 4 s'),
        ('raise KeyError("x")', "KeyError: 'x'"),
    ],
)
def test_whatever_an_import_does_the_doctor_survives_and_says_so(code, reason, monkeypatch, tmp_path):
    (tmp_path / 'broken_framework.py').write_text(f'print("noise", end="")\n{code}\n')
    monkeypatch.chdir(tmp_path)
    facts = environment.try_import(('broken_framework',), limit_s=4)
    assert facts['failed'] == 'broken_framework'
    assert reason in facts['error']
    assert facts['file'] == str(tmp_path / 'broken_framework.py')


def test_a_framework_that_is_not_installed_is_no_fault(monkeypatch):
    monkeypatch.setattr(environment, 'FRAMEWORKS', {'no_such_framework': ('no_such_framework',)})
    monkeypatch.setattr(environment, 'BUILT_IN', {})
    result = doctor()
    assert row(result, 'no_such_framework')[1:] == ['not', 'installed']
    assert result.exit_code == 0


def test_lpips_is_not_downloaded_to_see_whether_it_works(monkeypatch, tmp_path):
    pytest.importorskip('lpips')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    found = Findings()
    name, better, _, min_side, reference, verdict = environment.judge('lpips', found)
    assert (name, better, min_side, reference) == ('lpips', 'lower ↓', '31 px', 'yes')
    assert verdict.startswith('needs alexnet-owt-7be5be79.pth')
    assert not list(tmp_path.rglob('*'))
    assert not found.problems


def test_a_judge_that_fails_for_no_good_reason_is_a_problem(monkeypatch):
    monkeypatch.setattr(environment, 'BUILT_IN', {'odd': f'{__name__}:crashes'})
    monkeypatch.setattr(environment, 'create_scorer', lambda name: crashes())
    found = Findings()
    assert environment.judge('odd', found)[-1] == 'no: ZeroDivisionError: oops'
    assert found.problems == ['the judge odd cannot be built: ZeroDivisionError: oops']


def crashes():
    raise ZeroDivisionError('oops')


# -------------------------------------------------------------------------------------------- option file


def pairs(folder, names=('a', 'b')):
    """Write pairs of flat 16 px and 4 px images; the options that find them."""
    for kind, side in (('HR', 16), ('LR', 4)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.new('RGB', (side, side), (100, 120, 140)).save(folder / kind / f'{name}.png')
    roots = {'dataroot_gt': str(folder / 'HR'), 'dataroot_lq': str(folder / 'LR')}
    return {'name': folder.name, 'type': 'PairedImageDataset', **roots, 'io_backend': {'type': 'disk'}}


@pytest.fixture
def option_file(tmp_path):
    """Write a tiny BasicSR option file and its images; keyword arguments replace whole top-level keys.

    ``edit`` is a function that changes the options in place before they are written.
    """
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    import yaml

    def write(terms=(L1, TINY), head=PLUGIN, gt_size=16, edit=lambda options: None, **more):
        network = {'type': 'MSRResNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1, 'upscale': 4}
        sampling = {'gt_size': gt_size, 'use_hflip': False, 'use_rot': False, 'batch_size_per_gpu': 2}
        train = {**pairs(tmp_path / 'train'), **sampling, 'num_worker_per_gpu': 0}
        options = {
            'name': 'tiny',
            'model_type': 'PerceptualModel',
            'scale': 4,
            'num_gpu': 0,
            'datasets': {'train': train},
            'network_g': network,
            'path': {'pretrain_network_g': None, 'resume_state': None},
            'train': {**SCHEDULE, 'pixel_opt': {'type': 'LossSum', 'terms': list(terms)}},
            'logger': {'print_freq': 1, 'save_checkpoint_freq': 1},
            **more,
        }
        options = copy.deepcopy(options)
        edit(options)
        file = tmp_path / 'options.yml'
        file.write_text(head + yaml.safe_dump(options, sort_keys=False))
        return file

    return write


def test_a_sound_file_gives_the_cost_of_every_term_and_no_remarks(option_file):
    """The gradient of w * mean|d| over n numbers has the norm w / sqrt(n)."""
    result = doctor(option_file())
    assert result.exit_code == 0, result.output
    assert result.stderr == ''
    assert '2 x 3 x 16 x 16 px' in result.stdout
    _, weight, value, norm, _, share, percent = row(result, 'l1')
    assert (float(weight), percent) == (2, '%')
    assert float(value) == pytest.approx(0.02 * math.sqrt(2 / math.pi), rel=0.1)
    assert float(norm) == pytest.approx(2 / math.sqrt(2 * 3 * 16 * 16), rel=1e-3)
    assert int(share) + int(row(result, 'tinynet')[-2]) + int(row(result, 'network')[-2]) == pytest.approx(100, abs=2)


def test_schedules_do_not_hide_a_terms_cost(option_file):
    rows = [
        TINY,
        {**TINY, 'name': 'late', 'start_iter': 1000, 'warmup_iter': 1000},
        {**TINY, 'name': 'rare', 'every': 4},
    ]
    result = doctor(option_file([L1, *rows]))
    assert result.exit_code == 0, result.output
    now, late = row(result, 'tinynet'), row(result, 'late')
    assert late[1:4] == now[1:4]
    assert row(result, 'rare')[1:6] == ['(every', '4)', *now[1:4]]


def test_a_training_crop_below_the_judges_minimum_is_a_problem(option_file):
    result = doctor(option_file(gt_size=4))
    assert result.exit_code == 1
    assert row(result, 'tinynet')[-1] == 'fails'
    assert row(result, 'l1')[-1] == '%'
    (line,) = result.stderr.splitlines()
    assert line == 'Problem: tinynet: training would fail: it needs at least 8 px a side, datasets.train.gt_size is 4'


def test_a_loss_that_is_not_finite_is_a_problem(option_file):
    result = doctor(option_file([L1, {**TINY, 'metric': 'tests.judges:NaNGradient', 'probe': False}]))
    assert result.exit_code == 1
    assert 'Problem: nan_gradient: value' in result.stderr
    assert 'gradient norm of nan' in result.stderr


def test_a_network_of_another_scale_is_a_problem(option_file):
    result = doctor(option_file(scale=2))
    assert result.exit_code == 1
    assert 'it maps (2, 3, 8, 8) to (2, 3, 32, 32), the ground truth is (2, 3, 16, 16)' in result.stderr


def test_a_loss_alone_and_a_pair_in_their_slots_are_measured(option_file):
    alone = {'type': 'NRIQALoss', 'metric': JUDGE, 'loss_weight': 0.1}
    pair = {'type': 'LossPair', 'terms': [{**TINY, 'name': 'second'}]}
    result = doctor(option_file(train={**SCHEDULE, 'pixel_opt': alone, 'perceptual_opt': pair}))
    assert result.exit_code == 0, result.output
    assert row(result, 'tinynet')[3] == row(result, 'second')[3], 'the same weighted gradient'


def test_the_terms_of_a_preset_are_measured_and_an_unknown_one_is_one_line(option_file, tmp_path):
    (tmp_path / 'presets.yml').write_text(
        f"terms: {{l1: {{type: L1Loss, weight: 2.0}}, tinynet: {{type: NRIQALoss, metric: '{JUDGE}', weight: 0.1}}}}\n"
        'presets: {both: {terms: [l1, tinynet]}, one: {terms: [l1]}}\n'
    )
    sums = {'type': 'LossSum', 'preset': 'both', 'presets': str(tmp_path / 'presets.yml')}
    result = doctor(option_file(train={**SCHEDULE, 'pixel_opt': sums}))
    assert result.exit_code == 0, result.output
    by_hand = doctor(option_file())
    for term in ('l1', 'tinynet'):
        assert row(result, term)[1:4] == row(by_hand, term)[1:4]
    wrong = doctor(option_file(train={**SCHEDULE, 'pixel_opt': {**sums, 'preset': 'bth'}}))
    assert wrong.exit_code == 2
    assert 'train.pixel_opt: unknown preset of' in wrong.stderr
    assert "'bth'. Did you mean 'both'" in wrong.stderr


def test_learnt_weights_are_no_problem_and_those_shown_are_called_the_starts(option_file):
    mse = {'type': 'MSELoss', 'weight': 3.0}
    sums = {'type': 'LossSum', 'terms': [L1, mse], 'balance': {'method': 'gradnorm'}}
    result = doctor(option_file(train={**SCHEDULE, 'pixel_opt': sums}))
    assert result.exit_code == 0, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("Note: train.pixel_opt learns its weights (balance): those shown are the start's")
    assert (row(result, 'l1')[1], row(result, 'mse')[1]) == ('2', '3')
    plain = doctor(option_file([L1, mse]))
    assert plain.stderr == ''
    for term in ('l1', 'mse'):
        assert row(result, term)[2:4] == row(plain, term)[2:4], 'value and gradient norm at the start weight'


def test_a_video_row_under_gradnorm_is_no_problem(option_file, squeezenet_weights, tmp_path):
    term = {'weights': str(squeezenet_weights)}
    presets = str(ROOT / 'options' / 'basicsr' / 'presets' / 'perceptual_vsr.yml')
    sums = {'type': 'LossSum', 'preset': 'squeeze_gradnorm', 'presets': presets, 'terms': {'lpips_squeeze': term}}
    file = option_file(train={**SCHEDULE, 'pixel_opt': sums}, gt_size=64)
    for kind, side in (('HR', 64), ('LR', 16)):
        for image in (tmp_path / 'train' / kind).iterdir():
            Image.new('RGB', (side, side)).save(image)
    result = doctor(file)
    assert result.exit_code == 0, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith('Note: train.pixel_opt learns its weights (balance)')
    assert row(result, 'lpips_squeeze')[-1] == '%'


def test_the_hosts_own_model_is_noted(option_file):
    result = doctor(option_file(model_type='SRModel'))
    assert result.exit_code == 0, 'it can train'
    (line,) = result.stderr.splitlines()
    assert line.startswith('Note: ')
    assert 'model_type: PerceptualModel with base_model: SRModel' in line


def test_a_missing_plugin_line_is_a_problem_when_anything_of_ours_is_named(option_file):
    (line,) = problems(doctor(option_file(head='')))
    assert PLUGIN.strip() in line


def test_a_file_without_anything_of_ours_gets_no_advice(option_file):
    train = {**SCHEDULE, 'pixel_opt': {'type': 'L1Loss'}}
    result = doctor(option_file(head='', model_type='SRModel', train=train))
    assert result.exit_code == 0, result.output
    assert result.stderr == ''


def problems(result):
    """The problems of a file of which the rest was still checked and shown."""
    assert result.exit_code == 1, result.output
    assert row(result, 'network')[-1] == '%'
    return [line.removeprefix('Problem: ') for line in result.stderr.splitlines() if line.startswith('Problem: ')]


def put(dotted, value):
    """A change of one option; ``...`` removes it."""

    def edit(options):
        *sections, key = dotted.split('.')
        for section in sections:
            options = options[section]
        options[key] = value
        if value is ...:
            del options[key]

    return edit


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (put('train.optim_g.lr', '1e-4'), "train.optim_g.lr must be a number, got the text '1e-4'; write it with a decimal point and a signed exponent, for example 1.0e-04 (YAML reads 1e-4 as text)"),
        (put('train.optim_g.betas', [0.9, '99e-2']), "train.optim_g.betas[1] must be a number, got the text '99e-2'"),
        (put('train.clip_grad_nrom', 1.0), "unknown option 'clip_grad_nrom' in train; did you mean 'clip_grad_norm'?"),
        (put('basemodel', 'SRModel'), "unknown option 'basemodel'; did you mean 'base_model'?"),
        (put('datasets.train.dataroot_gt', '/no/where'), 'datasets.train: '),
        (put('datasets.train.io_backend', ...), "datasets.train: the key 'io_backend' is missing"),
        (put('datasets.train.use_hflip', ...), "datasets.train: the key 'use_hflip' is missing"),
        (put('datasets.train.filename_tmpl', '{}x4'), 'datasets.train: AssertionError: ax4.png is not in lq_paths'),
        (put('datasets.train.gt_size', 32), 'datasets.train: LQ (4, 4) is smaller than patch size'),
        (put('datasets.train.batch_size_per_gpu', 3), 'datasets.train: 2 images (dataset_enlarge_ratio included) are less than one batch of 3'),
        (put('datasets.train.num_worker_per_gpu', ...), 'the key datasets.train.num_worker_per_gpu is missing'),
        (put('path.pretrain_network_g', 'no.pth'), 'path.pretrain_network_g: no such file: no.pth'),
        (put('path.resume_state', 'no.state'), 'path.resume_state: no such file: no.state'),
        (put('path', ...), 'the key path is missing'),
        (put('train.pixel_opt', ...), 'train: no loss: pixel_opt, perceptual_opt, gan_opt are all missing'),
        (put('train.total_iter', ...), 'the key train.total_iter is missing'),
        (put('val', {'metrics': None}), 'the key val.val_freq is missing'),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else '',
)  # fmt: skip
def test_a_file_that_cannot_train_has_a_problem(option_file, edit, message):
    first, *more = problems(doctor(option_file(edit=edit)))
    assert first.startswith(message)
    assert not more or message == 'the key val.val_freq is missing'


def test_text_that_only_looks_like_a_number_is_left_alone(option_file):
    result = doctor(option_file([L1, {**TINY, 'name': '5e-5'}]))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'gt_sise': 4}, "unknown option of CheckedPairedImageDataset: 'gt_sise'. Did you mean 'gt_size'"),
        ({'dataroot_lq': '/no/where'}, 'dataroot_lq: no such folder: /no/where'),
        ({'filename_tmpl': '{}x4'}, 'GT and LQ folders do not pair'),
    ],
)
def test_our_data_set_names_what_is_wrong_and_the_phase(option_file, tmp_path, change, message):
    val = {**pairs(tmp_path / 'val'), 'type': 'CheckedPairedImageDataset', **change}
    (line,) = problems(doctor(option_file(edit=put('datasets.val_1', val))))
    assert line.startswith(f'datasets.val_1: {message}')


def test_checking_data_sets_reads_the_home_folder_as_basicsr_does(option_file, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    val = {**pairs(tmp_path / 'val'), 'dataroot_gt': '~/val/HR', 'dataroot_lq': '~/val/LR'}
    assert doctor(option_file(edit=put('datasets.val', val))).exit_code == 0


@pytest.mark.parametrize('model', ['PerceptualModel', 'SRModel'])
def test_a_baseline_of_other_images_is_a_problem_for_every_model(option_file, tmp_path, model):
    judge = create_scorer(JUDGE, crop_border=0)
    baseline = tmp_path / 'baseline.csv'
    gain = {'type': 'calculate_relative_gain', 'metric': JUDGE, 'baseline': str(baseline)}

    def check(*names):
        write_scores(baseline, [score_row(f'{name}.png', judge, 0.5) for name in names])

        def edit(options):
            options['datasets']['val'] = pairs(tmp_path / 'val', ('a', 'b'))
            options['val'] = {**VALIDATION, 'metrics': {'gain': gain}}

        return doctor(option_file(model_type=model, edit=edit))

    assert check('a_run', 'b_run').exit_code == 0, 'names may be longer'
    (line,) = problems(check('c', 'd'))
    assert line.startswith(f'val.metrics.gain on datasets.val: baseline: {baseline} belongs to another data set')


def test_our_options_under_a_model_of_the_host_are_ignored_with_a_note(option_file):
    dark = {'type': 'calculate_iqa', 'metric': 'tests.judges:Darkness', 'better': 'lower'}
    train = {**SCHEDULE, 'pixel_opt': {'type': 'L1Loss'}, 'clip_grad_norm': 1.0}
    val = {**VALIDATION, 'metrics': {'dark': dark}, 'save_best': 'dark'}
    result = doctor(option_file(model_type='SRModel', train=train, val=val))
    assert result.exit_code == 0, result.output
    clip, best = result.stderr.splitlines()
    assert clip.startswith('Note: train.clip_grad_norm is ignored by model_type SRModel')
    assert best.startswith('Note: val.save_best is ignored by model_type SRModel')


@pytest.mark.parametrize('inside', [False, True])
def test_a_best_checkpoint_by_a_judge_that_is_trained_on_is_noted(option_file, inside):
    held_out = {'type': 'calculate_iqa', 'metric': 'tests.judges:Darkness'}
    trained = {'type': 'calculate_iqa', 'metric': JUDGE}
    if inside:
        judges = [{JUDGE: 1.0}, {'tests.judges:Brightness': 1.0}]
        trained = {'type': 'calculate_iqa', 'metric': 'ensemble', 'options': {'judges': judges}}
    val = {**VALIDATION, 'metrics': {'dark': held_out, 'mine': trained}}
    assert doctor(option_file(val={**val, 'save_best': 'dark'})).stderr == ''
    result = doctor(option_file(val={**val, 'save_best': ['dark', 'mine']}))
    assert result.exit_code == 0, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        'Note: val.save_best: mine asks the judge tinynet, which a loss optimises: it is not held out'
    )


def test_a_save_best_that_is_no_metric_is_refused_without_a_judge_of_ours(option_file):
    val = {**VALIDATION, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}}, 'save_best': 'psnrr'}
    result = doctor(option_file(val=val))
    assert result.exit_code == 2
    assert "unknown metric in val.save_best 'psnrr'. Did you mean 'psnr'" in result.stderr


def test_a_test_needs_no_training_options(option_file, tmp_path):
    def edit(options):
        del options['train'], options['logger']
        options['datasets'] = {'test_1': pairs(tmp_path / 'test')}

    result = doctor(option_file(model_type='SRModel', edit=edit))
    assert (result.exit_code, result.stderr) == (0, ''), result.output


def test_an_error_is_told_in_one_line():
    assert reason_of(KeyError('name')) == "the key 'name' is missing"
    assert reason_of(ValueError('two\n  lines')) == 'two lines'
    assert reason_of(AssertionError()) == 'AssertionError'


def test_validation_judges_are_built_as_the_training_does(option_file):
    metrics = {
        'dark': {'type': 'calculate_iqa', 'metric': 'tests.judges:Darkness'},
        'gain': {'type': 'calculate_relative_gain', 'metric': JUDGE, 'baseline': 'start', 'crop_border': 4},
        'psnr': {'type': 'calculate_psnr', 'crop_border': 4},
    }
    result = doctor(option_file(val={**VALIDATION, 'metrics': metrics, 'save_best': 'dark'}))
    assert result.exit_code == 0, result.output
    assert row(result, 'dark')[1:4] == ['calculate_iqa', 'darkness', 'lower']
    assert row(result, 'gain')[1:4] == ['calculate_relative_gain', 'tinynet', 'higher']
    assert row(result, 'gain')[-1] == row(result, 'dark')[-1] == 'ok'


def test_grey_images_and_a_validation_loss_are_no_problem(option_file, tmp_path):
    """A denoiser whose data set, scheduler and best checkpoint are ours."""
    root = pairs(tmp_path / 'train')['dataroot_gt']
    data = {'type': 'DegradedImageDataset', 'dataroot_gt': root, 'degradation': 'jpeg', 'color': 'grey'}
    data |= {'name': 'grey', 'io_backend': {'type': 'disk'}}

    def edit(options):
        sampling = {'gt_size': 16, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}
        options['datasets'] = {'train': {**data, **sampling}, 'val': data}
        options['network_g'] = {'type': 'DnCNN', 'nc': 4, 'nb': 3}
        options['train']['scheduler'] = {'type': 'ExponentialLR', 'eta_min': 1e-5}

    val = {**VALIDATION, 'metrics': {'loss': {'type': 'calculate_loss'}}, 'save_best': 'loss'}
    result = doctor(option_file([L1], edit=edit, scale=1, val=val))
    assert (result.exit_code, result.stderr) == (0, ''), result.output
    assert '2 x 1 x 16 x 16 px' in result.stdout
    assert row(result, 'network')[-1] == row(result, 'l1')[-1] == '%'


def metric(**option):
    return {'val': {'metrics': {'m': option}}}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'terms': [L1, {**TINY, 'metric': 'niqee'}]}, "train.pixel_opt: terms[1] (NRIQALoss): unknown judge 'niqee'. Did you mean 'niqe'"),
        ({'terms': [{**TINY, 'weight': '5e-5'}]}, 'must be a number, got the text'),
        ({'terms': [{**TINY, 'metric': 'tests.judges:Constant'}]}, 'a gradient that is zero everywhere'),
        ({'model_type': 'SRModle'}, "unknown model_type 'SRModle'. Did you mean 'SRModel'"),
        ({'base_model': 'SRModle'}, "unknown base_model 'SRModle'. Did you mean 'SRModel'"),
        ({'network_g': {'type': 'MSRResnet'}}, "unknown network_g.type 'MSRResnet'. Did you mean 'MSRResNet'"),
        ({'network_g': {'type': 'MSRResNet', 'width': 3}}, "network_g: MSRResNet.__init__() got an unexpected keyword argument 'width'"),
        ({'network_g': {}}, 'network_g: the key type is missing'),
        ({'datasets': {'train': {'type': 'PairdImageDataset'}}}, "Did you mean 'PairedImageDataset'"),
        ({'datasets': {'train': {'type': 'PairedImageDataset'}}}, 'datasets.train: the key gt_size is missing'),
        ({'train': {'pixel_opt': {'type': 'LosSum', 'terms': [L1]}}}, "unknown train.pixel_opt.type 'LosSum'. Did you mean 'LossSum'"),
        ({'train': {'pixel_opt': {'type': 'LossPair', 'terms': [L1]}}}, 'train.pixel_opt: the pixel slot wants one number'),
        ({'train': {'perceptual_opt': {'type': 'LossSum', 'terms': [L1]}}}, "write {type: LossPair"),
        (metric(type='calculate_iqaa'), "unknown val.metrics.m.type 'calculate_iqaa'. Did you mean 'calculate_iqa'"),
        (metric(type='calculate_iqa', metric='nique'), "unknown judge 'nique'. Did you mean 'niqe'"),
        ({'model_type': 'SRModel', **metric(type='calculate_iqa', metric='tests.judges:Darkness')}, "val.metrics.m: calculate_iqa: for darkness lower is better"),
        ({'model_type': 'SRModel', **metric(type='calculate_relative_gain', metric=JUDGE, baseline='start')}, 'needs model_type: PerceptualModel'),
        (metric(type='calculate_relative_gain', metric=JUDGE, baseline='no.csv'), 'no such file: no.csv'),
        ({'model_type': 'SRModel', **metric(type='calculate_iqa', metric='tests.judges:Clip')}, 'val.metrics.m: clip judges clips'),
        ({'val': [1]}, 'val must be a mapping, got [1]'),
        ({'head': 'plugin: [\n'}, 'options.yml: ParserError'),
        ({'head': 'plugin: !!python/name:nriqa_plugin.basicsr.NO\n'}, 'options.yml: ConstructorError'),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else '',
)  # fmt: skip
def test_a_wrong_option_is_one_line_and_exit_code_2(option_file, change, message):
    result = doctor(option_file(**change))
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith('Error: ')
    assert message in line


def test_a_missing_file_is_not_taken_for_text(tmp_path):
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    result = doctor(tmp_path / 'no.yml')
    assert result.exit_code == 2
    assert 'option file: no such file' in result.stderr


def test_a_missing_basicsr_is_told_with_its_extra(option_file, monkeypatch):
    file = option_file()
    monkeypatch.setitem(sys.modules, 'basicsr', None)
    result = doctor(file)
    assert result.exit_code == 2
    assert "pip install 'nriqa-plugin[basicsr]'" in result.stderr


def test_checking_a_file_leaves_path_and_logging_alone(option_file):
    path, level = list(sys.path), logging.root.manager.disable
    assert doctor(option_file()).exit_code == 0
    assert (sys.path, logging.root.manager.disable) == (path, level)


# -------------------------------------------------------------------------------------------- cost of a step


def test_video_batches_have_frames_and_a_network_may_merge_them():
    lq, gt = training_batch(2, 16, 4, frames=3)
    assert (lq.shape, gt.shape) == ((2, 3, 3, 4, 4), (2, 3, 3, 16, 16))
    assert gt.min() >= 0
    assert gt.max() <= 1
    assert torch.allclose(lq.mean(), gt.mean(), atol=1e-5)

    class Merge(nn.Conv2d):
        def forward(self, frames):
            return torch.nn.functional.interpolate(super().forward(frames.mean(1)), scale_factor=4)

    problems = []
    rows = measure_step(Merge(3, 3, 1), {'pixel_opt': LossSum([L1, TINY])}, lq, gt, problems)
    assert not problems
    assert [row[0] for row in rows] == ['network', 'l1', 'tinynet']
    assert float(rows[1][3]) == pytest.approx(2 / math.sqrt(2 * 3 * 16 * 16), rel=1e-3)


def test_a_term_in_another_space_sees_the_same_image():
    lq, gt = training_batch(1, 16, 1)
    network, signed = nn.Conv2d(3, 3, 1), {'space': {'range': [-1.0, 1.0]}}
    plain, other = (
        measure_step(network, {'pixel_opt': LossSum([TINY], **space)}, lq, gt, [])[1] for space in ({}, signed)
    )
    assert float(plain[2]) == pytest.approx(float(other[2]), rel=1e-3)
    assert float(plain[3]) == pytest.approx(2 * float(other[3]), rel=1e-3)


def test_a_slow_term_gets_the_larger_share():
    class Slow(nn.Module):
        def forward(self, pred, target):
            torch.linalg.svd(torch.rand(300, 300))
            return (pred - target).abs().mean()

    terms = LossSum([L1, {'type': f'{__name__}:slow', 'weight': 1.0}])
    terms.terms[1].loss = Slow()
    rows = measure_step(nn.Conv2d(3, 3, 1), {'pixel_opt': terms}, *training_batch(1, 16, 1), [])
    shares = {row[0]: int(row[5].removesuffix(' %')) for row in rows}
    assert shares['slow'] > 50 > shares['l1']


def slow():
    return nn.L1Loss()
