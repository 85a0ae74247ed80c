"""Resuming: what mmengine's checkpoints need to be read safely, and what they lack for the same losses."""

import logging

import numpy
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer

from nriqa_plugin.losses.training_state import random_state, restore_torch_random

KEY = 'nriqa_plugin'  # our part of a checkpoint

logger = logging.getLogger('nriqa_plugin')


def trust_host_checkpoints():
    """Let ``torch.load`` read the checkpoints of mmengine 0.10 with ``weights_only=True``, torch's default since 2.6.

    They hold ``HistoryBuffer`` objects, whose pickles ask for ``getattr``. Only :func:`_history_method` answers to
    that name, so nothing but mmengine's four statistics can be fetched; no other code becomes loadable.
    """
    if torch.torch_version.TorchVersion(torch.__version__) < (2, 6):
        return  # torch.load reads them as they are
    arrays = [numpy.ndarray, numpy.dtype, numpy.core.multiarray._reconstruct, numpy.core.multiarray.scalar]
    dtypes = [type(numpy.dtype(kind)) for kind in ('float64', 'float32', 'int64', 'int32', 'uint8', 'bool')]
    torch.serialization.add_safe_globals([HistoryBuffer, *arrays, *dtypes, (_history_method, 'builtins.getattr')])


def _history_method(owner, name):
    """``getattr`` as far as a pickled ``HistoryBuffer`` needs it."""
    if owner is not HistoryBuffer or name not in ('mean', 'min', 'max', 'current'):
        raise ValueError(f'a checkpoint asks for {name!r} of {owner!r}; only the statistics of HistoryBuffer are read')
    return getattr(owner, name)


class ResumeState:
    """Counters and torch's random generators in mmengine's checkpoints.

    Python's and numpy's generators are left to mmengine, which replays the data loader up to the iteration. torch's
    are put back at the first batch after that, for the replay draws from them.
    """

    def __init__(self):
        self.random_of_all_ranks = None
        self.pending = None

    def gather_random(self):
        """Remember every rank's generators; all ranks have to call this, the main process alone saves."""
        self.random_of_all_ranks = all_gather_object(random_state())

    def is_due(self, runner):
        """Whether mmengine writes a checkpoint after this iteration."""
        hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook) and not hook.by_epoch]
        due = any(hook.every_n_train_iters(runner, hook.interval, hook.save_begin) for hook in hooks)
        return due or runner.iter + 1 == runner.max_iters

    def save(self, checkpoint, losses, guards):
        """Add our part to a checkpoint: tensors, lists, dicts and numbers only."""
        checkpoint[KEY] = {
            'losses': {slot: loss.loss_state() for slot, loss in losses.items()},
            'skipped': {name: guard.skipped for name, guard in guards.items()},
            'random': self.random_of_all_ranks or [random_state()],
        }

    def load(self, checkpoint):
        """Keep our part of the checkpoint of a resumed run until training begins."""
        if KEY not in checkpoint:
            logger.warning('the checkpoint was saved without PerceptualHook: our counters start at zero')
        self.pending = checkpoint.get(KEY)

    def restore_counters(self, losses, guards):
        """Restore counters of losses and guards.

        Raises:
            ValueError: the checkpoint was saved with our losses in other slots.
        """
        if self.pending is None:
            return
        saved = self.pending['losses']
        if saved.keys() != losses.keys():
            raise ValueError(f'resume: the checkpoint was saved with our losses in {sorted(saved)}, the config has '
                             f'them in {sorted(losses)}')  # fmt: skip
        for slot, loss in losses.items():
            loss.load_loss_state(saved[slot])
        for name, guard in guards.items():
            guard.skipped = self.pending['skipped'].get(name, 0)

    def restore_random(self):
        """Restore torch's generators, once, at the first batch."""
        if self.pending is None:
            return
        states, self.pending = self.pending['random'], None
        if len(states) != get_world_size():
            logger.warning('resumed with another number of processes: random generators start anew')
            return
        restore_torch_random(states[get_rank()])
