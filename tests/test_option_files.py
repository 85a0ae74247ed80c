"""Every option file that we ship parses as BasicSR parses it, builds, and trains or tests on real tensors."""

import logging
import os
import re
import subprocess
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
from basicsr.utils.options import parse_options, yaml_load

from nriqa_plugin.archs import RLFN
from nriqa_plugin.archs.vrt import SMALL as SMALL_VRT
from nriqa_plugin.basicsr.losses import LossSum
from nriqa_plugin.basicsr.multigt import build_sampler
from nriqa_plugin.iqa import Scorer
from nriqa_plugin.iqa.cnniqa import PatchNet
from nriqa_plugin.losses import iqa_loss
from nriqa_plugin.losses.table_weights import TABLE
from nriqa_plugin.mdf.discriminator import Discriminator
from nriqa_plugin.mdf.mdf_file import save_mdf
from nriqa_plugin.multigt.selection import METHODS
from tests.conftest import ROOT
from tests.judges import Brightness

# Table I of arXiv 2405.20392; mdtvsfa is not here, pyiqa lacks it
FULL_REFERENCE = ('pieapp', 'lpips')
NO_REFERENCE = ('dbcnn', 'nima', 'paq2piq', 'hyperiqa', 'maniqa', 'clipiqa')
FILES = sorted((ROOT / 'options' / 'basicsr').glob('*.yml'))
SMALLER = {
    'DnCNN': {'nc': 4, 'nb': 3},
    'LoRANet': {'rank': 2},
    'EDSR': {'num_feat': 4, 'num_block': 1},
    'MSRResNet': {'num_feat': 4, 'num_block': 1},
    'RRDBNet': {'num_feat': 4, 'num_block': 1, 'num_grow_ch': 4},
    'SwinIR': {'depths': [1], 'num_heads': [2], 'embed_dim': 8},
    'UNetDiscriminatorSN': {'num_feat': 4},
    'BasicVSRPlusPlus': {'mid_channels': 16, 'num_blocks': 1, 'spynet_path': None},
    'RBPN': {'base_filter': 4, 'feat': 4, 'n_resblock': 1, 'spynet_path': None},
    'SRGANDiscriminator': {'num_feat': 4},
    'SimpleVSR': {'form': 'paper'},  # a quarter of the parameters
    'VRT': {**SMALL_VRT, 'spynet_path': None},
}
FRAMES = {'Vimeo90KDataset': 'middle', 'Vimeo90KRecurrentDataset': 'all'}  # of video data sets: which have a GT
PLUGIN_LINE = 'plugin: !!python/name:nriqa_plugin.basicsr.VERSION'


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """Random weights under the option files' names, and a pair of images."""
    folder = tmp_path_factory.mktemp('small')
    torch.save(RLFN(feature_channels=48).state_dict(), folder / 'rlfn_s_x4.pth')
    torch.save(PatchNet().state_dict(), folder / 'CNNIQA-LIVE.pth')
    torch.save(models.squeezenet1_1(weights=None).state_dict(), folder / 'squeeze.pth')
    features = torch.nn.ModuleDict({'features': models.vgg.make_layers(models.vgg.cfgs['E'])})
    torch.save(features.state_dict(), folder / 'vgg19.pth')
    features = torch.nn.ModuleDict({'features': models.vgg.make_layers(models.vgg.cfgs['D'])})
    torch.save(features.state_dict(), folder / 'vgg16.pth')
    save_mdf(folder / 'mdf.pth', [Discriminator(4)], {'task': 'sisr', 'range': [0, 1]})
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
    if 'presets' in option:
        lpips = {'options': {'net': 'squeeze'}, 'weights': str(folder / 'squeeze.pth')}
        option |= {'presets': str(ROOT / option['presets']), 'terms': {'lpips': lpips}}
    if option.get('metric') == 'musiq':
        option |= {'weights': str(folder / 'musiq.pth')}
    if option.get('type') == 'VGGLoss':
        backbone = 'vgg16' if option.get('layers') == 'isee_better' else 'vgg19'
        option |= {'weights': str(folder / f'{backbone}.pth')}
    if option.get('type') == 'MDFLoss':
        option |= {'weights': str(folder / 'mdf.pth')}
    option |= SMALLER.get(option.get('type'), {})
    if 'queue_size' in option:
        option['queue_size'] = 2
    for net in ('pretrain_network_g', 'pretrain_network_d'):
        if net in option and 'rlfn' not in str(option[net]):
            option[net] = None
    return option


@pytest.mark.parametrize('file', FILES, ids=lambda f: f.stem)
def test_option_files_open_with_their_command_and_load_the_plugin(file):
    text = file.read_text()
    program = 'test' if file.stem.endswith('test') else 'train'
    assert f'#   python -m basicsr.{program} -opt options/basicsr/{file.name}' in text
    assert PLUGIN_LINE in text
    assert yaml_load(str(file))['name'] == file.stem


@pytest.mark.parametrize('file', [f for f in FILES if not f.stem.endswith('test')], ids=lambda f: f.stem)
def test_training_option_files_build_and_take_a_step_with_every_term(file, small, musiq_weights, tmp_path):
    if 'musiq' in file.read_text() and not (small / 'musiq.pth').exists():
        (small / 'musiq.pth').symlink_to(musiq_weights)
    opt = shrunk(yaml_load(str(file)), small)
    paths = {key: str(tmp_path / key) for key in ('models', 'training_states', 'visualization', 'experiments_root')}
    (tmp_path / 'models').mkdir()
    opt |= {'num_gpu': 0, 'dist': False, 'rank': 0, 'world_size': 1, 'is_train': True}
    opt['path'] |= paths
    for slot in ('pixel_opt', 'perceptual_opt'):
        terms = opt['train'].get(slot, {}).get('terms', [])
        for term in terms.values() if isinstance(terms, dict) else terms:
            term.pop('start_iter', None)  # every term has to act in the one step
    model = build_model(opt)
    train = opt['datasets']['train']
    side = train.get('gt_size') or opt['scale'] * train.get('lq_size', 32)
    before = torch.nn.utils.parameters_to_vector(model.net_g.parameters()).detach().clone()
    kernels = dict.fromkeys(('kernel1', 'kernel2', 'sinc_kernel'), torch.full((1, 21, 21), 1 / 441))
    n = opt.get('queue_size', 1)  # Real-ESRGAN's degradation takes another way with two images than with one
    kernels = {key: kernel.expand(n, -1, -1) for key, kernel in kernels.items()}
    batch = {'gt': torch.rand(n, 3, side, side), **kernels}
    if opt['datasets']['train']['type'] == 'MultiGTDataset':
        flags = dict.fromkeys(('gt_valid', 'gt_positive'), torch.ones(n, 3, dtype=torch.bool))
        more = {'gt_name': ['a', 'b'], 'gt_crop': torch.zeros(n, 2), **flags}
        batch |= {'gt_candidates': torch.rand(n, 3, 3, side, side), **more}
    else:
        lq_side = side // opt['scale']
        clip = [n, train['num_frame']] if train['type'] in FRAMES else [n]
        batch['lq'] = torch.rand(*clip, 3, lq_side, lq_side)
        if FRAMES.get(train['type']) == 'all':
            clip[1], batch['lq'] = 2, batch['lq'][:, :2]  # a recurrent network takes any number
            batch['gt'] = torch.rand(*clip, 3, side, side)
    if train['type'] == 'MovingDigitsDataset':
        batch = {'gt': torch.rand(1, 1, 64, 64), 'lq': torch.rand(1, train['num_frame'], 1, 32, 32)}
    model.feed_data(batch)
    model.optimize_parameters(1)
    assert not torch.equal(before, torch.nn.utils.parameters_to_vector(model.net_g.parameters()))
    assert all(np.isfinite(value) for value in model.get_current_log().values())
    if opt['model_type'] == 'PerceptualModel':
        names = {term.name for term in model.cri_pix.terms}
        assert {f'l_{name}' for name in names} | {f'grad_{name}' for name in names} <= model.get_current_log().keys()


@pytest.mark.parametrize('file', [f for f in FILES if 'multigt' in f.stem or 'amo' in f.stem], ids=lambda f: f.stem)
@pytest.mark.parametrize('method', METHODS)
def test_the_stock_command_line_turns_a_multigt_file_into_any_recipe(file, method, monkeypatch):
    arguments = ['--force_yml', f'train:gt_selection:method={method}', 'train:gt_selection:metric=cnniqa']
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(file), *arguments])
    monkeypatch.setattr('nriqa_plugin.multigt.batch_scores.create_scorer', lambda *args, **options: Brightness())
    opt, _ = parse_options('.')
    sampler = build_sampler(opt['train']['gt_selection'])
    assert (sampler.method, sampler.tau, sampler.chunk) == (method, 1.0, 8)


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


def other_judge(metric, name):
    """The README's --force_yml arguments for another judge than MUSIQ."""
    places = ('train:pixel_opt:terms:judge', 'val:metrics:judge', 'val:metrics:judge_gain')
    settings = [f'name={name}', *(f'{place}:metric={metric}' for place in places)]
    if metric in FULL_REFERENCE:
        settings.append('train:pixel_opt:terms:judge:type=FRIQALoss')
    return ['--force_yml', *settings]


@pytest.mark.parametrize('metric', [*NO_REFERENCE, *FULL_REFERENCE])
@pytest.mark.parametrize('file', [f for f in FILES if 'musiq' in f.stem], ids=lambda f: f.stem)
def test_the_stock_command_line_turns_a_base_file_into_one_of_any_judge_of_table_1(file, metric, monkeypatch):
    class StandIn(Scorer):
        name, higher_better = metric, metric not in FULL_REFERENCE
        needs_reference = metric in FULL_REFERENCE

        def score(self, pred, ref=None):
            return pred.mean((1, 2, 3))

    monkeypatch.setattr(iqa_loss, 'create_scorer', lambda *args, **options: StandIn())
    arguments = [*other_judge(metric, 'mine'), 'train:pixel_opt:terms:lpips=none']
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(file), *arguments])
    opt, _ = parse_options('.')
    assert opt['name'] == 'mine'
    pixel_opt = dict(opt['train']['pixel_opt'])
    assert pixel_opt.pop('type') == 'LossSum'
    loss = LossSum(**pixel_opt)
    assert {term.name: term.weight for term in loss.terms} == {'pixel': 1.0, 'judge': TABLE[metric]}
    judged = {name: opt['val']['metrics'][name]['metric'] for name in ('judge', 'judge_gain')}
    assert judged == {'judge': metric, 'judge_gain': metric}
    assert 'better' not in opt['val']['metrics']['judge']  # PerceptualModel fills it in


@pytest.mark.slow
@pytest.mark.parametrize('network', ['swinir', 'realesrgan'])
def test_option_files_train_through_the_stock_script(network, small, musiq_weights, tmp_path):
    """Four steps and a validation with MUSIQ's own architecture."""
    if not (small / 'musiq.pth').exists():
        (small / 'musiq.pth').symlink_to(musiq_weights)
    name = f'{network}_x4_musiq_lpips'
    opt = shrunk(yaml_load(str(ROOT / 'options' / 'basicsr' / f'{name}.yml')), small)
    (tmp_path / 'meta.txt').write_text('one.png\n')
    data = opt['datasets']['train']
    data |= {'dataroot_gt': str(small / 'GTmod12'), 'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0}
    data |= {'dataset_enlarge_ratio': 4}
    data |= {key: str(tmp_path / 'meta.txt') for key in ('meta_info',) if key in data}
    data |= {key: str(small / 'LRbicx4') for key in ('dataroot_lq',) if key in data}
    opt['train']['total_iter'] = opt['val']['val_freq'] = 4
    opt |= {'num_gpu': 0, 'logger': {**opt['logger'], 'print_freq': 1, 'use_tb_logger': False}}
    opt.pop('plugin')
    (tmp_path / 'tiny.yml').write_text(f'{PLUGIN_LINE}\n' + yaml.safe_dump(opt))
    command = [sys.executable, '-m', 'basicsr.train', '-opt', 'tiny.yml', '--force_yml', 'name=mine']
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=600,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
    )  # fmt: skip
    log = run.stdout + run.stderr
    assert run.returncode == 0, log
    assert len(re.findall(r'iter: +\d+, .*l_judge: .*l_lpips: .*grad_judge: ', log)) == 4
    assert 'judge_gain' in (tmp_path / 'experiments' / 'mine' / 'validation.csv').read_text()
