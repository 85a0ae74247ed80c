"""A run index of runs that were made elsewhere: scores files whose paths say what they are."""

import glob
import os
import re
from dataclasses import replace
from pathlib import Path

from nriqa_plugin.checks import unknown_name
from nriqa_plugin.evaluation.run_index import Run, RunIndex

PLACES = ('loss', 'network', 'dataset')


def runs_by_pattern(pattern, baseline, own=None):
    """Find scores files by a pattern such as ``scores/{network}/{dataset}/{loss}.csv``.

    Args:
        pattern (str): path with ``{loss}``, and where there are several ``{network}`` and ``{dataset}``; each stands
            for a part of a name without ``/``. A placeholder that comes twice stands for the same text.
        baseline (str): which loss the others are compared with.
        own (dict[str, Sequence[str]] | None): by loss the judges that it optimises.

    Returns:
        RunIndex: sorted by network, data set and loss.

    Raises:
        ValueError: a pattern without ``{loss}`` or with another placeholder, no file that fits, a name that fits in two
            ways, two files of one run, or an unknown loss in ``baseline`` or ``own``.
    """
    pattern = os.path.expanduser(pattern)
    names = re.findall(r'\{(\w*)\}', pattern)
    for name in names:
        if name not in PLACES:
            raise unknown_name(f'placeholder in {pattern!r}:', name, PLACES)
    if 'loss' not in names:
        raise ValueError(f'the pattern {pattern!r} must hold {{loss}}, for example scores/{{network}}/{{loss}}.csv')
    seen, expression = set(), ''
    for part in re.split(r'(\{\w+\})', pattern):
        name = part[1:-1]
        if part not in [f'{{{place}}}' for place in PLACES]:
            expression += re.escape(part)
        elif name in seen:
            expression += f'(?P={name})'
        else:
            expression += f'(?P<{name}>[^/]+)'
            seen.add(name)
    wildcards = re.sub(r'\\?\{\w+\\?\}', '*', ''.join(
        part if part[:1] == '{' else glob.escape(part) for part in re.split(r'(\{\w+\})', pattern)
    ))  # fmt: skip
    runs = []
    for file in sorted(glob.glob(wildcards)):
        if not (match := re.fullmatch(expression, file)):
            continue
        # The longest and the shortest parts: where these agree there is no third way.
        if match.groupdict() != re.fullmatch(expression.replace('[^/]+', '[^/]+?'), file).groupdict():
            raise ValueError(f'{file} fits {pattern!r} in more than one way; put folders between the placeholders')
        found = {'network': 'network', 'dataset': 'test', **match.groupdict()}
        more = tuple((own or {}).get(found['loss'], ()))
        runs.append(Run(name=found['loss'], scores=file, optimised=more, **found))
    if not runs:
        raise ValueError(f'no scores file fits {pattern!r}')
    losses = {run.loss for run in runs}
    for loss in own or {}:
        if loss not in losses:
            raise unknown_name('loss in --own:', loss, losses)
    return RunIndex(tuple(sorted(runs, key=lambda run: (run.network, run.dataset, run.loss))), baseline)


def with_folders(index, images=None, references=None, suffix=''):
    """The runs with the folders that crops are cut from.

    Args:
        index (RunIndex): from :func:`runs_by_pattern`.
        images (Sequence[str] | None): folders of results: ``LOSS=DIR`` for one loss, ``DIR`` for all others. In every
            text here ``{loss}``, ``{network}`` and ``{dataset}`` stand for those of the run.
        references (str | None), suffix (str): folder of ground truths; what the results' names have more.

    Returns:
        RunIndex

    Raises:
        FileNotFoundError: a folder that is not there.
        ValueError: an unknown loss or placeholder, two folders for one loss, or one for two runs.
    """
    losses, of_loss = {run.loss for run in index.runs}, {}
    for text in images or ():
        loss, equals, folder = text.partition('=')
        if equals and loss not in losses and '/' not in loss:
            raise unknown_name('loss in --images:', loss, losses)
        loss, folder = (loss, folder) if equals and loss in losses else (None, text)
        if loss in of_loss:
            raise ValueError(f'--images: two folders for {loss or "all losses"}: {of_loss[loss]} and {folder}')
        of_loss[loss] = folder
    runs, taken = [], {}
    for run in index.runs:
        text = of_loss.get(run.loss, of_loss.get(None))
        found = {'suffix': _filled('--suffix', suffix, run)}
        if text is not None:
            found['images'] = _folder('--images', text, run)
            other = taken.setdefault(found['images'], run)
            if other is not run:
                raise ValueError(
                    f'--images: {found["images"]} would be the results of two runs, {other.loss} and {run.loss} '
                    f'({" on ".join(run.place)}); write LOSS=DIR or put {{loss}} into it'
                )
        if references is not None:
            found['references'] = _folder('--reference', references, run)
        runs.append(replace(run, **found))
    return RunIndex(tuple(runs), index.baseline)


def _folder(option, text, run):
    path = Path(_filled(option, text, run)).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f'{option}: no such folder: {path} ({run.loss} of {" on ".join(run.place)})')
    return path


def _filled(option, text, run):
    """The text with what its placeholders stand for."""
    for name in re.findall(r'\{(\w*)\}', text):
        if name not in PLACES:
            raise unknown_name(f'placeholder in {option} {text!r}:', name, PLACES)
        text = text.replace(f'{{{name}}}', getattr(run, name))
    return text
