"""Is this machine ready: versions, frameworks, extras and judges."""

import importlib
import json
import math
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import torch

import nriqa_plugin
from nriqa_plugin.checks import import_extra
from nriqa_plugin.doctor.findings import Findings
from nriqa_plugin.iqa.lpips_scorer import BACKBONES
from nriqa_plugin.iqa.scorer import BUILT_IN, create_scorer

EXTRAS = ('basicsr', 'mmagic', 'iqa', 'report')
# Framework -> what has to import. The bare package often does although its working parts do not.
FRAMEWORKS = {
    'basicsr': ('basicsr', 'nriqa_plugin.basicsr'),
    'mmcv': ('mmcv', 'mmcv.ops'),
    'mmengine': ('mmengine',),
    'mmagic': ('mmagic', 'mmagic.models', 'mmagic.evaluation'),
}
# What the reason of a failed import looks like -> what helps.
HINTS = (
    ('functional_tensor', 'torchvision 0.17 dropped it; pip uninstall basicsr, then pip install basicsr-fixed'),
    (r'basicsr\.utils\.registry|_REGISTRY', 'this basicsr is too old for plugins; pip install basicsr-fixed'),
    (r'mmcv\._ext|undefined symbol', 'mmcv was built for another torch, or without its operators; build it anew'),
    (r'libGL|libgthread', 'OpenCV misses a system library; pip install opencv-python-headless'),
    (r'MMCV==|MMEngine==|cached_download|albumentations|diffusers|transformers', "pip install 'nriqa-plugin[mmagic]'"),
)
MARK = 'nriqa-doctor:'  # tells our lines from what packages print while they are imported
TRY_IMPORT = f"""
import importlib, importlib.util, json, sys
say = lambda **facts: print('\\n{MARK}' + json.dumps(facts), flush=True)
first = sys.argv[1]
spec = importlib.util.find_spec(first)
if spec:
    say(file=spec.origin or [*spec.submodule_search_locations, ''][0])
    try:
        for name in sys.argv[1:]:
            importlib.import_module(name)
        say(version=str(getattr(sys.modules[first], '__version__', '?')))
    except BaseException as error:
        say(failed=name, error=f'{{type(error).__name__}}: {{error}}')
"""


def check_environment(limit_s=180):
    """Everything that does not depend on an option file. Nothing is downloaded.

    Args:
        limit_s (float): how long the import of one framework may take, in seconds.

    Returns:
        Findings
    """
    found = Findings()
    found.add('Versions', ('package', 'version', 'where'), versions())
    found.add('Frameworks', ('package', 'version', 'imports', 'from'), frameworks(found, limit_s))
    found.add('Extras', ('extra', 'state', 'missing', 'install'), extras(found))
    columns = ('judge', 'better', 'range', 'min side', 'reference', 'works without options')
    found.add('Judges', columns, [judge(name, found) for name in BUILT_IN])
    return found


def versions():
    """Rows (package, version, where)."""
    device = ('CPU', 'no GPU')
    if torch.cuda.is_available():
        device = (f'{torch.cuda.device_count()} GPU', torch.cuda.get_device_name())
    return [
        ('Python', platform.python_version(), sys.executable),
        ('torch', torch.__version__, f'CUDA {torch.version.cuda}' if torch.version.cuda else 'built without CUDA'),
        ('device', *device),
        ('torchvision', _version('torchvision') or 'missing', ''),
        ('numpy', _version('numpy') or 'missing', ''),
        ('nriqa_plugin', nriqa_plugin.__version__, Path(nriqa_plugin.__file__).parent),
    ]


def frameworks(found, limit_s):
    """Rows (package, version, imports, from), each tried in a process of its own: a broken package breaks only that.

    The processes look where ``python -m basicsr.train``, started in the current folder, would look: there first.
    Many papers' repositories hold a ``basicsr`` of their own.
    """
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda names: try_import(names, limit_s), FRAMEWORKS.values())
        return [_framework_row(name, facts, found) for name, facts in zip(FRAMEWORKS, results, strict=True)]


def try_import(names, limit_s):
    """Import modules one after the other in a fresh interpreter.

    Returns:
        dict: empty when the first does not exist, else ``file`` and either ``version`` or ``failed`` and ``error``.
    """
    command = [sys.executable, '-c', TRY_IMPORT, *names]
    try:
        result = subprocess.run(command, capture_output=True, timeout=limit_s, stdin=subprocess.DEVNULL)
        output, end = result.stdout, f'the interpreter died with exit code {result.returncode}'
    except subprocess.TimeoutExpired as error:
        output, end = error.stdout or b'', f'no answer within {limit_s} s'
    facts = {}
    for line in output.decode(errors='replace').splitlines():
        if line.startswith(MARK):
            facts |= json.loads(line.removeprefix(MARK))
    if facts and not facts.keys() & {'version', 'failed'}:
        facts |= {'failed': names[0], 'error': end}
    return facts


def _framework_row(name, facts, found):
    if not facts:
        return name, '', 'not installed', ''
    path = Path(facts['file'])
    own = path.is_relative_to(Path.cwd()) and 'site-packages' not in path.parts
    where = f'{path.parent}{" (the copy in the current folder)" if own else ""}'
    if 'failed' not in facts:
        return name, facts['version'], 'yes', where
    reason = ' '.join(facts['error'].split())
    found.problems.append(f'{facts["failed"]} does not import: {reason}{hint_for(reason)}')
    return name, '', f'no: {facts["failed"]}', where


def hint_for(reason):
    """What helps against a failed import, to be put behind its reason; '' when unknown."""
    return next((f' ({hint})' for pattern, hint in HINTS if re.search(pattern, reason)), '')


def extras(found):
    """Rows (extra, state, missing, install)."""
    try:
        wanted = metadata.requires('nriqa-plugin') or []
    except metadata.PackageNotFoundError:
        found.advice.append('nriqa-plugin runs from its source without being installed: its extras are unknown')
        return []
    rows = []
    for extra in EXTRAS:
        own = [text for text in wanted if re.search(rf'extra == [\'"]{extra}[\'"]', text)]
        missing = [text for text in map(_missing, own) if text]
        install = f"pip install 'nriqa-plugin[{extra}]'" if missing else ''
        rows.append((extra, 'missing' if missing else 'installed', ', '.join(missing), install))
    return rows


def _missing(requirement):
    """The requirement and what is there instead, or '' when it is met."""
    text = requirement.partition(';')[0].strip()
    name, specifier = re.match(r'([\w.-]+)\s*(.*)', text).groups()
    version = _version(name)
    if version is None:
        return text
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # not required by us, only brought along by nearly everything else
        return ''
    return '' if SpecifierSet(specifier).contains(version, prereleases=True) else f'{text} (found {version})'


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def judge(name, found):
    """Row (judge, better, range, min side, reference, works without options) of a built-in judge."""
    module, _, attribute = BUILT_IN[name].partition(':')
    known = getattr(importlib.import_module(module), attribute)  # a class tells its facts without being built
    verdict = 'yes'
    try:
        if name == 'lpips':
            _check_lpips_is_cached()
        known = create_scorer(name)
    except (ImportError, OSError, ValueError) as error:
        verdict = re.sub(rf'^(the judge )?{name} needs ', 'needs ', ' '.join(str(error).split()))
    except Exception as error:
        verdict = f'no: {type(error).__name__}: {error}'
        found.problems.append(f'the judge {name} cannot be built: {type(error).__name__}: {error}')
    if not hasattr(known, 'higher_better'):
        return name, '', '', '', '', verdict
    low, high = ('∞' if math.isinf(bound) else f'{bound:g}' for bound in known.score_range)
    span = f'{"-" * (low == "∞")}{low} .. {high}'
    better = 'higher ↑' if known.higher_better else 'lower ↓'
    reference = 'yes' if known.needs_reference else 'no'
    min_side = BACKBONES['alex'][2] if name == 'lpips' else known.min_side  # its class does not know the backbone yet
    return name, better, span, f'{min_side} px', reference, verdict


def _check_lpips_is_cached():
    """Building LPIPS would download its backbone when torch's cache does not hold it."""
    import_extra('lpips', 'iqa', 'the judge lpips')
    file = BACKBONES['alex'][1]
    if not (Path(torch.hub.get_dir()) / 'checkpoints' / file).is_file():
        raise FileNotFoundError(f'lpips needs {file}: a copy named by weights, or a download at first use')
