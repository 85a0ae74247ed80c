"""Our part of BasicSR's training state: it sits among the schedulers, which the host saves and restores."""

from nriqa_plugin.losses.training_state import random_state, restore_python_random, restore_torch_random


class ResumeState:
    """Loss schedules and counters, skipped steps and the global random generators.

    Behaves like a learning-rate scheduler as far as the host calls one.
    """

    def __init__(self, model):
        self.model = model
        self.pending_torch_state = None

    def step(self):
        """Nothing to do at a step."""

    def state_dict(self):
        """Tensors, lists, dicts and numbers only, so that ``weights_only`` loading accepts them."""
        return {
            'losses': [loss.loss_state() for loss in self.model.loss_sums],
            'skipped': {name: guard.skipped for name, guard in self.model.step_guards.items()},
            'random': random_state(),
        }

    def load_state_dict(self, state):
        """Restore everything but torch's generators, see :meth:`restore_torch`.

        Raises:
            ValueError: the state was saved with other losses.
        """
        if len(state['losses']) != len(self.model.loss_sums):
            raise ValueError(
                f'resume_state holds {len(state["losses"])} loss sums, the option file has {len(self.model.loss_sums)}'
            )
        for loss, saved in zip(self.model.loss_sums, state['losses'], strict=True):
            loss.load_loss_state(saved)
        for name, skipped in state['skipped'].items():
            self.model.step_guards[name].skipped = skipped
        restore_python_random(state['random'])
        self.pending_torch_state = state['random']

    def restore_torch(self):
        """Restore torch's generators at the first batch: starting the data loader draws from them before."""
        if self.pending_torch_state is not None:
            restore_torch_random(self.pending_torch_state)
            self.pending_torch_state = None
