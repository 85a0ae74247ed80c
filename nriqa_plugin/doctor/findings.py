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
