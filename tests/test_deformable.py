"""Deformable convolution on a CPU."""

import pytest
import torch
from torch.nn import functional
from torchvision import ops

from nriqa_plugin.archs.deformable import deform_conv2d


def operands(channels, out, groups, height=9, width=7, kernel=3, stride=1, padding=1, dilation=1, batch=2):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    size = [(side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for side in (height, width)]
    return {
        'input': draw(batch, channels, height, width),
        'offset': (3 * draw(batch, 2 * groups * kernel**2, *size)).detach().requires_grad_(),
        'weight': draw(out, channels, kernel, kernel),
        'bias': draw(out),
        'mask': draw(batch, groups * kernel**2, *size),
    }


CASES = [
    {'channels': 4, 'out': 3, 'groups': 1},
    {'channels': 8, 'out': 5, 'groups': 4},
    {'channels': 4, 'out': 2, 'groups': 2, 'stride': 2},
    {'channels': 4, 'out': 2, 'groups': 2, 'dilation': 2, 'padding': 2},
    {'channels': 2, 'out': 2, 'groups': 1, 'kernel': 1, 'padding': 0},
    {'channels': 2, 'out': 2, 'groups': 2, 'height': 1, 'width': 5},
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_values_and_gradients_are_those_of_torchvision(case):
    given = operands(**case)
    how = {'stride': case.get('stride', 1), 'padding': case.get('padding', 1), 'dilation': case.get('dilation', 1)}
    ours, theirs = deform_conv2d(**given, **how), ops.deform_conv2d(**given, **how)
    torch.testing.assert_close(ours, theirs)
    weights = torch.linspace(-1, 1, ours.numel(), dtype=torch.float64).view_as(ours)
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), [*given.values()]),
        torch.autograd.grad((theirs * weights).sum(), [*given.values()]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_without_offset_and_mask_it_is_a_convolution():
    given = operands(channels=4, out=3, groups=2)
    out = deform_conv2d(given['input'], torch.zeros_like(given['offset']), given['weight'], given['bias'], padding=1)
    torch.testing.assert_close(out, functional.conv2d(given['input'], given['weight'], given['bias'], padding=1))


@pytest.mark.parametrize('parts', [2, 4])
def test_a_grouped_weight_sees_its_share_of_the_channels(parts):
    given = operands(channels=8, out=4, groups=4)
    given['weight'] = given['weight'][:, : 8 // parts]
    ours, theirs = (function(**given, padding=1) for function in (deform_conv2d, ops.deform_conv2d))
    torch.testing.assert_close(ours, theirs)


def test_a_narrow_type_samples_the_same_places():
    given = operands(channels=4, out=3, groups=2, height=3, width=600)
    narrow = {name: value.to(torch.bfloat16) for name, value in given.items()}
    wide = {name: value.float() for name, value in narrow.items()}
    out = deform_conv2d(**narrow, padding=1)
    torch.testing.assert_close(out, ops.deform_conv2d(**wide, padding=1).to(torch.bfloat16), rtol=0.02, atol=0.02)


def test_the_samples_are_not_kept_for_the_backward_pass():
    """What autograd stores is the arguments alone, not the nine times as many samples."""
    given, kept = operands(channels=8, out=2, groups=1), []
    known = {tensor.data_ptr() for tensor in given.values()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        deform_conv2d(**given, padding=1)
    assert {tensor.data_ptr() for tensor in kept if tensor.numel()} <= known
    assert len(kept) >= len(given)
