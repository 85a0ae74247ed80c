"""What made a scores file: judges, package versions and device, in a small JSON file beside it."""

import json
import logging
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from nriqa_plugin import __version__
from nriqa_plugin.checks import atomic_path

PACKAGES = ('torch', 'torchvision', 'numpy', 'Pillow', 'av', 'lpips', 'piq', 'pyiqa')

logger = logging.getLogger('nriqa_plugin')


def provenance_path(out):
    """The file that belongs to the scores file ``out``: ``scores.csv.provenance.json``."""
    out = Path(out)
    return out.with_name(f'{out.name}.provenance.json')


def record_provenance(out, judges, device, goes_on):
    """Note who scores from here on, before the first row is written, so that a crash does not lose it.

    The file is ``{"version": 1, "runs": [{"started", "judges": {metric: {...}}, "packages", "device", "python"}]}``.
    A run is added when anything in it but the time differs from the last one. A row of the scores file is from the
    last run that was there when it was written; its column ``version`` and its hashes hold for it alone.

    Args:
        out (str | Path): the scores file.
        judges (dict[str, tuple[Scorer, str]]): by metric, judge and ``weights_hash()``.
        device (torch.device): where they score.
        goes_on (bool): whether the file holds rows already; otherwise the record begins anew.

    Raises:
        ValueError: the record is damaged.
    """
    path, run = provenance_path(out), _run(judges, device)
    runs = _read(path) if goes_on and path.is_file() else []
    if runs:
        differing = _differing(runs[-1], run)
        if differing:
            logger.warning(f'{out} was begun with {differing}: scores may differ slightly; {path.name} tells both')
        if {**runs[-1], 'started': ''} == {**run, 'started': ''}:
            return
    elif goes_on:
        logger.warning(f'{out} has rows but no {path.name}: what made them is not known')
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({'version': 1, 'runs': [*runs, run]}, indent=1) + '\n', encoding='utf-8')


def read_provenance(out):
    """The runs that made a scores file, the oldest first; empty when nothing was recorded.

    Raises:
        ValueError: the record is damaged.
    """
    path = provenance_path(out)
    return _read(path) if path.is_file() else []


def _run(judges, device):
    return {
        'started': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'judges': {
            metric: {
                'judge': f'{type(judge).__module__}.{type(judge).__qualname__}',
                'judge_hash': judge_hash,
                'higher_better': judge.higher_better,
                'options': {key: _plain(value) for key, value in sorted(judge.plain_options())},
            }
            for metric, (judge, judge_hash) in sorted(judges.items())
        },
        'packages': {'nriqa-plugin': __version__, **_versions()},
        'device': f'{device.type}: {_device_name(device)}',
        'python': platform.python_version(),
    }


def _plain(value):
    """As JSON knows it: without tuples and infinities."""
    return value if isinstance(value, (bool, int, str)) else repr(value)


def _versions():
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _device_name(device):
    if device.type == 'cuda':
        import torch

        return torch.cuda.get_device_name(device)
    return platform.machine()


def _differing(old, new):
    """``torch 2.1 (now 2.11), ...``: what of the surroundings is another than before."""
    before, now = ({**run['packages'], 'device': run['device'], 'Python': run['python']} for run in (old, new))
    return ', '.join(
        f'{name} {before.get(name)} (now {now.get(name)})'
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    )


def _read(path):
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
        runs = found['runs']
        for run in runs:
            run['packages'].items(), run['judges'].items(), run['device'], run['python']
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is no record of a scores file (damaged?): {error}; delete it') from error
    return runs
