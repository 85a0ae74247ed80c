"""Running a family: every training in a folder of its own, and the same call goes on after a kill."""

import difflib
import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from nriqa_plugin.checks import atomic_path, check_number, file_hash, unknown_name
from nriqa_plugin.compare.family import with_weight

LOG, STATE, SCORES = 'log.txt', 'state.json', 'scores'
FINISHED, FAILED, NOT_RUN = 'finished', 'failed', 'not run'


@dataclass(frozen=True)
class Outcome:
    """What became of one training.

    Attributes:
        name (str): of the loss.
        status (str): ``finished``, ``failed`` or ``not run``.
        error (str): the last line of what went wrong.
        results (dict): ``{data set: (folder of results, folder of ground truths, ending of the results' names)}``.
    """

    name: str
    status: str
    error: str = ''
    results: dict = field(default_factory=dict)


def run_family(family, out, steps=None, seed=0, search=(), retry=False, report_only=False, progress=None):
    """Run every training of a family, one after the other, and test its best checkpoint.

    A finished training is skipped and a half one goes on by the host's own resume. A training that breaks down is
    recorded, the others go on.

    Args:
        family (Family): what :func:`~nriqa_plugin.compare.family.read_family` returned.
        out (str | Path): result folder, one folder in it for each loss.
        steps (int | None): iterations of each training; schedules, validation and checkpoint intervals shrink with it.
        seed (int): the same for all trainings.
        search (Sequence[str]): losses whose weight is looked for first, as the family's ``search`` says. One whose
            search finds nothing has failed.
        retry (bool): run again what failed before, from its first iteration and also with other options; a test that
            failed costs no second training.
        report_only (bool): run nothing, only find what is there.
        progress (rich.progress.Progress | None): gets one bar for each training.

    Returns:
        list[Outcome]: in the family's order.

    Raises:
        ValueError: the folder was made with other options (the message shows the first difference), or a loss to
            search that the family does not describe.
    """
    from nriqa_plugin.compare.search import search_weight

    steps = steps if steps is None else check_number('--steps', steps, low=1, integer=True)
    host, out = host_of(family, seed), Path(out).resolve()
    for name in search:
        if name not in family.search:
            raise unknown_name(f'loss in search of {family.file}:', name, family.search)
        if name not in family.losses:
            raise ValueError(f'--search {name}: --only leaves this loss out')
    if report_only:
        return [Training(host, out / name, name, terms).found() for name, terms in family.losses.items()]
    trainings = [
        Training(host, out / name, name, terms, steps, more=family.more.get(name))
        for name, terms in family.losses.items()
    ]
    for training in trainings:  # all of them before the first one starts
        if training.name not in search:
            training.check_unchanged(retry)
    outcomes = []
    for training in trainings:
        if training.name in search:
            try:
                weight = search_weight(host, family, training.name, out / 'search' / training.name, progress, retry)
            except RuntimeError as error:
                outcomes.append(Outcome(training.name, FAILED, str(error)))
                continue
            training.terms = with_weight(training.terms, family.search[training.name].term, weight)
            training.check_unchanged(retry)
        outcomes.append(training.run('test', progress, retry))
    return outcomes


def host_of(family, seed=0):
    """The runs of the family's host."""
    if family.host == 'basicsr':
        from nriqa_plugin.compare.basicsr_runs import BasicSRRuns

        return BasicSRRuns(family, seed)
    from nriqa_plugin.compare.mmagic_runs import MMagicRuns

    return MMagicRuns(family, seed)


class Training:
    """One training in its folder: option file, log, state, checkpoints and test results.

    ``start`` is the checkpoint it starts from, as far as another content of it makes another training; ``label`` what
    the progress bar calls it; ``more`` are options of its ``LossSum`` beside the terms.
    """

    def __init__(self, host, folder, name, terms, steps=None, start=None, label=None, more=None):
        self.host, self.folder, self.name, self.terms, self.steps = host, Path(folder), name, terms, steps
        self.start, self.label, self.more = start, label or name, {'more': more} if more else {}
        self.file = self.folder / f'{name}{host.ending}'

    def option_text(self):
        """The option file; its last lines say which weights files the losses had."""
        files = {option['weights'] for option in self.terms.values() if option.get('weights')}
        files |= {self.start} if self.start else set()
        notes = ''.join(f'# {file}: sha256 {file_hash(file)}\n' for file in sorted(map(str, files)))
        return self.host.option_text(self.folder, self.name, self.terms, self.steps, **self.more) + notes

    def check_unchanged(self, retry=False):
        """Refuse a folder that was begun with other options; with ``retry`` not if its training broke down.

        Raises:
            ValueError: with the first lines that differ.
        """
        state = read_state(self.folder)
        if retry and state.get('status') == FAILED and not state['trained']:
            return
        if self.file.is_file() and (there := self.file.read_text(encoding='utf-8')) != (wanted := self.option_text()):
            lines = [line for line in difflib.ndiff(there.splitlines(), wanted.splitlines()) if line[0] in '-+']
            raise ValueError(f'{self.folder} was begun with other options (- there, + now): {" ".join(lines[:4])}; '
                             'choose another --out, or delete this folder')  # fmt: skip

    def run(self, which, progress=None, retry=False):
        """Train and test on the sets of ``which`` (``test`` or ``validation``), whatever of it is not done yet.

        Returns:
            Outcome
        """
        state = read_state(self.folder)
        if state.get('status') == FAILED:
            if not retry:
                return Outcome(self.name, FAILED, state['error'])
            state = {'status': FINISHED} if state['trained'] else {}  # only its test broke down
            if not state:
                shutil.rmtree(self.folder)
        total = self.host.total(self.steps)
        bar = progress and progress.add_task(self.label, total=total)

        def on_step(step):
            if progress:
                progress.update(bar, completed=step)

        try:
            if state.get('status') != FINISHED:
                text = self.option_text()
                with atomic_path(self.file) as temporary:
                    temporary.write_text(text, encoding='utf-8')
                self.host.train(self.file, on_step, self.folder / LOG)
            checkpoint = self.host.best(self.file)
            if checkpoint is None:
                raise RuntimeError('no best checkpoint: its validation value was never a finite number')
            on_step(total)
            state = {**state, 'status': FINISHED}
            write_state(self.folder, state)
            mark = self._test_mark(which, checkpoint)
            if state.get(which) != mark:
                for old in (which, SCORES):
                    shutil.rmtree(self.folder / old, ignore_errors=True)
                self.host.test(self.file, checkpoint, which, self.folder / LOG)
                write_state(self.folder, {**state, which: mark})
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            trained = state.get('status') == FINISHED
            write_state(self.folder, {'status': FAILED, 'error': reason, 'trained': trained})
            return Outcome(self.name, FAILED, reason)
        return Outcome(self.name, FINISHED, results=self.host.results(self.file, which))

    def found(self):
        """The outcome as far as it is there, without running anything."""
        state = read_state(self.folder)
        if state.get('status') == FAILED:
            return Outcome(self.name, FAILED, state['error'])
        if state.get('status') != FINISHED or 'test' not in state:
            return Outcome(self.name, NOT_RUN)
        checkpoint = self.host.best(self.file)
        if checkpoint is None or state['test'] != self._test_mark('test', checkpoint):
            return Outcome(self.name, NOT_RUN, 'its results are of another checkpoint or of other test sets')
        return Outcome(self.name, FINISHED, results=self.host.results(self.file, 'test'))

    def _test_mark(self, which, checkpoint):
        """Changes with the checkpoint and the data sets."""
        digest = hashlib.sha256(repr((self.host.sets(which), file_hash(checkpoint))).encode())
        return digest.hexdigest()[:12]


def read_state(folder):
    """``{status?, error?, trained?, test?, validation?}`` of a training; empty before it finished or failed."""
    file = Path(folder) / STATE
    return json.loads(file.read_text(encoding='utf-8')) if file.is_file() else {}


def write_state(folder, state):
    """Write the state at once or not at all."""
    with atomic_path(Path(folder) / STATE) as temporary:
        temporary.write_text(json.dumps(state, indent=1) + '\n', encoding='utf-8')
