"""Validation metrics for mmagic: several judges in one pass over each image."""

from dataclasses import replace
from pathlib import Path

import torch
from mmagic.evaluation.metrics.base_sample_wise_metric import BaseSampleWiseMetric

from nriqa_plugin.checks import check_keys, in_place
from nriqa_plugin.evaluation.scores import dataset_mean, frame_name, score_row
from nriqa_plugin.iqa import create_scorer

JUDGE_KEYS = ('metric', 'weights', 'options', 'crop_border', 'name')


class IQAMetric(BaseSampleWiseMetric):
    """Scores of any judges, averaged over the images of a data set; every image is converted once for all of them.

    Images are scored as they would be saved: rounded to 8 bits. A video judge gets the clip, the others its frames;
    then the mean is over clips of their frames' means.

    Args:
        judges (list): names of judges, or ``{metric, weights?, options?, crop_border?, name?}`` as in the losses.
            ``name`` is the key among the results; by default the judge's own.
        crop_border (int): px that every judge leaves out on each side, unless it says otherwise.
        device (str): ``auto`` takes a GPU if there is one.
        gt_key, pred_key, collect_device, prefix: as in mmagic's own metrics. Only full-reference judges need the
            ground truth.

    Raises:
        ValueError: no judges, one named twice, or an unknown judge or option.
    """

    metric = 'IQA'  # mmagic wants one; results are called by the judges' names

    def __init__(
        self,
        judges,
        crop_border=0,
        device='auto',
        gt_key='gt_img',
        pred_key='pred_img',
        collect_device='cpu',
        prefix=None,
    ):
        device = ('cuda' if torch.cuda.is_available() else 'cpu') if device == 'auto' else device
        super().__init__(gt_key, pred_key, device=device, collect_device=collect_device, prefix=prefix)
        # Told (possible names, {name: scores of its frames}, frames as RGB in [0, 1]), of this rank only.
        self.listener = None
        self.judges = {}
        owner = type(self).__name__
        if not isinstance(judges, (list, tuple)) or not judges:
            raise ValueError(f"{owner}: judges must be a list of names or of dict(metric='...'), got {judges!r}")
        for i, judge in enumerate(judges):
            with in_place(f'{owner}.judges[{i}]'):
                name, scorer = _build(judge, crop_border)
                if name in self.judges:
                    raise ValueError(f"a judge called {name!r} is there already; give one of them its own 'name'")
            self.judges[name] = scorer.to(device)

    def directions(self):
        """``{key among the results: whether higher is better}``."""
        return {self.key(name): judge.higher_better for name, judge in self.judges.items()}

    def key(self, name):
        """How a result is called in the log and in ``save_best``."""
        return f'{self.prefix}/{name}' if self.prefix else name

    @torch.no_grad()
    def process(self, data_batch, data_samples):
        """Score a batch of data samples, as mmagic's evaluators hand them over: BGR, 0 to 255, ``(..., 3, H, W)``."""
        for data in data_samples:
            image = image_name(data)
            with in_place(f'validation of image {image}'):
                pred = self._to_unit_rgb(data['output'][self.pred_key])
                gt = self._truth(data)
                scores = {name: self._score(judge, pred, gt) for name, judge in self.judges.items()}
            names = (image, image_name(data, folders=1))
            if self.listener is not None:
                self.listener(names, scores, pred)
            self.results.append({'names': names, 'scores': scores})

    def _truth(self, data):
        if any(judge.needs_reference for judge in self.judges.values()) and self.gt_key in data:
            return self._to_unit_rgb(data[self.gt_key])
        return None

    def _score(self, judge, pred, gt):
        if gt is None and judge.needs_reference:
            raise ValueError(f'the full-reference judge {judge.name!r} needs the ground truth, but the data sample has '
                             f'no {self.gt_key!r}: load it in the pipeline (LoadImageFromFile, key gt)')  # fmt: skip
        if judge.temporal:
            return judge(*(clip[None] for clip in (pred, gt) if clip is not None)).tolist()
        pairs = ((pred[i : i + 1], None if gt is None else gt[i : i + 1]) for i in range(len(pred)))
        return [judge(*pair).item() for pair in pairs]

    def _to_unit_rgb(self, images):
        """8-bit RGB in [0, 1] as ``(T, 3, H, W)``, T = 1 for an image, on the judges' device."""
        images = images.to(self.device, torch.float32).clamp(0, 255).round() / 255
        images = images if images.dim() == 4 else images[None]
        return images.flip(-3) if images.shape[-3] == 3 else images

    def rows(self, results):
        """``{name: rows of a scores file}`` of gathered results; equal image names get their folder in front."""
        found = {}
        equal = len({result['names'][0] for result in results}) < len(results)
        for name, judge in self.judges.items():
            digest = judge.weights_hash()
            scores = (
                (result['names'][equal], t, score)
                for result in results
                for t, score in enumerate(result['scores'][name])
            )
            rows = (score_row(frame_name(i, t), judge, score, judge_hash=digest) for i, t, score in scores)
            found[name] = [replace(row, metric=name) for row in rows]
        return found

    def compute_metrics(self, results):
        """Means over the data set, by the judges' names."""
        return {name: dataset_mean(rows) for name, rows in self.rows(results).items()}

    def evaluate(self, size=None):
        """Both mmagic's evaluator, which gives no size, and mmengine's may call this."""
        self.size = self.size if size is None else size
        return super().evaluate()


def own_metrics(loop):
    """All our metrics of a validation or test loop, mmagic's with several evaluators or mmengine's; None has none."""
    evaluators = getattr(loop, 'evaluators', None) or [getattr(loop, 'evaluator', None)]
    metrics = [metric for evaluator in evaluators for metric in getattr(evaluator, 'metrics', None) or ()]
    return [metric for metric in metrics if hasattr(metric, 'directions')]


def image_name(data, folders=0):
    """How a data sample is called: the file of its ground truth, else of its input, with so many folders in front.

    Frames carry the name of the clip in front, and a clip is called by its folder, each with the folder above, for
    Vimeo-90K numbers its clips anew in every folder. With ``folders`` a clip's first frame follows after ``@``,
    for windows of one clip have the same folder.
    """
    path = data.get('gt_path') or data.get('img_path') or ''
    if isinstance(path, str):
        return '/'.join(Path(path).parts[-1 - folders :])
    first = Path(path[0])
    if len(path) == 1:
        return '/'.join(first.parts[-3:])
    return '/'.join(first.parent.parts[-2:]) + (f'@{first.stem}' if folders else '')


def _build(judge, crop_border):
    option = {'metric': judge} if isinstance(judge, str) else dict(judge)
    check_keys('a judge', option, JUDGE_KEYS)
    if 'metric' not in option:
        raise ValueError("the option 'metric' names the judge and is missing")
    border, given = option.get('crop_border', crop_border), option.get('options') or {}
    scorer = create_scorer(option['metric'], option.get('weights'), **{'crop_border': border, **given})
    return option.get('name', scorer.name), scorer
