"""The learning rate by E2 = lr * sqrt(alpha_eff), its schedule, and the optimizer."""

from __future__ import annotations

from math import sqrt

from lora_advise.decide_method import optimizer_for
from lora_advise.draft import Draft, show
from lora_advise.facts import LoraFacts, Method
from lora_advise.rates import format_lr, round_lr
from lora_advise.report_words import counted

REFERENCE_ALPHA = 32
"""The alpha at which the task table states its rates (tinker-sweep, lwr-2025)."""


def decide_rate(draft: Draft, lora: LoraFacts | None, method: Method, steps: int) -> float:
    """Start from the task's rate at alpha_eff 32, convert to this alpha, apply the factors that hold, and round."""
    task = draft.task
    if lora is None:
        rate, low, high = task.rate / 10, task.rate_range[0] / 10, task.rate_range[1] / 10
        because = "A tenth of the LoRA rate: the ratio measured over 14 models is 9.8."
        factors: list[str] = []
    else:
        conversion = sqrt(REFERENCE_ALPHA / lora.alpha_eff)
        factor, factors = _factors(draft, lora, method, steps)
        rate = task.rate * conversion * factor
        low, high = (bound * conversion * factor for bound in task.rate_range)
        because = (
            f"{format_lr(task.rate)} at alpha 32 for {task.label.lower()}"
            + (f", times sqrt(32/{lora.alpha_eff:g})" if abs(conversion - 1) > 1e-9 else "")
            + "".join(f", {f}" for f in factors)
            + f". E2 = lr x sqrt(alpha_eff) = {round_lr(rate) * sqrt(lora.alpha_eff):.1e}."
        )
    value = round_lr(rate)
    low, high = round_lr(min(low, value)), round_lr(max(high, value))
    decided = draft.decide(
        "train.learning_rate", "rate", "Learning rate", value, shown=format_lr(value), sweep=(low, high),
        because=because, sources=(*task.rate_sources, "e2-metric", "scale-experiment"),
        confidence=task.rate_confidence,
        flips="The three-point sweep below: it moves results more than any other setting.",
    )  # fmt: skip
    decide_embedding_rate(draft, float(decided))
    return float(decided)


def _factors(draft: Draft, lora: LoraFacts, method: Method, steps: int) -> tuple[float, list[str]]:
    """The multipliers of the decision procedure, each with the words that the report shows."""
    factor, words = 1.0, []
    sft = draft.task.family in ("sft", "classification", "pretraining")
    if sft and method == "qlora":
        factor *= 0.67
        words.append("x 0.67 on a 4-bit base (convention)")
        if draft.model.billions >= 30:
            factor *= 0.5
            words.append("x 0.5 for QLoRA from 30B on (QLoRA halved it there)")
    if draft.profile == "safe":
        factor *= 0.67
        words.append("x 0.67 for --profile safe")
    # A batch of one or two takes a lower rate, about as much as a short run takes a higher one.
    if sft and steps < 100 and draft.task.family != "pretraining" and draft.values.get("effective_batch", 4) > 2:
        factor *= 1.5
        words.append(f"x 1.5 for only {counted(steps, 'step')}")
    if draft.values.get("train.dtype") == "float16":
        factor *= 0.5
        words.append("x 0.5 in fp16")
    if lora.use_dora:
        factor *= 0.8
        words.append("x 0.8 with DoRA")
    if lora.loraplus_lr_ratio:
        factor *= 0.5
        words.append("x 0.5 with LoRA+")
    return factor, words


def decide_embedding_rate(draft: Draft, rate: float) -> None:
    """Embeddings trained in full take a tenth of the adapter's rate."""
    if not any(
        "embed" in name or name in ("lm_head", "wte", "word_embeddings")
        for name in draft.values["lora.modules_to_save"]
    ):
        draft.values["train.embedding_learning_rate"] = draft.overrides.get("train.embedding_learning_rate")
        return
    draft.decide(
        "train.embedding_learning_rate", "rate", "Embedding rate", round_lr(rate / 10),
        sweep=(round_lr(rate / 10), round_lr(rate / 5)),
        because="Embeddings and head trained in full need 2 to 10 times less than the adapter.",
        sources=("unsloth-cpt", "biderman-2024", "loraplus-2024"), confidence="measured",
        flips="A vocabulary that is new throughout.",
    )  # fmt: skip


def decide_schedule(draft: Draft, rate: float, steps: int, method: Method) -> None:
    """Scheduler, warmup, optimizer, weight decay and clipping."""
    family = draft.task.family
    scheduler = "constant_with_warmup" if family == "rl" else "cosine_with_min_lr"
    draft.decide(
        "train.lr_scheduler_type", "rate", "Schedule", scheduler,
        shown="constant after warmup" if family == "rl" else "cosine to 10 %",
        because="Online RL has no known end." if family == "rl" else "Cosine to a tenth; a constant rate does as well at "
        "moderate rates and worse at high ones.",
        sources=("lwr-2025", "baseten-2026"), confidence="measured", flips="Adding epochs later: constant, or warmup-stable-decay.",
    )  # fmt: skip
    kept = draft.values["train.lr_scheduler_type"] == "cosine_with_min_lr"
    draft.values["train.lr_scheduler_kwargs"] = {"min_lr_rate": 0.1} if kept else {}
    share = 0.1 if rate >= 3e-4 and draft.data.examples < 1_000 else 0.05 if draft.model.kind == "encoder" else 0.03
    warmup = min(max(5, round(share * steps)), 100, steps // 5)
    draft.decide(
        "train.warmup_steps", "rate", "Warmup", warmup, shown=counted(warmup, "step"),
        because=f"{share:.0%} of {counted(steps, 'step')}, at least 5 and at most 100, never more than a fifth of the run.",
        sources=("biderman-2024", "unsloth-guide"), confidence="convention", flips="Loss spikes in the first steps: 5 to 10 %.",
    )  # fmt: skip
    optim = optimizer_for(draft, method)
    draft.decide(
        "train.optim", "rate", "Optimizer", optim,
        because="AdamW with 8-bit states that can page out: 2 instead of 8 bytes per adapter parameter."
        if optim == "paged_adamw_8bit"
        else "AdamW: every rate above was measured with it; adapter states are small enough to stay in full precision.",
        sources=("dettmers-2023", "adamw-2017", "bnb-code"), confidence="measured",
        flips="Lion, Muon or SGD: the rates above do not carry over.",
    )  # fmt: skip
    decay = 0.0 if family in ("pretraining", "rl", "preference") else 0.01
    draft.decide(
        "train.weight_decay", "rate", "Weight decay", decay, sweep=(0.0, 0.01, 0.1),
        because="Published recipes span 0 to 0.1 with no visible effect on adapters.",
        sources=("dettmers-2023", "torchtune-recipes", "axolotl-examples"), confidence="convention", flips="Nothing that has been measured.",
    )  # fmt: skip
    clip = 0.3 if method == "qlora" else 1.0
    draft.decide(
        "train.max_grad_norm", "rate", "Gradient clipping", clip,
        because="QLoRA's own value." if method == "qlora" else "The common value; it only acts on outlier batches.",
        sources=("dettmers-2023", "transformers-code"), confidence="convention", flips=f"More than half the steps clipped at {show(clip)}: lower the rate.",
    )  # fmt: skip


def decide_beta(draft: Draft) -> None:
    """The pull towards the reference model, and the group size and length of online RL; nothing for other tasks."""
    if draft.task.family not in ("preference", "rl"):
        return
    trainer = draft.task.trainer
    beta = {"dpo": 0.1, "kto": 0.1, "orpo": 0.1, "simpo": 2.0, "grpo": 0.0, "ppo": 0.05}[trainer]
    draft.decide(
        "train.beta", "rate", "Beta", beta, sweep=(0.01, 0.1, 0.5) if trainer in ("dpo", "kto") else None,
        because="TRL's default for this loss." if trainer != "grpo" else "No KL term, as in current GRPO practice: the "
        "reference pass is saved.",
        sources=("trl-code", "alignment-handbook", "tinker-docs"), confidence="convention",
        flips="Answers that drift or grow long: a stronger pull.",
    )  # fmt: skip
    if draft.task.family != "rl":
        return
    draft.decide(
        "train.num_generations", "batch", "Group size", 8, sweep=(8, 16),
        because="Eight completions per prompt: the group's mean is the baseline.", sources=("trl-code", "tinker-docs"),
        confidence="convention", flips="Rewards that are almost always equal within a group: 16.",
    )  # fmt: skip
    length, because = (
        max(256, 64 * -(-draft.data.completion_tokens * 2 // 64)),
        "Twice the mean completion, so few are cut.",
    )
    context, prompt = draft.model.max_position_embeddings, int(draft.values["train.max_length"])
    if context and length + prompt > context:
        length = max(1, context - prompt)
        because = f"What the context of {context:,} tokens leaves beside a prompt of {prompt:,}."
    draft.decide(
        "train.max_completion_length", "data", "Max completion", length, because=because,
        sources=("arithmetic",), confidence="derived", flips="Completions that end at the limit: raise it.",
    )  # fmt: skip
