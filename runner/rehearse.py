"""Rehearses a training step of the installed libraries without a device, and says what memory it takes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts
from lora_advise.memory_case import length_of
from lora_advise.memory_static import WORKSPACES
from lora_advise.plan import MemoryPart
from lora_advise.rehearsal import PARTS, STAGES, Rehearsal, StagePeak
from lora_advise.runner.cuda_shapes import FLASH
from lora_advise.runner.meta_device import flash_by_name
from lora_advise.runner.meta_model import Blueprint, attention_of, blueprint
from lora_advise.runner.meta_repairs import repair_notes
from lora_advise.runner.quiet import quiet_libraries
from lora_advise.runner.rehearsal_depth import Depths, depths_of
from lora_advise.runner.rehearsal_refusals import check_rehearsable, refusal
from lora_advise.runner.rehearsal_step import Traced, trace

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
    check_rehearsable(facts)
    walks = _walks(facts)
    runs = [_shortened(facts, n) for n in SHORT_ROWS] if walks else [facts]
    with quiet_libraries(), _heard() as said, flash_by_name():
        plan = blueprint(facts)
        try:
            depths = depths_of(plan, runs[0], full=full)
            found = [_whole(depths, [trace(plan, run, depth) for depth in depths.traced]) for run in runs]
        except LoraAdviseError:
            raise
        except REFUSALS as error:
            raise refusal(facts, error) from error
    low, high = SHORT_ROWS
    times = (length_of(facts, facts.train) - high) / (high - low) if walks and facts.train else 0.0
    notes = _notes(plan, facts, tuple(dict.fromkeys(said)))
    if walks:
        how = f"rows of {low} and {high} tokens, and a line through them"
        notes += (f"The mixers' reference code walks through a row token by token: {how}.",)
    return _result(_line(found[0], found[-1], times), depths, notes)


def _walks(facts: Facts) -> bool:
    """Whether the mixers' reference code would walk through a long row, token by token."""
    known = facts.model is not None and facts.model.model_type in WALKERS
    return known and facts.train is not None and length_of(facts, facts.train) > SHORT_ROWS[1]


def _shortened(facts: Facts, length: int) -> Facts:
    data = facts.data.changed({"max_tokens": None}) if facts.data else None
    return facts.changed({"data": data, "train": facts.train.changed({"max_length": length}) if facts.train else None})


class _Peaks(NamedTuple):
    """Bytes of every stage by what they are for, what the allocator reserves for one byte, and trained parameters."""

    stages: dict[str, dict[str, int]]
    share: float
    trained: int


def _whole(depths: Depths, traces: list[Traced]) -> _Peaks:
    """The line through the traced depths, at the model's own."""
    found = []
    for traced in traces:
        grouped = depths.grouped(traced)
        stages = {name: peak.parts for name, peak in grouped.items()}
        share = traced.reserved / max(peak.bytes for peak in grouped.values())
        found.append(_Peaks(stages, max(1.0, share), traced.trained))
    first, last = traces[0].depth, traces[-1].depth
    return _line(found[0], found[-1], (depths.layers - last) / (last - first) if last > first else 0.0)


def _line(low: _Peaks, high: _Peaks, times: float) -> _Peaks:
    """So many times the difference beyond the higher one, stage by stage and part by part."""

    def beyond(a: int, b: int) -> int:
        return round(b + times * (b - a))

    stages = {}
    for name, parts in high.stages.items():
        if name not in low.stages:
            # Layers between the two ends, which the smaller depth does not have; none of them is the highest.
            continue
        before = low.stages[name]
        stages[name] = {part: beyond(before.get(part, 0), parts.get(part, 0)) for part in {**parts, **before}}
    return _Peaks(stages, max(low.share, high.share), beyond(low.trained, high.trained))


def _result(peaks: _Peaks, depths: Depths, notes: tuple[str, ...]) -> Rehearsal:
    sizes = {name: sum(parts.values()) + WORKSPACES for name, parts in peaks.stages.items()}
    top = max(sizes, key=lambda name: sizes[name])
    shown = {**peaks.stages[top], "workspaces": WORKSPACES}
    return Rehearsal(
        versions=_versions(), allocated=sizes[top], reserved=round(sizes[top] * peaks.share),
        parts=tuple(MemoryPart(name=n, label=PARTS[n], bytes=b) for n, b in shown.items() if b > 0),
        peak_stage=STAGES[top],
        stages=tuple(StagePeak(stage=STAGES[n], bytes=sizes[n]) for n in STAGES if n in sizes),
        trainable_params=peaks.trained, layers=depths.layers, traced=depths.traced, notes=notes,
    )  # fmt: skip


def _notes(plan: Blueprint, facts: Facts, said: tuple[str, ...]) -> tuple[str, ...]:
    quantised = facts.quant is not None and (facts.quant.load_in_4bit or facts.quant.load_in_8bit)
    found = repair_notes(plan.class_name, _text_type(plan), quantised=quantised)
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


def _text_type(plan: Blueprint) -> str:
    """Model type of the language model."""
    return str((plan.config.get("text_config") or plan.config).get("model_type"))


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
