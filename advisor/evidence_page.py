"""Writes docs/evidence.md from the registries: ``python -m lora_advise.evidence_page > docs/evidence.md``."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.guide_statements import contradictions, guide_of, statements
from lora_advise.sources import Source, registry

_INTRO = """\
# Evidence

<!-- Written by `python -m lora_advise.evidence_page > docs/evidence.md` from advisor/data. -->

Every number that lora-advise shows cites one of the sources below by its id. What a source says is given in our words.
*Read* tells how far we went: **full** is the primary text, code or data; **part** is some sections of it; **summary**
is an abstract or somebody else's account, and weighs less."""

_KINDS = {
    "measured": "Measured by others", "paper": "Papers", "code": "Source code and recipes",
    "vendor": "Vendors' guides and data", "own": "Measured or derived here", "arithmetic": "Arithmetic",
    "convention": "Conventions", "seed": "The three guides",
}  # fmt: skip

_CONTRADICTIONS = """\
## Where sources contradict each other

Both sides are kept; the last column says what we do.

| topic | one side | the other | our reading | sources |
|---|---|---|---|---|"""

_GUIDES = """\
## Every statement of the three guides

Three guides in Chinese were the starting point. Each of their statements is judged once: *agree*, *refine* (right in
part), *disagree*, or *unsupported* (nothing shows it, or it is ascribed to a paper that does not say it).
`--compare-guides` reads the same statements for one plan."""


def page() -> str:
    """The whole page as markdown."""
    parts = [_INTRO, *_sources(), _contradictions(), _GUIDES, *_guides()]
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _cited(ids: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"[{name}](#{anchor(name)})" for name in ids)


def anchor(id: str) -> str:
    """The anchor of a source on the page: its id, which is written out so that it does not depend on the renderer."""
    return f"source-{id}"


def _sources() -> Iterator[str]:
    for kind, title in _KINDS.items():
        rows = [source for source in registry().values() if source.kind == kind]
        if rows:
            head = f"## {title}\n\n| id | what and where | what it says | read |\n|---|---|---|---|\n"
            yield head + "\n".join(_source_row(source) for source in rows)


def _source_row(source: Source) -> str:
    what = f"{_cell(source.title)}. {_cell(source.where)}"
    return f'| <a id="{anchor(source.id)}"></a>{source.id} | {what} | {_cell(source.says)} | {source.read} |'


def _contradictions() -> str:
    parts = ("topic", "one", "other", "reading")
    rows = (
        f"| {' | '.join(_cell(row[part]) for part in parts)} | {_cited(row['sources'])} |" for row in contradictions()
    )
    return "\n".join([_CONTRADICTIONS, *rows])


def _guides() -> Iterator[str]:
    names = dict.fromkeys(guide_of(number) for number in statements())
    for name in names:
        rows = [row for row in statements().values() if guide_of(row.id) == name]
        counts = ", ".join(
            f"{sum(row.verdict == v for row in rows)} {v}" for v in ("agree", "refine", "disagree", "unsupported")
        )
        lines = [f"### {name[0].upper()}{name[1:]}", "", f"{len(rows)} statements: {counts}.", ""]
        lines += ["| # | concerns | the guide says | verdict | because | sources |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {row.id} | `{row.topic}` | {_cell(row.says)} | {row.verdict} | {_cell(row.reason)} "
            f"| {_cited(row.sources)} |"
            for row in rows
        ]
        yield "\n".join(lines)


if __name__ == "__main__":
    import sys

    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # stdout is a text stream when run as a program
    sys.stdout.write(page())
