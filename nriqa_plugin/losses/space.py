"""The space a network speaks: value range and channel order, and the way to RGB in [0, 1]."""

from nriqa_plugin.checks import check_choice, check_keys, check_number


class Space:
    """Converts a network's tensors to RGB in [0, 1], which is what judges want.

    Args:
        option (dict | None): ``{range: [low, high], order: rgb | bgr}``; both keys are optional, the default
            is RGB in [0, 1].

    Raises:
        ValueError: unknown key or order, or a range that is not two rising numbers.
    """

    def __init__(self, option=None):
        option = dict(option or {})
        check_keys('space', option, ('range', 'order'))
        bounds = option.get('range', (0.0, 1.0))
        if not isinstance(bounds, (list, tuple)) or len(bounds) != 2:
            raise ValueError(f'space.range must be [low, high], got {bounds!r}')
        self.low, self.high = (check_number('space.range', bound) for bound in bounds)
        if self.low >= self.high:
            raise ValueError(f'space.range must rise, got {bounds!r}')
        self.bgr = check_choice('space.order', option.get('order', 'rgb'), ('rgb', 'bgr')) == 'bgr'

    def to_unit_rgb(self, images):
        """``(..., 3, H, W)`` in this space to RGB in [0, 1]; differentiable, overshoot is kept."""
        if self.bgr:
            images = images.flip(-3)
        if (self.low, self.high) != (0, 1):
            images = (images - self.low) / (self.high - self.low)
        return images

    def from_unit_rgb(self, images):
        """The way back: ``(..., 3, H, W)`` RGB in [0, 1] to this space; one channel has no order."""
        if (self.low, self.high) != (0, 1):
            images = images * (self.high - self.low) + self.low
        return images.flip(-3) if self.bgr else images

    def __repr__(self):
        return f'range [{self.low}, {self.high}], {"bgr" if self.bgr else "rgb"}'
