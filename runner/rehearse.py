"""Rehearses a training step of the installed libraries without a device, and says what memory it takes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts
from lora_advise.memory_case import length_of
from lora_advise.memory_static import WORKSPACES
from lora_advise.plan import MemoryPart
from lora_advise.rehearsal import PARTS, STAGES, Rehearsal, StagePeak
from lora_advise.runner.cuda_shapes import FLASH
from lora_advise.runner.meta_device import flash_by_name
from lora_advise.runner.meta_model import Blueprint, attention_of, blueprint
from lora_advise.runner.quiet import quiet_libraries
from lora_advise.runner.rehearsal_depth import Depths, depths_of
from lora_advise.runner.rehearsal_step import Traced, trace
from lora_advise.runner.storage_trace import Peak

LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")
WALKERS = ("mamba", "falcon_mamba", "jamba", "recurrent_gemma", "kimi_linear", "minimax")
SHORT_ROWS = (128, 256)
"""Tokens at which models are rehearsed whose mixers run in a loop without the packages for their kernels."""
REFUSALS = (
    RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError, ImportError,
    AssertionError, ZeroDivisionError,
)  # fmt: skip
"""What a library raises when it cannot take the step."""


def rehearse(facts: Facts, *, full: bool = False) -> Rehearsal:
    """Trace two optimizer steps and one evaluation step; ``full`` at full depth instead of a line through two depths.

    Raises LoraAdviseError where the installed libraries cannot build the model or take the step without a device.
    """
    if _walks(facts):
        short, longer = (rehearse(_shortened(facts, n), full=full) for n in SHORT_ROWS)
        return _lengthened(short, longer, facts)
    with quiet_libraries(), _heard() as said, flash_by_name():
        plan = blueprint(facts)
        try:
            depths = depths_of(plan, facts, full=full)
            traces = [trace(plan, facts, depth) for depth in depths.traced]
        except LoraAdviseError:
            raise
        except REFUSALS as error:
            reason = " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())[:200]
            raise LoraAdviseError(
                f"--exact: the installed libraries do not take this step on the meta device ({type(error).__name__}: "
                f"{reason}); leave --exact out for the closed form."
            ) from error
    return _result(plan, facts, depths, traces, tuple(dict.fromkeys(said)))


def _walks(facts: Facts) -> bool:
    """Whether the mixers' reference code would walk through a long row, token by token."""
    known = facts.model is not None and facts.model.model_type in WALKERS
    return known and facts.train is not None and length_of(facts, facts.train) > SHORT_ROWS[1]


def _shortened(facts: Facts, length: int) -> Facts:
    data = facts.data.changed({"max_tokens": None}) if facts.data else None
    return facts.changed({"data": data, "train": facts.train.changed({"max_length": length}) if facts.train else None})


def _lengthened(short: Rehearsal, longer: Rehearsal, facts: Facts) -> Rehearsal:
    """A straight line through two short rows: without attention scores, memory grows with the tokens."""
    low, high = SHORT_ROWS
    times = (length_of(facts, facts.train) - high) / (high - low) if facts.train else 0.0

    def at_length(a: int, b: int) -> int:
        return round(b + times * (b - a))

    before = {stage.stage: stage.bytes for stage in short.stages}
    stages = tuple(
        StagePeak(stage=s.stage, bytes=at_length(before.get(s.stage, s.bytes), s.bytes)) for s in longer.stages
    )
    parts_before = {part.name: part.bytes for part in short.parts}
    parts = tuple(
        part.changed({"bytes": at_length(parts_before.get(part.name, part.bytes), part.bytes)}) for part in longer.parts
    )
    top = max(stages, key=lambda stage: stage.bytes)
    said = f"The mixers' reference code walks through a row token by token: rows of {low} and {high} tokens, and a line through them."
    return longer.changed(
        {
            "stages": stages, "parts": parts, "allocated": top.bytes, "peak_stage": top.stage,
            "reserved": at_length(short.reserved, longer.reserved), "notes": (*longer.notes, said),
        }
    )  # fmt: skip


def _result(plan: Blueprint, facts: Facts, depths: Depths, traces: list[Traced], said: tuple[str, ...]) -> Rehearsal:
    """The line through the traced depths, at the model's own."""
    first, last = traces[0], traces[-1]
    times = (depths.layers - last.depth) / (last.depth - first.depth) if last.depth > first.depth else 0.0

    def at_depth(low: float, high: float) -> int:
        return round(high + times * (high - low))

    stages, parts = {}, {}
    grouped = [depths.grouped(t) for t in traces]
    for name, peak in grouped[-1].items():
        if name not in grouped[0]:
            # Layers between the two ends, which the smaller depth does not have; none of them is the highest.
            continue
        before = grouped[0][name]
        stages[name] = at_depth(before.bytes, peak.bytes) + WORKSPACES
        parts[name] = {part: at_depth(before.parts.get(part, 0), size) for part, size in peak.parts.items()}
    top = max(stages, key=lambda name: stages[name])
    shown = {**parts[top], "workspaces": WORKSPACES}
    return Rehearsal(
        versions=_versions(), allocated=stages[top], reserved=_reserved(grouped, traces, stages[top]),
        parts=tuple(MemoryPart(name=n, label=PARTS[n], bytes=b) for n, b in shown.items() if b > 0),
        peak_stage=STAGES[top],
        stages=tuple(StagePeak(stage=STAGES[n], bytes=stages[n]) for n in STAGES if n in stages),
        trainable_params=at_depth(first.trained, last.trained), layers=depths.layers, traced=depths.traced,
        notes=_notes(plan, facts, said),
    )  # fmt: skip


def _reserved(grouped: list[dict[str, Peak]], traces: list[Traced], allocated: int) -> int:
    """What the allocator reserves: the same share beyond what is allocated as at the traced depths."""
    shares = [t.reserved / max(p.bytes for p in peaks.values()) for t, peaks in zip(traces, grouped, strict=True)]
    return round(allocated * max(1.0, *shares))


def _notes(plan: Blueprint, facts: Facts, said: tuple[str, ...]) -> tuple[str, ...]:
    found = []
    attention = attention_of(plan, facts)
    if facts.train is not None and attention not in (facts.train.attn_implementation, FLASH):
        found.append(
            f"{plan.class_name} has no {facts.train.attn_implementation} attention, so it runs eager attention."
        )
    if facts.model is not None and (facts.model.has_vision or facts.model.has_audio):
        found.append("The rows are text: towers for images and sound count with their weights, not their activations.")
    if facts.model is not None and facts.model.num_experts:
        found.append("Every expert product counts as one grouped kernel; uneven routing does not change its memory.")
    found += [f"No shape model for a missing kernel: {words}" for words in said]
    return tuple(found)


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class _Listener(logging.Handler):
    """Keeps what transformers says about kernels that it does without."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        """Keep notices of a fallback, a line each."""
        words = " ".join(record.getMessage().split())
        if "falling back" in words or "not available" in words:
            self._said.append(words.split(". ")[0][:200] + ".")


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Notices of transformers go into a list, not to the terminal."""
    logger, said = logging.getLogger("transformers"), list[str]()
    handlers, logger.handlers = logger.handlers, [_Listener(said)]
    try:
        yield said
    finally:
        logger.handlers = handlers
