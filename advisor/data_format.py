"""What a row of training data holds: its format by its field names, its prompt, answer and label as text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Row = dict[str, Any]
Format = Literal[
    "messages",
    "prompt-completion",
    "text",
    "alpaca",
    "sharegpt",
    "preference",
    "unpaired-preference",
    "prompt",
    "classification",
]

TRAINED_ON: dict[str, tuple[Format, ...]] = {
    "sft": ("messages", "sharegpt", "alpaca", "prompt-completion", "text"),
    "dpo": ("preference",),
    "orpo": ("preference",),
    "simpo": ("preference",),
    "reward": ("preference",),
    "kto": ("unpaired-preference", "preference"),
    "grpo": ("prompt", "prompt-completion", "alpaca"),
    "classification": ("classification",),
}
"""Formats that each trainer of the runner reads; a trainer that is missing here is not run by it."""

PROMPTS = ("prompt", "instruction", "question", "query", "input", "context", "source")
ANSWERS = ("completion", "response", "output", "answer", "answers", "target", "reply")
LABELS = ("label", "labels", "class", "category", "target")
TEXTS = ("text", "content", "document", "sentence", "body")

LATIN_CHARACTERS = 4.0
"""Characters per token in ASCII text (source token-estimate)."""
CJK_CHARACTERS = 1.5
"""Characters per token in Chinese, Japanese and Korean (source token-estimate)."""
OTHER_CHARACTERS = 2.5
"""Characters per token in other scripts and symbols (source token-estimate)."""
TURN_TOKENS = 4
"""Tokens that a chat template puts around one message (source token-estimate)."""
IMAGE_TOKENS = 576
"""Tokens of one picture: the 24 x 24 patches of LLaVA-1.5; models with tiles use more (source token-estimate)."""

_CJK = re.compile(
    "[\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]+"
)
_ANSWERING = {"assistant", "gpt", "model", "chatgpt", "bot"}


class Sizes(NamedTuple):
    """One row in estimated tokens. ``longest`` is the longest sequence that the row becomes."""

    total: float
    completion: float
    longest: float


@dataclass(frozen=True, slots=True)
class Example:
    """One usable row. ``key`` is equal for equal rows."""

    sizes: Sizes
    key: int
    label: str | None = None


def unfit(path: str, found: str | None, trainer: str) -> str | None:
    """Why this trainer cannot be trained on data of that format, with the way out; None where it can."""
    wanted = TRAINED_ON.get(trainer, ())
    if found in wanted or not wanted:
        return None
    said = f"{path}: holds {found} data, and the {trainer} trainer needs {' or '.join(wanted)} data; "
    if found == "classification" and trainer == "sft":
        return (
            said + "name the text prompt and its label completion, or take an encoder such as FacebookAI/roberta-base."
        )
    return said + "name another task with --task or another file with --data."


class UnfitRowError(Exception):
    """A row without what its format needs; the text says what is missing."""


def estimate_tokens(text: str) -> float:
    """Tokens of a text by its characters: 4 per token in ASCII, 1.5 in CJK, 2.5 elsewhere (source token-estimate)."""
    if text.isascii():
        return len(text) / LATIN_CHARACTERS
    ascii_characters = len(text.encode("ascii", "ignore"))
    cjk = sum(map(len, _CJK.findall(text)))
    return (
        ascii_characters / LATIN_CHARACTERS
        + cjk / CJK_CHARACTERS
        + (len(text) - ascii_characters - cjk) / OTHER_CHARACTERS
    )


def detect(row: Row, task: str) -> Format | None:  # noqa: PLR0911 - a decision list reads best as one
    """The format of a row by its field names; the task decides between a label to learn and a mark of approval."""
    names = set(row)
    if {"chosen", "rejected"} <= names:
        return "preference"
    if "messages" in names:
        return "messages"
    if names & {"conversations", "conversation"}:
        return "sharegpt"
    if task == "classification" and names & set(LABELS) and names & {*TEXTS, *PROMPTS}:
        return "classification"
    if "instruction" in names and names & {"output", "response"}:
        return "alpaca"
    if names & set(PROMPTS) and names & set(ANSWERS):
        return "unpaired-preference" if isinstance(row.get("label"), bool) or task == "kto" else "prompt-completion"
    if names & set(TEXTS):
        return "classification" if names & set(LABELS) else "text"
    return "prompt" if "prompt" in names else None


def example(row: Row, format: Format) -> Example | None:
    """What the row holds; None when its answer or text is empty. Raises UnfitRowError when a field is missing."""
    return _READERS[format](row)


def _first(row: Row, names: Iterable[str], what: str) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise UnfitRowError(f"it has no {what} ({', '.join(names)})")


def _string(value: object) -> str:
    """A cell as text; typed parts are joined, other structures count as the JSON that a template prints."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list) and value and all(isinstance(part, dict) and "type" in part for part in value):
        return "".join(part["text"] for part in value if isinstance(part.get("text"), str))
    return json.dumps(value, ensure_ascii=False, default=str)


def _pictures(value: object) -> int:
    parts = value if isinstance(value, list) else []
    return sum(isinstance(part, dict) and str(part.get("type", "")).startswith("image") for part in parts)


class _Turn(NamedTuple):
    text: str
    answers: bool
    tokens: float


def _turns(value: object) -> list[_Turn]:
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise UnfitRowError("its conversation is not a list of messages")
    made = []
    for turn in value:
        role = str(_first(turn, ("role", "from"), "role in a message")).lower()
        content = next((turn[name] for name in ("content", "value", "text") if turn.get(name) is not None), "")
        text = _string(content) + (_string(turn["tool_calls"]) if turn.get("tool_calls") else "")
        tokens = estimate_tokens(text) + TURN_TOKENS + IMAGE_TOKENS * _pictures(content)
        made.append(_Turn(text, role in _ANSWERING, tokens))
    return made


def _side(value: object) -> tuple[str, float]:
    """A prompt or answer as text and tokens; it may be a conversation."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and ("role" in value[0] or "from" in value[0]):
        turns = _turns(value)
        return "\n".join(turn.text for turn in turns), sum(turn.tokens for turn in turns)
    text = _string(value)
    return text, estimate_tokens(text)


def _chat(row: Row) -> Example | None:
    turns = _turns(_first(row, ("messages", "conversations", "conversation"), "conversation"))
    if not any(turn.answers and turn.text.strip() for turn in turns):
        return None
    total = sum(turn.tokens for turn in turns)
    answered = sum(turn.tokens for turn in turns if turn.answers)
    return Example(Sizes(total, answered, total), hash(tuple((turn.text, turn.answers) for turn in turns)))


def _pair(row: Row, turns: int, prompts: Iterable[str] = PROMPTS, more: str = "") -> Example | None:
    prompt, asked = _side(_first(row, prompts, "prompt"))
    answer, answered = _side(_first(row, ANSWERS, "answer"))
    if not answer.strip():
        return None
    total = asked + answered + estimate_tokens(more) + turns * TURN_TOKENS
    return Example(Sizes(total, answered, total), hash((prompt, answer, more)))


def _alpaca(row: Row) -> Example | None:
    more = _string(row.get("input") or "") + _string(row.get("system") or "")
    return _pair({**row, "input": None}, 2, ("instruction", "prompt", "question"), more)


def _preference(row: Row) -> Example | None:
    prompt, asked = next((_side(row[name]) for name in PROMPTS if row.get(name)), ("", 0.0))
    chosen, rejected = _first(row, ("chosen",), "chosen answer"), _first(row, ("rejected",), "rejected answer")
    sides = []
    for value in (chosen, rejected):
        text, tokens = _side(value)
        if isinstance(value, list) and len(value) > 1:
            # Many published sets repeat the prompt as the first turns of both conversations.
            sides.append((text, tokens, _turns(value)[-1].tokens))
        else:
            sides.append((text, asked + tokens, tokens))
    if not sides[0][0].strip() or not sides[1][0].strip():
        return None
    total, completion = sum(side[1] for side in sides) / 2, sum(side[2] for side in sides) / 2
    return Example(Sizes(total, completion, max(sides[0][1], sides[1][1])), hash((prompt, sides[0][0], sides[1][0])))


def _unpaired(row: Row) -> Example | None:
    label = str(_first(row, ("label", "desirable", "thumbs_up"), "label of approval")).lower()
    if label not in ("true", "false", "1", "0"):
        raise UnfitRowError("its label is not true or false")
    made = _pair(row, 2)
    return None if made is None else Example(made.sizes, hash((made.key, label)))


def _text(row: Row) -> Example | None:
    text = _string(_first(row, TEXTS, "text"))
    tokens = estimate_tokens(text)
    return Example(Sizes(tokens, tokens, tokens), hash(text)) if text.strip() else None


def _classification(row: Row) -> Example | None:
    text, label = _string(_first(row, (*TEXTS, *PROMPTS), "text")), _string(_first(row, LABELS, "label"))
    if not text.strip() or not label.strip():
        return None
    answer = max(1.0, estimate_tokens(label))
    total = estimate_tokens(text) + answer
    return Example(Sizes(total, answer, total), hash((text, label)), label)


def _prompt(row: Row) -> Example | None:
    text, tokens = _side(_first(row, ("prompt",), "prompt"))
    return Example(Sizes(tokens, 0.0, tokens), hash(text)) if text.strip() else None


_READERS: dict[Format, Callable[[Row], Example | None]] = {
    "messages": _chat, "sharegpt": _chat, "alpaca": _alpaca, "prompt-completion": lambda row: _pair(row, 2),
    "text": _text,
    "preference": _preference, "unpaired-preference": _unpaired, "classification": _classification, "prompt": _prompt,
}  # fmt: skip
