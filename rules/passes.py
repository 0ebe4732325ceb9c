"""Rules about how long a run is: passes over the data, steps, warmup in the wrong unit, how often it saves."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import DataFacts, Facts, LoraFacts, TrainFacts
from lora_advise.finding import Change, Confidence, Hit, Rewrite, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.scale import speaks_of_rewards
from lora_advise.unknown import UnknownFact

MOST_PASSES = 5
"""Over more than that held-out loss has risen in every measured supervised run (baseten-2026)."""
MOST_PRETRAINING_PASSES = 4


@rule(
    "epochs-many-on-little-data",
    "SCH716",
    Severity.WARNING,
    Confidence.MEASURED,
    ("baseten-2026", "diagnosis-corpus", "raschka-2023"),
)
def epochs_many_on_little_data(
    lora: LoraFacts, train: TrainFacts, facts: Facts, config: Reading | None = None
) -> Iterator[Hit]:
    """A supervised run passes so often over its data that it learns them by heart.

    Why: a small set is known after a few passes. What follows makes the model repeat it, and forget what it could do.
    Example:
        data: {examples: 400}
        train: {num_train_epochs: 15.0, load_best_model_at_end: false, warmup_steps: 5}
        hardware: null
    Instead:
        data: {examples: 400}
        train: {num_train_epochs: 4.0, load_best_model_at_end: false, warmup_steps: 5}
        hardware: null
    Evidence: held-out loss bottoms near two passes; of labelled logs of overfitting most have many passes over few examples.
    Known problems: a set that is to be known by heart, such as a name, takes 10 to 15, so without data the bound is 20. With
        evaluation and the best checkpoint kept nothing is said, nor for encoders, vision, preference or RL.
    """
    if not _is_supervised(facts, config) or train.max_steps or _keeps_the_best(train):
        return
    rows = facts.data.examples if facts.data is not None else None
    if rows is not None and rows > 1000:
        return
    if train.num_train_epochs < (20 if rows is None else 10):
        return
    over = "" if rows is None else f" over {rows:,} examples"
    yield Hit(
        f"{train.num_train_epochs:g} passes{over}: the model learns the examples by heart and forgets other things. Take 3 to 5, or "
        "evaluate on held-out examples and keep the best checkpoint.",
        ("train.num_train_epochs",),
        (Change("train.num_train_epochs", 4.0),),
    )


def _is_supervised(facts: Facts, config: Reading | None) -> bool:
    """Whether the run is one of supervised training, as far as is known; programs say their task, other files may not."""
    if facts.model is not None and (facts.model.kind in ("encoder", "encoder-decoder") or facts.model.has_audio):
        return False
    if facts.task is not None:
        return facts.task.family == "sft"
    return config is not None and config.config.shape != "calls" and not speaks_of_rewards(config)


def _keeps_the_best(train: TrainFacts) -> bool:
    try:
        stops = train.early_stopping_patience is not None
    except UnknownFact:
        stops = False
    try:
        return train.eval_strategy != "no" and (train.load_best_model_at_end or stops)
    except UnknownFact:
        return False


@rule("max-steps-hide-passes", "SCH717", Severity.WARNING, Confidence.FACT, ("arithmetic", "baseten-2026"))
def max_steps_hide_passes(train: TrainFacts, data: DataFacts, facts: Facts) -> Iterator[Hit]:
    """A number of steps makes many passes over the data, and no setting shows it.

    Why: max_steps decides, whatever the epochs are. Copied from a larger data set it repeats a small one again and again.
    Example:
        data: {examples: 1000}
        train: {max_steps: 1000, load_best_model_at_end: false}
    Instead:
        data: {examples: 1000}
        train: {max_steps: 120, warmup_steps: 5, load_best_model_at_end: false}
    Evidence: arithmetic: steps * effective batch / rows; held-out loss bottoms near two passes, and beyond four repeats of
        pretraining text hardly count.
    Known problems: packed rows hold several examples, so where nobody says whether rows are packed, examples are counted.
        Preference optimization and RL are not judged.
    """
    family = facts.task.family if facts.task is not None else "sft"
    batch = facts.effective_batch
    if not train.max_steps or family not in ("sft", "classification", "pretraining") or batch is None:
        return
    try:
        rows = facts.sequences or data.examples
    except UnknownFact:
        rows = data.examples
    most = MOST_PRETRAINING_PASSES if family == "pretraining" else MOST_PASSES
    passes = train.max_steps * batch / rows
    if passes <= most or _keeps_the_best(train):
        return
    steps = max(1, round(3 * rows / batch))
    yield Hit(
        f"max_steps {train.max_steps:,} at a batch of {batch} makes {passes:.0f} passes over {rows:,} rows, whatever the epochs say: three "
        f"passes are {steps:,} steps.",
        ("train.max_steps",),
        (Change("train.max_steps", steps),),
    )


@rule("warmup-unit-mistaken", "SCH718", Severity.WARNING, Confidence.FACT, ("transformers-history", "trainer-code"))
def warmup_unit_mistaken(config: Reading) -> Iterator[Hit]:
    """A share stands where steps of warmup are counted, or a count where a share is.

    Why: 0.1 steps are none to a trainer that counts, and a ratio of 100 is refused or makes the whole run a warmup.
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
            warmup_steps: 0.1
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
            warmup_ratio: 0.1
            bf16: true
    Evidence: transformers 5 reads warmup_steps below 1 as a share of the run; 4 takes a whole number; ms-swift and Unsloth
        refuse a ratio of 1 or more.
    Known problems: with transformers 5, which has no warmup_ratio any more, the share is right: in TRL, which needs it, and
        with a stated version from 5 on nothing is said; in Axolotl, which ships such a file, it is a note.
    """
    steps, ratio = config.value("warmup_steps"), config.value("warmup_ratio")
    if isinstance(steps, (int, float)) and not isinstance(steps, bool) and 0 < steps < 1 and not _counts_shares(config):
        entry = config.written["warmup_steps"]
        known = config.dialect.name in ("llamafactory", "axolotl", "ms-swift") and not config.has("warmup_ratio")
        yield Hit(
            f"warmup_steps is {steps:g}: transformers 5 takes that for a share of the run, 4 for no warmup, or it stops. Write "
            f"warmup_ratio {steps:g}, or a number of steps.",
            ("config.warmup_steps",),
            severity=Severity.NOTE if config.dialect.name == "axolotl" else None,
            rewrites=(Rewrite(entry, "rename warmup_steps to warmup_ratio", key="warmup_ratio"),)
            if known and entry.key
            else (),
        )
    if isinstance(ratio, (int, float)) and not isinstance(ratio, bool) and ratio >= 1:
        refused = config.dialect.name in ("ms-swift", "megatron-swift", "unsloth-studio")
        yield Hit(
            f"warmup_ratio is {ratio:g}, and a ratio is below 1: {'it is refused' if refused else 'the whole run would be a warmup'}. Write "
            f"warmup_steps {ratio:g} if steps are meant.",
            ("config.warmup_ratio",),
            severity=Severity.ERROR if refused else None,
        )


def _counts_shares(config: Reading) -> bool:
    """Whether the trainer is known to read a number of steps below 1 as a share."""
    version = config.versions.get("transformers", "").partition(".")[0]
    if version.isdecimal():
        return int(version) >= 5
    return config.dialect.name in ("trl", "hf", "unsloth", "plan")


@rule("run-without-length", "SCH719", Severity.ERROR, Confidence.FACT, ("trainer-code", "transformers-code"))
def run_without_length(config: Reading, train: TrainFacts) -> Iterator[Hit]:
    """Data are streamed and no number of steps is given, or neither epochs nor steps are.

    Why: nobody knows how long a stream is, so the schedule cannot be laid out and the trainer stops.
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
            streaming: true
            bf16: true
    Instead:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: sft
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 1024
            max_steps: 1000
            learning_rate: 3.0e-4
            streaming: true
            bf16: true
    Evidence: the checks of Axolotl, LLaMA-Factory, ms-swift and transformers.
    Known problems: a program's stream is not seen.
    """
    if config.config.shape == "calls" or config.dialect.name not in (
        "axolotl",
        "llamafactory",
        "ms-swift",
        "trl",
        "hf",
    ):
        return
    if train.max_steps or (config.dialect.name == "ms-swift" and config.has("max_epochs")):
        return
    stream = next((key for key in ("streaming", "pretraining_dataset") if _is_set(config, key)), None)
    if stream == "pretraining_dataset" and _is_false(config, "streaming"):
        stream = None
    if stream is not None:
        yield Hit(
            f"{stream} is set and max_steps is not: a stream has no known length, and {config.dialect.title} stops. Set max_steps.",
            (f"config.{stream}", "config.max_steps"),
        )
    elif train.num_train_epochs == 0:
        yield Hit(
            "Neither epochs nor max_steps are above 0, so there is nothing to train: set one of them.",
            ("train.num_train_epochs", "config.max_steps"),
        )


def _is_set(config: Reading, key: str) -> bool:
    entry = config.config.get(key)
    return entry is not None and str(entry.value).lower() not in ("none", "false", "0", "", "()")


def _is_false(config: Reading, key: str) -> bool:
    entry = config.config.get(key)
    return entry is not None and str(entry.value).lower() == "false"


PASS_RULES = (epochs_many_on_little_data, max_steps_hide_passes, warmup_unit_mistaken, run_without_length)
