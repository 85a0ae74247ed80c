"""Several judges as one: value and gradient against the hand-written mean, and what does not mix."""

import math

import pytest
import torch
from torch import nn

from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.iqa.ensemble import Ensemble
from nriqa_plugin.losses import FRIQALoss, LossSum, NRIQALoss
from tests.judges import Brightness, Darkness, Distance, FlatIsUndefined, TinyNet


class OtherNet(TinyNet):
    """A second network, on another range and lower is better."""

    name = 'othernet'
    higher_better = False
    score_range = (-3.0, 1.0)
    min_side = 12


class Sharpness(Brightness):
    """A variance that may leave its approximate range."""

    name = 'sharpness'
    score_range = (0.0, 0.5)


class Unlikeness(Distance):
    """A second full-reference judge."""

    name = 'unlikeness'

    def score(self, pred, ref=None):
        return (pred - ref).square().flatten(1).mean(1)


class OneNumber(Brightness):
    """Returns one score for the whole batch, which broadcasting would hide."""

    name = 'one_number'

    def score(self, pred, ref=None):
        return pred.mean().view(1)


def images(*shape, seed=0):
    return 0.1 + 0.8 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def two(first=1.0, second=8.0):
    return [
        {'metric': 'tests.judges:TinyNet', 'weight': first},
        {'metric': 'tests.test_ensemble:OtherNet', 'weight': second, 'options': {'seed': 3}},
    ]


def gradient(function, pred):
    pred = pred.clone().requires_grad_()
    value = function(pred)
    return value.detach(), torch.autograd.grad(value.sum(), pred)[0]


def by_hand(pred, first=1.0, second=8.0):
    """Each score on 0..1 with 1 the best, written out: TinyNet is -10 (worst) .. 10, OtherNet 1 (worst) .. -3."""
    tiny, other = TinyNet(), OtherNet(3)
    return (first * (tiny.net(pred).flatten(1).mean(1) + 10) / 20
            + second * (1 - other.net(pred).flatten(1).mean(1)) / 4) / (first + second)  # fmt: skip


def test_the_score_is_the_weighted_mean_of_unit_scores_with_its_gradient():
    pred = images(2, 3, 16, 16)
    value, grad = gradient(create_scorer('ensemble', judges=two()), pred)
    expected, expected_grad = gradient(by_hand, pred)
    assert torch.allclose(value, expected, rtol=1e-6)
    assert torch.allclose(grad, expected_grad, rtol=1e-4, atol=1e-10)
    assert not torch.allclose(expected, by_hand(pred, 8.0, 1.0), rtol=1e-3)  # the weights matter


def test_the_gradient_passes_gradcheck():
    judge = Ensemble(two()).double()
    pred = images(1, 3, 12, 12).double().requires_grad_()
    assert judge.dtype == torch.float64
    assert torch.autograd.gradcheck(judge.raw_scores, (pred,))


def test_numbers_of_known_images_are_the_ones_of_pencil_and_paper():
    """Brightness 0.25 (higher is better, of 1) and darkness 25 (lower is better, of 100): (3 * 0.25 + 0.75) / 4."""
    judges = [
        {'tests.judges:Brightness': 3},
        {'metric': 'tests.judges:Darkness', 'weight': 1, 'options': {'gain': 100.0}},
    ]
    assert Ensemble(judges)(torch.full((2, 3, 8, 8), 0.25)).tolist() == pytest.approx([0.375, 0.375])


def test_the_best_end_of_every_range_gives_one_and_the_worst_gives_zero():
    judge = Ensemble([{'tests.judges:Distance': 1.0}, {'tests.test_ensemble:Unlikeness': 5.0}])
    black, white = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    assert judge(white, white).item() == pytest.approx(1)
    assert judge(black, white).item() == pytest.approx(0, abs=1e-6)
    assert (judge.higher_better, judge.score_range, judge.needs_reference) == (True, (0.0, 1.0), True)


def test_the_short_form_is_the_long_form():
    short = Ensemble([{'tests.judges:TinyNet': 1.0}, {'tests.judges:Brightness': 8.0}])
    long = Ensemble([
        {'metric': 'tests.judges:TinyNet', 'weight': 1.0},
        {'metric': 'tests.judges:Brightness', 'weight': 8.0},
    ])  # fmt: skip
    pred = images(1, 3, 16, 16)
    assert short(pred).item() == long(pred).item()
    assert short.weights_hash() == long.weights_hash()


def test_only_the_ratio_of_the_weights_matters():
    pred = images(1, 3, 16, 16)
    assert Ensemble(two(1, 8))(pred).item() == Ensemble(two(20, 160))(pred).item()
    assert Ensemble(two(1, 1e12))(pred).item() == pytest.approx((1 - OtherNet(3)(pred).item()) / 4, rel=1e-6)


def test_an_ensemble_of_ensembles_is_the_mean_of_means():
    inner = {'metric': 'ensemble', 'weight': 1.0, 'options': {'judges': two()}}
    judge = Ensemble([inner, {'tests.judges:Brightness': 3.0}])
    pred = images(2, 3, 16, 16)
    assert torch.allclose(judge(pred), (by_hand(pred) + 3 * pred.flatten(1).mean(1)) / 4, rtol=1e-6)


def test_undefined_for_one_judge_is_undefined_for_all_image_by_image():
    judge = Ensemble([{'tests.judges:Brightness': 1e6}, {'tests.judges:FlatIsUndefined': 1.0}])
    batch = images(2, 3, 8, 8)
    batch[1] = 0.5
    assert judge.raw_scores(batch).isnan().tolist() == [False, True]
    with pytest.raises(ValueError, match=r'ensemble is undefined for image \[1\]'):
        judge(batch)
    loss = NRIQALoss(judge)
    assert torch.isfinite(gradient(loss, batch)[1]).all()
    assert loss.undefined == 1


def test_the_largest_shortest_side_and_every_border_count():
    judge = Ensemble(two())
    assert judge.min_side == 12
    with pytest.raises(ValueError, match='ensemble needs at least 12 px'):
        judge(images(1, 3, 11, 16))
    bordered = two()
    bordered[1]['options'] = {'seed': 3, 'crop_border': 2}
    pred = images(1, 3, 20, 20)
    inner = Ensemble(bordered)
    assert inner.min_side == 16
    expected = (TinyNet().unit(TinyNet()(pred)) + 8 * OtherNet().unit(OtherNet(3)(pred[..., 2:-2, 2:-2]))) / 9
    assert torch.allclose(inner(pred), expected, rtol=1e-6)
    outer = create_scorer('ensemble', crop_border=4, judges=two())
    assert outer.min_side == 20
    assert torch.allclose(outer(pred), by_hand(pred[..., 4:-4, 4:-4]), rtol=1e-6)
    reference = create_scorer(
        'ensemble', crop_border=4, judges=[{'tests.judges:Distance': 1.0}, {'tests.test_ensemble:Unlikeness': 1.0}]
    )
    framed = nn.functional.pad(torch.ones(1, 3, 8, 8), (4,) * 4)
    assert reference(framed, torch.ones(1, 3, 16, 16)).item() == pytest.approx(1)


def test_bf16_reaches_the_judges():
    pred = images(2, 3, 16, 16)
    judge = Ensemble(two())
    assert torch.equal(judge.raw_scores(pred), judge(pred))
    rough = judge.raw_scores(pred, bf16=True)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, judge(pred))
    assert torch.allclose(rough, judge(pred), atol=0.01)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(judge.raw_scores(pred), judge(pred))


# ------------------------------------------------------------------------------------- inside a model, as a loss


class Parent(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(3, 3, 3)
        self.judge = Ensemble(two())


def test_a_parent_neither_saves_nor_trains_nor_optimises_the_judges_but_moves_them():
    model = Parent().train().requires_grad_(True)
    assert model.state_dict().keys() == {'net.weight', 'net.bias'}
    assert len(list(model.parameters())) == 2
    for judge in model.judge.judges:
        assert not any(module.training for module in judge.net.modules())
        assert not any(p.requires_grad for p in judge.net.parameters())
    model.half()
    assert all(judge.net[0].weight.dtype == torch.float32 for judge in model.judge.judges)
    model.to('meta')
    assert all(judge.net[0].weight.device.type == 'meta' for judge in model.judge.judges)
    assert model.judge.device.type == 'meta'


def test_the_hash_stands_for_judges_weights_options_and_shares_but_not_for_their_order():
    known = Ensemble(two()).weights_hash()
    assert Ensemble(two()).weights_hash() == Ensemble(two(2, 16)).weights_hash() == known
    assert Ensemble(two()[::-1]).weights_hash() == known
    other_weights, other_option = two(), two()
    other_weights[1]['options'] = {'seed': 4}
    other_option[0]['options'] = {'crop_border': 1}
    changed = Ensemble(two())
    with torch.no_grad():
        changed.judges[0].net[0].weight += 1
    judges = [Ensemble(other_weights), Ensemble(other_option), Ensemble(two(1, 9)), changed]
    judges.append(create_scorer('ensemble', crop_border=1, judges=two()))
    hashes = {judge.weights_hash() for judge in judges}
    assert len(hashes | {known}) == 6


def test_a_term_falls_when_the_ensemble_rises():
    term = {'type': 'NRIQALoss', 'metric': 'ensemble', 'options': {'judges': two()}, 'weight': 2.0}
    pred, target = images(2, 3, 16, 16), images(2, 3, 16, 16, seed=1)
    value, grad = gradient(lambda p: LossSum([term])(p, target), pred)
    expected, expected_grad = gradient(lambda p: -2 * by_hand(p).mean(), pred)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.allclose(grad, expected_grad, rtol=1e-4, atol=1e-10)


def test_one_judge_without_a_gradient_makes_the_ensemble_score_only():
    judges = [{'tests.judges:TinyNet': 1.0}, {'tests.judges:ScoreOnly': 1.0}]
    judge = Ensemble(judges)
    assert judge(images(1, 3, 16, 16)).shape == (1,)
    assert Ensemble(two()).differentiable
    with pytest.raises(ValueError, match=r"judge 'ensemble' gives no usable gradient \(score_only: "):
        NRIQALoss(judge)


def test_a_reference_goes_to_every_full_reference_judge():
    judge = Ensemble([{'tests.judges:Distance': 1.0}, {'tests.test_ensemble:Unlikeness': 3.0}])
    pred, ref = images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    difference = pred - ref
    expected = (1 - difference.abs().flatten(1).mean(1) + 3 * (1 - difference.square().flatten(1).mean(1))) / 4
    assert torch.allclose(judge(pred, ref), expected, rtol=1e-6)
    assert FRIQALoss(judge)(pred, ref).item() == pytest.approx(-expected.mean().item(), rel=1e-6)


def test_a_judge_with_a_weights_file_and_options_is_mapped_from_its_own_range(cnniqa_weights):
    """CNNIQA is a DMOS, 0 (best) .. 100."""
    judges = [
        {'metric': 'cnniqa', 'weight': 1.0, 'weights': str(cnniqa_weights), 'options': {'full_cover': True}},
        {'tests.judges:Brightness': 3.0},
    ]
    pred = images(1, 3, 64, 64)
    alone = create_scorer('cnniqa', str(cnniqa_weights), full_cover=True)(pred)
    assert Ensemble(judges)(pred).item() == pytest.approx(((1 - alone / 100 + 3 * pred.mean()) / 4).item(), rel=1e-5)


# ------------------------------------------------------------------------------------------------ bad input

GOOD = {'tests.judges:Brightness': 1.0}


@pytest.mark.parametrize(
    ('judges', 'kind', 'message'),
    [
        (None, ValueError, 'needs the option judges: at least two'),
        ([GOOD], ValueError, 'at least two'),
        ({'musiq': 1.0, 'nima': 8.0}, ValueError, 'at least two'),
        ([GOOD, 'musiq'], ValueError, r"judges\[1\] must be .* got 'musiq'"),
        ([GOOD, {'musiq': 1.0, 'nima': 8.0}], ValueError, r"judges\[1\] \(one judge per entry\): '(musiq|nima)'"),
        ([GOOD, {'metric': 'tests.judges:TinyNet', 'wieght': 1.0}], ValueError, "'wieght'. Did you mean 'weight'"),
        ([GOOD, {'metric': 'tests.judges:TinyNet'}], ValueError, r"judges\[1\] lacks 'weight'"),
        ([GOOD, {'weight': 1.0}], ValueError, r"judges\[1\] lacks 'metric'"),
        ([GOOD, {'tests.judges:TinyNet': 0}], ValueError, r'judges\[1\].weight must be positive, got 0'),
        ([GOOD, {'tests.judges:Darkness': -1.0}], ValueError, 'must be positive, got -1.0: direction is handled inside'),
        ([GOOD, {'tests.judges:TinyNet': math.inf}], ValueError, 'weight must be finite'),
        ([GOOD, {'tests.judges:TinyNet': math.nan}], ValueError, 'weight must be finite'),
        ([GOOD, {'tests.judges:TinyNet': '5e-5'}], TypeError, r"weight must be a number, got the text '5e-5'"),
        ([GOOD, {'tests.judges:TinyNet': True}], TypeError, 'weight must be a number, got True'),
        ([GOOD, {'metric': 'tests.judges:TinyNet', 'weight': 1.0, 'options': [1]}], TypeError, 'options must be a mapping'),
        ([GOOD, {'metric': 'tests.judges:Darkness', 'weight': 1.0, 'options': {'gian': 1}}], ValueError, 'gian'),
        ([GOOD, {'nique': 1.0}], ValueError, "unknown judge 'nique'. Did you mean 'niqe'"),
        ([GOOD, {7: 1.0}], TypeError, 'named by a string, got 7'),
        ([GOOD, GOOD], ValueError, "judge 'brightness' is named twice"),
        ([GOOD, {'niqe': 1.0}], ValueError, r"judge 'niqe' has no finite range, but \(0.0, inf\)"),
        ([GOOD, {'metric': 'niqe', 'weight': 1.0, 'range': 12}], ValueError, r'judges\[1\].range must be two numbers'),
        ([GOOD, {'metric': 'niqe', 'weight': 1.0, 'range': [12, 2]}], ValueError, r'must rise .* got \[12, 2\]'),
        ([GOOD, {'metric': 'niqe', 'weight': 1.0, 'range': [2, math.inf]}], ValueError, 'range must be finite'),
        ([GOOD, {'metric': 'niqe', 'weight': 1.0, 'range': ['2', 12]}], TypeError, "number, got the text '2'"),
        ([GOOD, {'tests.judges:Distance': 1.0}], ValueError, r'full-reference judges \(distance\) and no-reference judges \(brightness\)'),
        ([GOOD, {'tests.judges:Clip': 1.0}], ValueError, r'video judges \(clip\) and image judges \(brightness\)'),
        ([GOOD, {'metric': 'cnniqa', 'weight': 1.0, 'weights': 'nowhere.pth'}], FileNotFoundError, 'nowhere.pth'),
    ],
)  # fmt: skip
def test_what_does_not_mix_is_refused_with_its_reason(judges, kind, message):
    with pytest.raises(kind, match=message):
        create_scorer('ensemble', judges=judges)


def test_a_range_of_its_own_is_the_unit_scale_of_a_judge():
    pred = images(2, 3, 8, 8)
    bright, dark = create_scorer('tests.judges:Brightness')(pred), create_scorer('tests.judges:Darkness')(pred)
    judges = [GOOD, {'metric': 'tests.judges:Darkness', 'weight': 3.0, 'range': [-2, 6]}]
    mixed = create_scorer('ensemble', judges=judges)
    torch.testing.assert_close(mixed(pred), (bright + 3 * (1 - (dark + 2) / 8)) / 4)
    other = create_scorer('ensemble', judges=[GOOD, {**judges[1], 'range': [-2, 7]}])
    assert other.weights_hash() != mixed.weights_hash()


def test_a_judge_without_finite_range_mixes_over_a_range_of_its_own():
    pred = images(1, 3, 192, 192)
    mixed = create_scorer('ensemble', judges=[GOOD, {'metric': 'niqe', 'weight': 1.0, 'range': [2, 12]}])
    niqe = create_scorer('niqe')(pred)
    expected = (create_scorer('tests.judges:Brightness')(pred) + 1 - (niqe - 2) / 10) / 2
    torch.testing.assert_close(mixed(pred), expected)


def test_a_weights_file_for_the_ensemble_itself_is_refused():
    with pytest.raises(ValueError, match="unknown option of the judge ensemble: 'weights'"):
        create_scorer('ensemble', 'file.pth', judges=two())


def test_a_judge_that_returns_one_score_per_batch_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r'one_number must return \(2,\) scores, got \(1,\)'):
        Ensemble([GOOD, {'tests.test_ensemble:OneNumber': 1.0}])(images(2, 3, 8, 8))


def test_a_finished_judge_is_taken_as_it_is():
    judge = Darkness(2.0)
    ensemble = Ensemble([{'metric': judge, 'weight': 1.0}, {'metric': FlatIsUndefined(), 'weight': 1.0}])
    assert ensemble.judges[0] is judge


def test_a_score_outside_an_approximate_range_stays_outside():
    """Clipping would end the gradient there: 0.8 of (0, 0.5) is 1.6, with brightness 0.8 the mean is 1.2."""
    judge = Ensemble([GOOD, {'tests.test_ensemble:Sharpness': 1.0}])
    value, grad = gradient(judge, torch.full((1, 3, 8, 8), 0.8))
    assert value.item() == pytest.approx(1.2)
    assert torch.allclose(grad, torch.full_like(grad, 1.5 / grad.numel()))


def test_a_loss_takes_the_ensemble_in_its_option_file_form():
    """``ensemble: [{a: 1.0}, {b: 8.0}]`` in a term is the judge of the same name and hash."""
    pred = images(2, 3, 16, 16)
    loss = LossSum([{'type': 'NRIQALoss', 'ensemble': two(), 'weight': 0.5}])
    assert [term.name for term in loss.terms] == ['ensemble']
    expected = NRIQALoss('ensemble', options={'judges': two()})
    value, grad = gradient(loss, pred)
    wanted, wanted_grad = gradient(expected, pred)
    assert value.item() == pytest.approx(0.5 * wanted.item(), rel=1e-6)
    assert torch.allclose(grad, 0.5 * wanted_grad, rtol=1e-5, atol=1e-12)
    assert value.item() == pytest.approx(-0.5 * by_hand(pred).mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({}, 'give one judge as metric or several as ensemble, got neither'),
        ({'metric': 'niqe', 'ensemble': two()}, "got metric 'niqe' and ensemble"),
        ({'ensemble': two(), 'weights': 'a.pth'}, 'its judges have weights and options of their own'),
        ({'ensemble': two(), 'options': {'judges': two()}}, 'its judges have weights and options of their own'),
        ({'ensemble': []}, 'at least two'),
        ({'ensemble': [two()[0], two()[0]]}, "judge 'tinynet' is named twice"),
        ({'ensemble': [two()[0], {'tests.judges:Distance': 1.0}]}, 'do not mix'),
        ({'ensemble': [two()[0], {'psnr': 1.0}]}, 'no finite range'),
    ],
)
def test_an_ensemble_that_cannot_be_one_judge_is_refused_by_the_loss(options, message):
    with pytest.raises(ValueError, match=message):
        NRIQALoss(**options)


class Multiples(Brightness):
    """Wants sides that are multiples of 4 px."""

    name = 'multiples'

    def check(self, pred, ref=None):
        super().check(pred, ref)
        if pred.shape[-1] % 4:
            raise ValueError(f'multiples needs sides of 4 n px, got {pred.shape[-1]}')


def test_what_a_judge_itself_asks_of_images_is_asked_of_what_it_sees():
    judges = [{'metric': f'{__name__}:Multiples', 'weight': 1.0}, {'metric': 'tests.judges:TinyNet', 'weight': 1.0}]
    for border, good, bad in ((0, 16, 18), (1, 18, 16)):
        judge = create_scorer('ensemble', judges=judges, crop_border=border)
        judge(images(1, 3, good, good))
        with pytest.raises(ValueError, match='multiples needs sides of 4 n px'):
            judge(images(1, 3, bad, bad))


def test_options_that_are_no_mapping_are_refused():
    with pytest.raises(TypeError, match="options must be a mapping such as {net: squeeze}, got 'squeeze'"):
        FRIQALoss('lpips', options='squeeze')


def test_an_ensemble_says_what_its_judges_say_of_their_weights_each_once(monkeypatch):
    monkeypatch.setattr('tests.judges.Brightness.notes', ('odd',), raising=False)
    monkeypatch.setattr('tests.judges.Constant.notes', ('odd', 'old'), raising=False)
    names = ('tests.judges:Brightness', 'tests.judges:Constant')
    assert create_scorer('ensemble', judges=[{name: 1.0} for name in names]).notes == ('odd', 'old')
