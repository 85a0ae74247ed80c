"""Which finished results please the judge by artifacts: the rule of the paper image by image, and periodic patterns."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from nriqa_plugin.checks import check_number
from nriqa_plugin.evaluation.artifact_alarm import AlarmRule
from nriqa_plugin.evaluation.images import few, holds_clips, pair_images, read_image
from nriqa_plugin.evaluation.periodic import Pattern, PatternRule, find_pattern
from nriqa_plugin.evaluation.relative_gain import check_same_images

REFERENCE, PATTERN = 'reference', 'pattern'  # why an image is flagged


class Item(NamedTuple):
    """The files of one image; ``reference`` is None without ground truths."""

    result: Path
    baseline: Path
    reference: Path | None

    def read(self):
        """The images ``(3, H, W)``.

        Raises:
            ValueError: they differ in size; the message names the files.
        """
        images = [None if path is None else read_image(path) for path in self]
        for path, image in zip(self[1:], images[1:], strict=True):
            if image is not None and image.shape != images[0].shape:
                raise ValueError(f'{self.result} is {_size(images[0])} px, {path} is {_size(image)} px')
        return images


@dataclass(frozen=True)
class ImageRule:
    """When an image is flagged.

    Attributes:
        fall (float): percent of the baseline's mean that the reference judge (LPIPS) may get worse by on one image...
        judge_rise (float): ...while a judge gets better by more than this, in percent of its own baseline's mean.
        pattern (PatternRule): which periodic patterns count.
    """

    fall: float = 10.0
    judge_rise: float = 0.0
    pattern: PatternRule = field(default_factory=PatternRule)

    def __post_init__(self):
        for name in ('fall', 'judge_rise'):
            check_number(f'artifacts: {name}', getattr(self, name), low=0)


@dataclass(frozen=True)
class Finding:
    """What was found about one image.

    Attributes:
        image (str): its name.
        reasons (tuple[str, ...]): why it is flagged; empty when it is not.
        kinds (tuple[str, ...]): the same as ``REFERENCE``, ``PATTERN``.
        judge (str): the judge that rose most here; '' without judges.
        judge_gain, reference_gain (float | None): in percent of the baseline's mean, positive is better. Their means
            over the images are Eq. 1 of arXiv 2405.20392.
        pattern (Pattern | None): the strongest that counts.
        flat (int | None): number of flat windows when these alone were looked at; with 0 nothing was.
    """

    image: str
    reasons: tuple
    kinds: tuple
    judge: str = ''
    judge_gain: float | None = None
    reference_gain: float | None = None
    pattern: Pattern | None = None
    flat: int | None = None

    @property
    def severity(self):
        """Sorts the worst last: more reasons, then a deeper fall, then a stronger pattern."""
        return len(self.kinds), -(self.reference_gain or 0), self.pattern.amplitude if self.pattern else 0


def find_items(results, baseline, references=None, suffix='', baseline_suffix=''):
    """Pair the results with those of the baseline and with the ground truths, by name.

    Args:
        results, baseline, references (str | Path): folders of images.
        suffix, baseline_suffix (str): endings of the names, such as BasicSR's ``_<run>``.

    Returns:
        dict[str, Item]: by the result's name without its suffix, sorted.

    Raises:
        FileNotFoundError, ValueError: as :func:`nriqa_plugin.evaluation.images.pair_images`; a folder of clips.
    """
    for folder in (results, baseline, references):
        if folder is not None and holds_clips(folder):
            raise ValueError(f'{folder} holds clips (subfolders of frames), and artifacts are looked for in images: '
                             'give the frames as one folder of images')  # fmt: skip
    if references is None:
        if suffix and baseline_suffix:
            raise ValueError('results and baseline that both have a suffix are paired by way of the ground truths: '
                             'give their folder')  # fmt: skip
        found = [(image, base, None) for image, base in pair_images(
            results, baseline, suffix or baseline_suffix, 'baseline', ('--suffix', '--baseline-suffix')
        )]  # fmt: skip
    else:
        options = ('--baseline-suffix', '--baseline-suffix')
        of_baseline = {truth: image for image, truth in
                       pair_images(baseline, references, baseline_suffix, options=options)}  # fmt: skip
        pairs = pair_images(results, references, suffix)
        found = [(image, of_baseline[truth], truth) for image, truth in pairs]
    items = {}
    for image, base, truth in found:
        name = image.stem.removesuffix(suffix) + image.suffix
        if name in items:
            raise ValueError(f'{image.name} and {items[name].result.name} are both called {name} without {suffix!r}')
        items[name] = Item(image, base, truth)
    return dict(sorted(items.items()))


def examine(items, judges=(), reference=None, rule=None, flat=None):
    """Look at every image.

    Args:
        items (dict[str, Item]): from :func:`find_items`.
        judges (Sequence[Change]): of the judges that may have been pleased.
        reference (Change | None): of LPIPS or another judge that is closer to the truth.
        rule (ImageRule | None): thresholds; default: :class:`ImageRule`'s own.
        flat (Callable | None): a :class:`nriqa_plugin.evaluation.flat_areas.FlatRegions`: look at flat areas only. The
            changes have to be of these, too.

    Yields:
        Finding: one an image, in order.

    Raises:
        ValueError: scores that are not of these images, files of one image that differ in size, or not one image with
            a flat area.
    """
    rule = rule or ImageRule()
    changes = [*judges, *([reference] if reference else [])]
    if not flat:
        for change in changes:
            check_same_images(change.name, items, change.after)
    gains = {change.name: change.gains() for change in changes}
    without = []
    for name, item in items.items():
        images = item.read()
        mask, count = (None, None) if flat is None else _flat_mask(flat, images)
        if count == 0:
            without.append(name)
            if len(without) == len(items):
                raise ValueError(f'no image has a flat window of {flat.size} px below {flat.threshold} grey levels '
                                 f'of detail: {few(without)}')  # fmt: skip
            yield Finding(name, (), (), flat=0)
            continue
        for change in changes:
            if name not in change.after:
                raise ValueError(f'{change.name} has no score of {name}')
        pattern = find_pattern(images[0], images[1], rule.pattern, mask)
        best = max(judges, key=lambda judge: gains[judge.name][name], default=None)
        judge_gain = None if best is None else gains[best.name][name]
        fall = None if reference is None else gains[reference.name][name]
        yield _finding(name, rule, best, judge_gain, reference, fall, pattern, count)


def mean_reasons(judges, reference, rule=None, reference_optimised=False):
    """The paper's rule on the means over the images: why each judge's change is suspicious.

    Args:
        judges, reference: as in :func:`examine`.
        rule (AlarmRule | None): thresholds; default: :class:`AlarmRule`'s own.
        reference_optimised (bool): whether the reference judge is in the loss.

    Returns:
        list[str]
    """
    rule, fall = rule or AlarmRule(), reference.gain
    found = [(judge, rule.reasons(judge.gain, fall, None, reference_optimised)) for judge in judges]
    return [f'{judge.name} {judge.gain:+.1f} %: {reason}' for judge, reasons in found for reason in reasons]


def _finding(name, rule, best, judge_gain, reference, fall, pattern, count):
    reasons, kinds = [], []
    if best is not None and fall is not None and fall < -rule.fall and judge_gain > rule.judge_rise:
        kinds.append(REFERENCE)
        reasons.append(f'{reference.name} fell by {-fall:.1f} % while {best.name} rose by {judge_gain:.1f} %')
    if pattern is not None:
        kinds.append(PATTERN)
        where = ' in a part of the image' if pattern.local else ''
        reasons.append(f'dots or lines of {pattern.amplitude:.1f} grey levels every {pattern.period} px{where}')
    return Finding(name, tuple(reasons), tuple(kinds), best.name if best else '', judge_gain, fall, pattern, count)


def _flat_mask(flat, images):
    windows = flat(images[0], images[2])
    mask = torch.zeros(images[0].shape[-2:], dtype=torch.bool)
    for top, left, size in windows:
        mask[top : top + size, left : left + size] = True
    return mask, len(windows)


def _size(image):
    return f'{image.shape[-1]} x {image.shape[-2]}'
