"""The report of ``lora-advise doctor`` on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_advise.calibration import CONTEXT_MARGIN, ENOUGH_RUNS, FACTOR_MARGIN
from lora_advise.calibration_view import Calibrated, CalibrationState
from lora_advise.doctor import Doctor, Machine
from lora_advise.facts import GIB
from lora_advise.report_page import Page
from lora_advise.report_words import gib, gib_band, plain, size

if TYPE_CHECKING:
    from rich.console import Console


def print_doctor(found: Doctor, console: Console) -> None:
    """Print what was found, the problems last, because that is where a terminal ends."""
    page = Page(console)
    page.put(page.text(f"lora-advise {found.tool_version}, Python {found.python}, {plain(found.platform)}", "bold"))
    page.heading("Libraries")
    grid = page.columns(16, 14, 12, None)
    for package in found.packages:
        state = ("yellow" if package.old else "") if package.version else "dim"
        grid.add_row(
            page.text(package.name), page.text(plain(package.version or "not there"), state),
            page.text(f">= {package.least}" if package.least else "", "dim"), page.text(package.use, "dim"),
        )  # fmt: skip
    page.put(grid)
    page.heading("Commands")
    grid = page.columns(30, None)
    for command in found.commands:
        words = page.text("works", "green") if command.works else page.text(command.why, "yellow")
        grid.add_row(page.text(command.name), words)
    page.put(grid)
    page.heading("This machine")
    for label, value in machine_rows(found.machine):
        page.field(label, value)
    page.heading("Calibration")
    for label, value in calibration_rows(found.calibration):
        page.field(label, value)
    page.heading("Problems")
    if not found.problems:
        page.put(page.text("None.", "green"))
    for problem in found.problems:
        page.field(problem.level, f"{plain(problem.text)} Way out: {plain(problem.way_out)}.", _STYLES[problem.level])
    page.print()


_STYLES = {"error": "red", "warning": "yellow"}


def machine_rows(here: Machine) -> list[tuple[str, str]]:
    """Devices, memory and disk as label and value."""
    rows = [("GPU", "none found by nvidia-smi, rocm-smi or amd-smi")]
    if gpus := here.gpus:
        driver = f", driver {here.driver}" if here.driver else ""
        rows = [("GPU", plain(f"{gpus.count} x {gpus.name}, {gpus.memory_gib:.4g} GiB each{driver}"))]
    if here.host_memory is not None:
        rows.append(("Host memory", gib(here.host_memory)))
    if here.disk_free is not None:
        rows.append(("Disk", f"{gib(here.disk_free)} free here"))
    if here.models_free is not None:
        rows.append(("Models", f"{gib(here.models_free)} free in {plain(here.models_folder)}"))
    return rows


def calibration_rows(found: CalibrationState) -> list[tuple[str, str]]:
    """The file, and for each device what was measured and what it changes."""
    states = {
        "none": "no run has been measured here yet; `lora-advise run` on a GPU does it. On a CPU nothing is calibrated: "
        "host memory is shared, there is no context of its own",
        "in use": "in use: a forecast for a device of the same name takes its bands from there",
        "off": "switched off by LORA_ADVISE_CALIBRATION",
        "broken": "not used, see the problems",
    }
    rows = [("File", plain(found.path)), ("State", f"{states[found.state]}.")]
    for device in found.devices:
        rows += _device_rows(device)
    return rows


def _device_rows(row: Calibrated) -> list[tuple[str, str]]:
    here = ", this machine's device" if row.here else ""
    runs = f"{row.runs} {'run' if row.runs == 1 else 'runs'}"
    rows = [("Device", plain(f"{row.device[:80]}: {runs}, the last {row.last[:25]}{here}"))]
    if row.context and row.context_band:
        low, middle, high = row.context
        band = f"forecast: {gib_band(row.context_band)} ({size(CONTEXT_MARGIN)} wider on both sides)"
        rows.append(("  CUDA context", f"{gib(middle)} ({low / GIB:.2f} to {high / GIB:.2f}); {band}"))
    if row.reserve_factor and row.reserve_band:
        least, usual, most = row.reserve_factor
        band = f"forecast: {row.reserve_band[0]:.2f} to {row.reserve_band[1]:.2f} ({FACTOR_MARGIN:g} wider"
        band += f"; fewer than {ENOUGH_RUNS} runs never narrow the general band)" if row.runs < ENOUGH_RUNS else ")"
        rows.append(("  Reserve factor", f"{usual:.2f} ({least:.2f} to {most:.2f}) times allocated; {band}"))
    if row.forecast_ratio:
        least, usual, most = row.forecast_ratio
        words = f"{usual:.3f} ({least:.3f} to {most:.3f}), measured over predicted tensors; shown only, never applied"
        rows.append(("  Forecast ratio", words))
    return rows
