"""What installing and importing promise: a light package, a core without frameworks, imports in one direction."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nriqa_plugin

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'nriqa_plugin'

FRAMEWORKS = {'basicsr', 'mmagic', 'mmcv', 'mmengine'}
OPTIONAL = {'av', 'jinja2', 'lpips', 'matplotlib', 'piq', 'pyiqa', 'spandrel'}

# Which parts of the package each part may import; itself always.
CORE = {'checks', 'clips', 'iqa', 'losses', 'multigt', 'evaluation', 'preference', 'mdf', 'lora', 'archs'}
ALLOWED = {
    '': set(),
    'checks': set(),
    'iqa': {'checks', 'mdf'},
    'losses': {'checks', 'iqa', 'mdf'},
    'multigt': {'checks', 'iqa', 'evaluation'},
    'evaluation': {'checks', 'iqa'},
    'clips': {'checks', 'evaluation', 'mdf'},
    'preference': {'checks', 'iqa', 'evaluation', 'multigt'},
    'mdf': {'checks'},
    'lora': {'checks'},
    'archs': {'checks'},
    'basicsr': CORE,
    'mmagic': CORE,
    'stock_runs': CORE,
    'demo': CORE | {'stock_runs'},
    'compare': CORE | {'stock_runs'},
    'matrix': CORE | {'compare'},
    'report': CORE,
    'doctor': CORE | {'basicsr'},  # the adapter inside functions only: it may be what is broken
    'cli': CORE | {'basicsr', 'mmagic', 'compare', 'demo', 'doctor', 'matrix', 'report'},
    '__main__': {'cli'},
}
# These also use nothing but PyTorch, so that they can be copied into any project.
TORCH_ONLY = {'mdf', 'lora', 'archs'}


def run_python(code, *args):
    """Run ``code`` in a fresh interpreter and return the JSON that it prints."""
    result = subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def part_of(file):
    """The part of the package that a file belongs to: '' for the package's own ``__init__``."""
    first = file.relative_to(PACKAGE).parts[0]
    return '' if first == '__init__.py' else first.removesuffix('.py')


def imports_of(file, package=PACKAGE):
    """The dotted names that a file imports anywhere, also inside functions; relative ones made absolute.

    ``from a import b`` gives ``a.b``, since ``b`` may be a module.
    """
    here = [package.name, *file.relative_to(package).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            names |= {'.'.join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names}
        elif isinstance(node, ast.Call) and _is_dynamic_import(node):
            names.add(node.args[0].value)
    return names


def _is_dynamic_import(call):
    function = getattr(call.func, 'attr', getattr(call.func, 'id', None))
    named = function in ('import_module', '__import__', 'import_extra')
    return named and bool(call.args) and isinstance(getattr(call.args[0], 'value', None), str)


def modules():
    return sorted(PACKAGE.rglob('*.py'))


def test_importing_the_package_loads_nothing_heavy():
    loaded = run_python('import sys, json, nriqa_plugin; print(json.dumps([m.split(".")[0] for m in sys.modules]))')
    heavy = {'torch', 'torchvision', 'numpy', 'scipy', 'PIL', 'typer', 'rich'} | FRAMEWORKS | OPTIONAL
    assert not set(loaded) & heavy


def test_importing_the_package_takes_less_than_50_ms():
    """The best of five fresh interpreters: one quiet moment is enough, so a busy machine does not fail it."""
    code = 'import time; t = time.perf_counter(); import nriqa_plugin; print(time.perf_counter() - t)'
    assert min(run_python(code) for _ in range(5)) < 0.05


def test_core_imports_without_frameworks_and_optional_packages():
    code = """
import importlib, json, pkgutil, sys

blocked = set(sys.argv[1].split(','))
core = set(sys.argv[2].split(','))

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in blocked:
            raise ModuleNotFoundError(f'{name} is blocked', name=name)

sys.meta_path.insert(0, Block())
import nriqa_plugin
imported, failed = [], {}
for module in pkgutil.walk_packages(nriqa_plugin.__path__, 'nriqa_plugin.', onerror=lambda name: None):
    if module.name.split('.')[1] in core:
        try:
            importlib.import_module(module.name)
            imported.append(module.name)
        except Exception as error:
            failed[module.name] = repr(error)
print(json.dumps([imported, failed]))
"""
    imported, failed = run_python(code, ','.join(FRAMEWORKS | OPTIONAL), ','.join(CORE))
    assert not failed
    expected = {f for f in modules() if part_of(f) in CORE}
    assert len(imported) == len(expected), 'a folder without __init__.py is not imported'


@pytest.mark.parametrize('file', modules(), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_one_way(file):
    part, imports = part_of(file), imports_of(file)
    assert part in ALLOWED, f'{part} is new: give it a place in ALLOWED'
    inner = {name.split('.')[1] for name in imports if name.startswith('nriqa_plugin.')}
    inner = {name for name in inner if name in ALLOWED}  # a plain name such as __version__ is no module
    assert inner <= ALLOWED[part] | {part}, f'{part} may import {sorted(ALLOWED[part])} only'

    outer = {name.split('.')[0] for name in imports} - {'nriqa_plugin'}
    if part in CORE:
        assert not outer & FRAMEWORKS, 'the core never imports a framework'
    if part == 'basicsr':
        assert not outer & (FRAMEWORKS - {'basicsr'}), 'the adapters stay apart'
    if part == 'mmagic':
        assert 'basicsr' not in outer, 'the adapters stay apart'
    if part in TORCH_ONLY:
        # Pillow comes with torchvision, numpy with both: the real JPEG coder and the Lanczos filter.
        allowed = {'torch', 'torchvision', 'numpy', 'PIL'} if part == 'mdf' else {'torch', 'torchvision'}
        assert outer - sys.stdlib_module_names <= allowed


def test_imports_are_found_wherever_they_stand(tmp_path):
    """The reader of imports itself: nested, relative and dynamic ones count."""
    folder = tmp_path / 'nriqa_plugin' / 'losses'
    folder.mkdir(parents=True)
    file = folder / 'a.py'
    file.write_text(
        'import torch.nn as nn\n'
        'from .. import checks\n'
        'from ..iqa.scorer import Scorer\n'
        'from .b import f\n'
        'def late():\n'
        '    from nriqa_plugin import evaluation\n'
        "    importlib.import_module('mmengine.runner')\n"
    )
    assert imports_of(file, tmp_path / 'nriqa_plugin') == {
        'torch.nn',
        'nriqa_plugin.checks',
        'nriqa_plugin.iqa.scorer.Scorer',
        'nriqa_plugin.losses.b.f',
        'nriqa_plugin.evaluation',
        'mmengine.runner',
    }


def setup_arguments():
    """What setup.py hands to setuptools."""
    code = """
import json, setuptools
setuptools.setup = lambda **options: print(json.dumps(options))
exec(compile(open('setup.py').read(), 'setup.py', 'exec'), {'__file__': 'setup.py', '__name__': '__main__'})
"""
    return run_python(code)


def test_setup_names_the_version_and_finds_every_module():
    options = setup_arguments()
    assert options['version'] == nriqa_plugin.__version__
    folders = {file.parent.relative_to(ROOT) for file in modules()}
    assert set(options['packages']) == {'.'.join(folder.parts) for folder in folders}


def test_what_is_imported_at_the_top_is_required():
    """A plain installation imports everything but the adapters; an extra's package is imported where it is used."""
    required = {_canonical(re.split(r'[<>=!~ ]', text)[0]) for text in setup_arguments()['install_requires']}
    required |= {'PIL'} if 'pillow' in required else set()
    missing = {}
    for file in modules():
        if part_of(file) not in ('basicsr', 'mmagic'):
            outer = {name.split('.')[0] for name in top_imports_of(file)} - sys.stdlib_module_names - {'nriqa_plugin'}
            missing |= dict.fromkeys(outer - required, file.name)
    assert not missing, 'add to install_requires, or import where it is used'


def top_imports_of(file):
    """The dotted names of other packages that a file imports as soon as it is imported itself."""
    for node in ast.parse(file.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def test_tested_set_satisfies_setup():
    """Every requirement, also of the extras, is pinned in constraints.txt at a version that it allows."""
    packaging = pytest.importorskip('packaging.requirements')
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    pins = {}
    for line in lines:
        if not line.startswith('#'):
            pin = packaging.Requirement(line)
            (specifier,) = pin.specifier
            assert specifier.operator == '==', line
            assert '+' not in specifier.version, f'a local build cannot be installed elsewhere: {line}'
            pins[_canonical(pin.name)] = specifier.version
    options = setup_arguments()
    for text in [*options['install_requires'], *(r for extra in options['extras_require'].values() for r in extra)]:
        wanted = packaging.Requirement(text)
        assert pins.get(_canonical(wanted.name)) in wanted.specifier, text


def _canonical(name):
    return re.sub(r'[-_.]+', '-', name).lower()


def test_no_file_names_a_machine_or_a_package_index():
    listing = _run_git('ls-files', '-co', '--exclude-standard')
    if listing is None or Path(_run_git('rev-parse', '--show-toplevel').strip()).resolve() != ROOT:
        pytest.skip('not a git checkout')
    pattern = re.compile(
        r'(?<![\w.~})*-])/(?:work|home|root|Users|mnt)/'
        r'|(?:extra|pip)[-_]index[-_]url|--index[-_]url|index[-_]url\s*=|trusted[-_]host|find[-_]links',
        re.IGNORECASE,
    )
    found = []
    for name in listing.splitlines():
        path = ROOT / name
        if path.is_file() and b'\0' not in (data := path.read_bytes())[:8192]:
            lines = data.decode('utf-8', errors='replace').splitlines()
            found += [f'{name}:{n}: {line.strip()}' for n, line in enumerate(lines, 1) if pattern.search(line)]
    assert not found


def _run_git(*args):
    """The output of git, or None when it is missing or this is no checkout."""
    if shutil.which('git') is None:
        return None
    result = subprocess.run(['git', *args], cwd=ROOT, capture_output=True, text=True)
    return None if result.returncode else result.stdout
