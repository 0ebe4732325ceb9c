"""What torchtune's components are: ``lora_llama3_1_8b`` builds ``meta-llama/Llama-3.1-8B`` (checked against 0.7)."""

from __future__ import annotations

import re

from lora_advise.data_keys import keys_of
from lora_advise.document import Config

OPTIMISERS = {
    "torch.optim.AdamW": "adamw_torch", "torch.optim.SGD": "sgd", "bitsandbytes.optim.PagedAdamW8bit": "paged_adamw_8bit",
    "bitsandbytes.optim.PagedAdamW": "paged_adamw_32bit", "bitsandbytes.optim.AdamW8bit": "adamw_8bit",
}  # fmt: skip
WHOLE_TEXT = (
    "alpaca_dataset", "alpaca_cleaned_dataset", "text_completion_dataset", "wikitext_dataset", "cnn_dailymail_articles_dataset",
)  # fmt: skip
"""Builders that let every token carry loss unless the file says otherwise."""
ANSWERS = {
    "instruct_dataset": "completion", "chat_dataset": "assistant", "grammar_dataset": "completion", "samsum_dataset": "completion",
    "slimorca_dataset": "assistant", "preference_dataset": "completion", "stack_exchange_paired_dataset": "completion",
    "hh_rlhf_helpful_dataset": "completion",
}  # fmt: skip
_FIXED = {
    "llama2_7b": "meta-llama/Llama-2-7b-hf", "llama2_13b": "meta-llama/Llama-2-13b-hf", "llama2_70b": "meta-llama/Llama-2-70b-hf",
    "code_llama2_7b": "codellama/CodeLlama-7b-hf", "code_llama2_13b": "codellama/CodeLlama-13b-hf",
    "code_llama2_70b": "codellama/CodeLlama-70b-hf", "llama3_8b": "meta-llama/Meta-Llama-3-8B",
    "llama3_70b": "meta-llama/Meta-Llama-3-70B", "llama3_1_8b": "meta-llama/Llama-3.1-8B",
    "llama3_1_70b": "meta-llama/Llama-3.1-70B", "llama3_1_405b": "meta-llama/Llama-3.1-405B",
    "llama3_2_1b": "meta-llama/Llama-3.2-1B", "llama3_2_3b": "meta-llama/Llama-3.2-3B",
    "llama3_3_70b": "meta-llama/Llama-3.3-70B-Instruct", "llama3_2_vision_11b": "meta-llama/Llama-3.2-11B-Vision",
    "llama3_2_vision_90b": "meta-llama/Llama-3.2-90B-Vision-Instruct", "mistral_7b": "mistralai/Mistral-7B-v0.1",
    "gemma_2b": "google/gemma-2b", "gemma_7b": "google/gemma-7b", "gemma2_2b": "google/gemma-2-2b",
    "gemma2_9b": "google/gemma-2-9b", "gemma2_27b": "google/gemma-2-27b", "phi3_mini": "microsoft/Phi-3-mini-4k-instruct",
    "phi4_14b": "microsoft/phi-4",
}  # fmt: skip
_METHOD = re.compile(r"^q?(?:lora|dora)_")
_QWEN = re.compile(r"qwen(2_5|2|3)_(\d+(?:_\d+)?)b(?:_(base|instruct))?")


def model_id(builder: str) -> str | None:
    """The hub id of what that builder builds; None for one that is not known."""
    name = _METHOD.sub("", builder)
    found = _QWEN.fullmatch(name)
    if found is None:
        return _FIXED.get(name)
    family, size, kind = found[1].replace("_", "."), found[2].replace("_", "."), found[3]
    suffix = {"2": "", "2.5": "-Instruct" if kind == "instruct" else "", "3": "-Base" if kind == "base" else ""}[family]
    return f"Qwen/Qwen{family}-{size}B{suffix}"


_MODEL_KEYS = frozenset(key[6:] for key in keys_of("torchtune") if key.startswith("model."))
_SCHEDULER_KEYS = frozenset({"_component_", "num_warmup_steps", "num_cycles", "last_epoch"})


_SIZED = re.compile(r"^torchtune\.models\.\w+\.\w*\d+b\w*$")
"""Builders of a model of one size; one without a size takes its dimensions too."""


def closed(config: Config) -> dict[str, frozenset[str]]:
    """The parameters of torchtune's own builders; a component of somebody else's takes what it takes."""
    found = {}
    model, schedule = config.get("model", "_component_"), config.get("lr_scheduler", "_component_")
    if model is not None and _SIZED.search(str(model.value)) and "vision" not in str(model.value):
        found["model"] = _MODEL_KEYS | {"_component_"}
    if schedule is not None and str(schedule.value).endswith(".get_cosine_schedule_with_warmup"):
        found["lr_scheduler"] = _SCHEDULER_KEYS
    return found
