"""Running the experiments: the start, then every loss, for one network after the other; the same call goes on later."""

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from nriqa_plugin.checks import check_number, file_hash
from nriqa_plugin.compare import runs
from nriqa_plugin.compare.runs import FAILED, FINISHED, LOG, NOT_RUN, SCORES, Outcome, Training, read_state, write_state
from nriqa_plugin.matrix.experiments import PRETRAIN, START

TEST = 'test'


@dataclass(frozen=True)
class Result:
    """What became of one loss of one group, and what else is known of it.

    Attributes:
        group (str), loss (str), folder (Path): whose it is, and where it lies.
        outcome (Outcome): status and test results.
        inputs (dict): ``{data set: folder of low-resolution inputs or None}``.
        curve (tuple): ``(iteration, metric, value)`` of the validations.
    """

    group: str
    loss: str
    folder: Path
    outcome: Outcome
    inputs: dict
    curve: tuple = ()


def run_experiments(experiments, out, steps=None, seed=0, retry=False, report_only=False, progress=None):
    """Run every training of the experiments, one after the other, and test its last or its best checkpoint.

    A finished training is skipped and a half one goes on by the host's own resume. What breaks down is recorded, the
    others go on; when the start of a network breaks down, all of that network has failed.

    Args:
        experiments (Experiments): what :func:`~nriqa_plugin.matrix.experiments.read_experiments` returned.
        out (str | Path): result folder, in it ``NETWORK/LOSS``, ``NETWORK/start`` and ``NETWORK/pretrain``.
        steps (int | None): iterations of each training, of a pretraining at most.
        seed, retry, report_only, progress: as :func:`~nriqa_plugin.compare.runs.run_family`.

    Returns:
        list[Result]: by group, the baseline first where it is ``start``.

    Raises:
        ValueError: a folder was begun with other options, or a network without a start; before anything runs.
    """
    steps = steps if steps is None else check_number('--steps', steps, low=1, integer=True)
    out = Path(out).resolve()
    plans = [_Plan(experiments, group, out / group.name, steps, seed) for group in experiments.groups]
    if not report_only:
        for plan in plans:  # all of them before the first one starts
            plan.check(retry)
    return [result for plan in plans for result in plan.run(retry, report_only, progress)]


class _Plan:
    """All runs of one group."""

    def __init__(self, experiments, group, folder, steps, seed):
        self.group, self.folder, self.steps, self.seed = group, folder, steps, seed
        self.from_start = experiments.baseline == START
        self.host, self.before, self.pretrained = runs.host_of(group.family, seed), None, None
        if group.pretrain:
            family, loss = group.pretrain.family, group.pretrain.loss
            shortest = min((n for n in (group.pretrain.steps, steps) if n is not None), default=None)
            self.before = Training(
                runs.host_of(family, seed), folder / PRETRAIN, PRETRAIN, family.losses[loss], shortest,
                label=f'{group.name}/{PRETRAIN}', more=family.more.get(loss),
            )  # fmt: skip
            self._start_from_pretrained()

    def _start_from_pretrained(self):
        """Once there is a pretrained checkpoint, all others start from it."""
        if read_state(self.before.folder).get('status') == FINISHED:
            self.pretrained = self.before.host.best(self.before.file)
            own = self.before.host.starting_from(self.pretrained)
            family = self.group.family
            self.host = runs.host_of(replace(family, settings={**family.settings, **own}), self.seed)

    def check(self, retry):
        """Refuse what could not be run or compared."""
        if self.before:
            self.before.check_unchanged(retry)
        elif self.from_start and not self.host.start():
            base = self.group.family.base
            raise ValueError(f'{self.group.name}: {base} names no checkpoint to start from, so there is no baseline; '
                             'name one with `start`, or train one with `pretrain`')  # fmt: skip
        if self.pretrained or not self.before:
            self._check_trainings(retry)

    def _check_trainings(self, retry):
        for training in self._trainings():
            training.check_unchanged(retry)

    def _trainings(self):
        start = self.pretrained or self.host.start()
        start = start if start and Path(start).is_file() else None  # mmagic downloads from an address
        return [
            Training(
                self.host, self.folder / loss, loss, terms, self.steps, start, f'{self.group.name}/{loss}',
                self.group.family.more.get(loss),
            )
            for loss, terms in self.group.family.losses.items()
        ]  # fmt: skip

    def run(self, retry, report_only, progress):
        """Results of the group."""
        results, broken = [], None
        if self.before:
            start = self.before.found() if report_only else self.before.run(TEST, progress, retry)
            if start.status == FINISHED and not self.pretrained:
                self._start_from_pretrained()
                self._check_trainings(retry)
            broken = start if start.status != FINISHED else None
        if self.from_start:
            start = replace(start, name=START) if self.before else self._test_start(retry, report_only)
            results.append(self._result(START, self.folder / (PRETRAIN if self.before else START), start))
            broken = start if start.status != FINISHED else None
        for training in self._trainings():
            if broken and not report_only:
                why = f'its {PRETRAIN if self.before else START} {broken.status}: {broken.error}'
                outcome = Outcome(training.name, FAILED, why)
            else:
                outcome = training.found() if report_only else training.run(TEST, progress, retry)
            curve = tuple(self.host.curve(training.file)) if outcome.status == FINISHED else ()
            results.append(self._result(training.name, training.folder, outcome, curve))
        return results

    def _result(self, loss, folder, outcome, curve=()):
        inputs = self.host.inputs(TEST) if outcome.status == FINISHED else {}
        return Result(self.group.name, loss, folder, outcome, inputs, curve)

    def _test_start(self, retry, report_only):
        """Test the checkpoint that the trainings start from, unless that was done."""
        folder, host = self.folder / START, self.host
        file, checkpoint, state = folder / f'{START}{host.ending}', host.start(), read_state(folder)
        if not checkpoint:
            return Outcome(START, NOT_RUN, 'the base file names no checkpoint to start from')
        content = file_hash(checkpoint) if Path(checkpoint).is_file() else checkpoint
        mark = hashlib.sha256(repr((host.sets(TEST), content)).encode()).hexdigest()[:12]
        if state.get(TEST) != mark:
            if report_only:
                there = state.get('status') == FINISHED
                why = 'its results are of another checkpoint or of other test sets' if there else state.get('error', '')
                return Outcome(START, NOT_RUN if there else state.get('status', NOT_RUN), why)
            if state.get('status') == FAILED and not retry:
                return Outcome(START, FAILED, state['error'])
            for old in (TEST, SCORES):
                shutil.rmtree(folder / old, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                host.test(file, checkpoint, TEST, folder / LOG)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                write_state(folder, {'status': FAILED, 'error': reason})
                return Outcome(START, FAILED, reason)
            write_state(folder, {'status': FINISHED, TEST: mark})
        return Outcome(START, FINISHED, results=host.results(file, TEST))
