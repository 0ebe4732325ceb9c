"""What ``lora-advise doctor`` finds: versions, devices, memory and disk, the calibration, and what stops a command.

Nothing is imported to be looked at: versions come from the packages' metadata, so torch is never loaded.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Literal

from lora_advise.calibration_view import CalibrationState, calibration_state
from lora_advise.facts import GIB, HardwareFacts
from lora_advise.preflight import NEEDED
from lora_advise.section import Section

DOCTOR_VERSION = 1
OPTIONAL = {
    "bitsandbytes": "4-bit bases and 8-bit optimizers", "flash-attn": "flash_attention_2", "liger-kernel": "fused kernels",
    "huggingface-hub": "models that are not in the catalogue",
}  # fmt: skip
"""Packages that some runs use, and for what."""
INSTALL = "pip install 'lora-advise[run]'"
LITTLE_DISK = 5 * GIB
"""Less free disk than this does not hold the files of a 2B model."""


class Package(Section):
    """One library: its version, and the oldest that our own metadata allows."""

    name: str
    version: str | None
    least: str | None = None
    use: str = ""
    old: bool = False


class Command(Section):
    """Whether a command works with what is installed."""

    name: str
    works: bool
    why: str = ""


class Problem(Section):
    """Something wrong, and the way out; an ``error`` stops a command."""

    level: Literal["error", "warning"]
    text: str
    way_out: str


class Machine(Section):
    """Devices, memory and disk. Sizes in bytes; None where the system does not tell."""

    gpus: HardwareFacts | None
    driver: str | None = None
    host_memory: int | None = None
    disk_free: int | None = None
    """Free on the disk of the current folder, where checkpoints land."""
    models_folder: str = ""
    models_free: int | None = None
    """Free on the disk where the hub's models are kept."""


class Doctor(Section):
    """Everything that the command says."""

    version: int = DOCTOR_VERSION
    tool_version: str
    python: str
    platform: str
    packages: tuple[Package, ...]
    commands: tuple[Command, ...]
    machine: Machine
    calibration: CalibrationState
    problems: tuple[Problem, ...] = ()

    @property
    def exit_code(self) -> int:
        """1 where something stops a command, else 0."""
        return int(any(problem.level == "error" for problem in self.problems))


def examine() -> Doctor:
    """Look at this machine; reads, and changes nothing."""
    from lora_advise import __version__

    packages = installed()
    here = machine()
    state = calibration_state(here.gpus)
    broken = (
        [Problem(level="warning", text=state.problem, way_out="see above; advice goes on without it")]
        if state.problem
        else []
    )
    return Doctor(
        tool_version=__version__, python=platform.python_version(), platform=platform.platform(),
        packages=packages, commands=commands(packages), machine=here, calibration=state,
        problems=(*library_problems(packages), *_machine_problems(packages, here), *broken),
    )  # fmt: skip


def installed() -> tuple[Package, ...]:
    """The libraries that runs use, and the least versions that lora-advise asks for."""
    from importlib.metadata import PackageNotFoundError, requires, version

    try:
        wanted = requires("lora-advise") or []
    except PackageNotFoundError:
        wanted = []
    pattern = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9.]+)")
    least = {match[1].lower().replace("_", "-"): match[2] for text in wanted if (match := pattern.match(text))}
    found = []
    for name in (*NEEDED, *OPTIONAL):
        try:
            here = version(name)
        except PackageNotFoundError:
            here = None
        asked = least.get(name)
        old = here is not None and asked is not None and numbers(here) < numbers(asked)
        found.append(Package(name=name, version=here, least=asked, use=OPTIONAL.get(name, "training"), old=old))
    return tuple(found)


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, without trailing zeros: 2.6.0+cu124 is (2, 6)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in match[0].split(".")] if match else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def commands(packages: tuple[Package, ...]) -> tuple[Command, ...]:
    """Which commands work with these packages."""
    versions = {package.name: package for package in packages}

    def lacks(*names: str) -> str:
        absent = [name for name in names if versions[name].version is None]
        old = [f"{name} {versions[name].version} is too old" for name in names if versions[name].old]
        return "; ".join([f"{', '.join(absent)} not installed"] * bool(absent) + old)

    found = (
        ("advice, lint, memory, diagnose", ""),
        ("run, --run", lacks(*NEEDED)),
        ("run of a 4-bit plan", lacks(*NEEDED, "bitsandbytes")),
        ("memory --exact", lacks(*NEEDED)),
    )
    return tuple(Command(name=name, works=not why, why=why) for name, why in found)


def library_problems(packages: tuple[Package, ...]) -> tuple[Problem, ...]:
    """Libraries that are too old, or a training extra of which only a part is there.

    Without any of its libraries the extra was never wanted, which is no problem; torch alone is often there for others.
    """
    found = [
        Problem(level="error", text=f"{p.name} {p.version} is older than {p.least}, which {'a run' if p.use == 'training' else p.use} needs.",
                way_out=f"pip install --upgrade '{p.name}>={p.least}'")
        for p in packages if p.old
    ]  # fmt: skip
    training = [p for p in packages if p.name in NEEDED]
    absent = [p.name for p in training if p.version is None]
    if absent and any(p.version for p in training if p.name != "torch"):
        names = ", ".join(absent)
        found.append(Problem(level="error", text=f"Training lacks {names}, so `run` stops.", way_out=INSTALL))
    elif not absent and any(p.name == "bitsandbytes" and p.version is None for p in packages):
        text = "bitsandbytes is not installed, so QLoRA plans and 8-bit optimizers stop."
        found.append(Problem(level="warning", text=text, way_out=INSTALL))
    return tuple(found)


def _machine_problems(packages: tuple[Package, ...], here: Machine) -> tuple[Problem, ...]:
    found = []
    torch = any(p.name == "torch" and p.version for p in packages)
    if torch and here.gpus is not None and here.gpus.kind in ("cuda", "rocm") and torch_build() == "cpu":
        text = f"torch is a build for the CPU, so runs would not use {here.gpus.name}."
        found.append(
            Problem(level="warning", text=text, way_out="install the build for your GPU, see pytorch.org/get-started")
        )
    for what, free in (("here", here.disk_free), (f"in {here.models_folder}", here.models_free)):
        if free is not None and free < LITTLE_DISK:
            text = f"Only {free / GIB:.1f} GiB of disk are free {what}."
            way_out = "free some, or use another folder (--out, HF_HOME)"
            found.append(Problem(level="warning", text=text, way_out=way_out))
    return tuple(found)


def torch_build() -> str | None:
    """cpu, or the CUDA or HIP version that the installed torch was built for; read from its version file."""
    from importlib.util import find_spec

    spec = find_spec("torch")
    if spec is None or not spec.origin:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text("utf-8")[:10_000]
    except (OSError, UnicodeDecodeError):
        return None
    built = {m[1]: m[2] for m in re.finditer(r"^(cuda|hip|xpu)\b[^=\n]*= *'([^']*)'", text, re.MULTILINE)}
    return next(iter(built.values()), "cpu")


def machine() -> Machine:
    """Devices, memory and disk of this machine."""
    from lora_advise.local_gpu import driver_version, probe

    gpus = probe()
    models = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub")
    models = Path(os.path.expanduser(models))  # noqa: PTH111 - a user without a home is not an error
    return Machine(
        gpus=gpus, driver=driver_version() if gpus is not None and gpus.kind == "cuda" else None,
        host_memory=host_memory(), disk_free=_free(Path()), models_folder=str(models), models_free=_free(models),
    )  # fmt: skip


def host_memory() -> int | None:
    """Memory of this machine in bytes, or of the container where that allows less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


def _free(folder: Path) -> int | None:
    """Free bytes of the disk of a folder, or of the nearest one above it that is there."""
    import shutil

    for place in (folder.absolute(), *folder.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None
