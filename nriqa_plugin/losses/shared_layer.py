"""The layer at which the gradients of several losses are compared: found in the autograd graph, or named."""

import difflib
import weakref
from collections import deque

import torch
from torch import nn

OUTPUT, LAST = 'output', 'last_layer'


class SharedLayer:
    """Norms of gradients at a layer of the network, first order, without touching any ``.grad``.

    Args:
        wrt (str): ``last_layer``: the trained weight with two or more axes that comes first in a breadth-first search
            of the prediction's autograd graph; ``output``: the prediction itself; else the name of a layer (all
            trained weights in it, also those of LoRA) or of a parameter, see :meth:`set_network`.

    Raises:
        TypeError: ``wrt`` is not text.
    """

    def __init__(self, wrt):
        if not isinstance(wrt, str) or not wrt:
            raise TypeError(f'balance.wrt must be {LAST}, {OUTPUT} or the name of a layer, got {wrt!r}')
        self.wrt = wrt
        self.named = None

    def set_network(self, network):
        """Look a named layer up; the network itself is not kept.

        Raises:
            ValueError: there is no such layer (the closest names are shown), or nothing in it is trained.
        """
        if self.wrt in (LAST, OUTPUT):
            return
        # Copies of a loss, which are made with whole models, refer to the same weights.
        self.named = [weakref.ref(weight) for weight in _named_weights(network, self.wrt)]

    def norms(self, pred, gradients):
        """Norms at the layer of gradients at the output.

        Args:
            pred (Tensor): the output, in its graph, which stays usable.
            gradients (list[Tensor | None]): each of the shape of ``pred``; None counts as zero.

        Returns:
            list[Tensor]: 0-d, on the device of ``pred``.

        Raises:
            ValueError: no layer is found, nobody has told the network, or the layer takes no part in the prediction.
        """
        if self.wrt == OUTPUT:
            return [pred.new_zeros(()) if g is None else _norm([g]) for g in gradients]
        weights = self._weights(pred)
        return [pred.new_zeros(()) if g is None else self._pulled_back(pred, weights, g) for g in gradients]

    def _weights(self, pred):
        if self.wrt == LAST:
            return [last_weight(pred)]
        if self.named is None:
            raise ValueError(f'balance.wrt: nobody told LossSum the network that has the layer {self.wrt!r}: use '
                             'model_type: PerceptualModel (BasicSR) or PerceptualHook (mmagic), or call '
                             f'set_network(network), or write wrt: {LAST}')  # fmt: skip
        weights = [ref() for ref in self.named]
        if any(weight is None for weight in weights):
            raise ValueError(f'balance.wrt: the network that has the layer {self.wrt!r} is gone')
        weights = [weight for weight in weights if weight.requires_grad]
        if not weights:
            raise ValueError(f'balance.wrt: nothing in the layer {self.wrt!r} is trained at this iteration')
        return weights

    def _pulled_back(self, pred, weights, gradient):
        # A gradient of length 1 neither vanishes nor overflows on its way through a network in half precision.
        length = _norm([gradient])
        unit = torch.where(length > 0, gradient / length, gradient).to(pred.dtype)
        found = torch.autograd.grad(pred, weights, unit, retain_graph=True, allow_unused=True)
        found = [one for one in found if one is not None]
        if not found:
            raise ValueError(f'balance.wrt: the layer {self.wrt!r} takes no part in the prediction')
        return length * _norm(found)


def last_weight(pred):
    """The trained weight with two or more axes that is nearest to ``pred`` in its autograd graph, breadth first.

    Raises:
        ValueError: ``pred`` comes from no such weight (it is an image that is optimised itself, or the graph is hidden
            by a re-entrant checkpoint).
    """
    queue = deque([pred.grad_fn] if pred.grad_fn is not None else [])
    seen = set(queue)
    while queue:
        node = queue.popleft()
        variable = getattr(node, 'variable', None)
        if isinstance(variable, nn.Parameter) and variable.dim() >= 2:
            return variable
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                queue.append(following)
    raise ValueError('balance.wrt: no trained weight was found behind the prediction; name the layer, or write '
                     f'wrt: {OUTPUT}')  # fmt: skip


def _named_weights(network, name):
    modules, parameters = dict(network.named_modules()), dict(network.named_parameters())
    # The wrapper of LoRA puts the network one level down, where its user does not see it.
    for full in (name, f'base.{name}'):
        if full in parameters:
            return [parameters[full]]
        if full in modules:
            weights = [weight for weight in modules[full].parameters() if weight.dim() >= 2]
            if not any(weight.requires_grad for weight in weights):
                raise ValueError(f'balance.wrt: nothing with two or more axes in the layer {name!r} is trained')
            return weights
    close = difflib.get_close_matches(name, [*modules, *parameters], n=3, cutoff=0.4)
    hint = f'; did you mean {" or ".join(map(repr, close))}?' if close else ''
    raise ValueError(f'balance.wrt: {type(network).__name__} has no layer or parameter {name!r}{hint}')


def _norm(tensors):
    """Of all together, in at least float32."""
    norms = [torch.linalg.vector_norm(one, dtype=torch.promote_types(one.dtype, torch.float32)) for one in tensors]
    return torch.linalg.vector_norm(torch.stack(norms))
