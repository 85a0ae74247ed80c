"""Validation loss as a metric of BasicSR, so that ``val.save_best`` can keep the checkpoint with the lowest one."""

import contextlib
import functools
import json

import torch

from nriqa_plugin.basicsr.losses import LossSum
from nriqa_plugin.checks import check_keys, check_number, in_place
from nriqa_plugin.losses.validation_loss import validation_loss

LOSS = 'calculate_loss'
KEYS = ('terms', 'space', 'crop_border', 'better')
_training = []  # (loss, device) of the model that validates, see training_loss


def calculate_loss(img, img2=None, **option):
    """The loss of one validation image; lower is better.

    BasicSR hands metrics 8-bit images, so the value is that of the image as it would be saved: clipped and rounded.
    All terms count with their full weight, whatever their schedules say at this iteration; the training's own loss
    is left as it is. See :func:`nriqa_plugin.losses.validation_loss.validation_loss`.

    Args:
        img (ndarray): BGR ``(H, W, 3)``, or grey ``(H, W)``.
        img2 (ndarray): ground truth of the same shape.
        option: ``terms`` and ``space`` of a ``LossSum`` that is evaluated; without ``terms`` it is the training's own
            ``pixel_opt`` (``model_type: PerceptualModel`` only). ``crop_border``: px cut off each side first.
            ``better`` must be ``lower``; BasicSR needs it for its best value, PerceptualModel fills it in.

    Raises:
        ValueError: unknown option, no ground truth, ``better`` that is not ``lower``, no loss at all.
    """
    check_keys(LOSS, option, KEYS)
    if option.get('better', 'higher') != 'lower':
        raise ValueError(f"{LOSS}: lower is better; write 'better: lower'")
    if img2 is None:
        raise ValueError(f'{LOSS}: the validation image has no ground truth')
    loss, device = _loss_of(option)
    border = check_number('crop_border', option.get('crop_border', 0), low=0, integer=True)
    space = getattr(loss, 'space', None)
    pred, target = (_to_tensor(image, border, space).to(device) for image in (img, img2))
    return validation_loss(loss, pred, target)


def check_loss_metric(option, trains):
    """Fill in the direction of a :func:`calculate_loss` among ``val.metrics`` and build its terms.

    Args:
        option (dict): of the metric; changed.
        trains (bool): whether there is a training whose pixel loss can be evaluated.

    Raises:
        ValueError, TypeError: as in :func:`calculate_loss` and ``LossSum``.
    """
    option.setdefault('better', 'lower')
    given = {key: value for key, value in option.items() if key != 'type'}
    check_keys(LOSS, given, KEYS)
    if option['better'] != 'lower':
        raise ValueError(f'{LOSS}: lower is better, got better: {option["better"]}')
    check_number('crop_border', option.get('crop_border', 0), low=0, integer=True)
    if option.get('terms') is None:
        if option.get('space') is not None:
            raise ValueError(f'{LOSS}: space belongs to terms; the training brings its own')
        if not trains:
            raise ValueError(f"{LOSS}: there is no train.pixel_opt whose value could be taken; write 'terms: [...]'")
    else:
        _own_terms(json.dumps([option['terms'], option.get('space')]))


@contextlib.contextmanager
def training_loss(loss, device):
    """Inside the block, ``calculate_loss`` without ``terms`` evaluates ``loss`` (None: there is none)."""
    _training.append((loss, device))
    try:
        yield
    finally:
        _training.pop()


def _loss_of(option):
    if option.get('terms') is not None:
        return _own_terms(json.dumps([option['terms'], option.get('space')]))
    if not _training or _training[-1][0] is None:
        raise ValueError(f"{LOSS}: without 'terms' it evaluates train.pixel_opt of a model_type: PerceptualModel")
    return _training[-1]


@functools.lru_cache(maxsize=4)
def _own_terms(text):
    """``LossSum`` of a metric's own terms and its device, built once."""
    terms, space = json.loads(text)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    with in_place(LOSS):
        return LossSum(terms=terms, space=space).to(device), device


def _to_tensor(image, border, space):
    """8-bit BGR ``(H, W, 3)`` or grey ``(H, W)`` as ``(1, C, H, W)`` in the space that the loss expects."""
    image = image[..., None] if image.ndim == 2 else image[..., ::-1]
    if border:
        image = image[border:-border, border:-border]
    unit = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
    return unit if space is None else space.from_unit_rgb(unit)
