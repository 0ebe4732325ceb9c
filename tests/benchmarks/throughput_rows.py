"""Measured runs that state their speed, as facts: what the forecast of time is calibrated on and tested against.

The table lies beside the repository and is never copied into it. A row that cannot be used is counted with its reason.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from lora_advise.catalogue import resolve_model
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts, LinearModule, LoraFacts, ModelFacts, QuantFacts, StackFacts, TaskFacts, TrainFacts
from lora_advise.gpus import resolve_hardware

TABLE = Path(__file__).resolve().parents[3] / "shared" / "knowledge" / "memory-measured.jsonl"
HOPPER = "ljm565/universal-llm-trainer"
CALIBRATION = (
    "foundation-model-stack/fms-acceleration",
    "huggingface/peft",
    "DaoyuanLi2816/can-i-finetune-this",
    HOPPER,
)
"""Repositories whose rows the efficiency bands were set on; every other one is held out."""
BASES = {
    "TheBloke/Mistral-7B-v0.1-GPTQ": "mistralai/Mistral-7B-v0.1",
    "TheBloke/Mixtral-8x7B-Instruct-v0.1-GPTQ": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "TechxGenus/Meta-Llama-3-8B-GPTQ": "meta-llama/Meta-Llama-3-8B",
    "NousResearch/Llama-2-70b-hf": "meta-llama/Llama-2-70b-hf",
    "Qwen/Qwen-1_8B-Chat-Int4": "Qwen/Qwen-1_8B-Chat",
    "Qwen/Qwen-14B-Chat-Int4": "Qwen/Qwen-14B-Chat",
    "Qwen/Qwen-72B-Chat-Int4": "Qwen/Qwen-72B-Chat",
}
"""Quantised uploads and mirrors, and the model whose dimensions they have."""
CARDS = {
    "NVIDIA A100-SXM4-80GB": "A100 SXM4 80GB", "A100-SXM4-80GB": "A100 SXM4 80GB", "A100": "A100 SXM4 80GB",
    "NVIDIA L40S": "L40S", "NVIDIA GeForce RTX 4080": "RTX 4080", "RTX 4090": "RTX 4090", "A6000": "RTX A6000",
}  # fmt: skip
METAMATH_TOKENS = 210
"""Mean tokens of a row of PEFT's benchmark; rows of like length stand together, so padding is small."""
UNKNOWN_TOKENS = "the tokens of a step are not stated (rows of variable length)"


HOPPER_SECONDS = (
    ("meta-llama/Llama-3.1-8B", "full", 4.7), ("meta-llama/Llama-3.1-8B", "lora", 6.4), ("meta-llama/Llama-2-13b-hf", "lora", 9.8),
    ("google/gemma-2-9b", "lora", 12.9), ("google/gemma-7b", "lora", 9.5), ("microsoft/Phi-3-mini-4k-instruct", "full", 4.0),
    ("microsoft/Phi-3-mini-4k-instruct", "lora", 5.0),
)  # fmt: skip
"""Seconds of a micro-batch of 2 full rows of 8,192 tokens on one H100, checkpointing on (README of HOPPER's repository)."""


class Measured(NamedTuple):
    """One run: its speed in tokens per second and device, padding included."""

    id: str
    repository: str
    gpu: str
    framework: str
    kind: str
    """Method and storage of the weights: ``qlora bnb-nf4-dq``, ``lora bf16``."""
    label: str
    facts: Facts
    rate: float

    @property
    def calibration(self) -> bool:
        """Whether its repository is one of those that the bands were set on."""
        return self.repository in CALIBRATION


def read(table: Path = TABLE) -> tuple[tuple[Measured, ...], Counter[str]]:
    """All usable rows, and how many were left out for which reason."""
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]
    found, left = [], Counter[str]()
    for row in rows:
        if not row.get("throughput"):
            continue
        made = _measured(row)
        if isinstance(made, str):
            left[made] += 1
        else:
            found.append(made)
    return (*found, *_hopper()), left


def _hopper() -> list[Measured]:
    """The runs on an H100, which the table lacks. The targets of LoRA are not stated: all linear layers are assumed."""
    found = []
    for name, method, seconds in HOPPER_SECONDS:
        train = TrainFacts(
            learning_rate=1e-4, per_device_train_batch_size=2, gradient_accumulation_steps=1 if method == "full" else 32,
            max_length=8192, packing=True, loss_on="all", optim="adamw_torch",
        )  # fmt: skip
        facts = Facts(
            task=TaskFacts(name="sft", family="sft"), model=resolve_model(name)[0], train=train,
            lora=LoraFacts(r=16, lora_alpha=32) if method == "lora" else None,
            hardware=resolve_hardware("H100 SXM5 80GB", None), stack=StackFacts(framework="peft"),
        )  # fmt: skip
        label = f"{name.split('/')[-1]}, {method} bf16, 2 x 8192 tokens"
        key = f"h100-{name}-{method}"
        found.append(
            Measured(key, HOPPER, "1 x H100 SXM5 80GB", "own loop", f"{method} bf16", label, facts, 16384 / seconds)
        )
    return found


def _measured(row: dict[str, Any]) -> Measured | str:
    repository = row["source"].split(":")[0]
    if row.get("oom"):
        return "the run ran out of memory"
    if row["method"] not in ("lora", "qlora", "full", "dora"):
        return "a method that is not LoRA, QLoRA, DoRA or full fine-tuning"
    said = f"{row.get('seq_note')} {row.get('notes')}"
    if "variable length" in said or "unpacked" in said:
        return UNKNOWN_TOKENS
    rate = _rate(row)
    if rate is None:
        return UNKNOWN_TOKENS
    model = _model(row["model"])
    if model is None:
        return "the dimensions of the model are not in the catalogue"
    hardware = resolve_hardware(CARDS[row["gpu_name"]], str(row["gpus"]))
    facts = Facts(
        task=TaskFacts(name="sft", family="sft"), model=model, lora=_lora(row), quant=_quant(row), train=_train(row),
        hardware=hardware, stack=_stack(row),
    )  # fmt: skip
    kind, gpu = f"{row['method']} {_kind(row)}", f"{row['gpus']} x {hardware.name if hardware else '?'}"
    label = f"{row['model'].split('/')[-1]}, {kind}, {row['micro_batch']} x {row['seq_len']} tokens"
    name = row["framework"].split(" (")[0].split("/")[0]
    return Measured(row["id"], repository, gpu, name, kind, label, facts, rate)


def _rate(row: dict[str, Any]) -> float | None:
    text = row["throughput"]
    found = re.match(r"([\d.]+) tok/s", text)
    if found:
        spread = row["gpus"] if row["gpus"] > 1 and "per device" not in text else 1
        return float(found[1]) / spread
    found = re.fullmatch(r"([\d.]+) s/iter", text)
    if found:  # an iteration is an optimizer step
        return row["micro_batch"] * row["grad_accum"] * row["seq_len"] / float(found[1])
    return None


def _model(name: str) -> ModelFacts | None:
    if name == "ibm/PowerLM-3b":
        return _power_lm()
    try:
        return resolve_model(BASES.get(name, name))[0]
    except LoraAdviseError:
        return None


def _power_lm() -> ModelFacts:
    h, f, layers, vocab = 2304, 9216, 40, 49152
    shapes = {"q_proj": (h, h), "k_proj": (h, h), "v_proj": (h, h), "o_proj": (h, h)}
    mlp = {"gate_proj": (h, f), "up_proj": (h, f), "down_proj": (f, h)}
    modules = [
        LinearModule(path=f"model.layers.*.{n}", d_in=i, d_out=o, count=layers, role=role)
        for part, role in ((shapes, "attention"), (mlp, "mlp"))
        for n, (i, o) in part.items()
    ]
    modules.append(LinearModule(path="lm_head", d_in=h, d_out=vocab, role="lm_head"))
    total = sum(m.weights for m in modules)
    return ModelFacts(
        name="ibm/PowerLM-3b", model_type="granite", kind="dense", total_params=total, active_params=total, hidden_size=h,
        num_hidden_layers=layers, num_attention_heads=36, num_key_value_heads=36, head_dim=64, intermediate_size=f,
        vocab_size=vocab, tie_word_embeddings=True, modules=tuple(modules),
    )  # fmt: skip


def _lora(row: dict[str, Any]) -> LoraFacts | None:
    if row["method"] == "full":
        return None
    names = row.get("target_modules") or ["q_proj", "v_proj"]
    if row["source"].startswith("QwenLM"):
        names = ["c_attn", "c_proj", "w1", "w2"]
    if row["source"].startswith("meta-pytorch"):
        names = ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    said = f"{row.get('precision')} {row.get('notes')}"
    saved = ("wte", "lm_head") if "modules_to_save" in said else ()
    return LoraFacts(
        r=row.get("r") or 8, lora_alpha=16, lora_dropout=row.get("lora_dropout") or 0.0, target_modules=tuple(names),
        modules_to_save=saved, use_dora=row["method"] == "dora",
    )  # fmt: skip


def _quant(row: dict[str, Any]) -> QuantFacts | None:
    return None if row.get("quant", "none") == "none" else QuantFacts(load_in_4bit=True)


def _train(row: dict[str, Any]) -> TrainFacts:
    metamath = row["source"].startswith("huggingface/peft")
    foak = "foak" in row["framework"]
    return TrainFacts(
        learning_rate=1e-4, per_device_train_batch_size=row["micro_batch"],
        gradient_accumulation_steps=row.get("grad_accum") or 1,
        max_length=METAMATH_TOKENS if metamath else row["seq_len"], packing=True, loss_on="all",
        activation_checkpointing=bool(row.get("grad_ckpt")), use_liger_kernel=foak,
        attn_implementation="flash_attention_2" if "flash" in (row.get("attn") or "") else "sdpa",
        optim="adamw_torch_fused" if "fused" in (row.get("optimizer") or "") else "adamw_torch",
    )  # fmt: skip


def _stack(row: dict[str, Any]) -> StackFacts:
    text = str(row.get("sharding") or "none").lower()
    sharding = next((s for word, s in SHARDINGS.items() if word in text), "none")
    return StackFacts(framework=_framework(row), sharding=sharding if row["gpus"] > 1 else "none")


SHARDINGS = {"fsdp": "fsdp", "zero-3": "zero3", "zero-2": "zero2", "multi-node": "zero2", "ddp": "ddp"}


def _framework(row: dict[str, Any]) -> str:
    """The stack of ours whose precision the run had."""
    name, precision = row["framework"], row.get("precision") or ""
    if name == "torchtune":
        return "torchtune"
    if name.startswith(("peft", "can-i")) or "bf16=False fp16=False" in precision:
        return "peft"
    # fms-acceleration keeps norms in 16 bits; its baseline upcasts them, as the HF recipe does.
    return "transformers" if "baseline" in name or row["method"] != "qlora" else "llamafactory"


def _kind(row: dict[str, Any]) -> str:
    quant = row.get("quant", "none")
    return quant if quant != "none" else "bf16"
