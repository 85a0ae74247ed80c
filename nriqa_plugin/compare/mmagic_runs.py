"""Trainings and tests of a family through mmagic's stock scripts."""

import json
import re
import sys
from copy import deepcopy
from pathlib import Path

from nriqa_plugin.checks import import_extra
from nriqa_plugin.compare.family import LAST
from nriqa_plugin.compare.schedules import shorter, shorter_terms
from nriqa_plugin.losses.presets import CHOICE
from nriqa_plugin.stock_runs import follow

MMAGIC_STEP = re.compile(r'Iter\(train\) *\[ *(\d+)/')
MISSING = re.compile(r'missing keys in source state_dict: (.*)')
VIDEO = ('BasicFramesDataset', 'ClipFolderDataset', 'MovingDigitsDataset')
NO_METRICS = ('step', 'time', 'data_time', 'memory')
VISUALIZER = {
    'type': 'ConcatImageVisualizer', 'vis_backends': [{'type': 'LocalVisBackend'}], 'fn_key': 'gt_path',
    'bgr2rgb': True,
}  # fmt: skip


class MMagicRuns:
    """Configs, commands and results of one family whose base file is of mmagic.

    Args:
        family (Family): its base config must count iterations and name in ``default_hooks.checkpoint.save_best`` the
            metric by which the best checkpoint is chosen. Images only: video networks are BasicSR's here.
        seed (int): ``randomness.seed`` of every training.

    Raises:
        ValueError: naming the base file and the key.
    """

    ending = '.py'

    def __init__(self, family, seed):
        self.family, self.seed = family, seed
        config = import_extra('mmengine.config', 'mmagic', 'nriqa compare')
        self.base = config.Config.fromfile(str(family.base), import_custom_modules=False)
        for keys in family.settings:
            self._check_setting(keys)
        self.base.merge_from_dict(deepcopy(family.settings))  # other networks have the same values
        self._check()

    def _check_setting(self, keys):
        place = self.base
        for key in keys.split('.')[:-1]:
            place = place[int(key)] if isinstance(place, (list, tuple)) else place.get(key)
            if not isinstance(place, (dict, list, tuple)):
                raise ValueError(f'{self.family.file}: set: there is no {key!r} for {keys!r} in the base file')

    def _check(self):
        file = self.family.base
        if not (self.base.get('train_cfg') or {}).get('max_iters'):
            raise ValueError(f'{file}: train_cfg.max_iters is missing: the trainings are counted in iterations')
        if not ((self.base.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best'):
            raise ValueError(f'{file}: default_hooks.checkpoint.save_best must name the metric by which the best '
                             'checkpoint is chosen')  # fmt: skip
        if 'pixel_loss' not in self.base.model:
            raise ValueError(f'{file}: the model has no pixel_loss')
        for loader in (*_listed(self.base.get('train_dataloader')), *_listed(self.base.get('val_dataloader'))):
            dataset = (loader or {}).get('dataset') or {}
            while dataset.get('type') not in VIDEO and isinstance(dataset.get('dataset'), dict):
                dataset = dataset['dataset']  # in a wrapper that repeats it
            if dataset.get('type') in VIDEO or 'num_input_frames' in dataset:
                raise ValueError(f'{file}: {dataset.get("type")} gives clips, and video networks are compared in '
                                 "BasicSR only: mmagic's stock script writes the results of all clips to one name. "
                                 'Take an option file of BasicSR as base, for example '
                                 'options/basicsr/basicvsrpp_x4_perceptual.yml')  # fmt: skip

    def total(self, steps=None):
        """Iterations of a training."""
        return steps or self.base.train_cfg.max_iters

    def option_text(self, folder, name, terms, steps=None, more=None):
        """The whole config of one training."""
        options = deepcopy(self.base)
        pixel = options.model.pixel_loss or {}
        own = pixel.items() if pixel.get('type') == 'LossSum' else ()
        kept = {key: value for key, value in own if key not in ('terms', *CHOICE)}
        ratio = self.total(steps) / self.total()
        terms = shorter_terms(terms, ratio) if steps else terms
        options.model.pixel_loss = {**kept, **(more or {}), 'type': 'LossSum', 'terms': terms}
        if steps:
            options.param_scheduler = shorter(options.get('param_scheduler'), ratio)
            options.train_cfg.max_iters = steps
            options.train_cfg.val_interval = min(options.train_cfg.get('val_interval', steps), max(1, steps // 5))
        work_dir = str(folder / 'work_dir')
        checkpoint, logger = options.default_hooks.checkpoint, options.default_hooks.setdefault('logger', {})
        every = options.train_cfg.get('val_interval', self.total(steps))
        # Half-way between validations: a resumed run would not make up for one that was cut off after its checkpoint.
        halfway = {'interval': every, 'save_begin': every // 2} if every > 1 else {'interval': -1}
        last = self.family.checkpoint == LAST
        checkpoint.update(**halfway, save_last=last, by_epoch=False, out_dir=work_dir)
        # mmengine deletes an old one before it writes a new one.
        checkpoint['max_keep_ckpts'] = 2 if checkpoint.get('max_keep_ckpts') in (None, 1) else checkpoint.max_keep_ckpts
        logger.setdefault('type', 'LoggerHook')
        logger['log_metric_by_epoch'] = False  # else every validation is one of step 0
        logger['interval'] = min(logger.get('interval', 100), max(1, self.total(steps) // 100))
        hooks = options.get('custom_hooks') or []
        options.custom_hooks = [hook for hook in hooks if hook.get('type') != 'BasicVisualizationHook']
        options.randomness = {**(options.get('randomness') or {}), 'seed': self.seed}
        options.work_dir, options.save_dir, options.experiment_name = work_dir, str(folder), name
        options.resume = False
        return self._text('train', folder / f'{name}.py', options)

    def train(self, file, on_step, log):
        """Train, or go on from the newest checkpoint."""

        def watch(line):
            if found := MMAGIC_STEP.search(line):
                on_step(int(found[1]))

        resume = ['--resume'] if (file.parent / 'work_dir' / 'last_checkpoint').is_file() else []
        if not resume:
            for old in (file.parent / 'work_dir').glob('best_*.pth'):  # of a run that was killed before its first one
                old.unlink()
        follow([sys.executable, stock_script('train'), str(file), *resume], watch, log=log)

    def start(self):
        """The checkpoint that every training starts from; None if the base file names none."""
        return self.base.get('load_from')

    def starting_from(self, checkpoint):
        """Settings of a family whose trainings start from a checkpoint that another training of it wrote."""
        return {'load_from': str(checkpoint)}

    def curve(self, file):
        """``(iteration, metric, value)`` of every validation."""
        found = {}
        for log in sorted((file.parent / 'work_dir').glob('*/vis_data/scalars.json')):
            for row in map(json.loads, log.read_text(encoding='utf-8').splitlines()):
                if 'step' in row and not {'lr', 'loss', 'iter'} & row.keys():  # validations count steps, training iters
                    found |= {(row['step'], key): value for key, value in row.items() if key not in NO_METRICS}
        return [(*key, value) for key, value in sorted(found.items(), key=lambda item: (item[0][1], item[0][0]))]

    def inputs(self, which):
        """``{data set: folder of low-resolution inputs, or None}`` of ``validation`` or ``test``."""
        found = {}
        for name, loader in self.sets(which).items():
            folder = loader.dataset.data_prefix.get('img')
            found[name] = folder and (Path(loader.dataset.get('data_root') or '') / folder).expanduser()
        return found

    def best(self, file):
        """The checkpoint to test, the best one by validation or the family's ``last``; None if there is none."""
        if self.family.checkpoint == LAST:
            return max((file.parent / 'work_dir').glob('iter_*.pth'), key=_iteration, default=None)
        metric = self.base.default_hooks.checkpoint.save_best
        metric = (metric if isinstance(metric, str) else metric[0]).replace('/', '_')
        found = [*(file.parent / 'work_dir').glob(f'best_{metric}_iter_*.pth')]
        # of two that a kill and an inexact resume have left
        return max(found, key=_iteration, default=None)

    def sets(self, which):
        """``{name: data loader}`` of ``validation`` or ``test``; a name is its evaluator's prefix, else its type."""
        if which == 'test' and self.family.test:
            first = _listed(self.base.val_dataloader)[0]
            return {name: self._test_set(name, option, first) for name, option in self.family.test.items()}
        kind = 'test' if which == 'test' and self.base.get('test_dataloader') else 'val'
        loaders, evaluators = (_listed(self.base.get(f'{kind}_{part}')) for part in ('dataloader', 'evaluator'))
        found = {}
        for i, (loader, evaluator) in enumerate(zip(loaders, evaluators, strict=True), 1):
            metrics = _listed(evaluator.get('metrics', evaluator) if isinstance(evaluator, dict) else evaluator)
            prefix = next((metric['prefix'] for metric in metrics if metric.get('prefix')), None)
            name = prefix or (loader.dataset.get('metainfo') or {}).get('dataset_type') or which
            found[name if name not in found else f'{name}_{i}'] = loader
        return found

    def _test_set(self, name, option, template):
        where, made = f'{self.family.file}: test.{name}', deepcopy(template)
        if ('lq' in option) != ('img' in (made.dataset.get('data_prefix') or {})):
            there = 'needs lq, as' if 'lq' not in option else 'must not have lq, for there is none in'
            raise ValueError(f'{where} {there} the validation set of {self.family.base}')
        prefix = {'gt': option['gt'], **({'img': option['lq']} if 'lq' in option else {})}
        names = {'gt': '{}', 'img': option.get('filename_tmpl', '{}')}
        names = {key: names[key] for key in prefix}
        made.dataset.update(ann_file='', data_root=str(Path.cwd()), data_prefix=prefix, filename_tmpl=names)
        if 'degradation' in option:
            degrade = [step for step in made.dataset.pipeline if 'degradation' in step]
            if not degrade:
                raise ValueError(f'{where}.degradation: the validation pipeline of {self.family.base} degrades nothing')
            degrade[0]['degradation'] = option['degradation']
        return made

    def test(self, file, checkpoint, which, log):
        """Run the stock test script on a checkpoint, once a data set: images of two sets may have one name.

        The images lie where :meth:`results` says.

        Raises:
            RuntimeError: also when weights of the network are missing in the checkpoint, which mmengine only logs.
        """
        missing = []

        def watch(line):
            if found := MISSING.search(line):
                missing.extend(key for key in found[1].split(', ') if key.startswith('generator.'))

        for name, loader in self.sets(which).items():
            options = deepcopy(self.base)
            options.test_dataloader, options.test_cfg = [deepcopy(loader)], {'type': 'MultiTestLoop'}
            options.test_evaluator = [{'type': 'Evaluator', 'metrics': [{'type': 'MAE'}]}]
            options.visualizer = {**VISUALIZER, **(options.get('visualizer') or {}), 'img_keys': ['pred_img'],
                                  'save_dir': str(file.parent / which / name)}  # fmt: skip
            options.custom_hooks = [{'type': 'BasicVisualizationHook', 'interval': 1}]
            options.work_dir, options.experiment_name = str(file.parent / 'work_dir'), file.stem
            options.randomness = {**(options.get('randomness') or {}), 'seed': self.seed}
            test_file = file.with_name(f'{file.stem}_{which}_{name}.py')
            test_file.write_text(self._text('test', test_file, options, checkpoint), encoding='utf-8')
            follow([sys.executable, stock_script('test'), str(test_file), str(checkpoint)], watch, log=log)
            if missing:
                raise RuntimeError(f'{checkpoint} lacks weights of the network: {", ".join(missing[:3])}')

    def results(self, file, which):
        """``{data set: (folder of results, folder of ground truths, ending of the results' names)}`` of a test."""
        found = {}
        for name, loader in self.sets(which).items():
            gt = Path(loader.dataset.get('data_root') or '') / loader.dataset.data_prefix.gt
            found[name] = (file.parent / which / name / 'vis_data' / 'vis_image', gt.expanduser(), '_0')
        return found

    def _text(self, script, file, options, *arguments):
        command = ' '.join(['python', stock_script(script), str(file), *map(str, arguments)])
        return f'# {command}\n# from the folder {Path.cwd()}\n{options.pretty_text}'


def stock_script(name):
    """Path of ``train.py`` or ``test.py`` that mmagic installs."""
    import importlib.util

    package = importlib.util.find_spec('mmagic')
    if package is None:
        import_extra('mmagic', 'mmagic', 'nriqa compare')
    return str(Path(package.origin).parent / '.mim' / 'tools' / f'{name}.py')


def _iteration(checkpoint):
    return int(checkpoint.stem.rpartition('_')[2])


def _listed(loaders):
    return loaders if isinstance(loaders, (list, tuple)) else [loaders]
