"""``nriqa compare``: the family file, the runs that go on after a kill, the search, and what the figures are given."""

import csv
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models
from typer.testing import CliRunner

pytest.importorskip('yaml', reason='the extra basicsr is not installed')
pytest.importorskip('scipy', reason='the extra report is not installed')
pytest.importorskip('matplotlib', reason='the extra report is not installed')

from nriqa_plugin.cli import app
from nriqa_plugin.compare import judges_of, judging, read_family, run_family, runs, write_comparison
from nriqa_plugin.compare.basicsr_runs import BasicSRRuns
from nriqa_plugin.compare.runs import Outcome, Training, read_state
from nriqa_plugin.compare.schedules import shorter, shorter_terms
from nriqa_plugin.compare.search import choose, criterion, term_values
from nriqa_plugin.compare.yaml_files import read_yaml, yaml_text
from nriqa_plugin.evaluation.images import list_images, read_image
from nriqa_plugin.evaluation.run_index import read_runs
from nriqa_plugin.evaluation.scores import read_scores
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.losses import LossSum
from nriqa_plugin.mdf.discriminator import Discriminator
from nriqa_plugin.mdf.mdf_file import save_mdf
from nriqa_plugin.stock_runs import StopTraining, follow
from tests.compare_families import L1, PLUGIN, SSIM_L2, FakeHost, base_options, write_family, write_images
from tests.conftest import ROOT

SHIPPED = sorted((ROOT / 'options' / 'compare').glob('*_*.yml'))
FAMILIES = [file for file in SHIPPED if file.stem != 'eight_losses']
EIGHT = ('l1', 'l2', 'ssim', 'ms_ssim', 'ms_ssim_l1', 'vgg_l2', 'lpips_l2', 'mdf')


# --- the family file


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'loses': {}}, "option of a family file: 'loses'. Did you mean 'losses'"),
        ({'base': None}, "the file has no 'base'"),
        ({'base': 'nothing.yml'}, 'base: no such file'),
        ({'losses': 'nothing.yml'}, 'losses: no such file'),
        ({'losses': {'a b': L1}}, "losses: 'a b' must be a plain name"),
        ({'losses': {'l1': {}}, 'against': None, 'search': None}, 'losses.l1 has no terms'),
        ({'losses': {'l1': {'l1': {'type': 'L1Loss'}}}}, "losses.l1.l1 has no 'weight'"),
        ({'losses': {'l1': {'l1': {'type': 'L1Loss', 'weight': -1.0}}}}, 'losses.l1.l1.weight must be finite and at least 0'),
        ({'losses': {'l1': [L1]}}, 'losses.l1 must be a mapping'),
        ({'terms': {'vgg': {}}}, "name in terms: 'vgg'"),
        ({'against': 'l2'}, "name in against: 'l2'"),
        ({'set': {'basicsrr': {}}}, "option of set: 'basicsrr'. Did you mean 'basicsr'"),
        ({'test': {'a': {'lq': 'b'}}}, "test.a has no 'gt'"),
        ({'test': {'a': {'gt': 'b', 'lq': 'c', 'degradation': {}}}}, 'test.a: give lq .* not both'),
        ({'judges': [{'weights': 'x'}]}, r"judges\[0\] has no 'metric'"),
        ({'judges': [{'metric': 'lpips', 'weights': 'x'}]}, r'judges\[0\].weights: no such file'),
        ({'plane': ['psnr']}, 'plane must be two metrics'),
        ({'search': {'l1': {'term': 'l2'}}}, "name in search.l1.term: 'l2'"),
        ({'search': {'l1': {'term': 'l1', 'grid': [1.0]}}}, 'search.l1.grid must be a list of two or more'),
        ({'search': {'l1': {'term': 'l1', 'grid': [1.0, 1.0]}}}, 'search.l1.grid must be a list of two or more'),
        ({'search': {'l1': {'term': 'l1', 'grid': ['1e-3', 1.0]}}}, r'search.l1.grid\[0\] must be a number'),
        ({'search': {'l1': {'term': 'l1', 'step': 3}}}, "option of search.l1: 'step'. Did you mean 'steps'"),
        ({'losses': {'mdf': {'m': {'type': 'MDFLoss', 'weight': 1.0}}}, 'against': None, 'search': None},
         'losses.mdf.m: MDFLoss needs its discriminators.* --weights m=FILE'),
    ],
)  # fmt: skip
def test_a_wrong_family_file_is_refused_by_file_and_key(changes, message, tmp_path):
    file = write_family(tmp_path, **changes)
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message) as caught:
        read_family(file)
    assert str(file) in str(caught.value)


def test_a_file_that_wants_to_run_code_is_refused(tmp_path):
    file = write_family(tmp_path)
    file.write_text(file.read_text() + 'plane: !!python/object/apply:os.system ["true"]\n')
    with pytest.raises(ValueError, match='not readable as YAML'):
        read_family(file)


def test_weights_reach_the_terms_and_the_judges_of_that_name(tmp_path):
    for name in ('a', 'b', 'c'):
        (tmp_path / name).write_text('')
    a, b, c = (str(tmp_path / name) for name in ('a', 'b', 'c'))
    losses = {'l1': L1, 'lpips': {'lpips': {'type': 'FRIQALoss', 'metric': 'lpips', 'weight': 1.0}}}
    judges = ['lpips', 'niqe', {'metric': 'lpips', 'weights': b, 'crop_border': 4}, 'psnr']
    search = {'lpips': {'term': 'lpips', 'select_by': 'lpips'}}
    file = write_family(tmp_path, losses=losses, judges=judges, against='l1', search=search)
    family = read_family(file, weights={'lpips': a, 'niqe': c})
    assert family.losses['lpips']['lpips']['weights'] == a
    assert family.losses['l1'] == L1
    assert [judge.get('weights') for judge in family.judges] == [a, c, b, None]
    assert family.search['lpips'].select_by == {'metric': 'lpips', 'weights': a}
    with pytest.raises(ValueError, match="--weights: 'lpip'. Did you mean 'lpips'.* Allowed: l1, lpips, niqe, psnr"):
        read_family(file, weights={'lpip': a})
    with pytest.raises(FileNotFoundError, match=r'judges\[1\].weights: no such file'):
        read_family(file, weights={'niqe': str(tmp_path / 'none')})


def test_a_shared_file_of_losses_is_merged_and_options_of_terms_reach_every_loss(tmp_path):
    shared = {'losses': {'l1': L1, 'both': {**SSIM_L2, **L1}}, 'against': 'l1', 'search': {'both': {'term': 'ssim'}}}
    (tmp_path / 'shared.yml').write_text(yaml_text(shared))
    weights = tmp_path / 'x.pth'
    weights.write_text('')
    file = write_family(tmp_path, losses='shared.yml', against=None, search=None, terms={'l1': {'reduction': 'sum'}})
    family = read_family(file, weights={'ssim': str(weights)})
    assert family.losses['l1']['l1'] == {'type': 'L1Loss', 'weight': 1.0, 'reduction': 'sum'}
    assert family.losses['both']['l1']['reduction'] == 'sum'
    assert family.losses['both']['ssim']['weights'] == str(weights)
    assert family.against == 'l1'
    assert family.search['both'].grid == [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]
    assert family.search['both'].select_by == 'terms'
    kept = read_family(file, only=['both'])
    assert list(kept.losses) == ['both']
    assert kept.against is None  # the losses that are not compared cannot be tested against
    with pytest.raises(ValueError, match="--only: 'boht'. Did you mean 'both'"):
        read_family(file, only=['boht'])


@pytest.mark.parametrize('file', FAMILIES, ids=lambda f: f.stem)
def test_the_shipped_families_hold_the_eight_losses_and_name_their_command(file, tmp_path):
    save_mdf(tmp_path / 'mdf.pth', [Discriminator(4)], {'task': 'sisr', 'range': [0, 1]})
    if not (file.parent / read_yaml(file)['base']).is_file():
        pytest.fail(f'{file.name} names a base file that is not there')
    family = read_family(file, weights={'mdf': str(tmp_path / 'mdf.pth')})
    assert tuple(family.losses) == EIGHT
    assert family.against == 'mdf'
    assert sorted(family.search) == ['lpips_l2', 'vgg_l2']
    assert [judge['metric'] for judge in family.judges] == ['psnr', 'lpips']
    text = file.read_text()
    assert f'#   nriqa compare options/compare/{file.name} --out' in text
    other = ROOT / 'options' / 'mmagic' / f'{file.stem}_mdf.py'
    assert f'--base options/mmagic/{other.name}' in text
    assert other.is_file()
    with pytest.raises((ValueError, FileNotFoundError), match=r'losses.mdf.mdf'):
        read_family(file)  # nobody has the discriminators beforehand


SETS = {'dncnn_jpeg': {'basicsr': ['DIV2K_q10', 'DIV2K_q7'], 'mmagic': ['q10', 'q7']}}


@pytest.mark.parametrize('host', ['basicsr', 'mmagic'])
@pytest.mark.parametrize('file', FAMILIES, ids=lambda f: f.stem)
def test_the_shipped_families_make_option_files_for_either_host(file, host, tmp_path):
    pytest.importorskip('mmengine' if host == 'mmagic' else 'basicsr', reason=f'the extra {host} is not installed')
    save_mdf(tmp_path / 'mdf.pth', [Discriminator(4)], {'task': 'sisr', 'range': [0, 1]})
    ending = {'basicsr': '.yml', 'mmagic': '.py'}[host]
    base = ROOT / 'options' / host / f'{file.stem}_mdf{ending}'
    family = read_family(file, base, weights={'mdf': str(tmp_path / 'mdf.pth')})
    made = runs.host_of(family, seed=3)
    if file.stem in SETS:
        assert list(made.sets('test')) == SETS[file.stem][host]
    for name in ('l1', 'vgg_l2', 'mdf') if host == 'basicsr' else ('vgg_l2',):  # mmengine takes its time to write one
        terms = family.losses[name]
        path = tmp_path / f'{name}{ending}'
        path.write_text(made.option_text(tmp_path, name, terms, steps=100))
        if host == 'basicsr':
            options = read_yaml(path)
            pixel, steps, seed = options['train']['pixel_opt'], options['train']['total_iter'], options['manual_seed']
        else:
            from mmengine.config import Config

            options = Config.fromfile(str(path), import_custom_modules=False)
            hook, between = options.default_hooks.checkpoint, options.train_cfg.val_interval
            assert (hook.interval, hook.save_begin, hook.save_last) == (between, between // 2, False)
            assert hook.max_keep_ckpts >= 2
            pixel, steps, seed = options.model.pixel_loss, options.train_cfg.max_iters, options.randomness.seed
        assert dict(pixel) == {'type': 'LossSum', 'grad_norms': True, 'terms': terms}
        assert (steps, seed) == (100, 3)


def test_the_eight_losses_build_and_pull_a_patch_of_96_px_towards_the_target(tmp_path, squeezenet_weights):
    """The published patch size; VGG with random weights, LPIPS with its small backbone."""
    save_mdf(tmp_path / 'mdf.pth', [Discriminator(4), Discriminator(4)], {'task': 'sisr', 'range': [0, 1]})
    features = torch.nn.ModuleDict({'features': models.vgg.make_layers(models.vgg.cfgs['E'])})
    torch.save(features.state_dict(), tmp_path / 'vgg19.pth')
    terms = {'vgg': {'weights': str(tmp_path / 'vgg19.pth')}, 'mdf': {'weights': str(tmp_path / 'mdf.pth')},
             'lpips': {'weights': str(squeezenet_weights), 'options': {'net': 'squeeze'}}}  # fmt: skip
    eight = ROOT / 'options' / 'compare' / 'eight_losses.yml'
    family = read_family(write_family(tmp_path, losses=str(eight), terms=terms, against=None, search=None))
    target = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12), size=96, mode='bicubic').clamp(0, 1)
    noise = 0.1 * torch.randn_like(target)
    for name, own in family.losses.items():
        loss = LossSum(own)
        pred = (target + noise).requires_grad_()
        value = loss(pred, target)
        value.backward()
        assert value > loss(target.clone(), target), name
        assert (pred.grad * noise).sum() > 0, name  # down the gradient is less noise


# --- option files of the runs


def test_two_losses_differ_in_nothing_but_the_loss(tmp_path):
    family = read_family(write_family(tmp_path))
    host = BasicSRRuns(family, seed=5)
    made = {}
    for name, terms in family.losses.items():
        file = tmp_path / f'{name}.yml'
        file.write_text(host.option_text(tmp_path / 'x', name, terms))
        made[name] = read_yaml(file)
        assert made[name]['plugin'] == 'nriqa_plugin.basicsr.VERSION'
        assert made[name]['train'].pop('pixel_opt') == {'type': 'LossSum', 'grad_norms': True, 'terms': terms}
        assert made[name].pop('name') == name
    assert made['l1'] == made['ssim_l2']
    assert made['l1']['manual_seed'] == 5
    expected = base_options(tmp_path)
    for section in ('network_g', 'datasets'):
        assert made['l1'][section] == expected[section]


def test_the_written_option_file_is_what_basicsr_reads(tmp_path):
    options = pytest.importorskip('basicsr.utils.options', reason='the extra basicsr is not installed')
    family = read_family(write_family(tmp_path))
    file = tmp_path / 'run.yml'
    file.write_text(BasicSRRuns(family, 0).option_text(tmp_path, 'run', SSIM_L2))
    read = options.yaml_load(str(file))
    assert read['train']['pixel_opt']['terms'] == SSIM_L2
    assert isinstance(read['plugin'], str)


def test_a_test_applies_the_network_as_the_validation_does(tmp_path, monkeypatch):
    """The host's video model reads these under ``val`` whenever it runs a network."""
    options = base_options(tmp_path)
    options['val']['flip_seq'] = True
    monkeypatch.setattr('nriqa_plugin.compare.basicsr_runs.follow', lambda *args, **more: None)
    BasicSRRuns(read_family(write_family(tmp_path, options)), 0).test(tmp_path / 'run.yml', 'net.pth', 'test', None)
    assert read_yaml(tmp_path / 'run_test.yml')['val'] == {
        'flip_seq': True, 'save_img': True, 'suffix': None, 'metrics': None
    }  # fmt: skip


def test_a_shorter_training_keeps_the_curve_of_its_learning_rate(tmp_path):
    host = BasicSRRuns(read_family(write_family(tmp_path, base_options(tmp_path, steps=1000))), 0)
    file = tmp_path / 'short.yml'
    file.write_text(host.option_text(tmp_path, 'short', L1, steps=100))
    options = read_yaml(file)
    assert options['train']['total_iter'] == 100
    assert options['train']['scheduler']['milestones'] == [50]
    assert options['val']['val_freq'] == 20
    assert options['logger']['save_checkpoint_freq'] == 20
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    short = shorter({'type': 'ExponentialLR', 'gamma': 0.001 ** (1 / 1000)}, 0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, short['gamma'])
    for _ in range(100):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]['lr'] == pytest.approx(0.1 * 0.001)
    many = [{'type': 'LinearLR', 'begin': 0, 'end': 10}, {'type': 'CosineAnnealingLR', 'T_max': 990, 'begin': 10}]
    assert shorter(many, 0.5) == [
        {'type': 'LinearLR', 'begin': 0, 'end': 5},
        {'type': 'CosineAnnealingLR', 'T_max': 495, 'begin': 5},
    ]
    assert shorter({'milestones': [3, 500]}, 0.01) == {'milestones': [1, 5]}
    assert shorter(None, 0.5) is None


def test_every_schedule_shrinks_and_what_is_off_stays_off(tmp_path):
    assert shorter({'milestones': [400], 'restarts': [0, 500], 'restart_weights': [1, 0.5]}, 0.1) == {
        'milestones': [40], 'restarts': [0, 50], 'restart_weights': [1, 0.5],
    }  # fmt: skip
    periods = shorter({'type': 'CosineAnnealingRestartLR', 'periods': [250] * 4}, 0.009)['periods']
    assert sum(periods) == 9  # the host has no rate for an iteration after the last one
    terms = {'l1': {**L1['l1'], 'start_iter': 0, 'stop_iter': 500, 'warmup_iter': 100, 'every': 4}}
    assert shorter_terms(terms, 0.1)['l1'] == {
        **L1['l1'], 'start_iter': 0, 'stop_iter': 50, 'warmup_iter': 10, 'every': 4
    }  # fmt: skip
    options = base_options(tmp_path, steps=1000)
    for warmup, expected in ((200, 20), (-1, -1)):
        options['train']['warmup_iter'] = warmup
        host = BasicSRRuns(read_family(write_family(tmp_path, options)), 0)
        (tmp_path / 'short.yml').write_text(host.option_text(tmp_path, 'short', terms, steps=100))
        train = read_yaml(tmp_path / 'short.yml')['train']
        assert train['warmup_iter'] == expected
        assert train['pixel_opt']['terms'] == shorter_terms(terms, 0.1)
    (tmp_path / 'whole.yml').write_text(host.option_text(tmp_path, 'whole', terms))
    assert read_yaml(tmp_path / 'whole.yml')['train']['pixel_opt']['terms'] == terms


def test_a_validation_that_was_cut_off_is_made_up_for(tmp_path):
    """The host writes the state of iteration 20 and then validates; resumed from there it would not validate again."""
    host = BasicSRRuns(read_family(write_family(tmp_path, base_options(tmp_path, steps=40))), 0)
    file, experiment = tmp_path / 'x.yml', tmp_path / 'experiments' / 'x'
    file.write_text(host.option_text(tmp_path, 'x', L1))
    (experiment / 'training_states').mkdir(parents=True)
    (experiment / 'models').mkdir()
    states = {i: experiment / 'training_states' / f'{i}.state' for i in (20, 30, 40)}
    best, table = experiment / 'models' / 'net_g_best_val_psnr.pth', experiment / 'validation.csv'

    def history(*values):
        rows = ''.join(f'{20 * (i + 1)},val,psnr,{v}\n{20 * (i + 1)},more,psnr,9\n' for i, v in enumerate(values))
        table.write_text('iteration,dataset,metric,mean\n' + rows)

    assert host._state_to_resume(file) is None
    states[20].touch()
    os.utime(states[20], ns=(10, 10))
    assert host._state_to_resume(file) is None  # killed in the first validation: begin again
    history(25.0)
    assert host._state_to_resume(file) is None  # killed before the best checkpoint was written
    best.touch()
    os.utime(best, ns=(20, 20))
    assert host._state_to_resume(file) == states[20]
    states[30].touch()
    assert host._state_to_resume(file) == states[30]  # no validation was due there
    states[40].touch()
    assert host._state_to_resume(file) == states[40]  # the host validates at the end anyway
    options = read_yaml(file)
    options['train']['total_iter'] = 60
    file.write_text(yaml_text(options))
    assert host._state_to_resume(file) == states[30]
    history(25.0, 26.0)
    os.utime(best, ns=(5, 5))
    assert host._state_to_resume(file) == states[30]  # it may be the best one, and was not written
    history(25.0, 24.5, 24.0)
    assert host._state_to_resume(file) == states[40]  # it was not the best one


def test_overrides_reach_the_option_file_and_a_wrong_place_is_refused(tmp_path):
    file = write_family(tmp_path, set={'basicsr': {'datasets:train:gt_size': 32}, 'mmagic': {'a.b': 1}})
    host = BasicSRRuns(read_family(file, settings={'train:total_iter': 6}), 0)
    assert host.base['datasets']['train']['gt_size'] == 32
    assert host.total() == 6
    with pytest.raises(ValueError, match="there is no 'datasetz' for 'datasetz:train:gt_size' in the base file"):
        BasicSRRuns(read_family(file, settings={'datasetz:train:gt_size': 1}), 0)


@pytest.mark.parametrize(
    'name', ['basicvsrpp_x4_perceptual', 'rbpn_x4_charbonnier', 'simple_vsr_x2_mse', 'basicvsrpp_x4_clipiqa_lpips']
)
def test_video_networks_of_mmagic_are_refused_before_anything_runs(name, tmp_path):
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    family = read_family(write_family(tmp_path), ROOT / 'options' / 'mmagic' / f'{name}.py')
    kind = {'basi': 'BasicFramesDataset', 'rbpn': 'BasicFramesDataset', 'simp': 'MovingDigitsDataset'}[name[:4]]
    with pytest.raises(
        ValueError, match=rf'{name}.py: {kind} gives clips.* in BasicSR only.*basicvsrpp_x4_perceptual.yml'
    ):
        runs.run_family(family, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('section', 'key', 'value', 'message'),
    [
        (None, 'model_type', 'SRModel', 'model_type must be PerceptualModel'),
        ('val', 'save_best', None, 'val.save_best must name the metric'),
        ('train', 'total_iter', None, 'has no train.total_iter'),
    ],
)
def test_a_base_file_that_cannot_serve_is_refused(section, key, value, message, tmp_path):
    options = base_options(tmp_path)
    (options[section] if section else options)[key] = value
    with pytest.raises(ValueError, match=f'base.yml.*{message}'):
        BasicSRRuns(read_family(write_family(tmp_path, options)), 0)


def test_test_sets_are_the_validation_set_on_other_folders(tmp_path):
    sets = {'a': {'gt': 'x', 'lq': 'y', 'filename_tmpl': '{}x4'}}
    host = BasicSRRuns(read_family(write_family(tmp_path, test=sets)), 0)
    assert host.sets('test')['a'] == {
        **base_options(tmp_path)['datasets']['val'], 'name': 'a', 'dataroot_gt': 'x', 'dataroot_lq': 'y',
        'filename_tmpl': '{}x4',
    }  # fmt: skip
    assert list(host.sets('validation')) == ['val']
    with pytest.raises(ValueError, match='test.a needs lq, as the validation set'):
        BasicSRRuns(read_family(write_family(tmp_path, test={'a': {'gt': 'x'}})), 0).sets('test')
    alone = BasicSRRuns(read_family(write_family(tmp_path, test=None)), 0)
    assert alone.sets('test') == alone.sets('validation')


def test_names_behind_python_tags_are_kept_and_not_imported(tmp_path):
    file = tmp_path / 'a.yml'
    file.write_text('plugin: !!python/name:there_is_no.such_thing\nnumber: 1.0e-3\n')
    read = read_yaml(file)
    assert read == {'plugin': 'there_is_no.such_thing', 'number': 0.001}
    file.write_text(yaml_text(read))
    assert 'plugin: !!python/name:there_is_no.such_thing' in file.read_text()
    assert read_yaml(file) == read
    assert PLUGIN.strip() in PLUGIN


# --- the runs, on a host that trains nothing


@pytest.fixture
def fake(tmp_path, monkeypatch):
    write_images(tmp_path, side=32)
    host = FakeHost(tmp_path, lambda terms: 0.01 if 'ssim' in terms else 0.02)
    monkeypatch.setattr(runs, 'host_of', lambda family, seed=0: host)
    return host


def test_finished_trainings_are_skipped_and_an_interrupted_one_goes_on(fake, tmp_path):
    family, out = read_family(write_family(tmp_path)), tmp_path / 'out'
    fake.interrupt.add('ssim_l2')
    with pytest.raises(KeyboardInterrupt):
        run_family(family, out)
    assert read_state(out / 'l1')['status'] == 'finished'
    assert read_state(out / 'ssim_l2') == {}
    outcomes = run_family(family, out)
    assert [outcome.status for outcome in outcomes] == ['finished', 'finished']
    assert fake.trained == ['l1', 'ssim_l2', 'ssim_l2']
    assert fake.tested == ['l1:test', 'ssim_l2:test']
    run_family(family, out)
    assert len(fake.trained) == 3


def test_changed_options_are_refused_before_anything_runs(fake, tmp_path):
    out = tmp_path / 'out'
    run_family(read_family(write_family(tmp_path), only=['ssim_l2']), out)
    fake.trained.clear()
    with pytest.raises(ValueError, match=r'ssim_l2 was begun with other options .*steps: 100.*steps: 7'):
        run_family(read_family(write_family(tmp_path)), out, steps=7)
    assert fake.trained == []


def test_another_content_of_a_weights_file_is_another_training(fake, tmp_path):
    weights = tmp_path / 'w.pth'
    weights.write_text('one')
    terms = {'l1': {**L1['l1'], 'weights': str(weights)}}
    Training(fake, tmp_path / 'l1', 'l1', terms).run('test')
    weights.write_text('two')
    with pytest.raises(ValueError, match='begun with other options.*w.pth: sha256'):
        Training(fake, tmp_path / 'l1', 'l1', terms).check_unchanged()


def test_a_training_that_breaks_down_is_recorded_and_the_others_go_on(fake, tmp_path):
    family, out = read_family(write_family(tmp_path)), tmp_path / 'out'
    fake.breaks.add('l1')
    broken, whole = run_family(family, out)
    assert (broken.status, broken.error, whole.status) == ('failed', 'loss is NaN', 'finished')
    fake.breaks.clear()
    assert run_family(family, out)[0] == broken  # not tried again unless asked for
    assert fake.trained.count('l1') == 1
    assert run_family(family, out, retry=True)[0].status == 'finished'
    assert fake.trained == ['l1', 'ssim_l2', 'l1']


def test_a_broken_training_may_be_run_again_with_other_options(fake, tmp_path):
    family, out = read_family(write_family(tmp_path), only=['l1']), tmp_path / 'out'
    fake.breaks.add('l1')
    run_family(family, out)
    fake.breaks.clear()
    with pytest.raises(ValueError, match='begun with other options'):
        run_family(family, out, steps=7)
    assert run_family(family, out, steps=7, retry=True)[0].status == 'finished'
    assert read_yaml(out / 'l1' / 'l1.yml')['steps'] == 7


def test_a_test_that_breaks_down_costs_no_second_training(fake, tmp_path):
    family, out = read_family(write_family(tmp_path), only=['l1']), tmp_path / 'out'
    fake.test_breaks.add('l1')
    assert run_family(family, out)[0].error == 'the test failed'
    fake.test_breaks.clear()
    assert run_family(family, out, retry=True)[0].status == 'finished'
    assert fake.trained == ['l1']


def test_a_training_without_a_finite_validation_value_has_broken_down(fake, tmp_path):
    fake.best = lambda file: None
    outcome = Training(fake, tmp_path / 'l1', 'l1', L1).run('test')
    assert outcome.status == 'failed'
    assert 'no best checkpoint' in outcome.error


def test_other_test_sets_are_tested_without_training_again(fake, tmp_path):
    family, out = read_family(write_family(tmp_path), only=['l1']), tmp_path / 'out'
    run_family(family, out)
    fake.test_folder = 'val'
    run_family(family, out)
    assert fake.trained == ['l1']
    assert fake.tested == ['l1:test', 'l1:test']
    assert {path.name for path in list_images(out / 'l1' / 'test')} == {f'val{i}_l1.png' for i in range(3)}


@pytest.fixture
def undrawn(monkeypatch):
    """Figures take their time."""
    monkeypatch.setattr(judging, '_figures', lambda *args: [])


def test_scores_of_other_images_with_the_same_names_are_made_again(fake, undrawn, tmp_path):
    family, out = read_family(write_family(tmp_path), only=['l1']), tmp_path / 'out'
    write_comparison(family, run_family(family, out), out)
    (tmp_path / 'other').mkdir()
    for i in range(3):
        (tmp_path / 'test' / 'gt' / f'test{i}.png').rename(tmp_path / 'other' / f'test{i}.png')
        Image.new('RGB', (32, 32), (90,) * 3).save(tmp_path / 'test' / 'gt' / f'test{i}.png')
    fake.sets = lambda which: {'held_out': {'gt': str(tmp_path / 'test' / 'gt'), 'other': True}}
    (found,) = run_family(family, out, report_only=True)
    assert found.status == 'not run'
    assert 'of other test sets' in found.error
    rows, _ = write_comparison(family, run_family(family, out), out)
    expected = [create_scorer('psnr')(*(read_image(path)[None] for path in (out / 'l1' / 'test' / f'test{i}_l1.png',
                tmp_path / 'test' / 'gt' / f'test{i}.png'))).item() for i in range(3)]  # fmt: skip
    assert next(row.mean for row in rows if row.metric == 'psnr') == pytest.approx(np.mean(expected), rel=1e-6)


def test_images_that_a_judge_cannot_score_fail_their_own_training_only(fake, undrawn, tmp_path):
    family, out = read_family(write_family(tmp_path)), tmp_path / 'out'
    outcomes = run_family(family, out)
    shutil.copy(tmp_path / 'test' / 'gt' / 'test1.png', out / 'l1' / 'test' / 'test1_l1.png')  # infinite PSNR
    rows, checked = write_comparison(family, outcomes, out)
    assert [outcome.status for outcome in checked] == ['failed', 'finished']
    assert 'the psnr of test1.png on held_out is inf' in checked[0].error
    assert {row.method for row in rows} == {'ssim_l2'}
    assert 'the psnr of test1.png' in (out / 'report.html').read_text()


def test_a_comparison_leaves_a_run_index_for_the_report(fake, undrawn, tmp_path):
    family, out = read_family(write_family(tmp_path)), tmp_path / 'out'
    rows, _ = write_comparison(family, run_family(family, out), out)
    index = read_runs(out)
    assert index.baseline == family.against
    assert [(run.name, run.dataset) for run in index.runs] == [(name, 'held_out') for name in family.losses]
    for run in index.runs:
        scores = read_scores(run.scores)
        for row in (row for row in rows if row.method == run.name):
            assert scores.mean(row.metric) == pytest.approx(row.mean, rel=1e-12)
        assert run.suffix == f'_{run.name}'
        assert {path.stem for path in list_images(run.images)} >= {f'test{i}{run.suffix}' for i in range(3)}
        assert {path.stem for path in list_images(run.references)} == {f'test{i}' for i in range(3)}


def test_wrong_judges_are_known_before_the_first_training(fake, tmp_path):
    for changes, message in (
        ({'judges': ['psnr', 'psnrr']}, r'family.yml: judges\[1\].*psnrr'),
        ({'judges': ['psnr', {'metric': 'psnr', 'crop_border': 4}]}, r"judges\[1\].*a second judge called 'psnr'"),
        ({'plane': ['psnr', 'niqe']}, "metric in plane: 'niqe'"),
        ({'search': {'l1': {'term': 'l1', 'select_by': 'nique'}}}, 'search.l1.select_by.*nique'),
    ):
        file = write_family(tmp_path, **changes)
        with pytest.raises(ValueError, match=message):
            judges_of(read_family(file))
        result = CliRunner().invoke(app, ['compare', str(file), '-o', str(tmp_path / 'out')])
        assert result.exit_code == 2
        assert fake.trained == []


def test_without_its_reference_the_report_speaks_of_no_stars(fake, undrawn, tmp_path):
    fake.breaks.add('ssim_l2')
    result = CliRunner().invoke(app, ['compare', str(write_family(tmp_path)), '-o', str(tmp_path / 'out')])
    assert result.exit_code == 1, result.output
    assert 'is better' not in result.output
    assert 'tested against' not in (tmp_path / 'out' / 'report.html').read_text()


def test_report_only_runs_nothing_and_says_what_is_missing(fake, tmp_path):
    family, out = read_family(write_family(tmp_path)), tmp_path / 'out'
    run_family(read_family(write_family(tmp_path), only=['l1']), out)
    fake.trained.clear()
    found = run_family(family, out, report_only=True)
    assert [outcome.status for outcome in found] == ['finished', 'not run']
    assert fake.trained == []


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux kills a process with its parent')
def test_a_followed_command_dies_with_its_parent(tmp_path):
    child = f'import pathlib, time; pathlib.Path({str(tmp_path / "started")!r}).touch(); time.sleep(60)'
    parent = f'import sys; from nriqa_plugin.stock_runs import follow; follow([sys.executable, "-c", {child!r}], print)'
    process = subprocess.Popen([sys.executable, '-c', parent], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (tmp_path / 'started').exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(process.pid)], capture_output=True, text=True).stdout
    (pid,) = map(int, children.split())
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'  # one that nobody has waited for is dead too
    except FileNotFoundError:
        return False


def test_what_a_followed_command_says_is_logged_and_its_end_stands_in_the_error(tmp_path):
    heard = []
    follow([sys.executable, '-c', 'print("one"); print("two")'], heard.append, log=tmp_path / 'log.txt')
    assert heard == ['one\n', 'two\n']
    with pytest.raises(RuntimeError, match='failed:\nthe reason'):
        follow([sys.executable, '-c', 'raise SystemExit("the reason")'], heard.append, log=tmp_path / 'log.txt')
    with pytest.raises(RuntimeError, match=r'killed by signal 9 \(out of memory\?\)$'):
        follow([sys.executable, '-c', 'import os; os.kill(os.getpid(), 9)'], heard.append)
    assert (tmp_path / 'log.txt').read_text() == 'one\ntwo\nthe reason\n'


def test_a_callback_ends_a_followed_command_at_once():
    def stop(line):
        raise StopTraining

    began = time.monotonic()
    with pytest.raises(StopTraining):
        follow([sys.executable, '-c', 'import time; print("one", flush=True); time.sleep(300)'], stop)
    assert time.monotonic() - began < 120


# --- the search


def test_the_search_picks_the_known_best_weight_and_the_training_uses_it(fake, tmp_path):
    """The noise is least at the middle of the grid, so PSNR must choose it."""
    fake.noise_of = lambda terms: (
        0.01 + 0.02 * abs(math.log10(terms['ssim']['weight'] / 0.1)) if 'ssim' in terms else 0.0
    )
    family, out = read_family(write_family(tmp_path)), tmp_path / 'out'
    run_family(family, out, search=['ssim_l2'])
    with open(out / 'search' / 'ssim_l2' / 'search.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(row['weight'], row['chosen']) for row in rows] == [('0.01', 'False'), ('0.1', 'True'), ('1.0', 'False')]
    assert float(rows[1]['criterion']) > max(float(rows[0]['criterion']), float(rows[2]['criterion']))
    assert fake.texts['ssim_l2']['ssim']['weight'] == 0.1
    assert [name for name in fake.tested if name.endswith(':test')] == ['l1:test', 'ssim_l2:test']
    assert sum(name.endswith(':validation') for name in fake.tested) == 3
    assert read_yaml(out / 'search' / 'ssim_l2' / 'ssim_l2_0p01' / 'ssim_l2_0p01.yml')['steps'] == 10
    trained = len(fake.trained)
    run_family(family, out, search=['ssim_l2'])
    assert len(fake.trained) == trained


def test_a_broken_weight_is_passed_over_and_nothing_but_broken_ones_is_an_error(fake, tmp_path):
    fake.noise_of = lambda terms: terms['ssim']['weight'] if 'ssim' in terms else 0.0
    family = read_family(write_family(tmp_path), only=['ssim_l2'])
    fake.breaks.add('ssim_l2_0p01')  # it would have been the best
    run_family(family, tmp_path / 'a', search=['ssim_l2'])
    assert fake.texts['ssim_l2']['ssim']['weight'] == 0.1
    fake.breaks |= {'ssim_l2_0p1', 'ssim_l2_1'}
    both = run_family(read_family(write_family(tmp_path)), tmp_path / 'b', search=['ssim_l2'])
    assert [outcome.status for outcome in both] == ['finished', 'failed']  # the other training went on
    assert 'no training has a finite criterion' in both[1].error
    with pytest.raises(ValueError, match="loss in search of .*: 'l1'"):
        run_family(read_family(write_family(tmp_path)), tmp_path / 'c', search=['l1'])


def test_the_default_criterion_is_the_geometric_mean_of_the_terms_without_their_weights(tmp_path):
    write_images(tmp_path, side=32)
    host = FakeHost(tmp_path)
    results = Training(host, tmp_path / 'x', 'x', SSIM_L2).run('validation').results
    errors, ssims = [], []
    for path in list_images(tmp_path / 'val' / 'gt'):
        pred, target = (read_image(file)[None] for file in (tmp_path / 'x' / 'validation' / f'{path.stem}_x.png', path))
        errors.append(((pred - target) ** 2).mean().item())
        ssims.append((1 - create_scorer('ssim')(pred, target).item()) / 2)  # the unit scale is of [-1, 1]
    expected = math.sqrt(np.mean(errors) * np.mean(ssims))
    value, parts = criterion('terms', SSIM_L2, results, tmp_path / 'x')
    assert value == pytest.approx(expected, rel=1e-5)
    assert parts == pytest.approx({'ssim': np.mean(ssims), 'l2': np.mean(errors)}, rel=1e-5)
    scaled = {name: {**term, 'weight': 1000.0, 'start_iter': 5} for name, term in SSIM_L2.items()}
    assert criterion('terms', scaled, results, tmp_path / 'x')[0] == value  # neither weights nor schedules matter
    negative = {'ssim': {**SSIM_L2['ssim'], 'scale': 'native'}}
    with pytest.raises(ValueError, match="select_by: the term 'ssim' has the value -"):
        criterion('terms', negative, results, tmp_path / 'x')


def test_term_values_are_means_over_images(tmp_path):
    for i, value in enumerate((10, 30)):
        Image.new('RGB', (16, 16), (value,) * 3).save(tmp_path / f'{i}.png')
    Image.new('RGB', (16, 16), (0, 0, 0)).save(tmp_path / 'truth.png')
    pairs = [(tmp_path / f'{i}.png', tmp_path / 'truth.png') for i in range(2)]
    assert term_values(L1, pairs)['l1'] == pytest.approx(20 / 255)


def test_choosing_knows_the_direction_and_passes_over_nan():
    values = {1.0: 3.0, 0.1: 2.0, 10.0: math.nan, 100.0: 2.0}
    assert choose(values) == 0.1  # of equal ones the smaller weight
    assert choose(values, lower=False) == 1.0
    assert choose({1.0: math.nan}) is None


# --- the report


def test_the_command_reports_what_finished_and_exits_with_1_when_something_broke(fake, tmp_path):
    file, out = write_family(tmp_path), tmp_path / 'out'
    fake.breaks.add('l1')
    result = CliRunner().invoke(app, ['compare', str(file), '-o', str(out)])
    assert result.exit_code == 1, result.output
    assert 'l1 broke down: loss is NaN' in result.output
    fake.breaks.clear()
    result = CliRunner().invoke(app, ['compare', str(file), '-o', str(out), '--retry'])
    assert result.exit_code == 0, result.output
    assert 'ssim_l2 is better' in result.output
    with open(out / 'scores.csv', newline='') as lines:
        scores = list(csv.DictReader(lines))
    assert len(scores) == 2 * 2 * 3  # losses, judges, images
    one = next(s for s in scores if (s['loss'], s['metric'], s['image']) == ('l1', 'psnr', 'test1'))
    pair = [
        read_image(path)[None]
        for path in (out / 'l1' / 'test' / 'test1_l1.png', tmp_path / 'test' / 'gt' / 'test1.png')
    ]
    assert float(one['score']) == pytest.approx(create_scorer('psnr')(*pair).item(), rel=1e-6)
    with open(out / 'table.csv', newline='') as lines:
        rows = {(row['method'], row['metric']): row for row in csv.DictReader(lines)}
    assert rows['l1', 'psnr']['star'] == '*'  # twice the noise on every image
    assert rows['ssim_l2', 'psnr']['star'] == ''
    for name in ('violins_held_out', 'plane_held_out'):
        assert (out / f'{name}.png').read_bytes()[:4] == b'\x89PNG'
        assert (out / f'{name}.pdf').read_bytes()[:4] == b'%PDF'
    page = (out / 'report.html').read_text()
    assert page.count('data:image/png;base64,') == 2
    assert '<b>ssim_l2</b>' in page
    assert 'http' not in page.replace('http-equiv', '')


def test_a_wrong_argument_is_one_red_line(tmp_path):
    result = CliRunner().invoke(app, ['compare', str(write_family(tmp_path)), '-o', str(tmp_path / 'o'), '-w', 'mdf'])
    assert result.exit_code == 2
    assert "--weights must be KEY=VALUE, got 'mdf'" in result.output


def test_a_list_of_names_takes_its_ground_truths_out_of_a_larger_folder_and_grey_is_refused(fake, undrawn, tmp_path):
    family = read_family(write_family(tmp_path), only=['l1'])
    (outcome,) = run_family(family, tmp_path / 'out')
    Image.new('RGB', (32, 32)).save(tmp_path / 'test' / 'gt' / 'another.png')
    rows, _ = write_comparison(family, [outcome], tmp_path / 'out')
    assert {row.n for row in rows} == {3}
    for path in list_images(tmp_path / 'out' / 'l1' / 'test'):
        Image.open(path).convert('L').save(path)
    with pytest.raises(ValueError, match='is grey but its ground truth'):
        write_comparison(family, [outcome], tmp_path / 'out')


def test_nothing_finished_gives_a_page_that_says_so(tmp_path):
    family = read_family(write_family(tmp_path))
    broken = [Outcome('l1', 'failed', 'it is <NaN>')]
    assert write_comparison(family, broken, tmp_path / 'out') == ([], broken)
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert 'it is &lt;NaN&gt;' in page


# --- through the stock scripts

ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}


def compare(folder, *arguments):
    command = [sys.executable, '-m', 'nriqa_plugin', 'compare', 'family.yml', '-o', 'out', *arguments]
    return subprocess.Popen(
        command, cwd=folder, env={**ENVIRONMENT, 'PYTHONPATH': str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_the_stock_script_trains_from_the_written_file_and_keeps_the_best_checkpoint(tmp_path):
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    write_images(tmp_path)
    host = BasicSRRuns(read_family(write_family(tmp_path)), seed=0)
    training = Training(host, tmp_path / 'l1', 'l1', L1, steps=10)
    training.folder.mkdir()
    training.file.write_text(training.option_text())
    seen = []
    host.train(training.file, seen.append, training.folder / 'log.txt')
    assert seen == list(range(1, 11))
    assert host.best(training.file).name == 'net_g_best_val_psnr.pth'


@pytest.mark.slow
def test_a_killed_family_goes_on_through_stock_basicsr_and_ends_in_a_report(tmp_path):
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    write_images(tmp_path)
    options = base_options(tmp_path, steps=600)
    options['val']['val_freq'] = options['logger']['save_checkpoint_freq'] = 100
    host = BasicSRRuns(read_family(write_family(tmp_path, options)), 0)
    process = compare(tmp_path)
    states = tmp_path / 'out' / 'l1' / 'experiments' / 'l1' / 'training_states'
    deadline = time.monotonic() + 300
    while len(list(states.glob('*.state'))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)
    latest = max(int(path.stem) for path in states.glob('*.state'))
    assert latest < 600, 'it was faster than the signal'
    begun = int(host._state_to_resume(tmp_path / 'out' / 'l1' / 'l1.yml').stem)
    assert begun in (latest, latest - 100)  # one earlier when its validation was cut off
    assert 'state.json' not in os.listdir(tmp_path / 'out' / 'l1')
    process = compare(tmp_path)
    text, _ = process.communicate(timeout=900)
    assert process.returncode == 0, text
    log = (tmp_path / 'out' / 'l1' / 'log.txt').read_text()
    assert f'Resuming training from epoch: 0, iter: {begun}' in log
    with open(states.parent / 'validation.csv', newline='') as lines:
        assert [int(row['iteration']) for row in csv.DictReader(lines)] == [100, 200, 300, 400, 500, 600]
    assert not list((tmp_path / 'out' / 'l1' / 'experiments').glob('*archived*'))
    assert 'held_out: mean (bad tail) over 3 images' in text
    assert (tmp_path / 'out' / 'violins_held_out.pdf').is_file()
    changed = compare(tmp_path, '--steps', '10')
    text, _ = changed.communicate(timeout=300)
    assert changed.returncode == 2
    assert 'was begun with other options' in text


@pytest.mark.slow
def test_a_family_runs_through_stock_mmagic_with_another_base(tmp_path):
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from tests.mmagic_runs import paired, pipeline, write_config

    write_images(tmp_path)
    write_family(tmp_path)
    write_config(
        tmp_path,
        'other',
        'mmagic::srgan_resnet/msrresnet_x4c64b16_1xb16-1000k_div2k.py',
        custom_imports={'imports': ['nriqa_plugin.mmagic'], 'allow_failed_imports': False},
        model={'generator': {'mid_channels': 4, 'num_blocks': 1}},
        train_dataloader={
            'num_workers': 0, 'batch_size': 1, 'dataset': {**paired(tmp_path / 'train'), 'pipeline': pipeline()}
        },
        val_dataloader={'num_workers': 0, 'dataset': paired(tmp_path / 'val')},
        val_evaluator={'metrics': [{'type': 'PSNR'}]},
        train_cfg={'max_iters': 100, 'val_interval': 50},
        default_hooks={'perceptual': {'type': 'PerceptualHook'}, 'checkpoint': {'save_best': 'PSNR', 'rule': 'greater'}},
        optim_wrapper={'optimizer': {'lr': 1e-3}},
        param_scheduler=None,
    )  # fmt: skip
    process = compare(tmp_path, '--base', 'other.py', '--steps', '20')
    text, _ = process.communicate(timeout=900)
    assert process.returncode == 0, text
    with open(tmp_path / 'out' / 'table.csv', newline='') as lines:
        rows = list(csv.DictReader(lines))
    assert {(row['dataset'], row['method'], row['n']) for row in rows} == {
        ('held_out', 'l1', '3'), ('held_out', 'ssim_l2', '3')
    }  # fmt: skip
    assert all(5 < float(row['mean']) < 40 for row in rows if row['metric'] == 'psnr')
    assert not list((tmp_path / 'out' / 'l1' / 'work_dir').glob('*/vis_data/vis_image'))
    assert len(list((tmp_path / 'out' / 'l1' / 'work_dir').glob('best_PSNR_iter_*.pth'))) == 1
    assert (tmp_path / 'out' / 'l1' / 'work_dir' / 'last_checkpoint').is_file()  # half-way between validations
