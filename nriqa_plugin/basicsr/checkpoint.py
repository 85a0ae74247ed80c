"""A trained network of BasicSR, from its option file and checkpoint, as its stock test script would run it."""

import torch
from basicsr.models import build_model
from basicsr.utils.options import yaml_load

from nriqa_plugin.checks import check_file, file_hash, in_place, load_weights
from nriqa_plugin.evaluation.network_outputs import Network
from nriqa_plugin.lora.base_file import state_dicts


def network_of(option_file, checkpoint, device):
    """The network in a checkpoint, run by the model that the option file names (its padding and tiling included).

    Like BasicSR itself, the loader of option files can run code: only use files that you trust.

    Args:
        option_file (str | Path): of the training or of a test.
        checkpoint (str | Path): ``net_g_*.pth``, read with ``weights_only=True``; the moving average is taken if it
            holds one.
        device (torch.device): where it runs.

    Returns:
        Network

    Raises:
        FileNotFoundError: a missing file.
        ValueError, TypeError: not an option file, or weights of another network.
    """
    file = check_file('--network', option_file)
    opt = yaml_load(str(file))
    if not isinstance(opt, dict) or not {'model_type', 'network_g'} <= opt.keys():
        raise ValueError(f'{file} is not a BasicSR option file: model_type and network_g are missing')
    key, state = next(iter(state_dicts('--checkpoint', checkpoint, load_weights('--checkpoint', checkpoint)).items()))
    if device.type == 'cuda' and device.index is not None:
        torch.cuda.set_device(device)  # BasicSR's models take the current one
    # Without paths nothing is loaded, and without a training section there are no losses to build.
    opt |= {'is_train': False, 'dist': False, 'rank': 0, 'world_size': 1, 'num_gpu': int(device.type == 'cuda'),
            'path': {}, 'val': {**(opt.get('val') or {}), 'metrics': None}, 'scale': opt.get('scale', 1)}  # fmt: skip
    with in_place(str(file)):
        model = build_model(opt)
    with in_place(f'--checkpoint {checkpoint}{f", {key}" if key else ""}'):
        _fill(model.get_bare_model(model.net_g), state)

    def run(image):
        model.feed_data({'lq': image})
        model.test()
        return model.output.detach()

    return Network(run, f'{file_hash(checkpoint)} {file_hash(file)}')


def _fill(network, state):
    try:
        network.load_state_dict({key.removeprefix('module.'): value for key, value in state.items()})
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f'its weights belong to another network: {" ".join(lines[:3])[:400]}') from error
