"""Writes docs/rules.md from the rules themselves: ``python -m lora_advise.rules_page > docs/rules.md``."""

from __future__ import annotations

import re
import sys
from textwrap import dedent

from lora_advise.rule import Rule

HEADINGS = ("Why", "Example", "Instead", "Evidence", "Known problems")
"""What every rule explains, in this order."""
FAMILIES = {
    "LRS": "Learning rate and scale",
    "RNK": "Rank and dropout",
    "TGT": "Targets and trained modules",
    "QNT": "Quantization and precision",
    "MEM": "Memory, devices and batch",
    "DAT": "Data",
    "SCH": "Schedule, evaluation and checkpoints",
    "PRF": "Preference optimization and reinforcement learning",
    "VAR": "Variants",
    "SRV": "Serving",
    "KEY": "Keys and values of a file",
    "DST": "Several devices",
    "TPL": "Templates, tokens and masks",
    "SAF": "Safety",
    "SUP": "Comments that silence rules",
}
"""Families of codes, in the order of their numbers."""


PREFACE = """# Rules

{count} rules judge a configuration before it runs. This page is written by `python -m lora_advise.rules_page`, and
every example on it is a test. Examples change only the facts that they name in one documented run: Llama-3.1-8B, chat,
LoRA with r 16 and alpha 32 at 3e-4, 10,000 examples, one 48 GB GPU (`lora_advise.example_facts`).

`error`: the run fails, a setting is lost, or practically every measured run failed. `fact`: provable from source code
or arithmetic. `measured`: a table or paper shows it. `convention`: common practice, hidden unless it is asked for.
"""


def sections(rule: Rule) -> dict[str, str]:
    """The parts of a rule's documentation by heading."""
    parts = re.split(rf"^({'|'.join(HEADINGS)}):[ \n]", rule.documentation, flags=re.MULTILINE)
    return {heading: _dedented(text) for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


def _dedented(text: str) -> str:
    """Text of a section without the indentation of its continuation lines."""
    first, _, rest = text.partition("\n")
    return dedent(text).strip() if first.startswith(" ") or not first.strip() else f"{first}\n{dedent(rest)}".strip()


def page(rules: tuple[Rule, ...]) -> str:
    """The whole page as markdown."""
    lines = [PREFACE.format(count=len(rules))]
    for family, title in FAMILIES.items():
        chosen = [rule for rule in rules if rule.code.startswith(family)]
        lines += [f"## {family}: {title}", "", "| code | rule | severity | confidence | |", "|---|---|---|---|---|"]
        lines += [
            f"| {r.code} | [{r.name}](#{r.name}) | {r.severity.value} | {r.confidence.value} | {r.summary} |"
            for r in chosen
        ]
        lines.append("")
        for rule in chosen:
            lines += _entry(rule)
    return "\n".join(lines).rstrip() + "\n"


def _entry(rule: Rule) -> list[str]:
    parts = sections(rule)
    prose = {heading: " ".join(text.split()) for heading, text in parts.items()}
    return [
        f"### {rule.name}",
        "",
        f"`{rule.code}`, {rule.severity.value}, {rule.confidence.value}. {rule.summary}",
        "",
        f"Why: {prose['Why']}",
        "",
        "Fires:",
        "",
        "```yaml",
        parts["Example"],
        "```",
        "",
        "Clean:",
        "",
        "```yaml",
        parts["Instead"],
        "```",
        "",
        f"Evidence: {prose['Evidence']} Sources: {', '.join(f'`{s}`' for s in rule.sources)}.",
        "",
        f"Known problems: {prose['Known problems']}",
        "",
    ]


def main() -> None:
    """Print the page."""
    from lora_advise.rules import RULES

    sys.stdout.write(page(RULES))


if __name__ == "__main__":
    main()
