"""What one micro-batch asks of a device: arithmetic, memory traffic and operations to launch, by what causes them.

Arithmetic follows from the weight matrices. Traffic and operations of everything else were counted in a trace of
transformers 5.24 and PEFT 0.21 (source ``throughput-trace``): bytes that each operation reads and writes, per token and layer.
"""

from typing import NamedTuple

from lora_advise.adapters import targets
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts, LinearModule, ModelFacts, TrainFacts
from lora_advise.memory_case import PAIRED
from lora_advise.memory_stack import Stack, stack_of

LINEAR = ("attention", "mlp", "mixer", "shared_expert", "expert", "router", "other", "head")
"""Roles whose matrices multiply every text token. Towers for pictures and sound are not counted: their tokens are unknown."""

LAYER = ((104.0, 20.0, 10.0), (246.0, 32.0, 18.0))
"""Bytes per token of a decoder layer beside its matrix products, forward and backward, for each unit of hidden width,
key-value width and MLP width: norms, rotary positions, activation, residual sums (trace)."""
ADAPTER: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "amp": ((12.3, 10.4), (16.0, 4.4)),
    "bf16": ((0.0, 10.0), (3.3, 4.0)),
    "no-amp": ((6.0, 24.0), (4.0, 20.0)),
}
"""Bytes per token that an adapter adds, forward and backward, for each input and output feature of its matrix: casts to fp32
and back, scaling, sum (trace). ``amp`` is fp32 adapters under autocast."""
GATHERED = 8.0
"""Bytes per token, chosen expert and hidden width, each way: the input gathered (2 read, 2 written) and the output scattered."""
DROPOUT = 9.0
"""Bytes per token and input feature of dropout, each way: 4 read, 4 and a mask of 1 written."""
LOSS = {"full": 32.0, "none": 0.0}
"""Bytes per token and vocabulary entry: to fp32 6, log-softmax 8, its gradient 12, back to bf16 6."""
LOSS_FUSED = 12.0
"""Fused and tiled losses read and write bf16 logits and their gradient, and read them again."""
OPERATIONS = (38, 71)
"""Operations that a layer launches, forward and backward (trace)."""
OPERATIONS_ADAPTER = (8, 7)
"""Operations that an adapter adds, forward and backward."""
MERGED = 18.0
"""Bytes per weight where the whole product of A and B is formed in each forward pass, for DoRA's norm and for fused experts:
4 written, 6 read and 4 written for the sum with the base, 4 read for the norm (``tuners/lora/dora.py``, ``ParamWrapper``)."""
OPERATIONS_MERGED = 12
"""And what that launches."""
UNPACK = {4: 0.5 + 1 / 64 + 2.0, 8: 1.0 + 2.0}
"""Bytes per quantised weight and pass: the packed weight read and its 16-bit copy written, which the product then reads."""
EXTRA_FORWARD = {"dpo": 1, "kto": 3}
"""Forward passes without gradient of each micro-batch: DPO's reference; KTO's reference, and mismatched pairs through both
(TRL 1.16, ``dpo_trainer.py``, ``kto_trainer.py``)."""
ACCESSES = {"fused": 7, "foreach": 22, "8bit": 5}
"""Reads and writes of each trained parameter in an AdamW step: fused reads four tensors and writes three; the foreach step makes
a pass for each operation, 20 in all, and clipping reads and scales the gradient; 8-bit states count a quarter."""

FP32_ATTENTION = 4.0
"""Attention in fp32, as a loop without autocast has it after ``prepare_model_for_kbit_training``, runs beside the tensor cores,
at a half (GeForce) to a sixteenth (A100) of their rate."""
UNFUSED = ("adamw_torch", "adamw_hf", "adamw", "adam")
"""Optimizers that make a pass for each operation."""


class Work(NamedTuple):
    """FLOPs, bytes of device memory moved, and operations launched."""

    flops: float = 0.0
    bytes: float = 0.0
    weights: float = 0.0
    """Bytes of weights, which stream in while the products run: the slower of the two counts."""
    operations: float = 0.0

    def __add__(self, other: object) -> "Work":
        """The work of both, one after the other."""
        if not isinstance(other, Work):
            return NotImplemented
        return Work(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def times(self, factor: float) -> "Work":
        """The same work that many times."""
        return Work(*(value * factor for value in self))


class Shape(NamedTuple):
    """What the work per token depends on, read once from the facts. Counts are weights and features of all layers."""

    model: ModelFacts
    train: TrainFacts
    stack: Stack
    trainer: str
    linear: float
    """Weights that multiply a token, without experts that it does not visit and without the output head."""
    head: float
    resident: float
    """Weights of these matrices that the device holds outside the experts."""
    experts: float
    """Weights of all experts."""
    quantised: float
    bits: int
    adapter: float
    """Adapter weights that multiply a token."""
    inputs: float
    outputs: float
    adapted: float
    """Adapted matrices that a token visits, with the input and output features of these above."""
    merged: float
    """Weights of the matrices whose whole product DoRA forms."""
    dropout: bool
    full: bool
    """Whether every weight of the base is trained."""
    head_trained: bool
    scored: float
    """Share of the tokens that reach the output head."""

    @property
    def layers(self) -> int:
        """Decoder layers, one at least."""
        return max(1, self.model.num_hidden_layers)

    @property
    def mlp_width(self) -> float:
        """Width of the MLP that a token goes through, in units of a gated one: its weights over 3 x hidden width."""
        mlp = sum(m.weights for m in self.model.with_role("mlp", "shared_expert"))
        chosen = (self.model.num_experts_per_tok or 1) / (self.model.num_experts or 1)
        return (mlp + chosen * self.experts) / (3 * self.model.hidden_size * self.layers)


class Passes(NamedTuple):
    """The work of one micro-batch, by pass. ``recompute`` is empty without activation checkpointing."""

    forward: Work
    recompute: Work
    backward: Work
    reference: Work
    """Forward passes without gradient of preference training."""
    tokens: float
    """Tokens in a pass, padding included."""

    @property
    def all(self) -> Work:
        """Everything that a micro-batch costs."""
        return self.forward + self.recompute + self.backward + self.reference


def shape_of(facts: Facts) -> Shape:
    """Read the shape out of the facts. Raises LoraAdviseError when the model or the training section is missing."""
    model, train, lora = facts.model, facts.train, facts.lora
    if model is None or train is None:
        missing = "model" if model is None else "train"
        raise LoraAdviseError(f"Time cannot be forecast without the facts' {missing} section; give it.")
    stack, bits = stack_of(facts), _bits(facts)
    linears = [m for m in model.modules if m.role in LINEAR and m.kind != "embedding"]
    chosen = [t for t in targets(model, lora) if t.module.role in LINEAR] if lora else []
    visits = [(t.module, _visited(t.module, model)) for t in chosen]
    experts = sum(m.weights for m in linears if m.role == "expert")
    formed = [t.module for t in chosen if t.module.kind == "parameter" or (lora and lora.use_dora)]
    return Shape(
        model=model, train=train, stack=stack, trainer=facts.task.trainer if facts.task else "sft",
        linear=sum(m.weights * _visited(m, model) for m in linears),
        head=float(model.vocab_size * model.hidden_size) if stack.loss != "none" else 0.0,
        resident=float(sum(m.weights for m in linears) - experts), experts=float(experts),
        quantised=float(sum(m.weights for m in linears if m.kind == "linear" and m.role != "head")) if bits else 0.0,
        bits=bits,
        adapter=lora.r * sum(t.per_rank * _visited(t.module, model) for t in chosen) if lora else 0.0,
        inputs=sum(m.d_in * m.count * m.experts * visit for m, visit in visits),
        outputs=sum(m.d_out * m.count * m.experts * visit for m, visit in visits),
        adapted=sum(m.count * max(1.0, m.experts * visit) for m, visit in visits),
        full=lora is None, head_trained=lora is None or any("lm_head".endswith(n) for n in lora.modules_to_save),
        merged=float(sum(m.weights for m in formed)),
        dropout=lora is not None and lora.lora_dropout > 0, scored=_scored(facts, stack),
    )  # fmt: skip


def _bits(facts: Facts) -> int:
    if facts.quant is None:
        return 0
    return 4 if facts.quant.load_in_4bit else 8 if facts.quant.load_in_8bit else 0


def _visited(module: LinearModule, model: ModelFacts) -> float:
    """Share of a module's matrices that one token goes through: the chosen experts of all."""
    if module.role != "expert" or not model.num_experts:
        return 1.0
    return min(1.0, (model.num_experts_per_tok or 1) / model.num_experts)


def _scored(facts: Facts, stack: Stack) -> float:
    """TRL's tiled head skips tokens without loss; every other stack computes the logits of all tokens."""
    if stack.loss != "tiled" or facts.train is None or facts.train.loss_on == "all" or facts.data is None:
        return 1.0
    return min(1.0, max(1, facts.data.completion_tokens) / facts.data.tokens_per_example)


def passes(shape: Shape, rows: float, length: float) -> Passes:
    """The work of one micro-batch of ``rows`` sequences of ``length`` tokens each, padding included."""
    tokens = rows * length * (2 if shape.trainer in PAIRED else 1)
    body, head = _forward(shape, tokens, length), _head(shape, tokens)
    again = body if shape.train.activation_checkpointing else Work()
    backward = _backward(shape, tokens, length) + _head_backward(shape, tokens)
    reference = (body + head).times(EXTRA_FORWARD.get(shape.trainer, 0))
    return Passes(body + head, again, backward, reference, tokens)


def _forward(shape: Shape, tokens: float, length: float) -> Work:
    """The layers, forward: products, attention, the traffic between them, adapters, unpacking of quantised weights."""
    flops = 2 * (shape.linear + shape.adapter) * tokens + _attention(shape, tokens, length)
    moved = tokens * (_layer_bytes(shape, 0) + _adapter_bytes(shape, 0)) + UNPACK.get(shape.bits, 0.0) * shape.quantised
    launched = OPERATIONS[0] * shape.layers + (OPERATIONS_ADAPTER[0] + shape.dropout) * shape.adapted
    formed = OPERATIONS_MERGED * shape.adapted if shape.merged else 0.0
    moved += MERGED * shape.merged
    return Work(flops, moved, _weight_bytes(shape, tokens), launched + formed + _unpacking(shape))


def _backward(shape: Shape, tokens: float, length: float) -> Work:
    """Gradients of activations cost one forward pass, those of weights one more where the weights are trained.

    The frozen base has no weight gradients. Fused attention recomputes its scores: 2.5 times its forward pass.
    """
    trained = shape.linear if shape.full else 0.0
    flops = 2 * tokens * (shape.linear + trained + 2 * shape.adapter) + 2.5 * _attention(shape, tokens, length)
    moved = tokens * (_layer_bytes(shape, 1) + _adapter_bytes(shape, 1)) + UNPACK.get(shape.bits, 0.0) * shape.quantised
    launched = OPERATIONS[1] * shape.layers + (OPERATIONS_ADAPTER[1] + shape.dropout) * shape.adapted
    return Work(flops, moved, _weight_bytes(shape, tokens), launched + _unpacking(shape))


def _head(shape: Shape, tokens: float) -> Work:
    """The output head and the loss, forward; a third of the loss's traffic."""
    scored = tokens * shape.scored
    moved = _loss_bytes(shape) * shape.model.vocab_size * scored / 3
    return Work(2 * shape.head * scored, moved, 2 * shape.head, 10)


def _head_backward(shape: Shape, tokens: float) -> Work:
    forward = _head(shape, tokens)
    return Work(forward.flops * (1 + shape.head_trained), 2 * forward.bytes, forward.weights, forward.operations)


def _loss_bytes(shape: Shape) -> float:
    return LOSS.get(shape.stack.loss, LOSS_FUSED)


def _attention(shape: Shape, tokens: float, length: float) -> float:
    """FLOPs of scores and weighted values, forward: 4 S for each feature of the heads, half of it below the diagonal.

    Only FlashAttention skips what the causal mask hides; sdpa with a mask and eager attention compute all of it.
    Sliding windows are not known to the facts, so long sequences of such models are counted in full.
    """
    model = shape.model
    width = model.num_attention_heads * model.head_dim * max(0, shape.layers - model.recurrent_layers)
    skips = model.kind != "encoder" and shape.train.attn_implementation == "flash_attention_2"
    slower = FP32_ATTENTION if shape.stack.mode == "kbit" else 1.0
    return 4.0 * length * width * tokens * slower * (0.5 if skips else 1.0)


def _layer_bytes(shape: Shape, way: int) -> float:
    """Traffic per token of all layers beside products and adapters; twice that in an fp32 residual stream."""
    model = shape.model
    a, b, c = LAYER[way]
    chosen = (model.num_experts_per_tok or 1) if shape.experts else 0
    each = a * model.hidden_size + b * model.num_key_value_heads * model.head_dim + c * shape.mlp_width
    return shape.layers * (each * shape.stack.residual_bytes / 2 + GATHERED * model.hidden_size * chosen)


def _adapter_bytes(shape: Shape, way: int) -> float:
    mode = shape.stack.mode
    name = "amp" if shape.stack.adapter_bytes == 4 and mode in ("amp", "kbit-amp") else mode
    d_in, d_out = ADAPTER.get(name, ADAPTER["bf16" if shape.stack.adapter_bytes == 2 else "no-amp"])[way]
    return (d_in + DROPOUT * shape.dropout) * shape.inputs + d_out * shape.outputs


def _weight_bytes(shape: Shape, tokens: float) -> float:
    """Weights that a pass reads; of experts those that some token chose."""
    model = shape.model
    touched = min(1.0, tokens * (model.num_experts_per_tok or 1) / (model.num_experts or 1))
    return 2 * (shape.resident + shape.experts * touched)


def _unpacking(shape: Shape) -> float:
    """Operations that quantised matrices add to a pass: unpack the scales, unpack the weights, cast; seven matrices a layer."""
    return 3.0 * 7 * shape.layers if shape.bits else 0.0


def step_work(shape: Shape, trained: float) -> Work:
    """The optimizer's step over ``trained`` parameters: memory traffic alone.

    A paged optimizer counts as its unpaged kind: pages move only when memory runs out.
    """
    name = shape.train.optim.lower()
    accesses = ACCESSES["8bit" if "8bit" in name else "foreach" if name in UNFUSED else "fused"]
    return Work(bytes=trained * accesses * (2 if shape.full else shape.stack.adapter_bytes))
