"""The scale of Thurstone's Case V against choix, against a general optimizer and on simulated people."""

import math

import numpy as np
import pytest

pytest.importorskip('scipy', reason='the extra report is not installed')

from scipy import optimize, stats

from nriqa_plugin.preference.thurstone import (
    JND,
    covariance,
    has_maximum,
    log_likelihood,
    parts,
    thurstone,
    win_probability,
)


def simulate(truth, n, generator):
    """``(k, k)`` counts of ``n`` votes a pair by people who follow the model."""
    truth = np.asarray(truth, dtype=float)
    counts = np.zeros((len(truth), len(truth)))
    for i in range(len(truth)):
        for j in range(i):
            counts[i, j] = generator.binomial(n, stats.norm.cdf((truth[i] - truth[j]) / JND))
            counts[j, i] = n - counts[i, j]
    return counts


def test_one_jnd_is_three_of_four():
    assert win_probability(1.0) == pytest.approx(0.75, abs=1e-5)
    assert win_probability(0.0) == 0.5
    assert win_probability(-2.0) == pytest.approx(1 - win_probability(2.0))


def test_two_conditions_lie_where_their_share_says():
    scores = thurstone([[0, 30], [10, 0]], prior=math.inf)
    assert scores[0] - scores[1] == pytest.approx(1.0, abs=1e-4)
    assert scores.sum() == pytest.approx(0, abs=1e-12)
    with_prior = thurstone([[0, 30], [10, 0]])
    assert with_prior[0] - with_prior[1] == pytest.approx(1.0, rel=1e-2)
    assert with_prior[0] - with_prior[1] < scores[0] - scores[1]


def test_the_scale_is_choixs():
    """EP gives the posterior's mean, ours is its maximum: with so many votes the same."""
    choix = pytest.importorskip('choix', reason='choix is not installed')
    rng = np.random.default_rng(0)
    counts = simulate([0.0, 0.4, 1.1, -0.8, 2.0], 60, rng)
    votes = [(i, j) for i in range(5) for j in range(5) for _ in range(int(counts[i, j]))]
    mean, spread = choix.ep_pairwise(5, votes, alpha=(JND / 10) ** 2, model='probit')
    expected = JND * (mean - mean.mean())
    assert thurstone(counts) == pytest.approx(expected, abs=0.02)
    assert np.ptp(expected) > 2.5
    ours, theirs = covariance(counts, thurstone(counts)), JND**2 * spread
    for i, j in ((0, 1), (3, 4), (1, 2)):
        of_difference = [c[i, i] + c[j, j] - 2 * c[i, j] for c in (ours, theirs)]
        assert of_difference[0] == pytest.approx(of_difference[1], rel=0.05)


@pytest.mark.parametrize('prior', [1.0, 10.0, math.inf])
def test_the_scale_maximises_the_posterior(prior):
    counts = simulate([0.0, 1.0, 2.5, -1.0], 15, np.random.default_rng(1))
    counts[0, 1] += 0.5  # a tie
    counts[1, 0] += 0.5

    def loss(q):
        return -log_likelihood(counts, q) + (0 if prior == math.inf else (q**2).sum() / (2 * prior**2))

    found = optimize.minimize(loss, np.zeros(4), method='BFGS', options={'gtol': 1e-9}).x
    assert thurstone(counts, prior) == pytest.approx(found - found.mean(), abs=1e-5)


def test_a_batch_is_its_members():
    rng = np.random.default_rng(2)
    counts = np.stack([simulate([0, 1, 2], n, rng) for n in (5, 20, 80)]).reshape(3, 1, 3, 3)
    together = thurstone(counts)
    assert together.shape == (3, 1, 3)
    for one, scores in zip(counts, together, strict=True):
        assert thurstone(one[0]) == pytest.approx(scores[0], abs=1e-9)


def test_unanimous_conditions_stay_finite_and_grow_with_the_prior():
    counts = [[0, 20, 20], [0, 0, 12], [0, 8, 0]]
    narrow, wide = (thurstone(counts, prior) for prior in (5.0, 20.0))
    assert np.isfinite(wide).all()
    assert 3 < narrow[0] - narrow[1] < wide[0] - wide[1] < 15
    assert not has_maximum(np.array(counts))
    with pytest.raises(ValueError, match='no finite scale'):
        thurstone(counts, prior=math.inf)


def test_a_thousand_unanimous_votes_do_not_upset_the_steps():
    scores = thurstone([[0, 1e5, 0], [0, 0, 1e5], [0, 0, 0]])
    assert scores[0] - scores[1] == pytest.approx(scores[1] - scores[2])
    assert 5 < scores[0] - scores[1] < 15


def test_parts_that_nobody_compared_have_scales_of_their_own():
    counts = np.zeros((5, 5))
    counts[0, 2], counts[2, 0] = 6, 2
    counts[1, 4], counts[4, 1] = 3, 9
    assert parts(counts).tolist() == [0, 1, 0, 2, 1]
    scores = thurstone(counts)
    assert scores[[0, 2]] == pytest.approx(thurstone([[0, 6], [2, 0]]))
    assert scores[[1, 4]] == pytest.approx(thurstone([[0, 3], [9, 0]]))
    assert scores[3] == 0
    without = thurstone(counts, prior=math.inf)
    assert without[[0, 2]] == pytest.approx(thurstone([[0, 6], [2, 0]], prior=math.inf))


def test_a_chain_of_comparisons_is_one_part():
    counts = np.zeros((9, 9))
    for i in range(8):
        counts[i, i + 1] = 1
    assert parts(counts).tolist() == [0] * 9
    assert parts(counts.T).tolist() == [0] * 9


def test_simulated_people_give_the_truth_back():
    truth = np.array([-1.5, -0.2, 0.1, 0.6, 1.0])
    found = thurstone(simulate(truth, 20_000, np.random.default_rng(3)))
    assert found == pytest.approx(truth - truth.mean(), abs=0.05)


@pytest.mark.parametrize(
    ('counts', 'said'),
    [
        ([[0, 1, 2]], r'got \(1, 3\)'),
        ([[0]], 'at least two conditions'),
        ([[0, math.nan], [1, 0]], 'must be finite'),
        ([[0, -1], [1, 0]], 'not negative'),
    ],
)
def test_counts_that_are_none_are_refused(counts, said):
    with pytest.raises(ValueError, match=said):
        thurstone(counts)
    with pytest.raises(ValueError, match='prior must be'):
        thurstone([[0, 1], [1, 0]], prior=0)
