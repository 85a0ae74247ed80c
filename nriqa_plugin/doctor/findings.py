"""What the doctor found, as plain text for any way of showing it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Section:
    """One table: a title, the names of the columns and rows of text."""

    title: str
    columns: tuple
    rows: list


@dataclass
class Findings:
    """Tables and remarks.

    Attributes:
        sections (list[Section]): in reading order.
        problems (list[str]): something that is installed does not import, or something in the file would fail.
        advice (list[str]): it works, but not as one may expect.
    """

    sections: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    advice: list = field(default_factory=list)

    def add(self, title, columns, rows):
        """Add a table."""
        self.sections.append(Section(title, tuple(columns), [tuple(map(str, row)) for row in rows]))


def reason_of(error):
    """An error in one line; the host's bare ``KeyError`` and ``AssertionError`` are told in words or by their kind."""
    if isinstance(error, KeyError):
        return f'the key {error} is missing'
    text = ' '.join(str(error).split())
    if text and isinstance(error, (ValueError, TypeError, ImportError, OSError)):
        return text
    return f'{type(error).__name__}: {text}' if text else type(error).__name__
