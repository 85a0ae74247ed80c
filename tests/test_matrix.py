"""``nriqa matrix``: the experiments file, runs that go on after a kill, what breaks down, and runs made elsewhere."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip('yaml', reason='the extra basicsr is not installed')
pytest.importorskip('scipy', reason='the extra report is not installed')
pytest.importorskip('matplotlib', reason='the extra report is not installed')

from nriqa_plugin.cli import app
from nriqa_plugin.compare import judges_of, runs
from nriqa_plugin.compare.basicsr_runs import BasicSRRuns
from nriqa_plugin.compare.optimised import optimised
from nriqa_plugin.compare.runs import read_state
from nriqa_plugin.compare.yaml_files import read_yaml, yaml_text
from nriqa_plugin.evaluation.run_index import read_runs
from nriqa_plugin.evaluation.scores import Score, read_scores, write_scores
from nriqa_plugin.matrix import (
    read_experiments,
    run_experiments,
    runs_by_pattern,
    with_folders,
    write_experiments,
)
from tests.compare_families import L1, PLUGIN, SSIM_L2, FakeHost, base_options, write_images
from tests.conftest import ROOT

SHIPPED = sorted((ROOT / 'options' / 'matrix').glob('*_x4.yml'))


def write_experiment(folder, options=None, **changes):
    """``base.yml``, ``experiments.yml`` with two networks and two losses, and a checkpoint; the experiments file."""
    (folder / 'base.yml').write_text(PLUGIN + yaml_text(options or base_options(folder)))
    start = folder / 'start.pth'
    if not start.is_file():
        start.write_text('0.05')
    content = {
        'networks': {'one': {'base': 'base.yml', 'start': str(start)}, 'two': {'base': 'base.yml', 'start': str(start)}},
        'losses': {'l1': L1, 'ssim_l2': SSIM_L2},
        'judges': [{'metric': 'psnr', 'crop_border': 2}, 'ssim'],
        'test': {'held_out': {'gt': str(folder / 'test' / 'gt'), 'lq': str(folder / 'test' / 'lq')}},
        **changes,
    }  # fmt: skip
    file = folder / 'experiments.yml'
    file.write_text(yaml_text({key: value for key, value in content.items() if value is not None}))
    return file


class MatrixHost(FakeHost):
    """Trains nothing; what the network is worth depends on the terms and on where it starts."""

    def __init__(self, family, folder, others):
        noise = {'l1': 0.03, 'ssim': 0.01, 'pre': 0.04}
        super().__init__(folder, lambda terms: min(noise[name] for name in terms if name in noise))
        self.family, self.shared = family, others
        self.begun_from = family.settings.get('path:pretrain_network_g')

    def start(self):
        return self.begun_from

    def starting_from(self, checkpoint):
        return {'path:pretrain_network_g': str(checkpoint)}

    def option_text(self, folder, name, terms, steps=None):
        return super().option_text(folder, name, terms, steps) + f'start: {self.begun_from}\n'

    def train(self, file, on_step, log):
        name = f'{file.parent.parent.name}/{file.stem}'
        self.shared['trained'].append(name)
        if name in self.shared['breaks']:
            raise RuntimeError('the script failed:\nloss is NaN\n')
        if name in self.shared['interrupt']:
            self.shared['interrupt'].discard(name)
            raise KeyboardInterrupt
        super().train(file, on_step, log)

    def test(self, file, checkpoint, which, log):
        name = f'{file.parent.parent.name}/{file.stem}'
        self.shared['tested'].append(name)
        if name in self.shared['breaks']:
            raise RuntimeError('the test failed')
        super().test(file, file.parent / checkpoint, which, log)

    def inputs(self, which):
        return {'held_out': self.folder / 'test' / 'lq'}

    def curve(self, file):
        return [(10, 'psnr', 20.0), (20, 'psnr', 21.0)]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """What all hosts of one experiments file share."""
    write_images(tmp_path, side=32)
    shared = {'trained': [], 'tested': [], 'breaks': set(), 'interrupt': set(), 'settings': []}

    def host_of(family, seed=0):
        shared['settings'].append(family.settings)
        return MatrixHost(family, tmp_path, shared)

    monkeypatch.setattr(runs, 'host_of', host_of)
    return shared


@pytest.fixture
def undrawn(monkeypatch):
    """Figures take their time."""
    from nriqa_plugin.matrix import results

    monkeypatch.setattr(results, 'save_figure', lambda *args: None)
    monkeypatch.setattr(results, 'heat_map', lambda *args: None)


# --- the experiments file


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'network': {}}, "option of an experiments file: 'network'. Did you mean 'networks'"),
        ({'networks': {}}, 'networks: there is none'),
        ({'networks': {'a b': {'base': 'base.yml'}}}, "networks: 'a b' must be a plain name"),
        ({'networks': {'a': {}}}, 'networks.a has no base'),
        ({'networks': {'a': {'base': 'none.yml'}}}, 'networks.a.base: no such file'),
        ({'networks': {'a': {'base': 'base.yml', 'start': 'none.pth'}}}, 'networks.a.start: no such file'),
        ({'networks': {'a': {'base': 'base.yml', 'begin': 1}}}, "option of networks.a: 'begin'"),
        ({'networks': {'a': {'base': 'base.yml', 'pretrain': {'steps': 3}}}}, 'networks.a.pretrain has no loss'),
        ({'networks': {'a': {'base': 'base.yml', 'pretrain': {'loss': 'l1', 'steps': 0}}}},
         'networks.a.pretrain.steps must be'),
        ({'networks': {'a': {'base': 'base.yml', 'pretrain': {'loss': 'l3'}}}}, r"a\.pretrain\.loss: .*'l3'"),
        ({'networks': {'a': {'base': 'base.yml', 'set': {'basicsrr': {}}}}}, "option of networks.a: 'basicsrr'"),
        ({'training_sets': {'x': {'gt': 'y'}}}, "option of training_sets: 'gt'"),
        ({'training_sets': {'x y': {}}}, "training_sets: 'x y' must be a plain name"),
        ({'baseline': 'l2'}, "name in baseline: 'l2'"),
        ({'losses': {'start': L1}}, "losses: 'start' is the name of the starting checkpoint"),
        ({'losses': {'pretrain': L1}}, "losses: 'pretrain' is the name of the training before"),
        ({'losses': None}, "has no 'losses'"),
        ({'per_image': 'yes'}, 'per_image must be true or false'),
        ({'undefined': 'skip'}, "value for undefined: 'skip'"),
        ({'checkpoint': 'newest'}, "value for checkpoint: 'newest'"),
        ({'optimises': {'l3': ['ssim']}}, "name in optimises: 'l3'"),
        ({'optimises': {'l1': 'ssim'}}, 'optimises.l1 must be a list'),
        ({'judges': [{'weights': 'x'}]}, r"judges\[0\] has no 'metric'"),
    ],
)  # fmt: skip
def test_a_wrong_experiments_file_is_refused_by_file_and_key(changes, message, tmp_path):
    file = write_experiment(tmp_path, **changes)
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message) as caught:
        read_experiments(file)
    assert str(file) in str(caught.value)


def test_networks_times_training_sets_with_overrides_from_the_general_to_the_special(tmp_path):
    sets = {name: {'basicsr': {'datasets:train:dataroot_gt': name, 'train:total_iter': 5}} for name in ('x', 'y')}
    networks = {'a': {'base': 'base.yml', 'set': {'basicsr': {'train:total_iter': 6}}}, 'b': {'base': 'base.yml'}}
    everywhere = {'basicsr': {'train:total_iter': 4, 'train:warmup_iter': 3}, 'mmagic': {'x': 1}}
    file = write_experiment(tmp_path, networks=networks, training_sets=sets, set=everywhere)
    read = read_experiments(file, settings={'manual': 1})
    assert [group.name for group in read.groups] == ['a_x', 'a_y', 'b_x', 'b_y']
    settings = {group.name: group.family.settings for group in read.groups}
    assert settings['a_y'] == {
        'datasets:train:dataroot_gt': 'y', 'train:total_iter': 6, 'train:warmup_iter': 3, 'manual': 1
    }  # fmt: skip
    assert settings['b_x']['train:total_iter'] == 5
    only = read_experiments(file, only=['ssim_l2'], networks=['b'])
    assert [group.name for group in only.groups] == ['b_x', 'b_y']
    assert only.losses == ['ssim_l2']
    with pytest.raises(ValueError, match="name in --network: 'c'"):
        read_experiments(file, networks=['c'])


def test_what_one_network_sets_inside_a_shared_mapping_does_not_reach_another(tmp_path):
    """The shared mapping is one object: setting a key within it must not change what the others were given."""
    shared = {'basicsr': {'datasets:val': {'name': 'v', 'type': 'PairedImageDataset'}}}
    special = {'base': 'base.yml', 'set': {'basicsr': {'datasets:val:gt_size': 8}}}
    file = write_experiment(tmp_path, networks={'a': {'base': 'base.yml'}, 'b': special}, set=shared)
    bases = {group.name: runs.host_of(group.family).base for group in read_experiments(file).groups}
    assert bases['b']['datasets']['val']['gt_size'] == 8
    assert bases['a']['datasets']['val'] == {'name': 'v', 'type': 'PairedImageDataset'}


def test_the_baseline_survives_only_and_is_no_row(tmp_path):
    file = write_experiment(tmp_path, baseline='l1')
    read = read_experiments(file, only=['ssim_l2'])
    assert list(read.groups[0].family.losses) == ['l1', 'ssim_l2']
    assert read.losses == ['ssim_l2']


def test_own_judges_are_told_from_the_terms(tmp_path):
    file = write_experiment(tmp_path, judges=['psnr', 'ssim', {'metric': 'niqe', 'crop_border': 4}])
    family = read_experiments(file).groups[0].family
    judges = list(zip(family.judges, judges_of(family), strict=True))

    def own(*terms, more=()):
        return optimised({str(i): {'weight': 1.0, **term} for i, term in enumerate(terms)}, judges, more)

    assert own({'type': 'FRIQALoss', 'metric': 'ssim'}, {'type': 'L1Loss'}) == ('ssim',)
    assert own({'type': 'NRIQALoss', 'metric': 'pyiqa:niqe'}) == ('niqe',)
    assert own({'type': 'NRIQALoss', 'ensemble': [{'niqe': 1.0}, {'metric': 'ssim', 'weight': 2}]}) == ('ssim', 'niqe')
    assert own({'type': 'NRIQALoss', 'metric': 'niqe', 'weight': 0}) == ()
    assert own({'type': 'my.module:Loss'}, more=['psnr']) == ('psnr',)
    assert own({'type': 'MDFLoss', 'weights': 'x'}) == ()


@pytest.mark.parametrize('file', SHIPPED, ids=lambda f: f.stem)
def test_the_shipped_experiments_make_option_files(file, tmp_path, monkeypatch):
    """Every training of every network, by BasicSR's own rules for overrides; files of weights are stand-ins."""
    raw = read_yaml(file)
    names = {term['weights'] for term in (raw.get('terms') or {}).values() if 'weights' in term}
    names |= {judge['weights'] for judge in raw['judges'] if 'weights' in judge}
    names |= {network['start'] for network in raw['networks'].values() if 'start' in network}
    monkeypatch.chdir(tmp_path)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('')
    read = read_experiments(file)
    assert f'#   nriqa matrix options/matrix/{file.name} --out' in file.read_text()
    for group in read.groups:
        host = BasicSRRuns(group.family, 0)
        if group.pretrain is None and read.baseline == 'start':
            assert host.start()
        for name, terms in group.family.losses.items():
            path = tmp_path / f'{name}.yml'
            path.write_text(host.option_text(tmp_path, name, terms, 100))
            made = read_yaml(path)
            assert made['train']['pixel_opt']['terms'] == terms
            assert made['train']['total_iter'] == 100
        assert list(host.sets('test'))


def test_the_papers_rows_are_shipped():
    family = read_experiments(ROOT / 'options' / 'matrix' / 'sr_x4.yml').groups[0].family
    losses = family.losses
    judges = {'pieapp', 'dbcnn', 'nima', 'paq2piq', 'hyperiqa', 'maniqa', 'clipiqa'}
    assert family.more == {'lpips_gradnorm': {'balance': {'method': 'gradnorm', 'alpha': 1.5}}}
    made = {frozenset(terms) - {'pixel'} for terms in losses.values()}
    assert len(losses) == len(made) + 1  # the one under GradNorm
    assert made == {
        frozenset(), frozenset({'lpips'}), *(frozenset({judge}) for judge in judges),
        *(frozenset({'lpips', judge}) for judge in judges - {'pieapp'}), frozenset({'lpips', 'nima', 'clipiqa'}),
    }  # fmt: skip
    for terms in losses.values():
        assert terms['pixel'] == {'type': 'CharbonnierLoss', 'weight': 1.0}
        for name, term in terms.items():
            assert name == 'pixel' or (term['metric'], term['weight']) == (name, 'paper')


# --- the runs, on a host that trains nothing


def test_finished_runs_are_skipped_and_an_interrupted_one_goes_on(fake, tmp_path):
    read, out = read_experiments(write_experiment(tmp_path)), tmp_path / 'out'
    fake['interrupt'].add('two/l1')
    with pytest.raises(KeyboardInterrupt):
        run_experiments(read, out)
    assert fake['trained'] == ['one/l1', 'one/ssim_l2', 'two/l1']
    results = run_experiments(read, out)
    assert fake['trained'] == ['one/l1', 'one/ssim_l2', 'two/l1', 'two/l1', 'two/ssim_l2']
    assert fake['tested'] == ['one/start', 'one/l1', 'one/ssim_l2', 'two/start', 'two/l1', 'two/ssim_l2']
    assert [(result.group, result.loss, result.outcome.status) for result in results] == [
        (network, loss, 'finished') for network in ('one', 'two') for loss in ('start', 'l1', 'ssim_l2')
    ]
    assert [r.outcome for r in run_experiments(read, out, report_only=True)] == [r.outcome for r in results]
    assert len(fake['trained']) == 5


def test_another_starting_checkpoint_is_another_training(fake, tmp_path):
    read, out = read_experiments(write_experiment(tmp_path), networks=['one']), tmp_path / 'out'
    run_experiments(read, out)
    (tmp_path / 'start.pth').write_text('0.06')
    found = run_experiments(read, out, report_only=True)[0].outcome
    assert (found.status, found.results) == ('not run', {})
    assert 'of another checkpoint' in found.error
    with pytest.raises(ValueError, match=r'one/l1 was begun with other options .*start.pth: sha256'):
        run_experiments(read, out)
    for loss in ('l1', 'ssim_l2'):
        shutil.rmtree(out / 'one' / loss)
    run_experiments(read, out)
    assert fake['tested'] == ['one/start', 'one/l1', 'one/ssim_l2'] * 2


def test_the_matrix_holds_what_the_judges_say_of_the_images(fake, tmp_path):
    file, out = write_experiment(tmp_path), tmp_path / 'out'
    result = CliRunner().invoke(app, ['matrix', str(file), '-o', str(out)])
    assert result.exit_code == 0, result.output
    with open(out / 'matrix.csv', newline='') as lines:
        table = {row['loss']: row for row in csv.DictReader(lines)}
    assert list(table) == ['l1', 'ssim_l2']
    index = read_runs(out)
    assert index.baseline == 'start'
    assert len(index.runs) == 6
    for loss in ('l1', 'ssim_l2'):
        gains = []
        for network in ('one', 'two'):
            base, test = (
                read_scores(next(run.scores for run in index.at(network, 'held_out') if run.loss == name)).mean('psnr')
                for name in ('start', loss)
            )
            gains.append(100 * (test - base) / base)
        assert float(table[loss]['psnr']) == pytest.approx(sum(gains) / 2)
    assert float(table['ssim_l2']['psnr']) > float(table['l1']['psnr']) > 0  # less noise than the start
    assert table['ssim_l2']['optimised'] == 'ssim'
    run = next(run for run in index.runs if run.loss == 'ssim_l2')
    assert run.optimised == ('ssim',)
    assert (run.suffix, run.lq) == ('_ssim_l2', (tmp_path / 'test' / 'lq').resolve())
    assert (run.images / 'test0_ssim_l2.png').is_file()
    assert (run.references / 'test0.png').is_file()
    assert run.curve.read_text() == 'iteration,metric,value\n10,psnr,20.0\n20,psnr,21.0\n'
    assert (out / 'matrix.png').read_bytes()[:4] == b'\x89PNG'
    assert (out / 'matrix.pdf').read_bytes()[:4] == b'%PDF'
    assert 'mean score over the images first' in (out / 'matrix.md').read_text()
    again = CliRunner().invoke(
        app, ['matrix', '--from', str(out), '-o', str(tmp_path / 'b'), '-m', 'psnr', '-m', 'ssim']
    )
    assert again.exit_code == 0, again.output
    assert (tmp_path / 'b' / 'matrix.csv').read_text() == (out / 'matrix.csv').read_text()


def test_what_breaks_down_is_reported_and_the_others_go_on(fake, undrawn, tmp_path):
    file, out = write_experiment(tmp_path), tmp_path / 'out'
    fake['breaks'].add('two/l1')
    result = CliRunner().invoke(app, ['matrix', str(file), '-o', str(out)])
    assert result.exit_code == 1, result.output
    assert 'two/l1 failed: loss is NaN' in result.output
    with open(out / 'matrix.csv', newline='') as lines:
        table = {row['loss']: row for row in csv.DictReader(lines)}
    assert (table['l1']['psnr'], table['l1']['n_places']) == ('', '1')
    assert float(table['ssim_l2']['psnr']) > 0
    assert 'l1 has no means: its scores are missing for two on held_out' in (out / 'matrix.md').read_text()
    fake['breaks'].clear()
    assert CliRunner().invoke(app, ['matrix', str(file), '-o', str(out)]).exit_code == 1  # not tried again by itself
    result = CliRunner().invoke(app, ['matrix', str(file), '-o', str(out), '--retry'])
    assert result.exit_code == 0, result.output
    assert fake['trained'].count('two/ssim_l2') == 1
    assert fake['trained'].count('two/l1') == 2


def test_a_network_whose_start_breaks_down_is_left_out_for_every_loss(fake, undrawn, tmp_path):
    read, out = read_experiments(write_experiment(tmp_path)), tmp_path / 'out'
    fake['breaks'].add('one/start')
    results = run_experiments(read, out)
    assert [result.outcome.status for result in results] == ['failed'] * 3 + ['finished'] * 3
    assert results[1].outcome.error == 'its start failed: the test failed'
    assert fake['trained'] == ['two/l1', 'two/ssim_l2']
    matrix, _ = write_experiments(read, results, out)
    assert matrix.places == (('two', 'held_out'),)
    assert (
        'one on all data sets is left out in every row: its baseline start is missing'
        in (out / 'matrix.md').read_text()
    )


def test_a_pretraining_comes_first_and_is_the_start_of_all(fake, undrawn, tmp_path):
    losses = {'l1': {'pre': L1['l1']}, 'ssim_l2': SSIM_L2}
    networks = {'tiny': {'base': 'base.yml', 'pretrain': {'loss': 'l1', 'steps': 70, 'set': {'basicsr': {'lr': 9}}}}}
    read = read_experiments(write_experiment(tmp_path, networks=networks, losses=losses), only=['ssim_l2'])
    results = run_experiments(read, tmp_path / 'out', steps=30)
    assert fake['trained'] == ['tiny/pretrain', 'tiny/ssim_l2']
    assert fake['tested'] == ['tiny/pretrain', 'tiny/ssim_l2']  # that test is the baseline's, too
    first = read_yaml(tmp_path / 'out' / 'tiny' / 'pretrain' / 'pretrain.yml')
    assert first['steps'] == 30  # at most --steps
    second = read_yaml(tmp_path / 'out' / 'tiny' / 'ssim_l2' / 'ssim_l2.yml')
    assert second['start'] == str(tmp_path / 'out' / 'tiny' / 'pretrain' / 'best.pth')
    assert [settings.get('lr') for settings in fake['settings'][:2]] == [None, 9]
    assert [(result.loss, result.outcome.status) for result in results] == [
        ('start', 'finished'),
        ('ssim_l2', 'finished'),
    ]
    matrix, _ = write_experiments(read, results, tmp_path / 'out')
    assert matrix.gain('ssim_l2', 'psnr') > 0  # noise 0.01 instead of 0.04
    fake['breaks'].add('tiny/pretrain')
    broken = run_experiments(read, tmp_path / 'other')
    assert [result.outcome.status for result in broken] == ['failed', 'failed']
    assert broken[1].outcome.error == 'its pretrain failed: loss is NaN'


def test_a_loss_as_baseline_needs_no_start_and_a_start_is_demanded_otherwise(fake, undrawn, tmp_path):
    networks = {'bare': {'base': 'base.yml'}}
    read = read_experiments(write_experiment(tmp_path, networks=networks, baseline='l1'))
    results = run_experiments(read, tmp_path / 'out')
    assert fake['tested'] == ['bare/l1', 'bare/ssim_l2']
    matrix, _ = write_experiments(read, results, tmp_path / 'out')
    assert (matrix.baseline, matrix.losses) == ('l1', ('ssim_l2',))
    with pytest.raises(ValueError, match='bare: .*base.yml names no checkpoint to start from'):
        run_experiments(read_experiments(write_experiment(tmp_path, networks=networks)), tmp_path / 'b')


def test_changed_options_are_refused_before_anything_runs(fake, tmp_path):
    out = tmp_path / 'out'
    run_experiments(read_experiments(write_experiment(tmp_path), networks=['two']), out)
    fake['trained'].clear()
    with pytest.raises(ValueError, match='two/l1 was begun with other options'):
        run_experiments(read_experiments(write_experiment(tmp_path)), out, steps=7)
    assert fake['trained'] == []


def test_a_score_that_is_not_finite_fails_its_run_only(fake, undrawn, tmp_path):
    read, out = read_experiments(write_experiment(tmp_path)), tmp_path / 'out'
    results = run_experiments(read, out)
    images = out / 'one' / 'l1' / 'test'
    (images / 'test1_l1.png').write_bytes((tmp_path / 'test' / 'gt' / 'test1.png').read_bytes())  # infinite PSNR
    matrix, checked = write_experiments(read, results, out)
    assert [(r.group, r.loss) for r in checked if r.outcome.status == 'failed'] == [('one', 'l1')]
    assert 'the psnr of test1.png on held_out is inf' in next(r.outcome.error for r in checked if r.outcome.error)
    assert matrix.missing == {'l1': (('one', 'held_out'),)}


def test_a_judge_without_gains_is_known_before_the_first_training(fake, tmp_path):
    file = write_experiment(tmp_path, judges=['psnr', 'pattern'])
    result = CliRunner().invoke(app, ['matrix', str(file), '-o', str(tmp_path / 'out')])
    assert result.exit_code == 2
    assert 'pattern has no relative gain' in result.output
    assert fake['trained'] == []


def test_a_judge_in_optimises_that_is_no_column_is_known_before_the_first_training(fake, tmp_path):
    file = write_experiment(tmp_path, optimises={'l1': ['psnrr']})
    result = CliRunner().invoke(app, ['matrix', str(file), '-o', str(tmp_path / 'out')])
    assert result.exit_code == 2
    assert "judge in optimises.l1, which is no column of the table: 'psnrr'. Did you mean 'psnr'?" in result.output
    assert fake['trained'] == []


# --- runs made elsewhere


def write_own(folder, losses=('base', 'nima'), **scores):
    for network in ('one', 'two'):
        for loss in losses:
            value = scores.get(loss, 1.0)
            rows = [Score(f'{i}.png', 'nima', value + i, True, 'j') for i in range(3)]
            write_scores(folder / network / f'{loss}-x.csv', rows)


def test_scores_files_alone_make_a_matrix(tmp_path):
    write_own(tmp_path / 's', nima=2.0)
    pattern = str(tmp_path / 's' / '{network}' / '{loss}-{dataset}.csv')
    index = runs_by_pattern(pattern, 'base', {'nima': ['nima']})
    assert [(run.loss, run.network, run.dataset, run.optimised) for run in index.runs] == [
        ('base', 'one', 'x', ()), ('nima', 'one', 'x', ('nima',)),
        ('base', 'two', 'x', ()), ('nima', 'two', 'x', ('nima',)),
    ]  # fmt: skip
    out = tmp_path / 'out'
    command = ['matrix', '--scores', pattern, '--baseline', 'base', '--own', 'nima=nima', '-o', str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    with open(out / 'matrix.csv', newline='') as lines:
        (row,) = csv.DictReader(lines)
    assert float(row['nima']) == pytest.approx(100 * (3 - 2) / 2)
    assert row['optimised'] == 'nima'
    assert read_runs(out).baseline == 'base', 'nriqa report reads it'
    stored = (out / 'runs.json').read_text()
    again = CliRunner().invoke(app, ['matrix', '--from', str(out), '--baseline', 'nima', '-o', str(out)])
    assert again.exit_code == 0, again.output
    assert (out / 'runs.json').read_text() == stored
    strange = CliRunner().invoke(app, [*command[:6], 'nima=nmia, nima', *command[7:]])
    assert strange.exit_code == 0, strange.output
    assert "Optimised, but no column of this table: nmia. Did you mean 'nima'?\n" in strange.output
    single = CliRunner().invoke(app, [*command, '--per-image'])
    assert single.exit_code == 0, single.output
    with open(out / 'matrix.csv', newline='') as lines:
        (row,) = csv.DictReader(lines)
    assert float(row['nima']) == pytest.approx(100 * (1 + 1 / 2 + 1 / 3) / 3)
    assert row['gains'] == 'per image'


@pytest.mark.parametrize(
    ('pattern', 'baseline', 'message'),
    [
        ('{network}/x.csv', 'base', r'must hold \{loss\}'),
        ('{net}/{loss}.csv', 'base', "placeholder in .*: 'net'. Did you mean 'network'"),
        ('{network}/{loss}.txt', 'base', 'no scores file fits'),
        ('{network}/{loss}-x.csv', 'bsae', "'bsae'. Did you mean 'base'"),
        ('*/{loss}-x.csv', 'base', 'no scores file fits'),  # a star stands for itself
    ],
)
def test_wrong_patterns_are_refused(pattern, baseline, message, tmp_path):
    write_own(tmp_path)
    with pytest.raises(ValueError, match=message):
        runs_by_pattern(f'{tmp_path}/{pattern}', baseline)


def test_a_name_that_fits_in_two_ways_is_refused(tmp_path):
    write_own(tmp_path, ('base', 'lpips-nima'))
    with pytest.raises(ValueError, match='lpips-nima-x.csv fits .* in more than one way'):
        runs_by_pattern(f'{tmp_path}/{{network}}/{{loss}}-{{dataset}}.csv', 'base')
    losses = [run.loss for run in runs_by_pattern(f'{tmp_path}/{{network}}/{{loss}}-x.csv', 'base').runs]
    assert losses == ['base', 'lpips-nima'] * 2


def test_two_files_of_one_run_and_an_unknown_own_loss_are_refused(tmp_path):
    write_own(tmp_path)
    with pytest.raises(ValueError, match="loss in --own: 'nmia'"):
        runs_by_pattern(f'{tmp_path}/{{network}}/{{loss}}-x.csv', 'base', {'nmia': ['nima']})
    (tmp_path / 'one' / 'one').mkdir()
    os.link(tmp_path / 'one' / 'base-x.csv', tmp_path / 'one' / 'one' / 'base-x.csv')
    index = runs_by_pattern(f'{tmp_path}/{{network}}/{{network}}/{{loss}}-x.csv', 'base')
    assert [run.loss for run in index.runs] == ['base']  # the same text at both places


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'give one of: an experiments file, --from runs.json, --scores PATTERN'),
        (['--scores', 'a', '--from', 'b'], 'give one of'),
        (['--scores', '{loss}.csv'], '--scores needs --baseline'),
        (['--from', 'none'], 'no such file'),
        (['--from', 'x', '--steps', '3'], '--steps is for trainings'),
        (['--from', 'x', '--retry'], '--retry is for trainings'),
        (['--from', 'x', '--own', 'a=b'], '--own is for --scores'),
    ],
)
def test_wrong_arguments_are_one_red_line(arguments, message, tmp_path):
    result = CliRunner().invoke(app, ['matrix', '-o', str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert message in ' '.join(result.output.split())


def test_a_zero_baseline_names_judge_network_and_data_set(tmp_path):
    write_own(tmp_path, base=-1.0)
    command = ['matrix', '--scores', f'{tmp_path}/{{network}}/{{loss}}-{{dataset}}.csv', '--baseline', 'base', '-o',
               str(tmp_path / 'out')]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert 'nima has no relative gain: the baseline of one on x (the mean) is 0' in ' '.join(result.output.split())
    result = CliRunner().invoke(app, [*command, '--undefined', 'empty'])
    assert result.exit_code == 0, result.output
    assert 'Column left empty: nima' in (tmp_path / 'out' / 'matrix.md').read_text()


# --- through the stock scripts


def start_command(folder, *arguments):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore', 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, '-m', 'nriqa_plugin', 'matrix', 'experiments.yml', '-o', 'out', *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)  # fmt: skip


def run_to_the_end(folder):
    process = start_command(folder)
    try:
        text, _ = process.communicate(timeout=1800)
    finally:
        process.kill()
    assert process.returncode == 0, text


def bare_checkpoint(file):
    arch = pytest.importorskip('basicsr.archs.srresnet_arch', reason='the extra basicsr is not installed')
    network = arch.MSRResNet(num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1, upscale=4)
    torch.save(network.state_dict(), file)


@pytest.mark.slow
def test_a_killed_matrix_goes_on_through_stock_basicsr(tmp_path):
    """A network with weights of its own (a bare state dict) and one that is pretrained; killed in the first training."""
    write_images(tmp_path)
    bare_checkpoint(tmp_path / 'start.pth')
    options = base_options(tmp_path, steps=300)
    options['path']['param_key_g'] = None
    options['val']['val_freq'] = options['logger']['save_checkpoint_freq'] = 60
    networks = {
        'own': {'base': 'base.yml', 'start': 'start.pth'},
        'pre': {'base': 'base.yml', 'pretrain': {'loss': 'l1', 'steps': 40}},
    }
    write_experiment(tmp_path, options, networks=networks)
    process = start_command(tmp_path)
    states = tmp_path / 'out' / 'own' / 'l1' / 'experiments' / 'l1' / 'training_states'
    deadline = time.monotonic() + 300
    while len(list(states.glob('*.state'))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)
    assert read_state(tmp_path / 'out' / 'own' / 'l1') == {}, 'it was faster than the signal'
    assert read_state(tmp_path / 'out' / 'own' / 'start')['status'] == 'finished'
    tested = (tmp_path / 'out' / 'own' / 'start' / 'state.json').stat().st_mtime_ns
    run_to_the_end(tmp_path)
    assert (tmp_path / 'out' / 'own' / 'start' / 'state.json').stat().st_mtime_ns == tested
    assert 'Resuming training from epoch' in (tmp_path / 'out' / 'own' / 'l1' / 'log.txt').read_text()
    index = read_runs(tmp_path / 'out')
    assert [(run.network, run.loss) for run in index.runs] == [
        (network, loss) for network in ('own', 'pre') for loss in ('start', 'l1', 'ssim_l2')
    ]
    written = read_yaml(tmp_path / 'out' / 'pre' / 'l1' / 'l1.yml')['path']
    assert written['pretrain_network_g'].endswith('pre/pretrain/experiments/pretrain/models/net_g_latest.pth')
    assert written['param_key_g'] == 'params'
    with open(tmp_path / 'out' / 'matrix.csv', newline='') as lines:
        table = {row['loss']: row for row in csv.DictReader(lines)}
    assert float(table['l1']['psnr']) > 0  # 300 steps from random weights
    assert json.loads((tmp_path / 'out' / 'runs.json').read_text())['baseline'] == 'start'


def test_video_networks_of_mmagic_are_refused_before_anything_runs(tmp_path):
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    base = str(ROOT / 'options' / 'mmagic' / 'basicvsrpp_x4_perceptual.py')
    read = read_experiments(write_experiment(tmp_path, networks={'video': {'base': base}}))
    with pytest.raises(ValueError, match=r'BasicFramesDataset gives clips.* in BasicSR only'):
        run_experiments(read, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_a_matrix_runs_through_stock_mmagic(tmp_path):
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from tests.mmagic_runs import paired, pipeline, write_config

    write_images(tmp_path)
    write_config(
        tmp_path,
        'base',
        'mmagic::srgan_resnet/msrresnet_x4c64b16_1xb16-1000k_div2k.py',
        custom_imports={'imports': ['nriqa_plugin.mmagic'], 'allow_failed_imports': False},
        model={'generator': {'mid_channels': 4, 'num_blocks': 1}},
        train_dataloader={
            'num_workers': 0, 'batch_size': 1, 'dataset': {**paired(tmp_path / 'train'), 'pipeline': pipeline()}
        },
        val_dataloader={'num_workers': 0, 'dataset': paired(tmp_path / 'val')},
        val_evaluator={'metrics': [{'type': 'PSNR'}]},
        train_cfg={'max_iters': 40, 'val_interval': 20},
        default_hooks={'perceptual': {'type': 'PerceptualHook'}, 'checkpoint': {'save_best': 'PSNR', 'rule': 'greater'}},
        optim_wrapper={'optimizer': {'lr': 1e-3}},
        param_scheduler=None,
    )  # fmt: skip
    networks = {'tiny': {'base': 'base.py', 'pretrain': {'loss': 'l1', 'steps': 20}}}
    write_experiment(tmp_path, networks=networks, losses={'l1': L1})
    run_to_the_end(tmp_path)
    (base, run) = read_runs(tmp_path / 'out').runs
    assert (base.loss, run.loss) == ('start', 'l1')
    config = (tmp_path / 'out' / 'tiny' / 'l1' / 'l1.py').read_text()
    assert "pretrain/work_dir/iter_20.pth'" in config
    with open(run.curve, newline='') as lines:
        curve = list(csv.DictReader(lines))
    assert [row['iteration'] for row in curve if row['metric'] == 'PSNR'] == ['20', '40']
    assert run.lq == (tmp_path / 'test' / 'lq').resolve()
    with open(tmp_path / 'out' / 'matrix.csv', newline='') as lines:
        (row,) = csv.DictReader(lines)
    assert float(row['psnr']) > 0


def test_scores_files_may_come_with_the_images_they_are_of(tmp_path, undrawn):
    write_own(tmp_path / 's', nima=2.0)
    for network in ('one', 'two'):
        for folder in (f'r/{network}/base', f'r/{network}/nima', f'else/{network}', 'gt/x'):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    command = ['matrix', '--scores', str(tmp_path / 's' / '{network}' / '{loss}-{dataset}.csv'), '--baseline', 'base',
               '-r', str(tmp_path / 'gt' / '{dataset}'), '--suffix', '_{loss}', '-o', str(tmp_path / 'out')]  # fmt: skip
    images = ['--images', str(tmp_path / 'r' / '{network}' / '{loss}'), '--images', f'nima={tmp_path}/else/{{network}}']
    result = CliRunner().invoke(app, [*command, *images])
    assert result.exit_code == 0, result.output
    found = {(run.loss, run.network): run for run in read_runs(tmp_path / 'out').runs}
    assert found['base', 'two'].images == tmp_path / 'r' / 'two' / 'base'
    assert found['nima', 'one'].images == tmp_path / 'else' / 'one'
    assert {run.references for run in found.values()} == {tmp_path / 'gt' / 'x'}
    assert {run.suffix for run in found.values()} == {'_base', '_nima'}


@pytest.mark.parametrize(
    ('images', 'message'),
    [
        (['nmia=x'], "unknown loss in --images: 'nmia'. Did you mean 'nima'"),
        (['nowhere/{loss}'], r'--images: no such folder: nowhere/base \(base of one on x\)'),
        (['{los}'], "unknown placeholder in --images '{los}': 'los'. Did you mean 'loss'"),
        (['.'], r'would be the results of two runs, base and nima \(one on x\)'),
        (['a', 'b'], '--images: two folders for all losses: a and b'),
    ],
)
def test_folders_that_fit_no_run_are_refused(tmp_path, images, message):
    write_own(tmp_path)
    index = runs_by_pattern(str(tmp_path / '{network}' / '{loss}-{dataset}.csv'), 'base')
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        with_folders(index, images)
