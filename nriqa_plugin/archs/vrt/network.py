"""VRT: a transformer that restores all frames of a clip at once."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from nriqa_plugin.archs.spynet import SpyNet, load_spynet
from nriqa_plugin.archs.vrt.alignment import aligned_images, neighbour_flows
from nriqa_plugin.archs.vrt.settings import U_STAGES, check_settings
from nriqa_plugin.archs.vrt.stages import PlainStage, Resize, Stage
from nriqa_plugin.checks import checks_options

SHRINK = (1, 2, 4, 8, 4, 2, 1)  # of the U's stages
RESIZE = ('none', 'down', 'down', 'down', 'up', 'up', 'up')
MAX_RESIDUE = 10  # px at full size
STEP = max(SHRINK)


@checks_options
class VRT(nn.Module):
    """Video Restoration Transformer (Liang et al., 2022, arXiv 2201.12288), with the keys of the official weights.

    Flow between the frames, then a U of seven stages in which attention between pairs of frames and deformable
    sampling along the flow align the frames, then stages of self attention, added to the bilinearly enlarged input.
    The defaults are the official setting for Vimeo-90K, 32.58 M parameters, 1.44 M of them in the flow network.

    Args:
        upscale (int): 1, 2, 3, 4 or 8. 1 keeps the size (deblurring, denoising).
        in_chans (int): channels of the frames; 3, for the flow network sees them.
        out_chans (int): accepted as in the official constructor; must equal ``in_chans``.
        img_size (list of int): accepted since every published option file has it; nothing depends on it.
        window_size (list of int): frames, rows and columns that self attention sees. A shorter clip or a smaller image
            is one window; the official code cannot take images smaller than 8 windows.
        depths (list of int): blocks of each stage: seven for the U, at least one more behind it.
        indep_reconsts (list of int): stages behind the U, counted from 0 at the first of all, that treat every frame
            by itself.
        embed_dims (list of int): channels of each stage; stages of one scale have the same, and so have those behind
            the U. Multiples of 4 in the U.
        num_heads (list of int): attention heads of each stage; they divide its channels.
        mul_attn_ratio (float): share of a stage's blocks that have mutual attention.
        mlp_ratio (float): width of the feed-forward part in channels of the stage.
        qkv_bias (bool): biases for queries, keys and values.
        qk_scale (float, optional): factor of the dot products; None: ``(channels / heads) ** -0.5``.
        drop_path_rate (float): stochastic depth of the last block; grows evenly from 0 at the first.
        spynet_path (str, optional): a local file with the weights of the flow network, as BasicSR and mmagic offer it.
            None: random, to be loaded with the whole network's weights or trained.
        pa_frames (int): 2, 4 or 6: warp this many neighbours onto every frame, half of them before it.
        deformable_groups (int): sets of offsets for ``channels * pa_frames / 2``; a multiple of ``pa_frames / 2``.
        recal_all_flows (bool): false; flows to further neighbours are put together from those between neighbours.
        nonblind_denoising (bool): a fourth channel of the input holds the noise level; ``upscale`` must be 1.
        use_checkpoint_attn, use_checkpoint_ffn (bool): recompute attention or feed-forward in the backward pass:
            less memory for more time, same values.
        no_checkpoint_attn_blocks, no_checkpoint_ffn_blocks (list of int): stages excepted from that, from 0.
        num_feat (int): channels while enlarging; 64 in the official weights.
        use_sdpa (bool): PyTorch's fused attention; same values up to rounding. What it saves: docs/video_networks.md.

    Shapes: ``(N, T, in_chans, H, W)`` RGB in [0, 1] to ``(N, T, in_chans, upscale * H, upscale * W)``, not clipped;
    ``T >= 2``, ``H, W > 32``. Sides that are no multiple of 8 are filled by reflection and an odd number of frames by
    the last frame once more, as the official training on Vimeo-90K does with its seven; the surplus is cut off again.

    Raises:
        ValueError, TypeError: an option out of range, options that do not fit together, or a clip too small or short.
        FileNotFoundError: ``spynet_path`` is not there.
    """

    def __init__(
        self,
        upscale=4,
        in_chans=3,
        out_chans=3,
        img_size=(8, 64, 64),
        window_size=(8, 8, 8),
        depths=(8,) * 7 + (4,) * 6,
        indep_reconsts=(11, 12),
        embed_dims=(120,) * 7 + (180,) * 6,
        num_heads=(6,) * 13,
        mul_attn_ratio=0.75,
        mlp_ratio=2.0,
        qkv_bias=True,
        qk_scale=None,
        drop_path_rate=0.2,
        spynet_path=None,
        pa_frames=4,
        deformable_groups=16,
        recal_all_flows=False,
        nonblind_denoising=False,
        use_checkpoint_attn=False,
        use_checkpoint_ffn=False,
        no_checkpoint_attn_blocks=(),
        no_checkpoint_ffn_blocks=(),
        num_feat=64,
        use_sdpa=True,
    ):
        options = {name: value for name, value in locals().items() if name not in ('self', '__class__')}
        super().__init__()
        check_settings(options)
        self.upscale, self.in_chans, self.nonblind_denoising = upscale, in_chans, nonblind_denoising
        self.reach = pa_frames // 2
        self.conv_first = FrameConv(9 * in_chans + nonblind_denoising, embed_dims[0])
        self.spynet = SpyNet()

        total = sum(depths)
        rates = [drop_path_rate * block / max(total - 1, 1) for block in range(total)]
        tail = nn.ModuleList([Resize(embed_dims[6], embed_dims[7], 'plain')])
        for stage, (depth, dim, heads) in enumerate(zip(depths, embed_dims, num_heads, strict=True)):
            drop_paths, rates = rates[:depth], rates[depth:]
            settings = {'heads': heads, 'mlp_ratio': mlp_ratio, 'qkv_bias': qkv_bias, 'qk_scale': qk_scale}
            settings['checkpoint_attn'] = use_checkpoint_attn and stage not in no_checkpoint_attn_blocks
            settings['checkpoint_ffn'] = use_checkpoint_ffn and stage not in no_checkpoint_ffn_blocks
            settings['sdpa'] = use_sdpa
            if stage < U_STAGES:
                module = Stage(
                    embed_dims[max(stage - 1, 0)], dim, RESIZE[stage], tuple(window_size), int(depth * mul_attn_ratio),
                    drop_paths, self.reach, deformable_groups, MAX_RESIDUE / SHRINK[stage], settings,
                )  # fmt: skip
                self.add_module(f'stage{stage + 1}', module)
            else:
                window = (1 if stage in indep_reconsts else window_size[0], *window_size[1:])
                tail.append(PlainStage(dim, window, drop_paths, settings))
        self.stage8 = tail
        self.norm = nn.LayerNorm(embed_dims[-1])
        self.conv_after_body = nn.Linear(embed_dims[-1], embed_dims[0])
        if upscale == 1:
            self.conv_last = FrameConv(embed_dims[0], in_chans)
        else:
            self.conv_before_upsample = nn.Sequential(FrameConv(embed_dims[0], num_feat), nn.LeakyReLU(0.01))
            self.upsample = Upsample(upscale, num_feat)
            self.conv_last = FrameConv(num_feat, in_chans)
        self.apply(_start)
        if spynet_path is not None:
            load_spynet(self.spynet, spynet_path)

    def forward(self, x):
        self._check(x)
        frames, (height, width) = x.shape[1], x.shape[-2:]
        x = _fill_clip(x)
        images = x[:, :, : self.in_chans]
        backward, forward = neighbour_flows(self.spynet, images, self.reach)
        seen = [aligned_images(images, backward[0][0], forward[0][0]), x[:, :, self.in_chans :]]
        shallow = self.conv_first(torch.cat(seen, 2))
        features = self._features(shallow.movedim(2, -1), backward, forward)
        out = shallow + self.conv_after_body(features).movedim(-1, 2)
        if self.upscale > 1:
            out = self.upsample(self.conv_before_upsample(out))
            size = out.shape[-2:]
            enlarged = F.interpolate(images.flatten(0, 1), size=size, mode='bilinear', align_corners=False)
            images = enlarged.unflatten(0, x.shape[:2])
        out = self.conv_last(out) + images
        return out[:, :frames, :, : height * self.upscale, : width * self.upscale]

    def _features(self, x, backward, forward):
        """``(N, T, H, W, C)`` through the U, whose halves are joined by sums at every scale, and the stages behind."""
        skips = []
        for index, shrink in enumerate(SHRINK):
            scale = shrink.bit_length() - 1
            x = getattr(self, f'stage{index + 1}')(x, backward[scale], forward[scale])
            if RESIZE[index] == 'up':
                x = x + skips[scale]
            else:
                skips.append(x)
        for layer in self.stage8:
            x = layer(x)
        return self.norm(x)

    def _check(self, x):
        channels = self.in_chans + self.nonblind_denoising
        if x.dim() != 5 or x.shape[2] != channels:
            noise = ', the last one the noise level' if self.nonblind_denoising else ''
            raise ValueError(f'VRT wants clips (N, T, C, H, W) of {channels} channels{noise}, got {tuple(x.shape)}')
        if x.shape[1] < 2:
            raise ValueError(f'VRT aligns neighbouring frames: it needs at least 2, got {tuple(x.shape)}')
        if min(x.shape[-2:]) <= self.spynet.min_side:
            raise ValueError(f'VRT needs frames of more than {self.spynet.min_side} px a side, below that its flow '
                             f'network SpyNet has nothing left to look at; got {tuple(x.shape)}')  # fmt: skip


class Upsample(nn.Sequential):
    """Convolutions and pixel shuffles, with the published keys: the convolutions are ``0``, ``5``, ``10``."""

    def __init__(self, scale, channels):
        layers = {}
        for factor in [3] if scale == 3 else [2] * (scale.bit_length() - 1):
            start = len(layers) // 3 * 5
            layers[str(start)] = FrameConv(channels, channels * factor**2)
            layers[str(start + 2)] = nn.PixelShuffle(factor)
            layers[str(start + 4)] = nn.LeakyReLU(0.1)
        layers[str(len(layers) // 3 * 5)] = FrameConv(channels, channels)
        super().__init__(OrderedDict(layers))


class FrameConv(nn.Conv3d):
    """A 3 x 3 convolution of every frame ``(N, T, C, H, W)`` by itself; the weight is a Conv3d's."""

    def __init__(self, inside, outside):
        super().__init__(inside, outside, (1, 3, 3))

    def forward(self, x):
        return F.conv2d(x.flatten(0, 1), self.weight.squeeze(2), self.bias, padding=1).unflatten(0, x.shape[:2])


def _start(module):
    """Small random linear layers, as transformers are started."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _fill_clip(x):
    """An even number of frames, sides that are multiples of 8."""
    if x.shape[1] % 2:
        x = torch.cat([x, x[:, -1:]], 1)
    down, right = -x.shape[-2] % STEP, -x.shape[-1] % STEP
    if down or right:
        x = F.pad(x.flatten(0, 1), (0, right, 0, down), mode='reflect').unflatten(0, x.shape[:2])
    return x
