"""A clip through a video coder and back."""

import io

import numpy as np
import torch

from nriqa_plugin.checks import check_number, import_extra


class H264:
    """H.264 (x264, 4:2:0, BT.601) of a whole clip through PyAV (extra ``video``), in memory.

    Args:
        crf (int | tuple[int, int]): constant rate factor, 0 (best) to 51; a pair is drawn from uniformly, both ends
            included, once for a clip.
        fps (int): frames a second, by which the coder spreads its bits.

    Raises:
        ImportError: PyAV is missing (at construction).
    """

    def __init__(self, crf=(18, 35), fps=25):
        pair = crf if isinstance(crf, (list, tuple)) else (crf, crf)
        if len(pair) != 2:
            raise ValueError(f'crf must be a number or [low, high], got {crf!r}')
        self.crf = tuple(check_number('crf', bound, low=0, high=51, integer=True) for bound in pair)
        if self.crf[0] > self.crf[1]:
            raise ValueError(f'crf must rise, got {crf!r}')
        self.fps = check_number('fps', fps, low=1, integer=True)
        import_extra('av', 'video', 'coding with H.264')

    def __call__(self, clip, generator):
        """``(T, 3, H, W)`` in [0, 1], clipped and rounded to 8 bit first; sides are made even by repeating px."""
        crf = int(torch.randint(self.crf[0], self.crf[1] + 1, (1,), generator=generator))
        height, width = clip.shape[-2:]
        frames = (clip.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode='edge')
        decoded = self._coded(frames, crf)[:, :height, :width]
        return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(clip) / 255

    def _coded(self, frames, crf):
        av = import_extra('av', 'video', 'coding with H.264')
        file = io.BytesIO()
        with av.open(file, 'w', format='matroska') as container:
            # One thread: the result must not depend on the machine.
            stream = container.add_stream('libx264', rate=self.fps, options={'crf': str(crf), 'threads': '1'})
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], 'yuv420p'
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
            container.mux(stream.encode())
        file.seek(0)
        with av.open(file) as container:
            return np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])

    def __repr__(self):
        return f'H264(crf={self.crf}, fps={self.fps})'
