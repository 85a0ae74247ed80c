"""Candidate ground truths from restoration networks, or from their outputs that are there already."""

import torch.nn.functional as F

from nriqa_plugin.checks import check_file, check_number, file_hash, import_extra, load_weights
from nriqa_plugin.evaluation.images import list_images, read_image
from nriqa_plugin.multigt.enhancer import Enhancer

OWN = 'for a network of your own write package.module:factory as the enhancer'


class Model(Enhancer):
    """A network from any checkpoint that the package spandrel reads (ESRGAN, SwinIR, HAT, SCUNet, ...).

    A network of scale s gets the original downscaled by s (bicubic with anti-aliasing), so that its output has the
    original's size: what it would have made of a lower resolution. With a smaller ``down`` it sees more of the
    original, and its output is downscaled by ``s / down``. A network of one channel is applied to each colour.

    Args:
        weights (str): the checkpoint, ``.pth`` (loaded with ``weights_only=True``) or ``.safetensors``.
        down (int | None): by how much the original is downscaled; a divisor of the network's scale, which is the
            default.
        overlap (int): px of the network's input that tiles overlap on each side; networks whose view is wider leave
            faint seams in images larger than a tile.

    Raises:
        ImportError: spandrel is missing.
        FileNotFoundError, ValueError: no such file; one that is damaged, or that spandrel does not know; a network
            that is none for images, or of another number of channels.
    """

    def __init__(self, weights, down=None, overlap=32):
        self.file, self.hash = str(weights), file_hash(check_file('model: weights', weights))
        self.network = load_with_spandrel('model: weights', weights, OWN)
        self.scale = self.network.scale
        down = self.scale if down is None else check_number('model: down', down, low=1, integer=True)
        if self.scale % down:
            raise ValueError(f'model: down must divide the scale {self.scale} of {weights}, got {down}')
        self.down = down
        self.overlap = check_number('model: overlap', overlap, low=0, integer=True)

    def prepare(self, image):
        height, width = image.shape[-2:]
        bottom, right = -height % self.down, -width % self.down
        image = F.pad(image, (0, right, 0, bottom), mode='replicate') if bottom or right else image
        return _resize(image, [side // self.down for side in image.shape[-2:]])

    def enhance(self, images):
        if self.network.input_channels == 1:
            return self.network(images.transpose(0, 1)).transpose(0, 1)
        return self.network(images)

    def finish(self, image, height, width):
        rest = self.scale // self.down
        return super().finish(_resize(image, [side // rest for side in image.shape[-2:]]), height, width)

    def to(self, device):
        self.network.to(device)
        return self

    def identity(self):
        return f'{self.hash}-down{self.down}-overlap{self.overlap}'


class Folder(Enhancer):
    """Outputs that another program has made, paired with the originals by file name without ending.

    Args:
        path (str): folder of images of the originals' size.
        suffix (str): what the outputs' names have more, for example ``_out``.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no image; later: an original without an output, or one of another size.
    """

    def __init__(self, path, suffix=''):
        self.path, self.suffix = str(path), str(suffix)
        self.files = {file.stem: file for file in list_images(path)}

    def candidate(self, image, stem, tile):
        file = self._file(stem)
        made = read_image(file)[None]
        if made.shape != image.shape:
            size, wanted = (f'{i.shape[-1]} x {i.shape[-2]} px' for i in (made, image))
            raise ValueError(f'folder: {file} is {size}, the original {wanted}: a candidate must have the same size')
        return made

    def source_hash(self, original_hash, stem):
        return f'{original_hash}+{file_hash(self._file(stem))}'

    def _file(self, stem):
        if stem + self.suffix not in self.files:
            raise ValueError(f'folder: {self.path} has no {stem}{self.suffix}.*')
        return self.files[stem + self.suffix]


def load_with_spandrel(option, file, otherwise):
    """A network for images, in eval mode and frozen, from any checkpoint that spandrel knows.

    Args:
        option (str): how errors call the file.
        otherwise (str): what to do with a network that spandrel does not know.

    Raises:
        ImportError: spandrel is missing.
        ValueError: a damaged file, or no network for images of 1 or 3 channels.
    """
    spandrel = import_extra('spandrel', 'gts', 'the network of a checkpoint')
    try:
        if str(file).endswith('.safetensors'):
            network = spandrel.ModelLoader().load_from_file(file)
        else:
            state = spandrel.canonicalize_state_dict(load_weights(option, file))
            network = spandrel.ModelLoader().load_from_state_dict(state)
    except spandrel.UnsupportedModelError as error:
        raise ValueError(f'{option}: spandrel knows no network that {file} belongs to; {otherwise}') from error
    if not isinstance(network, spandrel.ImageModelDescriptor):
        raise ValueError(f'{option}: {file} is a {type(network).__name__}, which makes no image of an image alone')
    channels = (network.input_channels, network.output_channels)
    if channels not in ((3, 3), (1, 1)):
        raise ValueError(f'{option}: {file} takes {channels[0]} and gives {channels[1]} channels, wanted 3 or 1')
    network.eval()
    for parameter in network.model.parameters():
        parameter.requires_grad_(False)
    return network


def _resize(image, size):
    if list(image.shape[-2:]) == list(size):
        return image
    return F.interpolate(image, size=size, mode='bicubic', align_corners=False, antialias=True)
