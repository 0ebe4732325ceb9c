"""Rules about rows that should not be there, and purposes that data cannot serve."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import DataFacts, TaskFacts
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.rule import rule


@rule("rows-duplicated", "DAT611", Severity.WARNING, Confidence.MEASURED, ("diagnosis-corpus",))
def rows_duplicated(data: DataFacts) -> Iterator[Hit]:
    """More than a tenth of the examples are duplicates.

    Why: a random split puts copies on both sides, so held-out loss falls while the model memorizes.
    Example:
        data: {duplicates: 1500}
    Instead:
        data: {duplicates: 0}
    Evidence: labelled training logs in which duplicates made evaluation look perfect.
    Known problems: short answers repeat by nature; whole examples seldom do.
    """
    if data.duplicates and data.duplicates > 0.1 * data.examples:
        yield Hit(
            f"{data.duplicates:,} of {data.examples:,} examples ({100 * data.duplicates / data.examples:.0f} %) are "
            "duplicates, so held-out loss will flatter: remove them before splitting.",
            ("data.duplicates",),
        )


@rule("rows-empty", "DAT612", Severity.WARNING, Confidence.FACT, ("arithmetic",))
def rows_empty(data: DataFacts) -> Iterator[Hit]:
    """More than one example in a hundred has no answer.

    Why: an empty answer teaches the model to stop at once.
    Example:
        data: {empty: 200}
    Instead:
        data: {empty: 0}
    Evidence: the only supervised token of such a row is the end of the turn.
    Known problems: refusing by silence may be wanted.
    """
    if data.empty and data.empty > 0.01 * data.examples:
        yield Hit(
            f"{data.empty:,} of {data.examples:,} examples have an empty answer, which teaches to stop at once: remove "
            "them.",
            ("data.empty",),
        )


@rule("facts-by-few-examples", "DAT613", Severity.WARNING, Confidence.CONVENTION, ("gekhman-2024", "new-facts-2025"))
def facts_by_few_examples(task: TaskFacts, data: DataFacts) -> Iterator[Hit]:
    """New knowledge is to be taught with fewer than 1,000 examples.

    Why: facts that a model does not know are learned slowly and make it invent others; retrieval gives them without
        training.
    Example:
        task: {name: knowledge-injection}
        data: {examples: 800}
        train: {warmup_steps: 5}
    Instead:
        task: {name: knowledge-injection}
        data: {examples: 4000}
    Evidence: two studies of fine-tuning on unknown facts.
    Known problems: many paraphrases of few facts behave better than their number says.
    """
    if task.name == "knowledge-injection" and data.examples < 1000:
        yield Hit(
            f"{data.examples} examples teach new facts slowly and invite invention: consider retrieval, or many "
            "paraphrases mixed with 10 to 50 % general data.",
            ("data.examples",),
        )


DATA_QUALITY_RULES = (rows_duplicated, rows_empty, facts_by_few_examples)
