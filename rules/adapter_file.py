"""Rules about an adapter's own configuration: ``adapter_config.json`` and the ``LoraConfig`` that becomes one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lora_advise.adapter_paths import matching
from lora_advise.adapters import targeted
from lora_advise.facts import Facts, LoraFacts, ModelFacts
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.said import entry_of, said
from lora_advise.unknown import UnknownFact

_PATTERNS = ("rank_pattern", "alpha_pattern", "lora_rank_pattern", "lora_alpha_pattern")
_PLAIN = re.compile(r"[\w.]+")
_LOCAL = re.compile(r"(?:[~.]{0,2}/|[A-Za-z]:[\\/]).*|.*\\.*|\.{1,2}", re.DOTALL)


def _can_match(key: str, lora: LoraFacts, model: ModelFacts | None) -> bool:
    """Whether that key of a pattern may name an adapted module; true where that is not known."""
    if model is not None:
        modules = targeted(model, lora)
        if not modules or any(module.kind == "parameter" for module in modules):
            return True
        return any(matching(rf"(?:.*\.)?(?:{key})", module.path, model.num_hidden_layers) for module in modules)
    names = lora.target_modules
    if isinstance(names, str) or not _PLAIN.fullmatch(key) or not all(_PLAIN.fullmatch(name) for name in names):
        return True
    return any(key == name or key.endswith(f".{name}") or name.endswith(f".{key}") for name in names)


def _compiles(key: str) -> bool:
    try:
        re.compile(key)
    except re.error:
        return False
    return len(key) <= 200


@rule("pattern-key-unmatched", "TGT322", Severity.WARNING, Confidence.FACT, ("peft-code",))
def pattern_key_unmatched(config: Reading, lora: LoraFacts, facts: Facts) -> Iterator[Hit]:
    """A rank or alpha of its own is set for a module that gets no adapter.

    Why: PEFT looks a module up by the keys of rank_pattern and alpha_pattern only where it puts an adapter; a key that fits
        none changes nothing, and the modules that were meant keep the common rank.
    Example:
        peft: |
            {"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.1-8B", "r": 8, "lora_alpha": 16,
             "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"],
             "rank_pattern": {"k_proj": 32}}
    Instead:
        peft: |
            {"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.1-8B", "r": 8, "lora_alpha": 16,
             "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"],
             "rank_pattern": {"q_proj": 32}}
    Evidence: get_pattern_key in PEFT matches a key from a dot or the beginning to the end of the module's path.
    Known problems: experts that PEFT adapts as one parameter are not judged.
    """
    for name in _PATTERNS:
        try:
            pattern = said(config, name)
        except UnknownFact:
            continue
        keys = [str(key) for key in pattern] if isinstance(pattern, dict) else []
        lost = [key for key in keys if _compiles(key) and not _can_match(key, lora, facts.model)]
        if lost:
            yield Hit(
                f"{name} names {', '.join(lost)[:200]}, which fits no module that gets an adapter, so it changes nothing: write the "
                "end of a module's path, such as layers.0.self_attn.q_proj, or add it to the targets.",
                (f"config.{name}",),
            )


@rule("adapter-frozen-by-mode", "KEY1116", Severity.ERROR, Confidence.FACT, ("peft-code",))
def adapter_frozen_by_mode(config: Reading) -> Iterator[Hit]:
    """A program that trains builds its adapter with inference_mode, which freezes it.

    Why: get_peft_model then leaves no parameter with a gradient, and the optimizer is given nothing to train.
    Example:
        trl: |
            from peft import LoraConfig
            from trl import SFTConfig, SFTTrainer
            lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM", inference_mode=True)
            args = SFTConfig(output_dir="out", learning_rate=2e-4, max_length=512, num_train_epochs=1)
            SFTTrainer("meta-llama/Llama-3.1-8B", args=args, train_dataset=data, peft_config=lora).train()
    Instead:
        trl: |
            from peft import LoraConfig
            from trl import SFTConfig, SFTTrainer
            lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
            args = SFTConfig(output_dir="out", learning_rate=2e-4, max_length=512, num_train_epochs=1)
            SFTTrainer("meta-llama/Llama-3.1-8B", args=args, train_dataset=data, peft_config=lora).train()
    Evidence: tried with peft 0.21.2: no trainable parameter is left. A saved adapter_config.json has it true by itself.
    Known problems: a program that unfreezes the adapter by hand afterwards is reported too.
    """
    entry = config.written.get("inference_mode")
    if config.config.shape == "calls" and entry is not None and entry.value is True and config.facts.train is not None:
        yield Hit(
            "inference_mode=True freezes the adapter, so nothing is trained: leave it out of LoraConfig.",
            ("config.inference_mode",),
        )


@rule("base-not-findable", "KEY1117", Severity.NOTE, Confidence.FACT, ("peft-code",))
def base_not_findable(config: Reading) -> Iterator[Hit]:
    """An adapter's file does not say which base it belongs to, or names a folder of one machine.

    Why: AutoPeftModel, servers and merge tools load the base by this name. Whoever else gets the adapter must be told.
    Example:
        peft: |
            {"peft_type": "LORA", "base_model_name_or_path": "/data/models/base", "r": 8, "lora_alpha": 16,
             "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]}
    Instead:
        peft: |
            {"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.1-8B", "r": 8, "lora_alpha": 16,
             "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]}
    Evidence: PEFT writes the path that the base was loaded from into the file, and loads from it again.
    Known problems: an adapter that never leaves its machine is fine. A relative folder without a dot looks like a name of the Hub.
        Files that are not saved with an adapter, which say inference_mode false, are not judged.
    """
    if (
        config.dialect.name != "peft"
        or str(said(config, "adapter", "")).upper() != "LORA"
        or said(config, "auto_mapping")
    ):
        return
    entry, saved = entry_of(config, "model"), said(config, "inference_mode")
    name = str(said(config, "model", ""))
    if saved is False or (not name and saved is None):
        return
    if entry is None or not name:
        yield Hit(
            "base_model_name_or_path says nothing, so nobody can tell which base the adapter belongs to: write the base's name on "
            "the Hub.",
            ("config.model",) if entry is not None else ("config.adapter",),
        )
    elif _LOCAL.fullmatch(name) or name.count("/") > 1:
        yield Hit(
            "base_model_name_or_path is a folder of one machine, which others cannot load: write the base's name on the Hub before "
            "the adapter is given away.",
            ("config.model",),
        )


ADAPTER_FILE_RULES = (pattern_key_unmatched, adapter_frozen_by_mode, base_not_findable)
