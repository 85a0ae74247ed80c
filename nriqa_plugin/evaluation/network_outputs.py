"""Outputs of a network as what is scored: made on the way, never written unless asked for."""

import hashlib
from pathlib import Path

import torch

from nriqa_plugin.evaluation.images import few, holds_clips, list_images, pair_images, write_image
from nriqa_plugin.evaluation.sources import ALONE, NOT, ImageFile


class Network:
    """A network as scoring needs it.

    Args:
        function (Callable): RGB in [0, 1], ``(1, 3, h, w)``, to RGB ``(1, 3, H, W)`` around [0, 1].
        identity (str): stands for its weights and options; it goes into the image hash of every score.
        to (Callable | None): moves it to a device.
    """

    def __init__(self, function, identity, to=None):
        self.function, self.identity, self._to = function, identity, to

    def to(self, device):
        if self._to is not None:
            self._to(device)
        return self

    @torch.no_grad()
    def __call__(self, image):
        """The output as it would be saved: cut to [0, 1] and rounded to 8 bits.

        Raises:
            ValueError: values that are not finite, or no image of three channels.
        """
        made = self.function(image)
        if made.dim() != 4 or made.shape[:2] != (1, 3):
            raise ValueError(f'it made {tuple(made.shape)} of {tuple(image.shape)}, wanted (1, 3, H, W)')
        if not torch.isfinite(made).all():
            raise ValueError('its output holds NaN or infinite values')
        return made.to(image.device, torch.float32).clamp(0, 1).mul(255).round().div(255)


class NetworkOutput(ImageFile):
    """What a network makes of an image file; its image hash is that of both.

    Args:
        name, path, references: as of an :class:`ImageFile`; the references are of the output.
        network (Network): is on the device of the image when it is called.
        save (Path | None): file to write the output to.
    """

    __slots__ = ('network', 'save')

    def __init__(self, name, path, references, network, save=None):
        super().__init__(name, path, references)
        self.network, self.save = network, save

    def fingerprint(self, with_references):
        image_hash, reference_hash = super().fingerprint(with_references)
        return self._with_network(image_hash), reference_hash

    def pictures(self, need):
        lacks = self.save is not None and not self.save.is_file()
        for picture in super().pictures(lambda name: need(name) or (ALONE if lacks else NOT)):
            yield picture._replace(image_hash=self._with_network(picture.image_hash))

    def produce(self, image):
        try:
            made = self.network(image)
        except ValueError as error:
            raise ValueError(f'the network failed on {self.path}: {error}') from error
        except RuntimeError as error:
            raise RuntimeError(f'the network failed on {self.path}: {error}') from error
        if self.save is not None:
            write_image(self.save, made[0])
        return made

    def _with_network(self, image_hash):
        return hashlib.sha256(f'{self.network.identity} {image_hash}'.encode()).hexdigest()[:12]


def output_units(folder, network, references=None, suffix='', save=None):
    """The outputs of a network for every image of a folder.

    Args:
        folder (str | Path): its inputs, for super-resolution of low resolution.
        network (Network): makes one image of one image.
        references (str | Path | None): folder of ground truths of the outputs, paired by name.
        suffix (str): ending of the inputs' names, such as ``x4``; not stored.
        save (str | Path | None): folder to write the outputs to, as PNG under the stored names.

    Returns:
        dict[str, NetworkOutput]: by stored name, ``NAME.png``.

    Raises:
        FileNotFoundError, ValueError: as :func:`~nriqa_plugin.evaluation.images.pair_images`; a folder of clips;
            outputs that would be written over the inputs or references.
    """
    if holds_clips(folder):
        raise ValueError(f"{folder} holds clips (subfolders of frames), and networks are run on images only: let the "
                         "host's test script write the outputs of a video network, and score their folder without "
                         '--network')  # fmt: skip
    if save is not None and Path(save).resolve() in {Path(p).resolve() for p in (folder, references) if p is not None}:
        raise ValueError(f'--save {save} would write the outputs over the images there')
    pairs = [(path, None) for path in list_images(folder)] if references is None else pair_images(
        folder, references, suffix
    )  # fmt: skip
    units = {}
    for path, reference in pairs:
        name = f'{path.stem.removesuffix(suffix)}.png'
        if name in units:
            raise ValueError(f'{few([units[name].path.name, path.name])} would both be stored as {name}')
        target = None if save is None else Path(save) / name
        units[name] = NetworkOutput(name, path, () if reference is None else (reference,), network, target)
    return units
