"""Should this be fine-tuned at all, and what to try next."""

from __future__ import annotations

from lora_advise.decide_batch import batch_sweep
from lora_advise.draft import Draft
from lora_advise.rates import format_lr, round_lr
from lora_advise.report_words import counted

_PLAIN: dict[str, tuple[str, tuple[str, ...]]] = {
    "sft": (
        "Supervised tuning on data of this size: LoRA reaches full fine-tuning at a fraction of the memory.",
        ("lwr-2025", "baseten-2026"),
    ),
    "rl": (
        "An episode teaches about one bit: LoRA matched full fine-tuning in online RL, at rank 1 even.",
        ("lwr-2025",),
    ),
    "preference": (
        "A preference teaches about one bit: an adapter holds that easily, and the base without it is the reference model.",
        ("lwr-2025", "trl-code"),
    ),
}
"""Why LoRA where nothing speaks against it, by family of tasks."""


def decide_purpose(draft: Draft, *, exceeds: bool) -> None:
    """The gate: prompt, retrieval, full fine-tuning or LoRA. ``exceeds``: the data hold more than any adapter of ours."""
    n, task, model = draft.data.examples, draft.task, draft.model
    total = n * draft.data.tokens_per_example
    value, flips = "LoRA", "Data that exceed the adapter's capacity, or continued pretraining at scale."
    because, sources = _PLAIN.get(task.family, _PLAIN["sft"])
    if n < 50:
        value = "prompt first"
        because = (
            f"{counted(n, 'example')} fit{'s' * (n == 1)} into a prompt: try few-shot prompting first; below about 100 rows "
            "tuning is unreliable."
        )
        sources, flips = ("unsloth-guide", "extraction-2025"), "A hundred examples or more."
        draft.note(
            "advice",
            f"{counted(n, 'example')} {'is' if n == 1 else 'are'} few: put what you have into the prompt first. The settings "
            "below are for those who insist.",
            *sources,
        )
    elif task.name == "knowledge-injection":
        value = "retrieval first"
        because = "New facts are learned slowly and raise hallucination; retrieval answers from the source itself."
        sources, flips = ("gekhman-2024", "new-facts-2025"), "Many paraphrases of every fact, mixed with known data."
        draft.note("advice", "For facts, retrieval (RAG) is usually the better tool. If you tune: paraphrase every fact several "
                   "times, mix in 10 to 50 % general data, and measure hallucination.", *sources)  # fmt: skip
    elif task.family == "pretraining" and total > 1_000_000_000:
        value = "full fine-tuning if it fits"
        because = "Beyond a billion tokens LoRA falls clearly behind full fine-tuning in continued pretraining."
        sources, flips = (
            ("biderman-2024",),
            "Too little memory for full fine-tuning, or forgetting that must stay small.",
        )
        draft.note(
            "advice", "Over a billion tokens: full fine-tuning learns more if it fits; LoRA forgets less.", *sources
        )
    elif exceeds and task.family == "sft":
        value = "LoRA, or full fine-tuning"
        because = (
            "The data hold more than an adapter can: LoRA still learns from them, but slower than full fine-tuning."
        )
        sources, flips = ("lwr-2025", "allen-zhu-2024"), "Less data, or too little memory for full fine-tuning."
    elif model.billions < 0.5 and model.kind not in ("encoder",) and task.family == "sft":
        value = "LoRA, or full fine-tuning"
        because = "Below half a billion parameters full fine-tuning is affordable and at least as good."
        sources, flips = ("baseten-2026", "secret-recipe"), "Many adapters on one base: LoRA."
        draft.note(
            "advice",
            "At this size full fine-tuning is affordable and usually at least as good (--method full).",
            *sources,
        )
    draft.decide(
        "gate", "purpose", "Right tool?", value, because=because, sources=sources, confidence="measured", flips=flips
    )
    _note_starting_model(draft)


def _note_starting_model(draft: Draft) -> None:
    """What is worth knowing of the model that the run starts from."""
    n, task, model = draft.data.examples, draft.task, draft.model
    if task.family == "preference" and not draft.data.path:
        draft.note(
            "advice",
            "Start preference tuning from a model that was tuned on the same format first.",
            "alignment-handbook",
        )
    if model.variant == "base" and task.loss_on == "assistant" and n < 2_000:
        draft.note(
            "advice",
            f"{model.name} is a base model: with {n:,} examples an instruct variant is the easier start.",
            "lima-2023",
        )
    if model.variant == "base" and (task.loss_on == "assistant" or draft.data.format in ("messages", "sharegpt")):
        draft.note(
            "advice",
            f"{model.name} is a base model, and its tokenizer may have no chat template: the run then takes a plain one and "
            "saves it with the adapter; whatever serves the adapter must use the same.",
            "transformers-code",
        )


def decide_sweep(draft: Draft, rate: float, rank: int) -> None:
    """What to try next, in the order of what it moves."""
    low, high = format_lr(round_lr(rate / 3)), format_lr(round_lr(rate * 3))
    batches = ", ".join(map(str, batch_sweep(int(draft.values["effective_batch"]))))
    ranks = f"; rank {max(8, rank // 2)} and {rank * 2} only if capacity is in doubt"
    if draft.values.get("method") == "full":
        ranks = ""
    plan = (
        f"learning rate {low}, {format_lr(rate)}, {high} on 10 to 20 % of the steps (at least 100) with the schedule of the "
        f"full run; then effective batch {batches}{ranks}"
    )
    draft.decide(
        "sweep", "next", "Sweep next", plan, shown=f"learning rate {low}, {format_lr(rate)}, {high} first",
        because="The rate moves results most, then the batch; rank and variant hardly once the rate is tuned. Runs below 100 "
        "steps favour rates about 1.5 times too high.",
        sources=("variants-2026", "tinker-sweep", "batch-size-2026", "lwr-2025"), confidence="measured",
        flips="A result that is already good enough.",
    )  # fmt: skip
