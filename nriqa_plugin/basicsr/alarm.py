"""The artifact alarm for BasicSR: ``val.artifact_alarm`` of a ``PerceptualModel``."""

import logging
from pathlib import Path

import cv2

from nriqa_plugin.basicsr import metrics
from nriqa_plugin.checks import atomic_path, check_choice, check_keys, check_number, unknown_name
from nriqa_plugin.evaluation.artifact_alarm import AlarmRule, Change, WorstImages
from nriqa_plugin.evaluation.scores import FRAME, next_name, read_scores

ALARM = 'alarm'  # label of the network that is saved when the alarm stops a training
OWN = 'calculate_iqa'
KEYS = ('judge', 'reference', 'action', 'images', *AlarmRule.__dataclass_fields__)


logger = logging.getLogger('nriqa_plugin')


class ArtifactAlarmError(RuntimeError):
    """Ends a training with ``action: stop``."""


class ArtifactAlarm:
    """Options of ``val.artifact_alarm``, checked; see :class:`nriqa_plugin.evaluation.artifact_alarm.AlarmRule`.

    Args:
        judges (dict[str, Scorer]): ``judge``, ``reference`` (may be missing) and ``pattern``.
        metric_options (list[dict]): the validation metrics of these judges.
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
            ValueError: unknown key, or ``judge`` or ``reference`` that names no metric of type ``calculate_iqa``.
        """
        option = val.get('artifact_alarm')
        if option is None:
            return None
        check_keys('val.artifact_alarm', option, KEYS)
        named = val['metrics'] = val.get('metrics') or {}
        named.setdefault('pattern', {'type': OWN, 'metric': 'pattern'})
        chosen = {'judge': option.get('judge'), 'reference': option.get('reference', 'lpips'), 'pattern': 'pattern'}
        ours = [name for name, metric in named.items() if metric['type'] == OWN]
        for role, name in chosen.items():
            if name not in ours:
                raise unknown_name(f'metric of type {OWN} in val.artifact_alarm.{role}:', str(name), ours)
        judges = {role: metrics.judge_of(OWN + ' of artifact_alarm', metrics.judge_keys(named[name]))
                  for role, name in chosen.items()}  # fmt: skip
        rule = AlarmRule(**{key: option[key] for key in AlarmRule.__dataclass_fields__ if key in option})
        action = check_choice('val.artifact_alarm.action', option.get('action', 'warn'), ('warn', 'stop'))
        images = check_number('val.artifact_alarm.images', option.get('images', 4), low=0, integer=True)
        return cls(judges, [named[name] for name in chosen.values()], rule, action, images)

    def watch(self, baseline_file, dataset_name, optimised):
        """A :class:`Watch` over one validation; ``optimised`` are the names of the judges in the training's losses."""
        scores = read_scores(baseline_file)
        before = {role: {row.image: row.score for row in scores.of(judge.name)} for role, judge in self.judges.items()}
        return Watch(self, before, Path(baseline_file).parent, dataset_name, optimised)


class Watch:
    """Hears every score of one validation, keeps the worst images, and reports."""

    def __init__(self, alarm, before, folder, dataset_name, optimised):
        self.alarm, self.before, self.folder, self.dataset_name = alarm, before, folder, dataset_name
        self.reference_optimised = alarm.judges['reference'].name in optimised
        self.after = {role: {} for role in alarm.judges}
        self.worst = {role: WorstImages(alarm.images) for role in ('reference', 'pattern')}

    def hear(self, name, owner, scorer, score, image):
        """Listener of :func:`nriqa_plugin.basicsr.metrics.listening`, with the image's name in front."""
        if owner != OWN:
            return
        for role, judge in self.alarm.judges.items():
            if judge is scorer:
                known = next_name(name, self.after[role])
                self.after[role][known] = score
                if role in self.worst and known in self.before[role]:
                    worse = self.change(role, {known: self.before[role][known]}, {known: score}).worsening(known)
                    self.worst[role].show(worse, known, image)

    def change(self, role, before=None, after=None):
        """The :class:`Change` of one judge."""
        judge = self.alarm.judges[role]
        before, after = before or self.before[role], after or self.after[role]
        return Change(judge.name, judge.higher_better, before, after)

    def report(self, iteration, stop):
        """Warn and write the worst images when something is suspicious.

        Args:
            iteration (int): of this validation.
            stop (Callable): saves the network before a training is stopped.

        Raises:
            ArtifactAlarmError: ``action: stop``.
        """
        changes = {role: self.change(role) for role in self.alarm.judges}
        reasons = self.alarm.rule.reasons(**changes, reference_optimised=self.reference_optimised)
        if not reasons or (self.dataset_name, iteration) in self.alarm.reported:  # the host validates twice at the end
            return
        self.alarm.reported.add((self.dataset_name, iteration))
        folder = self.folder / 'artifacts'
        for role, worst in self.worst.items():
            for name, image, _ in worst.worst_first():
                file = folder / f'{iteration}_{self.dataset_name}_{role}_{Path(name).stem.replace(FRAME, "_")}.png'
                write_png(file, image)
        text = f'ARTIFACT ALARM, {self.dataset_name}, iteration {iteration}: {"; ".join(reasons)}. Look at {folder}'
        logger.warning(text)
        if self.alarm.action == 'stop':
            stop()
            raise ArtifactAlarmError(text)


def write_png(path, image):
    """Write an 8-bit BGR image, at once or not at all."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(cv2.imencode('.png', image)[1].tobytes())
