"""The artifact alarm: did a fine-tuning please the judge by drawing artifacts?

The rule of Kashkarov et al. (arXiv 2405.20392, Section 5): a large fall of LPIPS when it is not optimised, or a small
change instead of a large gain when it is, signals artifacts. Dots that LPIPS does not mind (on smooth outputs it takes
them for detail) are found by the judge ``pattern``.
"""

import heapq
from dataclasses import dataclass, field

from nriqa_plugin.checks import check_number
from nriqa_plugin.evaluation.relative_gain import relative_gain
from nriqa_plugin.evaluation.scores import mean


@dataclass(frozen=True)
class AlarmRule:
    """When to raise the alarm; every threshold is on means over the images of a data set.

    Attributes:
        fall (float): percent that the reference judge (LPIPS) may lose against the baseline when it is in no loss.
        rise (float): percent that it has to gain when it is, once the judge has gained ``judge_rise``.
        judge_rise (float): percent that the optimised judge has to gain before ``rise`` is asked for: a training that
            has hardly begun is no suspect.
        pattern (float): grey levels of 255 by which the strongest periodic pattern may grow.
    """

    fall: float = 10.0
    rise: float = 5.0
    judge_rise: float = 10.0
    pattern: float = 1.0

    def __post_init__(self):
        for name, value in vars(self).items():
            check_number(f'artifact alarm: {name}', value, low=0)

    def reasons(self, judge, reference, pattern, reference_optimised):
        """Why these scores are suspicious.

        Args:
            judge, reference, pattern (Change | None): of the optimised judge, of LPIPS and of ``pattern``; one that is
                not there raises no alarm.
            reference_optimised (bool): whether LPIPS is a term of the loss.

        Returns:
            list[str]: empty when all is well.
        """
        found = []
        if reference is not None and not reference_optimised and reference.gain <= -self.fall:
            found.append(f'{reference.name} fell by {-reference.gain:.1f} % (allowed: {self.fall} %)')
        if reference is not None and reference_optimised and reference.gain < self.rise:
            if judge is not None and judge.gain >= self.judge_rise:
                found.append(f'{reference.name} is optimised and yet gained only {reference.gain:.1f} % while '
                             f'{judge.name} gained {judge.gain:.1f} % (asked for: {self.rise} %)')  # fmt: skip
            elif reference.gain <= -self.fall:
                found.append(f'{reference.name} is optimised and yet fell by {-reference.gain:.1f} %')
        if pattern is not None and pattern.growth > self.pattern:
            found.append(f'a periodic pattern grew by {pattern.growth:.2f} grey levels (allowed: {self.pattern})')
        return found


@dataclass(frozen=True)
class Change:
    """How one judge's scores changed against a baseline of the same images.

    Attributes:
        name (str): of the judge.
        higher_better (bool): its direction.
        before, after (dict[str, float]): scores by image.
    """

    name: str
    higher_better: bool
    before: dict = field(repr=False)
    after: dict = field(repr=False)

    def __post_init__(self):
        if set(self.before) != set(self.after) or not self.after:
            missing = sorted(set(self.before) ^ set(self.after))
            raise ValueError(
                f'artifact alarm: {self.name} was scored for other images than its baseline: {missing[:3]}'
            )

    @property
    def gain(self):
        """Relative gain of the means in percent, see :func:`relative_gain`."""
        return relative_gain(mean(self.after.values()), mean(self.before.values()), self.higher_better)

    @property
    def growth(self):
        """Difference of the means, in the judge's units."""
        return mean(self.after.values()) - mean(self.before.values())

    def worsening(self, image):
        """By how much an image's score got worse, in the judge's units; negative when it got better."""
        change = self.after[image] - self.before[image]
        return -change if self.higher_better else change


class WorstImages:
    """Keeps the ``count`` images with the largest ``worsening`` that it was shown, and no others.

    Args:
        count (int): how many.
    """

    def __init__(self, count):
        self.count, self.kept, self.shown = count, [], 0

    def show(self, worsening, name, image):
        """Offer an image; only the worst are kept."""
        self.shown += 1
        item = (worsening, -self.shown, name, image)
        if len(self.kept) < self.count:
            heapq.heappush(self.kept, item)
        elif self.count:
            heapq.heappushpop(self.kept, item)

    def worst_first(self):
        """``(name, image, worsening)``, worst first."""
        return [(name, image, worse) for worse, _, name, image in sorted(self.kept, reverse=True)]
