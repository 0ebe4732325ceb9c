"""Rules about variants of LoRA: PiSSA and its kin, DoRA, LoRA+, NEFTune."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import LoraFacts, QuantFacts, StackFacts, TaskFacts, TrainFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.rates import format_lr
from lora_advise.rule import rule
from lora_advise.rules.precision import SVD_INITS, initialization


@rule("svd-init-scaled", "VAR901", Severity.WARNING, Confidence.MEASURED, ("pissa-2024", "peft-code"))
def svd_init_scaled(lora: LoraFacts) -> Iterator[Hit]:
    """An initialization from the base weights is combined with a scale other than one.

    Why: PiSSA and its kin take the principal part out of the weight and put it into the adapter; the method is defined,
        and was
        measured, with alpha = r.
    Example:
        lora: {init_lora_weights: pissa, r: 16, lora_alpha: 64}
        train: {learning_rate: 0.00002}
    Instead:
        lora: {init_lora_weights: pissa, r: 16, lora_alpha: 16}
        train: {learning_rate: 0.00002}
    Evidence: the paper's settings.
    Known problems: PEFT divides the scale out again at the start, so the first forward pass is right; the steps are
        not.
    """
    if initialization(lora).startswith(SVD_INITS) and abs(lora.scale - 1) > 1e-6:
        yield Hit(
            f"{lora.init_lora_weights} is defined with scale 1, and here it is {lora.scale:.3g}: set alpha to {lora.r} "
            "without rsLoRA.",
            ("lora.lora_alpha", "lora.init_lora_weights"),
            (Change("lora.lora_alpha", lora.r), Change("lora.use_rslora", False)),
        )


@rule("pissa-rate-high", "VAR902", Severity.WARNING, Confidence.MEASURED, ("pissa-2024",))
def pissa_rate_high(lora: LoraFacts, train: TrainFacts) -> Iterator[Hit]:
    """PiSSA runs at a learning rate of plain LoRA.

    Why: its adapter starts with the largest singular values of the weights instead of zero, so the same step moves the
        model
        much more.
    Example:
        lora: {init_lora_weights: pissa, r: 32, lora_alpha: 32}
        train: {learning_rate: 0.0003}
    Instead:
        lora: {init_lora_weights: pissa, r: 32, lora_alpha: 32}
        train: {learning_rate: 0.00002}
    Evidence: the paper's runs use 2e-5.
    Known problems: no sweep above 1e-4 is known.
    """
    if initialization(lora).startswith("pissa") and train.learning_rate > 1e-4:
        yield Hit(
            f"PiSSA at {format_lr(train.learning_rate)}: the paper's runs use 2e-5, since the adapter starts with the "
            "principal part of the weights.",
            ("train.learning_rate",),
            (Change("train.learning_rate", 2e-5),),
        )


@rule("dora-on-sharded-4bit", "VAR903", Severity.WARNING, Confidence.MEASURED, ("dora-2024", "peft-code"))
def dora_on_sharded_4bit(lora: LoraFacts, quant: QuantFacts, stack: StackFacts) -> Iterator[Hit]:
    """DoRA is used on a 4-bit base under ZeRO.

    Why: DoRA needs the norm of every full weight, which is quantized and partitioned there; failures have been
        reported.
    Example:
        lora: {use_dora: true}
        quant: {load_in_4bit: true}
        stack: {sharding: zero3}
        hardware: null
    Instead:
        quant: {load_in_4bit: true}
        stack: {sharding: zero3}
        hardware: null
    Evidence: PEFT's documentation lists it as a known issue.
    Known problems: FSDP has been made to work.
    """
    if lora.use_dora and quant.load_in_4bit and stack.sharding in ("zero2", "zero3"):
        yield Hit(
            f"DoRA on a 4-bit base under {stack.sharding} is known to fail: use plain LoRA, or FSDP.",
            ("lora.use_dora", "stack.sharding"),
            (Change("lora.use_dora", False),),
        )


@rule("loraplus-reversed", "VAR904", Severity.WARNING, Confidence.MEASURED, ("loraplus-2024",))
def loraplus_reversed(lora: LoraFacts) -> Iterator[Hit]:
    """The LoRA+ ratio is below one, which slows B instead of speeding it up.

    Why: the ratio multiplies B's rate. The method's point is that B can learn faster than A.
    Example:
        lora: {loraplus_lr_ratio: 0.5}
    Instead:
        lora: {loraplus_lr_ratio: 4.0}
        train: {learning_rate: 0.00015}
    Evidence: the paper's theory and its grid of ratios from 1 to 64.
    Known problems: none.
    """
    if lora.loraplus_lr_ratio is not None and lora.loraplus_lr_ratio < 1:
        yield Hit(
            f"A LoRA+ ratio of {lora.loraplus_lr_ratio:g} makes B learn more slowly than A: use 4 to 16, or leave it "
            "out.",
            ("lora.loraplus_lr_ratio",),
            (Change("lora.loraplus_lr_ratio", None),),
        )


@rule("loraplus-ratio-large", "VAR905", Severity.WARNING, Confidence.MEASURED, ("loraplus-2024",))
def loraplus_ratio_large(lora: LoraFacts) -> Iterator[Hit]:
    """The LoRA+ ratio is above 32.

    Why: B then takes steps that A's rate was not chosen for; gains were found at 4 to 16.
    Example:
        lora: {loraplus_lr_ratio: 64.0}
        train: {learning_rate: 0.00005}
    Instead:
        lora: {loraplus_lr_ratio: 16.0}
        train: {learning_rate: 0.00015}
    Evidence: the paper's grids.
    Known problems: hard tasks took larger ratios there than easy ones.
    """
    if lora.loraplus_lr_ratio is not None and lora.loraplus_lr_ratio > 32:
        yield Hit(
            f"A LoRA+ ratio of {lora.loraplus_lr_ratio:g} is above what gained anything: use 16 and halve the learning "
            "rate.",
            ("lora.loraplus_lr_ratio",),
            (Change("lora.loraplus_lr_ratio", 16.0),),
        )


@rule("noise-outside-chat", "VAR906", Severity.NOTE, Confidence.MEASURED, ("neftune-2023",))
def noise_outside_chat(task: TaskFacts, train: TrainFacts) -> Iterator[Hit]:
    """Noise on the embeddings is used for a task other than chat, or is very strong.

    Why: NEFTune makes answers longer and better liked. Tasks with one right answer gained nothing.
    Example:
        task: {name: extraction}
        train: {neftune_noise_alpha: 5.0}
    Instead:
        task: {name: extraction}
        train: {neftune_noise_alpha: null}
    Evidence: AlpacaEval rose from 29.8 to 64.7 %, leaderboard tasks not at all; alphas of 5 to 15 were tried.
    Known problems: none.
    """
    alpha = train.neftune_noise_alpha
    if not alpha or (task.name in ("chat", "roleplay") and alpha <= 15):
        return
    if task.name in ("chat", "roleplay"):
        yield Hit(
            f"NEFTune noise of {alpha:g} is above the 5 to 15 that were tried: use 5.",
            ("train.neftune_noise_alpha",),
            (Change("train.neftune_noise_alpha", 5.0),),
        )
    else:
        yield Hit(
            f"NEFTune noise gained nothing outside chat, and the task is {task.name}: turn it off.",
            ("train.neftune_noise_alpha",),
            (Change("train.neftune_noise_alpha", None),),
        )


VARIANT_RULES = (
    svd_init_scaled,
    pissa_rate_high,
    dora_on_sharded_4bit,
    loraplus_reversed,
    loraplus_ratio_large,
    noise_outside_chat,
)
