"""Where offsets of a text lie: lines and columns without counting from the start each time, and errors that name them."""

from __future__ import annotations

import re
from bisect import bisect_right

from lora_advise.document import Span
from lora_advise.errors import LoraAdviseError
from lora_advise.report_words import plain


class Places:
    """A document's text and the offsets at which its lines begin."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def at(self, offset: int) -> tuple[int, int]:
        """Line and column of that offset, from 1."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def span(self, start: int, end: int) -> Span:
        """What :func:`lora_advise.document.span_at` gives, in the time of a search among the lines."""
        return Span(start, end, *self.at(start))

    def line_of(self, offset: int) -> str:
        """The text of the line in which that offset lies, up to it."""
        return self.text[self._starts[self.at(offset)[0] - 1] : offset]

    def error(self, offset: int, said: str) -> LoraAdviseError:
        """An error that names the document, the place and what is said; ``said`` ends without a full stop."""
        line, column = self.at(min(offset, len(self.text)))
        return LoraAdviseError(f"{plain(self.name)[:200]} line {line}, column {column}: {said}.")
