"""Scores whose gradient is computed at once, image by image, so that nothing else is kept for the backward pass."""

import torch


def eager_scores(score, pred, ref=None):
    """``score(pred, ref)``, with the memory of one image.

    Every image's score depends on that image alone, so that the backward pass only scales a gradient which can be
    known beforehand. It is computed here, right after the image's score, and the judge's activations are freed before
    the next image, the next loss term and the backward pass of the network; the judges of an ensemble hold theirs of
    one image together. Work and result are the same as without; a gradient of the gradient does not exist.

    Half and bfloat16 images are scored in float32 and their gradients kept so until a gradient scaler's factor has
    arrived; an autocast around the call has no effect, only one within ``score``.

    Args:
        score (callable): ``(n, 3, H, W)`` and reference or ``None`` to ``(n,)``.
        pred (Tensor): ``(N, 3, H, W)`` or ``(N, T, 3, H, W)``; its gradient is scaled by what arrives at the scores.
        ref (Tensor | None): the same shape; gets no gradient.

    Returns:
        Tensor: ``(N,)``. The gradient of an image whose score has none, such as an undefined one (NaN), is 0.

    Raises:
        ValueError: no image's score has a gradient, although one is finite; without this way of taking gradients,
            autograd would raise.
    """
    return _EagerScores.apply(pred, ref, score)


class _EagerScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pred, ref, score):
        ctx.dtype, scores, gradients = pred.dtype, [], []
        # The gradient is taken here and not in the backward pass, which hosts call outside of their autocast.
        with torch.autocast(pred.device.type, enabled=False):
            for index in range(len(pred)):
                image, of_ref = (x if x is None else _full(x[index : index + 1].detach()) for x in (pred, ref))
                image.requires_grad_()
                with torch.enable_grad():
                    value = score(image, of_ref)
                    gradients.append(_gradient(value, image))
                scores.append(value.detach())
        scores = torch.cat(scores)
        if all(gradient is None for gradient in gradients) and torch.isfinite(scores).any():
            raise ValueError('the scores have no gradient with respect to the image')
        known = [pred.new_zeros(()) if gradient is None else gradient for gradient in gradients]
        ctx.save_for_backward(torch.cat([gradient.expand(1, *pred.shape[1:]) for gradient in known]))
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (gradients,) = ctx.saved_tensors
        scaled = gradient.view(-1, *[1] * (gradients.dim() - 1)) * gradients
        return scaled.to(ctx.dtype), None, None


def _full(image):
    return image.float() if image.dtype in (torch.float16, torch.bfloat16) else image


def _gradient(value, image):
    """``None`` where a judge is undefined for an image, and its score a constant."""
    return torch.autograd.grad(value.sum(), image, allow_unused=True)[0] if value.requires_grad else None
