"""The calibration as ``lora-advise doctor`` shows it: what was measured, and the bands that follow."""

from __future__ import annotations

from typing import Literal

from lora_advise.calibration import (
    DeviceCalibration,
    Spread,
    bands_of,
    calibration_file,
    device_named,
    measured,
    read_calibration,
    switched_off,
)
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import HardwareFacts
from lora_advise.section import Section


class Calibrated(Section):
    """One device of the calibration: least, median and largest of its runs, and the bands that follow."""

    device: str
    runs: int
    last: str
    context: tuple[int, int, int] | None
    reserve_factor: tuple[float, float, float] | None
    forecast_ratio: tuple[float, float, float] | None
    """Measured over predicted; shown only, never applied."""
    context_band: tuple[int, int] | None
    reserve_band: tuple[float, float] | None
    here: bool = False
    """Whether it is the device of this machine."""


class CalibrationState(Section):
    """The calibration of this machine."""

    path: str
    state: Literal["none", "in use", "off", "broken"]
    devices: tuple[Calibrated, ...] = ()
    problem: str = ""
    """Why the file cannot be used, one sentence."""


def calibration_state(hardware: HardwareFacts | None) -> CalibrationState:
    """What the file holds, the device of this machine first. A file that cannot be read is one sentence."""
    path = calibration_file()
    try:
        found = read_calibration(path)
    except LoraAdviseError as error:
        return CalibrationState(path=str(path), state="broken", problem=str(error))
    name = device_named(hardware).casefold() if hardware else None
    rows = [_row(device, here=device.name.casefold() == name) for device in found.devices if device.runs]
    rows.sort(key=lambda row: not row.here)
    state: Literal["none", "in use", "off"] = "off" if switched_off() else "in use" if rows else "none"
    return CalibrationState(path=str(path), state=state, devices=tuple(rows))


def _row(device: DeviceCalibration, *, here: bool) -> Calibrated:
    from lora_advise.memory import CONTEXT, RESERVED

    seen = measured(device)
    bands = bands_of(seen, CONTEXT, RESERVED)
    context = _numbers(seen.context)
    return Calibrated(
        device=device.name, runs=seen.runs, last=device.runs[-1].date,
        context=(int(context[0]), int(context[1]), int(context[2])) if context else None,
        reserve_factor=_numbers(seen.factor), forecast_ratio=_numbers(seen.ratio),
        context_band=bands[0] if bands and seen.context else None,
        reserve_band=bands[1] if bands and seen.factor else None, here=here,
    )  # fmt: skip


def _numbers(spread: Spread | None) -> tuple[float, float, float] | None:
    return (spread.least, spread.middle, spread.most) if spread else None
