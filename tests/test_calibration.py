"""Calibration: what runs measured comes back as bands, from outside and through the public functions."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_advise.calibration import (
    CONTEXT_MARGIN,
    ENOUGH_RUNS,
    FACTOR_MARGIN,
    MOST_RUNS,
    CalibrationRun,
    bands_of,
    calibrated,
    calibration_file,
    measured,
    read_calibration,
)
from lora_advise.calibration_store import Peaks, add_run, run_of
from lora_advise.cli import main
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import GIB, HardwareFacts
from lora_advise.memory import CONTEXT, RESERVED, bands, estimate, usable_bytes
from lora_advise.plan_file import read_plan
from lora_advise.run_facts import read_run

CARD = "NVIDIA GeForce RTX 4080"
MEASURED = (
    (3.0324, 3.7949), (4.0413, 4.3574), (9.3413, 9.5527), (6.5311, 6.8809), (6.5324, 7.0977), (11.5068, 13.5566),
    (2.7943, 2.9062), (5.1719, 5.5371), (10.0023, 11.2324),
)  # fmt: skip
"""max_memory_allocated and max_memory_reserved in GiB: nine published runs of one RTX 4080 (can-i-finetune-this)."""
TINY = (0.1, 0.1367)
"""The run of tiny-gpt2 there: its factor of 1.37 is the allocator's block size."""


def run_with(allocated: float, reserved: float, context: float | None = 0.6, **more: object) -> CalibrationRun:
    size = None if context is None else int(context * GIB)
    values = {"date": "2026-11-24T10:00:00+00:00", "model": "Qwen2.5-1.5B", "method": "lora"} | more
    return CalibrationRun(allocated=int(allocated * GIB), reserved=int(reserved * GIB), context=size, **values)


def card(name: str = CARD, kind: str = "cuda") -> HardwareFacts:
    return HardwareFacts(name=name, memory_gib=15.99, kind=kind)


def cli(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(words))
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def local_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An nvidia-smi that names one card; the probe of the product asks it."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    rows = f"0, GPU-1, {CARD}, 16376, 8.9, [N/A]"
    tool.write_text(f"#!/bin/sh\ncase $1 in *driver*) echo 580.65.06;; *) echo '{rows}';; esac\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    return CARD


def test_no_file_changes_nothing() -> None:
    assert calibrated(card(), CONTEXT, RESERVED) is None
    assert read_calibration().devices == ()
    assert not calibration_file().exists()


def test_the_context_comes_from_the_first_run_and_the_factor_from_enough() -> None:
    for number, (allocated, reserved) in enumerate(MEASURED[1:6], 1):
        add_run(CARD, run_with(allocated, reserved))
        context, factors = calibrated(card(), CONTEXT, RESERVED)
        assert context == (int(0.6 * GIB) - CONTEXT_MARGIN, int(0.6 * GIB) + CONTEXT_MARGIN)
        seen = [r / a for a, r in MEASURED[1 : number + 1]]
        if number < ENOUGH_RUNS:
            assert factors[0] <= RESERVED[0]
            assert factors[1] >= RESERVED[1]
        else:
            assert factors == (
                pytest.approx(max(1, min(seen) - FACTOR_MARGIN), rel=1e-6),
                pytest.approx(max(seen) + FACTOR_MARGIN, rel=1e-6),
            )


def test_five_runs_hold_most_of_the_others() -> None:
    """Of nine measured runs, any five in a row give a band that holds the rest more often than the general band."""
    inside = general = total = 0
    for start in range(9):
        chosen = [(start + k) % 9 for k in range(ENOUGH_RUNS)]
        low, high = bands_of(_measured([MEASURED[k] for k in chosen]), CONTEXT, RESERVED)[1]
        for other in set(range(9)) - set(chosen):
            factor = MEASURED[other][1] / MEASURED[other][0]
            total += 1
            inside += low <= factor <= high
            general += RESERVED[0] <= factor <= RESERVED[1]
    assert inside / total >= 0.9
    assert inside > general


def _measured(rows: list[tuple[float, float]]):
    from lora_advise.calibration import DeviceCalibration

    return measured(DeviceCalibration(name=CARD, runs=tuple(run_with(*row) for row in rows)))


def test_a_run_too_small_to_tell_does_not_count() -> None:
    add_run(CARD, run_with(*TINY))
    assert measured(read_calibration().of(CARD)).factor is None
    assert calibrated(card(), CONTEXT, RESERVED)[1] == RESERVED


@given(st.lists(st.tuples(st.floats(1, 700), st.floats(1, 2), st.floats(0.01, 2.9)), min_size=1, max_size=12))
def test_the_bands_hold_every_run_they_came_from(rows: list[tuple[float, float, float]]) -> None:
    from lora_advise.calibration import DeviceCalibration

    runs = tuple(run_with(a, a * f, c) for a, f, c in rows)
    context, factors = bands_of(measured(DeviceCalibration(name="X", runs=runs)), CONTEXT, RESERVED)
    assert 0 <= context[0] <= context[1]
    assert 1 <= factors[0] <= factors[1]
    for run in runs:
        assert context[0] <= run.context <= context[1]
        if run.reserve_factor is not None:
            assert factors[0] <= run.reserve_factor <= factors[1]


@pytest.mark.parametrize(
    ("hardware", "used"),
    [
        (card(), True),
        (card(CARD.upper()), True),
        (card(f"{CARD} (the smallest here; unused: 1 x NVIDIA L4)"), True),
        (card("GeForce RTX 4080"), False),
        (card("NVIDIA H100 80GB HBM3"), False),
        (card(kind="mps"), False),
        (None, False),
    ],
)
def test_only_the_device_of_that_name(hardware: HardwareFacts | None, used: bool) -> None:
    add_run(CARD, run_with(4, 4.4))
    assert (calibrated(hardware, CONTEXT, RESERVED) is not None) == used


def test_the_forecast_of_the_local_card_takes_and_names_it(
    local_card: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("memory", "--model", "Qwen2.5-1.5B", "--micro-batch", "2", "--max-length", "1024", "--format", "json")
    before = json.loads(cli(*words)[1])
    for allocated, reserved in MEASURED[1:6]:
        add_run(local_card, run_with(allocated, reserved, 0.3))
    after = json.loads(cli(*words)[1])
    old, new = before["verdict"]["estimate"], after["verdict"]["estimate"]
    assert before["verdict"]["hardware"] == local_card
    assert new["allocated"] == old["allocated"]
    assert new["device"][0] - new["reserved"][0] == int(0.3 * GIB) - CONTEXT_MARGIN
    assert new["device"][1] - new["reserved"][1] == int(0.3 * GIB) + CONTEXT_MARGIN
    assert new["reserved"][1] == pytest.approx(new["allocated"] * (13.5566 / 11.5068 + FACTOR_MARGIN), rel=1e-4)
    assert after["verdict"]["usable"] > before["verdict"]["usable"]
    assert "own-calibration" in new["sources"]
    assert "own-calibration" not in old["sources"]
    assert "calibrated on this machine: 5 runs" in " ".join(after["assumed"]).lower()
    elsewhere = json.loads(cli(*words, "--gpu", "RTX4090")[1])
    assert "own-calibration" not in elsewhere["verdict"]["estimate"]["sources"]
    answer = json.loads(cli("--model", "Qwen2.5-1.5B", "--task", "chat", "--format", "json")[1])
    assert any("calibrated on this machine" in note["text"] for note in answer["notes"])
    plan = tmp_path / "plan.yaml"
    cli("--model", "Qwen2.5-1.5B", "--task", "chat", "--emit", str(plan))
    planned = json.loads(cli("memory", str(plan), "--format", "json")[1])
    assert "calibrated on this machine" in " ".join(planned["assumed"])
    monkeypatch.setenv("LORA_ADVISE_CALIBRATION", "off")
    assert json.loads(cli(*words)[1]) == before


def test_the_figures_of_a_run_become_an_entry() -> None:
    """Peaks of a published run (Qwen2.5-1.5B, 4.0413 and 4.3574 GiB) with a driver that counts 0.55 GiB more."""
    facts = _facts()
    held = int(4.2 * GIB)
    peaks = Peaks(int(4.0413 * GIB), int(4.3574 * GIB), held, held + int(0.55 * GIB))
    run = run_of(facts, peaks, date="2026-11-24T10:00:00+00:00", versions={"torch": "2.6.0+cu124"})
    assert run.context == int(0.55 * GIB)
    assert run.reserve_factor == pytest.approx(1.0782, abs=1e-4)
    assert run.predicted == estimate(facts).allocated
    assert run.forecast_ratio == pytest.approx(4.0413 * GIB / run.predicted)
    assert run.method == "lora"
    crowded = run_of(facts, peaks._replace(used=held + 9 * GIB), date="", versions={})
    assert crowded.context is None
    assert run_of(facts, peaks._replace(used=held), date="", versions={}).context is None


def test_paged_states_are_not_context() -> None:
    facts = _facts("--optim", "paged_adamw_8bit")
    peaks = Peaks(4 * GIB, 5 * GIB, 5 * GIB, 6 * GIB)
    run = run_of(facts, peaks, date="", versions={})
    # Two 8-bit moments and their scales for each adapter parameter.
    states = estimate(facts).adapter_params * 2 * (1 + 4 / 256)
    assert GIB - run.context == pytest.approx(states, rel=0.01)


def _facts(*words: str):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        plan = str(Path(folder) / "plan.yaml")
        question = ("--model", "Qwen2.5-1.5B", "--task", "chat", "--gpu", "24GB", "--method", "lora")
        assert cli(*question, *words, "--emit", plan)[0] == 0
        return read_plan(Path(plan)).facts


def test_old_runs_go_and_the_file_stays_small() -> None:
    for number in range(MOST_RUNS + 3):
        kept = add_run(CARD, run_with(2, 2 + number / 100))
    runs = read_calibration().of(CARD).runs
    assert kept.runs == len(runs) == MOST_RUNS
    assert runs[0].reserved == int(2.03 * GIB)
    assert calibration_file().stat().st_size < 40_000


BROKEN = {
    "half": b'{"version": 1, "devices": [{"na',
    "list": b"[1, 2]",
    "text": b"\xff\xfe\x00\x01",
    "deep": b"[" * 100_000,
    "large": b'{"version": 1, "devices": []' + b" " * 2**20 + b"}",
    "typo": b'{"version": 1, "devices": [{"name": "X", "runs": [], "colour": 1}]}',
    "negative": b'{"version":1,"devices":[{"name":"NVIDIA GeForce RTX 4080","runs":[{"date":"","model":"","method":"lora",'
    b'"allocated":-5,"reserved":1}]}]}',
    "giant": b'{"version":1,"devices":[{"name":"NVIDIA GeForce RTX 4080","runs":[{"date":"","model":"","method":"lora",'
    b'"allocated":1,"reserved":1' + b"0" * 400 + b"}]}]}",
    "newer": b'{"version": 99, "machines": {}}',
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_a_sentence_and_never_written_over(kind: str, local_card: str) -> None:
    path = calibration_file()
    path.parent.mkdir(parents=True)
    path.write_bytes(BROKEN[kind])
    with pytest.raises(LoraAdviseError) as error:
        read_calibration()
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    code, out, err = cli("memory", "--model", "Qwen2.5-1.5B", "--format", "json")
    assert (code, err) == (0, "")
    assert "calibration of this machine is not used" in " ".join(json.loads(out)["assumed"])
    code, out, _ = cli("doctor", "--format", "json")
    found = json.loads(out)
    assert found["calibration"]["state"] == "broken"
    assert sum("calibration" in problem["text"] for problem in found["problems"]) == 1
    assert path.read_bytes() == BROKEN[kind]
    if kind == "newer":
        with pytest.raises(LoraAdviseError, match="newer"):
            add_run(CARD, run_with(4, 5))
        assert path.read_bytes() == BROKEN[kind]
        return
    kept = add_run(CARD, run_with(4, 5))
    assert kept.aside.read_bytes() == BROKEN[kind]
    assert len(read_calibration().of(local_card).runs) == 1
    path.write_bytes(BROKEN[kind])
    assert add_run(CARD, run_with(4, 5)).aside != kept.aside


def test_writers_wait_for_one_another() -> None:
    threads = [threading.Thread(target=add_run, args=(f"GPU {n}", run_with(4, 5))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {device.name for device in read_calibration().devices} == {f"GPU {n}" for n in range(8)}
    assert [p.name for p in calibration_file().parent.iterdir()] == ["calibration.json"]


def test_a_folder_that_cannot_be_made_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORA_ADVISE_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(LoraAdviseError, match="LORA_ADVISE_HOME"):
        add_run(CARD, run_with(4, 5))
    assert cli("memory", "--model", "8B", "--gpu", "24GB")[0] == 0


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ({"LORA_ADVISE_HOME": "~data/la"}, "~data/la/calibration.json"),
        ({"XDG_DATA_HOME": "~data/xdg"}, "~data/xdg/lora-advise/calibration.json"),
    ],
)
def test_where_the_file_lies(settings: dict[str, str], ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORA_ADVISE_HOME")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert calibration_file().as_posix().endswith(ends)


def test_without_a_calibration_bands_are_the_general_ones() -> None:
    assert bands(10 * GIB, card())[1][1] == int(10 * GIB * RESERVED[1]) + CONTEXT[1]
    assert usable_bytes(card()) == int(15.99 * GIB) - CONTEXT[0]


@pytest.mark.gpu
@pytest.mark.slow
def test_a_run_on_a_gpu_is_kept_and_used(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    done = subprocess.run(
        [sys.executable, "-m", "lora_advise", "--run", "--out", str(tmp_path / "run")],
        capture_output=True, text=True, timeout=600, env=dict(os.environ),
    )  # fmt: skip
    assert "Calibration: CUDA context" in done.stdout, done.stdout + done.stderr
    run = read_calibration().of(torch.cuda.get_device_name(0)).runs[-1]
    assert run.context is None or 50 * 2**20 < run.context < 3 * GIB
    assert 0 < run.allocated <= run.reserved
    record = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["memory"]
    assert record["peak_allocated"] >= run.allocated
    assert record["context"] > 0


@pytest.mark.slow
def test_a_run_on_a_cpu_keeps_nothing_and_given_peaks_are_kept(tmp_path: Path) -> None:
    """Without a CUDA device only the figures of torch and the driver are missing: the rest of the path is real."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert cli("--run", "--out", str(tmp_path / "run"), "--max-steps", "4")[0] in (0, 1)
    assert not calibration_file().exists()
    record = read_run(tmp_path / "run" / "run.json")
    assert record.memory.context is None
    from rich.console import Console

    from lora_advise.runner.job import make_job
    from lora_advise.runner.record import calibrate

    plan = read_plan(tmp_path / "run" / "lora-advise.yaml")
    job = make_job(plan.facts, tmp_path / "again", Console(file=io.StringIO()), resumed=False)
    assert calibrate(job, record, None) is None
    peaks = Peaks(2 * GIB, int(2.2 * GIB), 2 * GIB, int(2.5 * GIB))
    assert calibrate(job, record.changed({"outcome": "failed"}), peaks) is None
    assert calibrate(job, record.changed({"steps_done": 1}), peaks) is None
    said = calibrate(job, record, peaks)
    assert said.startswith("Calibration: CUDA context 0.50 GiB, reserved 1.10 times allocated; 1 run in")
    run = read_calibration().of(record.device).runs[0]
    assert (run.date, run.versions["torch"]) == (record.ended, record.environment["torch"])
    longest = max(map(len, job.trainer.train_dataset["input_ids"]))
    assert run.predicted == estimate(plan.facts.changed({
        "train": plan.facts.train.changed({"dtype": "float32", "optim": job.effective.optim, "activation_checkpointing": job.effective.checkpointing}),
        "data": plan.facts.data.changed({"max_tokens": longest}),
    })).allocated  # fmt: skip
    path = calibration_file()
    path.write_text("{")
    assert "kept as calibration.json.broken-1" in calibrate(job, record, peaks)
    path.write_text('{"version": 99}')
    assert "newer lora-advise" in calibrate(job, record, peaks)
