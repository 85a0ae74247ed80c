"""Video files, frame by frame: what is broken or cut off is refused, never passed over."""

import hashlib
import re
from pathlib import Path

import torch

from nriqa_plugin.checks import file_hash, import_extra
from nriqa_plugin.evaluation.images import read_image

EXTENSIONS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.y4m')


def is_video(path):
    """Whether a path has the ending of a video file."""
    return Path(path).suffix.lower() in EXTENSIONS


def in_order(paths):
    """Paths of frames sorted by name with numbers counted as such: ``im2.png`` comes before ``im10.png``."""
    return sorted(paths, key=lambda path: [(int(p), p) if p.isdigit() else (-1, p) for p in _parts(Path(path).name)])


class VideoFile:
    """The frames of the first video stream of a file, decoded one by one through PyAV (extra ``video``).

    Frames are converted to RGB by the matrix and range that the file states (BT.601 and studio range where it states
    none) and turned upright as players do; more than 8 bits are kept. Interlaced frames stay as they are.

    Args:
        path (str | Path): mp4, mkv, webm, avi, ...

    Raises:
        ImportError: PyAV is missing.
        FileNotFoundError: no such file.
        ValueError: no video, cut off before its index, or without a video stream.
    """

    def __init__(self, path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f'no such video: {path}')
        self.name = self.path.name
        with self._opened() as container:
            stated = self._stream(container).frames
        self.stated = stated or None  # number of frames by the header, which not every format has

    def hash(self):
        """The first 12 hex digits of the file's SHA-256."""
        return file_hash(self.path)

    def frames(self, wanted=lambda number: True):
        """Yield every frame in order, as RGB in [0, 1], ``(3, H, W)`` float32; None for those that are not ``wanted``.

        Raises:
            ValueError: damaged, cut off or without a single frame; the message says after how many. It comes when the
                frames before have been handed out.
        """
        number = 0
        with self._opened() as container:
            stream = self._stream(container)
            stream.thread_type = 'AUTO'
            stream.codec_context.options = {'err_detect': 'explode'}  # instead of concealing
            end, step, read = None, 0, 0
            try:
                for packet in container.demux(stream):
                    if packet.pos is not None:
                        read = packet.pos + packet.size
                    if packet.is_corrupt:
                        raise self._damaged(number, 'the file is cut off')
                    for frame in packet.decode():
                        if frame.is_corrupt:
                            raise self._damaged(number, 'a damaged frame follows')
                        if frame.pts is not None:
                            step = frame.duration or step
                            end = max(end or 0, frame.pts + step)
                        yield self._to_rgb(frame) if wanted(number) else None
                        number += 1
            except _av().error.FFmpegError as error:
                raise self._damaged(number, error.strerror or type(error).__name__) from error
            self._check_size(container.format.name, number, read)
            self._check_end(stream, number, end, step)

    def _check_size(self, kind, number, read):
        """Two demuxers pass over the torn last frame of a cut file without a word."""
        size = self.path.stat().st_size
        if kind == 'yuv4mpegpipe' and read < size:
            raise self._damaged(number, 'its last frame is cut off')
        if kind == 'avi':
            with open(self.path, 'rb') as file:
                promised = int.from_bytes(file.read(8)[4:], 'little')
            if size < 8 + promised != 8 + 0xFFFFFFFF:  # what is written into a pipe does not know its size
                raise self._damaged(number, f'its header promises {8 + promised} bytes, it has {size}')

    def _check_end(self, stream, number, end, step):
        """A demuxer takes the end of a cut file for the end of the clip; the header knows how long it should be."""
        if number == 0:
            raise ValueError(f'{self.path} holds no frame')
        if stream.frames and number >= stream.frames:
            return
        should = stream.duration  # of the shown part, where an edit list hides frames
        if should is not None and stream.start_time is not None:
            should += stream.start_time
        elif should is None and (stated := _tagged_duration(stream)) is not None:
            should = stated / float(stream.time_base)
        if should is not None and end is not None and end + 0.5 * step < should:
            raise self._damaged(number, f'its header promises {_seconds(should, stream)} s, it ends after '
                                f'{_seconds(end, stream)} s')  # fmt: skip

    def _to_rgb(self, frame):
        parts = frame.format.components
        if any(part.is_alpha for part in parts):
            raise ValueError(f'{self.path} has transparency, which no judge sees; flatten it to RGB first')
        deep = max(part.bits for part in parts) > 8
        pixels = frame.to_ndarray(format='rgb48le' if deep else 'rgb24')
        image = torch.from_numpy(pixels.astype('float32') / (65535 if deep else 255)).permute(2, 0, 1)
        turns = round((frame.rotation or 0) / 90) % 4  # counter-clockwise
        return (torch.rot90(image, turns, (1, 2)) if turns else image).contiguous()

    def _opened(self):
        try:
            return _av().open(str(self.path))
        except (_av().error.FFmpegError, ValueError) as error:
            raise ValueError(f'{self.path} is no readable video (cut off or damaged?): '
                             f'{getattr(error, "strerror", None) or error}') from error  # fmt: skip

    def _stream(self, container):
        if not container.streams.video:
            kinds = sorted({stream.type for stream in container.streams})
            raise ValueError(f'{self.path} has no video stream, only {", ".join(kinds) or "nothing"}')
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError(f'{self.path}: FFmpeg knows no decoder for its video (damaged, or an unknown codec)')
        return stream

    def _damaged(self, number, reason):
        return ValueError(f'{self.path} is damaged or cut off after {number} frames: {reason}')


class FrameFolder:
    """A clip as a folder of images; the same interface as :class:`VideoFile`.

    Args:
        name (str): of the clip.
        paths (Sequence[Path]): its frames, in order.
    """

    def __init__(self, name, paths):
        self.name, self.paths, self.stated = name, tuple(paths), len(paths)
        self.path = Path(paths[0]).parent

    def hash(self):
        return joint_hash([file_hash(path) for path in self.paths])

    def frames(self, wanted=lambda number: True):
        for number, path in enumerate(self.paths):
            yield read_image(path) if wanted(number) else None


def joint_hash(hashes):
    """The hash of one file, or one for all of several."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(''.join(hashes).encode()).hexdigest()[:12]


def _tagged_duration(stream):
    """Seconds, as muxers of Matroska write them: ``00:00:04.000000000``; None without."""
    match = re.fullmatch(r'(\d+):(\d+):(\d+(?:\.\d+)?)', stream.metadata.get('DURATION', ''))
    return match and int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


def _seconds(time, stream):
    return f'{float(time * stream.time_base):.2f}'


def _parts(name):
    return [part for part in re.split(r'(\d+)', name) if part]


def _av():
    return import_extra('av', 'video', 'reading videos')
