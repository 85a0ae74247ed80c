"""``nriqa report``: what it could not draw or compute stands under Notes and on the terminal."""

import dataclasses
import html
import re

import pytest
from typer.testing import CliRunner

pytest.importorskip('jinja2', reason='the extra report is not installed')
pytest.importorskip('matplotlib', reason='the extra report is not installed')
pytest.importorskip('scipy', reason='the extra report is not installed')

from nriqa_plugin.cli import app
from nriqa_plugin.evaluation.scores import read_scores, write_scores
from tests.report_data import JUDGES, METHODS, write_jnd, write_scores_of

BLIND = {'niqe': (False, ''), 'psnr': (True, ''), 'lpips': (False, '')}  # none was given a ground truth


def build(tmp_path, *arguments, judges=JUDGES, methods=METHODS):
    """The page, its notes and what stood on the terminal, of runs that are scores files."""
    runs = [f'{method}={write_scores_of(tmp_path, method, judges=judges)}' for method in methods]
    return report(tmp_path, *runs, *arguments)


def report(tmp_path, *arguments):
    out = tmp_path / 'r.html'
    result = CliRunner().invoke(app, ['report', *map(str, arguments), '--crops', '0', '-o', str(out)])
    assert result.exit_code == 0, result.output
    page = out.read_text(encoding='utf-8')
    notes = re.findall(r'<li>(.*?)</li>', re.search(r'<ul class="notes">.*?</ul>', page, re.DOTALL)[0])
    notes = [html.unescape(note) for note in notes]
    terminal = ' '.join(result.output.split())
    assert all(f'Note: {note}' in terminal for note in notes)
    return page, notes


def planes(page):
    section = re.search(r'<section id="planes">.*?</section>', page, re.DOTALL)
    return re.findall(r'<figcaption>(.*?)</figcaption>', section[0]) if section else []


def test_without_a_ground_truth_jnd_is_drawn_against_the_first_two_judges(tmp_path):
    jnd = write_jnd(tmp_path / 'jnd.csv', base=0.0, sharp=1.0, noisy=-1.0)
    page, notes = build(tmp_path, '--jnd', jnd, '--figures', tmp_path / 'figures', judges=BLIND)
    assert planes(page) == ['lpips and jnd', 'niqe and jnd']
    assert not any('No plane' in note for note in notes)
    written = {path.stem for path in (tmp_path / 'figures').glob('plane_*.pdf')}
    assert written == {'plane_lpips_jnd', 'plane_niqe_jnd'}
    svg = re.search(r'<section id="planes">.*?</svg>', page, re.DOTALL)[0]
    assert 'lpips (lower is better)' in svg
    assert 'distortion' not in svg.replace('Perception and distortion', '')  # it compares with nothing
    assert 'JND (higher is better), reversed' in svg


def test_a_judge_with_a_ground_truth_stays_the_axis_of_distortion(tmp_path):
    page, _ = build(tmp_path, '--jnd', write_jnd(tmp_path / 'jnd.csv', base=0.0, sharp=1.0))
    assert planes(page) == [
        'psnr and jnd', 'lpips and jnd', 'psnr and lpips', 'psnr and niqe', 'lpips and niqe'
    ]  # fmt: skip
    assert 'distortion: psnr' in page


@pytest.mark.parametrize(
    ('values', 'more', 'note'),
    [
        ({'sharp': 1.0, 'x': 2.0}, (), 'No plane of psnr and jnd: it needs two runs with both, there is one (sharp).'),
        ({'base': 0.0, 'sharp': 1.0}, ('--plane', 'psnr:niqe'), 'No plane with JND: --plane names no axis jnd.'),
    ],
)
def test_a_jnd_table_that_leads_to_no_plane_is_told(tmp_path, values, more, note):
    page, notes = build(tmp_path, '--jnd', write_jnd(tmp_path / 'jnd.csv', **values), *more)
    assert not any('jnd' in caption for caption in planes(page))
    assert note in notes


def test_runs_without_scores_leave_jnd_no_axis(tmp_path):
    for method in METHODS[:2]:
        (tmp_path / method).mkdir()
        (tmp_path / method / 'validation.csv').write_text('iteration,metric,value\n1,psnr,20\n2,psnr,21\n')
    jnd = write_jnd(tmp_path / 'jnd.csv', base=0.0, sharp=1.0)
    _, notes = report(tmp_path, *(tmp_path / method for method in METHODS[:2]), '--jnd', jnd)
    assert 'No plane with JND: the runs have no scores to draw it against.' in notes


def test_a_plane_of_one_run_is_told_if_there_are_more(tmp_path):
    page, notes = build(tmp_path, judges={'psnr': (True, 'gt')})
    assert planes(page) == []
    write_scores_of(tmp_path, 'sharp')  # with lpips and niqe too
    _, notes = report(tmp_path, *(f'{method}={tmp_path / method}.csv' for method in METHODS))
    assert 'No plane of psnr and lpips: it needs two runs with both, there is one (sharp).' in notes


@pytest.mark.parametrize('bad', [0.0, -3.75])
def test_a_baseline_that_is_not_positive_is_told(tmp_path, bad):
    write_scores_of(tmp_path, 'sharp')
    rows = read_scores(write_scores_of(tmp_path, 'base')).rows
    rows = [dataclasses.replace(row, score=bad) if row.metric == 'niqe' else row for row in rows]
    write_scores(tmp_path / 'base.csv', rows)
    page, notes = report(tmp_path, tmp_path / 'base.csv', tmp_path / 'sharp.csv')
    (note,) = [note for note in notes if 'niqe' in note]
    assert page.count('Column left empty') == 1
    assert note == ('Column left empty: niqe has no relative gain: the baseline of one network on one data set (the mean) '
                    f'is {bad:g}, and Eq. 1 divides by it.')  # fmt: skip


def test_one_pair_of_marks_on_the_page_in_the_figures_and_in_the_notes(tmp_path):
    page, notes = build(tmp_path)
    violins = re.search(r'<section id="violins">.*?</section>', page, re.DOTALL)[0]
    assert '>✓</text>' in violins  # sharp and noisy are better by niqe and lpips
    assert '>★</text>' in violins  # and worse by psnr
    assert violins.count('★: base is better, ✓: this one is better') == 3
    (note,) = [note for note in notes if 'Holm' in note]
    assert '★ marks a method that is worse and ✓ one that is better' in note
    assert '*' not in note


def test_a_better_run_is_marked_where_eq_1_has_no_gain_too(tmp_path):
    """Scores below zero, lower is better: no percent to show, and yet ``sharp`` is better."""
    for method in METHODS[:2]:
        rows = read_scores(write_scores_of(tmp_path, method, judges={'niqe': (False, '')})).rows
        write_scores(tmp_path / f'{method}.csv', [dataclasses.replace(row, score=row.score - 20) for row in rows])
    page, _ = report(tmp_path, tmp_path / 'base.csv', tmp_path / 'sharp.csv')
    table = re.search(r'<table class="scores">.*?</table>', page, re.DOTALL)[0]
    assert table.count('✓') == 1
