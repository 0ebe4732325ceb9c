"""What the command line knows of a run that its config does not say, as sections of the facts."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from lora_advise.errors import LoraAdviseError


@lru_cache(maxsize=8)
def given_sections(
    *,
    gpu: str | None = None,
    gpus: str | None = None,
    model: str | None = None,
    task: str | None = None,
    examples: str | int | None = None,
    tokens: str | int | None = None,
    data: str | None = None,
) -> dict[str, Any]:
    """Model, task, data and hardware, as far as they are given. Raises LoraAdviseError for what is no such thing."""
    found: dict[str, Any] = {}
    if model:
        from lora_advise.catalogue import resolve_model

        found["model"] = resolve_model(model)[0]
    if task:
        from lora_advise.tasks import resolve_task

        found["task"] = resolve_task(task).facts()
    if gpu or gpus:
        from lora_advise.advising import named_hardware

        found["hardware"] = named_hardware(gpu, gpus)
    if data or examples:
        found["data"] = _data(data, examples, tokens, task)
    return found


def _data(data: str | None, examples: str | int | None, tokens: str | int | None, task: str | None) -> Any:
    from lora_advise.facts import DataFacts
    from lora_advise.unknown import without

    if data:
        from lora_advise.data_probe import probe_data

        return probe_data(data, None, task or "chat")
    count, mean = _whole("--examples", examples), _whole("--tokens-per-example", tokens)
    facts = DataFacts(examples=count or 1, tokens_per_example=mean or 1, completion_tokens=0)
    return without(facts, {"completion_tokens"} | (set() if mean else {"tokens_per_example"}), "data")


def _whole(flag: str, value: str | int | None) -> int | None:
    if value is None:
        return None
    try:
        number = int(str(value).replace(",", "").replace("_", ""))
    except ValueError:
        number = 0
    if not 1 <= number < 1e18:
        raise LoraAdviseError(f"{flag} {str(value)[:40]!r} is no whole number of 1 or more.")
    return number
