"""GradNorm: fixed point, formulas against hand-written ones, failures of the paper's formula, graph search, processes."""

import math

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nriqa_plugin.archs import RLFN
from nriqa_plugin.lora import LoRANet
from nriqa_plugin.losses import LossSum, NRIQALoss
from nriqa_plugin.losses.gradnorm import GradNorm, distance_offset
from nriqa_plugin.losses.shared_layer import last_weight
from nriqa_plugin.losses.validation_loss import validation_loss
from tests.judges import Brightness, Darkness, TinyNet
from tests.test_losses import images

LITERAL = {'method': 'gradnorm', 'ratio_limits': [1e-6, 1e6]}


class Regression(nn.Module):
    """``scale * mean (pred - shift - target)^2``: tasks of one kind that differ in size."""

    def __init__(self, scale=1.0, shift=0.0):
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, pred, target):
        return self.scale * (pred - self.shift - target).square().mean()


class Signed(nn.Module):
    """``mean(pred) - shift``: changes its sign on the way."""

    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def forward(self, pred, target):
        return pred.mean() - self.shift


class NotFinite(nn.Module):
    def forward(self, pred, target):
        return pred.mean() * math.nan


def regression(weight=1.0, **options):
    return {'type': 'tests.test_gradnorm:Regression', 'weight': weight, **options}


def small_net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 3, 3, padding=1))


def norms_by_hand(net, loss, inputs, target, weight=None):
    """``{name: g}``: the plain way, one whole backward pass for each term."""
    weight = net[2].weight if weight is None else weight
    found = {}
    for term in loss.terms:
        (gradient,) = torch.autograd.grad(term.loss(net(inputs), target), weight)
        found[term.name] = gradient.norm().item()
    return found


def train(net, loss, steps, inputs, target, lr=0.01):
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net(inputs), target).backward()
        optimizer.step()


@pytest.mark.parametrize('scale', [1000.0, 1e-3])
def test_two_badly_scaled_tasks_get_equal_pulls(scale):
    net, inputs, target = small_net(), images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    terms = {'a': regression(), 'b': regression(scale=scale, shift=0.1)}
    balance = {'method': 'gradnorm', 'alpha': 0.0, 'lr': 0.2, 'weight_limits': [1e-6, 1e6]}
    loss = LossSum(terms, balance=balance)
    before = norms_by_hand(net, loss, inputs, target)
    assert max(before['b'] / before['a'], before['a'] / before['b']) > 300
    train(net, loss, 100, inputs, target, lr=1e-4)
    after, weights = norms_by_hand(net, loss, inputs, target), loss.weights
    assert weights['b'] * after['b'] == pytest.approx(weights['a'] * after['a'], rel=0.02)
    assert sum(weights.values()) == pytest.approx(2.0, abs=1e-12)


def test_at_rest_the_pulls_stand_as_the_training_rates_to_the_power_of_alpha():
    net, inputs, target = small_net(), images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    terms = {'a': regression(), 'b': regression(scale=3.0, shift=0.2)}
    loss = LossSum(terms, balance={**LITERAL, 'alpha': 1.5, 'lr': 0.2})
    loss(net(inputs), target)
    first = dict(loss.values)
    with torch.no_grad():
        net[2].bias += 0.45  # now the two have come unequally far
    for _ in range(200):
        loss(net(inputs), target)
    rates = {name: (value / first[name]).item() for name, value in loss.values.items()}
    pulls = {name: loss.weights[name] * g for name, g in norms_by_hand(net, loss, inputs, target).items()}
    assert abs(math.log(rates['a'] / rates['b'])) > 0.25
    assert pulls['a'] / pulls['b'] == pytest.approx((rates['a'] / rates['b']) ** 1.5, rel=1e-4)


def test_one_update_equals_the_formula_written_out():
    net, inputs, target = small_net(), images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    start = {'a': 1.0, 'b': 0.05, 'c': 0.2}
    terms = {'a': regression(1.0), 'b': regression(0.05, shift=0.3), 'c': {'type': 'L1Loss', 'weight': 0.2}}
    loss = LossSum(terms, balance={'method': 'gradnorm', 'alpha': 1.5, 'lr': 0.1})
    first = {term.name: term.loss(net(inputs), target).item() for term in loss.terms}
    pulls = {name: start[name] * g for name, g in norms_by_hand(net, loss, inputs, target).items()}
    loss(net(inputs), target)  # every training rate is 1
    mean = sum(pulls.values()) / 3
    moved = {name: start[name] * (mean / pulls[name]) ** 0.1 for name in start}
    moved = {name: w * 1.25 / sum(moved.values()) for name, w in moved.items()}
    assert {n: loss.balance.factors[n] * start[n] for n in start} == pytest.approx(moved, rel=1e-5)
    with torch.no_grad():
        net[2].bias += 0.05
    pulls = {name: moved[name] * g for name, g in norms_by_hand(net, loss, inputs, target).items()}
    rates = {term.name: term.loss(net(inputs), target).item() / first[term.name] for term in loss.terms}
    loss(net(inputs), target)
    mean, mean_rate = sum(pulls.values()) / 3, sum(rates.values()) / 3
    aims = {name: mean * (rates[name] / mean_rate) ** 1.5 for name in start}
    again = {name: moved[name] * (aims[name] / pulls[name]) ** 0.1 for name in start}
    again = {name: w * 1.25 / sum(again.values()) for name, w in again.items()}
    assert {n: loss.balance.factors[n] * start[n] for n in start} == pytest.approx(again, rel=1e-5)


def test_the_papers_formula_is_nan_for_a_loss_that_changes_its_sign_and_ours_trains_on():
    class Signs(TinyNet):
        score_range = (-1.0, 1.0)

        def score(self, pred, ref=None):
            return pred.flatten(1).mean(1) - 0.5

    net, inputs, target = small_net(), images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    with torch.no_grad():
        net[2].bias.fill_(0.45)
    terms = [regression(name='mse'), {'type': 'NRIQALoss', 'metric': Signs(), 'weight': 1.0, 'name': 'judge'}]
    loss = LossSum(terms, balance={'method': 'gradnorm', 'lr': 0.1})
    values = []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        loss(net(inputs), target).backward()
        optimizer.step()
        values.append(torch.stack([loss.values['mse'], loss.values['judge']]))
        assert all(math.isfinite(weight) and weight > 0 for weight in loss.weights.values())
    assert values[0][1] * values[-1][1] < 0  # the sign has changed
    rates = torch.stack(values) / values[0]
    literal = (rates / rates.mean(1, keepdim=True)) ** 1.5
    assert literal.isnan().any()


def test_a_judge_that_improves_counts_as_fast_though_its_negative_score_grows():
    """Minus a rising score over its start rises: the paper's formula would take the fast task for the slow one."""
    pred = images(1, 3, 8, 8).requires_grad_()
    terms = [
        {'type': 'NRIQALoss', 'metric': Brightness(), 'weight': 1.0, 'name': 'judge'},
        {'type': 'NRIQALoss', 'metric': Darkness(), 'weight': 1.0, 'name': 'other'},
    ]
    loss = LossSum(terms, balance={'method': 'gradnorm', 'wrt': 'output', 'alpha': 1.0, 'lr': 0.1})
    loss(pred * 0.5, None)
    assert loss.balance.factors == pytest.approx({'judge': 1.0, 'other': 1.0})  # equal norms
    loss(pred * 1.0, None)
    start, now = (pred * 0.5).mean().item(), pred.mean().item()
    literal = (-now / -start, now / start)
    rates = ((1 - now) / (1 - start), now / start)  # distances to the best scores, 1 and 0
    assert literal[0] == literal[1] > 1
    assert rates[0] < 1 < rates[1]
    ratio = loss.balance.factors['judge'] / loss.balance.factors['other']
    assert ratio == pytest.approx((rates[0] / rates[1]) ** 0.1, rel=1e-5)


def test_value_and_gradient_are_those_of_the_sum_with_the_same_weights():
    inputs, target = images(2, 3, 12, 12), images(2, 3, 12, 12, seed=1)
    terms = [regression(0.7), {'type': 'NRIQALoss', 'metric': TinyNet(), 'weight': 0.3, 'crop': 8, 'augment': True}]
    results = []
    for balance in (None, {'method': 'gradnorm'}):
        net, loss = small_net(), LossSum(terms, balance=balance, grad_norms=True)
        value = loss(net(inputs), target)
        value.backward()
        norms = {name: norm.item() for name, norm in loss.grad_norms.items()}
        results.append((value.item(), net[0].weight.grad, norms))
    (plain, plain_grad, plain_norms), (ours, grad, norms) = results
    assert ours == pytest.approx(plain, rel=1e-6)
    assert torch.allclose(grad, plain_grad, rtol=1e-4, atol=1e-8)
    assert norms == pytest.approx(plain_norms, rel=1e-5)


def test_one_term_keeps_its_weight():
    net, inputs, target = small_net(), images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    loss = LossSum([regression(0.3)], balance={'method': 'gradnorm', 'lr': 1.0})
    train(net, loss, 3, inputs, target)
    assert loss.weights == {'regression': 0.3}


def test_without_gradients_nothing_moves():
    net, inputs, target = small_net(), images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    loss = LossSum({'a': regression(), 'b': regression(scale=50.0)}, balance={'method': 'gradnorm', 'lr': 0.5})
    start = validation_loss(loss, net(inputs), target)
    loss(net(inputs), target)
    before = loss.loss_state()
    with torch.no_grad():
        learnt = loss(net(inputs), target).item()
    assert loss.loss_state() == before
    assert validation_loss(loss, net(inputs), target) == start != learnt  # comparable through the whole training


def test_a_term_asleep_keeps_its_weight_and_the_sum_stays():
    net, inputs, target = small_net(), images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    terms = {'a': regression(), 'b': regression(0.5, scale=9.0), 'late': regression(0.1, scale=90.0, start_iter=5)}
    loss = LossSum(terms, balance={'method': 'gradnorm', 'lr': 0.3})
    train(net, loss, 5, inputs, target)
    assert loss.balance.factors['late'] == 1.0
    assert loss.balance.factors['b'] != 1.0
    train(net, loss, 5, inputs, target)
    assert loss.balance.factors['late'] < 0.9
    assert sum(loss.weights.values()) == pytest.approx(1.6, abs=1e-12)


def test_a_warm_up_is_not_undone_by_the_balance():
    net, inputs, target = small_net(), images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    factors = []
    for warmup in (0, 10):
        loss = LossSum({'a': regression(), 'b': regression(warmup_iter=warmup)}, balance={'method': 'gradnorm'})
        for _ in range(3):
            loss(net(inputs), target)
        factors.append(dict(loss.balance.factors))
    assert factors[0] == pytest.approx(factors[1])
    assert loss.weights['b'] == pytest.approx(0.3)


def test_a_term_that_is_not_finite_keeps_its_weight():
    net, inputs, target = small_net(), images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    bad = {'type': 'tests.test_gradnorm:NotFinite', 'weight': 1.0}
    loss = LossSum(
        {'a': regression(), 'b': regression(scale=9.0), 'bad': bad}, balance={'method': 'gradnorm', 'lr': 0.3}
    )
    loss(net(inputs), target).backward()
    assert loss.balance.factors['bad'] == 1.0
    assert loss.balance.factors['b'] < 1.0
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    assert loss.dropped() == {'bad': 1}


def test_a_flat_gradient_keeps_its_weight():
    net, inputs = small_net(), images(2, 3, 8, 8)
    capped = {'type': 'NRIQALoss', 'metric': Brightness(), 'weight': 1.0, 'stop_at': -1.0}
    loss = LossSum({'a': regression(), 'capped': capped}, balance={'method': 'gradnorm', 'lr': 0.3})
    train(net, loss, 3, inputs, images(2, 3, 8, 8, seed=1))
    assert loss.balance.factors == {'a': 1.0, 'capped': 1.0}


def test_weights_stay_within_their_limits_and_their_sum_stays():
    net, inputs, target = small_net(), images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    terms = {'a': regression(), 'b': regression(0.5, scale=1e4), 'c': regression(0.25, scale=1e-4)}
    balance = {'method': 'gradnorm', 'lr': 1.0, 'weight_limits': [0.5, 2.0]}
    loss = LossSum(terms, balance=balance)
    for _ in range(20):
        loss(net(inputs), target)
    factors = loss.balance.factors
    assert factors['b'] == pytest.approx(0.5)
    assert factors['c'] == pytest.approx(2.0)
    assert sum(loss.weights.values()) == pytest.approx(1.75, abs=1e-12)


def test_every_n_updates_at_every_nth_call_and_initial_averages_the_first_values():
    net, inputs, target = small_net(), images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    balance = {'method': 'gradnorm', 'every': 3, 'initial': 2}
    loss = LossSum({'a': regression(), 'b': regression(scale=9.0)}, balance=balance)
    history, values = [], []
    for _ in range(7):
        train(net, loss, 1, inputs, target)
        history.append(loss.balance.factors['b'])
        values.append(loss.values['b'].item())
    assert history[0] == history[1] == history[2] != history[3] == history[4] == history[5] != history[6]
    assert loss.balance.first['b'] == (pytest.approx(values[0] + values[3]), 2)


def test_a_term_that_no_update_would_see_is_refused():
    balance = {'method': 'gradnorm', 'every': 4, 'lr': 0.5}
    with pytest.raises(ValueError, match="term 'b': its every: 6 and balance.every: 4 have a common divisor"):
        LossSum({'a': regression(), 'b': regression(every=6)}, balance=balance)
    net, inputs, target = small_net(), images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    loss = LossSum({'a': regression(), 'b': regression(scale=9.0, every=3)}, balance=balance)
    train(net, loss, 9, inputs, target)  # updates at 1, 5 and 9, the term at 3, 6 and 9
    assert loss.balance.factors['b'] < 1.0


@pytest.mark.parametrize('wrt', ['last_layer', 'output', '0', '2.weight'])
def test_norms_are_those_of_plain_backward_passes(wrt):
    net, inputs, target = small_net(), images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    loss = LossSum(
        {'a': regression(), 'b': {'type': 'L1Loss', 'weight': 1.0}}, balance={'method': 'gradnorm', 'wrt': wrt}
    )
    loss.set_network(net)
    pred = net(inputs)
    place = {'last_layer': net[2].weight, 'output': pred, '0': net[0].weight, '2.weight': net[2].weight}[wrt]
    parts = [torch.autograd.grad(term.loss(pred, target), pred, retain_graph=True)[0] for term in loss.terms]
    got = loss.balance.layer.norms(pred, parts)
    for term, norm in zip(loss.terms, got, strict=True):
        (expected,) = torch.autograd.grad(term.loss(pred, target), place, retain_graph=True)
        assert norm.item() == pytest.approx(expected.norm().item(), rel=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_norms_survive_half_precision_where_plain_gradients_vanish(dtype):
    net, inputs, target = small_net(), images(1, 3, 64, 64), images(1, 3, 64, 64, seed=1)
    loss = LossSum({'a': regression(scale=1e-4), 'b': regression()}, balance={'method': 'gradnorm'})
    expected = norms_by_hand(net, loss, inputs, target)
    with torch.autocast('cpu', dtype=dtype):
        pred = net(inputs)
        assert pred.dtype == dtype
        gradients = {}
        for term in loss.terms:
            loss._contribution(term, 1.0, pred, target, gradients)
        got = loss.balance.layer.norms(pred, list(gradients.values()))
        assert loss(pred, target).isfinite()
    for name, norm in zip(expected, got, strict=True):
        assert norm.item() == pytest.approx(expected[name], rel=0.03)
    if dtype == torch.float16:
        plain = loss.terms[0].loss(pred, target.half())
        assert torch.autograd.grad(plain, pred)[0].abs().max() == 0  # what would be measured without care


def test_the_last_layer_is_found_behind_residuals_pixel_shuffles_clips_and_lora():
    rlfn = RLFN(feature_channels=8)
    assert last_weight(rlfn(images(1, 3, 16, 16))) is rlfn.upsampler[0].weight
    net = small_net()
    clip = torch.stack([net(frame) + frame for frame in images(3, 2, 3, 8, 8)], dim=1)
    assert last_weight(clip.clamp(0, 1)) is net[2].weight
    adapted = LoRANet(small_net(), rank=2)
    pred = adapted(images(1, 3, 8, 8))
    assert last_weight(pred) is adapted.base[2].parametrizations.weight[0].lora_B


def test_frozen_layers_are_passed_over():
    net = small_net()
    net[2].weight.requires_grad_(False)
    assert last_weight(net(images(1, 3, 8, 8))) is net[0].weight


def test_lora_is_balanced_at_the_changes_of_the_named_layer():
    adapted, inputs, target = LoRANet(small_net(), rank=2), images(1, 3, 8, 8), images(1, 3, 8, 8, seed=1)
    loss = LossSum(
        {'a': regression(), 'b': regression(scale=9.0)}, balance={'method': 'gradnorm', 'wrt': '2', 'lr': 0.3}
    )
    loss.set_network(adapted)
    assert len(loss.balance.layer.named) == 2
    loss(adapted(inputs), target).backward()
    assert loss.balance.factors['b'] == pytest.approx(loss.balance.factors['a'] * 9**-0.3, rel=1e-4)


def test_a_resumed_balance_goes_on_exactly():
    inputs, target = images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    terms = {'a': regression(), 'b': regression(scale=9.0, shift=0.2)}
    balance = {'method': 'gradnorm', 'every': 2, 'initial': 3}
    net, loss = small_net(), LossSum(terms, balance=balance)
    train(net, loss, 5, inputs, target)
    weights, state = {k: v.clone() for k, v in net.state_dict().items()}, loss.loss_state()
    train(net, loss, 6, inputs, target)
    again, resumed = small_net(), LossSum(terms, balance=balance)
    again.load_state_dict(weights)
    resumed.load_loss_state(state)
    train(again, resumed, 6, inputs, target)
    assert resumed.loss_state() == loss.loss_state()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_a_state_of_other_terms_or_of_none_is_told(plugin_log):
    state = LossSum({'a': regression()}, balance={'method': 'gradnorm'}).loss_state()
    with pytest.raises(ValueError, match=r"saved with the terms \['a'\], now there are \['b'\]"):
        LossSum({'b': regression()}, balance={'method': 'gradnorm'}).load_loss_state(state)
    LossSum({'a': regression()}, balance={'method': 'gradnorm'}).load_loss_state(LossSum([regression()]).loss_state())
    assert 'saved without balance' in plugin_log.text
    LossSum([regression()]).load_loss_state(LossSum([regression()], balance={'method': 'gradnorm'}).loss_state())
    assert 'saved with balance, which is gone' in plugin_log.text


@pytest.mark.parametrize(
    ('balance', 'message'),
    [
        ('gradnorm', 'balance must be a mapping such as'),
        ({'alpha': 1.5}, 'balance must be a mapping such as'),
        ({'method': 'gradnrom'}, "value for balance.method: 'gradnrom'. Did you mean 'gradnorm'"),
        ({'method': 'gradnorm', 'alhpa': 1.5}, "option of balance: 'alhpa'. Did you mean 'alpha'"),
        ({'method': 'gradnorm', 'alpha': -1}, 'balance.alpha must be finite and at least 0'),
        ({'method': 'gradnorm', 'lr': 0}, 'balance.lr'),
        ({'method': 'gradnorm', 'lr': '5e-2'}, 'balance.lr must be a number, got the text'),
        ({'method': 'gradnorm', 'every': 0}, 'balance.every'),
        ({'method': 'gradnorm', 'initial': 1.5}, 'balance.initial'),
        ({'method': 'gradnorm', 'ratio_limits': [2, 3]}, 'balance.ratio_limits must be .low, high. with 0 < low <= 1'),
        ({'method': 'gradnorm', 'weight_limits': 3}, 'balance.weight_limits must be'),
        ({'method': 'gradnorm', 'wrt': 2}, 'balance.wrt must be last_layer, output or the name of a layer'),
    ],
)
def test_a_wrong_option_is_named(balance, message):
    with pytest.raises((ValueError, TypeError), match=message):
        LossSum([regression()], balance=balance)


def test_a_judge_without_a_best_score_needs_stop_at():
    psnr = {'type': 'FRIQALoss', 'metric': 'psnr', 'weight': 0.01}
    with pytest.raises(ValueError, match="term 'psnr': the best score of the judge psnr is infinite.*set stop_at"):
        LossSum([regression(), psnr], balance={'method': 'gradnorm'})
    loss = LossSum([regression(), {**psnr, 'stop_at': 40.0}], balance={'method': 'gradnorm'})
    assert loss.balance.offset['psnr'] == 40.0


@pytest.mark.parametrize(
    ('judge', 'options', 'expected'),
    [(Brightness(), {}, 0.75), (Darkness(4.0), {}, 1.0), (Brightness(), {'loss_weight': 2.0}, 1.5),
     (Brightness(), {'scale': 'unit'}, 0.75)],
)  # fmt: skip
def test_the_distance_to_the_best_score_is_what_counts(judge, options, expected):
    loss = NRIQALoss(judge, **options)
    assert loss(torch.full((1, 3, 8, 8), 0.25)).item() + distance_offset(loss) == pytest.approx(expected)


def test_a_loss_that_starts_below_zero_is_named():
    net, terms = (
        small_net(),
        {'a': regression(), 'signed': {'type': 'tests.test_gradnorm:Signed', 'weight': 1.0, 'shift': 9}},
    )
    with pytest.raises(ValueError, match="loss of term 'signed' starts at -"):
        LossSum(terms, balance={'method': 'gradnorm'})(net(images(1, 3, 8, 8)), images(1, 3, 8, 8))


def test_a_named_layer_has_to_be_there_trained_and_used():
    net, target = small_net(), images(1, 3, 8, 8)

    def loss(wrt):
        return LossSum({'a': regression(), 'b': regression()}, balance={'method': 'gradnorm', 'wrt': wrt})

    with pytest.raises(ValueError, match="nobody told LossSum the network that has the layer 'conv_last'"):
        loss('conv_last')(net(target), target)
    with pytest.raises(ValueError, match="Sequential has no layer or parameter '2.wieght'; did you mean '2.weight'"):
        loss('2.wieght').set_network(net)
    with pytest.raises(ValueError, match="nothing with two or more axes in the layer '1' is trained"):
        loss('1').set_network(net)
    other = loss('2')
    other.set_network(small_net(1))
    with pytest.raises(ValueError, match=r'is gone'):
        other(net(target), target)
    other.set_network(kept := small_net(1))
    with pytest.raises(ValueError, match='takes no part in the prediction'):
        other(net(target), target)
    kept.requires_grad_(False)
    with pytest.raises(ValueError, match='nothing in the layer .2. is trained at this iteration'):
        other(net(target), target)


def test_an_image_that_is_optimised_itself_has_no_last_layer():
    pred, target = images(1, 3, 8, 8).requires_grad_(), images(1, 3, 8, 8, seed=1)
    terms = {'a': regression(), 'b': regression()}
    with pytest.raises(ValueError, match='no trained weight was found behind the prediction.*wrt: output'):
        LossSum(terms, balance={'method': 'gradnorm'})(pred, target)
    LossSum(terms, balance={'method': 'gradnorm', 'wrt': 'output'})(pred, target).backward()
    assert pred.grad.any()


def _one_of_two(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    net = DistributedDataParallel(small_net())
    loss = LossSum(TWO, balance=FAST)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        loss(net(images(1, 3, 8, 8, seed=10 * step + rank)), images(1, 3, 8, 8, seed=rank + 5)).backward()
        optimizer.step()
    state = {'state': loss.loss_state()['balance'], 'net': net.module.state_dict()}
    torch.save(state, f'{folder}/{rank}.pth')
    torch.distributed.destroy_process_group()


TWO = {'a': regression(), 'b': regression(0.5, scale=9.0, shift=0.2)}
FAST = {'method': 'gradnorm', 'lr': 0.3}


def test_values_and_norms_are_averaged_over_the_processes(monkeypatch):
    tables = []

    def all_reduce(table):  # another process, whose numbers are three times as large
        tables.append(table.clone())
        table += 3 * table

    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.distributed, 'get_world_size', lambda: 2)
    monkeypatch.setattr(torch.distributed, 'all_reduce', all_reduce)
    net, inputs, target = small_net(), images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    loss = LossSum(TWO, balance=FAST)
    loss(net(inputs), target)
    assert tables[0][0].tolist() == pytest.approx(list(norms_by_hand(net, loss, inputs, target).values()), rel=1e-5)
    assert {name: value for name, (value, _) in loss.balance.first.items()} == pytest.approx(
        {name: 2 * value.item() for name, value in loss.values.items()}
    )


@pytest.mark.slow
def test_two_processes_hold_the_weights_of_their_mean_norms_and_values(tmp_path):
    torch.multiprocessing.spawn(_one_of_two, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in (0, 1))
    assert first['state'] == second['state']  # to the last digit
    net, loss, balance = small_net(), LossSum(TWO), GradNorm(LossSum(TWO).terms, FAST)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        measured, factors = {}, dict(balance.factors)
        for rank in (0, 1):
            inputs, target = images(1, 3, 8, 8, seed=10 * step + rank), images(1, 3, 8, 8, seed=rank + 5)
            for name, norm in norms_by_hand(net, loss, inputs, target).items():
                term = next(term for term in loss.terms if term.name == name)
                value = term.loss(net(inputs), target)
                (0.5 * factors[name] * term.weight * value).backward()
                g, total = measured.get(name, (0, 0))
                measured[name] = (g + norm / 2, total + value.item() / 2)
        balance._step(measured)
        optimizer.step()
    assert first['state']['factors'] == pytest.approx(balance.factors, rel=1e-4)
    assert abs(balance.factors['b'] - 1) > 0.3
    for key, value in net.state_dict().items():
        assert torch.allclose(first['net'][key], value, atol=1e-6)
