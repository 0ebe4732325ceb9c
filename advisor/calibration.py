"""What this machine's own runs measured: the CUDA context and how much more the allocator reserves than tensors take.

One JSON file in the user's data folder. The runner adds a run after training; the memory forecast of the same device
then takes its bands from there. ``LORA_ADVISE_CALIBRATION=off`` switches that off.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Annotated, NamedTuple

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import GIB, HardwareFacts, Method
from lora_advise.plan import Note
from lora_advise.section import AtLeast, Section, field

CALIBRATION_VERSION = 1
FILE = "calibration.json"
MOST_BYTES = 2**20
"""A larger file is refused: 16 devices with every run that is kept take about half of it."""
MOST_RUNS = 50
"""Runs kept of one device; the oldest go first."""
MOST_DEVICES = 16
LEAST_ALLOCATED = GIB
"""Below, the allocator's blocks of 2 and 20 MiB decide the reserve factor, not the run."""
LARGEST_FACTOR = 3.0
"""A reserve factor beyond is not an allocator's slack: something else was held in the process."""
LARGEST_SIZE = 2**50
"""Bytes beyond which a figure in the file cannot be one of a device."""
LARGEST_CONTEXT = 3 * GIB
"""0.18 to 2.1 GiB are known of measured machines; more than this is another process on the same device."""
CONTEXT_MARGIN = GIB // 8
"""Widens the measured contexts on both sides: kernels are loaded when first used, so the next model's run differs."""
FACTOR_MARGIN = 0.08
"""Widens the measured reserve factors: of nine runs of one RTX 4080, any five so widened hold 95 % of the others."""
ENOUGH_RUNS = 5
"""From so many runs on the measured band replaces the general one; before, it can only widen it."""

Bytes = Annotated[int, AtLeast(1)]
Band = tuple[int, int]
Factors = tuple[float, float]


class NewerCalibrationError(LoraAdviseError):
    """The file was written by a newer version: it is left alone."""


class CalibrationRun(Section):
    """One run on one device: the peaks of its training steps, in bytes."""

    date: str
    """UTC, ISO 8601."""
    versions: dict[str, str] = field(default_factory=dict)
    model: str
    method: Method
    framework: str = "trl"
    devices: Annotated[int, AtLeast(1)] = 1
    allocated: Bytes
    """torch.cuda.max_memory_allocated over the training steps."""
    reserved: Bytes
    """torch.cuda.max_memory_reserved over the training steps."""
    context: Bytes | None = None
    """What the driver says is used, less what torch holds at that moment; None where that cannot be told."""
    predicted: Bytes | None = None
    """What the forecast said ``allocated`` would be."""

    @property
    def reserve_factor(self) -> float | None:
        """Reserved over allocated; None for a run that is too small to tell."""
        if self.allocated < LEAST_ALLOCATED or self.reserved < self.allocated:
            return None
        factor = self.reserved / self.allocated
        return factor if factor <= LARGEST_FACTOR else None

    @property
    def forecast_ratio(self) -> float | None:
        """Measured over predicted tensors; shown, never applied: an error of the forecast is mended in the forecast."""
        return self.allocated / self.predicted if self.predicted else None


class DeviceCalibration(Section):
    """The runs of one device, the oldest first, under the name that the driver gives it."""

    name: str
    runs: tuple[CalibrationRun, ...] = ()


class Calibration(Section):
    """The file. Every device that this user's runs were on."""

    version: int = CALIBRATION_VERSION
    devices: tuple[DeviceCalibration, ...] = ()

    def of(self, name: str) -> DeviceCalibration | None:
        """The device of that name; upper and lower case are the same."""
        return next((d for d in self.devices if d.name.casefold() == name.casefold()), None)


class Spread(NamedTuple):
    """Least, median and largest of some runs."""

    least: float
    middle: float
    most: float
    runs: int


class Measured(NamedTuple):
    """What the runs of one device come to. ``None`` where no run tells."""

    context: Spread | None
    factor: Spread | None
    ratio: Spread | None
    runs: int


def home() -> Path:
    """The user's data folder: ``LORA_ADVISE_HOME``, or the platform's place for data of programs."""
    if own := os.environ.get("LORA_ADVISE_HOME"):
        return Path(own)
    if xdg := os.environ.get("XDG_DATA_HOME"):
        return Path(xdg) / "lora-advise"
    user = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises for a user without a home
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or user / "AppData" / "Local") / "lora-advise"
    if sys.platform == "darwin":
        return user / "Library" / "Application Support" / "lora-advise"
    return user / ".local" / "share" / "lora-advise"


def calibration_file() -> Path:
    """Where the calibration lies, whether or not it is there."""
    return home() / FILE


def switched_off() -> bool:
    """Whether ``LORA_ADVISE_CALIBRATION`` says off."""
    return os.environ.get("LORA_ADVISE_CALIBRATION", "").strip().lower() in {"off", "0", "no", "false"}


def read_calibration(path: Path | None = None) -> Calibration:
    """The calibration of this machine; empty where there is no file yet.

    Raises :class:`LoraAdviseError` for a file that is not one, is too large, or was written by a newer version.
    """
    import json

    path = path or calibration_file()
    way_out = "move it away, or set LORA_ADVISE_CALIBRATION=off"
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return Calibration()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no such path is possible"
        raise LoraAdviseError(f"{path}: cannot read the calibration: {why.lower()}; {way_out}.") from error
    if len(raw) > MOST_BYTES:
        raise LoraAdviseError(f"{path}: is larger than the 1 MiB of a calibration; {way_out}.")
    try:
        content = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise LoraAdviseError(f"{path}: is not JSON, so it is no calibration; {way_out}.") from error
    return _checked(path, content, way_out)


def _checked(path: Path, content: object, way_out: str) -> Calibration:
    from lora_advise.checked import FactError, checked

    version = content.get("version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > CALIBRATION_VERSION:
        raise NewerCalibrationError(
            f"{path}: was written by a newer lora-advise (version {version} of the file, this one reads "
            f"{CALIBRATION_VERSION}); upgrade lora-advise, or set LORA_ADVISE_CALIBRATION=off."
        )
    try:
        found = checked(Calibration, content)
    except FactError as error:
        said = " ".join(str(error).split())[:160].rstrip(".")
        raise LoraAdviseError(f"{path}: is no calibration ({said}); {way_out}.") from error
    for run in (run for device in found.devices for run in device.runs):
        if max(run.allocated, run.reserved, run.context or 1, run.predicted or 1) > LARGEST_SIZE:
            raise LoraAdviseError(f"{path}: is no calibration (a size beyond any device); {way_out}.")
    return found


def measured(device: DeviceCalibration) -> Measured:
    """Medians and ranges of a device's runs."""
    contexts = [run.context for run in device.runs if run.context is not None and run.context <= LARGEST_CONTEXT]
    return Measured(
        context=_spread(contexts),
        factor=_spread([run.reserve_factor for run in device.runs if run.reserve_factor is not None]),
        ratio=_spread([run.forecast_ratio for run in device.runs if run.forecast_ratio is not None]),
        runs=len(device.runs),
    )


def _spread(values: list[int] | list[float]) -> Spread | None:
    if not values:
        return None
    order = sorted(values)
    # statistics.median would do, but its import costs more than all of this module.
    middle = (order[(len(order) - 1) // 2] + order[len(order) // 2]) / 2
    return Spread(order[0], middle, order[-1], len(order))


def calibrated(hardware: HardwareFacts | None, context: Band, factors: Factors) -> tuple[Band, Factors] | None:
    """Bands of context (bytes) and reserve factor that this device's own runs imply; None where there are none.

    ``context`` and ``factors`` are the general bands, which few runs can only widen. The device must have the name that
    the driver gave when the runs were made. A file that cannot be read counts as none; :func:`remarks` says so.
    """
    found = _found(hardware)
    return bands_of(found, context, factors) if isinstance(found, Measured) else None


def bands_of(seen: Measured, context: Band, factors: Factors) -> tuple[Band, Factors] | None:
    """The bands that some runs imply, ``context`` and ``factors`` being the general ones; None where no run tells."""
    if not (seen.context or seen.factor):
        return None
    return (_context_band(seen.context) if seen.context else context), _factor_band(seen.factor, factors)


def _context_band(seen: Spread) -> Band:
    return max(0, int(seen.least) - CONTEXT_MARGIN), int(seen.most) + CONTEXT_MARGIN


def _factor_band(seen: Spread | None, general: Factors) -> Factors:
    if seen is None:
        return general
    low, high = max(1.0, seen.least - FACTOR_MARGIN), seen.most + FACTOR_MARGIN
    return (low, high) if seen.runs >= ENOUGH_RUNS else (min(low, general[0]), max(high, general[1]))


def remarks(hardware: HardwareFacts | None) -> tuple[str, ...]:
    """What a forecast on this device has to say of its calibration: what it rests on, or why a file was passed over."""
    found = _found(hardware)
    if isinstance(found, str):
        return (f"The calibration of this machine is not used: {found}",)
    if found is None or not (found.context or found.factor):
        return ()
    runs = f"{found.runs} {'run' if found.runs == 1 else 'runs'}"
    what = [f"the CUDA context of {found.context.runs}"] if found.context else []
    what += [f"the reserve factor of {found.factor.runs}"] if found.factor else []
    few = found.factor is not None and found.factor.runs < ENOUGH_RUNS
    note = f"; fewer than {ENOUGH_RUNS} runs only widen the reserve band" if few else ""
    return (f"Bands calibrated on this machine: {runs}, {' and '.join(what)}{note} (lora-advise doctor).",)


def _found(hardware: HardwareFacts | None) -> Measured | str | None:
    """The device's runs, or why the file cannot be used."""
    if hardware is None or hardware.kind not in ("cuda", "rocm") or switched_off():
        return None
    get = os.environ.get
    path = _place(get("LORA_ADVISE_HOME"), get("XDG_DATA_HOME"), get("HOME"))
    # A search asks this a hundred times: `exists` costs a fraction of a stat that raises.
    if not os.path.exists(path):  # noqa: PTH110
        return None
    try:
        state = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return _looked_up(path, state.st_mtime_ns, state.st_size, device_named(hardware))


@lru_cache(maxsize=8)
def _place(*_: str | None) -> str:
    """The file's path; the settings that it depends on are the key."""
    return str(calibration_file())


@lru_cache(maxsize=32)
def _looked_up(path: str, changed: int, size: int, name: str) -> Measured | str | None:  # noqa: ARG001 - a changed file is another key
    try:
        device = read_calibration(Path(path)).of(name)
    except LoraAdviseError as error:
        return str(error)
    return measured(device) if device else None


def device_named(hardware: HardwareFacts) -> str:
    """The driver's name of the device: a probe of unequal GPUs adds words in brackets."""
    return hardware.name.split(" (the smallest here", 1)[0].strip()


def calibration_notes(hardware: HardwareFacts | None) -> tuple[Note, ...]:
    """The same as notes of an answer."""
    return tuple(Note(kind="assumption", text=words, sources=("own-calibration",)) for words in remarks(hardware))
