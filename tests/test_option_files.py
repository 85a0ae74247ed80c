"""Every option file that we ship parses as BasicSR parses it, builds, and trains or tests on real tensors."""

import logging
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

pytest.importorskip('basicsr', reason='the extra basicsr is not installed')

import yaml
from basicsr.models import build_model
from basicsr.test import test_pipeline as stock_test_pipeline
from basicsr.utils.options import yaml_load

from nriqa_plugin.archs import RLFN
from nriqa_plugin.iqa.cnniqa import PatchNet
from tests.conftest import ROOT

FILES = sorted((ROOT / 'options' / 'basicsr').glob('*.yml'))
PLUGIN_LINE = 'plugin: !!python/name:nriqa_plugin.basicsr.VERSION'


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """Random weights under the option files' names, and a pair of images."""
    folder = tmp_path_factory.mktemp('small')
    torch.save(RLFN(feature_channels=48).state_dict(), folder / 'rlfn_s_x4.pth')
    torch.save(PatchNet().state_dict(), folder / 'CNNIQA-LIVE.pth')
    torch.save(models.squeezenet1_1(weights=None).state_dict(), folder / 'squeeze.pth')
    lq = Image.fromarray(np.random.default_rng(0).integers(0, 256, (56, 60, 3), dtype=np.uint8))
    for kind, image in (('GTmod12', lq.resize((240, 224), Image.BICUBIC)), ('LRbicx4', lq)):
        (folder / kind).mkdir()
        image.save(folder / kind / 'one.png')
    return folder


def shrunk(option, folder):
    """The same options at a size for tests: local files, LPIPS(squeeze), a tiny network, one CPU."""
    if isinstance(option, list):
        return [shrunk(part, folder) for part in option]
    if not isinstance(option, dict):
        text = str(option)
        return str(folder / text.rpartition('/')[2]) if text.endswith(('.pth', 'GTmod12', 'LRbicx4')) else option
    option = {key: shrunk(value, folder) for key, value in option.items()}
    if option.get('metric') == 'lpips':
        option |= {'options': {'net': 'squeeze'}, 'weights': str(folder / 'squeeze.pth')}
    if option.get('type') == 'MSRResNet':
        option |= {'num_feat': 4, 'num_block': 1}
    if option.get('type') == 'UNetDiscriminatorSN':
        option |= {'num_feat': 4}
    if 'MSRResNet' in str(option.get('pretrain_network_g')):
        option['pretrain_network_g'] = None
    return option


@pytest.mark.parametrize('file', FILES, ids=lambda f: f.stem)
def test_option_files_open_with_their_command_and_load_the_plugin(file):
    text = file.read_text()
    program = 'test' if file.stem.endswith('test') else 'train'
    assert f'#   python -m basicsr.{program} -opt options/basicsr/{file.name}' in text
    assert PLUGIN_LINE in text
    assert yaml_load(str(file))['name'] == file.stem


@pytest.mark.parametrize('file', [f for f in FILES if not f.stem.endswith('test')], ids=lambda f: f.stem)
def test_training_option_files_build_and_take_a_step_with_every_term(file, small, tmp_path):
    opt = shrunk(yaml_load(str(file)), small)
    paths = {key: str(tmp_path / key) for key in ('models', 'training_states', 'visualization', 'experiments_root')}
    (tmp_path / 'models').mkdir()
    opt |= {'num_gpu': 0, 'dist': False, 'rank': 0, 'world_size': 1, 'is_train': True}
    opt['path'] |= paths
    for slot in ('pixel_opt', 'perceptual_opt'):
        for term in opt['train'].get(slot, {}).get('terms', ()):
            term.pop('start_iter', None)  # every term has to act in the one step
    model = build_model(opt)
    side = opt['datasets']['train']['gt_size']
    before = torch.nn.utils.parameters_to_vector(model.net_g.parameters()).detach().clone()
    model.feed_data({'lq': torch.rand(1, 3, side // 4, side // 4), 'gt': torch.rand(1, 3, side, side)})
    model.optimize_parameters(1)
    assert not torch.equal(before, torch.nn.utils.parameters_to_vector(model.net_g.parameters()))
    assert all(np.isfinite(value) for value in model.get_current_log().values())
    if opt['model_type'] == 'PerceptualModel':
        names = {term.name for term in model.cri_pix.terms}
        assert {f'l_{name}' for name in names} | {f'grad_{name}' for name in names} <= model.get_current_log().keys()


@pytest.mark.parametrize('file', [f for f in FILES if f.stem.endswith('test')], ids=lambda f: f.stem)
def test_test_option_files_run_through_the_stock_test_script(file, small, tmp_path, monkeypatch):
    opt = shrunk(yaml_load(str(file)), small)
    opt |= {'num_gpu': 0}
    opt['path']['results_root'] = str(tmp_path / 'results')
    opt.pop('plugin')
    option_file = tmp_path / file.name
    option_file.write_text(f'{PLUGIN_LINE}\n' + yaml.safe_dump(opt))
    monkeypatch.setattr(sys, 'argv', ['test.py', '-opt', str(option_file)])
    logger = logging.getLogger('basicsr')
    monkeypatch.setattr(logger, 'handlers', [])
    monkeypatch.setattr('basicsr.utils.logger.initialized_logger', {})  # a log file of this run's own
    stock_test_pipeline(str(tmp_path))
    assert '# niqe:' in next((tmp_path / 'results').rglob('test_*.log')).read_text()
    assert len(list((tmp_path / 'results').rglob('one_*.png'))) == 1
