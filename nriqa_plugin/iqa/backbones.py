"""Weights that torchvision trained on ImageNet, from a local file or its download."""

import http.client

import torch

from nriqa_plugin.checks import load_weights


def imagenet_state(owner, model, weights=None, option='weights'):
    """State dict of the features of a torchvision model, in float32.

    Args:
        owner (str): who needs it, for messages, for example ``the judge lpips``.
        model (str): torchvision's name, ``vgg19``, ``alexnet``, ...
        weights (str | None): local file, loaded with ``weights_only=True`` (half precision is fine); without it
            torchvision downloads its own (``IMAGENET1K_V1``) and checks their hash.
        option (str): what the owner calls that file.

    Returns:
        tuple[dict, str]: the state dict without its ``classifier`` (or what else the file holds), and the name of
        torchvision's file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or not plain tensors.
        RuntimeError: the download failed.
    """
    import torchvision

    origin = torchvision.models.get_model_weights(model).IMAGENET1K_V1
    file = origin.url.rpartition('/')[2]
    state = _downloaded(owner, model, origin, file, option) if weights is None else load_weights(option, weights)
    if isinstance(state, dict):
        state = {
            key: value.float() if isinstance(value, torch.Tensor) else value
            for key, value in state.items()
            if not str(key).startswith('classifier.')
        }
    return state, file


def _downloaded(owner, model, origin, file, option):
    try:
        return origin.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise RuntimeError(
            f'{owner} needs the backbone {model} ({file}), which torchvision could not download ({error}); get the '
            f'file elsewhere and give its path with the option {option}'
        ) from error
