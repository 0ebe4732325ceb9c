"""Looks at a training file: format, number of examples, lengths in estimated tokens, duplicates, labels."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from math import ceil

from lora_advise.data_format import Example, Format, Row, UnfitRowError, detect, example
from lora_advise.data_reader import read_rows, shown, shown_path
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import DataFacts

_KNOWN = (
    "messages | conversations | instruction + output | prompt + completion | text | chosen + rejected | "
    "prompt + completion + label (true or false) | text + label"
)


@dataclass(slots=True)
class _Tally:
    """Running totals over the rows, in tokens."""

    total: float = 0.0
    completion: float = 0.0
    empty: int = 0
    lengths: array[int] = field(default_factory=lambda: array("L"))
    keys: set[int] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)

    def add(self, one: Example | None) -> None:
        """Count one row; None is a row without an answer."""
        if one is None:
            self.empty += 1
            return
        self.total += one.sizes.total
        self.completion += one.sizes.completion
        self.lengths.append(ceil(one.sizes.longest))
        self.keys.add(one.key)
        if one.label is not None:
            self.labels.add(one.label)


def probe_data(path: str, eval_path: str | None, task: str) -> DataFacts:
    """What is known of the data after one pass over the file; ``examples`` counts the rows that can be trained on.

    Tokens are estimated by script (source token-estimate); the 99th percentile and the maximum are of whole sequences.
    Raises LoraAdviseError with file and line for what cannot be read, and where the evaluation file has another format.
    """
    found: Format | None = None
    tally = _Tally()
    for place, row in read_rows(path):
        if found is None:
            found = _format(path, place, row, task)
        tally.add(_example(path, place, row, found))
    if not tally.lengths:
        raise LoraAdviseError(f"{shown_path(path)}: {_nothing(found, tally.empty)}.")
    if eval_path is not None:
        _check_evaluation(eval_path, task, path, found)
    count, ordered = len(tally.lengths), sorted(tally.lengths)
    mean = max(1, round(tally.total / count))
    return DataFacts(
        path=path, eval_path=eval_path, format=found, examples=count, tokens_per_example=mean,
        completion_tokens=min(mean, max(0 if found == "prompt" else 1, round(tally.completion / count))),
        p99_tokens=max(1, ordered[ceil(0.99 * count) - 1]), max_tokens=max(1, ordered[-1]),
        labels=len(tally.labels) or None, duplicates=count - len(tally.keys), empty=tally.empty, tokens_estimated=True,
    )  # fmt: skip


def _nothing(found: Format | None, empty: int) -> str:
    """Why no row can be trained on."""
    if not empty:
        return "holds no rows"
    if found in ("messages", "sharegpt"):
        return f"none of its {empty:,} conversations has an assistant's turn with text, so there is no answer to learn"
    if found in ("text", "prompt"):
        return f"every one of its {empty:,} rows is empty"
    return f"every one of its {empty:,} rows lacks an answer, so there is nothing to learn"


def _format(path: str, place: str, row: Row, task: str) -> Format:
    found = detect(row, task)
    if found is None:
        names = ", ".join(shown(name, 40) for name in list(row)[:8]) or "none"
        raise LoraAdviseError(
            f"{shown_path(path)}, {place}: the fields {names} are of no known format; rename them to one of: {_KNOWN}."
        )
    return found


def _example(path: str, place: str, row: Row, found: Format) -> Example | None:
    try:
        return example(row, found)
    except (UnfitRowError, RecursionError) as error:
        reason = str(error) if isinstance(error, UnfitRowError) else "it is nested too deeply"
        raise LoraAdviseError(
            f"{shown_path(path)}, {place}: is not {found} data like the first row: {reason}."
        ) from error


def _check_evaluation(eval_path: str, task: str, path: str, found: Format | None) -> None:
    """The evaluation file can be opened, and its first row has the format of the training file."""
    place, row = next(read_rows(eval_path), ("row 1", {}))
    other = _format(eval_path, place, row, task)
    if other != found:
        raise LoraAdviseError(
            f"{shown_path(eval_path)}: holds {other} data, and {shown_path(path)} {found} data; "
            "evaluate on the format that is trained."
        )
