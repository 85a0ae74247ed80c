"""The slots of a framework's options: which of our losses fits where."""

from nriqa_plugin.losses.loss_sum import OWN_LOSSES, LossSum


class LossPair(LossSum):
    """A ``LossSum`` for slots that want the pair (perceptual, style), as the frameworks' perceptual losses return."""

    def forward(self, pred, target=None):
        """As :meth:`LossSum.forward`, but returns ``(sum, None)``."""
        return super().forward(pred, target), None


def check_slot(slot, loss):
    """Refuse one of our losses in a slot of the other kind: ``perceptual`` wants a pair, ``pixel`` one number.

    Raises:
        ValueError: saying what to write instead.
    """
    ours = (*OWN_LOSSES.values(), LossSum)
    if slot == 'perceptual' and isinstance(loss, ours) and not isinstance(loss, LossPair):
        raise ValueError(
            f'the perceptual slot wants the pair (perceptual, style), {type(loss).__name__} gives one number: '
            'write {type: LossPair, terms: [...]} there'
        )
    if slot == 'pixel' and isinstance(loss, LossPair):
        raise ValueError('the pixel slot wants one number, LossPair gives a pair: write type: LossSum there')
