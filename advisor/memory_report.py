"""The answer of ``lora-advise memory``: one run's forecast, the same run in other stacks, and a sweep around it."""

from __future__ import annotations

from itertools import product
from typing import Any

from lora_advise.calibration import remarks
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import GIB, Facts
from lora_advise.memory import estimate, fit, judge
from lora_advise.memory_stack import TITLES, Stack, stack_of
from lora_advise.memory_ways_out import apply
from lora_advise.memory_weights import check_optimizer
from lora_advise.plan import Fit, MemoryEstimate, MemoryVerdict, TimeEstimate
from lora_advise.rehearsal import Rehearsal
from lora_advise.section import Section
from lora_advise.throughput import forecast as time_forecast

MEMORY_VERSION = 1
COMPARED = ("trl", "transformers", "unsloth", "axolotl", "llamafactory", "ms-swift", "torchtune")
"""Stacks that a run is compared in, in the order of the table; the first two are transformers' own."""
AXES = {
    "seq": "train.max_length", "batch": "train.per_device_train_batch_size", "r": "lora.r",
}  # fmt: skip
"""What ``--grid`` sweeps: the word on the command line and the field."""
CELLS = 512
"""Most combinations of one sweep."""


class StackForecast(Section):
    """The same run in one stack, and what that stack does that moves the figure."""

    framework: str
    fit: Fit
    estimate: MemoryEstimate
    differs: tuple[str, ...]


class GridCell(Section):
    """One combination of a sweep. ``device`` is the band that nvidia-smi will show, in bytes."""

    values: dict[str, int]
    fit: Fit
    allocated: int
    device: tuple[int, int]


class MemoryReport(Section):
    """Everything that the command says."""

    version: int = MEMORY_VERSION
    verdict: MemoryVerdict
    assumed: tuple[str, ...] = ()
    """Assumptions, a sentence each."""
    stacks: tuple[StackForecast, ...] = ()
    grid: tuple[GridCell, ...] = ()
    time: TimeEstimate | None = None
    no_time: str = ""
    """Why there is no time, in a sentence."""
    rehearsal: Rehearsal | None = None
    """The step as the installed libraries take it, with ``--exact``."""


def forecast(
    facts: Facts,
    axes: dict[str, tuple[int, ...]] | None = None,
    assumed: tuple[str, ...] = (),
    price: float | None = None,
) -> MemoryReport:
    """The report on a run. ``axes`` name what is swept (a key of AXES) and its values; ``price`` is for one GPU and hour.

    Raises LoraAdviseError for facts without a model, train or hardware section, and for a length beyond the model's.
    """
    check_length(facts)
    if facts.train:
        check_optimizer(facts.train.optim, "train.optim")
    time = time_forecast(facts, price)
    said = tuple(words for words in remarks(facts.hardware) if words not in assumed)
    return MemoryReport(
        verdict=judge(facts), assumed=(*assumed, *said), stacks=tuple(in_stack(facts, name) for name in comparable(facts)),
        grid=sweep(facts, axes or {}), time=None if isinstance(time, str) else time, no_time=time if isinstance(time, str) else "",
    )  # fmt: skip


def comparable(facts: Facts) -> tuple[str, ...]:
    """The stacks whose behaviour with this run was read: supervised training of a language model; of 4-bit experts, two.

    transformers 5 keeps experts as fused parameters, which bitsandbytes leaves in 16 bits. Unsloth, Axolotl and others
    quantise them in ways of their own, which were not read.
    """
    supervised = facts.task is None or facts.task.trainer == "sft"
    if not supervised or stack_of(facts).loss == "none":
        return ()
    fused = facts.model is not None and any(m.kind == "parameter" for m in facts.model.with_role("expert"))
    return COMPARED[:2] if fused and facts.method == "qlora" else COMPARED


def check_length(facts: Facts) -> None:
    """Refuse a length that the model's positions do not reach."""
    most = facts.model.max_position_embeddings if facts.model else None
    if facts.model and facts.train and most and facts.train.max_length > most:
        raise LoraAdviseError(
            f"train.max_length: {facts.train.max_length:,} tokens are more than the {most:,} positions of {facts.model.name}; "
            "choose a shorter length."
        )


def in_stack(facts: Facts, framework: str) -> StackForecast:
    """The run as that framework would do it, with its defaults."""
    there = apply(facts, {"stack.framework": framework})
    stack = stack_of(there)
    return StackForecast(
        framework=framework, fit=fit(there), estimate=estimate(there), differs=tuple(_differences(stack, facts))
    )


def _differences(stack: Stack, facts: Facts) -> list[str]:
    """What this stack does, one clause each, the largest first."""
    losses = {
        "full": f"the logits are whole: {stack.logit_bytes} B for each token and vocabulary entry",
        "tiled": "the loss is computed in tiles, the logits are never whole",
        "liger": "Liger's fused loss, the logits are never whole",
        "chunked": "the loss in eight chunks, their fp32 log-softmax kept: 5 B for each token and vocabulary entry",
        "adaptive": "the loss in chunks that follow the free memory, 4 GiB at most",
    }
    found = [losses[stack.loss]] if stack.loss in losses else []
    if stack.residual_bytes == 4 and stack.mode.startswith("kbit"):
        found.append("prepare_model_for_kbit_training makes norms, embeddings, head and layer inputs fp32")
    if stack.offloads_checkpoints and facts.train and facts.train.activation_checkpointing:
        found.append("layer inputs wait in host memory")
    if facts.lora is not None:
        found.append(f"adapters in {'fp32' if stack.adapter_bytes == 4 else 'bf16'}")
    return found


def parse_grid(words: list[str]) -> dict[str, tuple[int, ...]]:
    """``seq=1024,2048 batch=1,2`` as axes. Raises LoraAdviseError for what cannot be read."""
    axes: dict[str, tuple[int, ...]] = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in AXES or not text:
            raise LoraAdviseError(f"--grid: {word[:40]!r} is not NAME=N,N,… with a name of {', '.join(AXES)}.")
        values = [part.strip() for part in text.split(",")]
        if not all(value.isdecimal() and 0 < int(value) <= 10**7 for value in values):
            raise LoraAdviseError(f"--grid: {text[:40]!r} must be whole numbers from 1, separated by commas.")
        axes[name] = tuple(sorted({int(value) for value in values}))
    return axes


def with_evaluation(facts: Facts, values: dict[str, Any]) -> dict[str, Any]:
    """The values, with an evaluation batch that follows the micro-batch where the two are the same so far."""
    micro, train = values.get(AXES["batch"]), facts.train
    if micro is None or train is None or train.per_device_eval_batch_size != train.per_device_train_batch_size:
        return values
    return {"train.per_device_eval_batch_size": micro, **values}


def sweep(facts: Facts, axes: dict[str, tuple[int, ...]]) -> tuple[GridCell, ...]:
    """Every combination of the axes, the rest of the run unchanged. Raises LoraAdviseError for too many."""
    combinations = list(product(*axes.values())) if axes else []
    if len(combinations) > CELLS:
        raise LoraAdviseError(f"--grid: {len(combinations):,} combinations are more than {CELLS}; name fewer values.")
    if "r" in axes and facts.lora is None:
        raise LoraAdviseError("--grid: full fine-tuning has no rank; leave r out.")
    if "seq" in axes and facts.data is not None:
        # A row of the data may be shorter than the length that is asked about.
        facts = facts.changed({"data": facts.data.changed({"max_tokens": None})})
    found = []
    for values in combinations:
        named = dict(zip(axes, values, strict=True))
        there = apply(facts, with_evaluation(facts, {AXES[name]: value for name, value in named.items()}))
        check_length(there)
        made = estimate(there)
        found.append(GridCell(values=named, fit=fit(there), allocated=made.allocated, device=made.device))
    return tuple(found)


def title_of(framework: str) -> str:
    """The framework as people write it."""
    return TITLES.get(framework, framework)


def span(report: MemoryReport) -> str:
    """How far the stacks lie apart, as a sentence."""
    low = min(report.stacks, key=lambda row: row.estimate.allocated)
    high = max(report.stacks, key=lambda row: row.estimate.allocated)
    ratio = high.estimate.allocated / max(1, low.estimate.allocated)
    return (
        f"The same settings take {low.estimate.allocated / GIB:.1f} GiB in {title_of(low.framework)} and "
        f"{high.estimate.allocated / GIB:.1f} GiB in {title_of(high.framework)}, {ratio:.1f} times as much."
    )
