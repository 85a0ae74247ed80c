"""The weights that a training starts from, stored and scored once, as the baseline of its relative gains and alarm."""

import contextlib
from pathlib import Path

from basicsr.utils import get_root_logger

from nriqa_plugin.basicsr import metrics
from nriqa_plugin.checks import load_weights
from nriqa_plugin.evaluation.scores import FrameNames, read_scores, score_row, write_scores

START = 'start'  # label of the stored start weights, and the baseline option that asks for them
GAIN, SCORE = 'calculate_relative_gain', 'calculate_iqa'


class StartBaselineMixin:
    """Lies over a host model; a part of :class:`nriqa_plugin.basicsr.validation.ValidationMixin`."""

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
        wanted = self.wants_start() or self.anchor_option()
        if not wanted or self.opt['rank'] != 0 or 'models' not in self.opt['path']:  # nriqa calibrate writes nothing
            return
        if self.opt['path'].get('resume_state') is None:
            self.save_network(self._validated_network(), 'net_g', START)
        elif not self._start_path().is_file():
            raise FileNotFoundError(f'{wanted}: the resumed run lacks its start weights: {self._start_path()}')

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


def judge_of(option):
    """The judge of a validation metric's options."""
    return metrics.judge_of(GAIN, metrics.judge_keys(option))


def direction(option):
    """BasicSR's ``better`` for a judge."""
    return 'higher' if judge_of(option).higher_better else 'lower'


def _as_score(option):
    return {'type': SCORE, **metrics.judge_keys(option), 'better': direction(option)}
