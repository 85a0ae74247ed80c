"""``LoRANet``: any network with low-rank changes of its weights, which alone are trained."""

import logging

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from nriqa_plugin.checks import check_choice, check_number, checks_options, fill_weights
from nriqa_plugin.lora import state
from nriqa_plugin.lora.base_file import choose_state, weights_hash
from nriqa_plugin.lora.low_rank import LowRank, low_rank_update
from nriqa_plugin.lora.targets import select_layers

logger = logging.getLogger('nriqa_plugin')

SEED = 0


@checks_options
class LoRANet(nn.Module):
    """A frozen network whose linear layers and 2-D convolutions get a trained change of low rank.

    A layer's weight ``W`` becomes ``W + (alpha / rank) * B A``; groups, dilation, stride and padding stay the layer's
    own affair. At the start ``B`` is zero and the output is the base's, bit for bit.

    All of the base lies in buffers: nothing of it is a parameter that an optimizer, a moving average or
    ``requires_grad_(True)`` could reach. Statistics of batch normalisation do not move, also in training; dropout and
    drop path of the base stay active there. ``A`` comes from a fixed seed: two networks of the same options are equal.

    Args:
        base (nn.Module): the network; it becomes part of this one.
        rank (int): of every change.
        alpha (float | None): the change is multiplied by ``alpha / rank``. None: ``rank``.
        target (str | list[str] | None): name patterns, see :func:`~nriqa_plugin.lora.targets.select_layers`.
        dropout (float): in training, the probability of leaving out an entry of ``A``.
        save (str): ``full``: ``state_dict`` holds the base too. ``adapter``: only the change and the base's name
            and hash; needs ``base_weights``, for a resumed run has to find its base.
        base_weights (str | None): checkpoint of the base: plain, of BasicSR or of mmagic.
        base_key (str | None): which weights in it: ``params``, ``params_ema``, ``generator`` or ``generator_ema``.
            None: the moving average where there is one.

    Shapes: those of the base, and so are its arguments. Attributes that are not found here are the base's.

    ``load_state_dict`` takes three kinds of state dict: plain ones of the base by its own keys, full ones and
    adapters. An adapter of another base, rank, alpha or other layers is refused, also with ``strict=False``.

    Raises:
        TypeError: an option of the wrong type.
        ValueError: an option out of range, a pattern that matches no layer, a rank larger than a named layer, weights
            of another network.
        FileNotFoundError: no ``base_weights``.
    """

    def __init__(
        self, base, rank=8, alpha=None, target=None, dropout=0.0, save='full', base_weights=None, base_key=None
    ):
        super().__init__()
        if not isinstance(base, nn.Module):
            raise TypeError(f'LoRANet.base must be a network, got {base!r}')
        if any(isinstance(module, (LoRANet, LowRank)) for module in base.modules()):
            raise ValueError('LoRANet.base has low-rank changes already: merge them first')
        self.rank = check_number('LoRANet.rank', rank, low=1, integer=True)
        self.alpha = self.rank if alpha is None else check_number('LoRANet.alpha', alpha, low=0)
        if check_number('LoRANet.dropout', dropout, low=0, high=1) == 1 or self.alpha == 0:
            raise ValueError(f'LoRANet: dropout must be below 1 and alpha above 0, got {dropout!r} and {alpha!r}')
        self.save = check_choice('LoRANet.save', save, ('full', 'adapter'))
        if save == 'adapter' and base_weights is None:
            raise ValueError('LoRANet: save: adapter needs base_weights: FILE, or a resumed run cannot find its base')
        self.base_file = self.base_key = self._base_hash = None
        if base_weights is not None:
            self.base_file = str(base_weights)
            self.base_key, weights = choose_state('LoRANet.base_weights', base_weights, base_key)
            fill_weights('LoRANet.base_weights', base_weights, base, weights)
        elif base_key is not None:
            raise ValueError('LoRANet.base_key chooses weights in the file base_weights, which is not given')
        layers = select_layers(base, target, self.rank)
        kind = type(base).__name__
        whole = sum(parameter.numel() for parameter in base.parameters())
        generator = torch.Generator().manual_seed(SEED)
        _freeze(base)
        for layer in layers.values():
            change = LowRank(layer.weight, self.rank, self.alpha, dropout, generator)
            parametrize.register_parametrization(layer, 'weight', change, unsafe=True)
        self.base = base
        # A layer that sits at several places has as many names in a state dict.
        changed, places = set(layers.values()), base.named_modules(remove_duplicate=False)
        self.adapted = {name: layer.parametrizations.weight[0] for name, layer in places if layer in changed}
        state.attach(self)
        # Every process has the base from the same file or seed: distributed training need not send it at each step.
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers()]
        self.train(base.training)
        trained = sum(parameter.numel() for parameter in self.parameters())
        self.summary = (f'{len(layers)} layers of {kind}, rank {self.rank}: {trained:,} trained '
                        f'parameters, {100 * trained / whole:.2f} % of {whole:,}')  # fmt: skip
        logger.info('LoRANet changes %s', self.summary)

    def forward(self, *args, **kwargs):
        return self.base(*args, **kwargs)

    def train(self, mode=True):
        """As usual, but modules that gather statistics in training stay in eval mode."""
        super().train(mode)
        for module in self.base.modules():
            if _gathers_statistics(module):
                module.training = False
        return self

    @torch.no_grad()
    def merged_state_dict(self, scale=1.0):
        """A plain state dict of the base with ``scale`` times the change added to its weights: new tensors.

        Args:
            scale (float): 0 is the base, 1 what was trained; between them lies the perception-distortion curve.

        Raises:
            ValueError: ``scale`` outside [0, 1].
        """
        check_number('scale', scale, low=0, high=1)
        merged = {name: value.clone() for name, value in self.base_state().items()}
        for name, change in self.adapted.items():
            key = state.joined(name, 'weight')
            merged[key] = low_rank_update(merged[key], change.lora_A, change.lora_B, scale * change.scale)
        return merged

    def base_state(self):
        """The base's plain state dict, as it is: its own tensors, its own keys."""
        inner = self.base.state_dict()
        return {outer: inner[key] for outer, key in state.base_keys(self).items()}

    @property
    def base_hash(self):
        """Which base this is: 12 hex digits, see :func:`~nriqa_plugin.lora.base_file.weights_hash`."""
        if self._base_hash is None:
            self._base_hash = weights_hash(self.base_state())
        return self._base_hash

    def extra_repr(self):
        return f'{self.summary}, alpha={self.alpha}, save={self.save}'

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            base = self.__dict__.get('_modules', {}).get('base')
            if base is None or name.startswith('_') or not hasattr(base, name):
                raise
            return getattr(base, name)


def _freeze(base):
    """Turn all parameters into buffers, under the same names."""
    for module in base.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                del module._parameters[name]
                module.register_buffer(name, parameter.requires_grad_(False).detach())


def _gathers_statistics(module):
    """Batch normalisation's running statistics, spectral normalisation's power iteration (its older form is a hook)."""
    if 'running_mean' in module._buffers or isinstance(module, _SpectralNorm):
        return True
    return any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())
