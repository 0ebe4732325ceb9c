"""JSON Schemas of what lora-advise writes: the JSON report, the plan file and the answer of the linter."""

from __future__ import annotations

from typing import Any

from lora_advise.checked import json_schema
from lora_advise.plan import PLAN_VERSION, Advice, Override, Plan
from lora_advise.plan_layout import EVALUATION, SECTIONS, PlanModel
from lora_advise.section import Section

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCES = "#/$defs/{model}"


def advice_schema() -> dict[str, Any]:
    """The schema of ``--format json``."""
    from lora_advise.report_json import Derived

    schema = json_schema(Advice, _REFERENCES, written=True)
    schema["$defs"]["Derived"] = json_schema(Derived, _REFERENCES, written=True)
    schema["properties"]["derived"] = {"$ref": "#/$defs/Derived"}
    schema["required"] = [*schema.get("required", []), "derived"]
    return _named(schema, "advice", "lora-advise JSON report")


def plan_schema() -> dict[str, Any]:
    """The schema of a plan file, as ``--emit`` writes it and ``run`` and ``lint`` read it."""
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {"version": {"const": PLAN_VERSION, "description": "Version of this file's layout."}}
    properties["profile"] = _inlined(Plan, definitions)["properties"]["profile"]
    properties["model"] = _optional(_inlined(PlanModel, definitions))
    for title, (_, model) in SECTIONS.items():
        part = _inlined(model, definitions)
        if title == "training":
            properties["evaluation"] = _evaluation(part)
        properties[title] = _optional(part)
    properties["overrides"] = {"type": "array", "items": _inlined(Override, definitions)}
    origin = _inlined(Plan, definitions)["properties"]["origins"]["additionalProperties"]
    properties["origins"] = {
        "type": "object",
        "description": "Where values came from: set, inherited, probed, assumed or decided, each with its fields.",
        "propertyNames": origin,
        "additionalProperties": {"type": "array", "items": {"type": "string"}},
    }
    wanted = {"Origin"} & set(definitions)
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    schema["$defs"] = {name: definitions[name] for name in wanted}
    return _named(schema, "plan", "lora-advise plan file")


def lint_schema() -> dict[str, Any]:
    """The schema of ``lint --format json``."""
    from lora_advise.lint_json import LINT_VERSION, LintAnswer

    return _named(json_schema(LintAnswer, _REFERENCES, written=True), "lint", "lora-advise lint report", LINT_VERSION)


def _inlined(model: type[Section], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = json_schema(model, _REFERENCES, written=False)
    definitions.update(schema.pop("$defs", {}))
    return schema


def _evaluation(training: dict[str, Any]) -> dict[str, Any]:
    """Take the fields of the evaluation section out of the training section."""
    moved = {name: training["properties"].pop(name) for name in EVALUATION}
    return {"type": "object", "additionalProperties": False, "properties": moved, "title": "Evaluation and checkpoints"}


def _optional(part: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [part, {"type": "null"}]}


def _named(schema: dict[str, Any], name: str, title: str, version: int = PLAN_VERSION) -> dict[str, Any]:
    head = {"$schema": DIALECT, "$id": f"urn:lora-advise:schema:{name}:{version}", "title": title}
    return {**head, **{key: value for key, value in schema.items() if key not in head}}
