"""Our own plan files: the facts themselves, as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_advise.dialect import Dialect, Lens
from lora_advise.document import Config, Document
from lora_advise.errors import LoraAdviseError
from lora_advise.fact_types import HELD, held
from lora_advise.facts import Facts
from lora_advise.plan_layout import EVALUATION, SECTIONS, TOP_LEVEL
from lora_advise.reading import Reading
from lora_advise.section import field_types
from lora_advise.sheet import Sheet, dotted


def _lenses() -> tuple[Lens, ...]:
    """One for every field of every section, where it stands in the file."""
    found = []
    for title, (section, kind) in SECTIONS.items():
        for field in field_types(kind):
            owner = "evaluation" if title == "training" and field in EVALUATION else title
            found.append(Lens(f"{section}.{field}", f"{owner}.{field}"))
    return (*found, Lens("model", "model.name"))


def _recognise(config: Config) -> int:
    keys = {entry.path[0] for entry in config.entries if len(entry.path) == 1}
    ours = "version" in keys and "model" in keys and bool(keys & {"training", "lora"})
    return 2 * len(keys & set(TOP_LEVEL)) if config.shape == "mapping" and ours and keys <= set(TOP_LEVEL) else 0


PLAN = Dialect(
    name="plan", title="lora-advise", framework="trl", lenses=_lenses(), steps=(), defaults={}, known=frozenset(TOP_LEVEL),
    recognise=_recognise, strict=True, newest="lora-advise plan",
)  # fmt: skip


def read_plan_document(document: Document, config: Config, given: Mapping[str, Any]) -> Reading:
    """The reading of a plan file: its facts are what it says.

    Raises LoraAdviseError with the line for whatever is no plan.
    """
    from lora_advise.plan_file import read_plan

    text = document.text if "\n" in document.text else document.text + "\n"
    try:
        facts = read_plan(text).facts
    except LoraAdviseError as error:
        raise LoraAdviseError(f"{document.name}{str(error).removeprefix('plan')}") from None
    sheet = Sheet(PLAN, config)
    _held(facts, sheet, document.name)
    facts = facts.changed({name: given[name] for name in ("model", "data", "hardware", "task") if given.get(name)})
    places = {
        **{dotted(entry.path): (entry,) for entry in config.entries},
        **{name: (entry,) for name, entry in sheet.written.items()},
    }
    return Reading(PLAN, config, facts, places, {}, sheet.written, (), (), (), ())


def _held(facts: Facts, sheet: Sheet, name: str) -> None:
    """Raises LoraAdviseError for a number that no trainer can hold: rules and forecasts could not calculate with it."""
    for section in ("lora", "train", "data", "hardware"):
        whole = getattr(facts, section)
        for field in field_types(type(whole)) if whole is not None else ():
            value, entry = getattr(whole, field), sheet.written.get(f"{section}.{field}")
            if entry is not None and isinstance(value, (int, float)) and not held(value):
                raise LoraAdviseError(f"{name} line {entry.span.line}: {dotted(entry.path)} should be {HELD}.")
