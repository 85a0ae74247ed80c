"""The run index: a round trip through the file, paths that move with it, and refusals that name the run."""

import json
import shutil

import pytest

from nriqa_plugin.evaluation.run_index import Run, RunIndex, read_runs, write_runs


def index(tmp_path):
    (tmp_path / 'a.csv').write_text('x')
    (tmp_path / 'images').mkdir()
    runs = (
        Run('base', 'rlfn', 'l1', 'Set5', tmp_path / 'a.csv', tmp_path / 'images', suffix='_x'),
        Run('niqe', 'rlfn', 'l1+niqe', 'Set5', tmp_path / 'a.csv', optimised=('niqe',)),
        Run('base', 'edsr', 'l1', 'Set5'),
    )
    return RunIndex(runs, 'l1')


def test_reading_gives_back_what_was_written_also_elsewhere(tmp_path):
    """Paths in the file are relative: the whole folder can be moved."""
    here = tmp_path / 'here'
    here.mkdir()
    written = index(here)
    assert write_runs(here, written) == here / 'runs.json'
    assert read_runs(here) == read_runs(here / 'runs.json') == written
    assert str(tmp_path) not in (here / 'runs.json').read_text()
    shutil.move(here, tmp_path / 'there')
    assert read_runs(tmp_path / 'there').runs[0].scores == tmp_path / 'there' / 'a.csv'


def test_the_baseline_is_a_loss_with_one_run_in_every_place(tmp_path):
    runs = index(tmp_path)
    assert runs.places == [('rlfn', 'Set5'), ('edsr', 'Set5')]
    assert runs.baseline_of(runs.runs[1]) is runs.runs[0]
    assert runs.baseline_of(runs.runs[2]) is runs.runs[2]
    assert RunIndex(runs.runs).baseline_of(runs.runs[1]) is None


def edited(tmp_path, **changes):
    """A run index whose second run or whose top has other values."""
    file = write_runs(tmp_path, index(tmp_path))
    raw = json.loads(file.read_text())
    for key, value in changes.items():
        (raw if key in ('version', 'baseline', 'runs', 'top') else raw['runs'][1])[key] = value
    file.write_text(json.dumps(raw))
    return file


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'version': 2}, 'version must be 1, got 2'),
        ({'top': 1}, "option of a run index: 'top'"),
        ({'runs': []}, 'there is no run'),
        ({'baseline': 'l2'}, "unknown baseline 'l2'"),
        ({'baseline': 'l1+niqe'}, "edsr on Set5 has no run of the baseline 'l1\\+niqe'"),
        ({'name': 'base'}, "two runs of the name 'base' for rlfn on Set5"),
        ({'loss': 'l1'}, "two runs of the loss 'l1' for rlfn on Set5"),
        ({'loss': None}, r"runs\[1\] \(niqe\): has no 'loss'"),
        ({'network': ''}, "network must be a name, got ''"),
        ({'score': 'a.csv'}, "Did you mean 'scores'"),
        ({'scores': 7}, 'scores must be a path'),
        ({'scores': 'gone.csv'}, 'scores: no such file'),
        ({'curve': 'gone.csv'}, 'curve: no such file'),
        ({'optimised': 'niqe'}, 'optimised must be a list of metrics'),
    ],
)
def test_a_wrong_index_is_refused_with_file_and_run(tmp_path, changes, message):
    file = edited(tmp_path, **changes)
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message) as caught:
        read_runs(file)
    assert str(file) in str(caught.value)


def test_no_index_and_no_json_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match='run index: no such file'):
        read_runs(tmp_path)
    (tmp_path / 'runs.json').write_text('{')
    with pytest.raises(ValueError, match='not a JSON file'):
        read_runs(tmp_path)
