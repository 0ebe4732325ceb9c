"""The report as one HTML file that loads nothing, and as a fragment for notebooks."""

from __future__ import annotations

from lora_advise.plan import Advice
from lora_advise.report_template import environment, resource
from lora_advise.report_view import CONFIDENCE, view_of


def render(advice: Advice, brief: bool = False) -> str:
    """A complete page: light and dark, narrow and wide, fit to print. ``brief`` stops after the settings."""
    return _filled("report.html.j2", advice, brief)


def fragment(advice: Advice) -> str:
    """The report with its own scoped styles, to stand inside a notebook or another page."""
    return _filled("report_fragment.html.j2", advice)


def _filled(template: str, advice: Advice, brief: bool = False) -> str:
    made = environment(autoescape=True)
    made.filters.update(share=_share, address=_address)
    style = resource("report.css")
    return made.get_template(template).render(view=view_of(advice), confidence=CONFIDENCE, style=style, brief=brief)


def _share(value: float) -> str:
    """A share of a bar as a CSS percentage; a sliver stays visible."""
    return f"{max(0.4, min(100.0, 100 * value)):.2f}%"


def _address(where: str) -> str:
    """The link of a source, empty when it has none."""
    return where if where.startswith(("https://", "http://")) and " " not in where else ""
