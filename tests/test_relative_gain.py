"""Relative gain: Eq. 1 of arXiv 2405.20392, and what may be compared with what."""

import csv
import hashlib
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from typer.testing import CliRunner

from nriqa_plugin.cli import app
from nriqa_plugin.evaluation import gains, read_baseline, relative_gain, write_scores
from nriqa_plugin.evaluation.scores import Score


def rows(values, metric='niqe', higher_better=False, judge_hash='aaa'):
    return [Score(f'{i:02}.png', metric, value, higher_better, judge_hash) for i, value in enumerate(values)]


def store(path, *groups):
    write_scores(path, [row for group in groups for row in group])
    return path


@pytest.mark.parametrize(
    ('test', 'baseline', 'higher_better', 'gain'),
    [
        (60.0, 50.0, True, 20.0),
        (60.0, 50.0, False, -20.0),
        (4.5, 6.0, False, 25.0),
        (4.5, 6.0, True, -25.0),
        (-1.0, 2.0, True, -150.0),
        (3.0, 3.0, False, 0.0),
    ],
)
def test_values_by_hand(test, baseline, higher_better, gain):
    assert relative_gain(test, baseline, higher_better) == pytest.approx(gain, abs=1e-12)


@pytest.mark.parametrize('bad', [0.0, -3.0, float('nan'), float('inf')])
def test_baselines_that_cannot_be_divided_by_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match='must be positive and finite'):
        relative_gain(1.0, bad, True)
    if bad == bad:
        with pytest.raises(ValueError, match=r'baseline of niqe has the mean .* positive and finite'):
            read_baseline(store(tmp_path / 'b.csv', rows([bad, bad])), 'niqe')


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_test_means_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match='finite mean of the test'):
        relative_gain(bad, 1.0, True)


@pytest.mark.parametrize('higher_better', [True, False])
def test_mean_of_per_image_gains_is_eq_1_exactly(tmp_path, higher_better):
    """In rational arithmetic, so that not a single rounding hides a difference."""
    base, test = [5, 7, 3, 6], [Fraction(9, 2), Fraction(22, 3), Fraction(1, 7), Fraction(5)]
    stored = read_baseline(store(tmp_path / 'b.csv', rows(base, higher_better=higher_better)), 'niqe')
    baseline = replace(stored, mean=Fraction(sum(base), len(base)))
    assert baseline.mean == stored.mean
    per_image = [baseline.gain(score) for score in test]
    mean_t, mean_b = sum(test) / 4, Fraction(sum(base), 4)
    assert sum(per_image) / 4 == (1 if higher_better else -1) * 100 * (mean_t - mean_b) / mean_b


def test_mean_of_per_image_gains_is_eq_1_for_tensors(tmp_path):
    base, test = torch.rand(100, dtype=torch.float64) + 4, torch.rand(100, dtype=torch.float64) + 3
    baseline = read_baseline(store(tmp_path / 'b.csv', rows(base.tolist())), 'niqe')
    expected = -100 * (test.mean() - base.mean()) / base.mean()
    torch.testing.assert_close(baseline.gain(test).mean(), expected, rtol=1e-12, atol=1e-12)


def test_gain_of_the_baseline_itself_is_zero(tmp_path):
    path = store(tmp_path / 'b.csv', rows([0.1, 0.2, 0.7]), rows([30.1, 29.3, 31.7], 'psnr', True))
    assert [row.gain for row in gains(path, path)] == [0.0, 0.0]


def test_baseline_tells_where_it_comes_from(tmp_path):
    path = store(tmp_path / 'b.csv', rows([1.0, 2.0, 6.0]), rows([9.0], 'psnr', True, 'bbb'))
    baseline = read_baseline(path, 'niqe')
    assert (baseline.metric, baseline.mean, baseline.n) == ('niqe', 3.0, 3)
    assert (baseline.higher_better, baseline.judge_hash) == (False, 'aaa')
    assert baseline.names == ('00.png', '01.png', '02.png')
    assert baseline.hash == hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def test_table_of_gains_by_hand(tmp_path):
    base = store(tmp_path / 'b.csv', rows([8.0, 4.0]), rows([20.0, 30.0], 'psnr', True, 'bbb'))
    test = store(tmp_path / 't.csv', rows([3.0, 6.0]), rows([22.0, 33.0], 'psnr', True, 'bbb'))
    niqe, psnr = gains(base, test)
    assert (niqe.metric, niqe.n, niqe.baseline_mean, niqe.test_mean, niqe.gain) == ('niqe', 2, 6.0, 4.5, 25.0)
    assert (psnr.metric, psnr.higher_better, psnr.gain) == ('psnr', True, 10.0)
    assert psnr.baseline_hash == niqe.baseline_hash == read_baseline(base, 'niqe').hash
    assert psnr.judge_hash == 'bbb'
    assert [row.metric for row in gains(base, test, ['psnr'])] == ['psnr']


def test_metric_that_is_not_in_the_baseline_shows_the_closest(tmp_path):
    with pytest.raises(ValueError, match=r"baseline .*'nique'. Did you mean 'niqe'"):
        read_baseline(store(tmp_path / 'b.csv', rows([1.0])), 'nique')


def test_other_images_are_refused_with_the_first_names(tmp_path):
    baseline = read_baseline(store(tmp_path / 'b.csv', rows([1.0, 2.0])), 'niqe')
    baseline.check_same_images(['01.png', '00.png'])
    with pytest.raises(ValueError, match=r'another data set.*baseline: 1 \(01.png\), only in the test: 1 \(x.png\)'):
        baseline.check_same_images(['00.png', 'x.png'])
    with pytest.raises(ValueError, match=r'missing scores: .*only in the test: 1 \(00.png\)'):
        baseline.check_same_images(['00.png', '00.png', '01.png'])
    with pytest.raises(ValueError, match='another data set'):
        baseline.check_same_images([])
    test = store(tmp_path / 't.csv', rows([1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match=r'missing scores: niqe of 2 .* of 3 in the test; .*in the test: 1 \(02.png\)'):
        gains(tmp_path / 'b.csv', test)


def test_what_was_not_measured_alike_is_refused(tmp_path):
    base = store(tmp_path / 'b.csv', rows([1.0]))
    with pytest.raises(ValueError, match=r'niqe was scored by two judges: aaa in .* bbb in'):
        gains(base, store(tmp_path / 't.csv', rows([1.0], judge_hash='bbb')))
    with pytest.raises(ValueError, match='contradict each other on the direction of niqe'):
        gains(base, store(tmp_path / 't.csv', rows([1.0], higher_better=True)))
    with pytest.raises(ValueError, match='name the metrics to compare'):
        gains(base, store(tmp_path / 't.csv', rows([1.0]), rows([1.0], 'psnr')))


def test_other_references_are_refused(tmp_path):
    row = rows([1.0], 'lpips')[0]
    base = store(tmp_path / 'b.csv', [replace(row, reference_hash='111')])
    unknown = store(tmp_path / 'u.csv', [row])
    other = store(tmp_path / 't.csv', [replace(row, reference_hash='222')])
    assert gains(base, unknown)[0].gain == 0
    with pytest.raises(ValueError, match=r'lpips of 00.png was scored against two references'):
        gains(base, other)


@pytest.mark.parametrize('bad', [0.0, -2.0])
def test_a_judge_whose_baseline_is_not_positive_is_named_and_leaves_the_others_their_gains(tmp_path, plugin_log, bad):
    pattern = rows([bad, bad], metric='pattern')
    base = store(tmp_path / 'b.csv', rows([4.0, 6.0]), pattern)
    test = store(tmp_path / 't.csv', rows([3.0, 5.0]), rows([1.0, 2.0], metric='pattern'))
    assert [(row.metric, row.gain) for row in gains(base, test)] == [('niqe', 20.0)]
    assert 'pattern has no relative gain' in plugin_log.text
    with pytest.raises(ValueError, match='must be positive and finite'):
        gains(base, test, ['pattern'])
    alone = store(tmp_path / 'alone.csv', pattern)
    with pytest.raises(ValueError, match='the baseline of pattern has the mean'):
        gains(alone, alone)


def table_of(*arguments):
    """Exit code and printed words, line by line."""
    result = CliRunner().invoke(app, ['gain', *map(str, arguments)], env={'COLUMNS': '200'})
    return result.exit_code, [line.split() for line in result.output.splitlines()]


@pytest.mark.parametrize('bad', [0.0, -2.0])
def test_the_command_shows_a_judge_without_gain_and_fails(tmp_path, bad):
    base = store(tmp_path / 'b.csv', rows([4.0, 6.0]), rows([bad, bad], metric='pattern'))
    test = store(tmp_path / 't.csv', rows([3.0, 5.0]), rows([1.0, 2.0], metric='pattern'))
    code, lines = table_of(base, test, '-o', tmp_path / 'g.csv')
    assert code == 2
    assert lines[1][:7] == ['niqe', '↓', '2', '5.0000', '4.0000', '+20.00', '%']
    assert lines[2][:6] == ['pattern', '↓', '2', f'{bad:.4f}', '1.5000', 'undefined']
    error = ' '.join(word for line in lines[3:] for word in line)
    assert f'Error: pattern has no relative gain: its mean in {base} is {bad:g}' in error
    assert error.endswith('Without it: -m niqe')
    with open(tmp_path / 'g.csv', newline='') as file:
        assert [(row['metric'], row['gain']) for row in csv.DictReader(file)] == [('niqe', '20.0'), ('pattern', 'nan')]
    assert table_of(base, test, '-m', 'niqe') == (0, lines[:2])
    code, lines = table_of(base, test, '-m', 'pattern')
    assert (code, lines[0][0]) == (2, 'Error:')


def test_a_gain_of_nothing_has_no_sign(tmp_path):
    base = store(tmp_path / 'b.csv', rows([4.0, 6.0]), rows([30.0, 31.0], 'psnr', True))
    almost = store(tmp_path / 't.csv', rows([4.0, 6.0 + 1e-7]), rows([30.0, 31.0 - 1e-7], 'psnr', True))
    for test in (base, almost):
        code, lines = table_of(base, test)
        assert code == 0
        assert [line[5:7] for line in lines[1:]] == [['0.00', '%']] * 2


def test_one_image_without_a_score_is_a_missing_score_of_the_same_data_set(tmp_path):
    base, test = store(tmp_path / 'b.csv', rows([4.0, 6.0])), store(tmp_path / 't.csv', rows([4.0]))
    code, (words,) = table_of(base, test)
    assert code == 2
    assert ' '.join(words) == ('Error: missing scores: niqe of 2 images in the baseline, of 1 in the test; only in the '
                               'baseline: 1 (01.png), only in the test: none')  # fmt: skip
