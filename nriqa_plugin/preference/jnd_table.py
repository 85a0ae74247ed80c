"""What a JND scale says: the rows of its tables, conditions and pairs, and how well it describes the votes."""

from dataclasses import dataclass
from typing import NamedTuple

from nriqa_plugin.evaluation.significance import PValue


@dataclass(frozen=True)
class JNDRow:
    """One condition on the scale.

    Attributes:
        scene (str): which scene, or ``all``.
        condition (str): its name.
        part (int): conditions of different parts were never compared, not even over others; nor do their scores.
        jnd, low, high (float): its score in JND and the bootstrap interval; NaN where too few resamples connect the
            condition with the 0 of its part.
        share, share_low, share_high (float): of its comparisons it has won, and the bootstrap interval.
        wins (float): won comparisons; ties are half.
        votes (float): comparisons.
    """

    scene: str
    condition: str
    part: int
    jnd: float
    low: float
    high: float
    share: float
    share_low: float
    share_high: float
    wins: float
    votes: float


@dataclass(frozen=True)
class PairRow:
    """Two conditions of one part, the better one first.

    Attributes:
        scene, condition, other (str): which.
        votes (float): direct comparisons of the two.
        share (float): of these, those that ``condition`` has won; NaN without any.
        fitted (float): what the scale says this share should be.
        difference, low, high (float): of the scores in JND, and its bootstrap interval.
        p (float): two-sided normal test of no difference. Its standard error is the larger one of the bootstrap's and
            of the posterior's curvature: the bootstrap's alone is 0 where everybody agrees. Without an interval it is
            the curvature's, which takes votes for independent ones.
        p_holm (float): the same, by Holm's correction for the number of pairs of the scene.
    """

    scene: str
    condition: str
    other: str
    votes: float
    share: float
    fitted: float
    difference: float
    low: float
    high: float
    p: PValue
    p_holm: PValue


class Fit(NamedTuple):
    """How well a scale describes a scene's votes: deviance of the pairs' shares, chi-squared with ``df`` if it does."""

    scene: str
    deviance: float
    df: int
    p: float


@dataclass(frozen=True)
class JNDScale:
    """What :func:`~nriqa_plugin.preference.jnd.jnd_scale` found.

    Attributes:
        rows (tuple[JNDRow]): by scene, then part and falling score.
        pairs (tuple[PairRow]), fits (tuple[Fit]): by scene.
        observers (int): how many people; 0 where the votes do not say.
        level (float): coverage of the intervals.
        zero (dict[str, tuple[tuple[str]]]): by scene, for each part the conditions whose mean is 0.
        notes (tuple[str]): what the reader should know.
    """

    rows: tuple
    pairs: tuple
    fits: tuple
    observers: int
    level: float
    zero: dict
    notes: tuple
