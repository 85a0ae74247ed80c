"""The BasicSR adapter inside the process: registries, every base model, metrics, validation, guards."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('basicsr', reason='the extra basicsr is not installed')

from basicsr.archs import build_network
from basicsr.data import build_dataloader, build_dataset
from basicsr.losses import build_loss
from basicsr.metrics import calculate_metric
from basicsr.models import build_model
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

import nriqa_plugin.basicsr
from nriqa_plugin.basicsr import cpu, metrics, registration, several_gts
from nriqa_plugin.doctor.reading import metrics_of
from nriqa_plugin.evaluation.relative_gain import relative_gain
from nriqa_plugin.evaluation.scores import read_scores, score_row, write_scores
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.losses import NRIQALoss
from nriqa_plugin.losses.training_state import random_state
from nriqa_plugin.mdf import Discriminator, save_mdf
from tests.clip_files import SMALL_RBPN, SMALL_VRT, write_clip
from tests.judges import Darkness, TinyNet
from tests.multigt_data import write_sets
from tests.test_checks_and_scorer import Malicious
from tests.test_vgg_loss import saved_backbone

JUDGE, CLIP = 'tests.judges:TinyNet', 'tests.judges:Clip'
TERMS = [{'type': 'L1Loss', 'weight': 1.0}, {'type': 'NRIQALoss', 'metric': JUDGE, 'weight': 0.1}]
SMALL_SR = {'type': 'MSRResNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1, 'upscale': 4}
ADAM = {'type': 'Adam', 'lr': 1e-3}


WATCHED = {
    'held_out': {'type': 'calculate_iqa', 'metric': 'tests.judges:Brightness'},
    'gain': {'type': 'calculate_relative_gain', 'metric': 'tests.judges:Darkness', 'baseline': 'start'},
}


@pytest.fixture
def photographs(tmp_path):
    """Two smooth random images and their x1/4 versions, as a paired folder."""
    rng = np.random.default_rng(0)
    for kind in ('gt', 'lq'):
        (tmp_path / kind).mkdir()
    for name in ('one', 'two'):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        small.resize((64, 48), Image.BICUBIC).save(tmp_path / 'gt' / f'{name}.png')
        small.save(tmp_path / 'lq' / f'{name}.png')
    return tmp_path


def options(tmp_path, model_type='PerceptualModel', terms=TERMS, **more):
    """Options as BasicSR hands them to a model after parsing."""
    paths = {key: str(tmp_path / 'run' / key) for key in ('models', 'training_states', 'visualization')}
    for path in paths.values():
        (tmp_path / 'run').joinpath(path).mkdir(parents=True, exist_ok=True)
    opt = {
        'name': 'run', 'model_type': model_type, 'scale': 4, 'num_gpu': 0, 'dist': False, 'rank': 0, 'world_size': 1,
        'is_train': True, 'network_g': dict(SMALL_SR), 'path': {**paths, 'experiments_root': str(tmp_path / 'run')},
        'train': {
            'optim_g': dict(ADAM), 'optim_d': dict(ADAM), 'pixel_opt': {'type': 'LossSum', 'terms': terms, 'grad_norms': True},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [100]},
        },
        'val': {'save_img': False, 'metrics': None},
        'logger': {'print_freq': 1},
    }  # fmt: skip
    opt['train'].update(more.pop('train', {}))
    return {**opt, **more}


def pair(batch=2, side=8, frames=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 3) if frames is None else (batch, frames, 3)
    return {
        'lq': torch.rand(*shape, side, side, generator=generator),
        'gt': torch.rand(*shape, 4 * side, 4 * side, generator=generator),
    }


def train_steps(model, data, steps=2):
    for iteration in range(1, steps + 1):
        model.feed_data({**data})
        model.optimize_parameters(iteration)
    return model.get_current_log()


# -------------------------------------------------------------------------------------------- registries


def test_every_registered_name_builds_from_a_plain_option_dict(photographs, monkeypatch):
    gt, lq = str(photographs / 'gt'), str(photographs / 'lq')
    data = {
        'name': 'x',
        'phase': 'val',
        'scale': 4,
        'dataroot_gt': gt,
        'dataroot_lq': lq,
        'io_backend': {'type': 'disk'},
    }
    lr_only = {key: value for key, value in data.items() if key != 'dataroot_gt'}
    candidates = str(write_sets(photographs / 'sets', names=('one', 'two')))
    sets = {**data, 'phase': 'train', 'gt_size': 32, 'dataroot_gt': candidates, 'dataroot_lq': f'{candidates}/lq'}
    gray = np.full((16, 16, 3), 64, np.uint8)
    gt_of_one = f'{candidates}/gt/one.png'
    monkeypatch.setattr(several_gts, '_shown', ['one'])  # as PerceptualModel tells it
    store = photographs / 'base.csv'
    write_scores(store, [score_row('one.png', Darkness(), 0.5)])
    backbone = {'backbone': 'squeezenet1_1', 'weights': str(saved_backbone(photographs, 'squeezenet1_1')[1])}
    built = {
        'LossSum': lambda: build_loss({'type': 'LossSum', 'terms': TERMS}),
        'LossPair': lambda: build_loss({'type': 'LossPair', 'terms': TERMS}),
        'NRIQALoss': lambda: build_loss({'type': 'NRIQALoss', 'metric': JUDGE}),
        'FRIQALoss': lambda: build_loss({'type': 'FRIQALoss', 'metric': 'tests.judges:Distance'}),
        'VGGLoss': lambda: build_loss({'type': 'VGGLoss', 'layers': {'fire2': 1.0}, **backbone}),
        'ColourLoss': lambda: build_loss({'type': 'ColourLoss', 'factor': 4}),
        'TVLoss': lambda: build_loss({'type': 'TVLoss'}),
        'LRConsistencyLoss': lambda: build_loss({'type': 'LRConsistencyLoss', 'downscaling': 'area'}),
        'RLFN': lambda: build_network({'type': 'RLFN', 'feature_channels': 8})(torch.rand(1, 3, 16, 16)).shape == (1, 3, 64, 64),
        'LoRANet': lambda: build_network({'type': 'LoRANet', 'base': SMALL_SR, 'rank': 2})(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32),
        'AMOSampler': lambda: build_network({'type': 'AMOSampler', 'method': 'amo', 'metric': JUDGE}).scorer is not None,
        'CheckedPairedImageDataset': lambda: len(build_dataset({'type': 'CheckedPairedImageDataset', **data})) == 2,
        'MultiGTDataset': lambda: build_dataset({'type': 'MultiGTDataset', **sets})[0]['gt_candidates'].shape == (3, 3, 32, 32),
        'LROnlyDataset': lambda: len(build_dataset({'type': 'LROnlyDataset', **lr_only})) == 2,
        'PerceptualModel': lambda: build_model(options(photographs)),
        'calculate_iqa': lambda: calculate_metric({'img': gray}, {'type': 'calculate_iqa', 'metric': 'tests.judges:Brightness'}) > 0.25,
        'calculate_relative_gain': lambda: calculate_metric(
            {'img': gray}, {'type': 'calculate_relative_gain', 'metric': 'tests.judges:Darkness', 'baseline': str(store)}
        ) == pytest.approx(100 * (0.5 - 64 / 255) / 0.5, rel=1e-5),
        'calculate_several_gts': lambda: calculate_metric(
            {'img': np.asarray(Image.open(gt_of_one))[..., ::-1]},
            {'type': 'calculate_several_gts', 'metric': 'tests.judges:Distance', 'gts': candidates, 'better': 'lower'},
        ) > 0.1,
    }  # fmt: skip
    save_mdf(photographs / 'mdf.pth', [Discriminator(4)], {'range': [0, 1]})
    write_clip(photographs / 'clips' / 'a', frames=3)
    np.save(photographs / 'digits.npy', np.zeros((2, 20, 64, 64), np.uint8))
    clips = {**data, 'dataroot_gt': str(photographs / 'clips'), 'degradation': 'bicubic', 'num_frame': 3}
    del clips['dataroot_lq']
    built |= {
        'MDFLoss': lambda: build_loss({'type': 'MDFLoss', 'weights': str(photographs / 'mdf.pth')}),
        'DnCNN': lambda: build_network({'type': 'DnCNN', 'nc': 4, 'nb': 3})(torch.rand(1, 1, 9, 9)).shape == (1, 1, 9, 9),
        'DegradedImageDataset': lambda: len(build_dataset({
            'type': 'DegradedImageDataset', 'name': 'x', 'phase': 'val', 'scale': 1, 'dataroot_gt': gt,
            'degradation': {'type': 'jpeg', 'quality': 10}, 'io_backend': {'type': 'disk'},
        })) == 2,
        'RBPN': lambda: build_network({'type': 'RBPN', **SMALL_RBPN})(torch.rand(1, 3, 3, 32, 32)).shape == (1, 3, 128, 128),
        'VRT': lambda: build_network({'type': 'VRT', **SMALL_VRT})(torch.rand(1, 2, 3, 40, 40)).shape == (1, 2, 3, 160, 160),
        'SRGANDiscriminator': lambda: build_network({'type': 'SRGANDiscriminator'})(torch.rand(2, 3, 32, 32)).shape == (2,),
        'SimpleVSR': lambda: build_network({'type': 'SimpleVSR'})(torch.rand(1, 5, 1, 32, 32)).shape == (1, 1, 64, 64),
        'ClipFolderDataset': lambda: build_dataset({'type': 'ClipFolderDataset', **clips, 'gt_size': 32})[0]['lq'].shape == (3, 3, 8, 8),
        'ClipFolderTestDataset': lambda: build_dataset({'type': 'ClipFolderTestDataset', **clips})[0]['lq'].shape == (3, 3, 8, 10),
        'MovingDigitsDataset': lambda: build_dataset({
            'type': 'MovingDigitsDataset', 'name': 'x', 'phase': 'train', 'scale': 2, 'file': str(photographs / 'digits.npy'),
        })[0]['lq'].shape == (5, 1, 32, 32),
        'calculate_loss': lambda: calculate_metric(
            {'img': gray, 'img2': gray + 51}, {'type': 'calculate_loss', 'terms': [{'type': 'L1Loss', 'weight': 2.0}], 'better': 'lower'}
        ) == pytest.approx(0.4, rel=1e-5),
    }  # fmt: skip
    names = [thing.__name__ for _, things in registration.REGISTERED for thing in things]
    assert sorted(built) == sorted(names)
    for name in names:
        assert built[name](), name


def test_registering_twice_does_nothing_and_a_foreign_name_is_refused(monkeypatch):
    sizes = [len(list(r)) for r in (ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY)]
    registration.register_all()
    assert sizes == [
        len(list(r)) for r in (ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY)
    ]
    foreign = type('LossSum', (), {'__module__': 'somebody.else'})
    monkeypatch.setitem(LOSS_REGISTRY._obj_map, 'LossSum', foreign)
    with pytest.raises(ValueError, match=r'LossSum is already registered in BasicSR by somebody\.else'):
        registration.register_all()


def test_version_is_plain_text_that_option_files_can_copy():
    assert nriqa_plugin.__version__ == nriqa_plugin.basicsr.VERSION


def test_terms_find_the_hosts_own_losses_by_registered_name():
    loss = build_loss({'type': 'LossSum', 'terms': [{'type': 'CharbonnierLoss', 'weight': 2.0, 'eps': 1e-6}]})
    pred, target = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    host = build_loss({'type': 'CharbonnierLoss', 'eps': 1e-6})
    assert loss(pred, target).item() == pytest.approx(2 * host(pred, target).item())
    with pytest.raises(ValueError, match="'CharbonierLoss'. Did you mean 'CharbonnierLoss'"):
        build_loss({'type': 'LossSum', 'terms': [{'type': 'CharbonierLoss', 'weight': 1.0}]})
    with pytest.raises(ValueError, match="second argument is 'weight'"):
        build_loss({'type': 'LossSum', 'terms': [{'type': 'WeightedTVLoss', 'weight': 1.0}]})


# ------------------------------------------------------------------------- LossSum in the host's own models

DISCRIMINATOR = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4}
GAN = {'network_d': DISCRIMINATOR, 'train': {'gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1}}}
USM = {'l1_gt_usm': False, 'percep_gt_usm': False, 'gan_gt_usm': False, 'high_order_degradation': False}
VIDEO = {'network_g': {'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1}}
HOSTS = {
    'SRModel': ({}, pair(), 'l_pix'),
    'SRGANModel': (GAN, pair(), 'l_g_pix'),
    'ESRGANModel': (GAN, pair(), 'l_g_pix'),
    'RealESRGANModel': ({**GAN, **USM}, pair(), 'l_g_pix'),
    'VideoRecurrentModel': (VIDEO, pair(batch=1, side=64, frames=2), 'l_pix'),
}


@pytest.mark.parametrize('host', HOSTS)
def test_loss_sum_trains_in_the_pixel_slot_of_stock_models(host, tmp_path):
    more, data, logged = HOSTS[host]
    with cpu.cuda_calls_stay_on_cpu(True):  # the stock RealESRGANModel cannot be built without
        model = build_model(options(tmp_path, host, **more))
        before = {k: v.clone() for k, v in model.net_g.state_dict().items()}
        model.is_train = False if host == 'RealESRGANModel' else model.is_train  # paired data, no synthesis
        log = train_steps(model, data)
    assert np.isfinite(log[logged])
    assert any(not torch.equal(before[k], v) for k, v in model.net_g.state_dict().items())
    assert model.cri_pix.iteration == 2


@pytest.mark.parametrize('host', HOSTS)
def test_perceptual_model_lies_over_any_host_model_and_logs_every_term(host, tmp_path):
    more, data, logged = HOSTS[host]
    model = build_model(options(tmp_path, base_model=host, **more))
    assert type(model).__name__ == f'Perceptual{host}'
    log = train_steps(model, data)
    assert {'l_l1', 'l_tinynet', 'grad_l1', 'grad_tinynet', logged} <= log.keys()
    assert log[logged] == pytest.approx(log['l_l1'] + 0.1 * log['l_tinynet'], rel=1e-4)


def test_the_perceptual_slot_takes_a_loss_pair(tmp_path):
    perceptual = {'pixel_opt': {'type': 'L1Loss'}, 'perceptual_opt': {'type': 'LossPair', 'terms': TERMS[1:]}}
    for model_type in ('SRModel', 'PerceptualModel'):
        model = build_model(options(tmp_path, model_type, train=perceptual))
        model.feed_data(pair())
        with torch.no_grad():
            expected = 0.1 * NRIQALoss(TinyNet())(model.net_g(model.lq)).item()
        model.optimize_parameters(1)
        assert model.get_current_log()['l_percep'] == pytest.approx(expected, rel=1e-5)
        assert 'l_style' not in model.get_current_log()


def test_a_term_may_be_called_like_something_the_host_logs(tmp_path):
    log = train_steps(build_model(options(tmp_path, terms=[{**TERMS[0], 'name': 'pix'}, TERMS[1]])), pair(), 1)
    assert log['l_pix'] == pytest.approx(log['l_pix_pix'] + 0.1 * log['l_tinynet'], rel=1e-4)


def test_bare_state_dicts_and_the_hosts_own_checkpoints_load_whatever_the_key(tmp_path):
    path = {**options(tmp_path)['path'], 'param_key_g': None, 'pretrain_network_g': str(tmp_path / 'bare.pth')}
    bare = build_network(dict(SMALL_SR)).state_dict()
    torch.save(bare, tmp_path / 'bare.pth')
    torch.save({'params': bare}, tmp_path / 'saved_by_host.pth')
    for name in ('bare.pth', 'saved_by_host.pth'):
        path['pretrain_network_g'] = str(tmp_path / name)
        model = build_model(options(tmp_path, path=path, train={'ema_decay': 0.9}))
        for net in (model.net_g, model.net_g_ema):
            assert all(torch.equal(net.state_dict()[key], bare[key]) for key in bare)


def test_a_half_written_checkpoint_never_replaces_a_good_one(tmp_path, monkeypatch):
    model = build_model(options(tmp_path))
    models = tmp_path / 'run' / 'models'
    model.save_network(model.net_g, 'net_g', 5)
    good = (models / 'net_g_5.pth').read_bytes()
    (models / '.partial_0').mkdir()
    (models / '.partial_0' / 'net_g_5.pth').write_bytes(b'half of a run that was killed')
    model.save_network(model.net_g, 'net_g', 6)
    assert (models / 'net_g_5.pth').read_bytes() == good

    def disk_full(obj, path, *args, **kwargs):
        with open(path, 'wb') as file:
            file.write(good[: len(good) // 2])
        raise OSError('No space left on device')

    monkeypatch.setattr(torch, 'save', disk_full)
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    with pytest.raises(OSError, match=r'net_g_5\.pth could not be written.*the earlier file is kept'):
        model.save_network(model.net_g, 'net_g', 5)
    assert (models / 'net_g_5.pth').read_bytes() == good
    assert not list(models.glob('.partial*'))

    def no_permission(obj, path, *args, **kwargs):
        raise PermissionError(path)

    monkeypatch.setattr(torch, 'save', no_permission)
    with pytest.raises(OSError, match='no checkpoint could be written to'):
        model.save_network(model.net_g, 'net_g', 7)


def test_weights_that_would_run_code_are_refused(tmp_path):
    torch.save({'params': Malicious()}, tmp_path / 'evil.pth')
    path = {**options(tmp_path)['path'], 'pretrain_network_g': str(tmp_path / 'evil.pth')}
    with pytest.raises(ValueError, match=r'the weights of MSRResNet: .*evil\.pth was refused'):
        build_model(options(tmp_path, path=path))


def test_every_rank_gets_its_own_random_numbers_back(tmp_path):
    model = build_model(options(tmp_path))
    states, numbers = [], []
    for rank in range(2):
        torch.manual_seed(rank)
        np.random.seed(rank)
        states.append(random_state())
        numbers.append((torch.rand(1).item(), np.random.rand()))
    model.resume_state.random_of_all_ranks = states
    saved = model.resume_state.state_dict()
    for rank in range(2):
        model.opt |= {'world_size': 2, 'rank': rank}
        model.resume_state.load_state_dict(saved)
        model.resume_state.restore_torch()
        assert (torch.rand(1).item(), np.random.rand()) == numbers[rank]


def test_flow_stays_frozen_after_a_resume_within_fix_flow(tmp_path):
    train = {'fix_flow': 100, 'flow_lr_mul': 0.5}
    model = build_model(options(tmp_path, base_model='VideoRecurrentModel', **{**VIDEO, 'train': train}))
    model.resumed = True  # what resume_training leaves behind
    model.feed_data(pair(batch=1, side=64, frames=2))
    model.optimize_parameters(50)
    flags = {name: p.requires_grad for name, p in model.net_g.named_parameters()}
    assert not any(flag for name, flag in flags.items() if 'spynet' in name)
    assert all(flag for name, flag in flags.items() if 'spynet' not in name)


def test_single_losses_train_in_the_pixel_slot_and_are_refused_where_a_pair_is_wanted(tmp_path):
    single = {'type': 'NRIQALoss', 'metric': JUDGE, 'loss_weight': 0.5}
    for model_type in ('SRModel', 'PerceptualModel'):
        log = train_steps(build_model(options(tmp_path, model_type, train={'pixel_opt': single})), pair(), 1)
        assert np.isfinite(log['l_pix'])
    with pytest.raises(ValueError, match=r'perceptual slot wants the pair.*NRIQALoss gives one number.*LossPair'):
        build_model(options(tmp_path, train={'perceptual_opt': single}))
    with pytest.raises(ValueError, match=r'perceptual slot wants the pair.*TVLoss gives one number'):
        build_model(options(tmp_path, train={'perceptual_opt': {'type': 'TVLoss'}}))
    with pytest.raises(ValueError, match=r'pixel slot wants one number, LossPair gives a pair'):
        build_model(options(tmp_path, train={'pixel_opt': {'type': 'LossPair', 'terms': TERMS}}))


def test_schedules_follow_the_hosts_iteration(tmp_path):
    terms = [TERMS[0], {**TERMS[1], 'start_iter': 1}]
    model = build_model(options(tmp_path, terms=terms))
    model.feed_data(pair())
    model.optimize_parameters(1)
    assert 'l_tinynet' not in model.get_current_log()
    model.optimize_parameters(501)
    assert model.cri_pix.iteration == 501
    assert 'l_tinynet' in model.get_current_log()


def test_a_step_with_a_nan_term_is_dropped_named_and_ten_in_a_row_are_an_error(tmp_path, plugin_log):
    bad = {'type': 'NRIQALoss', 'metric': 'tests.judges:NaNGradient', 'weight': 1.0, 'probe': False}
    model = build_model(options(tmp_path, terms=[TERMS[0], bad]))
    before = {k: v.clone() for k, v in model.net_g.state_dict().items()}
    log = train_steps(model, pair(), 2)
    assert all(torch.equal(before[k], v) for k, v in model.net_g.state_dict().items())
    assert not model.optimizer_g.state
    assert log['skipped_steps'] == 2
    assert "'nan_gradient (pix)': 1" in plugin_log.text
    with pytest.raises(FloatingPointError, match=r'10 in a row.*nan_gradient'):
        train_steps(model, pair(), 8)


def test_clip_grad_norm_bounds_the_update(tmp_path):
    sgd = {'optim_g': {'type': 'SGD', 'lr': 1.0}, 'clip_grad_norm': 1e-3}
    model = build_model(options(tmp_path, train=sgd))
    before = torch.nn.utils.parameters_to_vector(model.net_g.parameters()).detach().clone()
    train_steps(model, pair(), 1)
    moved = torch.nn.utils.parameters_to_vector(model.net_g.parameters()).detach() - before
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'is_train': False, 'val': {'metrics': {'m': WATCHED['gain']}}}, 'baseline: start is for training'),
        ({'dist': True, 'base_model': 'VideoRecurrentModel', 'val': {'metrics': {'m': WATCHED['gain']}}}, 'one process for video models'),
        ({'base_model': 'SRModle'}, "unknown base_model 'SRModle'. Did you mean 'SRModel'"),
        ({'base_modle': 'SRModel'}, "unknown option 'base_modle'; did you mean 'base_model'"),
        ({'train': {'clip_grad_nrom': 1.0}}, "unknown option 'clip_grad_nrom' in train; did you mean 'clip_grad_norm'"),
        ({'val': {'metrics': {'m': {'type': 'calculate_relative_gain', 'metric': JUDGE}}}}, 'baseline must be a scores file, got None'),
        ({'val': {'metrics': {'m': {**WATCHED['gain'], 'baseline': 'x.csv', 'better': 'lower'}}}}, 'remove better: lower'),
        ({'train': {'clip_grad_norm': '1e-3'}}, r"clip_grad_norm must be a number, got the text"),
        ({'val': {'metrics': {'m': {'type': 'calculate_iqa', 'metrik': 'niqe'}}}}, "'metrik'. Did you mean 'metric'"),
        ({'val': {'metrics': {'m': {'type': 'calculate_iqa', 'metric': 'tests.judges:Darkness', 'better': 'higher'}}}}, "write 'better: lower'"),
        ({'val': {'metrics': {'m': {'type': 'calculate_iqa', 'metric': JUDGE}}, 'save_best': 'n'}}, r"metric in val.save_best 'n'"),
        ({'val': {'metrics': {'m': {'type': 'calculate_relative_gain', 'metric': JUDGE, 'baseline': 'no.csv'}}}}, r'no such file: no\.csv'),
        ({'val': {'metrics': {'m': {'type': 'calculate_iqa', 'metric': CLIP}}}}, r'^val\.metrics\.m: clip judges clips, and BasicSR validates frame by frame: .*`nriqa score`'),
        ({'val': {'metrics': {'m': {'type': 'calculate_relative_gain', 'metric': CLIP, 'baseline': 'start'}}}}, r'^val\.metrics\.m: clip judges clips'),
        ({'val': {'artifact_alarm': {'judge': 'm'}, 'metrics': {'m': {'type': 'calculate_iqa', 'metric': CLIP}, 'lpips': {'type': 'calculate_iqa', 'metric': JUDGE}}}}, r'^val\.artifact_alarm\.judge, val\.metrics\.m: clip judges clips'),
        ({'train': {'warmup_iter': '-1'}}, r"train\.warmup_iter must be a number, got the text '-1' \(--force_yml .*\); write 0 for no warm-up"),
        ({'train': {'warmup_iter': None}}, r'train\.warmup_iter must be a number, got None'),
        ({'train': {'warmup_iter': -2}}, r'train\.warmup_iter must be finite and at least -1, got -2'),
    ],
)  # fmt: skip
def test_wrong_model_options_are_refused_before_training(change, message, tmp_path):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        build_model(options(tmp_path, **change))


def test_a_metric_that_is_none_is_left_out(photographs):
    """So ``--force_yml val:metrics:NAME=~`` takes one away."""
    metrics_ = {'held_out': dict(WATCHED['held_out']), 'gain': None, 'lpips': None}
    model = build_model(options(photographs, val={'save_img': False, 'metrics': metrics_}))
    assert list(model.opt['val']['metrics']) == ['held_out']
    opt = {'model_type': 'PerceptualModel', 'val': {'metrics': metrics_}}
    assert list(metrics_of(opt)) == ['held_out']  # nriqa doctor
    assert list(metrics_of({**opt, 'model_type': 'SRModel'})) == list(metrics_)  # where the host stumbles over it
    model.validation(loader(photographs), 1, None)
    assert list(model.metric_results) == ['held_out']
    none_left = build_model(options(photographs, val={'save_img': False, 'metrics': {'held_out': None}}))
    assert none_left.opt['val']['metrics'] is None
    alarm = {'save_img': False, 'metrics': {'m': {'type': 'calculate_iqa', 'metric': JUDGE}, 'lpips': None},
             'artifact_alarm': {'judge': 'm'}}  # fmt: skip
    with pytest.raises(ValueError, match=r"val\.artifact_alarm\.reference: 'lpips'"):
        build_model(options(photographs, val=alarm))


@pytest.mark.parametrize('alarm', [False, True])
def test_a_judge_without_its_file_names_its_key(tmp_path, monkeypatch, alarm):
    pytest.importorskip('lpips', reason='the extra iqa is not installed')

    def unreachable(*_, **__):
        raise OSError('no network')

    monkeypatch.setattr('torchvision.models.AlexNet_Weights.get_state_dict', unreachable)
    far = {'type': 'calculate_iqa', 'metric': 'lpips', 'crop_border': 3}
    val = {'metrics': {'m': {'type': 'calculate_iqa', 'metric': JUDGE}, 'far': far}}
    val |= {'artifact_alarm': {'judge': 'm', 'reference': 'far'}} if alarm else {}
    with pytest.raises(RuntimeError, match=r'val\.metrics\.far: .*alexnet.*give its path with the option weights'):
        build_model(options(tmp_path, val=val))


# ------------------------------------------------------------------------------------------------ metrics


def noise(seed, height=24, width=32):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_calculate_iqa_scores_the_rgb_image_without_its_border():
    bgr = noise(0)
    rgb = torch.from_numpy(bgr[4:-4, 4:-4, ::-1].copy()).permute(2, 0, 1)[None] / 255
    score = metrics.calculate_iqa(bgr, metric=JUDGE, crop_border=4)
    assert score == pytest.approx(TinyNet()(rgb).item(), abs=1e-6)


def test_the_mean_of_per_image_gains_is_equation_1_of_the_means(tmp_path):
    base, test = [noise(i) for i in range(4)], [noise(i) // 2 for i in range(4, 8)]
    judge = Darkness(gain=7.0)
    option = {'metric': 'tests.judges:Darkness', 'options': {'gain': 7.0}}

    def score(image):
        return metrics.calculate_iqa(image, better='lower', **option)

    write_scores(tmp_path / 'b.csv', [score_row(f'{i}.png', judge, score(image)) for i, image in enumerate(base)])
    gains = [metrics.calculate_relative_gain(image, baseline=str(tmp_path / 'b.csv'), **option) for image in test]
    expected = relative_gain(np.mean([score(i) for i in test]), np.mean([score(i) for i in base]), higher_better=False)
    assert np.mean(gains) == pytest.approx(expected, rel=1e-6)
    assert expected > 20


@pytest.mark.parametrize(
    ('metric', 'option', 'message'),
    [
        ('calculate_iqa', {}, 'give one judge as metric or several as ensemble, got neither'),
        ('calculate_iqa', {'metric': 'niqee'}, "'niqee'. Did you mean 'niqe'"),
        ('calculate_iqa', {'metric': 'tests.judges:Darkness'}, "darkness lower is better; write 'better: lower'"),
        ('calculate_iqa', {'metric': 'tests.judges:Distance', 'better': 'lower'}, 'needs a reference'),
        ('calculate_iqa', {'metric': JUDGE, 'crop_border': 10}, 'at least 28 px a side'),
        ('calculate_relative_gain', {'metric': JUDGE}, 'baseline must be a scores file'),
        ('calculate_relative_gain', {'metric': JUDGE, 'baseline': 'start'}, 'needs model_type: PerceptualModel'),
        ('calculate_relative_gain', {'metric': JUDGE, 'baseline': 'x.csv', 'better': 'lower'}, 'remove better: lower'),
        ('calculate_iqa', {'metric': CLIP}, 'clip judges clips'),
        ('calculate_relative_gain', {'metric': CLIP, 'baseline': 'x.csv'}, 'clip judges clips'),
    ],
)
def test_wrong_metric_options_are_refused(metric, option, message):
    with pytest.raises(ValueError, match=message):
        calculate_metric({'img': noise(0)}, {'type': metric, **option})


def test_the_border_left_out_is_part_of_the_judge_and_so_of_its_baseline(tmp_path):
    image = noise(0)
    framed = image.copy()
    framed[:4] = framed[-4:] = framed[:, :4] = framed[:, -4:] = 255
    with_border, without = (create_scorer('tests.judges:Darkness', crop_border=b) for b in (0, 4))
    rgb = torch.from_numpy(framed[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    assert with_border(rgb) > without(rgb)
    write_scores(tmp_path / 'right.csv', [score_row('a.png', without, without(rgb).item())])
    write_scores(tmp_path / 'wrong.csv', [score_row('a.png', with_border, with_border(rgb).item())])
    option = {'metric': 'tests.judges:Darkness', 'crop_border': 4}
    assert metrics.calculate_relative_gain(framed, baseline=str(tmp_path / 'right.csv'), **option) == pytest.approx(
        0, abs=1e-4
    )
    with pytest.raises(ValueError, match='other weights or options of darkness'):
        metrics.calculate_relative_gain(framed, baseline=str(tmp_path / 'wrong.csv'), **option)


def test_a_grey_validation_image_is_refused_by_its_shape():
    with pytest.raises(ValueError, match=r'tinynet wants 3 channels, the validation image has the shape \(16, 16\)'):
        metrics.calculate_iqa(noise(0)[:16, :16, 0], metric=JUDGE)


def test_a_baseline_by_other_weights_of_the_judge_is_refused(tmp_path):
    write_scores(tmp_path / 'b.csv', [score_row('a.png', TinyNet(seed=1), 1.0)])
    with pytest.raises(ValueError, match='scored by other weights or options of tinynet'):
        metrics.calculate_relative_gain(noise(0), metric=JUDGE, baseline=str(tmp_path / 'b.csv'))


# --------------------------------------------------------------------------------------------- validation


def loader(folder, name='val', **more):
    opt = {
        'name': name,
        'type': 'CheckedPairedImageDataset',
        'phase': 'val',
        'scale': 4,
        'io_backend': {'type': 'disk'},
    }
    opt.update(dataroot_gt=str(folder / 'gt'), dataroot_lq=str(folder / 'lq'), **more)
    return build_dataloader(build_dataset(opt), opt)


def paint(model, value):
    """Make the network ignore its input and answer one grey level."""
    with torch.no_grad():
        for parameter in model.net_g.parameters():
            parameter.zero_()
        model.net_g.conv_last.bias.fill_(value)
    model.net_g.forward = lambda x: model.net_g.conv_last.bias.view(1, 3, 1, 1).repeat(
        len(x), 1, 4 * x.shape[2], 4 * x.shape[3]
    )


def test_best_checkpoint_by_a_held_out_judge_and_gain_over_the_start_weights(photographs):
    val = {'save_img': False, 'metrics': {k: dict(v) for k, v in WATCHED.items()}, 'save_best': 'held_out'}
    model = build_model(options(photographs, val=val))
    paint(model, 0.4)
    model.store_start_weights()
    best = photographs / 'run' / 'models' / 'net_g_best_val_held_out.pth'
    for iteration, grey in ((10, 0.2), (20, 0.8), (30, 0.6)):
        paint(model, grey)
        state = torch.get_rng_state()
        model.validation(loader(photographs), iteration, None)
        assert torch.equal(torch.get_rng_state(), state)
        assert model.metric_results['held_out'] == pytest.approx(round(255 * grey) / 255)
        assert model.metric_results['gain'] == pytest.approx(100 * (0.4 - grey) / 0.4, abs=0.5)
    assert torch.load(best, weights_only=True)['params']['conv_last.bias'].tolist() == pytest.approx([0.8] * 3)
    rows = read_scores(photographs / 'run' / 'baseline_val.csv').rows
    assert [(row.image, row.metric) for row in rows] == [('one.png', 'darkness'), ('two.png', 'darkness')]
    assert 'gain' in model.best_metric_results['val']
    assert model.net_g.conv_last.bias[0].item() == pytest.approx(0.6)
    assert not list((photographs / 'run' / 'models').glob('.partial*'))


def test_a_baseline_of_another_data_set_is_refused(photographs):
    stranger = photographs / 'other.csv'
    write_scores(stranger, [score_row(n, Darkness(), 0.5) for n in ('three.png', 'four.png')])
    val = {'save_img': False, 'metrics': {'gain': {**WATCHED['gain'], 'baseline': str(stranger)}}}
    model = build_model(options(photographs, val=val))
    with pytest.raises(
        ValueError, match=r"other\.csv belongs to another data set.*not in it: \['one.png', 'two.png'\]"
    ):
        model.validation(loader(photographs), 1, None)


def test_an_image_that_a_judge_cannot_score_is_named(photographs):
    val = {'save_img': False, 'metrics': {'niqe': {'type': 'calculate_iqa', 'metric': 'niqe', 'better': 'lower'}}}
    model = build_model(options(photographs, val=val))
    with pytest.raises(ValueError, match=r'validation of val, image (one|two)\.png: niqe needs at least 192 px'):
        model.validation(loader(photographs), 1, None)


def test_unknown_options_of_single_losses_and_networks_show_the_closest_names():
    with pytest.raises(ValueError, match="unknown option of NRIQALoss: 'weight'. Did you mean .*'loss_weight'"):
        build_loss({'type': 'NRIQALoss', 'metric': JUDGE, 'weight': 1.0})
    with pytest.raises(ValueError, match="unknown option of LossSum: 'grad_norm'. Did you mean 'grad_norms'"):
        build_loss({'type': 'LossSum', 'terms': TERMS, 'grad_norm': True})
    with pytest.raises(ValueError, match="unknown option of RLFN: 'feature_channel'. Did you mean 'feature_channels'"):
        build_network({'type': 'RLFN', 'feature_channel': 8})


def test_folders_that_do_not_pair_and_unreadable_images_are_named(photographs):
    (photographs / 'gt' / 'thumbs').mkdir()  # the host ignores folders inside
    with pytest.raises(ValueError, match="'use_hfilp'. Did you mean 'use_hflip'"):
        loader(photographs, use_hfilp=True)
    (photographs / 'lq' / 'one.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'cannot load the pair .*one\.png'):
        list(loader(photographs))
    (photographs / 'lq' / 'one.png').rename(photographs / 'lq' / 'three.png')
    with pytest.raises(ValueError, match=r"do not pair.*without LQ: \['one.png'\], without GT: \['three.png'\]"):
        loader(photographs)
    with pytest.raises(FileNotFoundError, match='dataroot_gt: no such folder'):
        loader(photographs / 'nowhere')


def test_video_models_validate_on_a_cpu_and_for_several_data_sets(tmp_path):
    rng = np.random.default_rng(0)
    for data, clips in (('vid4', {'000': 2, '001': 3}), ('reds4', {'002': 2})):
        for kind, side in (('gt', 256), ('lq', 64)):
            for clip, frames in clips.items():
                folder = tmp_path / data / kind / clip
                folder.mkdir(parents=True)
                for frame in range(frames):
                    Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(
                        folder / f'{frame:08d}.png'
                    )
    val = {'save_img': False, 'metrics': {k: dict(v) for k, v in WATCHED.items()}, 'save_best': 'held_out'}
    more = {**VIDEO, 'train': {'ema_decay': 0.9}}  # this model validates net_g even so
    model = build_model(options(tmp_path, base_model='VideoRecurrentModel', val=val, **more))
    for data in ('vid4', 'reds4'):
        opt = {'name': data, 'type': 'VideoRecurrentTestDataset', 'phase': 'val', 'cache_data': True, 'num_frame': 2}
        opt |= {
            'dataroot_gt': str(tmp_path / data / 'gt'),
            'dataroot_lq': str(tmp_path / data / 'lq'),
            'io_backend': {'type': 'disk'},
        }
        model.validation(build_dataloader(build_dataset(opt), opt), 1, None)
        assert abs(model.best_metric_results[data]['gain']['val']) < 1e-3  # nothing has been trained yet
    with torch.no_grad():
        model.net_g.conv_last.bias.add_(0.2)
    (tmp_path / 'run' / 'baseline_reds4.csv').unlink()
    model.validation(build_dataloader(build_dataset(opt), opt), 2, None)
    assert model.history[-1][2] == 'gain'
    assert model.history[-1][3] < -10  # darkness is worse on a brighter image, and the start weights are not these
    rows = read_scores(tmp_path / 'run' / 'baseline_vid4.csv').rows
    assert [row.image for row in rows] == ['000', '000::1', '001', '001::1', '001::2']
    assert (tmp_path / 'run' / 'models' / 'net_g_best_reds4_held_out.pth').is_file()


def test_sliding_window_clips_of_unequal_length_gain_nothing_with_the_start_weights(tmp_path):
    """9 frames and 5, of equal names in both clips, as the host averages them: by clip first."""
    rng = np.random.default_rng(0)
    for kind, side in (('gt', 32), ('lq', 8)):
        for clip, frames in (('000', 9), ('001', 5)):
            (tmp_path / kind / clip).mkdir(parents=True)
            for frame in range(frames):
                pixels = rng.integers(0, 100 if clip == '000' else 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / kind / clip / f'{frame:08d}.png')
    val = {'save_img': False, 'metrics': {k: dict(v) for k, v in WATCHED.items()}}
    model = build_model(options(tmp_path, base_model='VideoBaseModel', val=val))
    model.net_g.forward = lambda x: torch.nn.functional.interpolate(x[:, 0], scale_factor=4)
    opt = {
        'name': 'vid4', 'type': 'VideoTestDataset', 'phase': 'val', 'cache_data': False, 'num_frame': 1,
        'padding': 'replicate', 'io_backend': {'type': 'disk'}, 'dataroot_gt': str(tmp_path / 'gt'),
        'dataroot_lq': str(tmp_path / 'lq'),
    }  # fmt: skip
    model.validation(build_dataloader(build_dataset(opt), opt), 1, None)
    assert model.history[-1][2] == 'gain'
    assert abs(model.history[-1][3]) < 1e-3
    names = [row.image for row in read_scores(tmp_path / 'run' / 'baseline_vid4.csv').rows]
    assert names == [f'{clip}::{i}' if i else clip for clip, n in (('000', 9), ('001', 5)) for i in range(n)]


def test_every_kind_of_validation_image_gets_a_name_of_its_own(tmp_path):
    model = build_model(options(tmp_path))
    expected = {
        'one.png': {'lq_path': ['data/lq/one.png']},
        'calendar': {'folder': 'calendar', 'lq_path': 'Vid4/BIx4/calendar/00000000.png'},
        '000': {'folder': '000'},
        'vimeo90k/00001/0266/im4.png': {'folder': 'vimeo90k', 'lq_path': 'vimeo/LR/00001/0266/im4.png'},
    }
    for name, data in expected.items():
        model.note_image(data)
        assert model.current_image == name
