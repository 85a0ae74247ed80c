"""Networks that neither host brings."""

from nriqa_plugin.archs.dncnn import DnCNN
from nriqa_plugin.archs.rbpn import RBPN
from nriqa_plugin.archs.rlfn import RLFN
from nriqa_plugin.archs.simple_vsr import SimpleVSR
from nriqa_plugin.archs.srgan_discriminator import SRGANDiscriminator
from nriqa_plugin.archs.vrt import VRT

__all__ = ['RBPN', 'RLFN', 'VRT', 'DnCNN', 'SRGANDiscriminator', 'SimpleVSR']
