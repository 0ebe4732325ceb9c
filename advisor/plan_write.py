"""Writes a plan file that teaches: every choice with its reason, its sources and what else to try."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from textwrap import wrap
from typing import Any

from lora_advise.facts import Facts, Origin, QuantFacts
from lora_advise.plan import Decision, Plan
from lora_advise.plan_layout import EVALUATION, SECTIONS, TITLES
from lora_advise.plan_yaml import scalar
from lora_advise.report_words import amount, plain, sweep_words, worded
from lora_advise.section import Section

COLUMNS = 100
_ABOVE = {"effective_batch": "train.per_device_train_batch_size"}
"""Decisions on a derived value stand above the first field that makes it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the file with the comment above it."""

    comments: tuple[str, ...]
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Block:
    """One section of the file; without entries it is null."""

    title: str
    key: str
    comments: tuple[str, ...]
    entries: tuple[Entry, ...]


def plan_text(plan: Plan, decisions: tuple[Decision, ...]) -> str:
    """The plan as YAML text for people; ``read_plan`` gives exactly this plan back."""
    from lora_advise.report_template import environment

    template = environment(autoescape=False).get_template("plan.yaml.j2")
    known = {_ABOVE.get(d.field, d.field): d for d in decisions if d.field not in _ABOVE}
    batch = {_ABOVE[d.field]: d for d in decisions if d.field in _ABOVE}
    blocks = [_model(plan.facts)]
    for title, (name, _) in SECTIONS.items():
        blocks.extend(_section(title, name, getattr(plan.facts, name), known, batch))
    summary = [
        line for d in decisions if d.topic in ("purpose", "next") for line in _because(d, lead=f"{d.label}: {d.shown}.")
    ]
    return template.render(
        plan=plan, blocks=[block for block in blocks if block], summary=summary,
        name=plain(plan.facts.model.name) if plan.facts.model else "a model",
        overrides=[_override(o.field, o.value, o.because) for o in plan.overrides],
        origins=_origins(plan.origins), scalar=scalar,
    )  # fmt: skip


def _model(facts: Facts) -> Block:
    model = facts.model
    if model is None:
        return Block(TITLES["model"], "model", (), ())
    size = f"{amount(model.total_params)} parameters"
    if model.active_params != model.total_params:
        size += f", {amount(model.active_params)} active"
    words = (
        f"{size}; {model.kind}, {model.num_hidden_layers} layers, hidden size {model.hidden_size}, "
        f"vocabulary {model.vocab_size:,}"
    )
    if model.license:
        words += f"; licence {model.license}"
    given = {"name": model.name, "asked": model.asked, "path": model.path}
    entries = tuple(Entry((), key, scalar(value)) for key, value in given.items() if value is not None)
    return Block(TITLES["model"], "model", comment(words + "."), entries)


def _section(
    title: str, name: str, section: Section | None, known: dict[str, Decision], batch: dict[str, Decision]
) -> list[Block]:
    """One block, or two for the training facts; comments stand above the fields that they explain."""
    head = _because(known["method"], lead=known["method"].shown + ".") if title == "lora" and "method" in known else ()
    if section is None:
        return [Block(TITLES[title], title, head, ())]
    if section == QuantFacts():
        return [Block(TITLES[title], title, head, (Entry((), "load_in_4bit", scalar(False)),))]
    entries: dict[str, Entry] = {}
    for info in fields(section):  # type: ignore[arg-type]
        key = info.name
        value, path = getattr(section, key), f"{name}.{key}"
        idle = value == info.default and value in (None, (), {}, False)
        empty = info.default_factory is not MISSING and not value
        if (idle or empty) and path not in known:
            continue
        notes = _because(batch[path], lead=f"{batch[path].label} {batch[path].shown}.") if path in batch else ()
        notes += _because(known[path]) if path in known else ()
        entries[key] = Entry(notes, key, scalar(value))
    if title != "training":
        return [Block(TITLES[title], title, head, tuple(entries.values()))]
    first = tuple(entry for key, entry in entries.items() if key not in EVALUATION)
    second = tuple(entries[key] for key in EVALUATION if key in entries)
    return [Block(TITLES[title], title, head, first), Block(TITLES["evaluation"], "evaluation", (), second)]


def _because(decision: Decision, lead: str = "") -> tuple[str, ...]:
    words = [lead, decision.because]
    if decision.sweep:
        words.append(f"Try also: {sweep_words(decision.field, decision.sweep)}.")
    if decision.overridden:
        reason = f": {decision.override_reason}" if decision.override_reason else ""
        words.append(f"Your choice{reason}; we would take {worded(decision.advised)}.")
    words.append(" ".join(f"[{name}]" for name in decision.sources))
    return comment(" ".join(word for word in words if word))


def comment(words: str) -> tuple[str, ...]:
    """Comment lines of bounded width; no character in the words can end the comment."""
    return tuple(
        f"# {line}" for line in wrap(plain(words), COLUMNS - 4, break_long_words=False, break_on_hyphens=False)
    )


def _override(field: str, value: Any, because: str | None) -> dict[str, str]:
    row = {"field": scalar(field), "value": scalar(value)}
    return row if because is None else {**row, "because": scalar(because)}


def _origins(origins: dict[str, Origin]) -> dict[str, str]:
    """Fields by origin, in the order in which the plan names them."""
    grouped: dict[str, list[str]] = {}
    for field, origin in origins.items():
        grouped.setdefault(origin.value, []).append(field)
    return {origin: scalar(fields) for origin, fields in grouped.items()}
