"""``nriqa artifacts``: finished results that please the judge by artifacts."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from nriqa_plugin.cli.judges import judge_of
from nriqa_plugin.cli.tables import new_table, show_notes, show_titled

EXAMPLES = """Examples:

nriqa artifacts results/tuned -b results/start -r Set5/HR -m cnniqa:weights=CNNIQA-LIVE.pth -o artifacts

nriqa artifacts results/tuned -b results/start -o artifacts

nriqa artifacts results/tuned -b results/start -r Set5/HR -m musiq --lpips lpips:net=vgg --flat -o artifacts

nriqa artifacts runs/matrix -m cnniqa --lpips lpips -o artifacts"""


def artifacts(
    results: Annotated[
        Path, typer.Argument(help='Folder of results, or a run index (runs.json or its folder).', show_default=False)
    ],
    out: Annotated[Path, typer.Option('--out', '-o', help='Folder for table and crops.', show_default=False)],
    baseline: Annotated[
        Path | None, typer.Option('--baseline', '-b', help='Folder of the results before; a run index has its own.')
    ] = None,
    reference: Annotated[
        Path | None, typer.Option('--reference', '-r', help='Folder of ground truths, paired by name.')
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option('--metric', '-m', help='Judge that may have been pleased. Repeatable.', show_default=False),
    ] = None,
    lpips: Annotated[
        str | None, typer.Option('--lpips', help='Judge that is closer to the truth; default with -m: lpips.')
    ] = None,
    optimised: Annotated[
        list[str] | None, typer.Option('--optimised', help='Judge that is in the loss, by name. Repeatable.')
    ] = None,
    suffix: Annotated[str, typer.Option(help="Ending of the results' names, such as BasicSR's _RUN.")] = '',
    baseline_suffix: Annotated[str, typer.Option('--baseline-suffix', help="The same of the baseline's.")] = '',
    fall: Annotated[float, typer.Option('--fall', min=0, help='Percent that LPIPS may get worse by.')] = 10.0,
    pattern: Annotated[float, typer.Option('--pattern', min=0, help='Grey levels a pattern may have.')] = 1.0,
    flat: Annotated[bool, typer.Option('--flat', help='Look at flat areas of the ground truth only.')] = False,
    flat_size: Annotated[
        int | None, typer.Option('--flat-size', min=7, help='Side of the flat windows in px; default: 64.')
    ] = None,
    crop: Annotated[int, typer.Option('--crop', min=8, help='Side of the crops in px.')] = 96,
    count: Annotated[int, typer.Option('--count', min=0, help='Crops of at most so many images a run.')] = 12,
    device: Annotated[str, typer.Option(help='auto, cpu, cuda, cuda:1, ...')] = 'auto',
):
    """Flag results that look gamed, and cut out where.

    An image is flagged when LPIPS got worse by more than --fall percent while a judge got better (Kashkarov et al.,
    arXiv 2405.20392, image by image), or when dots or lines repeat every 2 to 16 px that the baseline has not. Exit
    code 1 when an image is flagged or the paper's rule on the means fires, 0 when all is well, 2 after an error.
    """
    from nriqa_plugin.checks import import_extra, unknown_name
    from nriqa_plugin.evaluation.artifact_alarm import AlarmRule
    from nriqa_plugin.evaluation.artifact_search import Settings, search_folders, search_runs
    from nriqa_plugin.evaluation.artifacts import ImageRule
    from nriqa_plugin.evaluation.flat_areas import flat_regions
    from nriqa_plugin.evaluation.periodic import PatternRule
    from nriqa_plugin.evaluation.run_index import NAME, read_runs

    if flat_size is not None and not flat:
        raise ValueError('--flat-size needs --flat')
    if lpips and not metric:
        raise ValueError('--lpips alone says nothing: name the judge that may have been pleased with -m')
    import_extra('jinja2', 'report', 'the page of artifacts')  # before all the scoring
    regions = flat_regions(flat_size, ()) if flat else None
    rule = ImageRule(fall=fall, pattern=PatternRule(amplitude=pattern))
    settings = Settings(rule, AlarmRule(fall=fall), regions, crop, count, device)
    closer = (lpips or 'lpips') if metric else None
    notes = []
    if results.suffix == '.json' or (results / NAME).is_file():
        if any((baseline, reference, suffix, baseline_suffix, optimised)):
            raise ValueError(f'{results} is a run index, which names baseline, ground truths, suffixes and losses '
                             'itself')  # fmt: skip
        outcomes, notes = search_runs(read_runs(results), out, metric or [], closer, settings, judge_of)
    else:
        if baseline is None:
            raise ValueError('a folder of results is compared with that of a baseline: give --baseline')
        if (metric or flat) and reference is None:
            raise ValueError(f'{"-m" if metric else "--flat"} needs the ground truths: give --reference')
        judges = [judge_of(text) for text in metric or ()]
        judge = judge_of(closer) if closer else None
        known = {used.name for used in (*judges, *([judge] if judge else []))}
        for name in optimised or ():
            if name not in known:
                raise unknown_name('judge in --optimised:', name, known)
        outcomes = [search_folders(results, baseline, out, judges, judge, reference, settings, suffix,
                                   baseline_suffix, optimised or ())]  # fmt: skip
    for outcome in outcomes:
        _show(outcome)
    show_notes(notes)
    if any(outcome.flagged or outcome.means for outcome in outcomes):
        raise typer.Exit(1)


def _show(outcome):
    table = new_table('image', 'judge gain', 'LPIPS gain', 'pattern', 'note')
    for finding in outcome.flagged:
        gains = ('' if gain is None else f'{gain:+.1f} %' for gain in (finding.judge_gain, finding.reference_gain))
        found = f'{finding.pattern.amplitude:.1f}' if finding.pattern else ''
        table.add_row(escape(finding.image), *gains, found, escape('; '.join(finding.reasons)))
    if outcome.reference:
        changes = ', '.join(f'{change.name} {change.gain:+.1f} %' for change in (*outcome.judges, outcome.reference))
        Console().print(f'{outcome.name}: {changes}', markup=False, highlight=False, soft_wrap=True)
    title = f'{outcome.name}: {len(outcome.flagged)} of {len(outcome.findings)} images flagged'
    if outcome.flagged:
        show_titled(title, table)
    else:
        Console().print(title, style='bold cyan', markup=False, highlight=False)
    for reason in outcome.means:
        Console().print(f'Means: {reason}', style='red', markup=False, highlight=False, soft_wrap=True)
    show_notes(outcome.notes)
    Console().print(f'Page: {outcome.page}', markup=False, highlight=False, soft_wrap=True)
