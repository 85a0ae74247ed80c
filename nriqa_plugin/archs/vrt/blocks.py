"""Transformer blocks for clips: attention in windows, then a gated network on every token."""

import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from nriqa_plugin.archs.vrt.attention import WindowAttention
from nriqa_plugin.archs.vrt.windows import Windows


class BlockGroup(nn.Module):
    """Blocks whose windows lie straight and shifted by half a window in turn: features ``(N, D, H, W, C)`` kept.

    Args:
        dim (int): channels.
        window (tuple of int): ``(D, H, W)``.
        drop_paths (list of float): one block for each, with the chance that a sample skips a branch of it.
        settings (dict): ``heads, mutual, qkv_bias, qk_scale, sdpa`` of the attention, ``mlp_ratio``, and
            ``checkpoint_attn, checkpoint_ffn``: recompute these parts in the backward pass instead of storing them.
    """

    def __init__(self, dim, window, drop_paths, settings):
        super().__init__()
        self.window = tuple(window)
        self.blocks = nn.ModuleList(Block(dim, self.window, rate, **settings) for rate in drop_paths)

    def forward(self, x):
        size = x.shape[1:4]
        straight, shifted = (Windows(size, self.window, shifted) for shifted in (False, True))
        for index, block in enumerate(self.blocks):
            x = block(x, shifted if index % 2 else straight)
        return x


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``: temporal mutual self attention (TMSA)."""

    def __init__(self, dim, window, drop_path, mlp_ratio, checkpoint_attn, checkpoint_ffn, **attention):
        super().__init__()
        self.checkpoint_attn, self.checkpoint_ffn, self.drop_path = checkpoint_attn, checkpoint_ffn, drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, **attention)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = GatedFeedForward(dim, int(dim * mlp_ratio), dim)

    def forward(self, x, windows):
        x = x + _run(self.checkpoint_attn, self._attention, x, windows)
        return x + _run(self.checkpoint_ffn, self._feed_forward, x)

    def _attention(self, x, windows):
        return self._drop(windows.join(self.attn(windows.cut(self.norm1(x)), windows)))

    def _feed_forward(self, x):
        return self._drop(self.mlp(self.norm2(x)))

    def _drop(self, x):
        """Stochastic depth (Huang et al., ECCV 2016): whole samples become 0, the others grow to keep the mean."""
        if not self.training or self.drop_path == 0:
            return x
        keep = x.new_empty(x.shape[0], 1, 1, 1, 1).bernoulli_(1 - self.drop_path)
        return x * keep / (1 - self.drop_path)


class GatedFeedForward(nn.Module):
    """``fc2(gelu(fc11(x)) * fc12(x))`` on the last axis (GEGLU, Shazeer 2020)."""

    def __init__(self, inside, hidden, outside):
        super().__init__()
        self.fc11 = nn.Linear(inside, hidden)
        self.fc12 = nn.Linear(inside, hidden)
        self.fc2 = nn.Linear(hidden, outside)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc11(x)) * self.fc12(x))


def _run(recompute, function, *inputs):
    return checkpoint(function, *inputs, use_reentrant=False) if recompute else function(*inputs)
