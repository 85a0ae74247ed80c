"""Votes gathered into pairs of images: who won, by how much, and what belongs together."""

from dataclasses import dataclass

import numpy as np

from nriqa_plugin.evaluation.images import few


@dataclass(frozen=True)
class Pairs:
    """P pairs of images, each once whatever side its images were shown on, and the V votes on them; ties are out.

    Attributes:
        left, right (tuple[str, ...]): names of images, P each.
        scene (ndarray): ``(P,)``, a number for each scene; pairs of one scene are not independent.
        share (ndarray): ``(P,)``, the fraction of the votes that chose right.
        pair (ndarray): ``(V,)``, which pair a vote is on.
        chose_right (ndarray): ``(V,)``, in [0, 1]; between the ends where a row of the table holds several answers.
        observer (tuple[str, ...]): ``V`` names, empty where the table has none.
        reference (dict[str, str]): by image its reference, where it has one.
        ties (int): votes that were left out because they chose neither side.
        all_ties (int): pairs that were left out because all their votes were ties.
        repeated (int): votes beyond the first on a pair by nobody in particular.
    """

    left: tuple
    right: tuple
    scene: np.ndarray
    share: np.ndarray
    pair: np.ndarray
    chose_right: np.ndarray
    observer: tuple
    reference: dict
    ties: int
    all_ties: int
    repeated: int

    def __len__(self):
        return len(self.left)

    @property
    def images(self):
        """The images of all pairs, sorted."""
        return sorted({*self.left, *self.right})

    @property
    def majority(self):
        """``(P,)``: 1 where most votes chose right, 0 where left, NaN where they are even."""
        decided = np.where(self.share > 0.5, 1.0, 0.0)
        # A mean of fractions such as 0.4 and 0.6 may miss one half by rounding.
        return np.where(np.isclose(self.share, 0.5, rtol=0, atol=1e-9), np.nan, decided)

    def of(self, chosen):
        """The pairs of the places ``chosen`` (a sequence of unlike integers) and the votes on them."""
        chosen = np.asarray(chosen, dtype=int)
        place = np.full(len(self), -1)
        place[chosen] = np.arange(len(chosen))
        votes = np.flatnonzero(place[self.pair] >= 0)
        left, right = (tuple(side[p] for p in chosen) for side in (self.left, self.right))
        images = {*left, *right}
        return Pairs(left, right, self.scene[chosen], self.share[chosen], place[self.pair[votes]],
                     self.chose_right[votes], tuple(self.observer[v] for v in votes),
                     {image: name for image, name in self.reference.items() if image in images}, 0, 0, 0)  # fmt: skip


def pairs_of(votes):
    """Gather votes into :class:`Pairs`.

    Scenes are those of the votes; when a vote has none, images that are linked by comparisons belong to one scene.

    Args:
        votes (Sequence[Vote]): their sides are names of images.

    Raises:
        ValueError: no vote that chose a side, an image with two references, or a pair with two scenes.
    """
    votes = list(votes)
    reference = _references(votes)
    decided = [vote for vote in votes if vote.chosen != 0.5]
    if not decided:
        raise ValueError(f'there is no vote for either side: {len(votes)} votes, all ties')
    places, scenes, seen, repeated, rows = {}, [], set(), 0, []
    for vote in decided:
        key = tuple(sorted((vote.left, vote.right)))
        place = places.setdefault(key, len(places))
        if place == len(scenes):
            scenes.append(vote.scene)
        elif scenes[place] != vote.scene:
            raise ValueError(f'{key[0]} and {key[1]} are compared in two scenes, {scenes[place]!r} and {vote.scene!r}')
        repeated += not vote.observer and key in seen
        seen.add(key)
        rows.append((place, vote.chosen if vote.right == key[1] else 1 - vote.chosen))
    pair = np.array([place for place, _ in rows])
    chose_right = np.array([chosen for _, chosen in rows], dtype=float)
    share = np.bincount(pair, chose_right) / np.bincount(pair)
    left, right = (tuple(key[side] for key in places) for side in (0, 1))
    if not all(scenes):
        scenes = _linked(left, right)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(scenes))}
    all_ties = len({tuple(sorted((vote.left, vote.right))) for vote in votes} - places.keys())
    used = {*left, *right}
    return Pairs(left, right, np.array([numbers[scene] for scene in scenes]), share, pair, chose_right,
                 tuple(vote.observer for vote in decided), {i: r for i, r in reference.items() if i in used},
                 len(votes) - len(decided), all_ties, repeated)  # fmt: skip


def margins(pairs, judge, scores, higher_better):
    """By how much a judge finds the right image better, ``(P,)``; 0 where it cannot tell.

    Args:
        judge (str): its name, for messages.
        scores (dict[str, float]): by image.

    Raises:
        ValueError: images without a score, or a score that is NaN.
    """
    missing = [image for image in pairs.images if image not in scores]
    if missing:
        raise ValueError(f'{judge} has no score for {few(missing)} of the images that were voted on')
    undefined = [image for image in pairs.images if scores[image] != scores[image]]
    if undefined:
        raise ValueError(f'{judge}: the score is NaN for {few(undefined)}')
    left, right = (np.array([scores[image] for image in side], dtype=float) for side in (pairs.left, pairs.right))
    with np.errstate(invalid='ignore'):  # two identical images have an infinite PSNR each
        difference = np.where(left == right, 0.0, right - left)
    return difference if higher_better else -difference


def _references(votes):
    reference = {}
    for vote in votes:
        for image in (vote.left, vote.right) if vote.reference else ():
            if reference.setdefault(image, vote.reference) != vote.reference:
                raise ValueError(f'{image} has two references: {reference[image]} and {vote.reference}')
    return reference


def _linked(left, right):
    """For each pair the first image of all that are linked to it by comparisons."""
    parent = {}

    def root(image):
        while parent.setdefault(image, image) != image:
            parent[image] = image = parent[parent[image]]
        return image

    for one, other in zip(left, right, strict=True):
        parent[root(other)] = root(one)
    return [root(image) for image in left]
