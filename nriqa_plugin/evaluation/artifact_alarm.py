"""The artifact alarm: did a fine-tuning please the judge by drawing artifacts?

The rule of Kashkarov et al. (arXiv 2405.20392, Section 5): a large fall of LPIPS when it is not optimised, or a small
change instead of a large gain when it is, signals artifacts. Dots that LPIPS does not mind (on smooth outputs it takes
them for detail) are found by the judge ``pattern``.
"""

import heapq
import re
from dataclasses import dataclass, field
from pathlib import Path

from nriqa_plugin.checks import check_number
from nriqa_plugin.evaluation.images import write_image
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

    def reasons(self, judge=None, reference=None, pattern=None, reference_optimised=False):
        """Why these changes against the baseline are suspicious.

        Args:
            judge, reference (float | None): relative gains of the optimised judge and of LPIPS in percent.
            pattern (float | None): growth of the judge ``pattern`` in grey levels. What is not there raises no alarm.
            reference_optimised (bool): whether LPIPS is a term of the loss.

        Returns:
            list[str]: empty when all is well.
        """
        found = []
        if reference is not None and not reference_optimised and reference <= -self.fall:
            found.append(f'the reference judge fell by {-reference:.1f} % (allowed: {self.fall} %)')
        if reference is not None and reference_optimised and reference < self.rise:
            if judge is not None and judge >= self.judge_rise:
                found.append(f'the reference judge is optimised and yet gained only {reference:.1f} % while the judge '
                             f'gained {judge:.1f} % (asked for: {self.rise} %)')  # fmt: skip
            elif reference <= -self.fall:
                found.append(f'the reference judge is optimised and yet fell by {-reference:.1f} %')
        if pattern is not None and pattern > self.pattern:
            found.append(f'a periodic pattern grew by {pattern:.2f} grey levels (allowed: {self.pattern})')
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


class WorstImages:
    """Keeps the ``count`` images that got worst, and no others.

    Args:
        count (int): how many.
        before (dict[str, float]): scores of the baseline by image; images that are not among them are left out.
        higher_better (bool): direction of the judge.
    """

    def __init__(self, count, before, higher_better):
        self.count, self.before, self.sign = count, before, -1 if higher_better else 1
        self.kept, self.shown = [], 0

    def show(self, name, score, image):
        """Offer an image with its score; only the worst are kept."""
        if name not in self.before:
            return
        self.shown += 1
        item = (self.sign * (score - self.before[name]), -self.shown, name, image)
        if len(self.kept) < self.count:
            heapq.heappush(self.kept, item)
        elif self.count:
            heapq.heappushpop(self.kept, item)

    def worst_first(self):
        """``(name, image)``, worst first."""
        kept = sorted(self.kept, key=lambda item: item[:2], reverse=True)
        return [(name, image) for _, _, name, image in kept]

    def write(self, folder, label):
        """Write them as ``<label>_<name>.png`` (RGB, 8 bits) into a folder."""
        for name, image in self.worst_first():
            write_image(Path(folder) / f'{label}_{re.sub(r"[^0-9A-Za-z.-]+", "_", Path(name).stem)}.png', image)
