"""From a finding's changes to edits of the text: values are replaced where they stand, so comments and layout survive."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from typing import Any

from lora_advise.dialect import Lens
from lora_advise.document import Document, Entry, Span, Unresolved
from lora_advise.finding import Change, Finding, Rewrite
from lora_advise.finding import in_words as finding_words
from lora_advise.lint_report import Edit, Fix
from lora_advise.reading import Reading
from lora_advise.section import Section

MOST_PASSES = 10


def fixes_of(finding: Finding, reading: Reading, document: Document) -> tuple[Fix, ...]:
    """The ways to mend it in this file: its rewrites, its changes, and the other way out.

    One without edits is for a person to make: not all of its changes can be written here.
    """
    found = []
    if finding.rewrites:
        made = [_rewrite(rewrite, document) for rewrite in finding.rewrites]
        words = "; ".join(rewrite.words for rewrite in finding.rewrites)
        whole = tuple(edit for edit in made if edit is not None)
        found.append(Fix(words, whole if len(whole) == len(made) else (), all(r.safe for r in finding.rewrites)))
    for changes in (finding.changes, finding.instead):
        if changes:
            edits = _edits(changes, reading, document)
            words = "; ".join(_words(change, reading) for change in changes)
            found.append(Fix(words, edits or (), all(change.safe for change in changes)))
    return tuple(found)


def _rewrite(rewrite: Rewrite, document: Document) -> Edit | None:
    entry: Entry = rewrite.entry
    if rewrite.drop:
        return _dropped(entry, document)
    if rewrite.key is not None and entry.key is not None:
        return Edit(entry.key.start, entry.key.end, _same_dress(_text(document, entry.key), rewrite.key))
    if rewrite.key is None:
        return _replaced(entry, rewrite.value, document)
    return None


def _same_dress(old: str, new: str) -> str:
    """The new key in the old one's quotes or dashes."""
    bare = old.strip("'\"").lstrip("-")
    if old[:1] in "'\"":
        return f"{old[0]}{new}{old[-1]}"
    dashes = old[: len(old) - len(old.lstrip("-"))]
    joined = new.replace("_", "-") if "-" in bare and "_" not in bare else new
    return f"{dashes}{joined}"


def _edits(changes: Iterable[Change], reading: Reading, document: Document) -> tuple[Edit, ...] | None:
    """One edit for each change; None where one of them cannot be written here."""
    found = []
    for change in changes:
        edit = _edit(change, reading, document)
        if edit is None:
            return None
        found.append(edit)
    return tuple(found)


def _lens(change: Change, reading: Reading) -> Lens | None:
    """The key that a change is made at: that of the fact, or of the setting that a step of the dialect makes it from."""
    leaf = change.field.rpartition(".")[2]
    names = (change.field, leaf, _SPELLED.get(leaf, leaf))
    found = {lens.name: lens for lens in reading.dialect.lenses}
    return next((found[name] for name in names if name in found), None)


_SPELLED = {"activation_checkpointing": "gradient_checkpointing"}
"""Names of settings that differ from their facts'."""


def _words(change: Change, reading: Reading) -> str:
    """The change in the words of the file's own trainer."""
    lens = _lens(change, reading)
    if lens is None or isinstance(change.value, Section):
        return finding_words(change)
    value = lens.write(change.value) if lens.write else change.value
    shown = ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else value
    return f"{lens.key} = {str(shown).lower() if isinstance(value, bool) else shown}"


def _edit(change: Change, reading: Reading, document: Document) -> Edit | None:
    lens = _lens(change, reading)
    if lens is None or isinstance(change.value, Section):
        return None
    entry = reading.written.get(lens.name)
    value = lens.write(change.value) if lens.write else change.value
    if entry is not None:
        return None if isinstance(entry.value, Unresolved) else _replaced(entry, value, document)
    return _added(lens, value, reading, document)


def _replaced(entry: Entry, value: Any, document: Document) -> Edit | None:
    """The value in the old one's place and quotes; a name bound to a literal is changed where the literal stands."""
    span = entry.via or entry.span
    old = _text(document, span)
    if entry.key is not None and entry.span == entry.key:
        return None
    new = literal(value, document.format)
    if new is None:
        return None
    if old[:1] in ("'", '"') and isinstance(value, str) and document.format in ("yaml", "shell"):
        new = f"{old[0]}{value}{old[0]}" if old[0] not in value and "\\" not in value else new
    return Edit(span.start, span.end, _in_cell(new, document, span))


def literal(value: Any, format: str) -> str | None:
    """The value as that format writes it; None where it cannot."""
    if isinstance(value, (tuple, list)) and not all(isinstance(item, (str, int, float, bool)) for item in value):
        return None
    if format == "json":
        return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    if format in ("python", "notebook"):
        return repr(list(value) if isinstance(value, tuple) else value)
    if format == "shell":
        if isinstance(value, (tuple, list)):
            return " ".join(shlex.quote(str(item)) for item in value)
        return shlex.quote(str(value))
    from lora_advise.plan_yaml import scalar

    return scalar(value)


def _added(lens: Lens, value: Any, reading: Reading, document: Document) -> Edit | None:
    """A new setting after the last one of the same kind; only for plain keys."""
    new = literal(value, document.format)
    if new is None or "." in lens.key or not reading.config.entries:
        return None
    if document.format == "yaml":
        return _yaml_line(lens.key, new, reading, document)
    if document.format == "shell":
        last = max((e for e in reading.config.entries if len(e.path) == 1), key=lambda e: e.span.end, default=None)
        return None if last is None else Edit(last.span.end, last.span.end, f" --{lens.key} {new}")
    if document.format == "json":
        last = max((e for e in reading.config.entries if len(e.path) == 1), key=lambda e: e.span.end, default=None)
        return None if last is None else Edit(last.span.end, last.span.end, f', "{lens.key}": {new}')
    return None


def _yaml_line(key: str, new: str, reading: Reading, document: Document) -> Edit | None:
    """A line of its own after a top-level key with a value on one line, as that key is indented."""
    tops = [e for e in reading.config.entries if len(e.path) == 1 and e.key is not None and e.value is not None]
    plain = [e for e in tops if not isinstance(e.value, (tuple, dict)) and "\n" not in _text(document, e.span)]
    if not plain or "{" in document.text[: plain[0].key.start if plain[0].key else 0].strip():
        return None
    last = max(plain, key=lambda e: e.span.end)
    end = document.text.find("\n", last.span.end)
    newline = "\r\n" if "\r\n" in document.text else "\n"
    indent = " " * ((last.key.column if last.key else 1) - 1)
    if end < 0:
        return Edit(len(document.text), len(document.text), f"{newline}{indent}{key}: {new}")
    return Edit(end + 1, end + 1, f"{indent}{key}: {new}{newline}")


def _dropped(entry: Entry, document: Document) -> Edit | None:
    """The setting's whole line, where it has one for itself."""
    if entry.key is None or document.format != "yaml":
        return None
    text = document.text
    start = text.rfind("\n", 0, entry.key.start) + 1
    end = text.find("\n", entry.span.end)
    end = len(text) if end < 0 else end + 1
    if text[start : entry.key.start].strip() or text[entry.span.end : end].split("#")[0].strip(" ,\r\n"):
        return None
    return Edit(start, end, "")


def _text(document: Document, span: Span) -> str:
    return document.text[span.start : span.end]


def _in_cell(new: str, document: Document, span: Span) -> str:
    """Text for a notebook's cell stands inside a JSON string."""
    return json.dumps(new, ensure_ascii=False)[1:-1] if document.format == "notebook" and span.cell else new


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """The text with the edits made; of two that overlap the first counts, equal ones count once."""
    done: set[Edit] = set()
    end, parts = 0, list[str]()
    for edit in sorted(edits, key=lambda e: (e.start, e.end)):
        if edit in done or edit.start < end or (edit.start == edit.end and edit.start in {d.start for d in done}):
            continue
        parts += [text[end : edit.start], edit.text]
        end = edit.end
        done.add(edit)
    return "".join(parts) + text[end:]
