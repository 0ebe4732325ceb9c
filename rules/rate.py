"""Rules about learning rates and scaling factors that go wrong by themselves."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import Facts, LoraFacts, TrainFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.rates import format_lr, round_lr_down, run_e2
from lora_advise.rule import rule

EMBEDDING_NAMES = ("embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out", "embeddings")
"""What the input and output embeddings of common architectures are called."""


@rule("full-tuning-at-adapter-rate", "LRS105", Severity.WARNING, Confidence.MEASURED, ("lwr-2025", "baseten-2026"))
def full_tuning_at_adapter_rate(train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """Full fine-tuning runs at a learning rate that only adapters can take.

    Why: without an adapter every weight moves. The best rate of full fine-tuning is about a tenth of LoRA's.
    Example:
        lora: null
        hardware: null
        train: {learning_rate: 0.0003}
    Instead:
        lora: null
        hardware: null
        train: {learning_rate: 0.00002}
    Evidence: the ratio of best rates was 9.8 over 14 models; another study found 1e-3 against 3e-5.
    Known problems: encoders and models below 1 B take higher rates and are not judged.
    """
    model = facts.model
    if (
        facts.lora is not None
        or train.learning_rate <= 1e-4
        or (model and (model.kind == "encoder" or model.billions < 1))
    ):
        return
    rate = round_lr_down(train.learning_rate / 10)
    yield Hit(
        f"Without an adapter every weight is trained at {format_lr(train.learning_rate)}, a rate for LoRA: full "
        f"fine-tuning takes about a tenth, {format_lr(rate)}.",
        ("train.learning_rate",),
        (Change("train.learning_rate", min(rate, 1e-4)),),
    )


@rule(
    "rslora-with-doubled-alpha",
    "LRS106",
    Severity.NOTE,
    Confidence.MEASURED,
    ("rslora-2023", "peft-metamath", "scale-experiment"),
)
def rslora_with_doubled_alpha(lora: LoraFacts) -> Iterator[Hit]:
    """rsLoRA is combined with alpha = 2r, a habit of the other scaling that multiplies the scale by sqrt(r) once more.

    Why: rsLoRA divides by sqrt(r), so alpha no longer needs to grow with r. At r 64 and alpha 128 the factor is 16, not
        2.
    Example:
        lora: {r: 64, lora_alpha: 128, use_rslora: true}
        train: {learning_rate: 0.0001}
    Instead:
        lora: {r: 64, lora_alpha: 32, use_rslora: true}
        train: {learning_rate: 0.0001}
    Evidence: rsLoRA equals standard LoRA at alpha * sqrt(r) to five digits in runs of our own; the best rsLoRA run of
        PEFT's
        benchmark is r 64 with alpha 64.
    Known problems: with a rate chosen for it the combination trains well.
    """
    if not lora.use_rslora or lora.r < 32 or lora.lora_alpha < 2 * lora.r:
        return
    yield Hit(
        f"rsLoRA with alpha {lora.lora_alpha:g} and r {lora.r} scales by {lora.scale:.3g}, as alpha "
        f"{lora.alpha_eff:.0f} would without rsLoRA; set alpha to 32, or choose the learning rate for it.",
        ("lora.use_rslora", "lora.lora_alpha"),
        (Change("lora.lora_alpha", 32),),
    )


@rule("alpha-inert", "LRS107", Severity.ERROR, Confidence.FACT, ("peft-code", "arithmetic"))
def alpha_inert(lora: LoraFacts) -> Iterator[Hit]:
    """Alpha is zero or negative, so the adapter never acts, or acts with its sign turned.

    Why: the adapter's output is multiplied by alpha/r. At zero its gradient is exactly zero, and the run succeeds with
        an
        adapter that does nothing.
    Example:
        lora: {lora_alpha: 0}
    Instead:
        lora: {lora_alpha: 32}
    Evidence: the forward pass of PEFT's LoRA layers.
    Known problems: LLaMA-Factory reads 0 as unset.
    """
    if lora.lora_alpha > 0:
        return
    zero = lora.lora_alpha == 0
    yield Hit(
        f"Alpha is {lora.lora_alpha:g}: "
        + (
            "the adapter's output and gradient are exactly zero, so nothing is learned"
            if zero
            else "the adapter's sign is turned"
        )
        + "; set alpha to 32.",
        ("lora.lora_alpha",),
        (Change("lora.lora_alpha", 32),),
        None if zero else Severity.WARNING,
    )


@rule(
    "scale-far-from-practice",
    "LRS108",
    Severity.WARNING,
    Confidence.CONVENTION,
    ("axolotl-examples", "torchtune-recipes"),
)
def scale_far_from_practice(lora: LoraFacts) -> Iterator[Hit]:
    """The adapter's scale lies far outside every published recipe, which usually is a typing error.

    Why: recipes span alpha/r of 0.25 to 4. Far outside, r and alpha have often changed places or a digit was lost.
    Example:
        lora: {r: 256, lora_alpha: 16}
        hardware: null
        data: null
    Instead:
        lora: {r: 256, lora_alpha: 128}
        hardware: null
        data: null
    Evidence: 178 shipped configurations.
    Known problems: the scale itself does not decide whether a run trains; the rate times sqrt(alpha) does.
    """
    if lora.lora_alpha <= 0 or (0.1 <= lora.scale <= 16 or (lora.r < 4 and lora.scale > 16)):
        return
    alpha = lora.r if not lora.use_rslora else 32
    yield Hit(
        f"The adapter is scaled by {lora.scale:.3g} (r {lora.r}, alpha {lora.lora_alpha:g}); published recipes lie "
        f"between 0.25 and 4. Check for a typing error, or set alpha to {alpha} and adapt the learning rate.",
        ("lora.lora_alpha", "lora.r"),
        (Change("lora.lora_alpha", alpha),),
    )


@rule("learning-rate-inert", "LRS109", Severity.ERROR, Confidence.FACT, ("arithmetic",))
def learning_rate_inert(train: TrainFacts) -> Iterator[Hit]:
    """The learning rate is zero or negative, so the run learns nothing or the opposite.

    Why: an optimizer step is the rate times a direction.
    Example:
        train: {learning_rate: 0.0}
    Instead:
        train: {learning_rate: 0.0003}
    Evidence: arithmetic; torch refuses a negative rate.
    Known problems: optimizers that find their own rate (Prodigy, Adafactor) are not judged.
    """
    if train.learning_rate > 0 or "prodigy" in train.optim or train.optim == "adafactor":
        return
    yield Hit(
        f"The learning rate is {train.learning_rate:g}: no weight will move. For LoRA start from 3e-4 at alpha 32.",
        ("train.learning_rate",),
        (Change("train.learning_rate", 3e-4),),
    )


@rule(
    "embeddings-at-adapter-rate",
    "LRS110",
    Severity.WARNING,
    Confidence.MEASURED,
    ("unsloth-cpt", "biderman-2024", "loraplus-2024"),
)
def embeddings_at_adapter_rate(lora: LoraFacts, train: TrainFacts) -> Iterator[Hit]:
    """Embeddings or the output head are trained in full at the adapter's learning rate.

    Why: modules_to_save are full matrices. They take the rates of full fine-tuning; at the adapter's rate they forget.
    Example:
        lora: {modules_to_save: [embed_tokens, lm_head]}
        hardware: null
    Instead:
        lora: {modules_to_save: [embed_tokens, lm_head]}
        train: {embedding_learning_rate: 0.00003}
        hardware: null
    Evidence: recipes for continued pretraining take 2 to 10 times less for the embeddings.
    Known problems: a vocabulary that is new throughout may want more.
    """
    saved = [name for name in lora.modules_to_save if name.rsplit(".", 1)[-1] in EMBEDDING_NAMES]
    rate = train.embedding_learning_rate if train.embedding_learning_rate is not None else train.learning_rate
    if not saved or train.learning_rate < 1e-4 or rate < train.learning_rate / 2:
        return
    lower = round_lr_down(train.learning_rate / 10)
    yield Hit(
        f"{' and '.join(saved)} are trained in full at {format_lr(rate)}, the adapter's own rate is "
        f"{format_lr(train.learning_rate)}: give them a tenth, {format_lr(lower)}.",
        ("train.embedding_learning_rate", "lora.modules_to_save"),
        (Change("train.embedding_learning_rate", lower),),
    )


@rule("tiny-batch-at-high-rate", "LRS111", Severity.WARNING, Confidence.MEASURED, ("shallue-2018", "batch-size-2026"))
def tiny_batch_at_high_rate(lora: LoraFacts, train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """A batch of fewer than four sequences is combined with a high learning rate.

    Why: the gradient of one or two sequences is mostly noise, and the highest rate that trains falls with the batch.
    Example:
        train: {learning_rate: 0.0007, per_device_train_batch_size: 1, gradient_accumulation_steps: 2}
    Instead:
        train: {learning_rate: 0.0007, per_device_train_batch_size: 1, gradient_accumulation_steps: 16}
    Evidence: the best rate grows with the batch until a critical size; batches of 8 to 32 do best for LoRA.
    Known problems: long packed sequences are large batches of tokens.
    """
    batch, value = facts.effective_batch, run_e2(lora, train)
    if batch is None or value is None or batch >= 4 or value <= 3e-3 or train.packing:
        return
    accumulation = -(-16 // batch) * train.gradient_accumulation_steps
    yield Hit(
        f"Each step sees {batch} sequence{'s' if batch > 1 else ''} at a learning rate of "
        f"{format_lr(train.learning_rate)} "
        f"(lr * sqrt(alpha_eff) = {format_lr(value)}): raise gradient_accumulation_steps to {accumulation}.",
        ("train.gradient_accumulation_steps", "train.learning_rate"),
        (Change("train.gradient_accumulation_steps", accumulation),),
    )


RATE_RULES = (
    full_tuning_at_adapter_rate,
    rslora_with_doubled_alpha,
    alpha_inert,
    scale_far_from_practice,
    learning_rate_inert,
    embeddings_at_adapter_rate,
    tiny_batch_at_high_rate,
)
