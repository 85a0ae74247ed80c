"""The family file: one small YAML that says which trainings are compared, and by what."""

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from nriqa_plugin.checks import check_file, check_keys, check_number, in_place, unknown_name
from nriqa_plugin.compare.yaml_files import read_yaml
from nriqa_plugin.losses.presets import read_presets

KEYS = ('base', 'losses', 'rows', 'terms', 'set', 'test', 'judges', 'plane', 'against', 'search')
SHARED_KEYS = ('losses', 'against', 'search')
HOSTS = {'.yml': 'basicsr', '.yaml': 'basicsr', '.py': 'mmagic'}
TEST_KEYS = ('gt', 'lq', 'filename_tmpl', 'degradation')
JUDGE_KEYS = ('metric', 'weights', 'options', 'crop_border')
GRID = [10.0**power for power in range(-3, 4)]  # the paper's
BEST, LAST = 'best', 'last'  # checkpoints
TERMS = 'terms'  # select_by: the loss's own terms


@dataclass(frozen=True)
class Search:
    """Which weight of a loss is looked for: that of ``term``, among ``grid``, in trainings of ``steps`` (None: whole).

    ``select_by`` is the criterion, the same for every weight: ``terms`` or a judge, see
    :mod:`nriqa_plugin.compare.search`.
    """

    term: str
    grid: list = field(default_factory=lambda: list(GRID))
    steps: int | None = None
    select_by: object = TERMS


@dataclass(frozen=True)
class Family:
    """A family file that was read and checked.

    Attributes:
        file, base (Path): the family file and the option file that all trainings share.
        host (str): ``basicsr`` or ``mmagic``, by the ending of ``base``.
        losses (dict[str, dict[str, dict]]): the terms of LossSum by loss and name of the term.
        settings (dict): overrides of the base file.
        test (dict): data sets to test on instead of the base file's.
        judges (list[dict]): ``{metric, weights?, options?, crop_border?}``.
        plane (tuple[str, str] | None): metrics of distortion and perception; None: the first two judges.
        against (str | None): the loss that the stars refer to.
        search (dict[str, Search]): by loss.
        checkpoint (str): which one is tested, ``best`` by validation or the ``last``.
        more (dict[str, dict]): by loss further options of its LossSum, ``balance`` and ``grad_norms`` of a preset.
    """

    file: Path
    base: Path
    host: str
    losses: dict
    settings: dict
    test: dict
    judges: list
    plane: tuple | None
    against: str | None
    search: dict
    checkpoint: str = BEST
    more: dict = field(default_factory=dict)


def read_family(path, base=None, only=None, weights=None, settings=None):
    """Read a family file.

    Its keys:

    - ``base``: option file, ``.yml`` of BasicSR or ``.py`` of mmagic.
    - ``losses``: ``{loss: {term: {type, weight, ...}}}``, or a file that holds such under ``losses`` and may hold
      ``against`` and ``search`` too, or a file of presets (:func:`~nriqa_plugin.losses.presets.read_presets`).
    - ``rows``: those of the losses that are meant, where the file holds more.
    - ``terms``: ``{term: options}``, merged into every term of that name, for example ``weights: FILE``.
    - ``set``: ``{basicsr: {'train:total_iter': 1000}, mmagic: {train_cfg.max_iters: 1000}}``.
    - ``test``: ``{data set: {gt, lq?, filename_tmpl?, degradation?}}``.
    - ``judges``, ``plane`` (metrics of x and y), ``against`` (a loss), ``search`` (``{loss: {term, grid?, steps?,
      select_by?}}``).

    ``base`` and ``losses`` are looked up beside the family file, other files in the current folder, as the hosts do.

    Args:
        path (str | Path): the family file.
        base (str | Path | None): another base than the file's, also of the other host.
        only (Sequence[str] | None): the losses to keep.
        weights (dict[str, str] | None): file of weights by term, over those of the file; judges with that metric that
            have none get it too.
        settings (dict | None): overrides of the base file, over those of the file.

    Returns:
        Family

    Raises:
        ValueError, TypeError, FileNotFoundError: naming the file and the key.
    """
    path = check_file('family file', path)
    with in_place(path):
        raw = _mapping('the family file', read_yaml(path))
        check_keys('a family file', raw, KEYS)
    return family_of(path, raw, base, only, weights, settings)


def family_of(path, raw, base=None, only=None, weights=None, settings=None):
    """What :func:`read_family` makes of the content ``raw`` of the file ``path``."""
    with in_place(path):
        raw = {**_shared(path, raw), **{key: value for key, value in raw.items() if key != 'losses'}}
        base = check_file('--base', base) if base else check_file('base', path.parent / _needed(raw, 'base'))
        if base.suffix not in HOSTS:
            raise ValueError(f'base: {base} must end in {", ".join(HOSTS)}')
        host = HOSTS[base.suffix]
        merged = deepcopy(_mapping('terms', raw.get('terms') or {}))
        weights = weights or {}
        judges = raw.get('judges') or ['psnr', 'lpips']
        judges = [_judge(f'judges[{i}]', judge, weights) for i, judge in enumerate(judges)]
        raw_losses = _mapping('losses', _needed(raw, 'losses'))
        if raw.get('rows') is not None:
            raw_losses = _rows(raw['rows'], raw_losses)
        terms = _terms(raw_losses)
        for name in weights:
            _known('--weights', name, {*terms, *(str(judge['metric']) for judge in judges)})
        for term in terms & weights.keys():
            merged.setdefault(term, {})['weights'] = weights[term]
        losses = _losses(raw_losses, merged)
        search = {
            name: _search(name, option, losses, weights)
            for name, option in _mapping('search', raw.get('search') or {}).items()
        }
        kept = {name: losses[_known('--only', name, losses)] for name in only} if only else losses
        _check_files(kept)
        against = raw.get('against')
        if against is not None:
            _known('against', against, losses)
        sections = _mapping('set', raw.get('set') or {})
        check_keys('set', sections, HOSTS.values())
        return Family(
            file=path,
            base=base,
            host=host,
            losses={name: losses[name] for name in losses if name in kept},
            settings={**_mapping(f'set.{host}', sections.get(host) or {}), **(settings or {})},
            test=_test_sets(raw.get('test') or {}),
            judges=judges,
            plane=_plane(raw.get('plane')),
            against=against if against in kept else None,
            search=search,
            more={name: option for name, option in raw.get('more', {}).items() if name in kept and option},
        )


def with_weight(terms, term, weight):
    """The same terms with another weight of one of them."""
    return {name: {**option, 'weight': weight} if name == term else option for name, option in terms.items()}


def _shared(path, raw):
    """``losses`` of the family file, or everything in the file that it names."""
    losses = _needed(raw, 'losses')
    if not isinstance(losses, str):
        return {'losses': losses}
    file = check_file('losses', path.parent / losses)
    with in_place(file):
        shared = _mapping('a file of losses', read_yaml(file))
    if 'presets' in shared:
        sums = read_presets(file)
        more = {name: {key: value for key, value in option.items() if key != TERMS} for name, option in sums.items()}
        return {'losses': {name: option[TERMS] for name, option in sums.items()}, 'more': more}
    with in_place(file):
        check_keys('a file of losses', shared, SHARED_KEYS)
        _needed(shared, 'losses')
    return shared


def _rows(rows, losses):
    """The losses that ``rows`` names, in that order."""
    if not isinstance(rows, list) or not rows:
        raise ValueError(f'rows must be a list of losses, got {rows!r}')
    return {_known('rows', name, losses): losses[name] for name in rows}


def _terms(losses):
    """The names of all terms."""
    return {term for terms in losses.values() for term in (terms if isinstance(terms, dict) else ())}


def _losses(losses, merged):
    """Checked terms by loss, with the options of ``terms`` merged in."""
    for term in merged:
        _known('terms', term, _terms(losses))
    found = {}
    for name, terms in losses.items():
        if not str(name).isidentifier():
            raise ValueError(f'losses: {name!r} must be a plain name: letters, digits and underscores')
        where = f'losses.{name}'
        found[name] = {}
        for term, option in _mapping(where, terms).items():
            option = _mapping(f'{where}.{term}', option)
            for key in ('type', 'weight'):
                if key not in option:
                    raise ValueError(f'{where}.{term} has no {key!r}')
            if option['weight'] != 'paper':
                check_number(f'{where}.{term}.weight', option['weight'], low=0)
            found[name][term] = {**option, **_mapping(f'terms.{term}', merged.get(term) or {})}
        if not found[name]:
            raise ValueError(f'{where} has no terms')
    return found


def _check_files(losses):
    """An error now rather than after the first training."""
    for name, terms in losses.items():
        for term, option in terms.items():
            where = f'losses.{name}.{term}'
            if option.get('weights') is not None:
                check_file(f'{where}.weights', option['weights'])
            elif option['type'] == 'MDFLoss':
                raise ValueError(f'{where}: MDFLoss needs its discriminators: name the file that `nriqa train-mdf` or '
                                 f'`nriqa convert-mdf` wrote, with --weights {term}=FILE or terms: '
                                 f'{{{term}: {{weights: FILE}}}}; or leave the loss out with --only')  # fmt: skip


def _search(name, option, losses, weights):
    where = f'search.{name}'
    _known('search', name, losses)
    option = _mapping(where, option)
    check_keys(where, option, Search.__dataclass_fields__)
    _known(f'{where}.term', _needed(option, 'term', where), losses[name])
    grid = option.get('grid', GRID)
    if not isinstance(grid, list) or len(set(map(str, grid))) < max(2, len(grid)):
        raise ValueError(f'{where}.grid must be a list of two or more different weights, got {grid!r}')
    for i, weight in enumerate(grid):
        check_number(f'{where}.grid[{i}]', weight, low=0)
    steps, select_by = option.get('steps'), option.get('select_by', TERMS)
    if steps is not None:
        check_number(f'{where}.steps', steps, low=1, integer=True)
    if select_by != TERMS:
        select_by = _judge(f'{where}.select_by', select_by, weights)
    return Search(option['term'], list(grid), steps, select_by)


def _judge(where, judge, weights):
    judge = {'metric': judge} if isinstance(judge, str) else _mapping(where, judge)
    check_keys(where, judge, JUDGE_KEYS)
    _needed(judge, 'metric', where)
    if judge.get('weights') is None and str(judge['metric']) in weights:
        judge = {**judge, 'weights': weights[judge['metric']]}
    if judge.get('weights') is not None:
        check_file(f'{where}.weights', judge['weights'])
    return judge


def _test_sets(sets):
    for name, option in _mapping('test', sets).items():
        where = f'test.{name}'
        if not str(name).isidentifier():
            raise ValueError(f'{where}: the name must be letters, digits and underscores')
        check_keys(where, _mapping(where, option), TEST_KEYS)
        _needed(option, 'gt', where)
        if 'lq' in option and 'degradation' in option:
            raise ValueError(f'{where}: give lq (a folder) or degradation (made on the fly), not both')
    return sets


def _plane(plane):
    if plane is None:
        return None
    if not isinstance(plane, list) or len(plane) != 2:
        raise ValueError(f'plane must be two metrics, of x and y, got {plane!r}')
    return tuple(plane)


def _needed(mapping, key, where='the file'):
    if mapping.get(key) in (None, ''):
        raise ValueError(f'{where} has no {key!r}')
    return mapping[key]


def _known(where, name, allowed):
    if name not in allowed:
        raise unknown_name(f'name in {where}:', name, map(str, allowed))
    return name


def _mapping(where, value):
    if not isinstance(value, dict):
        raise TypeError(f'{where} must be a mapping, got {value!r}')
    return value
