"""Where the adapter sits: which modules of which layers."""

from __future__ import annotations

import re

from lora_advise.adapter_limits import refused
from lora_advise.adapters import targeted
from lora_advise.draft import Draft
from lora_advise.facts import LinearModule, LoraFacts, ModelFacts
from lora_advise.plan import Confidence


def decide_targets(draft: Draft) -> tuple[LinearModule, ...]:
    """Choose the modules that carry adapters and return them (an override is resolved by PEFT's own rules)."""
    chosen, because, sources, confidence, flips = _targets(draft)
    value = target_expression(draft.model, chosen)
    names = ", ".join(dict.fromkeys(m.name for m in chosen))
    decided = draft.decide(
        "lora.target_modules", "adapter", "Target modules", value,
        shown=names if len(names) <= 90 else f"{names[:87]}...",
        because=because, sources=sources, confidence=confidence, flips=flips,
    )  # fmt: skip
    decide_layers(draft)
    if "lora.target_modules" not in draft.overrides:
        return chosen
    return targeted(draft.model, LoraFacts(r=8, lora_alpha=16, target_modules=decided))


def _targets(draft: Draft) -> tuple[tuple[LinearModule, ...], str, tuple[str, ...], Confidence, str]:
    model = draft.model
    language = tuple(m for m in model.with_role("attention", "mlp", "shared_expert") if m.kind == "linear")
    language = tuple(m for m in language if m not in refused(model, language))
    if model.kind == "ssm" or not language:
        mixers = tuple(m for m in model.with_role("mixer") if m.kind == "linear" and m.name in ("in_proj", "out_proj"))
        mixers = mixers or tuple(m for m in model.with_role("mixer") if m.kind == "linear")
        barred = refused(model, mixers)
        return (
            tuple(m for m in mixers if m not in barred),
            ("A pure state-space model has no attention or MLP: the projections of its mixers hold most weights; the small "
            "x_proj and dt_proj that steer the recurrence stay frozen."
            + (f" PEFT refuses {barred[0].name} here: the mixer's fused kernel would pass the adapter by." if barred else "")),
            ("peft-code", "convention"), "convention",
            "A paper that shows a gain from adapting the recurrence of this family.",
        )  # fmt: skip
    if model.kind in {"encoder", "encoder-decoder"}:
        own = (
            "LoRA's own RoBERTa runs" if model.kind == "encoder" else "LoRA's first runs, none of them on such a model,"
        )
        return (
            language,
            (f"All linear layers of the blocks: {own} adapted query and value only, but at equal parameters spreading "
            "over every layer, MLP included, does better (shown on decoders)."),
            ("hu-2021", "dettmers-2023", "lwr-2025"), "measured" if model.kind == "encoder" else "convention", "An adapter that must stay tiny: then query and value.",
        )  # fmt: skip
    if model.recurrent_layers:
        language, dense, renamed = _beside_experts(model, language)
        return (
            language,
            (f"{model.recurrent_layers} of {model.num_hidden_layers} layers mix tokens by a recurrence; adapting those "
            f"mixers cost 14.8 points on GSM8K in the one study of such hybrids, so adapters go on {dense} only.{renamed}"),
            ("hybrid-2026",), "measured", "A second study: this rests on one paper, read in summary.",
        )  # fmt: skip
    if model.num_experts:
        language, dense, renamed = _beside_experts(model, language)
        return (
            language,
            (f"Mixture of experts: {dense} projections. The {model.num_experts} routed experts are fused parameters that "
            "target_modules does not reach, and adapting them multiplies the adapter by their number; the router stays "
            f"frozen.{renamed}"),
            ("lwr-2025", "peft-code", "gpt-oss-cookbook"), "convention",
            "Held-out loss that plateaus high: add target_parameters for the experts with rank r / active experts.",
        )  # fmt: skip
    if model.has_vision or model.has_audio:
        return (
            language,
            ("The language model's linear layers only, by a pattern: the vision tower stays frozen, because adapters there "
            "remain zero on text and break merging and serving."),
            ("ms-swift-defaults", "llava-1.5", "qwen-vl"), "measured",
            "A new image domain: then also train the projector at a tenth of the rate.",
        )  # fmt: skip
    return (
        language,
        ("All linear layers of every block: the MLP carries most of the gain (MLP-only beats attention-only at equal "
        "parameters), and covering all layers is what matches full fine-tuning."),
        ("lwr-2025", "dettmers-2023", "biderman-2024", "peft-metamath"), "measured",
        "Serving many adapters with tight latency: o_proj alone is the cheapest acceptable choice (amazon-2026).",
    )  # fmt: skip


def _beside_experts(model: ModelFacts, language: tuple[LinearModule, ...]) -> tuple[tuple[LinearModule, ...], str, str]:
    """The layers that can be adapted without the routed experts, their name, and why some were left out."""
    if all(m.role == "attention" for m in language):
        return language, "attention", ""
    if not model.num_experts:
        return language, "attention and MLP", ""
    reached = targeted(model, LoraFacts(r=8, lora_alpha=16, target_modules=target_expression(model, language)))
    if not any(m.role == "expert" for m in reached):
        return language, "attention, shared expert and dense MLP", ""
    attention = tuple(m for m in language if m.role == "attention")
    left = ", ".join(dict.fromkeys(m.name for m in language if m.role != "attention"))
    return (
        attention,
        "attention",
        (
            f" The shared expert and the dense MLP stay frozen too: for {model.model_type} PEFT turns the names {left} "
            "into the fused experts."
        ),
    )


def target_expression(model: ModelFacts, chosen: tuple[LinearModule, ...]) -> tuple[str, ...] | str:
    """Names for target_modules, or a regular expression over full paths when names alone would match other modules."""
    names = tuple(dict.fromkeys(m.name for m in chosen))
    paths = {m.path for m in chosen}
    clash = [
        m for m in model.modules
        if m.path not in paths and any(m.path == n or m.path.endswith(f".{n}") for n in names)
    ]  # fmt: skip
    if not clash:
        return names
    parents: dict[str, list[str]] = {}
    for module in chosen:
        parent, _, name = module.path.rpartition(".")
        parents.setdefault(parent, []).append(name)
    parts = [f"{_pattern(parent)}\\.({'|'.join(dict.fromkeys(kids))})" for parent, kids in parents.items()]
    return "|".join(parts)


def _pattern(path: str) -> str:
    """A regular expression for a path of the catalogue; the part before ``layers`` may carry any wrapper in front."""
    return r".*" + r"\.".join(r"\d+" if part == "*" else re.escape(part) for part in path.split("."))


def decide_layers(draft: Draft) -> None:
    """All layers, and the small choices that stay at their plain values unless there is a reason."""
    draft.decide(
        "lora.layers_to_transform", "adapter", "Layers", None, shown="all",
        because="Every layer: adapting only some is a niche choice (first and last layers, for language transfer).",
        sources=("lwr-2025", "layra-2025"), confidence="measured",
        flips="Keeping the source language intact in a language transfer: layers_to_transform.",
    )  # fmt: skip
