"""Going on with a scores file: which of its rows still hold, and which have to be made again."""

import logging

from nriqa_plugin.evaluation.clips import clip_hash
from nriqa_plugin.evaluation.images import few
from nriqa_plugin.evaluation.scores import clip_of, read_unfinished

logger = logging.getLogger('nriqa_plugin')


class Unfinished:
    """The rows of an unfinished or older scores file, checked against what is to be scored now; nothing is written.

    Only files that have rows are hashed here; the others are hashed while they are decoded.

    Args:
        out (Path): the scores file; it need not exist.
        units (dict): by stored name, see :mod:`nriqa_plugin.evaluation.sources`.
        expected (dict[str, Expected]): by metric, what a row has to be by.

    Attributes:
        kept (list[Score]): rows that hold, also of metrics that are not asked for.

    Raises:
        ValueError: rows of other images, of another judge under the same name, outdated ones that nobody renews, or
            not a single one that holds.
    """

    def __init__(self, out, units, expected):
        self.out, self.units, self.expected = out, units, expected
        rows = read_unfinished(out) if out.exists() else []
        self.kept, self.outdated = [], []
        if rows:
            self._sort(rows)
        self._done = {}
        for row in self.kept:
            self._done.setdefault(row.metric, set()).add(row.image)

    def has(self, image, metric):
        """Whether the score is there already."""
        return image in self._done.get(metric, ())

    def tell_changes(self):
        """Warn of images that were scored again."""
        count = len({row.image for row, _ in self.outdated})
        if count:
            one = count == 1
            what = 'image' if one else 'images'
            if any(not image_changed for _, image_changed in self.outdated):
                what += ' or its reference' if one else ' or their references'
            again = 'was scored again' if one else 'were scored again'
            logger.warning(f'{count} {what} had changed since {self.out} was written and {again}')

    def _sort(self, rows):
        out = self.out
        strange = sorted({row.image for row in rows if self._unit(row.image) is None})
        if strange:
            raise ValueError(f'{out} is of another folder: it has {few(strange)} that are not there; '
                             'choose another file')  # fmt: skip
        hashes = self._hashes(rows)
        changed = [row.image_hash not in self._image_hashes(row.image, hashes) for row in rows]
        if all(changed):
            raise ValueError(f'{out} holds scores of other images under the same names; choose another file or '
                             'delete it')  # fmt: skip
        for row, image_changed in zip(rows, changed, strict=True):
            new = self.expected.get(row.metric)
            if new is None and image_changed:
                raise ValueError(f'{out}: {row.image} has changed since {row.metric} scored it; '
                                 f'score {row.metric} again too, or choose another file')  # fmt: skip
            if new and (row.judge_hash, row.higher_better) != (new.judge_hash, new.higher_better):
                raise ValueError(f'{out} holds {row.metric} by another judge ({row.judge_hash}, now '
                                 f'{new.judge_hash}); choose another file')  # fmt: skip
            same = new is None or (not image_changed and row.reference_hash == self._reference_hash(row, new, hashes))
            if same:
                self.kept.append(row)
            else:
                self.outdated.append((row, image_changed))
        if self.outdated and not self.kept:
            raise ValueError(f'{out} holds scores of other images or references under the same names; '
                             'choose another file or delete it')  # fmt: skip

    def _unit(self, image):
        unit = self.units.get(image) or self.units.get(clip_of(image))
        return unit if unit is None or unit.name == image or unit.many else None

    def _hashes(self, rows):
        """``{unit name: (image hash, joint reference hash)}`` of the units that have rows."""
        references = {}
        for row in rows:
            new = self.expected.get(row.metric)
            names = [self._unit(row.image).name]
            if new is not None and new.temporal:
                names = [unit.name for unit in self._clip(row.image)]
            for name in names:
                references[name] = references.get(name, False) or bool(new and new.needs_reference)
        return {name: self.units[name].fingerprint(wanted) for name, wanted in references.items()}

    def _image_hashes(self, image, hashes):
        """What the image hash of a row may be: that of its file, or the joint one of all frames of its clip."""
        yield hashes[self._unit(image).name][0]
        clip = self._clip(image)
        if len(clip) > 1 and clip_of(image) == image:
            yield clip_hash((hashes.get(unit.name) or unit.fingerprint(False))[0] for unit in clip)

    def _reference_hash(self, row, new, hashes):
        if not new.needs_reference:
            return ''
        units = self._clip(row.image) if new.temporal else [self._unit(row.image)]
        return clip_hash(hashes[unit.name][1] for unit in units)

    def _clip(self, image):
        """All units that belong to the clip of an image."""
        if not hasattr(self, '_clips'):
            self._clips = {}
            for name, unit in self.units.items():
                self._clips.setdefault(clip_of(name), []).append(unit)
        return self._clips[clip_of(image)]
