"""How a plan file is laid out: its sections, in reading order, and the facts that they hold."""

from __future__ import annotations

from lora_advise.facts import (
    DataFacts,
    HardwareFacts,
    LoraFacts,
    QuantFacts,
    StackFacts,
    TaskFacts,
    TrainFacts,
)
from lora_advise.section import Section


class PlanModel(Section):
    """The model section: only what finds the model again; the catalogue or the config.json gives the rest."""

    name: str
    """Hub id, or the name that the config.json gave."""
    asked: str | None = None
    """What was typed, when that was a size or an alias."""
    path: str | None = None
    """Local folder or config.json."""


SECTIONS: dict[str, tuple[str, type[Section]]] = {
    "task": ("task", TaskFacts),
    "data": ("data", DataFacts),
    "hardware": ("hardware", HardwareFacts),
    "quantization": ("quant", QuantFacts),
    "lora": ("lora", LoraFacts),
    "training": ("train", TrainFacts),
    "stack": ("stack", StackFacts),
}
"""Section of the file to section of the facts; ``model`` and ``evaluation`` are treated apart."""

EVALUATION = (
    "per_device_eval_batch_size",
    "eval_strategy",
    "eval_steps",
    "eval_share",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "load_best_model_at_end",
    "metric_for_best_model",
    "early_stopping_patience",
)
"""Fields of the training facts that stand in the evaluation section of the file."""

TITLES = {
    "model": "The base model",
    "task": "What the run is for",
    "data": "The training data; lengths are tokens",
    "hardware": "What it runs on",
    "quantization": "How the frozen weights are stored (bitsandbytes); load_in_4bit: true is QLoRA",
    "lora": "The adapter (peft.LoraConfig); null: full fine-tuning",
    "training": "The run (transformers.TrainingArguments and TRL)",
    "evaluation": "Held-out loss, checkpoints and stopping",
    "stack": "The libraries that run it",
}
TOP_LEVEL = ("version", "profile", *TITLES, "overrides", "origins")
