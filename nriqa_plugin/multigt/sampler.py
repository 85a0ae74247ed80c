"""``AMOSampler``: the training target of a batch, out of several candidates."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed, nn

from nriqa_plugin.checks import check_choice, check_flag, check_number, checks_options, in_place
from nriqa_plugin.multigt import selection
from nriqa_plugin.multigt.batch_scores import candidate_judge, look_up_crops, score_crops, table_of
from nriqa_plugin.multigt.panel import write_panel
from nriqa_plugin.multigt.statistics import ChoiceStatistics

logger = logging.getLogger('nriqa_plugin')


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        gt (Tensor): ``(N, 3, H, W)``, on the device of the candidates.
        index (Tensor): ``(N,)`` int64 on the CPU.
        scores (Tensor | None): ``(N, K)`` on the CPU, higher is better, NaN where nothing was scored; None when the
            method needs no scores.
    """

    gt: torch.Tensor
    index: torch.Tensor
    scores: torch.Tensor | None


@checks_options
class AMOSampler(nn.Module):
    """Chooses one of K candidate ground truths for every sample of a batch.

    The methods are those of :mod:`nriqa_plugin.multigt.selection`. Without cached scores the judge scores the crops
    that training sees, without gradient, on the device of the candidates. A candidate that stands alone is chosen
    without being scored. Draws depend on (seed, iteration, rank) only.

    Args:
        method (str): ``original``, ``random`` (all candidates), ``upos`` (uniform over the positive ones), ``sma``
            (softmax of the scores, all candidates), ``smp`` (softmax, the positive ones) or ``amo`` (the best patch).
        metric (str | Scorer | None): a no-reference judge as :func:`nriqa_plugin.iqa.create_scorer` names it.
        ensemble (list[dict] | None): instead of ``metric``, several judges as one, see
            :class:`nriqa_plugin.iqa.ensemble.Ensemble`.
        weights (str | None): the judge's local weights file.
        options (dict | None): further options of the judge.
        tau (float): temperature of ``sma`` and ``smp`` in the judge's own units. No value was published; at the
            default, CNNIQA takes the best of four SR models' outputs with a probability of 0.80 (median of 10
            images), at 0.5 with 0.95 and at 4 with 0.45. Scale it with the spread of your judge.
        scores (str | None): file of cached scores; then no judge is needed, and one that is given is only compared
            with the file's (:func:`nriqa_plugin.multigt.batch_scores.table_of`). ``amo`` wants scores of patches,
            ``sma`` and ``smp`` take those of whole images (exactly the published rule) or of patches.
        chunk (int): crops that the judge scores at once.
        precision (str): ``fp32``, or ``bf16`` to run the judge under bfloat16 autocast.
        seed (int): of the draws.
        panel_every (int): write a picture of the candidates every so many iterations; 0 for never.
        verify (bool): compare the hash of every image with that in the file of scores, when the loader gives it.

    Raises:
        ValueError, TypeError: at construction, naming the option; a judge that needs a reference or is a video judge.
    """

    def __init__(
        self,
        method='amo',
        metric=None,
        weights=None,
        options=None,
        ensemble=None,
        tau=1.0,
        scores=None,
        chunk=8,
        precision='fp32',
        seed=0,
        panel_every=0,
        verify=True,
    ):
        super().__init__()
        self.method = check_choice('method', method, selection.METHODS)
        self.tau = check_number('tau', tau, low=0)
        self.chunk = check_number('chunk', chunk, low=1, integer=True)
        self.bf16 = check_choice('precision', precision, ('fp32', 'bf16')) == 'bf16'
        self.seed = check_number('seed', seed, integer=True)
        self.panel_every = check_number('panel_every', panel_every, low=0, integer=True)
        self.verify = check_flag('verify', verify)
        self.scored = method in selection.SCORED
        self.table = self.scorer = None
        if self.scored:
            self._prepare_scores(scores, metric=metric, weights=weights, options=options, ensemble=ensemble)
        self.higher_better = (
            True if not self.scored else (self.table.header if self.table else self.scorer).higher_better
        )
        self.statistics = ChoiceStatistics()
        self.panel_folder = None  # told by the framework
        self.iteration, self.panel_written = 0, None
        self.range_checked = False

    def _prepare_scores(self, scores, **judge):
        if scores is None:
            self.scorer = candidate_judge(**judge)
            return
        self.table = table_of(scores, **judge)
        if self.method == 'amo' and not self.table.is_grid:
            raise ValueError(f'scores: {scores} holds scores of whole images, amo chooses patches; score them on a '
                             'grid, or take method: sma with tau: 0')  # fmt: skip

    def set_iteration(self, iteration):
        """Tell the iteration (starting at 1), which draws depend on."""
        self.iteration = iteration

    @torch.no_grad()
    def forward(self, candidates, valid=None, positive=None, names=None, crops=None, hashes=None):
        """Choose.

        Args:
            candidates (Tensor): RGB in [0, 1], ``(N, K, 3, H, W)``; what stands in the place of an invalid one is not
                looked at.
            valid (Tensor | None): ``(N, K)`` bool; None for all.
            positive (Tensor | None): ``(N, K)`` bool, for ``upos`` and ``smp``.
            names (list[str] | None): N names of the sets, for cached scores.
            crops (Tensor | None): ``(N, 2)``, top and left of the crops in px of the whole ground truth, before flips
                and rotations; for cached scores of patches.
            hashes (list[list[str]] | None): N lists of K image hashes, or empty strings.

        Returns:
            Choice

        Raises:
            ValueError: a shape, or what the method needs is missing; no candidate left for a sample; scores of other
                data.
        """
        valid, positive = self._check(candidates, valid, positive)
        eligible = valid & positive if self.method in selection.OF_POSITIVES else valid
        scores = None
        if self.table is not None:
            known = hashes if self.verify else None
            scores = look_up_crops(self.table, valid, candidates.shape[-1], names, crops, known)
        elif self.scored:
            scores = score_crops(self.scorer, candidates, eligible, self.chunk, self.bf16, not self.range_checked)
            self.range_checked = self.range_checked or bool(torch.isfinite(scores).any())
        with in_place(f'method: {self.method}, sets {list(names)}' if names is not None else f'method: {self.method}'):
            index = self._choose(scores, valid, positive, eligible)
        rows = torch.arange(len(index), device=candidates.device)
        gt = candidates[rows, index.to(candidates.device)]
        self.statistics.add(index, scores, valid.shape[1])
        self._panel(candidates, valid, scores, index)
        return Choice(gt, index, scores)

    def _check(self, candidates, valid, positive):
        if candidates.dim() != 5 or candidates.shape[2] != 3:
            raise ValueError(f'candidates must be (N, K, 3, H, W), got {tuple(candidates.shape)}')
        shape = candidates.shape[:2]
        valid = torch.ones(shape, dtype=torch.bool) if valid is None else valid.cpu()
        if positive is None:
            if self.method in selection.OF_POSITIVES:
                raise ValueError(f'method: {self.method} needs to know which candidates people called positive')
            positive = torch.zeros(shape, dtype=torch.bool)
        for name, flags in (('valid', valid), ('positive', positive)):
            if flags.shape != shape:
                raise ValueError(f'{name} is {tuple(flags.shape)}, the candidates are {tuple(candidates.shape)}')
        return valid, positive.cpu()

    def _choose(self, scores, valid, positive, eligible):
        generator = self._generator()
        if self.method == 'original':
            return selection.original(valid)
        if self.method == 'random':
            return selection.random(valid, generator)
        if self.method == 'upos':
            return selection.upos(valid, positive, generator)
        # One that stands alone was not scored: any finite score will do for it.
        alone = eligible.sum(1, keepdim=True) == 1
        scores = torch.where(alone & eligible, 0.0, scores)
        if self.method == 'amo':
            return selection.amo(scores, valid)
        if self.method == 'smp':
            return selection.smp(scores, valid, positive, self.tau, generator)
        return selection.sma(scores, valid, self.tau, generator)

    def _generator(self):
        rank = _rank()
        return torch.Generator().manual_seed(hash((self.seed, self.iteration, rank)) & 0x7FFF_FFFF_FFFF_FFFF)

    def _panel(self, candidates, valid, scores, index):
        due = self.iteration and self.panel_every and self.iteration % self.panel_every == 0
        if due and self.panel_written != self.iteration and self.panel_folder is not None and _rank() == 0:
            native = scores if scores is None or self.higher_better else -scores
            path = Path(self.panel_folder) / f'candidates_{self.iteration:07d}.png'
            write_panel(path, candidates, valid, native, index)
            self.panel_written = self.iteration

    def log_values(self):
        """What was chosen lately, by name; scores in the judge's own direction."""
        return self.statistics.values(1 if self.higher_better else -1)

    def loss_state(self):
        """For a checkpoint; the name is that of the losses, beside which the frameworks' adapters keep it."""
        return {'statistics': self.statistics.state()}

    def load_loss_state(self, state):
        """Go on from a :meth:`loss_state`."""
        self.statistics.load(state['statistics'])

    def report_counts(self):
        """Nothing is counted in silence here."""


def _rank():
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
