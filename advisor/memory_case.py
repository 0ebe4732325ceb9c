"""A run boiled down to the few numbers that its memory depends on, so that batches and lengths can be tried quickly."""

from __future__ import annotations

from typing import NamedTuple

from lora_advise.adapters import saved_params, targets, trainable_params
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts, LinearModule, LoraFacts, Method, ModelFacts, TrainFacts
from lora_advise.memory_stack import Stack, stack_of
from lora_advise.memory_weights import Weights, state_bytes, step_temporary, weights_of

PAIRED = ("dpo", "orpo", "simpo", "reward")
"""Trainers that run the chosen and the rejected answer as one batch of twice the size."""


TOWERS = ("vision", "audio", "projector")
"""Roles of modules beside the language model."""


class Width(NamedTuple):
    """The widths of one layer. Features unless said otherwise."""

    hidden: int
    attention: int
    """heads * head_dim, which need not be the hidden size."""
    kv: int
    heads: int
    layers: int
    softmax_layers: int
    """Layers without a recurrent mixer."""
    attention_layers: int
    """Those of them with attention: some hybrids have layers that are an MLP alone."""
    vocab: int
    dense: int
    """Width of the dense (or shared-expert) MLP for each token, in units of a gated one."""
    expert: int
    experts: int
    chosen: int


class Case(NamedTuple):
    """Everything but the batch and the length."""

    method: Method
    stack: Stack
    key: tuple[str | int | None, ...]
    """The model's layer, as the table of traced layers knows it."""
    ranks: float
    """Ranks of the adapters of one layer, added up."""
    width: Width
    weights: Weights
    adapters: int
    """Adapter parameters (and trained biases and token rows)."""
    saved: int
    """Parameters of ``modules_to_save``; all parameters in full fine-tuning."""
    head_trained: int
    """Parameters of the output head, when it is trained."""
    saved_bytes: int
    """Bytes of each of these: the base model's dtype."""
    states: float
    saved_states: float
    temporary: int
    saved_temporary: int
    dropout: bool
    all_targets: bool
    """Whether the MLP has adapters."""
    mlp_share: float
    """Share of the layers in which its linear layers have: a dense MLP's or a shared expert's, not fused experts."""
    attention_targets: bool
    """Whether attention has."""
    merged: int
    """Bytes of the merged weights that adapters on fused experts, and DoRA, form in one layer."""
    merged_kept: int
    """The part of these that the backward pass needs again, and that every layer keeps without checkpointing."""
    checkpointing: bool
    attn: str
    packing: bool
    accumulation: int
    completions: int
    """Completions that online RL generates at once on one device: a whole optimizer step's (TRL's default)."""
    sharding: str
    devices: int
    offload: bool
    trainer: str
    evaluated: float
    """Rows of an evaluation batch for each row of a micro-batch; 0 where nothing is evaluated."""
    vision: bool
    fused_query: bool
    """Whether one matrix gives query, key and value, of which the value is a view."""
    shards_weights: bool

    @property
    def trained(self) -> int:
        """Parameters that get a gradient."""
        return self.adapters + self.saved


def case_of(facts: Facts, stack: Stack | None = None) -> Case:
    """Read a case out of the facts. Raises LoraAdviseError when the model or the training section is missing."""
    model, train = facts.model, facts.train
    if model is None or train is None:
        missing = "model" if model is None else "train"
        raise LoraAdviseError(f"Memory cannot be forecast without the facts' {missing} section; give it.")
    stack = stack or stack_of(facts)
    lora = facts.lora
    chosen = targets(model, lora) if lora else ()
    saved = saved_params(model, lora) if lora else model.total_params
    adapters = trainable_params(model, lora) - saved if lora else 0
    merged = _merged(model, facts, stack)
    trains_head = lora is None or any("lm_head".endswith(name) for name in lora.modules_to_save)
    wide = 4 if train.dtype == "float32" else 2
    return Case(
        method=facts.method,
        stack=stack,
        width=width_of(model),
        key=layer_key(model),
        ranks=ranks_of(model, lora) if lora else 0.0,
        weights=weights_of(facts, model, stack),
        adapters=adapters,
        saved=saved,
        saved_bytes=wide,
        head_trained=model.vocab_size * model.hidden_size if trains_head else 0,
        states=state_bytes(train.optim, stack.adapter_bytes),
        saved_states=state_bytes(train.optim, wide),
        temporary=step_temporary(train.optim, stack.adapter_bytes),
        saved_temporary=step_temporary(train.optim, wide),
        dropout=lora is not None and lora.lora_dropout > 0,
        all_targets=any(t.module.role in ("mlp", "expert", "shared_expert") for t in chosen),
        mlp_share=_mlp_share(model, [t.module for t in chosen]),
        attention_targets=any(t.module.role in ("attention", "mixer") for t in chosen),
        merged=sum(merged),
        merged_kept=merged[0],
        vision=model.has_vision,
        fused_query=_fused_query(model),
        checkpointing=train.activation_checkpointing,
        attn=train.attn_implementation,
        packing=train.packing,
        accumulation=train.gradient_accumulation_steps,
        completions=train.per_device_train_batch_size * train.gradient_accumulation_steps,
        sharding=facts.stack.sharding if facts.stack else "none",
        devices=facts.data_parallel,
        offload=bool(facts.stack and facts.stack.cpu_offload),
        trainer=facts.task.trainer if facts.task else "sft",
        evaluated=train.per_device_eval_batch_size / train.per_device_train_batch_size
        if train.eval_strategy != "no"
        else 0.0,
        shards_weights=facts.method != "qlora"
        or (facts.quant is not None and facts.quant.bnb_4bit_quant_storage != "uint8"),
    )


def length_of(facts: Facts, train: TrainFacts) -> int:
    """Tokens of the longest row: ``max_length``, or the longest example where that is known and shorter.

    Online RL adds the completion that it generates to the prompt.
    """
    length = train.max_length
    data = facts.data
    if facts.task is not None and facts.task.trainer in ("grpo", "ppo"):
        answers = min(data.completion_tokens, length - 1) if data else 0
        return length - answers + (train.max_completion_length or 0)
    if data is not None and data.max_tokens and not train.packing:
        return max(1, min(length, data.max_tokens))
    return length


def _mlp_share(model: ModelFacts, chosen: list[LinearModule]) -> float:
    blocks: dict[str, int] = {}
    for module in chosen:
        if module.role in ("mlp", "shared_expert") and module.kind == "linear":
            block = module.path.rpartition(".")[0]
            blocks[block] = max(blocks.get(block, 0), module.count)
    return min(1.0, sum(blocks.values()) / max(1, model.num_hidden_layers))


def _attention_layers(model: ModelFacts) -> int:
    rest = max(0, max(1, model.num_hidden_layers) - model.recurrent_layers)
    return min(rest, max((m.count for m in model.with_role("attention") if m.kind == "linear"), default=rest))


def _fused_query(model: ModelFacts) -> bool:
    features = (model.num_attention_heads + 2 * model.num_key_value_heads) * model.head_dim
    return any(m.d_out == features for m in model.with_role("attention"))


def ranks_of(model: ModelFacts, lora: LoraFacts) -> float:
    """Ranks of the adapters of one layer of the language model, added up: adapters in a tower see no tokens of text."""
    inside = (t.module for t in targets(model, lora) if t.module.kind == "linear" and t.module.role not in TOWERS)
    return sum(lora.r * module.count for module in inside) / max(1, model.num_hidden_layers)


def layer_key(model: ModelFacts) -> tuple[str | int | None, ...]:
    """What the memory of a layer depends on, as far as the facts tell: type, widths, depth, experts, kind."""
    return (
        model.model_type, model.hidden_size, model.num_hidden_layers, model.num_attention_heads,
        model.num_key_value_heads, model.head_dim, model.intermediate_size, model.num_experts, model.num_experts_per_tok,
        model.kind,
    )  # fmt: skip


def widths_of(width: Width) -> tuple[int, int, int, int]:
    """Hidden, query, key-value and MLP width of a layer; the experts that a token uses count as MLP."""
    return (width.hidden, width.attention, width.kv, width.dense + width.expert * width.chosen)


def width_of(model: ModelFacts) -> Width:
    """The widths of the model's layers."""
    hidden, layers = model.hidden_size, max(1, model.num_hidden_layers)
    expert = min((m.d_in for m in model.with_role("expert") if m.d_out == hidden and m.d_in != hidden), default=0)
    dense = sum(m.d_in * m.d_out * m.count for m in model.with_role("mlp", "shared_expert"))
    return Width(
        hidden=hidden, attention=model.num_attention_heads * model.head_dim,
        kv=model.num_key_value_heads * model.head_dim, heads=model.num_attention_heads, layers=layers,
        softmax_layers=max(0, layers - model.recurrent_layers), attention_layers=_attention_layers(model), vocab=model.vocab_size,
        # A gated MLP has 3 h f weights per layer and a classic one 2 h f, which also keeps about 2/3 (section 4).
        dense=round(dense / (3 * hidden * layers)) if dense else (0 if expert else model.intermediate_size),
        expert=expert, experts=model.num_experts or 1, chosen=(model.num_experts_per_tok or 1) if expert else 0,
    )  # fmt: skip


def _merged(model: ModelFacts, facts: Facts, stack: Stack) -> tuple[int, int]:
    """Bytes of merged weights in one layer: what its backward pass needs again, and what is alive only while they are made.

    PEFT's ``ParamWrapper`` adds the product BA of all experts to the base in one operation (``_LoraFactorsProxy``), and the
    sums are kept in 16 bits; a router's product is made by itself. DoRA multiplies an identity of size d_in through A and B and adds the base for
    its norm, one matrix at a time (``tuners/lora/dora.py``).
    """
    lora = facts.lora
    if lora is None:
        return 0, 0
    experts: list[int] = []
    largest = 0
    for target in targets(model, lora):
        m = target.module
        if m.kind == "parameter":
            experts.append(m.weights // max(1, model.num_hidden_layers))
        elif lora.use_dora:
            largest = max(largest, (m.d_in * m.d_in + 2 * m.d_in * m.d_out) * stack.adapter_bytes)
    product = 4 if stack.mode in ("no-amp", "kbit") else 2
    return 2 * sum(experts), largest + product * min(experts, default=0)
