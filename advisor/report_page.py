"""A page of a terminal report: lines that fit its width, in characters that it can show."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from lora_advise.report_grid import Grid

PROSE = 112
"""Columns beyond which a paragraph is hard to read."""


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
