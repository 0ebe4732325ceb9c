"""Turns rows of every known format into the columns that TRL's trainers read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lora_advise.data_format import unfit
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import DataFacts, TaskFacts
from lora_advise.runner.data_rows import Row

Message = dict[str, str]

_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant",
    "chatgpt": "assistant", "bot": "assistant", "system": "system", "tool": "tool", "function": "tool",
    "observation": "tool", "developer": "system",
}  # fmt: skip
PROMPTS = ("prompt", "instruction", "question", "query", "input", "context", "source")
ANSWERS = ("completion", "response", "output", "answer", "answers", "target", "reply")
REFERENCES = (
    "answer",
    "solution",
    "reference",
    "ground_truth",
    "expected",
    "target",
    "completion",
    "response",
    "output",
)
LABELS = ("label", "labels", "class", "category", "target")
TEXTS = ("text", "content", "document", "sentence", "body")


def shape_rows(rows: list[Row], data: DataFacts, task: TaskFacts) -> list[Row]:
    """The rows in the shape of the task's trainer. Raises :class:`LoraAdviseError` naming the row that does not fit."""
    shape = _SHAPES[_shape_name(rows, data, task)]
    shaped = []
    for number, row in enumerate(rows, 1):
        try:
            made = shape(row)
        except (KeyError, TypeError) as error:
            raise LoraAdviseError(
                f"{data.path}, row {number}: does not fit the format {data.format or 'found'}: {_explain(error)} "
                f"Its fields are {', '.join(map(str, list(row)[:8]))}."
            ) from error
        if made is not None:
            shaped.append(made)
    if not shaped:
        raise LoraAdviseError(f"{data.path}: every row is empty.")
    return shaped


def _explain(error: Exception) -> str:
    return str(error.args[0]) if error.args else "a field is missing."


def _shape_name(rows: list[Row], data: DataFacts, task: TaskFacts) -> str:
    """The shape that this trainer needs, refusing formats that cannot give it."""
    known = data.format or detect(rows[0])
    labels = {"label", "desirable", "thumbs_up"}
    if task.trainer == "kto" and known == "prompt-completion" and labels & {str(key).lower() for key in rows[0]}:
        known = "unpaired-preference"  # a label may be written 0, 1 or "true"
    if (why := unfit(str(data.path), known, task.trainer)) is not None:
        raise LoraAdviseError(why)
    return "reward-prompt" if task.trainer == "grpo" else known


def detect(row: Row) -> str:
    """The format of a row by its field names, for plans that do not say it."""
    names = {str(key).lower() for key in row}
    if {"chosen", "rejected"} <= names:
        return "preference"
    if names & {"messages", "conversations", "conversation"}:
        return "messages" if "messages" in names else "sharegpt"
    if "instruction" in names and names & {"output", "response"}:
        return "alpaca"
    if names & set(PROMPTS) and names & set(ANSWERS):
        return "unpaired-preference" if isinstance(row.get("label"), bool) else "prompt-completion"
    if names & set(TEXTS):
        return "classification" if names & set(LABELS) else "text"
    return "prompt" if "prompt" in names else "unknown"


def _first(row: Row, names: Iterable[str], what: str) -> Any:
    for name in names:
        if name in row and row[name] is not None:
            return row[name]
    raise KeyError(f"it has no {what} ({', '.join(names)}).")


def _string(value: object, what: str) -> str:
    if isinstance(value, bool | int | float):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(f"its {what} is {type(value).__name__}, not text.")
    return value


def _messages(turns: object) -> list[Message]:
    if not isinstance(turns, list) or not turns:
        raise TypeError("its conversation is not a list of messages.")
    made = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise TypeError("one of its messages is not an object.")
        said = _string(_first(turn, ("role", "from"), "role"), "role").lower()
        if said not in _ROLES:
            raise KeyError(f"it has a message of the unknown role {said[:40]!r}.")
        content = _first(turn, ("content", "value", "text"), "content")
        made.append({"role": _ROLES[said], "content": _content(content)})
    return made


def _content(content: object) -> str:
    """The text of a message; typed parts are joined, anything but text is refused."""
    if not isinstance(content, list):
        return _string(content, "content")
    parts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type", "text") != "text":
            raise TypeError("a message holds a picture or sound, and this runner trains on text only.")
        parts.append(_string(part.get("text"), "content"))
    return "".join(parts)


def _chat(row: Row) -> Row | None:
    turns = _messages(_first(row, ("messages", "conversations", "conversation"), "conversation"))
    if not any(turn["role"] == "assistant" and turn["content"].strip() for turn in turns):
        return None
    return {"messages": turns}


def _alpaca(row: Row) -> Row | None:
    asked = _string(_first(row, ("instruction", "prompt", "question"), "instruction"), "instruction")
    more = _string(row.get("input") or "", "input")
    answer = _string(_first(row, ("output", "response", "answer", "completion"), "output"), "output")
    if not answer.strip():
        return None
    return {"messages": [
        *([{"role": "system", "content": str(row["system"])}] if row.get("system") else []),
        {"role": "user", "content": f"{asked}\n\n{more}" if more.strip() else asked},
        {"role": "assistant", "content": answer},
    ]}  # fmt: skip


def _side(value: object, what: str) -> str | list[Message]:
    return _messages(value) if isinstance(value, list) else _string(value, what)


def _prompt_completion(row: Row) -> Row | None:
    prompt = _side(_first(row, PROMPTS, "prompt"), "prompt")
    completion = _side(_first(row, ANSWERS, "completion"), "completion")
    if not completion or (isinstance(completion, str) and not completion.strip()):
        return None
    return {"prompt": prompt, "completion": completion}


def _text(row: Row) -> Row | None:
    text = _string(_first(row, TEXTS, "text"), "text")
    return {"text": text} if text.strip() else None


def _preference(row: Row) -> Row | None:
    pair = {name: _side(_first(row, (name,), name), name) for name in ("chosen", "rejected")}
    prompts = [name for name in PROMPTS if row.get(name)]
    if not pair["chosen"] or not pair["rejected"]:
        return None
    if not prompts:
        return dict(pair)
    prompt = _side(row[prompts[0]], "prompt")
    if isinstance(pair["chosen"], list) and isinstance(prompt, str):
        # Many published sets repeat the prompt as the first turns of both conversations.
        return (
            dict(pair)
            if pair["chosen"][0]["role"] != "assistant"
            else {"prompt": [{"role": "user", "content": prompt}], **pair}
        )
    return {"prompt": prompt, **pair}


def _unpaired(row: Row) -> Row | None:
    made = _prompt_completion(row)
    label = _first(row, ("label", "desirable", "thumbs_up"), "label")
    truth = {"true": True, "1": True, "false": False, "0": False}.get(str(label).lower())
    if truth is None:
        raise TypeError("its label is not true or false.")
    return None if made is None else {**made, "label": truth}


def _reward_prompt(row: Row) -> Row:
    prompt = _side(_first(row, PROMPTS, "prompt"), "prompt")
    reference = next((row[name] for name in REFERENCES if row.get(name) is not None and row[name] != prompt), None)
    if reference is None:
        raise KeyError(
            f"it has no reference answer ({', '.join(REFERENCES)}), and the only reward that can be computed here "
            "is an exact match with one; for other rewards render the plan for TRL and write the reward function there."
        )
    return {"prompt": prompt, "reference": _string(reference, "reference answer")}


def _classification(row: Row) -> Row | None:
    text = _string(_first(row, (*TEXTS, *PROMPTS), "text"), "text")
    label = _first(row, LABELS, "label")
    return {"text": text, "label": label} if text.strip() else None


_SHAPES: dict[str, Callable[[Row], Row | None]] = {
    "messages": _chat,
    "sharegpt": _chat,
    "alpaca": _alpaca,
    "prompt-completion": _prompt_completion,
    "text": _text,
    "preference": _preference,
    "unpaired-preference": _unpaired,
    "reward-prompt": _reward_prompt,
    "classification": _classification,
}
