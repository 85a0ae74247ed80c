"""The annotations of the HGGT data set as votes: every enhanced version beside the original."""

from pathlib import Path

from nriqa_plugin.multigt.hggt import ANNOTATORS, read_answers
from nriqa_plugin.preference.votes import Vote

CHOSEN = {'Positive': 1.0, 'Similar': 0.5, 'Negative': 0.0}


def read_hggt_votes(root):
    """One vote for each annotator and version: the original is left, the enhanced version right.

    Returns:
        list[Vote]: names of images are relative to ``root``; ``Similar`` is a tie.

    Raises:
        FileNotFoundError, ValueError: as :func:`~nriqa_plugin.multigt.hggt.read_hggt`.
    """
    votes = []
    for scene, paths, answers in read_answers(root):
        original, *versions = (path.relative_to(Path(root)).as_posix() for path in paths)
        for annotator, labels in zip(ANNOTATORS, answers, strict=True):
            for version, label in zip(versions, labels, strict=True):
                votes.append(Vote(annotator, scene, original, version, CHOSEN[label]))
    return votes
