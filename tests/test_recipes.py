"""The recipes of arXiv 2504.18524 as the heads of our BasicSR files give them (mmagic: test_recipes_mmagic.py)."""

import os
import re
import subprocess
import sys

import pytest
import torch
from torchvision import models

pytest.importorskip('basicsr', reason='the extra basicsr is not installed')

import yaml
from basicsr.archs import build_network
from basicsr.models import build_model
from basicsr.utils.options import parse_options

from nriqa_plugin.lora import LoRANet
from tests.conftest import ROOT
from tests.multigt_data import write_hggt, write_sets
from tests.test_lora import equal
from tests.test_option_files import PLUGIN_LINE, shrunk

FOLDER = ROOT / 'options' / 'basicsr'
SIDE = 64  # of the crops, where no stock script runs
NETWORKS = ('swinir', 'realesrgan')
CHOICES = ('UPos', 'SMA', 'SMP', 'AMO')
FINE_TUNINGS = ('AMO+FT', 'UPos+FT', 'FT_HP', 'FT_IG', 'PaQ-2-PiQ')


@pytest.fixture(scope='module')
def backbones(tmp_path_factory):
    """Random weights under the names that the shrunk options have."""
    folder = tmp_path_factory.mktemp('backbones')
    torch.save(models.squeezenet1_1(weights=None).state_dict(), folder / 'squeeze.pth')
    features = torch.nn.ModuleDict({'features': models.vgg.make_layers(models.vgg.cfgs['E'])})
    torch.save(features.state_dict(), folder / 'vgg19.pth')
    return folder


def recipes(file):
    """``{name: settings}`` of a file and of the changes that its head lists."""
    head = file.read_text().partition('The other recipes')[2].partition('# From published')[0]
    found = {'AMO+FT': []}
    for line in head.splitlines()[1:]:
        settings = re.findall(r'[\w:.]+=[\w.\[\],]+', line)
        name = line[1:].split()[0]
        if '=' not in name:
            last = found[name] = []
        last += settings
    return found


def parsed(file, settings, monkeypatch):
    """The options as the stock command line makes them."""
    more = ['--force_yml', *settings] if settings else []
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(file), *more])
    return parse_options('.')[0]


def judged_by(opt, metric, weights):
    """The same judge wherever the file has MUSIQ."""
    train, named = opt['train'], opt['val']['metrics']
    terms = train['pixel_opt']['terms']
    for part in (train['gt_selection'], terms.get('judge', {}), named['judge'], named['judge_gain']):
        part.update({'metric': metric, 'weights': str(weights)} if part else {})
    return opt


def ready(opt, backbones, run):
    """Shrunk, also the crops and VGG, and for this process alone."""
    opt = shrunk(opt, backbones) | {'gt_size': SIDE}
    for slot in ('pixel_opt', 'perceptual_opt'):
        terms = opt['train'].get(slot, {}).get('terms', [])
        for term in terms.values() if isinstance(terms, dict) else terms:
            if term['type'] == 'VGGLoss':
                term |= {
                    'layers': {'fire2': 1.0},
                    'backbone': 'squeezenet1_1',
                    'weights': str(backbones / 'squeeze.pth'),
                }
    opt['path'] |= {key: str(run / key) for key in ('models', 'training_states', 'visualization', 'experiments_root')}
    (run / 'models').mkdir()
    return opt | {'num_gpu': 0, 'dist': False, 'rank': 0, 'world_size': 1}


def step(model, side=SIDE):
    """One training step on random images, two candidates of three being preferred by people."""
    generator = torch.Generator().manual_seed(0)
    n, count = 2, 3
    kernels = dict.fromkeys(('kernel1', 'kernel2', 'sinc_kernel'), torch.full((n, 21, 21), 1 / 441))
    candidates = torch.rand(n, count, 3, side, side, generator=generator)
    positive = torch.tensor([[False, True, True]] * n)
    model.feed_data({
        'gt': candidates[:, 0], 'gt_candidates': candidates, 'gt_valid': torch.ones(n, count, dtype=torch.bool),
        'gt_positive': positive, 'gt_name': ['a', 'b'], 'gt_crop': torch.zeros(n, 2), **kernels,
    })  # fmt: skip
    model.optimize_parameters(1)
    return model.get_current_log()


def finite(log):
    return all(torch.isfinite(torch.as_tensor(value)) for value in log.values())


@pytest.mark.parametrize('network', NETWORKS)
def test_the_head_names_every_recipe(network):
    assert tuple(recipes(FOLDER / f'{network}_x4_amo_ft.yml')) == FINE_TUNINGS


@pytest.mark.parametrize('method', ['upos', 'sma', 'smp', 'amo'])
@pytest.mark.parametrize('network', NETWORKS)
def test_a_choice_among_ground_truths_trains_with_a_real_judge(
    network,
    method,
    backbones,
    cnniqa_weights,
    tmp_path,
    monkeypatch,
):
    opt = parsed(FOLDER / f'{network}_x4_multigt.yml', [f'train:gt_selection:method={method}'], monkeypatch)
    model = build_model(judged_by(ready(opt, backbones, tmp_path), 'cnniqa', cnniqa_weights))
    log = step(model)
    assert finite(log)
    assert model.gt_sampler.method == method
    assert log['gt_0'] + log['gt_1'] + log['gt_2'] == pytest.approx(1)
    assert method not in ('upos', 'smp') or log['gt_0'] == 0, 'nobody preferred the original'
    assert 'l_g_gan' in log


@pytest.mark.parametrize('recipe', FINE_TUNINGS)
@pytest.mark.parametrize('network', NETWORKS)
def test_a_fine_tuning_trains_lora_parameters_alone_on_a_real_judge(
    network,
    recipe,
    backbones,
    cnniqa_weights,
    tmp_path,
    monkeypatch,
):
    file = FOLDER / f'{network}_x4_amo_ft.yml'
    opt = parsed(file, recipes(file)[recipe], monkeypatch)
    judges = {opt['train']['gt_selection']['metric'], opt['train']['pixel_opt']['terms']['judge']['metric']}
    judges |= {opt['val']['metrics'][name]['metric'] for name in ('judge', 'judge_gain')}
    assert judges == {'paq2piq' if recipe == 'PaQ-2-PiQ' else 'musiq'}, 'one judge throughout'
    model = build_model(judged_by(ready(opt, backbones, tmp_path), 'cnniqa', cnniqa_weights))
    net = model.net_g
    before = {key: value.clone() for key, value in net.base_state().items()}
    change = [parameter.clone() for parameter in net.parameters()]
    log = step(model)
    assert finite(log)
    assert log['grad_judge'] > 0
    assert {'l_pixel', 'l_perceptual', 'l_judge'} <= log.keys()
    assert ('l_g_gan' in log) == ('l_d_real' in log) == (recipe == 'FT_IG')
    assert hasattr(model, 'net_d') == (recipe == 'FT_IG')
    inside = {id(p) for group in model.optimizer_g.param_groups for p in group['params']}
    assert inside == {id(p) for name, p in net.named_parameters() if 'parametrizations.weight.0.lora_' in name}
    assert equal(net.base_state(), before)
    assert not all(torch.equal(old, new) for old, new in zip(change, net.parameters(), strict=True))
    assert model.gt_sampler.method == ('upos' if recipe == 'UPos+FT' else 'amo')
    weights = {term.name: term.weight for term in model.cri_pix.terms}
    assert weights['perceptual'] == (3.0 if recipe == 'FT_HP' else 1.0)


@pytest.mark.parametrize('network', NETWORKS)
def test_a_file_for_fine_tuning_differs_from_its_base_in_nothing_of_the_data(network):
    """So the two stages see the same images, degradations and choice."""
    first, second = (
        yaml.safe_load((FOLDER / f'{network}_x4_{name}.yml').read_text().replace(PLUGIN_LINE, ''))
        for name in ('multigt', 'amo_ft')
    )
    assert second['datasets'] == first['datasets']
    assert second['network_g']['base'] == first['network_g']
    assert second['train']['gt_selection'] == {**first['train']['gt_selection'], 'panel_every': 1000}
    for key in first.keys() - {'name', 'base_model', 'network_g', 'path', 'train', 'val', 'logger'}:
        assert second[key] == first[key], key


@pytest.mark.parametrize('key', ['gt_usm', 'l1_gt_usm'])
def test_a_sharpened_ground_truth_is_refused_where_sharpening_is_off(key, backbones, cnniqa_weights, tmp_path):
    text = (FOLDER / 'realesrgan_x4_amo_ft.yml').read_text().replace(PLUGIN_LINE, '')
    opt = ready({**yaml.safe_load(text), key: True, 'is_train': True}, backbones, tmp_path)
    model = build_model(judged_by(opt, 'cnniqa', cnniqa_weights))
    with pytest.raises(ValueError, match=f'degradation_usm: false leaves no sharpened ground truth for {key}'):
        step(model)


@pytest.mark.slow
@pytest.mark.parametrize('judge', ['as in the file', 'cnniqa'])
@pytest.mark.parametrize('recipe', [*CHOICES, *FINE_TUNINGS])
@pytest.mark.parametrize('network', NETWORKS)
def test_the_recipes_train_through_the_stock_script(network, recipe, judge, backbones, request, tmp_path):
    """Four steps and a validation from a plain checkpoint on HGGT's folders.

    The judge is the recipe's own (the real architecture with random weights), or CNNIQA with its real weights.
    """
    file, settings = recipe_of(network, recipe)
    name = 'cnniqa' if judge == 'cnniqa' else 'paq2piq' if recipe == 'PaQ-2-PiQ' else 'musiq'
    weights = request.getfixturevalue(f'{name}_weights')
    root = write_hggt(tmp_path / 'HGGT', {'x': ('PSNP', 'PSNS', 'NSPN')}, height=256, width=256)
    val = write_sets(tmp_path / 'val', names=('x',), count=1, height=256, width=256)
    opt = shrunk(yaml.safe_load(file.read_text().replace(PLUGIN_LINE, '')), backbones)
    base = opt['network_g'].get('base', opt['network_g'])
    torch.manual_seed(0)
    plain = build_network(base).state_dict()
    torch.save({'params': build_network(base).state_dict(), 'params_ema': plain}, tmp_path / 'plain.pth')
    opt['path']['pretrain_network_g'] = str(tmp_path / 'plain.pth')
    opt['datasets']['train'] |= {
        'dataroot_gt': str(root), 'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0, 'dataset_enlarge_ratio': 4,
    }  # fmt: skip
    opt['datasets']['val'] |= {'dataroot_gt': str(val / 'gt'), 'dataroot_lq': str(val / 'lq')}
    opt['train']['total_iter'] = opt['val']['val_freq'] = opt['train']['gt_selection']['panel_every'] = 4
    opt |= {'num_gpu': 0, 'logger': {**opt['logger'], 'print_freq': 1, 'use_tb_logger': False}}
    if name == 'paq2piq':  # its settings name the judge; the file knows no weights of it
        opt = judged_by(opt, 'musiq', weights)
    else:
        opt = judged_by(opt, name, weights)
    (tmp_path / 'tiny.yml').write_text(f'{PLUGIN_LINE}\n' + yaml.safe_dump(opt))
    settings = [
        one for one in settings if 'pretrain_network_g' not in one and not (judge == 'cnniqa' and 'metric=' in one)
    ]
    run = subprocess.run(
        [sys.executable, '-m', 'basicsr.train', '-opt', 'tiny.yml', '--force_yml', 'name=mine', *settings],
        cwd=tmp_path, capture_output=True, text=True, timeout=900,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
    )  # fmt: skip
    log = run.stdout + run.stderr
    assert run.returncode == 0, log
    tuned = recipe in FINE_TUNINGS
    assert len(re.findall(rf'iter: +\d+, .*l_{"judge" if tuned else "pixel"}: .*gt_4: ', log)) == 4
    assert ('l_g_gan' in log) == (recipe == 'FT_IG' or not tuned)
    assert 'Current net - loaded net' not in log
    assert f'metric: {name}' in log
    method = re.search(r'^ +method: (\w+)', log, re.MULTILINE)[1]
    assert method == (recipe.lower() if not tuned else 'upos' if recipe == 'UPos+FT' else 'amo')
    assert 'judge_gain' in (tmp_path / 'experiments' / 'mine' / 'validation.csv').read_text()
    assert (tmp_path / 'experiments/mine/visualization/gt_selection/candidates_0000004.png').is_file()
    net = build_network(opt['network_g'])
    saved = torch.load(tmp_path / 'experiments' / 'mine' / 'models' / 'net_g_latest.pth', weights_only=True)
    net.load_state_dict(saved['params'])
    assert isinstance(net, LoRANet) == tuned
    assert not equal(net.merged_state_dict() if tuned else net.state_dict(), plain)
    assert not tuned or equal(net.base_state(), plain)


def recipe_of(network, recipe):
    """The file of a recipe and the settings that its command line adds."""
    if recipe in CHOICES:
        return FOLDER / f'{network}_x4_multigt.yml', [f'train:gt_selection:method={recipe.lower()}']
    file = FOLDER / f'{network}_x4_amo_ft.yml'
    return file, recipes(file)[recipe]
