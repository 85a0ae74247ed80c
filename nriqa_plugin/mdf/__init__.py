"""How the discriminators of the MDF loss are made: phase 1 of Mustafa et al., WACV 2022."""

from nriqa_plugin.mdf.discriminator import RECEPTIVE_FIELD, Discriminator
from nriqa_plugin.mdf.distortions import JPEG, Downscale, GaussianNoise, create_distortion
from nriqa_plugin.mdf.mdf_file import load_mdf, save_mdf

__all__ = [
    'JPEG',
    'RECEPTIVE_FIELD',
    'Discriminator',
    'Downscale',
    'GaussianNoise',
    'create_distortion',
    'load_mdf',
    'save_mdf',
]
