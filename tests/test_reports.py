"""The reports: the same facts in every format, nothing clipped, nothing from outside becomes markup."""

from __future__ import annotations

import html
import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import jsonschema
import pytest
from rich.console import Console

from lora_advise import report_html, report_json, report_markdown, report_svg, report_text
from lora_advise.report_view import view_of
from lora_advise.report_words import gib, number, plain, sweep_words
from lora_advise.schema import advice_schema

CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def squeezed(text):
    return "".join(text.split())


def stripped(text):
    """Markdown or HTML source as a reader sees it, without white space."""
    text = re.sub(r"<style>.*?</style>|<!--.*?-->|<[^>]+>", "", text, flags=re.DOTALL)
    return squeezed(html.unescape(re.sub(r"\\(?=[\\`*_\[\]|~$#+-])", "", text)))


def svg_words(text):
    return squeezed("".join(ET.fromstring(text).itertext()))


RENDERERS = {
    "text": lambda advice: squeezed(report_text.render(advice, 120)),
    "narrow": lambda advice: squeezed(report_text.render(advice, 80)),
    "markdown": lambda advice: stripped(report_markdown.render(advice)),
    "html": lambda advice: stripped(report_html.render(advice)),
    "fragment": lambda advice: stripped(report_html.fragment(advice)),
    "svg": lambda advice: svg_words(report_svg.render(advice)),
}


@pytest.mark.parametrize("name", RENDERERS)
def test_every_format_tells_the_same_facts(sample, name):
    advice = sample.advice()
    shown = RENDERERS[name](advice)
    view = view_of(advice)
    wanted = [view.title, view.steps, view.linter, view.command]
    wanted += [row.value for row in view.headline] + [note.text for note in view.notes]
    wanted += [text for row in view.settings for text in (row.label, row.value)]
    wanted += [text for row in view.memory for text in (row.peak, row.fit, row.longest)]
    wanted += [text for part in view.parts for text in (part.label, part.size)]
    wanted += [text for group in view.why for row in group.rows for text in (row.because, row.flips, row.confidence)]
    wanted += [row.yours for group in view.why for row in group.rows if row.yours]
    wanted += [row.message for row in view.findings] + [row.reason for row in view.guides]
    wanted += [source.id for source in view.sources] + [way.change for way in view.ways_out]
    for text in wanted:
        if name in ("narrow", "text", "svg"):  # a wrapped cell is interleaved with its neighbours
            assert all(squeezed(word) in shown for word in text.split()), text
        else:
            assert squeezed(text) in shown, text


def test_settings_come_before_memory_steps_reasons_and_guides(sample):
    text = report_text.render(sample.advice(), 100)
    order = [
        "At a glance",
        "optimizer steps",
        "Memory forecast",
        "The linter's opinion",
        "\nWhy\n",
        "What the guides say",
        "Next steps",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_hand_checked_numbers(sample):
    view = view_of(sample.advice())
    assert view.steps == "3,800 rows / 16 per step x 2 epochs = 476 optimizer steps"
    assert [row.percent for row in view.memory] == [70, 113, 453, 34]
    assert view.settings[1].sweep == "6.7e-5 to 6.7e-4"
    assert [note.kind for note in view.notes] == ["warning", "assumption", "advice"]
    assert view.memory[2].micro_batch == "none"
    rank = next(row for row in view.settings if row.field == "lora.r")
    assert (rank.yours, rank.advised) == (True, "32")


def test_a_step_line_never_claims_a_false_product(sample):
    advice = sample.advice()
    cut = advice.changed({"steps": advice.steps.changed({"steps": 100})})
    assert view_of(cut).steps.startswith("100 optimizer steps, not the")


@pytest.mark.parametrize("width", [80, 100, 137, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_text_fits_any_width_and_encoding(sample, width, encoding):
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, errors="strict", newline="\n") as file:
        report_text.print_report(sample.advice(), Console(file=file, width=width))
        file.flush()
        text = raw.getvalue().decode(encoding)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text
    assert "…" not in text
    for figure in (
        "2e-4",
        "13.7 to 16.8",
        "96.1 to 108.7",
        "peak, GiB",
        "32,768",
        "0.89 to 3.93 GiB",
        "6.7e-5 to 6.7e-4",
        "does not fit",
    ):
        assert figure in text, figure
    assert ("█" in text) == (encoding == "utf-8")


def test_letters_that_a_terminal_lacks_are_escaped(sample):
    advice = sample.advice(next_steps=("lies 数据.jsonl",))
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii", errors="strict") as file:
        report_text.print_report(advice, Console(file=file, width=100))
        file.flush()
        assert b"lies \\u6570\\u636e.jsonl" in raw.getvalue()


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_only_where_it_is_wanted(sample, monkeypatch, variables, coloured):
    monkeypatch.setenv("TERM", "xterm-256color")
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    buffer = io.StringIO()
    report_text.print_report(sample.advice(), Console(file=buffer, width=100, force_terminal=True))
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]", buffer.getvalue())) is coloured


def test_brief_stops_after_the_steps_and_guides_can_be_counted(sample):
    buffer = io.StringIO()
    console = Console(file=buffer, width=100)
    report_text.print_report(sample.advice(), console, brief=True)
    assert "476 optimizer steps" in buffer.getvalue()
    assert "Memory forecast" not in buffer.getvalue()
    report_text.print_report(sample.advice(), console, guides=False)
    assert "2 statements of guides compared" in buffer.getvalue()
    assert "alpha = 2 r always" not in buffer.getvalue()


class Tags(HTMLParser):
    """Collects tags, attributes and whether every tag that opens closes."""

    def __init__(self):
        super().__init__()
        self.seen, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["render", "fragment"])
def test_html_is_well_formed_self_contained_and_safe(sample, name):
    for advice in (sample.advice(), sample.hostile()):
        text = getattr(report_html, name)(advice)
        tags = Tags()
        tags.feed(text)
        assert not tags.open
        names = [tag for tag, _ in tags.seen]
        assert not {"script", "img", "link", "iframe", "object"} & set(names)
        assert not re.search(r"url\(|@import", text)
        assert not [a for _, attrs in tags.seen for a in attrs if a.startswith("on") or a == "src"]
        for tag, attrs in tags.seen:
            if tag == "th":
                assert attrs.get("scope") in ("row", "col")
            if tag == "a":
                assert attrs["href"].startswith("https://") or attrs["href"].startswith("http://")
        assert not CONTROL.search(text)
        assert "prefers-color-scheme: dark" in text
        assert "@media print" in text


def test_a_fragment_styles_nothing_but_itself(sample):
    text = report_html.fragment(sample.advice())
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    selectors = re.findall(r"(?:^|[{}])\s*([^{}@]+?)\s*\{", re.sub(r"@media[^{]*\{", "", style))
    assert len(selectors) > 40
    for group in selectors:
        assert all(".lora-advise" in part for part in group.split(",")), group
    assert "<html" not in text
    assert sample.advice()._repr_html_() == text


def test_markdown_tables_hold_under_hostile_text(sample):
    text = report_markdown.render(sample.hostile())
    assert not CONTROL.search(text)
    widths = {}
    for line in text.splitlines():
        if line.startswith("|"):
            cells = len(re.findall(r"(?<!\\)\|", line))
            widths.setdefault("table", cells)
            assert cells == widths["table"], line
        else:
            widths.clear()
    outside = re.sub(r"^(`{3,})sh\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside
    outside = re.sub(r"`[█░▶]+`|<summary>[^<]*</summary>", "", outside)
    assert not re.search(r"(?<!\\)`", outside)


def test_markdown_notifies_nobody_and_links_nowhere():
    shown = report_markdown.escape("@team see #12 and [x](http://evil.example) *b* 1. x")
    assert "@team" not in shown
    assert "#12" not in shown
    assert not re.search(r"(?<!\\)\]\(", shown)
    assert "http://" not in shown
    assert report_markdown.escape("# h") == "\\# h"
    assert report_markdown.fence("a ``` b").startswith("````sh\n")


def test_svg_is_one_drawing_that_loads_nothing(sample):
    for advice in (sample.advice(), sample.hostile()):
        text = report_svg.render(advice)
        root = ET.fromstring(text)
        assert root.attrib["role"] == "img"
        assert "font-face" not in text
        assert "url(http" not in text
        assert not CONTROL.search(text)
        assert not [e for e in root.iter() if e.tag.endswith("script")]
    assert report_svg.render(sample.advice()) == report_svg.render(sample.advice())


def test_text_escapes_hostile_words(sample):
    text = report_text.render(sample.hostile(), 120)
    assert not CONTROL.search(text)
    assert "[red]b[/red]" in text
    buffer = io.StringIO()
    report_text.print_report(sample.hostile(), Console(file=buffer, width=120, force_terminal=True, color_system=None))
    assert "\x07" not in buffer.getvalue()


def test_json_follows_its_schema_and_carries_derived_values(sample):
    schema = advice_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    content = json.loads(report_json.render(sample.advice()))
    jsonschema.validate(content, schema)
    assert content["version"] == 1
    assert content["derived"] == {
        "method": "qlora",
        "effective_batch": 16,
        "optimizer_steps": 476,
        "scale": 2.0,
        "alpha_eff": 32.0,
        "e2": pytest.approx(2e-4 * 32**0.5),
    }
    for broken in ({**content, "surprise": 1}, {k: v for k, v in content.items() if k != "derived"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)
    json.loads(report_json.render(sample.hostile()))


def test_an_answer_without_optional_parts_is_still_a_report(sample):
    bare = sample.advice(
        memory=(), notes=(), guides=(), findings=(), skipped_rules=(), next_steps=(), related_models=(), decisions=()
    )
    empty = bare.plan.facts.changed(
        {"lora": None, "quant": None, "model": None, "task": None, "data": None, "hardware": None, "train": None}
    )
    for advice in (bare, bare.changed({"plan": bare.plan.changed({"facts": empty})})):
        for render in RENDERERS.values():
            assert squeezed("finds nothing wrong with this plan") in render(advice)
        jsonschema.validate(json.loads(report_json.render(advice)), advice_schema())


def test_words():
    assert [number(v) for v in (2e-4, 1.5e-5, 0.05, 2.0, 1024, 0, 3.3e-4)] == [
        "2e-4",
        "1.5e-5",
        "0.05",
        "2",
        "1,024",
        "0",
        "3.3e-4",
    ]
    assert (gib(21.6 * 2**30), gib(0.04 * 2**30)) == ("21.6 GiB", "0.04 GiB")
    assert sweep_words("train.neftune_noise_alpha", (None, 5.0)) == "off, 5"
    assert plain("a\x1b]8;;http://x\x07b\x1b[0m\nc\u202e") == "ab c"


def test_snapshots(sample, snapshot):
    snapshot("report.txt", report_text.render(sample.advice(), 80).split("\nSources\n")[0])
    snapshot("report.md", report_markdown.render(sample.advice()).split("<details><summary>Sources")[0])


def test_reports_import_nothing_heavy_at_start():
    rooms = ("report_text", "report_html", "report_markdown", "report_svg", "report_json", "plan_file")
    heavy = ("rich", "jinja2", "yaml", "torch")
    imports = ", ".join(f"lora_advise.{room}" for room in rooms)
    code = f"import sys, {imports}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
