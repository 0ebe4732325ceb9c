"""A page of a terminal report: lines that fit its width, in characters that it can show; blocks that reports share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from lora_advise.report_bars import fill_of, stretches

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from lora_advise.report_grid import Grid
    from lora_advise.report_memory import MemoryRow, PartRow, WayRow

PROSE = 112
"""Columns beyond which a paragraph is hard to read."""
FITS = {"fits": "green", "tight": "yellow", "does not fit": "red"}
"""The colour of each verdict on memory."""
_COLOURS = ("cyan", "magenta", "blue", "yellow", "green", "bright_cyan", "bright_magenta", "bright_blue")


class Page:
    """A console with what this terminal can show: its width, its character set."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.encoding = "utf-8" if _is_memory(console) else (console.encoding or "ascii")
        self.unicode = self.encoding.lower().replace("-", "").startswith("utf")
        self.width = console.width
        self.prose = min(console.width, PROSE)
        self.lines: list[Text] = []

    def text(self, words: str, style: str = "") -> Text:
        """Text that is never read as markup, in characters that the terminal has."""
        from rich.text import Text

        shown = words if self.unicode else words.encode(self.encoding, "backslashreplace").decode(self.encoding)
        made = Text(overflow="fold")
        made.append(shown, style or None)
        return made

    def gap(self) -> None:
        """An empty line."""
        self.lines.append(self.text(""))

    def heading(self, words: str) -> None:
        """A block's title, underlined as far as its words go."""
        self.gap()
        self.put(self.text(words, "bold"))
        self.put(self.text(("─" if self.unicode else "-") * min(len(words), self.prose), "dim"))

    def put(self, block: Text | Grid, width: int | None = None) -> None:
        """Print one block within ``width`` columns."""
        from lora_advise.report_grid import Grid, wrapped

        most = min(width or self.prose, self.width)
        self.lines += block.lines(self.console, most) if isinstance(block, Grid) else wrapped(block, most, self.console)

    def print(self) -> None:
        """Print the blocks; in one go, because every call of the console costs as much as many lines."""
        from rich.text import Text

        self.console.print(Text("\n").join(self.lines), soft_wrap=True)

    def columns(self, *widths: int | None) -> Grid:
        """A borderless grid; ``None`` is the column that takes what is left and wraps."""
        from lora_advise.report_grid import Grid

        return Grid(*widths)

    def field(self, label: str, words: str, style: str = "") -> None:
        """A label and its value, aligned with the settings."""
        grid = self.columns(17, None)
        grid.add_row(self.text(label, "bold"), self.text(words, style))
        self.put(grid)


def _is_memory(console: Console) -> bool:
    from io import StringIO

    return isinstance(console.file, StringIO)


def memory_bar(page: Page, row: MemoryRow, width: int) -> Text:
    """The bar of one verdict in ``width`` cells, its parts in their colours."""
    cells = page.text("")
    for stretch in stretches(row, width, page.unicode):
        cells.append_text(page.text(stretch.cells, _cell_style(stretch.index)))
    return cells


def put_parts(page: Page, parts: Iterable[PartRow]) -> None:
    """The terms of a peak with their sizes; the fill is the one of the bar."""
    grid = page.columns(2, 19, 28, None)
    for part in parts:
        grid.add_row(
            page.text(fill_of(part.index, page.unicode) * 2, _cell_style(part.index)), page.text(part.size.rjust(18)),
            page.text(part.label), page.text(part.note, "dim"),
        )  # fmt: skip
    page.put(grid)


def put_ways(page: Page, ways: Iterable[WayRow]) -> None:
    """What lowers the memory, numbered."""
    grid = page.columns(3, None)
    for place, way in enumerate(ways, 1):
        enough = " Then it fits." if way.enough else ""
        grid.add_row(page.text(f"{place}."), page.text(f"{way.change}: saves {way.saves}; costs {way.costs}.{enough}"))
    page.put(grid)


def _cell_style(index: int) -> str:
    if index >= 0:
        return _COLOURS[index % len(_COLOURS)]
    return {-1: "white", -2: "dim", -3: "bold red"}[index]


def as_text(show: Callable[[Console], None], width: int = 100) -> str:
    """What ``show`` prints, as plain text of that many columns, for files."""
    from io import StringIO

    from rich.console import Console

    buffer = StringIO()
    show(Console(file=buffer, width=width, color_system=None, force_terminal=False, legacy_windows=False))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
