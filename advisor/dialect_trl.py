"""TRL's YAML and command lines (checked against 1.16): ``trl sft``, ``trl/scripts/sft.py`` and its examples."""

from __future__ import annotations

from typing import Any

from lora_advise.data_keys import keys_of
from lora_advise.dialect import Dialect, Lens, Renamed, Step
from lora_advise.dialect_hf import (
    ATTENTION,
    BNB_DEFAULTS,
    EVAL_INTERVAL,
    PEFT_DEFAULTS,
    RENAMED_ARGUMENTS,
    TRAINING_DEFAULTS,
    TRAINING_LENSES,
    TRAINING_STEPS,
    model_step,
    put_all,
    task_of,
)
from lora_advise.document import Config
from lora_advise.launchers import put_sharding
from lora_advise.sheet import Sheet
from lora_advise.targets_as import peft_default
from lora_advise.tasks_named import task_words
from lora_advise.unknown import UnknownFact

_OWN: tuple[Lens, ...] = (
    Lens("model", "model_name_or_path", "word", ("model_name",)),
    Lens("adapter", "use_peft", "flag"),
    Lens("lora.r", "lora_r", "count"),
    Lens("lora.lora_alpha", "lora_alpha", "number"),
    Lens("lora.lora_dropout", "lora_dropout", "number"),
    Lens("target_modules", "lora_target_modules"),
    Lens("lora.target_parameters", "lora_target_parameters", "names"),
    Lens("lora.modules_to_save", "lora_modules_to_save", "names"),
    Lens("lora.task_type", "lora_task_type", "word"),
    Lens("lora.use_rslora", "use_rslora", "flag"),
    Lens("lora.use_dora", "use_dora", "flag"),
    Lens("load_in_4bit", "load_in_4bit", "flag"),
    Lens("load_in_8bit", "load_in_8bit", "flag"),
    Lens("quant.bnb_4bit_quant_type", "bnb_4bit_quant_type", "word"),
    Lens("quant.bnb_4bit_use_double_quant", "use_bnb_nested_quant", "flag"),
    Lens("quant.bnb_4bit_quant_storage", "bnb_4bit_quant_storage", "word"),
    Lens("dtype", "dtype", "word", ("torch_dtype", "model_init_kwargs.dtype", "model_init_kwargs.torch_dtype")),
    Lens("attn_implementation", "attn_implementation", "word", ("model_init_kwargs.attn_implementation",)),
    Lens("model_init_kwargs", "model_init_kwargs"),
    Lens("max_length", "max_length", "count", ("max_seq_length",)),
    Lens("train.packing", "packing", "flag"),
    Lens("packing_strategy", "packing_strategy", "word"),
    Lens("padding_free", "padding_free", "flag"),
    Lens("completion_only_loss", "completion_only_loss", "flag"),
    Lens("assistant_only_loss", "assistant_only_loss", "flag"),
    Lens("train.beta", "beta", "number"),
    Lens("loss_type", "loss_type"),
    Lens("train.num_generations", "num_generations", "count"),
    Lens("generation_batch_size", "generation_batch_size", "count"),
    Lens("steps_per_generation", "steps_per_generation", "count"),
    Lens("train.max_completion_length", "max_completion_length", "count"),
    Lens("max_prompt_length", "max_prompt_length", "count"),
    Lens("precompute_ref_log_probs", "precompute_ref_log_probs", "flag"),
    Lens("label_smoothing", "label_smoothing", "number"),
    Lens("use_vllm", "use_vllm", "flag"),
    Lens("eval_share", "test_split_size", "number"),
    Lens("datasets", "dataset_name", "any", ("datasets", "dataset_mixer", "dataset_mixture")),
    Lens("chat_template", "chat_template_path", "any", ("chat_template",)),
    Lens("eos_token", "eos_token", "word"),
    Lens("trust_remote_code", "trust_remote_code", "flag"),
    Lens("no_gradient_checkpointing", "no_gradient_checkpointing", "flag"),
)  # fmt: skip
_TAKEN = {lens.name for lens in _OWN}
LENSES = (*_OWN, *(lens for lens in TRAINING_LENSES if lens.name not in _TAKEN))

_LIMITS: dict[str, Any] = {"train.max_length": 1024, "train.learning_rate": 1e-6, "train.beta": 0.1}
METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "sft": {"train.max_length": 1024, "train.learning_rate": 2e-5, "train.beta": None},
    "dpo": _LIMITS, "kto": _LIMITS, "orpo": _LIMITS, "cpo": _LIMITS,
    "reward": {"train.max_length": 1024, "train.learning_rate": 1e-4, "train.beta": None},
    "grpo": {
        "train.learning_rate": 1e-6, "train.beta": 0.0, "train.num_generations": 8, "train.max_completion_length": 512,
    },
    "rloo": {
        "train.learning_rate": 1e-6, "train.beta": 0.05, "train.num_generations": 2, "train.max_completion_length": 512,
    },
}  # fmt: skip
"""trl 1.16: what each trainer's config sets otherwise than ``TrainingArguments``."""

_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("grpo", ("reward_funcs", "num_generations", "epsilon_high", "scale_rewards", "reward_weights", "steps_per_generation")),
    ("kto", ("desirable_weight", "undesirable_weight")), ("reward", ("center_rewards_coefficient",)),
    ("cpo", ("simpo_gamma", "cpo_alpha")),
    ("dpo", ("precompute_ref_log_probs", "ref_model_init_kwargs", "rpo_alpha", "ld_alpha", "f_divergence_type")),
    ("sft", ("packing", "completion_only_loss", "assistant_only_loss", "dataset_text_field", "packing_strategy", "max_seq_length")),
)  # fmt: skip
"""Keys that only one method's config has: they tell what a YAML file is for when its name does not."""


def _method(sheet: Sheet) -> str | None:
    """The trainer, by the command, the keys or the file's name; None where they do not say."""
    words = task_words(sheet.config)
    if not words and sheet.config.shape == "mapping":
        keys = {str(entry.path[0]) for entry in sheet.config.entries}
        words = tuple(name for name, signs in _SIGNS if keys & set(signs))[:1] or task_words(
            sheet.config, sheet.document
        )
    return {"gspo": "grpo", "simpo": "cpo"}.get(words[0], words[0]) if words else None


def _task(sheet: Sheet) -> None:
    """The task, and the defaults that hang on it; without one, rate and length are unknown where the file is silent."""
    method = _method(sheet)
    sheet.task = task_of(method) if method else None
    own = METHOD_DEFAULTS.get(method or "")
    if own is None:
        sheet.unknown |= {f for f in METHOD_DEFAULTS["grpo"] if f not in sheet.facts}
        return
    for fact, value in own.items():
        written = {"train.max_length": "max_length"}.get(fact, fact)
        if not sheet.has(written) and fact not in sheet.unknown:
            sheet.put(fact, value)


def _length(sheet: Sheet) -> None:
    """``max_length`` of 0 or less means none, which is the model's own; the scripts for vision models set none either."""
    if any("_vlm" in word for word in sheet.config.program):
        sheet.unknown.add("train.max_length")
        sheet.facts.pop("train.max_length", None)
    elif sheet.has("max_length"):
        sheet.put("train.max_length", sheet.value("max_length"), "max_length")


def _adapter(sheet: Sheet) -> None:
    """``lora_*`` keys count only beside ``use_peft``; ``get_peft_config`` fixes the rest of the adapter."""
    if not sheet.flag("adapter"):
        return
    sheet.present.add("lora")
    for name, value in (("r", 16), ("lora_alpha", 32.0), ("lora_dropout", 0.05), ("task_type", "CAUSAL_LM")):
        fact = f"lora.{name}"
        if fact not in sheet.facts and fact not in sheet.unknown:
            sheet.put(fact, value)


def _targets(sheet: Sheet) -> None:
    """A list of one name becomes a bare text, which PEFT takes for a pattern over whole paths."""
    modules = sheet.value("target_modules")
    if modules is None and sheet.facts.get("lora.target_parameters"):
        sheet.put("lora.target_modules", (), said="none beside lora_target_parameters")
    elif modules is None:
        chosen = peft_default(sheet.model)
        if chosen is None:
            if sheet.model is not None:
                sheet.put("targets_unset", True)
            raise UnknownFact("lora.target_modules")
        sheet.put("lora.target_modules", chosen, said="PEFT's default for this model")
    elif isinstance(modules, tuple):
        names = tuple(map(str, modules))
        sheet.put("lora.target_modules", names[0] if len(names) == 1 else names, "target_modules")
    else:
        sheet.put("lora.target_modules", str(modules), "target_modules")


def _quantisation(sheet: Sheet) -> None:
    """bitsandbytes computes in ``dtype``, which is float32 unless it is set."""
    sheet.present.add("quant")
    for name in ("load_in_4bit", "load_in_8bit"):
        sheet.put(f"quant.{name}", sheet.flag(name), name)
    put_all(sheet, {"quant.bnb_4bit_quant_type": "nf4", "quant.bnb_4bit_use_double_quant": False}, "TRL's default")
    dtype = str(sheet.value("dtype", "float32")).rpartition(".")[2]
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UnknownFact("quant.bnb_4bit_compute_dtype")
    sheet.put("quant.bnb_4bit_compute_dtype", dtype, "dtype")


def _checkpointing(sheet: Sheet) -> None:
    """A flag that is true without a word has one beside it that turns it off: ``--no_gradient_checkpointing``."""
    if sheet.flag("no_gradient_checkpointing"):
        sheet.put("train.activation_checkpointing", False, "no_gradient_checkpointing")


def _precision(sheet: Sheet) -> None:
    """``bf16`` is on unless it is set to false or ``fp16`` is on."""
    fp16 = str(sheet.value("fp16")).lower() == "true"
    bf16 = str(sheet.value("bf16", not fp16)).lower() == "true"
    if bf16 or fp16:
        sheet.put("train.dtype", "bfloat16" if bf16 else "float16", "bf16" if bf16 else "fp16")
    else:
        sheet.put("train.dtype", "float32", "bf16", "fp16")


def _loss(sheet: Sheet) -> None:
    """Without a setting the data decide: the completion where they have one, else every token."""
    family = sheet.task.family if sheet.task else None
    if family is not None and family != "sft":
        sheet.put("train.loss_on", "completion", said="the trainer")
    elif sheet.flag("assistant_only_loss"):
        sheet.put("train.loss_on", "assistant", "assistant_only_loss")
    elif sheet.has("completion_only_loss"):
        on = sheet.flag("completion_only_loss")
        sheet.put("train.loss_on", "completion" if on else "all", "completion_only_loss")
    elif sheet.data is not None and sheet.data.format is not None and family == "sft":
        paired = sheet.data.format == "prompt-completion"
        sheet.put("train.loss_on", "completion" if paired else "all", said="the data's columns")


def _held_out(sheet: Sheet) -> None:
    share = sheet.value("eval_share", 0)
    if share >= 1:
        raise UnknownFact("train.eval_share")
    sheet.put("train.eval_share", float(share), "eval_share")


def _recognise(config: Config) -> int:
    """Keys of ``ModelConfig`` and ``ScriptArguments``, and TRL's own commands."""
    if config.shape == "calls" or config.get("config") is not None:
        return 0
    keys = {str(entry.path[0]) for entry in config.entries}
    if keys & _FOREIGN or any(
        word.rsplit("/", 1)[-1] in ("vllm-serve", "env", "vllm_serve") for word in config.program
    ):
        return 0
    words = "/".join(config.program).replace("\\", "/").replace(".", "/").split("/")
    named = 5 if "trl" in words or ("examples" in words and "scripts" in words and task_words(config)) else 0
    own = len(keys & _KEYS)
    return named + own if named or ("use_peft" in keys and own > 1) else 0


_KEYS = {
    "use_peft", "lora_r", "lora_target_modules", "dataset_name", "dataset_train_split", "dataset_test_split", "lora_task_type",
    "use_bnb_nested_quant", "lora_modules_to_save", "torch_dtype", "dataset_text_field", "dataset_num_proc", "reward_funcs",
    "load_in_4bit", "load_in_8bit", "completion_only_loss", "assistant_only_loss", "max_prompt_length", "beta", "num_generations",
    "model_name_or_path", "packing", "max_length", "max_seq_length",
}  # fmt: skip
_HANDBOOK = {
    "dataset_mixer", "dataset_mixture", "dataset_splits", "dataset_configs", "auto_insert_empty_system_msg",
    "preprocessing_num_workers", "text_column", "truncation_side", "tokenizer_name_or_path",
}  # fmt: skip
"""Keys that the alignment-handbook's scripts, which are on top of TRL, add to its own."""
_FOREIGN = {
    "finetuning_type",
    "lora_target",
    "base_model",
    "tuner_type",
    "train_type",
    "sft_type",
    "cutoff_len",
    "stage",
}
_SINCE: tuple[tuple[str, str | None, str], ...] = (
    ("max_seq_length", "max_length", "0.20"), ("torch_dtype", "dtype", "0.27"),
    ("use_liger", "use_liger_kernel", "0.18"), ("num_of_sequences", None, "0.18"),
    ("chars_per_token", None, "0.18"), ("dataset_batch_size", None, "0.18"),
    ("max_prompt_length", None, "0.29"), ("rpo_alpha", None, "0.29"),
    ("max_target_length", "max_completion_length", "0.14"), ("use_liger_loss", "use_liger_kernel", "0.28"),
    ("use_num_logits_to_keep", None, "0.17"), ("generate_during_eval", None, "0.29"),
    ("gradient_checkpointing_use_reentrant", "gradient_checkpointing_kwargs", "0.27"),
    ("vllm_guided_decoding_regex", "vllm_structured_outputs_regex", "0.28"),
    ("model_adapter_name", None, "0.29"), ("ref_adapter_name", None, "0.29"),
)  # fmt: skip
"""With the first release whose config classes have not got the old name, of 30 from 0.8.6 to 1.16. ``trl`` and the scripts' flags refuse the old name; a YAML file that
``trl/scripts/*.py --config`` reads is the exception: there it is passed over."""

TRL = Dialect(
    name="trl", title="TRL", framework="trl", lenses=LENSES,
    steps=(
        model_step("model"), Step(("task", "train.learning_rate", "train.max_length", "train.beta"), _task),
        Step(("train.max_length",), _length), Step(("lora",), _adapter), Step(("lora.target_modules",), _targets),
        Step(("quant.load_in_4bit", "quant.load_in_8bit", "quant.bnb_4bit_compute_dtype"), _quantisation),
        Step(("train.dtype",), _precision), Step(("train.activation_checkpointing",), _checkpointing), *TRAINING_STEPS, EVAL_INTERVAL, ATTENTION, Step(("train.loss_on",), _loss),
        Step(("train.eval_share",), _held_out), Step(("stack.sharding", "stack.cpu_offload"), put_sharding),
    ),
    defaults={
        **{k: v for k, v in TRAINING_DEFAULTS.items() if k != "train.learning_rate"}, **PEFT_DEFAULTS, **BNB_DEFAULTS,
        "train.logging_steps": 10, "train.activation_checkpointing": True, "stack.sharding": "none",
    },
    known=keys_of("trl") | _HANDBOOK, recognise=_recognise,
    renamed=(
        *RENAMED_ARGUMENTS,
        *(Renamed(old, new, "trl", since, "error", "trl-history") for old, new, since in _SINCE),
    ),
    newest="trl 1.16",
)  # fmt: skip
