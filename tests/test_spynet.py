"""SpyNet against both hosts' own on the same weights, and its warp against shifts that are known exactly."""

import pytest
import torch
import torch.nn.functional as F

from nriqa_plugin.archs.spynet import SpyNet, flow_warp, load_spynet, resize_flow

SIZES = [(33, 64), (64, 70), (95, 37)]


def frames(height, width, n=2):
    return torch.rand(n, 3, height, width), torch.rand(n, 3, height, width)


def lively(network):
    """Default weights give almost the same flow everywhere."""
    for parameter in network.parameters():
        parameter.data.mul_(1.5)
    return network


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_flow_and_gradients_equal_basicsrs_on_its_own_state_dict(height, width):
    host = pytest.importorskip('basicsr.archs.spynet_arch', reason='the extra basicsr is not installed')
    theirs, ours = lively(host.SpyNet()), SpyNet()
    ours.load_state_dict(theirs.state_dict())
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    compare(ours, theirs, height, width)


@pytest.mark.parametrize(('height', 'width'), [*SIZES, (32, 32)])
def test_flow_and_gradients_equal_mmagics_on_its_own_state_dict(height, width):
    host = pytest.importorskip('mmagic.models.editors.basicvsr.basicvsr_net', reason='mmagic is not installed')
    theirs, ours = lively(host.SPyNet(pretrained=None)), SpyNet()
    assert 'basic_module.0.basic_module.0.conv.weight' in theirs.state_dict()
    ours.load_state_dict(theirs.state_dict())
    compare(ours, theirs, height, width)


def compare(ours, theirs, height, width):
    ref, supp = frames(height, width)
    a, b = ref.clone().requires_grad_(), ref.clone().requires_grad_()
    flow, expected = ours(a, supp), theirs(b, supp)
    assert flow.std() > 0.01
    torch.testing.assert_close(flow, expected)
    weights = torch.rand_like(flow)
    (gradient,) = torch.autograd.grad((flow * weights).sum(), a)
    (expected,) = torch.autograd.grad((expected * weights).sum(), b)
    torch.testing.assert_close(gradient, expected)


def test_mmagics_keys_are_renamed_wherever_the_network_stands():
    mmagic = {}
    for key, value in lively(SpyNet()).state_dict().items():
        parts = key.split('.')
        if parts[0] == 'basic_module':
            key = f'{".".join(parts[:3])}.{int(parts[3]) // 2}.conv.{parts[4]}'
        mmagic[f'inner.{key}'] = value
    outer = torch.nn.ModuleDict({'inner': SpyNet()})
    outer.load_state_dict(mmagic)
    first = 'inner.basic_module.3.basic_module.4.conv.bias'
    assert torch.equal(outer['inner'].basic_module[3].basic_module[8].bias, mmagic[first])


@pytest.mark.parametrize('holder', ['params', 'state_dict', None])
def test_files_without_mean_and_std_load(tmp_path, holder):
    state = lively(SpyNet()).state_dict()
    state = {key: value for key, value in state.items() if key not in ('mean', 'std')}
    torch.save({holder: state} if holder else state, tmp_path / 'flow.pth')
    loaded = load_spynet(SpyNet(), tmp_path / 'flow.pth')
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in state.items())


def test_unusable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='spynet_path.*absent.pth'):
        load_spynet(SpyNet(), tmp_path / 'absent.pth')
    torch.save({'params': {'conv.weight': torch.zeros(1)}}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'other\.pth belongs to another network than SpyNet'):
        load_spynet(SpyNet(), tmp_path / 'other.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='not a state dict'):
        load_spynet(SpyNet(), tmp_path / 'list.pth')


def test_zero_weights_give_zero_flow():
    network = SpyNet()
    for parameter in network.parameters():
        parameter.data.zero_()
    assert network(*frames(40, 50)).abs().max() == 0


def test_what_the_coarsest_level_adds_is_doubled_at_every_finer_one():
    """A flow of (1, -2) px at the coarsest of three levels is (4, -8) px at full size."""
    network = SpyNet(levels=3)
    for parameter in network.parameters():
        parameter.data.zero_()
    network.basic_module[0].basic_module[8].bias.data = torch.tensor([1.0, -2.0])
    for flow, factor in zip(network(*frames(16, 24), return_levels=[0, 1, 2]), (4, 2, 1), strict=True):
        assert flow.shape[-2:] == (4 * factor, 6 * factor)
        torch.testing.assert_close(flow, torch.tensor([1.0, -2.0]).view(1, 2, 1, 1).expand_as(flow) * factor)


def test_each_level_sees_the_second_frame_warped_by_the_flow_so_far():
    """Written out for two levels from the state dict alone."""
    network = lively(SpyNet(levels=2)).double()
    ref, supp = (f.double() for f in frames(8, 10))
    ref_n, supp_n = ((f - network.mean) / network.std for f in (ref, supp))
    level = [lambda x, m=m: m.basic_module(x) for m in network.basic_module]
    coarse_ref, coarse_supp = F.avg_pool2d(ref_n, 2), F.avg_pool2d(supp_n, 2)
    flow = level[0](torch.cat([coarse_ref, coarse_supp, torch.zeros_like(coarse_ref[:, :2])], 1))
    flow = 2 * F.interpolate(flow, size=(8, 10), mode='bilinear', align_corners=True)
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(10.0), indexing='ij')
    grid = torch.stack([2 * (x + flow[:, 0]) / 9 - 1, 2 * (y + flow[:, 1]) / 7 - 1], -1)
    warped = F.grid_sample(supp_n, grid, padding_mode='border', align_corners=True)
    expected = flow + level[1](torch.cat([ref_n, warped, flow], 1))
    torch.testing.assert_close(network(ref, supp), expected)


def test_levels_come_finest_first_and_one_level_as_a_tensor():
    network = lively(SpyNet())
    ref, supp = frames(70, 40)
    flows = network(ref, supp, return_levels=(2, 5, 4, 3))
    assert [tuple(flow.shape) for flow in flows] == [(2, 2, 70, 40), (2, 2, 35, 20), (2, 2, 17, 10), (2, 2, 8, 5)]
    torch.testing.assert_close(flows[0], network(ref, supp))
    torch.testing.assert_close(flows[2], network(ref, supp, return_levels=[3]))


def test_every_parameter_gets_a_gradient():
    network = SpyNet(levels=2)
    ref, supp = frames(16, 16)
    network(ref, supp).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_warping_by_whole_pixels_is_a_shift():
    image = torch.rand(1, 2, 6, 8)
    flow = torch.zeros(1, 6, 8, 2)
    flow[..., 0], flow[..., 1] = 2, -1  # look two pixels to the right and one up
    warped = flow_warp(image, flow)
    torch.testing.assert_close(warped[..., 1:, :6], image[..., :5, 2:])
    assert warped[..., 0, :].abs().max() < 1e-5
    assert warped[..., 6:].abs().max() < 1e-5
    border = flow_warp(image, flow, padding='border')
    torch.testing.assert_close(border[..., 1:, 6:], image[..., :5, 7:].expand(1, 2, 5, 2))
    torch.testing.assert_close(flow_warp(image, torch.full((1, 6, 8, 2), 0.4), mode='nearest'), image)


def test_warping_by_half_a_pixel_averages_neighbours_and_has_the_right_gradient():
    image = torch.rand(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    flow = torch.zeros(1, 4, 5, 2, dtype=torch.float64)
    flow[..., 0] = 0.5
    expected = (image[..., :4] + image[..., 1:]) / 2
    torch.testing.assert_close(flow_warp(image, flow)[..., :4], expected)
    inner = (0.2 + 0.2 * torch.rand(1, 4, 5, 2, dtype=torch.float64)).requires_grad_()  # away from the kinks
    assert torch.autograd.gradcheck(flow_warp, (image, inner))


def test_resizing_a_flow_rescales_its_vectors():
    flow = torch.tensor([3.0, 5.0]).view(1, 2, 1, 1).expand(1, 2, 4, 6)
    resized = resize_flow(flow, (8, 3))
    torch.testing.assert_close(resized, torch.tensor([1.5, 10.0]).view(1, 2, 1, 1).expand(1, 2, 8, 3))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_warping_in_a_narrow_type_finds_the_same_pixels(dtype):
    image, flow = torch.rand(1, 2, 3, 700).to(dtype), torch.zeros(1, 3, 700, 2)
    flow[..., 0] = 0.5
    expected = flow_warp(image.float(), flow).to(dtype)
    for given in (flow, flow.to(dtype)):
        torch.testing.assert_close(flow_warp(image, given), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: SpyNet(levels=0), 'levels'),
        (lambda: SpyNet(level=5), "'level'.*levels"),
        (lambda: SpyNet()(*frames(31, 64)), '32 px a side for its 6 levels'),
        (lambda: SpyNet()(frames(64, 64)[0], frames(64, 32)[0]), 'one size'),
        (lambda: SpyNet()(*(f[:, :1] for f in frames(64, 64))), r'\(N, 3, H, W\)'),
        (lambda: SpyNet()(*frames(64, 64), return_levels=[6]), 'return_levels'),
        (lambda: SpyNet()(*frames(64, 64), return_levels=[]), 'at least one level'),
        (lambda: flow_warp(torch.rand(1, 3, 4, 4), torch.rand(1, 2, 4, 4)), r'\(N, H, W, 2\)'),
        (lambda: flow_warp(torch.rand(1, 3, 4, 4), torch.rand(1, 4, 4, 2), mode='cubic'), 'mode'),
        (lambda: flow_warp(torch.rand(1, 3, 4, 4), torch.rand(1, 4, 4, 2), padding='edge'), 'padding'),
    ],
)
def test_wrong_options_and_inputs_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
