"""VRT through the stock BasicSR script, from our own option file at a size for tests."""

import os
import subprocess
import sys

import pytest
import torch

from tests.clip_files import write_clip
from tests.conftest import ROOT
from tests.test_vrt import TINY

pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
import yaml

LINE = 'plugin: !!python/name:nriqa_plugin.basicsr.VERSION\n'


@pytest.mark.slow
def test_the_stock_script_trains_and_validates_it(tmp_path):
    for index, name in enumerate(('one', 'two')):
        write_clip(tmp_path / 'GT' / name, frames=3, size=(192, 192), seed=index)
    text = (ROOT / 'options' / 'basicsr' / 'vrt_x4_charbonnier.yml').read_text()
    assert LINE in text
    opt = yaml.safe_load(text.replace(LINE, ''))
    opt |= {'num_gpu': 0, 'name': 'run'}
    data = {
        'dataroot_gt': str(tmp_path / 'GT'),
        'degradation': 'bicubic',
        'io_backend': {'type': 'disk'},
        'num_frame': 3,
    }
    opt['datasets']['train'] = {'name': 'clips', 'type': 'ClipFolderDataset', **data, 'gt_size': 160,
                                'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0, 'dataset_enlarge_ratio': 1}  # fmt: skip
    opt['datasets']['val'] |= data
    opt['network_g'] = {'type': 'VRT', **TINY, 'use_checkpoint_attn': True}
    opt['train'] |= {'total_iter': 2, 'warmup_iter': -1, 'fix_flow': 2, 'flow_lr_mul': 0.25}
    opt['val'] = {'val_freq': 2, 'save_img': False, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}}}
    opt['logger'] = {'print_freq': 1, 'save_checkpoint_freq': 1, 'use_tb_logger': False}
    (tmp_path / 'run.yml').write_text(LINE + yaml.safe_dump(opt))
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, '-m', 'basicsr.train', '-opt', 'run.yml']
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '# psnr' in done.stdout + done.stderr
    first, second = (
        torch.load(tmp_path / f'experiments/run/models/net_g_{step}.pth', weights_only=True)['params']
        for step in (1, 2)
    )
    changed = {key for key in first if not torch.equal(first[key], second[key])}
    assert {'conv_first.weight', 'stage8.2.linear.weight', 'stage1.pa_deform.weight'} <= changed
    assert not {key for key in changed if key.endswith(('relative_position_index', 'position_bias'))}
