"""LoRANet: equal to the merged network, the base out of reach, state dicts that fit or are refused, merging."""

import copy
import json
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

from nriqa_plugin.archs import RLFN
from nriqa_plugin.cli import app
from nriqa_plugin.lora import LoRANet, merge_checkpoint
from nriqa_plugin.lora.base_file import MARK, weights_hash
from nriqa_plugin.lora.peft_format import save_peft
from nriqa_plugin.lora.state import info_tensor

PADDING_MODES = ('zeros', 'reflect', 'replicate', 'circular')
CONVOLUTIONS = {
    'dense': {},
    'strided': {'stride': 2},
    'dilated': {'dilation': 2, 'padding': 2},
    'grouped': {'groups': 2},
    'depthwise': {'groups': 8, 'out_channels': 16},
    'grouped, dilated, strided': {'groups': 4, 'dilation': (2, 1), 'padding': (2, 1), 'stride': (1, 2)},
    'pointwise': {'kernel_size': 1, 'padding': 0},
    'oblong, same': {'kernel_size': (1, 3), 'padding': 'same', 'bias': False},
}


def convolution(**options):
    return nn.Conv2d(**{'in_channels': 8, 'out_channels': 8, 'kernel_size': 3, 'padding': 1, **options})


def small():
    """A network with all that matters: linear layers, convolutions, normalisation, a bare parameter, a buffer."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(3, 8, 3, padding=1, padding_mode='reflect')
            self.body = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(8, 8, 3, padding=1)])
            self.norm = nn.BatchNorm2d(8)
            self.mlp = nn.Linear(8, 8)
            self.spynet = nn.Conv2d(8, 8, 1)
            self.gain = nn.Parameter(torch.ones(1))
            self.register_buffer('mask', torch.ones(1))
            self.tail = nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, x):
            x = self.head(x)
            for conv in self.body:
                x = x + F.relu(conv(x))
            x = self.mlp(self.norm(x).movedim(1, -1)).movedim(-1, 1) * self.gain
            return self.tail(x + self.spynet(x)) * self.mask

    torch.manual_seed(7)
    return Small()


def trained(net, steps=2, lr=0.05):
    """Some real optimizer steps on everything that ``parameters()`` gives."""
    optimizer = torch.optim.Adam(net.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.rand(2, 3, 12, 12)).square().mean().backward()
        optimizer.step()
    return net


def randomised(net):
    """As after a long training: no factor is zero."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def equal(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)


@pytest.fixture
def images():
    return torch.rand(2, 3, 12, 12)


# The change of a layer


@pytest.mark.parametrize('padding_mode', PADDING_MODES)
@pytest.mark.parametrize('kind', CONVOLUTIONS)
def test_a_convolution_equals_the_merged_one_in_value_and_gradient(kind, padding_mode):
    options = {**CONVOLUTIONS[kind], 'padding_mode': padding_mode}
    base = convolution(**options).double()
    rank = 2 if kind == 'pointwise' else 3
    net = randomised(LoRANet(copy.deepcopy(base), rank=rank, alpha=1.5))
    a, b = (net.get_parameter(f'base.parametrizations.weight.0.lora_{part}') for part in 'AB')
    assert a.shape == (rank, base.weight[0].numel())
    assert b.shape == (base.out_channels, rank)
    # The change written out, entry by entry of the four-dimensional weight.
    factors = [a.detach().clone().requires_grad_(), b.detach().clone().requires_grad_()]
    change = torch.einsum('or,rikl->oikl', factors[1], factors[0].view(rank, *base.weight.shape[1:]))
    weight = base.weight.detach() + 1.5 / rank * change
    x = torch.rand(2, 8, 9, 11, dtype=torch.double)
    ours, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    got = net(ours)
    expected = base._conv_forward(plain, weight, base.bias)
    torch.testing.assert_close(got, expected)
    towards = torch.rand_like(got)
    torch.testing.assert_close(
        torch.autograd.grad((got * towards).sum(), [ours, a, b]),
        torch.autograd.grad((expected * towards).sum(), [plain, *factors]),
    )
    merged = convolution(**options).double()
    merged.load_state_dict(net.merged_state_dict())
    torch.testing.assert_close(merged(x), got)


@pytest.mark.parametrize('shape', [(8,), (2, 8), (2, 5, 6, 8)])
def test_a_linear_layer_equals_its_two_paths(shape):
    base = nn.Linear(8, 6).double()
    net = randomised(LoRANet(copy.deepcopy(base), rank=4, alpha=2))
    a, b = net.parameters()
    x = torch.rand(shape, dtype=torch.double)
    torch.testing.assert_close(net(x), base(x) + 2 / 4 * (x @ a.T @ b.T))


def test_gradients_pass_gradcheck():
    net = randomised(LoRANet(convolution(groups=2, dilation=2, padding_mode='circular').double(), rank=2))
    a, b = net.parameters()

    def output(a, b, x):
        names = [f'base.parametrizations.weight.0.lora_{part}' for part in 'AB']
        return torch.func.functional_call(net, dict(zip(names, (a, b), strict=True)), (x,))

    x = torch.rand(1, 8, 6, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(output, (a, b, x), fast_mode=True)


def test_at_the_start_the_output_is_the_bases_bit_for_bit(images):
    for training in (True, False):
        base = small().train(training)
        if training:
            base.norm.eval()
        net = LoRANet(copy.deepcopy(base), rank=2, target='*')
        assert net.training == training
        assert torch.equal(net(images), base(images))


def test_two_networks_of_one_kind_start_equal_whatever_the_global_generator():
    nets = []
    for seed in (1, 2):
        base = small()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        nets.append(LoRANet(base, rank=2))
        assert torch.equal(before, torch.get_rng_state()), 'building draws nothing from the global generator'
    assert equal(*(net.state_dict() for net in nets))
    a = nets[0].get_parameter('base.mlp.parametrizations.weight.0.lora_A')
    assert a.abs().max() <= 1 / math.sqrt(8)
    assert a.std().item() == pytest.approx(1 / math.sqrt(3 * 8), rel=0.5)  # of a uniform distribution


def test_dropout_acts_in_training_only_and_keeps_the_mean():
    net = randomised(LoRANet(nn.Linear(8, 8, bias=False), rank=4, dropout=0.5))
    x = torch.eye(8)
    assert torch.equal(net.eval()(x), net(x))
    net.train()
    draws = torch.stack([net(x) for _ in range(4000)])
    assert draws.std(0).min() > 0
    torch.testing.assert_close(draws.mean(0), net.eval()(x), rtol=0, atol=5 * (draws.std(0) / 4000**0.5).max().item())


def test_half_precision_and_autocast_keep_the_output_of_the_base(images):
    base = small().eval().to(torch.bfloat16)
    net = LoRANet(copy.deepcopy(base), rank=2)
    assert torch.equal(net(images.bfloat16()), base(images.bfloat16()))
    base = small().eval()
    net = LoRANet(copy.deepcopy(base), rank=2)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(net(images), base(images))
        net(images).float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in net.parameters())


def test_gradients_are_the_same_under_activation_checkpointing(images):
    gradients = []
    for reentrant in (None, True, False):
        net = randomised_in_order(LoRANet(small().eval(), rank=2))
        x = images.clone().requires_grad_()
        out = net(x) if reentrant is None else torch.utils.checkpoint.checkpoint(net, x, use_reentrant=reentrant)
        gradients.append(torch.autograd.grad(out.square().sum(), [x, *net.parameters()]) if reentrant is not True
                         else backward(out, [x, *net.parameters()]))  # fmt: skip
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0])


def randomised_in_order(net):
    torch.manual_seed(1)
    return randomised(net)


def backward(out, leaves):
    """Reentrant checkpointing knows ``backward`` only."""
    out.square().sum().backward()
    return tuple(leaf.grad for leaf in leaves)


# The base stays as it is


def test_only_the_change_is_a_parameter_and_training_moves_nothing_else(images):
    net = LoRANet(small(), rank=2, target='*')
    before = {key: value.clone() for key, value in net.base_state().items()}
    assert all(name.endswith(('lora_A', 'lora_B')) for name, _ in net.named_parameters())
    assert len(list(net.parameters())) == 2 * 6
    changes = [parameter.clone() for parameter in net.parameters()]
    trained(net.train())
    assert equal(net.base_state(), before)
    assert all(not torch.equal(parameter, old) for parameter, old in zip(net.parameters(), changes, strict=True))
    assert not torch.equal(net.eval()(images), LoRANet(small(), rank=2).eval()(images))


def test_running_statistics_do_not_move_in_training():
    net = LoRANet(small().train(), rank=2)
    assert net.training
    assert net.body.training
    assert not net.norm.training
    trained(net, steps=3)
    net.eval().train()
    assert not net.norm.training
    assert equal(net.norm.state_dict(), small().norm.state_dict())
    assert net.norm.num_batches_tracked == 0


@pytest.mark.parametrize('kind', [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_the_power_iteration_of_a_base_with_spectral_normalisation_does_not_move(kind):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), kind(nn.Conv2d(8, 3, 3, padding=1)))
    plain = copy.deepcopy(base.state_dict())
    net = trained(LoRANet(base, rank=2).train())
    assert list(net.adapted) == ['0'], 'the normalised layer computes its weight itself'
    assert equal(net.base_state(), plain)


def test_setting_the_flags_of_all_parameters_frees_and_freezes_the_change_only():
    """What ``fix_flow``, ``fix_iter`` and EDVR's ``tsa_iter`` do: freeze by name, later free everything."""
    net = LoRANet(small(), rank=2, target='*')
    before = {key: value.clone() for key, value in net.base_state().items()}
    for name, parameter in net.named_parameters():
        if 'spynet' in name:
            parameter.requires_grad_(False)
    still = [parameter.clone() for parameter in net.spynet.parameters()]
    trained(net)
    assert len(still) == 2
    assert all(torch.equal(old, new) for old, new in zip(still, net.spynet.parameters(), strict=True))
    for free in (lambda: net.requires_grad_(True), lambda: [p.requires_grad_(True) for p in net.parameters()]):
        free()
        trained(net)
        assert equal(net.base_state(), before)
    assert not any(torch.equal(old, new) for old, new in zip(still, net.spynet.parameters(), strict=True))
    assert not any(value.requires_grad for value in net.base_state().values())


def test_a_moving_average_of_all_parameters_leaves_the_base_exact():
    """``p.mul_(decay).add_(q, alpha=1 - decay)`` of equal numbers rounds away from them; buffers are not averaged."""
    net, average = LoRANet(small(), rank=2), LoRANet(small(), rank=2)
    drifting, source = small(), dict(small().named_parameters())
    for _ in range(20):
        trained(net, steps=1)
        for mine, theirs in ((average, net), (drifting, None)):
            of = dict(theirs.named_parameters()) if theirs is not None else source
            for name, parameter in mine.named_parameters():
                parameter.data.mul_(0.999).add_(of[name].data, alpha=1 - 0.999)
    assert equal(average.base_state(), small().state_dict())
    assert not equal(drifting.state_dict(), small().state_dict()), 'plain parameters do drift'


def test_distributed_training_leaves_the_base_exact_and_does_not_send_it(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path / "store"}', rank=0, world_size=1)
    try:
        net = LoRANet(small(), rank=2)
        wrapped = nn.parallel.DistributedDataParallel(net)
        assert not [name for name, _ in wrapped.module.named_buffers() if name not in wrapped.parameters_to_ignore]
        assert not wrapped.modules_buffers
        wrapped.module.requires_grad_(True)
        trained(wrapped)
        assert equal(net.base_state(), small().state_dict())
    finally:
        torch.distributed.destroy_process_group()


def test_a_copy_shares_nothing_with_its_original(images):
    net = randomised(LoRANet(small().eval(), rank=2))
    twin = copy.deepcopy(net)
    assert torch.equal(twin(images), net(images))
    assert {id(change) for change in twin.adapted.values()}.isdisjoint(id(c) for c in net.adapted.values())
    before = {key: value.clone() for key, value in net.state_dict().items()}
    trained(twin)
    other = {key: value + 1 for key, value in small().state_dict().items()}
    twin.load_state_dict(other)
    assert equal(net.state_dict(), before)
    assert equal(twin.base_state(), other)
    assert not torch.equal(twin.merged_state_dict()['mlp.weight'], twin.base_state()['mlp.weight'])


def test_attributes_of_the_base_are_reachable_and_missing_ones_name_this_class():
    net = LoRANet(small(), rank=2)
    assert net.spynet is net.base.spynet
    assert not hasattr(net, 'is_mirror_extended')
    with pytest.raises(AttributeError, match="'LoRANet' object has no attribute 'nothing'"):
        net.nothing  # noqa: B018


def test_the_share_of_trained_parameters_is_logged_and_printed(plugin_log):
    plugin_log.set_level('INFO')
    net = LoRANet(small(), rank=2, target=['mlp', 'body.*'])
    whole = sum(parameter.numel() for parameter in small().parameters())
    own = 2 * (8 + 8) + 2 * (8 + 36) + 2 * (8 + 72)
    text = f'3 layers of Small, rank 2: {own:,} trained parameters, {100 * own / whole:.2f} % of {whole:,}'
    assert text in plugin_log.text
    assert text in str(net)


class Recurrent(nn.Module):
    """One layer at two places, and two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 4, 3, padding=1)
        block = nn.Conv2d(4, 4, 3, padding=1)
        self.body = nn.Sequential(block, nn.ReLU(), block)
        self.tied, self.twin = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 1)
        self.twin.weight = self.tied.weight

    def forward(self, x):
        x = self.body(self.head(x))
        return self.tied(x) + self.twin(x)


def test_a_layer_at_several_places_has_one_change_and_all_its_names(images, tmp_path):
    torch.manual_seed(3)
    base = Recurrent()
    net = LoRANet(copy.deepcopy(base), rank=2, target='body.0')
    assert len(list(net.parameters())) == 2
    assert equal(net.base_state(), base.state_dict())
    assert not any(net.load_state_dict(base.state_dict(), strict=True))
    trained(net)
    other = LoRANet(copy.deepcopy(base), rank=2, target='body.0')
    other.load_state_dict(net.state_dict())
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    assert merge(tmp_path / 'net.pth', '--out', tmp_path / 'plain.pth').exit_code == 0
    plain = torch.load(tmp_path / 'plain.pth', weights_only=True)['params']
    assert equal(plain, net.merged_state_dict())
    start = base(images)
    base.load_state_dict(plain, strict=True)
    assert not torch.allclose(base(images), start)
    for same in (other(images), base(images)):
        torch.testing.assert_close(same, net(images))
    with pytest.raises(ValueError, match='has one at several places; merge it instead'):
        save_peft(net, tmp_path)


def test_a_weight_that_two_layers_share_is_not_changed_in_one_of_them():
    assert list(LoRANet(Recurrent(), rank=2).adapted) == ['head', 'body.0', 'body.2']
    with pytest.raises(ValueError, match="'tied' matches none of the 2 layers"):
        LoRANet(Recurrent(), rank=2, target='tied')


# State dicts


def test_plain_base_keys_load_strictly_and_keep_the_change():
    net = randomised(LoRANet(small(), rank=2))
    before = [parameter.clone() for parameter in net.parameters()]
    plain = {key: torch.rand_like(value.float()).to(value) for key, value in small().state_dict().items()}
    assert not any(net.load_state_dict(plain, strict=True))
    assert equal(net.base_state(), plain)
    assert all(torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


def test_a_full_state_dict_makes_a_round_trip(images):
    net = trained(LoRANet(small(), rank=2, alpha=4))
    other = LoRANet(
        copy.deepcopy(small()).apply(lambda m: m.reset_parameters() if hasattr(m, 'reset_parameters') else 0),
        rank=2,
        alpha=4,
    )
    assert not equal(net.state_dict(), other.state_dict())
    other.load_state_dict(net.state_dict())
    assert equal(net.state_dict(), other.state_dict())
    assert torch.equal(net.eval()(images), other.eval()(images))
    assert set(net.state_dict()) == {*small().state_dict(), 'lora_info', *(
        f'{name}.lora_{part}' for name in net.adapted for part in 'AB')}  # fmt: skip


def test_a_network_inside_another_one_loads_by_the_same_keys_behind_its_prefix():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = LoRANet(small(), rank=2)
            self.discriminator = nn.Linear(2, 2)

    model, other = Model(), Model()
    randomised(model)
    other.load_state_dict(model.state_dict())
    assert equal(model.state_dict(), other.state_dict())
    plain = {f'generator.{key}': value * 2 for key, value in small().state_dict().items()}
    missing, unexpected = other.load_state_dict({**plain, 'generator.foo': torch.zeros(1)}, strict=False)
    assert missing == ['discriminator.weight', 'discriminator.bias']
    assert unexpected == ['generator.foo']
    assert torch.equal(other.generator.base_state()['gain'], torch.full((1,), 2.0))


def test_wrong_keys_and_shapes_are_named_as_in_the_plain_checkpoint():
    net = LoRANet(small(), rank=2)
    state = small().state_dict()
    del state['head.weight']
    state |= {'mlp.weight': torch.zeros(3), 'extra.weight': torch.zeros(1)}
    with pytest.raises(RuntimeError) as error:
        net.load_state_dict(state)
    message = str(error.value)
    assert 'Missing key(s) in state_dict: "head.weight"' in message
    assert 'Unexpected key(s) in state_dict: "extra.weight"' in message
    assert 'size mismatch for mlp.weight: (3,) in the state dict, (8, 8) in the network' in message
    assert 'parametrizations' not in message


@pytest.fixture
def base_file(tmp_path):
    file = tmp_path / 'base.pth'
    torch.save({'params': small().state_dict()}, file)
    return file


def adapter(base_file, base=None, **options):
    return LoRANet(base or small(), **{'rank': 2, 'save': 'adapter', 'base_weights': base_file, **options})


def test_an_adapter_holds_the_change_and_the_name_of_its_base_only(base_file, images):
    net = trained(adapter(base_file)).eval()
    state = net.state_dict()
    assert set(state) == {'lora_info', *(f'{name}.lora_{part}' for name in net.adapted for part in 'AB')}
    header = json.loads(bytes(state['lora_info'].tolist()))
    assert header['base'] == {'file': str(base_file), 'key': 'params', 'hash': weights_hash(small().state_dict())}
    other = adapter(base_file)
    other.load_state_dict(state)
    assert torch.equal(other.eval()(images), net(images))
    in_memory = LoRANet(small(), rank=2)  # the right base, from wherever
    in_memory.load_state_dict(state)
    assert torch.equal(in_memory.eval()(images), net(images))


@pytest.mark.parametrize('part', ['tail.bias', 'gain', 'norm.running_mean'])
def test_an_adapter_of_another_base_is_refused_also_without_strict(base_file, part):
    state = adapter(base_file).state_dict()
    changed = small()
    changed.state_dict()[part][0] += 1e-3
    for strict in (True, False):
        with pytest.raises(
            ValueError,
            match=r'belongs to another base: to \w{12} from the file .*base\.pth, but the base here is \w{12} from no file',
        ):
            LoRANet(copy.deepcopy(changed), rank=2).load_state_dict(state, strict=strict)
    late = LoRANet(small(), rank=2)
    late.load_state_dict(state)
    late.load_state_dict(changed.state_dict())  # the hash follows the base
    with pytest.raises(ValueError, match='belongs to another base'):
        late.load_state_dict(state)


def test_a_network_that_saves_adapters_takes_no_other_base(base_file):
    net = adapter(base_file)
    net.load_state_dict(small().state_dict())  # the same one
    with pytest.raises(ValueError, match='the base must be the one in base_weights .*base.pth.* brings another'):
        net.load_state_dict({key: value + 1 for key, value in small().state_dict().items()})


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'rank': 3}, 'have rank 2, the option is 3'),
        ({'alpha': 16}, 'have alpha 2, the option is 16'),
        ({'target': 'body.*'}, r'of other layers than target gives: more: 4 \(head, mlp, spynet\), missing: none'),
    ],
)
def test_changes_that_do_not_fit_are_refused_also_without_strict(options, message):
    state = LoRANet(small(), rank=2).state_dict()
    with pytest.raises(ValueError, match=message):
        LoRANet(small(), **{'rank': 2, **options}).load_state_dict(state, strict=False)


def test_changes_without_header_and_damaged_headers_are_refused():
    net = LoRANet(small(), rank=2)
    state = net.state_dict()
    for header in (torch.zeros(5, dtype=torch.uint8), info_tensor({'rank': 2}), info_tensor([1])):
        with pytest.raises(ValueError, match='lora_info is not the header of a LoRANet'):
            net.load_state_dict({**state, 'lora_info': header})
    del state['lora_info']
    with pytest.raises(ValueError, match='has LoRA weights but no lora_info'):
        net.load_state_dict(state)


FILES = {
    'bare': lambda state: state,
    'params': lambda state: {'params': state},
    'params_ema': lambda state: {'params': {k: v * 0 for k, v in state.items()}, 'params_ema': state},
    'module.': lambda state: {'params': {f'module.{k}': v for k, v in state.items()}},
    'generator.': lambda state: {'meta': {}, 'state_dict': {'discriminator.x': torch.ones(1), **{f'generator.{k}': v for k, v in state.items()}}},
    'generator_ema.': lambda state: {'state_dict': {f'{part}.{k}': v * (part == 'generator_ema') for part in ('generator', 'generator_ema') for k, v in state.items()}},
}  # fmt: skip


@pytest.mark.parametrize('kind', FILES)
def test_base_weights_are_read_from_every_kind_of_checkpoint(tmp_path, kind):
    wanted = {key: torch.rand_like(value.float()).to(value) for key, value in small().state_dict().items()}
    torch.save(FILES[kind](wanted), tmp_path / 'file.pth')
    net = LoRANet(small(), rank=2, base_weights=tmp_path / 'file.pth')
    assert equal(net.base_state(), wanted)
    if kind.endswith('ema') or kind == 'generator_ema.':
        key = {'params_ema': 'params', 'generator_ema.': 'generator'}[kind]
        net = LoRANet(small(), rank=2, base_weights=tmp_path / 'file.pth', base_key=key)
        assert not net.base_state()['head.weight'].any()


# Wrong options


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'base': {'type': 'SwinIR'}}, TypeError, 'LoRANet.base must be a network'),
        ({'rank': 0}, ValueError, 'LoRANet.rank'),
        ({'rank': 2.5}, TypeError, 'LoRANet.rank'),
        ({'rank': '8'}, TypeError, 'LoRANet.rank must be a number'),
        ({'alpha': 0}, ValueError, 'alpha above 0'),
        ({'dropout': 1}, ValueError, 'dropout must be below 1'),
        ({'save': 'lora'}, ValueError, "LoRANet.save: 'lora'.*adapter, full"),
        ({'save': 'adapter'}, ValueError, 'save: adapter needs base_weights'),
        ({'base_key': 'params'}, ValueError, 'base_key chooses weights in the file base_weights'),
        ({'base_weights': 'nothing.pth'}, FileNotFoundError, 'LoRANet.base_weights: no such file: nothing.pth'),
        ({'ranks': 2}, ValueError, "unknown option of LoRANet: 'ranks'. Did you mean 'rank'"),
        ({'target': 3}, TypeError, 'LoRANet.target must be a name pattern or a list'),
        ({'target': []}, TypeError, 'LoRANet.target must be a name pattern or a list'),
        ({'target': 'boby.0'}, ValueError, r"'boby.0' matches none of the 6 layers of Small; the closest names are 'body.0'"),
        ({'target': ['*', '!tial']}, ValueError, r"'!tial' matches none of the 6 layers .*'tail'"),
        ({'target': ['body.*', '!body.*']}, ValueError, 'leaves no layer of Small'),
        ({'target': '*', 'rank': 4}, ValueError, r"rank is 4, but the layer 'tail' \(3, 8, 3, 3\) has at most rank 3.*'!tail'"),
        ({'rank': 9}, ValueError, "rank is 9, more than any layer of Small has: at most 8, in 'head'"),
        ({'base': nn.ReLU()}, ValueError, 'ReLU has no linear layer'),
    ],
)  # fmt: skip
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        LoRANet(**{'base': small(), 'rank': 2, **options})


def test_a_wrapped_base_a_lora_file_and_a_missing_key_are_refused(tmp_path, base_file):
    net = LoRANet(small(), rank=2)
    torch.save({'params': net.state_dict()}, tmp_path / 'lora.pth')
    with pytest.raises(ValueError, match='has low-rank changes already'):
        LoRANet(net, rank=2)
    with pytest.raises(ValueError, match='base_weights: .*lora.pth holds LoRA weights, .*merge-lora'):
        LoRANet(small(), rank=2, base_weights=tmp_path / 'lora.pth')
    with pytest.raises(ValueError, match="base_key in .*'params_ema'. Did you mean 'params'"):
        LoRANet(small(), rank=2, base_weights=base_file, base_key='params_ema')
    with pytest.raises(ValueError, match='belongs to another network than RLFN'):
        LoRANet(RLFN(), rank=2, base_weights=base_file)


def test_patterns_choose_layers_by_their_whole_names():
    for target, expected in (
        ('body.*', ['body.0', 'body.1']),
        (['body.1', 'mlp'], ['body.1', 'mlp']),
        (['*', '!tail', '!body.*'], ['head', 'mlp', 'spynet']),
        ('body.[0]', ['body.0']),
    ):
        assert list(LoRANet(small(), rank=2, target=target).adapted) == expected


def test_by_default_layers_narrower_than_the_rank_are_left_out_and_named(plugin_log):
    plugin_log.set_level('INFO')
    assert 'tail' not in LoRANet(small(), rank=4).adapted
    assert 'leaves 1 layers of Small as they are, they are narrower than rank 4: tail' in plugin_log.text
    assert all(name.startswith('block_') or name == 'conv_2' for name in LoRANet(RLFN(), rank=8).adapted)


def test_the_names_of_the_official_vrt_are_known():
    """It is in no host; the layers' names are those of its published code."""
    vrt = nn.ModuleDict(
        {name: nn.Conv2d(8, 8, 3) for name in ('conv_first', 'spynet', 'stage1', 'stage8', 'conv_after_body')}
    )
    vrt.stage1.attn = nn.Linear(8, 8)
    vrt.__class__ = type('VRT', (nn.ModuleDict,), {})
    assert list(LoRANet(vrt, rank=2).adapted) == ['stage1', 'stage1.attn', 'stage8']


# Merging


def test_the_scale_of_merging_walks_in_a_line_from_the_base_to_the_trained_weights(images):
    net = trained(LoRANet(small(), rank=2, alpha=6), steps=5).eval()
    base, whole, part = (net.merged_state_dict(scale) for scale in (0, 1, 0.25))
    assert equal(base, small().state_dict() | net.norm.state_dict(prefix='norm.'))
    for key in base:
        torch.testing.assert_close(part[key].float(), (0.75 * base[key] + 0.25 * whole[key]).float())
    plain = small().eval()
    plain.load_state_dict(whole)
    assert (plain(images) - net(images)).abs().max() < 1e-5
    with pytest.raises(ValueError, match=r'scale must be finite and in \[0, 1\], got 1.5'):
        net.merged_state_dict(1.5)


def merge(*arguments):
    return CliRunner().invoke(app, ['merge-lora', *map(str, arguments)])


@pytest.mark.parametrize('save', ['full', 'adapter'])
def test_the_command_writes_plain_checkpoints_of_either_host(tmp_path, base_file, images, save):
    options = {'rank': 2, 'alpha': 5, 'save': save, 'base_weights': base_file}
    net, average = (trained(LoRANet(small(), **options), steps).eval() for steps in (5, 2))
    basicsr = {'params': net.state_dict(), 'params_ema': average.state_dict()}
    inner = {
        f'{part}.{k}': v
        for part, n in (('generator', net), ('generator_ema', average))
        for k, v in n.state_dict().items()
    }
    mmagic = {'meta': {'iter': 3}, 'state_dict': {**inner, 'step_counter': torch.ones(1)}, 'optimizer': {}}
    for name, content in (('basicsr', basicsr), ('mmagic', mmagic), ('bare', net.state_dict())):
        torch.save(content, tmp_path / f'{name}.pth')
        result = merge(tmp_path / f'{name}.pth', '--out', tmp_path / f'{name}_plain.pth')
        assert result.exit_code == 0, result.output
        plain = torch.load(tmp_path / f'{name}_plain.pth', weights_only=True)
        if name == 'mmagic':
            assert plain['meta'] == {'iter': 3}
            assert 'optimizer' not in plain
            assert torch.equal(plain['state_dict'].pop('step_counter'), torch.ones(1))
            parts = {
                part: {
                    k.removeprefix(f'{part}.'): v for k, v in plain['state_dict'].items() if k.startswith(f'{part}.')
                }
                for part in ('generator', 'generator_ema')
            }
            assert sum(map(len, parts.values())) == len(plain['state_dict'])
            states = [parts['generator'], parts['generator_ema']]
        else:
            states = [plain[key] for key in ('params', 'params_ema') if key in plain]
        for state, wanted in zip(states, (net, average), strict=False):
            stock = small().eval()
            stock.load_state_dict(state, strict=True)
            assert (stock(images) - wanted(images)).abs().max() < 1e-5
        twice = merge(tmp_path / f'{name}_plain.pth', '--out', tmp_path / 'twice.pth')
        assert twice.exit_code == 2
        assert 'was merged already (scale 1.0)' in twice.output
    assert len(states) == 1


def test_the_commands_scale_is_that_of_the_network(tmp_path):
    net = randomised(LoRANet(small(), rank=2, alpha=3))
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    assert merge(tmp_path / 'net.pth', '-o', tmp_path / 'out.pth', '--scale', 0.3).exit_code == 0
    content = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert equal(content['params'], net.merged_state_dict(0.3))
    assert content[MARK]['scale'] == 0.3


def test_the_command_refuses_what_it_cannot_merge(tmp_path, base_file):
    state = adapter(base_file).state_dict()
    torch.save({'params': state}, tmp_path / 'adapter.pth')
    torch.save({'params': {k: v + 1 for k, v in small().state_dict().items()}}, tmp_path / 'other.pth')
    torch.save({'params': LoRANet(small(), rank=2).state_dict()}, tmp_path / 'full.pth')
    out = ('--out', tmp_path / 'out.pth')
    base_file.rename(tmp_path / 'moved.pth')
    for arguments, message in (
        ((tmp_path / 'moved.pth', *out), 'holds no LoRA weights: it is a plain checkpoint (merged already?)'),
        ((tmp_path / 'adapter.pth', *out, '--scale', 2), 'scale must be finite and in [0, 1], got 2.0'),
        ((tmp_path / 'adapter.pth', *out), '--base is not given, and'),
        ((tmp_path / 'adapter.pth', *out, '--base', tmp_path / 'other.pth'), 'belongs to another base'),
        ((tmp_path / 'adapter.pth', *out, '--base', tmp_path / 'adapter.pth'), 'holds LoRA weights, not a plain base'),
        ((tmp_path / 'adapter.pth', '--out', tmp_path / 'adapter.pth'), 'would overwrite a file that is read'),
        ((tmp_path / 'full.pth', *out, '--base', tmp_path / 'moved.pth'), 'full.pth holds its base; leave it out'),
        ((tmp_path / 'nothing.pth', *out), 'checkpoint: no such file'),
    ):
        result = merge(*arguments)
        assert result.exit_code == 2
        assert message in result.output
        assert not (tmp_path / 'out.pth').exists()
    assert merge(tmp_path / 'adapter.pth', *out, '--base', tmp_path / 'moved.pth').exit_code == 0


def test_a_checkpoint_with_half_a_change_is_refused():
    state = LoRANet(small(), rank=2).state_dict()
    del state['mlp.lora_B']
    with pytest.raises(ValueError, match="the LoRA weights of 'mlp' are not whole"):
        merge_checkpoint('net.pth', {'params': state})


# peft


def test_the_export_is_what_peft_computes_two_small_layers_beside_each_changed_one(tmp_path):
    """By hand: a convolution to ``rank`` channels with the layer's geometry and a pointwise one, scaled and added."""
    base = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.Conv2d(8, 8, (1, 3), padding=(0, 1)), nn.Flatten(2), nn.Linear(16, 4))  # fmt: skip
    net = randomised(LoRANet(copy.deepcopy(base), rank=3, alpha=5))
    save_peft(net, tmp_path)
    config = json.loads((tmp_path / 'adapter_config.json').read_text())
    tensors = torch.load(tmp_path / 'adapter_model.bin', weights_only=True)
    assert (config['peft_type'], config['r'], config['lora_alpha']) == ('LORA', 3, 5)
    assert config['target_modules'] == '0|1|3'
    assert len(tensors) == 6
    x = expected = torch.rand(2, 3, 8, 8)
    for index, layer in enumerate(base):
        if re.fullmatch(config['target_modules'], str(index)):
            a, b = (tensors.pop(f'base_model.model.{index}.lora_{part}.weight') for part in 'AB')
            if isinstance(layer, nn.Conv2d):
                beside = F.conv2d(F.conv2d(expected, a, stride=layer.stride, padding=layer.padding), b)
            else:
                beside = expected @ a.T @ b.T
            expected = layer(expected) + 5 / 3 * beside
        else:
            expected = layer(expected)
    assert not tensors
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)


def test_peft_itself_computes_the_same_from_the_export(tmp_path):
    peft = pytest.importorskip('peft', reason='peft is not installed')
    base = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.Flatten(2), nn.Linear(16, 4))
    net = randomised(LoRANet(copy.deepcopy(base), rank=3, alpha=5)).eval()
    save_peft(net, tmp_path)
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(peft.PeftModel.from_pretrained(base, tmp_path).eval()(x), net(x), rtol=1e-4, atol=1e-4)


def test_layers_whose_names_only_end_like_a_changed_one_are_left_alone_by_the_export(tmp_path):
    """peft takes a list of names for endings, and would refuse the activation here."""
    base = nn.ModuleDict({'a': nn.Linear(4, 4), 'more': nn.ModuleDict({'a': nn.Linear(4, 4), 'xa': nn.ReLU()})})
    save_peft(LoRANet(base, rank=2, target='a'), tmp_path)
    pattern = json.loads((tmp_path / 'adapter_config.json').read_text())['target_modules']
    assert [name for name, _ in base.named_modules() if re.fullmatch(pattern, name)] == ['a']
    with pytest.raises(ValueError, match='this base is a single layer'):
        save_peft(LoRANet(nn.Linear(4, 4), rank=2), tmp_path)


@pytest.mark.parametrize('options', [{'groups': 2}, {'dilation': 2}, {'padding_mode': 'reflect'}])
def test_what_peft_computes_otherwise_is_not_exported(tmp_path, options):
    net = LoRANet(nn.Sequential(convolution(**options)), rank=2)
    with pytest.raises(ValueError, match="peft cannot express the change of '0'.*merge it instead"):
        save_peft(net, tmp_path)
    assert not list(tmp_path.iterdir())
