"""Validation for PerceptualModel: start weights as baseline, best checkpoints, and the host's CPU faults mended."""

import contextlib
import csv
import os
from pathlib import Path

from basicsr.utils import get_root_logger

from nriqa_plugin.basicsr import cpu, metrics
from nriqa_plugin.basicsr.alarm import ALARM, ArtifactAlarm
from nriqa_plugin.checks import atomic_path, in_place, load_weights, unknown_name
from nriqa_plugin.evaluation.scores import FrameNames, read_scores, score_row, write_scores
from nriqa_plugin.losses.training_state import unchanged_random

try:
    from basicsr.models.video_base_model import VideoBaseModel
except ModuleNotFoundError:  # a copy of basicsr from which the video models were cut
    VideoBaseModel = ()

START = 'start'  # label of the stored start weights, and the baseline option that asks for them
HISTORY_COLUMNS = ('iteration', 'dataset', 'metric', 'mean')
GAIN, SCORE = 'calculate_relative_gain', 'calculate_iqa'


class ValidationMixin:
    """Lies over a host model's ``validation``; see :class:`nriqa_plugin.basicsr.models.PerceptualMixin`."""

    def check_metrics(self, opt):
        """Build every judge now rather than at the first validation, and fill in its direction.

        Raises:
            ValueError: unknown metric options, a wrong ``better``, a bad baseline file, two gains of one judge, a judge
                that alarm and gain want with different options, or ``save_best`` of a metric that is not there.
        """
        val = opt['val']
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
        judges = [judge_of(option).name for option in self.gain_options.values()]
        for name, option in named.items():
            if option['type'] == SCORE:
                with in_place(f'val.metrics.{name}'):
                    option.setdefault('better', direction(option))
                    metrics.judge_of(SCORE, {key: value for key, value in option.items() if key != 'type'})
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

    def _measured_from_start(self):
        """Options of the metrics that need the scores of the start weights, by name."""
        gains = {name: option for name, option in self.gain_options.items() if option.get('baseline') == START}
        return {**gains, **(self.alarm.metric_options if self.alarm else {})}

    def wants_start(self):
        """The option that measures against the weights that training starts from; empty when there is none."""
        if any(option.get('baseline') == START for option in self.gain_options.values()):
            return 'baseline: start'
        return 'val.artifact_alarm' if self.alarm else ''

    def store_start_weights(self):
        """Save the weights that training starts from, for ``baseline: start``.

        Raises:
            FileNotFoundError: a resumed run lacks the file.
        """
        if not self.wants_start() or self.opt['rank'] != 0:
            return
        if self.opt['path'].get('resume_state') is None:
            self.save_network(self._validated_network(), 'net_g', START)
        elif not self._start_path().is_file():
            raise FileNotFoundError(
                f'{self.wants_start()}: the resumed run lacks its start weights: {self._start_path()}'
            )

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

    def validation(self, dataloader, current_iter, tb_logger, save_img=False):
        """The host's validation, without a trace in the random generators."""
        if self.is_train:  # the host's counter has run one too far when it validates at the end
            current_iter = min(current_iter, int(self.opt['train'].get('total_iter', current_iter)))
        with unchanged_random(), self._unwrapped(), self._start_baseline(dataloader), self._recorded(GAIN) as record:
            self._check_known_images(dataloader.dataset)
            self._prepare_video(dataloader.dataset)
            with self._named_image(dataloader.dataset), self._watched(dataloader.dataset.opt['name']) as watched:
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

    @contextlib.contextmanager
    def _recorded(self, owner):
        """Yield ``{judge: {image: score}}``, filled by the metric called ``owner`` inside the block."""
        record, names = {}, {}

        def listen(who, judge, score, _):
            if who == owner:
                name = names.setdefault(judge, FrameNames()).next(self.current_image)
                record.setdefault(judge, {})[name] = score

        with metrics.listening(listen):
            yield record

    def _prepare_video(self, dataset):
        if hasattr(dataset, 'data_info') and self.opt['val']['metrics']:
            self.metric_results = cpu.video_metric_table(dataset, self.opt['val']['metrics'], self.device)

    @contextlib.contextmanager
    def _start_baseline(self, dataloader):
        """Point ``baseline: start`` to this data set's scores of the start weights, made when first needed."""
        options = [option for option in self.gain_options.values() if option.get('baseline') == START]
        wanted = list(self._measured_from_start().values())
        if wanted:
            path = self._baseline_path(dataloader.dataset.opt['name'])
            if self.opt['rank'] == 0 and not self._holds(path, wanted):
                self._score_start(dataloader, path, wanted)
            for option in options:
                option['baseline'] = str(path)
        try:
            yield
        finally:
            for option in options:
                option['baseline'] = START

    def _holds(self, path, options):
        """Whether the baseline file is there and by the judges of today's options."""
        if not path.is_file():
            return False
        rows = {row.metric: row.judge_hash for row in read_scores(path).rows}
        return all(rows.get(judge.name) == judge.weights_hash() for judge in map(judge_of, options))

    def _score_start(self, dataloader, path, options):
        """Run the host's own validation on the stored start weights and write the scores."""
        get_root_logger().info(f'Scoring the start weights: the baseline of {dataloader.dataset.opt["name"]}.')
        judges = {judge_of(option).name: _as_score(option) for option in options}
        # Some models validate the moving average, others (video) never do: both get the start weights.
        networks = [self.get_bare_model(self.net_g), *([self.net_g_ema] if hasattr(self, 'net_g_ema') else [])]
        trained = [{key: value.clone() for key, value in net.state_dict().items()} for net in networks]
        start = load_weights(self.wants_start(), self._start_path())['params']
        transient = ('metric_results', 'best_metric_results')
        kept = {key: self.__dict__.pop(key) for key in transient if hasattr(self, key)}
        kept['history'], self.history = self.history, []
        stock, self.opt['val']['metrics'] = self.opt['val']['metrics'], judges
        try:
            for network in networks:
                network.load_state_dict(start)
            self._prepare_video(dataloader.dataset)
            with self._recorded(SCORE) as record:
                super().validation(dataloader, 0, None, False)
        finally:
            for network, state in zip(networks, trained, strict=True):
                network.load_state_dict(state)
            self.opt['val']['metrics'] = stock
            for key in transient:
                self.__dict__.pop(key, None)
            self.__dict__.update(kept)
        rows = [score_row(image, judge, score) for judge, scores in record.items() for image, score in scores.items()]
        write_scores(path, rows)

    def _validated_network(self):
        """The weights that the host validates: the moving average when there is one."""
        return self.net_g_ema if hasattr(self, 'net_g_ema') else self.get_bare_model(self.net_g)

    def _baseline_path(self, dataset_name):
        root = self.opt['path'].get('experiments_root') or self.opt['path']['results_root']
        return Path(root) / f'baseline_{dataset_name}.csv'

    def _start_path(self):
        return Path(self.opt['path']['models']) / f'net_g_{START}.pth'

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


def judge_of(option):
    """The judge of a validation metric's options."""
    return metrics.judge_of(GAIN, metrics.judge_keys(option))


def direction(option):
    """BasicSR's ``better`` for a judge."""
    return 'higher' if judge_of(option).higher_better else 'lower'


def _first(value):
    """A data loader makes lists of one."""
    return str(value[0] if isinstance(value, (list, tuple)) else value)


def _as_score(option):
    return {'type': SCORE, **metrics.judge_keys(option), 'better': direction(option)}


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
