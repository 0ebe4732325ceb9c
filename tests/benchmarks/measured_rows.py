"""Measured runs of other people as facts: read by the test of the memory forecast and by its accuracy report.

The table (``shared/knowledge/memory-measured.jsonl``) stays outside the repository. Every row becomes a :class:`Run`, or
a :class:`LeftOut` with the reason. Models are the catalogue's; only those that it lacks are written out here. Libraries
reach the forecast as versions, through the product's own code; a switch is set by hand only where no version tells it,
with the reason beside it.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from lora_advise.catalogue import resolve_model
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import (
    Facts,
    HardwareFacts,
    LinearModule,
    LoraFacts,
    ModelFacts,
    QuantFacts,
    StackFacts,
    TrainFacts,
)
from lora_advise.memory_stack import Stack, stack_of

TABLE = Path(__file__).resolve().parents[3] / "shared" / "knowledge" / "memory-measured.jsonl"

Metric = Literal["allocated", "reserved", "device"]
Group = Literal["single", "fsdp", "reserved", "other", "oom"]


class Run(NamedTuple):
    """A measured run: what is known of it, and what was read off."""

    row: dict
    facts: Facts
    stack: Stack
    group: Group
    metric: Metric
    stack_name: str
    """The stack as a person would call it."""
    exact: bool = True
    """Whether the length is what ran; else it is the cap, and shorter rows are possible."""

    @property
    def measured(self) -> float:
        """GiB."""
        return self.row["value_gib"]

    @property
    def repository(self) -> str:
        """Where the row was published."""
        return repository(self.row)

    @property
    def gpu(self) -> str:
        """The card, or that it is not told."""
        return self.row.get("gpu_name") or "not stated"


class LeftOut(NamedTuple):
    """A row that is not compared, and why."""

    row: dict
    reason: str


PLAIN = {
    # hidden, MLP, key-value width, layers, vocabulary, tied embeddings, heads, longest position, type, gated MLP
    "ibm/PowerLM-3b": (2304, 9216, 2304, 40, 49152, True, 36, 4096, "granite", True),
    "stabilityai/stablelm-base-alpha-3b": (4096, 16384, 4096, 16, 50432, False, 32, 4096, "gpt_neox", False),
    "OpenBuddy/openbuddy-zephyr-7b-v14.1": (4096, 14336, 1024, 32, 36608, False, 32, 32768, "mistral", True),
}
"""Models that the catalogue lacks, from their config.json."""

BASE_OF = {
    "TheBloke/Mistral-7B-v0.1-GPTQ": "mistralai/Mistral-7B-v0.1",
    "TheBloke/Mixtral-8x7B-Instruct-v0.1-GPTQ": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "TechxGenus/Meta-Llama-3-8B-GPTQ": "meta-llama/Meta-Llama-3-8B",
    "Qwen/Qwen-1_8B-Chat-Int4": "Qwen/Qwen-1_8B-Chat",
    "Qwen/Qwen-14B-Chat-Int4": "Qwen/Qwen-14B-Chat",
    "Qwen/Qwen-72B-Chat-Int4": "Qwen/Qwen-72B-Chat",
}
"""Quantised copies; their shapes are the base model's."""

WHOLE_COLUMNS = "TheBloke/Mixtral-8x7B-Instruct-v0.1-GPTQ"
"""The one GPTQ checkpoint whose scales span whole columns (its quantize_config.json: group_size -1)."""

FMS_LIBRARIES = (
    ("2024-07-20", {"transformers": "4.42.4", "bitsandbytes": "0.43.1"}),
    ("2024-09-01", {"transformers": "4.43.3", "bitsandbytes": "0.43.3"}),
    ("2025-01-01", {"transformers": "4.45.2", "bitsandbytes": "0.44.1"}),
    ("9999", {"transformers": "4.48.3", "bitsandbytes": "0.45.1"}),
)
"""Releases at the dates of the A100 benchmark: the rows state ranges and a date. Their December 2024 rows say "above
4.45", yet follow the law of 4.45 to the last digit, with and without Liger."""


def rows(path: Path = TABLE) -> list[dict]:
    """The table, one dictionary per run."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def repository(row: dict) -> str:
    """The repository (or paper) that published the row."""
    head = re.split(r":(?!//)", row["source"], maxsplit=1)[0]
    return head if not head.startswith("http") else "/".join(head.split("/")[2:5])


def read(path: Path = TABLE) -> tuple[list[Run], list[LeftOut]]:
    """Every row of the table, as a run or as left out with its reason."""
    runs: list[Run] = []
    left: list[LeftOut] = []
    for row in rows(path):
        found = _read(row)
        (left if isinstance(found, LeftOut) else runs).append(found)
    return runs, left


def _read(row: dict) -> Run | LeftOut:
    reason = _unusable(row)
    if reason:
        return LeftOut(row, reason)
    source = row["source"]
    readers = (
        ("fms-acceleration", fms), ("can-i-finetune", loop), ("MetaMathQA", metamath), ("litgpt", litgpt),
        ("torchtune", torchtune), ("ms-swift", swift), ("Qwen:README", qwen), ("axolotl", axolotl),
        ("huggingface/peft", sharded_example),
    )  # fmt: skip
    for name, reader in readers:
        if name in source:
            return reader(row)
    return LeftOut(row, "settings not stated: batch, length or adapter cannot be told from the source")


OTHER_METHODS = "another method than LoRA, DoRA, QLoRA or full fine-tuning"


def _unusable(row: dict) -> str | None:
    """Why the row cannot be compared, told before anything is computed."""
    method = row["method"]
    if row["quality"] == "C":
        return "quality C: a claim, or settings that are not stated"
    if method == "load-only" or "weights" in row["metric"] or "components" in row["metric"]:
        return "not a training peak: weights after loading"
    if method not in ("lora", "dora", "qlora", "full"):
        return OTHER_METHODS
    if any(name in row["quant"] for name in ("bnb8", "gptq8", "aqlm", "awq", "hqq", "nvfp4")):
        return "a quantisation that is not modelled or not supported for training here"
    if "bigcode" in row["model"]:
        return "GPT-BigCode: its own head and loss, which were not read, decide its peak"
    if model_of(row) is None:
        return "a model that neither the catalogue nor this reader knows (old, private or newer than the catalogue)"
    if row.get("micro_batch") is None or row.get("seq_len") is None:
        return "batch or length not stated"
    return None


def model_of(row: dict) -> ModelFacts | None:
    """The catalogue's model, one written out above, or None."""
    name = row["model"]
    if name in PLAIN:
        return decoder(name)
    name = BASE_OF.get(name, name)
    try:
        return resolve_model(name)[0] if name else None
    except LoraAdviseError:
        return None


def decoder(name: str) -> ModelFacts:
    """A decoder of these dimensions with the usual four attention matrices."""
    h, f, kv, layers, vocab, tied, heads, positions, kind, gated = PLAIN[name]
    block = "model.layers.*"
    shapes = [("q_proj", h, h), ("k_proj", h, kv), ("v_proj", h, kv), ("o_proj", h, h)]
    parts = [("gate_proj", h, f), ("up_proj", h, f), ("down_proj", f, h)] if gated else [("up", h, f), ("down", f, h)]
    modules = [LinearModule(path=f"{block}.{p}", d_in=i, d_out=o, count=layers, role="attention") for p, i, o in shapes]
    modules += [LinearModule(path=f"{block}.{p}", d_in=i, d_out=o, count=layers, role="mlp") for p, i, o in parts]
    modules += [
        LinearModule(path="model.embed_tokens", d_in=vocab, d_out=h, role="embedding", kind="embedding"),
        LinearModule(path="lm_head", d_in=h, d_out=vocab, role="lm_head"),
    ]
    total = sum(m.weights for m in modules) - (vocab * h if tied else 0) + (2 * layers + 1) * h
    return ModelFacts(
        name=name, model_type=kind, kind="dense", total_params=total, active_params=total, hidden_size=h,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv * heads // h, head_dim=h // heads,
        intermediate_size=f, vocab_size=vocab, tie_word_embeddings=tied, max_position_embeddings=positions,
        modules=tuple(modules),
    )  # fmt: skip


def facts_of(row: dict, framework: str, versions: dict[str, str], **changes) -> Facts:
    """The row's settings; ``changes`` replace fields of the train section."""
    model = model_of(row)
    quantised = row["method"] == "qlora"
    quant = QuantFacts(load_in_4bit=True, bnb_4bit_use_double_quant="dq" in row["quant"]) if quantised else None
    sharding = changes.pop("sharding", "none")
    if quant and sharding == "fsdp":
        quant = quant.changed({"bnb_4bit_quant_storage": "bfloat16"})
    train = {
        "learning_rate": 1e-4, "per_device_train_batch_size": row["micro_batch"],
        "gradient_accumulation_steps": row.get("grad_accum") or 1, "max_length": row["seq_len"],
        "optim": "adamw_torch", "attn_implementation": "flash_attention_2",
        "activation_checkpointing": bool(row.get("grad_ckpt")),
    } | changes  # fmt: skip
    return Facts(
        model=model, quant=quant, lora=lora_of(row, model), train=TrainFacts(**train),
        stack=StackFacts(framework=framework, versions=versions, sharding=sharding),
        hardware=HardwareFacts(name=row.get("gpu_name") or "unknown", memory_gib=card(row), count=row["gpus"]),
    )  # fmt: skip


def card(row: dict) -> float:
    """Memory of the card as its driver reports it, in GiB; 80 GB cards where it is not stated."""
    sizes = {"4080": 15.6, "4090": 23.6, "A10G": 22.1, "40GB": 39.4, "A6000": 47.5, "L40S": 44.5}
    return next((size for name, size in sizes.items() if name in (row.get("gpu_name") or "")), 79.2)


def lora_of(row: dict, model: ModelFacts) -> LoraFacts | None:
    """The adapter. Names of other frameworks become the model's own; what matches nothing becomes all linear layers."""
    if row["method"] == "full":
        return None
    asked = row.get("target_modules")
    short = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "proj": "o_proj"}
    known = {m.name for m in model.modules}
    names = {short.get(n, n) for n in asked} if isinstance(asked, list) else set()
    wide = not names or any(n.startswith("mlp") for n in names)
    chosen = tuple(sorted(names & known))
    return LoraFacts(
        r=row.get("r") or 8, lora_alpha=16, lora_dropout=row.get("lora_dropout") or 0.0,
        target_modules="all-linear" if wide or not chosen else chosen, use_dora=row["method"] == "dora",
    )  # fmt: skip


def fms(row: dict) -> Run | LeftOut:
    """HF Trainer with FMS acceleration on A100 cards: packed rows of exactly 4,096 (or 2,048) tokens."""
    plugin = row["framework"]
    if "moe-scattermoe" in plugin:
        return LeftOut(row, "ScatterMoE kernels and expert parallelism are not modelled")
    sharded = row["gpus"] > 1
    exact = "orca" not in row["source"]
    versions = dict(next(v for until, v in FMS_LIBRARIES if row["date"] < until)) if exact else {}
    if "gptq" in row["quant"]:
        versions["auto-gptq"] = "0.7.1"
    if "foak" in plugin:
        versions["fms-acceleration-foak"] = "0.4"
    amp = "bf16=True" in row["precision"] or "fp16=True" in row["precision"]
    facts = facts_of(
        row, "transformers", versions, sharding="fsdp" if sharded else "none", use_liger_kernel="liger" in plugin,
        packing=True,
    )  # fmt: skip
    group = "oom" if row["oom"] else "fsdp" if sharded else "single"
    if not row["oom"] and row["quality"] != "A":
        group = "other"
    metric = "device" if "nvidia-smi" in row["metric"] else "allocated"
    return Run(row, facts, fms_stack(row, facts, amp), group, metric, "HF Trainer", exact)


def fms_stack(row: dict, facts: Facts, amp: bool) -> Stack:
    """What no version tells: whether the run was under autocast, and whether its plugin upcast the quantised model."""
    stack = stack_of(facts)
    if row["model"] == WHOLE_COLUMNS:
        stack = replace(stack, group=0)
    if row["method"] == "full":
        return replace(stack, upcasts_trained=stack.upcasts_trained and amp)
    if row["method"] == "lora":
        return stack if amp else replace(stack, mode="no-amp")
    if "baseline" in row["framework"] and row["gpus"] == 1:
        # The plain script calls prepare_model_for_kbit_training; under bf16 its embeddings went back to 16 bits.
        return replace(stack, embedding_bytes=2 if "bf16=True" in row["precision"] else 4)
    return replace(stack, mode="nf4", embedding_bytes=2, norm_bytes=2, residual_bytes=2)


def loop(row: dict) -> Run | LeftOut:
    """A hand-written PEFT loop on an RTX 4080, with synthetic rows of the exact length."""
    optim = "paged_adamw_8bit" if row["method"] == "qlora" else "sgd"
    facts = facts_of(row, "peft", row["versions"], optim=optim, attn_implementation="sdpa", packing=False)
    return Run(row, facts, stack_of(facts), "single", "allocated", "PEFT loop")


METAMATH_TOKENS = 645
"""The longest padded batch of PEFT's benchmark, a fit of one number over five of its methods (memory model)."""


def metamath(row: dict) -> Run | LeftOut:
    """PEFT's method comparison: a hand-written loop over padded batches; what torch reserved over the whole run."""
    if "lora-fa" in (row.get("optimizer") or ""):
        return LeftOut(row, OTHER_METHODS)
    facts = facts_of(row, "peft", row["versions"], attn_implementation="sdpa", max_length=METAMATH_TOKENS)
    return Run(row, facts, stack_of(facts), "reserved", "reserved", "PEFT loop")


def litgpt(row: dict) -> Run | LeftOut:
    """LitGPT: everything in bf16, no activation checkpointing in its LoRA recipes.

    Its recipes of 2024 pinned bitsandbytes 0.42 and accumulate over two micro-batches at least; the adapters of its Llama 3.2 recipes are read from its repository. Those that state one figure for one and for four devices mean one.
    """
    if "mixed" in (row.get("precision") or ""):
        return LeftOut(row, "fp32 weights under autocast in LitGPT: a precision that its recipes do not use")
    recipe = {"r": 32, "lora_dropout": 0.05, "target_modules": ["q", "v"]} if "llama-3.2" in row["model"] else {}
    row = {"grad_accum": 2, **row, **(recipe if row.get("r") is None and row["method"] != "full" else {})}
    sharded = "litgpt FSDP" in row["sharding"] or (row["oom"] and row["gpus"] > 1)
    facts = facts_of(
        row, "litgpt", {"bitsandbytes": "0.42.0"} | (row.get("versions") or {}), packing=True,
        sharding="fsdp" if sharded else "none", activation_checkpointing=sharded,
    )  # fmt: skip
    states = 8 * facts.model.total_params / 2**30
    if row["method"] == "full" and not sharded and row["value_gib"] and states > 1.05 * row["value_gib"]:
        return LeftOut(row, "weights, gradients and Adam's states alone exceed the figure: not the stated optimizer")
    return Run(row, facts, stack_of(facts), "oom" if row["oom"] else "other", "allocated", "LitGPT")


FSDP2 = "FSDP2, whose law is not known: the measured runs are FSDP1"


def torchtune(row: dict) -> Run | LeftOut:
    """torchtune: bf16 throughout; compiled in all but two rows, which the forecast does not model."""
    notes = row.get("notes") or ""
    offload = "offloading" in notes
    if row["gpus"] > 1:
        return LeftOut(row, FSDP2)
    kept = {} if "no activation checkpointing" not in notes else {"activation_checkpointing": False}
    facts = facts_of(row, "torchtune", {}, optim="adamw_torch_fused", packing=True, **kept)
    stack = stack_of(facts)
    if "full CE" in row["loss_impl"]:
        stack = replace(stack, loss="full")
    elif "compile" in notes:
        # Compiled, the logits stay in 16 bits and only one chunk of eight exists in fp32, with its gradient.
        stack = replace(stack, loss="full", logit_bytes=3)
    if offload:
        stack = replace(stack, offloads_checkpoints=True)
    exact = row["seq_note"] != "unpacked alpaca"
    metric = "reserved" if "reserved" in row["metric"] else "allocated"
    return Run(row, facts, stack, "other", metric, "torchtune", exact)


def swift(row: dict) -> Run | LeftOut:
    """ms-swift: what torch reserved; rows of a data set up to the cap."""
    if "dpo" in row["source"]:
        return LeftOut(row, "preference training; whether a reference model is held is not stated")
    if "device" in (row.get("sharding") or ""):
        return LeftOut(row, "layers spread over devices (device_map): no per-device figure")
    sharding = "zero3" if row.get("sharding") == "zero3" else "none"
    optim = "adamw_torch_fused" if "fused" in (row.get("optimizer") or "") else "adamw_torch"
    packed = "packing=true" in (row.get("seq_note") or "")
    facts = facts_of(row, "ms-swift", {}, optim=optim, sharding=sharding, packing=packed)
    return Run(row, facts, stack_of(facts), "other", "reserved", "ms-swift", exact=packed)


def qwen(row: dict) -> Run | LeftOut:
    """Qwen's fine-tuning script: HF Trainer, inputs of the exact length; its GB are of an unnamed kind."""
    if row["gpus"] > 1:
        return LeftOut(row, "a total over devices whose split is not stated")
    if row["method"] == "full":
        return LeftOut(row, "DeepSpeed on one device, whose buffers are not stated")
    versions = {"transformers": "4.32.0"} | ({"auto-gptq": "0.4.2"} if "gptq" in row["quant"] else {})
    deepspeed = "zero2" if row["method"] == "qlora" else "none"
    facts = facts_of(row, "transformers", versions, packing=True, sharding=deepspeed)
    if "lm_head" in (row.get("notes") or ""):
        facts = facts.changed({"lora": facts.lora.changed({"modules_to_save": ("wte", "lm_head")})})
    stack = stack_of(facts)
    if row["method"] == "qlora":
        # DeepSpeed's fp16, no autocast: the model's own loss stays in 16 bits (logits, shifted copy, softmax, gradient).
        stack = replace(stack, mode="nf4", embedding_bytes=2, norm_bytes=2, residual_bytes=2, logit_bytes=8)
    return Run(row, facts, stack, "other", "device", "HF Trainer")


def axolotl(row: dict) -> Run | LeftOut:
    """Axolotl's examples: what torch reserved, rounded by their authors."""
    if "vision" in row["source"].lower() or "vision" in (row.get("notes") or "").lower():
        return LeftOut(row, "images in the batch, whose number and size are not stated")
    if row["method"] == "qlora" and model_of(row).num_experts:
        return LeftOut(row, "quantised fused experts, a path of Axolotl's own")
    if "FSDP2" in (row.get("sharding") or ""):
        return LeftOut(row, FSDP2)
    optim = "adamw_bnb_8bit" if "8b" in (row.get("optimizer") or "") else "adamw_torch_fused"
    sharding = "fsdp" if "FSDP" in (row.get("sharding") or "") else "none"
    packed = "True" in (row.get("seq_note") or "")
    facts = facts_of(row, "axolotl", {}, optim=optim, sharding=sharding, packing=packed)
    stack = stack_of(facts)
    if "cut" in (row.get("loss_impl") or ""):
        # Its examples switch on cut cross-entropy, which writes no logits.
        stack = replace(stack, loss="none")
    return Run(row, facts, stack, "other", "reserved", "Axolotl", exact=packed)


def sharded_example(row: dict) -> Run | LeftOut:
    """PEFT's 70B example on eight H100 under DeepSpeed and FSDP, as the driver saw it."""
    sharding = "zero3" if "ZeRO" in row["sharding"] else "fsdp"
    facts = facts_of(row, "trl", {"trl": "0.8.0", "transformers": "4.39.0"}, sharding=sharding, packing=True)
    return Run(row, facts, stack_of(facts), "other", "device", "TRL")
