"""The memory forecast as one SVG picture: bars against the device, and the figures beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from lora_advise.memory_report import MemoryReport
from lora_advise.report_forecast_chart import Bar, Chart, Key, chart_of
from lora_advise.report_template import resource
from lora_advise.report_words import capital, plain

WIDTH, LEFT, RIGHT, MARGIN = 960, 150, 270, 24
"""Pixels: the picture, the names left of the bars, the figures right of them, the edge."""
ROW, BAR_HEIGHT, HEAD, KEY_ROW = 30, 18, 96, 20
PLOT = WIDTH - LEFT - RIGHT - MARGIN
_STYLE = """
.la-chart{%(light)s;font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif}
@media(prefers-color-scheme:dark){.la-chart{%(dark)s}}
.la-chart text{fill:var(--la-ink)} .la-chart .dim{fill:var(--la-dim)} .la-chart .small{font-size:11.5px}
.la-chart .title{font-size:18px;font-weight:650} .la-chart .own{font-weight:650} .la-chart .end{text-anchor:end}
.la-chart .mid{text-anchor:middle} .la-chart .paper{fill:var(--la-bg)} .la-chart .track{fill:var(--la-soft)}
.la-chart .grid{stroke:var(--la-line)} .la-chart .edge{stroke:var(--la-bad);stroke-width:1.5;stroke-dasharray:5 3}
.la-chart .edge-name{fill:var(--la-bad)} .la-chart .hatch{stroke:var(--la-cx);stroke-width:3}
.la-chart .band{fill:none;stroke:var(--la-cx)} .la-chart .fits{fill:var(--la-good)} .la-chart .tight{fill:var(--la-warn)}
.la-chart .does-not-fit{fill:var(--la-bad)}
"""


def render(report: MemoryReport) -> str:
    """The picture as SVG text: loads nothing, follows the light or dark of where it is shown."""
    return draw(report, whole=True)


def draw(report: MemoryReport, *, whole: bool) -> str:
    """The chart. ``whole`` adds title, verdict and background, which a page around it has of its own."""
    chart = chart_of(report)
    top = HEAD if whole else 34
    bottom = top + ROW * len(chart.bars)
    height = bottom + 44 + KEY_ROW * (len(chart.keys) + 1) + 16
    title, described = f"Memory forecast for {chart.device}", _description(report, chart)
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="la-chart" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
            f'height="{height}" role="img" aria-labelledby="la-title la-desc">'
        ),
        f'<title id="la-title">{_safe(title)}</title><desc id="la-desc">{_safe(described)}</desc>',
        f"<style>{_style()}</style>",
        (
            '<defs><pattern id="la-hatch" width="6" height="6" patternTransform="rotate(45)" patternUnits="userSpaceOnUse">'
            '<path class="hatch" d="M0 0V6"/></pattern></defs>'
        ),
        *(_head(report, height) if whole else ()),
        *_axis(chart, top, bottom),
        *(line for place, bar in enumerate(chart.bars) for line in _row(bar, chart, top + ROW * place)),
        *_edge(chart, top, bottom),
        *_legend(chart, bottom + 44),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _safe(text: str) -> str:
    return escape(plain(text), quote=True)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _style() -> str:
    """The colours of the reports' style sheet, so that there is one set of them."""
    css = resource("report.css")
    light, dark = css.split("@media screen and (prefers-color-scheme: dark)", 1)

    def colours(text: str) -> str:
        return ";".join(f"{name}:{value}" for name, value in re.findall(r"(--la-[a-z0-9-]+): (#[0-9a-f]{3,6});", text))

    dark = dark.split("}", 1)[0]
    fills = " ".join(f".la-chart .p{n}{{fill:var(--la-c{n})}}" for n in range(8))
    return (_STYLE % {"light": colours(light), "dark": colours(dark)}).strip() + "\n" + fills


def _description(report: MemoryReport, chart: Chart) -> str:
    """What the picture shows, for those who do not see it."""
    rows = "; ".join(f"{bar.label} {bar.device} GiB, {bar.fit}" for bar in chart.bars)
    return f"{capital(report.verdict.fit)}: {report.verdict.needs}. What {chart.shown} will show: {rows}."


def _head(report: MemoryReport, height: int) -> Iterator[str]:
    verdict = report.verdict
    yield f'<rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>'
    yield f'<text class="title" x="{MARGIN}" y="36">Memory forecast</text>'
    kind = verdict.fit.replace(" ", "-")
    words = f'<tspan class="own {kind}">{capital(verdict.fit)}.</tspan> {_safe(_short(capital(verdict.needs), 118))}.'
    yield f'<text x="{MARGIN}" y="58">{words}</text>'


def _x(size: float, chart: Chart) -> float:
    return LEFT + PLOT * min(size, chart.top) / chart.top


def _axis(chart: Chart, top: int, bottom: int) -> Iterator[str]:
    for tick in chart.ticks:
        x = _x(tick, chart)
        yield f'<path class="grid" d="M{x:.1f} {top - 4}V{bottom + 2}"/>'
        yield f'<text class="dim small mid" x="{x:.1f}" y="{bottom + 17}">{tick:g}</text>'
    yield f'<text class="dim small end" x="{LEFT - 10}" y="{bottom + 17}">GiB</text>'
    for x, words in zip(_columns(), ("tensors", chart.shown, "verdict"), strict=True):
        end = " end" if words != "verdict" else ""
        yield f'<text class="dim small{end}" x="{x}" y="{top - 10}">{words}</text>'


def _columns() -> tuple[int, int, int]:
    return WIDTH - RIGHT + 28, WIDTH - RIGHT + 140, WIDTH - RIGHT + 156


def _row(bar: Bar, chart: Chart, y: int) -> Iterator[str]:
    base, inner = y + 19, y + (ROW - BAR_HEIGHT) // 2
    own = ' class="own"' if bar.chosen else ""
    yield f'<text{own} x="{MARGIN}" y="{base}">{_safe(_short(bar.label, 18))}</text>'
    yield f'<rect class="track" x="{LEFT}" y="{inner}" width="{PLOT}" height="{BAR_HEIGHT}"/>'
    end = 0.0
    for part in bar.parts:
        end = part.start + part.size
        x, width = _x(part.start, chart), _x(end, chart) - _x(part.start, chart)
        tip = f"<title>{_safe(part.label)}: {part.size:.2f} GiB</title>"
        yield f'<rect class="p{part.colour}" x="{x:.2f}" y="{inner}" width="{width:.2f}" height="{BAR_HEIGHT}">{tip}</rect>'
    for start, stop, look in ((end, bar.low, 'fill="url(#la-hatch)"'), (bar.low, bar.high, 'class="band"')):
        if stop > start:
            x, width = _x(start, chart), _x(stop, chart) - _x(start, chart)
            tip = f"<title>{chart.beyond}: {bar.low:.1f} to {bar.high:.1f} GiB in all</title>"
            yield f'<rect {look} x="{x:.2f}" y="{inner + 0.5}" width="{width:.2f}" height="{BAR_HEIGHT - 1}">{tip}</rect>'
    for x, words in zip(_columns()[:2], (bar.tensors, bar.device), strict=True):
        yield f'<text class="end" x="{x}" y="{base}">{_safe(words)}</text>'
    yield f'<text class="{bar.fit.replace(" ", "-")}" x="{_columns()[2]}" y="{base}">{bar.fit}</text>'


def _edge(chart: Chart, top: int, bottom: int) -> Iterator[str]:
    x = _x(chart.capacity, chart)
    yield f'<path class="edge" d="M{x:.1f} {top - 6}V{bottom + 2}"/>'
    name = _safe(_short(f"{chart.device}: {chart.capacity:.4g} GiB", 48))
    side = "end" if x > LEFT + PLOT / 2 else "start"
    yield f'<text class="edge-name small" text-anchor="{side}" x="{x:.1f}" y="{top - 10}">{name}</text>'


def _legend(chart: Chart, y: int) -> Iterator[str]:
    beyond = f"up to the least that {chart.shown} will show; the outline ends at the most"
    rows = [*((f'class="p{key.colour}"', key) for key in chart.keys),
            ('fill="url(#la-hatch)"', Key(-1, chart.beyond, "", beyond))]  # fmt: skip
    for place, (look, key) in enumerate(rows):
        base = y + KEY_ROW * place
        yield f'<rect {look} x="{MARGIN}" y="{base - 10}" width="12" height="12" rx="2"/>'
        yield f'<text x="{MARGIN + 20}" y="{base}">{_safe(_short(key.label, 40))}</text>'
        yield f'<text class="end" x="{LEFT + 236}" y="{base}">{_safe(key.size)}</text>'
        yield f'<text class="dim small" x="{LEFT + 254}" y="{base}">{_safe(_short(key.note, 88))}</text>'
