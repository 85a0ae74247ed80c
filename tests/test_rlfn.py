"""RLFN against a functional rewrite, the official weights and their Set5 figure."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from nriqa_plugin.archs import RLFN


def written_out(state, x, upscale):
    """The forward pass from the state dict alone, input and output in 0..255."""

    def conv(name, x, **options):
        return F.conv2d(x, state[f'{name}.weight'], state[f'{name}.bias'], **options)

    def act(x):
        return torch.where(x > 0, x, 0.05 * x)

    first = conv('conv_1', x, padding=1)
    x = first
    for block in (f'block_{i}' for i in range(1, 7)):
        y = act(conv(f'{block}.c1_r', x, padding=1))
        y = act(conv(f'{block}.c2_r', y, padding=1))
        y = act(conv(f'{block}.c3_r', y, padding=1))
        y = conv(f'{block}.c5', x + y)
        narrow = conv(f'{block}.esa.conv1', y)
        mask = conv(f'{block}.esa.conv2', narrow, stride=2)
        mask = conv(f'{block}.esa.conv3', F.max_pool2d(mask, 7, 3), padding=1)
        mask = F.interpolate(mask, y.shape[-2:], mode='bilinear')
        mask = conv(f'{block}.esa.conv4', mask + conv(f'{block}.esa.conv_f', narrow))
        x = y / (1 + torch.exp(-mask))
    x = conv('upsampler.0', conv('conv_2', x, padding=1) + first, padding=1)
    n, _, h, w = x.shape
    x = x.view(n, -1, upscale, upscale, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, -1, h * upscale, w * upscale)


@pytest.mark.parametrize(('upscale', 'height', 'width'), [(2, 15, 24), (4, 33, 20)])
def test_outputs_and_gradients_equal_the_written_out_network(upscale, height, width):
    net = RLFN(feature_channels=12, upscale=upscale)
    images = torch.rand(2, 3, height, width)
    ours, plain = images.clone().requires_grad_(), images.clone().requires_grad_()
    out = net(ours)
    expected = written_out(net.state_dict(), plain * 255, upscale) / 255
    assert out.shape == (2, 3, upscale * height, upscale * width)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    weights = torch.rand_like(out)
    (gradient,) = torch.autograd.grad((out * weights).sum(), ours)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), plain)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-4)


def test_img_range_only_rescales_input_and_output():
    net = RLFN(feature_channels=8, upscale=2)
    unit = RLFN(feature_channels=8, upscale=2, img_range=1)
    unit.load_state_dict(net.state_dict())
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(net(x), unit(x * 255) / 255)


def test_every_parameter_gets_a_gradient():
    net = RLFN(feature_channels=8, upscale=2)
    net(torch.rand(1, 3, 20, 20)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'num_feat': 48}, ValueError, 'num_feat'),
        ({'upscale': 0}, ValueError, 'upscale'),
        ({'upscale': 1.5}, TypeError, 'upscale'),
        ({'feature_channels': -1}, ValueError, 'feature_channels'),
        ({'in_channels': '3'}, TypeError, 'in_channels'),
        ({'img_range': 0}, ValueError, 'img_range'),
    ],
)
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        RLFN(**options)


def test_inputs_below_15_px_are_refused():
    net = RLFN(feature_channels=8)
    assert net(torch.rand(1, 3, 15, 15)).shape == (1, 3, 60, 60)
    with pytest.raises(ValueError, match='15 px'):
        net(torch.rand(1, 3, 14, 20))


@pytest.fixture
def official(test_data):
    file = test_data / 'weights' / 'rlfn_s_x4.pth'
    if not file.is_file():
        pytest.skip(f'no {file.name} in {file.parent}')
    net = RLFN()
    net.load_state_dict(torch.load(file, map_location='cpu', weights_only=True), strict=True)
    return net.eval()


def luma(image):
    """MATLAB's Y of 8-bit RGB ``(H, W, 3)``, in 16..235."""
    return image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16


def test_official_weights_reach_their_set5_psnr(test_data, official):
    # 32.24 dB in the test data's README: PSNR on Y, 4 px cropped, output rounded to 8 bits.
    psnr = []
    for file in sorted((test_data / 'images' / 'set5' / 'HR').glob('*.bmp')):
        lq = np.array(Image.open(file.parents[1] / 'LR_x4' / f'{file.stem}x4.bmp').convert('RGB'))
        with torch.no_grad():
            out = official(torch.from_numpy(lq).permute(2, 0, 1)[None].float() / 255)
        out = (out[0].permute(1, 2, 0) * 255).round().clamp(0, 255).byte().numpy()
        gt = np.array(Image.open(file).convert('RGB'))[: out.shape[0], : out.shape[1]]
        error = (luma(out) - luma(gt))[4:-4, 4:-4]
        psnr.append(10 * np.log10(255**2 / np.mean(error**2)))
    assert len(psnr) == 5
    assert np.mean(psnr) == pytest.approx(32.24, abs=0.02)
