"""The judge: one frozen, differentiable network or formula that gives every image a score."""

import copy
import inspect
import math
from functools import partial

import torch
from torch import nn

from nriqa_plugin.checks import check_images, check_keys, check_number, check_unit_range, import_dotted, tensors_hash

# name -> 'module:factory'; imported only when asked for, since some need optional packages.
BUILT_IN = {
    'niqe': 'nriqa_plugin.iqa.niqe:NIQE',
    'cnniqa': 'nriqa_plugin.iqa.cnniqa:CNNIQA',
    'mdtvsfa': 'nriqa_plugin.iqa.mdtvsfa:MDTVSFA',
    'lpips': 'nriqa_plugin.iqa.lpips_scorer:LPIPS',
    'mdf': 'nriqa_plugin.iqa.mdf:MDF',
    'psnr': 'nriqa_plugin.iqa.piq_scorer:psnr',
    'ssim': 'nriqa_plugin.iqa.piq_scorer:ssim',
    'ms_ssim': 'nriqa_plugin.iqa.piq_scorer:ms_ssim',
    'gmsd': 'nriqa_plugin.iqa.piq_scorer:gmsd',
    'vsi': 'nriqa_plugin.iqa.piq_scorer:vsi',
    'fsim': 'nriqa_plugin.iqa.piq_scorer:fsim',
    'pattern': 'nriqa_plugin.iqa.pattern:Pattern',
    'ensemble': 'nriqa_plugin.iqa.ensemble:Ensemble',
}


class Scorer(nn.Module):
    """Base of all judges: subclass it, set the attributes, write :meth:`score`.

    Attributes:
        name (str): how option files and tables call it.
        higher_better (bool): direction of the score.
        score_range (tuple[float, float]): lowest and highest score; infinite where there is no bound.
        needs_reference (bool): full-reference judge, wants ``ref``.
        min_side (int): shortest side in px that it can score, border included.
        crop_border (int): px that are left out on each side, see :meth:`leave_out_border`.
        differentiable (bool): whether its gradient with respect to ``pred`` is usable as a loss.
        no_gradient (str): why the gradient is not usable, if ``differentiable`` is false.
        temporal (bool): a video judge that takes ``(N, T, 3, H, W)``.
        has_gain (bool): whether a relative gain of its mean makes sense; not where a usual mean is 0.
        notes (tuple[str, ...]): what a reader of its scores should know, such as weights that look like others.

    Networks assigned to an attribute are frozen, put in eval mode for good and kept out of
    ``nn.Module``'s bookkeeping: a parent model neither saves, optimises, averages nor trains them, and
    its ``.train()`` does not reach them, while ``.to()`` does. Deep copies share the judge.
    """

    name = ''
    higher_better = True
    score_range = (-math.inf, math.inf)
    needs_reference = False
    min_side = 1
    crop_border = 0
    differentiable = True
    no_gradient = ''
    temporal = False
    has_gain = True
    notes = ()

    def __init__(self):
        super().__init__()
        object.__setattr__(self, '_networks', {})

    def score(self, pred, ref=None):
        """Score checked images; to be written by the subclass.

        Args:
            pred (Tensor): RGB in [0, 1], ``(N, 3, H, W)``; ``(N, T, 3, H, W)`` when ``temporal``.
            ref (Tensor | None): the same shape, for full-reference judges.

        Returns:
            Tensor: ``(N,)`` in native units, NaN where the judge is undefined for an image.
        """
        raise TypeError(f'{type(self).__name__} must define score(pred, ref)')

    def forward(self, pred, ref=None):
        """Score images, refusing whatever this judge cannot score.

        Args:
            pred (Tensor): RGB in [0, 1], ``(N, 3, H, W)``; ``(N, T, 3, H, W)`` when ``temporal``.
            ref (Tensor | None): reference of the same shape, for full-reference judges.

        Returns:
            Tensor: ``(N,)`` in the judge's native units.

        Raises:
            TypeError: not floating-point tensors, or float16 on a CPU.
            ValueError: wrong shape, size, channels or range, NaN input, a missing reference, or an image for
                which the score is undefined.
        """
        self.check(pred, ref)
        check_unit_range(f'the image given to {self.name}', pred)
        if self.needs_reference:
            check_unit_range(f'the reference given to {self.name}', ref)
        scores = self.raw_scores(pred, ref)
        if not torch.isfinite(scores).all():
            bad = [i for i, s in enumerate(scores.tolist()) if not math.isfinite(s)]
            if self.score_range[1] == math.inf and not torch.isnan(scores).any():
                return scores  # identical images have an infinite PSNR
            raise ValueError(f'{self.name} is undefined for image {bad} of the batch (flat, black or too uniform?)')
        return scores

    def check(self, pred, ref=None):
        """Check shapes, types and the presence of a reference; values are not read (no device sync)."""
        dims = (5,) if self.temporal else (4,)
        check_images('pred', pred, 3, self.min_side, dims, self.name)
        if not self.needs_reference:
            return
        if ref is None:
            raise ValueError(f'{self.name} is a full-reference judge and needs a reference image (ref, target or GT)')
        check_images('ref', ref, 3, self.min_side, dims, self.name)
        if ref.shape != pred.shape:
            raise ValueError(f'{self.name}: pred is {tuple(pred.shape)} but the reference is {tuple(ref.shape)}')

    def raw_scores(self, pred, ref=None, bf16=False):
        """:meth:`score` in the judge's own precision whatever autocast is around, without reading values.

        Half and bfloat16 inputs are scored in float32; float64 stays float64 if the judge was moved there.
        ``bf16=True`` runs the judge under bfloat16 autocast instead: less memory, about three digits.
        """
        dtype, border = self.dtype, self.crop_border
        images = [pred, ref] if self.needs_reference else [pred]
        if border:
            images = [image[..., border:-border, border:-border] for image in images]
        with torch.autocast(pred.device.type, dtype=torch.bfloat16, enabled=bf16):
            scores = self.score(*(image.to(dtype) for image in images)).to(dtype)
        if scores.shape != pred.shape[:1]:
            raise ValueError(f'{self.name} must return {(len(pred),)} scores, got {tuple(scores.shape)}')
        return scores

    def leave_out_border(self, border):
        """Do not look at ``border`` px on each side, as super-resolution papers do; returns the judge itself."""
        border = check_number('crop_border', border, low=0, integer=True)
        self.min_side += 2 * (border - self.crop_border)
        self.crop_border = border
        return self

    def unit(self, scores):
        """Map native scores to [0, 1] with 1 the best end of ``score_range``.

        Raises:
            ValueError: the range has no finite bounds.
        """
        low, high = self.score_range
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"scale 'unit' needs a judge with a finite range; {self.name} has {self.score_range}")
        share = (scores - low) / (high - low)
        return share if self.higher_better else 1 - share

    @property
    def dtype(self):
        """float64 if the judge was moved there (``.double()``), else float32."""
        tensors = (t for _, t in self._tensors() if t.is_floating_point())
        return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32

    @property
    def device(self):
        """Where the judge's tensors are; the CPU for a formula without any."""
        return next((tensor.device for _, tensor in self._tensors()), torch.device('cpu'))

    def weights_hash(self):
        """12 hex digits that stand for the judge: its name, its options (plain attributes) and its weights."""
        return tensors_hash(self._tensors(), repr((type(self).__name__, self.name, sorted(self.plain_options()))))

    def plain_options(self):
        """Pairs of name and value of the plain attributes (numbers, texts, tuples) that make this judge what it is."""
        hidden = ('training', 'name')
        plain = (bool, int, float, str, tuple)
        own = {key: value for key, value in vars(self).items() if key[0] != '_' and key not in hidden}
        return ((key, value) for key, value in own.items() if isinstance(value, plain))

    def _tensors(self):
        yield from self.named_buffers()
        for name, network in self._networks.items():
            yield from ((f'{name}.{key}', value) for key, value in network.state_dict().items())

    def __setattr__(self, name, value):
        if isinstance(value, nn.Parameter):
            raise TypeError(f'{type(self).__name__}.{name}: a judge has no trainable parameters; '
                            'put it into a module or register_buffer(..., persistent=False)')  # fmt: skip
        if isinstance(value, nn.Module):
            self._networks[name] = value.requires_grad_(False).eval()
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def register_buffer(self, name, tensor, persistent=False):
        """As in ``nn.Module``, but never persistent: a judge stays out of every checkpoint."""
        super().register_buffer(name, tensor, persistent=False)

    def add_module(self, name, module):
        """As in ``nn.Module``, but frozen and hidden like any network of a judge."""
        setattr(self, name, module)

    def _apply(self, fn, recurse=True):
        # A parent's .half() or .bfloat16() must not lower the judge's precision, only .to(device) and .double() count.
        def keep_precision(tensor):
            moved = fn(tensor)
            lowered = moved.is_floating_point() and moved.dtype in (torch.float16, torch.bfloat16)
            return tensor.to(moved.device) if lowered else moved

        for network in self._networks.values():
            network._apply(keep_precision)
        return super()._apply(keep_precision, recurse)

    def train(self, mode=True):
        """Stays in eval mode, whatever a parent model asks for."""
        return super().train(False)

    def __deepcopy__(self, memo):
        # EMA hooks deep-copy whole models; a frozen judge is the same in every copy.
        return self

    def __getstate__(self):
        return copy.copy(self.__dict__)

    def extra_repr(self):
        arrow = 'higher' if self.higher_better else 'lower'
        return f'{self.name}, {arrow} is better, range {self.score_range}, min side {self.min_side} px'


def create_scorer(name, weights=None, crop_border=0, **options):
    """Build a judge by name.

    Args:
        name (str): a built-in judge (``niqe``, ``cnniqa``, ``mdtvsfa``, ``lpips``, ``mdf``, ``psnr``, ``ssim``,
            ``ms_ssim``, ``gmsd``, ``vsi``, ``fsim``, or ``ensemble`` for several as one); else a metric of pyiqa
            (``musiq``, or ``pyiqa:ssim`` where a built-in judge has the name); or ``package.module:factory`` where the
            factory returns a :class:`Scorer`.
        weights (str | None): local weights file, loaded with ``weights_only=True``.
        crop_border (int): px to leave out on each side of every image.
        options: passed on to the judge; unknown ones are refused.

    Returns:
        Scorer: frozen, in eval mode, on the CPU.

    Raises:
        ValueError: unknown name (the closest ones are shown) or unknown option.
        TypeError: a factory that does not return a ``Scorer``.
        ImportError: the judge needs a package that is not installed (the message names the extra).
    """
    if isinstance(name, Scorer):
        if weights is not None or crop_border or options:
            raise ValueError(f'the judge {name.name} is already built: weights and options cannot be given with it')
        return name
    if not isinstance(name, str):
        raise TypeError(f'a judge is named by a string, got {name!r}')
    factory = _factory(name)
    given = options if weights is None else {'weights': weights, **options}
    _check_options(name, factory, given)
    try:
        scorer = factory(**given)
    except TypeError as error:
        if 'argument' in str(error) and error.__traceback__.tb_next is None:
            raise ValueError(f'judge {name!r}: {error}') from error
        raise
    if not isinstance(scorer, Scorer):
        raise TypeError(f'{name} returned a {type(scorer).__name__}, a judge must be a nriqa_plugin.iqa.Scorer')
    return scorer.leave_out_border(crop_border) if crop_border else scorer


def _check_options(name, factory, given):
    """Refuse options that a factory does not take, as far as its signature tells."""
    try:
        parameters = inspect.signature(factory).parameters
    except (ValueError, TypeError):
        return
    kinds = {parameter.kind for parameter in parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        check_keys(f'the judge {name}', given, [*parameters, 'crop_border'])


def _factory(name):
    if name in BUILT_IN:
        return import_dotted('judge', BUILT_IN[name])
    package, colon, metric = name.partition(':')
    if colon and package != 'pyiqa':
        return import_dotted('judge', name)
    # Not at the top: that module imports this one.
    from nriqa_plugin.iqa.pyiqa_scorer import PyiqaScorer, metric_configs, unknown_judge

    if colon:
        return partial(PyiqaScorer, metric)
    metrics = metric_configs()
    if name not in metrics:
        raise unknown_judge(name, metrics)
    return partial(PyiqaScorer, name)
