"""Presets: a file of named sums of terms, of which an option file or the command line chooses one by its name."""

from copy import deepcopy

from nriqa_plugin.checks import check_file, check_flag, check_keys, import_extra, in_place, unknown_name

FILE_KEYS = ('terms', 'presets')
PRESET_KEYS = ('terms', 'balance', 'grad_norms')
CHOICE = ('preset', 'presets')  # what an option file says


def read_presets(path):
    """The sums in a file of presets.

    Its keys:

    - ``terms``: ``{name: {type, weight, ...}}``, terms as ``LossSum`` takes them, each written once.
    - ``presets``: ``{preset: {terms, balance?, grad_norms?}}``, where ``terms`` is a list of names from the file's
      ``terms``, or a mapping as there for terms of this preset only.

    Args:
        path (str | Path): a YAML file, looked for in the current folder as all files of option files are.

    Returns:
        dict[str, dict]: by preset ``{terms, balance?, grad_norms?}`` with ``terms`` a mapping.

    Raises:
        FileNotFoundError: no such file.
        ValueError, TypeError: naming the file and the key; the whole file is checked.
    """
    file = check_file('presets (a path from the current folder)', path)
    yaml = import_extra('yaml', 'basicsr', 'presets of LossSum')
    with in_place(f'presets: {path}'):
        try:
            raw = _mapping('the file', yaml.safe_load(file.read_text(encoding='utf-8')))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f'not readable as YAML: {error}') from error
        check_keys('a file of presets', raw, FILE_KEYS)
        terms = _terms('terms', raw.get('terms') or {})
        named = _mapping('presets', raw.get('presets'))
        if not named:
            raise ValueError('presets: there is none')
        return {str(name): _preset(f'presets.{name}', option, terms) for name, option in named.items()}


def with_preset(option):
    """The options of a ``LossSum`` with its preset written out: the same sum without ``preset`` and ``presets``.

    What is given beside the preset goes first. Of ``terms``, a mapping then, an entry with a ``type`` is a term of its
    own, which is added or takes the place of the preset's of that name; one without is merged into the preset's term
    (``lpips: {weights: FILE}``), and does nothing where the chosen preset lacks a term that others in the file have;
    ``None`` leaves the preset's term out. ``balance`` is merged into the preset's.

    Args:
        option (dict): of a ``LossSum``, of which only ``terms``, ``balance``, ``grad_norms``, ``preset`` and
            ``presets`` are looked at; it is not changed.

    Returns:
        dict: ``option`` itself if it has no preset.

    Raises:
        FileNotFoundError: no such file.
        ValueError, TypeError: a preset without a file or the reverse, an unknown preset with the closest names, terms
            that cannot be merged, or as :func:`read_presets`.
    """
    preset, path = (option.get(key) for key in CHOICE)
    if preset is None and path is None:
        return option
    if path is None:
        raise ValueError(f'preset {preset!r} needs presets: the file that holds it')
    known = read_presets(path)
    if preset is None:
        raise ValueError(f'presets: choose a preset of {path}: {", ".join(known)}')
    if preset not in known:
        raise unknown_name(f'preset of {path}:', preset, known)
    chosen = deepcopy(known[preset])
    names = {name for sums in known.values() for name in sums['terms']}
    chosen['terms'] = _merged(chosen['terms'], option.get('terms'), names)
    if not chosen['terms']:
        raise ValueError(f'terms: every term of the preset {preset!r} is left out')
    balance, grad_norms = option.get('balance'), option.get('grad_norms')
    if balance is not None:
        chosen['balance'] = {**chosen.get('balance', {}), **balance} if isinstance(balance, dict) else balance
    if grad_norms is not None:
        chosen['grad_norms'] = grad_norms
    return {**{key: value for key, value in option.items() if key not in CHOICE}, **chosen}


def _merged(terms, given, names):
    """``given`` over ``terms``; ``names`` are those of all terms of the file."""
    if given is None:
        return terms
    if not isinstance(given, dict):
        raise TypeError(f'terms beside a preset must be a mapping of names to options, got {given!r}')
    merged = dict(terms)
    for name, option in given.items():
        if isinstance(option, dict) and 'type' in option:
            merged[name] = deepcopy(option)
            continue
        if name not in names:
            raise unknown_name("term of the presets (a new one needs a 'type'):", name, names)
        if option is None:
            merged.pop(name, None)
        elif name in merged:
            merged[name] = {**merged[name], **_mapping(f'terms.{name}', option)}
        else:
            _mapping(f'terms.{name}', option)
    return merged


def _preset(where, option, terms):
    check_keys(where, _mapping(where, option), PRESET_KEYS)
    own = option.get('terms')
    if isinstance(own, list) and own:
        for name in own:
            if name not in terms:
                raise unknown_name(f'name in {where}.terms:', name, terms)
            if own.count(name) > 1:
                raise ValueError(f'{where}.terms: {name!r} stands there twice')
        own = {name: terms[name] for name in own}
    elif not (isinstance(own, dict) and own):
        raise ValueError(f"{where}.terms must be a list of names of the file's terms, or a mapping, got {own!r}")
    else:
        own = _terms(f'{where}.terms', own)
    if 'balance' in option:
        _mapping(f'{where}.balance', option['balance'])
    if 'grad_norms' in option:
        check_flag(f'{where}.grad_norms', option['grad_norms'])
    return {**option, 'terms': own}


def _terms(where, terms):
    for name, term in _mapping(where, terms).items():
        if not isinstance(term, dict) or 'type' not in term or 'weight' not in term:
            raise ValueError(f"{where}.{name} must be a mapping with 'type' and 'weight', got {term!r}")
    return {str(name): term for name, term in terms.items()}


def _mapping(where, value):
    if not isinstance(value, dict):
        hint = '; to leave it out write null' if value in ('none', 'None') else ''
        raise TypeError(f'{where} must be a mapping, got {value!r}{hint}')
    return value
