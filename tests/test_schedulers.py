"""Learning rates: PyTorch's schedulers by name in BasicSR, exponential decay by its end in mmagic."""

import io
import itertools

import pytest
import torch

SGD = {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9, 'nesterov': True, 'weight_decay': 1e-4}
TOTAL = 9
BY_NAME = {
    'ConstantLR': {'factor': 0.5, 'total_iters': 4},
    'CosineAnnealingLR': {'T_max': 8, 'eta_min': 0.01},
    'CosineAnnealingWarmRestarts': {'T_0': 3},
    'CyclicLR': {'base_lr': 0.01, 'max_lr': 0.1, 'step_size_up': 3},
    'ExponentialLR': {'gamma': 0.8},
    'LinearLR': {'start_factor': 0.2, 'total_iters': 5},
    'OneCycleLR': {'max_lr': 0.2, 'total_steps': 20},
    'PolynomialLR': {'total_iters': 8, 'power': 2.0},
    'StepLR': {'step_size': 3, 'gamma': 0.1},
}


def optimizer(**more):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], **{'lr': 0.1, 'momentum': 0.9, **more})


# ------------------------------------------------------------------------------------------------- BasicSR


@pytest.fixture
def build(tmp_path):
    """``build(scheduler)`` gives a PerceptualModel of BasicSR with DnCNN."""
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    from basicsr.models import build_model

    import nriqa_plugin.basicsr  # noqa: F401

    for folder in ('models', 'training_states'):
        (tmp_path / folder).mkdir()

    def build(scheduler, **train):
        torch.manual_seed(0)
        opt = {
            'name': 'x', 'model_type': 'PerceptualModel', 'scale': 1, 'num_gpu': 0, 'dist': False, 'rank': 0,
            'world_size': 1, 'is_train': True, 'network_g': {'type': 'DnCNN', 'nc': 4, 'nb': 3},
            'path': {**{key: str(tmp_path / key) for key in ('models', 'training_states')}, 'experiments_root': str(tmp_path)},
            'train': {
                'optim_g': dict(SGD), 'scheduler': dict(scheduler), 'total_iter': TOTAL,
                'pixel_opt': {'type': 'LossSum', 'terms': [{'type': 'L1Loss', 'weight': 1.0}]}, **train,
            },
            'logger': {'print_freq': 1},
        }  # fmt: skip
        return build_model(opt)

    return build


def train(model, first=1, last=TOTAL, warmup=-1):
    """As the host's loop does; the learning rate that every iteration used, by iteration."""
    rates = {}
    for iteration in range(first, last + 1):
        model.update_learning_rate(iteration, warmup_iter=warmup)
        rates[iteration] = model.get_current_learning_rate()[0]
        generator = torch.Generator().manual_seed(iteration)
        model.feed_data({key: torch.rand(1, 1, 12, 12, generator=generator) for key in ('lq', 'gt')})
        model.optimize_parameters(iteration)
    return rates


def test_exponential_decay_falls_from_lr_to_eta_min_by_one_factor(build):
    rates = train(build({'type': 'ExponentialLR', 'eta_min': 1e-4}))
    for iteration, rate in rates.items():
        assert rate == pytest.approx(0.1 * (1e-4 / 0.1) ** ((iteration - 1) / (TOTAL - 1)), rel=1e-9)
    assert (rates[1], rates[TOTAL]) == (0.1, pytest.approx(1e-4))


def test_every_scheduler_that_is_offered_is_tested():
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    from nriqa_plugin.basicsr.schedulers import torch_schedulers

    assert torch_schedulers().keys() == BY_NAME.keys()


@pytest.mark.parametrize('name', BY_NAME)
def test_every_scheduler_of_pytorch_steps_once_an_iteration_and_its_state_resumes_safely(build, name):
    model = build({'type': name, **BY_NAME[name]})
    alone = optimizer()
    reference = getattr(torch.optim.lr_scheduler, name)(alone, **BY_NAME[name])
    expected = {}
    for iteration in range(1, TOTAL + 1):
        if iteration > 1:
            alone.step()
            reference.step()
        expected[iteration] = alone.param_groups[0]['lr']
    assert train(model, last=5) == pytest.approx({i: expected[i] for i in range(1, 6)})

    state = {'epoch': 0, 'iter': 5, 'optimizers': [model.optimizer_g.state_dict()]}
    state['schedulers'] = [scheduler.state_dict() for scheduler in model.schedulers]
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    resumed = build({'type': name, **BY_NAME[name]})
    resumed.net_g.load_state_dict(model.net_g.state_dict())
    resumed.resume_training(torch.load(file, weights_only=True))
    whole = train(model, first=6)
    assert train(resumed, first=6) == whole
    assert whole == pytest.approx({i: expected[i] for i in range(6, TOTAL + 1)})
    for key, value in model.net_g.state_dict().items():
        assert torch.equal(value, resumed.net_g.state_dict()[key])


def test_warm_up_covers_the_schedule_and_does_not_shift_it(build):
    plain = train(build({'type': 'ExponentialLR', 'eta_min': 1e-4}))
    warm = train(build({'type': 'ExponentialLR', 'eta_min': 1e-4}), warmup=4)
    assert [warm[i] for i in (1, 2, 3)] == pytest.approx([0.1 / 4, 0.2 / 4, 0.3 / 4])  # the host's: initial lr * i / 4
    assert {i: warm[i] for i in range(4, TOTAL + 1)} == pytest.approx({i: plain[i] for i in range(4, TOTAL + 1)})


def test_the_hosts_own_schedulers_are_left_to_the_host(build):
    model = build({'type': 'MultiStepLR', 'milestones': [3], 'gamma': 0.5})
    assert type(model.schedulers[0]).__module__ == 'basicsr.models.lr_scheduler'
    rates = train(model)
    assert [rates[i] for i in (3, 4)] == [0.1, 0.05]


def test_schedulers_of_a_copy_of_the_host_are_left_to_it_even_under_a_name_of_pytorch(build, monkeypatch):
    from basicsr.models.base_model import BaseModel
    from basicsr.models.lr_scheduler import MultiStepRestartLR

    hosts = BaseModel.setup_schedulers

    def with_one_more(model):
        option = model.opt['train']['scheduler']
        if option['type'] != 'LinearLR':
            return hosts(model)
        model.schedulers = [MultiStepRestartLR(one, [option['at']], 0.5) for one in model.optimizers]

    monkeypatch.setattr(BaseModel, 'setup_schedulers', with_one_more)
    rates = train(build({'type': 'LinearLR', 'at': 3}))
    assert [rates[i] for i in (3, 4)] == [0.1, 0.05]
    assert train(build({'type': 'StepLR', 'step_size': 2}))[3] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ('scheduler', 'error', 'message'),
    [
        ({'type': 'ExponetialLR', 'gamma': 0.9}, ValueError, "'ExponetialLR'. Did you mean 'ExponentialLR'"),
        ({'type': 'ReduceLROnPlateau'}, ValueError, 'unknown train.scheduler.type'),
        ({'type': 'ExponentialLR'}, ValueError, r'ExponentialLR\): give either gamma .* or eta_min'),
        ({'type': 'ExponentialLR', 'gamma': 0.9, 'eta_min': 0.01}, ValueError, 'give either gamma'),
        ({'type': 'ExponentialLR', 'gama': 0.9}, ValueError, "'gama'. Did you mean 'gamma'"),
        ({'type': 'ExponentialLR', 'gamma': 1.5}, ValueError, 'gamma must be above 0 and at most 1, got 1.5'),
        ({'type': 'ExponentialLR', 'eta_min': '1e-4'}, TypeError, 'eta_min must be a number, got the text'),
        ({'type': 'ExponentialLR', 'eta_min': 0}, ValueError, 'eta_min must be above 0 and at most lr = 0.1, got 0'),
        ({'type': 'ExponentialLR', 'eta_min': 0.2}, ValueError, 'at most lr = 0.1, got 0.2'),
        ({'type': 'CosineAnnealingLR'}, TypeError, r'train\.scheduler \(CosineAnnealingLR\): .*T_max'),
        ({'type': 'StepLR', 'step_size': 3, 'last_epoch': 2}, ValueError, 'last_epoch'),
    ],
)
def test_wrong_schedulers_are_named(build, scheduler, error, message):
    with pytest.raises(error, match=message):
        build(scheduler)


def test_eta_min_wants_one_learning_rate_and_a_length():
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    from nriqa_plugin.basicsr.schedulers import create_scheduler

    two = torch.optim.SGD([{'params': [torch.zeros(1)], 'lr': rate} for rate in (0.1, 0.01)])
    with pytest.raises(ValueError, match=r'different learning rates \[0.01, 0.1\]: give gamma instead'):
        create_scheduler(two, {'type': 'ExponentialLR', 'eta_min': 1e-4}, 10)
    with pytest.raises(TypeError, match=r'train\.total_iter must be a number, got None'):
        create_scheduler(optimizer(), {'type': 'ExponentialLR', 'eta_min': 1e-4}, None)
    one = create_scheduler(optimizer(), {'type': 'ExponentialLR', 'eta_min': 1e-4}, 1)
    assert one.gamma == 1


# -------------------------------------------------------------------------------------------------- mmagic


def test_exponential_to_lr_ends_at_eta_min_in_the_last_iteration_of_any_run():
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from mmagic.registry import PARAM_SCHEDULERS

    import nriqa_plugin.mmagic  # noqa: F401

    for steps in (5, 50):
        alone = optimizer()
        option = {'type': 'ExponentialToLR', 'optimizer': alone, 'eta_min': 1e-4, 'end': steps, 'by_epoch': False}
        scheduler = PARAM_SCHEDULERS.build(option)
        rates = []
        for _ in range(steps):
            rates.append(alone.param_groups[0]['lr'])
            alone.step()
            scheduler.step()
        factors = {round(b / a, 9) for a, b in itertools.pairwise(rates)}
        assert len(factors) == 1
        assert (rates[0], rates[-1]) == (0.1, pytest.approx(1e-4))


@pytest.mark.parametrize('eta_min', [0, 0.2])
def test_exponential_to_lr_refuses_an_end_above_the_start(eta_min):
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from nriqa_plugin.mmagic.schedulers import ExponentialToLR

    with pytest.raises(ValueError, match=r'eta_min must be above 0 and at most lr = 0\.1'):
        ExponentialToLR(optimizer(), eta_min, 10)
