"""Validation against several ground truths of an image, for mmagic."""

from pathlib import Path

from nriqa_plugin.checks import check_flag, check_keys
from nriqa_plugin.evaluation.images import read_image
from nriqa_plugin.evaluation.scores import mean
from nriqa_plugin.evaluation.several_gts import check_gold, find_set, positives
from nriqa_plugin.mmagic.metrics import IQAMetric
from nriqa_plugin.multigt.layout import read_sets

GOLD = 'gold_standard'


class SeveralGTsMetric(IQAMetric):
    """:class:`IQAMetric` whose full-reference scores are averaged over all positive ground truths of an image.

    Args:
        judges (list): as in ``IQAMetric``.
        gts (str | dict): where the ground truths are: a folder with ``gt/``, ``gt_01/``, ..., or ``dict(root=...,
            layout=..., index=...)`` as in :func:`nriqa_plugin.multigt.layout.read_sets`. The positive ones count; all,
            where there are no labels. They are found by the name of the validation image.
        gold_standard (bool): score the ground truths themselves with no-reference judges, not the network's output;
            the results are called ``gold_standard/<name>``.
        options: as in ``IQAMetric``.

    Raises:
        ValueError: a wrong option, full-reference judges for the gold standard; later an image without ground truths.
    """

    def __init__(self, judges, gts, gold_standard=False, **options):
        super().__init__(judges, **options)
        places = {'root': gts} if isinstance(gts, str) else dict(gts)
        check_keys('gts', places, ('root', 'layout', 'index'))
        self.gts = positives(read_sets(**places, training=False)[0])
        self.gold = check_flag(GOLD, gold_standard)
        if self.gold:
            for judge in self.judges.values():
                check_gold(judge)
            self.judges = {f'{GOLD}/{name}': judge for name, judge in self.judges.items()}

    def _truth(self, data):
        """All positive ground truths, each ``(1, 3, H, W)``."""
        stems = [Path(data[key]).stem for key in ('gt_path', 'img_path') if isinstance(data.get(key), str)]
        paths = self.gts[find_set(self.gts, *stems)]
        return [read_image(path)[None].to(self.device) for path in paths]

    def _score(self, judge, pred, gt):
        if self.gold:
            return [mean(judge(truth).item() for truth in gt)]
        if not judge.needs_reference:
            return super()._score(judge, pred, None)
        return [mean(judge(pred, truth).item() for truth in gt)]
