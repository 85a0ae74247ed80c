"""MDTVSFA: a video judge of ResNet-50 features, a recurrent network over the frames and a memory of the worst ones."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint as recomputed

from nriqa_plugin.checks import check_choice, check_flag, fill_weights, load_weights
from nriqa_plugin.iqa.backbones import imagenet_state
from nriqa_plugin.iqa.scorer import Scorer

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DATASETS = {'konvid_1k': 'K', 'cvd2014': 'C', 'live_qualcomm': 'L', 'live_vqc': 'N'}
TAU = 12  # frames; the paper's tau
BETA = 0.5  # the paper's gamma: share of what comes against what was


class MDTVSFA(Scorer):
    r"""Score of a clip (Li, Jiang and Jiang, IJCV 2021, arXiv 2011.04263), with the authors' weights of the head.

    Every frame, not resized, goes through a ResNet-50 that was trained on ImageNet; mean and standard deviation over
    the positions of its last features (4096 numbers) are reduced to 128 and go through a GRU of 32 units, which gives a
    score to each frame. A clip's is the mean over time of the smallest score of the last 12 frames and of a softmin of
    the next 12, half each: viewers remember bad moments. A sigmoid makes the *relative quality* of it, a second one
    with two learnt numbers the *perceptual quality*, and that is the score here, as it is in the authors' demo:
    in (0, 1), **higher is better**. Clips of any length work, 12 frames fill the memory.

    Args:
        weights (str): the file ``models/MDTVSFA.pt`` of the GitHub repository lidq92/MDTVSFA, downloaded by the user.
        backbone (str | None): local file with torchvision's ImageNet weights of ResNet-50 (V1, which the authors used;
            half precision is fine); without it torchvision downloads them.
        dataset (str | None): map the score linearly to the opinion scores of ``konvid_1k``, ``cvd2014``,
            ``live_qualcomm`` or ``live_vqc``, as far as the file was trained on it.
        checkpoint (bool): take the frames through the backbone one by one and compute their activations again in the
            backward pass: the memory of one frame, and a forward pass more. Without gradients it is always one by one.

    Shapes: ``pred`` is ``(N, T, 3, H, W)`` RGB in [0, 1], both sides at least 33 px; returns ``(N,)``.

    Raises:
        ValueError: ``weights`` is not given, damaged, or belongs to another network; unknown ``dataset``.
        FileNotFoundError: there is no such file.
        TypeError: ``checkpoint`` is no bool.
        RuntimeError: torchvision could not download the backbone.
    """

    name = 'mdtvsfa'
    higher_better = True
    score_range = (0.0, 1.0)
    min_side = 33  # the features then have 2 x 2 positions; of a single one there is no deviation
    temporal = True

    def __init__(self, weights=None, backbone=None, dataset=None, checkpoint=False):
        super().__init__()
        if weights is None:
            raise ValueError(
                'the judge mdtvsfa needs the option weights: the path of the file MDTVSFA.pt, to be downloaded from '
                'the GitHub repository lidq92/MDTVSFA (models/MDTVSFA.pt)'
            )
        self.checkpoint = check_flag('checkpoint', checkpoint)
        state = load_weights('weights', weights)
        trained = [letter for letter in DATASETS.values() if f'lm.{letter}.weight' in state]
        self.head = fill_weights('weights', weights, Head(trained), state)
        self.dataset = ''
        if dataset is not None:
            known = [name for name, letter in DATASETS.items() if letter in trained]
            self.dataset = DATASETS[check_choice('dataset', dataset, known)]
            aligned = self.head.lm[self.dataset]
            ends = sorted((aligned.bias.item(), (aligned.bias + aligned.weight).item()))
            self.score_range, self.higher_better = tuple(ends), aligned.weight.item() > 0
        self.backbone = _filled_backbone(backbone)
        self.register_buffer('mean', torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer('std', torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def score(self, pred, ref=None):
        frames = (pred.flatten(0, 1) - self.mean) / self.std
        if self.checkpoint or not torch.is_grad_enabled():
            # Nothing in it is random: saving the generators would make a GPU wait at every frame.
            once = {'use_reentrant': False, 'preserve_rng_state': False}
            features = torch.cat([recomputed(self._features, frame, **once) for frame in frames.split(1)])
        else:
            features = self._features(frames)
        return self.head(features.unflatten(0, pred.shape[:2]), self.dataset)

    def _features(self, frames):
        """``(B, 3, H, W)`` to ``(B, 4096)``."""
        net = self.backbone
        maps = net.maxpool(net.relu(net.bn1(net.conv1(frames))))
        maps = net.layer4(net.layer3(net.layer2(net.layer1(maps)))).flatten(2)
        return torch.cat([maps.mean(2), maps.std(2)], dim=1)


class Head(nn.Module):
    """Features of clips ``(N, T, 4096)`` to scores ``(N,)``. Keys as in the authors' file, with its spelling."""

    def __init__(self, datasets):
        super().__init__()
        self.dimemsion_reduction = nn.Linear(4096, 128)
        self.feature_aggregation = nn.GRU(128, 32, batch_first=True)
        self.regression = nn.Linear(32, 1)
        self.nlm = nn.Sequential(nn.Linear(1, 1), nn.Sigmoid(), nn.Linear(1, 1))
        self.lm = nn.ModuleDict({letter: nn.Linear(1, 1) for letter in datasets})

    def forward(self, features, dataset=''):
        reduced = self.dimemsion_reduction(features)
        # cuDNN's recurrent networks have no backward pass in eval mode, in which a judge always is.
        with torch.backends.cudnn.flags(enabled=False):
            hidden, _ = self.feature_aggregation(reduced)
        relative = torch.sigmoid(pooled_over_time(self.regression(hidden).squeeze(2)))[:, None]
        score = self.nlm(relative)
        return (self.lm[dataset](score) if dataset else score).squeeze(1)


def pooled_over_time(scores, tau=TAU, beta=BETA):
    """One score of a clip from those of its frames (Li, Jiang and Jiang, ACM MM 2019, Eqs. 6 to 9).

    Args:
        scores (Tensor): ``(N, T)``.
        tau (int): frames that the memory holds, the current one included.
        beta (float): share of the softmin over the current and the next frames; the rest is the smallest one of the
            current and the last frames.

    Returns:
        Tensor: ``(N,)``.
    """
    last = F.pad(scores, (tau - 1, 0), value=torch.inf).unfold(1, tau, 1).amin(2)
    following = F.pad(scores, (0, tau - 1)).unfold(1, tau, 1)
    beyond = F.pad(torch.zeros_like(scores), (0, tau - 1), value=torch.inf).unfold(1, tau, 1)
    coming = (following * torch.softmax(-following - beyond, dim=2)).sum(2)
    return (beta * coming + (1 - beta) * last).mean(1)


def _filled_backbone(weights):
    import torchvision

    with torch.device('meta'):  # no memory and no random numbers for what is overwritten
        network = torchvision.models.resnet50(weights=None)
        network.fc = nn.Identity()
    network = network.to_empty(device='cpu')
    state, file = imagenet_state('the judge mdtvsfa', 'resnet50', weights, option='backbone')
    if isinstance(state, dict):
        counters = {key: value.zero_() for key, value in network.state_dict().items() if key.endswith('_tracked')}
        state = {**counters, **{key: value for key, value in state.items() if not str(key).startswith('fc.')}}
        state = {key: value.long() if key in counters else value for key, value in state.items()}
    try:
        return fill_weights('backbone', weights or file, network, state)
    except ValueError as error:
        raise ValueError(f"{error}. The judge mdtvsfa wants torchvision's file {file}") from error
