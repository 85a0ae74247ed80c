"""Looking for the weight of a term on a grid, by a criterion that does not change with the weight.

The value of a weighted loss cannot be compared across weights: at weight 0 it is smallest whatever the network does.
A single distance decides nothing either: the pixel loss alone always asks for the smallest weight, the perceptual term
alone for the largest. The default criterion, ``terms``, is the geometric mean of the validation values of *all* terms
of the loss, each without its weight, lower is better. No unit and no weight enters it: halving one term makes up for
doubling the other. ``select_by: JUDGE`` takes the mean of a judge on the validation images in its own direction, best
one that is in no loss.
"""

import csv
import math
from pathlib import Path

import torch

from nriqa_plugin.checks import atomic_path, in_place
from nriqa_plugin.compare.family import TERMS, with_weight
from nriqa_plugin.evaluation.images import pair_images, read_image
from nriqa_plugin.evaluation.scoring import score_folder
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.losses import LossSum
from nriqa_plugin.losses.loss_sum import SCHEDULE

COLUMNS = ('weight', 'status', 'criterion', 'chosen')


def search_weight(host, family, name, out, progress=None, retry=False):
    """Train one loss with every weight of its grid and choose the best; the table goes to ``out/search.csv``.

    Args:
        host: the runs of the family's host.
        family (Family), name (str): which loss of it; ``family.search[name]`` says term, grid, steps and criterion.
        out (str | Path): a folder; every weight has its own in it.
        progress, retry: as in :func:`~nriqa_plugin.compare.runs.run_family`.

    Returns:
        float: the chosen weight; of equally good ones the smallest.

    Raises:
        RuntimeError: every training broke down.
        ValueError: a criterion that cannot be computed.
    """
    from nriqa_plugin.compare.runs import FINISHED, SCORES, Training

    search, terms, out = family.search[name], family.losses[name], Path(out)
    rows = []
    for weight in sorted(search.grid):
        label = f'{name}_{weight:g}'.replace('.', 'p').replace('-', 'm').replace('+', '')
        weighted = with_weight(terms, search.term, weight)
        training = Training(host, out / label, label, weighted, search.steps, more=family.more.get(name))
        training.check_unchanged(retry)
        outcome = training.run('validation', progress, retry)
        value, parts = math.nan, {}
        if outcome.status == FINISHED:
            with in_place(f'search {name}'):
                value, parts = criterion(search.select_by, terms, outcome.results, training.folder / SCORES)
        rows.append({'weight': weight, 'status': outcome.error or outcome.status, 'criterion': value, **parts})
    chosen = choose({row['weight']: row['criterion'] for row in rows}, lower_better(search.select_by))
    with atomic_path(out / 'search.csv') as temporary, open(temporary, 'w', encoding='utf-8', newline='') as file:
        parts = dict.fromkeys(key for row in rows for key in row if key not in COLUMNS)
        writer = csv.DictWriter(file, [*COLUMNS, *parts], lineterminator='\n')
        writer.writeheader()
        writer.writerows({**row, 'chosen': row['weight'] == chosen} for row in rows)
    if chosen is None:
        raise RuntimeError(f'search {name}: no training has a finite criterion, see {out / "search.csv"}')
    return chosen


def choose(criteria, lower=True):
    """The weight with the best criterion; NaN never is; None when all are NaN."""
    finite = {weight: value for weight, value in sorted(criteria.items()) if math.isfinite(value)}
    return (min if lower else max)(finite, key=finite.get) if finite else None


def lower_better(select_by):
    """Direction of a criterion."""
    return True if select_by == TERMS else not judge_of(select_by).higher_better


def judge_of(option):
    """The judge of a family file's ``{metric, weights?, options?, crop_border?}``."""
    border = {'crop_border': option['crop_border']} if 'crop_border' in option else {}
    return create_scorer(option['metric'], option.get('weights'), **border, **(option.get('options') or {}))


def criterion(select_by, terms, results, folder):
    """The criterion of one training on its validation images (of all data sets), and what it was made of.

    A judge's scores of single images go into ``folder``.
    """
    if select_by != TERMS:
        judge = judge_of(select_by)
        scores = []
        for name, (images, references, suffix) in results.items():
            file = Path(folder) / f'{name}_{judge.name}_{judge.weights_hash()[:6]}.csv'
            read = score_folder(images, [judge], file, references if judge.needs_reference else None, suffix=suffix)
            scores += [row.score for row in read.of(judge.name)]
        return math.fsum(scores) / len(scores), {}
    values = term_values(terms, [pair for found in results.values() for pair in pair_images(*found)])
    for name, value in values.items():
        if not value > 0 and not math.isnan(value):
            raise ValueError(f'select_by: the term {name!r} has the value {value:.4g} on the validation images, and a '
                             'geometric mean needs positive ones; choose a judge instead')  # fmt: skip
    return math.exp(math.fsum(map(math.log, values.values())) / len(values)), values


@torch.no_grad()
def term_values(terms, pairs):
    """Mean of every term, without its weight and schedule, over pairs of image files (result, ground truth)."""
    plain = {
        name: {**{key: value for key, value in term.items() if key not in SCHEDULE}, 'weight': 1.0}
        for name, term in terms.items()
    }
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    loss, sums = LossSum(plain).to(device), dict.fromkeys(plain, 0.0)
    for result, truth in pairs:
        loss(*(read_image(file)[None].to(device) for file in (result, truth)))
        for name, value in loss.values.items():
            sums[name] += value.item()
    return {name: total / len(pairs) for name, total in sums.items()}
