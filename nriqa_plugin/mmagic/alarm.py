"""``ArtifactAlarmHook``: did the training please the judge by drawing artifacts?"""

from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook

from nriqa_plugin.checks import check_choice, check_number, unknown_name
from nriqa_plugin.evaluation.artifact_alarm import AlarmRule, WorstImages
from nriqa_plugin.evaluation.scores import dataset_mean, frame_name, read_scores
from nriqa_plugin.losses.iqa_loss import optimised_judges
from nriqa_plugin.mmagic.gain import RelativeGain
from nriqa_plugin.mmagic.metrics import own_metrics
from nriqa_plugin.mmagic.start_checks import bare_model


class ArtifactAlarmHook(Hook):
    """Warns, shows the worst images and can end the training when the scores of a validation look like artifacts.

    ``default_hooks = dict(alarm=dict(type='ArtifactAlarmHook', judge='musiq'))`` in a config, beside a
    ``RelativeGain(judges=['musiq', 'lpips', 'pattern'])`` whose baseline tells how it was at the start. The rule is
    :class:`nriqa_plugin.evaluation.artifact_alarm.AlarmRule`.

    Args:
        judge, reference (str): the optimised judge and the one that watches it, as the metric calls them.
        action (str): ``warn``, or ``stop`` to save ``alarm.pth`` and end the training.
        images (int): how many of the worst images to write to ``<work_dir>/artifacts``, from every rank.
        thresholds: ``fall``, ``rise``, ``judge_rise``, ``pattern`` of the rule.

    Raises:
        ValueError, TypeError: an unknown action or threshold; at the first validation no ``RelativeGain`` with these
            judges and ``pattern``.
    """

    def __init__(self, judge, reference='lpips', action='warn', images=4, **thresholds):
        for key in thresholds:
            if key not in AlarmRule.__dataclass_fields__:
                raise unknown_name('threshold of ArtifactAlarmHook:', key, AlarmRule.__dataclass_fields__)
        self.names = {'judge': judge, 'reference': reference, 'pattern': 'pattern'}
        self.action = check_choice('ArtifactAlarmHook: action', action, ('warn', 'stop'))
        self.images = check_number('ArtifactAlarmHook: images', images, low=0, integer=True)
        self.rule = AlarmRule(**thresholds)

    def before_val(self, runner):
        self.metric = self._metric(runner)
        scores = read_scores(self.metric.path)
        self.before = {role: scores.of(name) for role, name in self.names.items()}
        self.worst = {}
        for role in ('reference', 'pattern'):
            known = {row.image: row.score for row in self.before[role]}
            self.worst[role] = WorstImages(self.images, known, self.metric.judges[self.names[role]].higher_better)
        self.metric.listener = self._show

    def _metric(self, runner):
        found = [metric for metric in own_metrics(runner.val_loop) if isinstance(metric, RelativeGain)]
        for metric in found:
            if set(self.names.values()) <= set(metric.judges):
                return metric
        raise ValueError(
            f'ArtifactAlarmHook: no RelativeGain in val_evaluator has all of the judges {list(self.names.values())}, '
            f'only {[list(metric.judges) for metric in found]}'
        )

    def _show(self, image, scores, frames):
        for role, worst in self.worst.items():
            for t, score in enumerate(scores[self.names[role]]):
                worst.show(frame_name(image, t), score, frames[t])

    def after_val_epoch(self, runner, metrics=None):
        self.metric.listener = None
        key = f'{self.metric.prefix}/' if self.metric.prefix else ''
        judge, reference = (metrics[f'{key}gain/{self.names[role]}'] for role in ('judge', 'reference'))
        growth = metrics[f'{key}pattern'] - dataset_mean(self.before['pattern'])
        optimised = self.metric.judges[self.names['reference']].name in optimised_judges([bare_model(runner)])
        reasons = self.rule.reasons(judge, reference, growth, optimised)
        if not reasons:
            return
        folder = Path(runner.work_dir) / 'artifacts'
        rank = f'_rank{get_rank()}' if get_rank() else ''
        for role, worst in self.worst.items():
            worst.write(folder, f'{runner.iter}{rank}_{role}')
        names = f'{self.names["judge"]} against {self.names["reference"]}'
        runner.logger.warning(
            'ARTIFACT ALARM, iteration %d, %s: %s. Look at %s', runner.iter, names, '; '.join(reasons), folder
        )
        if self.action == 'stop':
            runner.save_checkpoint(runner.work_dir, 'alarm.pth', by_epoch=False)
            runner.train_loop.stop_training = True
