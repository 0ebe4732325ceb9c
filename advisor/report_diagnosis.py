"""A diagnosis on the terminal: the verdict, what was seen, what to change first, what to log next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_advise.prescribe import Proposal

if TYPE_CHECKING:
    from rich.console import Console

    from lora_advise.diagnosis import Diagnosis

_COLOUR = {"healthy": "green", "unstable": "red", "overfit": "yellow", "underfit": "yellow", "cannot tell": "cyan"}
_MARK = {"error": "red", "warning": "yellow", "note": "dim"}


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print every part that the diagnosis has, as plain text that the console only colours."""
    from rich.text import Text

    def line(*parts: tuple[str, str] | str) -> None:
        console.print(Text.assemble(*((_plain(p), "") if isinstance(p, str) else (_plain(p[0]), p[1]) for p in parts)))

    line((diagnosis.summary, f"bold {_COLOUR[diagnosis.verdict]}"))
    line((f"Confidence: {diagnosis.confidence}. Read: {'; '.join(diagnosis.evidence) or 'nothing'}.", "dim"))
    if diagnosis.findings:
        line("")
        line(("Findings", "bold"))
    for found in diagnosis.findings:
        where = f" (from step {found.step})" if found.step is not None else ""
        line("  ", (found.severity, _MARK[found.severity]), f" {found.code} {found.rule}{where}: {found.message} ",
             (f"[{found.confidence}: {', '.join(found.sources)}]", "dim"))  # fmt: skip
    if diagnosis.changes:
        line("")
        line(("Change one thing per rerun, in this order", "bold"))
    for number, change in enumerate(diagnosis.changes, 1):
        line(f"  {number}. ", *_words(change))
    if diagnosis.log_next:
        line("")
        line(("Log next time", "bold"))
    for sentence in diagnosis.log_next:
        line(f"  - {sentence}")


def _words(change: Proposal) -> tuple[tuple[str, str] | str, ...]:
    return (change.action, " ", change.because, " ", (f"[{', '.join(change.sources)}]", "dim"))


def _plain(text: str) -> str:
    """Without control characters: a log is somebody else's file, and a terminal obeys them."""
    return "".join(ch if ch.isprintable() else " " for ch in text)
