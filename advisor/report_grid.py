"""Borderless columns on a terminal: what a table of rich does, for the one layout that the reports need, and faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

GAP = 2
"""Empty terminal cells between two columns."""


class Grid:
    """Rows of text in columns of fixed widths (terminal cells); ``None`` is the column that takes what is left."""

    def __init__(self, *widths: int | None) -> None:
        self.widths = widths
        self.rows: list[tuple[Text, ...]] = []

    def add_row(self, *cells: Text) -> None:
        """Append a row; longer cells wrap within their column."""
        self.rows.append(cells)

    def lines(self, console: Console, total: int) -> list[Text]:
        """The rows as lines of at most ``total`` terminal cells."""
        fixed = sum(width for width in self.widths if width is not None)
        rest = max(1, total - fixed - GAP * (len(self.widths) - 1))
        widths = [rest if width is None else width for width in self.widths]
        return [line for row in self.rows for line in _line_up(row, widths, console)]


def wrapped(text: Text, width: int, console: Console) -> list[Text]:
    """The text in lines of at most ``width`` terminal cells; words that are longer are cut."""
    if "\n" not in text.plain and cell_len(text.plain) <= width:
        return [text]
    lines = list(text.wrap(console, width, overflow="fold"))
    for line in lines:
        line.rstrip()
    return lines


def _line_up(row: tuple[Text, ...], widths: list[int], console: Console) -> list[Text]:
    columns = [wrapped(cell, width, console) for cell, width in zip(row, widths, strict=True)]
    found = []
    for place in range(max(map(len, columns))):
        line = Text()
        start = used = 0
        for column, width in zip(columns, widths, strict=True):
            if place < len(column) and column[place].plain:
                line.append(" " * (start - used))
                line.append_text(column[place])
                used = start + column[place].cell_len
            start += width + GAP
        found.append(line)
    return found
