"""What can be known to go wrong before the first step of a training with mmagic."""

from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper

from nriqa_plugin.losses import check_slot
from nriqa_plugin.mmagic.metrics import own_metrics

SLOTS = {'pixel_loss': 'pixel', 'perceptual_loss': 'perceptual'}


def bare_model(runner):
    """The model without the wrapper of distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def own_losses(model):
    """``{slot: loss}``: those of our losses in a model that have schedules and counters."""
    return {name: part for name, part in model.named_children() if hasattr(part, 'loss_state')}


def sees_colours(loss):
    """Whether the loss, or a term of it, wants RGB in [0, 1] and so has to know the network's space."""
    return any(getattr(part, 'unit_rgb', False) for part in loss.modules())


def check_losses(model):
    """Check every slot, and that the range of the model's tensors is the one that our losses were told.

    Raises:
        ValueError: a sum in the slot of a pair or the other way round; or the model's data preprocessor, which turns
            8-bit values into ``(value - mean) / std``, gives another range than ``space`` or none that is known.
    """
    for name, part in model.named_children():
        check_slot(SLOTS.get(name), part)
    preprocessor = getattr(model, 'data_preprocessor', None)
    mean, std = (getattr(preprocessor, key, None) for key in ('mean', 'std'))
    mean, std = ([0.0], [1.0]) if mean is None else (mean.flatten().tolist(), std.flatten().tolist())
    ranges = {tuple(round((v - m) / s, 3) for v in (0, 255)) for m, s in zip(mean, std, strict=True)}
    name = type(model).__name__
    for slot, loss in own_losses(model).items():
        if not sees_colours(loss):
            continue
        if len(ranges) > 1:
            raise ValueError(f'model.{slot}: the data_preprocessor of {name} changes every colour channel differently '
                             f'(mean {mean}, std {std}): its tensors are no images in a known space')  # fmt: skip
        (bounds,) = ranges
        if max(abs(bounds[0] - loss.space.low), abs(bounds[1] - loss.space.high)) > 2e-3:
            raise ValueError(f'model.{slot}: the data_preprocessor of {name} gives the range {list(bounds)}, but the '
                             f'space is {loss.space}: write space=dict(range={list(bounds)}) there')  # fmt: skip


def check_channel_order(model, data_batch):
    """Check the order of colour channels, which data samples carry as ``gt_channel_order`` (without it: BGR).

    Raises:
        ValueError: another order than the ``space`` of our losses says.
    """
    samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
    if not samples or not hasattr(samples[0], 'metainfo') or 'gt_img' not in samples[0]:
        return
    order = samples[0].metainfo.get('gt_channel_order') or 'bgr'
    order = (getattr(model.data_preprocessor, 'output_channel_order', None) or order).lower()
    for slot, loss in own_losses(model).items():
        if sees_colours(loss) and loss.space.bgr != (order == 'bgr'):
            raise ValueError(
                f'model.{slot}: the ground truth has the channel order {order} (gt_channel_order of the data samples), '
                f'but the space is {loss.space}: load it with channel_order='
                f"'{'bgr' if loss.space.bgr else 'rgb'}', or write space=dict(order='{order}') there"
            )


def check_metrics(runner):
    """Check that no two of our validation results have one name, and that ``save_best`` knows their direction.

    Raises:
        ValueError: a name that is there twice, or a ``rule`` against a judge's direction, as it is easily inherited
            from a base config.
    """
    higher_better = {}
    for metric in own_metrics(runner.val_loop):
        for key, up in metric.directions().items():
            if key in higher_better:
                raise ValueError(f'val_evaluator: two results are called {key!r}; give one of the metrics a prefix, or '
                                 'one of the judges a name')  # fmt: skip
            higher_better[key] = up
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best:
            for key, rule in zip(hook.key_indicators, hook.rules, strict=True):
                if rule is None or key not in higher_better:  # save_best='auto', a result that is not ours
                    continue
                right = 'greater' if higher_better[key] else 'less'
                if rule != right:
                    raise ValueError(
                        f"default_hooks.checkpoint: save_best='{key}' with rule='{rule}', but for {key} "
                        f"{'higher' if right == 'greater' else 'lower'} is better: rule='{right}'"
                    )
