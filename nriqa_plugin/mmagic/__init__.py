"""Adapter to mmagic: importing it registers our losses, networks, metrics, transforms and hooks.

A config needs one line, which makes mmagic's stock ``train.py`` and ``test.py`` import this package::

    custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)
"""

from nriqa_plugin.mmagic.basicvsrpp import name_bad_flow_files
from nriqa_plugin.mmagic.logs import warn_in_host_log
from nriqa_plugin.mmagic.registration import register_all
from nriqa_plugin.mmagic.resume import trust_host_checkpoints

register_all()
trust_host_checkpoints()
name_bad_flow_files()
warn_in_host_log()
