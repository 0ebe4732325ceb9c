"""Every format of a lint report, by name; a format's module is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lora_advise.errors import LoraAdviseError
from lora_advise.lint_report import LintReport

if TYPE_CHECKING:
    from rich.console import Console

FORMATS: tuple[str, ...] = ("text", "concise", "json", "sarif", "github", "gitlab", "junit", "markdown")
"""What ``--format`` takes."""
_COUNTED = ("text", "concise", "json")


def render(report: LintReport, format: str, *, statistics: bool = False, terminal: Console | None = None) -> str:
    """The report in that format; ``terminal`` gives text its width, characters and colours.

    ``statistics`` counts the findings of each rule instead of showing them; JSON holds both anyway. Raises
    LoraAdviseError for a format that there is not, or that cannot be counted.
    """
    if format not in FORMATS:
        raise LoraAdviseError(f"--format {format[:40]!r}: there is no such format; take one of {', '.join(FORMATS)}.")
    if statistics and format not in _COUNTED:
        raise LoraAdviseError(f"--statistics: {format} has no place for counts; take --format text, concise or json.")
    name = "statistics" if statistics and format != "json" else format
    module = import_module(f"lora_advise.lint_{name}")
    text: str = module.render(report, terminal) if name == "text" else module.render(report)
    return _fitting(text, terminal)


def _fitting(text: str, terminal: Console | None) -> str:
    """The text in characters that the terminal has."""
    encoding = terminal.encoding if terminal is not None else "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
