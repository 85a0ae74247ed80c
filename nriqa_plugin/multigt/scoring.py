"""Filling the file of candidates' scores: every candidate once, as a whole or on a grid of patches."""

import os
from pathlib import Path

import torch
from torch import distributed

from nriqa_plugin.checks import check_number
from nriqa_plugin.evaluation.images import few
from nriqa_plugin.multigt.scores import ScoresHeader, ScoreWriter, merge_scores
from nriqa_plugin.multigt.stored_images import ImageFiles


def score_candidates(
    sets,
    judge,
    out,
    patch=None,
    stride=None,
    device='cpu',
    chunk=8,
    progress=lambda done, total: None,
    stored=None,
):
    """Score every candidate of every set with a judge, into the file that ``scores: FILE`` of a training reads.

    A candidate is on the disk as soon as it is scored: after a crash the same call goes on where it stopped. With
    several processes (``torchrun``) every one scores its share into a file of its own beside ``out``, and the first
    puts them together when all are done; a run by another number of processes takes up these files too.

    Args:
        sets (Sequence[CandidateSet]): as :func:`nriqa_plugin.multigt.layout.read_sets` returns them.
        judge (Scorer): no-reference; moved to the device.
        out (str | Path): the file; what is in it is kept and, image by image, checked.
        patch, stride (int | None): side and distance of the patches in px; None scores whole images. A training whose
            crops have this side and lie on this grid needs no judge.
        device (str | torch.device): of this process.
        chunk (int): patches that are scored at a time.
        progress (Callable[[int, int], None]): told how many candidates of this process are done.
        stored (ImageFiles | LmdbImages | None): where the candidates lie; None for image files. Hashes are those of the
            stored bytes, so that scores of files fit a training from files, those of an lmdb a training from it.

    Returns:
        dict[str, int]: of this process, candidates ``scored`` and ``kept``.

    Raises:
        ValueError: a judge that needs a reference or clips, an image that has changed since it was scored, that is too
            small, or that the judge cannot score; a file of another judge or grid.
    """
    if judge.needs_reference or judge.temporal:
        what = 'a full-reference judge' if judge.needs_reference else 'a video judge'
        raise ValueError(f'{judge.name} is {what}; candidates are scored alone')
    check_number('chunk', chunk, low=1, integer=True)
    stored = stored or ImageFiles()
    out, (rank, world) = Path(out), _rank()
    header = ScoresHeader.of(judge, patch, stride)  # before the judge moves: its hash is that of its weights
    if patch is not None and patch < judge.min_side:
        raise ValueError(f'patch: {judge.name} needs at least {judge.min_side} px a side, got {patch}')
    judge.to(device)
    known = _known(out, header)
    todo = [(one, k, path) for one in sets for k, path in enumerate(one.paths) if path is not None]
    strange = known.keys() - {(one.name, k) for one, k, _ in todo}
    if strange:
        raise ValueError(f'{out} is of other data: it holds candidates that are not there: '
                         f'{few(sorted(f"{k} of {name}" for name, k in strange))}; choose another file')  # fmt: skip
    mine = todo[rank::world]
    part = out if world == 1 else out.with_name(f'{out.name}.part{rank}of{world}')
    _wait()  # nobody writes before all have read
    counts = {'scored': 0, 'kept': 0}
    with ScoreWriter(part, header) as writer:
        known |= writer.done
        for done, (one, k, path) in enumerate(mine, 1):
            image_hash, where = stored.hash(path, k), stored.where(path, k)
            there = known.get((one.name, k))
            if there is None:
                image = stored.image(path, k)
                scores = _scores(judge, header, image, where, device, chunk)
                writer.add(one.name, k, image_hash, image.shape[-2:], scores)
                counts['scored'] += 1
            elif there == image_hash:
                counts['kept'] += 1
            else:
                raise ValueError(f'{where} has changed since it was scored ({there}, now {image_hash}); delete {part} '
                                 f'and {out}, or choose another file')  # fmt: skip
            progress(done, len(mine))
    _wait()
    if rank == 0:
        _merge(out)
    _wait()
    return counts


@torch.no_grad()
def _scores(judge, header, image, where, device, chunk):
    """One number, or the table over the grid; NaN where the judge is undefined."""
    image = image[None].to(device)
    try:
        if header.patch is None:
            judge.check(image)
            return judge.raw_scores(image)[0].item()
        tops, lefts = header.grid(*image.shape[-2:])
        corners = [(top, left) for top in tops for left in lefts]
        scores = []
        for start in range(0, len(corners), chunk):
            side = header.patch
            batch = torch.cat([image[..., t : t + side, x : x + side] for t, x in corners[start : start + chunk]])
            judge.check(batch)
            scores.append(judge.raw_scores(batch).cpu())
        return torch.cat(scores).view(len(tops), len(lefts))
    except ValueError as error:
        raise ValueError(f'{judge.name} cannot score {where}: {error}') from error
    except RuntimeError as error:
        raise RuntimeError(f'{judge.name} failed on {where}: {error}') from error


def _known(out, header):
    """``{(set, candidate): image hash}`` of all files that earlier runs left behind, by any number of processes."""
    known = {}
    for file in _files(out):
        found = _read_unfinished(file, header)
        for key, image_hash in found.items():
            if known.setdefault(key, image_hash) != image_hash:
                raise ValueError(f'{file}: candidate {key[1]} of {key[0]} is of another image than in another part of '
                                 f'{out}; delete both')  # fmt: skip
    return known


def _files(out):
    return [file for file in (out, *sorted(out.parent.glob(f'{out.name}.part*of*'))) if file.is_file()]


def _read_unfinished(file, header):
    # The writer cuts a torn last line off; only one process may do so, and the others wait.
    rank, _ = _rank()
    if rank == 0:
        with ScoreWriter(file, header):
            pass
    _wait()
    with ScoreWriter(file, header) as writer:
        return dict(writer.done)


def _merge(out):
    files = _files(out)
    if files != [out]:
        merge_scores(out, files)
        for file in files:
            if file != out:
                os.remove(file)


def _rank():
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _wait():
    if _rank()[1] > 1:
        distributed.barrier()
