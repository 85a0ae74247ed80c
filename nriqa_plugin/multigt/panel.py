"""A picture of the candidates of a batch with their scores, the chosen ones framed."""

import torch
from PIL import Image, ImageDraw

from nriqa_plugin.checks import atomic_path

FRAME = 4  # px
TEXT = 14  # px, height of the line above each candidate
CHOSEN, OTHER, MISSING = (0, 160, 0), (255, 255, 255), (128, 128, 128)


def draw_panel(candidates, valid, scores, index, rows=4):
    """One row per sample, one column per candidate.

    Args:
        candidates (Tensor): RGB in [0, 1], ``(N, K, 3, H, W)``.
        valid (Tensor): ``(N, K)`` bool; missing candidates are grey.
        scores (Tensor | None): ``(N, K)``, written above each candidate; NaN where there is none.
        index (Tensor): ``(N,)``, the chosen ones.
        rows (int): samples to show at most.

    Returns:
        PIL.Image.Image: RGB.
    """
    count, columns = min(rows, len(candidates)), candidates.shape[1]
    height, width = candidates.shape[-2:]
    cell_width, cell_height = width + 2 * FRAME, height + 2 * FRAME + TEXT
    panel = Image.new('RGB', (columns * cell_width, count * cell_height), OTHER)
    draw = ImageDraw.Draw(panel)
    pixels = candidates[:count].detach().clamp(0, 1).mul(255).round().byte().permute(0, 1, 3, 4, 2).cpu().numpy()
    for n in range(count):
        for k in range(columns):
            left, top = k * cell_width, n * cell_height
            chosen = k == int(index[n])
            box = (left, top + TEXT, left + cell_width - 1, top + cell_height - 1)
            draw.rectangle(box, fill=CHOSEN if chosen else OTHER)
            if valid[n, k]:
                panel.paste(Image.fromarray(pixels[n, k]), (left + FRAME, top + TEXT + FRAME))
            else:
                draw.rectangle((left + FRAME, top + TEXT + FRAME, box[2] - FRAME, box[3] - FRAME), fill=MISSING)
            draw.text((left + FRAME, top + 1), _caption(k, scores, n), fill=CHOSEN if chosen else (0, 0, 0))
    return panel


def write_panel(path, *panel):
    """:func:`draw_panel` into a file, at once or not at all."""
    with atomic_path(path) as temporary:
        draw_panel(*panel).save(temporary)


def _caption(k, scores, n):
    score = torch.nan if scores is None else float(scores[n, k])
    return f'{k}' if score != score else f'{k}: {score:.4g}'
