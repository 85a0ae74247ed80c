"""RBPN: video super-resolution that projects every neighbouring frame back and forth, one after the other."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint as recompute

from nriqa_plugin.archs.clip_window import PADDINGS, check_clip, frame_window
from nriqa_plugin.archs.spynet import SpyNet, load_spynet
from nriqa_plugin.checks import check_choice, check_flag, check_number, checks_options

KERNELS = {2: 6, 4: 8, 8: 12}  # by scale factor: with the factor as stride and a padding of 2 sizes fit exactly
FLOW = 'spynet.'  # what published checkpoints lack: their flow came from a program


@checks_options
class RBPN(nn.Module):
    """Recurrent back-projection network (Haris et al., CVPR 2019), the generator of iSeeBetter (arXiv 2006.11161).

    Keys and argument names are those of the published checkpoints, which load strictly: a ``module.`` before every
    key is taken away, and ``spynet.*`` may be missing, for their flow came from outside. The flow from the middle
    frame to each neighbour comes from an inner :class:`SpyNet`, as in arXiv 2405.20392.

    Args:
        num_channels (int): channels of a frame; the flow network wants 3.
        base_filter, feat (int): widths of the low- and the high-resolution features.
        num_stages (int): up-projections of the single-image path; 3 in all published weights.
        n_resblock (int): residual blocks of each of the three bodies.
        nFrames (int): frames of the window, the middle one included; at least 2.
        scale_factor (int): 2, 4 or 8.
        spynet_path (str | None): local file for the flow network, see :func:`load_spynet`; without it the flow
            network starts untrained and is trained along.
        output (str): ``middle`` gives the frame in the middle of the clip, ``all`` every frame of it, each in the
            middle of its own window (as recurrent models answer, at T times the cost).
        padding (str): where a window reaches beyond the clip: ``reflection`` and ``replicate`` as usual, ``target``
            repeats the frame to be restored (the published code). The default ``reflection`` refuses clips that are
            shorter than ``nFrames``; the others take any.
        residual (bool): add the bicubically enlarged frame to the output.
        checkpoint (bool): recompute activations in the backward pass: less memory, about a third more time.

    Shapes: ``(N, T, 3, H, W)`` RGB in [0, 1] to ``(N, 3, sH, sW)`` or, with ``output: all``, ``(N, T, 3, sH, sW)``,
    not clipped; H and W at least 32 px, which the flow network's pyramid needs.

    Raises:
        ValueError, TypeError: an option out of range; a clip of another shape, too short or too small.
        FileNotFoundError: there is no file at ``spynet_path``.
    """

    def __init__(
        self,
        num_channels=3,
        base_filter=256,
        feat=64,
        num_stages=3,
        n_resblock=5,
        nFrames=7,
        scale_factor=4,
        spynet_path=None,
        output='middle',
        padding='reflection',
        residual=False,
        checkpoint=False,
    ):
        super().__init__()
        sizes = {'num_channels': num_channels, 'base_filter': base_filter, 'feat': feat}
        for option, value in {**sizes, 'num_stages': num_stages, 'n_resblock': n_resblock}.items():
            check_number(option, value, low=1, integer=True)
        self.frames = check_number('nFrames', nFrames, low=2, integer=True)
        check_number('scale_factor', scale_factor, low=1, integer=True)
        self.scale = check_choice('scale_factor', scale_factor, KERNELS)
        self.whole_clip = check_choice('output', output, ('middle', 'all')) == 'all'
        self.padding = check_choice('padding', padding, PADDINGS)
        self.residual = check_flag('residual', residual)
        self.checkpoint = check_flag('checkpoint', checkpoint)
        rescale = {'kernel_size': KERNELS[self.scale], 'stride': self.scale, 'padding': 2}

        self.feat0 = ConvBlock(num_channels, base_filter)
        self.feat1 = ConvBlock(2 * num_channels + 2, base_filter)  # the frame, a neighbour and the flow to it
        self.DBPN = BackProjection(base_filter, feat, num_stages, rescale)
        self.res_feat1 = _body(base_filter, n_resblock, DeconvBlock(base_filter, feat, **rescale))
        self.res_feat2 = _body(feat, n_resblock, ConvBlock(feat, feat))
        self.res_feat3 = _body(feat, n_resblock, ConvBlock(feat, base_filter, **rescale))
        self.output = ConvBlock((self.frames - 1) * feat, num_channels, act=False)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

        self.spynet = SpyNet()
        self.flow_is_missing = False
        if spynet_path is not None:
            load_spynet(self.spynet, spynet_path)
        self.has_own_flow = spynet_path is not None
        self._register_load_state_dict_pre_hook(_published_keys, with_module=True)

    def forward(self, clip, neighbours=None, flows=None):
        """Restore the middle frame, or all frames, of a clip; or one frame with given flow (the published call).

        Args:
            clip (Tensor): ``(N, T, 3, H, W)``; with ``neighbours`` one frame ``(N, 3, H, W)``.
            neighbours (sequence of Tensor, optional): the ``nFrames - 1`` others in the order of time.
            flows (sequence of Tensor, optional): from the frame to each of them, ``(N, 2, H, W)``, x then y, in px.
        """
        if neighbours is not None or flows is not None:
            return self.restore(clip, neighbours, flows)
        check_clip('RBPN', clip, self.frames, self.padding, self.spynet.min_side)
        if self.flow_is_missing:
            raise ValueError(f'the checkpoint that RBPN was given holds no flow network ({FLOW}*): give spynet_path, '
                             'or call it with neighbours and flows')  # fmt: skip
        length = clip.shape[1]
        if not self.whole_clip:
            return self._restore_at(clip, length // 2)
        return torch.stack([self._restore_at(clip, i) for i in range(length)], 1)

    def _restore_at(self, clip, index):
        others = frame_window(index, clip.shape[1], self.frames, self.padding)
        frame, neighbours = clip[:, index], clip[:, others]
        n, t = neighbours.shape[:2]
        flows = self.spynet(frame.repeat_interleave(t, 0), neighbours.flatten(0, 1)).unflatten(0, (n, t))
        return self.restore(frame, neighbours.unbind(1), flows.unbind(1))

    def restore(self, frame, neighbours, flows):
        """One frame from its neighbours and the flow to each: shapes as in :meth:`forward`.

        Raises:
            ValueError: another number of neighbours or flows than ``nFrames - 1``.
        """
        given = [0 if part is None else len(part) for part in (neighbours, flows)]
        if given != [self.frames - 1] * 2:
            raise ValueError(f'RBPN with nFrames {self.frames} wants {self.frames - 1} neighbours and as many flows, '
                             f'got {given[0]} and {given[1]}')  # fmt: skip
        state, restored = self.feat0(frame), []
        for neighbour, flow in zip(neighbours, flows, strict=True):
            pair = self.feat1(torch.cat([frame, neighbour, flow], 1))
            if self.checkpoint and torch.is_grad_enabled():
                high, state = recompute(self._project, state, pair, use_reentrant=False)
            else:
                high, state = self._project(state, pair)
            restored.append(high)
        out = self.output(torch.cat(restored, 1))
        if self.residual:
            out = out + F.interpolate(frame, scale_factor=self.scale, mode='bicubic', align_corners=False)
        return out

    def _project(self, state, pair):
        """One step (the paper's Sec. 3.2): what the frame alone gives, corrected by what a neighbour adds."""
        alone = self.DBPN(state)
        high = alone + self.res_feat2(alone - self.res_feat1(pair))
        return high, self.res_feat3(high)


class BackProjection(nn.Module):
    """Dense up and down projections (DBPN, Haris et al., CVPR 2018): ``(N, C, H, W)`` to ``(N, feat, sH, sW)``."""

    def __init__(self, channels, feat, stages, rescale):
        super().__init__()
        self.stages = stages
        self.feat1 = ConvBlock(channels, feat, kernel_size=1, padding=0)
        for i in range(1, stages + 1):
            self.add_module(f'up{i}', Projection('up', feat, rescale))
            if i < stages:
                self.add_module(f'down{i}', Projection('down', feat, rescale))
        self.output = ConvBlock(stages * feat, feat, kernel_size=1, padding=0, act=False)

    def forward(self, x):
        high = [self.up1(self.feat1(x))]
        for i in range(1, self.stages):
            high.append(getattr(self, f'up{i + 1}')(getattr(self, f'down{i}')(high[-1])))
        return self.output(torch.cat(high[::-1], 1))


class Projection(nn.Module):
    """Resize, resize back, and resize what was lost on the way, too; ``up`` enlarges, ``down`` shrinks."""

    def __init__(self, way, feat, rescale):
        super().__init__()
        there, back = (DeconvBlock, ConvBlock) if way == 'up' else (ConvBlock, DeconvBlock)
        self.names = tuple(f'{way}_conv{i}' for i in (1, 2, 3))
        for name, block in zip(self.names, (there, back, there), strict=True):
            self.add_module(name, block(feat, feat, **rescale))

    def forward(self, x):
        there, back, again = (getattr(self, name) for name in self.names)
        first = there(x)
        return first + again(back(first) - x)


class ConvBlock(nn.Module):
    """Convolution, then a PReLU with one slope unless ``act`` is false."""

    def __init__(self, inside, outside, kernel_size=3, stride=1, padding=1, act=True):
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel_size, stride, padding)
        if act:
            self.act = nn.PReLU()

    def forward(self, x):
        x = self.conv(x)
        return self.act(x) if hasattr(self, 'act') else x


class DeconvBlock(nn.Module):
    """Transposed convolution and PReLU."""

    def __init__(self, inside, outside, kernel_size, stride, padding):
        super().__init__()
        self.deconv = nn.ConvTranspose2d(inside, outside, kernel_size, stride, padding)
        self.act = nn.PReLU()

    def forward(self, x):
        return self.act(self.deconv(x))


class ResidualBlock(nn.Module):
    """Two convolutions with a skip; one PReLU serves between them and after the sum."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.PReLU()

    def forward(self, x):
        return self.act(self.conv2(self.act(self.conv1(x))) + x)


def _body(channels, blocks, last):
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)), last)


def _published_keys(module, state, prefix, *_):
    """In place: as saved from ``DataParallel``, and without a flow network, which then keeps its weights."""
    wrapped = f'{prefix}module.'
    for key in [key for key in state if key.startswith(wrapped)]:
        state[prefix + key[len(wrapped) :]] = state.pop(key)
    has_flow = any(key.startswith(prefix + FLOW) for key in state)
    module.flow_is_missing = not has_flow and not module.has_own_flow
    if not has_flow:
        state.update({f'{prefix}{FLOW}{key}': value for key, value in module.spynet.state_dict().items()})
