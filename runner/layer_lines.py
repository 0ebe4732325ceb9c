"""One layer of a model in numbers: traced with the real libraries, as straight lines in tokens and length."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from lora_advise.adapter_limits import refused
from lora_advise.adapters import lora_params, targets
from lora_advise.facts import Facts, LoraFacts, ModelFacts, QuantFacts, StackFacts, TaskFacts, TrainFacts
from lora_advise.memory_case import TOWERS
from lora_advise.memory_layers import QUANTITIES, UNPACKED
from lora_advise.runner.meta_model import Blueprint, attention_of
from lora_advise.runner.rehearsal_depth import Depths, depths_of
from lora_advise.runner.rehearsal_step import Traced, trace
from lora_advise.runner.rehearse import WALKERS

MEASURED = (*QUANTITIES, "inputs")
"""And what checkpointing keeps of a layer."""
STATIC = ("weights", "adapters", "optimizer", "gradients")
SCORES_SMALL, SCORES_LARGE = (256, 512), (4096, 8192)
"""Pairs of lengths at which the MLP, and at which attention scores decide the highest moment."""
LENGTH = 2048
"""Long enough that activations, not unpacked matrices, decide which moment of a layer is the highest."""
SHORT = 128
"""For mixers whose reference code walks through the row token by token."""
MANY = 16_384
"""Tokens at which activations outweigh every unpacked matrix."""
CHUNKED, CHUNKS = ("olmo_hybrid", "qwen3_next", "qwen3_5", "qwen3_5_moe"), 1024
"""Types whose reference code goes through a row in chunks, and a length of enough of them: all but one chunk hand a state on."""
RANK = 8
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MODES = {
    # framework, four bits, 16-bit adapters
    "amp": ("trl", False, False), "nf4": ("trl", True, False), "kbit-amp": ("transformers", True, False),
    "no-amp": ("peft", False, False), "kbit": ("peft", True, False), "bf16": ("peft", False, True),
    "full": ("trl", False, False),
}  # fmt: skip
"""How each precision of the closed form comes about."""


Line = tuple[float, float, int]
"""Bytes per token, bytes per token and token of the row, and whether an unpacked matrix comes on top."""


class Setting(NamedTuple):
    """What a layer's memory depends on beside its dimensions."""

    mode: str
    everywhere: bool = True
    """Adapters on all linear layers, or on attention only."""
    dropout: bool = False
    attention: Literal["sdpa", "eager"] = "sdpa"

    @property
    def key(self) -> str:
        """As the table spells it."""
        if self.attention != "sdpa":
            return f"{self.mode}/{self.attention}"
        return f"{self.mode}/{'all' if self.everywhere else 'attention'}/{'dropout' if self.dropout else 'plain'}"


def run(model: ModelFacts, setting: Setting, length: int, *, rows: int = 1, checkpointing: bool = True) -> Facts:
    """A run of that many rows of that length. Several rows have padding, so attention gets a mask."""
    framework, packed, _ = MODES[setting.mode]
    return Facts(
        task=_task(model), model=model, stack=StackFacts(framework=framework),
        lora=LoraFacts(
            r=RANK, lora_alpha=16, lora_dropout=0.1 if setting.dropout else 0.0,
            target_modules=_targets(model, setting),
            task_type="SEQ_CLS" if model.kind == "encoder" else "CAUSAL_LM",
            exclude_modules=tuple(sorted({m.name for m in refused(model, model.modules)})) or None,
        )
        if setting.mode != "full"
        else None,
        quant=QuantFacts(load_in_4bit=packed),
        train=TrainFacts(
            learning_rate=1e-4, per_device_train_batch_size=rows, gradient_accumulation_steps=1, max_length=length,
            per_device_eval_batch_size=rows,
            optim="adamw_torch_fused", activation_checkpointing=checkpointing, attn_implementation=setting.attention,
        ),
    )  # fmt: skip


def _task(model: ModelFacts) -> TaskFacts:
    """Encoders are trained as classifiers."""
    if model.kind == "encoder":
        return TaskFacts(name="classification", family="classification", trainer="classification")
    return TaskFacts(name="chat", family="sft")


def measure(
    plan: Blueprint, model: ModelFacts, setting: Setting, length: int, rows: int = 1, *, padded: bool | None = None
) -> dict[str, float]:
    """The quantities of one layer for that many rows of that length, in bytes."""
    half, found = MODES[setting.mode][2], dict[str, float]()
    for checkpointing in (True, False):
        facts = run(model, setting, length, rows=rows, checkpointing=checkpointing)
        depths = _depths(plan, facts)
        traces = [trace(plan, facts, depth, half_adapters=half, padded=padded, once=True) for depth in depths.traced]
        peaks = [{name: _above(peak) for name, peak in depths.grouped(t).items()} for t in traces]
        at = _line(traces, peaks, plan.layers)
        if checkpointing:
            found["inputs"] = _inputs(traces, peaks) or _residual(setting) * model.hidden_size * length * rows
            inputs = found["inputs"] * plan.layers
            found["hump"] = max(at[n] for n in at if n.startswith("backward")) - inputs
            found["forward"] = at["forward"] - inputs
            found["evaluation"] = at["evaluation"]
        else:
            slope = (peaks[-1]["forward"] - peaks[0]["forward"]) / max(1, traces[-1].depth - traces[0].depth)
            kept = slope if len(traces) > 1 else at["forward"] / plan.layers
            found["kept"] = kept
            found["forward_kept"] = at["forward"] - kept * plan.layers
            found["hump_kept"] = max(at[n] for n in at if n.startswith("backward")) - kept * plan.layers
    copies = _copies(facts, model, setting)
    for name in found:
        whole = plan.layers if name in ("forward", "evaluation") else name in ("kept", "hump")
        found[name] -= whole * copies / plan.layers
    return found


def _inputs(traces: list[Traced], peaks: list[dict[str, float]]) -> float:
    """What checkpointing keeps of one more layer, as the backward pass finds it; 0 where one depth was traced."""
    if len(traces) == 1:
        return 0.0
    last = "backward, last layers"
    return (peaks[-1][last] - peaks[0][last]) / (traces[-1].depth - traces[0].depth)


_KNOWN: dict[tuple[str, str, bool], Depths] = {}


def _depths(plan: Blueprint, facts: Facts) -> Depths:
    """The depths of that model, found once."""
    key = (plan.class_name, json.dumps(plan.config, sort_keys=True), bool(facts.quant and facts.quant.load_in_4bit))
    if key not in _KNOWN:
        _KNOWN[key] = depths_of(plan, facts, full=False)
    return _KNOWN[key]


def _copies(facts: Facts, model: ModelFacts, setting: Setting) -> float:
    """Bytes of the 16-bit copies that autocast makes of fp32 adapters: of all in a forward pass, of a layer's in its turn."""
    if facts.lora is None or setting.mode not in ("amp", "kbit-amp"):
        return 0.0
    # Rows of text never reach the adapters of a tower.
    idle = sum(t.module.lora_params(facts.lora.r) for t in targets(model, facts.lora) if t.module.role in TOWERS)
    return 2.0 * (lora_params(model, facts.lora) - idle)


def _residual(setting: Setting) -> int:
    return 4 if setting.mode.startswith("kbit") else 2


def _above(peak: Any) -> float:
    return float(peak.bytes - sum(peak.parts.get(part, 0) for part in STATIC))


def _line(traces: list[Traced], peaks: list[dict[str, float]], layers: int) -> dict[str, float]:
    first, last = traces[0].depth, traces[-1].depth
    times = (layers - last) / (last - first) if last > first else 0.0
    return {
        name: value + times * (value - peaks[0].get(name, value))
        for name, value in peaks[-1].items() if name in peaks[0] or len(traces) == 1
    }  # fmt: skip


def lines(plan: Blueprint, model: ModelFacts, setting: Setting) -> dict[str, list[Line]]:
    """Each quantity as the highest of a few straight lines, one for each moment of the layer that may be the highest.

    Long rows decide where attention writes its scores; few tokens where an unpacked 4-bit matrix weighs more than they do.
    """
    positions = model.max_position_embeddings or LENGTH
    steps = SHORT if model.model_type in WALKERS else CHUNKS if model.model_type in CHUNKED else LENGTH
    length = min(steps, (window(plan) or 2 * LENGTH) // 2, positions)
    matrix = _unpacked(run(model, setting, length), model)
    found: dict[str, list[Line]] = {name: [] for name in MEASURED}
    if _writes_scores(plan, model, setting):
        most = model.max_position_embeddings or SCORES_LARGE[1]
        for lengths in (SCORES_SMALL, tuple(min(n, most * n // SCORES_LARGE[1]) for n in SCORES_LARGE)):
            for name, line in _through(*(_point(plan, model, setting, n, matrix) for n in lengths)).items():
                found[name].append(line)
    elif not matrix:
        at = _point(plan, model, setting, length, matrix)
        return {name: [(round(at.values[name] / at.tokens, 1), 0.0, 0)] for name in MEASURED}
    else:
        few, more = (_point(plan, model, setting, length, matrix, times=n) for n in (1, 2))
        for name in MEASURED:
            found[name].append((round((more.values[name] - few.values[name]) / (more.tokens - few.tokens), 1), 0.0, 0))
    if matrix:
        short = min(length, SCORES_SMALL[1]) if _writes_scores(plan, model, setting) else length
        small = measure(plan, model, setting, short, length // short, padded=False)
        for name in MEASURED:
            above = small[name] - UNPACKED.get(name, 0) * matrix
            found[name].append((round(above / length - found[name][0][1] * short, 1), found[name][0][1], 1))
    return found


def _targets(model: ModelFacts, setting: Setting) -> str | tuple[str, ...]:
    """All linear layers, but attention alone beside experts: PEFT turns the names of their MLP into the fused experts."""
    if model.with_role("expert"):
        return tuple(sorted({m.name for m in model.with_role("attention") if m.kind == "linear"}))
    return "all-linear" if setting.everywhere else ATTENTION


class Point(NamedTuple):
    """What was measured with that many tokens in rows of that length."""

    length: int
    tokens: int
    values: dict[str, float]


def _point(plan: Blueprint, model: ModelFacts, setting: Setting, length: int, matrix: float, times: int = 1) -> Point:
    """One measurement: of one row, or of enough full rows that no unpacked matrix matters."""
    rows = times * max(1, MANY // length) if matrix else times
    return Point(length, rows * length, measure(plan, model, setting, length, rows, padded=False))


def _through(low: Point, high: Point) -> dict[str, Line]:
    found: dict[str, Line] = {}
    for name in MEASURED:
        a, b = low.values[name] / low.tokens, high.values[name] / high.tokens
        square = (b - a) / (high.length - low.length)
        found[name] = (round(b - square * high.length, 1), round(square, 2), 0)
    return found


def _writes_scores(plan: Blueprint, model: ModelFacts, setting: Setting) -> bool:
    """Whether the whole score matrix exists: in eager attention, and in sdpa where no kernel takes fp32 and shared heads."""
    shared = setting.mode == "kbit" and model.num_key_value_heads < model.num_attention_heads
    return bool(model.num_attention_heads) and (shared or attention_of(plan, run(model, setting, LENGTH)) == "eager")


def window(plan: Blueprint) -> int | None:
    """Tokens that a sliding layer sees; a longer row needs a mask."""
    import transformers

    text = transformers.AutoConfig.for_model(**json.loads(json.dumps(plan.config))).get_text_config()
    kinds = getattr(text, "layer_types", None) or ()
    slides = any("sliding" in str(kind) for kind in kinds) or (not kinds and getattr(text, "use_sliding_window", True))
    window = getattr(text, "sliding_window", None)
    return int(window) if slides and isinstance(window, int) and window > 0 else None


def _unpacked(facts: Facts, model: ModelFacts) -> float:
    """Bytes of the largest quantised matrix in 16 bits, which the closed form counts by itself."""
    from lora_advise.memory_stack import stack_of
    from lora_advise.memory_weights import weights_of

    return float(weights_of(facts, model, stack_of(facts)).dequant)
