"""Rules about training data: how much, how long, in which format."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import DataFacts, Facts, ModelFacts, TaskFacts, TrainFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule

PAIRED = ("dpo", "orpo", "simpo", "reward")
"""Trainers that need a chosen and a rejected answer."""


@rule("hardly-any-examples", "DAT601", Severity.WARNING, Confidence.MEASURED, ("unsloth-guide", "lima-2023"))
def hardly_any_examples(task: TaskFacts, data: DataFacts) -> Iterator[Hit]:
    """There are fewer than 30 training examples.

    Why: so few fit into a prompt, which needs no training and can be corrected at once.
    Example:
        data: {examples: 20}
        train: {num_train_epochs: 5.0, per_device_train_batch_size: 1, gradient_accumulation_steps: 2, warmup_steps: 5}
    Instead:
        data: {examples: 600}
        train: {num_train_epochs: 3.0, warmup_steps: 10}
    Evidence: guides put the minimum at 100; the smallest set that carried a study was 1,000.
    Known problems: reinforcement learning has worked on a single problem, and is not judged.
    """
    if task.family != "rl" and data.examples < 30:
        yield Hit(
            f"{data.examples} example{'s' if data.examples > 1 else ''} fit into a prompt: try few-shot prompting, and "
            "collect at least 100 before fine-tuning.",
            ("data.examples",),
        )


@rule("few-examples", "DAT602", Severity.NOTE, Confidence.MEASURED, ("unsloth-guide", "lima-2023"))
def few_examples(task: TaskFacts, data: DataFacts) -> Iterator[Hit]:
    """There are fewer than 100 training examples.

    Why: a few dozen examples teach a format at best, and held-out figures on them are noise.
    Example:
        data: {examples: 80}
        train: {num_train_epochs: 5.0, gradient_accumulation_steps: 1, warmup_steps: 5}
    Instead:
        data: {examples: 600}
        train: {num_train_epochs: 3.0, warmup_steps: 10}
    Evidence: one vendor's minimum is 100.
    Known problems: examples may be very good.
    """
    if task.family != "rl" and 30 <= data.examples < 100:
        yield Hit(
            f"{data.examples} examples are below the usual minimum of 100: compare with few-shot prompting first.",
            ("data.examples",),
        )


@rule("long-examples-cut", "DAT603", Severity.WARNING, Confidence.FACT, ("arithmetic", "trl-code"))
def long_examples_cut(task: TaskFacts, train: TrainFacts, data: DataFacts, facts: Facts) -> Iterator[Hit]:
    """More than one example in a hundred is longer than max_length and will be cut.

    Why: the answer stands at the end, so what is cut is what was to be learned; the loss does not show it.
    Example:
        data: {p99_tokens: 1500, max_tokens: 3000}
    Instead:
        data: {p99_tokens: 1500, max_tokens: 3000}
        train: {max_length: 1536}
    Evidence: the truncation of the tokenizers, from the end.
    Known problems: packed text is wrapped, not cut, and not judged; nor is what exceeds the model's own context.
    """
    limit = facts.model.max_position_embeddings if facts.model else None
    if train.packing or task.family in ("rl", "pretraining") or (limit and train.max_length >= limit):
        return
    mean = data.tokens_per_example
    if (data.p99_tokens is None or data.p99_tokens <= train.max_length) and mean <= train.max_length:
        return
    need = max(data.p99_tokens or 0, mean)
    wanted = min(64 * -(-need // 64), limit or 2**31)
    what = (
        f"The mean example has {mean:,} tokens"
        if mean > train.max_length
        else f"One example in a hundred has more than {data.p99_tokens:,} tokens"
    )
    yield Hit(
        f"{what}, and max_length cuts at {train.max_length:,}: set it to {wanted:,}.",
        ("train.max_length",),
        (Change("train.max_length", wanted),),
    )


@rule("length-beyond-context", "DAT604", Severity.WARNING, Confidence.FACT, ("hub-metadata",))
def length_beyond_context(train: TrainFacts, model: ModelFacts) -> Iterator[Hit]:
    """max_length is longer than the model's context.

    Why: positions beyond it were never trained, and models with learned positions fail there.
    Example:
        model: short-context
        train: {max_length: 4096, per_device_train_batch_size: 1, gradient_accumulation_steps: 16}
        data: {p99_tokens: 2000}
        hardware: null
    Instead:
        model: short-context
        train: {max_length: 2048, per_device_train_batch_size: 1, gradient_accumulation_steps: 16}
        data: {p99_tokens: 2000}
        hardware: null
    Evidence: max_position_embeddings of the model's config.json.
    Known problems: rotary positions can be stretched on purpose.
    """
    limit = model.max_position_embeddings
    if limit and train.max_length > limit:
        yield Hit(
            f"max_length is {train.max_length:,}, {model.name} was made for {limit:,} tokens: set it to {limit:,} or "
            "less.",
            ("train.max_length",),
            (Change("train.max_length", limit),),
        )


def _masked_by_blocks(config: Reading | None) -> bool:
    """Whether the trainer keeps packed rows apart with a mask of its own: torchtune, and Axolotl where it is told the kernel."""
    if config is None or config.dialect.name != "axolotl":
        return config is not None and config.dialect.name == "torchtune"
    return any(config.has(name) for name in ("attn_implementation", "sdp_attention", "eager_attention"))


@rule("packing-without-borders", "DAT605", Severity.WARNING, Confidence.FACT, ("trl-code", "transformers-code"))
def packing_without_borders(task: TaskFacts, train: TrainFacts, config: Reading | None = None) -> Iterator[Hit]:
    """Examples are packed without an attention kernel that keeps them apart.

    Why: with plain attention every example sees those packed before it and learns from strangers.
    Example:
        train: {packing: true, gradient_accumulation_steps: 2}
    Instead:
        train: {packing: true, gradient_accumulation_steps: 2, attn_implementation: flash_attention_2}
    Evidence: TRL warns of it; position ids alone do not separate sequences with sdpa.
    Known problems: continued pretraining is packed like this everywhere, and is not judged. In LLaMA-Factory the kernel makes no
        difference: only neat_packing keeps examples apart. torchtune masks packed rows itself, and so does Axolotl (0.19) under a
        kernel that the file names.
    """
    if not train.packing or task.family == "pretraining":
        return
    if config is not None and config.dialect.name == "llamafactory":
        if str(config.value("neat_packing")).lower() != "true":
            yield Hit(
                "packing puts examples into one row, where they see each other: LLaMA-Factory keeps them apart with neat_packing alone.",
                ("train.packing",),
                (Change("config.neat_packing", True),),
            )
    elif train.attn_implementation != "flash_attention_2" and not _masked_by_blocks(config):
        yield Hit(
            f"Packed examples see each other under {train.attn_implementation} attention: set attn_implementation to "
            "flash_attention_2, or packing to false.",
            ("train.packing", "train.attn_implementation"),
            (Change("train.packing", False),),
        )


@rule(
    "loss-on-long-prompts", "DAT606", Severity.NOTE, Confidence.MEASURED, ("dettmers-2023", "sft-mask", "unsloth-guide")
)
def loss_on_long_prompts(task: TaskFacts, train: TrainFacts, data: DataFacts) -> Iterator[Hit]:
    """The loss covers prompts that are more than three times as long as the answers.

    Why: most of the gradient then teaches the model to write users' questions.
    Example:
        train: {loss_on: all}
        data: {completion_tokens: 60}
    Instead:
        train: {loss_on: completion}
        data: {completion_tokens: 60}
    Evidence: QLoRA measured 38.6 against 37.5 MMLU for answers only.
    Known problems: plain text has no prompt, and very short answers may profit from the prompt's loss.
    """
    prompt = data.tokens_per_example - data.completion_tokens
    if task.family != "sft" or train.loss_on != "all" or data.format == "text" or data.completion_tokens == 0:
        return
    if prompt > 3 * data.completion_tokens:
        yield Hit(
            f"{100 * prompt / data.tokens_per_example:.0f} % of the loss is on prompts ({prompt} of "
            f"{data.tokens_per_example} tokens): train on the completion only.",
            ("train.loss_on",),
            (Change("train.loss_on", "completion"),),
        )


@rule("nothing-supervised", "DAT607", Severity.ERROR, Confidence.FACT, ("arithmetic", "trl-code"))
def nothing_supervised(task: TaskFacts, train: TrainFacts, data: DataFacts) -> Iterator[Hit]:
    """The loss is restricted to completions, and there are no completion tokens.

    Why: every label is masked, the loss is 0 or NaN, and nothing is learned.
    Example:
        data: {completion_tokens: 0}
    Instead:
        data: {completion_tokens: 200}
    Evidence: the mean of no tokens.
    Known problems: online reinforcement learning generates its completions and is not judged.
    """
    if task.family in ("sft", "pretraining") and train.loss_on != "all" and data.completion_tokens == 0:
        yield Hit(
            f"The loss is on the {train.loss_on} only, and the data have no completion tokens: set loss_on to all, or "
            "give answers.",
            ("train.loss_on", "data.completion_tokens"),
            (Change("train.loss_on", "all"),),
        )


@rule("assistant-loss-without-turns", "DAT608", Severity.ERROR, Confidence.FACT, ("trl-code",))
def assistant_loss_without_turns(train: TrainFacts, data: DataFacts) -> Iterator[Hit]:
    """The loss is on assistant turns, but the data are not conversations.

    Why: TRL finds assistant turns through the chat template and refuses other formats.
    Example:
        train: {loss_on: assistant}
        data: {format: alpaca}
    Instead:
        train: {loss_on: completion}
        data: {format: alpaca}
    Evidence: the check in TRL's SFTTrainer.
    Known problems: none.
    """
    if train.loss_on == "assistant" and data.format in ("prompt-completion", "alpaca", "text"):
        value = "all" if data.format == "text" else "completion"
        yield Hit(
            f"loss_on assistant needs conversations, and the data are {data.format}: set loss_on to {value}.",
            ("train.loss_on",),
            (Change("train.loss_on", value),),
        )


@rule("format-unfit-for-trainer", "DAT609", Severity.ERROR, Confidence.FACT, ("trl-code",))
def format_unfit_for_trainer(task: TaskFacts, data: DataFacts) -> Iterator[Hit]:
    """The data's format is not what the task's trainer reads.

    Why: preference losses compare a chosen with a rejected answer; supervised training needs one answer.
    Example:
        task: {name: dpo, family: preference, trainer: dpo}
        train: {learning_rate: 0.00001}
        data: {format: messages}
    Instead:
        task: {name: dpo, family: preference, trainer: dpo}
        train: {learning_rate: 0.00001}
        data: {format: preference}
    Evidence: TRL's dataset formats.
    Known problems: none.
    """
    if data.format is None:
        return
    preference = data.format in ("preference", "unpaired-preference")
    wanted = ""
    if task.trainer in PAIRED and data.format != "preference":
        wanted = "pairs of a chosen and a rejected answer"
    elif task.trainer == "kto" and not preference:
        wanted = "answers labelled good or bad, or pairs of answers"
    elif task.trainer == "sft" and (preference or data.format in ("prompt", "classification")):
        wanted = "prompts with one answer, conversations or plain text"
    if wanted:
        yield Hit(
            f"The {task.trainer} trainer needs {wanted}; the data are in the format {data.format}.",
            ("data.format", "task.trainer"),
        )


@rule("length-mostly-padding", "DAT610", Severity.NOTE, Confidence.CONVENTION, ("arithmetic",))
def length_mostly_padding(train: TrainFacts, data: DataFacts) -> Iterator[Hit]:
    """max_length is more than four times what 99 of 100 examples need.

    Why: a forecast made for max_length reserves memory that is never used, so the micro-batch is chosen too small.
    Example:
        data: {p99_tokens: 200, max_tokens: 300, tokens_per_example: 100, completion_tokens: 50}
    Instead:
        data: {p99_tokens: 200, max_tokens: 300, tokens_per_example: 100, completion_tokens: 50}
        train: {max_length: 256}
    Evidence: arithmetic.
    Known problems: batches are padded to their longest example only, so speed hardly suffers.
    """
    if data.p99_tokens and not train.packing and train.max_length > max(4 * data.p99_tokens, 512):
        wanted = 64 * -(-data.p99_tokens // 64)
        yield Hit(
            f"99 of 100 examples have at most {data.p99_tokens:,} tokens and max_length is {train.max_length:,}: "
            f"{wanted:,} is enough.",
            ("train.max_length",),
            (Change("train.max_length", wanted),),
        )


DATA_RULES = (
    hardly_any_examples,
    few_examples,
    long_examples_cut,
    length_beyond_context,
    packing_without_borders,
    loss_on_long_prompts,
    nothing_supervised,
    assistant_loss_without_turns,
    format_unfit_for_trainer,
    length_mostly_padding,
)
