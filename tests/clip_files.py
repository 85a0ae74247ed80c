"""Small clips on disk for tests."""

import numpy as np
from PIL import Image

SMALL_RBPN = {'base_filter': 8, 'feat': 4, 'n_resblock': 1, 'nFrames': 3}
SMALL_VRT = {
    'depths': [1] * 8, 'indep_reconsts': [], 'embed_dims': [8] * 8, 'num_heads': [2] * 8, 'window_size': [2, 4, 4],
    'pa_frames': 2, 'deformable_groups': 2, 'num_feat': 4,
}  # fmt: skip


def write_clip(folder, frames=7, size=(32, 40), seed=0, names='{:08d}.png', first=0):
    """Write smooth random frames ``(H, W)`` = ``size``; returns their pixels ``(T, H, W, 3)`` uint8."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    made = []
    for number in range(first, first + frames):
        coarse = Image.fromarray(rng.integers(0, 256, (size[0] // 4, size[1] // 4, 3), dtype=np.uint8))
        image = coarse.resize(size[::-1], Image.BICUBIC)
        image.save(folder / names.format(number))
        made.append(np.array(image))
    return np.stack(made)


def write_pair(root, name, frames=7, size=(32, 40), scale=4, seed=0, **more):
    """A clip in ``root/GT`` and an unrelated one of the LQ size in ``root/LQ``; returns both."""
    small = tuple(side // scale for side in size)
    return (write_clip(root / 'GT' / name, frames, size, seed, **more),
            write_clip(root / 'LQ' / name, frames, small, seed + 1000, **more))  # fmt: skip


def read_frames(folder):
    """``(T, H, W, 3)`` uint8, in the order of names."""
    return np.stack([np.array(Image.open(path)) for path in sorted(folder.iterdir())])
