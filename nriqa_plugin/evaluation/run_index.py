"""The run index ``runs.json``: which runs belong together, and where their scores, images and curves lie."""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path

from nriqa_plugin.checks import atomic_path, check_file, check_keys, in_place, unknown_name

NAME = 'runs.json'
VERSION = 1
KEYS = ('version', 'baseline', 'runs')
PATHS = ('scores', 'images', 'references', 'lq', 'curve')


@dataclass(frozen=True)
class Run:
    """One network trained with one loss, tested on one data set; what is not there is None.

    Attributes:
        name (str): how tables call it; two runs of one name differ in their network or data set.
        network, loss, dataset (str): what was trained, with what, and the data set it was tested on.
        scores (Path | None): scores file, see :mod:`nriqa_plugin.evaluation.scores`.
        images, references, lq (Path | None): folders of results, ground truths and low-resolution inputs.
        suffix (str): what the results' names have more than those of the ground truths.
        curve (Path | None): CSV of the validation during training, with the columns ``iteration,metric,value``.
        optimised (tuple[str, ...]): the metrics that the loss optimises.
    """

    name: str
    network: str
    loss: str
    dataset: str
    scores: Path | None = None
    images: Path | None = None
    references: Path | None = None
    lq: Path | None = None
    suffix: str = ''
    curve: Path | None = None
    optimised: tuple = ()

    def __post_init__(self):
        for key in ('name', 'network', 'loss', 'dataset'):
            if not isinstance(getattr(self, key), str) or not getattr(self, key).strip():
                raise ValueError(f'{key} must be a name, got {getattr(self, key)!r}')
        if not isinstance(self.suffix, str):
            raise TypeError(f'suffix must be text, got {self.suffix!r}')
        if not isinstance(self.optimised, tuple) or not all(isinstance(metric, str) for metric in self.optimised):
            raise TypeError(f'optimised must be a list of metrics, got {self.optimised!r}')

    @property
    def place(self):
        """``(network, dataset)``: runs of one place differ in their loss only and can be compared."""
        return self.network, self.dataset


@dataclass(frozen=True)
class RunIndex:
    """Runs that belong together.

    Attributes:
        runs (tuple[Run, ...]): in the order of the tables.
        baseline (str | None): the *loss* of the runs that the others are compared with, one in each place.

    Raises:
        ValueError: no run, two runs of one name or one loss at one place, a place without baseline, or a baseline
            that no run has.
    """

    runs: tuple
    baseline: str | None = None

    def __post_init__(self):
        if not self.runs:
            raise ValueError('there is no run')
        for key in ('name', 'loss'):
            seen = set()
            for run in self.runs:
                found = (getattr(run, key), *run.place)
                if found in seen:
                    raise ValueError(f'two runs of the {key} {found[0]!r} for {run.network} on {run.dataset}')
                seen.add(found)
        if self.baseline is None:
            return
        if self.baseline not in {run.loss for run in self.runs}:
            raise unknown_name('baseline', self.baseline, {run.loss for run in self.runs})
        for network, dataset in self.places:
            if not any(run.loss == self.baseline for run in self.at(network, dataset)):
                raise ValueError(f'{network} on {dataset} has no run of the baseline {self.baseline!r}')

    @property
    def places(self):
        """The different ``(network, dataset)``, in the order of the runs."""
        return list(dict.fromkeys(run.place for run in self.runs))

    def at(self, network, dataset):
        """The runs of one network on one data set."""
        return [run for run in self.runs if run.place == (network, dataset)]

    def baseline_of(self, run):
        """The run that ``run`` is compared with: itself for the baseline, None when there is no baseline."""
        return next((other for other in self.at(*run.place) if other.loss == self.baseline), None)


def read_runs(path):
    """Read a run index.

    Args:
        path (str | Path): ``runs.json``, or the folder that it lies in. Paths in it are relative to that folder.

    Returns:
        RunIndex: with absolute paths.

    Raises:
        FileNotFoundError: there is no such file, or no scores file or curve that it names.
        ValueError, TypeError: another version, unknown keys, or contradictions as in :class:`RunIndex`; the message
            names the file and the run.
    """
    path = Path(path).expanduser()
    file = check_file('run index', path / NAME if path.is_dir() else path).resolve()
    with in_place(file):
        try:
            raw = json.loads(file.read_text(encoding='utf-8'))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f'not a JSON file: {error}') from error
        if not isinstance(raw, dict) or not isinstance(raw.get('runs'), list):
            raise ValueError('a run index is a mapping with a list of runs')
        if raw.get('version') != VERSION:
            raise ValueError(f'version must be {VERSION}, got {raw.get("version")!r}')
        check_keys('a run index', raw, KEYS)
        runs = [_run(f'runs[{i}]', run, file.parent) for i, run in enumerate(raw['runs'])]
        return RunIndex(tuple(runs), raw.get('baseline'))


def write_runs(path, index):
    """Write a run index at once or not at all; its paths become relative to the file's folder.

    Args:
        path (str | Path): ``runs.json``, or the folder to write it into.
        index (RunIndex): the runs.

    Returns:
        Path: of the file.
    """
    file = Path(path).expanduser()
    file = (file / NAME if file.suffix != '.json' else file).resolve()
    runs = [{key: _stored(key, value, file.parent) for key, value in vars(run).items()} for run in index.runs]
    with atomic_path(file) as temporary:
        text = json.dumps({'version': VERSION, 'baseline': index.baseline, 'runs': runs}, indent=1, ensure_ascii=False)
        temporary.write_text(text + '\n', encoding='utf-8')
    return file


def _run(where, raw, folder):
    if not isinstance(raw, dict):
        raise TypeError(f'{where} must be a mapping, got {raw!r}')
    with in_place(f'{where} ({raw.get("name", "no name")})'):
        check_keys('a run', raw, [field.name for field in fields(Run)])
        given = {key: value for key, value in raw.items() if value is not None}
        for key in PATHS:
            if key in given:
                if not isinstance(given[key], str):
                    raise TypeError(f'{key} must be a path, got {given[key]!r}')
                given[key] = (folder / Path(given[key]).expanduser()).resolve()
        for key in ('scores', 'curve'):
            if key in given:
                check_file(key, given[key])
        if isinstance(given.get('optimised'), list):
            given['optimised'] = tuple(given['optimised'])
        missing = [key for key in ('name', 'network', 'loss') if key not in given]
        if missing:
            raise ValueError(f'has no {missing[0]!r}')
        return Run(**{'dataset': 'test', **given})


def _stored(key, value, folder):
    if key in PATHS and value is not None:
        return os.path.relpath(Path(value).expanduser().resolve(), folder)
    return list(value) if key == 'optimised' else value or None
