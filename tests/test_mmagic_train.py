"""mmagic's stock scripts in a subprocess: they load the plugin from the config, validate, and resume to the same losses."""

import pytest
import torch

pytest.importorskip('mmagic', reason='the extra mmagic is not installed')

from nriqa_plugin.evaluation.scores import read_scores
from nriqa_plugin.mmagic import resume
from tests.mmagic_runs import (
    JUDGES,
    TERMS,
    forget_after,
    logged,
    paired,
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


def check_training_and_resume(folder, name, config, terms=('l1', 'tinynet'), logs_loss=True):
    """Train, check what was logged and written, resume from the middle, compare every digit and every weight."""
    whole = run('train', folder, config)
    assert whole.returncode == 0, whole.text[-4000:]
    steps, validations = logged(folder, name)
    assert sorted(steps) == list(range(1, STEPS + 1))
    assert {f'{kind}_{term}' for kind in ('loss', 'grad') for term in terms} <= steps[1].keys()
    assert sorted(validations) == [CHECKPOINT, STEPS]
    assert {'brightness', 'darkness', 'distance', 'gain/darkness', 'gain/brightness'} <= validations[STEPS].keys()
    baseline = read_scores(folder / name / 'baseline.csv')
    assert baseline.metrics == ['brightness', 'darkness', 'distance']
    for metric, sign in (('brightness', 1), ('darkness', -1), ('distance', -1)):
        base, test = baseline.mean(metric), validations[STEPS][metric]
        assert validations[STEPS][f'gain/{metric}'] == pytest.approx(100 * sign * (test - base) / base, rel=1e-6)
    assert len(list((folder / name).glob('best_gain_darkness_iter_*.pth'))) == 1
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
        'val_evaluator': {'metrics': [{'type': 'PSNR'}, RELATIVE_GAIN]},
        'optim_wrapper': {'optimizer': {'lr': 0.01}},
        **short_run(folder),
    }
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
