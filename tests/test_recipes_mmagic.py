"""The recipes of arXiv 2504.18524 as the heads of our mmagic configs give them (BasicSR: test_recipes.py)."""

import math
import re

import pytest
import torch
from torchvision import models

pytest.importorskip('mmagic', reason='the extra mmagic is not installed')

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

import nriqa_plugin.mmagic  # noqa: F401
from nriqa_plugin.mmagic.start_checks import check_losses
from tests.conftest import ROOT
from tests.mmagic_runs import logged, run, short_run, write_config
from tests.multigt_data import write_hggt, write_sets
from tests.test_lora import equal
from tests.test_mmagic_models import batch, build
from tests.test_mmagic_options import shrunk, with_candidates

FOLDER = ROOT / 'options' / 'mmagic'
NETWORKS = ('swinir', 'realesrgan')
CHOICES = ('UPos', 'SMA', 'SMP', 'AMO')
FINE_TUNINGS = ('AMO+FT', 'UPos+FT', 'FT_HP', 'FT_IG', 'PaQ-2-PiQ')


@pytest.fixture(autouse=True)
def _mmagic_scope():
    init_default_scope('mmagic')


@pytest.fixture(scope='module')
def squeezenet(tmp_path_factory):
    file = tmp_path_factory.mktemp('weights') / 'squeeze.pth'
    torch.save(models.squeezenet1_1(weights=None).state_dict(), file)
    return str(file)


def recipes(file):
    """``{name: (config, settings)}`` of a config and of the changes that its head lists; FT_IG is a file of its own."""
    head = file.read_text().partition('The other recipes')[2].partition('# From published')[0]
    found = {'AMO+FT': (file, [])}
    for line in head.splitlines()[1:]:
        name = line[1:].split()[0]
        if '=' not in name:
            other = re.search(r'the file (\w+\.py)', line)
            last = []
            found[name] = (FOLDER / other[1] if other else file, last)
        last += re.findall(r'[\w.]+=[\w.\[\],]+', line)
    return found


def configured(file, settings):
    """The config as the stock command line makes it."""
    config = Config.fromfile(file)
    pairs = (one.split('=', 1) for one in settings)
    config.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in pairs})
    return config


def judged_by(options, metric, weights):
    """The same judge wherever the model has MUSIQ."""
    terms = options['pixel_loss']['terms']
    for part in (options['data_preprocessor']['selection'], terms['judge'] if isinstance(terms, dict) else {}):
        part.update({'metric': metric, 'weights': str(weights)} if part else {})
    return options


def step(options):
    """A model of a shrunk config, its optimizers and the log of one training step."""
    options = dict(options)
    model, optim_wrapper = build(options, options.pop('pixel_loss'))
    check_losses(model)
    data = batch(16)
    data['data_samples'] = [with_candidates(sample) for sample in data['data_samples']]
    before = {key: value.clone() for key, value in model.generator.state_dict().items()}
    log = model.train_step(data, optim_wrapper)
    assert all(math.isfinite(float(value)) for value in log.values())
    return model, before, log


@pytest.mark.parametrize('network', NETWORKS)
def test_the_head_names_every_recipe(network):
    assert tuple(recipes(FOLDER / f'{network}_x4_amo_ft.py')) == FINE_TUNINGS


@pytest.mark.parametrize('method', ['upos', 'sma', 'smp', 'amo'])
@pytest.mark.parametrize('network', NETWORKS)
def test_a_choice_among_ground_truths_trains_with_a_real_judge(network, method, squeezenet, cnniqa_weights):
    config = configured(FOLDER / f'{network}_x4_multigt.py', [f'model.data_preprocessor.selection.method={method}'])
    model, before, log = step(judged_by(shrunk(config.model.to_dict(), squeezenet), 'cnniqa', cnniqa_weights))
    assert model.data_preprocessor.sampler.method == method
    assert 'loss_gan' in log
    assert not equal(model.generator.state_dict(), before)


@pytest.mark.parametrize('recipe', FINE_TUNINGS)
@pytest.mark.parametrize('network', NETWORKS)
def test_a_fine_tuning_trains_lora_parameters_alone_on_a_real_judge(network, recipe, squeezenet, cnniqa_weights):
    config = configured(*recipes(FOLDER / f'{network}_x4_amo_ft.py')[recipe])
    judge = 'paq2piq' if recipe == 'PaQ-2-PiQ' else 'musiq'
    assert config.model.data_preprocessor.selection.metric == config.model.pixel_loss.terms.judge.metric == judge
    assert config.val_evaluator.metrics[1].judges == [judge, 'niqe', 'lpips', 'pattern']
    assert config.default_hooks.alarm.judge == judge
    parts = {'generator', 'discriminator'} if recipe == 'FT_IG' else {'generator'}
    assert config.optim_wrapper.keys() - {'constructor'} == parts
    assert config.train_cfg.max_iters == config.param_scheduler.T_max
    options = judged_by(shrunk(config.model.to_dict(), squeezenet), 'cnniqa', cnniqa_weights)
    model, before, log = step(options)
    assert ('loss_gan' in log) == ('loss_d_real' in log) == (recipe == 'FT_IG')
    assert {'pixel', 'perceptual', 'judge'} == model.pixel_loss.values.keys()
    assert model.pixel_loss.grad_norms['judge'] > 0
    names = [name for name, p in model.generator.named_parameters() if p.requires_grad]
    assert names
    assert all('parametrizations.weight.0.lora_' in name for name in names), 'nothing else can be optimised'
    after = model.generator.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.endswith(('lora_A', 'lora_B')) for key in changed)
    assert model.data_preprocessor.sampler.method == ('upos' if recipe == 'UPos+FT' else 'amo')
    weights = {term.name: term.weight for term in model.pixel_loss.terms}
    assert weights['perceptual'] == (3.0 if recipe == 'FT_HP' else 1.0)


@pytest.mark.slow
@pytest.mark.parametrize('judge', ['as in the file', 'cnniqa'])
@pytest.mark.parametrize('recipe', [*CHOICES, *FINE_TUNINGS])
@pytest.mark.parametrize('network', NETWORKS)
def test_the_recipes_train_through_the_stock_script(network, recipe, judge, squeezenet, request, tmp_path):
    """Four steps and a validation on HGGT's folders.

    The judge is the recipe's own (the real architecture with random weights), or CNNIQA with its real weights.
    """
    file, settings = recipe_of(network, recipe)
    tuned = recipe in FINE_TUNINGS
    name = 'cnniqa' if judge == 'cnniqa' else 'paq2piq' if recipe == 'PaQ-2-PiQ' else 'musiq'
    judged = {'metric': name, 'weights': str(request.getfixturevalue(f'{name}_weights'))}
    root = write_hggt(tmp_path / 'Train', {'x': ('PSNP', 'PSNS', 'NSPN')}, height=256, width=256)
    test = write_sets(tmp_path / 'test', height=256, width=256, count=1)
    tiny = {
        'swinir': {'embed_dim': 6, 'depths': [1], 'num_heads': [2]},
        'realesrgan': {'mid_channels': 4, 'num_blocks': 1, 'growth_channels': 4},
    }[network]
    vgg = {'layers': {'fire2': 1.0}, 'backbone': 'squeezenet1_1', 'weights': squeezenet}
    perceptual = {'_delete_': True, 'type': 'VGGLoss', 'weight': 1.0, **vgg}
    pair = {'_delete_': True, 'type': 'LossPair', 'terms': [{'type': 'VGGLoss', 'weight': 1.0, **vgg}]}
    gan = recipe == 'FT_IG' or not tuned
    options = {
        'model': {
            'generator': {'base': tiny, 'base_weights': None, 'rank': 2} if tuned else {**tiny, 'init_cfg': None},
            **({'discriminator': {'mid_channels': 4}} if gan else {}),
            **({'pixel_loss': {'terms': {'judge': judged, 'perceptual': perceptual}}} if tuned else {'perceptual_loss': pair}),
            'data_preprocessor': {'selection': {**judged, 'panel_every': 2}},
        },
        'train_dataloader': {'num_workers': 0, 'batch_size': 1, 'dataset': {'data_root': str(root)}},
        'val_dataloader': {'num_workers': 0, 'dataset': {
            'data_root': str(test), 'data_prefix': {'gt': 'gt', 'img': 'lq'}}},
        'val_evaluator': {'metrics': [
            {'type': 'PSNR', 'crop_border': 4}, {'type': 'RelativeGain', 'judges': [
                'ssim', {'metric': 'lpips', 'options': {'net': 'squeeze'}, 'weights': squeezenet}, 'pattern']}]},
    }  # fmt: skip
    short = short_run(tmp_path, rule='greater', save_best='gain/ssim')  # random weights may score below 0
    if tuned:
        short['default_hooks'] |= {'alarm': {'judge': 'ssim'}}
    config = write_config(tmp_path, 'tiny', file.name, **options, **short)
    # What names a judge is said above; what the evaluator and the alarm are told here is another one.
    other = ('metric=', 'evaluator', 'alarm', 'base_weights')
    settings = [one for one in settings if not any(part in one for part in other)]
    result = run('train', tmp_path, config, *(['--cfg-options', *settings] if settings else []))
    assert result.returncode == 0, result.text
    steps, _ = logged(tmp_path, 'tiny')
    assert sorted(steps) == [1, 2, 3, 4]
    assert {'gt_0', *(f'loss_{term}' for term in (['pixel', 'perceptual', 'judge'] if tuned else ['l1']))} <= steps[
        4
    ].keys()
    assert ('loss_gan' in steps[4]) == gan
    made = Config.fromfile(next((tmp_path / 'tiny').glob('*.py')))
    selection = made.model.data_preprocessor.selection
    assert selection.metric == name
    assert selection.method == (recipe.lower() if not tuned else 'upos' if recipe == 'UPos+FT' else 'amo')
    assert not tuned or made.model.pixel_loss.terms.perceptual.weight == (3.0 if recipe == 'FT_HP' else 1.0)


def recipe_of(network, recipe):
    """The config of a recipe and the settings that its command line adds."""
    if recipe in CHOICES:
        setting = f'model.data_preprocessor.selection.method={recipe.lower()}'
        return FOLDER / f'{network}_x4_multigt.py', [setting]
    return recipes(FOLDER / f'{network}_x4_amo_ft.py')[recipe]
