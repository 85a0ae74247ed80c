"""What keeps stock BasicSR from running on a CPU, mended from outside."""

import contextlib
from collections import Counter

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def mend_host():
    """Let resuming and ``--launcher pytorch`` work without a GPU; does nothing when there is one.

    For our own launcher, which calls this before the host's ``train_pipeline``.
    """
    if torch.cuda.is_available():
        return
    from basicsr import train
    from basicsr.models.base_model import BaseModel
    from basicsr.utils import dist_util

    train.load_resume_state = _load_resume_state(train.load_resume_state)
    dist_util._init_dist_pytorch = lambda backend, **kwargs: torch.distributed.init_process_group('gloo', **kwargs)
    stock = BaseModel.model_to_device
    BaseModel.model_to_device = lambda model, net: to_device(model, net, lambda n: stock(model, n))


def _load_resume_state(stock):
    """The host asks for the current GPU and maps every storage to it."""

    def load(opt):
        current_device, storage_cuda = torch.cuda.current_device, torch.UntypedStorage.cuda
        torch.cuda.current_device = lambda: 0
        torch.UntypedStorage.cuda = lambda storage, *args, **kwargs: storage
        try:
            return stock(opt)
        finally:
            torch.cuda.current_device, torch.UntypedStorage.cuda = current_device, storage_cuda

    return load


def to_device(model, net, stock):
    """Like the host's ``model_to_device``, but distributed training on CPUs gets no GPU ids."""
    if model.opt['dist'] and model.device.type == 'cpu':
        unused = model.opt.get('find_unused_parameters', False)
        return DistributedDataParallel(net.to(model.device), find_unused_parameters=unused)
    return stock(net)


@contextlib.contextmanager
def cuda_calls_stay_on_cpu(active):
    """Inside, ``.cuda()`` of modules and tensors returns them as they are (RealESRGANModel hard-codes it)."""
    if not active:
        yield
        return
    module_cuda, tensor_cuda = nn.Module.cuda, torch.Tensor.cuda
    nn.Module.cuda = torch.Tensor.cuda = lambda self, *args, **kwargs: self
    try:
        yield
    finally:
        nn.Module.cuda, torch.Tensor.cuda = module_cuda, tensor_cuda


def video_metric_table(dataset, metrics, device):
    """The table that video models fill, one ``(frames, metrics)`` tensor a folder; the host makes it on CUDA only."""
    frames = Counter(dataset.data_info['folder'])
    return {folder: torch.zeros(n, len(metrics), dtype=torch.float32, device=device) for folder, n in frames.items()}
