"""Unsloth's ``get_peft_model``: what it takes, which layers it adapts and what it makes of them."""

from __future__ import annotations

from typing import Any

from lora_advise.dialect import Step
from lora_advise.document import Config, Unresolved
from lora_advise.program_lenses import closed_in, keywords_of, put_targets
from lora_advise.program_settings import LORA, WRAP, called, is_open
from lora_advise.sheet import Sheet
from lora_advise.targets_as import paths_of
from lora_advise.unknown import UnknownFact

FLAGS = ("finetune_vision_layers", "finetune_language_layers", "finetune_attention_modules", "finetune_mlp_modules")
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LORA: dict[str, Any] = {
    "lora.r": 16, "lora.lora_alpha": 16.0, "lora.lora_dropout": 0.0, "lora.target_parameters": (), "lora.exclude_modules": None,
    "lora.modules_to_save": (), "lora.layers_to_transform": None, "lora.trainable_token_indices": None,
    "lora.ensure_weight_tying": False, "lora.bias": "none", "lora.use_rslora": False, "lora.use_dora": False,
    "lora.init_lora_weights": True, "lora.loraplus_lr_ratio": None, "lora.task_type": "CAUSAL_LM",
}  # fmt: skip
_WRAP = {
    "model", "r", "target_modules", "lora_alpha", "lora_dropout", "bias", "layers_to_transform", "layers_pattern", "use_rslora",
    "finetune_last_n_layers", "use_gradient_checkpointing", "random_state", "max_seq_length", "modules_to_save",
    "init_lora_weights", "loftq_config", "temporary_location", "qat_scheme", "target_parameters", "ensure_weight_tying",
    "offload_layers", "checkpoint_skip_layers", "prefetch_depth", "task_type", *FLAGS, "finetune_audio_layers",
}  # fmt: skip
"""What ``FastLanguageModel.get_peft_model`` takes itself; the rest goes to ``LoraConfig``, which refuses what it does not know."""
_EMBEDDINGS = ("embed_tokens", "lm_head")


def _adapter(sheet: Sheet) -> None:
    """``get_peft_model`` makes the adapter, unless the whole model is trained; taken for no where the run decides."""
    stated = sheet.entry("full_finetuning")
    full = stated is not None and not isinstance(stated.value, Unresolved) and sheet.flag("full_finetuning")
    if full or not called(sheet.config, WRAP, LORA):
        return
    sheet.present.add("lora")
    if not is_open(sheet.config, WRAP):
        for fact, value in _LORA.items():
            if fact not in sheet.facts and fact not in sheet.unknown:
                sheet.put(fact, value)


def _targets(sheet: Sheet) -> None:
    """The seven projections of a text model; embeddings among them are trained whole instead."""
    if "lora" not in sheet.present:
        return
    modules = sheet.value("target_modules")
    if isinstance(modules, tuple):
        moved = [name for name in modules if name in _EMBEDDINGS]
        put_targets(sheet, tuple(name for name in modules if name not in _EMBEDDINGS))
        if moved and "lora.modules_to_save" in sheet.facts:
            saved = dict.fromkeys((*sheet.facts["lora.modules_to_save"], *moved))
            sheet.put("lora.modules_to_save", tuple(saved), "lora.modules_to_save", "target_modules")
    elif isinstance(modules, str) and modules != "all-linear":
        put_targets(sheet, modules)
    elif called(sheet.config, WRAP)[:1] == ("FastLanguageModel.get_peft_model",) and modules is None:
        if is_open(sheet.config, WRAP):
            raise UnknownFact("lora.target_modules")
        sheet.put("lora.target_modules", _TARGETS)
    else:
        _every_linear(sheet)
    _scope(sheet)


def _scope(sheet: Sheet) -> None:
    """``FastLanguageModel`` leaves vision and audio alone, the others do where a flag says so; fused experts follow the MLP."""
    model, text_only = sheet.model, called(sheet.config, WRAP)[:1] == ("FastLanguageModel.get_peft_model",)
    if model is None:
        return
    towers = paths_of(model, ("vision", "audio", "projector"))
    names = sheet.facts["lora.target_modules"]
    if towers and sheet.flag("finetune_vision_layers", not text_only) is False:
        sheet.put("lora.exclude_modules", towers, "finetune_vision_layers", said="Unsloth, for text models")
    if not sheet.facts.get("lora.target_parameters") and isinstance(names, tuple):
        wanted = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"}
        fused = {wanted[name] for name in names if name in wanted}
        experts = [m.name for m in model.modules if m.role == "expert" and m.kind == "parameter" and m.name in fused]
        if experts:
            paths = tuple(f"mlp.experts.{name}" for name in experts)
            sheet.put("lora.target_parameters", paths, said="Unsloth, for experts")


def _every_linear(sheet: Sheet) -> None:
    """``FastModel`` and ``FastVisionModel`` choose the layers by their flags; known where all of a text model are meant."""
    text = sheet.model is not None and not any(m.role in ("vision", "audio") for m in sheet.model.modules)
    if not text or any(sheet.value(flag, True) is False for flag in FLAGS[2:]):
        raise UnknownFact("lora.target_modules")
    sheet.put("lora.target_modules", "all-linear", "target_modules", *FLAGS)


def closed(config: Config) -> dict[str, frozenset[str]]:
    """The calls of which every keyword is known."""
    found = closed_in(config)
    if called(config, WRAP)[:1] == ("FastLanguageModel.get_peft_model",):
        found[WRAP] = keywords_of(LORA) | _WRAP
    return found


ADAPTER = Step(("lora",), _adapter)
TARGETS = Step(("lora.target_modules",), _targets)
