"""One pass over images and clips: every judge sees a picture while the next one is decoded."""

import contextlib
import logging
from typing import NamedTuple

import torch

from nriqa_plugin.evaluation.clips import ClipBuffer
from nriqa_plugin.evaluation.images import few
from nriqa_plugin.evaluation.prefetch import prefetch
from nriqa_plugin.evaluation.scores import clip_of, mean, score_row
from nriqa_plugin.evaluation.sources import ALONE, NOT, WITH_REFERENCES
from nriqa_plugin.iqa import Scorer

logger = logging.getLogger('nriqa_plugin')


class Expected(NamedTuple):
    """What every row of a metric is by.

    Attributes:
        judge (Scorer), judge_hash (str): the judge, and what stands for it and its regions.
        higher_better (bool): its direction.
        needs_reference (bool): whether the score depends on the reference: by the judge, or by where it looks.
        temporal (bool): a video judge, with one row for a clip.
    """

    judge: Scorer
    judge_hash: str
    higher_better: bool
    needs_reference: bool
    temporal: bool


class OnePass:
    """One pass over all units: decodes each once, ahead of the judges, and yields the rows that are missing.

    Args:
        units (dict): by stored name, see :mod:`nriqa_plugin.evaluation.sources`.
        expected (dict[str, Expected]): by metric.
        unfinished (Unfinished): what is there already.
        device (torch.device): where the judges are.
        regions (Callable | None), clip_memory (float): as in :func:`nriqa_plugin.evaluation.scoring.score_folder`.

    Attributes:
        made (int): rows written, counted by the caller.
    """

    def __init__(self, units, expected, unfinished, device, regions, clip_memory):
        self.units, self.expected, self.unfinished = units, expected, unfinished
        self.device, self.regions = device, regions
        self.framewise = {metric: new for metric, new in expected.items() if not new.temporal}
        self.clipwise = {metric: new for metric, new in expected.items() if new.temporal}
        self.buffer = ClipBuffer(clip_memory)
        self.made, self.skipped = 0, []

    def rows(self, advance):
        """Yield finished :class:`Score` rows; ``advance()`` is called after each unit."""
        with contextlib.closing(prefetch(self._pictures())) as pictures:
            for unit, picture in pictures:
                if picture is None:
                    advance()
                    continue
                if self.buffer.clip not in (None, clip_of(picture.name)):
                    yield from self._score_clip()
                yield from self._score(unit, picture)
                del picture
            yield from self._score_clip()

    def _pictures(self):
        """``(unit, picture)``, and ``(unit, None)`` at the end of each unit; runs in the background thread."""
        for unit in self.units.values():
            for picture in unit.pictures(self._need):
                yield unit, picture
            yield unit, None

    def _need(self, name):
        missing = [new for metric, new in self.framewise.items() if not self.unfinished.has(name, metric)]
        missing += [new for metric, new in self.clipwise.items() if not self.unfinished.has(clip_of(name), metric)]
        if not missing:
            return NOT
        return WITH_REFERENCES if any(new.needs_reference for new in missing) else ALONE

    # no_grad, not inference_mode: a constant that a judge caches here must still be usable in a training loss.
    @torch.no_grad()
    def _score(self, unit, picture):
        """Yield the finished rows of one image; the clip of a video judge grows by it."""
        image = unit.produce(picture.image[None].to(self.device))
        targets = [reference[None].to(self.device) for reference in picture.references]
        crops = None
        for metric, new in self.framewise.items():
            if self.unfinished.has(picture.name, metric):
                continue
            if self.regions is not None:
                crops = self._crops(image, targets, picture) if crops is None else crops
                if not crops:
                    continue
            with _naming(new.judge, picture.where):
                score = self._of(new.judge, image, targets if new.judge.needs_reference else [None], crops)
            yield self._row(picture.name, metric, score, picture.image_hash, picture.reference_hash)
        missing = [m for m in self.clipwise if not self.unfinished.has(clip_of(picture.name), m)]
        if missing:
            self.buffer.add(picture, image, targets, self.clipwise[missing[0]].judge.name)

    def _of(self, judge, image, targets, crops):
        if crops is None:
            return mean(judge(image, target).item() for target in targets)
        return mean(
            score
            for target in targets
            for windows in crops
            for score in judge(_cut(image, windows), None if target is None else _cut(target, windows)).tolist()
        )

    def _crops(self, image, targets, picture):
        """Windows of one size together, so that a judge scores them as a batch; empty when there is none."""
        # A reference that is only there for another judge must not change where this one looks.
        by_reference = getattr(self.regions, 'needs_reference', False)
        by_size = {}
        for top, left, size in self.regions(image[0], targets[0][0] if by_reference else None):
            by_size.setdefault(size, []).append((top, left, size))
        if not by_size:
            self.skipped.append(picture.name)
        return [*by_size.values()]

    @torch.no_grad()
    def _score_clip(self):
        for metric, new in self.clipwise.items() if self.buffer.clip is not None else ():
            if not self.unfinished.has(self.buffer.clip, metric):
                with _naming(new.judge, f'the clip {self.buffer.clip}'):
                    clip = self.buffer.frames(new.needs_reference)
                    score = new.judge(*clip).item()
                yield self._row(self.buffer.clip, metric, score, *self.buffer.hashes())
        self.buffer.clear()

    def _row(self, name, metric, score, image_hash, reference_hash):
        new = self.expected[metric]
        reference_hash = reference_hash if new.needs_reference else ''
        return score_row(name, new.judge, score, image_hash, reference_hash, new.judge_hash, metric)

    def tell_skipped(self):
        """Warn of images without a region; a ``ValueError`` when there was none at all."""
        if self.skipped and len(self.skipped) >= len(self.units) and not self.made and not self.unfinished.kept:
            raise ValueError(f'no image has a region to score: {few(self.skipped)}')
        if self.skipped:
            logger.warning(f'{few(self.skipped)} have no region to score and so no row')


def _cut(image, windows):
    height, width = image.shape[-2:]
    for top, left, size in windows:
        if min(top, left) < 0 or top + size > height or left + size > width:
            raise ValueError(f'the region {(top, left, size)} is not inside the image of {(height, width)} px')
    return torch.cat([image[..., top : top + size, left : left + size] for top, left, size in windows])


@contextlib.contextmanager
def _naming(judge, where):
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ValueError(f'{judge.name} cannot score {where}: {error}') from error
    except RuntimeError as error:
        raise RuntimeError(f'{judge.name} failed on {where}: {error}') from error
