"""The page ``docs/judges.md``, written from the results of ``tools/judge_table.py``."""

import math
from collections import Counter

from nriqa_plugin.iqa.pyiqa_tables import FROM_FILE, MULTIPLE, NEEDS_CUDA, metric_configs, parse_range
from nriqa_plugin.iqa.scorer import BUILT_IN

# Random parameters cannot show what is wrong with these.
CARE = {
    'BRISQUE': 'it has the table look-up that spoils the gradient of NIQE; try it before you rely on it',
    'ILNIQE': 'it has the table look-up that spoils the gradient of NIQE; try it before you rely on it',
}

# The plugin's own judges of clips, told as pyiqa tells its metrics, which has none.
VIDEO = {'mdtvsfa': {'metric_mode': 'VIDEO', 'score_range': '0, 1', 'metric_opts': {'type': 'MDTVSFA'}}}

PAGE = """# Every judge of pyiqa, built and probed

Every metric that pyiqa {pyiqa} lists, {nr} no-reference and {fr} full-reference ones: none left out, none copied from a
model card. The page is written by `tools/judge_table.py`; do not edit it.

{counts}

**How it was made.** `python tools/judge_table.py` with Python {python}, torch {torch}, torchvision {torchvision}, timm
{timm}, transformers {transformers} and NumPy {numpy}, on a CPU without internet. Each metric ran in a process of its
own, on noise with the spectrum of photographs. **All weights are random**, of the right architecture, and were saved to
local files first (NIQE alone has its published parameters, which BasicSR ships): the scores mean nothing, but whether a
network runs, at which sizes, and whether a gradient comes back does not depend on training. A network that random
weights had killed (a gradient of zero everywhere) was tried again with other random numbers, three times at most.
CLIP's loader takes no files but OpenAI's own; its checksum was skipped for the measurement.

**Columns.**

- *Verdict*: `loss`: it gives finite scores, one per image, and a gradient that the plugin's probe accepts; if that is
  inexact, some steps that follow it improve the score. It can be the `metric` of a loss. `score only`: scores, but no
  usable gradient; the plugin refuses it as a loss and uses it in metrics, baselines and `nriqa score`. `no judge`: it
  does not score single images. `needs a download even to build`: no local file that could be made here satisfies its
  constructor. `does not import here`: a package is missing or too new. `not finished`: it was ended at the
  time limit of {seconds} s.
- *Weights*: `option`: `weights: FILE` takes one local file. `cache`: pyiqa looks for the files itself, under the folder
  `hub` of `TORCH_HOME` (or in the caches of Hugging Face and CLIP); put them there before a training without internet.
  `none`: it is a formula.
- *Gradient*: `exact`: a small finite step along it changes the score as it promises, within {agrees:.0%}. `inexact`: it
  does not, and the number is the change divided by the promise for the step that fits best: a part of the dependence on
  the image is missing from the gradient (a look-up table, a rounding) or it is very rough. It passes the probe, but
  watch a held-out judge. `none`, `zero`, `not finite`: what the probe found.
- *Min side*: the shortest side in px that the plugin lets through, and in parentheses the shortest one that worked of
  those tried (8, 16, 24, 32, ... px). *Shapes*: whether an image with two different, odd sides works.
- *Batch*: whether two images together score as they do one by one. The plugin calls some metrics one image at a time.
- *MB*: weights in memory. *Time*: of one probe (forward and backward, one image of max(64, min side) px, one CPU
  thread), only as an order of magnitude.

Names that a built-in judge has, too, mean the built-in one; write `pyiqa:NAME` for pyiqa's: {twice}.

## No-reference

{table_nr}

## Full-reference

{table_fr}

## Video

pyiqa has no judge of clips. This one is the plugin's, measured as the others are, on clips of two frames; it gives one
score to a clip, of any length.

{table_video}
"""

HEAD = """| judge | better | range | verdict | weights | gradient | min side | shapes | batch | MB | time | remarks |
|---|---|---|---|---|---|---|---|---|---:|---:|---|"""


def page(results, seconds, agrees):
    """The text of the page.

    Args:
        results (dict[str, dict]): what was measured by name; metrics that are missing are listed as not measured.
        seconds (int): the time limit that the measurement had.
        agrees (float): relative difference up to which a gradient counts as exact.
    """
    configs = {**metric_configs(), **VIDEO}
    modes = ('NR', 'FR', 'VIDEO')
    by_mode = {mode: [name for name in configs if configs[name]['metric_mode'] == mode] for mode in modes}
    tables = {mode: '\n'.join([HEAD, *(_row(n, configs[n], results.get(n), agrees) for n in sorted(by_mode[mode]))])
              for mode in by_mode}  # fmt: skip
    counts = (f'- {label}: {_counted(results, by_mode[mode])}'
              for mode, label in (('NR', 'No-reference'), ('FR', 'Full-reference')))  # fmt: skip
    versions = next(iter(results.values()))['versions'] if results else Counter()
    return PAGE.format(
        nr=len(by_mode['NR']), fr=len(by_mode['FR']), table_nr=tables['NR'], table_fr=tables['FR'],
        table_video=tables['VIDEO'],
        counts='\n'.join(counts), seconds=seconds, agrees=agrees, **versions,
        twice=', '.join(f'`{name}`' for name in sorted(metric_configs().keys() & BUILT_IN)),
    )  # fmt: skip


def _counted(results, names):
    counts = Counter(_verdict(results.get(name)) for name in names)
    return ', '.join(f'{count} {verdict}' for verdict, count in counts.most_common()) + '.'


def _verdict(found):
    if found is None:
        return 'not measured'
    if found['verdict'] == 'cannot be built':
        missing = ('ModuleNotFoundError', 'ImportError')
        return 'does not import here' if found['reason'].startswith(missing) else 'needs a download even to build'
    return found['verdict']


def _row(name, config, found, agrees):
    kind = config['metric_opts']['type']
    by_option = kind in FROM_FILE or name in VIDEO
    cells = [f'`{name}`', 'lower' if config.get('lower_better') else 'higher', _range(config), _verdict(found)]
    if found is None or 'works_from' not in found:
        weights = 'option' if by_option else ''
        return _line(*cells, weights, '', '', '', '', '', '', found['reason'] if found else '')
    weights = 'option' if by_option else 'cache' if found['files'] else 'none'
    works_from = 'none tried' if found['works_from'] is None else found['works_from']
    return _line(
        *cells,
        weights,
        _gradient(found, agrees),
        f'{found["min_side"]} ({works_from})',
        'any' if found['any_shape'] else 'not all',
        'yes' if found['batch'] else 'no',
        f'{found["megabytes"]:.0f}' if found['megabytes'] >= 0.5 else '',
        _magnitude(found['seconds']),
        '; '.join(_remarks(kind, found)),
    )


def _line(*cells):
    return f'| {" | ".join(str(cell).replace("|", "/") for cell in cells)} |'


def _range(config):
    low, high = parse_range(config.get('score_range'))
    return f'{low:g} to {high:g}' if math.isfinite(low + high) else f'from {low:g}' if math.isfinite(low) else (
        f'up to {high:g}')  # fmt: skip


def _gradient(found, agrees):
    if found['gradient'] != 'usable':
        return found['gradient']
    ratio = found['agreement']
    return 'exact' if abs(ratio - 1) <= agrees else f'inexact ({ratio:.2g})'


def _magnitude(seconds):
    return next((f'{limit:g} s' for limit in (0.1, 1, 10, 100) if seconds < limit * 3), '1000 s')


def _remarks(kind, found):
    if found['reason']:
        yield found['reason']
    if found.get('note'):
        yield found['note']
    if kind in CARE:
        yield CARE[kind]
    if kind in MULTIPLE:
        yield f'sides must be multiples of {MULTIPLE[kind]} px'
    if kind in NEEDS_CUDA:
        yield 'needs a CUDA GPU: pyiqa moves it there by itself; measured on a CPU with these moves left out'
    if not found['repeatable']:
        yield 'scores differ from call to call'
    if found.get('few_crops'):
        yield f'measured with {found["few_crops"]}'
    if isinstance(found['files'], dict):
        yield '; '.join(f'{option}: {file}' for option, file in found['files'].items())
    elif found['files'] and found['files'] != ['weights']:
        yield 'files: ' + ', '.join(found['files'])
