"""Losses: value and gradient against hand-written formulas, schedules, guards and non-finite rules."""

import copy

import pytest
import torch
from torch import nn

from nriqa_plugin.losses import CharbonnierLoss, FRIQALoss, LossPair, LossSum, NRIQALoss
from nriqa_plugin.losses.step_guard import StepGuard
from tests.judges import Brightness, Darkness, Distance, FlatIsUndefined, TinyNet


def images(*shape, seed=0, low=0.1, high=0.9):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*shape, generator=generator)


def gradient(loss, pred, target=None):
    pred = pred.clone().requires_grad_()
    value = loss(pred, target)
    value.backward()
    return value.item(), pred.grad


def test_loss_falls_when_a_higher_is_better_score_rises():
    value, grad = gradient(NRIQALoss(Brightness()), images(2, 3, 8, 8))
    assert value == pytest.approx(-images(2, 3, 8, 8).mean().item())
    assert torch.allclose(grad, torch.full_like(grad, -1 / grad.numel()))


def test_loss_falls_when_a_lower_is_better_score_falls():
    value, grad = gradient(NRIQALoss(Darkness(gain=4.0)), images(2, 3, 8, 8))
    assert value == pytest.approx(4 * images(2, 3, 8, 8).mean().item(), rel=1e-6)
    assert torch.allclose(grad, torch.full_like(grad, 4 / grad.numel()))


@pytest.mark.parametrize(('judge', 'expected'), [(Brightness(), 0.75), (Darkness(gain=100.0), 0.25)])
def test_unit_scale_maps_the_best_end_of_the_range_to_zero(judge, expected):
    loss = NRIQALoss(judge, scale='unit')
    assert loss(torch.full((1, 3, 8, 8), 0.25)).item() == pytest.approx(expected)


def test_full_reference_loss_equals_its_formula_with_gradient():
    pred, target = images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    value, grad = gradient(FRIQALoss(Distance()), pred, target)
    assert value == pytest.approx((pred - target).abs().mean().item())
    assert torch.allclose(grad, (pred - target).sign() / pred.numel())


def test_charbonnier_equals_its_formula_and_has_a_gradient_at_equal_pixels():
    pred, target = images(1, 3, 4, 4), images(1, 3, 4, 4, seed=1)
    assert CharbonnierLoss(1e-6)(pred, target).item() == pytest.approx(
        ((pred - target) ** 2 + 1e-6).sqrt().mean().item()
    )
    assert gradient(CharbonnierLoss(), pred, pred)[1].abs().max() == 0


def test_nr_loss_passes_gradcheck_through_clamp_crop_and_augmentation():
    loss = NRIQALoss(TinyNet(), crop=12, crops=2, augment=True, clamp=False).double()
    loss.set_iteration(7)
    pred = images(2, 3, 16, 16).double().requires_grad_()
    assert torch.autograd.gradcheck(loss, (pred,), check_undefined_grad=False)


def test_clamp_scores_the_clamped_image_but_keeps_the_gradient():
    pred = torch.full((1, 3, 8, 8), 1.5)
    value, grad = gradient(NRIQALoss(Brightness()), pred)
    assert value == -1.0
    assert torch.allclose(grad, torch.full_like(grad, -1 / grad.numel()))


def test_stop_at_a_score_ends_the_reward_there():
    loss = NRIQALoss(Brightness(), stop_at=0.5)
    assert gradient(loss, torch.full((1, 3, 8, 8), 0.7))[1].abs().max() == 0
    assert gradient(loss, torch.full((1, 3, 8, 8), 0.3))[1].abs().min() > 0


def test_stop_at_target_ends_the_reward_at_the_ground_truths_own_score_image_by_image():
    pred = torch.stack([torch.full((3, 8, 8), 0.7), torch.full((3, 8, 8), 0.3)])
    target = torch.full((2, 3, 8, 8), 0.5)
    grad = gradient(NRIQALoss(Brightness(), stop_at='target'), pred, target)[1]
    assert grad[0].abs().max() == 0
    assert grad[1].abs().min() > 0
    with pytest.raises(ValueError, match='stop_at: target needs a target'):
        NRIQALoss(Brightness(), stop_at='target')(pred)


def test_stop_at_target_ignores_a_target_whose_score_is_undefined():
    loss = NRIQALoss(FlatIsUndefined(), stop_at='target')
    free = gradient(NRIQALoss(FlatIsUndefined()), images(1, 3, 8, 8))[1]
    assert torch.allclose(gradient(loss, images(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5))[1], free)


def test_images_left_out_are_reported(plugin_log):
    loss = NRIQALoss(FlatIsUndefined())
    loss(torch.full((3, 3, 8, 8), 0.5))
    loss.report_counts()
    loss.report_counts()
    assert plugin_log.text.count('flat_is_undefined: 3 images so far were left out') == 1


def test_five_dimensional_input_is_scored_frame_by_frame():
    loss = NRIQALoss(TinyNet())
    clip = images(2, 3, 3, 16, 16)
    value, grad = gradient(loss, clip)
    frames_value, frames_grad = gradient(loss, clip.flatten(0, 1))
    assert value == pytest.approx(frames_value)
    assert torch.allclose(grad.flatten(0, 1), frames_grad)


def test_a_video_judge_gets_the_clip():
    assert NRIQALoss('tests.judges:Clip')(images(2, 4, 3, 8, 8)).dim() == 0
    with pytest.raises(ValueError, match=r'\(N, T, C, H, W\)'):
        NRIQALoss('tests.judges:Clip')(images(2, 3, 8, 8))


def test_random_views_depend_on_seed_and_iteration_only():
    loss, other = (NRIQALoss(TinyNet(), crop=8, augment=True, seed=s) for s in (3, 4))
    pred = images(2, 3, 32, 32)
    values = []
    for iteration in (5, 6, 5):
        torch.manual_seed(iteration * 100 + len(values))  # the global generator must not matter
        loss.set_iteration(iteration)
        values.append(loss(pred).item())
    other.set_iteration(5)
    assert values[0] == values[2] != values[1]
    assert other(pred).item() != values[0]


def test_crops_are_cut_at_the_same_place_from_prediction_and_target():
    loss = FRIQALoss(Distance(), crop=8, crops=3, augment=True)
    pred = images(2, 3, 32, 32)
    assert loss(pred, pred.clone()).item() == pytest.approx(0, abs=1e-7)


def test_undefined_images_are_left_out_and_counted_and_have_no_gradient():
    batch = images(2, 3, 8, 8)
    batch[1] = 0.5
    loss = NRIQALoss(FlatIsUndefined())
    value, grad = gradient(loss, batch)
    assert value == pytest.approx(-batch[0].mean().item(), rel=1e-6)
    assert loss.undefined == 1
    assert torch.isfinite(grad).all()
    assert grad[1].abs().max() == 0
    assert grad[0].abs().max() > 0


def test_nan_predictions_give_a_nan_loss_and_are_not_called_undefined():
    batch = images(2, 3, 8, 8)
    batch[0, 0, 0, 0] = torch.nan
    loss = NRIQALoss(Brightness())
    assert torch.isnan(loss(batch))
    assert loss.undefined == 0


def test_activation_checkpointing_changes_nothing():
    pred = images(1, 3, 16, 16)
    plain, saved = (gradient(NRIQALoss(TinyNet(), checkpoint=c), pred) for c in (False, True))
    assert plain[0] == saved[0]
    assert torch.equal(plain[1], saved[1])


def test_bf16_precision_agrees_to_about_two_digits():
    pred = images(1, 3, 16, 16)
    exact, rough = (NRIQALoss(TinyNet(), precision=p)(pred).item() for p in ('fp32', 'bf16'))
    assert exact != rough
    assert rough == pytest.approx(exact, abs=0.02)


def test_autocast_around_the_loss_does_not_lower_the_judges_precision():
    pred = images(1, 3, 16, 16)
    loss = NRIQALoss(TinyNet())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert loss(pred).item() == loss(pred).float().item() == NRIQALoss(TinyNet())(pred).item()


def test_space_brings_minus_one_to_one_bgr_to_unit_rgb():
    rgb = images(1, 3, 8, 8)
    network = (rgb * 2 - 1).flip(1)
    space = {'range': [-1, 1], 'order': 'bgr'}
    plain = LossSum([{'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 1.0}])
    spaced = LossSum([{'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 1.0}], space=space)
    assert spaced(network, network).item() == pytest.approx(plain(rgb, rgb).item(), rel=1e-5)


@pytest.mark.parametrize('factor', [255.0, 3.0])
def test_a_first_target_out_of_range_is_refused(factor):
    loss = LossSum([{'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 1.0}])
    with pytest.raises(ValueError, match=r'first target.*must lie in \[0, 1\].*divide 8-bit'):
        loss(images(1, 3, 8, 8), images(1, 3, 8, 8) * factor)


# ------------------------------------------------------------------------------------------------- LossSum


def terms(**second):
    return [
        {'type': 'MSELoss', 'weight': 2.0},
        {'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 0.5, **second},
    ]


def test_loss_sum_equals_the_terms_summed_by_hand_with_gradient():
    pred, target = images(2, 3, 16, 16), images(2, 3, 16, 16, seed=1)
    judge = NRIQALoss(TinyNet())
    value, grad = gradient(LossSum(terms()), pred, target)
    by_hand, hand_grad = gradient(lambda p, t: 2.0 * nn.functional.mse_loss(p, t) + 0.5 * judge(p), pred, target)
    assert value == pytest.approx(by_hand, rel=1e-6)
    assert torch.allclose(grad, hand_grad, atol=1e-9)


def test_a_sum_in_float64_passes_gradcheck():
    loss = LossSum(
        [{'type': 'L1Loss', 'weight': 0.5}, {'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 2.0}]
    )
    loss.double()
    pred, target = torch.rand(2, 1, 3, 10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pred.requires_grad_()
    assert torch.autograd.gradcheck(lambda image: loss(image, target), (pred,), check_undefined_grad=False)
    assert loss.dropped() == {}


def test_windows_without_a_size_are_refused():
    with pytest.raises(ValueError, match='crops: 4 windows per image need crop'):
        NRIQALoss(TinyNet(), crops=4)


def test_values_and_gradient_norms_of_every_term_are_kept_by_name():
    pred, target = images(2, 3, 16, 16), images(2, 3, 16, 16, seed=1)
    loss = LossSum(terms(name='judge'), grad_norms=True)
    gradient(loss, pred, target)
    assert loss.values['mse'].item() == pytest.approx(nn.functional.mse_loss(pred, target).item())
    expected = gradient(lambda p, t: 2.0 * nn.functional.mse_loss(p, t), pred, target)[1].norm().item()
    assert loss.grad_norms['mse'].item() == pytest.approx(expected, rel=1e-5)
    assert loss.grad_norms.keys() == {'mse', 'judge'}
    assert not any(value.requires_grad for value in loss.values.values())


def test_schedule_says_when_a_term_acts():
    loss = LossSum(terms(start_iter=4, stop_iter=9, warmup_iter=4, every=2))
    weights = [loss.terms[1].weight_at(i) for i in range(1, 12)]
    assert weights == [0, 0, 0, 0, 0, 0.25, 0, 0.5, 0, 0, 0]
    always = LossSum(terms(start_iter=4, stop_iter=9, warmup_iter=4)).terms[1]
    assert [always.weight_at(i) for i in range(4, 11)] == [0, 0.125, 0.25, 0.375, 0.5, 0.5, 0]
    loss.set_iteration(4)
    loss(images(1, 3, 16, 16), images(1, 3, 16, 16))
    assert loss.values.keys() == {'mse'}


def test_loss_sum_counts_training_calls_unless_told_the_iteration():
    loss = LossSum(terms())
    pred = images(1, 3, 16, 16)
    loss(pred, pred)
    with torch.no_grad():
        loss(pred, pred)
    assert loss.iteration == 1
    loss.set_iteration(50)
    loss(pred, pred)
    assert loss.iteration == 50


def test_schedules_that_count_calls_are_warned_about_once(plugin_log):
    pred = images(1, 3, 16, 16)
    for loss in (LossSum(terms()), LossSum(terms(warmup_iter=5)), LossSum(terms(every=2))):
        for _ in range(2):
            loss(pred, pred)
    told = LossSum(terms(warmup_iter=5))
    told.set_iteration(1)
    told(pred, pred)
    assert plugin_log.text.count("schedules of ['tinynet'] count calls and start anew") == 2


def test_a_sum_called_without_gradients_before_training_is_not_asleep():
    pred, target = images(1, 3, 8, 8), images(1, 3, 8, 8, seed=1)
    with torch.no_grad():
        value = LossSum([{'type': 'MSELoss', 'weight': 2.0}])(pred, target)
    assert value.item() == pytest.approx(2 * nn.functional.mse_loss(pred, target).item())


def test_a_sum_whose_terms_all_sleep_still_has_a_gradient_of_zero():
    loss = LossSum([{'type': 'MSELoss', 'weight': 1.0, 'start_iter': 100}])
    value, grad = gradient(loss, images(1, 3, 8, 8), images(1, 3, 8, 8, seed=1))
    assert value == 0
    assert grad.abs().max() == 0


def bad_terms(metric):
    bad = {'type': 'NRIQALoss', 'metric': f'tests.judges:{metric}', 'weight': 1.0, 'probe': False, 'name': 'bad'}
    return [{'type': 'MSELoss', 'weight': 1.0}, bad]


def test_a_term_with_a_nan_gradient_is_dropped_counted_and_the_rest_goes_on():
    pred, target = images(1, 3, 8, 8), images(1, 3, 8, 8, seed=1)
    loss = LossSum(bad_terms('NaNGradient'))
    grad = gradient(loss, pred, target)[1]
    assert torch.allclose(grad, gradient(nn.MSELoss(), pred, target)[1])
    assert loss.dropped() == {'bad': 1}


def test_a_term_with_a_nan_value_is_dropped_counted_and_warned_about(plugin_log):
    nan = torch.tensor(torch.nan)
    loss = LossSum(terms(name='bad'))
    loss.terms[1].loss.forward = lambda pred, target=None: pred.mean() * nan
    loss.set_iteration(100)
    pred, target = images(1, 3, 16, 16), images(1, 3, 16, 16, seed=1)
    value, grad = gradient(loss, pred, target)
    assert value == pytest.approx(2 * nn.functional.mse_loss(pred, target).item())
    assert torch.isfinite(grad).all()
    assert "'bad': 1" in plugin_log.text


def test_propagate_lets_the_nan_reach_the_weights_and_still_names_the_term():
    loss = LossSum(bad_terms('NaNGradient'))
    loss.nonfinite = 'propagate'
    assert torch.isnan(gradient(loss, images(1, 3, 8, 8), images(1, 3, 8, 8))[1]).any()
    assert loss.dropped() == {'bad': 1}


def test_propagate_turns_an_infinite_value_into_a_nan_gradient():
    loss = LossSum(terms(name='bad'))
    loss.nonfinite = 'propagate'
    loss.terms[1].loss.forward = lambda pred, target=None: pred.mean() + torch.inf
    assert torch.isnan(gradient(loss, images(1, 3, 16, 16), images(1, 3, 16, 16))[1]).all()
    assert loss.dropped() == {'bad': 1}


def test_loss_state_restores_iteration_and_counters():
    loss, fresh = LossSum(bad_terms('NaNGradient')), LossSum(bad_terms('NaNGradient'))
    gradient(loss, images(1, 3, 8, 8), images(1, 3, 8, 8))
    fresh.load_loss_state(loss.loss_state())
    bad = {'iteration': 1, 'undefined': 0}
    assert fresh.loss_state() == loss.loss_state() == {'iteration': 1, 'dropped': {'bad': 1}, 'terms': {'bad': bad}}


def test_loss_pair_is_the_sum_and_nothing_for_style():
    pred, target = images(1, 3, 16, 16), images(1, 3, 16, 16, seed=1)
    total, style = LossPair(terms())(pred, target)
    assert style is None
    assert total.item() == LossSum(terms())(pred, target).item()


def test_a_pair_returned_by_a_term_is_summed():
    loss = LossSum([{'type': 'tests.test_losses:PairLoss', 'weight': 2.0}])
    assert loss(images(1, 3, 8, 8), images(1, 3, 8, 8)).item() == 6.0


class PairLoss(nn.Module):
    def forward(self, pred, target):
        return pred.sum() * 0 + 1, pred.sum() * 0 + 2


class SecondArgumentIsAWeight(nn.Module):
    def forward(self, pred, weight=None):
        return pred.mean()


class Unreduced(nn.Module):
    def forward(self, pred, target):
        return (pred - target).abs()


# ----------------------------------------------------------------------------- a judge inside a parent model


class Parent(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(3, 3, 3)
        self.loss = LossSum(terms())


def test_a_judge_stays_out_of_checkpoints_parameters_and_train_mode():
    model = Parent().train()
    judge = model.loss.terms[1].loss.scorer
    assert model.state_dict().keys() == {'net.weight', 'net.bias'}
    assert len(list(model.parameters())) == 2
    assert model.load_state_dict(nn.ModuleDict({'net': nn.Conv2d(3, 3, 3)}).state_dict(), strict=True)
    model.requires_grad_(True)
    assert not judge.net.training
    assert not judge.net[1].training
    assert not any(p.requires_grad for p in judge.net.parameters())


def test_a_judge_follows_dtype_up_but_not_down_and_deep_copies_share_it():
    model = Parent()
    judge = model.loss.terms[1].loss.scorer
    assert copy.deepcopy(model).loss.terms[1].loss.scorer is judge
    model.half()
    assert judge.net[0].weight.dtype == torch.float32
    model.to('meta')
    assert judge.net[0].weight.device.type == 'meta'


def test_training_does_not_change_a_judge():
    model = Parent()
    judge = model.loss.terms[1].loss.scorer
    before = judge.weights_hash()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = images(2, 3, 18, 18)
    model.loss(model.net(x), images(2, 3, 16, 16)).backward()
    optimizer.step()
    assert judge.weights_hash() == before
    assert all(p.grad is None for p in judge.net.parameters())


# -------------------------------------------------------------------------------------------- step guard


def test_a_step_with_nan_gradients_leaves_weights_and_optimizer_state_alone():
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    guard = StepGuard(blame=lambda: '; judge x')
    guard.attach(optimizer)
    (weight.sum() * torch.nan).backward()
    optimizer.step()
    assert torch.equal(weight.data, torch.ones(3))
    assert not optimizer.state
    assert guard.skipped == 1
    for _ in range(8):
        (weight.sum() * torch.nan).backward()
        optimizer.step()
    with pytest.raises(FloatingPointError, match=r'10 in a row.*judge x'):
        (weight.sum() * torch.nan).backward()
        optimizer.step()


def test_clip_grad_norm_limits_the_step():
    weight = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    StepGuard(clip_grad_norm=0.5).attach(optimizer)
    (weight * torch.tensor([3.0, 4.0, 0.0, 0.0])).sum().backward()
    optimizer.step()
    assert weight.data.tolist() == pytest.approx([-0.3, -0.4, 0, 0], abs=1e-5)


# -------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ('term', 'kind', 'message'),
    [
        ({'type': 'NRIQALos', 'weight': 1.0}, ValueError, "'NRIQALos'. Did you mean 'NRIQALoss'"),
        ({'type': 'NRIQALoss', 'metric': 'nique', 'weight': 1.0}, ValueError, "unknown judge 'nique'. Did you mean 'niqe'"),
        ({'type': 'NRIQALoss', 'metric': 'tests.judges.TinyNet', 'weight': 1.0}, ValueError, r'a judge of your own is written package\.module:factory'),
        ({'type': 'FRIQALoss', 'metric': 'lpips', 'net': 'squeeze', 'weight': 1.0}, ValueError, r"'net'.*the judge's own options go into options"),
        ({'type': 'tests.nowhere:Loss', 'weight': 1.0}, ValueError, "there is no module 'tests.nowhere'"),
        ({'type': 'MSELoss', 'weight': '5e-5'}, TypeError, r"weight must be a number, got the text '5e-5'.*5\.0e-05"),
        ({'type': 'MSELoss', 'weight': -0.1}, ValueError, 'weight must not be negative, got -0.1: the direction'),
        ({'type': 'MSELoss', 'weight': float('nan')}, ValueError, 'weight must be finite'),
        ({'type': 'MSELoss'}, ValueError, "with 'type' and 'weight'"),
        ({'type': 'MSELoss', 'weight': 1.0, 'every': 0}, ValueError, 'every must be finite and at least 1, got 0'),
        ({'type': 'MSELoss', 'weight': 1.0, 'every': float('inf')}, ValueError, 'every must be finite'),
        ({'type': 'MSELoss', 'weight': 1.0, 'every': 1.5}, TypeError, 'every must be an integer'),
        ({'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 1.0, 'augment': 'false'}, TypeError, "augment must be true or false, got 'false'"),
        ({'type': 'MSELoss', 'weight': 1.0, 'star_iter': 5}, ValueError, "'star_iter'"),
        ({'type': 'MSELoss', 'weight': 1.0, 'start_iter': 5, 'stop_iter': 5}, ValueError, 'stop_iter'),
        ({'type': 'MSELoss', 'weight': 1.0, 'space': {}}, ValueError, 'give space to LossSum'),
        ({'type': 'NRIQALoss', 'metric': 'tests.judges:Distance', 'weight': 1.0}, ValueError, 'needs reference image; use FRIQALoss'),
        ({'type': 'FRIQALoss', 'metric': 'tests.judges:Clip', 'weight': 1.0}, ValueError, 'use NRIQALoss'),
        ({'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 1.0, 'scales': 'unit'}, ValueError, "'scales'. Did you mean 'scale'"),
        ({'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 1.0, 'scale': 'uint'}, ValueError, "'uint'. Did you mean 'unit'"),
        ({'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 1.0, 'crop': 4}, ValueError, 'at least 8 px a side, got 4'),
        ({'type': 'NRIQALoss', 'metric': 'tests.judges:Darkness', 'options': {'gian': 1}, 'weight': 1.0}, ValueError, 'gian'),
        ({'type': 'NRIQALoss', 'metric': 'tests.judges:Constant', 'weight': 1.0}, ValueError, "judge 'constant' gives a gradient that is zero"),
        ({'type': 'NRIQALoss', 'metric': 'tests.judges:Detached', 'weight': 1.0}, ValueError, "judge 'detached' gives no gradient"),
        ({'type': 'NRIQALoss', 'metric': 'tests.judges:NaNGradient', 'weight': 1.0}, ValueError, "judge 'nan_gradient' gives a NaN"),
        ({'type': 'NRIQALoss', 'metric': 'tests.judges:ScoreOnly', 'weight': 1.0}, ValueError, 'can score images but not be a loss'),
        ({'type': 'NRIQALoss', 'metric': 'tests.judges:not_a_judge', 'weight': 1.0}, TypeError, 'returned a Identity'),
        ({'type': 'NRIQALoss', 'metric': 'tests.nowhere:X', 'weight': 1.0}, ValueError, "no module 'tests.nowhere'"),
        ({'type': 'tests.test_losses:SecondArgumentIsAWeight', 'weight': 1.0}, ValueError, "second argument is 'weight'"),
    ],
)  # fmt: skip
def test_wrong_terms_are_refused_by_name(term, kind, message):
    with pytest.raises(kind, match=r'terms\[0\].*' + message):
        LossSum([term])


def test_two_terms_of_one_name_and_empty_terms_are_refused():
    with pytest.raises(ValueError, match="two terms are named 'mse'"):
        LossSum([{'type': 'MSELoss', 'weight': 1.0}] * 2)
    with pytest.raises(ValueError, match='non-empty list'):
        LossSum([])


def test_an_unreduced_term_is_refused_by_name():
    with pytest.raises(ValueError, match=r"term 'raw': must return one number, got \(1, 3, 8, 8\)"):
        LossSum([{'type': 'tests.test_losses:Unreduced', 'name': 'raw', 'weight': 1.0}])(
            images(1, 3, 8, 8), images(1, 3, 8, 8)
        )


@pytest.mark.parametrize(
    ('space', 'message'),
    [({'rnage': [0, 1]}, "'rnage'. Did you mean 'range'"), ({'range': [1, 0]}, 'must rise'), ({'range': 255}, r'\[low, high\]'), ({'order': 'gbr'}, "'gbr'")],
)  # fmt: skip
def test_wrong_space_is_refused(space, message):
    with pytest.raises(ValueError, match=message):
        LossSum(terms(), space=space)


def test_grey_images_and_small_images_are_refused_in_training():
    loss = NRIQALoss(TinyNet())
    with pytest.raises(ValueError, match='wants 3 channels, pred has 1'):
        loss(images(1, 1, 16, 16))
    with pytest.raises(ValueError, match='at least 8 px'):
        loss(images(1, 3, 7, 16))
    with pytest.raises(ValueError, match='crop: 32 px is larger than the images'):
        NRIQALoss(TinyNet(), crop=32)(images(1, 3, 16, 16))


def test_terms_by_name_are_the_terms_of_a_list():
    terms = [{'type': 'L1Loss', 'weight': 1.0}, {'type': 'FRIQALoss', 'metric': 'tests.judges:Distance', 'weight': 2.0}]
    pred, target = images(1, 3, 8, 8), images(1, 3, 8, 8, seed=1)
    named = LossSum(dict(zip(('pixel', 'judge'), terms, strict=True)))
    assert gradient(named, pred, target)[0] == gradient(LossSum(terms), pred, target)[0]
    assert list(named.values) == ['pixel', 'judge']


def test_a_term_of_none_is_left_out():
    """So that ``--force_yml train:pixel_opt:terms:lpips=none`` or an inheriting config takes a term away."""
    loss = LossSum({'pixel': {'type': 'L1Loss', 'weight': 1.0}, 'judge': None})
    assert [term.name for term in loss.terms] == ['pixel']


@pytest.mark.parametrize(
    ('terms', 'message'),
    [
        ({}, 'non-empty'),
        ({'pixel': None}, 'non-empty'),
        ('L1Loss', 'terms must be a non-empty list'),
        ({'pixel': {'type': 'L1Loss'}}, r"terms\.pixel must be a mapping with 'type' and 'weight'"),
        ({'pixel': {'type': 'L1Los', 'weight': 1.0}}, r'terms\.pixel \(L1Los\): unknown loss type'),
        ({'pixel': {'type': 'L1Loss', 'weight': 1.0, 'name': 'l1'}}, "the key 'pixel' is the name of this term"),
        ({'pixel': 'none'}, "terms.pixel must be a mapping.*got 'none'; to leave it out write null"),
        (
            [{'type': 'NRIQALoss', 'weight': 1.0, 'metric': 'niqe', 'warmup_iters': 5}],
            "'warmup_iters'. Did you mean 'warmup_iter'",
        ),
    ],
)
def test_terms_that_cannot_be_summed_are_refused_with_their_place(terms, message):
    with pytest.raises(ValueError, match=message):
        LossSum(terms)


def test_images_that_are_too_small_for_the_judge_are_refused_and_not_enlarged_by_augmentation():
    class Wants16(Brightness):
        min_side = 16

    for augment in (False, True):
        loss = NRIQALoss(Wants16(), augment=augment)
        assert loss(images(1, 3, 16, 16)).isfinite()
        with pytest.raises(ValueError, match='at least 16 px a side'):
            loss(images(1, 3, 12, 16))
