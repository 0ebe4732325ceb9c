"""The linter on the development corpus: what is read, errors on files that work for their authors, sick cases found.

The corpus is third-party data beside the repository; without it these tests are skipped.
"""

from __future__ import annotations

import importlib.util
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _bench():
    spec = importlib.util.spec_from_file_location(
        "bench_lint_corpus", ROOT / "tests" / "benchmarks" / "bench_lint_corpus.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BENCH = _bench()
pytestmark = pytest.mark.skipif(
    not BENCH.CORPUS.is_dir(), reason="the development corpus (../shared/corpus) is not there"
)


@pytest.fixture(scope="module")
def files():
    return BENCH.corpus()


def test_nearly_every_file_is_read(files):
    assert not [f.name for f in files if f.error]
    unread = [f.name for f in files if not f.read]
    assert len(unread) <= 0.01 * len(files), unread


def test_errors_on_peers_files_are_rare_and_each_has_a_reason(files):
    peers = [f for f in files if f.peer]
    wrong = [f for f in peers if f.rules("error")]
    assert len(wrong) < 0.01 * len(peers), [(f.name, f.rules("error")) for f in wrong]
    reasons = BENCH.json.loads(BENCH.REASONS.read_text("utf-8"))["errors"]
    for f in wrong:
        assert all(rule in reasons or f"{f.name} {rule}" in reasons for rule in f.rules("error")), f.name


def test_warnings_on_peers_files_are_few(files):
    counts = [sum(x.finding.severity.value == "warning" for x in f.report.shown) for f in files if f.peer and f.read]
    assert statistics.median(counts) <= 1
    frequent = BENCH.Counter(rule for f in files if f.peer for rule in f.rules())
    reasons = BENCH.json.loads(BENCH.REASONS.read_text("utf-8"))["frequent"]
    for rule, count in frequent.items():
        assert rule in reasons or count <= 0.05 * sum(f.peer for f in files), (rule, count)


def test_sick_cases_are_found():
    scored = [
        (row, report) for row, report, _ in BENCH.sick()
        if row.get("confirmed_findings") and row["file_shows_it"] in ("yes", "context") and row.get("detectable") == "yes"
    ]  # fmt: skip
    missed = [row["id"] for row, report in scored if report is None or not BENCH.hits(row, report)]
    assert len(missed) <= 0.05 * len(scored), missed


def test_every_finding_has_a_place(files):
    for f in files:
        for found in f.report.findings if f.read else ():
            assert found.marks, (f.name, found.finding.rule)
            for mark in found.marks:
                text = f.report.document.text
                assert 0 <= mark.span.start <= mark.span.end <= len(text)
                assert mark.span.line == text.count("\n", 0, mark.span.start) + 1
