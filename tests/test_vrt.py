"""VRT: the published layout, attention against loops, seams, alignment, and what is refused."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from nriqa_plugin.archs import VRT
from nriqa_plugin.archs.spynet import SpyNet, flow_warp
from nriqa_plugin.archs.vrt import SMALL
from nriqa_plugin.archs.vrt.alignment import ParallelWarping, aligned_images, nearest_four, neighbour_flows
from nriqa_plugin.archs.vrt.attention import WindowAttention, relative_positions, sine_positions
from nriqa_plugin.archs.vrt.stages import ChannelsToSpace, SpaceToChannels
from nriqa_plugin.archs.vrt.windows import Windows

TINY = {
    'window_size': [4, 4, 4],
    'depths': [2] * 7 + [2, 1],
    'indep_reconsts': [8],
    'embed_dims': [8] * 7 + [12] * 2,
    'num_heads': [2] * 9,
    'mul_attn_ratio': 0.5,
    'pa_frames': 4,
    'deformable_groups': 4,
    'drop_path_rate': 0.0,
    'num_feat': 4,
}

# From the published files: names of their tensors with shapes, at the setting for Vimeo-90K.
PUBLISHED = {
    'conv_first.weight': (120, 27, 1, 3, 3),
    'spynet.mean': (1, 3, 1, 1),
    'spynet.basic_module.5.basic_module.8.weight': (2, 16, 7, 7),
    'stage1.reshape.1.weight': (120,),
    'stage2.reshape.1.weight': (480,),
    'stage2.reshape.2.weight': (120, 480),
    'stage5.reshape.1.weight': (30,),
    'stage5.reshape.2.weight': (120, 30),
    'stage1.residual_group1.blocks.5.norm1.bias': (120,),
    'stage1.residual_group1.blocks.5.attn.relative_position_bias_table': (675, 6),
    'stage1.residual_group1.blocks.5.attn.relative_position_index': (128, 128),
    'stage1.residual_group1.blocks.5.attn.position_bias': (1, 64, 120),
    'stage1.residual_group1.blocks.5.attn.qkv_self.weight': (360, 120),
    'stage1.residual_group1.blocks.5.attn.qkv_mut.bias': (360,),
    'stage1.residual_group1.blocks.5.attn.proj.weight': (120, 240),
    'stage1.residual_group1.blocks.5.mlp.fc11.weight': (240, 120),
    'stage1.residual_group1.blocks.5.mlp.fc12.weight': (240, 120),
    'stage1.residual_group1.blocks.5.mlp.fc2.weight': (120, 240),
    'stage7.residual_group2.blocks.1.attn.relative_position_bias_table': (3375, 6),
    'stage7.residual_group2.blocks.1.attn.relative_position_index': (512, 512),
    'stage7.residual_group2.blocks.1.attn.proj.weight': (120, 120),
    'stage4.linear1.weight': (120, 120),
    'stage4.linear2.bias': (120,),
    'stage4.pa_deform.weight': (120, 120, 3, 3),
    'stage4.pa_deform.bias': (120,),
    'stage4.pa_deform.conv_offset.0.weight': (120, 364, 3, 3),
    'stage4.pa_deform.conv_offset.6.weight': (432, 120, 3, 3),
    'stage4.pa_fuse.fc11.weight': (360, 360),
    'stage4.pa_fuse.fc2.weight': (120, 360),
    'stage8.0.1.weight': (120,),
    'stage8.0.2.weight': (180, 120),
    'stage8.1.residual_group.blocks.3.attn.relative_position_bias_table': (3375, 6),
    'stage8.6.residual_group.blocks.0.attn.relative_position_bias_table': (225, 6),
    'stage8.6.linear.weight': (180, 180),
    'norm.weight': (180,),
    'conv_after_body.weight': (120, 180),
    'conv_before_upsample.0.weight': (64, 120, 1, 3, 3),
    'upsample.0.weight': (256, 64, 1, 3, 3),
    'upsample.5.weight': (256, 64, 1, 3, 3),
    'upsample.10.weight': (64, 64, 1, 3, 3),
    'conv_last.weight': (3, 64, 1, 3, 3),
}
DEBLUR = {
    'upscale': 1, 'window_size': [6, 8, 8], 'depths': [8] * 7 + [4] * 4, 'indep_reconsts': [9, 10],
    'embed_dims': [96] * 7 + [120] * 4, 'num_heads': [6] * 11, 'pa_frames': 2, 'deformable_groups': 16,
}  # fmt: skip


def published_net(**options):
    with torch.device('meta'):
        return VRT(**options)


def test_an_option_file_of_the_official_code_may_say_out_chans():
    state, plain = (published_net(**options).state_dict() for options in ({**TINY, 'out_chans': 3}, TINY))
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in plain.items()}


def shuffled(net, seed=0):
    """Every parameter random, also those that start at 0, so that nothing is hidden by a factor 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if 'spynet' not in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net


def test_the_published_tensors_are_there():
    state = published_net().state_dict()
    assert {key: tuple(state[key].shape) for key in PUBLISHED} == PUBLISHED
    tops = {key.split('.')[0] for key in state}
    assert tops == {'conv_first', 'spynet', *(f'stage{i}' for i in range(1, 9)), 'norm', 'conv_after_body',
                    'conv_before_upsample', 'upsample', 'conv_last'}  # fmt: skip
    parts = {key.split('.', 4)[-1] for key in state if key.startswith('stage1.residual_group1.blocks.0')}
    assert parts == {'norm1.weight', 'norm1.bias', 'norm2.weight', 'norm2.bias', 'attn.relative_position_bias_table',
                     'attn.relative_position_index', 'attn.position_bias', 'attn.qkv_self.weight', 'attn.qkv_self.bias',
                     'attn.qkv_mut.weight', 'attn.qkv_mut.bias', 'attn.proj.weight', 'attn.proj.bias',
                     'mlp.fc11.weight', 'mlp.fc11.bias', 'mlp.fc12.weight', 'mlp.fc12.bias', 'mlp.fc2.weight',
                     'mlp.fc2.bias'}  # fmt: skip
    assert not any('stage8.1' in key and ('qkv_mut' in key or 'position_bias.' in key) for key in state)


@pytest.mark.parametrize(
    ('options', 'millions'),
    [
        ({}, 32.58),  # Vimeo-90K
        ({'window_size': [6, 8, 8], 'pa_frames': 2, 'deformable_groups': 12}, 30.68),  # REDS, 6 frames
        (DEBLUR, 18.32),  # the paper's table 6: 18.3
    ],
)
def test_as_many_parameters_as_published(options, millions):
    count = sum(parameter.numel() for parameter in published_net(**options).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


def test_upsampling_has_the_published_places_at_every_factor():
    places = {2: [0, 5], 3: [0, 5], 4: [0, 5, 10], 8: [0, 5, 10, 15]}
    for upscale, expected in places.items():
        keys = published_net(**TINY, upscale=upscale).upsample.state_dict()
        assert sorted({int(key.split('.')[0]) for key in keys}) == expected
    assert not hasattr(published_net(**TINY, upscale=1), 'upsample')


def looped_attention(module, x, size, window, shift):
    """Self and mutual attention of ``(D, H, W, C)`` from the definitions, token by token; plain shifted coordinates.

    A token's window is that of its rolled coordinates; two tokens see each other when they are in one window and no
    seam is between them. Sizes are multiples of the window.
    """
    depth, height, width = size
    state, heads = module.state_dict(), module.heads
    per_head = x.shape[-1] // heads
    places = list(itertools.product(range(depth), range(height), range(width)))
    rolled = {p: tuple((c - s) % n for c, s, n in zip(p, shift, size, strict=True)) for p in places}
    home = {p: tuple(c // w for c, w in zip(rolled[p], window, strict=True)) for p in places}
    wrapped = {p: tuple(c < s for c, s in zip(p, shift, strict=True)) for p in places}  # came from the other end
    out = torch.zeros(*size, x.shape[-1])

    def project(name, value):
        q, k, v = (value @ state[f'{name}.weight'].T + state[f'{name}.bias']).chunk(3, -1)
        return [t.view(heads, per_head) for t in (q, k, v)]

    own = {p: project('qkv_self', x[p]) for p in places}
    if module.mutual:
        where = state['position_bias'].view(*window[1:], -1)
        inside = {p: (rolled[p][1] % window[1], rolled[p][2] % window[2]) for p in places}
        other = {p: project('qkv_mut', x[p] + where[inside[p]]) for p in places}

    def weighted(query, keys, values, bias):
        scores = torch.stack([(query * k).sum(-1) / math.sqrt(per_head) for k in keys]) + bias
        return (scores.softmax(0)[..., None] * torch.stack(values)).sum(0).flatten()

    def bias_of(p, q):
        index = 0
        for a, b, w in zip(rolled[p], rolled[q], window, strict=True):
            index = index * (2 * w - 1) + (a % w - b % w) + w - 1
        return state['relative_position_bias_table'][index]

    for p in places:
        seen = [q for q in places if home[q] == home[p] and wrapped[q] == wrapped[p]]
        bias = torch.stack([bias_of(p, q) for q in seen])
        result = weighted(own[p][0], [own[q][1] for q in seen], [own[q][2] for q in seen], bias)
        if module.mutual:
            # The query is the same place of the window's other frame; keys and values are of the own frame.
            (asks,) = [
                q
                for q in places
                if home[q] == home[p] and rolled[q][0] != rolled[p][0] and rolled[q][1:] == rolled[p][1:]
            ]
            seen = [
                q
                for q in places
                if home[q] == home[p] and rolled[q][0] == rolled[p][0] and wrapped[q][1:] == wrapped[p][1:]
            ]
            moved = weighted(other[asks][0], [other[q][1] for q in seen], [other[q][2] for q in seen], 0)
            result = torch.cat([moved, result])
        out[p] = result @ state['proj.weight'].T + state['proj.bias']
    return out


@pytest.mark.parametrize('sdpa', [True, False])
@pytest.mark.parametrize('mutual', [True, False])
@pytest.mark.parametrize('shifted', [False, True])
def test_attention_equals_a_loop_over_tokens(mutual, shifted, sdpa):
    size, window = (4, 4, 4), (2, 2, 2)
    module = shuffled(WindowAttention(8, window, 2, mutual, True, None, sdpa))
    x = torch.randn(4, 4, 4, 8)
    windows = Windows(size, window, shifted)
    out = windows.join(module(windows.cut(x[None]), windows))[0]
    torch.testing.assert_close(out, looped_attention(module, x, size, window, (1, 1, 1) if shifted else (0, 0, 0)))


@pytest.mark.parametrize('size', [(4, 4, 4), (5, 7, 6), (3, 9, 2), (1, 4, 4)])
@pytest.mark.parametrize('shifted', [False, True])
def test_cutting_and_joining_is_the_identity(size, shifted):
    windows, x = Windows(size, (2, 4, 4), shifted), torch.randn(2, *size, 3)
    assert torch.equal(windows.join(windows.cut(x)), x)
    assert sum(count for count, _ in windows.kinds) * 2 == windows.cut(x).shape[0]


@pytest.mark.parametrize('size', [(8, 8, 12), (6, 4, 8), (8, 6, 10)])
def test_self_attention_never_crosses_the_seam_of_the_roll(size):
    """The gradient of every output reaches only tokens at most one window away: none from the other end of the clip."""
    window = (4, 4, 4)
    module, windows = WindowAttention(4, window, 2, False, True, None, False), Windows(size, window, True)
    x = torch.randn(1, *size, 4, requires_grad=True)
    out = windows.join(module(windows.cut(x), windows))
    for place in itertools.product(*((0, n // 2, n - 1) for n in size)):
        (gradient,) = torch.autograd.grad(out[0][place].sum(), x, retain_graph=True)
        for reached in gradient[0].abs().sum(-1).nonzero().tolist():
            assert all(abs(a - b) < w for a, b, w in zip(place, reached, window, strict=True))


def test_mutual_attention_gives_each_frame_its_own_content_where_the_other_one_asks():
    """Constant frames: whatever the weights of the attention, its output is the own frame's value."""
    module = shuffled(WindowAttention(8, (2, 2, 2), 2, True, True, None, True))
    windows = Windows((2, 2, 2), (2, 2, 2), False)
    module.position_bias.zero_()
    with torch.no_grad():
        module.proj.weight.copy_(torch.eye(16)[:8])  # the mutual half alone
        module.proj.bias.zero_()
    frames = torch.randn(2, 1, 1, 8)
    out = module(windows.cut(frames.expand(2, 2, 2, 8)[None]), windows).view(2, 4, 8)
    values = module.qkv_mut(frames.view(2, 8))[:, 16:]
    torch.testing.assert_close(out, values[:, None].expand(2, 4, 8))


def test_windows_larger_than_the_clip_use_the_bias_of_the_same_distances():
    big, small = (WindowAttention(8, window, 2, False, True, None, True) for window in ((4, 4, 4), (3, 2, 4)))
    whole = relative_positions((4, 4, 4))
    places = torch.arange(64).view(4, 4, 4)[:3, :2].flatten()
    with torch.no_grad():
        table = big.relative_position_bias_table[whole[places[:, None], places]]
        small.relative_position_bias_table[relative_positions((3, 2, 4))] = table
    torch.testing.assert_close(big._position_bias((3, 2, 4)), small._position_bias((3, 2, 4)))
    windows = Windows((3, 2, 4), (4, 4, 4), True)
    assert (windows.window, windows.shift, len(windows.kinds)) == ((3, 2, 4), (0, 0, 0), 1)


def test_relative_positions_depend_on_the_distance_alone():
    index = relative_positions((2, 3, 4))
    places = list(itertools.product(range(2), range(3), range(4)))
    seen = {}
    for i, j in itertools.product(range(24), repeat=2):
        distance = tuple(a - b for a, b in zip(places[i], places[j], strict=True))
        assert seen.setdefault(distance, index[i, j].item()) == index[i, j].item()
    assert sorted(seen.values()) == list(range(3 * 5 * 7))
    assert index[0, 0] == 1 * 35 + 2 * 7 + 3


def test_positions_are_sines_and_cosines_of_the_scaled_coordinates():
    codes = sine_positions((3, 5), 8).view(3, 5, 8)
    for y, x in ((0, 0), (2, 1), (1, 4)):
        angles = [2 * math.pi * (y + 1) / 3, 2 * math.pi * (x + 1) / 5]
        expected = [f(angle / step) for angle in angles for step in (1, 100) for f in (math.sin, math.cos)]
        torch.testing.assert_close(codes[y, x], torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_resizing_puts_columns_before_rows_and_is_undone_by_its_inverse():
    x = torch.arange(2 * 4 * 6 * 3.0).view(1, 2, 4, 6, 3)
    packed = SpaceToChannels()(x)
    for column, row in itertools.product(range(2), repeat=2):
        start = 3 * (2 * column + row)
        assert torch.equal(packed[..., start : start + 3], x[:, :, row::2, column::2])
    assert torch.equal(ChannelsToSpace()(packed), x)


def test_a_zero_flow_moves_nothing():
    x = torch.rand(2, 3, 6, 7)
    assert torch.equal(nearest_four(x, torch.zeros(2, 2, 6, 7)), x.repeat(1, 4, 1, 1))
    torch.testing.assert_close(flow_warp(x, torch.zeros(2, 6, 7, 2)), x)


def test_the_four_nearest_pixels_are_the_corners_around_the_flow():
    x, flow = torch.rand(1, 1, 5, 6), torch.zeros(1, 2, 5, 6)
    flow[:, 0], flow[:, 1] = 1.25, -0.75  # right and up
    four = nearest_four(x, flow)[0, :, 2, 2]
    assert torch.equal(four, torch.stack([x[0, 0, 1, 3], x[0, 0, 2, 3], x[0, 0, 1, 4], x[0, 0, 2, 4]]))
    assert nearest_four(x, flow)[0, :, 0, 0].tolist() == [0, x[0, 0, 0, 1].item(), 0, x[0, 0, 0, 2].item()]


class MovingFlow:
    """A stand-in for SpyNet on clips that move by ``speed[t]`` from frame t to t + 1, told by their first pixel."""

    levels = 6

    def __init__(self, positions):
        self.positions = torch.tensor(positions)

    def __call__(self, ref, supp, levels):
        assert list(levels) == [2, 3, 4, 5]
        move = [
            self.positions[b] - self.positions[a]
            for a, b in zip(*(x[:, 0, 0, 0].long() for x in (ref, supp)), strict=True)
        ]
        size = ref.shape[-2:]
        flow = torch.stack(move)[:, :, None, None].float()
        return [flow.expand(-1, -1, *size)[..., : size[0] >> i, : size[1] >> i] / 2**i for i in range(4)]


def test_flows_over_several_frames_are_the_sum_of_uniform_motions():
    positions = [[0, 0], [1, 2], [3, 3], [4, 0], [2, 1]]
    clip = torch.arange(5.0).view(1, 5, 1, 1, 1).expand(2, 5, 3, 16, 16)
    backward, forward = neighbour_flows(MovingFlow(positions), clip, 3)
    for scale, distance in itertools.product(range(4), (1, 2, 3)):
        for flows in (backward, forward):
            assert flows[scale][distance - 1].shape == (2, 5 - distance, 2, 16 >> scale, 16 >> scale)
        for t in range(5 - distance):
            move = (torch.tensor(positions[t + distance]) - torch.tensor(positions[t])) / 2**scale
            if scale < 2:  # below, the middle too is so near the border that the second flow lies outside
                middle = 8 >> scale
                assert torch.equal(backward[scale][distance - 1][1, t, :, middle, middle], move)
                assert torch.equal(forward[scale][distance - 1][1, t, :, middle, middle], -move)


def test_images_are_aligned_with_the_next_and_the_previous_frame():
    clip = torch.rand(1, 3, 3, 8, 8)
    backward, forward = torch.zeros(1, 2, 2, 8, 8), torch.zeros(1, 2, 2, 8, 8)
    backward[:, :, 0], forward[:, :, 1] = 1, 2
    seen = aligned_images(clip, backward, forward)
    assert torch.equal(seen[:, :, :3], clip)
    assert torch.equal(seen[:, 0, 3:6, :, :7], clip[:, 1, :, :, 1:])
    assert torch.equal(seen[:, 2, 15:18, :6], clip[:, 1, :, 2:])
    assert not seen[:, 2, 3:15].any()
    assert not seen[:, 0, 15:].any()


def test_warping_starts_as_half_a_convolution_of_what_the_flow_leads_to():
    """The last layer of the offsets starts at 0: no residue, and every sample counts sigmoid(0) = 1 / 2."""
    warping = ParallelWarping(4, 2, 4, max_residue=10)
    near, far, current = torch.randn(3, 1, 4, 8, 8)
    flows = torch.zeros(2, 1, 2, 8, 8)
    flows[0, :, 0], flows[1, :, 1] = 2, -1
    out = warping([near, far], current, list(flows))
    moved = torch.cat([F.pad(near, (0, 2))[..., 2:], F.pad(far, (0, 0, 1, 0))[..., :-1, :]], 1)
    expected = 0.5 * F.conv2d(moved, warping.weight, padding=1, groups=2) + warping.bias.view(-1, 1, 1)
    torch.testing.assert_close(out[..., 2:6, 2:5], expected[..., 2:6, 2:5])


@pytest.mark.parametrize('reach', [1, 2, 3])
@pytest.mark.parametrize('frames', [2, 3, 5])
def test_both_sides_equal_a_loop_over_frames(reach, frames):
    warping = shuffled(ParallelWarping(6, reach, 6, max_residue=2))
    x = torch.randn(2, frames, 6, 5, 6)
    backward, forward = ([torch.randn(2, frames - d, 2, 5, 6) for d in range(1, reach + 1) if d < frames] for _ in '12')
    after, before = warping.both_sides(x, backward, forward)
    for side, step, out in ((backward, 1, after), (forward, -1, before)):
        for t in range(frames):
            there = [0 <= t + step * d < frames for d in range(1, reach + 1)]
            if not there[0]:
                assert not out[:, t].any()
                continue
            neighbours = [x[:, t + step * d] if ok else torch.zeros(2, 6, 5, 6) for d, ok in enumerate(there, 1)]
            flows = [
                side[d - 1][:, min(t, t + step * d)] if ok else torch.zeros(2, 2, 5, 6) for d, ok in enumerate(there, 1)
            ]
            torch.testing.assert_close(out[:, t], warping(neighbours, x[:, t], flows))


def test_the_network_gives_all_frames_four_times_as_large_and_the_same_again():
    net = shuffled(VRT(**TINY)).eval()
    clip = torch.rand(1, 3, 3, 34, 40)
    with torch.no_grad():
        out = net(clip)
        assert out.shape == (1, 3, 3, 136, 160)
        assert torch.equal(out, net(clip))
        twin = VRT(**TINY).eval()
        twin.load_state_dict(net.state_dict())
        assert torch.equal(out, twin(clip))


def test_odd_clips_and_sides_are_filled_with_the_last_frame_and_by_reflection():
    net = shuffled(VRT(**TINY)).eval()
    clip = torch.rand(1, 3, 3, 36, 40)
    filled = torch.cat([clip, clip[:, 2:]], 1)
    filled = torch.cat([filled, filled[..., 31:35, :].flip(-2)], -2)
    with torch.no_grad():
        torch.testing.assert_close(net(clip), net(filled)[:, :3, :, :144])


def test_with_a_silent_last_layer_the_clip_is_enlarged_bilinearly():
    net = VRT(**TINY).eval()
    torch.nn.init.zeros_(net.conv_last.weight)
    torch.nn.init.zeros_(net.conv_last.bias)
    clip = torch.rand(1, 2, 3, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(net(clip)[0], F.interpolate(clip[0], scale_factor=4, mode='bilinear'))


def training_step(dtype=torch.float32, frames=3, train_flow=True, **options):
    """Output and gradients of one step from always the same start."""
    torch.manual_seed(0)
    net = shuffled(VRT(**{**TINY, **options})).train().to(dtype)
    net.spynet.requires_grad_(train_flow)
    clip = torch.rand(1, frames, 3, 40, 40, dtype=dtype)
    torch.manual_seed(5)
    out = net(clip)
    (out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)).sum().backward()
    return out.detach(), {name: p.grad for name, p in net.named_parameters() if p.requires_grad}


def test_every_parameter_gets_a_gradient():
    _, found = training_step()
    assert not [name for name, gradient in found.items() if gradient is None or not gradient.abs().sum() > 0]


# Float64, so that rounding cannot hide a difference; with stochastic depth, which must drop the same branches again.
EXACT = {'dtype': torch.float64, 'frames': 2, 'train_flow': False, 'drop_path_rate': 0.3}


@pytest.fixture(scope='module')
def plain_step():
    return training_step(**EXACT, use_sdpa=False)


@pytest.mark.parametrize(
    'options',
    [
        {'use_sdpa': True},
        {
            'use_checkpoint_attn': True,
            'use_checkpoint_ffn': True,
            'no_checkpoint_attn_blocks': [1, 8],
            'use_sdpa': False,
        },
    ],
    ids=['sdpa', 'checkpoint'],
)
def test_how_it_is_computed_changes_neither_output_nor_gradients(plain_step, options):
    expected, expected_gradients = plain_step
    out, found = training_step(**EXACT, **options)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    assert 0 < sum(not gradient.any() for gradient in expected_gradients.values()) < 200  # some branches are dropped
    assert found.keys() == expected_gradients.keys()
    for name, gradient in found.items():
        distance, size = (gradient - expected_gradients[name]).norm(), expected_gradients[name].norm()
        assert distance <= 1e-9 * size, name


def test_checkpointing_is_left_out_where_it_is_said():
    net = published_net(**TINY, use_checkpoint_attn=True, use_checkpoint_ffn=True, no_checkpoint_attn_blocks=[0, 8])
    first, second = net.stage1.residual_group1.blocks[0], net.stage2.residual_group2.blocks[0]
    last = net.stage8[2].residual_group.blocks[0]
    flags = [(block.checkpoint_attn, block.checkpoint_ffn) for block in (first, second, last)]
    assert flags == [(False, True), (True, True), (False, True)]


def test_noise_level_and_same_size():
    net = shuffled(VRT(**{**TINY, 'upscale': 1, 'nonblind_denoising': True})).eval()
    clip = torch.rand(1, 2, 4, 40, 40)
    with torch.no_grad():
        out = net(clip)
        clip[:, :, 3] += 0.1
        assert out.shape == (1, 2, 3, 40, 40)
        assert not torch.equal(out, net(clip))
        with pytest.raises(ValueError, match=r'4 channels, the last one the noise level'):
            net(clip[:, :, :3])


def test_flow_weights_come_from_a_local_file(tmp_path):
    spynet = SpyNet()
    torch.save({'params': spynet.state_dict()}, tmp_path / 'spynet.pth')
    net = VRT(**TINY, spynet_path=str(tmp_path / 'spynet.pth'))
    assert all(torch.equal(value, net.spynet.state_dict()[key]) for key, value in spynet.state_dict().items())
    with pytest.raises(FileNotFoundError, match='spynet_path'):
        VRT(**TINY, spynet_path=str(tmp_path / 'missing.pth'))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'num_heads': [3] * 9}, 'num_heads must divide embed_dims: 3 heads do not divide the 8 channels of stage 0'),
        ({'deformable_groups': 3, 'pa_frames': 2}, 'deformable_groups must divide .* 3 does not divide 8'),
        ({'deformable_groups': 1}, 'deformable_groups must be a multiple of pa_frames / 2 = 2'),
        ({'pa_frames': 6, 'deformable_groups': 3}, 'embed_dims must be multiples of pa_frames / 2 = 3'),
        ({'pa_frames': 0}, 'pa_frames'),
        ({'depths': [1] * 7}, 'depths must have 7 entries for the U and at least one'),
        ({'embed_dims': [8] * 8}, 'embed_dims must have one entry for each of the 9 depths, got 8'),
        ({'embed_dims': [8, 16] + [8] * 5 + [12] * 2}, 'embed_dims must be alike at the same scale'),
        ({'embed_dims': [8] * 7 + [12, 8]}, 'embed_dims must be alike behind the U'),
        ({'embed_dims': [6] * 7 + [12] * 2}, 'embed_dims must be multiples of 4'),
        ({'indep_reconsts': [3]}, 'indep_reconsts'),
        ({'window_size': [8, 8]}, 'window_size must be'),
        ({'window_size': [8, 0, 8]}, 'window_size'),
        ({'upscale': 5}, 'upscale'),
        ({'in_chans': 1}, 'in_chans must be 3'),
        ({'out_chans': 1}, 'out_chans must equal in_chans: 3, got 1'),
        ({'recal_all_flows': True}, 'recal_all_flows must be false'),
        ({'nonblind_denoising': True}, 'nonblind_denoising keeps the size: upscale must be 1'),
        ({'drop_path_rate': 1}, 'drop_path_rate'),
        ({'num_head': [2] * 9}, "Did you mean 'num_heads'"),
        ({'norm_layer': 'LayerNorm'}, 'norm_layer'),
        ({'no_checkpoint_ffn_blocks': [9]}, 'no_checkpoint_ffn_blocks'),
        ({'mlp_ratio': 0}, 'mlp_ratio must leave .* 0 times the 8 channels of stage 0 is less'),
        ({'mlp_ratio': 0.1}, 'mlp_ratio must leave .* at least one channel'),
        ({'mlp_ratio': -1}, 'mlp_ratio must be finite and at least 0, got -1'),
    ],
)
def test_options_that_cannot_work_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        published_net(**{**TINY, **options})


@pytest.mark.parametrize(
    ('options', 'message'),
    [({'depths': 8}, 'depths'), ({'qkv_bias': 1}, 'qkv_bias'), ({'num_heads': '6'}, 'num_heads')],
)
def test_options_of_the_wrong_kind_are_named(options, message):
    with pytest.raises(TypeError, match=message):
        published_net(**{**TINY, **options})


@pytest.mark.parametrize(
    'options',
    [
        {'upscale': 4.0},
        {'in_chans': 3.0},
        {'out_chans': 3.0},
        {'img_size': [8.0, 64, 64]},
        {'window_size': [4, 4.0, 4]},
        {'depths': [2.0] * 7 + [2, 1]},
        {'indep_reconsts': [8.0]},
        {'embed_dims': [8.0] * 7 + [12] * 2},
        {'num_heads': [2] * 8 + [2.0]},
        {'pa_frames': 4.0},
        {'deformable_groups': 4.0},
        {'no_checkpoint_attn_blocks': [1.0]},
        {'no_checkpoint_ffn_blocks': [1.0]},
        {'num_feat': 4.0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_integers_with_a_decimal_point_are_refused_by_name(options):
    option = next(iter(options))
    with pytest.raises(TypeError, match=rf'^{option}.* must be an integer without a decimal point, got \d+\.0; write'):
        published_net(**{**TINY, **options})


@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((1, 3, 64, 64), r'clips \(N, T, C, H, W\)'),
        ((1, 2, 1, 64, 64), 'of 3 channels'),
        ((1, 1, 3, 64, 64), 'at least 2'),
        ((1, 2, 3, 32, 64), 'more than 32 px a side'),
    ],
)
def test_clips_that_it_cannot_take_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        VRT(**TINY)(torch.rand(shape))


def test_small_is_a_setting_for_a_cpu():
    net = published_net(**SMALL)
    own = sum(p.numel() for name, p in net.named_parameters() if not name.startswith('spynet.'))
    assert 3e5 < own < 1e6


def test_lora_changes_the_stages_and_starts_as_the_base():
    from nriqa_plugin.lora import LoRANet

    base = shuffled(VRT(**TINY)).eval()
    clip = torch.rand(1, 2, 3, 40, 40)
    with torch.no_grad():
        expected = base(clip)
    net = LoRANet(base=base, rank=2).eval()
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained
    assert all('stage' in name for name in trained)
    assert any('residual_group1' in name for name in trained)
    assert any('conv_offset' in name for name in trained)
    with torch.no_grad():
        torch.testing.assert_close(net(clip), expected)
    net(clip).square().mean().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())


def test_basicsr_builds_it_by_name():
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    from basicsr.archs import build_network

    import nriqa_plugin.basicsr  # noqa: F401 - registers

    assert isinstance(build_network({'type': 'VRT', **TINY}), VRT)


def test_mmagic_builds_it_by_name():
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from mmagic.registry import MODELS

    import nriqa_plugin.mmagic  # noqa: F401 - registers

    assert isinstance(MODELS.build({'type': 'VRT', **TINY}), VRT)
