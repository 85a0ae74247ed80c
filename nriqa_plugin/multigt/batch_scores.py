"""The scores of a batch of candidates: by a judge, or from a file."""

import torch

from nriqa_plugin.checks import check_unit_range
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.iqa.ensemble import one_judge
from nriqa_plugin.multigt.score_table import ScoreTable


def candidate_judge(metric=None, weights=None, options=None, ensemble=None):
    """The judge that options describe, one that scores candidates by themselves.

    Raises:
        ValueError, TypeError: wrong options; a judge that needs a reference or is a video judge.
    """
    metric, weights, options = one_judge(metric, weights, options, ensemble)
    scorer = create_scorer(metric, weights, **options)
    if scorer.needs_reference or scorer.temporal:
        kind = 'a video judge' if scorer.temporal else 'a full-reference judge'
        raise ValueError(f'metric: {scorer.name} is {kind}; candidates are scored one by one, without a reference')
    return scorer


def table_of(scores, metric=None, weights=None, options=None, ensemble=None):
    """The file of scores, which must be of the judge that the other options describe.

    A judge that is given by its name alone is not built, and only its name is compared; otherwise it is built for a
    moment, and the hash of its weights and options is compared too. Without any the file may be of any judge.

    Raises:
        FileNotFoundError: no such file.
        ValueError: scores of another judge, a damaged file.
    """
    if all(option is None for option in (metric, weights, options, ensemble)):
        return ScoreTable(scores)
    by_name = isinstance(metric, str) and ':' not in metric and weights is None and not options and ensemble is None
    if by_name:
        return ScoreTable(scores, metric)
    judge = candidate_judge(metric, weights, options, ensemble)
    return ScoreTable(scores, judge.name, judge.weights_hash())


def score_crops(scorer, candidates, eligible, chunk, bf16=False, check_range=False):
    """Scores of the eligible candidates of rows with more than one of them.

    Args:
        scorer (Scorer): no-reference, on the device of the candidates.
        candidates (Tensor): RGB in [0, 1], ``(N, K, 3, H, W)``.
        eligible (Tensor): ``(N, K)`` bool, on the CPU.
        chunk (int): crops that are scored at once.
        bf16 (bool): run the judge under bfloat16 autocast.
        check_range (bool): refuse crops outside [0, 1], which costs a pass over them.

    Returns:
        Tensor: ``(N, K)`` on the CPU, higher is better, NaN where nothing was scored or the judge is undefined.
    """
    scores = torch.full(eligible.shape, torch.nan)
    wanted = eligible & (eligible.sum(1, keepdim=True) > 1)
    places = torch.nonzero(wanted.flatten()).flatten()
    if not len(places):
        return scores
    crops = candidates.flatten(0, 1)
    everything = len(places) == len(crops)  # then no crop is copied
    found = []
    for chunk_places in places.split(chunk):
        first, last = int(chunk_places[0]), int(chunk_places[-1])
        part = crops[first : last + 1] if everything else crops[chunk_places.to(crops.device)]
        scorer.check(part)
        if check_range:
            check_unit_range('the candidate ground truths', part)
        found.append(scorer.raw_scores(part, bf16=bf16).float())
    found = torch.cat(found).cpu()
    scores.view(-1)[places] = found if scorer.higher_better else -found
    return scores


def look_up_crops(table, valid, side, names, crops=None, hashes=None):
    """Scores of all valid candidates from a file.

    Args:
        table (ScoreTable): the file.
        valid (Tensor): ``(N, K)`` bool.
        side (int): of the crops, in px.
        names (list[str]): of the N sets.
        crops (Tensor | None): ``(N, 2)``, top and left, for scores of patches.
        hashes (list[list[str]] | None): N lists of K image hashes, or empty strings, to be compared.

    Returns:
        Tensor: ``(N, K)``, higher is better, NaN where there is none.

    Raises:
        ValueError: names or places are missing, a crop off the grid, or images that have changed since.
    """
    if names is None or (table.is_grid and crops is None):
        raise ValueError('cached scores need the names of the sets and, on a grid, the places of the crops')
    scores = torch.full(valid.shape, torch.nan)
    places = [None] * len(names) if crops is None else crops.tolist()
    for n, (name, place) in enumerate(zip(names, places, strict=True)):
        crop = None if place is None else (int(place[0]), int(place[1]), side)
        for k in torch.nonzero(valid[n]).flatten().tolist():
            if hashes is not None and hashes[n][k]:
                table.check_hash(name, k, hashes[n][k])
            scores[n, k] = table.look_up(name, k, crop)
    return scores
