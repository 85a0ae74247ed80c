"""What a checkpoint must hold beyond weights and optimizers for a resumed run to give the same losses."""

import random

import numpy
import torch


def random_state():
    """State of the global torch, CUDA, numpy and python generators, as plain tensors, lists and numbers."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = numpy.random.get_state()
    return {
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        'python': [version, list(words), gauss],
        'numpy': [name, torch.from_numpy(keys.astype(numpy.int64)), int(position), int(has_gauss), float(cached)],
    }


def restore_python_random(state):
    """Restore the python and numpy generators, which data loading in the main process draws from."""
    version, words, gauss = state['python']
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state['numpy']
    numpy.random.set_state((name, keys.cpu().numpy().astype(numpy.uint32), *rest))


def restore_torch_random(state):
    """Restore torch's generators; a state saved with another number of GPUs restores those that exist."""
    torch.set_rng_state(state['torch'].cpu())
    if torch.cuda.is_available():
        for device, saved in zip(range(torch.cuda.device_count()), state['cuda'], strict=False):
            torch.cuda.set_rng_state(saved.cpu(), device)


class unchanged_random:
    """Context in which drawing random numbers leaves no trace, for validation in the middle of training."""

    def __enter__(self):
        self.state = random_state()

    def __exit__(self, *_):
        restore_python_random(self.state)
        restore_torch_random(self.state)
