"""Cutting a clip into windows that attention works in, and putting it together again."""

import itertools
import math

import torch
import torch.nn.functional as F


class Windows:
    """How features ``(N, D, H, W, C)`` of one size are cut into windows, as in Video Swin (Liu et al., CVPR 2022).

    Along an axis no longer than the window the window is the whole axis and nothing is shifted. Longer axes are filled
    with zeros to a multiple of the window. Shifting rolls the clip, so the last windows of an axis hold pieces from
    both of its ends, which must not see each other.

    Args:
        size (tuple of int): ``(D, H, W)``.
        window (tuple of int): the network's window along the three axes.
        shifted (bool): whether the windows are moved by half a window.

    Attributes:
        window (tuple of int): the window after it has been limited by the size.
        tokens (int): positions in a window, ordered by D, then H, then W.
        kinds (list): ``(count, allowed)`` of groups of windows in the order of :meth:`cut`: how many windows a clip has
            of that kind, and which token may look at which, ``(tokens, tokens)`` bool, None for all at all.
    """

    def __init__(self, size, window, shifted):
        self.size = tuple(size)
        self.window = tuple(min(s, w) for s, w in zip(size, window, strict=True))
        self.shift = tuple(w // 2 if shifted and s > w else 0 for s, w in zip(size, window, strict=True))
        self.grid = tuple(math.ceil(s / w) for s, w in zip(self.size, self.window, strict=True))
        self.tokens = math.prod(self.window)
        self.kinds, self.order = [(math.prod(self.grid), None)], None
        if any(self.shift):
            self._find_seams()

    def cut(self, x):
        """``(N, D, H, W, C)`` to ``(windows * N, tokens, C)``: all clips' first windows first."""
        n, channels = x.shape[0], x.shape[-1]
        fill = [g * w - s for g, w, s in zip(self.grid, self.window, self.size, strict=True)]
        if any(fill):
            x = F.pad(x, (0, 0, 0, fill[2], 0, fill[1], 0, fill[0]))
        if any(self.shift):
            x = x.roll([-s for s in self.shift], (1, 2, 3))
        (gd, gh, gw), (wd, wh, ww) = self.grid, self.window
        x = x.reshape(n, gd, wd, gh, wh, gw, ww, channels).permute(1, 3, 5, 0, 2, 4, 6, 7)
        x = x.reshape(-1, n, self.tokens, channels)
        if self.order is not None:
            x = x[self.order.to(x.device)]
        return x.flatten(0, 1)

    def join(self, x):
        """What :meth:`cut` has made, back to ``(N, D, H, W, C)``."""
        x = x.unflatten(0, (math.prod(self.grid), -1))
        if self.order is not None:
            x = x[self.order.argsort().to(x.device)]
        (gd, gh, gw), (wd, wh, ww) = self.grid, self.window
        n, channels = x.shape[1], x.shape[-1]
        x = x.reshape(gd, gh, gw, n, wd, wh, ww, channels).permute(3, 0, 4, 1, 5, 2, 6, 7)
        x = x.reshape(n, gd * wd, gh * wh, gw * ww, channels)
        if any(self.shift):
            x = x.roll(self.shift, (1, 2, 3))
        depth, height, width = self.size
        return x[:, :depth, :height, :width]

    def split(self, x):
        """Views of ``(windows * N, ...)`` by kind, each with its ``allowed``."""
        clips = x.shape[0] // math.prod(self.grid)
        parts = x.split([count * clips for count, _ in self.kinds])
        return [(part, allowed) for part, (_, allowed) in zip(parts, self.kinds, strict=True)]

    def _find_seams(self):
        """Group the windows by the axes whose seam runs through them: only the last ones of shifted axes."""
        labels, last = [], []
        for grid, window, shift in zip(self.grid, self.window, self.shift, strict=True):
            label = torch.zeros(window, dtype=torch.long)
            label[window - shift :] = 1  # what the roll has brought here from the other end
            labels.append(label)
            last.append(torch.tensor([shift > 0 and g == grid - 1 for g in range(grid)]))
        rows = torch.arange(math.prod(self.grid)).view(self.grid)
        order, self.kinds = [], []
        for kind in itertools.product(*([False, True] if s else [False] for s in self.shift)):
            mine = rows
            for axis, is_last in enumerate(kind):
                mine = mine.index_select(axis, (last[axis] == is_last).nonzero().flatten())
            if not mine.numel():
                continue
            places = [label * cut for label, cut in zip(labels, kind, strict=True)]
            piece = (4 * places[0][:, None, None] + 2 * places[1][:, None] + places[2]).flatten()
            allowed = piece[:, None] == piece if any(kind) else None
            order.append(mine.flatten())
            self.kinds.append((mine.numel(), allowed))
        self.order = torch.cat(order)
