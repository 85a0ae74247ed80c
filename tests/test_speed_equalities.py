"""What was made faster gives the same values and gradients as what it replaces."""

import pytest
import torch
from torch import nn

from nriqa_plugin.iqa import Scorer, create_scorer
from nriqa_plugin.iqa.eager_gradient import eager_scores
from nriqa_plugin.iqa.faster_musiq import musiq_scores
from nriqa_plugin.iqa.pyiqa_tables import metric_configs
from nriqa_plugin.losses import NRIQALoss
from tests.judges import Detached

needs_pyiqa = pytest.mark.skipif(not metric_configs(), reason='pyiqa is not installed')
# Two of the fourteen layers, for speed.
SMALL = {'num_layers': 2, 'pretrained': False}


def musiq(**options):
    """pyiqa's network with random weights, also where they are constant at the start."""
    from pyiqa.archs.musiq_arch import MUSIQ

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MUSIQ(**SMALL, **options)
        for parameter in network.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    return network.eval().requires_grad_(False)


def value_and_gradient(function, pred):
    pred = pred.clone().requires_grad_()
    scores = function(pred).flatten()
    return scores.detach(), torch.autograd.grad(scores.sum(), pred)[0]


def assert_same(got, expected, tolerance):
    """Gradients by their relative error; scores, which may be near 0, absolutely too."""
    for ours, theirs in zip(got, expected, strict=True):
        assert theirs.abs().max() > 0
        assert (ours - theirs).norm() <= tolerance * theirs.norm() + tolerance * (theirs.dim() == 1)


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- MUSIQ ---


@needs_pyiqa
@pytest.mark.parametrize(
    ('shape', 'options'),
    [
        ((2, 3, 96, 96), {}),
        ((1, 3, 70, 130), {}),  # places without a patch, and patches that need padding
        ((2, 3, 64, 80), {'num_class': 10}),
        ((1, 3, 130, 70), {'longer_side_lengths': [96, 64], 'max_seq_len_from_original_res': 3}),
        ((1, 3, 64, 64), {'max_seq_len_from_original_res': None, 'use_scale_emb': False}),
    ],
    ids=str,
)
def test_our_way_through_musiq_equals_pyiqas(shape, options):
    network, pred = musiq(**options), noise(*shape)
    expected = value_and_gradient(network, pred)
    assert_same(value_and_gradient(lambda images: musiq_scores(network, images), pred), expected, 1e-5)


@needs_pyiqa
def test_our_way_through_musiq_equals_pyiqas_to_fifteen_digits_in_float64():
    network, pred = musiq().double(), noise(1, 3, 64, 96, dtype=torch.float64)
    expected = value_and_gradient(network, pred)
    assert_same(value_and_gradient(lambda images: musiq_scores(network, images), pred), expected, 1e-13)


@needs_pyiqa
def test_flat_images_take_the_same_of_many_equal_neighbours():
    network, pred = musiq(), torch.full((1, 3, 64, 64), 0.25)
    expected = value_and_gradient(network, pred)
    assert_same(value_and_gradient(lambda images: musiq_scores(network, images), pred), expected, 1e-5)


@needs_pyiqa
def test_the_judge_musiq_takes_our_way_and_keeps_pyiqas_network(tmp_path, monkeypatch):
    from pyiqa.archs.musiq_arch import MUSIQ

    file = tmp_path / 'w.pth'
    torch.save(MUSIQ(**SMALL).state_dict(), file)
    judge = create_scorer('musiq', weights=file, num_layers=2)
    assert isinstance(judge.network, MUSIQ)
    expected = judge.network(noise(1, 3, 64, 64)).flatten()
    monkeypatch.setattr(MUSIQ, 'forward', None)
    assert torch.allclose(judge(noise(1, 3, 64, 64)), expected, atol=1e-5)


@needs_pyiqa
def test_a_network_with_other_parts_is_scored_by_itself_and_the_log_says_so(tmp_path, plugin_log):
    from pyiqa.archs.musiq_arch import MUSIQ

    file = tmp_path / 'w.pth'
    torch.save(MUSIQ(**SMALL).state_dict(), file)
    judge = create_scorer('musiq', weights=file, num_layers=2)
    judge.network = nn.Sequential(nn.AvgPool2d(64), nn.Conv2d(3, 1, 1))
    image = noise(2, 3, 64, 64)
    assert torch.equal(judge(image), judge.network(image).flatten())
    assert 'has other parts than the tested one' in plugin_log.text


@needs_pyiqa
def test_a_patch_size_that_pyiqa_cannot_score_is_refused():
    network = musiq(patch_size=30)
    with pytest.raises(RuntimeError):
        network(noise(1, 3, 64, 64))
    with pytest.raises(ValueError, match='patch_size must be a multiple of 4, got 30'):
        musiq_scores(network, noise(1, 3, 64, 64))


# --- gradients at once ---


class Waves(Scorer):
    """Every image's own mean of a sine; undefined for images whose first pixel is black."""

    name = 'waves'
    score_range = (-1.0, 1.0)
    seen = ()

    def score(self, pred, ref=None):
        self.seen = (*self.seen, len(pred))
        return (9 * pred).sin().mean((1, 2, 3)) / (pred[:, 0, 0, 0] > 0)


def test_gradients_taken_at_once_are_those_of_the_backward_pass():
    network, pred = nn.Conv2d(3, 1, 3).requires_grad_(False), noise(3, 3, 16, 16)
    factors = torch.tensor([1.0, -2.0, 0.0])

    def score(images, ref=None):
        return network(images).tanh().mean((1, 2, 3))

    expected = value_and_gradient(lambda images: factors * score(images), pred)
    assert_same(value_and_gradient(lambda images: factors * eager_scores(score, images), pred), expected, 1e-6)


def test_the_reference_of_every_image_goes_with_it():
    pred, ref = noise(3, 3, 16, 16), noise(3, 3, 16, 16, seed=1)

    def score(images, ref):
        return (images - ref).square().mean((1, 2, 3))

    expected = value_and_gradient(lambda images: score(images, ref), pred)
    assert_same(value_and_gradient(lambda images: eager_scores(score, images, ref), pred), expected, 1e-6)


@pytest.mark.parametrize('options', [{}, {'stop_at': 0.2}, {'scale': 'unit', 'crop': 12, 'crops': 2}], ids=str)
def test_checkpoint_changes_neither_loss_nor_gradient_even_with_an_undefined_image(options):
    pred = noise(3, 3, 16, 16)
    pred[1, 0] = 0
    plain, eager = (NRIQALoss(Waves(), checkpoint=flag, **options) for flag in (False, True))
    assert_same(value_and_gradient(eager, pred), value_and_gradient(plain, pred), 1e-6)
    assert eager.undefined == plain.undefined > 0
    assert set(eager.scorer.seen[1:]) == {1}


def test_without_gradients_checkpoint_scores_the_batch_at_once():
    loss = NRIQALoss(Waves(), checkpoint=True, probe=False)
    with torch.no_grad():
        loss(noise(3, 3, 16, 16).requires_grad_())
    assert loss.scorer.seen == (3,)


class Halves(torch.autograd.Function):
    """Sums rows, with a matrix product as its gradient, which an autocast around it would round."""

    @staticmethod
    def forward(ctx, rows):
        ctx.save_for_backward(rows)
        return rows.square().sum(1) / 2

    @staticmethod
    def backward(ctx, gradient):
        (rows,) = ctx.saved_tensors
        return gradient.diag() @ rows


class Products(Scorer):
    """Half the squared norm of an image; notes whether it runs under autocast."""

    name = 'products'
    half = ()

    def score(self, pred, ref=None):
        self.half = (*self.half, torch.is_autocast_enabled('cpu'))
        return Halves.apply(pred.flatten(1))


def test_autocast_around_the_loss_does_not_round_a_gradient_that_is_taken_at_once():
    loss, pred = NRIQALoss(Products(), checkpoint=True), noise(2, 3, 8, 8)
    expected = value_and_gradient(loss, pred)
    with torch.autocast('cpu', torch.bfloat16):
        got = value_and_gradient(loss, pred)
    assert_same(got, expected, 1e-6)
    assert not any(loss.scorer.half)


def test_the_judge_runs_in_bf16_at_once_when_asked():
    loss = NRIQALoss(Products(), checkpoint=True, precision='bf16', probe=False)
    for outer in (False, True):
        with torch.autocast('cpu', torch.bfloat16, enabled=outer):
            loss(noise(1, 3, 8, 8).requires_grad_())
    assert loss.scorer.half == (True, True)


def test_gradients_of_half_images_outlive_until_a_scalers_factor_arrives():
    """2e-9 per value is 0 in float16, 2e-9 * 2^16 is not."""
    pred = noise(2, 3, 8, 8).half().requires_grad_()
    scores = eager_scores(lambda images, ref: 1e-9 * images.square().sum((1, 2, 3)), pred)
    (2.0**16 * scores.sum()).backward()
    assert pred.grad.dtype == torch.float16
    assert torch.allclose(pred.grad.float(), 2.0**17 * 1e-9 * pred.detach().float(), rtol=2e-3, atol=6e-8)


def test_scores_without_any_gradient_are_refused_but_undefined_ones_are_not():
    pred = noise(2, 3, 8, 8).requires_grad_()
    with pytest.raises(ValueError, match='the scores have no gradient'):
        NRIQALoss(Detached(), checkpoint=True, probe=False)(pred)
    eager_scores(lambda images, ref: images.new_full((1,), torch.nan), pred).sum().backward()
    assert pred.grad.tolist() == torch.zeros_like(pred).tolist()


def test_targets_are_scored_one_by_one_too():
    loss = NRIQALoss(Waves(), checkpoint=True, stop_at='target', probe=False)
    plain = NRIQALoss(Waves(), stop_at='target', probe=False)
    pred, target = noise(3, 3, 16, 16), noise(3, 3, 16, 16, seed=1)
    expected = value_and_gradient(lambda images: plain(images, target), pred)
    assert_same(value_and_gradient(lambda images: loss(images, target), pred), expected, 1e-6)
    assert set(loss.scorer.seen) == {1}
