"""Adapter to BasicSR: importing it registers our losses, networks, data sets, models and metrics.

An option file needs one line, which makes the stock ``python -m basicsr.train`` import this package::

    plugin: !!python/name:nriqa_plugin.basicsr.VERSION
"""

import logging

from nriqa_plugin import __version__ as VERSION
from nriqa_plugin.basicsr.registration import register_all

__all__ = ['VERSION']

register_all()
# Our warnings belong into the training's log file, which is a handler of BasicSR's logger.
logging.getLogger('nriqa_plugin').parent = logging.getLogger('basicsr')
