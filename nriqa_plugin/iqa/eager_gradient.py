"""Scores whose gradient is computed at once, image by image, so that nothing else is kept for the backward pass."""

import torch


def eager_scores(score, pred, ref=None):
    """``score(pred, ref)``, with the memory of one image.

    Every image's score depends on that image alone, so that the backward pass only scales a gradient which can be
    known beforehand. It is computed here, right after the image's score, and the judge's activations are freed before
    the next image, the next judge and the backward pass of the network. Work and result are the same as without;
    a gradient of the gradient does not exist.

    Args:
        score (callable): ``(n, 3, H, W)`` and reference or ``None`` to ``(n,)``.
        pred (Tensor): ``(N, 3, H, W)`` or ``(N, T, 3, H, W)``; its gradient is scaled by what arrives at the scores.
        ref (Tensor | None): the same shape; gets no gradient.

    Returns:
        Tensor: ``(N,)``.
    """
    return _EagerScores.apply(pred, ref, score)


class _EagerScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pred, ref, score):
        scores, gradients = [], []
        for index in range(len(pred)):
            one = slice(index, index + 1)
            image = pred[one].detach().requires_grad_()
            with torch.enable_grad():
                value = score(image, ref if ref is None else ref[one])
                # A judge may be undefined for an image, and its score then a constant.
                known = torch.autograd.grad(value.sum(), image, allow_unused=True) if value.requires_grad else [None]
                gradients.append(torch.zeros_like(image) if known[0] is None else known[0])
            scores.append(value.detach())
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(scores)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (gradients,) = ctx.saved_tensors
        return gradient.view(-1, *[1] * (gradients.dim() - 1)) * gradients, None, None
