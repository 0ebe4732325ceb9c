"""Rules about optimizer, schedule and epochs."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import DataFacts, Facts, LoraFacts, TaskFacts, TrainFacts
from lora_advise.finding import Change, Confidence, Hit, Rewrite, Severity
from lora_advise.rates import SCHEDULERS, format_lr, run_e2
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.evaluation import steps_of

SMOKE_TEST = 20
"""Steps of a run that only shows that it runs."""


@rule("warmup-exceeds-run", "SCH701", Severity.ERROR, Confidence.FACT, ("arithmetic", "transformers-code"))
def warmup_exceeds_run(train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """The warmup is as long as the whole run, so the learning rate is never reached.

    Why: a step count copied from a large recipe outlasts a small data set.
    Example:
        data: {examples: 1000}
        train: {num_train_epochs: 1.0, warmup_steps: 100}
    Instead:
        data: {examples: 1000}
        train: {num_train_epochs: 1.0, warmup_steps: 5}
    Evidence: arithmetic on steps.
    Known problems: a plain constant schedule ignores warmup and is reported by another rule.
    """
    steps = facts.optimizer_steps
    if steps is None or train.warmup_steps < steps or train.warmup_steps == 0 or train.lr_scheduler_type == "constant":
        return
    warmup = min(100, max(5, round(0.03 * steps)), steps // 5)
    yield Hit(
        f"warmup_steps is {train.warmup_steps} in a run of {steps}: the learning rate never reaches "
        f"{format_lr(train.learning_rate)}; set warmup_steps to {warmup}.",
        ("train.warmup_steps",),
        (Change("train.warmup_steps", warmup),),
        Severity.NOTE if steps <= SMOKE_TEST else None,
    )


@rule("warmup-long", "SCH702", Severity.WARNING, Confidence.CONVENTION, ("biderman-2024", "unsloth-guide"))
def warmup_long(train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """The warmup takes more than three tenths of the run.

    Why: recipes warm up over 3 to 10 %; the rest of a long warmup is training at too low a rate.
    Example:
        train: {warmup_steps: 400}
    Instead:
        train: {warmup_steps: 30}
    Evidence: published recipes.
    Known problems: harmless in long runs that end early.
    """
    steps = facts.optimizer_steps
    if steps is not None and train.lr_scheduler_type != "constant" and max(5, 0.3 * steps) < train.warmup_steps < steps:
        warmup = min(100, max(5, round(0.03 * steps)))
        yield Hit(
            f"{train.warmup_steps:,} of {steps:,} steps are warmup ({100 * train.warmup_steps / steps:.0f} %); 3 to 10 "
            f"% is usual: {warmup}.",
            ("train.warmup_steps",),
            (Change("train.warmup_steps", warmup),),
        )


@rule("high-rate-without-warmup", "SCH703", Severity.WARNING, Confidence.MEASURED, ("biderman-2024", "e2-metric"))
def high_rate_without_warmup(lora: LoraFacts, train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """A high learning rate starts without warmup.

    Why: Adam's first steps have the size of the rate whatever the gradient; at a high rate they throw the run off.
    Example:
        train: {learning_rate: 0.0007, warmup_steps: 0}
    Instead:
        train: {learning_rate: 0.0007, warmup_steps: 50}
    Evidence: loss spikes at lr * sqrt(alpha_eff) above 4e-3, and warmup of 10 % in that study.
    Known problems: the bound 3e-3 is interpolated. Where the rate itself diverges, a warmup does not save it.
    """
    value, steps = run_e2(lora, train), steps_of(facts)
    if train.warmup_steps == 0 and value is not None and value > 3e-3 and (steps is None or steps >= 10):
        warmup = min(100, max(5, round(0.05 * (steps or 1000))))
        yield Hit(
            f"A learning rate of {format_lr(train.learning_rate)} (lr * sqrt(alpha_eff) = {format_lr(value)}) starts "
            f"at full size: set warmup_steps to {warmup}.",
            ("train.learning_rate", "train.warmup_steps"),
            (Change("train.warmup_steps", min(warmup, (steps or 1000) // 5)),),
        )


@rule("warmup-ignored", "SCH704", Severity.WARNING, Confidence.FACT, ("transformers-code",))
def warmup_ignored(train: TrainFacts, config: Reading | None = None) -> Iterator[Hit]:
    """Warmup steps are set for a constant schedule, which ignores them.

    Why: transformers has two constant schedules, and only constant_with_warmup warms up.
    Example:
        train: {lr_scheduler_type: constant}
    Instead:
        train: {lr_scheduler_type: constant_with_warmup}
    Evidence: get_constant_schedule takes no warmup.
    Known problems: the change offered keeps the run as it is; for a warmup take constant_with_warmup.
    """
    if train.lr_scheduler_type != "constant":
        return
    share = config.value("warmup_ratio") if config is not None else None
    if share and config is not None and not config.value("warmup_steps"):
        yield Hit(
            f"The constant schedule ignores warmup_ratio {share}: remove it, or use constant_with_warmup.",
            ("config.warmup_ratio", "train.lr_scheduler_type"),
            rewrites=(Rewrite(config.written["warmup_ratio"], "remove warmup_ratio", drop=True, safe=True),),
        )
    elif train.warmup_steps > 0:
        yield Hit(
            f"The constant schedule ignores warmup_steps {train.warmup_steps}: remove it, or use constant_with_warmup.",
            ("train.warmup_steps", "train.lr_scheduler_type"),
            (Change("train.warmup_steps", 0, safe=True),),
        )


@rule("schedule-named-as-optimizer", "SCH705", Severity.ERROR, Confidence.FACT, ("transformers-code",))
def schedule_named_as_optimizer(train: TrainFacts) -> Iterator[Hit]:
    """The optimizer is the name of a schedule, or the schedule is none that transformers has.

    Why: transformers refuses both at the start.
    Example:
        train: {optim: cosine}
    Instead:
        train: {optim: adamw_torch}
    Evidence: OptimizerNames and SchedulerType.
    Known problems: a schedule that a later release of transformers adds is not known.
    """
    if train.optim in SCHEDULERS:
        yield Hit(
            f'optim is "{train.optim}", which is a schedule: set optim to adamw_torch and lr_scheduler_type to '
            f"{train.optim}.",
            ("train.optim",),
            (Change("train.optim", "adamw_torch"), Change("train.lr_scheduler_type", train.optim)),
        )
    if train.lr_scheduler_type not in SCHEDULERS:
        optimizer = "adam" in train.lr_scheduler_type or train.lr_scheduler_type in ("sgd", "lion", "adafactor")
        what = "an optimizer" if optimizer else "no schedule of transformers"
        yield Hit(
            f'lr_scheduler_type is "{train.lr_scheduler_type[:40]}", which is {what}: set it to cosine.',
            ("train.lr_scheduler_type",),
            (Change("train.lr_scheduler_type", "cosine"),),
        )


@rule("epochs-many", "SCH706", Severity.WARNING, Confidence.MEASURED, ("baseten-2026", "raschka-2023"))
def epochs_many(task: TaskFacts, train: TrainFacts, data: DataFacts, facts: Facts) -> Iterator[Hit]:
    """A supervised run passes more than five times over more than 1,000 examples.

    Why: held-out loss bottoms near two passes; further ones memorize and wear down what the model could do.
    Example:
        train: {num_train_epochs: 8.0}
    Instead:
        train: {num_train_epochs: 2.0}
    Evidence: minimum of held-out loss near two epochs; instruction following eroded up to eight; two epochs of Alpaca
        were
        worse than one.
    Known problems: long chains of thought are the exception and are not judged, nor are encoders. A judge's score may
        hold.
    """
    encoder = facts.model is not None and facts.model.kind in ("encoder", "encoder-decoder")
    if task.family not in ("sft", "classification") or task.name == "math" or encoder or train.max_steps:
        return
    if train.num_train_epochs > 5 and data.examples > 1000:
        yield Hit(
            f"{train.num_train_epochs:g} passes over {data.examples:,} examples: held-out loss bottoms near two; use 1 "
            "to 3 and keep the best checkpoint.",
            ("train.num_train_epochs",),
            (Change("train.num_train_epochs", 3.0),),
        )


@rule("epochs-on-large-data", "SCH707", Severity.NOTE, Confidence.CONVENTION, ("unsloth-guide", "baseten-2026"))
def epochs_on_large_data(task: TaskFacts, train: TrainFacts, data: DataFacts) -> Iterator[Hit]:
    """More than 100,000 examples are seen three times or more.

    Why: one or two passes over as much data usually reach the same place.
    Example:
        train: {num_train_epochs: 3.0}
        data: {examples: 200000}
    Instead:
        train: {num_train_epochs: 1.0}
        data: {examples: 200000}
    Evidence: 7 of 50 published recipes do it.
    Known problems: hard tasks may go on improving.
    """
    if task.family == "sft" and 3 <= train.num_train_epochs <= 5 and data.examples > 100_000 and not train.max_steps:
        yield Hit(
            f"{data.examples:,} examples seen {train.num_train_epochs:g} times: one or two passes are usually enough.",
            ("train.num_train_epochs",),
            (Change("train.num_train_epochs", 1.0),),
        )


@rule("pretraining-repeated", "SCH708", Severity.WARNING, Confidence.MEASURED, ("muennighoff-2023",))
def pretraining_repeated(task: TaskFacts, train: TrainFacts) -> Iterator[Hit]:
    """Pretraining text is repeated more than four times.

    Why: up to four passes count almost like new text, later ones hardly at all.
    Example:
        task: {name: continued-pretraining, family: pretraining}
        train: {num_train_epochs: 6.0, learning_rate: 0.0001, loss_on: all}
    Instead:
        task: {name: continued-pretraining, family: pretraining}
        train: {num_train_epochs: 2.0, learning_rate: 0.0001, loss_on: all}
    Evidence: scaling laws for repeated data.
    Known problems: shown for training from scratch.
    """
    if task.family == "pretraining" and train.num_train_epochs > 4 and not train.max_steps:
        yield Hit(
            f"The text is repeated {train.num_train_epochs:g} times; beyond four passes repeats hardly count: use 1 or "
            "2.",
            ("train.num_train_epochs",),
            (Change("train.num_train_epochs", 2.0),),
        )


@rule(
    "clipping-off-at-high-rate",
    "SCH709",
    Severity.WARNING,
    Confidence.CONVENTION,
    ("torchtune-recipes", "transformers-code"),
)
def clipping_off_at_high_rate(lora: LoraFacts, train: TrainFacts) -> Iterator[Hit]:
    """Gradients are not clipped although the learning rate is high.

    Why: one odd batch can then throw the run off.
    Example:
        train: {max_grad_norm: null, learning_rate: 0.0007}
    Instead:
        train: {max_grad_norm: 1.0, learning_rate: 0.0007}
    Evidence: the defaults of most trainers clip at 1.
    Known problems: 83 of 93 torchtune recipes do not clip, at ordinary rates.
    """
    value = run_e2(lora, train)
    if not train.max_grad_norm and value is not None and 3e-3 < value <= 6e-3:
        yield Hit(
            f"Gradients are not clipped at lr * sqrt(alpha_eff) = {format_lr(value)}: set max_grad_norm to 1.",
            ("train.max_grad_norm",),
            (Change("train.max_grad_norm", 1.0),),
        )


@rule(
    "projected-optimizer-on-adapter",
    "SCH710",
    Severity.WARNING,
    Confidence.FACT,
    ("transformers-code", "llamafactory-defaults"),
)
def projected_optimizer_on_adapter(lora: LoraFacts, train: TrainFacts, config: Reading | None = None) -> Iterator[Hit]:
    """An optimizer that saves memory in full fine-tuning is combined with an adapter.

    Why: GaLore, APOLLO and LOMO save the states of large matrices; an adapter has hardly any, and its matrices are
        already of
        low rank.
    Example:
        train: {optim: galore_adamw}
    Instead:
        train: {optim: adamw_torch}
    Evidence: two frameworks refuse the pair; transformers wants target modules that an adapter freezes.
    Known problems: none.
    """
    switch = next((name for name in _SWITCHES if config is not None and config.value(name) is True), None)
    refused = config is not None and config.dialect.name in ("llamafactory", "axolotl")
    if config is not None and switch is not None:
        does = f"{config.dialect.title} refuses it" if refused else "it has nothing to save there"
        yield Hit(
            f"{switch} saves the memory of training full matrices, and an adapter is trained: {does}. Leave {switch} out.",
            (f"config.{switch}",),
            (),
            Severity.ERROR if refused else None,
            rewrites=(Rewrite(config.written[switch], f"remove {switch}", drop=True),),
        )
    elif any(name in train.optim for name in ("galore", "apollo", "lomo")):
        yield Hit(
            f"{train.optim} saves optimizer memory of full matrices, which an adapter does not have: use adamw_torch.",
            ("train.optim",),
            (Change("train.optim", "adamw_torch"),),
            Severity.ERROR if refused and "galore" in train.optim else None,
        )


_SWITCHES = ("use_galore", "use_apollo", "use_badam")
"""Settings of LLaMA-Factory and ms-swift that put such an optimizer in the place of the named one."""


SCHEDULE_RULES = (
    warmup_exceeds_run, warmup_long, high_rate_without_warmup, warmup_ignored, schedule_named_as_optimizer, epochs_many,
    epochs_on_large_data, pretraining_repeated, clipping_off_at_high_rate, projected_optimizer_on_adapter,
)  # fmt: skip
