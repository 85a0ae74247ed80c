"""``mmagic_on_cpus.py SCRIPT ARGUMENTS``: a stock script whose launcher asks for GPUs, on a machine without."""

import runpy
import sys

import torch

if __name__ == '__main__':
    torch.cuda.set_device = lambda device: None
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name='__main__')
