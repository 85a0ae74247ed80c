"""Colour consistency and total variation against numbers worked out by hand."""

import pytest
import torch

from nriqa_plugin.losses import ColourLoss, LossSum, TVLoss
from tests.test_losses import gradient, images


def test_tv_of_a_small_image_is_the_number_worked_out_by_hand():
    # | 0 1 |   vertical neighbours differ by 3 and 1: mean 2; horizontal ones by 1 and 1: mean 1
    # | 3 2 |
    pred = torch.tensor([[0.0, 1.0], [3.0, 2.0]]).view(1, 1, 2, 2)
    value, grad = gradient(TVLoss(), pred)
    assert value == pytest.approx(3.0)
    # d|b - a|/db = sign(b - a), halved by each mean
    assert grad.view(2, 2).tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_tv_of_a_ramp_is_its_slope_and_of_a_flat_image_zero():
    ramp = torch.arange(6.0).mul(0.1).expand(2, 3, 4, 6)
    assert TVLoss()(ramp).item() == pytest.approx(0.1)
    assert TVLoss(loss_weight=3.0)(ramp.mT).item() == pytest.approx(0.3)
    value, grad = gradient(TVLoss(), torch.full((1, 3, 4, 4), 0.5))
    assert value == 0
    assert grad.abs().max() == 0


def test_tv_ignores_the_target():
    pred = images(1, 3, 8, 8)
    assert TVLoss()(pred, images(1, 3, 8, 8, seed=1)) == TVLoss()(pred)


def test_colour_loss_is_the_number_worked_out_by_hand():
    """4 x 6 px and a factor of 4: one whole area, and one of 4 x 2 px at the border, which counts as much."""
    target = torch.zeros(1, 3, 4, 6)
    pred = target.clone()
    pred[:, 0, :, :4] = 0.3  # red, whole area
    pred[:, 1, :, 4:] = 0.6  # green, border
    value, grad = gradient(ColourLoss(factor=4), pred, target)
    assert value == pytest.approx((0.3 + 0.6) / 6)
    assert torch.allclose(grad[0, 0, :, :4], torch.tensor(1 / 6 / 16))
    assert torch.allclose(grad[0, 1, :, 4:], torch.tensor(1 / 6 / 8))
    assert grad[0, 2].abs().max() == 0


def test_texture_finer_than_the_areas_is_free_and_a_drift_of_colour_costs_its_size():
    target = images(2, 3, 16, 16)
    checkerboard = torch.tensor([[0.1, -0.1], [-0.1, 0.1]]).repeat(8, 8)
    assert ColourLoss()(target + checkerboard, target).item() == pytest.approx(0, abs=1e-7)
    assert ColourLoss()(target + 0.1, target).item() == pytest.approx(0.1)
    assert ColourLoss(loss_weight=2.0)(target + 0.1, target).item() == pytest.approx(0.2)


def test_a_factor_of_one_is_l1_and_a_huge_one_compares_mean_colours():
    pred, target = images(2, 3, 9, 7), images(2, 3, 9, 7, seed=1)
    value, grad = gradient(ColourLoss(factor=1), pred, target)
    assert value == pytest.approx((pred - target).abs().mean().item())
    assert torch.allclose(grad, (pred - target).sign() / pred.numel())
    means = (pred.mean((2, 3)) - target.mean((2, 3))).abs().mean().item()
    assert ColourLoss(factor=100)(pred, target).item() == pytest.approx(means)


def test_colour_loss_keeps_its_digits_in_bfloat16():
    target = torch.full((1, 3, 64, 64), 0.5, dtype=torch.bfloat16)
    pred = target.clone()
    pred[..., ::8, ::8] += 0.03125
    value = ColourLoss()(pred, target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(0.03125 / 64)


@pytest.mark.parametrize('loss', [ColourLoss(4), TVLoss()], ids=['colour', 'tv'])
def test_frames_are_treated_like_images_and_gradcheck_holds(loss):
    pred, target = images(2, 3, 3, 9, 7).double(), images(2, 3, 3, 9, 7, seed=1).double()
    value, grad = gradient(loss, pred, target)
    frames_value, frames_grad = gradient(loss, pred.flatten(0, 1), target.flatten(0, 1))
    assert value == pytest.approx(frames_value)
    assert torch.allclose(grad.flatten(0, 1), frames_grad)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), (pred.requires_grad_(),), fast_mode=True)


def test_in_a_sum_they_see_rgb_in_zero_to_one():
    terms = [{'type': 'ColourLoss', 'weight': 1.0, 'factor': 4}, {'type': 'TVLoss', 'weight': 0.5}]
    total = LossSum(terms, space={'range': [-1, 1], 'order': 'bgr'})
    pred, target = images(1, 3, 8, 8), images(1, 3, 8, 8, seed=1)
    expected = ColourLoss(4)(pred, target) + 0.5 * TVLoss()(pred)
    assert total(pred.flip(1) * 2 - 1, target.flip(1) * 2 - 1).item() == pytest.approx(expected.item(), rel=1e-5)
    assert list(total.values) == ['colour', 'tv']


@pytest.mark.parametrize(
    ('call', 'kind', 'message'),
    [
        (lambda: ColourLoss(factor=0), ValueError, 'factor'),
        (lambda: ColourLoss(factor=2.5), TypeError, 'factor'),
        (lambda: ColourLoss(loss_weight='5e-5'), TypeError, 'loss_weight.*YAML'),
        (lambda: TVLoss(loss_weight=-1), ValueError, 'loss_weight'),
        (lambda: ColourLoss()(images(1, 1, 8, 8), images(1, 1, 8, 8)), ValueError, 'ColourLoss wants 3 channels'),
        (lambda: ColourLoss()(images(1, 3, 8, 8), images(1, 3, 9, 8)), ValueError, r'\(1, 3, 8, 8\) but target is'),
        (lambda: TVLoss()(images(3, 8, 8)), ValueError, r'TVLoss wants.*got \(3, 8, 8\)'),
        (lambda: TVLoss()(images(1, 3, 8, 1)), ValueError, 'at least 2 px'),
    ],
)
def test_wrong_options_and_images_are_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_squared_variation_is_half_of_iseebetters_and_has_its_gradient():
    """Twice the sum over both directions of the mean squared difference (the PyTorch versions of SRGAN, iSeeBetter)."""
    pred = images(2, 3, 6, 8).double().requires_grad_()
    vertical, horizontal = pred.diff(dim=-2).square(), pred.diff(dim=-1).square()
    published = 2 * (vertical.sum() / (3 * 5 * 8) + horizontal.sum() / (3 * 6 * 7)) / 2  # the batch has two
    loss = TVLoss(squared=True)(pred)
    torch.testing.assert_close(2 * loss, published)
    (got,), (expected,) = (torch.autograd.grad(value, pred) for value in (2 * loss, published))
    torch.testing.assert_close(got, expected)
    with pytest.raises(TypeError, match='squared'):
        TVLoss(squared='yes')
