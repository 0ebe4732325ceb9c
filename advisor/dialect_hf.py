"""What trainers on top of transformers' ``TrainingArguments`` and PEFT's ``LoraConfig`` have in common."""

from __future__ import annotations

from typing import Any

from lora_advise.dialect import Lens, Renamed, Step
from lora_advise.facts import TaskFacts
from lora_advise.sheet import Sheet

_OPTIMISERS = (
    "adamw_torch adamw_torch_fused adamw_torch_xla adamw_torch_npu_fused adafactor adamw_anyprecision adamw_torch_4bit "
    "adamw_torch_8bit ademamix sgd adagrad adamw_bnb_8bit adamw_8bit ademamix_8bit lion_8bit lion_32bit paged_adamw_32bit "
    "paged_adamw_8bit paged_ademamix_32bit paged_ademamix_8bit paged_lion_32bit paged_lion_8bit rmsprop rmsprop_bnb "
    "rmsprop_bnb_8bit rmsprop_bnb_32bit galore_adamw galore_adamw_8bit galore_adafactor galore_adamw_layerwise "
    "galore_adamw_8bit_layerwise galore_adafactor_layerwise lomo adalomo grokadamw schedule_free_radam schedule_free_adamw "
    "schedule_free_sgd apollo_adamw apollo_adamw_layerwise stable_adamw adamw_hf adamw_apex_fused"
)
OPTIMISERS = tuple(_OPTIMISERS.split())
"""transformers 5.24, ``OptimizerNames``, and the two that it had until 5.0."""
_STRATEGIES = ("no", "steps", "epoch")

TRAINING_LENSES: tuple[Lens, ...] = (
    Lens("train.learning_rate", "learning_rate", "number"),
    Lens("train.lr_scheduler_type", "lr_scheduler_type", "word"),
    Lens("lr_scheduler_kwargs", "lr_scheduler_kwargs"),
    Lens("warmup_steps", "warmup_steps", "number"),
    Lens("warmup_ratio", "warmup_ratio", "number"),
    Lens("train.optim", "optim", "word", choices=OPTIMISERS),
    Lens("train.weight_decay", "weight_decay", "number"),
    Lens("train.adam_beta1", "adam_beta1", "number"),
    Lens("train.adam_beta2", "adam_beta2", "number"),
    Lens("train.max_grad_norm", "max_grad_norm", "number"),
    Lens("train.per_device_train_batch_size", "per_device_train_batch_size", "count"),
    Lens("train.gradient_accumulation_steps", "gradient_accumulation_steps", "count"),
    Lens("train.per_device_eval_batch_size", "per_device_eval_batch_size", "count"),
    Lens("train.num_train_epochs", "num_train_epochs", "number"),
    Lens("max_steps", "max_steps", "count"),
    Lens("bf16", "bf16"),
    Lens("fp16", "fp16"),
    Lens("train.activation_checkpointing", "gradient_checkpointing", "flag", ("activation_checkpointing",)),
    Lens("train.use_liger_kernel", "use_liger_kernel", "flag"),
    Lens("train.neftune_noise_alpha", "neftune_noise_alpha", "number"),
    Lens("eval_strategy", "eval_strategy", "word", ("evaluation_strategy",), choices=_STRATEGIES),
    Lens("train.eval_steps", "eval_steps", "number"),
    Lens("train.save_strategy", "save_strategy", "word", choices=(*_STRATEGIES, "best")),
    Lens("save_steps", "save_steps", "number"),
    Lens("train.save_total_limit", "save_total_limit", "count"),
    Lens("train.load_best_model_at_end", "load_best_model_at_end", "flag"),
    Lens("train.metric_for_best_model", "metric_for_best_model", "word"),
    Lens("train.logging_steps", "logging_steps", "number"),
    Lens("train.seed", "seed", "count"),
    Lens("deepspeed", "deepspeed"),
    Lens("fsdp", "fsdp"),
    Lens("fsdp_config", "fsdp_config"),
)
"""Arguments of ``transformers.TrainingArguments``; a dialect that spells one otherwise has a lens of the same name."""

TRAINING_DEFAULTS: dict[str, Any] = {
    "train.learning_rate": 5e-5, "train.lr_scheduler_type": "linear", "train.lr_scheduler_kwargs": {},
    "train.warmup_steps": 0, "train.optim": "adamw_torch_fused",
    "train.weight_decay": 0.0, "train.adam_beta1": 0.9, "train.adam_beta2": 0.999, "train.max_grad_norm": 1.0,
    "train.per_device_train_batch_size": 8, "train.gradient_accumulation_steps": 1, "train.per_device_eval_batch_size": 8,
    "train.num_train_epochs": 3.0, "train.max_steps": None, "train.packing": False, "train.use_liger_kernel": False,
    "train.activation_checkpointing": False, "train.attn_implementation": "sdpa", "train.embedding_learning_rate": None,
    "train.neftune_noise_alpha": None, "train.eval_strategy": "no", "train.eval_steps": None, "train.eval_share": 0.0,
    "train.save_strategy": "steps", "train.save_steps": 500, "train.save_total_limit": None,
    "train.load_best_model_at_end": False, "train.metric_for_best_model": None, "train.early_stopping_patience": None,
    "train.logging_steps": 500, "train.seed": 42, "train.beta": None, "train.num_generations": None,
    "train.max_completion_length": None,
}  # fmt: skip
"""transformers 5.24, ``TrainingArguments``."""

PEFT_DEFAULTS: dict[str, Any] = {
    "lora.r": 8, "lora.lora_alpha": 8.0, "lora.lora_dropout": 0.0, "lora.target_parameters": (), "lora.exclude_modules": None,
    "lora.modules_to_save": (), "lora.layers_to_transform": None, "lora.trainable_token_indices": None,
    "lora.ensure_weight_tying": False, "lora.bias": "none", "lora.use_rslora": False, "lora.use_dora": False,
    "lora.init_lora_weights": True, "lora.loraplus_lr_ratio": None, "lora.task_type": None,
}  # fmt: skip
"""peft 0.21, ``LoraConfig``; its ``target_modules`` default hangs on the model."""

BNB_DEFAULTS: dict[str, Any] = {
    "quant.load_in_4bit": False, "quant.load_in_8bit": False, "quant.bnb_4bit_quant_type": "fp4",
    "quant.bnb_4bit_use_double_quant": False, "quant.bnb_4bit_compute_dtype": "float32", "quant.bnb_4bit_quant_storage": "uint8",
}  # fmt: skip
"""transformers 5.24, ``BitsAndBytesConfig``."""


def precision(default: str) -> Step:
    """``train.dtype`` from ``bf16`` and ``fp16``; ``default`` where neither is on."""

    def run(sheet: Sheet) -> None:
        for name, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
            value = sheet.value(name)
            if str(value).lower() in ("true", "auto", "full"):
                sheet.put("train.dtype", dtype, name)
                return
        sheet.put("train.dtype", default, "bf16", "fp16")

    return Step(("train.dtype",), run)


def _warmup(sheet: Sheet) -> None:
    """Steps, or a share of all steps: a ``warmup_steps`` below 1 is a share too (transformers 5)."""
    steps, ratio = sheet.value("warmup_steps", 0), sheet.value("warmup_ratio", 0)
    if steps and steps >= 1:
        sheet.put("train.warmup_steps", int(steps), "warmup_steps")
    elif steps or ratio:
        sheet.unknown.add("train.warmup_steps")
        sheet.facts["warmup_share"] = steps or ratio
        sheet.places["train.warmup_steps"] = tuple(
            e for e in (sheet.entry("warmup_steps" if steps else "warmup_ratio"),) if e
        )
    elif sheet.has("warmup_steps") or sheet.has("warmup_ratio"):
        sheet.put("train.warmup_steps", 0, "warmup_steps", "warmup_ratio")


def _evaluation(sheet: Sheet) -> None:
    strategy = sheet.value("eval_strategy")
    if strategy is not None:
        sheet.put("train.eval_strategy", str(strategy).rpartition(".")[2].lower(), "eval_strategy")
    if sheet.has("train.eval_steps"):
        steps = sheet.value("train.eval_steps")
        sheet.put("train.eval_steps", int(steps) if steps >= 1 else None, "train.eval_steps")


def _saving(sheet: Sheet) -> None:
    """``best`` saves after evaluations that improve, which is no interval."""
    if sheet.facts.get("train.save_strategy") == "best":
        del sheet.facts["train.save_strategy"]
        sheet.unknown.add("train.save_strategy")
    if sheet.has("save_steps"):
        steps = sheet.value("save_steps")
        sheet.put("train.save_steps", int(steps) if steps >= 1 else None, "save_steps")


def _length_of_run(sheet: Sheet) -> None:
    steps = sheet.value("max_steps")
    if steps is not None:
        sheet.put("train.max_steps", steps if steps > 0 else None, "max_steps")


def _scheduler(sheet: Sheet) -> None:
    value = sheet.value("lr_scheduler_kwargs")
    if isinstance(value, dict):
        numbers = {k: float(v) for k, v in value.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
        sheet.put("train.lr_scheduler_kwargs", numbers, "lr_scheduler_kwargs")


def _logging(sheet: Sheet) -> None:
    if sheet.has("train.logging_steps"):
        sheet.put("train.logging_steps", max(1, int(sheet.value("train.logging_steps"))), "train.logging_steps")


TRAINING_STEPS: tuple[Step, ...] = (
    Step(("train.warmup_steps",), _warmup),
    Step(("train.eval_strategy", "train.eval_steps"), _evaluation),
    Step(("train.save_steps",), _saving),
    Step(("train.max_steps",), _length_of_run),
    Step(("train.lr_scheduler_kwargs",), _scheduler),
    Step(("train.logging_steps",), _logging),
)
"""Facts of the arguments above that are no plain copies. Precision hangs on the trainer: see :func:`precision`."""


def _eval_interval(sheet: Sheet) -> None:
    """Evaluation in steps without a number of its own goes with the logging (``TrainingArguments.__post_init__``)."""
    if sheet.facts.get("train.eval_strategy") != "steps" or sheet.has("train.eval_steps"):
        return
    steps = sheet.facts.get("train.logging_steps", sheet.dialect.defaults.get("train.logging_steps"))
    if steps is None:
        sheet.unknown.add("train.eval_steps")
    else:
        sheet.put("train.eval_steps", steps, "train.logging_steps", said="as the logging")


EVAL_INTERVAL = Step(("train.eval_steps",), _eval_interval)
"""For trainers that leave ``eval_steps`` to transformers. Goes after :data:`TRAINING_STEPS`."""


def _attention(sheet: Sheet) -> None:
    stated = sheet.value("attn_implementation")
    if stated is None:
        sheet.value("model_init_kwargs")
        return
    word = str(stated).lower().replace("kernels-community/flash-attn2", "flash_attention_2")
    if word in ("sdpa", "eager", "flash_attention_2"):
        sheet.put("train.attn_implementation", word, "attn_implementation")
    else:
        sheet.unknown.add("train.attn_implementation")


ATTENTION = Step(("train.attn_implementation",), _attention)
"""``attn_implementation`` in transformers' own words; other kernels than ours are unknown, and so is the one that
``model_init_kwargs`` may name where that is made when the program runs."""


RENAMED_ARGUMENTS: tuple[Renamed, ...] = tuple(
    Renamed(old, new, "transformers", since, "error", "transformers-history")
    for old, new, since in (
        ("evaluation_strategy", "eval_strategy", "4.51"), ("use_ipex", None, "4.57"), ("overwrite_output_dir", None, "5.0"),
        ("save_safetensors", None, "5.0"), ("no_cuda", "use_cpu", "5.0"), ("fp16_backend", None, "5.0"),
        ("half_precision_backend", None, "5.0"), ("fp16_opt_level", None, "5.0"), ("jit_mode_eval", None, "5.0"),
        ("torchdynamo", "torch_compile_backend", "5.0"), ("push_to_hub_token", "hub_token", "5.0"),
        ("push_to_hub_model_id", "hub_model_id", "5.0"), ("past_index", None, "5.0"), ("ray_scope", None, "5.0"),
        ("per_gpu_train_batch_size", "per_device_train_batch_size", "5.0"),
        ("per_gpu_eval_batch_size", "per_device_eval_batch_size", "5.0"),
        ("include_tokens_per_second", "include_num_input_tokens_seen", "5.0"),
        ("warmup_ratio", "warmup_steps", "5.15"), ("group_by_length", "train_sampling_strategy", "5.2"),
        ("logging_dir", None, "5.15"),
    )
)  # fmt: skip
"""Fields of ``TrainingArguments`` that transformers 5.24 has not got any more. ``since`` is the first of the releases that were
compared (4.40 to 5.23) without the old name; before it the old one may be deprecated, but it works."""


def put_all(sheet: Sheet, values: dict[str, Any], said: str) -> None:
    """Facts that a library below the trainer settles."""
    for fact, value in values.items():
        if fact not in sheet.facts and fact not in sheet.unknown:
            sheet.put(fact, value, said=said)


def model_step(*names: str) -> Step:
    """The model, by the first of these settings that the file has."""

    def run(sheet: Sheet) -> None:
        for name in names:
            if sheet.has(name):
                sheet.resolve_model(str(sheet.value(name)), name)
                return

    return Step(("model",), run)


FAMILIES: dict[str, tuple[str, str]] = {
    "sft": ("chat", "sft"), "pt": ("continued-pretraining", "pretraining"), "dpo": ("dpo", "preference"),
    "ipo": ("dpo", "preference"), "kto": ("kto", "preference"), "orpo": ("orpo", "preference"), "cpo": ("simpo", "preference"),
    "simpo": ("simpo", "preference"), "grpo": ("grpo", "rl"), "gspo": ("grpo", "rl"), "rloo": ("grpo", "rl"), "ppo": ("ppo", "rl"),
    "rm": ("reward", "reward"), "reward": ("reward", "reward"), "classification": ("classification", "classification"),
}  # fmt: skip
"""Names that trainers give to what a run is for: our task, and its family."""


def task_of(word: str) -> TaskFacts | None:
    """The task that a trainer's own word means; None for a word that means none of ours."""
    found = FAMILIES.get(word.lower())
    if found is None:
        return None
    name, family = found
    trainer: Any = "sft" if family in ("pretraining", "sft") else name
    kind: Any = family
    return TaskFacts(name=name, family=kind, trainer=trainer)
