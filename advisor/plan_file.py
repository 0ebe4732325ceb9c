"""The plan file: what ``--emit`` writes and ``run``, ``lint`` and ``diagnose`` read."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts, ModelFacts, Origin
from lora_advise.plan import PLAN_VERSION, Decision, Override, Plan
from lora_advise.plan_layout import EVALUATION, SECTIONS, TOP_LEVEL, PlanModel
from lora_advise.plan_yaml import MAX_BYTES, Tree, parse
from lora_advise.report_words import plain
from lora_advise.section import field_types

Resolve = Callable[[str], tuple[ModelFacts, tuple[str, ...]]]


def write_plan(plan: Plan, decisions: tuple[Decision, ...] = ()) -> str:
    """The plan as YAML text with a comment per decision; ``read_plan`` of it gives the same plan.

    Raises LoraAdviseError for a value that YAML cannot hold exactly (an infinite number).
    """
    from lora_advise.plan_write import plan_text

    return plan_text(plan, decisions)


def read_plan(text_or_path: str | Path, resolve: Resolve | None = None) -> Plan:
    """The plan of a file, or of YAML text (any string with a line break). At most 1 MiB is read.

    ``resolve`` finds the model by name or path; the catalogue does when it is not given.
    Raises LoraAdviseError with the line for every key, type or value that is not right.
    """
    text, name = _source(text_or_path)
    tree = parse(text, name)
    content = tree.value
    if not isinstance(content, dict) or not content:
        raise LoraAdviseError(f"{name}: no plan in it; lora-advise --emit FILE writes one.")
    _known_keys(content, TOP_LEVEL, (), tree, name)
    _version(content.get("version", PLAN_VERSION), tree, name)
    model = _model(content.get("model"), tree, name, resolve)
    facts = Facts(model=model, **_sections(content, tree, name))
    rest: dict[str, Any] = {"profile": content["profile"]} if content.get("profile") is not None else {}
    overrides = _overrides(content.get("overrides"), tree, name)
    made: Plan = _checked(Plan, {"facts": Facts(), **rest}, ("profile",), tree, name)
    return made.changed(
        {"facts": facts, "overrides": overrides, "origins": _origins(content.get("origins"), tree, name)}
    )


def _source(text_or_path: str | Path) -> tuple[str, str]:
    if isinstance(text_or_path, str) and "\n" in text_or_path:
        if len(text_or_path) > MAX_BYTES:
            raise LoraAdviseError("The plan text is larger than 1 MiB; a plan has a few kilobytes.")
        return text_or_path, "plan"
    name = plain(text_or_path)[:200]
    try:
        with Path(text_or_path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a path"
        raise LoraAdviseError(f"{name}: cannot read it: {why}; name a file that lora-advise --emit wrote.") from None
    if len(raw) > MAX_BYTES:
        raise LoraAdviseError(f"{name}: larger than 1 MiB; a plan has a few kilobytes.")
    try:
        return raw.decode("utf-8-sig"), name
    except UnicodeDecodeError as error:
        raise LoraAdviseError(f"{name}: byte {error.start} is not UTF-8; save the file as UTF-8.") from None


def _at(name: str, tree: Tree, path: tuple[str | int, ...]) -> str:
    line = tree.line(path)
    return f"{name} line {line}" if line else name


def _known_keys(content: dict[str, Any], known: tuple[str, ...], path: tuple[str, ...], tree: Tree, name: str) -> None:
    for key in content:
        if key in known:
            continue
        owner = path[0] if path else "a plan"
        raise LoraAdviseError(
            f"{_at(name, tree, (*path, key))}: {owner} has no key {plain(key)[:60]!r}{_hint(key, known)}"
        )


def _hint(key: str, known: tuple[str, ...]) -> str:
    import difflib

    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    for title, keys in _keys_by_section().items():
        if key in keys:
            return f"; it belongs in the section {title!r}."
    return f"; it has {', '.join(known)}." if len(known) <= 12 else "; lora-advise schema plan lists them."


def _keys_by_section() -> dict[str, tuple[str, ...]]:
    keys = {title: tuple(field_types(model)) for title, (_, model) in SECTIONS.items()}
    keys["training"] = tuple(key for key in keys["training"] if key not in EVALUATION)
    return {**keys, "evaluation": EVALUATION, "model": tuple(field_types(PlanModel))}


def _version(version: Any, tree: Tree, name: str) -> None:
    if version == PLAN_VERSION and not isinstance(version, bool):
        return
    place = _at(name, tree, ("version",))
    if isinstance(version, int) and version > PLAN_VERSION:
        raise LoraAdviseError(
            f"{place}: version {version} was written by a newer lora-advise; upgrade it: pip install -U lora-advise."
        )
    raise LoraAdviseError(f"{place}: version {plain(version)[:40]!r} is not known; write version: {PLAN_VERSION}.")


def _mapping(value: Any, path: tuple[str, ...], tree: Tree, name: str) -> dict[str, Any] | None:
    if value is None or isinstance(value, dict):
        return value
    raise LoraAdviseError(f"{_at(name, tree, path)}: {path[-1]} should be a mapping of keys to values, or null.")


def _sections(content: dict[str, Any], tree: Tree, name: str) -> dict[str, Any]:
    """Every section of the facts but the model, checked."""
    keys = _keys_by_section()
    given: dict[str, dict[str, Any] | None] = {}
    for title in (*SECTIONS, "evaluation"):
        given[title] = _mapping(content.get(title), (title,), tree, name)
        _known_keys(given[title] or {}, keys[title], (title,), tree, name)
    evaluation = given.pop("evaluation")
    if evaluation:
        if given["training"] is None:
            raise LoraAdviseError(f"{_at(name, tree, ('evaluation',))}: evaluation needs a training section beside it.")
        given["training"] = {**given["training"], **evaluation}
    made: dict[str, Any] = {}
    for title, (field, model) in SECTIONS.items():
        values = given[title]
        made[field] = None if values is None else _checked(model, values, (title,), tree, name)
    return made


def _checked(model: type[Any], values: dict[str, Any], path: tuple[str, ...], tree: Tree, name: str) -> Any:
    """The section of those values. Raises LoraAdviseError for the first that has the wrong type."""
    for key, value in values.items():
        owner = "evaluation" if path[0] == "training" and key in EVALUATION else path[0]
        _plausible(value, model, key, owner, _at(name, tree, path if path == (key,) else (owner, key)))
    from lora_advise.checked import FactError, checked

    try:
        return checked(model, values)
    except FactError as error:
        problem = error
    loc = problem.place
    key = str(loc[0]) if loc else path[0]
    owner = "evaluation" if path[0] == "training" and key in EVALUATION else path[0]
    if problem.kind == "missing":
        raise LoraAdviseError(f"{_at(name, tree, (owner,))}: {owner} needs the key {key!r}; add it.")
    shown = key if path == (key,) else f"{owner}.{key}"
    place = _at(name, tree, path if path == (key,) else (owner, *loc))
    value = plain(values.get(key))[:60]
    hint = " (put text in quotes)" if problem.kind == "string_type" else ""
    raise LoraAdviseError(f"{place}: {shown}: {value!r} {problem.said}{hint}.")


def _plausible(value: Any, model: type[Any], key: str, owner: str, place: str) -> None:
    """Refuse what pydantic would let through: infinite numbers, and truth values for numbers."""
    if isinstance(value, bool):
        kind = field_types(model).get(key, Any)
        if kind is not Any and "bool" not in str(kind):
            raise LoraAdviseError(
                f"{place}: {owner}.{key}: {str(value).lower()} should be a number or text, not true or false."
            )
    nested = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
    for number in nested:
        if isinstance(number, float) and not math.isfinite(number):
            raise LoraAdviseError(f"{place}: {owner}.{key} should be a finite number.")


def _model(value: Any, tree: Tree, name: str, resolve: Resolve | None) -> ModelFacts | None:
    given = _mapping(value, ("model",), tree, name)
    if given is None:
        return None
    _known_keys(given, tuple(field_types(PlanModel)), ("model",), tree, name)
    wanted: PlanModel = _checked(PlanModel, given, ("model",), tree, name)
    from lora_advise.catalogue import resolve_model

    try:
        found, _ = (resolve or resolve_model)(wanted.path or wanted.name)
    except LoraAdviseError as error:
        raise LoraAdviseError(f"{_at(name, tree, ('model', 'path' if wanted.path else 'name'))}: {error}") from None
    update: dict[str, Any] = {"asked": wanted.asked, "path": wanted.path}
    if wanted.path is not None:
        update["name"] = wanted.name
    elif found.name != wanted.name and wanted.asked is None:
        update["asked"] = wanted.name
    return found.changed(update)


def _overrides(value: Any, tree: Tree, name: str) -> tuple[Override, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise LoraAdviseError(
            f"{_at(name, tree, ('overrides',))}: overrides should be a list of field, value and because."
        )
    made = []
    for place, row in enumerate(value):
        if (
            not isinstance(row, dict)
            or not {"field", "value"} <= set(row)
            or not set(row) <= {"field", "value", "because"}
        ):
            at = _at(name, tree, ("overrides", place))
            raise LoraAdviseError(f"{at}: an override has a field, a value and, if you like, because.")
        made.append(_checked(Override, {**row, "value": _tuples(row["value"])}, ("overrides",), tree, name))
    return tuple(made)


def _tuples(value: Any) -> Any:
    """Lists as tuples, as the facts hold them."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value


def _origins(value: Any, tree: Tree, name: str) -> dict[str, Origin]:
    given = _mapping(value, ("origins",), tree, name) or {}
    known = tuple(origin.value for origin in Origin)
    _known_keys(given, known, ("origins",), tree, name)
    made: dict[str, Origin] = {}
    for origin, fields in given.items():
        if not isinstance(fields, list) or not all(isinstance(field, str) for field in fields):
            raise LoraAdviseError(
                f"{_at(name, tree, ('origins', origin))}: origins.{origin} should be a list of fields."
            )
        made.update(dict.fromkeys(fields, Origin(origin)))
    return made
