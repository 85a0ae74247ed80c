"""Agreement of judges with votes against counting by hand, brute force, scipy and simulated people with known truth."""

import math
import warnings
from itertools import combinations

import numpy as np
import pytest

from nriqa_plugin.evaluation.statistics import bootstrap_ci
from nriqa_plugin.preference.judge_combinations import best_combination
from nriqa_plugin.preference.mos import Opinion, correlate, logistic_fit
from nriqa_plugin.preference.mos_table import correlation_rows, correlation_texts, mos_markdown, scenes_of
from nriqa_plugin.preference.pairs import margins, pairs_of
from nriqa_plugin.preference.screening import (
    agreement,
    majority_ceiling,
    observer_ceiling,
    pair_accuracy,
    rank_matrix,
    rescue,
    share_ci,
    vote_accuracy,
)
from nriqa_plugin.preference.screening_page import counts
from nriqa_plugin.preference.screening_scores import JudgeScores, from_files
from nriqa_plugin.preference.screening_table import screen
from nriqa_plugin.preference.two_stage import keepers, sample_pairs
from nriqa_plugin.preference.votes import Vote

stats = pytest.importorskip('scipy.stats', reason='the extra report is not installed')

FEW = {'resamples': 50}


def vote(left, right, chosen, observer='', scene=''):
    return Vote(observer, scene, left, right, chosen)


def simulated(seed=0, scenes=30, methods=4, people=5, sharp=2.0):
    """Votes on pairs of images of known quality: the better one is chosen with a logistic probability.

    Returns:
        tuple[list[Vote], dict[str, float]]: the votes and the qualities.
    """
    rng = np.random.default_rng(seed)
    quality = {f's{scene}/m{method}': rng.normal() for scene in range(scenes) for method in range(methods)}
    votes = []
    for scene in range(scenes):
        for one, other in combinations(range(methods), 2):
            for person in range(people):
                left, right = f's{scene}/m{one}', f's{scene}/m{other}'
                if rng.random() < 0.5:
                    left, right = right, left
                right_wins = rng.random() < (1 + math.tanh(sharp * (quality[right] - quality[left]) / 2)) / 2
                votes.append(vote(left, right, float(right_wins), f'p{person}', f's{scene}'))
    return votes, quality


def test_sides_do_not_matter_and_ties_are_left_out():
    votes = [vote('b', 'a', 1.0), vote('a', 'b', 0.0), vote('a', 'b', 1.0), vote('b', 'a', 0.5), vote('c', 'd', 0.5)]
    pairs = pairs_of(votes)
    assert (pairs.left, pairs.right) == (('a',), ('b',))
    assert pairs.share.tolist() == [pytest.approx(1 / 3)]
    assert (pairs.ties, pairs.all_ties, pairs.repeated) == (2, 1, 2)
    assert pairs.majority.tolist() == [0]


def test_accuracy_per_vote_and_per_pair_is_counted_by_hand():
    # a beats b by 2 of 3, c beats a by 3 of 3, b and c are even.
    votes = [vote('a', 'b', 0.0)] * 2 + [vote('a', 'b', 1.0)] + [vote('a', 'c', 1.0)] * 3
    votes += [vote('b', 'c', 1.0), vote('b', 'c', 0.0)]
    pairs = pairs_of(votes)
    margin = margins(pairs, 'judge', {'a': 3.0, 'b': 1.0, 'c': 2.0}, True)  # right about a-b, wrong about a-c
    found = vote_accuracy(pairs, margin, **FEW)
    assert (found.share.value, found.n) == (pytest.approx((2 + 0 + 1) / 8), 8)
    found = pair_accuracy(pairs, margin, **FEW)
    assert (found.share.value, found.n) == (pytest.approx(1 / 2), 2)
    assert majority_ceiling(pairs, **FEW).share.value == pytest.approx((2 + 3 + 1) / 8)


def test_a_judge_where_less_is_better_is_the_same_judge_with_the_other_sign():
    pairs = pairs_of(simulated()[0])
    scores = {image: number for number, image in enumerate(pairs.images)}
    up = margins(pairs, 'up', scores, True)
    down = margins(pairs, 'down', {image: -score for image, score in scores.items()}, False)
    assert np.array_equal(up, down)
    wrong = margins(pairs, 'wrong', scores, False)
    assert vote_accuracy(pairs, up, **FEW).share.value == pytest.approx(
        1 - vote_accuracy(pairs, wrong, **FEW).share.value
    )


def test_fractions_count_as_in_bapps():
    chosen = np.array([0.0, 0.2, 0.8, 1.0, 0.6])
    pairs = pairs_of([vote(f'{i}a', f'{i}b', value) for i, value in enumerate(chosen)])
    left, right = np.array([1.0, 1.0, 1.0, 1.0, 1.0]), np.array([2.0, 0.5, 0.5, 0.5, 1.0])
    scores = {f'{i}{side}': values[i] for side, values in (('a', left), ('b', right)) for i in range(5)}
    margin = margins(pairs, 'distance', scores, higher_better=False)
    # The published evaluation: (d0 < d1) (1 - h) + (d1 < d0) h + (d0 == d1) / 2, h the fraction for the second.
    expected = np.mean((left < right) * (1 - chosen) + (right < left) * chosen + (left == right) * 0.5)
    assert vote_accuracy(pairs, margin, **FEW).share.value == pytest.approx(expected)
    assert pair_accuracy(pairs, margin, **FEW).share.value == pytest.approx((1 + 0 + 1 + 1 + 0.5) / 5)


def test_the_real_st_lpips_distances_give_the_score_in_their_own_file(test_data):
    from nriqa_plugin.preference.screening_run import read_with_scores

    path = test_data / 'scores' / 'bapps_2afc_superres_shift_tolerant.csv'
    if not path.is_file():
        pytest.skip(f'no {path}')
    columns = 'left={0}:p0,right={0}:p1,chosen={4},score_left={1},score_right={2},better=lower'
    votes, judge = read_with_scores(path, columns)
    pairs = pairs_of(votes)
    margin = margins(pairs, judge.judge, judge.scores, judge.higher_better)
    table = np.loadtxt(path, delimiter=',', usecols=(1, 2, 3, 4))
    assert vote_accuracy(pairs, margin, **FEW).share.value == pytest.approx(table[:, 2].mean(), abs=1e-6)
    decided = (table[:, 0] < table[:, 1]) == (table[:, 3] < 0.5)
    expected = np.where(table[:, 0] == table[:, 1], 0.5, decided).mean()
    assert pair_accuracy(pairs, margin, **FEW).share.value == pytest.approx(expected, abs=1e-9)


def test_the_true_quality_reaches_the_ceiling_of_people_who_hardly_err():
    votes, quality = simulated(sharp=1000.0)
    pairs = pairs_of(votes)
    margin = margins(pairs, 'truth', quality, True)
    assert pair_accuracy(pairs, margin, **FEW).share.value == 1
    assert vote_accuracy(pairs, margin, **FEW).share == majority_ceiling(pairs, **FEW).share
    assert observer_ceiling(pairs, **FEW).share.value == 1


def test_one_person_is_compared_with_the_majority_of_the_others_only():
    votes, _ = simulated(seed=3, scenes=4, people=4, sharp=1.0)
    votes += [vote(votes[0].left, votes[0].right, 1.0, 'p0', votes[0].scene)]  # p0 answers a pair again
    pairs, right = pairs_of(votes), []
    for one in votes:
        key = {one.left, one.right}
        others = [v for v in votes if {v.left, v.right} == key and v.observer != one.observer]
        share = np.mean([v.chosen if v.right == one.right else 1 - v.chosen for v in others])
        if share != 0.5:
            right.append((share > 0.5) == (one.chosen > 0.5))
    found = observer_ceiling(pairs, **FEW)
    assert (found.share.value, found.n) == (pytest.approx(np.mean(right)), len(right))


def test_without_names_there_is_no_ceiling_of_observers():
    found = observer_ceiling(pairs_of([vote('a', 'b', 1.0), vote('a', 'b', 1.0)]), **FEW)
    assert found.n == 0
    assert math.isnan(found.share.value)


def test_rescue_is_the_accuracy_where_the_core_is_wrong():
    pairs = pairs_of([vote(f'{i}a', f'{i}b', 1.0) for i in range(6)])
    core = np.array([1.0, 1.0, -1.0, -1.0, -1.0, 0.0])
    other = np.array([-1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
    found = rescue(pairs, core, other, **FEW)
    assert (found.share.value, found.n) == (pytest.approx(2 / 3), 3)
    assert rescue(pairs, -core, -other, **FEW).share.value == 1  # wrong on the first two, where the other is right
    assert rescue(pairs, np.ones(6), other, **FEW).n == 0


def test_the_interval_is_that_of_the_bootstrap_over_groups():
    rng = np.random.default_rng(1)
    groups = rng.integers(12, size=200)
    values = (rng.random(200) < 0.3 + 0.04 * groups).astype(float)
    got = share_ci(values, groups, resamples=4000)
    expected = bootstrap_ci(values, np.mean, np.random.default_rng(5), resamples=4000, groups=groups)
    assert got.value == pytest.approx(expected.value)
    width = expected.high - expected.low
    assert got.low == pytest.approx(expected.low, abs=0.06 * width)
    assert got.high == pytest.approx(expected.high, abs=0.06 * width)


def test_the_interval_covers_the_truth_although_pairs_of_a_scene_hang_together():
    rng = np.random.default_rng(2)
    inside = {'scenes': 0, 'pairs': 0}
    for number in range(300):
        scene = np.repeat(np.arange(40), 6)
        hard = rng.beta(1, 1, 40)  # of mean 0.5; all pairs of a scene are as hard
        values = (rng.random(240) < hard[scene]).astype(float)
        for name, groups in (('scenes', scene), ('pairs', np.arange(240))):
            low, high = share_ci(values, groups, level=0.9, resamples=300, seed=number)[1:]
            inside[name] += low <= 0.5 <= high
    assert 0.84 < inside['scenes'] / 300 < 0.95  # 3 standard errors of 0.9 and the bias of small samples
    assert inside['pairs'] / 300 < 0.84  # pairs alone pretend to know more


def test_a_single_scene_has_no_interval():
    estimate = share_ci(np.array([1.0, 0.0, 1.0]), np.zeros(3, dtype=int))
    assert estimate.value == pytest.approx(2 / 3)
    assert math.isnan(estimate.low)


def test_linked_images_are_one_scene_where_the_table_names_none():
    votes = [vote('a', 'b', 1.0), vote('c', 'd', 1.0), vote('c', 'b', 1.0), vote('e', 'f', 1.0)]
    scene = pairs_of(votes).scene
    assert scene[0] == scene[1] == scene[2] != scene[3]
    named = pairs_of([vote('a', 'b', 1.0, scene='x'), vote('b', 'c', 1.0, scene='y')]).scene
    assert named[0] != named[1]


def test_images_without_a_score_and_scores_that_are_nan_are_refused():
    pairs = pairs_of([vote('a', 'b', 1.0), vote('c', 'd', 1.0)])
    with pytest.raises(ValueError, match=r'niqe has no score for 2 \(c, d\) of the images that were voted on'):
        margins(pairs, 'niqe', {'a': 1.0, 'b': 2.0}, True)
    with pytest.raises(ValueError, match=r'niqe: the score is NaN for 1 \(d\)'):
        margins(pairs, 'niqe', {'a': 1.0, 'b': 2.0, 'c': 1.0, 'd': math.nan}, True)


def test_infinite_scores_of_both_sides_are_a_tie():
    pairs = pairs_of([vote('a', 'b', 1.0), vote('c', 'd', 1.0)])
    margin = margins(pairs, 'psnr', {'a': math.inf, 'b': math.inf, 'c': 1.0, 'd': math.inf}, True)
    assert margin.tolist() == [0, math.inf]


def test_votes_that_no_judge_can_be_right_about_are_refused():
    with pytest.raises(ValueError, match='no vote for either side: 1 votes, all ties'):
        pairs_of([vote('a', 'b', 0.5)])
    even = pairs_of([vote('a', 'b', 1.0), vote('a', 'b', 0.0)])
    with pytest.raises(ValueError, match='the votes on every pair are even'):
        screen(even, [JudgeScores('x', True, {'a': 1.0, 'b': 2.0})])
    with pytest.raises(ValueError, match='in two scenes'):
        pairs_of([vote('a', 'b', 1.0, scene='x'), vote('a', 'b', 1.0, scene='y')])
    with pytest.raises(ValueError, match='a has two references: r and q'):
        pairs_of([Vote('', '', 'a', 'b', 1.0, 'r'), Vote('', '', 'a', 'c', 1.0, 'q')])


def test_fractions_that_cancel_are_even_although_they_round():
    pairs = pairs_of([vote('a', 'b', 0.1), vote('a', 'b', 0.2), vote('a', 'b', 0.7), vote('a', 'b', 1.0)])
    assert np.isnan(pairs.majority).all()


def test_rank_correlations_are_scipys():
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 8, (4, 40)).astype(float)  # with ties
    expected = stats.spearmanr(scores, axis=1).statistic
    assert np.allclose(rank_matrix(scores), expected, atol=1e-12)
    scores[2] = 1.0
    matrix = rank_matrix(scores)
    assert np.isnan(matrix[2]).all()
    assert matrix[0, 1] == pytest.approx(expected[0, 1])


def margins_of(pairs, quality, noise, seed):
    rng = np.random.default_rng(seed)
    return margins(pairs, 'x', {image: quality[image] + noise * rng.normal() for image in pairs.images}, True)


def test_the_best_combination_is_that_of_brute_force():
    votes, quality = simulated(seed=4)
    pairs = pairs_of(votes)
    judges = {f'j{number}': margins_of(pairs, quality, 1.5, number) for number in range(5)}
    answer, decided = pairs.majority, ~np.isnan(pairs.majority)
    scaled = {name: m / np.sqrt((m[decided] ** 2).mean()) for name, m in judges.items()}

    def accuracy(names):
        return agreement(sum(scaled[name] for name in names)[decided], answer[decided]).mean()

    for size in (1, 2, 3):
        found = best_combination(pairs, judges, size, resamples=50)
        best = max(combinations(judges, size), key=accuracy)
        assert (found.judges, found.in_sample) == (best, pytest.approx(accuracy(best)))
    with_core = best_combination(pairs, judges, 2, core='j3', resamples=50)
    assert with_core.judges == max((c for c in combinations(judges, 2) if 'j3' in c), key=accuracy)


def test_units_of_a_judge_do_not_weigh_in_a_combination():
    votes, quality = simulated(seed=5)
    pairs = pairs_of(votes)
    judges = {f'j{number}': margins_of(pairs, quality, 1.0, number) for number in range(3)}
    other = {**judges, 'j1': 1e6 * judges['j1']}
    one, two = (best_combination(pairs, group, 3, resamples=50) for group in (judges, other))
    assert one == two


def test_independent_judges_together_are_better_and_it_shows_on_other_scenes():
    votes, quality = simulated(seed=6, scenes=150, sharp=1000.0)
    pairs = pairs_of(votes)
    judges = {f'j{number}': margins_of(pairs, quality, 1.0, number) for number in range(3)}
    one, _, three = (best_combination(pairs, judges, size, resamples=200).cross_validated.share for size in (1, 2, 3))
    assert three.low > one.high


def test_cross_validation_is_not_fooled_by_chance():
    rng = np.random.default_rng(7)
    pairs = pairs_of([vote(f'{i}a', f'{i}b', float(rng.random() < 0.5)) for i in range(60)])
    judges = {f'j{number}': rng.normal(size=60) for number in range(60)}
    found = best_combination(pairs, judges, 2, resamples=50)
    assert found.in_sample > 0.65  # the best of 1770 pairs of coins
    assert abs(found.cross_validated.share.value - 0.5) < 0.2  # 3 standard errors


def test_too_few_judges_or_scenes_have_no_best_combination():
    pairs = pairs_of([vote('a', 'b', 1.0), vote('c', 'd', 1.0)])
    judges = {'one': np.array([1.0, 1.0])}
    assert best_combination(pairs, judges, 2) is None
    assert best_combination(pairs_of([vote('a', 'b', 1.0)]), {'one': np.array([1.0])}, 1) is None


def test_a_screening_sorts_judges_and_knows_the_core():
    votes, quality = simulated(seed=8, sharp=20.0)
    pairs = pairs_of(votes)
    rng = np.random.default_rng(0)
    judges = [
        JudgeScores('noise', True, {image: rng.normal() for image in quality}),
        JudgeScores('truth', True, quality, 'hash'),
        JudgeScores('cost', False, {image: -q + 0.3 * rng.normal() for image, q in quality.items()}),
    ]
    found = screen(pairs, judges, core='cost', resamples=50)
    assert [row.judge for row in found.rows] == ['truth', 'cost', 'noise']
    assert math.isnan(found.rows[1].rescue)
    assert found.rows[0].rescue > 0.5
    assert found.rows[0].core_wrong == round((1 - found.rows[1].pair_accuracy) * found.rows[1].pairs)
    assert found.ranks[0, 1] > 0.9  # directions are taken out
    assert all('cost' in one.judges for one in found.combinations)
    assert (found.scenes, found.images, found.rows[0].votes) == (30, 120, 900)
    with pytest.raises(ValueError, match="unknown core judge 'musiq'"):
        screen(pairs, judges, core='musiq')
    with pytest.raises(ValueError, match='two judges have the same name'):
        screen(pairs, [judges[0], judges[0]])


def test_intervals_of_judges_come_from_the_same_resamples():
    votes, quality = simulated(seed=9)
    pairs = pairs_of(votes)
    twins = [JudgeScores('one', True, quality), JudgeScores('two', True, {i: math.exp(q) for i, q in quality.items()})]
    one, two = screen(pairs, twins, resamples=80).rows
    assert (one.pair_low, one.pair_high, one.vote_low) == (two.pair_low, two.pair_high, two.vote_low)


def test_a_sample_of_pairs_is_without_repetition_and_of_the_seed():
    pairs = pairs_of(simulated(seed=10)[0])
    one, two, other = (sample_pairs(pairs, 40, seed) for seed in (1, 1, 2))
    assert len(set(one.tolist())) == 40
    assert one.tolist() == two.tolist() != other.tolist()
    with pytest.raises(ValueError, match=r'stage1: 1000 pairs asked for, but there are'):
        sample_pairs(pairs, 1000, 0)


def test_chosen_pairs_keep_their_votes():
    votes, quality = simulated(seed=11)
    pairs = pairs_of(votes)
    chosen = [7, 3, 100]
    some = pairs.of(chosen)
    own = [v for v in votes if any({v.left, v.right} == {pairs.left[p], pairs.right[p]} for p in chosen)]
    again = pairs_of(own)
    assert (len(some), len(some.pair), some.images) == (3, len(own), again.images)
    ours, theirs = (vote_accuracy(p, margins(p, 'x', quality, True), **FEW).share.value for p in (some, again))
    assert ours == pytest.approx(theirs)


def test_keepers_are_the_best_by_pairs_then_votes_then_name():
    votes, quality = simulated(seed=12)
    judges = [JudgeScores(name, True, quality) for name in ('b', 'a')]
    judges.append(JudgeScores('wrong', False, quality))
    rows = screen(pairs_of(votes), judges, resamples=20).rows
    assert keepers(rows, 2) == ['a', 'b']
    with pytest.raises(ValueError, match='keep must be'):
        keepers(rows, 0)


def test_correlations_are_scipys_and_plcc_follows_a_logistic_curve():
    rng = np.random.default_rng(13)
    scores = rng.normal(size=120)
    truth = 20 + 60 / (1 + np.exp(-(scores - 0.3) / 0.4))
    found = correlate(scores, truth, rng, resamples=50)
    assert found.plcc.value == pytest.approx(1, abs=1e-6)
    assert np.corrcoef(scores, truth)[0, 1] < 0.97
    noisy = truth + 8 * rng.normal(size=120)
    found = correlate(scores, noisy, rng, resamples=200)
    assert found.srocc.value == pytest.approx(stats.spearmanr(scores, noisy).statistic)
    assert found.krocc.value == pytest.approx(stats.kendalltau(scores, noisy).statistic)
    assert found.plcc.value >= np.corrcoef(truth, noisy)[0, 1] - 1e-6  # least squares fits no worse than the true curve
    for estimate in (found.srocc, found.plcc, found.krocc):
        assert estimate.low < estimate.value < estimate.high


def test_a_judge_that_is_wrong_throughout_has_negative_correlations_in_all_three():
    rng = np.random.default_rng(15)
    scores = rng.normal(size=60)
    mos = 3 - np.tanh(scores)
    found = correlate(scores, mos, rng, resamples=50)
    assert (found.srocc.value, found.krocc.value) == (pytest.approx(-1), pytest.approx(-1))
    assert found.plcc.value == pytest.approx(-1, abs=1e-6)
    assert found.plcc.high < -0.99
    right = correlate(-scores, mos, rng, resamples=50)
    assert right.plcc.value == pytest.approx(1, abs=1e-6)


def test_the_logistic_fit_keeps_the_order_and_the_units_do_not_matter():
    rng = np.random.default_rng(14)
    scores = np.sort(rng.normal(size=60))
    mos = np.tanh(scores) + 0.3 * rng.normal(size=60)
    fitted = logistic_fit(scores, mos)
    assert (np.diff(fitted) >= 0).all()
    assert np.allclose(logistic_fit(1e4 * scores - 7, mos), fitted, atol=1e-4)
    assert (np.diff(logistic_fit(scores, -mos)) <= 0).all()


def test_a_degenerate_logistic_fit_is_told_and_does_not_warn():
    """Two clusters: a step between them is the best curve, whatever the order within is."""
    rng = np.random.default_rng(16)
    scores = np.r_[rng.normal(0, 0.3, 6), rng.normal(10, 0.3, 6)]
    mos = np.r_[rng.normal(20, 0.5, 6), rng.normal(50, 0.5, 6)]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = correlate(scores, mos, rng, resamples=50)
        ramp = correlate(np.arange(12.0), np.arange(12.0) ** 1.1, rng, resamples=50)
        few = correlate(np.array([0.0, 1, 2]), np.array([0.0, 1, 1.5]), rng, resamples=50)
    assert found.plcc.value > 0.99 > 0.9 > found.srocc.value
    assert found.degenerate.startswith('a step: it maps all images to nearly two levels')
    assert ramp.degenerate == ''
    assert few.degenerate == '3 images for its four parameters'
    assert math.isnan(few.plcc.value)
    assert few.srocc.value == pytest.approx(1)
    with pytest.raises(ValueError, match='cannot be fitted: 3 images for its four parameters'):
        logistic_fit(np.arange(3.0), np.arange(3.0))
    lone = correlate(np.arange(8.0), np.array([0, 3, 7, 4, 8, 8, 2, 8]), rng, resamples=50)
    assert lone.degenerate == '8 images do not determine its four parameters'  # one of them lies on the slope
    even = correlate(np.array([0.0, 0, 1, 1]), np.array([0.0, 1, 0, 1]), rng, resamples=50)
    assert even.degenerate == 'no curve is better than the mean'
    assert math.isnan(even.plcc.value)
    opinions = [Opinion(f'{i}.png', value) for i, value in enumerate(mos)]
    (row,) = correlation_rows(opinions, [JudgeScores('j', True, {f'{i}.png': s for i, s in enumerate(scores)})])
    assert row.note == f"PLCC's logistic fit is degenerate for j ({found.degenerate})"
    assert f'- {row.note}' in mos_markdown([row], 'x', 0, 0, 50, notes=[row.note]).splitlines()


@pytest.mark.parametrize('speed', [2, 3, 5, 8])
@pytest.mark.parametrize('seed', [None, 0, 1, 2])
def test_opinions_that_rise_ever_faster_have_a_plcc(speed, seed):
    """The upper level of the best curve is at infinity: the curve that was reached is near enough."""
    scores = np.linspace(0, 1, 50) if seed is None else np.random.default_rng(seed).uniform(size=50)
    for sign in (1, -1):
        found = correlate(scores, sign * np.exp(speed * scores), np.random.default_rng(0), resamples=20)
        assert found.srocc.value == pytest.approx(sign)
        assert found.plcc.value == pytest.approx(sign, abs=1e-6)


def test_the_logistic_fit_never_warns_and_is_no_worse_than_a_line():
    rng = np.random.default_rng(18)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for number in range(150):
            scores = np.exp(5 * rng.normal(size=12)) if number % 2 else rng.integers(0, 3, 12).astype(float)
            mos = rng.integers(0, 3, 12).astype(float)
            line = abs(np.corrcoef(scores, mos)[0, 1])
            if line > 0.1:
                assert np.corrcoef(logistic_fit(scores, mos), mos)[0, 1] > line - 1e-3


def test_three_images_have_rank_correlations_but_no_plcc():
    opinions = [Opinion(f'{i}.png', float(i)) for i in range(3)]
    (row,) = correlation_rows(opinions, [JudgeScores('j', True, {f'{i}.png': float(i) for i in range(3)})])
    assert correlation_texts(row)[1] == 'none'
    assert correlation_texts(row)[0].startswith('1.000')
    assert row.note == 'j has no PLCC: its logistic curve cannot be fitted (3 images for its four parameters)'
    (flat,) = correlation_rows(opinions, [JudgeScores('flat', True, {f'{i}.png': 1.0 for i in range(3)})])
    assert correlation_texts(flat) == ['constant'] * 3


def test_images_of_a_scene_are_drawn_together_whatever_their_references_are():
    rng = np.random.default_rng(17)
    values = np.repeat(rng.normal(size=6), 8)
    scores = JudgeScores('j', True, {f'{i}.png': float(v + rng.normal()) for i, v in enumerate(values)})
    mos = values + 0.3 * rng.normal(size=48)
    by_scene, by_reference, of_none = (
        [Opinion(f'{i}.png', float(v), reference.format(i), '', scene.format(i // 8)) for i, v in enumerate(mos)]
        for reference, scene in (('r{}', 's{}'), ('s', 's{}'), ('', ''))
    )
    one, other, free = (correlation_rows(o, [scores], resamples=200)[0] for o in (by_scene, by_reference, of_none))
    assert (one.srocc_low, one.srocc_high) == (other.srocc_low, other.srocc_high)
    assert one.srocc_high - one.srocc_low > free.srocc_high - free.srocc_low
    assert [scenes_of(o) for o in (by_scene, by_reference, of_none)] == [6, 6, 0]


def test_what_was_left_out_is_told_only_where_something_was():
    judge = JudgeScores('j', True, {'a': 1.0, 'b': 2.0, 'c': 3.0})
    votes = [Vote('', 's', 'a', 'b', 1.0), Vote('', 's', 'b', 'c', 1.0)]
    assert counts(screen(pairs_of(votes), [judge], resamples=20)) == (
        '1 judge, 2 answers on 2 pairs of 3 images, 1 scenes.'
    )
    votes += [Vote('', 's', 'a', 'c', 0.5), Vote('', 's', 'a', 'b', 0.0)]
    text = counts(screen(pairs_of(votes), [judge], resamples=20))
    assert 'Left out: 1 ties, with them 1 pairs.' in text
    assert 'Pairs whose votes are even count per vote, but not per pair: 1.' in text


def test_a_judge_in_two_scores_files_is_refused(tmp_path):
    from nriqa_plugin.evaluation.scores import Score, write_scores

    files = [tmp_path / 'one.csv', tmp_path / 'two.csv']
    for file in files:
        write_scores(file, [Score('a.png', 'niqe', 3.0, False, 'h')])
    with pytest.raises(ValueError, match='niqe is in two scores files'):
        from_files(files)
    assert from_files(files[:1]) == [JudgeScores('niqe', False, {'a.png': 3.0}, 'h')]


def test_rows_of_opinions_take_the_direction_and_say_what_is_missing():
    opinions = [Opinion(f'{i}.png', float(i), f'r{i % 4}') for i in range(12)]
    down = JudgeScores('down', False, {f'{i}.png': -(float(i) ** 3) for i in range(12)})
    flat = JudgeScores('flat', True, {f'{i}.png': 1.0 for i in range(12)})
    rows = correlation_rows(opinions, [flat, down], resamples=50)
    assert [row.judge for row in rows] == ['down', 'flat']
    assert (rows[0].srocc, rows[0].krocc) == (pytest.approx(1), pytest.approx(1))
    assert math.isnan(rows[1].srocc)
    assert [row.note for row in rows] == ['', '']
    with pytest.raises(ValueError, match=r'x has no score for 12 \(0\.png'):
        correlation_rows(opinions, [JudgeScores('x', True, {})])
    infinite = JudgeScores('x', True, {**flat.scores, '3.png': math.inf})
    with pytest.raises(ValueError, match=r'x: the score is not finite for 1 \(3\.png\)'):
        correlation_rows(opinions, [infinite])
