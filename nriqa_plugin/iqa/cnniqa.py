"""CNNIQA: a small convolutional network that predicts how much worse an image looks than a pristine one."""

import torch
import torch.nn.functional as F
from torch import nn

from nriqa_plugin.checks import check_number, fill_weights, load_weights
from nriqa_plugin.iqa.scorer import Scorer

PATCH = 32
# Local variance below this counts as flat: keeps the gradient of the square root finite there.
TINY = 1e-12
# More at once are blocks of memory above 32 MB, which glibc asks of the system anew at every call: a third of the time.
PATCHES_AT_ONCE = 128


class CNNIQA(Scorer):
    r"""Mean score of 32 x 32 grey patches (Kang et al., CVPR 2014), with the weights of a public reimplementation.

    Every patch is normalised by its local mean and standard deviation, :math:`(g - \mu) / (\sigma + C)`, filtered by
    one convolution, and reduced to the largest and smallest response of every filter; three linear layers follow.
    The network was trained with patches normalised one by one (3 x 3 window, C = 1 for grey in [0, 1], edges
    repeated), so that is what is done here; the paper describes a 7 x 7 window. The luma is not rounded to 8 bits,
    which would stop the gradient: rounding changes the mean over the 24 Kodak images by 0.15.

    The score is a predicted DMOS (LIVE): 0 is pristine, 100 the worst, **lower is better**; the network may leave
    that range.

    Args:
        weights (str): the file ``models/CNNIQA-LIVE`` of the GitHub repository lidq92/CNNIQA, downloaded by the user.
        stride (int): step between patches in px; 32 as in training. Smaller steps overlap and cost more.
        full_cover (bool): also use the last row (column) of patches when it ends exactly at the image's border.
            The loader that the weights come from leaves it out, so an image of 128 x 128 px is judged, and gets a
            gradient, on 96 x 96 px only. Switch it on in a loss; leave it off to reproduce published scores.

    Shapes: ``pred`` is ``(N, 3, H, W)`` RGB in [0, 1], both sides at least 32 px; returns ``(N,)``.

    Raises:
        ValueError: ``weights`` is not given, damaged, or belongs to another network; ``stride`` below 1.
        FileNotFoundError: there is no such file.
        TypeError: ``stride`` is not an integer, ``full_cover`` not a bool.
    """

    name = 'cnniqa'
    higher_better = False
    score_range = (0.0, 100.0)
    min_side = PATCH

    def __init__(self, weights=None, stride=32, full_cover=False):
        super().__init__()
        if weights is None:
            raise ValueError(
                'the judge cnniqa needs the option weights: the path of the file CNNIQA-LIVE, to be '
                'downloaded from the GitHub repository lidq92/CNNIQA (models/CNNIQA-LIVE)'
            )
        if not isinstance(full_cover, bool):
            raise TypeError(f'full_cover must be true or false, got {full_cover!r}')
        self.stride = int(check_number('stride', stride, low=1, integer=True))
        self.full_cover = full_cover
        self.register_buffer('luma', torch.tensor([0.299, 0.587, 0.114]))  # ITU-R BT.601
        self.network = fill_weights('weights', weights, PatchNet(), load_weights('weights', weights))

    def score(self, pred, ref=None):
        patches = self._patches(torch.einsum('nchw,c->nhw', pred, self.luma))
        patches = patches.reshape(-1, 1, PATCH, PATCH)
        parts = patches.split(PATCHES_AT_ONCE) if pred.device.type == 'cpu' else [patches]
        scores = torch.cat([self.network(locally_normalised(part)) for part in parts])
        return scores.view(len(pred), -1).mean(1)

    def _patches(self, grey):
        """Cut ``(N, H, W)`` into ``(N, rows, columns, 32, 32)``."""
        if not self.full_cover:
            height, width = (side if side == PATCH else side - 1 for side in grey.shape[-2:])
            grey = grey[:, :height, :width]
        return grey.unfold(1, PATCH, self.stride).unfold(2, PATCH, self.stride)


class PatchNet(nn.Module):
    """The network of one patch: ``(B, 1, 32, 32)``, locally normalised, to ``(B,)``. Keys as in the public weights."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 50, 7)
        self.fc1 = nn.Linear(100, 800)
        self.fc2 = nn.Linear(800, 800)
        self.fc3 = nn.Linear(800, 1)

    def forward(self, patches):
        maps = self.conv1(patches)
        extremes = torch.cat([maps.amax((2, 3)), maps.amin((2, 3))], dim=1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(extremes))))).squeeze(1)


def locally_normalised(patches, window=3, c=1.0):
    """Subtract the local mean and divide by the local standard deviation + ``c``, edges repeated.

    Args:
        patches (Tensor): grey in [0, 1], ``(B, 1, H, W)``.
        window (int): odd side of the local window in px.
        c (float): keeps flat areas, where the deviation is 0, from being blown up. As it grows, the result becomes
            the plain difference to the local mean.

    Returns:
        Tensor: the same shape.
    """
    padded = F.pad(patches, (window // 2,) * 4, mode='replicate')
    mean = F.avg_pool2d(padded, window, stride=1)
    variance = F.avg_pool2d(padded.square(), window, stride=1) - mean.square()
    return (patches - mean) / (variance.clamp_min(TINY).sqrt() + c)
