"""A trained network of mmagic, from its config and checkpoint, as its stock test script would run it."""

import torch
from mmagic.registry import MODELS
from mmagic.structures import DataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope

from nriqa_plugin.checks import check_file, file_hash, in_place, load_weights
from nriqa_plugin.evaluation.network_outputs import Network
from nriqa_plugin.lora.base_file import state_dicts

GENERATORS = ('generator', 'generator_ema')


def network_of(config, checkpoint, device):
    """The network in a checkpoint, with the data preprocessor of its config.

    A config is Python code that runs when it is read: only use files that you trust.

    Args:
        config (str | Path): of the training or of a test.
        checkpoint (str | Path): ``iter_*.pth``, read with ``weights_only=True``.
        device (torch.device): where it runs.

    Returns:
        Network

    Raises:
        FileNotFoundError: a missing file.
        ValueError, TypeError: not a config of an image model, or weights of another network.
    """
    file = check_file('--network', config)
    option = Config.fromfile(str(file))
    if 'model' not in option:
        raise ValueError(f'{file} is not a config of mmagic: it has no model')
    content = load_weights('--checkpoint', checkpoint)
    state = next(iter(state_dicts('--checkpoint', checkpoint, content).values()))  # BasicSR's hold two
    init_default_scope(option.get('default_scope', 'mmagic'))
    with in_place(str(file)):
        model = MODELS.build(_without_training(option.model))
    _fill(model, state, checkpoint)
    model.eval().to(device)
    order = _channel_order(option)

    def run(image):
        image = image * 255 if order == 'rgb' else image.flip(1) * 255
        sample = DataSample(metainfo={'img_channel_order': order.upper()})
        data = model.data_preprocessor({'inputs': [image[0]], 'data_samples': [sample]}, False)
        (made,) = model(mode='predict', **data)
        # Whatever came in, mmagic's predictions are BGR in 0 to 255.
        return made.output.pred_img[None].flip(1) / 255

    return Network(torch.no_grad()(run), f'{file_hash(checkpoint)} {file_hash(file)}')


def _without_training(option):
    """The options of a model without losses and discriminator, whose own weights may be anywhere."""
    kept = {}
    for key, value in option.items():
        if key == 'pixel_loss' and value is not None:
            value = {'type': 'L1Loss'}  # mmagic wants one
        elif key.endswith('_loss') or key == 'discriminator':
            value = None
        kept[key] = value
    return kept


def _fill(model, state, checkpoint):
    """Load the generators' weights strictly; what belongs to the training may be there or not."""
    parts = [part for part in GENERATORS if hasattr(model, part)]
    if not any(key.startswith(tuple(f'{part}.' for part in parts)) for key in state):
        state = {f'{part}.{key}': value for key, value in state.items() for part in parts}  # a bare network
    found = model.load_state_dict(state, strict=False)
    wrong = [
        key
        for key in (*found.missing_keys, *found.unexpected_keys)
        if key.partition('.')[0] in parts and not key.endswith('step_counter')
    ]
    if wrong:
        raise ValueError(f'--checkpoint {checkpoint} belongs to another network: its keys differ in {len(wrong)}, '
                         f'for example {", ".join(wrong[:3])}')  # fmt: skip


def _channel_order(option):
    """``bgr`` or ``rgb``: how the config's own pipelines load what the network gets."""
    for name in ('test_pipeline', 'val_pipeline', 'train_pipeline'):
        for step in option.get(name) or ():
            if step.get('type') == 'LoadImageFromFile' and step.get('key') == 'img':
                return step.get('channel_order', 'bgr').lower()
    return 'bgr'
