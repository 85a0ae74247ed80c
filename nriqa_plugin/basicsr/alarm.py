"""The artifact alarm for BasicSR: ``val.artifact_alarm`` of a ``PerceptualModel``."""

import logging
from pathlib import Path

from torch import distributed

from nriqa_plugin.basicsr import metrics
from nriqa_plugin.checks import check_choice, check_keys, check_number, in_place, unknown_name
from nriqa_plugin.evaluation.artifact_alarm import SHOWN, AlarmRule, Change, WorstImages
from nriqa_plugin.evaluation.scores import FrameNames, read_scores
from nriqa_plugin.losses.optimised import is_optimised

ALARM = 'alarm'  # label of the network that is saved when the alarm stops a training
OWN = 'calculate_iqa'
KEYS = ('judge', 'reference', 'action', 'images', *AlarmRule.__dataclass_fields__)


logger = logging.getLogger('nriqa_plugin')


class ArtifactAlarmError(RuntimeError):
    """Ends a training with ``action: stop``, on every rank."""


class ArtifactAlarm:
    """Options of ``val.artifact_alarm``, checked; see :class:`nriqa_plugin.evaluation.artifact_alarm.AlarmRule`.

    Args:
        judges (dict[str, Scorer]): ``judge``, ``reference`` and ``pattern``.
        metric_options (dict[str, dict]): the validation metrics of these judges, by name.
        rule (AlarmRule): thresholds.
        action (str): ``warn`` or ``stop``.
        images (int): how many of the worst images to write.
    """

    def __init__(self, judges, metric_options, rule, action, images):
        self.judges, self.metric_options, self.rule = judges, metric_options, rule
        self.action, self.images = action, images
        self.reported = set()

    @classmethod
    def from_options(cls, val):
        """Read ``val.artifact_alarm``; adds the metric ``pattern`` to ``val.metrics`` when it is not there.

        Returns:
            ArtifactAlarm | None: None without the option.

        Raises:
            ValueError: unknown key, or ``judge`` or ``reference`` that names no metric of type ``calculate_iqa``, or
                one whose mean cannot be divided by or that judges clips.
            TypeError: no mapping.
        """
        option = val.get('artifact_alarm')
        if option is None:
            return None
        if not isinstance(option, dict):
            raise TypeError(f'val.artifact_alarm must be a mapping {{judge: ..., reference: ...}}, got {option!r}')
        check_keys('val.artifact_alarm', option, KEYS)
        named = val['metrics'] = val.get('metrics') or {}
        named.setdefault('pattern', {'type': OWN, 'metric': 'pattern'})
        chosen = {'judge': option.get('judge'), 'reference': option.get('reference', 'lpips'), 'pattern': 'pattern'}
        ours = [name for name, metric in named.items() if metric['type'] == OWN]
        for role, name in chosen.items():
            if name not in ours:
                raise unknown_name(f'metric of type {OWN} in val.artifact_alarm.{role}:', str(name), ours)
        judges = {}
        for role, name in chosen.items():
            with in_place(f'val.artifact_alarm.{role}, val.metrics.{name}'):
                judges[role] = metrics.judge_of('the judge', metrics.judge_keys(named[name]))
        for role in ('judge', 'reference'):
            if not judges[role].has_gain:
                raise ValueError(f'val.artifact_alarm.{role}: {judges[role].name} has no relative gain; it only '
                                 'watches beside the judge and the reference')  # fmt: skip
        rule = AlarmRule(**{key: option[key] for key in AlarmRule.__dataclass_fields__ if key in option})
        action = check_choice('val.artifact_alarm.action', option.get('action', 'warn'), ('warn', 'stop'))
        images = check_number('val.artifact_alarm.images', option.get('images', 4), low=0, integer=True)
        return cls(judges, {name: named[name] for name in chosen.values()}, rule, action, images)

    def watch(self, baseline_file, dataset_name, losses):
        """A :class:`Watch` over one validation; ``losses`` are those of the training.

        Raises:
            ValueError: the baseline of the judge or of the reference has a mean that is not positive.
        """
        for role in ('judge', 'reference'):
            metrics.baseline_of(baseline_file, self.judges[role])
        scores = read_scores(baseline_file)
        before = {role: {row.image: row.score for row in scores.of(judge.name)} for role, judge in self.judges.items()}
        optimised = is_optimised(self.judges['reference'], losses)
        return Watch(self, before, Path(baseline_file).parent / 'artifacts', dataset_name, optimised)

    def stop_together(self, text):
        """End the training on every rank when ``text``, which only rank 0 knows, says why.

        Raises:
            ArtifactAlarmError: with that text.
        """
        if self.action != 'stop':
            return
        said = [text]
        if distributed.is_available() and distributed.is_initialized():
            distributed.broadcast_object_list(said)
        if said[0]:
            raise ArtifactAlarmError(said[0])


class Watch:
    """Hears every score of one validation, keeps the worst images, and reports."""

    def __init__(self, alarm, before, folder, dataset_name, reference_optimised):
        self.alarm, self.before, self.folder, self.dataset_name = alarm, before, folder, dataset_name
        self.reference_optimised = reference_optimised
        self.after = {role: {} for role in alarm.judges}
        self.names = {role: FrameNames() for role in alarm.judges}
        self.last = {}
        self.worst = {role: WorstImages(alarm.images, before[role], alarm.judges[role].higher_better) for role in SHOWN}

    def hear(self, name, owner, scorer, score, image):
        """Listener of :func:`nriqa_plugin.basicsr.metrics.listening`, with the image's name in front."""
        for role, judge in self.alarm.judges.items():
            # Two metrics may have one judge, which is heard twice of every image then.
            if owner == OWN and judge is scorer and self.last.get(role) is not image:
                self.last[role] = image
                known = self.names[role].next(name)
                self.after[role][known] = score
                if role in self.worst:
                    self.worst[role].show(known, score, image[..., ::-1])

    def report(self, iteration, stop):
        """Warn and write the worst images when something is suspicious.

        Args:
            iteration (int): of this validation.
            stop (Callable): saves the network before a training is stopped.

        Returns:
            str | None: what was said.
        """
        self.last.clear()
        changes = {
            role: Change(judge.name, judge.higher_better, self.before[role], self.after[role])
            for role, judge in self.alarm.judges.items()
        }
        reasons = self.alarm.rule.reasons(
            changes['judge'].gain,
            changes['reference'].gain,
            changes['pattern'].growth,
            self.reference_optimised,
            changes['pattern'].worst_growth,
        )
        if not reasons or (self.dataset_name, iteration) in self.alarm.reported:  # the host validates twice at the end
            return None
        self.alarm.reported.add((self.dataset_name, iteration))
        for role, worst in self.worst.items():
            worst.write(self.folder, f'{iteration}_{self.dataset_name}_{role}')
        names = f'{changes["judge"].name} against {changes["reference"].name}'
        text = (
            f'ARTIFACT ALARM, {self.dataset_name}, iteration {iteration}, {names}: {"; ".join(reasons)}. '
            f'Look at {self.folder}'
        )
        if self.alarm.action == 'stop':
            stop()
            text += f'. The training ends here, its weights are in models/net_g_{ALARM}.pth'
        logger.warning(text)
        return text
