"""Export to the adapter folder of the peft library: ``adapter_config.json`` and ``adapter_model.bin``."""

import json
import re
from pathlib import Path

import torch
from torch import nn

from nriqa_plugin.checks import atomic_path


def save_peft(net, folder):
    """Write the change of a :class:`~nriqa_plugin.lora.LoRANet` as peft's ``PeftModel.from_pretrained`` reads it.

    peft adds a convolution of rank ``r`` and a pointwise one beside a layer; that is the same function only without
    groups, dilation and other padding than zeros.

    Args:
        net (LoRANet): its base has to be given to peft as a plain network.
        folder (str | Path): is made where it is missing.

    Raises:
        ValueError: a changed layer is a convolution that peft computes otherwise, sits at several places in the base,
            or is the base itself.
    """
    tensors = {}
    if '' in net.adapted or len(set(net.adapted.values())) < len(net.adapted):
        raise ValueError('save_peft: peft changes layers inside a network, each at one place; this base is a single '
                         'layer, or has one at several places; merge it instead')  # fmt: skip
    for name, change in net.adapted.items():
        layer, a, b = net.base.get_submodule(name), change.lora_A, change.lora_B
        if isinstance(layer, nn.Conv2d):
            if layer.groups > 1 or set(layer.dilation) != {1} or layer.padding_mode != 'zeros':
                raise ValueError(
                    f'save_peft: peft cannot express the change of {name!r} ({layer.groups} groups, '
                    f'dilation {layer.dilation}, padding mode {layer.padding_mode}); merge it instead'
                )
            a, b = a.view(net.rank, *layer.weight.shape[1:]), b[:, :, None, None]
        for part, factor in (('A', a), ('B', b)):
            tensors[f'base_model.model.{name}.lora_{part}.weight'] = factor.detach().cpu().clone()
    config = {
        'peft_type': 'LORA', 'task_type': None, 'r': net.rank, 'lora_alpha': net.alpha, 'lora_dropout': 0.0,
        # As a pattern: peft takes a list for endings of names, too.
        'target_modules': '|'.join(map(re.escape, net.adapted)),
        'bias': 'none', 'fan_in_fan_out': False, 'inference_mode': True, 'base_model_name_or_path': net.base_file,
    }  # fmt: skip
    with atomic_path(Path(folder) / 'adapter_model.bin') as temporary:
        torch.save(tensors, temporary)
    with atomic_path(Path(folder) / 'adapter_config.json') as temporary:
        temporary.write_text(json.dumps(config, indent=2) + '\n')
