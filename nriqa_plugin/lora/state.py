"""What a LoRANet writes into a state dict and reads from one: the base's plain keys, its own beside them, a header.

``layer.weight`` is the base's weight, ``layer.lora_A`` and ``layer.lora_B`` its change, ``lora_info`` the header: JSON
as bytes in a tensor, for hosts handle nothing else in a state dict. All of it hangs on hooks and on
``_load_from_state_dict``, the only way that both torch and mmengine, which walks over modules itself, go.
"""

import json

import torch

from nriqa_plugin.lora.base_file import INFO

HEADER_BLOCK = 1024
WRAPPED = 'module.'  # before every key of what DataParallel saved


def joined(layer, name):
    """``layer.name``; the base itself may be the layer, which has no name then."""
    return f'{layer}.{name}' if layer else name


def base_keys(net):
    """``{plain key: key in base.state_dict()}``."""
    changed = {joined(layer, 'parametrizations.weight.original'): joined(layer, 'weight') for layer in net.adapted}
    own = set(lora_keys(net).values())
    return {changed.get(key, key): key for key in net.base.state_dict() if key not in own}


def lora_keys(net):
    """``{our key: key in base.state_dict()}``."""
    parts = ('lora_A', 'lora_B')
    return {joined(n, p): joined(n, f'parametrizations.weight.0.{p}') for n in net.adapted for p in parts}


def attach(net):
    """Let ``net`` write and report the keys of this module; reading is in :func:`translate`."""
    net._register_state_dict_hook(_write)
    net.register_load_state_dict_post_hook(_report)
    net._register_load_state_dict_pre_hook(translate, with_module=True)


def info_tensor(info):
    """A header as a tensor of bytes, wider and longer than need be.

    Hosts average state dicts as they are: ``b + (a - b) * 1.0`` must give ``a``, and headers must be of one length.
    """
    text = json.dumps(info, sort_keys=True).encode()
    text += b' ' * (-len(text) % HEADER_BLOCK)
    return torch.tensor(list(text), dtype=torch.int16)


def read_info(tensor, where):
    """The header in a tensor of bytes (a moving average may have made floating-point numbers of them).

    Raises:
        ValueError: it is none.
    """
    try:
        info = json.loads(bytes(tensor.to(torch.uint8).tolist()))
        if {'rank', 'alpha', 'base'} <= info.keys():
            return info
    except (ValueError, AttributeError, TypeError):
        pass
    raise ValueError(f'{where}: {INFO} is not the header of a LoRANet')


def _write(net, destination, prefix, metadata):
    """State dict hook: our keys in place of torch's."""
    inner = f'{prefix}base.'
    written = {key: destination.pop(key) for key in list(destination) if key.startswith(inner)}
    keys = lora_keys(net) if net.save == 'adapter' else {**base_keys(net), **lora_keys(net)}
    for outer, key in keys.items():
        destination[prefix + outer] = written[inner + key]
    base = {'file': net.base_file, 'key': net.base_key, 'hash': net.base_hash}
    destination[prefix + INFO] = info_tensor({'rank': net.rank, 'alpha': net.alpha, 'base': base})


def translate(net, state, prefix, metadata, strict, missing, unexpected, errors):
    """Load hook: torch's keys in place of ours, and our own tensors where a state dict rightly leaves some out.

    Raises:
        ValueError: LoRA weights of another base, rank, alpha or of other layers.
    """
    given = {key[len(prefix) :]: state.pop(key) for key in list(state) if key.startswith(prefix)}
    net._load_prefix = prefix
    base, lora = base_keys(net), lora_keys(net)
    if given and all(key.startswith(WRAPPED) for key in given) and not any(key.startswith(WRAPPED) for key in base):
        given = {key.removeprefix(WRAPPED): value for key, value in given.items()}
    own = net.base.state_dict()
    info = given.pop(INFO, None)
    changes = {key for key in given if key.endswith('lora_A') or key.endswith('lora_B')}
    replaced = {outer: given[outer] for outer in base if outer in given}
    where = f'LoRANet{f" in {prefix[:-1]}" if prefix else ""}'
    if changes:
        _check_changes(net, where, info, changes, lora)
        if not replaced:
            _check_base(net, where, read_info(info, where)['base'])
            given |= {outer: own[key] for outer, key in base.items()}
    else:
        given |= {outer: own[key] for outer, key in lora.items()}
    changed = False
    for outer, value in replaced.items():
        mine = own[base[outer]]
        if value.shape != mine.shape:
            errors.append(f'size mismatch for {prefix}{outer}: {tuple(value.shape)} in the state dict, '
                          f'{tuple(mine.shape)} in the network')  # fmt: skip
            given[outer] = mine
        else:
            changed = changed or not torch.equal(value.to(mine), mine)
    if changed:
        _change_base(net, where, info)
    keys = {**base, **lora}
    state |= {f'{prefix}base.{keys.get(outer, outer)}': value for outer, value in given.items()}


def _check_changes(net, where, info, changes, lora):
    if info is None:
        raise ValueError(f'{where}: the state dict has LoRA weights but no {INFO}: it was not written by a LoRANet')
    info = read_info(info, where)
    for option in ('rank', 'alpha'):
        if info[option] != getattr(net, option):
            raise ValueError(f'{where}: the LoRA weights have {option} {info[option]}, the option is '
                             f'{getattr(net, option)}')  # fmt: skip
    if changes != lora.keys():
        layers = [
            sorted({k.rpartition('.')[0] for k in keys}) for keys in (changes - lora.keys(), lora.keys() - changes)
        ]
        more, less = (f'{len(names)} ({", ".join(names[:3])})' if names else 'none' for names in layers)
        raise ValueError(
            f'{where}: the LoRA weights are of other layers than target gives: more: {more}, missing: {less}'
        )


def _check_base(net, where, wanted):
    if wanted['hash'] != net.base_hash:
        file = f'the file {wanted["file"]}' if wanted['file'] else 'no file that is known'
        raise ValueError(
            f'{where}: the adapter belongs to another base: to {wanted["hash"]} from {file}, '
            f'but the base here is {net.base_hash} from {net.base_file or "no file (set base_weights: FILE)"}'
        )


def _change_base(net, where, info):
    """The state dict brings a base that is not the one that the network has."""
    if net.save == 'adapter':
        raise ValueError(f'{where}: save: adapter writes no base, so the base must be the one in base_weights '
                         f'({net.base_file}), but the state dict brings another')  # fmt: skip
    source = read_info(info, where)['base'] if info is not None else {}
    net.base_file, net.base_key, net._base_hash = source.get('file'), source.get('key'), None


def _report(net, incompatible):
    """Load hook, after the base's modules: missing and unexpected keys by their plain names."""
    inner = f'{net._load_prefix}base.'
    outer = {key: name for name, key in {**base_keys(net), **lora_keys(net)}.items()}
    for keys in (incompatible.missing_keys, incompatible.unexpected_keys):
        keys[:] = [
            net._load_prefix + outer.get(key[len(inner) :], key[len(inner) :]) if key.startswith(inner) else key
            for key in keys
        ]
