"""Build a report: read the runs, compare them, draw the figures, choose the crops, write one file."""

import re
from dataclasses import dataclass
from pathlib import Path

from nriqa_plugin.checks import atomic_path, check_number, file_hash
from nriqa_plugin.evaluation.comparison import NOTE
from nriqa_plugin.evaluation.figures import INK, save_figure
from nriqa_plugin.evaluation.gain_matrix import EMPTY, gain_matrix, gaps
from nriqa_plugin.evaluation.heat_map import heat_map
from nriqa_plugin.evaluation.run_index import RunIndex
from nriqa_plugin.evaluation.scores import read_scores
from nriqa_plugin.report import drawings
from nriqa_plugin.report.page import render
from nriqa_plugin.report.places import compare_place, load_place
from nriqa_plugin.report.tiles import choose_regions, encode

MEGABYTE = 1_000_000
VIEWER = 4000  # bytes of its markup and of the notes on the crops


@dataclass(frozen=True)
class Built:
    """What was written: the file, its size in bytes, how many crops it shows, figures, and the notes on the page."""

    path: Path
    size: int
    crops: int
    figures: tuple
    notes: tuple


@dataclass(frozen=True)
class Drawing:
    """A figure on the page: ``kind`` (plane, violin, curve), index of its place, caption, SVG, what stands below it,
    width in px."""

    kind: str
    place: int
    caption: str
    svg: str
    below: str
    width: float


def build_report(
    path, index, title='Report', jnd=None, crops=8, size=256, max_mb=50, figures=None, planes=None, seed=0
):
    """Write a report.

    Args:
        path (str | Path): the HTML file.
        index (RunIndex): the runs, see :func:`~nriqa_plugin.report.sources.index_of`.
        title (str): heading.
        jnd (str | Path | None): table of ``nriqa jnd`` whose conditions are called as the runs.
        crops (int): regions to show for each network and data set; 0: no viewer.
        size (int): side of a region in px.
        max_mb (float): largest size of the file; see :func:`~nriqa_plugin.report.tiles.encode`.
        figures (str | Path | None): folder for the same figures as PNG and PDF.
        planes (Sequence[tuple[str, str]] | None): metrics of x and y of each plane; default: the three tiers.
        seed (int): of the bootstrap.

    Returns:
        Built

    Raises:
        ValueError: as :func:`~nriqa_plugin.report.places.load_place` and
            :func:`~nriqa_plugin.evaluation.gain_matrix.gain_matrix`; a page that is larger than ``max_mb`` even
            without crops.
        ImportError: jinja2, matplotlib or scipy is missing: the extra ``report``.
    """
    crops = check_number('--crops', crops, low=0, integer=True)
    size = check_number('--size', size, low=16, integer=True)
    limit = int(check_number('--max-mb', max_mb, low=0.1) * MEGABYTE)
    jnd = drawings.read_jnd(jnd) if jnd is not None else None
    places = [load_place(index, *place) for place in index.places]
    for place in places:
        compare_place(place, seed)
    matrix, notes = _matrix(index)
    notes += _jnd_notes(jnd, places)
    drawn, pictures = _draw(places, jnd, planes, notes, with_labels=len(places) > 1)
    regions = [region for i, place in enumerate(places) for region in choose_regions(place, i, crops, size)]
    notes += [f'{place.label}: {note}' if len(places) > 1 else note for place in places for note in place.notes]
    if any(place.baseline and place.rows for place in places):
        notes.append(f'The baseline is {index.baseline}. {NOTE}')
    bases = [run for run in index.runs if run.loss == index.baseline and run.scores]
    hashes = {f'{run.name}, {" on ".join(run.place)},' if len(places) > 1 else run.name: file_hash(run.scores)
              for run in bases}  # fmt: skip
    content = {'title': title, 'places': places, 'matrix': matrix, 'drawings': drawn, 'hashes': hashes}
    room = limit - len(render(**content, regions=[], notes=notes).encode()) - VIEWER
    if room < 0:
        raise ValueError(f'--max-mb {max_mb}: the page is larger than that without a single crop')
    shown, more = encode(regions, room)
    notes += more
    html = render(**content, regions=shown, notes=notes)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding='utf-8')
    written = _save(figures, pictures, matrix, title) if figures is not None else ()
    return Built(Path(path), len(html.encode()), len(shown), tuple(written), tuple(notes))


def _matrix(index):
    """The gains of the runs that can be compared, or None; and what was left out."""
    scored = [run for run in index.runs if run.scores is not None]
    if index.baseline is None or len(scored) < 2:
        return None, []
    bare = sorted({' on '.join(run.place) for run in index.runs if run.loss == index.baseline and run.scores is None})
    if bare:
        return None, [f'No relative gains: the baseline {index.baseline} has no scores ({", ".join(bare)}).']
    metrics = [read_scores(run.scores).metrics for run in scored]
    common = [metric for metric in metrics[0] if all(metric in own for own in metrics)]
    dropped = sorted({metric for own in metrics for metric in own} - set(common))
    notes = [f'{metric} has no relative gains: not every run was scored by it.' for metric in dropped]
    losses = {run.loss for run in scored}
    if not common or losses == {index.baseline}:
        return None, notes
    matrix = gain_matrix(RunIndex(tuple(scored), index.baseline), common, undefined=EMPTY)
    return matrix, [*notes, *gaps(matrix)]


def _jnd_notes(jnd, places):
    if jnd is None:
        return []
    names = {name for place in places for name in place.methods}
    if not names & jnd.keys():
        raise ValueError(f'--jnd: its conditions ({", ".join(jnd)}) are none of the runs ({", ".join(sorted(names))})')
    without, unused = sorted(names - jnd.keys()), sorted(jnd.keys() - names)
    notes = [f'No JND of {", ".join(without)}: not in those planes.'] if without else []
    return notes + ([f'JND of conditions that are no run here: {", ".join(unused)}.'] if unused else [])


def _draw(places, jnd, wanted, notes, with_labels):
    """The drawings of the page, and by file name the figures themselves with their titles."""
    drawn, figures = [], {}

    def add(kind, number, name, caption, figure):
        if figure is None:
            return
        file = _file_name(kind, places[number].label if with_labels else '', name)
        figures[file] = (figure, caption)
        width = figure.get_figwidth() * 72
        drawn.append(Drawing(kind, number, caption, *drawings.as_svg(figure, f'f{len(figures)}'), width))

    for number, place in enumerate(places):
        where = f', {place.label}' if with_labels else ''
        pairs, more = drawings.planes_of(place, jnd, wanted)
        if more:
            notes.append(f'{more} more planes{where}: choose with --plane.')
        notes += _plane_notes(place, pairs, jnd, where)
        for x, y in pairs:
            add('plane', number, f'{x}_{y}', f'{x} and {y}{where}',
                drawings.plane(place, (x, y), '', jnd))  # fmt: skip
        for metric in place.rows:
            add('violin', number, metric, f'{metric}{where}', drawings.violins(place, metric, ''))
        for metric in dict.fromkeys(metric for own in place.curves.values() for metric in own):
            add('curve', number, metric, f'{metric}{where}', drawings.curves(place, metric, ''))
    return drawn, figures


def _plane_notes(place, pairs, jnd, where):
    """Why there is no plane with JND, and which planes cannot be drawn."""
    if jnd and not any(drawings.JND in pair for pair in pairs):
        why = '--plane names no axis jnd' if pairs else 'the runs have no scores to draw it against'
        yield f'No plane with JND{where}: {why}.'
    if len(place.methods) < 2 and not jnd:
        return
    for pair in pairs:
        if len(both := drawings.with_both(place, pair, jnd)) < 2:
            yield (f'No plane of {" and ".join(pair)}{where}: it needs two runs with both, there '
                   f'{"is one" if both else "is none"}{f" ({both[0]})" if both else ""}.')  # fmt: skip


def _save(folder, figures, matrix, title):
    folder = Path(folder)
    written = []
    for name, (figure, caption) in figures.items():
        figure.suptitle(caption, fontsize=11, color=INK)  # on the page it stands above the figure
        written += save_figure(figure, folder / name)
    if matrix is not None:
        written += save_figure(heat_map(title, matrix), folder / 'relative_gains')
    return written


def _file_name(*parts):
    return re.sub(r'[^\w.-]+', '_', '_'.join(part for part in parts if part)).strip('_')
