"""The file of a set of MDF discriminators: tensors and plain values only, readable with ``weights_only=True``."""

import torch

from nriqa_plugin.checks import atomic_path, fill_weights, in_place, load_weights
from nriqa_plugin.mdf.discriminator import RECEPTIVE_FIELD, Discriminator
from nriqa_plugin.mdf.pyramid import MOST

FORMAT = 'nriqa-mdf-1'


def save_mdf(path, discriminators, header):
    """Write discriminators, coarsest scale first, to ``path``, at once or not at all.

    Args:
        discriminators (list[Discriminator]): index 0 works on the coarsest scale.
        header (dict): where they come from: plain values only, such as task, range, seed image's hash, versions.
    """
    states = [{key: value.detach().cpu() for key, value in d.state_dict().items()} for d in discriminators]
    known = {'scales': len(states), 'widths': [d.width for d in discriminators], 'receptive_field': RECEPTIVE_FIELD}
    with atomic_path(path) as temporary:
        torch.save({'format': FORMAT, 'header': {**header, **known}, 'discriminators': states}, temporary)


def load_mdf(option, path):
    """Read what :func:`save_mdf` wrote.

    Args:
        option (str): the option that names the file, for the messages.
        path (str | Path): the file.

    Returns:
        tuple[list[Discriminator], dict]: in eval mode, coarsest scale first, and the header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or another kind of file.
    """
    content = load_weights(option, path)
    if not isinstance(content, dict) or content.get('format') != FORMAT or 'discriminators' not in content:
        raise ValueError(f'{option}: {path} holds no MDF discriminators; make them with nriqa train-mdf, or convert '
                         "the authors' released file with nriqa convert-mdf")  # fmt: skip
    discriminators, header = build_discriminators(option, path, content['discriminators']), content.get('header')
    if not isinstance(header, dict):
        raise ValueError(f'{option}: {path} holds no header (damaged?)')
    return discriminators, header


def build_discriminators(option, path, states):
    """Discriminators from their state dicts.

    Args:
        option, path: name the file in messages.
        states (list[dict[str, Tensor]]): coarsest scale first.

    Returns:
        list[Discriminator]: in eval mode.

    Raises:
        ValueError: no list, too many, a state dict of another network, or values that no training leaves.
    """
    if not isinstance(states, (list, tuple)) or not 1 <= len(states) <= MOST:
        count = f' of {len(states)}' if isinstance(states, (list, tuple)) else ''
        raise ValueError(f'{option}: {path} holds a {type(states).__name__}{count}, not a list of 1 to {MOST} '
                         'discriminators')  # fmt: skip
    return [_discriminator(f'{option}, discriminator {index}', path, state) for index, state in enumerate(states)]


def _discriminator(option, path, state):
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f'{option}: {path} holds no state dict of an MDF discriminator there')
    head = state.get('head.conv.weight', torch.empty(0))
    if head.dim() != 4:
        raise ValueError(f'{option}: {path} holds no state dict of an MDF discriminator there')
    with in_place(f'{option}: {path}'):
        network = Discriminator(*head.shape[:2])
    fill_weights(option, path, network, state)
    for key, value in network.state_dict().items():
        if not value.isfinite().all():
            raise ValueError(f'{option}: {path} holds NaN or infinite values: {key}')
        if key.endswith('running_var') and (value < 0).any():
            raise ValueError(f'{option}: {path} holds negative variances: {key}')
    return network.eval()
