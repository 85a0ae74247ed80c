"""Relative gain over the weights that a training starts from, or over a scores file."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from nriqa_plugin.checks import check_file, unknown_name
from nriqa_plugin.evaluation.artifact_alarm import Change
from nriqa_plugin.evaluation.relative_gain import check_same_images, read_baseline
from nriqa_plugin.evaluation.scores import dataset_mean, read_scores, write_scores
from nriqa_plugin.losses.training_state import unchanged_random
from nriqa_plugin.mmagic.metrics import IQAMetric, own_metrics

START = 'start'


class RelativeGain(IQAMetric):
    """The scores of :class:`IQAMetric` and, for every judge, ``gain/<name>``: the gain over a baseline in percent.

    The gain is Eq. 1 of Kashkarov et al., arXiv 2405.20392, ``100 * s * (mean_T - mean_B) / mean_B`` with ``s = +1``
    when higher scores are better, else -1: higher is better for every judge, so ``save_best='gain/musiq',
    rule='greater'``. A judge that is 0 for a clean image (``pattern``) has no gain but ``growth/<name>``, the
    difference of the means, and ``growth_of_worst/<name>``, the largest of one image.

    Args:
        judges (list): as in ``IQAMetric``.
        baseline (str): a scores file of ``nriqa score`` or of an earlier run, or ``start`` for the weights that
            training starts from (:class:`RelativeGainHook` measures them).
        options: as in ``IQAMetric``.

    Raises:
        ValueError, FileNotFoundError: options as in ``IQAMetric``; a baseline that is missing, of other images, by
            other weights or options of a judge, or with a mean that is not positive.
    """

    def __init__(self, judges, baseline=START, **options):
        super().__init__(judges, **options)
        self.measuring = False
        self.from_start = baseline == START
        self.path = None if self.from_start else str(baseline)
        if not self.from_start:
            self.baselines()

    def directions(self):
        """As in ``IQAMetric``; a higher gain is always better."""
        found = super().directions()
        for name, judge in self.judges.items():
            if judge.has_gain:
                found[self.key(f'gain/{name}')] = True
            else:
                found |= {self.key(f'{what}/{name}'): judge.higher_better for what in ('growth', 'growth_of_worst')}
        return found

    def baselines(self):
        """``{name: {image: score}}`` from the file, checked against today's judges."""
        scores = read_scores(check_file('baseline', self.path))
        found = {}
        for name, judge in self.judges.items():
            if judge.has_gain:
                read_baseline(self.path, name)  # its mean can be divided by
            elif name not in scores.metrics:
                raise unknown_name(f'metric in the baseline {self.path}:', name, scores.metrics)
            rows = scores.of(name)
            if rows[0].judge_hash != judge.weights_hash():
                raise ValueError(f'baseline: {self.path} was scored by other weights or options of {judge.name} '
                                 f'({rows[0].judge_hash}, now {judge.weights_hash()}); crop_border counts as an '
                                 'option')  # fmt: skip
            found[name] = {row.image: row.score for row in rows}
        return found

    def compute_metrics(self, results):
        """Means and gains over the data set; while measuring, the baseline is written and there are no gains."""
        if self.path is None:
            raise ValueError(
                "RelativeGain: baseline='start' needs default_hooks = dict(gain=dict(type='RelativeGainHook')); "
                'for a test name the file that it wrote'
            )
        rows = self.rows(results)
        means = {name: dataset_mean(of_judge) for name, of_judge in rows.items()}
        if self.measuring:
            self._check_names([row.image for row in next(iter(rows.values()))])
            write_scores(self.path, [row for of_judge in rows.values() for row in of_judge])
        changes = {}
        for name, before in self.baselines().items():
            check_same_images(name, before, [row.image for row in rows[name]])
            judge, after = self.judges[name], {row.image: row.score for row in rows[name]}
            change = Change(name, judge.higher_better, before, after)
            if judge.has_gain:
                changes[f'gain/{name}'] = change.gain
            else:
                changes |= {f'growth/{name}': change.growth, f'growth_of_worst/{name}': change.worst_growth}
        return {**means, **changes}

    @staticmethod
    def _check_names(names):
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f'RelativeGain: two validation images are called {twice!r}; the baseline needs image '
                             'names that differ, at least with their folder')  # fmt: skip


class RelativeGainHook(Hook):
    """Measures ``baseline='start'`` of every :class:`RelativeGain` by one validation before the first step.

    ``default_hooks = dict(gain=dict(type='RelativeGainHook'))`` in a config; it has no options. The scores go to
    ``<work_dir>/baseline.csv`` (``baseline_<prefix>.csv``), which a resumed run reads again. No other hook takes part:
    no checkpoint is written, nothing is logged as a validation, and random generators are left as they were.

    Raises:
        FileNotFoundError: a resumed run lacks the file.
        ValueError: two relative gains with one prefix.
    """

    def before_train(self, runner):
        metrics = [m for m in own_metrics(runner.val_loop) if isinstance(m, RelativeGain) and m.from_start]
        prefixes = [metric.prefix for metric in metrics]
        for metric in metrics:
            if prefixes.count(metric.prefix) > 1:
                raise ValueError(f'two RelativeGain metrics have the prefix {metric.prefix!r}; give each its own')
            tail = f'_{metric.prefix}'.replace('/', '_') if metric.prefix else ''
            metric.path = str(Path(runner.work_dir) / f'baseline{tail}.csv')
        if runner.iter or runner.epoch:
            for metric in metrics if is_main_process() else ():
                check_file('the baseline of the run that is resumed', metric.path)
                metric.baselines()
        elif metrics:
            self._measure(runner, metrics)

    @staticmethod
    def _measure(runner, metrics):
        runner.logger.info('Scoring the start weights: the baseline of %s.', ', '.join(m.path for m in metrics))
        for metric in metrics:
            metric.measuring = True
        hooks, runner._hooks = runner._hooks, []
        try:
            with unchanged_random():
                runner.val_loop.run()
        finally:
            runner._hooks = hooks
            for metric in metrics:
                metric.measuring = False
