"""Our part of BasicSR's training state: it sits among the schedulers, which the host saves and restores."""

import logging

import torch

from nriqa_plugin.losses.training_state import random_state, restore_python_random, restore_torch_random

logger = logging.getLogger('nriqa_plugin')


class ResumeState:
    """Loss schedules and counters, skipped steps and the global random generators.

    Behaves like a learning-rate scheduler as far as the host calls one.
    """

    def __init__(self, model):
        self.model = model
        self.pending_torch_state = None
        self.random_of_all_ranks = None

    def step(self):
        """Nothing to do at a step."""

    def state_dict(self):
        """Tensors, lists, dicts and numbers only, so that ``weights_only`` loading accepts them."""
        return {
            'losses': {slot: loss.loss_state() for slot, loss in self.model.own_losses.items()},
            'skipped': {name: guard.skipped for name, guard in self.model.step_guards.items()},
            'random': self.random_of_all_ranks or [random_state()],
        }

    def gather_random(self):
        """Collect every rank's generators, before rank 0 alone saves; all ranks have to call this."""
        if self.model.opt['dist']:
            self.random_of_all_ranks = [None] * self.model.opt['world_size']
            torch.distributed.all_gather_object(self.random_of_all_ranks, random_state())

    def load_state_dict(self, state):
        """Restore everything but torch's generators, see :meth:`restore_torch`.

        Raises:
            ValueError: the state was saved with other losses.
        """
        if state['losses'].keys() != self.model.own_losses.keys():
            raise ValueError(
                f'resume_state was saved with our losses in {sorted(state["losses"])}, '
                f'the option file has them in {sorted(self.model.own_losses)}'
            )
        for slot, loss in self.model.own_losses.items():
            loss.load_loss_state(state['losses'][slot])
        for name, skipped in state['skipped'].items():
            self.model.step_guards[name].skipped = skipped
        if len(state['random']) != self.model.opt['world_size']:
            logger.warning('resumed with another number of processes: random generators start anew')
            return
        own = state['random'][self.model.opt['rank']]
        restore_python_random(own)
        self.pending_torch_state = own

    def restore_torch(self):
        """Restore torch's generators at the first batch: starting the data loader draws from them before."""
        if self.pending_torch_state is not None:
            restore_torch_random(self.pending_torch_state)
            self.pending_torch_state = None
