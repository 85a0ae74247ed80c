"""Networks of pyiqa, built from a local file or from pyiqa's own downloads."""

import contextlib
import http.client
import importlib
import inspect
import io
import pickle
import re
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

from nriqa_plugin.checks import check_keys, fill_weights, load_weights
from nriqa_plugin.iqa.cached_files import watched_files
from nriqa_plugin.iqa.pyiqa_tables import FROM_FILE, NEEDS_CUDA


def build(name, kind, defaults, options, weights=None):
    """Build pyiqa's network of type ``kind`` on the CPU, from its own downloads or from the file ``weights``.

    Returns:
        tuple[nn.Module, tuple[str, ...]]: the network, and what is odd about the cached files it was read from, see
            :func:`~nriqa_plugin.iqa.cached_files.watched_files`.

    Raises:
        as :class:`PyiqaScorer`.
    """
    if weights is not None and kind not in FROM_FILE:
        raise ValueError(f'weights: the judge {name} is not one file of weights, so it takes none; pyiqa loads its '
                         "files itself and looks into the folder 'pyiqa' of torch.hub's cache first")  # fmt: skip
    if kind in NEEDS_CUDA and not torch.cuda.is_available():
        raise RuntimeError(f'the judge {name} needs a CUDA GPU, to which pyiqa moves it by itself; there is none here')
    state = None if weights is None else _state_dict(load_weights('weights', weights))
    printed = io.StringIO()
    # pyiqa prints, warns, and draws random weights before it loads trained ones; none of it matters to the caller.
    # Without no_grad, text features that it computes now would keep a graph that only one backward pass can use.
    with (
        contextlib.redirect_stdout(printed),
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
        watched_files(name) as odd,
    ):
        warnings.simplefilter('ignore')
        network_class = network_class_of(name, kind)
        check_keys(f'the judge {name}', options, _option_names(network_class, defaults))
        settings = {**defaults, **options}
        settings.pop('type')
        with loading_nothing(network_class) if state is not None else contextlib.nullcontext():
            try:
                network = network_class(**settings)
            except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, http.client.HTTPException) as error:
                raise _not_fetched(name, kind, printed.getvalue(), error, odd) from error
    if state is not None:
        fill_weights('weights', weights, network, _with_second_names(network, state))
    return network.to('cpu'), tuple(odd)  # some load CLIP onto a GPU where there is one


def network_class_of(name, kind):
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


def _with_second_names(network, state):
    """A file that holds a tensor once which the network knows by two names (ST-LPIPS's linear layers), completed."""
    if not isinstance(state, dict):
        return state
    own = network.state_dict(keep_vars=True)
    stored = {id(own[key]): state[key] for key in own.keys() & state.keys()}
    return {**{key: stored[id(tensor)] for key, tensor in own.items() if id(tensor) in stored}, **state}


@contextlib.contextmanager
def loading_nothing(network_class):
    """While this lasts, networks stay untrained and fetch nothing, not even the backbones that pyiqa always fetches.

    ``fill_weights`` is strict, so no random weight can be left over. Other arguments of the constructor keep their
    meaning this way: ``pretrained`` also decides the number of outputs of some networks.
    """
    import torchvision

    module = sys.modules[network_class.__module__]
    places = [
        (module, 'load_pretrained_network', _nothing),
        (torchvision.models.ResNet50_Weights.__base__, 'get_state_dict', _nothing),
        (nn.Module, 'load_state_dict', _only_face_helpers(nn.Module.load_state_dict)),
    ]
    if hasattr(module, 'load_state_dict_from_url'):
        places.append((module, 'load_state_dict_from_url', _no_state))
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


def _no_state(*args, **options):
    return {}


def _only_face_helpers(load_state_dict):
    # The detector of the metrics for faces is no part of the metric's network, so no file of ``weights`` holds it.
    def load(network, *args, **options):
        if type(network).__module__.startswith('facexlib.'):
            return load_state_dict(network, *args, **options)

    return load


def _untrained(create):
    return lambda *args, **options: create(*args, **{**options, 'pretrained': False})


def _not_fetched(name, kind, printed, error, odd):
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
        f'{"".join(f"; {text}" for text in odd)}'
    )
