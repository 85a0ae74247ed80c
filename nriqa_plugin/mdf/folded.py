"""A discriminator made cheap for use in a loss: batch norm folded in, the gradient taken by hand and let go."""

import torch
import torch.nn.functional as F
from torch import nn

SLOPE = 0.2  # of LeakyReLU
SIDE = 3  # of every convolution
LAYERS = ('head', 'block1', 'block2', 'block3', 'tail')


class FoldedDiscriminator(nn.Module):
    """Squared differences between what a discriminator makes of two batches, and their gradient for the first.

    Batch norm (its stored statistics) and the range of values that the discriminator wants are part of the weights.
    The first and the last convolution have 3 and 1 channels on one side, for which a matrix product over windows is
    faster than a convolution; the windows of an image are cut once for all discriminators. The last one is linear, so
    that it is taken once, of the difference.

    Args:
        discriminator (Discriminator): for RGB.
        span (tuple[float, float]): the values that it wants for 0 and 1.
    """

    def __init__(self, discriminator, span=(0.0, 1.0)):
        super().__init__()
        low, high = span
        (first, shift), *body = (fold_batch_norm(block) for block in (discriminator.head, *discriminator.body))
        # Nothing is padded, so that a change of range is one of weight and bias too.
        shift = shift + low * first.sum((1, 2, 3))
        self._keep('head', torch.cat([(high - low) * first.flatten(1).T, shift[None]]))
        for index, (weight, bias) in enumerate(body, 1):
            self._keep(f'weight{index}', weight, torch.channels_last)
            self._keep(f'bias{index}', bias)
        self._keep('tail', discriminator.tail.weight.detach().double()[0].flatten(1))  # its bias cancels

    def _keep(self, name, tensor, memory_format=torch.contiguous_format):
        self.register_buffer(name, tensor.float().contiguous(memory_format=memory_format))

    def forward(self, windows, ref, taps, summed, gradient=None):
        """The distance of each image, and what it adds to the gradient.

        Args:
            windows (Tensor): of the first images, ``(N, H - 2, W - 2, 28)`` as :func:`cut_windows` gives them.
            ref (Tensor): of the second ones.
            taps (container[str]): which of ``LAYERS`` to compare, ``head`` and blocks after their activation.
            summed (bool): sum over channels and positions of a layer instead of the mean.
            gradient (Tensor | None): the shape of ``windows``; the gradient of the sum over the images is added to it,
                best in float32.

        Returns:
            Tensor: ``(N,)``.
        """
        with torch.no_grad():
            state = {name: buffer.to(windows.dtype) for name, buffer in self.named_buffers()}
            return self._compare(state, windows, ref, taps, summed, gradient)

    def _compare(self, state, windows, ref, taps, summed, gradient):
        x, y = (_activated(_product(part, state['head'])) for part in (windows, ref))
        total, kept, differences = 0, [], {}
        for index, layer in enumerate(LAYERS[:-1]):
            if index:
                weight, bias = state[f'weight{index}'], state[f'bias{index}']
                x, y = (_activated(F.conv2d(part, weight, bias)) for part in (x, y))
            if gradient is not None:
                kept.append(x)
            if layer in taps or layer == LAYERS[-2]:
                differences[layer] = x - y
            if layer in taps:
                total = total + _distance(differences[layer], summed)
        last, edge = differences[LAYERS[-2]], None
        if 'tail' in taps:
            edge = _tail(last, state['tail'])
            total = total + _distance(edge, summed)
        if gradient is not None:
            flow = None if edge is None else _tail_gradient(edge.mul_(_factor(edge, summed)), state['tail'])
            self._add_gradient(gradient, state, kept, differences, flow, taps, summed)
        return total

    @staticmethod
    def _add_gradient(gradient, state, kept, differences, flow, taps, summed):
        """From the last activation to the windows; the buffers of the way forward are overwritten and freed."""
        for index, layer in reversed(list(enumerate(LAYERS[:-1]))):
            activation, difference = kept.pop(), differences.pop(layer, None)
            if layer in taps:
                factor = _factor(difference, summed)
                flow = difference.mul_(factor) if flow is None else flow.add_(difference, alpha=factor)
            if flow is None:
                continue
            torch.ops.aten.leaky_relu_backward(flow, activation, SLOPE, True, grad_input=flow)
            if index:
                flow = F.conv_transpose2d(flow, state[f'weight{index}'])
        gradient += (_rows(flow) @ state['head'].T).view_as(gradient)


def cut_windows(images):
    """Every 3 x 3 window of ``(N, 3, H, W)`` as one row and a 1 for the bias, ``(N, H - 2, W - 2, 28)``."""
    windows = images.unfold(2, SIDE, 1).unfold(3, SIDE, 1).permute(0, 2, 3, 1, 4, 5)
    return F.pad(windows.flatten(3), (0, 1), value=1.0)


def paste_windows(windows):
    """The sum of overlapping windows, ``(N, 3, H, W)``: the gradient of :func:`cut_windows`."""
    size = [side + SIDE - 1 for side in windows.shape[1:3]]
    return F.fold(windows[..., :-1].flatten(1, 2).transpose(1, 2), size, SIDE)


def fold_batch_norm(block):
    """Weight and bias, in float64, of a block's convolution with the batch norm behind it (stored statistics)."""
    conv, norm = block.conv, block.norm
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = conv.weight.detach().double() * scale[:, None, None, None]
    return weight, (conv.bias.detach().double() - norm.running_mean.double()) * scale + norm.bias.detach().double()


def _product(windows, matrix):
    """A convolution from windows, as ``(N, C, H, W)`` in channels-last."""
    rows = windows.flatten(0, 2) @ matrix
    return rows.view(*windows.shape[:3], -1).permute(0, 3, 1, 2)


def _rows(images):
    """``(N, C, H, W)`` in channels-last as ``(N * H * W, C)``, without a copy."""
    return images.permute(0, 2, 3, 1).flatten(0, 2)


def _activated(features):
    return F.leaky_relu_(features, SLOPE)


def _tail(difference, tail):
    """The last convolution, ``(N, 1, H - 2, W - 2)``: all nine products of a position first, then their sum."""
    count, _, height, width = difference.shape
    maps = (tail.T @ _rows(difference).T).view(SIDE, SIDE, count, height, width)
    rows, columns = height - SIDE + 1, width - SIDE + 1
    parts = [maps[i, j, :, i : i + rows, j : j + columns] for i in range(SIDE) for j in range(SIDE)]
    return sum(parts[1:], parts[0].clone()).unsqueeze(1)


def _tail_gradient(edge, tail):
    padded = F.pad(edge[:, 0], [SIDE - 1] * 4)
    windows = padded.unfold(1, SIDE, 1).unfold(2, SIDE, 1).flatten(3)
    return _product(windows, tail.flip(1).T)


def _distance(difference, summed):
    """Sum or mean of squares of each image; in float32 also where the features are in bfloat16."""
    wide = torch.promote_types(difference.dtype, torch.float32)
    # Row by row, in the order of memory: float32 would lose digits in one sum over all.
    rows = torch.linalg.vector_norm(difference.permute(0, 2, 3, 1).flatten(2), dim=2, dtype=wide)
    total = rows.square().sum(1)
    return total if summed else total / difference[0].numel()


def _factor(difference, summed):
    """What turns a difference into the gradient of :func:`_distance`."""
    return 2.0 if summed else 2.0 / difference[0].numel()
