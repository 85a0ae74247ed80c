"""The value of a loss whose gradient at the prediction is computed at once, so that it can be looked at."""

import torch


def with_known_gradient(loss, pred, target):
    """``loss(pred, target)`` and its gradient with respect to ``pred``.

    The loss is computed and differentiated here, in at least float32 and outside of any autocast, on a copy of
    ``pred`` that is cut from the network; the backward pass only scales the gradient. So looking at it costs no second
    pass through the loss, and its activations are freed before the next one. A gradient of the gradient does not exist.

    Args:
        loss (callable): ``(pred, target)`` to a 0-d tensor.
        pred (Tensor): any shape; gets the gradient in its own precision.
        target (Tensor | None): gets none.

    Returns:
        tuple[Tensor, Tensor | None]: the value, and its gradient in at least float32; None where there is none.
    """
    leaf, target = _full(pred).detach().requires_grad_(), target if target is None else _full(target).detach()
    with torch.autocast(pred.device.type, enabled=False):
        value = loss(leaf, target)
        if not value.requires_grad:
            return value, None
        (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
    if gradient is None:
        return value.detach(), None
    return _Known.apply(pred, value.detach(), gradient), gradient


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pred, value, gradient):
        ctx.dtype = pred.dtype
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, factor):
        (gradient,) = ctx.saved_tensors
        return (factor * gradient).to(ctx.dtype), None, None


def _full(images):
    return images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
