"""Every mmagic config that we ship: it loads, builds with all its terms, metrics and hooks, and takes a step."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

pytest.importorskip('mmagic', reason='the extra mmagic is not installed')

from mmagic.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

import nriqa_plugin.mmagic  # noqa: F401
from nriqa_plugin.archs.vrt import SMALL as SMALL_VRT
from nriqa_plugin.losses import LossSum
from nriqa_plugin.mdf.discriminator import Discriminator
from nriqa_plugin.mdf.mdf_file import save_mdf
from nriqa_plugin.mmagic.gain import RelativeGain
from nriqa_plugin.mmagic.metrics import IQAMetric
from nriqa_plugin.mmagic.start_checks import check_losses
from nriqa_plugin.multigt.selection import METHODS
from tests.conftest import ROOT
from tests.test_mmagic_models import batch, build

FILES = sorted((ROOT / 'options' / 'mmagic').glob('*.py'))
TRAINING = [
    pytest.param(f, id=f.stem, marks=pytest.mark.slow if 'vsr' in f.stem else [])
    for f in FILES
    if not f.stem.endswith('test')
]
TESTING = [f for f in FILES if f.stem.endswith('test')]
DOWNLOADED = {'musiq': 'tests.judges:TinyNet', 'clipiqa': 'tests.judges:Brightness'}
SMALL = {
    'DnCNN': {'nc': 4, 'nb': 3},
    'LoRANet': {'rank': 2, 'base_weights': None},
    'EDSRNet': {'mid_channels': 4, 'num_blocks': 1},
    'MSRResNet': {'mid_channels': 4, 'num_blocks': 1},
    'SwinIRNet': {'embed_dim': 6, 'depths': [1], 'num_heads': [2], 'img_size': 8},
    'RRDBNet': {'mid_channels': 4, 'num_blocks': 1, 'growth_channels': 4},
    'UNetDiscriminatorWithSpectralNorm': {'mid_channels': 4},
    'ModifiedVGG': {'mid_channels': 4},
    'RBPN': {'base_filter': 4, 'feat': 4, 'n_resblock': 1, 'spynet_path': None},
    'SRGANDiscriminator': {'num_feat': 4},
    'SimpleVSR': {'form': 'paper'},
    'VRT': {**SMALL_VRT, 'spynet_path': None},
    'BasicVSRPlusPlusNet': {'mid_channels': 16, 'num_blocks': 1, 'spynet_pretrained': None},
}


@pytest.fixture(autouse=True)
def _mmagic_scope():
    init_default_scope('mmagic')


@pytest.fixture(scope='module')
def squeezenet(tmp_path_factory):
    """Random weights under the backbone's name, for LPIPS and VGGLoss without a download."""
    file = tmp_path_factory.mktemp('weights') / 'squeeze.pth'
    torch.save(models.squeezenet1_1(weights=None).state_dict(), file)
    save_mdf(file.with_name('mdf.pth'), [Discriminator(4)], {'task': 'sisr', 'range': [0, 1]})
    return str(file)


def shrunk(option, backbone):
    """The same options at a size for tests: tiny networks, judges and backbones without downloads, every term at once."""
    if isinstance(option, (list, tuple)):
        return [shrunk(part, backbone) for part in option]
    if not isinstance(option, dict):
        return DOWNLOADED.get(option, option) if isinstance(option, str) else option
    option = {key: shrunk(value, backbone) for key, value in option.items()} | SMALL.get(option.get('type'), {})
    if 'presets' in option:
        lpips = {'options': {'net': 'squeeze'}, 'weights': backbone}
        option |= {'presets': str(ROOT / option['presets']), 'terms': {'lpips': lpips}}
    if option.get('metric') == 'lpips':
        option |= {'options': {'net': 'squeeze'}, 'weights': backbone}
    if option.get('type') == 'VGGLoss':
        option |= {'layers': {'fire2': 1.0}, 'backbone': 'squeezenet1_1', 'weights': backbone}
    if option.get('type') == 'MDFLoss':
        option |= {'weights': backbone.replace('squeeze.pth', 'mdf.pth')}
    if 'judges' in option:
        lpips = {'metric': 'lpips', 'options': {'net': 'squeeze'}, 'weights': backbone}
        option['judges'] = [lpips if judge == 'lpips' else judge for judge in option['judges']]
    return option


def with_candidates(sample, count=3):
    """The same sample as the pipeline for several ground truths packs it."""
    sample.gt_img = torch.stack([sample.gt_img.roll(k, -1) for k in range(count)])
    del sample.gt_unsharp
    numbers = list(range(count))
    sample.set_metainfo({'gt_numbers': numbers, 'gt_count': count, 'gt_positive': [True] * count, 'gt_name': 'a'})
    return sample


@pytest.mark.parametrize('file', FILES, ids=lambda f: f.stem)
def test_configs_open_with_their_command_and_load_the_plugin(file):
    verb = 'test' if file.stem.endswith('test') else 'train'
    assert f'#   python $MMAGIC/tools/{verb}.py options/mmagic/{file.name}' in file.read_text()
    config = Config.fromfile(file)
    assert config.experiment_name == file.stem
    assert config.work_dir == f'./work_dirs/{file.stem}'
    assert config.custom_imports == {'imports': ['nriqa_plugin.mmagic'], 'allow_failed_imports': False}
    assert config.default_scope == 'mmagic'


def steps(config):
    """One training step of a shrunk config, every term of which must have acted; the model."""
    options = dict(config['model'])
    model, optim_wrapper = build(options, options.pop('pixel_loss'))
    check_losses(model)
    side, frames = (64, 2) if config['model']['type'] == 'BasicVSR' else (48, None)
    if (config['model'].get('discriminator') or {}).get('type') == 'ModifiedVGG':
        side = 32  # its discriminator takes 128 px only
    if config['model']['generator']['type'] == 'RBPN':
        frames = 7
    data = batch(side, frames, middle=frames == 7)
    if config['model']['generator']['type'] == 'SimpleVSR':
        data = batch(16, 5, middle=True)
        data['inputs'] = [clip[:, :1].repeat(1, 1, 2, 2) for clip in data['inputs']]
        for sample in data['data_samples']:
            sample.gt_img = sample.gt_img[:1]
    if config['model']['generator']['type'] == 'DnCNN':
        data['inputs'] = [sample.gt_img for sample in data['data_samples']]  # the size of the ground truth
    if type(model.data_preprocessor).__name__ == 'MultiGTPreprocessor':
        data['data_samples'] = [with_candidates(sample) for sample in data['data_samples']]
    if 'consistency' in str(config['model']['pixel_loss']).lower():  # PerceptualHook hands over the LR images
        model.pixel_loss.set_lq(torch.stack(data['inputs']).float() / 255)
    log = model.train_step(data, optim_wrapper)
    assert all(math.isfinite(float(value)) for value in log.values())
    sums = [part for part in model.children() if isinstance(part, LossSum)]
    assert model.pixel_loss in sums
    for part in sums:
        assert sorted(part.values) == sorted(term.name for term in part.terms)
    return model


def evaluators(config):
    """A config has one, or one for each data set."""
    found = config['val_evaluator']
    return found if isinstance(found, list) else [found]


@pytest.mark.parametrize('file', TRAINING)
def test_training_configs_build_and_take_a_step_with_every_term(file, squeezenet):
    config = shrunk(Config.fromfile(file).to_dict(), squeezenet)
    steps(config)
    metrics = [METRICS.build(metric) for evaluator in evaluators(config) for metric in evaluator['metrics']]
    ours = [metric for metric in metrics if hasattr(metric, 'directions')]
    directions = {key: up for metric in ours for key, up in metric.directions().items()}
    hooks = [HOOKS.build(hook) for hook in config['default_hooks'].values()]
    kinds = {type(hook).__name__ for hook in hooks}
    assert 'PerceptualHook' in kinds
    assert any(isinstance(metric, RelativeGain) for metric in ours) == ('RelativeGainHook' in kinds)
    for alarm in (hook for hook in hooks if type(hook).__name__ == 'ArtifactAlarmHook'):
        written = Config.fromfile(file)
        assert {written.default_hooks.alarm.judge, 'lpips', 'pattern'} <= set(written.val_evaluator.metrics[1].judges)
        assert alarm.names['reference'] in ours[0].judges
    checkpoint = config['default_hooks']['checkpoint']
    assert (checkpoint['rule'] == 'greater') == directions[checkpoint['save_best']]
    assert config['val_cfg']['type'] == 'MultiValLoop'


# the paper's eight losses and their terms
LOSSES = {
    'l1': {'l1'}, 'l2': {'l2'}, 'ssim': {'ssim'}, 'ms_ssim': {'ms_ssim'}, 'ms_ssim_l1': {'ms_ssim', 'l1'},
    'vgg_l2': {'vgg', 'l2'}, 'lpips_l2': {'lpips', 'l2'}, 'mdf': {'mdf'},
}  # fmt: skip
SETTINGS = ('edsr_x4', 'srresnet_x4', 'dncnn_denoise', 'dncnn_jpeg')


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('setting', SETTINGS)
def test_the_environment_chooses_among_the_papers_eight_losses(setting, loss, squeezenet, monkeypatch):
    monkeypatch.setenv('LOSS', loss)
    config = Config.fromfile(ROOT / 'options' / 'mmagic' / f'{setting}_mdf.py')
    assert config.experiment_name == f'{setting}_{loss}'
    assert config.work_dir == f'./work_dirs/{setting}_{loss}'
    terms = config.model.pixel_loss.terms
    assert terms.keys() == LOSSES[loss]
    for name, weight in (('vgg', 1.0), ('lpips', 0.1), ('mdf', 1.0), ('l2', 1.0)):  # as published
        assert terms.get(name, {}).get('weight', weight) == weight
    assert '_delete_' not in config.model.pixel_loss
    if loss == 'mdf':
        task = {'dncnn_denoise': 'denoise', 'dncnn_jpeg': 'jpeg'}.get(setting, 'sisr')
        assert terms.mdf.weights == f'checkpoints/mdf_{task}.pth'
    elif setting == 'edsr_x4':  # the model of every setting takes a step with mdf above
        model = steps(shrunk(config.to_dict(), squeezenet))
        assert {term.name for term in model.pixel_loss.terms} == LOSSES[loss]


def test_an_unknown_loss_is_refused_with_the_eight_names(monkeypatch):
    monkeypatch.setenv('LOSS', 'msssim')
    with pytest.raises(ValueError, match=r'LOSS=msssim: there is no such loss; choose one of l1, .*mdf'):
        Config.fromfile(ROOT / 'options' / 'mmagic' / 'edsr_x4_mdf.py')


@pytest.mark.parametrize('setting', ['dncnn_denoise', 'dncnn_jpeg'])
def test_the_degraded_data_of_the_configs_can_be_loaded(setting, tmp_path):
    config = Config.fromfile(ROOT / 'options' / 'mmagic' / f'{setting}_mdf.py')
    for folder in ('DIV2K_train_HR', 'DIV2K_valid_HR'):
        (tmp_path / folder).mkdir()
        image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / folder / 'one.png')
    loaders = [config.train_dataloader]
    loaders += config.val_dataloader if isinstance(config.val_dataloader, list) else [config.val_dataloader]
    items = [DATASETS.build({**loader.dataset.to_dict(), 'data_root': str(tmp_path)})[0] for loader in loaders]
    assert items[0]['inputs'].shape == items[0]['data_samples'].gt_img.shape == (3, 96, 96)
    assert len(items) == (3 if setting == 'dncnn_jpeg' else 2)
    changes = [(item['inputs'] - item['data_samples'].gt_img).abs().mean().item() for item in items]
    assert all(change > 1 for change in changes)
    if setting == 'dncnn_jpeg':
        assert changes[2] > changes[1]  # quality 7 against 10


@pytest.mark.parametrize('file', [f for f in FILES if 'multigt' in f.stem or 'amo' in f.stem], ids=lambda f: f.stem)
@pytest.mark.parametrize('method', METHODS)
def test_the_stock_command_line_turns_a_multigt_config_into_any_recipe(file, method):
    config = Config.fromfile(file)
    config.merge_from_dict({'model.data_preprocessor.selection.method': method})
    option = shrunk(config.model.data_preprocessor.to_dict(), '')
    assert MODELS.build(option).sampler.method == method
    pipeline = Compose(config.train_dataloader.dataset.pipeline)
    assert type(pipeline.transforms[-1]).__name__ == 'PackGroundTruths'


@pytest.mark.parametrize('file', TESTING, ids=lambda f: f.stem)
def test_test_configs_have_an_evaluator_of_ours_for_every_data_set(file):
    config = Config.fromfile(file)
    assert len(config.test_dataloader) == len(config.test_evaluator)
    for evaluator in config.test_evaluator:
        assert any(isinstance(METRICS.build(metric), IQAMetric) for metric in evaluator.metrics)
