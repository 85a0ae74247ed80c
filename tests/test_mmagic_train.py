"""mmagic's stock scripts in a subprocess: they load the plugin from the config, validate, and resume to the same losses."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmagic', reason='the extra mmagic is not installed')

from mmagic.registry import MODELS
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

from nriqa_plugin.evaluation.scores import read_scores
from nriqa_plugin.mmagic import resume
from tests.conftest import ROOT
from tests.mmagic_runs import (
    JUDGES,
    TERMS,
    forget_after,
    logged,
    paired,
    pipeline,
    run,
    short_run,
    write_config,
    write_images,
)

STEPS, CHECKPOINT = 4, 2
RELATIVE_GAIN = {'type': 'RelativeGain', 'judges': JUDGES}
LOADER = {'num_workers': 0, 'batch_size': 1}


def weights(folder, name, iteration):
    resume.trust_host_checkpoints()
    return torch.load(folder / name / f'iter_{iteration}.pth', weights_only=True)


SIGNS = {'brightness': 1, 'darkness': -1, 'distance': -1}


def check_training_and_resume(folder, name, config, signs=SIGNS):
    """Train, check what was logged and written, resume from the middle, compare every digit and every weight."""
    whole = run('train', folder, config)
    assert whole.returncode == 0, whole.text[-4000:]
    steps, validations = logged(folder, name)
    assert sorted(steps) == list(range(1, STEPS + 1))
    assert {f'{kind}_{term}' for kind in ('loss', 'grad') for term in ('l1', 'tinynet')} <= steps[1].keys()
    assert sorted(validations) == [CHECKPOINT, STEPS]
    baseline = read_scores(folder / name / 'baseline.csv')
    assert [metric for metric in baseline.metrics if metric != 'pattern'] == sorted(signs)
    for metric, sign in signs.items():
        base, test = baseline.mean(metric), validations[STEPS][metric]
        assert validations[STEPS][f'gain/{metric}'] == pytest.approx(100 * sign * (test - base) / base, rel=1e-6)
    assert len(list((folder / name).glob('best_gain_*_iter_*.pth'))) == 1
    end = weights(folder, name, STEPS)
    assert not any('scorer' in key or 'pixel_loss' in key for key in end['state_dict'])
    assert len(end['message_hub']['log_scalars']['train/loss_l1'].data[0]) == STEPS

    forget_after(folder, name, CHECKPOINT)
    resumed = run('train', folder, config, '--resume')
    assert resumed.returncode == 0, resumed.text[-4000:]
    again, validations_again = logged(folder, name)
    assert again == {i: steps[i] for i in range(CHECKPOINT + 1, STEPS + 1)}
    assert validations_again == {STEPS: validations[STEPS]}
    after = weights(folder, name, STEPS)
    assert all(torch.equal(end['state_dict'][key], after['state_dict'][key]) for key in end['state_dict'])


def swinir(folder, name='swinir', **more):
    """Our SwinIR config with drop path, so that torch's generator matters, at a size for tests."""
    generator = {
        'img_size': 8, 'window_size': 4, 'embed_dim': 8, 'depths': [2], 'num_heads': [2], 'drop_rate': 0.2,
        'drop_path_rate': 0.3, 'upsampler': 'pixelshuffledirect',
    }  # fmt: skip
    options = {
        'model': {'generator': generator, 'pixel_loss': {'terms': TERMS}},
        'train_dataloader': {**LOADER, 'dataset': paired(folder)},
        'val_dataloader': {'num_workers': 0, 'dataset': paired(folder)},
        'val_evaluator': {'metrics': [{'type': 'PSNR'}, {**RELATIVE_GAIN, 'judges': [*JUDGES, 'pattern']}]},
        'optim_wrapper': {'optimizer': {'lr': 0.01}},
        **short_run(folder),
    }
    options['default_hooks']['alarm'] = {'judge': 'brightness', 'reference': 'distance'}
    options.update(more)
    pipeline = (
        '\ntrain_pipeline = _base_.train_pipeline\n'
        "next(step for step in train_pipeline if step['type'] == 'PairedRandomCrop')['gt_patch_size'] = 32\n"
        "train_dataloader['dataset']['pipeline'] = train_pipeline\n"
    )
    file = write_config(folder, name, 'swinir_x4_musiq_lpips.py', **options)
    file.write_text(file.read_text() + pipeline)
    return file


def test_the_stock_script_trains_swinir_from_a_config_and_resumes_to_the_same_losses(tmp_path):
    write_images(tmp_path)
    check_training_and_resume(tmp_path, 'swinir', swinir(tmp_path))


@pytest.mark.slow
def test_the_stock_script_trains_realesrgan_with_its_own_degradations_and_resumes_to_the_same_losses(tmp_path):
    write_images(tmp_path, side=400, count=1)
    pair = [{'type': 'FRIQALoss', 'metric': 'tests.judges:Distance', 'weight': 0.5}]
    config = write_config(
        tmp_path,
        'realesrgan',
        'realesrgan_x4_musiq.py',
        model={
            'generator': {'mid_channels': 4, 'num_blocks': 1, 'growth_channels': 4},
            'discriminator': {'mid_channels': 4},
            'pixel_loss': {'terms': TERMS},
            'perceptual_loss': {'terms': pair},
        },
        train_dataloader={**LOADER, 'dataset': paired(tmp_path, data_prefix={'img': 'gt', 'gt': 'gt'})},
        val_dataloader={'num_workers': 0, 'dataset': paired(tmp_path)},
        # The tiny network answers almost black at the start, where the brightness has no relative gain.
        val_evaluator={'metrics': [{'type': 'PSNR'}, {**RELATIVE_GAIN, 'judges': ['tests.judges:Distance', 'gmsd']}]},
        **short_run(tmp_path, save_best='gain/distance'),
    )
    check_training_and_resume(tmp_path, 'realesrgan', config, {'distance': -1, 'gmsd': -1})


@pytest.mark.slow
def test_the_stock_script_trains_basicvsrpp_on_clips_and_resumes_to_the_same_losses(tmp_path):
    write_images(tmp_path, side=256, count=2, frames=3)
    (tmp_path / 'clips.txt').write_text('000 3\n001 3\n')
    clips = {'data_root': str(tmp_path), 'data_prefix': {'img': 'lq', 'gt': 'gt'}, 'ann_file': 'clips.txt'}
    config = write_config(
        tmp_path,
        'basicvsrpp',
        'basicvsrpp_x4_clipiqa_lpips.py',
        model={
            'generator': {'mid_channels': 16, 'num_blocks': 1, 'spynet_pretrained': None},
            'pixel_loss': {'terms': TERMS},
        },
        train_dataloader={**LOADER, 'dataset': {**clips, 'num_input_frames': 2}},
        val_dataloader={'num_workers': 0, 'dataset': {**clips, 'num_input_frames': 2, 'fixed_seq_len': 3}},
        val_evaluator={'metrics': [{'type': 'PSNR'}, RELATIVE_GAIN]},
        **short_run(tmp_path),
    )
    check_training_and_resume(tmp_path, 'basicvsrpp', config)
    rows = read_scores(tmp_path / 'basicvsrpp' / 'baseline.csv').of('darkness')
    assert [row.image for row in rows] == ['gt/000', 'gt/000::1', 'gt/001', 'gt/001::1']


TORCHRUN = (
    sys.executable,
    '-m',
    'torch.distributed.run',
    '--standalone',
    '--nproc_per_node=2',
    str(ROOT / 'tests' / 'mmagic_on_cpus.py'),
)


# It always fires, on every rank, for the rank's own images.
ALARM = {'type': 'ArtifactAlarmHook', 'judge': 'brightness', 'reference': 'distance', 'judge_rise': 0.0, 'fall': 0.0}


def shared_out(folder, name, processes, terms):
    """A training whose batches hold the same two images, in one process or in two."""
    sampler = {'type': 'InfiniteSampler', 'shuffle': False}
    config = write_config(
        folder,
        name,
        'msrresnet_x4_ssim_cpu.py',
        custom_imports={'imports': ['nriqa_plugin.mmagic', 'tests.mmagic_parts'], 'allow_failed_imports': False},
        model={'generator': {'mid_channels': 4, 'num_blocks': 1}, 'pixel_loss': {'terms': terms}},
        train_dataloader={
            'batch_size': 2 // processes,
            'sampler': sampler,
            'dataset': {**paired(folder), 'pipeline': pipeline()},
        },
        val_dataloader={'dataset': paired(folder)},
        val_evaluator={'metrics': [{'type': 'PSNR'}, {**RELATIVE_GAIN, 'judges': [*JUDGES, 'pattern']}]},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1, '_delete_': True}},
        env_cfg={'dist_cfg': {'backend': 'gloo'}},
        model_wrapper_cfg={'type': 'MMSeparateDistributedDataParallel', 'device_ids': None},
        **{**short_run(folder), 'custom_hooks': [{'type': 'WritesScalars'}, ALARM]},
    )
    if processes == 1:
        result = run('train', folder, config)
    else:
        result = run('train', folder, config, '--launcher', 'pytorch', launcher=TORCHRUN)
    assert result.returncode == 0, result.text[-4000:]
    return [json.loads((folder / name / f'rank{rank}.json').read_text()) for rank in range(processes)]


@pytest.mark.slow
def test_two_processes_give_the_losses_and_gains_of_one_on_the_same_samples(tmp_path):
    write_images(tmp_path, count=3)  # an odd number: a validation image is scored twice and counted once
    terms = [TERMS[0], {'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 0.5, 'warmup_iter': 20}]
    (one,) = shared_out(tmp_path, 'one', 1, terms)
    two = shared_out(tmp_path, 'two', 2, terms)
    shown = {path.name for path in (tmp_path / 'two' / 'artifacts').iterdir()}
    assert {'2_reference_1_two.png', '2_rank1_reference_1_one.png'} <= shown
    assert two[0]['weights'] == two[1]['weights']
    assert two[0]['weights'] == pytest.approx(one['weights'], abs=1e-5)
    for name in ('train/loss', 'train/loss_l1', 'train/loss_tinynet'):
        mean = [sum(values) / 2 for values in zip(two[0][name], two[1][name], strict=True)]
        assert mean == pytest.approx(one[name], abs=1e-5), name
    for name in ('val/darkness', 'val/distance', 'val/gain/darkness', 'val/gain/brightness', 'val/PSNR'):
        assert two[0][name] == two[1][name]
        assert two[0][name] == pytest.approx(one[name], abs=1e-5), name
    base, other = (read_scores(tmp_path / name / 'baseline.csv').rows for name in ('one', 'two'))
    assert [(row.image, row.metric) for row in base] == [(row.image, row.metric) for row in other]
    assert [row.score for row in base] == pytest.approx([row.score for row in other], abs=1e-6)


@pytest.mark.slow
def test_a_step_that_is_not_finite_in_one_process_is_dropped_in_both(tmp_path):
    write_images(tmp_path)
    bad = {
        'type': 'NRIQALoss',
        'metric': 'tests.mmagic_parts:NaNOnRank1',
        'weight': 0.5,
        'start_iter': 2,
        'probe': False,
    }
    ranks = shared_out(tmp_path, 'two', 2, [TERMS[0], bad])
    assert ranks[0]['weights'] == ranks[1]['weights']
    assert [rank['train/skipped_steps'] for rank in ranks] == [[1, 2], [1, 2]]
    assert 'train/dropped_brightness' not in ranks[0]
    assert ranks[1]['train/dropped_brightness'] == [1, 2]


def test_the_stock_test_script_scores_a_checkpoint_with_our_test_config(tmp_path):
    images = write_images(tmp_path, side=64)
    generator = {'mid_channels': 4, 'num_blocks': 1}
    judges = {'type': 'IQAMetric', 'judges': [*JUDGES, 'ssim'], 'prefix': 'Set5'}
    config = write_config(
        tmp_path,
        'scored',
        'edsr_x4_test.py',
        model={'generator': generator},
        test_dataloader=[
            {
                'num_workers': 0,
                'sampler': {'type': 'DefaultSampler', 'shuffle': False},
                'dataset': {'type': 'BasicImageDataset', **paired(images), 'pipeline': pipeline()},
            }
        ],
        test_evaluator=[{'type': 'Evaluator', 'metrics': [judges]}],
        custom_hooks=[],
    )
    init_default_scope('mmagic')
    model = MODELS.build(
        {
            **get_config('mmagic::edsr/edsr_x4c64b16_1xb16-300k_div2k.py').model,
            'generator': {
                'type': 'EDSRNet',
                'in_channels': 3,
                'out_channels': 3,
                **generator,
                'upscale_factor': 4,
                'rgb_mean': [0.4488, 0.4371, 0.4040],
                'rgb_std': [1.0, 1.0, 1.0],
            },
        }
    )
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'edsr.pth')
    result = run('test', tmp_path, config, 'edsr.pth', '--out', 'scores.json')
    assert result.returncode == 0, result.text[-4000:]
    scores = json.loads((tmp_path / 'scores.json').read_text())
    assert sorted(scores) == ['Set5/brightness', 'Set5/darkness', 'Set5/distance', 'Set5/ssim']
    expected = []
    for name in ('one', 'two'):
        lq = torch.from_numpy(np.array(Image.open(tmp_path / 'lq' / f'{name}.png'))).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            expected.append((255 * model.generator(lq)).clamp(0, 255).round().mean().item() / 255)
    assert scores['Set5/brightness'] == pytest.approx(np.mean(expected), abs=1e-5)
