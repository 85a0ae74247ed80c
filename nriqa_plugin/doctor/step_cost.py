"""What one training step costs: the network, and what every term of the loss adds."""

import contextlib
import math
import statistics
import time

import torch
import torch.nn.functional as F

RUNS = 3  # after one to warm up
MISSING = ''


def training_batch(batch, gt_size, scale, frames=None):
    """Synthetic images with about the spectrum of natural ones.

    Args:
        batch (int): N.
        gt_size (int): side of the ground truth in px.
        scale (int): upscaling factor.
        frames (int | None): T, for video.

    Returns:
        tuple[Tensor, Tensor]: LQ and ground truth in [0, 1], ``(N, 3, H, W)``, or ``(N, T, 3, H, W)``.
    """
    generator = torch.Generator().manual_seed(0)
    leading = (batch,) if frames is None else (batch, frames)
    frequency = torch.fft.fftfreq(gt_size)
    frequency = frequency[:, None].hypot(frequency[None]).clamp(min=1 / gt_size)
    spectrum = torch.fft.fft2(torch.randn(*leading, 3, gt_size, gt_size, generator=generator)) / frequency
    pink = torch.fft.ifft2(spectrum).real
    gt = (0.5 + 0.15 * pink / pink.std()).clamp(0, 1)
    lq = F.adaptive_avg_pool2d(gt.flatten(0, -4), max(1, int(gt_size // scale)))
    return lq.view(*leading, *lq.shape[-3:]), gt


def measure_step(network, losses, lq, gt, problems):
    """Time the forward and backward pass of the network and of every term, one by one.

    The terms see the ground truth with a little noise, so that value and gradient do not depend on how far the
    network is trained; schedules are switched off. Data loading, the optimizer, a discriminator and the host's own
    losses are not counted.

    Args:
        network (nn.Module): on the device of the images.
        losses (dict): slot -> loss; terms are measured in place and not restored.
        lq, gt (Tensor): of :func:`training_batch`.
        problems (list[str]): what fails is added here.

    Returns:
        list[tuple]: rows (term, weight, value, gradient norm, ms, share of step).
    """
    parts = [('network', lambda: _run_network(network, lq, gt), None, 1)]
    target = gt
    with contextlib.suppress(Exception):  # reported when it is timed
        target = gt if network(lq).dim() == gt.dim() else gt[:, gt.shape[1] // 2]
    for loss in losses.values():
        parts += _terms(loss.to(gt.device), target)
    measured = []
    for name, run, weight, every in parts:
        try:
            result, seconds = _timed(run, gt.device)
        except Exception as error:
            result, seconds = None, None
            problems.append(f'{name}: fails on images as the training gives them: {_short(error)}')
        if result and not all(map(math.isfinite, result)):
            problems.append(f'{name}: value {result[0]:g} with a gradient norm of {result[1]:g} on synthetic images')
        measured.append((name, weight, every, result, seconds))
    total = sum(seconds / every for *_, every, _, seconds in measured if seconds is not None)
    return [_row(*part, total) for part in measured]


def _run_network(network, lq, gt):
    network.train()
    network.zero_grad(set_to_none=True)
    output = network(lq)
    if output.shape[-2:] != gt.shape[-2:]:
        raise ValueError(f'it turns {tuple(lq.shape)} into {tuple(output.shape)}, the ground truth is {tuple(gt.shape)}; '
                         'do scale and gt_size fit?')  # fmt: skip
    output.mean().backward()


def _terms(loss, target):
    """(name, function to time, weight, every) of the terms; the function returns value and gradient norm."""
    space = loss.space
    # The order of channels of noise does not matter, the range does.
    target = target * (space.high - space.low) + space.low
    noise = 0.02 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1)).to(target.device)
    pred = target + noise * (space.high - space.low)

    def call():
        leaf = pred.clone().requires_grad_()
        value = loss(leaf, target)
        value = value[0] if isinstance(value, tuple) else value
        value.backward()
        return value.item(), leaf.grad.norm().item()

    if not hasattr(loss, 'terms'):
        return [(loss.scorer.name, call, loss.loss_weight, 1)]
    loss.nonfinite = 'propagate'  # show it instead of dropping the term

    def only(term):
        for other in loss.terms:
            other.start_iter, other.warmup_iter, other.every = 0, 0, 1
            other.stop_iter = None if other is term else 0
        _, norm = call()
        return loss.values[term.name].item(), norm

    return [(term.name, lambda term=term: only(term), term.weight, term.every) for term in loss.terms if term.weight]


def _timed(run, device):
    """Result of ``run`` and the median of its time in seconds."""
    times = []
    for _ in range(1 + RUNS):
        _wait(device)
        start = time.perf_counter()
        result = run()
        _wait(device)
        times.append(time.perf_counter() - start)
    return result, statistics.median(times[1:])


def _wait(device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _short(error):
    return (str(error).splitlines() or [''])[0] or type(error).__name__


def _row(name, weight, every, result, seconds, total):
    label = f'{name} (every {every})' if every > 1 else name
    value, norm = (f'{number:.4g}' for number in result) if result else (MISSING, MISSING)
    if seconds is None:
        return label, MISSING if weight is None else f'{weight:g}', value, norm, 'fails', MISSING
    share = f'{100 * seconds / every / total:.0f} %'
    return label, MISSING if weight is None else f'{weight:g}', value, norm, f'{1000 * seconds:.1f}', share
