"""Choosing among several ground truths in BasicSR: what the losses see, the pool, the log, the stock script."""

import os
import re
import subprocess
import sys

import pytest
import torch
from torch.utils.data import default_collate

pytest.importorskip('basicsr', reason='the extra basicsr is not installed')

import yaml
from basicsr.archs import build_network
from basicsr.data import build_dataset
from basicsr.models import build_model

import nriqa_plugin.basicsr  # noqa: F401
from nriqa_plugin.checks import file_hash
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.multigt import AMOSampler
from nriqa_plugin.multigt.scores import ScoresHeader, ScoreWriter
from tests.conftest import ROOT
from tests.multigt_data import picture, write_sets
from tests.test_multigt_data import KERNELS, pixels

SWINIR = {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 4}
AMO = {'type': 'AMOSampler', 'method': 'amo', 'metric': 'tests.judges:Brightness'}
DEGRADATION = {
    'resize_prob': [0.2, 0.7, 0.1], 'resize_range': [0.5, 1.5], 'gaussian_noise_prob': 0.5, 'noise_range': [1, 3],
    'poisson_scale_range': [0.05, 0.3], 'gray_noise_prob': 0.4, 'jpeg_range': [80, 95], 'second_blur_prob': 0.8,
    'resize_prob2': [0.3, 0.4, 0.3], 'resize_range2': [0.8, 1.2], 'gaussian_noise_prob2': 0.5, 'noise_range2': [1, 3],
    'poisson_scale_range2': [0.05, 0.3], 'gray_noise_prob2': 0.4, 'jpeg_range2': [80, 95],
    'l1_gt_usm': False, 'percep_gt_usm': True, 'gan_gt_usm': False,
}  # fmt: skip


def options(folder, base='SRModel', selection=AMO, **more):
    paths = {key: str(folder / key) for key in ('models', 'training_states', 'visualization', 'experiments_root')}
    for path in ('models', 'training_states'):
        (folder / path).mkdir(exist_ok=True)
    train = {
        'optim_g': {'type': 'Adam', 'lr': 1e-3}, 'scheduler': {'type': 'MultiStepLR', 'milestones': [100]},
        'pixel_opt': {'type': 'LossSum', 'terms': [{'type': 'L1Loss', 'weight': 1.0}]}, 'gt_selection': selection,
    }  # fmt: skip
    if base == 'RealESRGANModel':
        train |= {
            'optim_d': {'type': 'Adam', 'lr': 1e-3}, 'net_d_iters': 1, 'net_d_init_iters': 0,
            'perceptual_opt': {'type': 'LossPair', 'terms': [
                {'type': 'FRIQALoss', 'metric': 'tests.judges:Distance', 'weight': 1.0}]},
            'gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'real_label_val': 1.0, 'fake_label_val': 0.0,
                        'loss_weight': 0.1},
        }  # fmt: skip
        more = {**DEGRADATION, 'gt_size': 64, 'queue_size': 4,
                'network_d': {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4}, **more}  # fmt: skip
    return {
        'name': 'x', 'model_type': 'PerceptualModel', 'base_model': base, 'scale': 4, 'num_gpu': 0, 'dist': False,
        'rank': 0, 'world_size': 1, 'is_train': True, 'network_g': dict(SWINIR), 'path': paths, 'train': train, **more,
    }  # fmt: skip


def data_set(folder, **more):
    root = write_sets(folder / 'data')
    return build_dataset(
        {
            'type': 'MultiGTDataset', 'name': 'sets', 'phase': 'train', 'scale': 4, 'dataroot_gt': str(root),
            'io_backend': {'type': 'disk'}, 'gt_size': 32, 'use_hflip': True, 'use_rot': False, **more,
        }
    )  # fmt: skip


def batch_of(data):
    return default_collate([data[0], data[1]])


def record(model, *names):
    """What the named modules of a model are called with, from now on."""
    calls = {name: [] for name in names}
    for name in names:
        getattr(model, name).register_forward_pre_hook(
            lambda module, args, name=name: calls[name].append([a.detach().clone() for a in args if torch.is_tensor(a)])
        )
    return calls


def step(model, batch, iteration=1):
    model.update_learning_rate(iteration, warmup_iter=-1)
    model.feed_data(batch)
    model.optimize_parameters(iteration)


def test_the_sampler_is_built_by_its_registered_name():
    sampler = build_network({'type': 'AMOSampler', 'method': 'sma', 'metric': 'tests.judges:Brightness', 'tau': 0.5})
    assert isinstance(sampler, AMOSampler)
    assert (sampler.method, sampler.tau) == ('sma', 0.5)


@pytest.mark.parametrize('method', ['original', 'amo'])
def test_the_pixel_loss_sees_the_chosen_candidate(tmp_path, method):
    model = build_model(options(tmp_path, selection={**AMO, 'method': method}))
    batch = batch_of(data_set(tmp_path))
    calls = record(model, 'cri_pix')
    step(model, batch)
    chosen = 2 if method == 'amo' else 0  # candidate 2 is the brightest
    ((_, target),) = calls['cri_pix']
    assert torch.equal(target, batch['gt_candidates'][:, chosen])
    log = model.get_current_log()
    assert {key: log[key] for key in ('gt_0', 'gt_1', 'gt_2')} == {f'gt_{k}': float(k == chosen) for k in range(3)}
    if method == 'amo':
        means = batch['gt_candidates'].flatten(2).mean((0, 2))
        assert log['gt_score'] == pytest.approx(means[2].item(), abs=1e-6)
        assert log['gt_score_original'] == pytest.approx(means[0].item(), abs=1e-6)


def test_the_choice_is_the_same_for_every_loss_and_for_the_discriminator(tmp_path):
    """Real-ESRGAN, pool not yet full: the batch just degraded is trained on."""
    model = build_model(options(tmp_path, 'RealESRGANModel'))
    batch = batch_of(data_set(tmp_path, degradation='blind', gt_size=64, **KERNELS))
    calls = record(model, 'cri_pix', 'cri_perceptual', 'net_d')
    step(model, batch)
    chosen = batch['gt_candidates'][:, 2]
    assert torch.equal(calls['cri_pix'][0][1], chosen)
    assert torch.equal(calls['cri_perceptual'][0][1], model.usm_sharpener(chosen))
    fake, real, *_ = (call[0] for call in calls['net_d'])
    assert torch.equal(real, chosen)
    assert not torch.equal(fake, chosen)
    assert torch.equal(model.queue_gt[:2], chosen)


def test_the_lr_image_is_made_of_the_original_alone(tmp_path):
    data = data_set(tmp_path, degradation='blind', gt_size=64, **KERNELS)
    batch = batch_of(data)
    images = []
    for selection in ({**AMO, 'method': 'original'}, AMO):
        model = build_model(options(tmp_path, 'RealESRGANModel', selection))
        seed_everything()
        step(model, batch)
        images.append(model.lq)
        # In brightness it is the original's, not that of the chosen one, which differs by more than 0.4.
        assert model.lq.mean().item() == pytest.approx(batch['gt'].mean().item(), abs=0.03)
    assert torch.equal(*images)


def seed_everything():
    import random

    import numpy as np

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def test_the_pool_holds_chosen_ones_only_and_every_pair_stays_together(tmp_path):
    model = build_model(options(tmp_path, 'RealESRGANModel', {**AMO, 'method': 'random'}))
    data = data_set(tmp_path, degradation='blind', gt_size=64, **KERNELS)
    pairs = []
    for iteration in range(1, 7):
        batch = batch_of(data)
        step(model, batch, iteration)
        assert model.gt_sampler.iteration == iteration
        pairs.append(batch['gt_candidates'])
        for gt in model.gt:
            assert any((gt == crops).all((-3, -2, -1)).any() for crops in pairs), 'a mixture, or no candidate at all'
    assert model.queue_gt.shape == (4, 3, 64, 64)
    shares = [value for key, value in model.get_current_log().items() if re.fullmatch(r'gt_\d', key)]
    assert sum(shares) == pytest.approx(1)
    assert max(shares) < 1


def test_lr_images_of_unsharpened_originals(tmp_path):
    flags = {'l1_gt_usm': False, 'percep_gt_usm': False, 'gan_gt_usm': False}
    model = build_model(options(tmp_path, 'RealESRGANModel', degradation_usm=False, **flags))
    batch = batch_of(data_set(tmp_path, degradation='blind', gt_size=64, **KERNELS))
    step(model, batch)
    assert torch.equal(model.gt_usm, model.gt)
    wrong = build_model(options(tmp_path, 'RealESRGANModel', degradation_usm=False))
    with pytest.raises(ValueError, match='degradation_usm: false leaves no sharpened ground truth for percep_gt_usm'):
        wrong.feed_data(batch)


@pytest.mark.parametrize('sharpens', [True, False])
def test_the_network_without_a_gan_sees_the_chosen_one_sharpened_as_it_would_the_original(tmp_path, sharpens):
    """RealESRNetModel with ``gt_usm``: the host sharpens the original before the pool, so the chosen one too."""
    more = {**DEGRADATION, 'gt_size': 64, 'queue_size': 4, 'gt_usm': sharpens}
    model = build_model(options(tmp_path, 'RealESRNetModel', **more))
    batch = batch_of(data_set(tmp_path, degradation='blind', gt_size=64, **KERNELS))
    step(model, batch)
    chosen = batch['gt_candidates'][:, 2]
    assert torch.equal(model.gt, model.usm_sharpener(chosen) if sharpens else chosen)
    assert not torch.equal(model.usm_sharpener(chosen), chosen)


def test_validation_data_pass_as_they_are(tmp_path):
    model = build_model(options(tmp_path))
    model.is_train = False
    pair = {'lq': torch.rand(1, 3, 8, 8), 'gt': torch.rand(1, 3, 32, 32)}
    model.feed_data(pair)
    assert torch.equal(model.gt, pair['gt'])


def test_the_picture_of_candidates_goes_to_the_visualization_folder(tmp_path):
    model = build_model(options(tmp_path, selection={**AMO, 'panel_every': 2}))
    data = data_set(tmp_path)
    for iteration in (1, 2, 3):
        step(model, batch_of(data), iteration)
    folder = tmp_path / 'visualization' / 'gt_selection'
    assert [path.name for path in folder.iterdir()] == ['candidates_0000002.png']


def test_cached_scores_of_patches_choose_what_the_judge_chooses(tmp_path):
    data = data_set(tmp_path, crop_stride=8, use_hflip=False)
    for seed, (one, k) in enumerate((one, k) for one in data.sets for k in range(3)):
        picture(120, seed=seed).save(one.paths[k])  # no candidate is the best everywhere
    judge = create_scorer('tests.judges:TinyNet')
    path = tmp_path / 'scores.jsonl'
    header = ScoresHeader.of(judge, patch=32, stride=8)
    with ScoreWriter(path, header) as writer:
        for one in data.sets:
            for k, file in enumerate(one.paths):
                image = pixels(file)
                tops, lefts = header.grid(*image.shape[1:])
                crops = torch.stack([image[:, y : y + 32, x : x + 32] for y in tops for x in lefts])
                scores = judge(crops).reshape(len(tops), len(lefts))
                writer.add(one.name, k, file_hash(file), image.shape[1:], scores)
    selection = {'type': 'AMOSampler', 'metric': 'tests.judges:TinyNet'}
    online = build_model(options(tmp_path, selection=selection))
    cached = build_model(options(tmp_path, selection={'type': 'AMOSampler', 'scores': str(path)}))
    for iteration in range(1, 8):
        batch = batch_of(data)
        for model in (online, cached):
            step(model, batch, iteration)
        assert torch.equal(online.gt, cached.gt)
    assert max(cached.gt_sampler.log_values()[f'gt_{k}'] for k in range(3)) < 0.9
    picture(121).save(data.sets[0].paths[1])  # another picture under the same name
    with pytest.raises(ValueError, match='belongs to other data'):
        cached.feed_data(batch_of(data))


@pytest.mark.parametrize(
    ('selection', 'error', 'message'),
    [
        ({'type': 'AMO'}, ValueError, "train.gt_selection.type 'AMO'. Allowed: AMOSampler"),
        ('amo', TypeError, 'train.gt_selection must be a mapping'),
        ({**AMO, 'metod': 'amo'}, ValueError, "'metod'. Did you mean 'method'"),
    ],
)
def test_wrong_options_are_refused(tmp_path, selection, error, message):
    with pytest.raises(error, match=message):
        build_model(options(tmp_path, selection=selection))


def test_candidates_without_a_choice_and_a_choice_without_candidates_are_refused(tmp_path):
    batch = batch_of(data_set(tmp_path))
    with pytest.raises(ValueError, match='train.gt_selection has to say which'):
        build_model(options(tmp_path, selection=None)).feed_data(batch)
    model = build_model(options(tmp_path))
    with pytest.raises(ValueError, match='needs a training data set of the type MultiGTDataset'):
        model.feed_data({'lq': batch['lq'], 'gt': batch['gt']})
    blind = batch_of(data_set(tmp_path, degradation='blind', gt_size=64, **KERNELS))
    with pytest.raises(ValueError, match="base_model 'SRModel' makes no LR images"):
        model.feed_data(blind)
    with pytest.raises(ValueError, match="'RealESRGANModel' makes the LR images, and so does the data set"):
        build_model(options(tmp_path, 'RealESRGANModel')).feed_data(batch)
    other_size = build_model(options(tmp_path, 'RealESRGANModel', gt_size=32))
    with pytest.raises(ValueError, match=r'the model crops to \(32, 32\), the data set to \(64, 64\)'):
        other_size.feed_data(blind)


def test_a_misspelt_option_is_noticed(tmp_path):
    opt = options(tmp_path)
    opt['train']['gt_selecton'] = opt['train'].pop('gt_selection')
    with pytest.raises(ValueError, match="'gt_selecton' in train; did you mean 'gt_selection'"):
        build_model(opt)


STOCK = ('-m', 'basicsr.train')
OURS = (str(ROOT / 'tools' / 'train_basicsr.py'),)  # resumes on a CPU


def write_options(folder):
    """One image and batch 1, because the host replays the epoch after a resume."""
    root = write_sets(folder / 'data', names=('a',), height=64, width=64)
    opt = {
        'name': 'amo', 'model_type': 'PerceptualModel', 'scale': 4, 'num_gpu': 0, 'manual_seed': 1,
        'datasets': {
            'train': {
                'type': 'MultiGTDataset', 'name': 'sets', 'dataroot_gt': str(root), 'dataroot_lq': str(root / 'lq'),
                'io_backend': {'type': 'disk'}, 'gt_size': 64, 'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0,
                'dataset_enlarge_ratio': 8,
            },
            'val': {
                'type': 'CheckedPairedImageDataset', 'name': 'one', 'dataroot_gt': str(root / 'gt'),
                'dataroot_lq': str(root / 'lq'), 'io_backend': {'type': 'disk'},
            },
        },
        'network_g': SWINIR, 'path': {'experiments_root': 'experiments', 'resume_state': None},
        'train': {
            'optim_g': {'type': 'Adam', 'lr': 0.01}, 'scheduler': {'type': 'MultiStepLR', 'milestones': [100]},
            'total_iter': 4, 'warmup_iter': -1, 'ema_decay': 0.9,
            'pixel_opt': {'type': 'LossSum', 'terms': [{'type': 'L1Loss', 'weight': 1.0}]},
            'gt_selection': {**AMO, 'method': 'sma', 'tau': 0.3, 'panel_every': 2},
        },
        'val': {'val_freq': 4, 'save_img': False, 'metrics': {
            'brightness': {'type': 'calculate_iqa', 'metric': 'tests.judges:Brightness'}}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'use_tb_logger': False},
    }  # fmt: skip
    (folder / 'amo.yml').write_text('plugin: !!python/name:nriqa_plugin.basicsr.VERSION\n' + yaml.safe_dump(opt))


def train(folder, script, *arguments):
    """What was logged of every step, and the whole text."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *script, '-opt', 'amo.yml', *arguments], cwd=folder, capture_output=True,
        text=True, timeout=300, env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    return dict(re.findall(r'iter: +(\d+), .*?(l_pix: .*gt_score_original: \S+)', text)), text


def test_the_stock_script_trains_on_chosen_ground_truths(tmp_path):
    write_options(tmp_path)
    steps, text = train(tmp_path, STOCK)
    assert sorted(steps) == list('1234')
    assert '1 sets with up to 3 ground truths; images in gt, gt_01, ...: [1, 1, 1]' in text
    panels = tmp_path / 'experiments' / 'amo' / 'visualization' / 'gt_selection'
    assert sorted(path.name for path in panels.iterdir()) == ['candidates_0000002.png', 'candidates_0000004.png']
    shares = {tuple(re.findall(r'gt_\d: (\S+)', line)) for line in steps.values()}
    assert len(shares) > 1, 'sampling at this temperature varies'


@pytest.mark.slow
def test_a_resumed_run_chooses_and_logs_what_the_whole_one_did(tmp_path):
    write_options(tmp_path)
    whole, _ = train(tmp_path, OURS)
    (tmp_path / 'experiments' / 'amo' / 'training_states' / '4.state').unlink()
    resumed, _ = train(tmp_path, OURS, '--auto_resume')
    assert resumed == {i: whole[i] for i in '34'}
