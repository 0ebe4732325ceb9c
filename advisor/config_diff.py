"""``lora-advise diff A B``: what changed between two configs in effective terms, whoever's files they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from lora_advise.config_facts import reading_of
from lora_advise.facts import GIB, Facts
from lora_advise.rates import format_lr, run_e2
from lora_advise.reading import Reading
from lora_advise.section import Section, field_types, to_data
from lora_advise.unknown import UnknownFact

UNKNOWN = "not known"


class DiffRow(NamedTuple):
    """One quantity that differs."""

    name: str
    first: str
    second: str
    origins: tuple[str, str] = ("", "")
    """Who sets it: ``line 12``, ``Axolotl's default``."""


class Difference(NamedTuple):
    """What two configs differ in."""

    first: str
    second: str
    dialects: tuple[str, str]
    rows: tuple[DiffRow, ...]
    same: int
    """Quantities that were compared and are equal."""
    unknown: tuple[str, ...]
    """Quantities that neither file settles."""


def compare(first: str, second: str, given: Mapping[str, Any] | None = None) -> Difference:
    """Compare two files. Raises LoraAdviseError where one of them has no run."""
    a, b = reading_of(first, given), reading_of(second, given)
    rows, same, unknown = [], 0, []
    for name, look, origin in (*_derived(), *_plain()):
        left, right = _value(look, a.facts), _value(look, b.facts)
        if left == right:
            same += left != UNKNOWN
            if left == UNKNOWN:
                unknown.append(name)
        else:
            rows.append(DiffRow(name, left, right, (_origin(a, origin), _origin(b, origin))))
    return Difference(first, second, (a.dialect.name, b.dialect.name), tuple(rows), same, tuple(unknown))


Look = Callable[[Facts], Any]


def _derived() -> Iterator[tuple[str, Look, str]]:
    """What the settings come to."""
    yield "method", lambda f: f.method, "quant.load_in_4bit"
    yield "model", lambda f: f.model.name if f.model else UNKNOWN, "model"
    yield "effective batch", lambda f: f.effective_batch, "train.per_device_train_batch_size"
    yield (
        "optimizer steps",
        lambda f: UNKNOWN if f.optimizer_steps is None else f.optimizer_steps,
        "train.num_train_epochs",
    )
    yield "scale of the adapter", lambda f: f"{f.lora.scale:.4g}" if f.lora else "no adapter", "lora.lora_alpha"
    yield "learning rate times sqrt(alpha_eff)", _e2, "train.learning_rate"
    yield "trained parameters", _trained, "lora.r"
    yield "peak memory of tensors", _peak, "train.max_length"


def _e2(facts: Facts) -> str:
    value = run_e2(facts.lora, facts.train) if facts.lora and facts.train else None
    return UNKNOWN if value is None else format_lr(value)


def _trained(facts: Facts) -> str:
    from lora_advise.adapters import lora_params

    if facts.model is None:
        return UNKNOWN
    return f"{lora_params(facts.model, facts.lora) if facts.lora else facts.model.total_params:,}"


def _peak(facts: Facts) -> str:
    from lora_advise.memory import estimate

    if facts.model is None or facts.train is None:
        return UNKNOWN
    return f"{estimate(facts).allocated / GIB:.2f} GiB"


def _plain() -> Iterator[tuple[str, Look, str]]:
    """Every field of the sections that make a run."""
    from lora_advise.facts import LoraFacts, QuantFacts, StackFacts, TrainFacts

    kinds: dict[str, type[Section]] = {"lora": LoraFacts, "quant": QuantFacts, "train": TrainFacts, "stack": StackFacts}
    for section, kind in kinds.items():
        for field in field_types(kind):
            if field != "versions":
                yield f"{section}.{field}", _reader(section, field), f"{section}.{field}"


def _reader(section: str, field: str) -> Look:
    def look(facts: Facts) -> Any:
        owner = getattr(facts, section)
        if (
            section == "quant"
            and owner is not None
            and not (owner.load_in_4bit or owner.load_in_8bit)
            and "load" not in field
        ):
            return "no quantization"
        return "none" if owner is None else getattr(owner, field)

    return look


def _value(look: Look, facts: Facts) -> str:
    from lora_advise.errors import LoraAdviseError

    try:
        value = look(facts)
    except (UnknownFact, LoraAdviseError):
        return UNKNOWN
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (tuple, list)):
        return ", ".join(sorted(map(str, value))) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _origin(reading: Reading, fact: str) -> str:
    if fact in reading.places:
        return f"line {reading.places[fact][0].span.line}"
    return reading.inherited.get(fact, "")


def render(found: Difference, form: str) -> str:
    """The comparison as text, Markdown or JSON."""
    if form == "json":
        import json

        rows = [{"name": r.name, "first": r.first, "second": r.second, "origins": list(r.origins)} for r in found.rows]
        return json.dumps(to_data({"version": 1, **found._asdict(), "rows": rows}), indent=2, ensure_ascii=False) + "\n"
    if form == "markdown":
        return _markdown(found)
    return _text(found)


def _summary(found: Difference) -> str:
    unknown = f"; {len(found.unknown)} known from neither file" if found.unknown else ""
    if not found.rows:
        return f"The same run: {found.same} quantities agree{unknown}."
    count = len(found.rows)
    return f"{count} {'quantity differs' if count == 1 else 'quantities differ'}, {found.same} agree{unknown}."


def _markdown(found: Difference) -> str:
    from lora_advise.lint_markdown import cell

    lines = [f"| | {cell(found.first)} | {cell(found.second)} |", "|---|---|---|"]
    lines += [
        f"| {r.name} | {_both(cell(r.first), r.origins[0])} | {_both(cell(r.second), r.origins[1])} |"
        for r in found.rows
    ]
    return "\n".join([*(lines if found.rows else []), "", _summary(found)]).lstrip("\n") + "\n"


def _both(value: str, origin: str) -> str:
    return f"{value} ({origin})" if origin else value


def _text(found: Difference) -> str:
    from lora_advise.report_words import plain

    head = f"{plain(found.first)} ({found.dialects[0]}) -> {plain(found.second)} ({found.dialects[1]})"
    lines = [head, ""]
    for row in found.rows:
        lines.append(row.name)
        lines += [f"  - {_both(plain(row.first), row.origins[0])}", f"  + {_both(plain(row.second), row.origins[1])}"]
    return "\n".join([*lines, *([""] if found.rows else []), _summary(found)]) + "\n"
