"""What a lint report says in every format: the same findings, the right places, and nothing that a file could inject."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import unquote

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from lora_advise.document import Config, Document, Span, span_at
from lora_advise.errors import LoraAdviseError
from lora_advise.finding import Change, Confidence, Finding, Severity
from lora_advise.lint_formats import FORMATS, render
from lora_advise.lint_github import escape, escape_property
from lora_advise.lint_junit import legal
from lora_advise.lint_markdown import MOST, cell
from lora_advise.lint_places import fingerprints, path_of, region, uri_of
from lora_advise.lint_report import Edit, FileReport, Fix, LintReport, Located, Mark, Skipped, Unread
from lora_advise.lint_snippet import snippet, visible
from lora_advise.lint_words import clean
from lora_advise.schema import lint_schema

YAML = """\
base_model: Qwen/Qwen2.5-7B
adapter: lora
lora_r: 16
lora_alpha: 64

evaluation_strategy: steps
learning_rate: 0.02
optimizer: adamw_torch
num_epochs: 3
"""
EVIL = 'x<script>alert(1)</script>|`[red]b[/red]`\x1b[31m\x07"\u202e]]>&\n::set-output name=a::b\r\n@team [l](http://e.example) www.e.example {0}'
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def document(text=YAML, name="configs/train.yaml", format="yaml"):
    whole = span_at(text, 0, len(text))
    return Document(name, text, format, (Config("mapping", (), (), whole),))


def mark(doc, words, label, cell=0):
    start = doc.text.index(words)
    return Mark(span_at(doc.text, start, start + len(words))._replace(cell=cell), label)


def finding(
    rule="scale-times-rate-diverges", code="LRS101", severity=Severity.ERROR, message="The rate is too high.", **more
):
    more = {"confidence": Confidence.MEASURED, "fields": ("train.learning_rate",), "sources": ("lwr-2025",), **more}
    return Finding(rule=rule, code=code, severity=severity, message=message, **more)


def rate(doc, **more):
    words = "0.02"
    start = doc.text.index(words)
    return Located(
        finding(
            message="Learning rate 0.02 with alpha 64 and r 16 diverges: the highest rate that held is 1e-3.",
            changes=(Change("train.learning_rate", 0.0002),),
        ),
        (mark(doc, words, "learning_rate = 0.02, set by you"), mark(doc, "64", "lora_alpha = 64, set by you")),
        ("warmup_steps = 0 is Axolotl's default",),
        (Fix("set learning_rate to 2e-4", (Edit(start, start + 4, "2e-4"),), False),),
        **more,
    )


def renamed(doc, **more):
    key = "evaluation_strategy"
    start = doc.text.index(key)
    found = finding(
        "renamed-key", "CFG101", Severity.WARNING, "transformers 5 does not know evaluation_strategy.", fields=(),
        confidence=Confidence.FACT, sources=("transformers-source",),
    )  # fmt: skip
    fix = Fix("rename evaluation_strategy to eval_strategy", (Edit(start, start + len(key), "eval_strategy"),), True)
    return Located(found, (mark(doc, key, "evaluation_strategy, set by you"),), (), (fix,), **more)


def nowhere():
    found = finding("no-evaluation", "XYZ901", Severity.NOTE, "Nothing is held out.", changes=(), fields=())
    return Located(found, (), ("val_set_size = 0 is Axolotl's default",))


def report():
    doc = document()
    gone = renamed(doc)._replace(suppressed="kept for the old cluster")
    file = FileReport(
        doc, ("axolotl",), (renamed(doc), rate(doc), nowhere(), gone), (nowhere(),),
        (Skipped("does-not-fit", ("hardware", "model")), Skipped("too-few-steps", ("data",))),
        ("The value of base_model was not looked up.",),
    )  # fmt: skip
    other = FileReport(
        document("lora_r: 8\n", "b.yaml"), ("llamafactory",), (), (), (Skipped("does-not-fit", ("hardware",)),)
    )
    unread = (
        Unread("broken.yaml", "unreadable", "line 3 is no YAML."),
        Unread("ci.yml", "no config", "no trainer's keys."),
    )
    return LintReport((file, other), unread)


def hostile():
    """Text from outside in every place that can hold it."""
    text = f"{EVIL}\nlearning_rate: 0.02 # {EVIL}\n"
    doc = document(text, f"dir/{EVIL}.yaml")
    start = text.index("0.02")
    found = finding(message=EVIL, fields=(EVIL,), changes=(Change(EVIL, EVIL),), sources=("lwr-2025",))
    places = (mark(doc, "0.02", EVIL), Mark(span_at(text, 0, 9), EVIL))
    fixed = Located(found, places, (EVIL,), (Fix(EVIL, (Edit(start, start + 4, EVIL),), False),))
    file = FileReport(
        doc, (EVIL,), (fixed, fixed._replace(fixes=()), fixed._replace(suppressed=EVIL)), (),
        (Skipped(EVIL, (EVIL,)),), (EVIL,),
    )  # fmt: skip
    return LintReport((file,), (Unread(EVIL, "unreadable", EVIL), Unread(EVIL, "no config", EVIL)))


def successful():
    return LintReport((FileReport(document(), ("axolotl",)), FileReport(document("r: 8\n", "b.yaml"), ("trl",))))


# What every format tells


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "sarif"])
def test_suppressed_findings_are_not_told(format):
    doc = document()
    only = LintReport((FileReport(doc, ("axolotl",), (renamed(doc, suppressed="reason"),)),))
    assert "CFG101" not in render(only, format)


@pytest.mark.parametrize("format", FORMATS)
def test_every_finding_is_told_with_its_place_and_the_way_out(format):
    shown = render(report(), format)
    for words in ("CFG101", "LRS101", "XYZ901"):
        assert words in shown or format == "gitlab"
    for words in ("renamed-key", "scale-times-rate-diverges", "no-evaluation", "train.yaml"):
        assert words.replace("-", "\\-") in shown or words in shown
    if format not in ("concise", "junit"):
        assert "rename evaluation" in shown
        assert "unsafe" in shown


def test_a_success_is_said_plainly():
    for form in ("text", "concise", "github", "markdown"):
        assert "2 files, no findings." in render(successful(), form)
    assert json.loads(render(successful(), "json"))["summary"]["errors"] == 0
    assert json.loads(render(successful(), "gitlab")) == []
    assert json.loads(render(successful(), "sarif"))["runs"][0]["results"] == []
    suites = ET.fromstring(render(successful(), "junit"))
    assert (suites.get("tests"), suites.get("failures")) == ("2", "0")


def test_nothing_judged_is_no_success():
    for form in ("text", "concise", "github", "markdown"):
        shown = render(LintReport((), (Unread("ci.yml", "no config", "no trainer's keys."),)), form)
        assert "No file was judged." in shown
        assert "no findings" not in shown


def test_unknown_formats_and_counts_without_a_place_are_refused():
    with pytest.raises(LoraAdviseError, match="take one of text, concise"):
        render(report(), "yaml")
    with pytest.raises(LoraAdviseError, match="no place for counts"):
        render(report(), "sarif", statistics=True)


def test_snapshots(snapshot):
    suffixes = {"json": "json", "sarif": "sarif", "gitlab": "json", "junit": "xml", "markdown": "md"}
    for form in FORMATS:
        snapshot(f"lint_{form}.{suffixes.get(form, 'txt')}", render(report(), form))
    snapshot("lint_statistics.txt", render(report(), "text", statistics=True))


# Text


def test_text_counts_everything_and_names_the_flags():
    shown = render(report(), "text")
    for words in (
        "1 error, 1 warning and 1 note in 2 files.", "--> configs/train.yaml:7:16", "rename evaluation_strategy to eval_strategy (--fix applies it)",
        "(--unsafe-fixes applies it, since it changes the run)", "learning_rate = 0.02, set by you, line 7", "1 with --fix and 1 with --unsafe-fixes",
        "1 convention (--pedantic shows them)", "the GPU (--gpu) 1", "the training data (--data or --examples) 1", "the model (--model) 1",
        "2 rules, for want of", "Suppressed 1 finding.", "broken.yaml: line 3 is no YAML.", "ci.yml: no trainer's keys.", "axolotl 1, llamafactory 1",
        "warmup_steps = 0 is Axolotl's default", "lwr-2025",
    ):  # fmt: skip
        assert words in " ".join(shown.split()), words
    assert "\x1b" not in shown


def test_what_is_no_terminal_gets_lines_that_do_not_depend_on_it():
    for width in (20, 80, 300):
        console = Console(file=io.StringIO(), width=width, force_terminal=False)
        assert render(report(), "text", terminal=console) == render(report(), "text")


def test_rules_about_comments_lack_nothing():
    file = FileReport(document(), ("axolotl",), (), (), (Skipped("suppression-unused", ("comments",)),))
    for form in ("text", "markdown"):
        assert "kipped" not in render(LintReport((file,)), form)
    assert json.loads(render(LintReport((file,)), "json"))["summary"]["skipped"] == 0


def test_carets_stand_below_the_value_with_two_lines_around():
    lines = render(report(), "text").splitlines()
    at = [i for i, line in enumerate(lines) if line.startswith("7 | learning_rate: 0.02")][1]
    assert lines[at + 1].startswith("  |                ^^^^ learning_rate = 0.02, set by you, line 7")
    assert [line[:3] for line in lines[at - 2 : at]] == ["5 |", "6 |"]
    assert [line[:3] for line in lines[at + 2 : at + 4]] == ["8 |", "9 |"]
    assert any(line.startswith("  |             -- lora_alpha = 64") for line in lines)


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_only_on_a_terminal_that_wants_it(monkeypatch, variables, coloured):
    monkeypatch.setenv("TERM", "xterm-256color")
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    shown = render(report(), "text", terminal=Console(file=io.StringIO(), width=90, force_terminal=True))
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]", shown)) is coloured
    bare = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(cell_len(line) for line in bare.splitlines()) <= 90


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_text_keeps_to_the_characters_of_the_terminal(encoding):
    text = "note: 数据 é\nname: '数据 é'  # 0.02\nlearning_rate: 0.02\n"
    doc = document(text, "数据.yaml")
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding=encoding), width=100)
    only = LintReport((FileReport(doc, ("axolotl",), (Located(finding(), (mark(doc, "é'", "name"),)),)),))
    for form in FORMATS:
        render(only, form, terminal=console).encode(encoding)
    lines = render(only, "text", terminal=console).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("2 | "))
    sign = "é'".encode(encoding, "backslashreplace").decode(encoding)
    assert cell_len(lines[at][: lines[at].index(sign)]) == lines[at + 1].index("^")


def test_a_huge_line_is_cut_around_the_caret():
    text = "{" + '"a": 1, ' * 100_000 + '"learning_rate": 0.02, ' + '"b": 2, ' * 100_000 + '"c": 3}'
    doc = document(text, "x.json", "json")
    only = LintReport((FileReport(doc, ("trl",), (Located(finding(), (mark(doc, "0.02", "rate"),)),)),))
    lines = render(only, "text").splitlines()
    assert max(map(len, lines)) <= 170
    at = next(i for i, line in enumerate(lines) if line.startswith("1 | "))
    assert lines[at][lines[at + 1].index("^") :].startswith("0.02")
    for form in FORMATS:
        assert len(render(only, form)) < 20_000


def test_a_notebook_names_the_cell_and_shows_the_line_alone():
    text = '{\n "cells": [\n  {\n   "source": [\n    "lr = 0.02\\n",\n    "x = 1"\n   ]\n  }\n ]\n}\n'
    doc = document(text, "n.ipynb", "notebook")
    found = Located(finding(), (mark(doc, "0.02", "learning_rate = 0.02, set by you", cell=3),))
    only = LintReport((FileReport(doc, ("unsloth",), (found,)),))
    shown = render(only, "text")
    assert "n.ipynb:5:11 (cell 3)" in shown
    assert '"lr = 0.02' in shown
    assert '"source"' not in shown
    assert '"x = 1"' not in shown
    assert "set by you, cell 3, line 5" in shown
    for form in ("concise", "github", "gitlab", "junit", "markdown", "sarif"):
        assert "Cell 3: " in render(only, form)


NASTY = st.text(
    st.one_of(
        st.sampled_from("\t\r\n\x1b\x07\u202e\u200d\ufe0f\u0301数据👩é ={}[]<>&|`@#%:,\\\"'-"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(NASTY, NASTY.map(lambda text: text.replace("\n", "") or "v"), NASTY, st.integers(24, 200))
def test_carets_align_by_cells_within_any_width(before, value, after, width):
    text = before + value + after
    span = span_at(text, len(before), len(before) + len(value))
    rows = list(snippet(document(text), (span,), width))
    line = next(row for row in rows if row.kind == "code" and row.number == span.line)
    carets = next(row for row in rows if row.kind == "first")
    for row in rows:
        assert cell_len(row.text) <= max(20, width)
        assert not OBEYED.search(row.text)
    indent = len(carets.text) - len(carets.text.lstrip())
    marked = visible(value.rstrip("\r"))
    if cell_len(marked) == len(marked) > 0 and line.text.isascii():
        assert (line.text + " " * width)[indent:].startswith(marked[: len(carets.text.strip())].rstrip())


# Nothing from outside becomes markup or a command


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_that_a_terminal_obeys_is_printed(format):
    shown = render(hostile(), format)
    assert not OBEYED.search(shown)
    assert not [line for line in shown.splitlines() if line.startswith("::set-output")]


def test_text_and_its_colours_are_ours_alone():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    shown = render(hostile(), "text", terminal=console)
    assert set(re.findall(r"\x1b\[([0-9;]*)m", shown)) <= {"0", "1", "2", "32", "1;31", "1;33", "1;34", "1;36", "1;32"}
    assert "[red]b[/red]" in shown


@given(NASTY)
def test_commands_of_github_end_where_they_should(text):
    assert "\n" not in escape(text)
    assert not OBEYED.search(escape(text))
    assert not re.search(r"[,:\n\r]", escape_property(text))
    assert not re.search(r"%(?!25|0D|0A|3A|2C)", escape_property(text))
    printable = "".join(c if c.isprintable() or c in "\r\n" else "?" for c in text)
    assert unquote(escape(text)) == printable
    assert unquote(escape_property(text)) == printable


def test_commands_of_github():
    lines = render(report(), "github").splitlines()
    assert lines[0].startswith(
        "::warning file=configs/train.yaml,line=6,col=1,endLine=6,endColumn=20,title=lora-advise CFG101 renamed-key::transformers 5"
    )
    assert lines[1].startswith("::error file=configs/train.yaml,line=7,col=16,endLine=7,endColumn=20,")
    assert lines[2].startswith("::notice file=configs/train.yaml,line=1,title=")
    assert lines[3] == "::error file=broken.yaml,title=lora-advise::Not read: line 3 is no YAML."
    for line in render(hostile(), "github").splitlines()[:-1]:
        assert re.fullmatch(r"::(error|warning|notice) (\w+=[^,:\n]*,?)+::.*", line)


@given(NASTY)
def test_markdown_shows_text_as_it_is(text):
    shown = cell(clean(text))
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_\[\]~]", shown)
    bare = shown.replace("<!-- -->", "")
    assert "<" not in bare
    assert not re.search(r"@\w|www\.|://", shown, re.IGNORECASE)


def test_a_markdown_table_holds_under_hostile_text():
    text = render(hostile(), "markdown")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}
    bare = text.replace("<!-- -->", "")
    bare = re.sub(r"</?details>|</?summary>|<br>|<https://[^\s<>|]+>", "", bare)
    assert "<" not in bare
    assert "@team" not in text


def test_a_comment_is_no_longer_than_github_takes():
    doc = document()
    many = FileReport(doc, ("axolotl",), (*(renamed(doc),) * 1000, rate(doc)))
    text = render(LintReport((many,)), "markdown")
    assert 10_000 < len(text) <= MOST
    assert re.search(r"\d+ more findings do not fit", text)
    assert text.splitlines()[4].startswith("| error |")


@given(st.text(max_size=80))
def test_xml_holds_legal_characters_alone(text):
    made = ET.Element("a", title=legal(text))
    made.text = legal(text)
    read = ET.fromstring(ET.tostring(made, encoding="unicode"))
    assert (read.text or "") == legal(text).replace("\r\n", "\n").replace("\r", "\n")


def test_junit_counts_what_it_holds():
    for made in (report(), hostile()):
        root = ET.fromstring(render(made, "junit"))
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"), ("tests", "testcase")):
            assert int(root.get(name)) == len(root.findall(f".//{tag}"))
    root = ET.fromstring(render(report(), "junit"))
    assert [e.get("type") for e in root.iter("failure")] == ["warning", "error"]
    assert len(root.findall(".//error")) == 1
    assert "learning_rate = 0.02, set by you, line 7" in root.findall(".//failure")[1].text


# JSON and SARIF


@pytest.mark.parametrize("made", [report, hostile, successful])
def test_json_follows_its_schema(made):
    schema = lint_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    content = json.loads(render(made(), "json"))
    jsonschema.validate(content, schema)
    assert content["version"] == 1
    assert schema["$id"].endswith("lint:1")
    for broken in (
        {**content, "surprise": 1},
        {**content, "version": 2},
        {k: content[k] for k in content if k != "files"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


def test_json_gives_places_by_which_the_text_is_found():
    made = report()
    content = json.loads(render(made, "json"))
    text = made.files[0].document.text
    first, second, third = content["files"][0]["findings"]
    place = second["marks"][0]["place"]
    assert text[place["start"] : place["end"]] == "0.02"
    assert (place["line"], place["column"], place["end_line"], place["end_column"]) == (7, 16, 7, 20)
    (edit,) = first["fixes"][0]["edits"]
    assert (text[: edit["start"]] + edit["text"] + text[edit["end"] :]).splitlines()[5] == "eval_strategy: steps"
    assert (third["marks"], third["line"]) == ([], 1)
    assert content["summary"] == {
        "files": 2, "errors": 1, "warnings": 1, "notes": 1, "fixable": 1, "unsafe": 1, "hidden": 1, "suppressed": 1, "skipped": 2,
        "unreadable": 1, "no_config": 1,
    }  # fmt: skip
    assert {row["rule"]: row["flag"] for row in content["statistics"]} == {
        "renamed-key": "--fix", "scale-times-rate-diverges": "--unsafe-fixes", "no-evaluation": None,
    }  # fmt: skip


def test_lone_surrogates_are_replaced():
    name = "a\udce9b\ud800.yaml"
    only = LintReport((FileReport(document("r: 1\n", name), ("trl",), (nowhere(),)),))
    for form in FORMATS:
        shown = render(only, form)
        shown.encode("utf-8")
        assert not re.search(r"\\ud[89a-f]", shown)


SARIF = Path(__file__).resolve().parents[2] / "shared" / "schemas" / "sarif-2.1.0.json"


@pytest.mark.skipif(not SARIF.exists(), reason="the schema of SARIF is not beside this repository")
@pytest.mark.parametrize("made", [report, hostile, successful])
def test_sarif_follows_the_official_schema(made):
    schema = json.loads(SARIF.read_text("utf-8-sig"))
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(render(made(), "sarif")))


def cut(text, where):
    """The text of a SARIF region; lines end with a line feed, columns count characters."""
    lines = text.split("\n")
    first, last = where["startLine"] - 1, where["endLine"] - 1
    if first == last:
        return lines[first][where["startColumn"] - 1 : where["endColumn"] - 1]
    middle = lines[first + 1 : last]
    return "\n".join((lines[first][where["startColumn"] - 1 :], *middle, lines[last][: where["endColumn"] - 1]))


def test_sarif_says_what_code_scanning_needs():
    made = report()
    text = made.files[0].document.text
    (run,) = json.loads(render(made, "sarif"))["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert run["columnKind"] == "unicodeCodePoints"
    assert len({rule["id"] for rule in rules}) == len(rules) == 3
    for rule in rules:
        assert {"id", "name", "shortDescription", "fullDescription", "help", "defaultConfiguration"} <= set(rule)
        assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note")
        assert rule["properties"]["confidence"] in ("fact", "measured", "convention")
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        (place,) = result["locations"]
        where = place["physicalLocation"]
        assert (
            where["artifactLocation"]["uri"] == run["artifacts"][where["artifactLocation"]["index"]]["location"]["uri"]
        )
    wrong = run["results"][1]
    assert cut(text, wrong["locations"][0]["physicalLocation"]["region"]) == "0.02"
    assert cut(text, wrong["relatedLocations"][0]["physicalLocation"]["region"]) == "64"
    (replacement,) = wrong["fixes"][0]["artifactChanges"][0]["replacements"]
    assert cut(text, replacement["deletedRegion"]) == "0.02"
    assert replacement["insertedContent"]["text"] == "2e-4"
    assert [r["suppressions"] for r in run["results"]] == [
        [], [], [], [{"kind": "inSource", "justification": "kept for the old cluster"}],
    ]  # fmt: skip
    told = run["invocations"][0]
    assert told["executionSuccessful"] is False
    assert [n["level"] for n in told["toolExecutionNotifications"]] == ["error", "note", "note"]
    assert "--gpu" in told["toolConfigurationNotifications"][0]["message"]["text"]


def test_sarif_makes_no_link_and_no_placeholder():
    for result in json.loads(render(hostile(), "sarif"))["runs"][0]["results"]:
        text = result["message"]["text"]
        assert "](" not in text
        assert not re.search(r"(?<!\{)\{(?!\{)", text)


@settings(max_examples=100, deadline=None)
@given(NASTY, st.data())
def test_regions_find_the_text_of_any_span(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    where = region(document(text), span_at(text, start, end))
    names = {
        "startLine": where.line,
        "startColumn": where.column,
        "endLine": where.end_line,
        "endColumn": where.end_column,
    }
    assert cut(text, names) == text[start:end]


# Paths and fingerprints


@pytest.mark.parametrize(
    ("name", "path", "uri"),
    [
        ("a/b c.yaml", "a/b c.yaml", "a/b%20c.yaml"),
        ("./a.yaml", "a.yaml", "a.yaml"),
        ("数据:1#.yaml", "数据:1#.yaml", "%E6%95%B0%E6%8D%AE%3A1%23.yaml"),
        ("../x.yaml", "../x.yaml", "../x.yaml"),
        ("/etc/a b.yaml", "/etc/a b.yaml", "file:///etc/a%20b.yaml"),
        (str(Path.cwd() / "in.yaml"), "in.yaml", "in.yaml"),
    ],
)
def test_paths(name, path, uri):
    assert path_of(name) == path
    assert uri_of(name) == uri


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_uris_are_uris(name):
    assert re.fullmatch(r"(?:[A-Za-z0-9._~/-]|%[0-9A-F]{2}|^file://)*", uri_of(name))


def file_of(text):
    doc = document(text)
    return FileReport(doc, ("axolotl",), (renamed(doc), rate(doc), rate(doc), nowhere()))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.integers(0, 8))
def test_fingerprints_survive_moved_lines_and_differ(above, indent):
    moved = "# a comment\n" * above + "".join(f"{' ' * indent}{line}\r\n" for line in YAML.splitlines())
    assert fingerprints(file_of(moved)) == fingerprints(file_of(YAML))
    assert len(set(fingerprints(file_of(YAML)))) == 4
    assert fingerprints(file_of(YAML.replace("0.02", "0.02  # tried"))) != fingerprints(file_of(YAML))


def test_gitlab_names_each_issue_once():
    issues = json.loads(render(report(), "gitlab"))
    assert [issue["severity"] for issue in issues] == ["major", "critical", "info", "major"]
    assert len({issue["fingerprint"] for issue in issues}) == 4
    assert issues[1]["location"] == {"path": "configs/train.yaml", "lines": {"begin": 7, "end": 7}}
    assert set(issues[0]) == {"description", "check_name", "fingerprint", "severity", "location"}


def test_concise_lines_are_read_by_editors():
    lines = render(report(), "concise").splitlines()
    assert lines[1].startswith("configs/train.yaml:7:16: LRS101 scale-times-rate-diverges error Learning rate 0.02")
    assert lines[-1] == "1 error, 1 warning and 1 note in 2 files."
    assert len(render(hostile(), "concise").splitlines()) == 4


def test_statistics_count_rules():
    doc = document()
    made = LintReport((FileReport(doc, ("axolotl",), (rate(doc), renamed(doc), rate(doc))),))
    lines = render(made, "concise", statistics=True).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["2", "LRS101", "scale-times-rate-diverges", "--unsafe-fixes"], ["1", "CFG101", "renamed-key", "--fix"],
    ]  # fmt: skip


def test_formats_import_only_what_they_need():
    code = (
        "import sys, lora_advise.lint_formats; from lora_advise.lint_report import LintReport as R\n"
        "from lora_advise.lint_formats import render\n"
        "[render(R(()), f) for f in ('concise', 'github', 'gitlab')]\n"
        "print([m for m in ('rich', 'jinja2', 'yaml', 'torch', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_spans_past_the_end_and_missing_marks_do_no_harm():
    doc = document("a: 1")
    beyond = Located(finding(), (Mark(Span(4, 4, 1, 5), "the end"),))
    for form in FORMATS:
        render(LintReport((FileReport(doc, (), (beyond, nowhere())),)), form)
