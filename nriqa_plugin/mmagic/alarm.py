"""``ArtifactAlarmHook``: did the training please the judge by drawing artifacts?"""

from functools import partial
from pathlib import Path

from mmengine.dist import broadcast_object_list, get_rank, is_main_process
from mmengine.hooks import Hook

from nriqa_plugin.checks import check_choice, check_number, unknown_name
from nriqa_plugin.evaluation.artifact_alarm import SHOWN, AlarmRule, WorstImages
from nriqa_plugin.evaluation.scores import frame_name
from nriqa_plugin.losses.optimised import is_optimised
from nriqa_plugin.mmagic.gain import RelativeGain
from nriqa_plugin.mmagic.metrics import own_metrics
from nriqa_plugin.mmagic.start_checks import bare_model


class ArtifactAlarmHook(Hook):
    """Warns, shows the worst images and can end the training when the scores of a validation look like artifacts.

    ``default_hooks = dict(alarm=dict(type='ArtifactAlarmHook', judge='musiq'))`` in a config, beside a
    ``RelativeGain(judges=['musiq', 'lpips', 'pattern'])`` whose baseline tells how it was at the start; when several
    have these judges (data sets with a ``prefix`` each), every one is watched. The rule is
    :class:`nriqa_plugin.evaluation.artifact_alarm.AlarmRule`.

    Args:
        judge, reference (str): the optimised judge and the one that watches it, as the metric calls them.
        action (str): ``warn``, or ``stop`` to save ``alarm.pth`` and end the training.
        images (int): how many of the worst images to write to ``<work_dir>/artifacts``, from every rank.
        thresholds: ``fall``, ``rise``, ``judge_rise``, ``pattern``, ``worst_pattern`` of the rule.

    Raises:
        ValueError, TypeError: an unknown action or threshold; before the first step no ``RelativeGain`` with these
            judges and ``pattern``, one without a baseline, or a baseline that lacks one of them.
    """

    priority = 'LOW'  # after RelativeGainHook and after EMAHook has put the weights back, before CheckpointHook

    def __init__(self, judge, reference='lpips', action='warn', images=4, **thresholds):
        for key in thresholds:
            if key not in AlarmRule.__dataclass_fields__:
                raise unknown_name('threshold of ArtifactAlarmHook:', key, AlarmRule.__dataclass_fields__)
        self.names = {'judge': judge, 'reference': reference, 'pattern': 'pattern'}
        self.action = check_choice('ArtifactAlarmHook: action', action, ('warn', 'stop'))
        self.images = check_number('ArtifactAlarmHook: images', images, low=0, integer=True)
        self.rule = AlarmRule(**thresholds)
        for role in ('judge', 'reference'):
            if self.names[role] == 'pattern':
                raise ValueError(f'ArtifactAlarmHook: {role}: pattern has no relative gain; it only watches beside '
                                 'the judge and the reference')  # fmt: skip
        self.watched = []  # (metric, its baseline), only in a training

    def before_train(self, runner):
        metrics = self._metrics(runner)
        known = [[metric.baselines() for metric in metrics] if is_main_process() else None]
        broadcast_object_list(known)  # the file may lie on the disk of the first node only
        self.watched = list(zip(metrics, known[0], strict=True))

    def _metrics(self, runner):
        found = [metric for metric in own_metrics(runner.val_loop) if isinstance(metric, RelativeGain)]
        complete = [metric for metric in found if set(self.names.values()) <= set(metric.judges)]
        if not complete:
            raise ValueError(
                f'ArtifactAlarmHook: no RelativeGain in val_evaluator has all of the judges '
                f'{list(self.names.values())}, only {[list(metric.judges) for metric in found]}'
            )
        for metric in complete:
            for role in ('judge', 'reference'):
                if not metric.judges[self.names[role]].has_gain:
                    raise ValueError(f'ArtifactAlarmHook: {role}: {self.names[role]} has no relative gain')
            if metric.path is None:
                raise ValueError("ArtifactAlarmHook: the RelativeGain has baseline='start', which needs "
                                 "default_hooks = dict(gain=dict(type='RelativeGainHook'))")  # fmt: skip
        return complete

    def before_val(self, runner):
        self.worst = []
        for metric, before in self.watched:
            worst = {role: self._worst(metric, before, self.names[role]) for role in SHOWN}
            metric.listener = partial(self._show, worst)
            self.worst.append(worst)

    def _worst(self, metric, before, name):
        return WorstImages(self.images, before[name], metric.judges[name].higher_better)

    def _show(self, worst, image, scores, frames):
        for role, images in worst.items():
            for t, score in enumerate(scores[self.names[role]]):
                known = (frame_name(name, t) for name in image)
                images.show(next((name for name in known if name in images.before), ''), score, frames[t])

    def after_val_epoch(self, runner, metrics=None):
        self._detach()
        alarmed = [self._report(runner, *watched, metrics) for watched in zip(self.watched, self.worst, strict=True)]
        self.worst = []
        if any(alarmed) and self.action == 'stop':
            # The counters are those of the steps done; mmengine would count the iteration one too far.
            meta = {'epoch': runner.epoch, 'iter': runner.iter}
            runner.save_checkpoint(runner.work_dir, 'alarm.pth', by_epoch=False, meta=meta)
            runner.train_loop.stop_training = True
            runner.logger.warning(
                'ARTIFACT ALARM: this training ends at iteration %d of %d, its weights are in %s',
                runner.iter, runner.max_iters, Path(runner.work_dir) / 'alarm.pth',
            )  # fmt: skip

    def _report(self, runner, watched, worst, metrics):
        metric = watched[0]
        name = self.names
        keys = (f'gain/{name["judge"]}', f'gain/{name["reference"]}', 'growth/pattern', 'growth_of_worst/pattern')
        judge, reference, growth, worst_growth = (metrics[metric.key(key)] for key in keys)
        optimised = is_optimised(metric.judges[name['reference']], [bare_model(runner)])
        reasons = self.rule.reasons(judge, reference, growth, optimised, worst_growth)
        if not reasons:
            return False
        folder = Path(runner.work_dir) / 'artifacts'
        prefix = f'_{metric.prefix}'.replace('/', '_') if metric.prefix else ''
        rank = f'_rank{get_rank()}' if get_rank() else ''
        for role, images in worst.items():
            images.write(folder, f'{runner.iter}{prefix}{rank}_{role}')
        what = f'{metric.prefix}, ' if metric.prefix else ''
        runner.logger.warning(
            'ARTIFACT ALARM, %siteration %d, %s against %s: %s. Look at %s',
            what, runner.iter, name['judge'], name['reference'], '; '.join(reasons), folder,
        )  # fmt: skip
        return True

    def _detach(self):
        for metric, _ in self.watched:
            metric.listener = None

    def after_run(self, runner):
        self._detach()
