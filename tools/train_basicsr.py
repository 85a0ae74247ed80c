"""BasicSR's own training script with the plugin imported; same command line as ``python -m basicsr.train``.

Differences to the stock script of a pip-installed BasicSR: results go to the current folder instead of
site-packages, resuming and ``--launcher pytorch`` (through gloo) work on a machine without a GPU, and option files
do without the ``plugin:`` line::

    python tools/train_basicsr.py -opt options/basicsr/rlfn_x4_cnniqa_lpips.yml --auto_resume
    torchrun --nproc_per_node=2 tools/train_basicsr.py -opt OPTION_FILE --launcher pytorch
"""

import os
import sys

sys.path.insert(0, os.getcwd())  # as `python -m` does: judges by dotted path may lie in the current folder

import nriqa_plugin.basicsr  # noqa: F401  (importing is the registration)
from nriqa_plugin.basicsr import cpu

if __name__ == '__main__':
    from basicsr import train

    cpu.mend_host()
    train.train_pipeline(os.getcwd())
