"""The file of a set of MDF discriminators: tensors and plain values only, readable with ``weights_only=True``."""

import torch

from nriqa_plugin.checks import atomic_path, fill_weights, load_weights
from nriqa_plugin.mdf.discriminator import RECEPTIVE_FIELD, Discriminator

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
    if not isinstance(content, dict) or content.get('format') != FORMAT or not content.get('discriminators'):
        raise ValueError(f'{option}: {path} holds no MDF discriminators; make them with nriqa train-mdf, or convert '
                         "the authors' released file with nriqa convert-mdf")  # fmt: skip
    built = []
    for index, state in enumerate(content['discriminators']):
        try:
            width, channels = state['head.conv.weight'].shape[:2]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f'{option}: {path}: discriminator {index} is no state dict of one') from error
        network = Discriminator(width, channels)
        built.append(fill_weights(f'{option}, discriminator {index}', path, network, state).eval())
    return built, content.get('header', {})
