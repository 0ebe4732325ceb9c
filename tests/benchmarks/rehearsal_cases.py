"""Runs over the catalogue that the closed form and the rehearsal are compared on."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files

from lora_advise import catalogue
from lora_advise.adapter_limits import refused
from lora_advise.facts import (
    Facts,
    HardwareFacts,
    LoraFacts,
    ModelFacts,
    QuantFacts,
    StackFacts,
    TaskFacts,
    TrainFacts,
)

SETTINGS = (
    # framework, 4 bits, everywhere, rank, dropout, micro-batch, length, checkpointing
    ("trl", False, True, 16, 0.0, 1, 2048, True),
    ("trl", True, True, 16, 0.0, 1, 2048, True),
    ("trl", False, False, 64, 0.0, 4, 1024, True),
    ("trl", True, True, 32, 0.05, 2, 3072, True),
    ("trl", False, True, 8, 0.0, 1, 1024, False),
    ("transformers", False, True, 16, 0.0, 1, 2048, True),
    ("transformers", True, False, 16, 0.1, 2, 1024, True),
    ("peft", False, False, 16, 0.0, 1, 4096, True),
    ("trl", True, True, 128, 0.0, 8, 512, False),
)
TOWERS = r".*(vision|visual|audio|image|speech|projector|connector|cross_attn).*"
"""Paths of modules that rows of text never reach."""
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def run_of(model: ModelFacts, setting: tuple) -> Facts:
    """The facts of one comparison."""
    framework, packed, everywhere, rank, dropout, batch, length, checkpointing = setting
    attention = any(m.name in ATTENTION for m in model.modules)
    return Facts(
        task=TaskFacts(name="chat", family="sft"),
        model=model,
        stack=StackFacts(framework=framework),
        lora=LoraFacts(
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=dropout,
            target_modules="all-linear" if everywhere or not attention else ATTENTION,
            exclude_modules=_left_out(model),
        ),
        quant=QuantFacts(load_in_4bit=packed),
        train=TrainFacts(
            learning_rate=1e-4,
            per_device_train_batch_size=batch,
            per_device_eval_batch_size=batch,
            gradient_accumulation_steps=1,
            max_length=length,
            optim="adamw_torch_fused",
            activation_checkpointing=checkpointing,
        ),
        hardware=HardwareFacts(name="H200", memory_gib=140.0),
    )


def _left_out(model: ModelFacts) -> tuple[str, ...] | str | None:
    """What bears no adapter, and towers: rows of text give a tower's adapters no gradients, while the forecast counts them."""
    names = tuple(sorted({m.name for m in refused(model, model.modules)}))
    if not (model.has_vision or model.has_audio):
        return names or None
    return "|".join((TOWERS, *(rf"(.*\.)?{re.escape(name)}" for name in names)))


def pairs(every: int, slow: tuple[str, ...]) -> list[tuple[ModelFacts, tuple]]:
    """Every model with some settings: each kind of model goes through all of them in turn, three for the first of a type.

    Further models of a type get one. Of slow types one model stands for all, with two settings but where there are few types.
    """
    found: list[tuple[ModelFacts, tuple]] = []
    seen: set[str] = set()
    turns: Counter[str] = Counter()
    for model in models(every):
        first = model.model_type not in seen
        seen.add(model.model_type)
        if model.model_type in slow and not first:
            continue
        count = 1 if not first else 2 if model.model_type in slow and model.kind != "ssm" else 3
        found += [(model, SETTINGS[(turns[model.kind] + n) % len(SETTINGS)]) for n in range(count)]
        turns[model.kind] += count
    return found


def models(every: int = 1) -> Iterator[ModelFacts]:
    """Models of the catalogue that transformers can build, one of each model type and every n-th of the others."""
    text = (files("lora_advise") / "data" / "models.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    seen: set[str] = set()
    for n, row in enumerate(rows):
        if row["class"] is None or row["kind"] in ("encoder", "encoder-decoder"):
            continue
        if row["model_type"] not in seen or n % every == 0:
            seen.add(row["model_type"])
            yield catalogue.resolve_model(row["id"])[0]
