"""What ``nriqa doctor`` reports, with and without an option file."""

import logging
import math
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from nriqa_plugin.cli import app
from nriqa_plugin.doctor import environment
from nriqa_plugin.doctor.findings import Findings
from nriqa_plugin.doctor.step_cost import measure_step, training_batch
from nriqa_plugin.iqa.scorer import BUILT_IN
from nriqa_plugin.losses import LossSum

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = 'plugin: !!python/name:nriqa_plugin.basicsr.VERSION\n'
JUDGE = 'tests.judges:TinyNet'
L1 = {'type': 'L1Loss', 'weight': 2.0}
TINY = {'type': 'NRIQALoss', 'metric': JUDGE, 'weight': 0.1}


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


@pytest.fixture
def option_file(tmp_path):
    """Write a tiny BasicSR option file; keyword arguments replace whole top-level keys."""
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    import yaml

    def write(terms=(L1, TINY), head=PLUGIN, gt_size=16, **more):
        network = {'type': 'MSRResNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1, 'upscale': 4}
        train = {'type': 'PairedImageDataset', 'gt_size': gt_size, 'batch_size_per_gpu': 2}
        options = {
            'model_type': 'PerceptualModel',
            'scale': 4,
            'num_gpu': 0,
            'datasets': {'train': train},
            'network_g': network,
            'train': {'pixel_opt': {'type': 'LossSum', 'terms': list(terms)}},
        }
        file = tmp_path / 'options.yml'
        file.write_text(head + yaml.safe_dump({**options, **more}, sort_keys=False))
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
    result = doctor(option_file(train={'pixel_opt': alone, 'perceptual_opt': pair}))
    assert result.exit_code == 0, result.output
    assert row(result, 'tinynet')[3] == row(result, 'second')[3], 'the same weighted gradient'


def test_the_hosts_own_model_and_a_missing_plugin_line_are_noted(option_file):
    result = doctor(option_file(head='', model_type='SRModel'))
    assert result.exit_code == 0, 'both can train'
    plugin, model = result.stderr.splitlines()
    assert PLUGIN.strip() in plugin
    assert 'model_type: PerceptualModel with base_model: SRModel' in model


def test_a_file_without_anything_of_ours_gets_no_advice(option_file):
    result = doctor(option_file(head='', model_type='SRModel', train={'pixel_opt': {'type': 'L1Loss'}}))
    assert result.exit_code == 0, result.output
    assert result.stderr == ''


def test_validation_judges_are_built_as_the_training_does(option_file):
    metrics = {
        'dark': {'type': 'calculate_iqa', 'metric': 'tests.judges:Darkness'},
        'gain': {'type': 'calculate_relative_gain', 'metric': JUDGE, 'baseline': 'start', 'crop_border': 4},
        'psnr': {'type': 'calculate_psnr', 'crop_border': 4},
    }
    result = doctor(option_file(val={'metrics': metrics, 'save_best': 'dark'}))
    assert result.exit_code == 0, result.output
    assert row(result, 'dark')[1:4] == ['calculate_iqa', 'darkness', 'lower']
    assert row(result, 'gain')[1:4] == ['calculate_relative_gain', 'tinynet', 'higher']
    assert row(result, 'gain')[-1] == row(result, 'dark')[-1] == 'ok'


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
        (metric(type='calculate_iqa', metric='nique'), "val: unknown judge 'nique'. Did you mean 'niqe'"),
        ({'model_type': 'SRModel', **metric(type='calculate_iqa', metric='tests.judges:Darkness')}, "val.metrics.m: calculate_iqa: for darkness lower is better"),
        ({'model_type': 'SRModel', **metric(type='calculate_relative_gain', metric=JUDGE, baseline='start')}, 'needs model_type: PerceptualModel'),
        (metric(type='calculate_relative_gain', metric=JUDGE, baseline='no.csv'), 'no such file: no.csv'),
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
