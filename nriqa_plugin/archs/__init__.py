"""Networks that neither host brings."""

from nriqa_plugin.archs.dncnn import DnCNN
from nriqa_plugin.archs.rlfn import RLFN

__all__ = ['RLFN', 'DnCNN']
