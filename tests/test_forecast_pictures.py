"""`lora-advise memory --format svg` and `html`: well-formed, true to the figures, safe with foreign names."""

from __future__ import annotations

import contextlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lora_advise.cli import main
from lora_advise.memory_report import forecast
from lora_advise.memory_ways_out import apply
from lora_advise.plan_file import read_plan
from lora_advise.report_forecast_chart import COLOURS, chart_of

SVG = "{http://www.w3.org/2000/svg}"
QUESTION = ("--model", "8B", "--method", "qlora", "--gpu", "RTX4090")
SWEEP = ("--grid", "seq=1024,4096", "batch=1,8", "r=8,64")
VOID = {"meta", "br", "link", "img", "input", "hr"}


def memory(*words: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["memory", *words]) in (0, 1)
    return out.getvalue()


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory):
    plan = str(tmp_path_factory.mktemp("plans") / "plan.yaml")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main([*QUESTION, "--task", "chat", "--emit", plan]) == 0
    return read_plan(Path(plan)).facts


class Balanced(HTMLParser):
    """Checks that every tag is closed in order, and gathers the texts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read_page(text: str) -> Balanced:
    page = Balanced()
    page.feed(text)
    assert page.open == []
    assert "script" not in page.seen
    return page


def classes(element: ElementTree.Element) -> list[str]:
    return element.get("class", "").split()


@pytest.mark.parametrize(
    "words",
    [
        QUESTION,
        ("--model", "70B", "--gpu", "RTX4090", "--method", "lora"),
        ("--model", "8B", "--task", "dpo", "--gpu", "cpu"),
        ("--model", "32B", "--gpus", "8xH100"),
        ("--model", "roberta-base", "--task", "classification", "--gpu", "8GB"),
    ],
)
def test_the_bars_are_the_figures_of_the_json(words: tuple[str, ...]) -> None:
    report = json.loads(memory(*words, "--format", "json"))
    picture = ElementTree.fromstring(memory(*words, "--format", "svg"))
    edge = next(e for e in picture.iter(f"{SVG}path") if "edge" in classes(e))
    track = next(e for e in picture.iter(f"{SVG}rect") if "track" in classes(e))
    left, width = float(track.get("x")), float(track.get("width"))
    scale = (float(re.match(r"M([\d.]+)", edge.get("d"))[1]) - left) / report["verdict"]["memory_gib"]
    rows = [report["verdict"], *report["stacks"]]
    tracks = [e for e in picture.iter(f"{SVG}rect") if "track" in classes(e)]
    assert len(tracks) == max(1, len(report["stacks"]))
    stretches: dict[str, float] = {}
    for bar in picture.iter(f"{SVG}rect"):
        if any(re.fullmatch(r"p\d", name) for name in classes(bar)) and bar.get("height") == track.get("height"):
            stretches[bar.get("y")] = stretches.get(bar.get("y"), 0) + float(bar.get("width"))
            assert float(bar.get("x")) + float(bar.get("width")) <= left + width + 0.1
    drawn = sorted(size / scale for size in stretches.values())
    told = {round(row["estimate"]["allocated"] / 2**30, 6) for row in rows}
    assert len(drawn) == len(tracks)
    for size in drawn:
        assert any(size == pytest.approx(known, rel=0.01, abs=0.05) for known in told)
    text = " ".join("".join(e.itertext()) for e in picture.iter(f"{SVG}text"))
    assert f"{rows[0]['estimate']['device'][1] / 2**30:.1f}"[:4] in text
    assert rows[0]["fit"] in text.lower()
    if words[-1] == "cpu":
        assert "nvidia" not in text
        assert "CUDA" not in text


@pytest.mark.parametrize("form", ["svg", "html"])
def test_nothing_is_loaded_and_both_lights_are_there(form: str) -> None:
    text = memory(*QUESTION, "--format", form)
    assert not re.search(r"""(?:src|href)\s*=|@import|url\((?!#)""", text)
    assert "prefers-color-scheme" in text.replace(" ", "")
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", '"><img src=x onerror=y>', "a&b\x1b[31m\u202ex", "{{ 7 * 7 }}"]
)
def test_foreign_names_stay_text(facts, hostile: str) -> None:
    from lora_advise.report_forecast_html import render as page_of
    from lora_advise.report_forecast_svg import render as picture_of

    there = apply(facts, {
        "hardware.name": hostile, "stack.framework": hostile, "model.name": hostile, "stack.versions": {hostile: hostile},
    })  # fmt: skip
    report = forecast(there, {"r": (8, 16)}, assumed=(hostile,))
    picture, page = picture_of(report), page_of(report)
    assert "<script" not in picture + page
    assert "<img" not in picture + page
    assert not re.search("[\x1b\u202e]", picture + page)
    assert "49" not in "".join(ElementTree.fromstring(picture).itertext()).split("{{", 1)[-1][:12]
    text = "".join(read_page(page).texts)
    assert hostile.split("\x1b", 1)[0] in text


def test_a_page_holds_the_chart_the_tables_and_the_sweep() -> None:
    words = (*QUESTION, *SWEEP)
    report, text = json.loads(memory(*words, "--format", "json")), memory(*words, "--format", "html")
    page = read_page(text)
    told = "".join(page.texts)
    assert {"svg", "table", "dl"} <= page.seen
    for row in report["stacks"]:
        for clause in row["differs"]:
            assert clause in told
    cells = re.findall(r'<td class="la-([a-z-]+)" style="--heat:(\d+)" title="([^"]+)">([\d.]+)( [~!])?</td>', text)
    assert len(cells) == len(report["grid"]) == 8
    marks = {"fits": "", "tight": " ~", "does-not-fit": " !"}
    for (fit, heat, title, size, mark), cell in zip(cells, report["grid"], strict=True):
        assert fit == cell["fit"].replace(" ", "-")
        assert mark == marks[fit]
        high = cell["device"][1] / 2**30
        assert float(size) == pytest.approx(high, abs=0.06)
        assert int(heat) == min(100, round(100 * high / report["verdict"]["memory_gib"]))
        assert title.startswith(cell["fit"])


def test_eight_colours_are_enough(facts) -> None:
    for framework in ("trl", "transformers", "torchtune"):
        for method in ("fsdp", "none"):
            chart = chart_of(forecast(apply(facts, {"stack.framework": framework, "stack.sharding": method})))
            assert {part.colour for bar in chart.bars for part in bar.parts} <= set(range(COLOURS))
            assert [key.colour for key in chart.keys] == sorted({key.colour for key in chart.keys})
            assert chart.bars[0].chosen
            assert sum(bar.chosen for bar in chart.bars) == 1
            assert all(bar.high <= chart.top for bar in chart.bars)
            assert chart.ticks[0] == 0
            assert 2 <= len(chart.ticks) <= 9


@pytest.mark.parametrize("form", ["svg", "html"])
def test_a_picture_goes_to_a_file(form: str, tmp_path: Path) -> None:
    file = tmp_path / f"memory.{form}"
    assert memory(*QUESTION, "--format", form, "-o", str(file)) == ""
    assert file.read_text("utf-8") == memory(*QUESTION, "--format", form)
