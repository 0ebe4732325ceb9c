"""Rules about evaluation, checkpoints and early stopping."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from lora_advise.facts import Facts, TaskFacts, TrainFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.unknown import UnknownFact


def steps_of(facts: Facts) -> int | None:
    """The optimizer steps of the run; None too where a part of them is not known, such as the number of devices."""
    try:
        return facts.optimizer_steps
    except UnknownFact:
        return None


@rule(
    "passes-without-evaluation",
    "SCH711",
    Severity.WARNING,
    Confidence.MEASURED,
    ("baseten-2026", "raschka-2023", "diagnosis-corpus"),
)
def passes_without_evaluation(
    task: TaskFacts, train: TrainFacts, facts: Facts, config: Reading | None = None
) -> Iterator[Hit]:
    """Two or more passes are made without a held-out evaluation.

    Why: training loss falls through overfitting; only held-out loss shows where to stop.
    Example:
        train: {eval_strategy: "no", load_best_model_at_end: false}
    Instead:
        train: {eval_strategy: epoch}
    Evidence: held-out loss has its minimum near two passes, and most labelled logs of overfitting show it in evaluation
        alone.
    Known problems: an evaluation outside the trainer is not visible here; of fewer than 5 examples none can be held out. Up
        to three passes are a note, and nothing where the file leaves them to the trainer's default; a run that max_steps ends
        is not judged by epochs.
    """
    if (
        task.family not in ("sft", "classification", "pretraining")
        or train.eval_strategy != "no"
        or train.num_train_epochs < 2
        or train.max_steps
        or (facts.data is not None and facts.data.examples < 5)
    ):
        return
    few = train.num_train_epochs <= 3 and facts.data is None
    if few and config is not None and "train.num_train_epochs" in config.inherited:
        return
    steps = steps_of(facts)
    every = max(1, steps // 8) if steps else None
    often = f"every {every} steps" if every else "after every pass"
    how = (
        (Change("train.eval_strategy", "steps"), Change("train.eval_steps", every))
        if every
        else (Change("train.eval_strategy", "epoch"),)
    )
    yield Hit(
        f"{train.num_train_epochs:g} passes without evaluation: overfitting would stay unseen. Hold out 5 % and evaluate {often}.",
        ("train.num_train_epochs", "train.eval_strategy"),
        (*how, Change("train.eval_share", 0.05)),
        Severity.NOTE if few else None,
    )


@rule("evaluation-without-rows", "SCH712", Severity.ERROR, Confidence.FACT, ("transformers-code",))
def evaluation_without_rows(train: TrainFacts, facts: Facts, config: Reading | None = None) -> Iterator[Hit]:
    """Evaluation is on, but nothing is held out.

    Why: the Trainer refuses to start without an evaluation set.
    Example:
        train: {eval_share: 0.0}
    Instead:
        train: {eval_share: 0.05}
    Evidence: the Trainer's check, and LLaMA-Factory's.
    Known problems: without knowing the data only LLaMA-Factory's files are judged, since they name every evaluation set.
    """
    silent = (
        config is not None
        and config.dialect.name == "llamafactory"
        and not (config.has("test_datasets") or config.has("tokenized_path"))
    )
    unnamed = not facts.data.eval_path if facts.data is not None else silent
    if train.eval_strategy != "no" and train.eval_share <= 0 and unnamed:
        yield Hit(
            f"eval_strategy is {train.eval_strategy}, but there is no evaluation file and eval_share is 0: hold out 5 "
            "%.",
            ("train.eval_share", "train.eval_strategy"),
            (Change("train.eval_share", 0.05),),
        )


@rule("best-checkpoint-not-saved", "SCH713", Severity.ERROR, Confidence.FACT, ("transformers-code",))
def best_checkpoint_not_saved(train: TrainFacts, config: Reading | None = None) -> Iterator[Hit]:
    """The best checkpoint is to be loaded at the end, but saving and evaluating do not coincide.

    Why: a checkpoint can only be the best if it was evaluated. TrainingArguments refuses anything else.
    Example:
        train: {eval_strategy: steps, save_strategy: steps, eval_steps: 100, save_steps: 150}
    Instead:
        train: {eval_strategy: steps, save_strategy: steps, eval_steps: 100, save_steps: 200}
    Evidence: the check in TrainingArguments.
    Known problems: save_strategy best brings its own rhythm; it wants a metric.
    """
    best = config is not None and str(config.value("train.save_strategy")).lower() == "best"
    if best and train.metric_for_best_model is None and not train.load_best_model_at_end:
        yield Hit(
            "save_strategy best keeps the best checkpoint by a metric, and none is named: set metric_for_best_model to eval_loss.",
            ("config.train.save_strategy", "train.metric_for_best_model"),
            (Change("train.metric_for_best_model", "eval_loss"),),
        )
    if not train.load_best_model_at_end:
        return
    if train.eval_strategy == "no":
        yield Hit(
            "load_best_model_at_end needs evaluation, and eval_strategy is no: turn one of them.",
            ("train.load_best_model_at_end", "train.eval_strategy"),
            (Change("train.load_best_model_at_end", False),),
        )
    elif not best and train.save_strategy != train.eval_strategy:
        yield Hit(
            f"load_best_model_at_end needs the same rhythm: eval_strategy is {train.eval_strategy}, save_strategy is "
            f"{train.save_strategy}.",
            ("train.save_strategy", "train.eval_strategy"),
            (Change("train.save_strategy", train.eval_strategy), Change("train.save_steps", train.eval_steps)),
        )
    elif (
        not best
        and train.eval_strategy == "steps"
        and train.eval_steps
        and train.save_steps
        and train.save_steps % train.eval_steps
    ):
        near = train.eval_steps * max(1, round(train.save_steps / train.eval_steps))
        yield Hit(
            f"save_steps {train.save_steps} is no multiple of eval_steps {train.eval_steps}, so the best model cannot "
            f"be kept: save every {near}.",
            ("train.save_steps", "train.eval_steps"),
            (Change("train.save_steps", near),),
        )


@rule("early-stopping-blind", "SCH714", Severity.ERROR, Confidence.FACT, ("transformers-code",))
def early_stopping_blind(train: TrainFacts) -> Iterator[Hit]:
    """Early stopping is on without an evaluation to stop by.

    Why: EarlyStoppingCallback asserts that there is an evaluation and a metric.
    Example:
        train: {early_stopping_patience: 3, eval_strategy: "no", load_best_model_at_end: false, num_train_epochs: 1.0}
    Instead:
        train: {early_stopping_patience: 3, metric_for_best_model: eval_loss, num_train_epochs: 1.0}
    Evidence: the callback's assertions.
    Known problems: none.
    """
    if train.early_stopping_patience is None:
        return
    if train.eval_strategy == "no":
        yield Hit(
            f"Early stopping after {train.early_stopping_patience} evaluations, but eval_strategy is no: the callback "
            "raises.",
            ("train.early_stopping_patience", "train.eval_strategy"),
            (Change("train.early_stopping_patience", None),),
        )
    elif train.metric_for_best_model is None and not train.load_best_model_at_end:
        yield Hit(
            "Early stopping needs metric_for_best_model: set it to eval_loss.",
            ("train.metric_for_best_model",),
            (Change("train.metric_for_best_model", "eval_loss"),),
        )


@rule("interval-beyond-run", "SCH715", Severity.WARNING, Confidence.FACT, ("arithmetic",))
def interval_beyond_run(train: TrainFacts, facts: Facts, config: Reading | None = None) -> Iterator[Hit]:
    """Evaluation or saving comes less than once in the run.

    Why: an interval longer than the run means that it never happens.
    Example:
        train: {save_strategy: steps, save_steps: 5000, load_best_model_at_end: false}
    Instead:
        train: {save_strategy: steps, save_steps: 100, load_best_model_at_end: false}
    Evidence: arithmetic on steps.
    Known problems: trainers save once more at the end, so in a file that is a note; an interval that a file leaves to the
        trainer's default is not reported.
    """
    steps = facts.optimizer_steps
    if steps is None:
        return
    for what, strategy, every in (
        ("eval_steps", train.eval_strategy, train.eval_steps),
        ("save_steps", train.save_strategy, train.save_steps),
    ):
        if config is not None and f"train.{what}" in config.inherited:
            continue
        if strategy == "steps" and every and every > steps:
            better = max(1, steps // 8)
            yield Hit(
                f"{what} is {every:,} in a run of {steps:,} steps, so it never comes: set it to {better}.",
                (f"train.{what}",),
                (Change(f"train.{what}", better),),
                Severity.NOTE if config is not None and what == "save_steps" else None,
            )


@rule(
    "checkpoint-every-few-steps", "SCH720", Severity.WARNING, Confidence.FACT, ("checkpoint-code", "checkpoint-reports")
)
def checkpoint_every_few_steps(config: Reading, train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """A checkpoint is written every few steps.

    Why: each one stops the training, and under ZeRO-3 every process gathers the whole model for it. Without a limit the disk
        fills too.
    Example:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: sft
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
            save_steps: 5
            bf16: true
    Instead:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: sft
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
            save_steps: 200
            bf16: true
    Evidence: one report of a run whose time went into saving, with save_steps 5 under ZeRO-3.
    Known problems: a run of 50 steps or less is a trial and is silent.
    """
    sharded = facts.stack is not None and _sharding(facts) == "zero3"
    if train.save_strategy != "steps" or not train.save_steps or train.save_steps > (10 if sharded else 5):
        return
    if "train.save_steps" in config.inherited or (steps_of(facts) or 51) <= 50:
        return
    yield Hit(
        f"A checkpoint every {train.save_steps} step{'s' if train.save_steps > 1 else ''}"
        f"{', for which ZeRO-3 gathers the whole model,' if sharded else ''} takes more time than the training between two: save every 100 "
        "to 500, and set save_total_limit.",
        ("train.save_steps",),
        (Change("train.save_steps", _with_evaluations(train, 200)),),
    )


def _with_evaluations(train: TrainFacts, steps: int) -> int:
    """The next multiple of the steps between evaluations, where the best checkpoint is to be loaded."""
    try:
        every = train.eval_steps if train.load_best_model_at_end and train.eval_strategy == "steps" else None
    except UnknownFact:
        return steps
    return max(1, every * ceil(steps / every)) if every else steps


def _sharding(facts: Facts) -> str:
    try:
        return facts.stack.sharding if facts.stack is not None else "none"
    except UnknownFact:
        return "none"


EVALUATION_RULES = (
    passes_without_evaluation,
    evaluation_without_rows,
    best_checkpoint_not_saved,
    early_stopping_blind,
    interval_beyond_run,
    checkpoint_every_few_steps,
)
