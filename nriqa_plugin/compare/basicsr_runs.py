"""Trainings and tests of a family through BasicSR's stock scripts."""

import re
import sys
from copy import deepcopy
from pathlib import Path

from nriqa_plugin.compare.schedules import shorter
from nriqa_plugin.compare.yaml_files import read_yaml, yaml_text
from nriqa_plugin.stock_runs import BASICSR_STEP, follow

HEAD = """# python -m basicsr.{script} -opt {file}
# from the folder {cwd}
"""
PLUGIN = 'plugin: !!python/name:nriqa_plugin.basicsr.VERSION\n'
# The stock script can start but not resume without a GPU; this is the same script, mended.
RESUME_ON_CPU = (
    "from nriqa_plugin.basicsr import cpu; from basicsr import train; cpu.mend_host(); train.train_pipeline('.')"
)


class BasicSRRuns:
    """Option files, commands and results of one family whose base file is of BasicSR.

    Args:
        family (Family): its base file must have ``model_type: PerceptualModel`` and name in ``val.save_best`` the
            metric by which the best checkpoint is chosen.
        seed (int): ``manual_seed`` of every training.

    Raises:
        ValueError: naming the base file and the key.
    """

    ending = '.yml'

    def __init__(self, family, seed):
        self.family, self.seed = family, seed
        self.base = read_yaml(family.base)
        if not isinstance(self.base, dict):
            raise ValueError(f'{family.base} is no option file of BasicSR')
        for keys, value in family.settings.items():
            _set(self.base, keys, value, f'{family.file}: set')
        self.plugin = {key: self.base.pop(key) for key in [*self.base] if key == 'plugin'}
        self._check()
        self.best_metric = self.base['val']['save_best']
        if not isinstance(self.best_metric, str):
            self.best_metric = self.best_metric[0]

    def _check(self):
        base, file = self.base, self.family.base
        if base.get('model_type') != 'PerceptualModel':
            raise ValueError(f'{file}: model_type must be PerceptualModel, which keeps the best checkpoint')
        if not _at(base, 'val', 'save_best'):
            raise ValueError(f'{file}: val.save_best must name the metric by which the best checkpoint is chosen, '
                             "for example `loss` (metrics: {loss: {type: calculate_loss}})")  # fmt: skip
        for keys in (('datasets', 'train'), ('train', 'total_iter'), ('logger',), ('network_g',), ('path',)):
            if _at(base, *keys) is None:
                raise ValueError(f'{file} has no {".".join(keys)}')
        if not self.sets('validation'):
            raise ValueError(f'{file} has no validation data set (datasets.val)')

    def total(self, steps=None):
        """Iterations of a training."""
        return steps or int(self.base['train']['total_iter'])

    def option_text(self, folder, name, terms, steps=None):
        """The whole option file of one training."""
        options = deepcopy(self.base)
        pixel = options['train'].get('pixel_opt') or {}
        kept = {key: value for key, value in pixel.items() if pixel.get('type') == 'LossSum' and key != 'terms'}
        options['train']['pixel_opt'] = {**kept, 'type': 'LossSum', 'terms': terms}
        if steps:
            ratio = steps / options['train']['total_iter']
            options['train']['total_iter'] = steps
            if options['train'].get('scheduler'):
                options['train']['scheduler'] = shorter(options['train']['scheduler'], ratio)
            options['val']['val_freq'] = min(options['val']['val_freq'], max(1, steps // 5))
        options['val']['save_img'] = False
        save = min(options['logger'].get('save_checkpoint_freq', 5000), options['val']['val_freq'])
        often = min(options['logger'].get('print_freq', 100), max(1, self.total(steps) // 100))
        # TensorBoard's folder would lie in the installed package.
        options['logger'] = {**options['logger'], 'save_checkpoint_freq': save, 'print_freq': often,
                             'use_tb_logger': False, 'wandb': None}  # fmt: skip
        options['path'] = {**options['path'], 'experiments_root': str(folder / 'experiments'), 'resume_state': None}
        options = {**options, 'name': name, 'manual_seed': self.seed}
        return self._text('train', folder / f'{name}.yml', options)

    def train(self, file, on_step, log):
        """Train, or go on from the newest training state."""

        def watch(line):
            if found := BASICSR_STEP.search(line):
                on_step(int(found[1].replace(',', '')))

        states = (file.parent / 'experiments' / file.stem / 'training_states').glob('*.state')
        states = sorted(states, key=lambda path: float(path.stem))
        if not states:
            follow([sys.executable, '-m', 'basicsr.train', '-opt', str(file)], watch, log=log)
            return
        import torch

        if '=' in str(states[-1]):
            raise ValueError(f"BasicSR cannot resume from a path with '=': {states[-1]}")
        start = ['-m', 'basicsr.train'] if torch.cuda.is_available() else ['-c', RESUME_ON_CPU]
        resume = ['-opt', str(file), '--force_yml', f'path:resume_state={states[-1]}']
        follow([sys.executable, *start, *resume], watch, log=log)

    def best(self, file):
        """The best checkpoint by validation loss; None if there is none."""
        models = file.parent / 'experiments' / file.stem / 'models'
        found = models / f'net_g_best_{next(iter(self.sets("validation")))}_{self.best_metric}.pth'
        return found if found.is_file() else None

    def sets(self, which):
        """``{name: data set options}`` of ``validation`` or ``test``; without test sets both are the same."""
        phases = self.base['datasets']
        own = {phases[key]['name']: phases[key] for key in phases if key.partition('_')[0] == 'val'}
        if which == 'validation' or not self.family.test:
            return own
        first = next(iter(own.values()))
        return {name: self._test_set(name, option, first) for name, option in self.family.test.items()}

    def _test_set(self, name, option, template):
        where = f'{self.family.file}: test.{name}'
        if ('lq' in option) != ('dataroot_lq' in template):
            there = 'needs lq, as' if 'lq' not in option else 'must not have lq, for there is none in'
            raise ValueError(f'{where} {there} the validation set of {self.family.base}')
        made = {key: value for key, value in template.items() if key not in ('meta_info_file', 'filename_tmpl')}
        made |= {'name': name, 'dataroot_gt': option['gt']}
        if 'lq' in option:
            made['dataroot_lq'] = option['lq']
        return made | {key: option[key] for key in ('filename_tmpl', 'degradation') if key in option}

    def test(self, file, checkpoint, which, log):
        """Run the stock test script on a checkpoint; the images lie where :meth:`results` says."""
        ema = float(self.base['train'].get('ema_decay') or 0) > 0
        replaced = ('train', 'logger', 'datasets', 'val', 'path')
        sets = {f'test_{i}': option for i, option in enumerate(self.sets(which).values(), 1)}
        options = {
            **{key: value for key, value in self.base.items() if key not in replaced},
            'name': file.stem,
            'manual_seed': self.seed,
            'datasets': sets,
            'path': {
                'pretrain_network_g': str(checkpoint),
                'param_key_g': 'params_ema' if ema else 'params',
                'strict_load_g': True,
                'results_root': str(file.parent / which),
            },
            'val': {'save_img': True, 'suffix': None, 'metrics': None},
        }
        test_file = file.with_name(f'{file.stem}_{which}.yml')
        test_file.write_text(self._text('test', test_file, options), encoding='utf-8')
        follow([sys.executable, '-m', 'basicsr.test', '-opt', str(test_file)], lambda line: None, log=log)

    def results(self, file, which):
        """``{data set: (folder of results, folder of ground truths, ending of the results' names)}`` of a test."""
        root = file.parent / which / file.stem / 'visualization'
        sets = self.sets(which).items()
        return {name: (root / name, Path(option['dataroot_gt']).expanduser(), f'_{file.stem}') for name, option in sets}

    def _text(self, script, file, options):
        lines = ''.join(f'{key}: !!python/name:{name}\n' for key, name in self.plugin.items() if isinstance(name, str))
        return HEAD.format(script=script, file=file, cwd=Path.cwd()) + (lines or PLUGIN) + yaml_text(options)


def _at(options, *keys):
    for key in keys:
        options = options.get(key) if isinstance(options, dict) else None
    return options


def _set(options, keys, value, where):
    """Set ``a:b:c``, as BasicSR's ``--force_yml`` does; every key but the last must be there."""
    *path, last = re.split(':', keys)
    for key in path:
        options = options.get(key) if isinstance(options, dict) else None
        if not isinstance(options, dict):
            raise ValueError(f'{where}: there is no {key!r} for {keys!r} in the base file')
    options[last] = value
