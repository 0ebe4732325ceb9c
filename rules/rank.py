"""Rules about the size of the adapter."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import DataFacts, Facts, LoraFacts, ModelFacts, TaskFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.rule import rule

LEARNING_TASKS = (
    "math", "code", "continued-pretraining", "language-transfer", "domain-adaptation", "knowledge-injection",
)  # fmt: skip
"""Tasks that put new content into the adapter; the others mostly steer what the model knows."""


def _per_rank(model: ModelFacts, lora: LoraFacts) -> int:
    from lora_advise.adapters import params_per_rank

    return params_per_rank(model, lora)


def _weights(model: ModelFacts, lora: LoraFacts) -> int:
    from lora_advise.adapters import targets

    return sum(target.module.weights for target in targets(model, lora))


def _tokens(count: int) -> str:
    return f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count:,}"


@rule(
    "data-exceed-capacity",
    "RNK201",
    Severity.WARNING,
    Confidence.MEASURED,
    ("lwr-2025", "allen-zhu-2024", "tinker-docs"),
)
def data_exceed_capacity(task: TaskFacts, model: ModelFacts, lora: LoraFacts, data: DataFacts) -> Iterator[Hit]:
    """The training data hold more than an adapter of this rank can store.

    Why: a parameter stores about 2 bits and a completion token brings about 1 bit. Beyond that LoRA falls behind full
        fine-tuning, however it is tuned.
    Example:
        task: {name: math}
        lora: {r: 8}
        data: {examples: 200000, completion_tokens: 900, tokens_per_example: 1000, p99_tokens: null, max_tokens: null}
        train: {num_train_epochs: 1.0}
    Instead:
        task: {name: math}
        lora: {r: 64}
        data: {examples: 200000, completion_tokens: 900, tokens_per_example: 1000, p99_tokens: null, max_tokens: null}
        train: {num_train_epochs: 1.0}
    Evidence: the capacity at which LoRA left the curve of full fine-tuning, and bits per parameter from memorization
        studies.
    Known problems: an upper bound on what the data hold: repetitive data need less. Nothing is said from r 128 on, nor
        where twice the rank would make the adapter larger than half of the matrices that it adapts.
    """
    if task.name not in LEARNING_TASKS or data.examples < 300:
        return
    per_rank, tokens = _per_rank(model, lora), data.examples * data.completion_tokens
    limit = min(128, _weights(model, lora) // (2 * per_rank)) if per_rank else 0
    if 2 * lora.r > limit or lora.r * per_rank >= tokens / 2:
        return
    rank = lora.r
    while 2 * rank <= limit and rank * per_rank < tokens / 2:
        rank *= 2
    yield Hit(
        f"{_tokens(tokens)} completion tokens carry about as many bits, and r {lora.r} stores twice its "
        f"{_tokens(lora.r * per_rank)} "
        f"parameters: raise r to {rank}" + (", or use full fine-tuning." if rank * per_rank < tokens / 2 else "."),
        ("lora.r", "data.examples"),
        (Change("lora.r", rank),),
    )


@rule("rank-unused", "RNK202", Severity.NOTE, Confidence.CONVENTION, ("lwr-2025",))
def rank_unused(model: ModelFacts, lora: LoraFacts, data: DataFacts) -> Iterator[Hit]:
    """A large adapter is trained on very few examples.

    Why: a hundred parameters per supervised token cannot be filled. They cost memory, file size and serving rank.
    Example:
        lora: {r: 64}
        data: {examples: 200, duplicates: null, empty: null}
        train: {num_train_epochs: 5.0, gradient_accumulation_steps: 2}
    Instead:
        lora: {r: 16}
        data: {examples: 200, duplicates: null, empty: null}
        train: {num_train_epochs: 5.0, gradient_accumulation_steps: 2}
    Evidence: the same capacity estimate, read the other way.
    Known problems: a larger rank does no harm to quality at a rate kept by alpha.
    """
    tokens = data.examples * data.completion_tokens
    if data.examples >= 500 or lora.r <= 16 or lora.r * _per_rank(model, lora) <= 100 * tokens:
        return
    yield Hit(
        f"{data.examples} examples with {_tokens(tokens)} completion tokens leave most of rank {lora.r} empty: r 16 is "
        "enough.",
        ("lora.r",),
        (Change("lora.r", 16),),
    )


@rule("adapter-exceeds-weights", "RNK203", Severity.WARNING, Confidence.FACT, ("arithmetic",))
def adapter_exceeds_weights(model: ModelFacts, lora: LoraFacts) -> Iterator[Hit]:
    """The adapter has more parameters than the matrices that it adapts.

    Why: r * (d_in + d_out) above d_in * d_out buys nothing that full fine-tuning of the same matrices would not give.
    Example:
        model: hybrid
        lora: {r: 512, lora_alpha: 512, target_modules: [k_proj, v_proj]}
        train: {learning_rate: 0.00007}
    Instead:
        model: hybrid
        lora: {r: 128, lora_alpha: 128, target_modules: [k_proj, v_proj]}
        train: {learning_rate: 0.00015}
    Evidence: arithmetic on the shapes of the targeted matrices.
    Known problems: none.
    """
    from lora_advise.adapters import targeted

    modules = targeted(model, lora)
    adapter, weights = sum(m.lora_params(lora.r) for m in modules), sum(m.weights for m in modules)
    if adapter <= weights or not modules:
        return
    yield Hit(
        f"At r {lora.r} the adapter has {_tokens(adapter)} parameters, the matrices it adapts have {_tokens(weights)}: "
        "set r to 128 or fine-tune them in full.",
        ("lora.r",),
        (Change("lora.r", min(128, max(1, lora.r * weights // (2 * adapter)))),),
    )


@rule("rl-rank-large", "RNK204", Severity.NOTE, Confidence.CONVENTION, ("lwr-2025", "rl-peft-2025"))
def rl_rank_large(task: TaskFacts, lora: LoraFacts) -> Iterator[Hit]:
    """Online reinforcement learning uses a rank that it cannot fill.

    Why: an episode brings about one bit, so ranks of 8 to 32 hold any run.
    Example:
        task: {name: grpo, family: rl, trainer: grpo}
        lora: {r: 128}
        train: {learning_rate: 0.00001, num_generations: 8, eval_strategy: "no", load_best_model_at_end: false}
    Instead:
        task: {name: grpo, family: rl, trainer: grpo}
        lora: {r: 32}
        train: {learning_rate: 0.00001, num_generations: 8, eval_strategy: "no", load_best_model_at_end: false}
    Evidence: rank 1 matched full fine-tuning in one study; another wants more than rank 1.
    Known problems: a larger rank costs memory only.
    """
    if task.family == "rl" and lora.r > 64:
        yield Hit(
            f"Rank {lora.r} cannot be filled by reinforcement learning at about one bit per episode: r 32 is ample.",
            ("lora.r",),
            (Change("lora.r", 32),),
        )


@rule("rl-rank-tiny", "RNK205", Severity.WARNING, Confidence.CONVENTION, ("rl-peft-2025", "lwr-2025"))
def rl_rank_tiny(task: TaskFacts, lora: LoraFacts) -> Iterator[Hit]:
    """Online reinforcement learning uses a rank below four, on which studies disagree.

    Why: one study found rank 1 equal to full fine-tuning, another found it to be the bottleneck. Rank 8 costs little.
    Example:
        task: {name: grpo, family: rl, trainer: grpo}
        lora: {r: 1}
        train: {learning_rate: 0.00001, num_generations: 8, eval_strategy: "no", load_best_model_at_end: false}
    Instead:
        task: {name: grpo, family: rl, trainer: grpo}
        lora: {r: 8}
        train: {learning_rate: 0.00001, num_generations: 8, eval_strategy: "no", load_best_model_at_end: false}
    Evidence: the contradiction itself; see docs/evidence.md.
    Known problems: rank 1 may well do.
    """
    if task.family == "rl" and lora.r < 4:
        yield Hit(
            f"Rank {lora.r} is disputed for reinforcement learning: r 8 costs little and is on the safe side.",
            ("lora.r",),
            (Change("lora.r", 8),),
        )


@rule("rank-off-grid", "RNK206", Severity.NOTE, Confidence.CONVENTION, ("vllm-lora",))
def rank_off_grid(lora: LoraFacts) -> Iterator[Hit]:
    """The rank is not a multiple of eight, which kernels and servers round up anyway.

    Why: tensor cores work in tiles of eight, and vLLM reserves for the next rank of its list.
    Example:
        lora: {r: 20}
    Instead:
        lora: {r: 24}
    Evidence: the list of ranks that vLLM accepts as max_lora_rank.
    Known problems: ranks below eight are left alone.
    """
    if lora.r > 8 and lora.r % 8:
        rank = 8 * -(-lora.r // 8)
        yield Hit(
            f"Rank {lora.r} is no multiple of eight: r {rank} runs as fast and serves the same.",
            ("lora.r",),
            (Change("lora.r", rank),),
        )


@rule("rank-tiny", "RNK211", Severity.NOTE, Confidence.MEASURED, ("tinker-sweep", "lwr-2025", "hu-2021"))
def rank_tiny(lora: LoraFacts, facts: Facts) -> Iterator[Hit]:
    """A rank of one or two is used outside reinforcement learning.

    Why: so few directions hold little that is new. A rank of 8 costs a few megabytes more.
    Example:
        lora: {r: 1}
    Instead:
        lora: {r: 8}
    Evidence: at its best rate, rank 1 cost 1.1 % of the loss on average and 2.1 % at worst over 24 swept models, rank 16
        0.4 %; a reported run with r 1 was healed by a larger rank.
    Known problems: a small shift of style fits into rank 1, and the first paper on LoRA found little difference, so it is a
        note. Nothing is said of classification and of encoders, nor of fewer than 500 rows.
    """
    task, data, model = facts.task, facts.data, facts.model
    if lora.r > 2 or (task is not None and task.family not in ("sft", "pretraining")):
        return
    if (data is not None and data.examples < 500) or (
        model is not None and model.kind in ("encoder", "encoder-decoder")
    ):
        return
    yield Hit(
        f"Rank {lora.r} leaves {'one direction' if lora.r == 1 else 'two directions'} of change in every matrix: rank 1 cost "
        "1.1 % of the loss on average at its best learning rate. Set r to 8 and keep alpha.",
        ("lora.r",),
        (Change("lora.r", 8),),
    )


RANK_RULES = (
    data_exceed_capacity,
    rank_unused,
    adapter_exceeds_weights,
    rl_rank_large,
    rl_rank_tiny,
    rank_off_grid,
    rank_tiny,
)
