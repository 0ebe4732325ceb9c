"""Rules about preference optimization and RL that do not get going: rates, groups and batches that give no signal."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import Facts, LoraFacts, TaskFacts, TrainFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.rates import format_lr
from lora_advise.reading import Reading
from lora_advise.rule import rule

LOWEST_RL_RATE = 1e-6
"""The lowest rate of a published adapter in online RL (tina-2025); of full fine-tuning it is the usual one (trl-lr-table)."""
LOWEST_PREFERENCE_RATE = 2e-7


@rule("rl-rate-low", "PRF808", Severity.WARNING, Confidence.MEASURED, ("trl-lr-table", "tina-2025", "lwr-2025"))
def rl_rate_low(task: TaskFacts, lora: LoraFacts, train: TrainFacts, config: Reading | None = None) -> Iterator[Hit]:
    """Reinforcement learning or preference optimization trains an adapter at a rate of full fine-tuning.

    Why: an adapter wants about ten times the rate of full fine-tuning here too. Below it the reward does not rise, however
        long the run.
    Example:
        task: {name: grpo, family: rl, trainer: grpo}
        train: {learning_rate: 0.0000005, num_generations: 8, eval_strategy: "no", load_best_model_at_end: false}
    Instead:
        task: {name: grpo, family: rl, trainer: grpo}
        train: {learning_rate: 0.00001, num_generations: 8, eval_strategy: "no", load_best_model_at_end: false}
    Evidence: TRL's table gives 1e-6 for full GRPO and 1e-5 with LoRA; published adapters were trained at 1e-6 to 8e-5. A
        reported run at 5e-7 never moved its reward.
    Known problems: 1e-6 itself has worked, so a file that leaves it to the trainer's default only gets a note.
    """
    bound = {"rl": LOWEST_RL_RATE, "preference": LOWEST_PREFERENCE_RATE}.get(task.family)
    if bound is None or train.learning_rate <= 0:
        return
    left = config is not None and task.family == "rl" and "train.learning_rate" in config.inherited
    if train.learning_rate > bound or (train.learning_rate == bound and not left):
        return
    better = 1e-5 if task.family == "rl" else 5e-6
    kind = "reinforcement learning" if task.family == "rl" else "preference optimization"
    yield Hit(
        f"The learning rate {format_lr(train.learning_rate)} is one for {kind} of all weights; an adapter takes about ten "
        f"times as much. Set it to {format_lr(better)}.",
        ("train.learning_rate",),
        (Change("train.learning_rate", better),),
        Severity.NOTE if left else None,
    )


@rule("group-of-two", "PRF809", Severity.NOTE, Confidence.CONVENTION, ("trl-code", "arithmetic"))
def group_of_two(task: TaskFacts, train: TrainFacts) -> Iterator[Hit]:
    """GRPO compares only two or three completions of a prompt.

    Why: in a group of two the normalized advantage is plus one or minus one, or nothing where both have the same reward: how
        much better an answer is gets lost.
    Example:
        task: {name: grpo, family: rl, trainer: grpo}
        train: {learning_rate: 0.00001, num_generations: 2, eval_strategy: "no", load_best_model_at_end: false}
    Instead:
        task: {name: grpo, family: rl, trainer: grpo}
        train: {learning_rate: 0.00001, num_generations: 8, eval_strategy: "no", load_best_model_at_end: false}
    Evidence: arithmetic on the advantage; TRL's default is 8.
    Known problems: demonstrations on small devices take two for lack of memory.
    """
    if task.trainer == "grpo" and train.num_generations in (2, 3):
        yield Hit(
            f"A group of {train.num_generations} completions says little about how good each is: 4 at least, 8 is usual.",
            ("train.num_generations",),
            (Change("train.num_generations", 8),),
        )


@rule("kto-batch-of-one", "PRF810", Severity.ERROR, Confidence.FACT, ("trl-code", "ms-swift-defaults"))
def kto_batch_of_one(task: TaskFacts, train: TrainFacts, facts: Facts, config: Reading | None = None) -> Iterator[Hit]:
    """KTO runs with a micro-batch of one, in which its KL term is the reward itself.

    Why: the KL term is estimated by pairing each prompt with the answer of another row of the micro-batch. With one row there
        is no other, and the two parts of the loss cancel.
    Example:
        task: {name: kto, family: preference, trainer: kto}
        train: {learning_rate: 0.00001, per_device_train_batch_size: 1, gradient_accumulation_steps: 16}
        data: {format: unpaired-preference}
    Instead:
        task: {name: kto, family: preference, trainer: kto}
        train: {learning_rate: 0.00001, per_device_train_batch_size: 4, gradient_accumulation_steps: 4}
        data: {format: unpaired-preference}
    Evidence: TRL 1.16 and ms-swift raise.
    Known problems: older versions of TRL only warn. LLaMA-Factory pairs the rows when it prepares the data, and losses without
        a KL term (apo_zero_unpaired) need no pairs: nothing is said of these.
    """
    framework = facts.stack.framework if facts.stack is not None else ""
    if task.trainer != "kto" or train.per_device_train_batch_size > 1 or framework not in ("trl", "ms-swift", "swift"):
        return
    if config is not None and str(config.value("loss_type", "kto")) != "kto":
        return
    halved = max(1, train.gradient_accumulation_steps // 2)
    yield Hit(
        "KTO estimates its KL term from other rows of the micro-batch, and a micro-batch of 1 has none: set "
        f"per_device_train_batch_size to 2 and gradient_accumulation_steps to {halved}.",
        ("train.per_device_train_batch_size",),
        (Change("train.per_device_train_batch_size", 2), Change("train.gradient_accumulation_steps", halved)),
    )


PREFERENCE_LOW_RULES = (rl_rate_low, group_of_two, kto_batch_of_one)
