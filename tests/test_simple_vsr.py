"""SimpleVSR against its published description, written out from the state dict; sliding; what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from nriqa_plugin.archs import SimpleVSR
from nriqa_plugin.archs.simple_vsr import FORMS, bicubic_middle


def written_out(state, clip, form):
    """One window ``(5, 1, 32, 32)`` from the state dict alone, frame by frame."""
    maps = []
    for frame in clip:
        x = F.elu(F.max_pool2d(F.conv2d(frame[None], state['frame.0.weight'], state['frame.0.bias'], padding=1), 2))
        x = F.conv2d(x, state['frame.3.weight'], state['frame.3.bias'], padding=1)
        if form == 'released':
            x = F.elu(x)
        else:
            x = F.elu(F.max_pool2d(x, 2))
            x = F.conv2d(x, state['frame.6.weight'], state['frame.6.bias'], padding=1)
            x = F.elu(F.max_pool2d(x, 2))
        maps.append(x[0].reshape(len(x[0]), -1))
    x = torch.stack(maps)[None]
    x = F.relu(F.conv2d(x, state['merge.0.weight'], state['merge.0.bias'], padding=1))
    x = F.relu(F.conv2d(x, state['merge.2.weight'], state['merge.2.bias'], padding=1))
    return torch.sigmoid(state['pixels.weight'] @ x.flatten() + state['pixels.bias']).reshape(64, 64)


@pytest.fixture(scope='module', params=FORMS)
def net(request):
    torch.manual_seed(1)
    made = SimpleVSR(request.param)
    made.form = request.param
    return made


def test_outputs_equal_the_written_out_description(net):
    clip = torch.rand(2, 5, 1, 32, 32)
    out = net(clip)
    assert out.shape == (2, 1, 64, 64)
    for i in range(2):
        torch.testing.assert_close(out[i, 0], written_out(net.state_dict(), clip[i], net.form), rtol=1e-4, atol=1e-5)


def test_the_forms_have_the_layers_and_parameters_of_their_descriptions():
    counts = {form: sum(p.numel() for p in SimpleVSR(form).parameters()) for form in FORMS}
    # 1 -> 8, 8 -> 32 (-> 128) by 3 x 3; 5 -> 3 -> 1; 32 * 16 * 16 and 128 * 4 * 4 positions to 64 * 64 pixels
    convolutions = (9 * 8 + 8) + (9 * 8 * 32 + 32) + (9 * 5 * 3 + 3) + (9 * 3 + 1)
    assert counts['released'] == convolutions + 8192 * 4096 + 4096 == 33_561_110
    assert counts['paper'] == convolutions + (9 * 32 * 128 + 128) + 2048 * 4096 + 4096 == 8_432_278


def test_sliding_over_twenty_frames_gives_the_sixteen_single_windows(net):
    clip = torch.rand(2, 20, 1, 32, 32)
    with torch.no_grad():
        slid = net.slide(clip)
        single = torch.stack([net(clip[:, start : start + 5]) for start in range(16)], 1)
    assert slid.shape == (2, 16, 1, 64, 64)
    torch.testing.assert_close(slid, single, rtol=1e-5, atol=1e-6)


def test_a_clip_as_long_as_the_window_slides_to_one_frame(net):
    clip = torch.rand(1, 5, 1, 32, 32)
    torch.testing.assert_close(net.slide(clip)[:, 0], net(clip))


def test_the_order_of_the_frames_matters(net):
    clip = torch.rand(1, 5, 1, 32, 32)
    swapped = clip[:, [1, 0, 2, 3, 4]]
    assert (net(clip) - net(swapped)).abs().max() > 1e-5


def test_sliding_has_the_gradients_of_the_single_windows(net):
    clip = torch.rand(1, 7, 1, 32, 32)
    gradients = []
    for run in (lambda x: net.slide(x)[0], lambda x: torch.cat([net(x[:, i : i + 5]) for i in range(3)])):
        x = clip.clone().requires_grad_()
        gradients.append(torch.autograd.grad(run(x).square().sum(), x)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert (gradients[0].flatten(2).abs().sum(2) > 0).all(), 'a frame without influence'


def test_every_parameter_gets_a_gradient(net):
    net.zero_grad()
    net(torch.rand(2, 5, 1, 32, 32)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_the_baseline_is_the_middle_frame_alone():
    clip = torch.rand(1, 5, 1, 32, 32)
    other = torch.rand(1, 5, 1, 32, 32)
    other[:, 2] = clip[:, 2]
    out = bicubic_middle(clip)
    assert out.shape == (1, 1, 64, 64)
    torch.testing.assert_close(bicubic_middle(other), out)
    torch.testing.assert_close(bicubic_middle(torch.full_like(clip, 0.3)), torch.full((1, 1, 64, 64), 0.3))


@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((1, 5, 1, 64, 64), r'\(N, T, 1, 32, 32\), got \(1, 5, 1, 64, 64\)'),
        ((1, 5, 3, 32, 32), 'grey clips'),
        ((5, 1, 32, 32), 'grey clips'),
        ((1, 4, 1, 32, 32), 'windows of 5 frames'),
        ((1, 20, 1, 32, 32), r'slide\(\) goes over longer clips'),
    ],
)
def test_wrong_clips_are_refused_by_their_shape(shape, message):
    with pytest.raises(ValueError, match=message):
        SimpleVSR('paper')(torch.rand(shape))


def test_sliding_over_fewer_frames_than_the_window_is_refused():
    with pytest.raises(ValueError, match=r'5 frames at least, got 4'):
        SimpleVSR('paper').slide(torch.rand(1, 4, 1, 32, 32))


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match=r"form: 'release'\. Did you mean 'released'"):
        SimpleVSR('release')
    with pytest.raises(ValueError, match='froms'):
        SimpleVSR(froms='paper')
