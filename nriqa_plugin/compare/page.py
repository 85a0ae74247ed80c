"""``report.html``: tables and figures of a comparison in one file that needs no network."""

import base64
import math
from pathlib import Path

from nriqa_plugin import __version__
from nriqa_plugin.checks import atomic_path, import_extra
from nriqa_plugin.compare.runs import FINISHED

NOTES = (
    'Every training has the same network, data, seed and number of steps; only its loss differs. Its best checkpoint '
    'by validation loss is tested.',
    "Mean: 95 % confidence interval of Student's t over the images. Bad tail: the 5th percentile, the 95th where lower "
    'is better, with a 95 % bootstrap interval (percentile method, 2000 resamples of the images). Of fewer than about '
    '20 images the tail is nearly the worst image and its interval too narrow.',
    "p: one-tailed paired t-test over the images, then Wilcoxon's signed-rank test, both by Holm's correction for the "
    'number of losses tested on one data set by one metric; the star: t-test below 0.05. One training a loss: the '
    'intervals hold the spread over images, not that over seeds.',
    'A judge that a loss optimises is no independent evidence in its row.',
)


def write_page(path, family, rows, figures, outcomes, against=None):
    """Write the page.

    Args:
        path (str | Path): the HTML file.
        family (Family): named in the heading.
        rows (Sequence[Row]): the table, may be empty.
        figures (Sequence[Path]): without ending; their PNG files go into the page.
        outcomes (Sequence[Outcome]): trainings that have not finished are listed with the reason.
        against (str | None): the loss that the others were tested against.
    """
    jinja2 = import_extra('jinja2', 'report', 'the report')
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)
    notes = [*NOTES]
    if not family.test and family.host == 'basicsr':
        notes.append(
            'Tested on the validation images, on which the best checkpoint was chosen; name others under `test`.'
        )
    html = environment.get_template('compare.html.j2').render(
        title=f'Losses compared: {family.file.stem}',
        version=__version__,
        base=str(family.base),
        against=against,
        rows=rows,
        number=_number,
        pictures=[(file.name, base64.b64encode(Path(f'{file}.png').read_bytes()).decode()) for file in figures],
        unfinished=[outcome for outcome in outcomes if outcome.status != FINISHED],
        notes=notes,
    )
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding='utf-8')


def _number(value):
    return '' if math.isnan(value) else f'{value:.4g}'
