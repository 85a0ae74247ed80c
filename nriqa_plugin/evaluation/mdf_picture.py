"""What a training of MDF discriminators looked like: a picture and the curves."""

import csv

import torch

from nriqa_plugin.checks import atomic_path, import_extra

COLUMN_TITLES = {
    'real': 'real',
    'input': 'input',
    'fake': 'fake',
    'on_real': 'activation on real',
    'on_fake': 'activation on fake',
}
SMOOTHING = 50  # iterations in the running mean of a curve


def write_curves(path, columns, curves):
    """Write the losses as CSV: scale, iteration, then ``columns``.

    Args:
        path (str | Path): the file.
        columns (Sequence[str]): names of the losses.
        curves (list[Tensor]): for each scale ``(iterations, len(columns))``.
    """
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['scale', 'iteration', *columns])
        for scale, curve in enumerate(curves, 1):
            rows = enumerate(curve.tolist(), 1)
            writer.writerows([scale, iteration, *(f'{value:.6g}' for value in row)] for iteration, row in rows)


def draw_training(path, samples, columns, curves):
    """Draw each scale as a row: images, maps of activations on one colour scale, losses; an image file.

    Args:
        path (str | Path): the picture; its ending says the format.
        samples (list[dict[str, Tensor]]): for each scale ``real``, ``input``, ``fake`` ``(3, h, w)`` in [-1, 1],
            ``on_real``, ``on_fake`` ``(h', w')``.
        columns (Sequence[str]): names of the losses, among them ``real``, ``fake`` and ``mse``.
        curves (list[Tensor]): for each scale ``(iterations, len(columns))``.

    Raises:
        ImportError: matplotlib is missing.
    """
    figures = import_extra('matplotlib.figure', 'report', 'the picture')
    height, width = samples[-1]['real'].shape[-2:]
    cell = 2.6
    size = (cell * 6.6, (cell * min(max(height / width, 0.5), 2) + 0.45) * len(samples) + 0.3)
    figure = figures.Figure(figsize=size, layout='constrained', dpi=110)
    rows = figure.subplots(len(samples), 6, squeeze=False, width_ratios=[1] * 5 + [1.5])
    for number, (axes, sample, curve) in enumerate(zip(rows, samples, curves, strict=True), 1):
        _draw_images(figure, axes, sample)
        axes[0].set_ylabel(f'scale {number}\n{sample["real"].shape[2]} x {sample["real"].shape[1]} px')
        _draw_losses(axes[5], dict(zip(columns, curve.T, strict=True)))
    for axes, title in zip(rows[0], [*COLUMN_TITLES.values(), 'losses'], strict=True):
        axes.set_title(title, fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _draw_images(figure, axes, sample):
    maps = torch.cat([sample['on_real'].flatten(), sample['on_fake'].flatten()])
    bounds = {'vmin': maps.min().item(), 'vmax': maps.max().item()}
    for axis, name in zip(axes, COLUMN_TITLES, strict=False):
        if name.startswith('on_'):
            shown = axis.imshow(sample[name].numpy(), cmap='viridis', interpolation='nearest', **bounds)
        else:
            axis.imshow(((sample[name] + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy(), interpolation='nearest')
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(shown, ax=axes[4], shrink=0.8)


def _draw_losses(axes, losses):
    """Mean activations on the left axis, the generator's error on the right one, as running means."""
    for name, colour in (('real', 'tab:green'), ('fake', 'tab:red')):
        axes.plot(*_smoothed(losses[name]), color=colour, label=f'D on {name}', linewidth=1)
    right = axes.twinx()
    right.plot(*_smoothed(losses['mse']), color='tab:blue', label='error (mse)', linewidth=1)
    right.set_yscale('log')
    lines = [*axes.get_lines(), *right.get_lines()]
    axes.legend(lines, [line.get_label() for line in lines], fontsize=7, loc='upper right')
    axes.tick_params(labelsize=7)
    right.tick_params(labelsize=7, which='both')


def _smoothed(values):
    window = max(1, min(SMOOTHING, len(values) // 10))
    return range(window, len(values) + 1), values.unfold(0, window, 1).mean(1).clamp(min=-1e30).numpy()
