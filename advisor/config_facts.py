"""The facts of one run out of any file that is read: for ``memory`` and ``diff``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora_advise.errors import LoraAdviseError
from lora_advise.reading import Reading
from lora_advise.unknown import UnknownFact

FLAGS = {"model": "--model", "hardware": "--gpu", "task": "--task", "data": "--data or --examples"}
"""What supplies a section that a file does not have."""


def reading_of(
    path: str | Path,
    given: Mapping[str, Any] | None = None,
    dialect: str | None = None,
    versions: Mapping[str, str] | None = None,
) -> Reading:
    """The first run of that file that trains. Raises LoraAdviseError where no trainer's run is in it."""
    from lora_advise.document_read import read_document
    from lora_advise.lint_files import Wanted, readings_of

    found = readings_of(read_document(path), Wanted(dialect, versions or {}, given or {}))
    for _, reading in found:
        if reading.facts.train is not None:
            return reading
    what = "no settings of a training run" if found else "no trainer's settings"
    raise LoraAdviseError(f"{path}: {what} in it; name a plan or a config that trains, or force one with --dialect.")


@contextmanager
def known_facts(path: str | Path) -> Iterator[None]:
    """What is computed inside needs facts; one that the file leaves open ends in one sentence that names it."""
    try:
        yield
    except UnknownFact as gap:
        section, _, field = gap.field.partition(".")
        flag = FLAGS.get(section, f"--set {gap.field}=VALUE")
        raise LoraAdviseError(f"{path}: {field or section} is not known from the file; give {flag}.") from None
