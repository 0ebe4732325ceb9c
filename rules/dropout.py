"""Rules about the adapter's dropout."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import Facts, LoraFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.rule import rule


@rule("dropout-inert", "RNK207", Severity.ERROR, Confidence.FACT, ("peft-code", "arithmetic"))
def dropout_inert(lora: LoraFacts) -> Iterator[Hit]:
    """Dropout of one or more, or below zero, drops the whole adapter or is refused.

    Why: at one every input of the adapter is zeroed and so is its gradient; outside 0 to 1 torch raises.
    Example:
        lora: {lora_dropout: 1.0}
    Instead:
        lora: {lora_dropout: 0.05}
    Evidence: torch.nn.Dropout.
    Known problems: a percentage (5 for 0.05) is the usual cause.
    """
    if 0 <= lora.lora_dropout < 1:
        return
    guess = lora.lora_dropout / 100
    value = guess if 0 < guess <= 0.2 and lora.lora_dropout > 1 else 0.0
    yield Hit(
        f"A dropout of {lora.lora_dropout:g} leaves nothing of the adapter to train: it must be below 1; set it to "
        f"{value:g}.",
        ("lora.lora_dropout",),
        (Change("lora.lora_dropout", value),),
    )


@rule(
    "dropout-above-published",
    "RNK208",
    Severity.WARNING,
    Confidence.MEASURED,
    ("axolotl-examples", "dettmers-2023", "allora-2024"),
)
def dropout_above_published(lora: LoraFacts) -> Iterator[Hit]:
    """The adapter's dropout is higher than in any published recipe.

    Why: dropout removes part of the adapter's input in every step; above 0.2 it slows learning more than it protects.
    Example:
        lora: {lora_dropout: 0.4}
    Instead:
        lora: {lora_dropout: 0.05}
    Evidence: of 178 shipped configurations the highest is 0.2, once; QLoRA's search ended at 0.1.
    Known problems: nobody has measured 0.3 to 0.5 for adapters; that it is unusual is all that is known.
    """
    if 0.2 < lora.lora_dropout < 1:
        yield Hit(
            f"A dropout of {lora.lora_dropout:g} is above every published recipe (178 configurations, highest 0.2): "
            "use 0 to 0.1.",
            ("lora.lora_dropout",),
            (Change("lora.lora_dropout", 0.05),),
        )


@rule("dropout-rarely-useful", "RNK209", Severity.NOTE, Confidence.CONVENTION, ("dettmers-2023", "unsloth-guide"))
def dropout_rarely_useful(lora: LoraFacts) -> Iterator[Hit]:
    """The adapter's dropout lies above the range in which a benefit was reported.

    Why: QLoRA used 0.1 up to 13 B and 0.05 above; later defaults are 0.
    Example:
        lora: {lora_dropout: 0.15}
    Instead:
        lora: {lora_dropout: 0.1}
    Evidence: defaults and recipes; no controlled study.
    Known problems: several passes over a few hundred rows may profit.
    """
    if 0.1 < lora.lora_dropout <= 0.2:
        yield Hit(
            f"A dropout of {lora.lora_dropout:g} is rarely useful: 0 to 0.1 is what recipes use.",
            ("lora.lora_dropout",),
            (Change("lora.lora_dropout", 0.1),),
        )


@rule("dropout-in-short-run", "RNK210", Severity.NOTE, Confidence.CONVENTION, ("allora-2024",))
def dropout_in_short_run(lora: LoraFacts, facts: Facts) -> Iterator[Hit]:
    """Dropout is used in a run too short for it to average out.

    Why: the regularizing effect of dropout is a mean over many steps; in a short run its noise remains.
    Example:
        lora: {lora_dropout: 0.1}
        train: {max_steps: 120}
    Instead:
        lora: {lora_dropout: 0.0}
        train: {max_steps: 120}
    Evidence: one paper argues and shows it for short fine-tuning.
    Known problems: with a few hundred rows dropout is often chosen on purpose.
    """
    steps = facts.optimizer_steps
    if steps is not None and steps < 200 and 0.05 < lora.lora_dropout <= 0.1:
        yield Hit(
            f"In {steps} steps a dropout of {lora.lora_dropout:g} is mostly noise: set it to 0.",
            ("lora.lora_dropout",),
            (Change("lora.lora_dropout", 0.0),),
        )


DROPOUT_RULES = (dropout_inert, dropout_above_published, dropout_rarely_useful, dropout_in_short_run)
