"""Votes to JND: intervals over people, parts, pairs, outliers, and the command, on simulated and on real votes."""

import csv
import math

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip('scipy', reason='the extra report is not installed')
pytest.importorskip('matplotlib', reason='the extra report is not installed')

from scipy import stats

from nriqa_plugin.cli import app
from nriqa_plugin.evaluation.significance import holm
from nriqa_plugin.preference.jnd import jnd_scale
from nriqa_plugin.preference.jnd_figure import jnd_figure
from nriqa_plugin.preference.loss_quality import read_rated
from nriqa_plugin.preference.observers import judge_observers
from nriqa_plugin.preference.thurstone import JND, thurstone
from nriqa_plugin.preference.votes import Vote

NAMES = 'abcd'


def people(truth, observers, generator, scenes=5, spread=0.0, sides=True):
    """Votes of simulated observers on every pair of every scene; ``spread`` is by how much each one's truth differs."""
    votes = []
    for who in range(observers):
        own = np.asarray(truth) + spread * generator.normal(size=len(truth))
        for scene in range(scenes):
            for i in range(len(truth)):
                for j in range(i):
                    prefers_i = generator.random() < 0.5 * math.erfc((own[j] - own[i]) / JND / math.sqrt(2))
                    left, right, chosen = NAMES[i], NAMES[j], 0.0 if prefers_i else 1.0
                    if sides and generator.random() < 0.5:
                        left, right, chosen = right, left, 1 - chosen
                    votes.append(Vote(f'o{who}', f's{scene}', left, right, chosen))
    return votes


def scores(scale):
    return {row.condition: row.jnd for row in scale.rows}


def votes_for(one, other, wins, losses=0, observer='o{}', scene=''):
    chosen = [0.0] * wins + [1.0] * losses
    return [Vote(observer.format(i), scene, one, other, c) for i, c in enumerate(chosen)]


def test_the_score_is_that_of_the_counts_and_the_side_does_not_matter():
    votes = people([0, 0.5, 1, 2], 6, np.random.default_rng(0))
    counts = np.zeros((4, 4))
    for vote in votes:
        i, j = NAMES.index(vote.left), NAMES.index(vote.right)
        counts[i, j] += 1 - vote.chosen
        counts[j, i] += vote.chosen
    scale = jnd_scale(votes, resamples=20)
    expected = thurstone(counts)
    assert scores(scale) == pytest.approx(dict(zip(NAMES, expected, strict=True)))
    for row in scale.rows:
        i = NAMES.index(row.condition)
        assert row.wins == counts[i].sum()
        assert row.votes == counts[i].sum() + counts[:, i].sum()
        assert row.share == row.wins / row.votes
    flipped = [Vote(v.observer, v.scene, v.right, v.left, 1 - v.chosen) for v in votes]
    assert jnd_scale(flipped, resamples=20) == scale
    assert [row.jnd for row in scale.rows] == sorted(expected, reverse=True)


def test_a_tie_is_half_a_vote_for_either():
    tie = [*votes_for('a', 'b', 3, 1), Vote('x', '', 'a', 'b', 0.5), Vote('y', '', 'b', 'a', 0.5)]
    both = [*votes_for('a', 'b', 4, 2)]
    assert scores(jnd_scale(tie, resamples=5)) == pytest.approx(scores(jnd_scale(both, resamples=5)))
    four_fifths = [Vote('x', '', 'a', 'b', 0.2)]
    assert jnd_scale(four_fifths, resamples=5).rows[0].share == pytest.approx(0.8)


def test_relative_to_one_condition_it_is_0_without_an_interval_and_differences_stay():
    votes = people([0, 0.5, 1, 2], 8, np.random.default_rng(1))
    free, fixed = jnd_scale(votes, resamples=100), jnd_scale(votes, relative_to='b', resamples=100)
    row = next(row for row in fixed.rows if row.condition == 'b')
    assert (row.jnd, row.low, row.high) == (0, 0, 0)
    assert scores(fixed)['d'] == pytest.approx(scores(free)['d'] - scores(free)['b'])
    assert [pair.difference for pair in fixed.pairs] == pytest.approx([pair.difference for pair in free.pairs])
    assert [pair.low for pair in fixed.pairs] == pytest.approx([pair.low for pair in free.pairs])


def test_the_intervals_are_those_of_a_plain_bootstrap_over_observers():
    """Drawn one by one: observers with all their votes."""
    votes = people([0, 0.5, 1], 9, np.random.default_rng(2), scenes=3, spread=0.6)
    whose = {}
    for vote in votes:
        table = whose.setdefault(vote.observer, np.zeros((3, 3)))
        i, j = NAMES.index(vote.left), NAMES.index(vote.right)
        table[i, j] += 1 - vote.chosen
        table[j, i] += vote.chosen
    rng, drawn = np.random.default_rng(3), []
    for _ in range(500):
        drawn.append(thurstone(sum(whose[name] for name in rng.choice(list(whose), len(whose)))))
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    rows = {row.condition: row for row in jnd_scale(votes, resamples=2000, level=0.9).rows}
    for name, from_, to in zip('abc', low, high, strict=True):
        assert (rows[name].low, rows[name].high) == pytest.approx((from_, to), abs=0.12 * (to - from_))


def test_people_who_differ_make_wider_intervals_than_votes_alone():
    votes = people([0, 0.5, 1, 2], 10, np.random.default_rng(4), scenes=10, spread=1.0)
    nobody = [Vote('', v.scene, v.left, v.right, v.chosen) for v in votes]
    by_people, by_votes = (jnd_scale(v, resamples=300).rows[0] for v in (votes, nobody))
    assert by_people.jnd == pytest.approx(by_votes.jnd)
    assert by_people.high - by_people.low > 1.5 * (by_votes.high - by_votes.low)


def coverage(simulations, observers, resamples):
    """How often the 90 % interval of a difference holds the truth, in votes of simulated people of one taste."""
    truth, rng, inside, total = np.array([0.0, 0.3, 0.8, 1.6]), np.random.default_rng(5), 0, 0
    for seed in range(simulations):
        votes = people(truth, observers, rng, scenes=4)
        for pair in jnd_scale(votes, resamples=resamples, level=0.9, seed=seed).pairs:
            inside += pair.low <= truth[NAMES.index(pair.condition)] - truth[NAMES.index(pair.other)] <= pair.high
            total += 1
    return inside / total


def test_the_intervals_hold_the_truth_of_simulated_people_about_as_often_as_they_say():
    assert 0.80 < coverage(30, 20, 150) < 0.97


@pytest.mark.slow
def test_the_intervals_hold_the_truth_of_simulated_people_as_often_as_they_say():
    assert 0.86 < coverage(300, 25, 500) < 0.94


def test_equal_conditions_are_found_different_as_rarely_as_the_level_says():
    rng, found = np.random.default_rng(6), 0
    for seed in range(40):
        scale = jnd_scale(people([0, 0, 0], 15, rng, scenes=3), resamples=200, seed=seed)
        found += min(pair.p_holm for pair in scale.pairs) < 0.05
    assert found / 40 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 40)


def test_the_pairs_hold_their_votes_and_holms_correction():
    votes = people([0, 0.5, 1, 2], 12, np.random.default_rng(7))
    scale = jnd_scale(votes, resamples=200)
    assert len(scale.pairs) == 6
    assert [pair.p_holm for pair in scale.pairs] == pytest.approx(holm([pair.p for pair in scale.pairs]))
    for pair in scale.pairs:
        direct = [v for v in votes if {v.left, v.right} == {pair.condition, pair.other}]
        wins = sum(1 - v.chosen if v.left == pair.condition else v.chosen for v in direct)
        assert (pair.votes, pair.share) == (len(direct), wins / len(direct))
        assert pair.fitted == pytest.approx(stats.norm.cdf(pair.difference / JND))
        assert pair.difference >= 0
        assert pair.low < pair.difference < pair.high
    assert next(pair.p for pair in scale.pairs if {pair.condition, pair.other} == {'a', 'd'}) < 0.001


def test_three_of_three_is_no_proof_although_every_resample_agrees():
    scale = jnd_scale(votes_for('a', 'b', 3), resamples=200)
    (pair,) = scale.pairs
    assert pair.difference > 2
    assert pair.low == pair.high == pytest.approx(pair.difference)
    assert pair.p > 0.05
    assert any('set by the prior of 10 JND' in note for note in scale.notes)


def test_scenes_have_their_own_scales_from_the_same_resamples():
    votes = people([0, 0.5, 1, 2], 8, np.random.default_rng(8), scenes=3)
    scale = jnd_scale(votes, by='scene', resamples=100)
    assert [row.scene for row in scale.rows] == ['s0'] * 4 + ['s1'] * 4 + ['s2'] * 4
    alone = jnd_scale([vote for vote in votes if vote.scene == 's1'], by='scene', resamples=100)
    assert alone.rows == scale.rows[4:8]
    assert len(scale.pairs) == 18
    with pytest.raises(ValueError, match='has no scene'):
        jnd_scale(votes_for('a', 'b', 3), by='scene')
    with pytest.raises(ValueError, match='nobody has seen d'):
        jnd_scale([vote for vote in votes if 'd' not in (vote.left, vote.right) or vote.scene != 's0'], by='scene',
                  relative_to='d')  # fmt: skip


def test_groups_that_nobody_compared_are_named_and_have_scales_of_their_own():
    votes = [*votes_for('a', 'b', 6, 2), *votes_for('c', 'd', 3, 5)]
    scale = jnd_scale(votes, resamples=100, relative_to='b')
    assert [(row.condition, row.part) for row in scale.rows] == [('a', 0), ('b', 0), ('d', 1), ('c', 1)]
    assert {(pair.condition, pair.other) for pair in scale.pairs} == {('a', 'b'), ('d', 'c')}
    found = scores(scale)
    assert found['b'] == 0
    assert found['c'] == pytest.approx(-found['d'])  # the other group keeps its mean at 0
    (note,) = [note for note in scale.notes if 'nobody compared' in note]
    assert 'a, b; c, d' in note


def test_resamples_that_lose_the_only_link_say_nothing_of_what_it_linked():
    """One person alone links c: without this person nothing is known of c. The others are compared all the same."""
    votes = [*votes_for('a', 'b', 10, 6), Vote('o0', '', 'b', 'c', 0.0), Vote('o0', '', 'c', 'b', 0.0)]
    scale = jnd_scale(votes, resamples=300)
    rows = {row.condition: row for row in scale.rows}
    assert math.isnan(rows['c'].low)
    kept = next(note for note in scale.notes if 'no interval for c (on 2 votes of 1 observer: ' in note)
    number = int(kept.split('observer: ')[1].split(' of 300 resamples keep it connected')[0])
    assert number / 300 == pytest.approx(1 - (1 - 1 / 10) ** 10, abs=0.09)  # drawn at least once
    assert 'a (on' not in kept
    assert 'scene all: 0 is the mean of a, b alone' in scale.notes
    assert rows['a'].jnd == pytest.approx(-rows['b'].jnd)
    for name in 'ab':
        assert rows[name].low < rows[name].jnd < rows[name].high
    for pair in scale.pairs:
        assert math.isnan(pair.low) == ('c' in (pair.condition, pair.other))
    assert any(note.startswith('scene all: pairs without an interval: 2 of 3; their p takes') for note in scale.notes)
    assert all(math.isfinite(pair.p) for pair in scale.pairs)


@pytest.mark.parametrize('relative_to', [None, 'a'])
def test_a_stray_vote_leaves_intervals_and_p_of_the_others_alone(relative_to):
    votes = people([0, 0.5, 1, 2], 15, np.random.default_rng(19), spread=0.5)
    plain = jnd_scale(votes, relative_to=relative_to, resamples=400)
    stray = jnd_scale([*votes, Vote('o3', 's0', 'd', 'dd', 0.0)], relative_to=relative_to, resamples=400)
    assert [(row.condition, math.isnan(row.low)) for row in stray.rows] == [
        *((row.condition, False) for row in plain.rows), ('dd', True)
    ]  # fmt: skip
    for one, other in zip(plain.rows, stray.rows, strict=False):
        assert (other.jnd, other.low, other.high) == pytest.approx((one.jnd, one.low, one.high), abs=0.02)
    pairs = {(pair.condition, pair.other): pair for pair in stray.pairs}
    for one in plain.pairs:
        other = pairs[one.condition, one.other]
        assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=0.02)
        assert other.p == pytest.approx(one.p, rel=0.05)
    assert 'dd has 1 vote of 1 observer: a misspelt name?' in stray.notes
    assert any(note.endswith('mean little: a, b, c, d; dd') for note in stray.notes)


def test_a_link_by_one_person_leaves_either_side_its_own_differences():
    """a, b and c, d are each well compared; only o0 compares across."""
    votes = [*votes_for('a', 'b', 9, 5), *votes_for('c', 'd', 8, 6), Vote('o0', '', 'b', 'c', 0.5)]
    scale = jnd_scale(votes, resamples=300)
    known = {frozenset((pair.condition, pair.other)): not math.isnan(pair.low) for pair in scale.pairs}
    assert {pair for pair, there in known.items() if there} == {frozenset('ab'), frozenset('cd')}
    rows = {row.condition: row for row in scale.rows}
    assert [name for name in 'abcd' if not math.isnan(rows[name].low)] == [
        'a',
        'b',
    ]  # of equal sets, that with more votes
    from_c = jnd_scale(votes, resamples=300, relative_to='c')
    assert {row.condition for row in from_c.rows if not math.isnan(row.low)} == {'c', 'd'}
    assert any('resamples keep it connected with c' in note for note in from_c.notes)


def test_names_with_hardly_a_vote_are_told_unless_the_conditions_are_given():
    votes = people([0, 0.5, 1], 8, np.random.default_rng(20))
    votes += [Vote('o0', f's{i}', 'a', 'x', 0.0) for i in range(7)]
    votes += [Vote(f'o{i}', 's0', 'b', 'y', 0.0) for i in range(4)]
    told = [note for note in jnd_scale(votes, resamples=20).notes if 'misspelt' in note]
    assert told == ['x has 7 votes of 1 observer: a misspelt name?', 'y has 4 votes of 4 observers: a misspelt name?']
    named = jnd_scale(votes, resamples=20, conditions=['a', 'b', 'c', 'x', 'y']).notes
    assert not any('misspelt' in note for note in named)
    nobody = [Vote('', v.scene, v.left, v.right, v.chosen) for v in votes]
    assert [note for note in jnd_scale(nobody, resamples=20).notes if 'misspelt' in note] == [
        'y has 4 votes: a misspelt name?'
    ]
    small = jnd_scale(votes_for('a', 'b', 3), resamples=20).notes  # all have few: no slip
    assert not any('misspelt' in note for note in small)


def test_small_experiments_are_not_taken_for_misspelt_names():
    rng = np.random.default_rng(22)
    star = [Vote(f'o{o}', 's', 'b', f'm{m}', float(rng.random() < 0.5)) for o in range(4) for m in range(3)]
    own = [Vote(f'o{o}', f's{s}', 'b', f'm{o}', float(rng.random() < 0.5)) for o in range(4) for s in range(3)]
    for votes in (star, own):  # of four on each condition, or each of one observer
        assert not any('misspelt' in note for note in jnd_scale(votes, resamples=20).notes)


def test_groups_of_parts_without_a_prior_are_not_listed():
    votes = [*votes_for('a', 'b', 12), *votes_for('c', 'd', 6, 6), *votes_for('x', 'y', 12)]
    (note,) = [note for note in jnd_scale(votes, resamples=20).notes if 'won all comparisons' in note]
    assert note.endswith('mean little: a; b; x; y')


def test_a_single_observer_has_no_interval_and_few_are_told():
    alone = jnd_scale([Vote('me', '', v.left, v.right, v.chosen) for v in votes_for('a', 'b', 6, 2)], resamples=50)
    assert math.isnan(alone.rows[0].low)
    assert math.isnan(alone.rows[0].share_low)
    assert 'one observer' in alone.notes[0]
    assert any('pairs without an interval: 1 of 1; their p takes' in note for note in alone.notes)
    few = jnd_scale(people([0, 1], 4, np.random.default_rng(9)), resamples=50)
    assert '4 observers: the intervals of so few' in few.notes[0]
    unknown = jnd_scale(votes_for('a', 'b', 6, 2, observer=''), resamples=50)
    assert unknown.observers == 0
    assert 'do not say whose they are' in unknown.notes[0]
    assert unknown.rows[0].low < unknown.rows[0].jnd < unknown.rows[0].high


def test_a_condition_without_votes_is_told():
    votes = votes_for('a', 'b', 6, 2)
    assert 'there are no votes on c' in jnd_scale(votes, resamples=20, conditions=['a', 'b', 'c']).notes
    assert not any('no votes' in note for note in jnd_scale(votes, resamples=20, conditions=['a', 'b']).notes)


def test_many_conditions_are_resampled_a_few_at_a_time_with_equal_results(monkeypatch):
    votes = people([0, 0.5, 1, 2], 8, np.random.default_rng(18))
    together = jnd_scale(votes, resamples=30)
    monkeypatch.setattr('nriqa_plugin.preference.vote_counts.CHUNK', 3 * 16)  # three tables of counts
    assert jnd_scale(votes, resamples=30) == together


def test_a_fit_that_is_none_shows():
    """a beats b beats c beats a: no scale can say so."""
    circle = [*votes_for('a', 'b', 18, 2), *votes_for('b', 'c', 18, 2), *votes_for('c', 'a', 18, 2)]
    fit = jnd_scale(circle, resamples=10).fits[0]
    assert fit.df == 1
    assert fit.p < 1e-6
    rng, p = np.random.default_rng(10), []
    for _ in range(40):
        p.append(jnd_scale(people([0, 0.5, 1, 2], 10, rng, scenes=4), resamples=2).fits[0].p)
    assert 0.3 < np.mean(p) < 0.7  # uniform where the model holds


@pytest.mark.parametrize(
    ('votes', 'said'),
    [
        ([], 'there are no votes'),
        ([Vote('o', '', 'a', 'a', 0.0)], 'cannot be compared with itself'),
        ([Vote('o', '', 'a', 'b', math.nan)], 'chosen must be finite'),
        ([Vote('o', '', 'a', 'b', 2.0)], r'chosen must be finite and in \[0, 1\]'),
        ([Vote('o', '', 'a', 'b', 0.0), Vote('', '', 'a', 'b', 0.0)], '1 of 2 votes have no observer'),
        ([Vote('o', '', 'a', 'bb', 0.0)], "unknown condition .*'bb'. Did you mean 'b'"),
    ],
)
def test_votes_that_are_none_are_refused(votes, said):
    with pytest.raises(ValueError, match=said):
        jnd_scale(votes, conditions=['a', 'b'])


def test_numbers_and_names_out_of_range_are_refused():
    votes = votes_for('method_a', 'method_b', 3, 2)
    with pytest.raises(ValueError, match="condition to be 0: 'method_c'. Did you mean"):
        jnd_scale(votes, relative_to='method_c')
    with pytest.raises(ValueError, match='level must be in'):
        jnd_scale(votes, level=1)
    with pytest.raises(ValueError, match='prior must be'):
        jnd_scale(votes, prior=math.inf)
    with pytest.raises(ValueError, match='value for by'):
        jnd_scale(votes, by='image')


def test_one_who_votes_backwards_is_found_and_nobody_else():
    rng = np.random.default_rng(11)
    votes = people([0, 0.7, 1.4, 2.1], 12, rng)
    votes += [Vote('backwards', v.scene, v.left, v.right, 1 - v.chosen) for v in people([0, 0.7, 1.4, 2.1], 1, rng)]
    found = judge_observers(votes)
    assert [one.observer for one in found if one.outlier] == ['backwards']
    assert found[0].observer == 'backwards'
    assert found[0].agreement < 0.4 < 0.6 < np.mean([one.agreement for one in found[1:]])
    assert found[0].score < -4


def test_alike_people_have_scores_around_0_with_deviation_1():
    rng, all_scores, flagged = np.random.default_rng(12), [], 0
    for _ in range(15):
        found = judge_observers(people([0, 0.7, 1.4, 2.1], 20, rng, scenes=6))
        all_scores += [one.score for one in found]
        flagged += sum(one.outlier for one in found)
    assert np.mean(all_scores) == pytest.approx(0, abs=0.25)
    assert np.std(all_scores) == pytest.approx(1, abs=0.15)
    assert flagged <= 0.03 * 300


def test_the_score_is_how_unlikely_the_votes_are():
    votes = [*votes_for('a', 'b', 15, 5, observer='all'), *votes_for('a', 'b', 2, 6, observer='me')]
    me = next(one for one in judge_observers(votes) if one.observer == 'me')
    p = stats.norm.cdf(np.diff(thurstone([[0, 15], [5, 0]])[::-1])[0] / JND)
    likelihoods = np.array([k * math.log(p) + (8 - k) * math.log(1 - p) for k in range(9)])
    chances = stats.binom.pmf(range(9), 8, p)
    mean = (chances * likelihoods).sum()
    deviation = math.sqrt((chances * (likelihoods - mean) ** 2).sum())
    assert me.score == pytest.approx((likelihoods[2] - mean) / deviation)
    assert me.agreement == 2 / 8


def test_observers_of_whom_nothing_can_be_said_are_not_flagged():
    rng = np.random.default_rng(13)
    votes = people([0, 1, 2, 3], 8, rng)
    votes.append(Vote('once', 's0', 'd', 'a', 1.0))  # against everybody, but a single vote
    votes += [Vote('ties', f's{i}', 'd', 'a', 0.5) for i in range(6)]
    found = {one.observer: one for one in judge_observers(votes)}
    assert not found['once'].outlier
    assert found['once'].note == '1 vote, too few to judge'
    assert found['once'].agreement == 0
    assert (found['ties'].votes, found['ties'].judged) == (6, 0)
    assert found['ties'].note == '6 votes, too few to judge by: left out are 6 ties'
    assert math.isnan(found['ties'].agreement)
    three = judge_observers(people([0, 2], 3, rng))
    assert not any(one.outlier for one in three)
    assert 'too few observers' in three[0].note
    assert judge_observers([Vote('me', '', 'a', 'b', 0.0)])[0].note == 'no other observer'
    assert judge_observers([Vote('', '', 'a', 'b', 0.0)]) == []


def test_votes_that_cannot_be_judged_are_counted_and_explained():
    votes = people([0, 1, 2, 3], 6, np.random.default_rng(21))
    mixed = [('a', 'b', 0.5), ('b', 'c', 0.3), ('a', 'c', 0.2), ('x', 'y', 0.0), ('c', 'd', 1.0)]
    votes += [Vote('mixed', 's0', left, right, chosen) for left, right, chosen in mixed]
    for by in (None, 'scene'):
        one = next(one for one in judge_observers(votes, by) if one.observer == 'mixed')
        assert (one.votes, one.judged) == (5, 1)
        assert one.note == ('5 votes, too few to judge by: left out are 1 tie, 2 fractions, 1 on what the others did '
                            'not compare')  # fmt: skip
    full = next(one for one in judge_observers(votes) if one.observer == 'o0')
    assert (full.votes, full.judged, full.note) == (30, 30, '')


def test_a_pair_that_nobody_else_has_seen_is_no_evidence_against_anyone():
    rng = np.random.default_rng(14)
    votes = people([0, 1, 2], 8, rng)
    votes += [Vote('o0', f's{i}', 'x', 'y', 0.0) for i in range(9)]
    before = {one.observer: one.score for one in judge_observers(people([0, 1, 2], 8, np.random.default_rng(14)))}
    after = {one.observer: one.score for one in judge_observers(votes)}
    assert after == pytest.approx(before)


def test_the_figure_shows_scores_intervals_shares_and_stars():
    scale = jnd_scale(people([0, 0.2, 1, 3], 12, np.random.default_rng(15)), resamples=100)
    figure = jnd_figure('title', scale)
    points, matrix = figure.axes
    marks = [line.get_xdata()[0] for line in points.lines if line.get_marker() == 'o']
    assert marks == [row.jnd for row in scale.rows]
    assert [label.get_text() for label in points.get_yticklabels()] == [row.condition for row in scale.rows]
    cells = {tuple(text.get_position()): text.get_text() for text in matrix.texts}
    place = {row.condition: i for i, row in enumerate(scale.rows)}
    for pair in scale.pairs:
        star = '★' if pair.p_holm < 0.05 else ''
        i, j = place[pair.condition], place[pair.other]
        assert cells[j, i] == f'{100 * pair.share:.0f}{star}'
        assert cells[i, j] == f'{100 - 100 * pair.share:.0f}{star}'
    assert {'★' in cell for cell in cells.values()} == {True, False}
    assert '12 observers' in figure.get_supxlabel()
    many = jnd_figure('t', jnd_scale(people([0, 1], 5, np.random.default_rng(16), scenes=6), 'scene', resamples=20))
    panels = [axes for axes in many.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [f's{i}' for i in range(6)]
    assert len({tuple(label.get_text() for label in axes.get_yticklabels()) for axes in panels}) == 1  # one order


def test_the_axis_says_what_is_0():
    votes = people([0, 0.5, 1], 12, np.random.default_rng(21))
    stray = [*votes, Vote('o3', 's0', 'c', 'cc', 0.0)]
    apart = [*votes_for('x', 'y', 8, 4), *votes_for('y', 'z', 8, 4)]

    def label(votes, **options):
        return jnd_figure('t', jnd_scale(votes, resamples=100, **options)).axes[0].get_xlabel()

    assert label(votes) == 'JND (mean = 0)'
    assert label(stray) == 'JND (mean of 3 of 4 conditions = 0)'
    assert label(stray, relative_to='b') == 'JND (b = 0)'
    assert label([*votes, *apart]) == 'JND (mean = 0)'  # of either group
    assert label([*stray, *apart], relative_to='y') == 'JND (mean of 3 of 4 conditions = 0; y = 0)'
    assert jnd_scale(stray, resamples=100).zero == {'all': (('a', 'b', 'c'),)}
    scenes = jnd_scale(stray, 'scene', resamples=100)
    labels = {axes.get_title(): axes.get_xlabel() for axes in jnd_figure('t', scenes).axes if axes.get_visible()}
    assert labels == {f's{i}': f'JND (mean{" of 3 of 4 conditions" * (i == 0)} = 0)' for i in range(5)}


def write(path, votes):
    with open(path, 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['observer', 'scene', 'left', 'right', 'chosen'])
        writer.writerows([v.observer, v.scene, v.left, v.right, v.left if v.chosen == 0 else v.right] for v in votes)


def read(path):
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def test_the_command_writes_tables_and_figure_and_names_the_outlier(tmp_path):
    rng = np.random.default_rng(17)
    votes = people([0, 0.7, 1.4, 2.1], 10, rng)
    votes += [Vote('rogue', v.scene, v.left, v.right, 1 - v.chosen) for v in people([0, 0.7, 1.4, 2.1], 1, rng)]
    write(tmp_path / 'votes.csv', votes)
    out = tmp_path / 'out'
    arguments = ['jnd', str(tmp_path / 'votes.csv'), '-o', str(out), '--resamples', '50', '--relative-to', 'a']
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in out.iterdir()) == [
        'jnd.csv', 'jnd.pdf', 'jnd.png', 'observers.csv', 'pairs.csv'
    ]  # fmt: skip
    rows = {row['condition']: row for row in read(out / 'jnd.csv')}
    expected = jnd_scale(votes, relative_to='a', resamples=50)
    assert {name: float(row['jnd']) for name, row in rows.items()} == pytest.approx(scores(expected), abs=1e-11)
    assert 'unlike all other observers: rogue' in result.output
    without = CliRunner().invoke(app, [*arguments, '--without', 'rogue'])
    assert 'rogue' not in without.output
    assert len(read(out / 'observers.csv')) == 10
    wrong = CliRunner().invoke(app, [*arguments, '--without', 'rouge'])
    assert wrong.exit_code == 2
    assert "Did you mean 'rogue'" in wrong.output
    unknown = CliRunner().invoke(app, [*arguments, '--condition', 'a', '--condition', 'b', '--condition', 'c'])
    assert unknown.exit_code == 2
    assert "'d'" in unknown.output


def test_the_command_tells_of_circles_in_a_scene(tmp_path):
    circle = [*votes_for('a', 'b', 12, 1), *votes_for('b', 'c', 12, 1), *votes_for('c', 'a', 12, 1)]
    plain = [*votes_for('a', 'b', 9, 4), *votes_for('b', 'c', 9, 4), *votes_for('a', 'c', 11, 2)]
    write(tmp_path / 'v.csv', [Vote(v.observer, scene, v.left, v.right, v.chosen)
                               for scene, votes in (('odd', circle), ('even', plain)) for v in votes])  # fmt: skip
    result = CliRunner().invoke(app, ['jnd', str(tmp_path / 'v.csv'), '--by', 'scene', '--resamples', '20'])
    assert result.exit_code == 0, result.output
    assert 'scene odd: one scale describes these votes badly' in result.output
    assert 'scene even: one scale' not in result.output


def test_the_command_leaves_empty_what_is_not_known(tmp_path):
    votes = [Vote('me', '', one, other, 0.0) for one, other in ('ab', 'bc')]  # a and c meet over b only
    write(tmp_path / 'votes.csv', votes)
    arguments = ['jnd', str(tmp_path / 'votes.csv'), '--resamples', '20', '-o', str(tmp_path / 'out')]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert 'one observer: there are no intervals' in result.output
    assert 'nan' not in result.output
    for name in ('jnd', 'pairs', 'observers'):
        assert 'nan' not in (tmp_path / 'out' / f'{name}.csv').read_text()
    assert [row['low'] for row in read(tmp_path / 'out' / 'jnd.csv')] == [''] * 3
    assert [row['share'] for row in read(tmp_path / 'out' / 'pairs.csv')].count('') == 1
    rated = read_rated(tmp_path / 'out' / 'jnd.csv', 'image=condition,mos=jnd,low=low,high=high')
    assert [(one.image, math.isnan(one.low), math.isnan(one.high)) for one in rated] == [
        (name, True, True) for name in 'abc'
    ]
    figure = jnd_figure('title', jnd_scale(votes, resamples=20))
    assert 'Bars' not in figure.get_supxlabel()


def test_the_command_counts_all_votes_of_an_observer(tmp_path):
    (tmp_path / 'v.csv').write_text('left,right,chosen,observer\nA,B,left,1\nA,B,tie,2\nB,C,0.3,2\n')
    out = tmp_path / 'out'
    result = CliRunner().invoke(app, ['jnd', str(tmp_path / 'v.csv'), '--resamples', '20', '-o', str(out)])
    assert result.exit_code == 0, result.output
    rows = {row['observer']: row for row in read(out / 'observers.csv')}
    assert (rows['2']['votes'], rows['2']['judged']) == ('2', '0')
    assert rows['2']['note'] == '2 votes, too few to judge by: left out are 1 tie, 1 fraction'


def test_the_command_refuses_a_pair_that_was_answered_twice(tmp_path):
    write(tmp_path / 'votes.csv', [*votes_for('a', 'b', 2, 1), *votes_for('b', 'a', 1)])
    result = CliRunner().invoke(app, ['jnd', str(tmp_path / 'votes.csv')])
    assert result.exit_code == 2
    assert 'answered this pair before' in result.output
    again = CliRunner().invoke(app, ['jnd', str(tmp_path / 'votes.csv'), '--repeats', '--resamples', '20'])
    assert again.exit_code == 0, again.output


def test_one_stray_real_vote_changes_no_interval(test_data, tmp_path):
    file = test_data / 'preference' / 'votes.csv'
    if not file.is_file():
        pytest.skip(f'no {file}')
    (tmp_path / 'votes.csv').write_text(file.read_text().rstrip() + '\n1,0809.png,ESRGAN,BSRGAN,BSRGAN\n')
    arguments = ['--columns', 'observer=session,scene=image', '--relative-to', 'BSRGAN']
    for number, table in enumerate((file, tmp_path / 'votes.csv')):
        result = CliRunner().invoke(app, ['jnd', str(table), *arguments, '-o', str(tmp_path / str(number))])
        assert result.exit_code == 0, result.output
    assert 'ESRGAN has 1 vote of 1 observer: a misspelt name?' in ' '.join(result.output.split())
    plain, stray = ({row['condition']: row for row in read(tmp_path / f'{i}/jnd.csv')} for i in (0, 1))
    assert stray.pop('ESRGAN')['low'] == ''
    for name, row in plain.items():
        for column in ('jnd', 'low', 'high'):
            assert float(stray[name][column]) == pytest.approx(float(row[column]), abs=0.02)


def test_the_real_votes_put_resshift_first_and_bsrgan_last(test_data):
    """900 votes of 15 sessions on four models; within one session a pair of an image was asked once."""
    file = test_data / 'preference' / 'votes.csv'
    if not file.is_file():
        pytest.skip(f'no {file}')
    from nriqa_plugin.preference.votes import read_votes

    votes = read_votes(file, 'observer=session,scene=image')
    scale = jnd_scale(votes, resamples=300)
    assert [row.condition for row in scale.rows] == ['ResShift', 'RealESRGAN', 'SwinIR', 'BSRGAN']
    assert [row.wins for row in scale.rows] == [309, 228, 220, 143]  # counted in the file
    assert scale.rows[0].jnd - scale.rows[3].jnd == pytest.approx(1.08, abs=0.005)
    different = {frozenset((pair.condition, pair.other)) for pair in scale.pairs if pair.p_holm < 0.05}
    assert frozenset(('RealESRGAN', 'SwinIR')) not in different
    assert len(different) == 5
    assert [one.observer for one in judge_observers(votes, 'scene') if one.outlier] == ['4']
