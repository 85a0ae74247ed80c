"""The MDF loss: a perceptual loss of small discriminators that were trained on one image for one task."""

from nriqa_plugin.checks import checks_options
from nriqa_plugin.iqa.mdf import MDF
from nriqa_plugin.losses.iqa_loss import FRIQALoss


@checks_options
class MDFLoss(FRIQALoss):
    """Distance between discriminators' features of prediction and ground truth (Mustafa et al., WACV 2022).

    Lower is better, equal images give 0, and no pixel loss is needed beside it. Shapes, views and precision are those
    of :class:`nriqa_plugin.losses.iqa_loss.IQALoss`: ``pred`` and ``target`` are ``(N, 3, H, W)`` or
    ``(N, T, 3, H, W)``, RGB in [0, 1], both sides at least 11 px.

    Memory is bounded by one discriminator's features of a few images: their gradient is computed at once and let go.

    Args:
        weights (str): file of discriminators, see ``nriqa train-mdf`` and ``nriqa convert-mdf``.
        scales, order, taps, distance, input_range: as in :class:`nriqa_plugin.iqa.mdf.MDF`; without them the loss is
            what the authors' code computes.
        clamp (bool): off here, unlike for judges: the authors' code does not clamp.
        loss_weight, crop, crops, augment, precision, probe, seed, space, frames: as in ``IQALoss``.

    Raises:
        ValueError, TypeError: naming the option; a file that is damaged or of another kind.
        FileNotFoundError: there is no such file.
    """

    def __init__(
        self,
        weights=None,
        scales=None,
        order='coarse_first',
        taps='released',
        distance='mean',
        input_range='file',
        loss_weight=1.0,
        crop=None,
        crops=1,
        augment=False,
        clamp=False,
        precision='fp32',
        probe=True,
        seed=0,
        space=None,
        frames='all',
    ):
        super().__init__(
            MDF(weights, scales=scales, order=order, taps=taps, distance=distance, input_range=input_range),
            loss_weight=loss_weight,
            crop=crop,
            crops=crops,
            augment=augment,
            clamp=clamp,
            precision=precision,
            probe=probe,
            seed=seed,
            space=space,
            frames=frames,
        )
