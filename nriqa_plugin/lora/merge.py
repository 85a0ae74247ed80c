"""From a checkpoint with LoRA weights to a plain one, without building any network."""

from nriqa_plugin.checks import check_number
from nriqa_plugin.lora.base_file import INFO, MARK, plain_states, state_dicts, weights_hash
from nriqa_plugin.lora.low_rank import low_rank_update
from nriqa_plugin.lora.state import read_info


def merge_checkpoint(path, content, scale=1.0, base_weights=None):
    """The content of a plain checkpoint, in the host's own format, with ``scale`` times the change in its weights.

    Args:
        path (str): where ``content`` comes from, for the messages.
        content (dict): of BasicSR (``params``, ``params_ema``), of mmagic (``state_dict``) or a bare state dict.
            Of mmagic's only the weights and ``meta`` are kept; a bare one becomes ``params``.
        scale (float): 0 is the base, 1 what was trained.
        base_weights (str | None): the base's plain checkpoint, for an adapter. None: the file that the adapter names.

    Raises:
        ValueError: merged before, no LoRA weights, a base that is not the adapter's, one for a checkpoint that holds
            its own, ``scale`` outside [0, 1].
        FileNotFoundError: no file with the base.
    """
    check_number('scale', scale, low=0, high=1)
    if isinstance(content, dict) and MARK in content:
        raise ValueError(f'{path} was merged already (scale {content[MARK]["scale"]}); merge the checkpoint of the '
                         'training instead')  # fmt: skip
    merged, headers = {}, {}
    for name, state in state_dicts('checkpoint', path, content).items():
        prefixes = [key.removesuffix(INFO) for key in state if key.rpartition('.')[2] == INFO]
        for prefix in prefixes:
            headers[f'{name} {prefix}'] = read_info(state[prefix + INFO], path)
            state = _merge(path, state, prefix, headers[f'{name} {prefix}'], scale, base_weights)
        merged[name or 'params'] = state
    if not headers:
        raise ValueError(f'{path} holds no LoRA weights: it is a plain checkpoint (merged already?)')
    if 'state_dict' in merged:
        merged['meta'] = content.get('meta', {})
    return {**merged, MARK: {'scale': float(scale), 'base': next(iter(headers.values()))['base']}}


def _merge(path, state, prefix, info, scale, base_weights):
    """A state dict in which the network behind ``prefix`` is a plain one."""
    inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    others = {key: value for key, value in state.items() if not key.startswith(prefix)}
    del inner[INFO]
    changes = {key: inner.pop(key) for key in list(inner) if key.endswith(('lora_A', 'lora_B'))}
    if inner and base_weights:
        raise ValueError(f'--base is for a checkpoint written with save: adapter, but {path} holds its base; leave it '
                         'out')  # fmt: skip
    plain = inner or _base_of(path, info['base'], base_weights)
    for key in changes:
        if key.endswith('lora_A'):
            layer = key.removesuffix('lora_A')
            if layer + 'weight' not in plain or layer + 'lora_B' not in changes:
                raise ValueError(f'{path}: the LoRA weights of {layer[:-1]!r} are not whole or have no base weight')
            factors = (changes[key], changes[layer + 'lora_B'])
            update = low_rank_update(
                plain[layer + 'weight'].to(factors[0]), *factors, scale * info['alpha'] / info['rank']
            )
            plain[layer + 'weight'] = update.to(plain[layer + 'weight'])
    return {**others, **{prefix + key: value for key, value in plain.items()}}


def _base_of(path, wanted, base_weights):
    """The base that an adapter wants, from the file given or the one that it names."""
    file = base_weights or wanted['file']
    if file is None:
        raise ValueError(f'{path} holds no base and names no file of one: give it with --base')
    states = plain_states('--base' if base_weights else f'--base is not given, and {path} names its base', file)
    found = {weights_hash(state): state for state in states.values()}
    if wanted['hash'] not in found:
        raise ValueError(f'{path} belongs to another base: to {wanted["hash"]} from {wanted["file"]}, but {file} holds '
                         f'{", ".join(found)}')  # fmt: skip
    return dict(found[wanted['hash']])
