"""What one training step costs: the network, and what every term of the loss adds."""

import math
import statistics
import time

import torch
import torch.nn.functional as F

from nriqa_plugin.losses.iqa_loss import pink_noise

RUNS = 3  # after one to warm up


def training_batch(batch, gt_size, scale, frames=None, channels=3):
    """Synthetic images with about the spectrum of natural ones.

    Args:
        batch (int): N.
        gt_size (int): side of the ground truth in px.
        scale (int): upscaling factor.
        frames (int | None): T, for video.
        channels (int): C, 1 for grey images.

    Returns:
        tuple[Tensor, Tensor]: LQ and ground truth in [0, 1], ``(N, C, H, W)``, or ``(N, T, C, H, W)``.
    """
    generator = torch.Generator().manual_seed(0)
    leading = (batch,) if frames is None else (batch, frames)
    gt = pink_noise((*leading, channels, gt_size, gt_size), generator)
    lq = F.adaptive_avg_pool2d(gt.flatten(0, -4), max(1, int(gt_size // scale)))
    return lq.view(*leading, *lq.shape[-3:]), gt


def measure_step(network, losses, lq, gt, problems):
    """Time the forward and backward pass of the network and of every term, one by one.

    The terms see the ground truth with a little noise, so that value and gradient do not depend on how far the
    network is trained; schedules and ``balance`` are switched off. Data loading, the optimizer, a discriminator, the
    host's own losses and what learning the weights costs are not counted.

    Args:
        network (nn.Module): on the device of the images.
        losses (dict): slot -> loss; terms are measured in place and not restored.
        lq, gt (Tensor): of :func:`training_batch`.
        problems (list[str]): what fails is added here.

    Returns:
        list[tuple]: rows (term, weight, value, gradient norm, ms, share of step).
    """
    shapes = []
    measured = [_measure('network', lambda: shapes.append(_run_network(network, lq, gt)), gt, problems)]
    # A network that merges frames is compared with one frame.
    one_frame = gt.dim() == 5 and shapes and len(shapes[0]) == 4
    target = gt[:, gt.shape[1] // 2] if one_frame else gt
    for loss in losses.values():
        for name, part, run, weight, every in _terms(loss.to(gt.device), target):
            measured.append(_measure(name, run, gt, problems, part, weight, every))
    total = sum(part['seconds'] / part['every'] for part in measured if part['seconds'] is not None)
    return [_row(total=total, **part) for part in measured]


def _measure(name, run, gt, problems, loss=None, weight=None, every=1):
    result = seconds = None
    try:
        result, seconds = _timed(run, gt.device)
    except Exception as error:
        reason = _too_small(loss, gt) or (str(error).splitlines() or [''])[0] or type(error).__name__
        problems.append(f'{name}: training would fail: {reason}')
    if result and not all(map(math.isfinite, result)):
        problems.append(f'{name}: value {result[0]:g} with a gradient norm of {result[1]:g} on synthetic images')
    return {'name': name, 'weight': weight, 'every': every, 'result': result, 'seconds': seconds}


def _too_small(loss, gt):
    """Why a judge cannot score the training crops, or '' when their size is not the reason."""
    if not hasattr(loss, 'scorer'):
        return ''
    side, wanted = min(gt.shape[-2:]), max(loss.crop or 0, loss.scorer.min_side)
    return f'it needs at least {wanted} px a side, datasets.train.gt_size is {side}' if side < wanted else ''


def _run_network(network, lq, gt):
    network.train()
    network.zero_grad(set_to_none=True)
    output = network(lq)
    if output.shape[-2:] != gt.shape[-2:]:
        shapes = ' to '.join(str(tuple(t.shape)) for t in (lq, output))
        raise ValueError(f'it maps {shapes}, the ground truth is {tuple(gt.shape)}; do scale and gt_size fit?')
    output.mean().backward()
    return output.shape


def _terms(loss, target):
    """(name, loss, function to time, weight, every) of the terms; the function returns value and gradient norm."""
    space = loss.space
    # The order of channels of noise does not matter, the range does.
    target = target * (space.high - space.low) + space.low
    noise = 0.02 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1)).to(target.device)
    pred = target + noise * (space.high - space.low)

    def call():
        leaf = pred.clone().requires_grad_()
        if hasattr(loss, 'set_lq'):
            loss.set_lq(target[..., ::4, ::4])
        value = loss(leaf, target)
        value = value[0] if isinstance(value, tuple) else value
        value.backward()
        return value.item(), leaf.grad.norm().item()

    if not hasattr(loss, 'terms'):
        return [(loss.scorer.name, loss, call, loss.loss_weight, 1)]
    loss.nonfinite = 'propagate'  # show it instead of dropping the term
    loss.balance = None  # it learns from a layer of the network, which takes no part here

    def only(term):
        for other in loss.terms:
            other.start_iter, other.warmup_iter, other.every = 0, 0, 1
            other.stop_iter = None if other is term else 0
        _, norm = call()
        return loss.values[term.name].item(), norm

    terms = [term for term in loss.terms if term.weight]
    return [(term.name, term.loss, lambda term=term: only(term), term.weight, term.every) for term in terms]


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


def _row(name, weight, every, result, seconds, total):
    label = f'{name} (every {every})' if every > 1 else name
    weight = '' if weight is None else f'{weight:g}'
    value, norm = (f'{number:.4g}' for number in result) if result else ('', '')
    cost = ('fails', '') if seconds is None else (f'{1000 * seconds:.1f}', f'{100 * seconds / every / total:.0f} %')
    return label, weight, value, norm, *cost
