"""LLaMA-Factory's YAML, JSON and flags (checked against 0.9.5): ``llamafactory-cli train`` and ``python src/train.py``."""

from __future__ import annotations

from lora_advise.data_keys import keys_of
from lora_advise.dialect import Dialect, Renamed, Step
from lora_advise.dialect_hf import (
    BNB_DEFAULTS,
    EVAL_INTERVAL,
    PEFT_DEFAULTS,
    RENAMED_ARGUMENTS,
    TRAINING_DEFAULTS,
    TRAINING_STEPS,
    model_step,
    put_all,
    task_of,
)
from lora_advise.document import Config
from lora_advise.launchers import put_sharding
from lora_advise.lenses_llamafactory import LENSES
from lora_advise.sheet import Sheet
from lora_advise.targets_as import every_linear_but_experts, every_linear_named, paths_of
from lora_advise.unknown import UnknownFact

_LORA = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "modules_to_save",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
)
_OPTIMISERS = ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon")


def _stage(sheet: Sheet) -> str:
    return str(sheet.value("stage", "sft")).lower()


def _adapter(sheet: Sheet) -> None:
    """LoRA without a word; an adapter that is trained on brings its own rank, scale and targets.

    A reward model is a causal model with a value head of its own beside the adapter, which no task type of PEFT says.
    """
    if str(sheet.value("adapter", "lora")).lower() != "lora":
        return
    sheet.present.add("lora")
    if _stage(sheet) in ("rm", "ppo"):
        sheet.unknown.add("lora.task_type")
    else:
        sheet.put("lora.task_type", "CAUSAL_LM")
    if sheet.has("adapter_path") and not sheet.flag("create_new_adapter"):
        sheet.unknown |= {f"lora.{name}" for name in _LORA}
        for name in _LORA:
            sheet.facts.pop(f"lora.{name}", None)


def _alpha(sheet: Sheet) -> None:
    """Twice the rank where it is not set, or set to 0."""
    if "lora.lora_alpha" in sheet.unknown:
        return
    alpha = sheet.value("lora_alpha")
    if alpha:
        sheet.put("lora.lora_alpha", alpha, "lora_alpha")
        return
    if "lora.r" in sheet.unknown:
        raise UnknownFact("lora.r")
    sheet.put("lora.lora_alpha", 2.0 * sheet.facts.get("lora.r", 8), said="LLaMA-Factory's default, twice the rank")


def _targets(sheet: Sheet) -> None:
    """``all`` is every linear layer but experts and head; the towers of a vision model stay out of every choice."""
    if "lora.target_modules" in sheet.unknown:
        return
    names = sheet.value("target_modules", ("all",))
    if sheet.flag("use_llama_pro"):
        raise UnknownFact("lora.target_modules")
    model = sheet.model
    if model is not None and model.kind == "vlm":
        frozen = (
            *(("vision", "audio") if sheet.flag("freeze_vision_tower", True) else ()),
            *(("projector",) if sheet.flag("freeze_multi_modal_projector", True) else ()),
        )
        every = every_linear_named(model, (*frozen, "embedding", "lm_head", "head"))
        sheet.put("lora.target_modules", every if names == ("all",) else names, "target_modules")
        sheet.put(
            "lora.exclude_modules", paths_of(model, frozen), "freeze_vision_tower", "freeze_multi_modal_projector"
        )
    else:
        names = every_linear_but_experts(model) if names == ("all",) else names
        sheet.put("lora.target_modules", names, "target_modules")


def _start(sheet: Sheet) -> None:
    """PiSSA, which the Unsloth and KTransformers paths pass over."""
    if "lora.init_lora_weights" in sheet.unknown:
        return
    if sheet.flag("pissa_init") and not sheet.flag("use_unsloth") and not sheet.flag("use_kt"):
        steps = sheet.value("pissa_iter", 16)
        kind = "pissa" if steps == -1 else f"pissa_niter_{steps}"
        sheet.put("lora.init_lora_weights", kind, "pissa_init", "pissa_iter")


def _saved(sheet: Sheet) -> None:
    """New tokens let LLaMA-Factory train embeddings and head in full; how those are called is the model's affair."""
    grown = sheet.flag("resize_vocab") or sheet.has("add_tokens") or sheet.has("add_special_tokens")
    if grown and not sheet.has("lora.modules_to_save"):
        raise UnknownFact("lora.modules_to_save")


def _precision(sheet: Sheet) -> None:
    """bf16 before fp16; with neither the weights' own type, which the device decides too."""
    for name, dtype in (("bf16", "bfloat16"), ("pure_bf16", "bfloat16"), ("fp16", "float16")):
        if str(sheet.value(name)).lower() == "true":
            sheet.put("train.dtype", dtype, name)
            return
    raise UnknownFact("train.dtype")


def _quantisation(sheet: Sheet) -> None:
    """4-bit NF4, doubly quantised, that computes and is stored in the run's own type."""
    sheet.present.add("quant")
    bits, method = sheet.value("bits"), str(sheet.value("quantization_method", "bnb")).lower()
    if bits is not None and method not in ("bnb", "bitsandbytes"):
        raise UnknownFact("quantization_method")
    sheet.put("quant.load_in_4bit", bits == 4, "bits")
    sheet.put("quant.load_in_8bit", bits == 8, "bits")
    put_all(
        sheet, {"quant.bnb_4bit_quant_type": "nf4", "quant.bnb_4bit_use_double_quant": True}, "LLaMA-Factory's default"
    )
    if "train.dtype" not in sheet.facts:
        raise UnknownFact("train.dtype")
    for name in ("compute_dtype", "quant_storage"):
        sheet.put(f"quant.bnb_4bit_{name}", sheet.facts["train.dtype"], said="the run's own precision")


def _packing(sheet: Sheet) -> None:
    """Pretraining packs without a word; a packed block is one token shorter than ``cutoff_len``."""
    neat = sheet.flag("neat_packing")
    packed = neat or sheet.flag("packing", _stage(sheet) == "pt")
    sheet.put("train.packing", packed, "neat_packing" if neat else "packing")
    length = sheet.value("max_length", 2048)
    shorter = neat or sheet.flag("packing")
    sheet.put("train.max_length", length - 1 if shorter and length > 1 else length, "max_length")


def _checkpointing(sheet: Sheet) -> None:
    on = not sheet.flag("disable_gradient_checkpointing") or sheet.flag("gradient_checkpointing")
    sheet.put("train.activation_checkpointing", on, "disable_gradient_checkpointing", "gradient_checkpointing")


def _attention(sheet: Sheet) -> None:
    word = str(sheet.value("flash_attn", "auto")).lower()
    kinds = {
        "fa2": "flash_attention_2",
        "sdpa": "sdpa",
        "disabled": "eager",
        "off": "eager",
        "true": "flash_attention_2",
    }
    if word in kinds:
        sheet.put("train.attn_implementation", kinds[word], "flash_attn")
    elif word != "auto" or sheet.flag("shift_attn"):
        raise UnknownFact("train.attn_implementation")


def _export(sheet: Sheet) -> None:
    """A file that merges or quantises has no run."""
    if sheet.has("export_dir"):
        sheet.present -= {"train", "lora"}
        sheet.task = None


def _task(sheet: Sheet) -> None:
    stage, loss = _stage(sheet), str(sheet.value("loss_type", "sigmoid")).lower()
    sheet.task = task_of(loss if stage == "dpo" and loss in ("orpo", "simpo") else stage)
    if stage in ("dpo", "kto"):
        sheet.put("train.beta", sheet.value("beta", 0.1), "beta")


def _loss(sheet: Sheet) -> None:
    stage = _stage(sheet)
    if stage == "pt":
        sheet.put("train.loss_on", "all", "stage")
    elif stage != "sft":
        sheet.put("train.loss_on", "completion", "stage")
    elif sheet.flag("train_on_inputs"):
        sheet.put("train.loss_on", "all", "train_on_inputs")
    elif sheet.flag("mask_history"):
        sheet.put("train.loss_on", "completion", "mask_history")
    else:
        sheet.put("train.loss_on", "assistant")


def _held_out(sheet: Sheet) -> None:
    size = sheet.value("eval_share", 0)
    if size >= 1:
        raise UnknownFact("train.eval_share")
    sheet.put("train.eval_share", float(size), "eval_share")


def _optimizer(sheet: Sheet) -> None:
    """LLaMA-Factory's own optimizers take the place of ``optim``."""
    if any(sheet.flag(name) for name in _OPTIMISERS):
        sheet.facts.pop("train.optim", None)
        raise UnknownFact("train.optim")


_KEYS = {
    "finetuning_type", "lora_target", "cutoff_len", "stage", "quantization_bit", "val_size", "plot_loss", "pref_beta", "pref_loss",
    "dataset_dir", "overwrite_cache", "neat_packing", "double_quantization", "train_on_prompt", "freeze_trainable_layers",
    "lora_rank", "template", "additional_target", "enable_liger_kernel", "disable_gradient_checkpointing", "dpo_beta", "dpo_ftx",
}  # fmt: skip
_SURE = {"finetuning_type", "lora_target", "stage", "cutoff_len"}
_EXPORTS = {"export_size", "export_device", "export_legacy_format", "export_quantization_bit", "adapter_name_or_path"}
"""Beside ``export_dir``: a file that merges or quantises, and trains nothing."""
_TRAINS = {"dataset", "tokenized_path", "do_train", "learning_rate", "per_device_train_batch_size", "num_train_epochs"}
_FOREIGN = {"base_model", "tuner_type", "train_type", "sft_type", "lora_r", "peft_type", "_component_"}


def _recognise(config: Config) -> int:
    """Keys of its own, in a config that trains: one with a data set or a rate that does not switch training off."""
    if config.shape == "calls":
        return 0
    entries = {str(entry.path[0]): entry for entry in config.entries if len(entry.path) == 1}
    keys = set(entries)
    words = [word.rsplit("/", 1)[-1] for word in config.program]
    named = 5 if any(word in ("llamafactory-cli", "lmf") for word in words) else 0
    if "export_dir" in keys:
        merges = "model_name_or_path" in keys and not keys & _FOREIGN
        return named + len(keys & (_KEYS | _EXPORTS)) if merges else 0
    if named and "train" not in words:
        return 0
    off = entries.get("do_train")
    idle = off is not None and str(off.value).lower() in ("false", "0", "no")
    if idle or keys & _FOREIGN or not keys & _TRAINS or not keys & _SURE:
        return 0
    return named + len(keys & _KEYS)


_SINCE: tuple[tuple[str, str | None, str], ...] = (
    ("dpo_beta", "pref_beta", "0.8.0"), ("orpo_beta", "pref_beta", "0.8.0"), ("dpo_loss", "pref_loss", "0.8.0"),
    ("dpo_ftx", "pref_ftx", "0.8.0"), ("reserved_label_len", None, "0.8.3"), ("split", None, "0.8.3"),
    ("vllm_dtype", "infer_dtype", "0.8.3"), ("visual_inputs", None, "0.9.0"), ("image_dir", "media_dir", "0.9.2"),
    ("image_resolution", "image_max_pixels", "0.9.2"), ("video_resolution", "video_max_pixels", "0.9.2"),
    ("train_mm_proj_only", "freeze_multi_modal_projector", "0.9.2"), ("new_special_tokens", "add_special_tokens", "0.9.3"),
)  # fmt: skip
"""Compared over 9 releases from 0.7.1 to 0.9.5."""

LLAMAFACTORY = Dialect(
    name="llamafactory", title="LLaMA-Factory", framework="llamafactory", lenses=LENSES,
    steps=(
        model_step("model"), Step(("task", "train.beta"), _task), Step(("lora",), _adapter),
        Step(("lora.lora_alpha",), _alpha), Step(("lora.target_modules", "lora.exclude_modules"), _targets),
        Step(("lora.init_lora_weights",), _start), Step(("lora.modules_to_save",), _saved),
        Step(("train.dtype",), _precision),
        Step(
            ("quant.load_in_4bit", "quant.load_in_8bit", "quant.bnb_4bit_compute_dtype", "quant.bnb_4bit_quant_storage"),
            _quantisation,
        ),
        Step(("train.packing", "train.max_length"), _packing), Step(("train.activation_checkpointing",), _checkpointing),
        Step(("train.attn_implementation",), _attention), *TRAINING_STEPS, EVAL_INTERVAL, Step(("train.loss_on",), _loss),
        Step(("train.eval_share",), _held_out), Step(("train.optim",), _optimizer),
        Step(("stack.sharding", "stack.cpu_offload"), put_sharding), Step((), _export),
    ),
    defaults={**TRAINING_DEFAULTS, **PEFT_DEFAULTS, **BNB_DEFAULTS, "stack.sharding": "none"},
    known=keys_of("llamafactory"), recognise=_recognise,
    renamed=(
        *(renamed for renamed in RENAMED_ARGUMENTS if renamed.old not in keys_of("llamafactory")),
        *(Renamed(old, new, "llamafactory", since, "error", "llamafactory-history") for old, new, since in _SINCE),
    ),
    strict=True, text_numbers="quoted", newest="llamafactory 0.9.5",
)  # fmt: skip
