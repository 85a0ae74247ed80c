"""What is known of pyiqa's metrics (0.1.15.post2): pyiqa's own table, and what it leaves out."""

import importlib.util
import math
import re
import runpy
from pathlib import Path

# The tables below are keyed by pyiqa's network type, which several metrics share. They were filled by reading pyiqa and
# checked by measurement: tools/judge_table.py, whose results are docs/judges.md.

# One file holds the whole network, so that ``weights`` replaces every download (but that of the face detector which
# the TOPIQ metrics for faces use).
FROM_FILE = (
    'CFANet', 'CKDN', 'CNNIQA', 'DBCNN', 'HyperNet', 'MANIQA', 'MS_SWD_learned', 'MUSIQ', 'NIMA', 'PAQ2PIQ', 'PieAPP',
    'STLPIPS', 'TReS', 'UNIQUE', 'URanker', 'WaDIQaM',
)  # fmt: skip

# Why the gradient with respect to the image is missing, zero or wrong.
NO_GRADIENT = {
    'AFINE': 'pyiqa switches gradients off inside it',
    'Compare2Score': 'the image goes through PIL',
    'DMM': 'pyiqa switches gradients off for the distorted image',
    'DeepDC': 'pyiqa switches gradients off for the distorted image',
    'Entropy': 'it counts rounded grey levels',
    'MAD': 'its gradient is NaN where it sees no distortion',
    'NIQE': 'its gradient leaves a table look-up out and points the wrong way; the built-in niqe has the right one',
    'NRQM': 'its random forest runs in NumPy',
    'PI': 'its random forest runs in NumPy',
    'PIQE': 'it rounds the image to 8 bits',
    'QAlign': 'the image goes through PIL',
}
FACES = 'faces are found and aligned in NumPy'

# What cannot give one score per image.
NO_JUDGE = {
    'CLIPScore': 'compares an image with a caption',
    'FID': 'compares two sets of images',
    'InceptionScore': 'scores a set of images',
}

# Networks that take one image at a time, or return one score for the whole batch.
ONE_BY_ONE = ('AFINE', 'Compare2Score', 'MACLIP', 'QAlign')

# Networks that move the images to CUDA by themselves.
NEEDS_CUDA = ('MACLIP',)

# Both sides of the image have to be multiples of so many px.
MULTIPLE = {'AFINE': 32}

# Shortest side in px where it is known to differ from the default, on the safe side.
DEFAULT_MIN_SIDE = 32
MIN_SIDE = {
    'ARNIQA': 64,
    'CW_SSIM': 64,
    'DMM': 128,
    'LIQE': 224,
    'MACLIP': 224,
    'MS_SSIM': 161,
    'NIQE': 192,
    'NRQM': 64,
    'PI': 200,
    'PieAPP': 64,
    'VIF': 64,
    'WaDIQaM': 33,
}


def metric_configs():
    """pyiqa's table of metrics, ``{name: settings}``; empty when pyiqa is not installed.

    Only the file with the table is run: importing pyiqa takes seconds, too long for the message about a typo.
    """
    spec = importlib.util.find_spec('pyiqa')
    if spec is None or spec.origin is None:
        return {}
    return runpy.run_path(str(Path(spec.origin).with_name('default_model_configs.py')))['DEFAULT_CONFIGS']


def parse_range(text):
    """The numbers of pyiqa's range text: ``'~0, ~100'`` gives ``(0.0, 100.0)``, a missing bound is infinite.

    Returns:
        tuple[float, float]: lowest and highest score; both infinite for text that is not understood.
    """
    bounds = re.fullmatch(r'\s*~?\s*(-?[\d.]*)\s*,\s*~?\s*(-?[\d.]*)\s*', text or '')
    try:
        low, high = bounds.groups()
        return float(low or -math.inf), float(high or math.inf)
    except (AttributeError, ValueError):
        return -math.inf, math.inf
