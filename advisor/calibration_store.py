"""Adds a run to the calibration of this machine: whole, one writer at a time, nothing broken is written over."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lora_advise.atomic_file import write_text
from lora_advise.calibration import (
    CALIBRATION_VERSION,
    LARGEST_CONTEXT,
    MOST_DEVICES,
    MOST_RUNS,
    Calibration,
    CalibrationRun,
    DeviceCalibration,
    NewerCalibrationError,
    calibration_file,
    read_calibration,
)
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts
from lora_advise.memory import estimate
from lora_advise.memory_case import case_of
from lora_advise.memory_disk import optimizer_bytes
from lora_advise.section import to_json

PATIENCE_S = 5.0
"""How long a writer waits for another; a run is written in milliseconds."""
STALE_S = 60.0
"""A lock of that age was left by a process that died."""


class Peaks(NamedTuple):
    """What torch and the driver say of one device, in bytes."""

    allocated: int
    """torch.cuda.max_memory_allocated over the training steps."""
    reserved: int
    """torch.cuda.max_memory_reserved over the training steps."""
    held: int
    """torch.cuda.memory_reserved when training ended."""
    used: int
    """The driver's used memory at that moment."""

    @property
    def beyond(self) -> int:
        """Bytes that the driver counts beyond torch's: the context, and whatever else lies on the device."""
        return max(0, self.used - self.held)


def run_of(facts: Facts, peaks: Peaks, *, date: str, versions: dict[str, str], devices: int = 1) -> CalibrationRun:
    """One run as the calibration keeps it; ``facts`` are those in effect. Needs the model and train sections.

    Paged optimizer states lie in memory that the driver counts and torch does not, so they are taken off the context.
    More than 3 GiB beyond torch's memory is another process, and leaves the context unknown.
    """
    context = peaks.beyond - _paged(facts)
    return CalibrationRun(
        date=date, versions={name: value[:40] for name, value in versions.items()},
        model=facts.model.name[:200] if facts.model else "", method=facts.method,
        framework=facts.stack.framework if facts.stack else "trl", devices=devices, allocated=peaks.allocated,
        reserved=peaks.reserved, context=context if 0 < context <= LARGEST_CONTEXT else None,
        predicted=estimate(facts).allocated or None,
    )  # fmt: skip


def _paged(facts: Facts) -> int:
    train = facts.train
    return optimizer_bytes(facts, case_of(facts)) if train is not None and "paged" in train.optim.lower() else 0


class Kept(NamedTuple):
    """Where a run was added, and where a broken file was set aside before."""

    path: Path
    aside: Path | None
    runs: int


def add_run(device: str, run: CalibrationRun, path: Path | None = None) -> Kept:
    """Add a run of the device of that name (the driver's) to the file; the oldest of more than 50 goes.

    A file that cannot be read is renamed to ``calibration.json.broken-N`` and a new one begun. Raises
    :class:`LoraAdviseError` where nothing can be written, and for a file of a newer version, which stays as it is.
    """
    path = path or calibration_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoraAdviseError(
            f"{path.parent}: the calibration cannot be kept there ({(error.strerror or 'no such path').lower()}); "
            "set LORA_ADVISE_HOME to another folder."
        ) from error
    with _alone(path.with_name(path.name + ".lock")):
        aside = None
        try:
            before = read_calibration(path)
        except NewerCalibrationError:
            raise
        except LoraAdviseError:
            aside, before = _set_aside(path), Calibration()
        after = _with_run(before, device, run)
        write_text(path, to_json(after, indent=1))
    found = after.of(device)
    return Kept(path, aside, len(found.runs) if found else 0)


def _with_run(before: Calibration, name: str, run: CalibrationRun) -> Calibration:
    old = before.of(name)
    runs = (*(old.runs if old else ()), run)[-MOST_RUNS:]
    others = tuple(device for device in before.devices if device is not old)
    devices = (*others, DeviceCalibration(name=old.name if old else name, runs=runs))[-MOST_DEVICES:]
    return Calibration(version=CALIBRATION_VERSION, devices=devices)


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.broken-{number}")).exists():
        number += 1
    try:
        path.rename(aside)
    except OSError as error:
        raise LoraAdviseError(
            f"{path}: is broken and cannot be renamed ({(error.strerror or 'unknown').lower()}); move it away."
        ) from error
    return aside


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock file. Raises LoraAdviseError when another writer does not let go."""
    end = time.monotonic() + PATIENCE_S
    while not _taken(lock):
        if time.monotonic() > end:
            raise LoraAdviseError(f"{lock}: another process holds the calibration; delete that file if none runs.")
        time.sleep(0.02)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _taken(lock: Path) -> bool:
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        try:
            if time.time() - lock.stat().st_mtime > STALE_S:
                lock.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        return False
    except OSError as error:
        raise LoraAdviseError(
            f"{lock.parent}: the calibration cannot be kept there ({(error.strerror or 'unknown').lower()}); "
            "set LORA_ADVISE_HOME to another folder."
        ) from error
    return True
