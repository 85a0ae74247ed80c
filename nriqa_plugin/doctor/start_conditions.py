"""What BasicSR's script needs before its first step and what would be ignored: seen without building anything."""

import importlib
import re

from nriqa_plugin.checks import check_file, check_number

SECTIONS = ('datasets', 'path', 'train', 'val', 'logger')
NEEDED_BY_EVERY_SCRIPT = ('name', 'num_gpu', 'path', 'datasets')
NEEDED_TO_TRAIN = (
    'datasets.train', 'datasets.train.num_worker_per_gpu', 'train.total_iter', 'train.optim_g', 'train.scheduler',
    'logger.print_freq', 'logger.save_checkpoint_freq',
)  # fmt: skip
NEEDED_TO_VALIDATE = ('val.val_freq', 'val.save_img')
LOSS_SLOTS = ('pixel_opt', 'perceptual_opt', 'gan_opt')
TEXT_KEYS = ('name', 'type', 'metric', 'weights')  # may look like a number and still be text
NUMBER = re.compile(r'[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?', re.IGNORECASE)
PLUGIN_LINE = 'plugin: !!python/name:nriqa_plugin.basicsr.VERSION'


def check_sections(opt):
    """Refuse a section that is not a mapping; an empty one is none."""
    for section in SECTIONS:
        if not isinstance(opt.get(section) or {}, dict):
            raise TypeError(f'{section} must be a mapping, got {opt[section]!r}')


def check_start(opt, found, ours):
    """Look for what would stop the script, or be ignored by it.

    Args:
        opt (dict): BasicSR's options.
        found (Findings): faults are problems; what is only ignored is advice.
        ours (bool): whether the file names any of our types.
    """
    found.problems += [f'the key {key} is missing' for key in _missing_keys(opt)]
    found.problems += _numeric_text('train', opt.get('train') or {})
    if 'train' in opt and not any((opt['train'] or {}).get(slot) for slot in LOSS_SLOTS):
        found.problems.append(f'train: no loss: {", ".join(LOSS_SLOTS)} are all missing')
    found.problems += _missing_files(opt.get('path') or {})
    models = importlib.import_module('nriqa_plugin.basicsr.models')
    perceptual = opt['model_type'] == 'PerceptualModel'
    try:
        models.check_spelling(opt)
    except ValueError as error:
        (found.problems if perceptual else found.advice).append(str(error))
    if not perceptual:
        found.advice += _ignored_options(opt, models.OWN_OPTIONS)
    if ours and importlib.import_module('nriqa_plugin.basicsr').VERSION not in opt.values():
        untagged = ' (it is there without its tag !!python/name:)' if PLUGIN_LINE.split(':')[-1] in opt.values() else ''
        found.problems.append(
            f'the line {PLUGIN_LINE!r} is missing{untagged}: python -m basicsr.train will not find our types '
            '(tools/train_basicsr.py does)'
        )


def _missing_keys(opt):
    """Needed keys that are missing, the outermost only."""
    needed = list(NEEDED_BY_EVERY_SCRIPT)
    if 'train' in opt:
        needed += NEEDED_TO_TRAIN + (NEEDED_TO_VALIDATE if opt.get('val') else ())
    missing = []
    for dotted in needed:
        part = opt
        for key in dotted.split('.'):
            part = part.get(key) if isinstance(part, dict) else None
        if part is None and not any(dotted.startswith(f'{known}.') for known in missing):
            missing.append(dotted)
    return missing


def _numeric_text(where, value):
    """Messages about numbers that YAML reads as text, such as ``1e-4``; the host would fail on them late."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in TEXT_KEYS:
                yield from _numeric_text(f'{where}.{key}', part)
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from _numeric_text(f'{where}[{index}]', part)
    elif isinstance(value, str) and NUMBER.fullmatch(value):
        try:
            check_number(where, value)
        except TypeError as error:
            yield str(error)


def _missing_files(paths):
    for key, path in paths.items():
        if path is not None and (key.startswith('pretrain_network') or key == 'resume_state'):
            try:
                check_file(f'path.{key}', path)
            except (OSError, TypeError) as error:
                yield str(error)


def _ignored_options(opt, own_options):
    """Our models' options under a model of the host."""
    host = opt['model_type']
    for section, key in own_options:
        if ((opt.get(section) or {}) if section else opt).get(key) not in (None, []):
            yield (
                f'{section and section + "."}{key} is ignored by model_type {host}; '
                f'model_type: PerceptualModel with base_model: {host} heeds it'
            )
