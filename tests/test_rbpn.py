"""RBPN against a functional rewrite, on the published layout of keys; windows of frames; SRGAN's discriminator."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from nriqa_plugin.archs import RBPN, SRGANDiscriminator
from nriqa_plugin.archs.clip_window import frame_window
from nriqa_plugin.archs.spynet import SpyNet
from nriqa_plugin.lora import LoRANet

TINY = {'base_filter': 6, 'feat': 4, 'n_resblock': 2, 'nFrames': 3}


def written_out(state, frame, neighbours, flows, scale, n_resblock):
    """The forward pass from the state dict alone (Haris et al., CVPR 2019, Sec. 3)."""

    def act(name, x):
        slope = state[f'{name}.weight']
        return torch.where(x > 0, x, slope * x)

    def conv(name, x, activate=True, **options):
        x = F.conv2d(x, state[f'{name}.conv.weight'], state[f'{name}.conv.bias'], **options)
        return act(f'{name}.act', x) if activate else x

    def up(name, x):
        x = F.conv_transpose2d(x, state[f'{name}.deconv.weight'], state[f'{name}.deconv.bias'], scale, 2)
        return act(f'{name}.act', x)

    def down(name, x):
        return conv(name, x, stride=scale, padding=2)

    def body(name, x):
        for i in range(n_resblock):
            block = f'{name}.{i}'
            y = act(
                f'{block}.act', F.conv2d(x, state[f'{block}.conv1.weight'], state[f'{block}.conv1.bias'], padding=1)
            )
            y = F.conv2d(y, state[f'{block}.conv2.weight'], state[f'{block}.conv2.bias'], padding=1)
            x = act(f'{block}.act', x + y)
        return x

    def up_projection(name, x):
        h0 = up(f'{name}.up_conv1', x)
        return h0 + up(f'{name}.up_conv3', down(f'{name}.up_conv2', h0) - x)

    def down_projection(name, x):
        l0 = down(f'{name}.down_conv1', x)
        return l0 + down(f'{name}.down_conv3', up(f'{name}.down_conv2', l0) - x)

    x, restored = conv('feat0', frame, padding=1), []
    for neighbour, flow in zip(neighbours, flows, strict=True):
        pair = conv('feat1', torch.cat([frame, neighbour, flow], 1), padding=1)
        h1 = up_projection('DBPN.up1', conv('DBPN.feat1', x))
        h2 = up_projection('DBPN.up2', down_projection('DBPN.down1', h1))
        h3 = up_projection('DBPN.up3', down_projection('DBPN.down2', h2))
        alone = conv('DBPN.output', torch.cat([h3, h2, h1], 1), activate=False)
        other = up(f'res_feat1.{n_resblock}', body('res_feat1', pair))
        high = alone + conv(f'res_feat2.{n_resblock}', body('res_feat2', alone - other), padding=1)
        restored.append(high)
        x = down(f'res_feat3.{n_resblock}', body('res_feat3', high))
    return conv('output', torch.cat(restored, 1), activate=False, padding=1)


@pytest.mark.parametrize('scale', [2, 4, 8])
def test_outputs_and_gradients_equal_the_written_out_network(scale):
    net = RBPN(**TINY, scale_factor=scale).double()
    for name, parameter in net.named_parameters():
        if name.endswith(('act.weight', 'bias')):
            torch.nn.init.uniform_(parameter, 0.05, 0.5)  # all slopes are alike at the start, and all biases 0
    frame, *neighbours = torch.rand(3, 2, 3, 5, 7, dtype=torch.float64)
    flows = torch.randn(2, 2, 2, 5, 7, dtype=torch.float64)
    ours, plain = frame.clone().requires_grad_(), frame.clone().requires_grad_()
    out = net(ours, neighbours, flows)
    expected = written_out(net.state_dict(), plain, neighbours, flows, scale, TINY['n_resblock'])
    assert out.shape == (2, 3, 5 * scale, 7 * scale)
    torch.testing.assert_close(out, expected)
    weights = torch.rand_like(out)
    (gradient,) = torch.autograd.grad((out * weights).sum(), ours)
    (expected,) = torch.autograd.grad((expected * weights).sum(), plain)
    torch.testing.assert_close(gradient, expected)


def published_keys():
    """Every key of a published checkpoint, from the layer names of the authors' code (alterzero/RBPN-PyTorch, MIT)."""

    def block(name, kind='conv', act=True):
        return [f'{name}.{kind}.weight', f'{name}.{kind}.bias', *([f'{name}.act.weight'] if act else [])]

    def body(name, last):
        blocks = [
            f'{name}.{i}.{part}'
            for i in range(5)
            for part in ('conv1.weight', 'conv1.bias', 'conv2.weight', 'conv2.bias', 'act.weight')
        ]
        return blocks + block(f'{name}.5', last)

    keys = block('feat0') + block('feat1') + block('DBPN.feat1') + block('DBPN.output', act=False)
    for name in ('up1', 'up2', 'up3'):
        keys += [
            key
            for i, kind in ((1, 'deconv'), (2, 'conv'), (3, 'deconv'))
            for key in block(f'DBPN.{name}.up_conv{i}', kind)
        ]
    for name in ('down1', 'down2'):
        keys += [
            key
            for i, kind in ((1, 'conv'), (2, 'deconv'), (3, 'conv'))
            for key in block(f'DBPN.{name}.down_conv{i}', kind)
        ]
    return {
        *keys,
        *body('res_feat1', 'deconv'),
        *body('res_feat2', 'conv'),
        *body('res_feat3', 'conv'),
        *block('output', act=False),
    }


def test_defaults_have_the_published_keys_and_parameters():
    net = RBPN()
    state = {key: value for key, value in net.state_dict().items() if not key.startswith('spynet.')}
    assert state.keys() == published_keys()
    assert state['DBPN.up1.up_conv1.deconv.weight'].shape == (64, 64, 8, 8)
    assert state['res_feat1.5.deconv.weight'].shape == (256, 64, 8, 8)
    assert state['feat1.conv.weight'].shape == (256, 8, 3, 3)
    assert state['output.conv.weight'].shape == (3, 384, 3, 3)
    assert sum(value.numel() for value in state.values()) == 12_771_943  # the network of 12.77 M that is known
    assert sum(parameter.numel() for parameter in net.spynet.parameters()) == 1_440_300


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_published_checkpoints_load_strictly_and_keep_the_flow_network(prefix, tmp_path):
    torch.save({'params': SpyNet().state_dict()}, tmp_path / 'flow.pth')
    net, source = RBPN(**TINY, spynet_path=tmp_path / 'flow.pth'), RBPN(**TINY)
    flow = {key: value.clone() for key, value in net.spynet.state_dict().items()}
    published = {prefix + key: value for key, value in source.state_dict().items() if not key.startswith('spynet.')}
    net.load_state_dict(published)
    assert torch.equal(net.DBPN.up2.up_conv1.deconv.weight, source.DBPN.up2.up_conv1.deconv.weight)
    assert all(torch.equal(net.spynet.state_dict()[key], value) for key, value in flow.items())
    assert net(torch.rand(1, 3, 3, 32, 32)).shape == (1, 3, 128, 128)
    with pytest.raises(RuntimeError, match='feat0'):
        net.load_state_dict({key: value for key, value in published.items() if 'feat0' not in key})


def test_a_published_checkpoint_without_a_flow_file_wants_given_flow():
    net = RBPN(**TINY)
    own = net.state_dict()
    net.load_state_dict({key: value for key, value in own.items() if not key.startswith('spynet.')})
    clip = torch.rand(1, 3, 3, 32, 32)
    with pytest.raises(ValueError, match='no flow network.*spynet_path'):
        net(clip)
    flows = [torch.zeros(1, 2, 32, 32)] * 2
    assert net(clip[:, 1], [clip[:, 0], clip[:, 2]], flows).shape == (1, 3, 128, 128)
    net.load_state_dict(own)
    assert net(clip).shape == (1, 3, 128, 128)


def test_a_clip_is_restored_with_the_flow_from_the_middle_frame_to_its_neighbours():
    net, clip = RBPN(**{**TINY, 'nFrames': 5}), torch.rand(2, 5, 3, 32, 40)
    neighbours = [clip[:, i] for i in (0, 1, 3, 4)]
    flows = [net.spynet(clip[:, 2], neighbour) for neighbour in neighbours]
    torch.testing.assert_close(net(clip), net(clip[:, 2], neighbours, flows))


def test_a_longer_clip_gives_the_frame_in_its_middle():
    net, clip = RBPN(**TINY), torch.rand(1, 7, 3, 32, 32)
    torch.testing.assert_close(net(clip), net(clip[:, 2:5]))


def test_all_frames_of_a_clip_are_the_middles_of_sliding_windows():
    net, clip = RBPN(**TINY, output='all'), torch.rand(1, 4, 3, 32, 32)
    middle = RBPN(**TINY)
    middle.load_state_dict(net.state_dict())
    out = net(clip)
    assert out.shape == (1, 4, 3, 128, 128)
    windows = [(1, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 2)]
    for i, window in enumerate(windows):
        torch.testing.assert_close(out[:, i], middle(clip[:, list(window)]))


@pytest.mark.parametrize(
    ('padding', 'first', 'last'),
    [
        ('reflection', [3, 2, 1, 1, 2, 3], [5, 6, 7, 7, 6, 5]),
        ('replicate', [0, 0, 0, 1, 2, 3], [5, 6, 7, 8, 8, 8]),
        ('target', [0, 0, 0, 1, 2, 3], [5, 6, 7, 8, 8, 8]),
    ],
)
def test_windows_beyond_the_clip_are_padded(padding, first, last):
    assert frame_window(0, 9, 7, padding) == first
    assert frame_window(8, 9, 7, padding) == last
    assert frame_window(4, 9, 7, padding) == [1, 2, 3, 5, 6, 7]
    assert frame_window(4, 9, 4, padding) == [2, 3, 5]  # an even window looks further back


def test_target_padding_repeats_the_frame_itself():
    assert frame_window(1, 4, 7, 'target') == [1, 1, 0, 2, 3, 1]
    assert frame_window(1, 4, 7, 'replicate') == [0, 0, 0, 2, 3, 3]


@pytest.mark.parametrize('padding', ['replicate', 'target'])
def test_paddings_that_take_short_clips_do(padding):
    net = RBPN(**{**TINY, 'nFrames': 7}, padding=padding, output='all')
    assert net(torch.rand(1, 2, 3, 32, 32)).shape == (1, 2, 3, 128, 128)


def test_every_parameter_gets_a_gradient():
    net = RBPN(**TINY, output='all')
    net(torch.rand(1, 3, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_checkpointing_changes_neither_outputs_nor_gradients():
    net, clip = RBPN(**TINY), torch.rand(1, 3, 3, 32, 32)
    results = []
    for net.checkpoint in (False, True):
        net.zero_grad()
        out = net(clip)
        out.square().mean().backward()
        results.append([out.detach(), *(p.grad.clone() for p in net.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_residual_adds_the_enlarged_frame():
    net, clip = RBPN(**TINY, residual=True), torch.rand(1, 3, 3, 32, 32)
    for parameter in net.output.parameters():
        parameter.data.zero_()
    expected = F.interpolate(clip[:, 1], scale_factor=4, mode='bicubic')
    torch.testing.assert_close(net(clip), expected)


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'nframes': 7}, ValueError, "'nframes'.*nFrames"),
        ({'nFrames': 1}, ValueError, 'nFrames'),
        ({'scale_factor': 3}, ValueError, 'scale_factor: 3.*2, 4, 8'),
        ({'base_filter': 0}, ValueError, 'base_filter'),
        ({'feat': '64'}, TypeError, 'feat'),
        ({'feat': 4.5}, TypeError, 'feat must be an integer, got 4.5'),
        ({'output': 'every'}, ValueError, 'output'),
        ({'padding': 'circle'}, ValueError, 'padding'),
        ({'residual': 1}, TypeError, 'residual'),
        ({'spynet_path': 'absent.pth'}, FileNotFoundError, 'spynet_path: no such file: absent.pth'),
    ],
)
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        RBPN(**{**TINY, **options})


@pytest.mark.parametrize(
    'option', ['num_channels', 'base_filter', 'feat', 'num_stages', 'n_resblock', 'nFrames', 'scale_factor']
)
def test_whole_numbers_with_a_decimal_point_are_refused_by_name(option):
    sizes = {'num_channels': 3, 'num_stages': 3, 'scale_factor': 4, **TINY}
    with pytest.raises(TypeError, match=f'{option} must be an integer without a decimal point, got {sizes[option]}.0'):
        RBPN(**{**TINY, option: float(sizes[option])})


@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((1, 3, 64, 64), r'clip \(N, T, 3, H, W\)'),
        ((1, 3, 1, 64, 64), r'clip \(N, T, 3, H, W\)'),
        ((1, 2, 3, 64, 64), 'at least 3 frames, got 2.*replicate'),
        ((1, 3, 3, 31, 64), 'at least 32 px'),
    ],
)
def test_unusable_clips_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        RBPN(**TINY)(torch.rand(shape))


def test_a_wrong_number_of_neighbours_is_refused():
    net, frame, flow = RBPN(**TINY), torch.rand(1, 3, 32, 32), torch.rand(1, 2, 32, 32)
    with pytest.raises(ValueError, match='2 neighbours and as many flows, got 1 and 2'):
        net(frame, [frame], [flow] * 2)
    with pytest.raises(ValueError, match='got 2 and 0'):
        net(frame, [frame] * 2)


def test_lora_changes_the_projections_and_bodies_and_starts_as_the_base():
    base, clip = RBPN(**TINY).eval(), torch.rand(1, 3, 3, 32, 32)
    with torch.no_grad():
        expected = base(clip)
    net = LoRANet(base=base, rank=2).eval()
    inside = {name.split('.')[0] for name in net.adapted}
    assert inside == {'DBPN', 'res_feat1', 'res_feat2', 'res_feat3'}  # no flow, no layer that reads or writes images
    assert {'DBPN.up1.up_conv2.conv', 'DBPN.down2.down_conv3.conv', 'res_feat3.1.conv2'} < net.adapted.keys()
    with torch.no_grad():
        assert torch.equal(net(clip), expected)
    net(clip).square().mean().backward()
    assert all(change.lora_B.grad.any() for change in net.adapted.values())


@pytest.mark.parametrize('saved_as', ['', 'module.'])
def test_lora_takes_published_checkpoints_without_flow(saved_as):
    published, clip = RBPN(**TINY).eval(), torch.rand(1, 3, 3, 32, 32)
    plain = {key: value for key, value in published.state_dict().items() if not key.startswith('spynet.')}
    net = LoRANet(base=RBPN(**TINY), rank=2).eval()
    net.load_state_dict({f'{saved_as}{key}': value for key, value in plain.items()})
    with pytest.raises(ValueError, match='no flow network.*spynet_path'):
        net(clip)
    frame, neighbours, flows = clip[:, 1], [clip[:, 0], clip[:, 2]], list(torch.randn(2, 1, 2, 32, 32))
    with torch.no_grad():
        assert torch.equal(net(frame, neighbours, flows), published(frame, neighbours, flows))
    merged = net.merged_state_dict()
    assert merged.keys() == published.state_dict().keys()
    assert all(torch.equal(merged[key], value) for key, value in plain.items())


def discriminator_written_out(state, x):
    """In eval mode, from the layers' places in the authors' code (amanchadha/iSeeBetter, MIT)."""
    x = F.leaky_relu(F.conv2d(x, state['net.0.weight'], state['net.0.bias'], padding=1), 0.2)
    for i in range(2, 23, 3):
        x = F.conv2d(x, state[f'net.{i}.weight'], state[f'net.{i}.bias'], stride=2 if i % 6 == 2 else 1, padding=1)
        mean, var, weight, bias = (
            state[f'net.{i + 1}.{key}'].view(-1, 1, 1) for key in ('running_mean', 'running_var', 'weight', 'bias')
        )
        x = F.leaky_relu((x - mean) / (var + 1e-5).sqrt() * weight + bias, 0.2)
    x = x.mean((2, 3))
    x = F.leaky_relu(x @ state['net.24.weight'].flatten(1).T + state['net.24.bias'], 0.2)
    return (x @ state['net.26.weight'].flatten(1).T + state['net.26.bias'])[:, 0]


def test_the_discriminator_equals_the_written_out_one():
    net = SRGANDiscriminator(num_feat=4)
    net(torch.rand(4, 3, 64, 64))  # running statistics
    net.eval()
    x = torch.rand(2, 3, 40, 24)
    expected = discriminator_written_out(net.state_dict(), x)
    torch.testing.assert_close(net(x), expected)
    net.sigmoid = True
    torch.testing.assert_close(net(x), 1 / (1 + torch.exp(-expected)))


def test_the_discriminator_has_the_published_layers():
    state = SRGANDiscriminator().state_dict()
    convolutions = {key: tuple(value.shape) for key, value in state.items() if value.dim() == 4}
    widths = [3, 64, 64, 128, 128, 256, 256, 512, 512]
    expected = {
        f'net.{max(0, 3 * i - 1)}.weight': (outside, inside, 3, 3)
        for i, (inside, outside) in enumerate(itertools.pairwise(widths))
    }
    assert convolutions == {**expected, 'net.24.weight': (1024, 512, 1, 1), 'net.26.weight': (1, 1024, 1, 1)}
    assert sum(p.numel() for p in SRGANDiscriminator().parameters()) == 5_215_425


def test_every_parameter_of_the_discriminator_gets_a_gradient():
    net = SRGANDiscriminator(num_feat=4)
    net(torch.rand(4, 3, 64, 64)).square().mean().backward()
    batch_norm = {f'net.{i}.bias' for i in range(2, 23, 3)}  # the normalisation takes the mean away
    for name, parameter in net.named_parameters():
        assert parameter.grad.abs().sum() > 0 or name in batch_norm, name


def test_the_discriminator_names_wrong_options_and_inputs():
    with pytest.raises(ValueError, match='num_feat'):
        SRGANDiscriminator(num_feat=0)
    with pytest.raises(TypeError, match='sigmoid'):
        SRGANDiscriminator(sigmoid='no')
    with pytest.raises(ValueError, match=r'3 channels.*1'):
        SRGANDiscriminator(num_feat=4)(torch.rand(2, 1, 32, 32))
    with pytest.raises(ValueError, match=r'\(N, C, H, W\)'):
        SRGANDiscriminator(num_feat=4)(torch.rand(2, 3, 3, 32, 32))
