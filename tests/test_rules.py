"""Every rule: its example fires it alone, its alternative is clean, its cases hold, its change mends what it found."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from lora_advise import dialects
from lora_advise.checked import checked
from lora_advise.document_read import read_document
from lora_advise.engine import lint
from lora_advise.example_facts import EXAMPLE_MODELS, example
from lora_advise.facts import Facts, QuantFacts
from lora_advise.finding import Confidence, Severity
from lora_advise.lint_files import NoConfig, Wanted, lint_document
from lora_advise.lint_mend import mended_file
from lora_advise.rule import SECTIONS
from lora_advise.rules import RULES
from lora_advise.rules_page import FAMILIES, HEADINGS, page, sections
from lora_advise.section import field_types
from lora_advise.sources import registry

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "tests" / "rules"
FORMATS = {"yaml": "yaml", "json": "json", "command": "shell", "python": "python"}
"""How a dialect's files are written, and the format that reads them."""
ALTERNATIVES = {"scale-times-rate-diverges", "scale-times-rate-high", "preference-rate-high", "rl-rate-high"}
"""Rules that offer two ways out."""
FORECASTS = {"does-not-fit", "memory-tight", "four-bit-for-nothing"}
HAS_MEMORY = importlib.util.find_spec("lora_advise.memory") is not None
USABLE = tuple(rule for rule in RULES if HAS_MEMORY or rule.name not in FORECASTS)
MEASURED_ERRORS = {"scale-times-rate-diverges", "does-not-fit"}
"""Errors that no proof backs, but practically every measured run: 101 of 112 diverged; the forecast's low end."""


def rules(names=None):
    missing = pytest.mark.skip(reason="lora_advise.memory is not there yet")
    return [
        pytest.param(rule, id=rule.name, marks=() if rule in USABLE else missing)
        for rule in RULES
        if names is None or rule.name in names
    ]


def found(facts, *only):
    """Findings of facts, or of a file: a case that names a dialect is the text of a file in it."""
    if isinstance(facts, Written):
        return written_findings(facts, only or USABLE)
    return lint(facts, only or USABLE, pedantic=True).findings


class Written(NamedTuple):
    """A file of a trainer."""

    dialect: str
    text: str


def given(case):
    """What a case describes: changed facts of the documented run, or a file."""
    (key, value), *rest = (case or {"": None}).items()
    if not rest and isinstance(value, str) and key in dialects.names():
        return Written(key, value)
    return example(case)


def report_of(written, rules, **more):
    program = written.text.startswith(("from ", "import "))
    kind = "python" if program else FORMATS[dialects.dialect(written.dialect).written]
    document = read_document("config", text=written.text, format=kind)
    report = lint_document(document, Wanted(written.dialect, rules=tuple(rules), **more))
    assert not isinstance(report, NoConfig), written
    return report


def written_findings(written, rules):
    report = report_of(written, USABLE, pedantic=True)
    names = {rule.name for rule in rules}
    return tuple(found.finding for found in report.shown if found.finding.rule in names)


def apply(facts, changes):
    tree = {name: getattr(facts, name) for name in field_types(Facts)}
    for change in changes:
        section, _, field = change.field.partition(".")
        if not field:
            tree[section] = change.value
            continue
        old = tree[section] or QuantFacts()
        values = {name: getattr(old, name) for name in field_types(old)}
        tree[section] = checked(type(old), values | {field: change.value})
    return checked(Facts, tree)


def cases(rule):
    return yaml.safe_load((CASES / f"{rule.name}.yml").read_text("utf-8"))


def failing(rule):
    """The example and every failing case, as facts."""
    return [given(case) for case in (yaml.safe_load(sections(rule)["Example"]), *cases(rule)["fails"])]


def test_the_documented_run_is_clean():
    assert [f.message for f in found(example())] == []


@pytest.mark.parametrize("rule", rules())
def test_the_example_fires_that_rule_alone(rule):
    case = given(yaml.safe_load(sections(rule)["Example"]))
    if isinstance(case, Written):
        report = report_of(case, USABLE)
        shown, hidden = [f.finding for f in report.shown], [f.finding for f in report.hidden]
    else:
        shown, hidden = lint(case, USABLE)[:2]
    names = {f.rule for f in shown}
    if rule.confidence is Confidence.CONVENTION:
        assert not names, "a convention is hidden, and nothing else may fire"
        names = {f.rule for f in hidden}
    assert names == {rule.name}


@pytest.mark.parametrize("rule", rules())
def test_the_alternative_is_clean(rule):
    assert [f.message for f in found(given(yaml.safe_load(sections(rule)["Instead"])))] == []


@pytest.mark.parametrize("rule", rules())
def test_cases(rule):
    known, documented = cases(rule), yaml.safe_load(sections(rule)["Example"])
    assert set(known) == {"fails", "passes"}
    assert known["fails"]
    assert known["passes"]
    for case in known["fails"]:
        assert found(given(case), rule), case
        assert case != documented, "a case must say more than the example"
    for case in known["passes"]:
        assert not found(given(case), rule), case


@pytest.mark.parametrize("rule", rules())
def test_findings_are_sentences_with_fields_that_exist(rule):
    whole = example({"quant": {}})
    for facts in failing(rule):
        for finding in found(facts, rule):
            assert re.fullmatch(r"\S.*[.?)]", finding.message, re.DOTALL), finding.message
            assert "  " not in finding.message
            assert "None" not in finding.message
            if isinstance(facts, Written):
                continue
            assert finding.fields
            for path in (*finding.fields, *(change.field for change in finding.changes + finding.instead)):
                section, _, field = path.partition(".")
                assert field in field_types(getattr(whole, section)) if field else path in field_types(Facts), path


@pytest.mark.parametrize("rule", rules())
def test_a_change_mends_what_was_found(rule):
    for facts in failing(rule):
        findings = found(facts, rule)
        if isinstance(facts, Written):
            assert_mended(facts, rule)
            continue
        for finding in findings:
            for changes in (finding.changes, finding.instead):
                if not changes:
                    continue
                left = [f.message for f in found(apply(facts, changes), rule)]
                assert finding.message not in left
                assert len(left) < len(findings), (changes, left)


def assert_mended(written, rule):
    """Every fix that is offered mends, leaves a file that is read, and is made once."""

    def judge(document):
        return lint_document(document, Wanted(written.dialect, rules=USABLE, pedantic=True))

    def only(report):
        return report._replace(findings=tuple(f for f in report.findings if f.finding.rule == rule.name))

    report = only(report_of(written, USABLE, pedantic=True))
    after, made = mended_file(report, lambda document: only(judge(document)), unsafe=True)
    offered = [found for found in report.shown if found.fixes and found.fixes[0].edits]
    assert made >= bool(offered)
    assert len(after.shown) <= len(report.shown) - len(offered)
    again, more = mended_file(after, lambda document: only(judge(document)), unsafe=True)
    assert not more
    assert again.document.text == after.document.text


@pytest.mark.parametrize("rule", rules(ALTERNATIVES))
def test_the_ways_back_land_in_the_usual_band(rule):
    for facts in failing(rule):
        if isinstance(facts, Written):
            continue
        (finding,) = found(facts, rule)
        assert [change.field for change in finding.changes] == ["train.learning_rate"]
        assert [change.field for change in finding.instead] in ([], ["lora.lora_alpha"])
        for change in (*finding.changes, *finding.instead):
            mended = {f.rule for f in found(apply(facts, (change,)))}
            assert not mended & (ALTERNATIVES | {"adapter-under-driven", "rate-conservative"}), change


def test_high_alpha_with_a_high_rate_is_one_finding_with_two_ways_back():
    (finding,) = found(example({"lora": {"lora_alpha": 128}, "train": {"learning_rate": 2e-3}}))
    assert finding.severity is Severity.ERROR
    assert [(c.field, c.value) for c in finding.changes] == [("train.learning_rate", 1.5e-4)]
    assert [(c.field, c.value) for c in finding.instead] == [("lora.lora_alpha", 4)]
    for part in ("128/16 = 8", "2.26e-2", "about 101", "to 1.5e-4 at alpha 128", "alpha to 4 at this learning rate"):
        assert part in finding.message


def test_a_rate_that_no_alpha_can_save_offers_the_rate_alone():
    (finding,) = found(example({"train": {"learning_rate": 0.02}}))
    assert [change.field for change in finding.changes] == ["train.learning_rate"]
    assert finding.instead == ()
    assert "no alpha of 1 or more" in finding.message


def test_the_scaling_mode_decides_not_the_written_alpha():
    standard = example({"lora": {"r": 64, "lora_alpha": 64}, "train": {"learning_rate": 5e-4}})
    stabilized = example({"lora": {"r": 64, "lora_alpha": 64, "use_rslora": True}, "train": {"learning_rate": 5e-4}})
    assert not any(f.rule.startswith("scale-times") for f in found(standard))
    (finding,) = [f for f in found(stabilized) if f.rule.startswith("scale-times")]
    assert "alpha/sqrt(r) = 64/sqrt(64) = 8" in finding.message
    assert "sqrt(512)" in finding.message


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1, 2, 4])
@pytest.mark.parametrize("r", [8, 16, 32, 64])
def test_shipped_scales_are_not_condemned(ratio, r):
    for rate in (1e-4, 2e-4, 3e-4):
        facts = example({"lora": {"r": r, "lora_alpha": ratio * r}, "train": {"learning_rate": rate}})
        about_scale = [f for f in lint(facts, USABLE).findings if f.code.startswith("LRS")]
        assert not [f for f in about_scale if f.severity is Severity.ERROR]
        if rate >= 2e-4 and 8 <= ratio * r <= 128:
            assert not about_scale, (ratio, r, rate)


@pytest.mark.parametrize("rate", [3e-6, 1e-5, 1e-4, 5e-4])
def test_shipped_preference_rates_are_no_errors(rate):
    task = {"name": "dpo", "family": "preference", "trainer": "dpo"}
    facts = example({"task": task, "train": {"learning_rate": rate}, "data": {"format": "preference"}})
    assert not [f for f in lint(facts, USABLE).findings if f.severity is Severity.ERROR]


def test_the_highest_shipped_rate_is_a_warning_on_the_size_it_is_shipped_for():
    facts = example({"model": "small", "lora": {"r": 32, "lora_alpha": 64}, "train": {"learning_rate": 2e-3}})
    shown = [(f.rule, f.severity) for f in lint(facts, USABLE).findings]
    assert shown == [("scale-times-rate-diverges", Severity.WARNING)]


def test_unknown_values_are_survived():
    bare = {
        "data": {"p99_tokens": None, "max_tokens": None, "format": None},
        "hardware": {"bf16": None, "flash_attention_2": None, "bitsandbytes_4bit": None, "compute_capability": None},
        "train": {"eval_steps": None, "save_steps": None, "max_grad_norm": None, "metric_for_best_model": None},
        "lora": {"task_type": None},
        "quant": {},
    }
    for section in (None, "task", "model", "lora", "train", "data", "hardware", "stack"):
        facts = example(
            bare if section is None else {**bare, section: None, **({"hardware": None} if section == "lora" else {})}
        )
        assert not [f for f in found(facts) if f.severity is Severity.ERROR]
    for model in EXAMPLE_MODELS:
        targets = {"target_modules": ["in_proj"]} if model == "state-space" else {}  # PEFT refuses its out_proj
        kernel = {"attn_implementation": "eager"} if model in ("state-space", "soft-capped") else {}
        train = bare["train"] | kernel
        facts = example({**bare, "lora": bare["lora"] | targets, "train": train, "model": model, "hardware": None})
        assert not [f for f in found(facts) if f.severity is Severity.ERROR]


def test_codes_and_names():
    codes = [rule.code for rule in RULES]
    assert len(set(codes)) == len(codes)
    order = list(FAMILIES)
    keys = [(order.index(code[:3]), int(code[3:])) for code in codes]
    assert keys == sorted(keys)
    assert all(number // 100 == place + 1 for place, number in keys)
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)+", name), name
        assert not name.startswith(("no-", "check-")), name


def test_every_rule_of_every_module_is_registered():
    registered = {rule.check.__name__ for rule in RULES}
    for path in (ROOT / "rules").glob("*.py"):
        if not path.name.startswith("run_"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.FunctionDef) and any("rule(" in ast.unparse(d) for d in node.decorator_list):
                    assert node.name in registered, f"{path.name}: {node.name}"
    assert {path.stem for path in CASES.glob("*.yml")} == {rule.name for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_documentation_and_sources(rule):
    assert tuple(sections(rule)) == HEADINGS
    assert all(sections(rule).values())
    assert rule.summary.endswith(".")
    assert len(rule.summary) <= 160
    assert rule.sources
    assert set(rule.sources) <= set(registry())
    assert rule.needs
    assert set(rule.needs) <= set(SECTIONS) - {"run"}


@pytest.mark.parametrize("rule", rules())
def test_severity_follows_confidence(rule):
    severities = {rule.severity, *(f.severity for facts in failing(rule) for f in found(facts, rule))}
    if Severity.ERROR in severities:
        assert rule.confidence is Confidence.FACT or rule.name in MEASURED_ERRORS


def test_rules_do_no_io_and_import_nothing_heavy():
    code = "import sys, lora_advise.rules as r; assert r.RULES; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "peft", "yaml", "jinja2", "rich", "lora_advise.rules.run_rules"} & set(loaded)
    for path in (ROOT / "rules").glob("*.py"):
        calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)}
        assert not calls & {"open", "print", "input", "eval", "exec", "__import__"}, path.name


def test_the_page_is_up_to_date():
    written = (ROOT / "docs" / "rules.md").read_text("utf-8")
    assert written == page(RULES), "python -m lora_advise.rules_page > docs/rules.md"
