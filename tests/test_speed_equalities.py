"""What was made faster gives the same values and gradients as what it replaces."""

import pytest
import torch
from torch import nn

from nriqa_plugin.iqa import Scorer, create_scorer
from nriqa_plugin.iqa.eager_gradient import eager_scores
from nriqa_plugin.iqa.faster_musiq import musiq_scores
from nriqa_plugin.iqa.pyiqa_tables import metric_configs
from nriqa_plugin.losses import NRIQALoss

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
