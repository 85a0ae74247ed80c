"""The experiments file: one small YAML that says which losses, networks and data sets make up a matrix."""

from dataclasses import dataclass, replace
from pathlib import Path

from nriqa_plugin.checks import (
    check_choice,
    check_file,
    check_flag,
    check_keys,
    check_number,
    in_place,
    unknown_name,
)
from nriqa_plugin.compare.family import BEST, HOSTS, LAST, Family, family_of
from nriqa_plugin.compare.yaml_files import read_yaml
from nriqa_plugin.evaluation.gain_matrix import EMPTY, ERROR

START = 'start'  # the baseline that is no loss: the checkpoint that the trainings start from
PRETRAIN = 'pretrain'  # the training before the others
START_KEYS = {'basicsr': 'path:pretrain_network_g', 'mmagic': 'load_from'}
SHARED = ('losses', 'rows', 'terms', 'set', 'test', 'judges')  # as in a family file of nriqa compare
KEYS = (*SHARED, 'networks', 'training_sets', 'baseline', 'checkpoint', 'per_image', 'undefined', 'optimises')
NETWORK_KEYS = ('base', START, PRETRAIN, 'set')
PRETRAIN_KEYS = ('loss', 'steps', 'set')


@dataclass(frozen=True)
class Pretrain:
    """A training before the others, whose best checkpoint they all start from.

    Attributes:
        family (Family): with its settings, and its loss alone.
        loss (str), steps (int | None): which loss, for how long (None: as the base file says).
    """

    family: Family
    loss: str
    steps: int | None


@dataclass(frozen=True)
class Group:
    """One network on one training set, to be fine-tuned with every loss.

    Attributes:
        name (str): of the network, with several training sets ``NETWORK_TRAININGSET``.
        family (Family): its trainings.
        pretrain (Pretrain | None): what comes first.
    """

    name: str
    family: Family
    pretrain: Pretrain | None


@dataclass(frozen=True)
class Experiments:
    """An experiments file that was read and checked.

    Attributes:
        file (Path): the experiments file.
        groups (tuple[Group, ...]): networks x training sets; all have the same losses, judges and test sets.
        baseline (str): ``start``, or a loss.
        per_image (bool), undefined (str): as in :func:`~nriqa_plugin.evaluation.gain_matrix.gain_matrix`.
        optimises (dict[str, tuple]): by loss further judges that it optimises, beside those that its terms name.
    """

    file: Path
    groups: tuple
    baseline: str
    per_image: bool
    undefined: str
    optimises: dict

    @property
    def losses(self):
        """The rows: every loss but the baseline."""
        return [loss for loss in self.groups[0].family.losses if loss != self.baseline]


def read_experiments(path, only=None, networks=None, weights=None, settings=None):
    """Read an experiments file.

    Its keys, those of a family file of ``nriqa compare`` (:func:`~nriqa_plugin.compare.family.read_family`) first:

    - ``losses``, ``rows``, ``terms``, ``set``, ``test``, ``judges``: as there.
    - ``networks``: ``{network: {base, start?, pretrain?, set?}}``. ``base`` is an option file beside this file, of
      BasicSR (``.yml``) or mmagic (``.py``); ``start`` the checkpoint instead of the base file's; ``pretrain``
      ``{loss, steps?, set?}`` a training before the others, from whose best checkpoint they start; ``set``
      ``{basicsr | mmagic: {key: value}}`` overrides for this network.
    - ``training_sets``: ``{training set: {basicsr | mmagic: {key: value}}}``, overrides that name the data. Every
      network is trained on every one. Without it the base files' own data.
    - ``baseline``: ``start`` (default), the checkpoint that the trainings start from, tested as it is; or one of the
      losses, trained as the others are.
    - ``checkpoint``: which one of a training is tested: ``last`` (default), after the same number of iterations for
      every loss, or ``best`` by the metric in the base file's ``save_best``. That one would pull all losses towards
      its metric: what PSNR chooses has hardly changed.
    - ``per_image``, ``undefined``: as :func:`~nriqa_plugin.evaluation.gain_matrix.gain_matrix`.
    - ``optimises``: ``{loss: [judge]}`` where the terms do not tell.

    Args:
        path (str | Path): the experiments file.
        only (Sequence[str] | None): losses to keep; the baseline stays.
        networks (Sequence[str] | None): networks to keep.
        weights (dict[str, str] | None), settings (dict | None): as :func:`~nriqa_plugin.compare.family.read_family`.

    Raises:
        ValueError, TypeError, FileNotFoundError: naming the file and the key.
    """
    path = check_file('experiments file', path)
    with in_place(path):
        raw = _mapping('the experiments file', read_yaml(path))
        check_keys('an experiments file', raw, KEYS)
        described = _mapping('networks', raw.get('networks'))
        if not described:
            raise ValueError('networks: there is none')
        for name in networks or ():
            _known('--network', name, described)
        kept = [name for name in described if not networks or name in networks]
        sets = _training_sets(raw.get('training_sets'))
        checkpoint = check_choice('checkpoint', raw.get('checkpoint', LAST), (BEST, LAST))
    shared = {key: raw[key] for key in SHARED if raw.get(key) is not None}
    baseline = raw.get('baseline', START)
    if only and baseline != START:
        only = [*dict.fromkeys([baseline, *only])]
    groups = []
    for network in kept:
        for training_set, overrides in sets.items():
            name = f'{network}_{training_set}' if len(sets) > 1 else network
            with in_place(path):
                if any(group.name == name for group in groups):
                    raise ValueError(f'networks and training_sets give two folders called {name!r}')
            option = _network(path, network, described[network])
            groups.append(_group(path, name, option, shared, overrides, (only, weights, settings), checkpoint))
    with in_place(path):
        losses = groups[0].family.losses
        for name, what in ((START, 'the starting checkpoint'), (PRETRAIN, 'the training before the others')):
            if name in losses:
                raise ValueError(f'losses: {name!r} is the name of {what}; choose another')
        if baseline != START:
            _known('baseline', baseline, losses)
        return Experiments(
            path, tuple(groups), baseline,
            check_flag('per_image', raw.get('per_image', False)),
            check_choice('undefined', raw.get('undefined', ERROR), (ERROR, EMPTY)),
            _optimises(raw.get('optimises') or {}, None if only else losses),
        )  # fmt: skip


def _network(path, name, option):
    where = f'networks.{name}'
    with in_place(path):
        if not str(name).isidentifier():
            raise ValueError(f'networks: {name!r} must be a plain name: letters, digits and underscores')
        check_keys(where, _mapping(where, option), NETWORK_KEYS)
        if not option.get('base'):
            raise ValueError(f'{where} has no base')
        if option.get(START) is not None:
            check_file(f'{where}.{START}', option[START])
        pretrain = option.get('pretrain')
        if pretrain is not None:
            check_keys(f'{where}.pretrain', _mapping(f'{where}.pretrain', pretrain), PRETRAIN_KEYS)
            if not pretrain.get('loss'):
                raise ValueError(f'{where}.pretrain has no loss')
            if pretrain.get('steps') is not None:
                check_number(f'{where}.pretrain.steps', pretrain['steps'], low=1, integer=True)
        return {**option, 'base': check_file(f'{where}.base', path.parent / option['base'])}


def _group(path, name, option, shared, overrides, more, checkpoint):
    """One group; ``more`` are ``only``, ``weights`` and ``settings`` of the command line."""
    only, weights, settings = more
    host = HOSTS.get(option['base'].suffix, '')
    start = {START_KEYS[host]: option[START]} if option.get(START) and host else {}
    with in_place(path):
        merged = {host: {}}
        for where, given in (('set', shared.get('set')), ('training_sets', overrides), (f'networks.{name}', option)):
            given = (given.get('set') if where.startswith('networks') else given) or {}
            check_keys(where, _mapping(where, given), HOSTS.values())
            merged[host] = {**merged[host], **_mapping(f'{where}.{host}', given.get(host) or {})}
    raw = {**shared, 'set': {host: {**merged[host], **start}}} if host else shared

    def family(names):
        read = family_of(path, {**raw, 'base': option['base']}, option['base'], names, weights, settings)
        return replace(read, checkpoint=checkpoint)

    pretrain = option.get('pretrain')
    if pretrain is None:
        return Group(name, family(only), None)
    with in_place(f'{name}.pretrain.loss'):
        alone = family([pretrain['loss']])
    with in_place(path):
        own = _mapping(f'{name}.pretrain.set', pretrain.get('set') or {})
        check_keys(f'{name}.pretrain.set', own, HOSTS.values())
    alone = replace(alone, settings={**alone.settings, **(own.get(host) or {})})
    return Group(name, family(only), Pretrain(alone, pretrain['loss'], pretrain.get('steps')))


def _training_sets(sets):
    if not sets:
        return {'': {}}
    for name in _mapping('training_sets', sets):
        if not str(name).isidentifier():
            raise ValueError(f'training_sets: {name!r} must be a plain name: letters, digits and underscores')
    return sets


def _optimises(given, losses):
    for loss, judges in _mapping('optimises', given).items():
        if losses is not None:  # else only some of them were read
            _known('optimises', loss, losses)
        if not isinstance(judges, list):
            raise TypeError(f'optimises.{loss} must be a list of judges, got {judges!r}')
    return {loss: tuple(map(str, judges)) for loss, judges in given.items()}


def _known(where, name, allowed):
    if name not in allowed:
        raise unknown_name(f'name in {where}:', name, map(str, allowed))


def _mapping(where, value):
    if not isinstance(value, dict):
        raise TypeError(f'{where} must be a mapping, got {value!r}')
    return value
