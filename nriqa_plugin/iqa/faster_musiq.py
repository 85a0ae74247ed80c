"""MUSIQ's scores from the weights of pyiqa's network, on a shorter way: the same values and gradients, less work."""

import torch
import torch.nn.functional as F


def musiq_scores(network, images):
    """Score images as MUSIQ does (Ke et al., ICCV 2021), equal to calling ``network`` up to rounding.

    What is saved, none of which changes a score: places without a patch are left out instead of being masked in every
    layer; of the last layer only the token that is read is computed; attention keeps no matrix for the backward pass;
    resizing and the first convolution have gradients of their own; pooling runs in channels-last order; 1 x 1
    convolutions are matrix products. Up to the pooling the forward pass is pyiqa's to the last bit: there, a rounding
    error would decide between neighbours that are nearly equal, and the gradient would go another way.
    The network is only read, so that moving or reloading it needs no care.

    Args:
        network (nn.Module): pyiqa's ``MUSIQ``, frozen and in eval mode.
        images (Tensor): RGB in [0, 1], ``(N, 3, H, W)``.

    Returns:
        Tensor: ``(N,)`` in MUSIQ's units.

    Raises:
        ValueError: a ``patch_size`` that is no multiple of 4, which pyiqa's network cannot score either.
        AttributeError, KeyError: the network is not the one of pyiqa 0.1.15.
    """
    options = network.data_preprocess_opts
    if options['patch_size'] % 4:
        raise ValueError(f'patch_size must be a multiple of 4, got {options["patch_size"]}')
    patches, places, scales = multiscale_patches(
        (images - 0.5) * 2,
        options['patch_size'],
        options['hse_grid_size'],
        options['longer_side_lengths'],
        options['max_seq_len_from_original_res'],
    )
    features = _patch_features(network, patches.flatten(0, 1))
    tokens = network.embedding(features).unflatten(0, patches.shape[:2])

    encoder = network.transformer_encoder
    positions = encoder.posembed_input.position_emb[0, places]  # one row per patch, the same for every image
    if encoder.use_scale_emb:
        positions = positions + encoder.scaleembed_input.scale_emb[scales]
    tokens = torch.cat([encoder.cls.expand(len(images), -1, -1), tokens + positions], dim=1)
    *blocks, last = encoder.transformer.values()
    for block in blocks:
        tokens = _transformer_block(block, tokens)
    summary = _transformer_block(last, tokens, queries=1)[:, 0]
    scores = network.head(encoder.encoder_norm(summary))
    if scores.shape[1] > 1:  # a distribution over the grades 1, 2, ...
        scores = scores * torch.arange(1, scores.shape[1] + 1, device=scores.device)
    return scores.sum(1)


def multiscale_patches(images, side, grid, longer_sides, original_patches):
    """Cut images, resized to several sizes and as they are, into patches.

    Args:
        images (Tensor): in [-1, 1], ``(N, 3, H, W)``; padded with 0 to whole patches.
        side (int): of a patch in px.
        grid (int): side of the grid of positions that the patches of every size share.
        longer_sides (list[int]): longer side of the images in px after resizing, one for every scale.
        original_patches (int | None): how many patches of the original size to use; all if negative, none if ``None``.

    Returns:
        tuple[Tensor, Tensor, Tensor]: patches ``(N, L, 3, side, side)``, their place in the grid and their scale, both
        ``(L,)`` integers.
    """
    height, width = images.shape[-2:]
    ratios = [longer / max(height, width) for longer in sorted(longer_sides)]
    sized = [_Resized.apply(images, round(height * ratio), round(width * ratio)) for ratio in ratios]
    if original_patches is not None:
        sized.append(images)
    patches, places, scales = [], [], []
    for scale, image in enumerate(sized):
        cut = _patches(image, side)
        place = _places(grid, *cut.shape[1:3], images.device)
        cut = cut.flatten(1, 2)
        if scale == len(ratios) and original_patches >= 0:
            cut, place = cut[:, :original_patches], place[:original_patches]
        patches.append(cut)
        places.append(place)
        scales.append(torch.full_like(place, scale))
    return torch.cat(patches, dim=1), torch.cat(places), torch.cat(scales)


class _Resized(torch.autograd.Function):
    """Bicubic interpolation, with two matrix products as its gradient."""

    @staticmethod
    def forward(ctx, images, height, width):
        ctx.shape = images.shape[-2:]
        return _bicubic(images, (height, width))

    @staticmethod
    def backward(ctx, gradient):
        def resizing(old, new):
            unit = torch.eye(old, dtype=gradient.dtype, device=gradient.device)
            return _bicubic(unit[None, None], (new, old))[0, 0]

        rows, columns = (resizing(old, new) for old, new in zip(ctx.shape, gradient.shape[-2:], strict=True))
        return rows.T @ gradient @ columns, None, None


def _bicubic(images, size):
    return F.interpolate(images, size=size, mode='bicubic', align_corners=False)


def _patches(images, side):
    """``(N, C, H, W)`` to ``(N, rows, columns, C, side, side)``."""
    short = [-size % side for size in images.shape[-2:]]
    if any(short):
        before = [size // 2 for size in short]
        images = F.pad(images, (before[1], short[1] - before[1], before[0], short[0] - before[0]))
    rows = images.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return rows.permute(0, 2, 4, 1, 3, 5)


def _places(grid, rows, columns, device):
    """Index of every patch in the ``grid x grid`` table of positions, row by row."""
    line = torch.arange(grid, dtype=torch.float32, device=device)[None, None]
    row, column = (F.interpolate(line, size=count, mode='nearest').flatten().long() for count in (rows, columns))
    return (row[:, None] * grid + column).flatten()


def _patch_features(network, patches):
    """ResNet features of patches ``(P, 3, side, side)``, flattened with the channels last: ``(P, side**2 * 16)``."""
    maps = network.gn_root(_FirstConvolution.apply(patches, _standardised(network.conv_root)))
    # Pooling before the rectifier is the same and rectifies a quarter of the pixels.
    pooled = F.max_pool2d(maps.contiguous(memory_format=torch.channels_last), 3, stride=2, ceil_mode=True)
    pooled = F.relu(pooled.contiguous())
    block = network.block1
    maps = F.relu(block.gn1(_pointwise(pooled, block.conv1)))
    maps = F.relu(block.gn2(F.conv2d(maps, _standardised(block.conv2), padding=1)))
    maps = block.gn3(_pointwise(maps, block.conv3))
    maps = F.relu(maps + (block.gn_proj(_pointwise(pooled, block.conv_proj)) if block.needs_projection else pooled))
    return maps.permute(0, 2, 3, 1).flatten(1)


def _standardised(convolution):
    """Filters with mean 0 and deviation 1 (weight standardisation)."""
    centred = convolution.weight - convolution.weight.mean((1, 2, 3), keepdim=True)
    return centred / (centred.std((1, 2, 3), keepdim=True) + 1e-5)


class _FirstConvolution(torch.autograd.Function):
    """7 x 7 convolution with stride 2 over 2 px of zeros before and 3 after; frozen filters.

    Its gradient is taken as that of the same convolution written as 4 x 4 filters over blocks of 2 x 2 px: 12 channels
    instead of 3, which is much faster.
    """

    @staticmethod
    def forward(ctx, patches, filters):
        ctx.save_for_backward(filters)
        ctx.dtype = patches.dtype
        return F.conv2d(F.pad(patches, (2, 3, 2, 3)), filters, stride=2)

    @staticmethod
    def backward(ctx, gradient):
        (filters,) = ctx.saved_tensors
        blocks = F.pixel_unshuffle(F.pad(filters, (1, 0, 1, 0)), 2).to(gradient.dtype)
        padded = F.pixel_shuffle(F.conv_transpose2d(gradient, blocks), 2)
        return padded[..., 3:-3, 3:-3].to(ctx.dtype), None


def _pointwise(maps, convolution):
    """1 x 1 convolution as a matrix product."""
    return (_standardised(convolution).flatten(1) @ maps.flatten(2)).unflatten(2, maps.shape[2:])


def _transformer_block(block, tokens, queries=None):
    """Attention and two linear layers, each added to its input; with ``queries`` only the first so many tokens."""
    attention, mlp = block.attention, block.mlp
    normal = block.norm1(tokens)

    def heads(values):
        return values.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(
        heads(attention.query(normal[:, :queries])), heads(attention.key(normal)), heads(attention.value(normal))
    )
    tokens = tokens[:, :queries] + attention.out(mixed.transpose(1, 2).flatten(2))
    return tokens + mlp.fc2(mlp.act(mlp.fc1(block.norm2(tokens))))
