"""The video networks' option files: every row from the stock command line in both hosts, schedules, the stock scripts."""

import copy
import os
import re
import subprocess
import sys

import pytest
import torch

from nriqa_plugin.archs.vrt import SMALL
from nriqa_plugin.checks import unknown_name
from nriqa_plugin.iqa import Scorer
from nriqa_plugin.losses import iqa_loss
from nriqa_plugin.losses.presets import read_presets
from nriqa_plugin.losses.table_weights import table_weight
from tests.conftest import ROOT, data_folder

NETWORKS = ('basicvsrpp', 'rbpn', 'vrt')
ROWS = read_presets(ROOT / 'options' / 'basicsr' / 'presets' / 'perceptual_vsr.yml')
FULL_REFERENCE = ('lpips', 'pieapp')
TINY = {
    'basicsr': {
        'basicvsrpp': {'mid_channels': 16, 'num_blocks': 1},
        'rbpn': {'base_filter': 4, 'feat': 4, 'n_resblock': 1},
        'vrt': SMALL,
    },
    'mmagic': {
        'basicvsrpp': {'mid_channels': 16, 'num_blocks': 1},
        'rbpn': {'base_filter': 4, 'feat': 4, 'n_resblock': 1},
        'vrt': SMALL,
    },
}
ITERATIONS = {'basicvsrpp': (5000, 15000), 'rbpn': (50000, 25000), 'vrt': (50000, 25000)}
WARM_UP = {'basicvsrpp': 500, 'rbpn': 1000, 'vrt': 1000}
MDTVSFA_ON_RBPN = {  # as the heads of the files say
    'basicsr': ['base_model=VideoRecurrentModel', 'network_g:output=all', 'datasets:train:type=Vimeo90KRecurrentDataset',
                'datasets:train:flip_sequence=false', 'datasets:val:middle_only=false'],
    'mmagic': ['model.type=BasicVSR', 'model.generator.output=all', 'val_dataloader.dataset.pipeline.1.middle_only=False',
               'train_dataloader.dataset.load_frames_list.gt="[im1.png,im2.png,im3.png,im4.png,im5.png,im6.png,im7.png]"'],
}  # fmt: skip


def file_of(host, network, kind='perceptual'):
    return ROOT / 'options' / host / f'{network}_x4_{kind}{".yml" if host == "basicsr" else ".py"}'


@pytest.fixture
def stand_ins(monkeypatch):
    """Judges that need no networks, by the names of the real ones."""

    def create(metric, weights=None, **options):
        class StandIn(Scorer):
            name, higher_better = metric, metric not in (*FULL_REFERENCE, 'niqe', 'cnniqa')
            needs_reference, temporal = metric in FULL_REFERENCE, metric == 'mdtvsfa'
            score_range = (0.0, 1.0)

            def score(self, pred, ref=None):
                return (pred if ref is None else (pred - ref).abs()).flatten(1).mean(1)

        return StandIn()

    monkeypatch.setattr(iqa_loss, 'create_scorer', create)


def check_row(loss, row):
    """The terms and weights of the row, and a gradient of each on what the network gives."""
    terms = ROWS[row]['terms']
    expected = {name: 1.0 if name == 'pixel' else table_weight(term['metric'])[0] for name, term in terms.items()}
    assert {term.name: term.weight for term in loss.terms} == expected
    assert (loss.balance is not None) == ('gradnorm' in row)
    assert loss.grad_norms_wanted
    weight = torch.nn.Parameter(torch.eye(3))
    for shape in ((1, 7, 3, 8, 8), *([] if 'mdtvsfa' in terms else [(1, 3, 8, 8)])):
        weight.grad = None
        loss(torch.einsum('oc,...chw->...ohw', weight, torch.rand(shape)), torch.rand(shape)).backward()
        assert weight.grad.any()
        assert all(norm > 0 for norm in loss.grad_norms.values())
        assert loss.grad_norms.keys() == terms.keys()


# --- every row, chosen as the files' heads say


def test_the_documented_local_files_reach_their_judges(monkeypatch):
    from nriqa_plugin.losses import LossSum
    from tests.documented import block

    yaml = pytest.importorskip('yaml', reason='PyYAML comes with BasicSR')
    part, asked = yaml.safe_load(block('video_rows.md', 'files', 'yaml')), {}

    def create(metric, weights=None, **options):
        asked[metric, options.pop('net', None)] = weights, options

        class StandIn(Scorer):
            name, needs_reference, temporal = metric, metric in FULL_REFERENCE, metric == 'mdtvsfa'

            def score(self, pred, ref=None):
                return pred.flatten(1).mean(1)

        return StandIn()

    monkeypatch.setattr(iqa_loss, 'create_scorer', create)
    presets = str(ROOT / 'options' / 'basicsr' / 'presets' / 'perceptual_vsr.yml')
    for row in ('lpips_mdtvsfa', 'squeeze'):
        LossSum(preset=row, presets=presets, terms=part['train']['pixel_opt']['terms'])
    assert asked == {
        ('lpips', None): ('alexnet.pth', {}),
        ('mdtvsfa', None): ('MDTVSFA.pt', {'backbone': 'resnet50.pth'}),
        ('lpips', 'squeeze'): ('squeezenet1_1.pth', {}),
    }
    shipped = yaml.load(
        file_of('basicsr', 'vrt').read_text().partition('\nval:')[2].partition('\nlogger')[0], yaml.Loader
    )
    for name, metric in part['val']['metrics'].items():
        assert {**shipped['metrics'][name], 'weights': 'alexnet.pth'} == metric


@pytest.mark.parametrize('network', NETWORKS)
def test_basicsrs_command_line_chooses_every_row_by_one_option(network, stand_ins, monkeypatch):
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    from basicsr.losses import build_loss
    from basicsr.utils.options import parse_options

    import nriqa_plugin.basicsr  # noqa: F401

    monkeypatch.chdir(ROOT)
    for row in ROWS:
        more = MDTVSFA_ON_RBPN['basicsr'] if network == 'rbpn' and 'mdtvsfa' in row else []
        arguments = ['--force_yml', f'name={network}_{row}', f'train:pixel_opt:preset={row}', *more]
        monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(file_of('basicsr', network)), *arguments])
        opt, _ = parse_options('.')
        assert opt['name'] == f'{network}_{row}'
        check_row(build_loss(opt['train']['pixel_opt']), row)
        if more:
            assert opt['network_g']['output'] == 'all'
            assert opt['datasets']['val']['middle_only'] is False


@pytest.mark.parametrize('network', NETWORKS)
def test_mmagics_command_line_chooses_every_row_by_one_option(network, stand_ins, monkeypatch):
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from mmagic.registry import MODELS
    from mmengine.config import Config, DictAction

    import nriqa_plugin.mmagic  # noqa: F401

    monkeypatch.chdir(ROOT)
    written = Config.fromfile(file_of('mmagic', network))
    for row in ROWS:
        config = copy.deepcopy(written)
        more = MDTVSFA_ON_RBPN['mmagic'] if network == 'rbpn' and 'mdtvsfa' in row else []
        pairs = [argument.replace('"', '').split('=', 1) for argument in (f'model.pixel_loss.preset={row}', *more)]
        config.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in pairs})
        check_row(MODELS.build(config.model.pixel_loss), row)
        if more:
            assert config.model.generator.output == 'all'
            assert config.train_dataloader.dataset.load_frames_list.gt == [f'im{i}.png' for i in range(1, 8)]
            assert config.val_dataloader.dataset.pipeline[1].middle_only is False


@pytest.mark.parametrize('host', ['basicsr', 'mmagic'])
@pytest.mark.parametrize('network', NETWORKS)
def test_the_heads_name_every_row_and_its_command(network, host):
    head = [line for line in file_of(host, network).read_text().split('\n\n')[0].splitlines() if line.startswith('#')]
    text = ' '.join(line.removeprefix('#').strip() for line in head)
    words = set(re.findall(r'\w+', text))
    for row in ROWS:
        if row not in words:
            raise unknown_name('row in the head:', row, words)
    option = 'train:pixel_opt:preset=ROW' if host == 'basicsr' else 'model.pixel_loss.preset=ROW'
    assert option in text
    if network == 'rbpn':
        assert all(argument in text for argument in MDTVSFA_ON_RBPN[host])


# --- one judgement everywhere, so that numbers of baseline and fine-tuning compare


KINDS = [(network, kind) for network in NETWORKS for kind in ('charbonnier', 'perceptual')] + [('rbpn', 'iseebetter')]


@pytest.mark.parametrize(('network', 'kind'), KINDS)
def test_basicsr_judges_luminance_without_four_pixels_at_the_border(network, kind):
    from nriqa_plugin.compare.yaml_files import read_yaml

    metrics = read_yaml(file_of('basicsr', network, kind))['val']['metrics']
    assert {'psnr', 'ssim', 'niqe'} <= metrics.keys()
    for name, metric in metrics.items():
        assert metric['crop_border'] == 4, name
        if name in ('psnr', 'ssim'):
            assert metric['test_y_channel'] is True, name


@pytest.mark.parametrize(('network', 'kind'), KINDS)
def test_mmagic_judges_luminance_without_four_pixels_at_the_border(network, kind):
    config = pytest.importorskip('mmengine.config', reason='the extra mmagic is not installed')
    file = file_of('mmagic', network, kind)
    metrics = config.Config.fromfile(file, import_custom_modules=False).val_evaluator.metrics
    assert {'PSNR', 'SSIM'} < {metric.type for metric in metrics}
    assert any('niqe' in metric.get('judges', ()) for metric in metrics)
    for metric in metrics:
        assert metric.crop_border == 4, metric.type
        assert metric.get('convert_to') == (None if 'judges' in metric else 'Y'), metric.type


# --- the training procedure of the paper


def learning_rates(host, network, kind):
    """The rate of every iteration, from the schedulers themselves."""
    weight = torch.nn.Parameter(torch.zeros(1))
    total = ITERATIONS[network][kind == 'perceptual']
    if host == 'basicsr':
        pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
        from basicsr.models.lr_scheduler import CosineAnnealingRestartLR
        from basicsr.utils.options import yaml_load

        train = yaml_load(str(file_of(host, network, kind)))['train']
        assert train['total_iter'] == total
        option = dict(train['optim_g'])
        assert option.pop('type') == 'Adam'
        optimizer = torch.optim.Adam([weight], **option)
        schedule = dict(train['scheduler'])
        assert schedule.pop('type') == 'CosineAnnealingRestartLR'
        scheduler, first = CosineAnnealingRestartLR(optimizer, **schedule), option['lr']
        for step in range(1, total + 1):  # as the host's update_learning_rate
            if step > 1:
                optimizer._opt_called = True
                scheduler.step()
            if step < train['warmup_iter']:
                optimizer.param_groups[0]['lr'] = first / train['warmup_iter'] * step
            yield optimizer.param_groups[0]['lr']
        return
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from mmengine.config import Config
    from mmengine.registry import PARAM_SCHEDULERS

    config = Config.fromfile(file_of(host, network, kind), import_custom_modules=False)
    assert config.train_cfg.max_iters == total
    option = dict(config.optim_wrapper.optimizer)
    assert option.pop('type') == 'Adam'
    optimizer = torch.optim.Adam([weight], **option)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(one), default_args={'optimizer': optimizer}) for one in config.param_scheduler
    ]
    for _ in range(total):
        yield optimizer.param_groups[0]['lr']
        for scheduler in schedulers:
            scheduler.step()


@pytest.mark.parametrize('kind', ['charbonnier', 'perceptual'])
@pytest.mark.parametrize(
    'network', ['basicvsrpp', *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS[1:])]
)
@pytest.mark.parametrize('host', ['basicsr', 'mmagic'])
def test_the_rate_warms_up_to_4e_4_and_falls_by_cosines_with_a_restart(host, network, kind):
    rates, warm = list(learning_rates(host, network, kind)), WARM_UP[network]
    half = len(rates) // 2
    for step in (1, 2, warm // 2, warm - 1):
        assert rates[step - 1] == pytest.approx(4e-4 * step / warm, rel=0.01)
    assert max(rates) == pytest.approx(4e-4, rel=0.01)
    assert rates.index(max(rates)) + 1 in range(warm - 1, warm + 2)
    falling = [after < before for before, after in zip(rates[warm:], rates[warm + 1 :], strict=False)]
    restarts = [warm + 1 + i for i, falls in enumerate(falling) if not falls]
    assert len(restarts) == 1
    assert abs(restarts[0] - half) <= 1
    assert rates[half - 3] < 4e-6
    assert rates[half + 2] == pytest.approx(2e-4, rel=0.01)
    assert rates[-1] < 1e-6


# --- the stock scripts


def write_clips(folder, size=256):
    """``sequences/00001/0001/im1.png`` to ``im7.png`` and their LR, and the same clip for validation."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    base = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).resize((320, 320), Image.BICUBIC)
    for t in range(7):
        frame = base.crop((t, 2 * t, t + size, 2 * t + size))
        for root, image in (('gt', frame), ('lq', frame.resize((size // 4, size // 4), Image.BICUBIC))):
            (folder / root / '00001/0001').mkdir(parents=True, exist_ok=True)
            image.save(folder / root / f'00001/0001/im{t + 1}.png')
        (folder / 'val/clip').mkdir(parents=True, exist_ok=True)
        frame.save(folder / f'val/clip/{t}.png')
    (folder / 'train.txt').write_text('00001/0001 7 (256,256,3)\n')


def tiny_basicsr(network, folder, terms):
    """The option file of a network's rows with a tiny one and four steps on a CPU; ``terms`` as local files."""
    from nriqa_plugin.compare.yaml_files import read_yaml

    opt = read_yaml(file_of('basicsr', network))
    write_clips(folder)
    data = opt['datasets']
    data['train'] |= {'dataroot_gt': str(folder / 'gt'), 'dataroot_lq': str(folder / 'lq'), 'batch_size_per_gpu': 1,
                      'meta_info_file': str(folder / 'train.txt'), 'num_worker_per_gpu': 0, 'dataset_enlarge_ratio': 9}  # fmt: skip
    data['val']['dataroot_gt'] = str(folder / 'val')
    opt['network_g'] |= {**TINY['basicsr'][network], 'spynet_path': None}
    opt['path']['pretrain_network_g'] = None
    opt['train'] |= {'total_iter': 4, 'warmup_iter': 2}
    opt['train']['scheduler']['periods'] = [2, 2]
    opt['train']['pixel_opt'] |= {'presets': str(ROOT / opt['train']['pixel_opt']['presets']), 'terms': terms}
    opt['val']['val_freq'] = 4
    return opt | {'num_gpu': 0, 'logger': {**opt['logger'], 'print_freq': 1, 'use_tb_logger': False}}


def run_basicsr(opt, folder, *changes):
    """The log of the stock training script, run in ``folder`` as ``mine``."""
    from nriqa_plugin.compare.yaml_files import yaml_text

    (folder / 'tiny.yml').write_text(yaml_text(opt))
    command = [sys.executable, '-m', 'basicsr.train', '-opt', 'tiny.yml', '--force_yml', 'name=mine']
    return run([*command, *changes], folder)


@pytest.mark.slow
@pytest.mark.parametrize(('network', 'row'), [('basicvsrpp', 'squeeze_niqe'), ('rbpn', 'niqe'), ('vrt', 'squeeze')])
def test_a_row_trains_and_validates_through_stock_basicsr(network, row, squeezenet_weights, tmp_path):
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    local = {'weights': str(squeezenet_weights)}
    opt = tiny_basicsr(network, tmp_path, {'lpips_squeeze': local})
    for metric in opt['val']['metrics'].values():
        if metric.get('metric') == 'lpips':
            metric |= {'options': {'net': 'squeeze'}, **local}
    log = run_basicsr(opt, tmp_path, f'train:pixel_opt:preset={row}')
    terms = ROWS[row]['terms']
    assert len(re.findall(r'iter: +\d+, .*' + '.*'.join(f'l_{name}: ' for name in terms), log)) == 4
    rows = (tmp_path / 'experiments/mine/validation.csv').read_text()
    metrics = ('psnr', 'ssim', 'lpips', 'niqe', 'lpips_gain', 'niqe_gain', 'pattern')
    assert all(f'4,clips,{metric},' in rows for metric in metrics), rows
    assert (tmp_path / 'experiments/mine/models/net_g_best_clips_niqe.pth').is_file()


@pytest.mark.slow
def test_the_video_judge_trains_a_network_that_restores_every_frame_through_stock_basicsr(tmp_path):
    """With the published head of MDTVSFA where it is at hand, on random features."""
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    files = mdtvsfa_files(tmp_path)
    term = {'weights': str(files['weights']), 'options': {'backbone': str(files['backbone'])}}
    opt = tiny_basicsr('rbpn', tmp_path, {'mdtvsfa': {**term, 'weight': 0.5}})
    opt['network_g']['nFrames'] = opt['datasets']['train']['num_frame'] = opt['datasets']['val']['num_frame'] = 3
    opt['datasets']['train']['gt_size'] = 144
    judge = {'type': 'calculate_iqa', 'metric': 'niqe', 'crop_border': 4}
    opt['val'] |= {'metrics': {'psnr': opt['val']['metrics']['psnr'], 'niqe': judge}, 'artifact_alarm': None}
    log = run_basicsr(opt, tmp_path, 'train:pixel_opt:preset=mdtvsfa', *MDTVSFA_ON_RBPN['basicsr'])
    steps = [dict(re.findall(r'(\w+): (\S+)', line)) for line in log.splitlines() if 'l_mdtvsfa: ' in line]
    assert len(steps) == 4, log[-3000:]
    for step in steps:
        assert -1 < float(step['l_mdtvsfa']) < 0  # minus the score of the clip
        assert float(step['l_pixel']) > 0
        assert min(float(step[f'grad_{term}']) for term in ('pixel', 'mdtvsfa')) > 0
    rows = (tmp_path / 'experiments/mine/validation.csv').read_text()
    assert all(f'4,clips,{metric},' in rows for metric in ('psnr', 'niqe')), rows
    trained = torch.load(tmp_path / 'experiments/mine/models/net_g_latest.pth', weights_only=True)['params']
    assert not any('backbone' in key or 'head' in key for key in trained)


def mdtvsfa_files(folder):
    """``{option: file}``: a random ResNet-50 and, where there is no ``MDTVSFA.pt``, a random head."""
    from torchvision.models import resnet50

    from nriqa_plugin.iqa.mdtvsfa import Head

    torch.manual_seed(0)
    network, head = resnet50(weights=None), data_folder() / 'weights' / 'MDTVSFA.pt'
    for name, module in network.named_modules():
        if name.endswith('bn3'):  # else the residual branches of random weights add up
            module.weight.data.fill_(0.2)
    torch.save(network.state_dict(), folder / 'resnet50.pth')
    if not head.is_file():
        head = folder / 'MDTVSFA.pt'
        torch.save(Head(['K']).state_dict(), head)
    return {'weights': head, 'backbone': folder / 'resnet50.pth'}


@pytest.mark.slow
@pytest.mark.parametrize(('network', 'row'), [('basicvsrpp', 'squeeze'), ('rbpn', 'squeeze_niqe'), ('vrt', 'niqe')])
def test_a_row_trains_and_validates_through_stock_mmagic(network, row, squeezenet_weights, tmp_path):
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from tests.mmagic_runs import stock_script

    write_clips(tmp_path)
    flow = 'spynet_pretrained' if network == 'basicvsrpp' else 'spynet_path'
    local = {'weights': str(squeezenet_weights)}
    lpips = {'metric': 'lpips', 'options': {'net': 'squeeze'}, **local}
    options = {
        'work_dir': str(tmp_path / 'run'),
        'save_dir': str(tmp_path),
        'load_from': None,
        'model': {
            'generator': {**TINY['mmagic'][network], flow: None},
            'pixel_loss': {'presets': str(ROOT / 'options/basicsr/presets/perceptual_vsr.yml'), 'terms': {'lpips_squeeze': local}},
        },
        'train_dataloader': {
            'num_workers': 0, 'batch_size': 1, 'persistent_workers': False,
            'dataset': {'data_root': str(tmp_path), 'data_prefix': {'img': 'lq', 'gt': 'gt'}, 'ann_file': 'train.txt'},
        },
        'val_dataloader': {'num_workers': 0, 'dataset': {'data_root': str(tmp_path), 'data_prefix': {'gt': 'val'}}},
        'val_evaluator': {'metrics': [
            {'type': 'PSNR', 'crop_border': 4}, {'type': 'RelativeGain', 'judges': [lpips, 'niqe', 'pattern'], 'crop_border': 4},
        ]},
        'train_cfg': {'max_iters': 4, 'val_interval': 4},
        'param_scheduler': [
            {'type': 'LinearLR', 'by_epoch': False, 'start_factor': 0.5, 'begin': 0, 'end': 2},
            {'type': 'CosineRestartLR', 'by_epoch': False, 'begin': 2, 'periods': [1, 2], 'restart_weights': [1, 0.5],
             'eta_min': 1e-7},
        ],
        'default_hooks': {'checkpoint': {'interval': 4}, 'logger': {'interval': 1}},
    }  # fmt: skip
    lines = [f'_base_ = {str(file_of("mmagic", network))!r}', *(f'{key} = {value!r}' for key, value in options.items())]
    (tmp_path / 'tiny.py').write_text('\n'.join(lines) + '\n')
    command = [sys.executable, stock_script('train'), 'tiny.py', '--cfg-options', f'model.pixel_loss.preset={row}']
    log = run(command, tmp_path)
    terms = ROWS[row]['terms']
    found = re.findall(r'Iter\(train\) \[ *\d+/4\].*' + ''.join(f'(?=.*loss_{name}: )' for name in terms), log)
    assert len(found) == 4, log[-3000:]
    assert all(f'{key}: ' in log for key in ('gain/lpips', 'gain/niqe', 'growth/pattern')), log[-3000:]


def run(command, folder):
    result = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=900,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT), 'PYTHONWARNINGS': 'ignore'},
    )  # fmt: skip
    log = result.stdout + result.stderr
    assert result.returncode == 0, log[-4000:]
    return log
