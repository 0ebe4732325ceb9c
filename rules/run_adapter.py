"""Rules about the adapter's own state during a run."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.rule import rule
from lora_advise.run_facts import Run
from lora_advise.signal_adapter import frozen
from lora_advise.signal_curves import hits


@rule("adapter-frozen", "RUN008", Severity.ERROR, Confidence.FACT, ("hu-2021", "peft-code", "diagnosis-corpus"))
def adapter_frozen(run: Run) -> Iterator[Hit]:
    """The adapter does not change although steps are counted.

    Why: B starts at zero, so the first update already moves it. Norms that stand still mean that no gradient arrives
    (checkpointing without input gradients) or that the optimizer holds other parameters.
    Example: {"step": [40, 80, 120, 160, 200], "loss": [1.5, 1.49, 1.42, 1.39, 1.38], "norm_b": [0.0, 0.0, 0.0, 0.0,
    0.0]}
    Instead: {"step": [40, 80, 120, 160, 200], "loss": [1.5, 1.42, 1.4, 1.39, 1.38], "norm_b": [0.1, 0.3, 0.4, 0.45,
    0.46]}
    Evidence: arithmetic of AdamW: the first step is about the learning rate in every element with a gradient.
    Known problems: only our own runner records the norms; in other logs loss-repeats and gradient-zero are what shows.
    """
    yield from hits(frozen(run), "train.activation_checkpointing", "lora.target_modules")


ADAPTER_RULES = (adapter_frozen,)
