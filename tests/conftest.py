"""Fixtures for every test: a clean environment, and a realistic piece of advice."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers that each take every core wait for one another

TRAINING = (
    "test_runner.py",
    "test_runner_data.py",
    "test_tiny_model.py",
    "test_adapters.py",
    "test_catalogue_modules.py",
)
"""What needs torch: one worker imports it and runs them all, the others run the rest meanwhile."""

PREFIXES = ("HF_", "CUDA_", "GITHUB_", "TRANSFORMERS_")
NAMES = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "COLUMNS", "LINES", "CI", "TERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


def pytest_collection_modifyitems(items):
    """Keep the tests that need torch together."""
    for item in items:
        if item.path.name in TRAINING:
            item.add_marker(pytest.mark.xdist_group("torch"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No setting of the machine decides a test; the hub is never asked."""
    for name in list(os.environ):
        if name.startswith(PREFIXES) or name in NAMES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def sample():
    """The module with sample advice and plans."""
    spec = importlib.util.spec_from_file_location("sample_advice", Path(__file__).with_name("sample_advice.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def snapshot():
    """Compare text with a file of tests/snapshots; UPDATE_SNAPSHOTS=1 writes it instead."""

    def check(name, text):
        path = Path(__file__).with_name("snapshots") / name
        if os.environ.get("UPDATE_SNAPSHOTS") == "1":
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text("utf-8"), f"{name} changed; UPDATE_SNAPSHOTS=1 accepts it"

    return check
