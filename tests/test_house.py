"""The house: packaging, import direction, sizes of files and functions, documents."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "advisor": "lora_advise",
    "rules": "lora_advise.rules",
    "templates": "lora_advise.templates",
    "runner": "lora_advise.runner",
}
SOURCES = [path for room in ROOMS for path in sorted((ROOT / room).glob("*.py"))]
HEAVY = {"torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "numpy"}


def imports(path: Path, *, top_level: bool) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    nodes = tree.body if top_level else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_only_the_runner_imports_torch(path: Path) -> None:
    names = {name.split(".")[0] for name in imports(path, top_level=False)}
    if path.parent.name != "runner":
        assert not names & HEAVY - {"numpy"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_nothing_imports_the_runner_at_module_level(path: Path) -> None:
    if path.parent.name != "runner":
        assert not any(name.startswith("lora_advise.runner") for name in imports(path, top_level=True))


def test_rules_import_only_nouns_and_arithmetic() -> None:
    allowed = {
        "facts",
        "finding",
        "rule",
        "rates",
        "adapters",
        "adapter_limits",
        "adapter_paths",
        "model_kernels",
        "memory",
        "plan",
        "run_facts",
        "section",
        "rules",
        "curve",
        "tasks",
        "reading",
        "document",
        "sheet",
        "dialect",
        "suppressions",
        "unknown",
        "published",
        "program_settings",
    }
    for path in (ROOT / "rules").glob("*.py"):
        for name in imports(path, top_level=False):
            if name.startswith("lora_advise."):
                part = name.split(".")[1]
                assert part in allowed or part.startswith(("memory_", "signal_", "curve_", "run_")), (path.name, name)


def test_nouns_import_no_knowledge() -> None:
    for noun in ("section", "facts", "finding", "errors", "sources", "request"):
        names = {
            n.split(".")[1]
            for n in imports(ROOT / "advisor" / f"{noun}.py", top_level=True)
            if n.startswith("lora_advise.")
        }
        assert names <= {"section", "facts", "model_facts", "errors", "finding", "package_data"}, noun


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1 - len((ast.get_docstring(node) or "").split("\n"))
            assert length <= 60, node.name


def test_no_broad_except() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, path
                assert ast.unparse(node.type) not in ("Exception", "BaseException"), path


@pytest.mark.slow
def test_the_wheel_holds_every_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    for room, package in ROOMS.items():
        for path in (ROOT / room).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                assert f"{package.replace('.', '/')}/{path.relative_to(ROOT / room)}" in names, path


MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:home|root|work|tmp|mnt|opt|check|workspace|Users)/(?!\.{3})\w")
"""A place of one machine; ``~/...`` and paths inside a repository are none."""


def test_the_repository_speaks_of_the_project_alone() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for name in listed:
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 2_000_000 and not name.startswith((".ci/", "tests/test_house.py")):
            try:
                text = path.read_text("utf-8")
            except UnicodeDecodeError:
                continue
            assert not MACHINE_PATH.search(text), name
