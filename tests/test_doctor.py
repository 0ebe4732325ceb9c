"""`lora-advise doctor` from outside: what it finds in real and in made-up installations, quickly and without torch."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from lora_advise.calibration import CalibrationRun
from lora_advise.calibration_store import add_run
from lora_advise.cli import main
from lora_advise.doctor import LITTLE_DISK, numbers
from lora_advise.facts import GIB


def doctor(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(["doctor", *words])
    return code, out.getvalue()


def found() -> dict:
    return json.loads(doctor("--format", "json")[1])


def lay(folder: Path, **versions: str) -> Path:
    """A folder of installed packages: their metadata, which is all that the doctor reads."""
    for name, number in versions.items():
        info = folder / f"{name}-{number}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    return folder


def test_versions_are_those_that_are_installed() -> None:
    packages = {package["name"]: package for package in found()["packages"]}
    assert set(packages) >= {"torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets"}
    for name in ("torch", "trl", "bitsandbytes"):
        try:
            assert packages[name]["version"] == version(name)
        except ModuleNotFoundError:
            assert packages[name]["version"] is None
    assert packages["torch"]["least"] == "2.6"


def test_text_and_json_say_the_same() -> None:
    code, text = doctor()
    report = found()
    assert code == int(any(problem["level"] == "error" for problem in report["problems"]))
    for package in report["packages"]:
        assert package["name"] in text
        assert (package["version"] or "not there") in text
    for command in report["commands"]:
        assert command["name"] in text
    assert "On a CPU nothing is calibrated" in " ".join(text.split())


def test_an_old_torch_stops_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(lay(tmp_path, torch="2.4.1")))
    code, text = doctor()
    assert code == 1
    assert "torch 2.4.1 is older than 2.6" in text
    assert "pip install --upgrade 'torch>=2.6'" in " ".join(text.split())
    assert not next(c for c in found()["commands"] if c["name"].startswith("run,"))["works"]


def seen_with(folder: Path, *absent: str) -> tuple[int, dict]:
    """The doctor in a Python that finds our own package and the base libraries, and not the absent ones."""
    script = (
        "import sys, importlib.metadata as m\n"
        f"absent = {absent!r}\n"
        "real = m.Distribution.from_name.__func__\n"
        "def named(cls, name):\n"
        "    if name in absent: raise m.PackageNotFoundError(name)\n"
        "    return real(cls, name)\n"
        "m.Distribution.from_name = classmethod(named)\n"
        "from lora_advise.cli import main\n"
        "code = main(['doctor', '--format', 'json'])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=folder)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


TRAINING = ("torch", "transformers", "peft", "trl", "accelerate", "datasets")


def test_without_the_training_extra_all_is_well(tmp_path: Path) -> None:
    code, report = seen_with(tmp_path, *TRAINING, "bitsandbytes")
    assert code == 0
    assert report["problems"] == []
    works = {command["name"]: command["works"] for command in report["commands"]}
    assert works["advice, lint, memory, diagnose"]
    assert not works["run, --run"]
    assert seen_with(tmp_path, *TRAINING[1:], "bitsandbytes")[0] == 0


@pytest.mark.skipif(
    any(__import__("importlib").util.find_spec(name) is None for name in TRAINING), reason="needs [run]"
)
def test_a_part_of_the_training_extra_is_an_error(tmp_path: Path) -> None:
    code, report = seen_with(tmp_path, "trl", "datasets")
    assert code == 1
    [problem] = report["problems"]
    assert problem["text"] == "Training lacks trl, datasets, so `run` stops."
    assert "lora-advise[run]" in problem["way_out"]
    code, report = seen_with(tmp_path, "bitsandbytes")
    assert code == 0
    assert "bitsandbytes is not installed" in report["problems"][0]["text"]


def test_the_card_its_driver_and_its_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\ncase $1 in *driver*) echo 580.65.06;; "
        "*) echo '0, GPU-1, NVIDIA L4, 23034, 8.9, [N/A]'; echo '1, GPU-2, NVIDIA L4, 23034, 8.9, [N/A]';; esac\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    run = CalibrationRun(date="2026-11-24T10:00:00+00:00", model="m\x1b[31mx", method="qlora", allocated=8 * GIB,
                         reserved=9 * GIB, context=GIB // 2, predicted=10 * GIB)  # fmt: skip
    add_run("NVIDIA A100\x1b[31m\nred", run)
    add_run("NVIDIA L4", run)
    report = found()
    assert report["machine"]["driver"] == "580.65.06"
    assert (report["machine"]["gpus"]["count"], report["machine"]["gpus"]["name"]) == (2, "NVIDIA L4")
    first, second = report["calibration"]["devices"]
    assert (first["device"], first["here"], second["here"]) == ("NVIDIA L4", True, False)
    assert first["context_band"] == [3 * GIB // 8, 5 * GIB // 8]
    assert first["reserve_factor"] == [1.125] * 3
    assert first["forecast_ratio"] == [0.8] * 3
    text = doctor()[1]
    assert "\x1b" not in text
    assert "2 x NVIDIA L4" in text
    assert "0.38 to 0.62 GiB" in text
    assert "1.12" in text
    monkeypatch.setenv("LORA_ADVISE_CALIBRATION", "off")
    assert found()["calibration"]["state"] == "off"


def test_a_cpu_build_beside_a_card_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if torch.version.cuda or torch.version.hip:
        pytest.skip("this torch is a build for a GPU")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, GPU-1, NVIDIA L4, 23034, 8.9, [N/A]'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    code, text = doctor()
    assert code == 0
    assert "torch is a build for the CPU" in text


def test_little_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = found()
    assert report["machine"]["disk_free"] > 0
    monkeypatch.setattr("lora_advise.doctor.LITTLE_DISK", report["machine"]["disk_free"] * 2)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "not" / "made"))
    warned = found()
    assert sum("disk are free" in problem["text"] for problem in warned["problems"]) == 2
    assert warned["machine"]["models_folder"] == str(tmp_path / "not" / "made" / "hub")
    assert LITTLE_DISK > GIB


def test_versions_compare_by_numbers() -> None:
    assert numbers("2.13.0+cu128") > numbers("2.6")
    assert numbers("5.0") == numbers("5") == numbers("5.0.0.dev1")
    assert numbers("0.49.2") < numbers("0.50")
    assert numbers("unknown") == ()


def test_an_unknown_format_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--format", "xml"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.slow
def test_it_is_quick_and_imports_no_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from lora_advise.cli import main; c = main(['doctor']); "
               "assert not {'torch', 'transformers', 'peft'} & set(sys.modules); sys.exit(c)"]  # fmt: skip
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, cwd=tmp_path)
        taken.append(time.perf_counter() - began)
        assert done.returncode in (0, 1), done.stderr
    # 0.3 s on a machine that is not shared; a busy one is given as much again.
    assert min(taken) < 0.6
