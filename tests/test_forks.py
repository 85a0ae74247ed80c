"""Copies and extensions of BasicSR: the plugin registers into whichever ``basicsr`` is imported and trains its models."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
import basicsr
import yaml  # comes with BasicSR

# What a paper's own package holds: a network and a model that the option file names.
PACKAGE = '''
from torch import nn
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

VERSION = '1'


@ARCH_REGISTRY.register()
class FlipNet(nn.Module):
    def __init__(self, upscale):
        super().__init__()
        self.conv = nn.Conv2d(3, 3 * upscale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(upscale)

    def forward(self, x):
        return self.shuffle(self.conv(x))


@MODEL_REGISTRY.register()
class FlipModel(SRModel):
    """Tests with a self-ensemble of two."""

    def test(self):
        super().test()
        whole = self.output
        self.lq = self.lq.flip(-1)
        super().test()
        self.lq, self.output = self.lq.flip(-1), (whole + self.output.flip(-1)) / 2
        print('FLIPPED')
'''
DATA_SET = """
import torch
from torch.utils.data import Dataset
from basicsr.utils.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class OwnDataset(Dataset):
    def __init__(self, opt):
        self.opt = opt
        generator = torch.Generator().manual_seed(0)
        self.gt = torch.rand(3, 32, 32, generator=generator)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {'lq': self.gt[:, ::4, ::4], 'gt': self.gt, 'lq_path': 'one.png', 'gt_path': 'one.png'}
"""
CUT = ('data/*_dataset.py', 'models/video*', 'models/edvr*', 'models/stylegan2*', 'models/hifacegan*', 'models/real*')


def options(folder, model, network, data):
    path = {'experiments_root': 'experiments', 'resume_state': None}
    metrics = {
        'brightness': {'type': 'calculate_iqa', 'metric': 'tests.judges:Brightness'},
        'gain': {'type': 'calculate_relative_gain', 'metric': 'tests.judges:Darkness', 'baseline': 'start'},
    }
    terms = {
        'pixel': {'type': 'L1Loss', 'weight': 1.0},
        'judge': {'type': 'NRIQALoss', 'metric': 'tests.judges:Brightness', 'weight': 0.1},
    }
    train = {
        'optim_g': {'type': 'Adam', 'lr': 0.01}, 'scheduler': {'type': 'MultiStepLR', 'milestones': [9]},
        'total_iter': 4, 'warmup_iter': -1, 'pixel_opt': {'type': 'LossSum', 'terms': terms},
    }  # fmt: skip
    sampling = {'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0, 'dataset_enlarge_ratio': 4}
    opt = {
        'name': 'run', 'model_type': 'PerceptualModel', 'base_model': model, 'scale': 4, 'num_gpu': 0,
        'manual_seed': 0, 'datasets': {'train': {**data, **sampling}, 'val': data}, 'network_g': network,
        'path': path, 'train': train, 'val': {'val_freq': 4, 'save_img': False, 'metrics': metrics},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 4, 'use_tb_logger': False, 'wandb': None},
    }  # fmt: skip
    return yaml.safe_dump(opt)


def train(folder, *lines_and_options):
    (folder / 'run.yml').write_text('\n'.join(lines_and_options))
    command = [sys.executable, '-m', 'basicsr.train', '-opt', 'run.yml']
    path = os.pathsep.join([str(folder), str(ROOT)])
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    log = run.stdout + run.stderr
    assert run.returncode == 0, log
    assert log.count('l_judge: ') == 4, log
    rows = (folder / 'experiments' / 'run' / 'validation.csv').read_text().splitlines()
    assert [row.split(',')[2] for row in rows[-2:]] == ['brightness', 'gain']
    return log


PLUGIN = 'plugin: !!python/name:nriqa_plugin.basicsr.VERSION'


def test_a_model_and_a_network_of_another_package_train_under_perceptual_model(tmp_path):
    (tmp_path / 'paper.py').write_text(PACKAGE)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    for kind, side in (('gt', 32), ('lq', 8)):
        (tmp_path / kind).mkdir()
        image.resize((side, side)).save(tmp_path / kind / 'one.png')
    data = {
        'name': 'one', 'type': 'CheckedPairedImageDataset', 'io_backend': {'type': 'disk'}, 'gt_size': 32,
        'dataroot_gt': 'gt', 'dataroot_lq': 'lq', 'use_hflip': False, 'use_rot': False,
    }  # fmt: skip
    other = 'paper: !!python/name:paper.VERSION'
    log = train(tmp_path, PLUGIN, other, options(tmp_path, 'FlipModel', {'type': 'FlipNet', 'upscale': 4}, data))
    assert 'Model [PerceptualFlipModel] is created' in log
    assert 'FLIPPED' in log


def test_a_copy_of_basicsr_without_video_models_and_data_sets_still_trains(tmp_path):
    copy = tmp_path / 'basicsr'
    shutil.copytree(Path(basicsr.__file__).parent, copy, ignore=shutil.ignore_patterns('__pycache__'))
    for pattern in CUT:
        for file in copy.glob(pattern):
            file.unlink()
    (copy / 'data' / 'own_dataset.py').write_text(DATA_SET)
    data = {'name': 'own', 'type': 'OwnDataset'}
    network = {'type': 'MSRResNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1, 'upscale': 4}
    log = train(tmp_path, PLUGIN, options(tmp_path, 'SRModel', network, data))
    assert f'the basicsr at {copy} has no basicsr.data.paired_image_dataset' in log
    assert 'Model [PerceptualSRModel] is created' in log
