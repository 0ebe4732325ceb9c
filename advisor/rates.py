"""Learning rates that can be compared: E2 = lr * sqrt(alpha_eff), its bands, conversions and rounding.

At the start of training B is zero, so the update of a layer grows with lr * alpha_eff where alpha_eff = scale * r: the
        rank
drops out. As training goes on the tolerable rate falls with the square root of alpha_eff (arXiv 2602.06204;
        scale-experiment:
190 runs, optimum ~ alpha^-0.52 r^0.01). The bands are calibrated on runs whose outcome is known (tinker-sweep).
"""

from __future__ import annotations

from math import floor, isfinite, log10, sqrt
from typing import Literal, NamedTuple

from lora_advise.facts import LoraFacts, ModelKind, TaskFamily, TrainFacts

REFERENCE_ALPHA = 32.0
"""The alpha at which the sweeps state their learning rates (tinker-sweep, lwr-2025)."""
BEST_E2 = 3e-4 * sqrt(REFERENCE_ALPHA)
"""3e-4 at alpha 32: 0.2 % mean and 2.6 % worst regret over 35 models (tinker-sweep)."""
LARGE_BILLIONS = 30.0
"""From this size on the upper warning lies lower: Llama-70B diverged at 1e-3 with alpha 32 (tinker-sweep)."""

SCHEDULERS = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy",
)  # fmt: skip
"""Values of ``lr_scheduler_type`` (``SchedulerType`` in transformers 5.24)."""

_STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)
_NON_ZERO_B = ("pissa", "olora", "corda", "loftq", "orthogonal", "lora_ga")

Region = Literal["diverges", "high", "usual", "low", "very low"]


class Band(NamedTuple):
    """Bounds on E2 for one kind of run; a bound that no source gives is ``None``. Units: learning rate *
    sqrt(alpha)."""

    diverge: float | None
    """Above it practically every measured run failed."""
    warn: float
    """Above it some measured runs failed, or every vendor's recipe lies below."""
    low_note: float | None
    """Below it runs are conservative: 0.4 to 2.5 % regret."""
    low_warn: float | None
    """Below it the adapter is under-driven: 2.5 % mean and 9.9 % worst regret."""
    best: float
    """E2 of the rate that the sources agree on."""
    sources: tuple[str, ...]


_BANDS: dict[str, Band] = {
    "sft": Band(1e-2, 6e-3, 4e-4, 2.5e-4, BEST_E2, ("tinker-sweep", "e2-metric", "scale-experiment")),
    "pretraining": Band(1e-2, 2.5e-3, None, 5e-5, 1e-4 * sqrt(32), ("biderman-2024", "unsloth-cpt", "zh-llama-2")),
    "preference": Band(None, 3e-4, None, None, 1e-5 * sqrt(32), ("trl-lr-table", "unsloth-guide", "tinker-docs")),
    "rl": Band(None, 5e-4, None, None, 1e-5 * sqrt(32), ("trl-lr-table", "tinker-docs", "tina-2025")),
    "reward": Band(None, 3e-3, None, None, 1e-4 * sqrt(32), ("llamafactory-defaults", "ms-swift-defaults")),
    "classification": Band(1e-2, 6e-3, 4e-4, 2.5e-4, BEST_E2, ("tinker-sweep", "e2-metric")),
    "encoder": Band(None, 1e-2, None, None, 4e-4 * sqrt(16), ("hu-2021",)),
}


def e2(lr: float, alpha_eff: float) -> float:
    """lr * sqrt(alpha_eff), the quantity in which runs of different alpha and rank compare (arXiv 2602.06204;
    scale-experiment)."""
    return lr * sqrt(alpha_eff)


def lr_for(e2: float, alpha_eff: float) -> float:
    """The learning rate that gives this E2 at this alpha_eff, unrounded."""
    return e2 / sqrt(alpha_eff)


def alpha_for(e2: float, lr: float) -> float:
    """The alpha_eff that gives this E2 at this learning rate, unrounded."""
    return (e2 / lr) ** 2


def convert_lr(lr: float, alpha_eff_from: float, alpha_eff_to: float) -> float:
    """The learning rate that keeps E2 when alpha_eff changes: lr * sqrt(from / to), unrounded (scale-experiment)."""
    return lr * sqrt(alpha_eff_from / alpha_eff_to)


def band(family: TaskFamily, billions: float | None = None, kind: ModelKind | None = None) -> Band:
    """The bounds on E2 for a task family, model size in 1e9 parameters and kind of model.

    Encoders are judged by the LoRA paper's own GLUE settings (hu-2021, tables 9 and 10) whatever the task.
    """
    found = _BANDS["encoder" if kind in ("encoder", "encoder-decoder") else family]
    if found is _BANDS["sft"] and billions is not None and billions >= LARGE_BILLIONS:
        return Band(found.diverge, 4e-3, found.low_note, found.low_warn, found.best, found.sources)
    return found


def region(e2: float, band: Band) -> Region:
    """Where in the band a run lies."""
    if band.diverge is not None and e2 > band.diverge:
        return "diverges"
    if e2 > band.warn:
        return "high"
    if band.low_warn is not None and e2 < band.low_warn:
        return "very low"
    if band.low_note is not None and e2 < band.low_note:
        return "low"
    return "usual"


def optimizer_factor(optim: str) -> float | None:
    """What multiplies the learning rate before it is compared with AdamW's; None when the bands do not apply.

    Lion's sign updates want rates 3 to 10 times below AdamW's (arXiv 2302.06675, section 5), taken as 4. SGD,
        Adafactor,
    Muon, schedule-free and projected optimizers follow other laws.
    """
    name = optim.lower()
    if any(other in name for other in ("schedule_free", "galore", "apollo", "lomo", "prodigy", "muon", "stable")):
        return None
    if "lion" in name:
        return 4.0
    return 1.0 if "adam" in name or "ademamix" in name else None


def loraplus_factor(ratio: float | None) -> float:
    """What LoRA+ adds to E2: B learns ``ratio`` times faster than A, so sqrt(ratio) on the geometric mean (arXiv
    2402.12354)."""
    return sqrt(ratio) if ratio is not None and ratio > 0 else 1.0


def starts_at_zero(lora: LoraFacts) -> bool:
    """Whether B starts at zero, which the bands assume: PiSSA, OLoRA, CorDA and LoftQ do not (peft-code)."""
    start = lora.init_lora_weights
    return start is True or (isinstance(start, str) and not start.lower().startswith(_NON_ZERO_B))


def run_e2(lora: LoraFacts, train: TrainFacts) -> float | None:
    """E2 of a run under its own scaling mode, optimizer and LoRA+ ratio; None when the bands do not apply to it."""
    factor = optimizer_factor(train.optim)
    if factor is None or lora.lora_alpha <= 0 or train.learning_rate <= 0 or not starts_at_zero(lora):
        return None
    return e2(train.learning_rate * factor, lora.alpha_eff) * loraplus_factor(lora.loraplus_lr_ratio)


def round_lr(x: float) -> float:
    """The nearest of {1, 1.5, 2, 3, 4, 5, 7} * 10^k on a logarithmic scale. Raises ValueError unless x is positive
    and finite."""
    if not (isfinite(x) and x > 0):
        raise ValueError(f"a learning rate must be positive and finite, not {x!r}")
    power = floor(log10(x))
    mantissa = min(_STEPS, key=lambda step: abs(log10(x / 10.0**power) - log10(step)))
    return float(f"{mantissa:g}e{power}")


def round_lr_down(x: float) -> float:
    """The largest of {1, 1.5, 2, 3, 4, 5, 7} * 10^k that is not above x. Raises ValueError unless x is positive and
    finite."""
    nearest = round_lr(x)
    power = floor(log10(nearest)) - 1
    candidates = [float(f"{step:g}e{k}") for k in (power, power + 1) for step in _STEPS]
    return max(candidate for candidate in candidates if candidate <= x * (1 + 1e-9))


def format_lr(x: float) -> str:
    """A learning rate as people write it: ``3e-4``, ``1.5e-5``, ``0``."""
    if x == 0:
        return "0"
    if not isfinite(x):
        return str(x)
    mantissa, power = f"{x:.2e}".split("e")
    return f"{float(mantissa):g}e{int(power)}"
