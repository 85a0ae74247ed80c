"""mmengine's runner on a few small images, for the benchmarks of the mmagic adapter."""

import itertools

import numpy as np
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

numbers = itertools.count()


def write_pairs(folder, side, count):
    """Smooth random images ``gt/0.png`` and ``lq/0.png`` (x1/4)."""
    rng = np.random.default_rng(0)
    for kind in ('gt', 'lq'):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8))
        small.save(folder / 'lq' / f'{i}.png')
        small.resize((side, side), Image.BICUBIC).save(folder / 'gt' / f'{i}.png')
    return folder


def build_runner(folder, pixel_loss, metrics, steps, hooks=None):
    """A runner for MSRResNet x4 (32 channels, 4 blocks), batch 1."""
    load = [{'type': 'LoadImageFromFile', 'key': key, 'channel_order': 'rgb'} for key in ('img', 'gt')]
    data = {
        'type': 'BasicImageDataset',
        'data_root': str(folder),
        'data_prefix': {'img': 'lq', 'gt': 'gt'},
        'pipeline': [*load, {'type': 'PackInputs'}],
    }
    loader = {'batch_size': 1, 'num_workers': 0, 'dataset': data}
    network = {'type': 'MSRResNet', 'in_channels': 3, 'out_channels': 3, 'mid_channels': 32, 'num_blocks': 4}
    preprocessor = {'type': 'DataPreprocessor', 'mean': [0.0] * 3, 'std': [255.0] * 3}
    number = next(numbers)
    config = {
        'default_scope': 'mmagic',
        'experiment_name': f'bench{number}',
        'work_dir': str(folder / f'run{number}'),
        'train_dataloader': {**loader, 'sampler': {'type': 'InfiniteSampler', 'shuffle': False}},
        'val_dataloader': {**loader, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
        'model': {
            'type': 'BaseEditModel',
            'generator': {**network, 'upscale_factor': 4},
            'pixel_loss': pixel_loss,
            'data_preprocessor': preprocessor,
        },
        'train_cfg': {
            'type': 'IterBasedTrainLoop',
            'max_iters': steps,
            'val_interval': steps + 1,
            'val_begin': steps + 1,
        },
        'val_cfg': {'type': 'MultiValLoop'},
        'val_evaluator': {'type': 'Evaluator', 'metrics': metrics},
        'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'Adam', 'lr': 1e-4}},
        'default_hooks': {'checkpoint': None, 'logger': {'type': 'LoggerHook', 'interval': 10}, **(hooks or {})},
        'log_processor': {'by_epoch': False},
        'log_level': 'ERROR',
        'randomness': {'seed': 0},
    }
    return Runner.from_cfg(Config(config))
