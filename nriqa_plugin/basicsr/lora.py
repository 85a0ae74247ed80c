"""``network_g: {type: LoRANet, base: {type: SwinIR, ...}, rank: 8}``: LoRA around any of BasicSR's networks."""

import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY

from nriqa_plugin import lora
from nriqa_plugin.checks import unknown_name
from nriqa_plugin.lora.base_file import INFO


class LoRANet(lora.LoRANet):
    """:class:`nriqa_plugin.lora.LoRANet` whose ``base`` is the options of a registered network.

    The host builds the network twice, for training and for its moving average, and copies parameters only from one
    to the other: a base without weights from a file therefore comes from a fixed seed.
    """

    def __init__(self, base, **options):
        if not isinstance(base, dict) or 'type' not in base:
            raise TypeError(f'LoRANet.base must be the options of a network, with its type, got {base!r}')
        names = [name for name, _ in ARCH_REGISTRY]
        if base['type'] not in names and f'{base["type"]}_basicsr' not in names:
            raise unknown_name('LoRANet.base.type', base['type'], names)
        with torch.random.fork_rng(devices=[]):  # it is built on the CPU
            torch.default_generator.manual_seed(lora.SEED)
            network = build_network(base)
        super().__init__(network, **options)


class FindsInBase(dict):
    """Options of a ``LoRANet``; keys that it does not have are its base's, such as ``window_size`` in SwinIRModel."""

    def __missing__(self, key):
        return self['base'][key]


def reach_base_options(opt):
    """Let the host find the base's options under ``network_g``."""
    if opt['network_g'].get('type') == 'LoRANet' and isinstance(opt['network_g'].get('base'), dict):
        opt['network_g'] = FindsInBase(opt['network_g'])


def rightly_absent(net, state):
    """What a state dict may leave out of a ``LoRANet``, with the network's own values: all of the change in a plain
    one, all of the base in an adapter; nothing where part of either is there, or for another network."""
    if not isinstance(net, LoRANet):
        return {}
    own = net.state_dict()
    change = {key for key in own if key == INFO or key.endswith(('lora_A', 'lora_B'))}
    for part in (change, own.keys() - change):
        if not part & state.keys():
            return {key: own[key] for key in part}
    return {}


def check_same_base(net, net_ema):
    """The moving average must have the network's own base, for only the change is averaged.

    Raises:
        ValueError: the host has loaded ``params`` into one and ``params_ema`` into the other.
    """
    if isinstance(net, LoRANet) and isinstance(net_ema, LoRANet) and net.base_hash != net_ema.base_hash:
        raise ValueError(
            'LoRANet: net_g and its moving average have different bases: pretrain_network_g holds params and '
            'params_ema, and the host loads one of each; write param_key_g: params_ema, or base_weights in network_g'
        )
