"""Random weights wherever pyiqa looks for a file, so that each of its metrics is built without a download.

Used by ``tools/judge_table.py``. A judge that takes the option ``weights`` gets one file; for the others every file
that pyiqa, torchvision, timm, CLIP or facexlib would fetch is written, with random content of the right architecture,
where their caches would have it. The caches have to be temporary: ``TORCH_HOME`` and ``HF_HOME`` point into one folder.
"""

import contextlib
import os
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import torch
from torch import nn

from nriqa_plugin.iqa import pyiqa_build
from nriqa_plugin.iqa.pyiqa_build import loading_nothing, network_class_of
from nriqa_plugin.iqa.pyiqa_tables import FROM_FILE, NEEDS_CUDA, metric_configs
from nriqa_plugin.losses.iqa_loss import pink_noise

# CLIP's published shapes: embedding, image side, vision layers, vision width, patch, context, vocabulary, text width,
# heads and layers.
CLIP_SHAPES = {
    'RN50.pt': (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12),
    'ViT-B-32.pt': (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    'ViT-L-14.pt': (768, 224, 24, 1024, 14, 77, 49408, 768, 12, 12),
}


def weights_file(name, config, folder):
    """A file of random weights for the option ``weights``, or None for a judge without that option."""
    kind = config['metric_opts']['type']
    if kind not in FROM_FILE:
        return None
    network_class = network_class_of(name, kind)
    settings = {key: value for key, value in config['metric_opts'].items() if key != 'type'}
    with loading_nothing(network_class), _files_on_demand():  # the face detector is a file of its own
        network = network_class(**settings)
    file = Path(folder) / f'{name}.pth'
    torch.save({'params': network.state_dict()}, file)
    return file


def fill_caches(name, config):
    """Write every file that the constructor of pyiqa's metric asks for; returns their names."""
    network_class = network_class_of(name, config['metric_opts']['type'])
    settings = {key: value for key, value in config['metric_opts'].items() if key != 'type'}
    with _files_on_demand() as written, torch.no_grad():
        network_class(**settings)
    return sorted(written)


def clip_judge_files(folder):
    """``{option: file}`` of random weights for ``mdtvsfa``, under the names that the published files have."""
    from nriqa_plugin.iqa.mdtvsfa import Head

    files = {'weights': Path(folder) / 'MDTVSFA.pt', 'backbone': Path(folder) / 'resnet50-0676ba61.pth'}
    torch.save(Head(['K', 'C', 'L', 'N']).state_dict(), files['weights'])
    _save_resnet50(files['backbone'])
    return files


@contextlib.contextmanager
def clip_without_checksum():
    """While this lasts, CLIP's loaders take the file in the cache as it is: they would refuse all but OpenAI's own."""
    import clip.clip
    from pyiqa.archs import afineclip_model, clip_model

    with contextlib.ExitStack() as stack:
        for module in (clip.clip, clip_model, afineclip_model):
            _replace(stack, module, '_download', lambda url, root: str(Path(root) / Path(url).name))
        yield


@contextlib.contextmanager
def without_cuda(name):
    """While this lasts, a network that asks for CUDA by itself gets the CPU."""
    if name not in metric_configs() or metric_configs()[name]['metric_opts']['type'] not in NEEDS_CUDA:
        yield
        return
    from pyiqa.archs import maclip_arch

    load, to = maclip_arch.load, torch.Tensor.to
    with contextlib.ExitStack() as stack:
        _replace(stack, pyiqa_build, 'NEEDS_CUDA', ())
        _replace(stack, maclip_arch, 'load', lambda backbone, device: load(backbone, 'cpu'))
        _replace(stack, torch.Tensor, 'cuda', lambda tensor: tensor)
        _replace(stack, torch.Tensor, 'to', lambda tensor, *args, **options: (
            tensor if args == ('cuda',) else to(tensor, *args, **options)))  # fmt: skip
        yield


def _replace(stack, owner, attribute, replacement):
    stack.callback(setattr, owner, attribute, getattr(owner, attribute))
    setattr(owner, attribute, replacement)


@contextlib.contextmanager
def _files_on_demand():
    """While this lasts, whatever is fetched is made first. Yields the set of the files' names."""
    import timm
    import torchvision

    written = set()

    def made(folder, url, make):
        file = Path(folder) / url.rsplit('/', 1)[-1]
        file.parent.mkdir(parents=True, exist_ok=True)
        written.add(file.name)
        if not file.exists():
            make(file)
        return str(file)

    def load_pretrained_network(network, model_path, strict=True, weight_keys=None):
        state = network.state_dict()
        made(_torch_cache('pyiqa'), model_path, lambda f: torch.save({weight_keys: state} if weight_keys else state, f))

    def load_file_from_url(url, model_dir=None, progress=True, file_name=None, save_dir=None):
        return made(save_dir or _torch_cache('pyiqa'), url, MAKERS[unquote(url.rsplit('/', 1)[-1])])

    def load_state_dict_from_url(url, **options):
        maker = MAKERS.get(url.rsplit('/', 1)[-1], _save_resnet50)
        file = made(_torch_cache('checkpoints'), url, maker)
        return torch.load(file, map_location='cpu', weights_only=False)

    def get_state_dict(weights, **options):
        network = _torchvision_network(weights)
        made(_torch_cache('checkpoints'), weights.url, lambda file: torch.save(network.state_dict(), file))
        return network.state_dict()

    def create_model(model, pretrained=False, **options):
        if pretrained:
            written.add(_save_timm(model))
        return plain_create_model(model, pretrained=False, **options)

    def download(url, root):
        return made(root, url, _save_clip)

    plain_create_model = timm.create_model
    by_name = {
        'load_pretrained_network': load_pretrained_network,
        'load_file_from_url': load_file_from_url,
        'load_state_dict_from_url': load_state_dict_from_url,
        '_download': download,
    }
    import clip.clip  # noqa: F401  (imported late by some networks)
    from pyiqa.archs import afineclip_model, clip_model  # noqa: F401

    with contextlib.ExitStack() as stack:
        for module in [m for n, m in sys.modules.items() if n.split('.')[0] in ('pyiqa', 'facexlib', 'clip')]:
            for attribute in by_name.keys() & vars(module).keys():
                _replace(stack, module, attribute, by_name[attribute])
        _replace(stack, torch.hub, 'load_state_dict_from_url', load_state_dict_from_url)
        _replace(stack, torchvision.models.ResNet50_Weights.__base__, 'get_state_dict', get_state_dict)
        _replace(stack, timm, 'create_model', create_model)
        yield written


def _torch_cache(folder):
    return Path(torch.hub.get_dir()) / folder


def _torchvision_network(weights):
    from torchvision import models

    name = next(n for n in models.list_models() if type(weights) is models.get_model_weights(n))
    return models.get_model(name, weights=None)


def _save_timm(name):
    """Into Hugging Face's cache, as if the hub had delivered it."""
    import safetensors.torch
    import timm

    hub = timm.get_pretrained_cfg(name).hf_hub_id.replace('/', '--')
    folder = Path(os.environ['HF_HOME']) / 'hub' / f'models--{hub}'
    snapshot = folder / 'snapshots' / ('0' * 40)
    snapshot.mkdir(parents=True, exist_ok=True)
    (folder / 'refs').mkdir(exist_ok=True)
    (folder / 'refs' / 'main').write_text('0' * 40)
    safetensors.torch.save_file(timm.create_model(name, pretrained=False).state_dict(), snapshot / 'model.safetensors')
    return f'{hub}/model.safetensors'


def _save_clip(file):
    """A TorchScript archive, as OpenAI publishes them: CLIP's loaders cannot read a plain state dict."""
    from clip.model import CLIP, convert_weights

    network = CLIP(*CLIP_SHAPES[file.name])
    for key, value in network.named_parameters():
        if key.endswith('bn3.weight'):  # CLIP starts them at zero, which would cut most of the network off
            nn.init.uniform_(value, 0.5, 1)
    convert_weights(network)
    archive = nn.Identity()
    for key, value in network.state_dict().items():
        *parents, name = key.split('.')
        owner = archive
        for parent in parents:
            if parent not in owner._modules:
                owner.add_module(parent, nn.Identity())
            owner = owner._modules[parent]
        owner.register_buffer(name, value)
    torch.jit.trace(archive, torch.zeros(1)).save(str(file))


def _save_resnet50(file):
    from torchvision.models import resnet50

    torch.save(resnet50(weights=None).state_dict(), file)


def _save_arniqa(file):
    from torchvision.models import resnet50

    encoder = nn.Sequential(*list(resnet50(weights=None).children())[:-1])
    torch.save({f'model.{key}': value for key, value in encoder.state_dict().items()}, file)


def _save_arniqa_head(file):
    torch.jit.script(nn.Linear(4096, 1)).save(str(file))


def _save_afine(file):
    from pyiqa.archs import afine_arch

    clip, _ = afine_arch.load('ViT-B/32', device='cpu', jit=False)
    parts = {
        'finetuned_clip': clip,
        'natural': afine_arch.AFINEQhead(),
        'fidelity': afine_arch.AFINEDhead(),
        'fidelity_scale': afine_arch.AFINENLM_FR_Fit_with_limit(
            yita1=2, yita2=-2, yita3=0.5, yita4=0.15, yita3_upper=0.95, yita3_lower=0.05, yita4_upper=0.7,
            yita4_lower=0.01),
        'natural_scale': afine_arch.AFINENLM_NR_Fit(yita1=2, yita2=-2, yita3=4.9592, yita4=21.5968),
        'adapter': afine_arch.AFINELearnLambda(k=5),
    }  # fmt: skip
    torch.save({key: part.state_dict() for key, part in parts.items()}, file)


def _save_ahiq(file):
    from pyiqa.archs import ahiq_arch

    parts = {'regressor': ahiq_arch.Pixel_Prediction(), 'deform_net': ahiq_arch.DeformFusion()}
    torch.save({f'{key}_model_state_dict': part.state_dict() for key, part in parts.items()}, file)


def _save_qualiclip(file):
    from pyiqa.archs import qualiclip_arch

    clip = qualiclip_arch.load('RN50', 'cpu')
    features = nn.functional.normalize(torch.randn(14, 1024), dim=1)
    torch.save({**{f'clip_model.{k}': v for k, v in clip.state_dict().items()}, 'prompts_features': features}, file)


def _save_prompts(file):
    torch.save(0.02 * torch.randn(2, 16, 512), file)


def _save_face_detector(file):
    from facexlib.detection.retinaface import RetinaFace

    torch.save(RetinaFace(network_name='resnet50', half=False, device='cpu').state_dict(), file)


def _save_face_parser(file):
    from facexlib.parsing.parsenet import ParseNet

    torch.save(ParseNet(in_size=512, out_size=512, parsing_ch=19).state_dict(), file)


def _save_brisque(file):
    torch.save((torch.randn(200), torch.rand(200, 36) * 2 - 1), file)


def _save_brisque_matlab(file):
    """Support vectors near the features of noise images: elsewhere the narrow kernel is zero."""
    import scipy.io
    from pyiqa.archs import brisque_arch as arch

    gray = pink_noise((20, 3, 64, 64), torch.Generator().manual_seed(torch.initial_seed() % 1000))[:, :1] * 255
    features = []
    for _ in range(2):
        features.append(arch.compute_nss_features(arch.normalize_img_with_gauss(gray, 7, 7 / 6, padding='replicate')))
        gray = arch.imresize(gray, scale=0.5, antialiasing=True)
    scipy.io.savemat(file, {'sv': torch.cat(features, -1).double().numpy(), 'sv_coef': np.random.randn(20, 1)})


def _save_niqe(file):
    """The published parameters, which BasicSR and mmagic ship: with random ones any change looks like progress."""
    import scipy.io

    from nriqa_plugin.iqa import create_scorer

    niqe = create_scorer('niqe')
    mean, covariance = niqe.mean.double().numpy(), niqe.covariance.double().numpy()
    scipy.io.savemat(file, {'mu_prisparam': mean.reshape(1, 36), 'cov_prisparam': covariance})


def _save_ilniqe(file):
    import scipy.io

    model = np.empty((1, 4), dtype=object)
    components, _ = np.linalg.qr(np.random.randn(468, 430))
    model[0, :] = np.random.randn(1, 430), _covariance(430), np.random.rand(1, 468), components
    scipy.io.savemat(file, {'templateModel': model})


def _save_nrqm(file):
    """Three forests of ten stumps: a node that asks for one feature, and two leaves."""
    import scipy.io

    forests = np.empty((1, 3), dtype=object)
    for index in range(3):
        tree = np.ones((3, 10))
        forests[0, index] = {
            'ldau': (tree.T * (2, 0, 0)).T.astype(np.int64),
            'rdau': (tree.T * (3, 0, 0)).T.astype(np.int64),
            'unused1': tree,
            'unused2': tree,
            'threshold': np.random.rand(3, 10),
            'prediction': 10 * np.random.rand(3, 10),
            'attribute': np.random.randint(1, 18, (3, 10)),
        }
    scipy.io.savemat(file, {'model': {'linear': np.full((4, 1), 0.25), 'rf': forests}})


def _covariance(size):
    factor = np.random.randn(size, size) / size**0.5
    return factor @ factor.T + 0.1 * np.eye(size)


MAKERS = {
    'afine.pth': _save_afine,
    'AHIQ_vit_p8_epoch33-da3ea303.pth': _save_ahiq,
    'ARNIQA.pth': _save_arniqa,
    'brisque_svm_weights.pth': _save_brisque,
    'brisque_matlab.mat': _save_brisque_matlab,
    'CLIP-IQA+_learned_prompts-603f3273.pth': _save_prompts,
    'detection_Resnet50_Final.pth': _save_face_detector,
    'ILNIQE_templateModel.mat': _save_ilniqe,
    'niqe_modelparameters.mat': _save_niqe,
    'niqe_matlab_params.mat': _save_niqe,
    'NRQM_model.mat': _save_nrqm,
    'parsing_parsenet.pth': _save_face_parser,
    'QualiCLIP.pth': _save_qualiclip,
    **{f'regressor_{data}.pth': _save_arniqa_head
       for data in ('live', 'csiq', 'tid2013', 'kadid10k', 'koniq10k', 'clive', 'flive', 'spaq')},
}  # fmt: skip
