"""Trainings and tests of a family through BasicSR's stock scripts."""

import re
import sys
from copy import deepcopy
from pathlib import Path

from nriqa_plugin.compare.clip_results import flat_clips, is_folder_of_clips
from nriqa_plugin.compare.family import LAST
from nriqa_plugin.compare.schedules import scaled, shorter, shorter_terms
from nriqa_plugin.compare.yaml_files import read_yaml, yaml_text
from nriqa_plugin.losses.presets import CHOICE
from nriqa_plugin.stock_runs import BASICSR_STEP, curve_of, follow

HEAD = """# python -m basicsr.{script} -opt {file}
# from the folder {cwd}
"""
RUNNING = ('flip_seq', 'center_frame_only')  # of val: how the host's video model applies the network
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
            _set(self.base, keys, deepcopy(value), f'{family.file}: set')  # other networks have the same values
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

    def option_text(self, folder, name, terms, steps=None, more=None):
        """The whole option file of one training."""
        options = deepcopy(self.base)
        pixel = options['train'].get('pixel_opt') or {}
        own = pixel.items() if pixel.get('type') == 'LossSum' else ()
        kept = {key: value for key, value in own if key not in ('terms', *CHOICE)}
        ratio = self.total(steps) / self.total()
        terms = shorter_terms(terms, ratio) if steps else terms
        options['train']['pixel_opt'] = {**kept, **(more or {}), 'type': 'LossSum', 'terms': terms}
        if steps:
            options['train'] |= {
                'total_iter': steps,
                'warmup_iter': scaled(options['train'].get('warmup_iter', -1), ratio),
            }
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

        state = self._state_to_resume(file)
        if state is None:
            follow([sys.executable, '-m', 'basicsr.train', '-opt', str(file)], watch, log=log)
            return
        import torch

        if '=' in str(state):
            raise ValueError(f"BasicSR cannot resume from a path with '=': {state}")
        start = ['-m', 'basicsr.train'] if torch.cuda.is_available() else ['-c', RESUME_ON_CPU]
        resume = ['-opt', str(file), '--force_yml', f'path:resume_state={state}']
        follow([sys.executable, *start, *resume], watch, log=log)

    def _state_to_resume(self, file):
        """The newest training state; the one before it if its validation, which comes after it, was cut off.

        The host would not make up for that validation, and so might miss the best checkpoint.
        """
        experiment = file.parent / 'experiments' / file.stem
        states = sorted((experiment / 'training_states').glob('*.state'), key=lambda path: float(path.stem))
        if states and self._validation_cut_off(file, states[-1]):
            states.pop()
        return states[-1] if states else None

    def _validation_cut_off(self, file, state):
        options, iteration = read_yaml(file), int(state.stem)
        if iteration % options['val']['val_freq'] or iteration >= options['train']['total_iter']:
            return False  # none was due, or the host does it again at the end
        first = next(iter(self.sets('validation')))
        curve = dict(curve_of(file.parent, file.stem, (self.best_metric,), first).get(self.best_metric, ()))
        if iteration not in curve:
            return True
        if self.family.checkpoint == LAST:
            return False
        best = self.best(file)
        extreme = curve[iteration] in (min(curve.values()), max(curve.values()))  # it may be the best one so far
        return extreme and (best is None or best.stat().st_mtime_ns < state.stat().st_mtime_ns)

    def start(self):
        """The checkpoint that every training starts from; None if the base file names none.

        A ``LoRANet`` without one starts from its ``base_weights``.
        """
        return self.base['path'].get('pretrain_network_g') or self.base['network_g'].get('base_weights')

    def starting_from(self, checkpoint):
        """Settings of a family whose trainings start from a checkpoint that another training of it wrote."""
        return {
            'path:pretrain_network_g': str(checkpoint),
            'path:param_key_g': self._param_key(),
            'path:strict_load_g': True,
        }

    def _param_key(self):
        return 'params_ema' if float(self.base['train'].get('ema_decay') or 0) > 0 else 'params'

    def curve(self, file):
        """``(iteration, metric, value)`` of every validation on the first validation set."""
        curve = curve_of(file.parent, file.stem, dataset=next(iter(self.sets('validation'))))
        return [(iteration, metric, value) for metric, points in curve.items() for iteration, value in points]

    def inputs(self, which):
        """``{data set: folder of low-resolution inputs}`` of ``validation`` or ``test``; None if none, or for clips."""
        folders = {name: option.get('dataroot_lq') for name, option in self.sets(which).items()}
        folders = {name: folder and Path(folder).expanduser() for name, folder in folders.items()}
        return {name: None if folder and is_folder_of_clips(folder) else folder for name, folder in folders.items()}

    def best(self, file):
        """The checkpoint to test, the best one by validation or the family's ``last``; None if there is none."""
        name = f'best_{next(iter(self.sets("validation")))}_{self.best_metric}'
        name = 'latest' if self.family.checkpoint == LAST else name
        found = file.parent / 'experiments' / file.stem / 'models' / f'net_g_{name}.pth'
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
        """Run the stock test script on a checkpoint; the images lie where :meth:`results` says.

        The :meth:`start` is loaded as the base file says, any other checkpoint as a training has written it.
        """
        loaded = {'pretrain_network_g': str(checkpoint), 'param_key_g': self._param_key(), 'strict_load_g': True}
        if str(checkpoint) == str(self.start()):
            loading = ('pretrain_network_g', 'param_key_g', 'strict_load_g')
            loaded = {key: value for key, value in self.base['path'].items() if key in loading}
        replaced = ('train', 'logger', 'datasets', 'val', 'path')
        running = {key: self.base['val'][key] for key in RUNNING if key in self.base['val']}
        sets = {f'test_{i}': option for i, option in enumerate(self.sets(which).values(), 1)}
        options = {
            **{key: value for key, value in self.base.items() if key not in replaced},
            'name': file.stem,
            'manual_seed': self.seed,
            'datasets': sets,
            'path': {
                **loaded,
                'results_root': str(file.parent / which),
            },
            'val': {**running, 'save_img': True, 'suffix': None, 'metrics': None},
        }
        test_file = file.with_name(f'{file.stem}_{which}.yml')
        test_file.write_text(self._text('test', test_file, options), encoding='utf-8')
        follow([sys.executable, '-m', 'basicsr.test', '-opt', str(test_file)], lambda line: None, log=log)

    def results(self, file, which):
        """``{data set: (folder of results, folder of ground truths, ending of the results' names)}`` of a test."""
        root, suffix, found = file.parent / which / file.stem / 'visualization', f'_{file.stem}', {}
        for name, option in self.sets(which).items():
            images, references = root / name, Path(option['dataroot_gt']).expanduser()
            if is_folder_of_clips(images):
                images, references = flat_clips(images, references, suffix, file.parent / which / 'frames' / name)
            found[name] = (images, references, suffix)
        return found

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
