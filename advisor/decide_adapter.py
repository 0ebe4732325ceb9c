"""How big the adapter is and how it is held in check: rank, alpha, dropout and their kin."""

from __future__ import annotations

from math import ceil, log2

from lora_advise.adapter_limits import NEW_HEADS
from lora_advise.draft import Draft
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import LinearModule
from lora_advise.report_words import counted

SERVED_RANKS = (8, 16, 32, 64, 128, 256)
"""Ranks that we propose: powers of two that vLLM accepts as max_lora_rank (vllm-lora)."""

WIDE_RANK_TASKS = ("continued-pretraining", "language-transfer", "domain-adaptation")
"""Tasks whose rank may grow to 256; elsewhere the cap is 128 (biderman-2024, unsloth-cpt)."""


def params_per_rank(modules: tuple[LinearModule, ...]) -> int:
    """Adapter parameters that one unit of rank costs: the sum of (d_in + d_out) over the adapted matrices."""
    return sum(m.lora_params(1) for m in modules)


def exceeds_capacity(draft: Draft, targets: tuple[LinearModule, ...]) -> bool:
    """Whether the supervised tokens are more than the largest adapter that we would take can hold (lwr-2025)."""
    return _capacity(draft, targets) > _cap(draft, targets)


def _capacity(draft: Draft, targets: tuple[LinearModule, ...]) -> float:
    """Ranks that the supervised tokens need at 2 bits a parameter and 1 bit a token; 0 where a pair teaches one bit."""
    if draft.task.family in ("preference", "rl"):
        return 0.0
    return draft.data.examples * draft.data.completion_tokens / (2 * max(1, params_per_rank(targets)))


def _cap(draft: Draft, targets: tuple[LinearModule, ...]) -> int:
    """The highest rank: that of the task, halved until the adapter has no more than half the weights that it adapts."""
    cap = 256 if draft.task.name in WIDE_RANK_TASKS else 128
    weights = sum(module.weights for module in targets)
    while cap > 8 and cap * max(1, params_per_rank(targets)) > weights / 2:  # beyond that, tune the model itself
        cap //= 2
    return cap


def decide_rank(draft: Draft, targets: tuple[LinearModule, ...]) -> int:
    """Rank from the task's floor and the tokens that must be learned; never from the memory that happens to be free."""
    task, data = draft.task, draft.data
    per_rank = max(1, params_per_rank(targets))
    learned = data.examples * data.completion_tokens
    capacity, cap = _capacity(draft, targets), _cap(draft, targets)
    rank = max(task.rank_floor, 2 ** ceil(log2(capacity)) if capacity > 1 else 1)
    rank = min(max(8, rank), cap)
    most = 8 if data.examples < 50 and task.family != "rl" else 16 if data.examples < 300 else cap
    small = rank > most
    rank = min(rank, most)
    because = (
        f"{task.label} starts at {task.rank_floor}; {_tokens(learned)} supervised tokens need "
        f"{'fewer than 8' if capacity < 8 else f'about {capacity:,.0f}'} ranks at 2 bits a parameter and 1 bit a token "
        f"({per_rank / 1e6:.2f} M parameters per rank)."
    )
    if capacity == 0.0:
        because = f"{task.label} carries about one bit per episode or pair, so capacity never binds; 8 to 32 is ample."
    if small:
        because += f" With {counted(data.examples, 'example')} more than {most} buys nothing."
    if capacity > cap:
        because += f" The data exceed what rank {cap} can hold: expect slower learning than full fine-tuning."
        draft.note("warning", f"{_tokens(learned)} supervised tokens exceed the capacity of a rank-{cap} adapter "
                   f"({_tokens(cap * per_rank)} parameters): raise the rank with a reason, or use full fine-tuning.",
                   "lwr-2025", "allen-zhu-2024")  # fmt: skip
    value = draft.decide(
        "lora.r", "adapter", "Rank (r)", rank, sweep=tuple(sorted({max(4, rank // 2), rank, min(256, rank * 2)})),
        because=because + " The same on every GPU: free memory is no reason for a higher rank.",
        sources=("lwr-2025", "tinker-sweep", "tinker-docs", "dettmers-2023"),
        confidence="derived" if capacity > task.rank_floor else "convention",
        flips="Held-out loss that stays high while the effective rank of the update nears r; ten times the data.",
    )  # fmt: skip
    _check_rank(draft, int(value), targets)
    return int(value)


def _check_rank(draft: Draft, rank: int, targets: tuple[LinearModule, ...]) -> None:
    """Raise LoraAdviseError for a rank that no adapted matrix can have."""
    widest = max((min(m.d_in, m.d_out) for m in targets), default=0)
    if "lora.r" in draft.overrides and widest and rank > widest and draft.overrides.get("method") != "full":
        raise LoraAdviseError(
            f"--r: {rank} is more than the smaller side of every adapted matrix of {draft.model.name} ({widest:,}), beyond "
            "which a rank has no meaning; choose 8 to 256."
        )


def decide_alpha(draft: Draft, rank: int) -> None:
    """Alpha and scaling mode; the learning rate is derived from them, so the pair stays consistent."""
    if draft.model.kind == "encoder":
        alpha, because = 16, "The value of LoRA's own RoBERTa scripts; the rate below is derived for it."
    elif rank >= 128:
        alpha, because = rank, "alpha = r (scale 1) from r 128 on; the rate falls with sqrt(alpha) to match."
    else:
        alpha, because = (
            32,
            (
                "Kept at 32 whatever the rank: with alpha fixed the best learning rate does not move with r; with alpha = 2r "
                "it falls as 1/sqrt(r) and has to be tuned again."
            ),
        )
    draft.decide(
        "lora.lora_alpha", "adapter", "Alpha", alpha, sweep=(16, 32, 64) if alpha == 32 else None,
        because=because, sources=("lwr-2025", "mua-2026", "scale-experiment", "baseten-2026"), confidence="measured",
        flips="A recipe that you copy: keep its alpha and its rate together, or convert by lr * sqrt(alpha).",
    )  # fmt: skip
    draft.decide(
        "lora.use_rslora", "adapter", "Scaling", False, shown="alpha / r",
        because="Standard scaling; rsLoRA equals it at alpha * sqrt(r), so it is only another spelling of alpha.",
        sources=("rslora-2023", "scale-experiment"), confidence="measured",
        flips="r of 128 or more with alpha = 2r habits: rsLoRA with alpha 16 to 32.",
    )  # fmt: skip


def decide_regularisers(draft: Draft, epochs: float) -> None:
    """Dropout, bias, initialisation and variant."""
    data, model, task = draft.data, draft.model, draft.task
    dropout, why = 0.0, "No gain has been shown once epochs are few; zero also keeps fused kernels available."
    plain = task.family in ("sft", "classification") and model.billions < 30
    if plain and epochs >= 3 and data.examples < 500:
        dropout, why = (
            0.1,
            f"{counted(data.examples, 'example')} seen {epochs:g} times: the upper end of what recipes use.",
        )
    elif plain and (epochs >= 3 or (data.examples < 2_000 and model.billions <= 13)):
        dropout, why = 0.05, "Little data or several passes on a model below 30B: the value of QLoRA's recipes."
    draft.decide(
        "lora.lora_dropout", "adapter", "Dropout", dropout, sweep=(0.0, 0.05, 0.1),
        because=why + " No official recipe goes above 0.2.",
        sources=("dettmers-2023", "axolotl-examples", "allora-2024", "unsloth-guide"), confidence="convention",
        flips="Held-out loss that rises early although epochs and rate are already low.",
    )  # fmt: skip
    draft.decide(
        "lora.bias", "adapter", "Bias", "none",
        because="Most LLM linears have no bias, and a trained one cannot be taken off the base again.",
        sources=("peft-code",), confidence="derived", flips="Nothing that has been measured.",
    )  # fmt: skip
    draft.decide(
        "lora.init_lora_weights", "adapter", "Initialisation", True, shown="A random (Kaiming), B zero",
        because="PEFT's default starts at the base model exactly; A random and B zero allows larger rates than the "
        "reverse.",
        sources=("hayou-init-2024", "variants-2026"), confidence="measured",
        flips="A base that loses too much in 4 bits: LoftQ. PiSSA and its kin did not win once the rate was tuned.",
    )  # fmt: skip
    draft.decide(
        "lora.use_dora", "adapter", "Variant", False, shown="plain LoRA",
        because="Nine variants lie within 0.4 to 1.8 % of each other once each has its own learning rate.",
        sources=("variants-2026", "unified-2026", "peft-metamath"), confidence="measured",
        flips="r of 16 or less where accuracy matters more than speed: DoRA, about a quarter slower.",
    )  # fmt: skip


def decide_saved_modules(draft: Draft) -> tuple[str, ...]:
    """Modules that are trained in full beside the adapter: a new head, or embeddings for a new language."""
    model, task = draft.model, draft.task
    value: tuple[str, ...] = ()
    sources: tuple[str, ...]
    because, sources, flips = (
        "Nothing beside the adapter: embeddings trained in full cost gigabytes and cannot be served as LoRA.",
        ("peft-code", "vllm-lora"), "New tokens in the vocabulary: trainable_token_indices for just those rows.",
    )  # fmt: skip
    if task.trainer in ("classification", "reward"):
        value = NEW_HEADS.get(model.model_type, ("classifier",) if model.kind == "encoder" else ("score",))
        because, flips = (
            "The new head starts random and must be trained in full.",
            "Never: a frozen random head learns nothing.",
        )
        sources = ("peft-code",)
    elif task.name == "language-transfer":
        value = tuple(dict.fromkeys(m.name for m in model.with_role("embedding") if ".vision" not in m.path))[:1]
        if not model.tie_word_embeddings:
            value += tuple(m.name for m in model.with_role("lm_head"))
        because = (
            "A new script or vocabulary lives in the embeddings: the recipe that worked trains them with the adapter."
        )
        sources = ("zh-llama-2", "unsloth-cpt")
        flips = "A language that the tokenizer already covers well: leave them frozen."
    saved = draft.decide(
        "lora.modules_to_save", "adapter", "Trained in full", value, because=because, sources=sources,
        confidence="measured" if value else "derived", flips=flips,
    )  # fmt: skip
    draft.values["lora.ensure_weight_tying"] = (
        bool(saved) and model.tie_word_embeddings and task.name == "language-transfer"
    )
    return tuple(saved)


def _tokens(count: int) -> str:
    """A token count as people say it: 850, 12 k, 1.5 M, 2 B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}".replace(".0 ", " ")
    return str(count)
