"""What stays on the device all through a run: the base model's weights and the optimizer's states."""

from __future__ import annotations

from typing import NamedTuple

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts, LinearModule, ModelFacts
from lora_advise.memory_stack import Stack
from lora_advise.model_kernels import NO_FOUR_BITS

NF4 = 0.5
"""Bytes per weight in 4 bits; the scales come on top."""
NF4_SCALES = 4 / 64
"""One fp32 absmax for each block of 64 weights (bitsandbytes ``functional.quantize_4bit``)."""
NF4_DOUBLE_SCALES = 1 / 64 + 4 / (64 * 256)
"""Double quantisation: 8-bit absmax, and one fp32 for each 256 of these; 0.515869 B per weight in all."""
INT8_ROW = 4
"""LLM.int8 keeps one fp32 scale per output row."""
GPTQ_GROUP = 2.5
"""GPTQ keeps a 16-bit scale and a 4-bit zero point for each group and output feature."""
GPTQ_INDEX = 4
"""And the group of every input feature as int32 (``g_idx``)."""


class Weights(NamedTuple):
    """Bytes of the base model: the packed or plain matrices, what quantisation keeps beside them, and the rest."""

    matrices: int
    scales: int
    rest: int
    root: int
    """Bytes of embeddings and output head, which FSDP keeps gathered."""
    layer: int
    """Bytes of one decoder layer as FSDP and ZeRO-3 gather it."""
    dequant: int
    """bf16 copy of the largest quantised matrix, made in forward and backward."""

    experts: int = 0
    """Bytes of fused expert parameters, which are never quantised."""

    @property
    def total(self) -> int:
        """All of it, unsharded."""
        return self.matrices + self.scales + self.rest


def weights_of(facts: Facts, model: ModelFacts, stack: Stack) -> Weights:
    """Bytes of the frozen (or fully trained) base model.

    bitsandbytes replaces every ``nn.Linear`` but the output head (transformers ``replace_with_bnb_linear`` tests
    ``type(module) is nn.Linear``); embeddings, norms, convolutions and fused 3-D expert parameters stay in 16 bits.
    """
    plain = 4 if facts.train is not None and facts.train.dtype == "float32" else 2
    four = facts.quant is not None and facts.quant.load_in_4bit
    eight = facts.quant is not None and facts.quant.load_in_8bit and not four
    fits = (four or eight) and model.model_type not in NO_FOUR_BITS
    packed = [m for m in model.modules if quantisable(m, stack)] if fits else []
    count = sum(m.weights for m in packed)
    head = model.vocab_size * model.hidden_size
    roots = min(head * (1 if model.tie_word_embeddings else 2), model.total_params - count)
    others = max(0, model.total_params - count - roots)
    if stack.own_head:
        roots, count = (head, count + head) if packed else (2 * head, count)
    wide = sum(m.weights for m in model.modules if m.kind == "parameter" or (quantisable(m, stack) and not packed))
    norms = max(0, others - min(others, wide))
    root = roots * stack.embedding_bytes if plain == 2 else roots * plain
    # prepare_model_for_kbit_training casts every parameter up that is not packed: fused experts, and all of a model whose
    # own class of linear layer nothing packs.
    upcast = (four or eight) and stack.mode.startswith("kbit") and stack.embedding_bytes == 4
    unpacked = 4 if upcast else plain
    rest = root + (others - norms) * unpacked + norms * max(plain, stack.norm_bytes)
    matrices, scales = _packed(facts, packed, count, stack)
    per_layer = (matrices + (others - norms) * unpacked) // max(1, model.num_hidden_layers)
    largest = max((m.d_in * m.d_out // halves(m) for m in packed), default=0)
    fused = unpacked * sum(m.weights for m in model.with_role("expert") if m.kind == "parameter" and m not in packed)
    return Weights(matrices, scales, rest, root, per_layer, 2 * largest, fused)


def _packed(facts: Facts, packed: list[LinearModule], count: int, stack: Stack) -> tuple[int, int]:
    if not packed or facts.quant is None:
        return 0, 0
    if not facts.quant.load_in_4bit:
        return count, sum(INT8_ROW * m.d_out * m.count * m.experts for m in packed)
    if stack.packing == "gptq":
        return int(count * NF4), int(sum(_gptq(m, stack.group) for m in packed))
    double = facts.quant.bnb_4bit_use_double_quant
    return int(count * NF4), int(count * (NF4_DOUBLE_SCALES if double else NF4_SCALES))


def _gptq(module: LinearModule, group: int) -> float:
    groups = -(-module.d_in // group) if group else 1
    index = GPTQ_INDEX * module.d_in * halves(module)
    return module.count * module.experts * (GPTQ_GROUP * groups * module.d_out + index)


def halves(module: LinearModule) -> int:
    """Matrices that transformers 5 holds as one: gate and up projection of a fused expert."""
    return 2 if module.kind == "parameter" and module.name.startswith("gate_up") else 1


def quantisable(module: LinearModule, stack: Stack) -> bool:
    """Whether bitsandbytes replaces this matrix: linear layers but the head; experts where each is a layer of its own."""
    looped = module.kind == "parameter" and module.role == "expert" and stack.experts == "loop"
    return looped or (module.kind == "linear" and module.role not in ("lm_head", "head"))


OPTIMIZERS = (
    "adam", "ademamix", "adafactor", "adagrad", "sgd", "lion", "rmsprop", "lomo", "muon", "came", "dion", "lamb",
    "sophia", "shampoo", "soap", "galore", "apollo", "prodigy",
)  # fmt: skip
"""What the names of optimizers of transformers and the trainers around it contain."""


def check_optimizer(name: str, where: str) -> None:
    """Raise LoraAdviseError, naming ``where`` the name came from, unless it is an optimizer's."""
    if not any(known in name.lower() for known in OPTIMIZERS):
        raise LoraAdviseError(
            f"{where}: {name[:40]!r} is not an optimizer that is known here; use for instance adamw_torch_fused, adamw_8bit, "
            "paged_adamw_8bit, adafactor or sgd."
        )


def state_bytes(optim: str, width: int) -> float:
    """Optimizer state on the device per trained parameter of ``width`` bytes.

    AdamW keeps two moments in the parameter's dtype; 8-bit AdamW 2 B and two fp32 scales per block of 256; paged
    optimizers keep theirs in managed memory, which torch does not count; Adafactor keeps rows and columns only.
    """
    name = optim.lower()
    if "paged" in name or "adafactor" in name or name == "sgd":
        return 0.0
    if "8bit" in name:
        return (1 if "lion" in name else 2) * (1 + 4 / 256)
    if "lion" in name:
        return float(width)
    return 2.0 * width


def step_temporary(optim: str, width: int) -> int:
    """Bytes per trained parameter that the step itself needs: the foreach AdamW makes one copy, the fused one none."""
    return width if optim.lower() in ("adamw_torch", "adamw_hf", "adamw", "adam") else 0
