"""Tables of other people: which of their columns hold what, written in one line.

``left={left}/{image},right={right}/{image},chosen={chosen}`` says that the field ``left`` is the cell of the column
``left``, a slash and the cell of the column ``image``. A value without braces is the name of a column. Columns that are
named by numbers from 0, as in ``{0}``, say that the table has no header.
"""

import csv
import io
import re
from dataclasses import dataclass

from nriqa_plugin.checks import check_file, unknown_name

PLACE = re.compile(r'\{([^{}]+)\}')


@dataclass(frozen=True)
class Entry:
    """One row of a table.

    Attributes:
        where (str): file and line, for messages.
        fields (dict[str, str]): what was asked for.
        cells (dict[str, tuple[str, ...]]): by field the cells that went into it.
    """

    where: str
    fields: dict
    cells: dict


def parse_columns(text, allowed, option='--columns'):
    """Split ``field=template,field=template`` into a dict; a comma in a template is kept unless ``word=`` follows it.

    Raises:
        ValueError: a field that is not in ``allowed``, has no template or is given twice.
    """
    found = {}
    for part in re.split(r',(?=\s*\w+=)', text):
        field, _, template = (piece.strip() for piece in part.partition('='))
        if field not in allowed:
            raise unknown_name(f'field of {option}:', field, allowed)
        if not template:
            raise ValueError(f'{option}: the field {field!r} has no value')
        if field in found:
            raise ValueError(f'{option}: the field {field!r} is given twice')
        found[field] = template
    return found


def read_entries(what, path, templates):
    """The rows of a CSV file (tab-separated if it is called .tsv), each as the fields of ``templates``.

    Args:
        what (str): how errors call the file.
        templates (dict[str, str]): by field a template or the name of a column.

    Returns:
        list[Entry]: empty lines are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no CSV file, an empty one, a column that is not there, or a row of another length.
    """
    templates = {field: text if PLACE.search(text) else '{' + text + '}' for field, text in templates.items()}
    wanted = {field: PLACE.findall(text) for field, text in templates.items()}
    rows = _rows(what, path)
    names = sorted({name for of_field in wanted.values() for name in of_field})
    if rows and all(re.fullmatch(r'\d+', name) for name in names):
        header = [str(number) for number in range(len(rows[0][1]))]
    else:
        header = [name.strip() for name in rows.pop(0)[1]] if rows else []
    if not rows:
        raise ValueError(f'{what}: {path} holds no rows')
    for name in names:
        if name not in header:
            raise unknown_name(f'column of {path}:', name, header)
        if header.count(name) > 1:
            raise ValueError(f'{what}: {path} has two columns called {name!r}')
    entries = []
    for number, row in rows:
        where = f'{path}, line {number}'
        if len(row) != len(header):
            raise ValueError(f'{where}: {len(row)} values for {len(header)} columns')
        values = dict(zip(header, (cell.strip() for cell in row), strict=True))
        fields = {field: PLACE.sub(lambda place: values[place[1]], text) for field, text in templates.items()}  # noqa: B023
        cells = {field: tuple(values[name] for name in of_field) for field, of_field in wanted.items()}
        entries.append(Entry(where, fields, cells))
    return entries


def read_header(what, path):
    """The names of a table's columns, read as if it had a header."""
    return [name.strip() for name in next(iter(_rows(what, path)), (0, []))[1]]


def number_in(entry, field):
    """A field as a finite or infinite number.

    Raises:
        ValueError: it is empty, no number, or NaN.
    """
    text = entry.fields[field]
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f'{entry.where}: {field} is no number: {text!r}') from None
    if value != value:
        raise ValueError(f'{entry.where}: {field} is NaN')
    return value


def _rows(what, path):
    """``(line, cells)`` of every line that is not empty; a spreadsheet's byte order mark is left out."""
    file = check_file(what, path)
    try:
        text = file.read_bytes().decode('utf-8-sig')
        reader = csv.reader(
            io.StringIO(text, newline=''), delimiter='\t' if file.suffix == '.tsv' else ',', strict=True
        )
        return [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f'{what}: {path} is not a CSV file: {error}') from error
