"""Networks as they are written on the command line: a checkpoint, a host's option file, or one of our own by name."""

from pathlib import Path


def network_of(text, checkpoint, device):
    """The network that ``--network`` and ``--checkpoint`` name, on its device.

    Args:
        text (str): a BasicSR option file (``.yml``), a mmagic config (``.py``), a checkpoint that spandrel reads, or
            one of our networks or ``package.module:factory`` with its options, such as ``RLFN:upscale=4``.
        checkpoint (Path | None): the weights, for all but a checkpoint.
        device (torch.device): where it runs.

    Returns:
        Network

    Raises:
        FileNotFoundError, ValueError, TypeError, ImportError: as what reads it; a checkpoint that is missing or too
            much.
    """
    ending = Path(text).suffix.lower()
    if ending in ('.yml', '.yaml', '.py'):
        _need(checkpoint, text)
        if ending == '.py':
            from nriqa_plugin.mmagic.checkpoint import network_of as of_host
        else:
            from nriqa_plugin.basicsr.checkpoint import network_of as of_host
        return of_host(text, checkpoint, device)
    if Path(text).is_file() or ending in ('.pth', '.safetensors'):
        if checkpoint is not None:
            raise ValueError(f'--checkpoint: {text} is a checkpoint itself')
        return _of_spandrel(text, device)
    return _by_name(text, checkpoint, device)


def _need(checkpoint, text):
    if checkpoint is None:
        raise ValueError(f'--network {text} needs --checkpoint with its weights')


def _of_spandrel(file, device):
    from nriqa_plugin.checks import check_file, file_hash
    from nriqa_plugin.evaluation.network_outputs import Network
    from nriqa_plugin.multigt.enhancing_models import load_with_spandrel

    check_file('--network', file)
    otherwise = 'name its option file, config or class with --network, and the file with --checkpoint'
    network = load_with_spandrel('--network', file, otherwise).to(device)
    run = _colour_by_colour(network) if network.input_channels == 1 else network
    return Network(run, file_hash(file))


def _by_name(text, checkpoint, device):
    import torch

    from nriqa_plugin import archs
    from nriqa_plugin.checks import file_hash, fill_weights, import_dotted, in_place, unknown_name
    from nriqa_plugin.cli.judges import parse_judge
    from nriqa_plugin.evaluation.network_outputs import Network
    from nriqa_plugin.lora.base_file import choose_state

    name, options = parse_judge(text, '--network')
    if name not in archs.__all__ and ':' not in name:
        raise unknown_name('--network (there is no such file either):', name, archs.__all__)
    _need(checkpoint, text)
    with in_place(f'--network {text}'):
        factory = import_dotted('network', name) if ':' in name else getattr(archs, name)
        network = factory(**options)
    _, state = choose_state('--checkpoint', str(checkpoint))
    network = fill_weights('--checkpoint', checkpoint, network, state).eval().to(device)
    grey = next((part.in_channels == 1 for part in network.modules() if isinstance(part, torch.nn.Conv2d)), False)
    return Network(_colour_by_colour(network) if grey else network, f'{file_hash(checkpoint)} {text}')


def _colour_by_colour(network):
    """A grey network on each colour of one image."""
    return lambda image: network(image.transpose(0, 1)).transpose(0, 1)
