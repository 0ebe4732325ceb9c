"""Fixtures for every test: a clean environment, and a realistic piece of advice."""

from __future__ import annotations

import importlib.util
import io
import itertools
import os
import signal
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers that each take every core wait for one another

GROUPS = {
    "training": (
        "test_runner.py",
        "test_runner_data.py",
        "test_tiny_model.py",
        "test_calibration.py",
        "test_memory_disk.py",
    ),
    "classes": ("test_adapters.py", "test_adapters_catalogue.py", "test_catalogue_modules.py", "test_rehearsal.py"),
}
"""What needs torch, in two groups that each stay with one worker: every further process would import it again."""

PREFIXES = ("HF_", "CUDA_", "GITHUB_", "TRANSFORMERS_", "LORA_ADVISE_", "XDG_DATA_")
HOMES = itertools.count()
NAMES = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "COLUMNS", "LINES", "CI", "TERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the tests that need torch together. (xdist 3.8 does not find its own group marks under pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    group_of = {name: group for group, names in GROUPS.items() for name in names}

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group_of.get(nodeid.split("::")[0].rsplit("/", 1)[-1], nodeid)

    return ByGroup(config, log)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path_factory):
    """No setting of the machine decides a test, nor what its runs measured; the hub is never asked."""
    for name in list(os.environ):
        if name.startswith(PREFIXES) or name in NAMES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # A folder of its own, which is not made: most tests keep nothing there.
    monkeypatch.setenv("LORA_ADVISE_HOME", str(tmp_path_factory.getbasetemp() / f"home-{next(HOMES)}"))


class CtrlC(io.StringIO):
    """Somebody watches the lines of a run and presses Ctrl-C at the one that begins with ``at``."""

    def __init__(self, at):
        super().__init__()
        self._at = at

    def write(self, text):
        if text.startswith(self._at):
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


@pytest.fixture
def ctrl_c():
    """A stream for the output of a run, made with the beginning of the line at which Ctrl-C is pressed."""
    return CtrlC


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
