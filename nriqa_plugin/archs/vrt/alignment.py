"""Moving neighbouring frames and their features onto a frame, by optical flow and learned offsets."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from nriqa_plugin.archs.deformable import deform_conv2d
from nriqa_plugin.archs.spynet import flow_warp

SCALES = 4  # of the flows: full size, 1/2, 1/4, 1/8


def neighbour_flows(spynet, clip, reach):
    """Flows from every frame to the ones after it and to those before it.

    Args:
        spynet (SpyNet): estimates them between neighbours; further ones are put together from these.
        clip (Tensor): ``(N, T, 3, H, W)`` RGB in [0, 1].
        reach (int): how many frames away.

    Returns:
        tuple: ``(backward, forward)``, lists over the scales of lists over the distance 1..reach of tensors
        ``(N, T - distance, 2, H / 2**scale, W / 2**scale)``: ``backward[s][d - 1][:, t]`` leads from frame t to t + d,
        ``forward[s][d - 1][:, t]`` from frame t + d to t.
    """
    n, frames = clip.shape[:2]
    first, second = clip[:, :-1].flatten(0, 1), clip[:, 1:].flatten(0, 1)
    levels = range(spynet.levels - SCALES, spynet.levels)
    both = []
    for ref, supp in ((first, second), (second, first)):
        flows = [flow.unflatten(0, (n, frames - 1)) for flow in spynet(ref, supp, levels)]
        both.append([[flow] for flow in flows])
    backward, forward = both
    for after, before in zip(backward, forward, strict=True):
        for distance in range(2, min(reach, frames - 1) + 1):
            after.append(_chain(after[-1][:, :-1], after[0][:, distance - 1 :]))
            before.append(_chain(before[-1][:, 1:], before[0][:, : frames - distance]))
    return backward, forward


def nearest_four(images, flow):
    """The four pixels around where the flow leads, ``(N, C, H, W)`` to ``(N, 4 * C, H, W)``.

    In the order floor x and floor y, floor x and ceiling y, ceiling x and floor y, ceiling x and ceiling y; outside the
    image 0. At whole flows all four are the same pixel. Not differentiable with respect to the flow.

    Args:
        images (Tensor): ``(N, C, H, W)``.
        flow (Tensor): ``(N, 2, H, W)``, x then y, in pixels.
    """
    x, y = flow.detach().unbind(1)
    corners = [(x_of(x), y_of(y)) for x_of in (torch.floor, torch.ceil) for y_of in (torch.floor, torch.ceil)]
    return torch.cat([flow_warp(images, torch.stack(corner, -1), mode='nearest') for corner in corners], 1)


def aligned_images(clip, backward, forward):
    """Every frame beside the next and the previous one moved onto it: ``(N, T, C, H, W)`` to ``(N, T, 9 * C, H, W)``.

    Args:
        clip (Tensor): the frames.
        backward, forward (Tensor): flows to the next and to the previous frame, ``(N, T - 1, 2, H, W)``.

    A frame without such a neighbour gets zeros.
    """
    n = clip.shape[0]
    after = nearest_four(clip[:, 1:].flatten(0, 1), backward.flatten(0, 1)).unflatten(0, (n, -1))
    before = nearest_four(clip[:, :-1].flatten(0, 1), forward.flatten(0, 1)).unflatten(0, (n, -1))
    nothing = torch.zeros_like(after[:, :1])
    return torch.cat([clip, torch.cat([after, nothing], 1), torch.cat([nothing, before], 1)], 2)


class ParallelWarping(nn.Module):
    """Features of up to ``reach`` neighbours on one side, sampled along flow plus learned offsets (VRT, section 3.3).

    A modulated deformable convolution (Zhu et al., CVPR 2019) whose offsets are the flow plus a residue of at most
    ``max_residue`` px, found from the features warped by the flow, the frame's own features and the flows.

    Args:
        dim (int): channels of a frame's features.
        reach (int): neighbours on a side; the convolution has that many groups.
        groups (int): sets of offsets, shared evenly by the ``reach * dim`` channels.
        max_residue (float): in pixels of the features.
    """

    KERNEL = 3

    def __init__(self, dim, reach, groups, max_residue):
        super().__init__()
        self.reach, self.max_residue = reach, max_residue
        self.weight = nn.Parameter(torch.empty(dim, dim, self.KERNEL, self.KERNEL))
        self.bias = nn.Parameter(torch.zeros(dim))
        bound = 1 / math.sqrt(dim * self.KERNEL**2)
        nn.init.uniform_(self.weight, -bound, bound)
        widths = [(1 + reach) * dim + 2 * reach, dim, dim, dim, 3 * self.KERNEL**2 * groups]
        layers = []
        for inside, outside in itertools.pairwise(widths):
            layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.LeakyReLU(0.1)]
        self.conv_offset = nn.Sequential(*layers[:-1])
        nn.init.zeros_(self.conv_offset[-1].weight)
        nn.init.zeros_(self.conv_offset[-1].bias)

    def forward(self, neighbours, current, flows):
        """Neighbours moved onto the current frame, ``(N, C, H, W)``.

        Args:
            neighbours (list of Tensor): ``reach`` features ``(N, C, H, W)``, the nearest frame first.
            current (Tensor): the frame's own features.
            flows (list of Tensor): from the frame to each neighbour, ``(N, 2, H, W)``.
        """
        warped = [flow_warp(x, flow.permute(0, 2, 3, 1)) for x, flow in zip(neighbours, flows, strict=True)]
        *residue, mask = self.conv_offset(torch.cat([*warped, current, *flows], 1)).chunk(3, 1)
        residue = self.max_residue * torch.tanh(torch.cat(residue, 1))
        # Offsets are y then x for every group and tap; each neighbour owns an equal share of the groups.
        pairs = residue.shape[1] // (2 * self.reach)
        offset = residue + torch.cat([flow.flip(1).repeat(1, pairs, 1, 1) for flow in flows], 1)
        return deform_conv2d(torch.cat(neighbours, 1), offset, self.weight, self.bias, padding=self.KERNEL // 2,
                             mask=torch.sigmoid(mask))  # fmt: skip

    def both_sides(self, x, backward, forward):
        """Features ``(N, T, C, H, W)`` of every frame's following and of its preceding neighbours, moved onto it.

        Args:
            x (Tensor): features.
            backward, forward (list of Tensor): flows to the following and to the preceding frames by distance, as
                :func:`neighbour_flows` gives them for one scale.

        Returns:
            tuple of Tensor: both of the shape of ``x``. Where the neighbour next to a frame is missing they are 0;
            where only a further one is, its features and its flow are 0.
        """
        after = self._one_side(x, backward)
        before = self._one_side(x.flip(1), [flow.flip(1) for flow in forward]).flip(1)
        return after, before

    def _one_side(self, x, flows):
        n, frames = x.shape[:2]
        neighbours, ways = [], []
        for distance in range(1, self.reach + 1):
            there = max(frames - distance, 0)
            missing = frames - 1 - there
            neighbours.append(_fill(x[:, distance:], missing))
            flow = flows[distance - 1] if there else flows[0][:, :0]
            ways.append(_fill(flow, missing))
        moved = self([t.flatten(0, 1) for t in neighbours], x[:, :-1].flatten(0, 1), [t.flatten(0, 1) for t in ways])
        return _fill(moved.unflatten(0, (n, frames - 1)), 1)


def _chain(near, far):
    """The flow along ``near`` and then ``far``, ``(N, T, 2, H, W)`` both."""
    frames = near.shape[1]
    near, far = near.flatten(0, 1), far.flatten(0, 1)
    return (near + flow_warp(far, near.permute(0, 2, 3, 1))).unflatten(0, (-1, frames))


def _fill(x, count):
    """``(N, T, C, H, W)`` with ``count`` empty frames behind."""
    return F.pad(x, (0, 0, 0, 0, 0, 0, 0, count)) if count else x
