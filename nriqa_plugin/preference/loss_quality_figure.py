"""Losses against quality, as in Fig. 9 of the MDF paper: one panel a loss (extra ``report``)."""

import math

import numpy as np

from nriqa_plugin.checks import import_extra
from nriqa_plugin.evaluation.figures import INK, MUTED, plain_names

COLOURS = ('#4878b0', '#d98032', '#549f59', '#b3504b', '#8468a8', '#876a5d', '#cf82b6', '#6f6f6f')
MARKERS = 'osD^vP*X'
ACROSS = 4


@plain_names
def loss_quality_figure(title, rated, losses, rows, quality='JND', within=False):
    """A scatter for every loss: its value on x, quality on y.

    Args:
        title (str): heading.
        rated (Sequence[Rated]): a small point each, with its interval where there is one.
        losses (dict[str, dict[str, float]]): by loss the value for every image.
        rows (Sequence[LossRow]): SROCC for the panels' titles.
        quality (str): what y is.
        within (bool): values relative to their scene's mean, since only these compare.

    Returns:
        matplotlib.figure.Figure: kinds by colour; their means are large points.
    """
    across = min(ACROSS, len(losses))
    down = math.ceil(len(losses) / across)
    module = import_extra('matplotlib.figure', 'report', 'the figures')
    figure = module.Figure(figsize=(2.9 * across + 0.6, 2.6 * down + 1.1), layout='constrained')
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    kinds = list(dict.fromkeys(one.kind for one in rated))
    for axes in panels.flat[len(losses) :]:
        axes.set_visible(False)
    for axes, (loss, values) in zip(panels.flat, losses.items(), strict=False):
        _scatter(axes, rated, values, kinds, within)
        found = [row for row in rows if row.loss == loss and row.kind == 'all']
        numbers = ', '.join((f'{row.dataset}: ' if row.dataset else '') +
                            ('constant' if math.isnan(row.srocc) else f'{row.srocc:.2f}') for row in found)  # fmt: skip
        axes.set_title(f'{loss}: SROCC {numbers}', fontsize=9, color=INK)
    for axes in panels[:, 0]:
        axes.set_ylabel(f'{quality} (higher is better)', fontsize=8)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    if len(kinds) > 1:
        figure.legend(handles, labels, loc='outside upper right', ncols=min(6, len(kinds)), fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha='left')
    about = 'relative to the mean of the scene' if within else 'of the image'
    figure.supxlabel(f'Loss {about} (lower is better). Small points: images; large points: means of a kind.',
                     fontsize=7, color=MUTED)  # fmt: skip
    return figure


def _scatter(axes, rated, values, kinds, within):
    x = dict(values)
    if within:
        for scene in {one.scene for one in rated}:
            names = [one.image for one in rated if one.scene == scene]
            mean = math.fsum(values[name] for name in names) / len(names)
            x |= {name: values[name] - mean for name in names}
    for number, kind in enumerate(kinds):
        own = [one for one in rated if one.kind == kind]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        places, heights = [x[one.image] for one in own], [one.quality for one in own]
        bars = [(one.quality - one.low, one.high - one.quality) for one in own]
        if not np.isnan(bars).any():
            axes.errorbar(places, heights, yerr=np.maximum(0, bars).T, fmt='none', ecolor=colour, elinewidth=0.5,
                          alpha=0.35)  # fmt: skip
        axes.plot(places, heights, marker, color=colour, markersize=3, alpha=0.6, linestyle='none')
        if kind:
            axes.plot(np.mean(places), np.mean(heights), marker, color=colour, markersize=9, markeredgecolor=INK,
                      markeredgewidth=0.8, linestyle='none', label=kind, zorder=4)  # fmt: skip
    axes.tick_params(labelsize=7)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(linewidth=0.4, color='#dddddd')
