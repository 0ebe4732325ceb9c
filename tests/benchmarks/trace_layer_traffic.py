"""Memory traffic and operations of one decoder layer, counted in the installed libraries: the coefficients of throughput_work.

Run it with python. A small Llama runs forward and backward on the CPU with one layer and with two; the difference is a layer.
Bytes are what every operation but matrix products and attention reads and writes, for each token; three more runs with one width
doubled give the share of each width.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

PRODUCTS = {"mm", "bmm", "addmm", "baddbmm"}
VIEWS = {
    "view", "_unsafe_view", "t", "transpose", "expand", "slice", "unsqueeze", "squeeze", "detach", "permute", "as_strided", "alias",
    "select", "split", "split_with_sizes", "unbind", "empty_like", "empty", "new_empty", "empty_strided", "new_empty_strided",
    "lift_fresh", "_reshape_alias",
}  # fmt: skip
"""Operations that move nothing."""
BATCH, LENGTH = 2, 128
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Costs(NamedTuple):
    """Bytes per token for each unit of hidden, key-value and MLP width, forward and backward; operations of a layer."""

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    operations: tuple[int, int]


class Counting(TorchDispatchMode):
    """Adds up what every operation reads and writes."""

    def __init__(self):
        super().__init__()
        self.moved, self.launched = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if name not in VIEWS:
            self.launched[name] += 1
            if name not in PRODUCTS and "attention" not in name:
                tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
                self.moved[name] += sum(size(x) for x in tensors)
        return out


def size(tensor) -> int:
    """Bytes of a tensor; of an expanded one those that are stored."""
    return tensor.untyped_storage().nbytes() if 0 in tensor.stride() else tensor.numel() * tensor.element_size()


def _model(hidden, mlp, kv, layers, targets, fp32):
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers, num_attention_heads=hidden // 64,
        num_key_value_heads=kv // 64, head_dim=64, vocab_size=64, attn_implementation="sdpa",
    )  # fmt: skip
    made = LlamaForCausalLM(config).to(torch.bfloat16)
    if targets:
        lora = LoraConfig(r=8, target_modules=list(targets), lora_dropout=0.0)
        made = get_peft_model(made, lora, autocast_adapter_dtype=fp32)
    return made.train()


def _counts(hidden, mlp, kv, layers, targets, mode):
    """Bytes per token and operations, after the forward pass and in all."""
    made = _model(hidden, mlp, kv, layers, targets, mode != "bf16")
    ids = torch.zeros(BATCH, LENGTH, dtype=torch.long)
    with Counting() as count:
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "amp"):
            logits = made(input_ids=ids, use_cache=False).logits
        after = sum(count.moved.values()), sum(count.launched.values())
        logits.backward(torch.zeros_like(logits))
    tokens = BATCH * LENGTH
    return after[0] / tokens, after[1], sum(count.moved.values()) / tokens, sum(count.launched.values())


def layer(mode="bf16", targets=()) -> Costs:
    """The costs of a layer: ``amp`` for fp32 adapters under autocast, ``no-amp`` without it, ``bf16`` for adapters in bf16."""

    def one(hidden, mlp, kv):
        less, more = (_counts(hidden, mlp, kv, n, targets, mode) for n in (1, 2))
        return [b - a for a, b in zip(less, more, strict=True)]

    base, wide = one(256, 512, 64), (one(512, 512, 64), one(256, 512, 128), one(256, 1024, 64))
    steps = (256, 64, 512)
    forward = tuple((w[0] - base[0]) / step for w, step in zip(wide, steps, strict=True))
    both = tuple((w[2] - base[2]) / step for w, step in zip(wide, steps, strict=True))
    backward = tuple(b - f for f, b in zip(forward, both, strict=True))
    return Costs(forward, backward, (base[1], base[3] - base[1]))


def main():
    """Print a line for the bare layer and for each kind of adapter."""
    torch.manual_seed(0)
    for mode, targets in (
        ("bf16", ()),
        ("bf16", ALL),
        ("amp", ALL[:4]),
        ("amp", ALL),
        ("no-amp", ("q_proj", "v_proj")),
    ):
        found = layer(mode, targets)
        ways = [", ".join(f"{x:.1f}" for x in way) for way in (found.forward, found.backward)]
        print(
            f"{mode:7s}{len(targets)} adapters: forward {ways[0]}; backward {ways[1]} (hidden, kv, MLP); operations {found.operations}"
        )


if __name__ == "__main__":
    main()
