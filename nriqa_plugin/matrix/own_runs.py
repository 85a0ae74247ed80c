"""A run index of runs that were made elsewhere: scores files whose paths say what they are."""

import glob
import os
import re

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
