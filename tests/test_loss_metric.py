"""The validation loss: full weights, no trace in the training's loss, the same value in both hosts, and its best checkpoint."""

import copy

import numpy as np
import pytest
import torch

from nriqa_plugin.losses import FRIQALoss, LossSum, NRIQALoss
from nriqa_plugin.losses.space import Space
from nriqa_plugin.losses.validation_loss import validation_loss
from tests.judges import Distance, TinyNet

SCHEDULES = [{}, {'start_iter': 100}, {'warmup_iter': 50}, {'stop_iter': 3}, {'every': 7}]
BOTH = [
    {'type': 'L1Loss', 'weight': 0.5, 'warmup_iter': 10},
    {'type': 'MSELoss', 'weight': 2.0, 'start_iter': 1000},
]


def by_hand(pred, target):
    """The value of ``BOTH`` at full weights."""
    return (0.5 * (pred - target).abs().mean() + 2 * (pred - target).square().mean()).item()


def state_of(loss):
    """Everything that a loss remembers."""
    plain = [{key: repr(value) for key, value in vars(m).items() if key[0] != '_'} for m in loss.modules()]
    return plain, {name: value.clone() for name, value in loss.named_buffers()}, getattr(loss, 'loss_state', dict)()


def assert_same_state(one, other):
    assert one[0] == other[0]
    assert one[2] == other[2]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(value, other[1][name]) for name, value in one[1].items())


# ---------------------------------------------------------------------------------------------------- core


@pytest.mark.parametrize('iteration', [0, 1, 5, 200])
@pytest.mark.parametrize('schedule', SCHEDULES)
def test_every_term_counts_with_its_full_weight_whatever_its_schedule_says(schedule, iteration):
    loss = LossSum([{'type': 'L1Loss', 'weight': 0.5, **schedule}, {'type': 'MSELoss', 'weight': 2.0}])
    loss.set_iteration(iteration)
    pred, target = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    assert validation_loss(loss, pred, target) == pytest.approx(by_hand(pred, target), rel=1e-6)


def test_a_validation_leaves_no_trace_in_the_loss_and_the_training_goes_on_the_same():
    terms = [
        {'type': 'L1Loss', 'weight': 1.0, 'warmup_iter': 10},
        {'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 0.5, 'crop': 16, 'augment': True, 'every': 2},
    ]
    torch.manual_seed(0)
    loss = LossSum(terms, grad_norms=True)
    other = copy.deepcopy(loss)
    other.find_loss = loss.find_loss
    for iteration in range(1, 6):
        pred, target = torch.rand(2, 3, 24, 24, requires_grad=True), torch.rand(2, 3, 24, 24)
        values = []
        for one in (loss, other):
            value = one(pred, target)
            value.backward()
            values.append(value.item())
        assert values[0] == values[1]
        before = state_of(loss)
        validation_loss(loss, torch.full((1, 3, 24, 24), torch.nan), torch.rand(1, 3, 24, 24))  # counts as dropped
        validation_loss(loss, torch.rand(1, 3, 24, 24), torch.rand(1, 3, 24, 24))
        assert_same_state(before, state_of(loss))
        assert loss.iteration == iteration
    assert loss.values.keys() == {'l1'}  # of iteration 5, which 2 does not divide


def test_random_views_of_judges_are_the_same_at_every_validation():
    loss = LossSum(
        [{'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 1.0, 'crop': 16, 'augment': True}]
    )
    pred, target = torch.rand(1, 3, 24, 24), torch.rand(1, 3, 24, 24)
    values = set()
    for iteration in (1, 2, 50):
        loss.set_iteration(iteration)
        values.add(validation_loss(loss, pred, target))
    assert len(values) == 1


def test_a_term_that_is_not_finite_makes_the_value_so():
    loss = LossSum([{'type': 'L1Loss', 'weight': 1.0}])
    assert np.isnan(validation_loss(loss, torch.full((1, 3, 4, 4), torch.nan), torch.rand(1, 3, 4, 4)))
    assert loss.nonfinite == 'drop'


def test_losses_alone_and_pairs_are_taken_too():
    pred, target = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    assert validation_loss(torch.nn.L1Loss(), pred, target) == pytest.approx((pred - target).abs().mean().item())
    judge = FRIQALoss(Distance())
    assert validation_loss(judge, pred, target) == pytest.approx((pred - target).abs().mean().item(), rel=1e-5)
    assert judge.iteration == 0

    class Pair(torch.nn.Module):
        def forward(self, pred, target):
            return (pred - target).abs().mean(), None

    assert validation_loss(Pair(), pred, target) == pytest.approx((pred - target).abs().mean().item())
    net = NRIQALoss(TinyNet(), crop=8)
    before = state_of(net)
    assert np.isfinite(validation_loss(net, pred, None))
    assert_same_state(before, state_of(net))


def test_spaces_are_undone_exactly():
    images = torch.rand(2, 3, 5, 5)
    for option in ({}, {'range': [-1, 1]}, {'range': [-0.5, 0.5], 'order': 'bgr'}, {'order': 'bgr'}):
        space = Space(option)
        torch.testing.assert_close(space.to_unit_rgb(space.from_unit_rgb(images)), images)


# ------------------------------------------------------------------------------------------------- BasicSR


@pytest.fixture
def metric():
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    from basicsr.metrics import calculate_metric

    import nriqa_plugin.basicsr  # noqa: F401

    return lambda data, **option: calculate_metric(data, {'type': 'calculate_loss', **option})


def eight_bit(seed, shape=(12, 10, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def unit(image):
    """8-bit BGR as RGB in [0, 1]."""
    image = image[..., None] if image.ndim == 2 else image[..., ::-1]
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize('shape', [(12, 10, 3), (12, 10)])
def test_basicsrs_metric_of_own_terms_is_their_sum_on_the_8_bit_images(metric, shape):
    data = {'img': eight_bit(0, shape), 'img2': eight_bit(1, shape)}
    pred, target = unit(data['img']), unit(data['img2'])
    assert metric(data, terms=BOTH, better='lower') == pytest.approx(by_hand(pred, target), rel=1e-6)
    inner = by_hand(pred[..., 2:-2, 2:-2], target[..., 2:-2, 2:-2])
    assert metric(data, terms=BOTH, better='lower', crop_border=2) == pytest.approx(inner, rel=1e-6)


def test_basicsrs_metric_hands_images_over_in_the_space_of_the_loss(metric):
    """A judge sees RGB in [0, 1] whatever the space, a host's loss the space itself."""
    data = {'img': eight_bit(0), 'img2': eight_bit(1)}
    pred, target = unit(data['img']), unit(data['img2'])
    space = {'range': [-1, 1], 'order': 'bgr'}
    judge = [{'type': 'FRIQALoss', 'metric': 'tests.judges:Distance', 'weight': 1.0}]
    distance = (pred - target).abs().mean().item()
    assert metric(data, terms=judge, space=space, better='lower') == pytest.approx(distance, rel=1e-5)
    plain = [{'type': 'L1Loss', 'weight': 1.0}]
    assert metric(data, terms=plain, space=space, better='lower') == pytest.approx(2 * distance, rel=1e-5)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'terms': BOTH}, "lower is better; write 'better: lower'"),
        ({'terms': BOTH, 'better': 'higher'}, 'lower is better'),
        ({'better': 'lower'}, "without 'terms' it evaluates train.pixel_opt of a model_type: PerceptualModel"),
        ({'better': 'lower', 'term': BOTH}, "'term'. Did you mean 'terms'"),
        ({'better': 'lower', 'terms': [{'type': 'L2', 'weight': 1.0}]}, r'calculate_loss: .*L2'),
    ],
)
def test_wrong_options_of_basicsrs_metric_are_named(metric, option, message):
    with pytest.raises(ValueError, match=message):
        metric({'img': eight_bit(0), 'img2': eight_bit(1)}, **option)


def test_basicsrs_metric_needs_a_ground_truth(metric):
    with pytest.raises(ValueError, match='has no ground truth'):
        metric({'img': eight_bit(0)}, terms=BOTH, better='lower')


class OneImage(torch.utils.data.Dataset):
    """A validation set of one image."""

    def __init__(self):
        self.opt = {'name': 'one'}

    def __len__(self):
        return 1

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(9)
        images = {key: torch.rand(3, 16, 16, generator=generator) for key in ('lq', 'gt')}
        return {**images, 'lq_path': 'one.png', 'gt_path': 'one.png'}


@pytest.fixture
def model_of(tmp_path):
    """``model_of(val)`` gives a PerceptualModel of BasicSR whose loss is ``BOTH``."""
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    from basicsr.models import build_model

    import nriqa_plugin.basicsr  # noqa: F401

    def build(metrics, **more):
        for folder in ('models', 'training_states'):
            (tmp_path / folder).mkdir(exist_ok=True)
        paths = {key: str(tmp_path / key) for key in ('models', 'training_states', 'visualization')}
        opt = {
            'name': 'x', 'model_type': 'PerceptualModel', 'scale': 1, 'num_gpu': 0, 'dist': False, 'rank': 0,
            'world_size': 1, 'is_train': True, 'path': {**paths, 'experiments_root': str(tmp_path)},
            'network_g': {'type': 'DnCNN', 'in_nc': 3, 'out_nc': 3, 'nc': 4, 'nb': 3}, 'logger': {'print_freq': 1},
            'train': {
                'optim_g': {'type': 'SGD', 'lr': 0.01}, 'scheduler': {'type': 'ExponentialLR', 'gamma': 0.9},
                'pixel_opt': {'type': 'LossSum', 'terms': BOTH, 'grad_norms': True},
            },
            'val': {'save_img': False, 'metrics': metrics, 'save_best': 'loss'}, **more,
        }  # fmt: skip
        return build_model(opt)

    return build


def test_perceptual_model_hands_its_own_loss_over_and_keeps_the_best_checkpoint(model_of, tmp_path):
    own = {'type': 'calculate_loss', 'terms': [{'type': 'L1Loss', 'weight': 1.0}]}
    model = model_of({'loss': {'type': 'calculate_loss'}, 'l1': own})
    assert [option['better'] for option in model.opt['val']['metrics'].values()] == ['lower', 'lower']
    loader = torch.utils.data.DataLoader(OneImage())
    item = loader.dataset[0]
    values, best = [], tmp_path / 'models' / 'net_g_best_one_loss.pth'
    for iteration in range(1, 5):
        model.update_learning_rate(iteration)
        model.feed_data({key: value[None] for key, value in item.items() if key in ('lq', 'gt')})
        model.optimize_parameters(iteration)
        before = state_of(model.cri_pix)
        model.validation(loader, iteration, None)
        assert_same_state(before, state_of(model.cri_pix))
        with torch.no_grad():
            out = (model.net_g.eval()(item['lq'][None]).clamp(0, 1) * 255).round() / 255
        model.net_g.train()
        target = (item['gt'][None] * 255).round() / 255
        values.append(model.metric_results['loss'])
        assert values[-1] == pytest.approx(by_hand(out, target), rel=1e-5)
        assert model.metric_results['l1'] == pytest.approx((out - target).abs().mean().item(), rel=1e-5)
        known = torch.load(best, weights_only=True)['params'] if best.is_file() else {}
        same = all(torch.equal(value, known[key]) for key, value in model.net_g.state_dict().items())
        assert same == (values[-1] <= min(values))
    assert model.best_metric_results['one']['loss']['val'] == min(values)


def test_a_test_without_training_needs_terms_of_its_own(model_of):
    with pytest.raises(ValueError, match=r"val\.metrics\.loss: .*no train\.pixel_opt .*write 'terms"):
        model_of({'loss': {'type': 'calculate_loss'}}, is_train=False)
    with pytest.raises(ValueError, match=r'val\.metrics\.loss: calculate_loss: lower is better, got better: higher'):
        model_of({'loss': {'type': 'calculate_loss', 'better': 'higher'}})
    with pytest.raises(ValueError, match='space belongs to terms'):
        model_of({'loss': {'type': 'calculate_loss', 'space': {'order': 'bgr'}}})


# -------------------------------------------------------------------------------------------------- mmagic


@pytest.fixture
def mmagic():
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from mmengine.registry import init_default_scope

    import nriqa_plugin.mmagic  # noqa: F401

    init_default_scope('mmagic')


def sample(pred, gt, **more):
    """A data sample as mmagic's evaluators hand it over: BGR, 0 to 255."""
    return {'output': {'pred_img': pred}, 'gt_img': gt, 'gt_path': 'x/one.png', **more}


def restoring(preprocessor, loss):
    from tests.test_mmagic_models import build, plain

    network = {'type': 'DnCNN', 'in_nc': 3, 'out_nc': 3, 'nc': 4, 'nb': 3}
    return build(plain(network, data_preprocessor=preprocessor), loss)[0]


@pytest.mark.parametrize('centred', [False, True])
def test_mmagics_metric_is_the_models_loss_on_8_bit_images_at_full_weights(mmagic, centred):
    from mmagic.registry import METRICS

    from tests.test_mmagic_models import CENTRED, UNIT

    model = restoring(CENTRED if centred else UNIT, {'type': 'LossSum', 'terms': BOTH, 'space': {'order': 'bgr'}})
    metric = METRICS.build({'type': 'LossMetric'})
    metric.prepare(model, torch.utils.data.DataLoader(range(2)))
    assert metric.directions() == {'objective': False}
    generator = torch.Generator().manual_seed(0)
    pairs = [[torch.rand(3, 9, 8, generator=generator) * 255 for _ in range(2)] for _ in range(2)]
    before = state_of(model.pixel_loss)
    metric.process(None, [sample(*pair) for pair in pairs])
    assert_same_state(before, state_of(model.pixel_loss))
    expected = np.mean([by_hand(pred.round() / 255, gt.round() / 255) for pred, gt in pairs])
    assert metric.evaluate() == {'objective': pytest.approx(expected, rel=1e-5)}


def test_mmagics_metric_gives_judges_rgb_and_the_models_range(mmagic):
    from mmagic.registry import METRICS

    from tests.test_mmagic_models import CENTRED

    judge = [{'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 1.0}, {'type': 'L1Loss', 'weight': 1.0}]
    model = restoring(CENTRED, {'type': 'LossSum', 'terms': judge, 'space': {'range': [-0.5, 0.5]}})
    pred, gt = (torch.randint(0, 256, (3, 16, 16)).float() for _ in range(2))
    rgb = pred.flip(0)[None] / 255
    expected = NRIQALoss(TinyNet())(rgb).item() + ((pred - gt) / 255).abs().mean().item()
    for option in ({}, {'terms': judge}):
        metric = METRICS.build({'type': 'LossMetric', 'prefix': 'x', **option})
        metric.prepare(model, torch.utils.data.DataLoader(range(1)))
        metric.process(None, [sample(pred, gt)])
        assert metric.evaluate() == {'x/objective': pytest.approx(expected, rel=1e-5)}


def test_both_hosts_give_the_same_value(mmagic, metric):
    from mmagic.registry import METRICS

    from tests.test_mmagic_models import UNIT

    images = [eight_bit(0), eight_bit(1)]
    theirs = METRICS.build({'type': 'LossMetric', 'terms': BOTH})
    theirs.prepare(restoring(UNIT, None), torch.utils.data.DataLoader(range(1)))
    theirs.process(None, [sample(*(torch.from_numpy(image).permute(2, 0, 1).float() for image in images))])
    basicsr = metric({'img': images[0], 'img2': images[1]}, terms=BOTH, better='lower')
    assert theirs.evaluate()['objective'] == pytest.approx(basicsr, rel=1e-6)


def test_wrong_options_of_mmagics_metric_are_named(mmagic):
    from mmagic.registry import METRICS

    from tests.test_mmagic_models import UNIT

    with pytest.raises(ValueError, match='LossMetric: space belongs to terms'):
        METRICS.build({'type': 'LossMetric', 'space': {'order': 'bgr'}})
    with pytest.raises(ValueError, match=r'LossMetric: terms\[0\]'):
        METRICS.build({'type': 'LossMetric', 'terms': [{'type': 'L1Loss', 'weight': -1.0}]})
    metric = METRICS.build({'type': 'LossMetric'})
    with pytest.raises(ValueError, match="val_cfg = dict\\(type='MultiValLoop'\\)"):
        metric.process(None, [])
    model = restoring(UNIT, None)
    metric.prepare(model, torch.utils.data.DataLoader(range(1)))
    with pytest.raises(ValueError, match=r"one\.png: .*no 'gt_img'"):
        metric.process(None, [{'output': {'pred_img': torch.rand(3, 8, 8)}, 'gt_path': 'x/one.png'}])
    model.pixel_loss = None
    with pytest.raises(ValueError, match='BaseEditModel has no pixel_loss'):
        METRICS.build({'type': 'LossMetric'}).prepare(model, torch.utils.data.DataLoader(range(1)))


def test_a_rule_against_the_direction_of_the_loss_is_refused(mmagic):
    from types import SimpleNamespace

    from mmagic.registry import METRICS
    from mmengine.hooks import CheckpointHook

    from nriqa_plugin.mmagic.start_checks import check_metrics

    metric = METRICS.build({'type': 'LossMetric', 'terms': BOTH})
    loop = SimpleNamespace(evaluator=SimpleNamespace(metrics=[metric]))
    for rule, refused in (('less', False), ('greater', True)):
        hook = CheckpointHook(save_best='objective', rule=rule)
        runner = SimpleNamespace(val_loop=loop, hooks=[hook])
        if refused:
            with pytest.raises(
                ValueError, match="save_best='objective' with rule='greater', but for objective lower is better"
            ):
                check_metrics(runner)
        else:
            check_metrics(runner)
            assert hook.rules == ['less']
