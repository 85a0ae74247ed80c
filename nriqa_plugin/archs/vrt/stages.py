"""The stages of VRT: a resizing one of the U with alignment, and a plain one behind the U."""

import torch
from torch import nn

from nriqa_plugin.archs.vrt.alignment import ParallelWarping
from nriqa_plugin.archs.vrt.blocks import BlockGroup, GatedFeedForward


class Stage(nn.Module):
    """One scale of the U: resize, blocks with mutual attention, blocks without, then parallel warping.

    Args:
        in_dim (int): channels of the input.
        dim (int): channels inside and of the output.
        resize (str): ``none``, ``down`` (half the side, four times the channels, projected to ``dim``) or ``up``
            (twice the side, a quarter of the channels).
        window (tuple of int): ``(D, H, W)`` of the second group; mutual attention looks at pairs of frames.
        mutual_blocks (int): how many of the blocks have mutual attention.
        drop_paths (list of float): one for each block.
        reach, deformable_groups, max_residue: of :class:`ParallelWarping`.
        settings (dict): of :class:`BlockGroup`.
    """

    def __init__(
        self, in_dim, dim, resize, window, mutual_blocks, drop_paths, reach, deformable_groups, max_residue, settings
    ):
        super().__init__()
        self.reshape = Resize(in_dim, dim, resize)
        pairs = (2, *window[1:])
        self.residual_group1 = BlockGroup(dim, pairs, drop_paths[:mutual_blocks], {**settings, 'mutual': True})
        self.linear1 = nn.Linear(dim, dim)
        self.residual_group2 = BlockGroup(dim, window, drop_paths[mutual_blocks:], {**settings, 'mutual': False})
        self.linear2 = nn.Linear(dim, dim)
        self.pa_deform = ParallelWarping(dim, reach, deformable_groups, max_residue)
        self.pa_fuse = GatedFeedForward(3 * dim, 3 * dim, dim)

    def forward(self, x, backward, forward):
        """``(N, T, H, W, in_dim)`` to ``(N, T, H', W', dim)``; flows by distance, of the output's size."""
        x = self.reshape(x)
        x = x + self.linear1(self.residual_group1(x))
        x = x + self.linear2(self.residual_group2(x))
        after, before = self.pa_deform.both_sides(x.movedim(-1, 2), backward, forward)
        return self.pa_fuse(torch.cat([x, after.movedim(2, -1), before.movedim(2, -1)], -1))


class PlainStage(nn.Module):
    """Blocks without mutual attention and a linear layer, with a skip: ``(N, T, H, W, dim)`` kept."""

    def __init__(self, dim, window, drop_paths, settings):
        super().__init__()
        self.residual_group = BlockGroup(dim, window, drop_paths, {**settings, 'mutual': False})
        self.linear = nn.Linear(dim, dim)

    def forward(self, x):
        return x + self.linear(self.residual_group(x))


class Resize(nn.Sequential):
    """Twice or half the side by moving pixels into or out of the channels, normalised and projected; keys 1 and 2.

    ``none`` only normalises, ``plain`` keeps the size and projects.
    The order of the channels is the published one: column in the 2 x 2 square first, then row, then channel.
    """

    def __init__(self, in_dim, dim, resize):
        inside = {'none': in_dim, 'plain': in_dim, 'down': 4 * in_dim, 'up': in_dim // 4}[resize]
        move = {'down': SpaceToChannels(), 'up': ChannelsToSpace()}.get(resize, nn.Identity())
        project = [] if resize == 'none' else [nn.Linear(inside, dim)]
        super().__init__(move, nn.LayerNorm(inside), *project)


class SpaceToChannels(nn.Module):
    """``(N, T, H, W, C)`` to ``(N, T, H / 2, W / 2, 4 * C)``."""

    def forward(self, x):
        n, frames, height, width, channels = x.shape
        x = x.reshape(n, frames, height // 2, 2, width // 2, 2, channels).permute(0, 1, 2, 4, 5, 3, 6)
        return x.reshape(n, frames, height // 2, width // 2, 4 * channels)


class ChannelsToSpace(nn.Module):
    """The inverse of :class:`SpaceToChannels`."""

    def forward(self, x):
        n, frames, height, width, channels = x.shape
        x = x.reshape(n, frames, height, width, 2, 2, channels // 4).permute(0, 1, 2, 5, 3, 4, 6)
        return x.reshape(n, frames, 2 * height, 2 * width, channels // 4)
