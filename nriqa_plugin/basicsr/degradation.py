"""LR images from an original, through the host's own code."""

import os

import cv2
import numpy as np
from basicsr.utils.matlab_functions import imresize

from nriqa_plugin.checks import check_number

HOST_KEYS = (
    'blur_kernel_size', 'kernel_list', 'kernel_prob', 'blur_sigma', 'betag_range', 'betap_range', 'sinc_prob',
    'blur_kernel_size2', 'kernel_list2', 'kernel_prob2', 'blur_sigma2', 'betag_range2', 'betap_range2', 'sinc_prob2',
    'final_sinc_prob',
)  # fmt: skip
KERNEL_KEYS = (*HOST_KEYS, 'kernel_sizes')
CROP = 400  # px, what the host's data set crops to


class BlindKernels:
    """Blur and sinc kernels of Real-ESRGAN's degradation, drawn by the host's ``RealESRGANDataset``.

    That one draws them together with reading an image; here it reads a grey one from memory.

    Args:
        opt (dict): ``HOST_KEYS``, and optionally ``kernel_sizes: [least, largest]``, odd numbers up to 21.

    Raises:
        ValueError: an option is missing, or sizes that are not odd or too large.
    """

    def __init__(self, opt):
        # Papers carry copies of basicsr without it.
        from basicsr.data.realesrgan_dataset import RealESRGANDataset

        missing = [key for key in HOST_KEYS if key not in opt and 'blur_kernel_size' not in key]
        if missing:
            raise ValueError(f'degradation: blind needs the options of RealESRGANDataset; missing: {missing}')
        unused = {
            'blur_kernel_size': 21, 'blur_kernel_size2': 21, 'io_backend': {'type': 'disk'}, 'dataroot_gt': '',
            'meta_info': os.devnull, 'use_hflip': False, 'use_rot': False,
        }  # fmt: skip
        self.source = RealESRGANDataset({**opt, **unused})
        self.source.paths, self.source.file_client = [''], _GreyImage()
        if 'kernel_sizes' in opt:
            self.source.kernel_range = kernel_range(opt['kernel_sizes'])

    def draw(self):
        """``kernel1``, ``kernel2``, ``sinc_kernel``, each ``(21, 21)``."""
        item = self.source[0]
        return {key: item[key] for key in ('kernel1', 'kernel2', 'sinc_kernel')}


class _GreyImage:
    """A file client that has one image, of the size that the data set crops to."""

    def __init__(self):
        self.data = cv2.imencode('.png', np.full((CROP, CROP, 3), 128, np.uint8))[1].tobytes()

    def get(self, path, client_key):
        return self.data


def kernel_range(sizes):
    """The odd numbers from the least to the largest size."""
    if not isinstance(sizes, (list, tuple)) or len(sizes) != 2:
        raise ValueError(f'kernel_sizes must be [least, largest], got {sizes!r}')
    least, largest = (check_number('kernel_sizes', size, low=3, high=21, integer=True) for size in sizes)
    if least > largest or not least % 2 or not largest % 2:
        raise ValueError(f'kernel_sizes must be two odd numbers, the least first, got {sizes!r}')
    return list(range(least, largest + 1, 2))


def bicubic_crop(image, top, left, side, scale):
    """What a crop of the downscaled image would be, without downscaling all of it.

    Args:
        image (ndarray): ``(H, W, C)`` in [0, 1], float32.
        top, left, side (int): the crop in px of ``image``, multiples of ``scale``.
        scale (int): the size is divided by it, by the host's MATLAB-like bicubic interpolation.

    Returns:
        ndarray: ``(side / scale, side / scale, C)`` float32, clipped to [0, 1] and rounded to 8 bits, as a stored LR
        image is.
    """
    height, width = (size - size % scale for size in image.shape[:2])
    margin = 4 * scale  # the antialiasing kernel reaches 2 * scale px
    above, before = max(0, top - margin), max(0, left - margin)
    part = image[above : min(height, top + side + margin), before : min(width, left + side + margin)]
    small = imresize(np.ascontiguousarray(part), 1 / scale)
    y, x = (top - above) // scale, (left - before) // scale
    small = small[y : y + side // scale, x : x + side // scale]
    return np.ascontiguousarray((small.clip(0, 1) * 255).round().astype(np.float32) / 255)
