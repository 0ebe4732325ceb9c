"""The terminal report as one SVG image, 100 columns wide, for a README or a slide."""

from __future__ import annotations

import re

from lora_advise.plan import Advice
from lora_advise.report_words import plain

COLUMNS = 100


def render(advice: Advice, brief: bool = False) -> str:
    """The report as SVG text that loads nothing from outside. ``brief`` stops after the settings."""
    from html import escape
    from io import StringIO

    from rich._export_format import CONSOLE_SVG_FORMAT
    from rich.console import Console

    from lora_advise.report_text import print_report

    console = Console(
        file=StringIO(), width=COLUMNS, record=True, force_terminal=True, color_system="truecolor", legacy_windows=False
    )
    print_report(advice, console, brief=brief)
    model = advice.facts.model.name if advice.facts.model else "a model"
    title = plain(f"lora-advise: {model}")
    local = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    local = local.replace("font-family: Fira Code,", "font-family: DejaVu Sans Mono, Menlo, Consolas,")
    svg = console.export_svg(title=title[:80], code_format=local, unique_id="lora-advise")
    label = escape(title, quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
