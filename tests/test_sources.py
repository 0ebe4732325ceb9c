"""The registry of sources: complete, honest about how far each was read, and holding every id that code cites."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lora_advise import guide_statements as guides
from lora_advise.evidence_page import page
from lora_advise.rules import RULES
from lora_advise.sources import registry, source

ROOT = Path(__file__).resolve().parent.parent
CODE = [path for room in ("advisor", "rules", "runner") for path in sorted((ROOT / room).glob("*.py"))]
KINDS = {"paper", "measured", "code", "own", "convention", "seed", "vendor", "arithmetic"}


def strings(node: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def named_sources(tree: ast.AST) -> set[str]:
    """Literal strings in arguments and variables that are named sources, and in the fifth argument of rule()."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg and node.arg.endswith("sources"):
            found |= strings(node.value)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(t, ast.Name) and t.id.lower().endswith("sources") for t in targets):
                found |= strings(node.value)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "rule"
            and len(node.args) >= 5
        ):
            found |= strings(node.args[4])
    return found


def test_entries_are_complete_and_unique() -> None:
    import json

    rows = json.loads((ROOT / "advisor" / "data" / "sources.json").read_text("utf-8"))
    ids = [row["id"] for row in rows]
    assert len(ids) == len(set(ids))
    for row in rows:
        assert set(row) == {"id", "kind", "title", "where", "says", "read"}, row["id"]
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", row["id"])
        assert row["kind"] in KINDS, row["id"]
        assert row["read"] in ("full", "part", "summary"), row["id"]
        assert len(row["title"]) >= 4, row["id"]
        assert row["title"] != row["id"]
        assert row["where"], row["id"]
        assert len(row["says"]) >= 30, row["id"]
        assert row["says"].endswith("."), row["id"]
    assert list(registry()) == ids
    assert source("hu-2021").kind == "paper"
    with pytest.raises(KeyError):
        source("nobody-1900")


def test_papers_name_where_they_can_be_found() -> None:
    for entry in registry().values():
        if entry.kind == "paper":
            assert re.search(r"arXiv \d{4}\.\d{4,5}", entry.where), entry.id


@pytest.mark.parametrize("path", CODE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_source_that_code_names_is_registered(path: Path) -> None:
    cited = named_sources(ast.parse(path.read_text("utf-8")))
    assert not cited - set(registry())


def test_the_scan_sees_sources() -> None:
    found = set().union(*(named_sources(ast.parse(path.read_text("utf-8"))) for path in CODE))
    assert {"lwr-2025", "dettmers-2023", "peft-code"} <= found


def test_every_source_of_a_rule_is_registered() -> None:
    for rule in RULES:
        assert rule.sources, rule.name
        assert not set(rule.sources) - set(registry()), rule.name


def test_the_evidence_page_is_up_to_date() -> None:
    written = (ROOT / "docs" / "evidence.md").read_text("utf-8")
    assert written == page(), "run: python -m lora_advise.evidence_page > docs/evidence.md"


def test_the_evidence_page_lists_everything_and_links_within_itself() -> None:
    text = page()
    for name in registry():
        assert f'<a id="source-{name}"></a>' in text, name
    for number in guides.statements():
        assert f"| {number} |" in text, number
    assert len(guides.contradictions()) >= 15
    anchors = set(re.findall(r'<a id="([^"]+)"', text))
    assert set(re.findall(r"\(#([^)]+)\)", text)) <= anchors
    widths = [(line, line.replace("\\|", "").count("|")) for line in text.splitlines() if line.startswith("|")]
    assert {count for _, count in widths} == {5, 6, 7}


def test_the_page_is_written_as_its_own_comment_says() -> None:
    done = subprocess.run([sys.executable, "-m", "lora_advise.evidence_page"], capture_output=True, check=True)
    assert done.stdout.decode("utf-8").replace("\r\n", "\n") == page()
