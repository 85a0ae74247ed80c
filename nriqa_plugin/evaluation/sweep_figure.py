"""The figure of a sweep: how each judge's mean moves with a weight."""

from nriqa_plugin.checks import import_extra
from nriqa_plugin.evaluation.figures import BODY, BODY_AGAINST, INK, MUTED, plain_names


@plain_names
def sweep_figure(title, panels, series):
    """One panel a judge; in it one line for each series of trainings, with 95 % intervals over the images.

    Args:
        title (str): heading.
        panels (Sequence[list[Row]]): rows of one metric each, see
            :func:`~nriqa_plugin.evaluation.comparison.compare_methods`.
        series (dict[str, dict[str, str]]): by the axis's title, ``{training: label}`` in the order of the axis;
            trainings without a row leave a gap.

    Returns:
        matplotlib.figure.Figure
    """
    counts = [len(labels) for labels in series.values()]
    size = (max(5.0, 1.4 + 0.9 * sum(counts)), 2.4 * len(panels) + 0.8)
    figure = import_extra('matplotlib.figure', 'report', 'the figures').Figure(figsize=size, layout='constrained')
    grid = figure.subplots(len(panels), len(series), squeeze=False, sharey='row', width_ratios=counts)
    for rows, line in zip(panels, grid, strict=True):
        by_name = {row.method: row for row in rows}
        for axes, (axis, labels), colour in zip(line, series.items(), (BODY, BODY_AGAINST), strict=False):
            found = [(place, by_name[name]) for place, name in enumerate(labels) if name in by_name]
            places, means = [place for place, _ in found], [row.mean for _, row in found]
            errors = [[max(0.0, row.mean - row.mean_low) for _, row in found],
                      [max(0.0, row.mean_high - row.mean) for _, row in found]]  # fmt: skip
            axes.errorbar(places, means, yerr=errors, fmt='o-', color=colour, ecolor=MUTED, elinewidth=0.7, capsize=2)
            axes.set_xticks(range(len(labels)), list(labels.values()))
            axes.set_xlim(-0.5, len(labels) - 0.5)
            axes.spines[['top', 'right']].set_visible(False)
            axes.grid(axis='y', linewidth=0.4, color='#dddddd')
            if rows is panels[-1]:
                axes.set_xlabel(axis, fontsize=8)
        direction = 'higher' if rows[0].higher_better else 'lower'
        line[0].set_ylabel(f'{rows[0].metric} ({direction} is better)', fontsize=8)
    figure.suptitle(title, fontsize=11, color=INK)
    note = f"Means over {panels[0][0].n} images; bars: 95 % confidence intervals (Student's t)"
    figure.supxlabel(note, fontsize=7, color=MUTED)
    return figure
