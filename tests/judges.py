"""Small judges for the tests, reachable by dotted path."""

import torch
from torch import nn

from nriqa_plugin.iqa import Scorer


class Brightness(Scorer):
    """Mean value; higher is better."""

    name = 'brightness'
    higher_better = True
    score_range = (0.0, 1.0)

    def score(self, pred, ref=None):
        return pred.flatten(1).mean(1)


class Darkness(Scorer):
    """Mean value times ``gain``; lower is better."""

    name = 'darkness'
    higher_better = False

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = gain
        self.score_range = (0.0, gain)

    def score(self, pred, ref=None):
        return self.gain * pred.flatten(1).mean(1)


class TinyNet(Scorer):
    """A random convolution with batch norm and dropout, so that train mode would show."""

    name = 'tinynet'
    higher_better = True
    score_range = (-10.0, 10.0)
    min_side = 8

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5), nn.Conv2d(4, 1, 3)
            )

    def score(self, pred, ref=None):
        return self.net(pred).flatten(1).mean(1)


class Distance(Scorer):
    """Mean absolute difference; lower is better, full reference."""

    name = 'distance'
    higher_better = False
    score_range = (0.0, 1.0)
    needs_reference = True

    def score(self, pred, ref=None):
        return (pred - ref).abs().flatten(1).mean(1)


class FlatIsUndefined(Brightness):
    """Brightness by way of the contrast: undefined (NaN, also in the gradient) for flat images."""

    name = 'flat_is_undefined'

    def score(self, pred, ref=None):
        contrast = pred.flatten(1).std(1)
        return pred.flatten(1).mean(1) * contrast / contrast


class Constant(Brightness):
    """Ignores the image: a gradient that is zero everywhere."""

    name = 'constant'

    def score(self, pred, ref=None):
        return pred.flatten(1).mean(1) * 0 + 0.5


class Detached(Brightness):
    """Gives no gradient."""

    name = 'detached'

    def score(self, pred, ref=None):
        return pred.detach().flatten(1).mean(1)


class NaNGradient(Brightness):
    """Finite value, NaN gradient."""

    name = 'nan_gradient'

    def score(self, pred, ref=None):
        zero = (pred - pred.detach()).flatten(1).sum(1)
        return pred.flatten(1).mean(1) + torch.sqrt(zero * zero)


class Clip(Scorer):
    """Brightness of a whole clip; a video judge."""

    name = 'clip'
    temporal = True
    score_range = (0.0, 1.0)

    def score(self, pred, ref=None):
        return pred.flatten(1).mean(1)


class ScoreOnly(Brightness):
    """Says of itself that its gradient is not usable."""

    name = 'score_only'
    differentiable = False


def not_a_judge():
    return nn.Identity()
