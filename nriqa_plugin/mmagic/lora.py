"""``generator=dict(type='LoRANet', base=dict(type='SwinIRNet', ...), rank=8)``: LoRA around mmagic's networks."""

import torch
from mmagic.registry import MODELS

from nriqa_plugin import lora
from nriqa_plugin.checks import unknown_name


class LoRANet(lora.LoRANet):
    """:class:`nriqa_plugin.lora.LoRANet` whose ``base`` is the config of a registered network.

    The base is initialised here, also from its ``init_cfg``: later it could not be told from a trained one.
    """

    def __init__(self, base, **options):
        if not isinstance(base, dict) or 'type' not in base:
            raise TypeError(f'LoRANet.base must be the config of a network, with its type, got {base!r}')
        if isinstance(base['type'], str) and MODELS.get(base['type']) is None:
            raise unknown_name('LoRANet.base type', base['type'], MODELS.module_dict)
        with torch.random.fork_rng(devices=[]):  # it is built on the CPU
            torch.default_generator.manual_seed(lora.SEED)
            network = MODELS.build(base)
            if hasattr(network, 'init_weights') and not getattr(network, 'is_init', False):
                network.init_weights()
        super().__init__(network, **options)

    def init_weights(self):
        """Nothing: the host calls this before training, when the base has its weights already."""
