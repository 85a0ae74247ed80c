"""Validation for PerceptualModel: metrics checked, artifact alarm, best checkpoints, the host's CPU faults mended."""

import contextlib
import csv
import os
from pathlib import Path

from basicsr.utils import get_root_logger

from nriqa_plugin.basicsr import cpu, metrics, several_gts
from nriqa_plugin.basicsr.alarm import ALARM, ArtifactAlarm
from nriqa_plugin.basicsr.loss_metric import LOSS, check_loss_metric, training_loss
from nriqa_plugin.basicsr.start_baseline import GAIN, SCORE, START, StartBaselineMixin, direction, judge_of
from nriqa_plugin.checks import atomic_path, in_place, unknown_name
from nriqa_plugin.losses.training_state import unchanged_random

try:
    from basicsr.models.video_base_model import VideoBaseModel
except ModuleNotFoundError:  # a copy of basicsr from which the video models were cut
    VideoBaseModel = ()

HISTORY_COLUMNS = ('iteration', 'dataset', 'metric', 'mean')


class ValidationMixin(StartBaselineMixin):
    """Lies over a host model's ``validation``; see :class:`nriqa_plugin.basicsr.models.PerceptualMixin`."""

    def check_metrics(self, opt):
        """Build every judge now rather than at the first validation, and fill in its direction.

        A metric that is None (``--force_yml val:metrics:lpips=~``) is left out.

        Raises:
            ValueError: unknown metric options, a video judge, a wrong ``better``, a bad baseline file, two gains of one
                judge, a judge that alarm and gain want with different options, or ``save_best`` of a metric that is
                not there.
        """
        val = opt['val']
        val['metrics'] = {name: option for name, option in (val['metrics'] or {}).items() if option is not None} or None
        if val.get('artifact_alarm') is not None and not opt['is_train']:
            get_root_logger().info('val.artifact_alarm is for training and does nothing in a test.')
        self.alarm = ArtifactAlarm.from_options(val) if opt['is_train'] else None
        named = val['metrics'] or {}
        self.history = []
        val['save_best'] = [val['save_best']] if isinstance(val.get('save_best'), str) else val.get('save_best') or []
        for name in val['save_best']:
            if name not in named:
                raise unknown_name('metric in val.save_best', name, named)
        self.gain_options = {name: option for name, option in named.items() if option['type'] == GAIN}
        judges = []
        for name, option in self.gain_options.items():
            with in_place(f'val.metrics.{name}'):
                judges.append(judge_of(option).name)
        for name, option in named.items():
            if option['type'] == SCORE:
                with in_place(f'val.metrics.{name}'):
                    option.setdefault('better', direction(option))
                    metrics.judge_of(SCORE, {key: value for key, value in option.items() if key != 'type'})
            elif option['type'] == LOSS:
                with in_place(f'val.metrics.{name}'):
                    check_loss_metric(option, trains=opt['is_train'] and bool(opt['train'].get('pixel_opt')))
        several_gts.check_options(named)
        for name, option in self.gain_options.items():
            judge = judge_of(option)
            if judges.count(judge.name) > 1:
                raise ValueError(f'val.metrics.{name}: a second relative gain of the judge {judge.name!r}')
            if option.get('baseline') != START:
                metrics.check_gain(option.get('baseline'), option.get('better', 'higher'))
                metrics.baseline_of(option['baseline'], judge)
        self._check_one_baseline_a_judge()
        if self.wants_start() and not opt['is_train']:
            raise ValueError('baseline: start is for training; for a test name the baseline_DATASET.csv that it wrote')
        if self.wants_start() and opt['dist'] and isinstance(self, VideoBaseModel):
            raise ValueError(f'{self.wants_start()} needs one process for video models, which split validation: train '
                             'without a launcher; a baseline_DATASET.csv of such a run can be named as baseline, '
                             'but an artifact_alarm cannot watch several processes')  # fmt: skip

    def _check_one_baseline_a_judge(self):
        """The baseline file holds one score of an image by the name of the judge."""
        seen = {}
        for name, option in self._measured_from_start().items():
            judge = judge_of(option)
            other, known = seen.setdefault(judge.name, (name, judge))
            if known is not judge and known.weights_hash() != judge.weights_hash():
                raise ValueError(f'val.metrics.{other} and val.metrics.{name} are both measured from the start by the '
                                 f'judge {judge.name!r}, but with different options (crop_border counts as one); give '
                                 'them the same')  # fmt: skip

    def note_image(self, data):
        """Remember which image comes next; metrics do not learn it from the host.

        A frame goes by its clip's folder, over which the host averages first. Vimeo's frames, all of one ``folder``
        that is not on their path, are clips of their own.
        """
        folder, path = (_first(data.get(key, '')) for key in ('folder', 'lq_path'))
        parts = Path(path).parts
        if folder and parts and folder not in parts:
            self.current_image = '/'.join((folder, *parts[-3:]))
        else:
            self.current_image = folder or os.path.basename(path)
        several_gts.image_is(_first(data.get('gt_path', '')), path)

    def validation(self, dataloader, current_iter, tb_logger, save_img=False):
        """The host's validation, without a trace in the random generators."""
        if self.is_train:  # the host's counter has run one too far when it validates at the end
            current_iter = min(current_iter, int(self.opt['train'].get('total_iter', current_iter)))
        with unchanged_random(), self._unwrapped(), self._start_baseline(dataloader), self._recorded(GAIN) as record:
            self._check_known_images(dataloader.dataset)
            self._prepare_video(dataloader.dataset)
            own_loss = training_loss(getattr(self, 'cri_pix', None), self.device)
            name = dataloader.dataset.opt['name']
            with self._named_image(dataloader.dataset), self._watched(name) as watched, own_loss:
                super().validation(dataloader, current_iter, tb_logger, save_img)
            for option in self.gain_options.values():
                judge = judge_of(option)
                if judge in record and not (self.opt['dist'] and isinstance(self, VideoBaseModel)):
                    check_same_images(option['baseline'], metrics.baseline_of(option['baseline'], judge), record[judge])
        if self.is_train and self.opt['rank'] == 0:
            self._keep_best(dataloader.dataset.opt['name'], current_iter)
        if self.alarm is not None:
            said = watched and watched.report(
                current_iter, stop=lambda: self.save_network(self._validated_network(), 'net_g', ALARM)
            )
            self.alarm.stop_together(said)

    @contextlib.contextmanager
    def _watched(self, dataset_name):
        """Let the artifact alarm, when there is one, see every score of this validation."""
        if self.alarm is None or self.opt['rank'] != 0:
            yield None
            return
        watch = self.alarm.watch(self._baseline_path(dataset_name), dataset_name, self.own_losses.values())
        with metrics.listening(lambda *heard: watch.hear(self.current_image, *heard)):
            yield watch

    @contextlib.contextmanager
    def _unwrapped(self):
        """Validate the bare network: the distributed one shares buffers at every call, but only rank 0 calls."""
        wrapped, self.net_g = self.net_g, self.get_bare_model(self.net_g)
        try:
            yield
        finally:
            self.net_g = wrapped

    def _check_known_images(self, dataset):
        """Find a baseline of other images before scoring, where the data set lists its files."""
        paths = getattr(dataset, 'paths', None) if self.opt['rank'] == 0 else None
        if paths and isinstance(paths[0], dict) and 'lq_path' in paths[0]:
            names = [os.path.basename(path['lq_path']) for path in paths]
            for option in self.gain_options.values():
                baseline = metrics.baseline_of(option['baseline'], judge_of(option))
                check_same_images(option['baseline'], baseline, names)

    @contextlib.contextmanager
    def _named_image(self, dataset):
        """Say which image it was when a judge cannot score one."""
        try:
            yield
        except ValueError as error:
            name = getattr(self, 'current_image', '')
            raise ValueError(f'validation of {dataset.opt["name"]}, image {name}: {error}') from error

    def _prepare_video(self, dataset):
        if hasattr(dataset, 'data_info') and self.opt['val']['metrics']:
            self.metric_results = cpu.video_metric_table(dataset, self.opt['val']['metrics'], self.device)

    def _update_best_metric_result(self, dataset_name, metric, val, current_iter):
        super()._update_best_metric_result(dataset_name, metric, val, current_iter)
        row = (current_iter, dataset_name, metric)
        self.history = [known for known in self.history if known[:3] != row]  # the host validates twice at the end
        self.history.append((*row, float(val)))

    def _keep_best(self, dataset_name, current_iter):
        """Write all validation results so far; save the network when a metric in ``val.save_best`` is at its best."""
        write_history(self._history_path(), self.history)
        for metric in self.opt['val']['save_best']:
            if self.best_metric_results[dataset_name][metric]['iter'] != current_iter:
                continue
            label = f'best_{dataset_name}_{metric}'
            if hasattr(self, 'net_g_ema'):
                self.save_network([self.net_g, self.net_g_ema], 'net_g', label, ['params', 'params_ema'])
            else:
                self.save_network(self.net_g, 'net_g', label)

    def _history_path(self):
        return Path(self.opt['path']['experiments_root']) / 'validation.csv'

    def load_history(self, iteration):
        """After a resume: take up the validation results, and so the best values, known at ``iteration``."""
        earlier = read_history(self._history_path()) if self._history_path().is_file() else []
        for row_iteration, dataset_name, metric, value in earlier:
            if row_iteration <= iteration and metric in (self.opt['val']['metrics'] or {}):
                self._initialize_best_metric_results(dataset_name)
                self._update_best_metric_result(dataset_name, metric, value, row_iteration)


def _first(value):
    """A data loader makes lists of one."""
    return str(value[0] if isinstance(value, (list, tuple)) else value)


def write_history(path, rows):
    """Write ``(iteration, data set, metric, mean)`` rows as a CSV file, at once or not at all."""
    with atomic_path(path) as temporary, open(temporary, 'w', newline='') as file:
        csv.writer(file).writerows([HISTORY_COLUMNS, *rows])


def read_history(path):
    """Rows ``(iteration, data set, metric, mean)`` of :func:`write_history`."""
    with open(path, newline='') as file:
        return [(int(i), dataset, metric, float(v)) for i, dataset, metric, v in list(csv.reader(file))[1:]]


def check_same_images(path, baseline, seen):
    """Check that a baseline belongs to the images just scored.

    Names need not be equal, only one the start of the other: results of ``x.png`` are stored as ``x_RUN.png``.

    Raises:
        ValueError: another number of images, or names that do not match.
    """
    stems = [Path(name).stem for name in baseline.names]
    strange = [
        n for n in sorted(seen) if not any(s.startswith(Path(n).stem) or Path(n).stem.startswith(s) for s in stems)
    ]
    if len(stems) != len(seen) or strange:
        raise ValueError(
            f'baseline: {path} belongs to another data set: it has {len(stems)} images ({", ".join(stems[:3])}, ...), '
            f'validated were {len(seen)}{f", not in it: {strange[:3]}" if strange else ""}'
        )
