"""Metrics of the package ``pyiqa`` (0.1.15.post2) as judges: direction, range and gradient as its own table says."""

import contextlib
import difflib
import http.client
import importlib.util
import inspect
import io
import math
import pickle
import re
import runpy
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

from nriqa_plugin.checks import check_keys, fill_weights, import_extra, load_weights
from nriqa_plugin.iqa.scorer import BUILT_IN, Scorer

# The tables below are keyed by pyiqa's network type, which several metrics share, and were filled by reading pyiqa.

# One file holds the whole network, so that ``weights`` replaces every download (but that of the face detector which
# the TOPIQ metrics for faces use).
FROM_FILE = (
    'CFANet', 'CNNIQA', 'DBCNN', 'HyperNet', 'MANIQA', 'MS_SWD_learned', 'MUSIQ', 'NIMA', 'PAQ2PIQ', 'PieAPP', 'TReS',
    'UNIQUE', 'URanker', 'WaDIQaM',
)  # fmt: skip

# Why the gradient with respect to the image is missing or zero.
NO_GRADIENT = {
    'AFINE': 'pyiqa switches gradients off inside it',
    'Compare2Score': 'the image goes through PIL',
    'DMM': 'pyiqa switches gradients off for the distorted image',
    'DeepDC': 'pyiqa switches gradients off for the distorted image',
    'Entropy': 'it counts rounded grey levels',
    'NRQM': 'its random forest runs in NumPy',
    'PI': 'its random forest runs in NumPy',
    'PIQE': 'it rounds the image to 8 bits',
    'QAlign': 'the image goes through PIL',
}
FACES = 'faces are found and aligned in NumPy'

# What cannot give one score per image.
NO_JUDGE = {
    'CLIPScore': 'compares an image with a caption',
    'FID': 'compares two sets of images',
    'InceptionScore': 'scores a set of images',
}

# Networks that take one image at a time, or return one score for the whole batch.
ONE_BY_ONE = ('AFINE', 'Compare2Score', 'MACLIP', 'QAlign')

# Shortest side in px where it is known to differ from the default, on the safe side.
DEFAULT_MIN_SIDE = 32
MIN_SIDE = {
    'ARNIQA': 64,
    'CW_SSIM': 64,
    'LIQE': 224,
    'MACLIP': 224,
    'MS_SSIM': 176,
    'NIQE': 192,
    'NRQM': 64,
    'PI': 200,
    'PieAPP': 64,
    'VIF': 64,
    'WaDIQaM': 33,
}


def metric_configs():
    """pyiqa's table of metrics, ``{name: settings}``; empty when pyiqa is not installed.

    Only the file with the table is run: importing pyiqa takes seconds, too long for the message about a typo.
    """
    spec = importlib.util.find_spec('pyiqa')
    if spec is None or spec.origin is None:
        return {}
    return runpy.run_path(str(Path(spec.origin).with_name('default_model_configs.py')))['DEFAULT_CONFIGS']


class PyiqaScorer(Scorer):
    """A metric of pyiqa as a judge, in pyiqa's units.

    Direction, range and the need of a reference come from pyiqa's table. Bounds that it marks as approximate
    (``'~0, ~100'``) are taken as they stand, so that a score may lie outside; missing ones are infinite. The network
    is called without pyiqa's wrapper, which would force deterministic cuDNN for the whole process and refuse values
    outside [0, 1]; the wrapper changes neither colour nor range. The shortest side is 32 px unless pyiqa is known to
    need more (``MIN_SIDE``).

    Args:
        metric (str): pyiqa's name, for example ``'musiq'``.
        weights (str | None): local file with the state dict of the whole network, bare or under ``'params'``, as
            pyiqa publishes it; nothing is downloaded then. Without it pyiqa downloads its own. Only for the networks
            in ``FROM_FILE``.
        options: of pyiqa's network, for example ``pretrained='spaq'``; unknown ones are refused.

    Shapes: ``pred`` (and ``ref`` for full-reference metrics) are ``(N, 3, H, W)`` RGB in [0, 1]; returns ``(N,)``.

    Attributes:
        no_gradient (str): why the metric cannot be a loss; empty when it can, or when only a probe would tell.

    Raises:
        ImportError: pyiqa, or a package that this metric needs, is missing.
        FileNotFoundError: there is no such weights file.
        ValueError: unknown metric or option, a metric that does not score single images or takes no weights file, or
            a file that is damaged, not plain tensors, or of another network.
        RuntimeError: pyiqa could not fetch or read its files.
    """

    def __init__(self, metric, weights=None, **options):
        super().__init__()
        configs = metric_configs()
        if configs and metric not in configs:
            raise ValueError(f'unknown metric of pyiqa {metric!r}.{_did_you_mean(metric, configs)}')
        import_extra('pyiqa', 'iqa', f'the judge {metric}')
        config = configs[metric]
        kind = config['metric_opts']['type']
        if kind in NO_JUDGE:
            raise ValueError(f'{metric} cannot be a judge: it {NO_JUDGE[kind]}, while a judge scores single images')
        self.name = f'pyiqa:{metric}' if metric in BUILT_IN else metric
        self.higher_better = not config.get('lower_better', False)
        self.score_range = parse_range(config.get('score_range'))
        self.needs_reference = config['metric_mode'] == 'FR'
        self.min_side = MIN_SIDE.get(kind, DEFAULT_MIN_SIDE)

        settings = {**config['metric_opts'], **options}
        aligns_faces = 'gfiqa' in str(settings.get('model_name')) and settings.get('align_crop_face', True)
        self.no_gradient = FACES if aligns_faces else NO_GRADIENT.get(kind, '')
        self.differentiable = not self.no_gradient
        self.one_by_one = kind in ONE_BY_ONE or aligns_faces
        self.settings = repr(sorted(settings.items()))  # a part of weights_hash

        self.network = build(self.name, kind, config['metric_opts'], options, weights)
        for number, network in enumerate(_hidden_networks(self.network)):
            setattr(self, f'hidden{number}', network)

    def score(self, pred, ref=None):
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.differentiable):
            if not self.one_by_one:
                return self._network_scores(pred, ref)
            # Copies, since A-FINE normalises its input in place.
            singles = [
                (pred[i : i + 1].clone(), ref if ref is None else ref[i : i + 1].clone()) for i in range(len(pred))
            ]
            return torch.cat([self._network_scores(*single) for single in singles])

    def _network_scores(self, pred, ref):
        scores = self.network(pred) if ref is None else self.network(pred, ref)
        if isinstance(scores, (tuple, list)):
            scores = scores[0]  # the others are by-products, as in pyiqa's own wrapper
        return scores.flatten()


def parse_range(text):
    """The numbers of pyiqa's range text: ``'~0, ~100'`` gives ``(0.0, 100.0)``, a missing bound is infinite.

    Returns:
        tuple[float, float]: lowest and highest score; both infinite for text that is not understood.
    """
    bounds = re.fullmatch(r'\s*~?\s*(-?[\d.]*)\s*,\s*~?\s*(-?[\d.]*)\s*', text or '')
    try:
        low, high = bounds.groups()
        return float(low or -math.inf), float(high or math.inf)
    except (AttributeError, ValueError):
        return -math.inf, math.inf


def unknown_judge(name, metrics):
    """A ``ValueError`` with the closest names, built-in judges and pyiqa's metrics together.

    Args:
        metrics (iterable[str]): pyiqa's names; empty when pyiqa is not installed, which the message then says.
    """
    allowed = ', '.join(sorted(BUILT_IN))
    missing = "; metrics of pyiqa are unknown unless the extra iqa is installed: pip install 'nriqa-plugin[iqa]'"
    more = ', or any pyiqa metric' if metrics else missing
    if '.' in name:
        more += '; a judge of your own is written package.module:factory'
    return ValueError(f'unknown judge {name!r}.{_did_you_mean(name, {*BUILT_IN, *metrics})} Allowed: {allowed}{more}')


def _did_you_mean(got, names):
    # Between about equals the built-in judge comes first: it needs nothing else.
    likeness = {name: difflib.SequenceMatcher(None, got.lower(), name).ratio() for name in names}
    likeness = {name: value + 0.05 * (name in BUILT_IN) for name, value in likeness.items() if value >= 0.5}
    best = max(likeness.values(), default=0)
    close = sorted((name for name in likeness if likeness[name] > best - 0.1), key=lambda name: (-likeness[name], name))
    return f' Did you mean {" or ".join(map(repr, close[:3]))}?' if close else ''


def build(name, kind, defaults, options, weights=None):
    """Build pyiqa's network of type ``kind`` on the CPU, from its own downloads or from the file ``weights``.

    Raises:
        as :class:`PyiqaScorer`.
    """
    if weights is not None and kind not in FROM_FILE:
        raise ValueError(f'weights: the judge {name} is not one file of weights, so it takes none; pyiqa loads its '
                         "files itself and looks into the folder 'pyiqa' of torch.hub's cache first")  # fmt: skip
    state = None if weights is None else _state_dict(load_weights('weights', weights))
    printed = io.StringIO()
    # pyiqa prints, warns, and draws random weights before it loads trained ones; none of it matters to the caller.
    # Without no_grad, text features that it computes now would keep a graph that only one backward pass can use.
    with (
        contextlib.redirect_stdout(printed),
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
    ):
        warnings.simplefilter('ignore')
        network_class = _network_class(name, kind)
        check_keys(f'the judge {name}', options, _option_names(network_class, defaults))
        settings = {**defaults, **options}
        settings.pop('type')
        with _loading_nothing(network_class) if state is not None else contextlib.nullcontext():
            try:
                network = network_class(**settings)
            except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, http.client.HTTPException) as error:
                raise _not_fetched(name, kind, printed.getvalue(), error) from error
    if state is not None:
        fill_weights('weights', weights, network, state)
    return network.to('cpu')  # some load CLIP onto a GPU where there is one


def _network_class(name, kind):
    archs = importlib.import_module('pyiqa.archs')
    registry = importlib.import_module('pyiqa.utils.registry').ARCH_REGISTRY
    try:
        if kind not in registry:
            archs._lazy_import_arch(kind)  # what pyiqa's build_network does; no public call gives the class alone
        return registry.get(kind)
    except ImportError as error:
        raise ImportError(f'the judge {name}: pyiqa could not import what it needs: {error}') from error
    except KeyError as error:
        raise ImportError(
            f'the judge {name}: pyiqa has no network {kind} (a package that it needs is missing?)'
        ) from error


def _option_names(network_class, defaults):
    """Named arguments only: some networks swallow any other one without a word."""
    parameters = inspect.signature(network_class.__init__).parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return (named | set(defaults)) - {'self', 'type', 'pretrained_model_path', 'pretrained_scnn_path'}


def _state_dict(state):
    """The state dict in a checkpoint as pyiqa or its trainer writes it."""
    if isinstance(state, dict):
        state = next((state[key] for key in ('params', 'net_dict') if isinstance(state.get(key), dict)), state)
    if isinstance(state, dict):
        state = {str(key).removeprefix('module.'): value for key, value in state.items()}
    return state


@contextlib.contextmanager
def _loading_nothing(network_class):
    """While this lasts, networks stay untrained and fetch nothing, not even the backbones that pyiqa always fetches.

    ``fill_weights`` is strict, so no random weight can be left over. Other arguments of the constructor keep their
    meaning this way: ``pretrained`` also decides the number of outputs of some networks.
    """
    import torchvision

    module = sys.modules[network_class.__module__]
    places = [
        (module, 'load_pretrained_network', _nothing),
        (torchvision.models.ResNet50_Weights.__base__, 'get_state_dict', _nothing),
        (nn.Module, 'load_state_dict', _nothing),
    ]
    for owner, attribute in ((getattr(module, 'timm', None), 'create_model'), (module, 'create_swin')):
        if hasattr(owner, attribute):
            places.append((owner, attribute, _untrained(getattr(owner, attribute))))
    with contextlib.ExitStack() as stack:
        for owner, attribute, replacement in places:
            stack.callback(setattr, owner, attribute, getattr(owner, attribute))
            setattr(owner, attribute, replacement)
        yield


def _nothing(*args, **options):
    return None


def _untrained(create):
    return lambda *args, **options: create(*args, **{**options, 'pretrained': False})


def _not_fetched(name, kind, printed, error):
    """One error for whatever goes wrong between pyiqa and the files that it downloads."""
    reason = (str(error).splitlines() or [''])[0]
    target = re.findall(r'Downloading: ".*" to (.+)', printed)
    file = f'the file {Path(target[-1]).name}' if target else 'a file'
    hub = "pyiqa's model hub" if not target or Path(target[-1]).parent.name == 'pyiqa' else "a backbone's model hub"
    ways = ['give its path with the option weights'] if kind in FROM_FILE else []
    ways += [f'put it at {target[-1]}'] if target else []
    no_option = '' if kind in FROM_FILE else ' (this judge takes no option weights)'
    return RuntimeError(
        f'the judge {name} needs {file} from {hub}, which could not be fetched or read '
        f'({type(error).__name__}: {reason}); get it elsewhere and '
        f'{" or ".join(ways) or "put it into the cache that its download would fill"}{no_option}'
    )


def _hidden_networks(network):
    """Networks that pyiqa keeps in plain lists, where neither freezing nor ``.to()`` would find them."""
    for module in network.modules():
        for value in vars(module).values():
            if isinstance(value, list):
                yield from (part for part in value if isinstance(part, nn.Module))
