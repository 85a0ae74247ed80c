"""What a sweep reads from an option file of either host: the terms of the loss, and the weight of the GAN."""

import contextlib
from pathlib import Path

from nriqa_plugin.checks import check_file, check_number, import_extra, in_place
from nriqa_plugin.compare.family import HOSTS
from nriqa_plugin.compare.yaml_files import read_yaml
from nriqa_plugin.losses.presets import with_preset
from nriqa_plugin.losses.table_weights import PAPER, table_weight

SLOTS = {'basicsr': 'train.pixel_opt', 'mmagic': 'model.pixel_loss'}
GAN_WEIGHTS = {'basicsr': 'train.gan_opt.loss_weight', 'mmagic': 'model.gan_loss.loss_weight'}
# BasicSR's own models that leave train.gan_opt unread
WITHOUT_GAN = (
    'SRModel', 'SwinIRModel', 'RealESRNetModel', 'EDVRModel', 'VideoBaseModel', 'VideoRecurrentModel',
)  # fmt: skip


def host_by_ending(file):
    """``basicsr`` or ``mmagic``.

    Raises:
        ValueError: another ending.
    """
    ending = Path(file).suffix
    if ending not in HOSTS:
        raise ValueError(f'{file} must end in {", ".join(HOSTS)}')
    return HOSTS[ending]


def terms_of(file):
    """``{name: term}`` of the file's pixel loss, as ``LossSum`` names them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: its pixel loss is no ``LossSum``, its preset is unknown, its weights are learnt, or two terms have
            one name.
    """
    slot = SLOTS[host_by_ending(file)]
    pixel = _at(_options(file), slot)
    pixel = pixel if isinstance(pixel, dict) and pixel.get('type') == 'LossSum' else {}
    with in_place(f'{file}: {slot}'):
        pixel = with_preset(pixel)
    terms = pixel.get('terms')
    if not terms:
        raise ValueError(f'{file}: {slot} must be a LossSum with terms')
    if pixel.get('balance'):
        raise ValueError(f'{file}: {slot} learns its weights (balance), there is none to sweep')
    if isinstance(terms, dict):
        return {str(name): _weighed(term) for name, term in terms.items() if term is not None}
    named = {}
    for term in terms:
        name = term.get('name') or term.get('metric') or ('ensemble' if 'ensemble' in term else None)
        name = str(name or term['type'].rpartition(':')[2].removesuffix('Loss').lower())
        if name in named:
            raise ValueError(f'{file}: two terms of {slot} are named {name!r}')
        named[name] = _weighed({key: value for key, value in term.items() if key != 'name'})
    return named


def _weighed(term):
    """The term with ``weight: paper`` as a number; as it is for a judge that has none."""
    if term.get('weight') == PAPER and term.get('metric'):
        with contextlib.suppress(ValueError):
            return {**term, 'weight': table_weight(term['metric'])[0]}
    return term


def gan_weight(file, settings):
    """``(key, weight)`` of the file's GAN loss, the key as overrides of this host are written.

    Args:
        file (str | Path): the option file.
        settings (dict): overrides of it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: there is none, or BasicSR's model trains without it.
    """
    host, options = host_by_ending(file), _options(file)
    place = GAN_WEIGHTS[host]
    weight = _at(options, place)
    if weight is None:
        raise ValueError(f'{file} has no {place} to scale; name an option file with a GAN: --gan-base')
    if host == 'basicsr':
        model = settings.get('base_model', options.get('base_model', 'SRModel'))
        if model in WITHOUT_GAN:
            raise ValueError(f'{file}: base_model {model} does not read {place}; name an option file with a GAN '
                             '(--gan-base), or a model with one (--set base_model=...)')  # fmt: skip
    key = place.replace('.', ':') if host == 'basicsr' else place
    return key, check_number(f'{file}: {place}', weight, low=0)


def _options(file):
    file = check_file('option file', file)
    if host_by_ending(file) == 'basicsr':
        return read_yaml(file)
    config = import_extra('mmengine.config', 'mmagic', 'nriqa sweep')
    return config.Config.fromfile(str(file), import_custom_modules=False).to_dict()


def _at(options, place):
    for key in place.split('.'):
        options = options.get(key) if isinstance(options, dict) else None
    return options
