"""PEFT's ``adapter_config.json`` (checked against 0.21): what an adapter is, without a word on how it was trained."""

from __future__ import annotations

import re

from lora_advise.data_keys import keys_of, version_of
from lora_advise.dialect import Dialect, Lens, Step
from lora_advise.dialect_hf import PEFT_DEFAULTS, model_step
from lora_advise.document import Config
from lora_advise.sheet import Sheet
from lora_advise.targets_as import peft_default
from lora_advise.unknown import UnknownFact

LENSES: tuple[Lens, ...] = (
    Lens("model", "base_model_name_or_path", "word"),
    Lens("adapter", "peft_type", "word"),
    Lens("r", "r", "count"),
    Lens("lora_alpha", "lora_alpha", "number"),
    Lens("lora_dropout", "lora_dropout", "number"),
    Lens("target_modules", "target_modules"),
    Lens("target_parameters", "target_parameters", "names"),
    Lens("exclude_modules", "exclude_modules"),
    Lens("modules_to_save", "modules_to_save", "names"),
    Lens("layers_to_transform", "layers_to_transform"),
    Lens("trainable_token_indices", "trainable_token_indices"),
    Lens("ensure_weight_tying", "ensure_weight_tying", "flag"),
    Lens("bias", "bias", "word"),
    Lens("use_rslora", "use_rslora", "flag"),
    Lens("use_dora", "use_dora", "flag"),
    Lens("init_lora_weights", "init_lora_weights"),
    Lens("task_type", "task_type", "word"),
    Lens("inference_mode", "inference_mode", "flag"),
    Lens("fan_in_fan_out", "fan_in_fan_out", "flag"),
    Lens("rank_pattern", "rank_pattern"),
    Lens("alpha_pattern", "alpha_pattern"),
    Lens("layers_pattern", "layers_pattern"),
    Lens("layer_replication", "layer_replication"),
    Lens("loftq_config", "loftq_config"),
    Lens("lora_bias", "lora_bias", "flag"),
    Lens("use_qalora", "use_qalora", "flag"),
    Lens("revision", "revision", "word"),
    Lens("peft_version", "peft_version", "word"),
)  # fmt: skip
_PLAIN = (
    "r", "lora_alpha", "lora_dropout", "target_parameters", "modules_to_save", "ensure_weight_tying", "bias", "use_rslora",
    "use_dora", "init_lora_weights", "task_type",
)  # fmt: skip
_WORDS = "bnb-4bit|4bit|bnb-8bit|8bit|gptq|awq|int4|int8|fp8|hqq|aqlm|eetq"
_HINTS = re.compile(rf"(?:^|[-_./])({_WORDS})(?=$|[-_./])", re.IGNORECASE)


def _adapter(sheet: Sheet) -> None:
    """A section for LoRA alone: the other kinds have other keys, and where they have the same, other meanings."""
    sheet.present.discard("train")
    if sheet.has("peft_version"):
        sheet.versions.setdefault("peft", str(sheet.value("peft_version")).partition("@")[0])
    if str(sheet.value("adapter", "")).upper() != "LORA":
        return
    sheet.present.add("lora")
    for name in _PLAIN:
        if sheet.has(name):
            sheet.put(f"lora.{name}", sheet.value(name), name)


def _targets(sheet: Sheet) -> None:
    """One text is a pattern, a list are names; without either PEFT chooses by the model's type."""
    modules = sheet.value("target_modules")
    if modules is None and not sheet.has("target_parameters"):
        modules = peft_default(sheet.model)
        if modules is None:
            raise UnknownFact("lora.target_modules")
    named = tuple(map(str, modules or ())) if isinstance(modules, (tuple, type(None))) else modules
    sheet.put("lora.target_modules", named, "target_modules")


def _layers(sheet: Sheet) -> None:
    for name in ("exclude_modules", "layers_to_transform", "trainable_token_indices"):
        value = sheet.value(name)
        if isinstance(value, tuple):
            sheet.put(f"lora.{name}", value, name)
        elif isinstance(value, int) and name == "layers_to_transform":
            sheet.put(f"lora.{name}", (value,), name)
        elif isinstance(value, str) and name == "exclude_modules":
            sheet.put(f"lora.{name}", value, name)
        elif value is not None:
            sheet.unknown.add(f"lora.{name}")


def _quantisation(sheet: Sheet) -> None:
    """Nothing but the base's name says that it was quantised; a plain name says nothing, since it may be on loading."""
    found = _HINTS.search(str(sheet.value("model", "")))
    if found is None:
        return
    word = found[1].lower()
    sheet.put("checkpoint_quantization", word, "model")
    if word in ("bnb-4bit", "4bit"):
        sheet.present.add("quant")
        sheet.put("quant.load_in_4bit", True, "model")
        sheet.put("quant.load_in_8bit", False, "model")


def _recognise(config: Config) -> int:
    """``peft_type`` in a file by itself."""
    if config.shape != "mapping" or config.get("peft_type") is None:
        return 0
    keys = {str(entry.path[0]) for entry in config.entries}
    return 3 + len(keys & {"base_model_name_or_path", "inference_mode", "task_type"})


PEFT = Dialect(
    name="peft", title="PEFT", framework="peft", lenses=LENSES,
    steps=(
        model_step("model"), Step(("lora",), _adapter), Step(("lora.target_modules",), _targets),
        Step(("lora.exclude_modules", "lora.layers_to_transform", "lora.trainable_token_indices"), _layers),
        Step(("quant.load_in_4bit",), _quantisation),
    ),
    defaults={key: value for key, value in PEFT_DEFAULTS.items() if key != "lora.loraplus_lr_ratio"},
    known=keys_of("peft"), recognise=_recognise, written="json", newest=f"peft {version_of('peft')}",
)  # fmt: skip
