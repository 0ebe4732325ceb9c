"""Where findings are: lines and columns of both ends, paths that a repository's tools take, fingerprints."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import NamedTuple

from lora_advise.document import Document, Span
from lora_advise.lint_report import FileReport, Located
from lora_advise.report_words import restored

_LONG = 300
"""Characters of a line from which on its marked part alone is compared: minified files have one line."""


class Region(NamedTuple):
    """A stretch of text by lines and columns from 1, in characters; the end is exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


def region(document: Document, span: Span) -> Region:
    """Both ends of a span."""
    text, end = document.text, max(span.start, span.end)
    last = text.rfind("\n", 0, end) + 1
    return Region(span.line, span.column, span.line + text.count("\n", span.start, end), end - last + 1)


def line_at(text: str, offset: int) -> tuple[int, int]:
    """Where the line of that offset starts and ends, without its line break."""
    start = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    end = len(text) if end < 0 else end
    return start, end - 1 if end > start and text[end - 1] == "\r" else end


def path_of(name: str) -> str:
    """A file's name for tools that read a repository: with slashes, seen from the current folder where it lies in it."""
    path = PurePath(restored(name))
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return path.as_posix()


def uri_of(name: str) -> str:
    """The name as a URI reference, percent-encoded: relative, or of the scheme file for a place outside."""
    from urllib.parse import quote

    path = path_of(name)
    encoded = quote(path, safe="/", errors="replace")
    return f"file://{'' if path.startswith('/') else '/'}{encoded}" if PurePath(path).is_absolute() else encoded


def fingerprints(file: FileReport) -> tuple[str, ...]:
    """One for each finding of the file, unlike all others of it, the same wherever its line moves.

    Made of the path, the rule, its fields and the words of the line; equal ones are numbered.
    """
    from hashlib import sha256

    seen: dict[str, int] = {}
    made = []
    for found in file.findings:
        parts = (
            path_of(file.document.name),
            found.finding.code,
            *found.finding.fields,
            _words_at(file.document, found),
        )
        key = "\0".join(parts)
        seen[key] = seen.get(key, 0) + 1
        made.append(sha256(f"{key}\0{seen[key]}".encode("utf-8", "replace")).hexdigest()[:32])
    return tuple(made)


def _words_at(document: Document, found: Located) -> str:
    if not found.marks:
        return ""
    span = found.marks[0].span
    start, end = line_at(document.text, span.start)
    if end - start > _LONG:
        start, end = span.start, min(span.end, span.start + _LONG)
    return " ".join(document.text[start:end].split())
