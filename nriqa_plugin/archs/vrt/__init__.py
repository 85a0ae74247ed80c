"""VRT, a video restoration transformer, in parts; ``SMALL`` are options for it on a CPU."""

from nriqa_plugin.archs.vrt.network import VRT
from nriqa_plugin.archs.vrt.settings import SMALL

__all__ = ['SMALL', 'VRT']
