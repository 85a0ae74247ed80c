"""Evaluation where an image has several ground truths that people found good.

A full-reference score is the mean over all positive ground truths of an image, then over images, as the HGGT data set
prescribes for its Test-100 (Chen et al., CVPR 2023, arXiv 2303.13069). The "Gold Standard" of arXiv 2504.18524 are the
scores of no-reference judges on the positive ground truths themselves: what a network that reproduced them would reach.
"""

from pathlib import Path

import torch

from nriqa_plugin.evaluation.images import few, list_images, read_image
from nriqa_plugin.evaluation.scores import frame_name, mean
from nriqa_plugin.evaluation.scoring import score_files
from nriqa_plugin.iqa import create_scorer


def positives(sets):
    """The ground truths to evaluate with, by the name of their set.

    Args:
        sets (Iterable): with ``name``, ``paths`` (None where one is missing) and ``positive``, such as
            :class:`nriqa_plugin.multigt.candidate_set.CandidateSet`.

    Returns:
        dict[str, list[str]]: the positive ones; all of them where no set has a label at all, as in plain folders.

    Raises:
        ValueError: some sets have positives and others none.
    """
    sets = list(sets)
    labelled = any(any(one.positive) for one in sets)
    found = {}
    for one in sets:
        chosen = one.positive if labelled else (True,) * len(one.paths)
        found[one.name] = [path for path, wanted in zip(one.paths, chosen, strict=True) if wanted and path is not None]
    without = [name for name, paths in found.items() if not paths]
    if without:
        raise ValueError(f'sets without a positive ground truth: {few(without)}; leave them out')
    return found


def find_set(gts, *stems):
    """The name of the set that an image belongs to.

    Args:
        gts (dict[str, list[str]]): as :func:`positives` returns them.
        stems (str): what the image may be called, without ending: its ground truth, its input. A set is called so, or
            its name's last part is, or that with more behind it (``babyx4`` belongs to ``baby``, but ``100`` does not
            to ``10``).

    Raises:
        ValueError: there is none, or two fit equally well.
    """
    last = {}
    for name in gts:
        last.setdefault(name.rpartition('/')[2], []).append(name)
    for stem in stems:
        if stem in gts:
            return stem
        fitting = [key for key in last if stem == key] or [key for key in last if _goes_on(stem, key)]
        longest = max(map(len, fitting), default=0)
        names = [name for key in fitting if len(key) == longest for name in last[key]]
        if len(names) == 1:
            return names[0]
        if names:
            raise ValueError(f'the image {stem} may belong to several sets: {few(names)}')
    raise ValueError(f'no ground truths for the image {" or ".join(filter(None, stems))}; there are {few(gts)}')


def _goes_on(stem, key):
    """Whether a name is ``key`` with more behind it, and not another number."""
    return bool(key) and stem.startswith(key) and not (key[-1].isdigit() and stem[len(key)].isdigit())


@torch.no_grad()
def mean_over(judge, image, paths):
    """A full-reference judge's score of an image, averaged over its ground truths.

    Args:
        judge (Scorer): full-reference.
        image (Tensor): RGB in [0, 1], ``(1, 3, H, W)``, on the judge's device.
        paths (Sequence[str]): image files of the same size.

    Raises:
        ValueError: what the judge cannot score, naming the file.
    """
    scores = []
    for path in paths:
        try:
            scores.append(judge(image, read_image(path)[None].to(image.device)).item())
        except ValueError as error:
            raise ValueError(f'{judge.name} cannot compare with {path}: {error}') from error
    return mean(scores)


@torch.no_grad()
def gold_standard(judge, paths, device='cpu'):
    """A no-reference judge's score averaged over the ground truths of one image themselves.

    Raises:
        ValueError: a full-reference judge, which has nothing to compare them with.
    """
    check_gold(judge)
    return mean(judge(read_image(path)[None].to(device)).item() for path in paths)


def check_gold(judge):
    """Refuse a full-reference judge for the gold standard."""
    if judge.needs_reference:
        raise ValueError(f'gold standard: {judge.name} is a full-reference judge; the row is of no-reference judges on '
                         'the positive ground truths themselves')  # fmt: skip


def score_several(images, judges, out, gts, device='auto', progress=True, suffix=''):
    """Score a folder of images against several ground truths each, into a scores file.

    Everything else is as in :func:`nriqa_plugin.evaluation.scoring.score_folder`.

    Args:
        gts (dict[str, list[str]]): as :func:`positives` returns them.
        suffix (str): ending of the images' names that the ground truths' lack.

    Raises:
        ValueError: an image without ground truths, or ground truths without an image.
    """
    files, taken = {}, {}
    for image in list_images(images):
        name = find_set(gts, image.stem.removesuffix(suffix))
        if name in taken:
            raise ValueError(f'{taken[name].name} and {image.name} belong to the same ground truths, {name}')
        taken[name] = image
        files[image.stem.removesuffix(suffix) + image.suffix] = (image, gts[name])
    if left := gts.keys() - taken.keys():
        raise ValueError(f'{images}: ground truths without an image: {few(sorted(left))}')
    return score_files(files, judges, out, device, progress)


def score_gold_standard(judges, out, gts, device='auto', progress=True):
    """Score the positive ground truths themselves, into a scores file.

    A row is called ``SET``, ``SET::1``, ...: :meth:`Scores.mean` then averages over the ground truths of a set first.

    Raises:
        ValueError: a full-reference judge.
    """
    files = {frame_name(name, i): (Path(path), ()) for name, paths in gts.items() for i, path in enumerate(paths)}
    judges = [create_scorer(judge) for judge in judges]
    for judge in judges:
        check_gold(judge)
    return score_files(files, judges, out, device, progress)
