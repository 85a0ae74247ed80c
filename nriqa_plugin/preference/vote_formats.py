"""Published tables of votes and of opinions, by name."""

from pathlib import Path

import numpy as np

from nriqa_plugin.checks import check_choice
from nriqa_plugin.evaluation.images import few
from nriqa_plugin.preference.votes import Vote, read_votes

# Of a table with these columns; a folder as the authors publish it needs none.
BAPPS = {'left': 'p0', 'right': 'p1', 'chosen': 'judge'}
# As in the tables of GitHub's icbcbicc/IQA-Dataset, which holds TID2013, KADID-10k and others in the same form.
PIPAL = {'image': 'dis_img_path', 'mos': 'score', 'reference': 'ref_img_path'}
SIDES = ('p0', 'p1', 'ref')  # of a BAPPS folder
FORMATS = ('bapps', 'hggt', 'pipal', 'sbs180k')
# Accuracy on the test split, by (format, judge) in percent.
PUBLISHED = {('sbs180k', 'musiq'): (82.73, 'arXiv 2504.18524')}


def read_format(name, path, repeats=False):
    """Votes in a published form.

    Args:
        name (str): ``bapps``: a folder with ``p0``, ``p1``, ``ref`` and ``judge`` (as ``2afc/val/superres``), or a
            table with the columns ``p0``, ``p1`` and ``judge``, the fraction that chose ``p1``. ``sbs180k``: a table
            with the columns ``left``, ``right`` and ``chosen``. The other forms are no tables of votes (``pipal``) or
            are read elsewhere (``hggt``, by :mod:`nriqa_plugin.preference.hggt_votes`).

    Returns:
        list[Vote]

    Raises:
        FileNotFoundError: a folder without answers, or with images that have none.
        ValueError: an answer that is no fraction, or as :func:`~nriqa_plugin.preference.votes.read_votes`.
    """
    check_choice('format', name, ('bapps', 'sbs180k'))
    if name == 'bapps':
        return _bapps_folder(Path(path)) if Path(path).is_dir() else read_votes(path, BAPPS, repeats)
    return read_votes(path, None, repeats)


def _bapps_folder(folder):
    """The triplets of one folder; names of images are relative to it."""
    answers = sorted((folder / 'judge').glob('*.npy'))
    if not answers:
        raise FileNotFoundError(f'votes: no .npy file in {folder / "judge"}')
    answered = {file.stem for file in answers}
    for side in SIDES:
        if silent := sorted(file.name for file in (folder / side).glob('*.png') if file.stem not in answered):
            raise FileNotFoundError(f'votes: there are images in {folder / side} without an answer (a .npy file) in '
                                    f'{folder / "judge"}: {few(silent)}')  # fmt: skip
    votes = []
    for file in answers:
        where = f'votes: {file}'
        try:
            value = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f'{where} is not a readable array: {error}') from error
        if value.size != 1 or not 0 <= float(value.reshape(-1)[0]) <= 1:
            raise ValueError(f'{where} must hold one fraction in [0, 1], got {value!r}')
        sides = [f'{side}/{file.stem}.png' for side in SIDES]
        votes.append(Vote('', file.stem, *sides[:2], float(value.reshape(-1)[0]), sides[2]))
    return votes
