"""The stock training script in a subprocess: it loads the plugin from the option file, survives SIGKILL and resumes exactly."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ROOT

pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
import yaml  # comes with BasicSR
from basicsr.archs.swinir_arch import SwinIR

STEPS, CHECKPOINT = 8, 4
NETWORK = {
    'upscale': 4, 'img_size': 8, 'window_size': 4, 'embed_dim': 8, 'depths': [2], 'num_heads': [2], 'mlp_ratio': 2,
    'upsampler': 'pixelshuffledirect', 'drop_rate': 0.2, 'drop_path_rate': 0.3,
}  # fmt: skip
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
STOCK = [sys.executable, '-m', 'basicsr.train']
OURS = [sys.executable, str(ROOT / 'tools' / 'train_basicsr.py')]


def write_options(folder, name, plugin_line=True, ema_decay=0.9, **more):
    """One image and batch 1, for BasicSR replays the epoch after a resume; all else that is random is there.

    Drop path draws from torch's generator, crop and flips from python's, our views from (seed, iteration, rank), and the
    weights come from a bare state dict.
    """
    if not (folder / 'gt').is_dir():
        rng = np.random.default_rng(0)
        small = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        for kind, image in (('gt', small.resize((64, 64), Image.BICUBIC)), ('lq', small)):
            (folder / kind).mkdir()
            image.save(folder / kind / 'one.png')
        torch.manual_seed(0)
        torch.save(SwinIR(**NETWORK).state_dict(), folder / 'bare.pth')
    disk = {'io_backend': {'type': 'disk'}, 'dataroot_gt': str(folder / 'gt'), 'dataroot_lq': str(folder / 'lq')}
    data = {'name': 'one', 'type': 'CheckedPairedImageDataset', **disk}
    sampling = {'gt_size': 32, 'use_hflip': True, 'use_rot': True, 'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0}
    terms = [
        {'type': 'CharbonnierLoss', 'weight': 1.0},
        {
            'type': 'NRIQALoss',
            'metric': 'tests.judges:TinyNet',
            'weight': 0.5,
            'warmup_iter': 20,
            'crop': 16,
            'augment': True,
        },
    ]
    opt = {
        'name': name, 'model_type': 'PerceptualModel', 'scale': 4, 'num_gpu': 0, 'manual_seed': 3,
        'datasets': {'train': {**data, **sampling, 'dataset_enlarge_ratio': 100}, 'val': data},
        'network_g': {'type': 'SwinIR', **NETWORK},
        'path': {
            'experiments_root': 'experiments', 'resume_state': None,
            'pretrain_network_g': str(folder / 'bare.pth'), 'param_key_g': None,
        },
        'train': {
            'ema_decay': ema_decay, 'total_iter': STEPS, 'warmup_iter': -1, 'clip_grad_norm': 5.0,
            'optim_g': {'type': 'Adam', 'lr': 0.01}, 'scheduler': {'type': 'MultiStepLR', 'milestones': [3], 'gamma': 0.5},
            'pixel_opt': {'type': 'LossSum', 'terms': terms},
        },
        'val': {'val_freq': CHECKPOINT, 'save_img': False, 'save_best': 'held_out', 'metrics': {
            'held_out': {'type': 'calculate_iqa', 'metric': 'tests.judges:Brightness'},
            'gain': {'type': 'calculate_relative_gain', 'metric': 'tests.judges:Darkness', 'baseline': 'start'},
        }},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': CHECKPOINT, 'use_tb_logger': False, 'wandb': None},
        **more,
    }  # fmt: skip
    line = 'plugin: !!python/name:nriqa_plugin.basicsr.VERSION\n' if plugin_line else ''
    (folder / f'{name}.yml').write_text(line + yaml.safe_dump(opt))
    return folder / f'{name}.yml'


def run(command, folder, *arguments):
    return subprocess.run(
        [*command, '-opt', *map(str, arguments)],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def losses(text):
    """``{iteration: everything logged after the timings}``, digits as printed."""
    return {int(i): rest.strip() for i, rest in re.findall(r'iter: +(\d+), .*?time \(data\): [^\]]*\] (.*)', text)}


def test_stock_script_trains_from_the_option_file_and_a_killed_run_resumes_to_the_same_losses(tmp_path):
    whole = run(STOCK, tmp_path, write_options(tmp_path, 'whole'))
    assert whole.returncode == 0, whole.stdout + whole.stderr
    expected = losses(whole.stderr + whole.stdout)
    assert sorted(expected) == list(range(1, STEPS + 1))
    assert 'l_tinynet' in expected[1]
    assert 'Model [PerceptualSRModel] is created' in whole.stderr + whole.stdout

    killed = write_options(tmp_path, 'killed')
    log = tmp_path / 'killed.log'
    with open(log, 'w') as file:
        process = subprocess.Popen(
            [*OURS, '-opt', str(killed)], cwd=tmp_path, env=ENVIRONMENT, stdout=file, stderr=file
        )
        deadline = time.monotonic() + 200
        while CHECKPOINT + 1 not in losses(log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    state = tmp_path / 'experiments' / 'killed' / 'training_states'
    for late in state.glob(f'{STEPS}.state'):
        late.unlink()  # the run was faster than the signal: resume from the same checkpoint all the same
    assert [p.name for p in state.iterdir() if p.is_file()] == [f'{CHECKPOINT}.state']

    resumed = run(OURS, tmp_path, killed, '--auto_resume')
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    got = losses(resumed.stderr + resumed.stdout)
    assert got == {i: expected[i] for i in range(CHECKPOINT + 1, STEPS + 1)}

    experiments = tmp_path / 'experiments'
    one, other = (
        torch.load(experiments / n / 'models' / 'net_g_latest.pth', weights_only=True) for n in ('whole', 'killed')
    )
    for key in ('params', 'params_ema'):
        assert all(torch.equal(one[key][k], other[key][k]) for k in one[key]), key
    assert (experiments / 'whole' / 'models' / 'net_g_best_one_held_out.pth').is_file()
    for name in ('validation.csv', 'baseline_one.csv'):
        assert (experiments / 'whole' / name).read_text() == (experiments / 'killed' / name).read_text()


def test_our_launcher_needs_no_plugin_line_and_names_a_wrong_option(tmp_path):
    terms = [{'type': 'NRIQALoss', 'metric': 'niqee', 'weight': 1.0}]
    train = {'pixel_opt': {'type': 'LossSum', 'terms': terms}, 'optim_g': {'type': 'Adam'}, 'total_iter': 1}
    result = run(OURS, tmp_path, write_options(tmp_path, 'typo', plugin_line=False, train=train))
    assert result.returncode != 0
    assert "terms[0] (NRIQALoss): unknown judge 'niqee'. Did you mean 'niqe'" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize('ema_decay', [0.9, 0])
def test_two_processes_on_cpus_train_through_gloo_and_resume_with_their_own_random_numbers(tmp_path, ema_decay):
    """Without a moving average rank 0 validates the distributed network itself, whose buffers the ranks share."""
    option = write_options(tmp_path, 'dist', plugin_line=False, ema_decay=ema_decay)
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', OURS[1]]
    result = run(torchrun, tmp_path, option, '--launcher', 'pytorch')
    assert result.returncode == 0, result.stdout + result.stderr
    values = losses(result.stderr + result.stdout)
    assert sorted(values) == list(range(1, STEPS + 1))
    experiment = tmp_path / 'experiments' / 'dist'
    assert (experiment / 'models' / 'net_g_latest.pth').is_file()
    (experiment / 'training_states' / f'{STEPS}.state').unlink()
    resumed = run(torchrun, tmp_path, option, '--launcher', 'pytorch', '--auto_resume')
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    got = losses(resumed.stderr + resumed.stdout)
    assert got == {i: values[i] for i in range(CHECKPOINT + 1, STEPS + 1)}


@pytest.mark.slow
def test_an_alarm_that_stops_a_training_stops_every_process(tmp_path):
    """The tiny network only gets brighter, which the judge of darkness minds."""
    judges = {'judge': 'tests.judges:Brightness', 'dark': 'tests.judges:Darkness'}
    alarm = {'judge': 'judge', 'reference': 'dark', 'fall': 0.0, 'action': 'stop'}
    val = {'val_freq': CHECKPOINT, 'save_img': False, 'artifact_alarm': alarm}
    val['metrics'] = {name: {'type': 'calculate_iqa', 'metric': metric} for name, metric in judges.items()}
    option = write_options(tmp_path, 'alarm', plugin_line=False, val=val)
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', OURS[1]]
    result = run(torchrun, tmp_path, option, '--launcher', 'pytorch')
    assert result.returncode != 0
    assert (result.stdout + result.stderr).count('ArtifactAlarmError: ARTIFACT ALARM, one') == 2
    assert (tmp_path / 'experiments' / 'alarm' / 'models' / 'net_g_alarm.pth').is_file()
