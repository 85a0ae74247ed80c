"""A judge as a training loss: direction, range, clamping, crops and gaming guards handled."""

import logging
import math

import torch
from torch import nn

from nriqa_plugin.checks import check_choice, check_flag, check_number, check_unit_range, checks_options
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.iqa.eager_gradient import eager_scores
from nriqa_plugin.iqa.ensemble import one_judge
from nriqa_plugin.losses.frames import Frames
from nriqa_plugin.losses.space import Space
from nriqa_plugin.losses.views import clamp_keeping_gradient, random_change, random_crops, step_generator

WARN_EVERY = 100  # calls; reading a counter more often would stall a GPU

logger = logging.getLogger('nriqa_plugin')


@checks_options
class IQALoss(nn.Module):
    """Base of :class:`NRIQALoss` and :class:`FRIQALoss`, which share all options.

    Lower is better for every judge: the loss is ``-Q`` when a higher score is better, ``Q`` when a lower one is
    (the minus signs of Table I of Kashkarov et al., arXiv 2405.20392, are this direction), averaged over the
    images. Weights in option files are therefore positive.

    Args:
        metric (str | Scorer | None): a judge as :func:`nriqa_plugin.iqa.create_scorer` names it.
        ensemble (list[dict] | None): instead of ``metric``, several judges as one, see
            :class:`nriqa_plugin.iqa.ensemble.Ensemble`: ``[{musiq: 1.0}, {nima: 8.0}]``.
        weights (str | None): the judge's local weights file.
        options (dict | None): further options of the judge.
        loss_weight (float): factor >= 0; inside ``LossSum`` use the term's ``weight`` instead.
        scale (str): ``native`` keeps the judge's units, so that published weights hold; ``unit`` maps its range to
            [0, 1] (0 is the best score).
        stop_at (float | str | None): no reward beyond this native score, or with ``target`` beyond the score of the
            ground truth itself: the simplest guard against gaming the judge.
        crop (int | None): score random windows of this side in px instead of the whole image (bounded memory).
        crops (int): windows per image, with ``crop`` only.
        augment (bool): resize by 0.9 to 1.1, shift by up to 8 px and flip at random before scoring, the cheapest
            guard against gaming.
        clamp (bool): clamp predictions to [0, 1] before scoring; the gradient is kept.
        precision (str): ``fp32``, or ``bf16`` to run the judge under bfloat16 autocast.
        checkpoint (bool): keep no activations of the judge: every image's gradient is computed at once, image by
            image, with the memory of one image and the same work; no gradient of the gradient then. The
            judges of an ensemble hold their activations of one image together.
        probe (bool): run one tiny backward pass at construction and refuse a judge without a usable gradient.
        seed (int): of the random crops and changes, which depend on (seed, iteration, rank) only.
        space (dict | None): what the network speaks, see :class:`nriqa_plugin.losses.space.Space`.
        frames (str | dict): which frames of a clip a judge of images scores, see
            :class:`nriqa_plugin.losses.frames.Frames`: ``all``, ``middle`` or ``{random: n}``. A video judge gets the
            whole clip.

    Raises:
        ValueError, TypeError: at construction, naming the option; a judge that gives no gradient.
    """

    reference_judge = False
    unit_rgb = True  # LossSum hands over RGB in [0, 1]

    def __init__(
        self,
        metric=None,
        weights=None,
        options=None,
        loss_weight=1.0,
        scale='native',
        stop_at=None,
        crop=None,
        crops=1,
        augment=False,
        clamp=True,
        precision='fp32',
        checkpoint=False,
        probe=True,
        seed=0,
        space=None,
        ensemble=None,
        frames='all',
    ):
        super().__init__()
        self.loss_weight = check_number('loss_weight', loss_weight, low=0)
        self.scale = check_choice('scale', scale, ('native', 'unit'))
        self.stop_at = (
            stop_at if stop_at in (None, 'target') else check_number("stop_at (a score or 'target')", stop_at)
        )
        self.crop = crop if crop is None else check_number('crop', crop, low=1, integer=True)
        self.crops = check_number('crops', crops, low=1, integer=True)
        if crop is None and self.crops > 1:
            raise ValueError(f'crops: {crops} windows per image need crop, their side in px')
        self.augment = check_flag('augment', augment)
        self.clamp = check_flag('clamp', clamp)
        self.checkpoint = check_flag('checkpoint', checkpoint)
        self.bf16 = check_choice('precision', precision, ('fp32', 'bf16')) == 'bf16'
        self.seed = check_number('seed', seed, integer=True)
        self.space = Space(space)
        self.frames = Frames(frames)
        metric, weights, options = one_judge(metric, weights, options, ensemble)
        self.scorer = create_scorer(metric, weights, **options)
        self._check_scorer()
        if check_flag('probe', probe):
            probe_gradient(self.scorer)
        self.iteration = 0
        self.counts_itself = True
        self.range_checked = False
        self.reported = 0
        self.register_buffer('undefined', torch.zeros((), dtype=torch.long), persistent=False)

    def _check_scorer(self):
        scorer, name = self.scorer, self.scorer.name
        if scorer.needs_reference != self.reference_judge:
            needs, other = ('needs', 'FRIQALoss') if scorer.needs_reference else ('takes no', 'NRIQALoss')
            raise ValueError(f'{type(self).__name__}: judge {name!r} {needs} reference image; use {other} for it')
        if not scorer.differentiable:
            reason = f' ({scorer.no_gradient})' if scorer.no_gradient else ''
            raise ValueError(f'judge {name!r} gives no usable gradient{reason}: it can score images but not be a loss')
        if self.scale == 'unit':
            scorer.unit(torch.zeros(1))  # raises for an unbounded range
        if self.crop is not None and self.crop < scorer.min_side:
            raise ValueError(f'crop: judge {name!r} needs at least {scorer.min_side} px a side, got {self.crop}')
        if scorer.temporal and self.frames.chosen:
            raise ValueError(
                f'frames: {self.frames}: {name!r} is a video judge, which scores whole clips; leave it out'
            )

    def set_iteration(self, iteration):
        """Tell the iteration (starting at 1), which schedules and random draws depend on."""
        self.iteration, self.counts_itself = iteration, False

    def forward(self, pred, target=None):
        """Loss of a batch.

        Args:
            pred (Tensor): ``(N, C, H, W)`` or ``(N, T, C, H, W)`` in the network's ``space``; each of the ``frames``
                is scored as an image, unless the judge is a video judge.
            target (Tensor | None): the same shape; needed by full-reference judges and ``stop_at: target``.

        Returns:
            Tensor: 0-d, lower is better. Images for which the judge is undefined (flat or black ones) are left out
            and counted in ``undefined``; NaN in ``pred`` gives NaN.

        Raises:
            ValueError: missing target, wrong shape or size, or a first target that is not in ``space``.
        """
        if self.counts_itself and torch.is_grad_enabled():
            self.iteration += 1
        if target is None and (self.reference_judge or self.stop_at == 'target'):
            why = 'stop_at: target' if self.stop_at == 'target' else f'the full-reference judge {self.scorer.name!r}'
            raise ValueError(f'{type(self).__name__}: {why} needs a target image')
        if self.iteration % WARN_EVERY == 0:
            self.report_counts()
        pred, target = self._views(pred, target)
        scores, kept = self._scores(pred, target)
        if self.stop_at is not None:
            scores = self._stop(scores, target)
        loss = 1 - self.scorer.unit(scores) if self.scale == 'unit' else self._lower_better(scores)
        loss = torch.where(kept, loss, 0).sum() / kept.sum().clamp(min=1)
        return loss * self.loss_weight

    def _views(self, pred, target):
        uses_target = self.reference_judge or self.stop_at == 'target'
        if target is not None and not self.range_checked:
            check_unit_range(f'{type(self).__name__} {self.scorer.name}: the first target (space: {self.space})',
                             self.space.to_unit_rgb(target))  # fmt: skip
            self.range_checked = True
        tensors = [self.space.to_unit_rgb(t) for t in ((pred, target) if uses_target else (pred,))]
        if self.clamp:
            tensors[0] = clamp_keeping_gradient(tensors[0])
        generator = step_generator(self.seed, self.iteration)
        if not self.scorer.temporal:
            tensors = self.frames.of(tensors, generator)
        if self.crop is not None:
            tensors = random_crops(tensors, self.crop, self.crops, generator)
        self.scorer.check(*tensors)  # before augmentation, which would enlarge what is too small
        if self.augment:
            tensors = random_change(tensors, self.scorer.min_side, generator)
            tensors = [clamp_keeping_gradient(t) if self.clamp else t for t in tensors]
        return tensors[0], tensors[1].detach() if uses_target else None

    def _scores(self, pred, target):
        """Scores and which of them count; the gradient of the others is zero, even where it would be NaN."""
        judged = pred.view_as(pred)
        if self.checkpoint and judged.requires_grad:
            scores = eager_scores(lambda *images: self.scorer.raw_scores(*images, self.bf16), judged, target)
        else:
            scores = self.scorer.raw_scores(judged, target, self.bf16)
        kept = torch.isfinite(scores) | ~torch.isfinite(pred).flatten(1).all(1)
        self.undefined += (~kept).sum()
        if judged.requires_grad:
            mask = kept.view(-1, *[1] * (pred.dim() - 1))
            judged.register_hook(lambda gradient: torch.where(mask, gradient, 0))
        return scores, kept

    def report_counts(self):
        """Warn of images that were left out since the last report."""
        if (count := int(self.undefined)) > self.reported:
            self.reported = count
            logger.warning('%s: %d images so far were left out, the judge is undefined for them (flat or black?)',
                           self.scorer.name, count)  # fmt: skip

    def loss_state(self):
        """Iteration and counter, for an exact resume (no judge's weights)."""
        return {'iteration': self.iteration, 'undefined': int(self.undefined)}

    def load_loss_state(self, state):
        """Restore :meth:`loss_state`."""
        self.iteration = state['iteration']
        self.reported = state['undefined']
        self.undefined.fill_(state['undefined'])

    def _stop(self, scores, target):
        if self.stop_at == 'target':
            with torch.no_grad():
                reference = self.scorer.needs_reference
                parts = target.split(1) if self.checkpoint else [target]
                bound = torch.cat([self.scorer.raw_scores(t, t if reference else None, self.bf16) for t in parts])
            bound = torch.where(torch.isfinite(bound), bound, math.inf if self.scorer.higher_better else -math.inf)
        else:
            bound = torch.full_like(scores, self.stop_at)
        return torch.minimum(scores, bound) if self.scorer.higher_better else torch.maximum(scores, bound)

    def _lower_better(self, scores):
        return -scores if self.scorer.higher_better else scores


class NRIQALoss(IQALoss):
    """A no-reference judge as a loss; options and behaviour as in :class:`IQALoss`.

    Alone it gets gamed (artifacts that the judge likes); put a full-reference term beside it.
    """


class FRIQALoss(IQALoss):
    """A full-reference judge (LPIPS, SSIM, ...) as a loss; options and behaviour as in :class:`IQALoss`."""

    reference_judge = True


def probe_gradient(scorer):
    """Run one tiny backward pass through a judge.

    Raises:
        ValueError: the gradient with respect to the image is missing, NaN, infinite or all zero.
    """
    side = max(scorer.min_side, 64)
    shape = (1, 2, 3, side, side) if scorer.temporal else (1, 3, side, side)
    generator = torch.Generator().manual_seed(0)
    image = pink_noise(shape, generator).clamp(0.01, 0.99)
    ref = (image + 0.05 * torch.randn(shape, generator=generator)).clamp(0, 1)
    image, ref = image.to(scorer.device).requires_grad_(), ref.to(scorer.device)
    with torch.enable_grad():
        scores = scorer.raw_scores(image, ref if scorer.needs_reference else None)
        gradient = None
        if scores.requires_grad:
            (gradient,) = torch.autograd.grad(scores.sum(), image, allow_unused=True)
    if gradient is None:
        problem = 'no gradient'
    elif not torch.isfinite(gradient).all():
        problem = 'a NaN or infinite gradient'
    elif not gradient.any():
        problem = 'a gradient that is zero everywhere'
    else:
        return
    raise ValueError(f'judge {scorer.name!r} gives {problem} on the probe image, so it cannot be a loss '
                     '(probe: false skips this check)')  # fmt: skip


def pink_noise(shape, generator):
    """Random images with about the spectrum of natural ones (amplitude falls as 1/f).

    Args:
        shape (tuple): ``(..., 3, side, side)``.
        generator (torch.Generator): source of the draws.

    Returns:
        Tensor: RGB in [0, 1].
    """
    side = shape[-1]
    frequency = torch.fft.fftfreq(side)
    frequency = frequency[:, None].hypot(frequency[None]).clamp(min=1 / side)
    noise = torch.fft.ifft2(torch.fft.fft2(torch.randn(shape, generator=generator)) / frequency).real
    return (0.5 + 0.15 * noise / noise.std()).clamp(0, 1)
