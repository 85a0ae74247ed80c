"""Tables and remarks of the commands on the terminal."""

import re

from rich.console import Console
from rich.markup import escape
from rich.table import Table

TEXT_COLUMNS = (
    'metric', 'judge', 'baseline file', 'term', 'note', 'loss', 'scene', 'condition', 'better', 'than', 'observer',
    'dataset', 'kind',
)  # fmt: skip


def new_table(*columns):
    """An empty table; columns of numbers are on the right."""
    table = Table(box=None, pad_edge=False, header_style='bold', padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify='left' if column in TEXT_COLUMNS else 'right', overflow='fold')
    return table


def show_section(section):
    """A table of the doctor's; columns of numbers are those that end in digits or a unit."""
    table = Table(box=None, pad_edge=False, header_style='bold', padding=(0, 2, 0, 0))
    for index, column in enumerate(section.columns):
        numbers = all(re.fullmatch(r'(-?[\d.e+-]+( px| %)?|fails|)', row[index]) for row in section.rows)
        table.add_column(column, justify='right' if numbers and section.rows else 'left', overflow='fold')
    for row in section.rows:
        table.add_row(*map(escape, row))
    show_titled(section.title, table)


def show_titled(title, table):
    """A table under its title, with an empty line behind it."""
    console = Console()
    console.print(title, style='bold cyan', markup=False, highlight=False)
    console.print(table, highlight=False)
    console.print()


def show_notes(notes):
    """Remarks, one line each, to stderr."""
    for text in notes:
        Console(stderr=True, emoji=False).print(
            f'Note: {text}', style='yellow', markup=False, highlight=False, soft_wrap=True
        )


def with_arrow(metric, higher_better):
    """A metric's name and the direction in which it gets better."""
    return f'{escape(metric)} [dim]{"↑" if higher_better else "↓"}[/]'
