"""The artifact alarm: did a fine-tuning please the judge by drawing artifacts?

The rule of Kashkarov et al. (arXiv 2405.20392): a large fall of LPIPS when it is not optimised, or a small change
instead of a large gain when it is, signals artifacts. Dots that LPIPS does not mind (on smooth outputs it takes them
for detail) are found by the judge ``pattern``.
"""

import heapq
import re
from dataclasses import dataclass, field
from pathlib import Path

from nriqa_plugin.checks import check_number, in_place
from nriqa_plugin.evaluation.images import to_8_bit, write_image
from nriqa_plugin.evaluation.relative_gain import check_same_images, relative_gain
from nriqa_plugin.evaluation.scores import FRAME, clip_mean

SHOWN = ('reference', 'pattern')  # the roles whose worst images are shown


@dataclass(frozen=True)
class AlarmRule:
    """When to raise the alarm; every threshold but ``worst_pattern`` is on means over the images of a data set.

    Attributes:
        fall (float): percent that the reference judge (LPIPS) may lose against the baseline when it is in no loss.
        rise (float): percent that it has to gain when it is, once the judge has gained ``judge_rise``.
        judge_rise (float): percent that the optimised judge has to gain before ``rise`` is asked for: a training that
            has hardly begun is no suspect.
        pattern (float): grey levels of 255 by which the strongest periodic pattern may grow.
        worst_pattern (float): the same for the one image where it grows most.
    """

    fall: float = 10.0
    rise: float = 5.0
    judge_rise: float = 10.0
    pattern: float = 1.0
    # Dots of 4 levels add 2.1 to 3.7 to every Kodak image; blur, noise or sharpening at most 0.7.
    worst_pattern: float = 2.0

    def __post_init__(self):
        for name, value in vars(self).items():
            check_number(f'artifact alarm: {name}', value, low=0)

    def reasons(self, judge=None, reference=None, pattern=None, reference_optimised=False, worst_pattern=None):
        """Why these changes against the baseline are suspicious.

        Args:
            judge, reference (float | None): relative gains of the optimised judge and of LPIPS in percent.
            pattern (float | None): growth of the judge ``pattern`` in grey levels. What is not there raises no alarm.
            reference_optimised (bool): whether LPIPS is a term of the loss.
            worst_pattern (float | None): growth of ``pattern`` in the image where it grew most.

        Returns:
            list[str]: empty when all is well.
        """
        found = []
        if reference is not None and not reference_optimised and reference < -self.fall:
            found.append(f'the reference judge fell by {-reference:.1f} % (allowed: {self.fall} %)')
        if reference is not None and reference_optimised and reference < self.rise:
            if judge is not None and judge >= self.judge_rise:
                found.append(f'the reference judge is optimised and yet its gain is {reference:+.1f} % (asked for: '
                             f'{self.rise} %), while that of the judge is {judge:+.1f} %')  # fmt: skip
            elif reference < -self.fall:
                found.append(f'the reference judge is optimised and yet fell by {-reference:.1f} %')
        if pattern is not None and pattern > self.pattern:
            found.append(f'a periodic pattern grew by {pattern:.2f} grey levels (allowed: {self.pattern})')
        elif worst_pattern is not None and worst_pattern > self.worst_pattern:
            found.append(f'in one image a periodic pattern grew by {worst_pattern:.2f} grey levels (allowed: '
                         f'{self.worst_pattern})')  # fmt: skip
        return found


@dataclass(frozen=True)
class Change:
    """How one judge's scores changed against a baseline of the same images.

    Attributes:
        name (str): of the judge.
        higher_better (bool): its direction.
        before, after (dict[str, float]): scores by image; frames of a clip are averaged first, see
            :func:`nriqa_plugin.evaluation.scores.dataset_mean`.

    Raises:
        ValueError: scores of other images, or a gain over a mean that is not positive; both name the judge.
    """

    name: str
    higher_better: bool
    before: dict = field(repr=False)
    after: dict = field(repr=False)

    def __post_init__(self):
        check_same_images(self.name, self.before, self.after)

    @property
    def gain(self):
        """Relative gain of the means in percent, see :func:`relative_gain`."""
        with in_place(self.name):
            return relative_gain(clip_mean(self.after.items()), clip_mean(self.before.items()), self.higher_better)

    def gains(self):
        """Change of each image in percent of the baseline's mean, positive is better; over single images their mean is
        :attr:`gain`. Not of the image's own score, which may be 0.
        """
        with in_place(self.name):
            mean = clip_mean(self.before.items())
            return {
                image: relative_gain(mean + score - self.before[image], mean, self.higher_better)
                for image, score in self.after.items()
            }

    @property
    def growth(self):
        """Difference of the means, in the judge's units."""
        return clip_mean(self.after.items()) - clip_mean(self.before.items())

    @property
    def worst_growth(self):
        """Largest difference of one image, in the judge's units."""
        return max(score - self.before[image] for image, score in self.after.items())


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
        """Offer an image (as in :func:`to_8_bit`) with its score; only of the worst an 8-bit copy is kept."""
        if name not in self.before or not self.count:
            return
        self.shown += 1
        place = (self.sign * (score - self.before[name]), -self.shown)
        if len(self.kept) < self.count:
            heapq.heappush(self.kept, (*place, name, to_8_bit(image)))
        elif place > self.kept[0][:2]:
            heapq.heapreplace(self.kept, (*place, name, to_8_bit(image)))

    def worst_first(self):
        """``(name, image)``, worst first."""
        kept = sorted(self.kept, key=lambda item: item[:2], reverse=True)
        return [(name, image) for _, _, name, image in kept]

    def write(self, folder, label):
        """Write them as ``<label>_<place>_<name>.png`` (8-bit RGB) into a folder; the worst has the place 1."""
        for place, (name, image) in enumerate(self.worst_first(), 1):
            write_image(Path(folder) / f'{label}_{place}_{_file_name(name)}.png', image)


def _file_name(image):
    """An image's whole name as one that every file system takes; letters of all languages are kept."""
    name, _, frame = image.partition(FRAME)
    return re.sub(r'[^\w.-]+', '_', name.removesuffix('.png') + (f'_{frame}' if frame else ''))
