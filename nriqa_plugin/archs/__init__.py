"""Networks that neither host brings."""

from nriqa_plugin.archs.rlfn import RLFN

__all__ = ['RLFN']
