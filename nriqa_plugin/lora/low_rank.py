"""One layer's change of low rank, as a parametrization of its weight."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def low_rank_update(weight, a, b, scale):
    """``weight + scale * (b @ a)``, where every axis of ``weight`` behind the first counts as one: ``(out, -1)``."""
    return torch.addmm(weight.flatten(1), b, a, alpha=scale).view_as(weight)


def largest_rank(weight):
    """The rank that a change of ``weight`` can have at most: the shorter side of the matrix ``(out, -1)``."""
    return min(weight.shape[0], weight[0].numel())


class LowRank(nn.Module):
    """``W`` becomes ``W + (alpha / rank) * B A`` (Hu et al., LoRA, ICLR 2022, Eq. 3).

    Args:
        weight (Tensor): ``(out, in)`` of a linear layer, or ``(out, in / groups, kh, kw)`` of a convolution.
        rank (int): rows of ``A`` ``(rank, in / groups * kh * kw)`` and columns of ``B`` ``(out, rank)``.
        alpha (float): the scale is ``alpha / rank``.
        dropout (float): in training every entry of ``A`` is left out with this probability, the others grow to keep
            the mean. (Here the weight is changed, not the layer's input, so there is no input to drop.)
        generator (torch.Generator): of ``A``, uniform within ``1 / sqrt(fan in)``; ``B`` starts at zero, and so the
            sum at ``W`` exactly.
    """

    def __init__(self, weight, rank, alpha, dropout, generator):
        super().__init__()
        out, fan_in = weight.shape[0], weight[0].numel()
        bound = 1 / math.sqrt(fan_in)
        start = torch.empty(rank, fan_in).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(start.to(weight))
        self.lora_B = nn.Parameter(weight.new_zeros(out, rank))
        self.scale = alpha / rank
        self.dropout = dropout

    def forward(self, weight):
        a = F.dropout(self.lora_A, self.dropout, self.training) if self.dropout else self.lora_A
        return low_rank_update(weight, a, self.lora_B, self.scale)
