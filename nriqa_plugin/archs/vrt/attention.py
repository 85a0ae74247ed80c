"""Self and mutual attention inside the windows of a clip."""

import math

import torch
import torch.nn.functional as F
from torch import nn

WAVELENGTH = 10000  # of the slowest sine


class WindowAttention(nn.Module):
    """Multi-head self attention, and mutual attention between the two frames of a window (VRT, section 3.2).

    In mutual attention each frame's queries look only at the other frame's keys, so what comes back is the other
    frame, moved to where the first one has similar content: implicit alignment. It is put beside the self attention's
    output and projected to ``dim`` channels.

    Args:
        dim (int): channels.
        window (tuple of int): ``(D, H, W)``; D is 2 for mutual attention.
        heads (int): attention heads; divides ``dim``.
        mutual (bool): self and mutual attention, instead of self attention alone.
        qkv_bias (bool): biases for queries, keys and values.
        qk_scale (float, optional): factor of the dot products; None: ``(dim / heads) ** -0.5``.
        sdpa (bool): PyTorch's fused attention, instead of the product, softmax and product one after the other.
    """

    def __init__(self, dim, window, heads, mutual, qkv_bias, qk_scale, sdpa):
        super().__init__()
        self.window, self.heads, self.mutual = tuple(window), heads, mutual
        self.scale = (dim // heads) ** -0.5 if qk_scale is None else qk_scale
        self.attend = fused_attention if sdpa else plain_attention
        distances = math.prod(2 * side - 1 for side in window)
        self.relative_position_bias_table = nn.Parameter(torch.empty(distances, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer('relative_position_index', relative_positions(self.window))
        self.qkv_self = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(2 * dim if mutual else dim, dim)
        if mutual:
            self.register_buffer('position_bias', sine_positions(self.window[1:], dim))
            self.qkv_mut = nn.Linear(dim, 3 * dim, bias=qkv_bias)

    def forward(self, x, windows):
        """``(B, tokens, C)`` kept.

        Args:
            x (Tensor): the windows, as ``windows.cut`` makes them.
            windows (Windows): which of them have seams; its window may be smaller than the module's.
        """
        out = self._self_attention(x, windows)
        if self.mutual:
            out = torch.cat([self._mutual_attention(x, windows), out], 2)
        return self.proj(out)

    def _self_attention(self, x, windows):
        bias = self._position_bias(windows.window)
        outs = []
        for part, allowed in windows.split(self._heads(self.qkv_self(x))):
            q, k, v = part.unbind(1)
            outs.append(self.attend(q, k, v, _forbid(bias, allowed), self.scale))
        return _join_heads(outs)

    def _mutual_attention(self, x, windows):
        """Every half of the output is its own frame moved onto the other one: the published order."""
        _, height, width = windows.window
        where = self.position_bias.view(*self.window[1:], -1)[:height, :width].flatten(0, 1).repeat(2, 1)
        half, outs = height * width, []
        for part, allowed in windows.split(self._heads(self.qkv_mut(x + where))):
            # The roll's seam in time is not masked here: at it, the last frame and the first one are aligned.
            allowed = None if allowed is None or allowed[:half, :half].all() else allowed[:half, :half]
            (q1, q2), (k1, k2), (v1, v2) = (t.split(half, 2) for t in part.unbind(1))
            bias = _forbid(x.new_zeros(1, half, half), allowed) if allowed is not None else None
            moved = [self.attend(q2, k1, v1, bias, self.scale), self.attend(q1, k2, v2, bias, self.scale)]
            outs.append(torch.cat(moved, 2))
        return _join_heads(outs)

    def _heads(self, qkv):
        """``(B, tokens, 3 * C)`` to ``(B, 3, heads, tokens, C / heads)``."""
        return qkv.unflatten(2, (3, self.heads, -1)).permute(0, 2, 3, 1, 4)

    def _position_bias(self, window):
        """Learned bias by relative position ``(heads, tokens, tokens)`` of a window no larger than the module's."""
        index = self.relative_position_index
        if window != self.window:
            places = torch.arange(len(index), device=index.device).view(self.window)
            kept = places[: window[0], : window[1], : window[2]].flatten()
            index = index[kept[:, None], kept]
        return self.relative_position_bias_table[index].permute(2, 0, 1)


def plain_attention(q, k, v, bias, scale):
    """``softmax(scale * q k^T + bias) v``; q, k, v ``(B, heads, tokens, c)``, bias ``(1 or heads, tokens, tokens)``."""
    scores = (q * scale) @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1) @ v


def fused_attention(q, k, v, bias, scale):
    """As :func:`plain_attention`; without the whole matrix of scores in memory where PyTorch has a kernel for it.

    On a CPU it has none for a bias that is trained; then the plain way is the faster one (docs/video_networks.md).
    """
    if bias is not None:
        if bias.requires_grad and torch.is_grad_enabled() and bias.device.type == 'cpu':
            return plain_attention(q, k, v, bias, scale)
        bias = bias.expand(q.shape[0], q.shape[1], -1, -1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def relative_positions(window):
    """Which row of the table a pair of tokens ``(query, key)`` uses, ``(tokens, tokens)`` int64."""
    axes = torch.meshgrid(*(torch.arange(side) for side in window), indexing='ij')
    index = 0
    for axis, side in zip(axes, window, strict=True):
        place = axis.flatten()
        index = index * (2 * side - 1) + place[:, None] - place + side - 1
    return index


def sine_positions(size, channels):
    """Sines and cosines of the position in a frame, ``(1, H * W, channels)``: first half from y, second from x.

    The encoding of DETR (Carion et al., ECCV 2020) with positions scaled to (0, 2 pi].
    """
    half = channels // 2
    steps = WAVELENGTH ** (2 * (torch.arange(half) // 2) / half)
    codes = []
    for side in size:
        angle = torch.arange(1, side + 1)[:, None] / (side + 1e-6) * 2 * math.pi / steps
        codes.append(torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], 2).flatten(1))
    rows, columns = (codes[0][:, None], codes[1][None])
    return torch.cat([rows.expand(-1, size[1], -1), columns.expand(size[0], -1, -1)], 2).view(1, -1, channels)


def _forbid(bias, allowed):
    return bias if allowed is None else bias.masked_fill(~allowed.to(bias.device), -math.inf)


def _join_heads(outs):
    """Parts ``(B, heads, tokens, c)`` to ``(B of all, tokens, C)``."""
    return torch.cat([out.transpose(1, 2).flatten(2) for out in outs])
