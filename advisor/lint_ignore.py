"""``--add-ignore``: a comment with the reason for every finding that is left, so that a team can start clean today."""

from __future__ import annotations

import sys
from pathlib import Path

from lora_advise.errors import LoraAdviseError
from lora_advise.lint_report import FileReport, LintReport

COMMENTED = ("yaml", "python", "shell")


def add_ignores(report: LintReport, reason: str) -> int:
    """Write a comment behind, or in a command above, every line with findings; returns 0.

    Raises LoraAdviseError for a reason that is empty or no single line, and for a format that has no comments.
    """
    if not reason.strip() or "\n" in reason or "\r" in reason:
        raise LoraAdviseError("--add-ignore needs a reason on one line: why these findings are accepted.")
    from lora_advise.atomic_file import write_text

    for file in report.files:
        if not file.shown:
            continue
        if file.document.format not in COMMENTED or file.document.name == "-":
            raise LoraAdviseError(
                f"{file.document.name}: a comment cannot be put into {file.document.format}; use per-file-ignores in "
                "lora-advise.toml."
            )
        text = with_comments(file, reason.strip())
        raw = Path(file.document.name).read_bytes()
        write_text(file.document.name, "\ufeff" + text if raw.startswith(b"\xef\xbb\xbf") else text)
        sys.stderr.write(f"{file.document.name}: {len(file.shown)} findings ignored\n")
    return 0


def with_comments(file: FileReport, reason: str) -> str:
    """The text with its comments."""
    by_line: dict[int, list[str]] = {}
    for found in file.shown:
        names = by_line.setdefault(found.line, [])
        if found.finding.rule not in names:
            names.append(found.finding.rule)
    lines = file.document.text.splitlines(keepends=True) or [""]
    continued = _continued(lines) if file.document.format == "shell" else set()
    for number in sorted(by_line, reverse=True):
        place = number - 1
        while place in continued:
            place -= 1
        comment = f"# lora-advise: ignore[{', '.join(by_line[number])}] {reason}"
        line = lines[place]
        body, ending = line.rstrip("\r\n"), line[len(line.rstrip("\r\n")) :]
        if file.document.format == "shell":
            lines.insert(place, f"# lora-advise: ignore-file[{', '.join(by_line[number])}] {reason}{ending or chr(10)}")
        elif "#" in body or body.rstrip().endswith((":", "|", ">", "\\", "(", "[", "{")):
            indent = body[: len(body) - len(body.lstrip())]
            lines.insert(place, f"{indent}{comment}{ending or chr(10)}")
        else:
            lines[place] = f"{body}  {comment}{ending}"
    return "".join(lines)


def _continued(lines: list[str]) -> set[int]:
    """Lines, from 0, that go on from the one before."""
    return {n + 1 for n, line in enumerate(lines) if line.rstrip("\r\n").endswith("\\")}
