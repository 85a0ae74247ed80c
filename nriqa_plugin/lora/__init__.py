"""LoRA: train a low-rank change of a network's weights while the network itself stays as it is."""

from nriqa_plugin.lora.merge import merge_checkpoint
from nriqa_plugin.lora.net import SEED, LoRANet
from nriqa_plugin.lora.peft_format import save_peft

__all__ = ['SEED', 'LoRANet', 'merge_checkpoint', 'save_peft']
