"""Rules about preference optimization and online reinforcement learning."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import Facts, LoraFacts, TaskFacts, TrainFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.rates import format_lr
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.precision import initialization
from lora_advise.rules.scale import explain, judge, ways_back


def _high(facts: Facts, say: str) -> Iterator[Hit]:
    lora, train = facts.lora, facts.train
    judged = judge(facts)
    if judged is None or lora is None or train is None or judged[2] not in ("high", "diverges"):
        return
    value, bounds, _ = judged
    ways = ways_back(lora, train, value, bounds)
    yield ways.hit(
        f"The learning rate {format_lr(train.learning_rate)} {say}: {explain(lora, train, value)}, above "
        f"{format_lr(bounds.warn)}; {ways.words}.",
    )


@rule(
    "preference-rate-high",
    "PRF801",
    Severity.WARNING,
    Confidence.MEASURED,
    ("trl-lr-table", "unsloth-guide", "alignment-handbook", "tinker-docs"),
)
def preference_rate_high(task: TaskFacts, lora: LoraFacts, train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """Preference optimization runs at a learning rate of supervised fine-tuning.

    Why: the loss can be lowered without end by pushing rejected answers away, and at high rates the policy goes with
        them.
    Example:
        task: {name: dpo, family: preference, trainer: dpo}
        train: {learning_rate: 0.0003}
        data: {format: preference}
    Instead:
        task: {name: dpo, family: preference, trainer: dpo}
        train: {learning_rate: 0.00001}
        data: {format: preference}
    Evidence: five sources use 5e-6 to 1e-5, 20 to 60 times below supervised rates.
    Known problems: three frameworks ship demonstrations at 1e-4 to 5e-4, without reported quality.
    """
    if task.family == "preference":
        yield from _high(facts, "is one for supervised fine-tuning; preference losses collapse at such rates")


@rule("rl-rate-high", "PRF802", Severity.WARNING, Confidence.MEASURED, ("trl-lr-table", "tinker-docs", "tina-2025"))
def rl_rate_high(task: TaskFacts, lora: LoraFacts, train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """Online reinforcement learning runs at a learning rate at which policies collapse.

    Why: a policy that moves too far in one step generates its own bad training data.
    Example:
        task: {name: grpo, family: rl, trainer: grpo}
        train: {learning_rate: 0.0003, num_generations: 8, eval_strategy: "no", load_best_model_at_end: false}
    Instead:
        task: {name: grpo, family: rl, trainer: grpo}
        train: {learning_rate: 0.00001, num_generations: 8, eval_strategy: "no", load_best_model_at_end: false}
    Evidence: published runs lie between 1e-6 and 8e-5.
    Known problems: none known.
    """
    if task.family == "rl":
        yield from _high(facts, "is beyond published reinforcement learning (1e-6 to 8e-5)")


@rule("reference-altered-by-init", "PRF803", Severity.ERROR, Confidence.FACT, ("peft-code", "trl-code"))
def reference_altered_by_init(task: TaskFacts, lora: LoraFacts, train: TrainFacts) -> Iterator[Hit]:
    """The reference policy is the base with its adapter off, but the initialization has changed the base.

    Why: PiSSA, OLoRA, CorDA and LoftQ subtract the adapter's start from the base weights. With the adapter off, what
        remains is
        not the model that training started from.
    Example:
        task: {name: dpo, family: preference, trainer: dpo}
        lora: {init_lora_weights: pissa, r: 32, lora_alpha: 32}
        train: {learning_rate: 0.00001}
        data: {format: preference}
    Instead:
        task: {name: dpo, family: preference, trainer: dpo}
        lora: {init_lora_weights: true, r: 32, lora_alpha: 32}
        train: {learning_rate: 0.00001}
        data: {format: preference}
    Evidence: the initializations in PEFT, and the adapter-off reference in TRL.
    Known problems: ORPO and SimPO have no reference, nor has GRPO without a KL term.
    """
    needs = task.trainer in ("dpo", "kto", "ppo") or (task.trainer == "grpo" and bool(train.beta))
    if needs and initialization(lora).startswith(("pissa", "olora", "corda", "loftq")):
        yield Hit(
            f"The initialization {lora.init_lora_weights} changes the base weights, and {task.trainer} uses the base "
            "as its reference: use the default initialization.",
            ("lora.init_lora_weights",),
            (Change("lora.init_lora_weights", True),),
        )


@rule("beta-inert", "PRF804", Severity.ERROR, Confidence.FACT, ("trl-code", "arithmetic"))
def beta_inert(task: TaskFacts, train: TrainFacts) -> Iterator[Hit]:
    """Beta is zero or negative in a preference loss that multiplies by it.

    Why: the loss is the logistic of beta times a margin. At zero it is constant and its gradient is zero; below, it
        prefers the
        rejected answer.
    Example:
        task: {name: dpo, family: preference, trainer: dpo}
        train: {learning_rate: 0.00001, beta: 0.0}
        data: {format: preference}
    Instead:
        task: {name: dpo, family: preference, trainer: dpo}
        train: {learning_rate: 0.00001, beta: 0.1}
        data: {format: preference}
    Evidence: the losses in TRL.
    Known problems: in GRPO zero means no KL term, which is common; it is not judged.
    """
    if task.trainer in ("dpo", "kto", "simpo") and train.beta is not None and train.beta <= 0:
        beta = 2.0 if task.trainer == "simpo" else 0.1
        yield Hit(
            f"Beta is {train.beta:g}, so the {task.trainer} loss has no gradient towards the chosen answers: set it to "
            f"{beta:g}.",
            ("train.beta",),
            (Change("train.beta", beta),),
        )


@rule("group-too-small", "PRF805", Severity.ERROR, Confidence.FACT, ("trl-code",))
def group_too_small(task: TaskFacts, train: TrainFacts, config: Reading | None = None) -> Iterator[Hit]:
    """GRPO compares completions of a prompt, but generates fewer than two.

    Why: the advantage is a completion's reward minus the mean of its group, zero in a group of one.
    Example:
        task: {name: grpo, family: rl, trainer: grpo}
        train: {learning_rate: 0.00001, num_generations: 1, eval_strategy: "no", load_best_model_at_end: false}
    Instead:
        task: {name: grpo, family: rl, trainer: grpo}
        train: {learning_rate: 0.00001, num_generations: 8, eval_strategy: "no", load_best_model_at_end: false}
    Evidence: the check in GRPOConfig.
    Known problems: a run that learns from a teacher beside the reward needs no group, so nothing is said of one.
    """
    taught = config is not None and any("teacher" in str(entry.path[0]) for entry in config.config.entries)
    if task.trainer == "grpo" and not taught and train.num_generations is not None and train.num_generations < 2:
        yield Hit(
            f"num_generations is {train.num_generations}: a group of one has no advantage. Set it to 8.",
            ("train.num_generations",),
            (Change("train.num_generations", 8),),
        )


def _generation_batch(config: Reading, train: TrainFacts, facts: Facts) -> tuple[int, str] | None:
    """The completions of one generation with the setting that makes them, where a file sets it apart from the batch."""
    whole, steps = config.value("generation_batch_size"), config.value("steps_per_generation")
    if whole is not None:
        return int(whole), "generation_batch_size"
    if steps is not None and config.value("global_batch") is not None:
        return int(steps) * int(config.value("global_batch")), "steps_per_generation"
    if steps is not None:
        return int(steps) * train.per_device_train_batch_size * facts.data_parallel, "steps_per_generation"
    return None


def _whole_groups(train: TrainFacts, facts: Facts, size: int, group: int) -> Hit:
    """The finding with the nearest group that divides the batch, and the accumulation that keeps the group."""
    accumulation = train.gradient_accumulation_steps
    while size * accumulation // train.gradient_accumulation_steps % group:
        accumulation += 1
    steps = Change("train.gradient_accumulation_steps", accumulation)
    near = min((n for n in range(2, size + 1) if size % n == 0), key=lambda n: (abs(n - group), -n), default=group)
    other = group <= size and group / 2 <= near <= group * 2
    ways = (Change("train.num_generations", near), steps) if other else (steps,)
    words = f"num_generations to {near}, or " if other else ""
    return Hit(
        f"{size} completions per step cannot be divided into groups of {group}: set {words}gradient_accumulation_steps to "
        f"{accumulation}.",
        ("train.num_generations", "train.gradient_accumulation_steps"),
        ways[:1],
        None if facts.hardware is not None else Severity.WARNING,  # how many processes run it is not known
        instead=ways[1:],
    )


@rule("group-splits-batch", "PRF806", Severity.ERROR, Confidence.FACT, ("trl-code",))
def group_splits_batch(
    task: TaskFacts, train: TrainFacts, facts: Facts, config: Reading | None = None
) -> Iterator[Hit]:
    """The batch of completions cannot be divided into whole groups.

    Why: TRL generates micro-batch * accumulation * devices completions at a time, in whole groups.
    Example:
        task: {name: grpo, family: rl, trainer: grpo}
        train: {learning_rate: 0.00001, num_generations: 6, eval_strategy: "no", load_best_model_at_end: false}
    Instead:
        task: {name: grpo, family: rl, trainer: grpo}
        train: {learning_rate: 0.00001, num_generations: 8, eval_strategy: "no", load_best_model_at_end: false}
    Evidence: the check in GRPOConfig.
    Known problems: generation_batch_size and steps_per_generation, which set the number apart, are read from files only.
    """
    group, own = train.num_generations, None
    if task.trainer != "grpo" or group is None or group < 2:
        return
    if config is not None:
        own = _generation_batch(config, train, facts)
    size = own[0] if own else facts.effective_batch
    if size is None or size % group == 0:
        return
    if own:
        yield Hit(
            f"{own[1]} gives {size} completions at a time, which cannot be divided into groups of {group}: choose a multiple "
            "of the group.",
            ("train.num_generations", f"config.{own[1]}"),
        )
        return
    yield _whole_groups(train, facts, size, group)


@rule("preference-repeated", "PRF807", Severity.WARNING, Confidence.CONVENTION, ("alignment-handbook", "trl-code"))
def preference_repeated(task: TaskFacts, train: TrainFacts) -> Iterator[Hit]:
    """Preference pairs are seen more than three times.

    Why: the margin on known pairs grows without end while answers drift.
    Example:
        task: {name: dpo, family: preference, trainer: dpo}
        train: {learning_rate: 0.00001, num_train_epochs: 5.0}
        data: {format: preference}
    Instead:
        task: {name: dpo, family: preference, trainer: dpo}
        train: {learning_rate: 0.00001, num_train_epochs: 1.0}
        data: {format: preference}
    Evidence: recipes make one pass, three at most.
    Known problems: a few hundred pairs may need more.
    """
    if task.family == "preference" and train.num_train_epochs > 3 and not train.max_steps:
        yield Hit(
            f"{train.num_train_epochs:g} passes over preference pairs over-optimize them: one is usual, three the "
            "most.",
            ("train.num_train_epochs",),
            (Change("train.num_train_epochs", 1.0),),
        )


PREFERENCE_RULES = (
    preference_rate_high,
    rl_rate_high,
    reference_altered_by_init,
    beta_inert,
    group_too_small,
    group_splits_batch,
    preference_repeated,
)
