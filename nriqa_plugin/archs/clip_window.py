"""Windows of frames: which neighbours a network with a fixed number of frames sees around each frame of a clip."""

PADDINGS = ('reflection', 'replicate', 'target')


def frame_window(index, length, frames, padding):
    """The indices of the ``frames - 1`` neighbours of frame ``index`` in a clip of ``length`` frames, in order of time.

    An even window has one frame more before than after. Beyond the clip ``reflection`` mirrors at its first and last
    frame (without repeating it), ``replicate`` repeats them, ``target`` repeats the frame itself.
    """
    neighbours = [index + offset for offset in range(-(frames // 2), frames - frames // 2) if offset]
    return [_inside(i, index, length, padding) for i in neighbours]


def _inside(i, index, length, padding):
    if 0 <= i < length:
        return i
    if padding == 'target':
        return index
    last = length - 1
    if padding == 'replicate':
        return min(max(i, 0), last)
    return -i if i < 0 else 2 * last - i


def check_clip(network, clip, frames, padding, min_side):
    """Refuse what is no clip ``(N, T, 3, H, W)`` of at least ``min_side`` px, or one too short to be mirrored.

    Raises:
        ValueError: saying what the network wants.
    """
    if clip.dim() != 5 or clip.shape[2] != 3:
        raise ValueError(f'{network} wants a clip (N, T, 3, H, W), got {tuple(clip.shape)}')
    if min(clip.shape[-2:]) < min_side:
        raise ValueError(f'{network} needs at least {min_side} px a side for its optical flow, got {tuple(clip.shape)}')
    if padding == 'reflection' and clip.shape[1] < frames:
        raise ValueError(f"{network} wants clips of at least {frames} frames, got {clip.shape[1]}; padding 'replicate' "
                         "or 'target' takes shorter ones")  # fmt: skip
