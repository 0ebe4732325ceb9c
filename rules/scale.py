"""Rules about the product of adapter scale and learning rate: the one number that decides whether a run diverges or
idles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import sqrt
from typing import NamedTuple

from lora_advise.facts import Facts, LoraFacts, TaskFacts, TaskFamily, TrainFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.rates import (
    Band,
    Region,
    alpha_for,
    band,
    format_lr,
    loraplus_factor,
    lr_for,
    optimizer_factor,
    region,
    round_lr,
    run_e2,
)
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.unknown import unknown_fields

SUPERVISED = ("sft", "classification", "pretraining", "reward")
UNSWEPT = 2e-5 * sqrt(32)
"""Half of the lowest E2 that was swept (tinker-sweep, 4e-5 at alpha 32)."""
MEASURED_CLIFF = 3e-3 * sqrt(32)
"""E2 at which about 101 of 112 runs diverged (tinker-sweep)."""


_NOT_SUPERVISED = {"rl", "beta", "ref", "dpo", "kto", "orpo", "grpo", "ppo", "reward", "pref", "generations", "rollout"}
"""Parts of keys that speak of preferences or rewards, where rates are lower."""


_OTHER_MODELS = re.compile(r"bert|bge|embed|rerank|\be5\b|\bgte\b|whisper|\bt5\b|clip|speech|audio|tts", re.IGNORECASE)
"""Parts of the names of models that are trained for something else than to write text."""


def speaks_of_rewards(config: Reading | None) -> bool:
    """Whether a file whose task is unknown has settings of preference optimization or of RL."""
    if config is None:
        return False
    return any(_NOT_SUPERVISED & set(str(entry.path[0]).lower().split("_")) for entry in config.config.entries)


def _supervised_text(config: Reading) -> bool:
    """Whether a file that does not say its task may be taken for supervised training of a language model on text."""
    return config.config.shape != "calls" and not config.has("adapter_path") and not speaks_of_rewards(config)


def _writes_no_text(config: Reading | None) -> bool:
    """Whether the model that a file names is an encoder or hears and speaks, by its name."""
    entry = config.written.get("model") if config is not None else None
    return entry is not None and _OTHER_MODELS.search(str(entry.value)) is not None


def settled(train: TrainFacts) -> TrainFacts:
    """The run with AdamW, where a script does not say its optimizer: it is the default of every trainer."""
    return train.changed({"optim": "adamw_torch"}) if "optim" in unknown_fields(train) else train


def judge(facts: Facts, otherwise: TaskFamily | None = None) -> tuple[float, Band, Region] | None:
    """E2 of the run, its band and its place in it; None when the bands do not apply.

    ``otherwise`` is the family that a run of unknown task is taken for.
    """
    family = facts.task.family if facts.task is not None else otherwise
    if family is None or facts.lora is None or facts.train is None:
        return None
    value = run_e2(facts.lora, settled(facts.train))
    if value is None:
        return None
    bounds = band(family, facts.model.billions if facts.model else None, facts.model.kind if facts.model else None)
    return value, bounds, region(value, bounds)


def explain(lora: LoraFacts, train: TrainFacts, value: float) -> str:
    """The effective scale under the run's own scaling mode, and E2, in words."""
    if lora.use_rslora:
        scale = f"rsLoRA scales by alpha/sqrt(r) = {lora.lora_alpha:g}/sqrt({lora.r}) = {lora.scale:.3g}"
    else:
        scale = f"the adapter is scaled by alpha/r = {lora.lora_alpha:g}/{lora.r} = {lora.scale:.3g}"
    extra, train = "", settled(train)
    if optimizer_factor(train.optim) != 1.0:
        extra += f", Lion's rate counted {optimizer_factor(train.optim):g} times"
    if loraplus_factor(lora.loraplus_lr_ratio) != 1.0:
        extra += (
            f", LoRA+ ratio {lora.loraplus_lr_ratio:g} counted as {loraplus_factor(lora.loraplus_lr_ratio):.2g} times"
        )
    product = f"{format_lr(train.learning_rate)} * sqrt({lora.alpha_eff:.4g}) = {format_lr(value)}"
    return f"{scale}, so E2 = lr * sqrt(alpha_eff) = {product}{extra}"


class WaysBack(NamedTuple):
    """The best learning rate at this alpha, and the highest sound alpha of 1 or more at this learning rate, if there is
    one: each does it alone.
    """

    rate: Change
    alpha: Change | None
    words: str
    """Both as a clause."""

    def hit(self, message: str, severity: Severity | None = None) -> Hit:
        """The finding that offers them."""
        fields = ("train.learning_rate", "lora.lora_alpha")
        return Hit(message, fields, (self.rate,), severity, instead=(self.alpha,) if self.alpha else ())


def ways_back(lora: LoraFacts, train: TrainFacts, value: float, bounds: Band) -> WaysBack:
    """How a run whose E2 is ``value`` gets back into the band."""
    factor = value / (train.learning_rate * sqrt(lora.alpha_eff))
    rate = round_lr(lr_for(bounds.best, lora.alpha_eff) / factor)
    alpha = alpha_for(bounds.warn / 1.5, train.learning_rate * factor) / (sqrt(lora.r) if lora.use_rslora else 1.0)
    words = f"set the learning rate to {format_lr(rate)} at alpha {lora.lora_alpha:g}"
    change = Change("train.learning_rate", rate)
    if alpha < 1:
        return WaysBack(change, None, f"{words}; no alpha of 1 or more would do at this learning rate")
    other = Change("lora.lora_alpha", round(alpha))
    return WaysBack(change, other, f"{words}, or alpha to {other.value:g} at this learning rate")


@rule(
    "scale-times-rate-diverges",
    "LRS101",
    Severity.ERROR,
    Confidence.MEASURED,
    ("tinker-sweep", "scale-experiment", "e2-metric"),
)
def scale_times_rate_diverges(lora: LoraFacts, train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """The learning rate times the square root of the effective alpha lies where training diverges.

    Why: high alpha and a high learning rate are one mistake, not two: both multiply the update. With AdamW and B = 0
        the
        highest rate that still trains falls as 1/sqrt(alpha_eff), whatever the rank, where alpha_eff is alpha, or
        alpha * sqrt(r) with rsLoRA. alpha/r says nothing about it.
    Example:
        train: {learning_rate: 0.002}
        lora: {lora_alpha: 128}
    Instead:
        train: {learning_rate: 0.00015}
        lora: {lora_alpha: 128}
    Evidence: 3e-3 at alpha 32 (1.7e-2) diverged in about 101 of 112 swept runs, and the 11 survivors were 8.6 % worse;
        in
        190 runs of our own the cliff lay at one value of lr * sqrt(alpha_eff) within 1.2 times over a 64-fold range of
        alpha.
    Known problems: between 1e-2 and 1.7e-2 nothing was measured and trainers ship recipes (2e-3 at alpha 64 for a small
        model), so there it is a warning. AdamW and Lion only; initializations with B other than zero are not
        judged.
    """
    # Whatever an unknown task is: preference optimization and RL take lower rates still.
    judged = judge(facts, "sft")
    if judged is None or judged[2] != "diverges":
        return
    value, bounds, _ = judged
    unsure = value < MEASURED_CLIFF * (1 - 1e-9) or "optim" in unknown_fields(train)
    ways = ways_back(lora, train, value, bounds)
    yield ways.hit(
        f"Training at {format_lr(train.learning_rate)} will most likely diverge: {explain(lora, train, value)}, above "
        f"the bound of {format_lr(bounds.diverge or 0)}; of some 112 measured runs at 1.7e-2 about 101 diverged. "
        f"The way back: {ways.words}.",
        Severity.WARNING if unsure else None,
    )


@rule(
    "scale-times-rate-high",
    "LRS102",
    Severity.WARNING,
    Confidence.MEASURED,
    ("tinker-sweep", "baseten-2026", "e2-metric"),
)
def scale_times_rate_high(task: TaskFacts, lora: LoraFacts, train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """The learning rate times the square root of the effective alpha lies where some models became unstable.

    Why: the basin is lopsided. Four times too low costs a few per cent of loss, three times too high loses the run.
    Example:
        train: {learning_rate: 0.0015}
    Instead:
        train: {learning_rate: 0.0003}
    Evidence: 1e-3 at alpha 32 (5.7e-3) was best for several models below 8 B, cost 1.7 % on average and diverged at 70
        B; from
        30 B on the bound is therefore 4e-3. For continued pretraining it is 2.5e-3.
    Known problems: a short run on a small model may well like such a rate; a three-point sweep tells.
    """
    if task.family not in SUPERVISED:
        return
    judged = judge(facts)
    if judged is None or judged[2] != "high":
        return
    value, bounds, _ = judged
    ways = ways_back(lora, train, value, bounds)
    yield ways.hit(
        f"The learning rate {format_lr(train.learning_rate)} {'is near the cliff' if value < 2 * bounds.warn else 'is far too high'}: {explain(lora, train, value)}, above "
        f"{format_lr(bounds.warn)}, where some measured models became unstable; {ways.words}.",
    )


ADVISED_LOW = ("domain-adaptation", "knowledge-injection", "vision-language")
"""Tasks whose published rates reach down to 1e-5 on purpose."""


def _low_factor(facts: Facts) -> float:
    """What published practice divides the rate by for reasons of its own: fp16, and 4-bit bases from 30 B on
    (dettmers-2023)."""
    factor = 1.0
    if facts.train is not None and "dtype" not in unknown_fields(facts.train) and facts.train.dtype == "float16":
        factor *= 2
    if facts.model is not None and facts.model.billions >= 30 and facts.method == "qlora":
        factor *= 2
    return factor


def _low_hits(
    facts: Facts, wanted: Region, say: str, sure: float | None = None, config: Reading | None = None
) -> Iterator[Hit]:
    """Runs in that region; a note above ``sure`` (E2), where that is given, and where a file does not say the task."""
    task, lora, train = facts.task, facts.lora, facts.train
    guessed = task is None and config is not None and _supervised_text(config)
    judged = judge(facts, "sft" if guessed else None)
    if judged is None or lora is None or train is None or (task is not None and task.name in ADVISED_LOW):
        return
    if _writes_no_text(config):
        return
    value, bounds, _ = judged
    judged_value = value * _low_factor(facts)
    if region(judged_value, bounds) != wanted:
        return
    rate = ways_back(lora, train, value, bounds).rate
    copied = " It is a rate of full fine-tuning, a tenth of what adapters take." if train.learning_rate <= 5e-5 else ""
    yield Hit(
        f"The learning rate {format_lr(train.learning_rate)} {say}: {explain(lora, train, value)}, while the best "
        "single value "
        f"is {format_lr(bounds.best)}.{copied} Raise the learning rate towards {format_lr(rate.value)}.",
        ("train.learning_rate", "lora.lora_alpha"),
        (rate,),
        Severity.NOTE if sure is not None and (sure <= judged_value or task is None) else None,
    )


@rule(
    "adapter-under-driven", "LRS103", Severity.WARNING, Confidence.MEASURED, ("tinker-sweep", "lwr-2025", "pissa-2024")
)
def adapter_under_driven(
    lora: LoraFacts, train: TrainFacts, facts: Facts, config: Reading | None = None
) -> Iterator[Hit]:
    """The adapter learns too slowly: the learning rate is far below what supervised LoRA needs.

    Why: LoRA's best rate is about ten times that of full fine-tuning. A rate copied from there trains, and learns
        little.
    Example:
        train: {learning_rate: 0.00002}
    Instead:
        train: {learning_rate: 0.0003}
    Evidence: 4e-5 at alpha 32 cost 2.5 % on average and 9.9 % at worst over 35 swept models; 3e-4 cost 0.2 %.
    Known problems: about one in ten of the files that trainers ship is so slow, most of them demonstrations, or files that
        leave the rate to a default meant for full fine-tuning; their learning is as slow as anybody's. It is a warning below
        half of the lowest rate that was swept, else a note, and so where a script does not say what it trains for. Continuing an adapter that is already good may want such a rate. In fp16, and for QLoRA from 30 B
        on, where
        recipes halve the rate, the bound is halved too.
    """
    yield from _low_hits(facts, "very low", "hardly moves the adapter", UNSWEPT, config)


@rule("rate-conservative", "LRS104", Severity.NOTE, Confidence.CONVENTION, ("tinker-sweep",))
def rate_conservative(task: TaskFacts, lora: LoraFacts, train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """The learning rate is on the low side of what works.

    Why: the loss still falls, a little less than it could in the same number of steps.
    Example:
        train: {learning_rate: 0.00005}
    Instead:
        train: {learning_rate: 0.0002}
    Evidence: 1e-4 at alpha 32 cost 1.2 % on average in the sweep, 4e-5 cost 2.5 %.
    Known problems: a long run makes up for it.
    """
    yield from _low_hits(facts, "low", "is conservative")


SCALE_RULES = (scale_times_rate_diverges, scale_times_rate_high, adapter_under_driven, rate_conservative)
