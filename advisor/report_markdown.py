"""The report as GitHub Markdown, to paste into a README, an issue or a pull request."""

from __future__ import annotations

import re

from lora_advise.plan import Advice
from lora_advise.report_bars import bar
from lora_advise.report_memory import MemoryRow
from lora_advise.report_view import CONFIDENCE, view_of

_SPECIAL = re.compile(r"([\\`*_\[\]|~$])")
_BLOCK = re.compile(r"^(\s*)(#|[-+](?=\s)|\d+(?=[.)]\s))")


def render(advice: Advice, brief: bool = False) -> str:
    """The report as Markdown text: tables, folded reasons, nothing that a name or a path could turn into markup.

    ``brief`` stops after the settings.
    """
    from lora_advise.report_template import environment

    made = environment(autoescape=False)
    made.filters.update(md=escape, ids=ids, bar=_bar, fence=fence, place=place)
    text = made.get_template("report.md.j2").render(view=view_of(advice), confidence=CONFIDENCE, brief=brief)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, in a table cell too; a mention or a reference notifies nobody."""
    shown = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = _SPECIAL.sub(r"\\\1", " ".join(shown.split()))
    shown = _BLOCK.sub(lambda m: f"{m[1]}\\{m[2]}" if not m[2][0].isdigit() else f"{m[1]}{m[2]}&#8203;", shown)
    return re.sub(r"([@#])(?=\w)", r"\1<!-- -->", shown).replace("://", ":<!-- -->//")


def ids(sources: tuple[str, ...]) -> str:
    """Source ids in brackets, escaped so that they are no links."""
    return "".join(f" \\[{escape(name)}\\]" for name in sources)


def place(where: str) -> str:
    """Where a registered source is found: a link when it is an address."""
    return f"<{where}>" if re.fullmatch(r"https?://[^\s<>|]+", where) else escape(where)


def fence(text: str) -> str:
    """A code block that its content cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}sh\n{text}\n{ticks}"


def _bar(row: MemoryRow) -> str:
    return bar(row, 16)
