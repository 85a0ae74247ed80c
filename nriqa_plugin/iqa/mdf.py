"""MDF: distance between what small discriminators, trained on a single image, make of an image and its reference."""

import math
from functools import partial

import torch
from torch import nn

from nriqa_plugin.checks import check_choice, check_number, unknown_name
from nriqa_plugin.iqa.scorer import Scorer
from nriqa_plugin.mdf.discriminator import RECEPTIVE_FIELD
from nriqa_plugin.mdf.folded import LAYERS, FoldedDiscriminator, cut_windows, paste_windows
from nriqa_plugin.mdf.legacy_pickle import is_legacy
from nriqa_plugin.mdf.mdf_file import load_mdf

TAPS = {'released': ('head', 'block3', 'tail'), 'all_relu': LAYERS[:-1]}
RELEASED_SCALES = 8
# Images of so many px together go through a discriminator at once. On a CPU single images are a tenth slower, and more
# do not gain.
PIXELS = {'cpu': 1 << 16, 'cuda': 1 << 18}


class MDF(Scorer):
    """Multi-scale discriminative feature distance (Mustafa et al., WACV 2022): 0 for equal images, **lower is better**.

    The sum over discriminators and layers of the mean squared difference of their features. Every discriminator looks
    at the full image, the names of their scales come from their training. What the released code does is the default;
    the paper's Eq. 2 is ``taps: all_relu`` with ``distance: sum``.

    Args:
        weights (str): file of ``nriqa train-mdf`` or ``nriqa convert-mdf``.
        scales (int | list[int] | None): how many discriminators, or which by their number; 0 is the coarsest. Without
            it the first 8 as released, or all where there are fewer.
        order (str): which are the first: ``coarse_first`` as released, ``fine_first``.
        taps (str | list[str]): layers to compare: ``released`` (after the head's and the body's last activation, and
            the linear output), ``all_relu`` (after every activation), or a list of ``head``, ``block1``, ``block2``,
            ``block3``, ``tail``.
        distance (str): ``mean`` over channels and positions of squared differences, or their ``sum``.
        input_range (str | list[float]): values that the discriminators get for black and white: what the ``file``
            says, or ``[low, high]``. The authors' examples feed [0, 1].

    Shapes: ``pred`` and ``ref`` are ``(N, 3, H, W)`` RGB in [0, 1], both sides at least 11 px; returns ``(N,)``. The
    gradient with respect to ``pred`` is computed at once, a few images and one discriminator at a time, and a gradient
    of the gradient does not exist; ``ref`` gets none.

    Raises:
        ValueError, TypeError: naming the option; a file that is damaged or of another kind; more scales than it has.
        FileNotFoundError: there is no such file.
    """

    name = 'mdf'
    higher_better = False
    score_range = (0.0, math.inf)
    needs_reference = True
    min_side = RECEPTIVE_FIELD

    def __init__(
        self,
        weights=None,
        scales=None,
        order='coarse_first',
        taps='released',
        distance='mean',
        input_range='file',
    ):
        super().__init__()
        if weights is None:
            raise ValueError('the judge mdf needs the option weights: a file of nriqa train-mdf or nriqa convert-mdf')
        self.summed = check_choice('distance', distance, ('mean', 'sum')) == 'sum'
        self.taps = _taps(taps)
        discriminators, header = _load(weights)
        self.scales = _scales(scales, check_choice('order', order, ('coarse_first', 'fine_first')), len(discriminators))
        self.input_range = _range(input_range, header)
        used = [discriminators[index] for index in self.scales]
        for index, network in zip(self.scales, used, strict=True):
            if network.channels != 3:
                raise ValueError(f'weights: discriminator {index} of {weights} is for {network.channels} channels, '
                                 'the judge mdf takes RGB')  # fmt: skip
        self.networks = nn.ModuleList(FoldedDiscriminator(network, self.input_range) for network in used)

    def score(self, pred, ref=None):
        wanted = pred.requires_grad and torch.is_grad_enabled()
        one = pred.new_ones(1, 1)
        dtype = (one @ one).dtype  # bfloat16 under the autocast of our option precision, the only one around judges
        return _Distances.apply(pred, ref, partial(self._distances, dtype=dtype, wanted=wanted))

    def _distances(self, pred, ref, dtype, wanted):
        """Distances and, if ``wanted``, their gradient; images of a chunk and discriminators one after the other."""
        chunk = max(1, PIXELS.get(pred.device.type, PIXELS['cuda']) // pred[0, 0].numel())
        scores, gradients = [], []
        for images in zip(pred.split(chunk), ref.split(chunk), strict=True):
            windows, of_ref = (cut_windows(part.to(dtype)) for part in images)
            # Not in bfloat16: the sum over discriminators needs more digits.
            gradient = torch.zeros_like(windows, dtype=pred.dtype) if wanted else None
            scores.append(sum(network(windows, of_ref, self.taps, self.summed, gradient) for network in self.networks))
            if wanted:
                gradients.append(paste_windows(gradient))
        return torch.cat(scores), torch.cat(gradients) if wanted else None


class _Distances(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pred, ref, distances):
        with torch.autocast(pred.device.type, enabled=False):
            scores, gradient = distances(pred, ref)
        ctx.save_for_backward(gradient)
        return scores.to(pred.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (known,) = ctx.saved_tensors
        return gradient.view(-1, 1, 1, 1) * known, None, None


def _load(weights):
    try:
        return load_mdf('weights', weights)
    except ValueError as error:
        if is_legacy(weights):
            raise ValueError(
                f"weights: {weights} is in torch's old format, as the MDF authors' files are, and could run code; make "
                'it a safe file: nriqa convert-mdf FILE --out NEW_FILE'
            ) from error
        raise


def _taps(taps):
    if isinstance(taps, str):
        return TAPS[check_choice('taps', taps, TAPS)]
    if not isinstance(taps, (list, tuple)) or not taps:
        raise TypeError(f'taps must be {" or ".join(TAPS)}, or a list of {", ".join(LAYERS)}, got {taps!r}')
    for name in taps:
        if name not in LAYERS:
            raise unknown_name('layer in taps:', name, LAYERS)
    return tuple(name for name in LAYERS if name in taps)


def _scales(scales, order, available):
    """The numbers of the discriminators to use."""
    numbers = range(available) if order == 'coarse_first' else range(available - 1, -1, -1)
    if isinstance(scales, (list, tuple)):
        found = tuple(check_number('scales', n, low=0, high=available - 1, integer=True) for n in scales)
        if not found or len(set(found)) < len(found):
            raise ValueError(f'scales must name one or more discriminators once each, got {scales!r}')
        return found
    if scales is None:
        return tuple(numbers[:RELEASED_SCALES])
    count = check_number('scales', scales, low=1, integer=True)
    if count > available:
        raise ValueError(f'scales: {count} discriminators are wanted, the file of weights holds {available}')
    return tuple(numbers[:count])


def _range(input_range, header):
    """Values for black and white, as a pair."""
    if input_range == 'file':
        if 'range' not in header:
            raise ValueError('input_range: the file of weights does not say which; give [low, high], such as [0, 1]')
        input_range = header['range']
    if not isinstance(input_range, (list, tuple)) or len(input_range) != 2:
        raise TypeError(f"input_range must be 'file' or [low, high], got {input_range!r}")
    low, high = (float(check_number('input_range', value)) for value in input_range)
    if low >= high:
        raise ValueError(f'input_range must rise, got {input_range!r}')
    return low, high
