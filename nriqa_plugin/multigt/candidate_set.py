"""One scene with several ground truths, and how many of them a data set holds."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class CandidateSet:
    """K candidate ground truths of one image; candidate 0 is the original.

    Attributes:
        name (str): of the set, unique in its data set.
        paths (tuple[str | None]): K files (or keys of a data base), None where a candidate is missing.
        positive (tuple[bool]): K flags, True where a majority of people preferred the candidate to the original.
        lq (str | None): the given low-resolution image.
    """

    name: str
    paths: tuple
    positive: tuple
    lq: str | None = None

    @property
    def valid(self):
        """K flags: which candidates there are."""
        return tuple(path is not None for path in self.paths)

    @property
    def original(self):
        """The file of the original; None if there is none."""
        return self.paths[0]


def pad(sets):
    """The same sets, all with the K of the largest one: later candidates are missing in the others."""
    count = max(len(one.paths) for one in sets)
    padded = []
    for one in sets:
        more = count - len(one.paths)
        padded.append(CandidateSet(one.name, one.paths + (None,) * more, one.positive + (False,) * more, one.lq))
    return padded


def keep_positive(sets):
    """The sets in which at least one candidate is positive, and the number of those left out.

    Raises:
        ValueError: none is left.
    """
    kept = [one for one in sets if any(one.positive)]
    if not kept:
        raise ValueError(f'none of the {len(sets)} sets has a positive ground truth: are there labels?')
    return kept, len(sets) - len(kept)


def check_originals(sets, why):
    """Refuse sets without an original ground truth.

    Raises:
        ValueError: naming the first of them.
    """
    without = [one.name for one in sets if one.original is None]
    if without:
        raise ValueError(f'{len(without)} sets have no original ground truth ({without[0]}): {why}')


def describe(sets, left_out=0):
    """One line that counts sets, candidates and positives, for the log."""
    count = len(sets[0].paths)
    by_number = [sum(one.paths[k] is not None for one in sets) for k in range(count)]
    positives = [sum(one.positive[k] for one in sets) for k in range(count)]
    text = f'{len(sets)} sets with up to {count} ground truths; '
    text += f'images in gt, gt_01, ...: {by_number}, called positive: {positives}'
    alone = sum(sum(one.valid) == 1 for one in sets)
    if alone:
        text += f'; {alone} sets have one ground truth only'
    if left_out:
        text += f'; {left_out} sets without a positive one are left out'
    return text


def stem(path):
    """A file's name without folder and ending."""
    return os.path.splitext(os.path.basename(path))[0]
