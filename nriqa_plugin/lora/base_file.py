"""Plain checkpoints of a base network, whatever host wrote them, and the hash that tells two bases apart."""

from nriqa_plugin.checks import load_weights, tensors_hash, unknown_name

INFO = 'lora_info'  # key of the header that a LoRANet puts into its state dict
MARK = 'nriqa_lora_merged'  # key beside the weights of a merged checkpoint


def plain_states(option, path):
    """The plain state dicts in a checkpoint by the name they have there, the moving average first.

    ``params_ema`` and ``params`` of BasicSR, ``generator_ema`` and ``generator`` of mmagic, ``''`` for a bare one; a
    prefix ``module.`` is taken off.

    Args:
        option (str): the option that names the file, for the messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds no state dict, or LoRA weights.
    """
    states = {}
    for name, state in state_dicts(option, path, load_weights(option, path)).items():
        state = {key.removeprefix('module.'): value for key, value in state.items()}
        prefixed = {
            part: {k.removeprefix(f'{part}.'): v for k, v in state.items() if k.startswith(f'{part}.')}
            for part in ('generator_ema', 'generator')
        }
        found = {part: inner for part, inner in prefixed.items() if inner}
        states |= found if found else {name: state}
    for state in states.values():
        if any(key == INFO or key.endswith('lora_A') for key in state):
            raise ValueError(f'{option}: {path} holds LoRA weights, not a plain base; merge it first: '
                             'nriqa merge-lora')  # fmt: skip
    return states


def state_dicts(option, path, content):
    """What lies under ``params_ema``, ``params`` or ``state_dict`` of a checkpoint's content; else the content, as ''.

    Raises:
        ValueError: there is no state dict.
    """
    if not isinstance(content, dict):
        raise ValueError(f'{option}: {path} holds a {type(content).__name__}, not a checkpoint')
    found = {key: content[key] for key in ('params_ema', 'params', 'state_dict') if isinstance(content.get(key), dict)}
    found = found or {'': content}
    for name, state in found.items():
        if not state or not all(hasattr(value, 'shape') for value in state.values()):
            raise ValueError(f'{option}: {path} holds no state dict{f" under {name}" if name else ""}')
    return found


def choose_state(option, path, key=None):
    """``(key, state dict)`` of a checkpoint: the one named ``key``, else the first of :func:`plain_states`.

    Raises:
        ValueError: there is no such key.
    """
    states = plain_states(option, path)
    if key is None:
        return next(iter(states.items()))
    if key not in states:
        raise unknown_name(f'base_key in {path}:', key, states)
    return key, states[key]


def weights_hash(state):
    """Which network this is: a hash over all floating-point tensors of a plain state dict, also bare parameters and
    running statistics.

    Tables of indices and counters are integers and do not count.
    """
    return tensors_hash((key, value.float()) for key, value in sorted(state.items()) if value.is_floating_point())
