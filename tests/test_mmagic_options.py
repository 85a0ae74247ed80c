"""Every mmagic config that we ship: it loads, builds with all its terms, metrics and hooks, and takes a step."""

import math

import pytest
import torch
from torchvision import models

pytest.importorskip('mmagic', reason='the extra mmagic is not installed')

from mmagic.registry import HOOKS, METRICS, MODELS
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

import nriqa_plugin.mmagic  # noqa: F401
from nriqa_plugin.losses import LossSum
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
    'LoRANet': {'rank': 2, 'base_weights': None},
    'EDSRNet': {'mid_channels': 4, 'num_blocks': 1},
    'MSRResNet': {'mid_channels': 4, 'num_blocks': 1},
    'SwinIRNet': {'embed_dim': 6, 'depths': [1], 'num_heads': [2], 'img_size': 8},
    'RRDBNet': {'mid_channels': 4, 'num_blocks': 1, 'growth_channels': 4},
    'UNetDiscriminatorWithSpectralNorm': {'mid_channels': 4},
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
    return str(file)


def shrunk(option, backbone):
    """The same options at a size for tests: tiny networks, judges and backbones without downloads, every term at once."""
    if isinstance(option, (list, tuple)):
        return [shrunk(part, backbone) for part in option]
    if not isinstance(option, dict):
        return DOWNLOADED.get(option, option) if isinstance(option, str) else option
    option = {key: shrunk(value, backbone) for key, value in option.items()} | SMALL.get(option.get('type'), {})
    if option.get('metric') == 'lpips':
        option |= {'options': {'net': 'squeeze'}, 'weights': backbone}
    if option.get('type') == 'VGGLoss':
        option |= {'layers': {'fire2': 1.0}, 'backbone': 'squeezenet1_1', 'weights': backbone}
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


@pytest.mark.parametrize('file', TRAINING)
def test_training_configs_build_and_take_a_step_with_every_term(file, squeezenet):
    config = shrunk(Config.fromfile(file).to_dict(), squeezenet)
    options = dict(config['model'])
    model, optim_wrapper = build(options, options.pop('pixel_loss'))
    check_losses(model)
    side, frames = (64, 2) if 'BasicVSR' in model.generator.__class__.__name__ else (48, None)
    data = batch(side, frames)
    if type(model.data_preprocessor).__name__ == 'MultiGTPreprocessor':
        data['data_samples'] = [with_candidates(sample) for sample in data['data_samples']]
    log = model.train_step(data, optim_wrapper)
    assert all(math.isfinite(float(value)) for value in log.values())
    sums = [part for part in model.children() if isinstance(part, LossSum)]
    assert model.pixel_loss in sums
    for part in sums:
        assert sorted(part.values) == sorted(term.name for term in part.terms)
    metrics = [METRICS.build(metric) for metric in config['val_evaluator']['metrics']]
    ours = next(metric for metric in metrics if isinstance(metric, IQAMetric))
    hooks = [HOOKS.build(hook) for hook in config['default_hooks'].values()]
    assert {'PerceptualHook', 'RelativeGainHook'} <= {type(hook).__name__ for hook in hooks}
    for alarm in (hook for hook in hooks if type(hook).__name__ == 'ArtifactAlarmHook'):
        written = Config.fromfile(file)
        assert {written.default_hooks.alarm.judge, 'lpips', 'pattern'} <= set(written.val_evaluator.metrics[1].judges)
        assert alarm.names['reference'] in ours.judges
    checkpoint = config['default_hooks']['checkpoint']
    assert (checkpoint['rule'] == 'greater') == ours.directions()[checkpoint['save_best']]
    assert config['val_cfg']['type'] == 'MultiValLoop'


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
