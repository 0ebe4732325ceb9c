"""Writes docs/dialects.md: for each trainer the keys that are read, what counts where a file is silent, and renamed keys.

``python -m lora_advise.dialects_page > docs/dialects.md``
"""

from __future__ import annotations

import sys
from typing import Any

from lora_advise.dialect import Dialect
from lora_advise.dialects import dialect, names

_EFFECT = {"error": "refused", "ignored": "dropped without a word", "deprecated": "still taken"}


def page() -> str:
    """The whole page as Markdown."""
    lines = [
        "# Trainers and their keys",
        "",
        (
            "Written by `python -m lora_advise.dialects_page`. A fact is a field of `advisor/facts.py`; names without a dot are settings that "
            "only rules about files look at. Keys that a trainer has and that say nothing to the rules are known too, and not listed."
        ),
        "",
        "| `--dialect` | trainer | keys checked with | read | known | unknown keys |",
        "|---|---|---|---|---|---|",
    ]
    found = [dialect(name) for name in names()]
    for one in found:
        known = str(len(one.known)) if one.known else "not written down"
        unknown = "refused" if one.strict else "dropped without a word"
        lines.append(f"| {one.name} | {one.title} | {one.newest or '-'} | {len(one.lenses)} | {known} | {unknown} |")
    for one in found:
        lines += _section(one)
    return "\n".join(lines).rstrip() + "\n"


def _section(one: Dialect) -> list[str]:
    lines = [
        "",
        f"## {one.name}: {one.title}",
        "",
        "| key | means | kind | where the file is silent |",
        "|---|---|---|---|",
    ]
    for lens in one.lenses:
        former = f" (formerly {', '.join(f'`{key}`' for key in lens.former)})" if lens.former else ""
        lines.append(f"| `{lens.key}`{former} | {lens.name} | {lens.kind} | {_default(one, lens.name)} |")
    if one.renamed:
        lines += ["", "| renamed | to | since | the old name is |", "|---|---|---|---|"]
        for change in one.renamed:
            new = f"`{change.new}`" if change.new else "nothing"
            lines.append(f"| `{change.old}` | {new} | {change.library} {change.since} | {_EFFECT[change.effect]} |")
    return lines


def _default(one: Dialect, name: str) -> str:
    if name not in one.defaults:
        return ""
    value: Any = one.defaults[name]
    return "nothing" if value is None else f"`{value}`" if value not in ((), {}) else "none"


if __name__ == "__main__":
    sys.stdout.write(page())
