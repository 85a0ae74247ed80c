"""Small families of trainings for the tests: images, a base file, a family file, and a host that trains nothing."""

import numpy as np
import torch
from PIL import Image

from nriqa_plugin.compare.yaml_files import yaml_text
from nriqa_plugin.evaluation.images import list_images, read_image, write_image

L1 = {'l1': {'type': 'L1Loss', 'weight': 1.0}}
SSIM_L2 = {
    'ssim': {'type': 'FRIQALoss', 'metric': 'ssim', 'scale': 'unit', 'weight': 0.1},
    'l2': {'type': 'MSELoss', 'weight': 1.0},
}
PLUGIN = 'plugin: !!python/name:nriqa_plugin.basicsr.VERSION\n'


def write_images(folder, count=3, side=96):
    """Smooth random pairs ``{train,val,test}/{gt,lq}/{split}{i}.png``, lq bicubic x1/4."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val', 'test'):
        for i in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            small = coarse.resize((side // 4, side // 4), Image.BICUBIC)
            for kind, image in (('gt', small.resize((side, side), Image.BICUBIC)), ('lq', small)):
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
                image.save(folder / split / kind / f'{split}{i}.png')


def base_options(folder, steps=20):
    """A tiny MSRResNet that a CPU trains in seconds."""

    def data(split):
        roots = {f'dataroot_{kind}': str(folder / split / kind) for kind in ('gt', 'lq')}
        return {'name': split, 'type': 'CheckedPairedImageDataset', 'io_backend': {'type': 'disk'}, **roots}

    sampling = {'gt_size': 48, 'use_hflip': True, 'use_rot': True, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}
    return {
        'name': 'tiny',
        'model_type': 'PerceptualModel',
        'scale': 4,
        'num_gpu': 'auto',
        'manual_seed': 7,
        'datasets': {'train': {**data('train'), **sampling, 'dataset_enlarge_ratio': 400}, 'val': data('val')},
        'network_g': {
            'type': 'MSRResNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1, 'upscale': 4
        },
        'path': {'experiments_root': 'experiments', 'pretrain_network_g': None, 'resume_state': None},
        'train': {
            'total_iter': steps,
            'warmup_iter': -1,
            'optim_g': {'type': 'Adam', 'lr': 1e-3},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [steps // 2], 'gamma': 0.5},
            'pixel_opt': {'type': 'LossSum', 'grad_norms': True, 'terms': L1},
        },
        'val': {
            'val_freq': steps // 2,
            'save_img': False,
            'save_best': 'psnr',
            'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'better': 'higher'}},
        },
        'logger': {'print_freq': 1, 'save_checkpoint_freq': steps // 2, 'use_tb_logger': True, 'wandb': None},
    }  # fmt: skip


def write_family(folder, options=None, **changes):
    """``base.yml`` and ``family.yml`` of two losses in a folder; returns the family file."""
    (folder / 'base.yml').write_text(PLUGIN + yaml_text(options or base_options(folder)))
    family = {
        'base': 'base.yml',
        'losses': {'l1': L1, 'ssim_l2': SSIM_L2},
        'judges': ['psnr', 'ssim'],
        'against': 'ssim_l2',
        'test': {'held_out': {'gt': str(folder / 'test' / 'gt'), 'lq': str(folder / 'test' / 'lq')}},
        'search': {'ssim_l2': {'term': 'ssim', 'grid': [0.01, 0.1, 1.0], 'steps': 10, 'select_by': 'psnr'}},
        **changes,
    }
    file = folder / 'family.yml'
    file.write_text(yaml_text({key: value for key, value in family.items() if value is not None}))
    return file


class FakeHost:
    """Trains nothing: the "network" adds noise to the ground truth, the less the nearer ``noise_of(terms)`` is to 0.

    Attributes:
        breaks (set): names whose training breaks down; ``test_breaks`` likewise.
        trained, tested (list): names, in the order of the calls.
        interrupt (set): names whose training is stopped from outside, once.
    """

    ending = '.yml'

    def __init__(self, folder, noise_of=lambda terms: 0.02):
        self.folder, self.noise_of = folder, noise_of
        self.breaks, self.test_breaks, self.interrupt = set(), set(), set()
        self.trained, self.tested, self.texts = [], [], {}
        self.test_folder = 'test'

    def total(self, steps=None):
        return steps or 100

    def option_text(self, folder, name, terms, steps=None):
        self.texts[name] = terms
        return yaml_text({'name': name, 'terms': terms, 'steps': self.total(steps)})

    def train(self, file, on_step, log):
        self.trained.append(file.stem)
        on_step(50)
        if file.stem in self.interrupt:
            self.interrupt.discard(file.stem)
            raise KeyboardInterrupt
        if file.stem in self.breaks:
            raise RuntimeError('the script failed:\nloss is NaN\n')
        (file.parent / 'best.pth').write_text(str(self.noise_of(self.texts[file.stem])))

    def best(self, file):
        found = file.parent / 'best.pth'
        return found if found.is_file() else None

    def sets(self, which):
        return {'held_out': {'gt': str(self.folder / (self.test_folder if which == 'test' else 'val') / 'gt')}}

    def test(self, file, checkpoint, which, log):
        self.tested.append(f'{file.stem}:{which}')
        if file.stem in self.test_breaks:
            raise RuntimeError('the test failed')
        generator = torch.Generator().manual_seed(0)
        for path in list_images(self.sets(which)['held_out']['gt']):
            image = read_image(path)
            noise = torch.randn(image.shape, generator=generator) * float(checkpoint.read_text())
            write_image(file.parent / which / f'{path.stem}_{file.stem}.png', image + noise)

    def results(self, file, which):
        gt = self.sets(which)['held_out']['gt']
        return {'held_out': (file.parent / which, gt, f'_{file.stem}')}
