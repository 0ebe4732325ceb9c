"""``--fix``, ``--unsafe-fixes`` and ``--diff``: edits until nothing is left to mend, then the file is written whole."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from lora_advise.document import Document
from lora_advise.errors import LoraAdviseError
from lora_advise.lint_files import NoConfig
from lora_advise.lint_fix import MOST_PASSES, apply_edits
from lora_advise.lint_report import Edit, FileReport, LintReport

Judge = Callable[[Document], FileReport | NoConfig]
BOM = b"\xef\xbb\xbf"


def mend(report: LintReport, args: Namespace, judge: Judge) -> LintReport:
    """Apply the fixes that are asked for to every file, or print them as a diff; the report of what is left.

    Raises LoraAdviseError where a file cannot be written; files before it are complete.
    """
    left = []
    for file in report.files:
        mended, count = mended_file(file, judge, unsafe=args.unsafe_fixes)
        if mended.document.text == file.document.text:
            left.append(file)
        elif args.diff:
            print(diff(file.document, mended.document), end="")
            left.append(file)
        else:
            _write(file.document, mended.document.text)
            if file.document.name != "-":
                sys.stderr.write(f"{file.document.name}: {count} {'fix' if count == 1 else 'fixes'} made\n")
            left.append(mended)
        if file.document.name == "-" and not args.diff and mended.document.text == file.document.text:
            _write(file.document, file.document.text)
    return report._replace(files=tuple(left))


def mended_file(file: FileReport, judge: Judge, *, unsafe: bool) -> tuple[FileReport, int]:
    """The report after all fixes, each pass on the text that the one before left, and how many were made.

    A fix that leaves a text that cannot be read or has no config any more is not made.
    """
    passes = [(file, 0)]
    while len(passes) <= MOST_PASSES:
        file, made = passes[-1]
        edits, count = _wanted(file, unsafe=unsafe)
        text = apply_edits(file.document.text, edits)
        place = next((n for n, (before, _) in enumerate(passes) if before.document.text == text), None)
        if place is not None:
            return min(passes[place:], key=_left)
        after = _again(file.document, text, judge)
        if after is None:
            break
        passes.append((after, made + count))
    return passes[-1]


def _left(passed: tuple[FileReport, int]) -> tuple[list[int], str]:
    """What orders the texts among which two rules that disagree go to and fro, so that every run ends at the same one."""
    order = {"error": 0, "warning": 1, "note": 2}
    counts = [0, 0, 0]
    for found in passed[0].shown:
        counts[order[found.finding.severity.value]] += 1
    return counts, passed[0].document.text


def _again(document: Document, text: str, judge: Judge) -> FileReport | None:
    from lora_advise.document_read import read_document

    try:
        report = judge(read_document(document.name, text=text, format=document.format))
    except LoraAdviseError:
        return None
    return None if isinstance(report, NoConfig) else report


def _wanted(file: FileReport, *, unsafe: bool) -> tuple[list[Edit], int]:
    """Edits of this pass: those of one finding together, none that touches another's."""
    edits: list[Edit] = []
    count = 0
    for found in file.shown:
        fix = next((f for f in found.fixes if f.edits and (f.safe or unsafe)), None)
        if fix is not None and not any(_touch(a, b) for a in fix.edits for b in edits):
            edits += fix.edits
            count += 1
    return edits, count


def _touch(a: Edit, b: Edit) -> bool:
    return a.start <= b.end and b.start <= a.end


def diff(before: Document, after: Document) -> str:
    """The change as a unified diff."""
    import difflib

    name = before.name
    lines = difflib.unified_diff(
        before.text.splitlines(keepends=True), after.text.splitlines(keepends=True), f"a/{name}", f"b/{name}"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _write(document: Document, text: str) -> None:
    if document.name == "-":
        sys.stdout.write(text)
        return
    from lora_advise.atomic_file import write_text

    path = Path(document.name)
    with path.open("rb") as file:
        marked = file.read(3) == BOM
    write_text(path, "\ufeff" + text if marked else text)
