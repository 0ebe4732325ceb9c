"""How reports say how long a run takes, and what it costs."""

from __future__ import annotations

from lora_advise.plan import TimeEstimate
from lora_advise.report_words import amount, number, plain


def time_line(time: TimeEstimate | None, no_time: str = "") -> str:
    """The run's time in one line: hours, cost, seconds per step, tokens per second; or why there is none."""
    if time is None:
        return plain(no_time)
    step = f"{duration_band(time.step_seconds)} for each optimizer step, {_rate(time)}"
    if time.hours is None:
        return plain(step)
    cost = (
        f", which costs {money_band(time.cost)} at {number(time.price)} a GPU hour" if time.cost and time.price else ""
    )
    return plain(f"{duration_band((3600 * time.hours[0], 3600 * time.hours[1]))} for the run{cost}; {step}")


def _rate(time: TimeEstimate) -> str:
    low, high = time.rate
    each = f" on each of {time.devices:,} devices" if time.devices > 1 else ""
    return f"{amount(_rounded(low))} to {amount(_rounded(high))} tokens/s{each}"


def time_detail(time: TimeEstimate | None) -> str:
    """What the time rests on: the share of the stated rates, what is waited for, evaluation, assumptions."""
    if time is None:
        return ""
    low, high = (round(100 * share) for share in time.efficiency)
    looked = (f"{time.evaluation_batches:,} evaluation batches are included",) if time.evaluation_batches else ()
    said = (f"bound by {time.limit}", *looked, *time.assumptions)
    return plain(f"At {low} to {high} % of the stated rates ({time.efficiency_of}); {'; '.join(said)}")


def duration_band(band: tuple[float, float]) -> str:
    """Two lengths of time in the unit that suits the longer: 1.4 to 3.2 h, 40 to 92 min, 4 to 9.2 s."""
    low, high = band
    for size, unit in ((2 * 86400.0, "days"), (3600.0, "h"), (120.0, "min"), (1.0, "s")):
        if high >= size:
            scale = {"days": 86400.0, "h": 3600.0, "min": 60.0, "s": 1.0}[unit]
            return f"{_rounded(low / scale):g} to {_rounded(high / scale):g} {unit}"
    return f"{_rounded(1000 * low):g} to {_rounded(1000 * high):g} ms"


def money_band(band: tuple[float, float]) -> str:
    """Two sums of money without a currency: 2.8 to 6.4, 1,200 to 2,500."""
    low, high = (_rounded(value) for value in band)
    return f"{low:,g} to {high:,g}"


def _rounded(value: float) -> float:
    """Two figures that matter, and whole numbers from a hundred on to three."""
    if value <= 0:
        return 0.0
    return float(f"{value:.3g}") if value >= 100 else float(f"{value:.2g}")


def time_sources(time: TimeEstimate | None) -> tuple[str, ...]:
    """What the forecast of time cites."""
    return time.sources if time else ()
