"""The order of values in memory that convolutions are fastest with."""

import torch


def channels_last_on_cpu(images):
    """The same images with the channels of a pixel side by side, on a CPU; elsewhere as they are.

    Measured on 768 x 512 px with one thread: LPIPS(squeeze) takes 0.68 and SSIM 0.51 of the time. Not every network
    bears it (``view`` of such a tensor fails), so each judge that does asks for it.
    """
    return images.contiguous(memory_format=torch.channels_last) if images.device.type == 'cpu' else images
