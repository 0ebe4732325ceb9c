"""Keys that ms-swift's commands share, and what they mean alike in ``swift`` and ``megatron`` (checked against 4.6)."""

from __future__ import annotations

from typing import Any

from lora_advise.dialect import Lens
from lora_advise.document import Config
from lora_advise.facts import ModelFacts, TaskFacts
from lora_advise.sheet import Sheet
from lora_advise.targets_as import every_linear_but_experts, every_linear_named, paths_of
from lora_advise.unknown import UnknownFact

SHARED: tuple[Lens, ...] = (
    Lens("model", "model", "word", ("model_id_or_path",)),
    Lens("model_type", "model_type", "word"),
    Lens("adapter", "tuner_type", "word", ("train_type", "sft_type")),
    Lens("lora.r", "lora_rank", "count"),
    Lens("lora.lora_alpha", "lora_alpha", "number"),
    Lens("lora.lora_dropout", "lora_dropout", "number", ("lora_dropout_p",)),
    Lens("lora.bias", "lora_bias", "word", ("lora_bias_trainable",)),
    Lens("lora.use_rslora", "use_rslora", "flag"),
    Lens("target_modules", "target_modules", "any", ("lora_target_modules",)),
    Lens("target_regex", "target_regex", "word", ("lora_target_regex",)),
    Lens("modules_to_save", "modules_to_save", "any", ("lora_modules_to_save",)),
    Lens("lora_dtype", "lora_dtype", "word", choices=("float16", "bfloat16", "float32")),
    Lens("adapter_path", "adapters", "any"),
    Lens("resume", "resume_from_checkpoint", "any"),
    Lens("freeze_llm", "freeze_llm", "flag"),
    Lens("freeze_vision_tower", "freeze_vit", "flag"),
    Lens("freeze_aligner", "freeze_aligner", "flag"),
    Lens("torch_dtype", "torch_dtype", "word", ("dtype",), choices=("bfloat16", "float16", "float32")),
    Lens("bf16", "bf16"),
    Lens("fp16", "fp16"),
    Lens("quantization_method", "quant_method", "word", choices=("bnb", "hqq", "eetq", "quanto", "fp8")),
    Lens("bits", "quant_bits", "any", ("quantization_bit",)),
    Lens("quant.bnb_4bit_quant_type", "bnb_4bit_quant_type", "word"),
    Lens("quant.bnb_4bit_use_double_quant", "bnb_4bit_use_double_quant", "flag"),
    Lens("bnb_4bit_compute_dtype", "bnb_4bit_compute_dtype", "word", ("bnb_4bit_comp_dtype",)),
    Lens("quant.bnb_4bit_quant_storage", "bnb_4bit_quant_storage", "word"),
    Lens("max_length", "max_length", "count"),
    Lens("packing", "packing", "flag"),
    Lens("packing_length", "packing_length", "count"),
    Lens("padding_free", "padding_free", "flag"),
    Lens("truncation_strategy", "truncation_strategy", "word", choices=("delete", "left", "right", "split")),
    Lens("loss_scale", "loss_scale", "word"),
    Lens("task_type", "task_type", "word"),
    Lens("rl", "rlhf_type", "word"),
    Lens("loss_type", "loss_type"),
    Lens("beta", "beta", "number"),
    Lens("temperature", "temperature", "number"),
    Lens("num_generations", "num_generations", "count"),
    Lens("max_completion_length", "max_completion_length", "count", ("response_length",)),
    Lens("generation_batch_size", "generation_batch_size", "count"),
    Lens("teacher_model", "teacher_model", "word", ("teacher_model_server",)),
    Lens("use_vllm", "use_vllm", "flag"),
    Lens("vllm_max_lora_rank", "vllm_max_lora_rank", "count"),
    Lens("ref_model", "ref_model", "word"),
    Lens("datasets", "dataset"),
    Lens("test_datasets", "val_dataset"),
    Lens("cached_dataset", "cached_dataset"),
    Lens("cached_test_datasets", "cached_val_dataset"),
    Lens("eval_share", "split_dataset_ratio", "number", ("dataset_test_ratio",)),
    Lens("streaming", "streaming", "flag"),
    Lens("lazy_tokenize", "lazy_tokenize", "flag"),
    Lens("chat_template", "template", "word", ("template_type",)),
    Lens("use_chat_template", "use_chat_template", "flag"),
    Lens("new_special_tokens", "new_special_tokens"),
    Lens("merge_lora", "merge_lora", "flag"),
    Lens("train.weight_decay", "weight_decay", "number"),
    Lens("train.adam_beta1", "adam_beta1", "number"),
    Lens("train.adam_beta2", "adam_beta2", "number"),
    Lens("train.seed", "seed", "count"),
    Lens("train.save_total_limit", "save_total_limit", "count"),
    Lens("train.metric_for_best_model", "metric_for_best_model", "word"),
)  # fmt: skip
"""A dialect of ms-swift has these, under the same names."""

LORA_DEFAULTS: dict[str, Any] = {"lora.r": 8, "lora.lora_alpha": 32.0, "lora.lora_dropout": 0.05}
QUANT_DEFAULTS: dict[str, Any] = {"quant.bnb_4bit_quant_type": "nf4", "quant.bnb_4bit_use_double_quant": True}
_ADAPTED = ("lora", "longlora", "lora_llm")
_OF_ADAPTER = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "use_rslora", "use_dora", "bias",
    "init_lora_weights", "exclude_modules",
)  # fmt: skip
_DTYPES = {
    "bfloat16": "bfloat16", "bf16": "bfloat16", "float16": "float16", "fp16": "float16", "float32": "float32", "fp32": "float32",
}  # fmt: skip
_TASKS = {
    "rm": ("reward", "reward"), "dpo": ("dpo", "preference"), "kto": ("kto", "preference"), "orpo": ("orpo", "preference"),
    "simpo": ("simpo", "preference"), "cpo": ("simpo", "preference"), "grpo": ("grpo", "rl"), "ppo": ("ppo", "rl"),
}  # fmt: skip
_PEFT_TASKS = {
    "causal_lm": "CAUSAL_LM", "generative_reranker": "CAUSAL_LM", "decision": "CAUSAL_LM", "seq_cls": "SEQ_CLS", "reranker": "SEQ_CLS",
}  # fmt: skip
_HEADS = ("embedding", "lm_head", "head")
_ROUTERS = ("llama4", "phimoe")
"""Models whose router is a class of its own on top of ``nn.Linear``, which ms-swift's search by class name passes over."""
_OWN_LENGTHS = ("grpo", "ppo", "gkd")
"""Methods whose ``max_length`` is that of the prompt alone."""


def subcommand(config: Config) -> str:
    """``sft``, ``pt`` or ``rlhf``; empty for a file, or a command that does something else."""
    for word in reversed(config.program):
        name = word.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".py").rpartition(".")[2]
        if name in ("sft", "pt", "rlhf"):
            return name
    return ""


IDLE = ("export", "merge-lora", "merge_lora", "infer", "deploy", "eval", "app", "sample", "rollout")
"""Commands that use a model and train nothing."""


def idle(config: Config) -> bool:
    """Whether it is one of swift's commands that train nothing."""
    words = [
        word.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".py").rpartition(".")[2] for word in config.program
    ]
    return not subcommand(config) and any(word in IDLE for word in words)


def put_idle(sheet: Sheet) -> None:
    """A command that trains nothing has neither training nor an adapter of its own."""
    if idle(sheet.config):
        sheet.present -= {"train", "lora"}
        sheet.task = None


def method(sheet: Sheet) -> str:
    """``sft``, ``pt``, or what ``rlhf_type`` says; a file does not name its command, and only ``rlhf`` has such a type."""
    command = subcommand(sheet.config)
    if command in ("sft", "pt"):
        return command
    return str(sheet.value("rl", "dpo" if command == "rlhf" else "sft")).lower()


def put_adapter(sheet: Sheet, kind: str) -> None:
    """LoRA's section; an adapter that is trained on brings its own rank, scale and targets."""
    if kind not in _ADAPTED:
        return
    sheet.present.add("lora")
    # RLHFArguments sets it for reward models, whatever is written.
    task = "SEQ_CLS" if kind == "lora" and method(sheet) == "rm" else str(sheet.value("task_type", "causal_lm")).upper()
    sheet.put("lora.task_type", task if task in ("CAUSAL_LM", "SEQ_CLS") else None, "task_type")
    if sheet.has("adapter_path"):
        for name in _OF_ADAPTER:
            sheet.facts.pop(f"lora.{name}", None)
            sheet.unknown.add(f"lora.{name}")


def listed(value: Any) -> tuple[str, ...]:
    """A list of words; one word is a list of one, whatever commas are in it."""
    return tuple(map(str, value)) if isinstance(value, tuple) else () if value is None else (str(value),)


def put_targets(sheet: Sheet) -> None:
    """``all-linear`` in the list is every linear layer but experts and head; of a multimodal model, its language part."""
    if "lora.target_modules" in sheet.unknown:
        return
    if sheet.has("target_regex"):
        sheet.put("lora.target_modules", sheet.value("target_regex"), "target_regex")
        return
    names = listed(sheet.value("target_modules", ("all-linear",)))
    if sheet.config.get("lora_target_modules") is not None:
        names = tuple("all-linear" if name == "ALL" else name for name in names)
    if {"all-embedding", "DEFAULT"} & set(names):
        raise UnknownFact("lora.target_modules")
    if "all-linear" not in names:
        sheet.put("lora.target_modules", names, "target_modules")
    elif sheet.model is not None and (sheet.model.has_vision or sheet.model.has_audio):
        _put_parts(sheet, sheet.model)
    elif sheet.model is not None and sheet.model.model_type in _ROUTERS:
        sheet.put("lora.target_modules", every_linear_named(sheet.model, (*_HEADS, "router")), "target_modules")
    else:
        every = every_linear_but_experts(sheet.model)
        more = tuple(name for name in names if name != "all-linear")
        sheet.put("lora.target_modules", every if isinstance(every, str) else (*every, *more), "target_modules")


def _put_parts(sheet: Sheet, model: ModelFacts) -> None:
    frozen: list[str] = []
    if sheet.flag("freeze_vision_tower", True):
        frozen += ["vision", "audio"]
    if sheet.flag("freeze_aligner", True):
        frozen.append("projector")
    if sheet.flag("freeze_llm"):
        frozen += ["attention", "mlp", "mixer", "shared_expert", "router", "other"]
    if model.model_type in _ROUTERS:
        frozen.append("router")
    settings = ("target_modules", "freeze_vision_tower", "freeze_aligner", "freeze_llm")
    sheet.put("lora.target_modules", every_linear_named(model, (*_HEADS, *frozen)), *settings)
    sheet.put("lora.exclude_modules", paths_of(model, tuple(frozen)), *settings)


def put_saved(sheet: Sheet) -> None:
    """Modules that are trained whole; the words for groups of them hang on the model."""
    if "lora.modules_to_save" in sheet.unknown or not sheet.has("modules_to_save"):
        return
    names = listed(sheet.value("modules_to_save"))
    if {"all-embedding", "all-norm"} & set(names):
        raise UnknownFact("lora.modules_to_save")
    if sheet.dialect.name == "megatron-swift":
        names = tuple(_OF_MEGATRON.get(name, name) for name in names)
    sheet.put("lora.modules_to_save", names, "modules_to_save")


_OF_MEGATRON = {"word_embeddings": "embed_tokens", "output_layer": "lm_head"}
"""Modules as Megatron's own classes call them."""


def put_precision(sheet: Sheet) -> None:
    """``torch_dtype`` decides unless ``bf16`` or ``fp16`` do; without a word the checkpoint's own, which is not known here."""
    for name, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
        if str(sheet.value(name)).lower() == "true":
            sheet.put("train.dtype", dtype, name)
            return
    stated = _DTYPES.get(str(sheet.value("torch_dtype")).lower())
    if stated is None:
        raise UnknownFact("train.dtype")
    sheet.put("train.dtype", "float16" if stated == "float32" else stated, "torch_dtype")


def put_quantisation(sheet: Sheet) -> None:
    """bitsandbytes only with ``quant_method bnb``; it computes in fp32 unless the weights' type is bf16."""
    sheet.present.add("quant")
    kind, bits = str(sheet.value("quantization_method", "")).lower(), str(sheet.value("bits", ""))
    if not kind and sheet.config.get("quantization_bit") is not None:
        kind = "bnb"
    if kind in ("hqq", "eetq", "quanto", "fp8"):
        raise UnknownFact("quantization_method")
    sheet.put("quant.load_in_4bit", kind == "bnb" and bits == "4", "quantization_method", "bits")
    sheet.put("quant.load_in_8bit", kind == "bnb" and bits == "8", "quantization_method", "bits")
    stated, weights = sheet.value("bnb_4bit_compute_dtype"), sheet.value("torch_dtype")
    if stated is not None:
        sheet.put("quant.bnb_4bit_compute_dtype", _DTYPES.get(str(stated).lower(), stated), "bnb_4bit_compute_dtype")
    elif weights is None:
        raise UnknownFact("quant.bnb_4bit_compute_dtype")
    else:
        bf16 = _DTYPES.get(str(weights).lower()) == "bfloat16"
        sheet.put("quant.bnb_4bit_compute_dtype", "bfloat16" if bf16 else "float32", said="ms-swift, by torch_dtype")


def put_length(sheet: Sheet) -> None:
    """Without ``max_length`` only the model's own limit holds, and nobody knows how long the examples are."""
    packed = sheet.flag("packing")
    sheet.put("train.packing", packed, "packing")
    length = sheet.value("packing_length") if packed and sheet.has("packing_length") else sheet.value("max_length")
    if length is None or method(sheet) in _OWN_LENGTHS:
        raise UnknownFact("train.max_length")
    sheet.put("train.max_length", length, "packing_length" if packed and sheet.has("packing_length") else "max_length")


def put_loss(sheet: Sheet) -> None:
    """``loss_scale`` begins with a strategy, else it is the default one: every answer of the assistant."""
    kind = method(sheet)
    silent = {"sft": "default", "pt": "all", "orpo": "default"}.get(kind, "last_round")
    first = str(sheet.value("loss_scale", silent)).split("+")[0]
    known = {"all": "all", "last_round": "completion"}
    sheet.put("train.loss_on", known.get(first, "assistant"), "loss_scale")


def put_task(sheet: Sheet) -> None:
    """The command, ``rlhf_type`` and ``task_type`` say what the run is for; with a teacher it is distillation."""
    kind, words = method(sheet), str(sheet.value("task_type", "causal_lm")).lower()
    if kind == "sft" and words == "seq_cls":
        sheet.task = TaskFacts(name="classification", family="classification", trainer="classification")
    elif kind in ("sft", "pt") and words == "causal_lm":
        raw = kind == "pt"
        sheet.task = TaskFacts(
            name="continued-pretraining" if raw else "chat", family="pretraining" if raw else "sft", trainer="sft"
        )
    elif kind in _TASKS and not sheet.has("teacher_model"):
        name, family = _TASKS[kind]
        trainer: Any = name
        sort: Any = family
        sheet.task = TaskFacts(name=name, family=sort, trainer=trainer)
    if kind in _TASKS and kind != "rm":
        sheet.put("train.beta", sheet.value("beta", {"grpo": 0.04, "simpo": 2.0}.get(kind, 0.1)), "beta")
    if kind == "grpo" and not sheet.has("teacher_model"):
        sheet.put("train.num_generations", sheet.value("num_generations", 8), "num_generations")
        sheet.put("train.max_completion_length", sheet.value("max_completion_length", 512), "max_completion_length")


def put_held_out(sheet: Sheet) -> bool:
    """The share that is held out, and whether there is a validation set at all."""
    share = sheet.value("eval_share", 0.0)
    given = any(sheet.has(name) for name in ("test_datasets", "cached_test_datasets"))
    if sheet.has("test_datasets") or (sheet.flag("streaming") and share):
        share = 0.0
    sheet.put("train.eval_share", float(share), "eval_share", "test_datasets")
    return bool(share) or given
