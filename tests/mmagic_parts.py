"""A hook and a judge for tests with several processes; a config imports this module by ``custom_imports``."""

import json
from pathlib import Path

import torch
from mmagic.registry import HOOKS
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from tests.judges import Brightness


@HOOKS.register_module()
class WritesScalars(Hook):
    """Writes what every process knows: its scalars and the sum of its weights, to ``rank0.json``, ``rank1.json``."""

    def after_train(self, runner):
        scalars = {key: buffer.data[0].tolist() for key, buffer in runner.message_hub.log_scalars.items()}
        model = getattr(runner.model, 'module', runner.model)
        scalars['weights'] = sum(p.double().sum().item() for p in model.generator.parameters())
        Path(runner.work_dir, f'rank{get_rank()}.json').write_text(json.dumps(scalars))


class NaNOnRank1(Brightness):
    """Its gradient is NaN in the second process only."""

    def score(self, pred, ref=None):
        zero = (pred - pred.detach()).flatten(1).sum(1)
        return pred.flatten(1).mean(1) + (torch.sqrt(zero * zero) if get_rank() == 1 else 0)
