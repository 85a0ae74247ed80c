"""The simple VSR study in both hosts: data sets, option files that differ in their terms alone, stock scripts."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchvision import models

from nriqa_plugin.clips.digit_windows import DigitWindows
from tests.conftest import ROOT

NAMES = tuple(f'simple_vsr_x2_{name}' for name in ('perceptual', 'mse', 'mixture'))
TERMS = {'perceptual': {'perceptual'}, 'mse': {'mse'}, 'mixture': {'perceptual', 'mse'}}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Clips for training and test, and SqueezeNet with random weights."""
    folder = tmp_path_factory.mktemp('digits')
    rng = np.random.default_rng(0)
    for name, count in (('train', 6), ('test', 3)):
        np.save(folder / f'{name}.npy', rng.integers(0, 256, (count, 8, 64, 64), dtype=np.uint8))
    torch.save(models.squeezenet1_1(weights=None).state_dict(), folder / 'squeeze.pth')
    (folder / 'source.json').write_text(json.dumps({'source': 'noise'}))
    return folder


def basicsr_set(**options):
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    from nriqa_plugin.basicsr.moving_digits_data import MovingDigitsDataset

    return MovingDigitsDataset({'name': 'digits', 'type': 'MovingDigitsDataset', 'scale': 2, **options})


def mmagic_set(**options):
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from mmagic.registry import DATASETS
    from mmengine.registry import init_default_scope

    import nriqa_plugin.mmagic  # noqa: F401

    init_default_scope('mmagic')
    return DATASETS.build({'type': 'MovingDigitsDataset', 'pipeline': [{'type': 'PackInputs'}], **options})


def test_validation_sees_the_same_windows_in_both_hosts(files):
    windows = DigitWindows(files / 'test.npy', seed=2)
    ours = basicsr_set(file=str(files / 'test.npy'), phase='val', seed=2)
    theirs = mmagic_set(file=str(files / 'test.npy'), test_mode=True, seed=2)
    assert len(ours) == len(theirs) == 3
    for i in range(3):
        lq, gt = windows.window(i, windows.fixed_start(i))
        item, packed = ours[i], theirs[i]
        assert torch.equal(item['lq'], lq)
        assert torch.equal(item['gt'], gt)
        assert item['lq_path'] == item['gt_path'] == f'test_{i:05d}'
        torch.testing.assert_close(packed['inputs'].float() / 255, lq)
        torch.testing.assert_close(packed['data_samples'].gt_img.float() / 255, gt)
        assert packed['data_samples'].metainfo['gt_path'] == f'test_{i:05d}'
        assert packed['data_samples'].metainfo['gt_channel_order'] == 'rgb'  # the start check asks


def test_training_draws_its_windows_anew(files):
    for dataset, key in ((basicsr_set(file=str(files / 'train.npy'), phase='train'), 'lq'),
                         (mmagic_set(file=str(files / 'train.npy')), 'inputs')):  # fmt: skip
        seen = {dataset[0][key].float().sum().item() for _ in range(40)}
        assert len(seen) == 4, 'windows of 5 begin at 4 places of 8 frames'


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({}, ValueError, "the option 'file' is missing"),
        ({'file': 'none.npy'}, FileNotFoundError, 'MovingDigitsDataset: file: .*none.npy'),
        ({'file': 'train.npy', 'scale': 4}, ValueError, 'scale must be 2, got 4'),
        ({'file': 'train.npy', 'frames': 5}, ValueError, 'frames'),
        ({'file': 'train.npy', 'num_frame': 9}, ValueError, '8 frames, a window has 9'),
    ],
)
def test_wrong_options_of_the_basicsr_data_set_are_named(files, options, error, message, monkeypatch):
    monkeypatch.chdir(files)
    with pytest.raises(error, match=message):
        basicsr_set(**options)


def test_wrong_options_of_the_mmagic_data_set_are_named(files):
    with pytest.raises(ValueError, match=r'MovingDigitsDataset: .*8 frames, a window has 9'):
        mmagic_set(file=str(files / 'train.npy'), num_input_frames=9)


def test_the_basicsr_files_differ_in_name_and_terms_alone():
    yaml = pytest.importorskip('yaml')
    read = {}
    for name in NAMES:
        text = (ROOT / 'options' / 'basicsr' / f'{name}.yml').read_text()
        opt = yaml.safe_load(re.sub(r'(?m)^plugin:.*', '', text))
        assert opt.pop('name') == name
        terms = opt['train']['pixel_opt'].pop('terms')
        assert set(terms) == TERMS[name.rpartition('_')[2]]
        read[name] = (opt, terms)
    assert read[NAMES[0]][0] == read[NAMES[1]][0] == read[NAMES[2]][0]
    for name in ('perceptual', 'mse'):
        alone, mixed = read[f'simple_vsr_x2_{name}'][1][name], read['simple_vsr_x2_mixture'][1][name]
        assert {**alone, 'weight': None} == {**mixed, 'weight': None}


def test_both_hosts_have_the_published_schedule_and_the_same_terms():
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    yaml = pytest.importorskip('yaml')
    from mmengine.config import Config

    for name in NAMES:
        text = (ROOT / 'options' / 'basicsr' / f'{name}.yml').read_text()
        train = yaml.safe_load(re.sub(r'(?m)^plugin:.*', '', text))['train']
        config = Config.fromfile(ROOT / 'options' / 'mmagic' / f'{name}.py')
        epoch = 8000 // config.train_dataloader.batch_size
        assert train['total_iter'] == config.train_cfg.max_iters == 50 * epoch
        for schedule in (train['scheduler'], config.param_scheduler):
            assert (schedule['milestones'], schedule['gamma']) == ([5 * epoch, 15 * epoch], 0.1)
        assert train['optim_g']['lr'] == config.optim_wrapper.optimizer.lr == 1e-4
        terms = {key: {k: v for k, v in term.items() if k != 'weights'} for key, term in
                 config.model.pixel_loss.terms.to_dict().items()}  # fmt: skip
        assert terms == {key: {k: v for k, v in term.items() if k != 'weights'} for key, term in
                         train['pixel_opt']['terms'].items()}  # fmt: skip


@pytest.mark.slow
def test_the_study_trains_all_three_through_the_stock_script_and_goes_on_where_it_stopped(files, tmp_path):
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    command = [sys.executable, str(ROOT / 'tools' / 'simple_vsr_study.py'), '--clips', str(files), '--out', 'out']
    command += ['--squeezenet', str(files / 'squeeze.pth'), '--form', 'paper', '--steps', '4', '--batch', '2']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}

    def run():
        done = subprocess.run(
            [*command, '--test', '3'], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1500
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return (tmp_path / 'out' / 'results.md').read_text()

    text = run()
    assert 'SqueezeNet 1.1 features in place of VGG-19; noise' in text
    rows = dict(re.findall(r'^\| (\w+) \| ([\d.]+) ±', text, re.MULTILINE))
    assert set(rows) == {'bicubic', 'black', 'perceptual', 'mse', 'mixture'}
    assert 'perceptual' in re.search('Gradient norms in the mixture.*', text)[0]
    for picture in ('sheet', 'curves'):
        assert (tmp_path / 'out' / f'{picture}.png').read_bytes().startswith(b'\x89PNG')
    log = next((tmp_path / 'out' / 'experiments' / 'mixture').glob('train_*.log')).read_text()
    assert len(re.findall(r'iter: +\d+, .*l_mse: .*l_perceptual: .*grad_mse: ', log)) == 4
    written = (tmp_path / 'out' / 'experiments' / 'mse' / 'models' / 'net_g_4.pth').stat().st_mtime_ns
    assert run() == text
    assert (tmp_path / 'out' / 'experiments' / 'mse' / 'models' / 'net_g_4.pth').stat().st_mtime_ns == written


@pytest.mark.slow
def test_the_mmagic_config_trains_through_the_stock_script(files, tmp_path):
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from tests.mmagic_runs import logged, run, write_config

    vgg = {'_delete_': True, 'type': 'VGGLoss', 'weight': 0.001, 'grey': True}
    vgg |= {'layers': {'fire2': 1.0}, 'backbone': 'squeezenet1_1', 'weights': str(files / 'squeeze.pth')}
    loader = {'num_workers': 0, 'persistent_workers': False}
    data = {name: {**loader, 'dataset': {'file': str(files / f'{split}.npy'), 'clips': 3}}
            for name, split in (('train_dataloader', 'train'), ('val_dataloader', 'test'))}  # fmt: skip
    data['train_dataloader']['batch_size'] = 2
    config = write_config(
        tmp_path, 'tiny', 'simple_vsr_x2_mixture.py', **data,
        model={'generator': {'form': 'paper'}, 'pixel_loss': {'terms': {'perceptual': vgg}}},
        train_cfg={'max_iters': 4, 'val_interval': 2},
        default_hooks={'logger': {'interval': 1}, 'checkpoint': {'interval': 4, 'out_dir': str(tmp_path)}},
    )  # fmt: skip
    result = run('train', tmp_path, config)
    assert result.returncode == 0, result.text
    steps, validations = logged(tmp_path, 'tiny')
    assert sorted(steps) == [1, 2, 3, 4]
    assert all(np.isfinite(row[key]) for row in steps.values() for key in ('loss_mse', 'loss_perceptual'))
    assert sorted(validations) == [2, 4]
    assert {'objective', 'PSNR', 'SSIM'} <= validations[4].keys()
