"""Chat templates and loss masks: which tokens of a conversation the loss reads."""

from __future__ import annotations

from typing import Any, Literal

from lora_advise.errors import LoraAdviseError
from lora_advise.runner.data_rows import Row

Masking = Literal["assistant", "completion", "all"]

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}Assistant: "
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['role'] | capitalize }}: {{ message['content'] + '\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}"
)
"""For base models that ship no template: role names in plain text, no new tokens, an end-of-text token to stop."""


def ensure_template(tokenizer: Any, rows: list[Row], deviations: list[str]) -> None:
    """Give a tokenizer without a chat template a plain one when the data is conversations, and say so."""
    if tokenizer.chat_template is None and any(conversational(row) for row in rows[:1]):
        tokenizer.chat_template = PLAIN_TEMPLATE
        deviations.append(
            "The tokenizer has no chat template: a plain one (User: … Assistant: …) is used and saved with the adapter."
        )


def conversational(row: Row) -> bool:
    """Whether that row holds messages instead of text."""
    return "messages" in row or any(isinstance(row.get(key), list) for key in ("prompt", "completion", "chosen"))


def mask_rows(
    rows: list[Row], loss_on: Masking, tokenizer: Any, deviations: list[str]
) -> tuple[list[Row], dict[str, bool]]:
    """The rows and the SFT arguments that put the loss where the plan wants it."""
    if not rows or "text" in rows[0]:
        if loss_on != "all":
            deviations.append(f"train.loss_on {loss_on}: plain text has no completion, so every token carries loss.")
        return rows, {}
    if "messages" not in rows[0]:
        if loss_on == "assistant":
            deviations.append(
                "train.loss_on assistant: prompt-completion rows have one answer, which carries the loss."
            )
        return rows, {"completion_only_loss": loss_on != "all"}
    if loss_on == "all":
        return rows, {"assistant_only_loss": False}
    turns = max(sum(turn["role"] == "assistant" for turn in row["messages"]) for row in rows)
    if loss_on == "assistant" and turns > 1:
        if _marks_answers(tokenizer):
            return rows, {"assistant_only_loss": True}
        deviations.append(
            "train.loss_on assistant: the chat template does not mark the assistant's turns, "
            "so only the last answer of a conversation carries loss."
        )
    asked = [row for row in rows if question_and_answer(row)]
    if not asked:
        raise LoraAdviseError("no conversation of the data has an answer after a question: there is nothing to learn.")
    if len(asked) < len(rows):
        deviations.append(f"{len(rows) - len(asked)} conversations have no answer after a question and are left out.")
    return [_last_answer(row) for row in asked], {"completion_only_loss": True}


def _marks_answers(tokenizer: Any) -> bool:
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if has_generation_markers(tokenizer.chat_template):
        return True
    try:
        return get_training_chat_template(tokenizer) is not None
    except ValueError:
        return False


def _last_answer(row: Row) -> Row:
    """A conversation as everything before its last answer, and that answer."""
    turns = row["messages"]
    last = max(i for i, turn in enumerate(turns) if turn["role"] == "assistant")
    return {"prompt": turns[:last], "completion": [turns[last]]}


def question_and_answer(row: Row) -> tuple[str | list[dict[str, str]], str] | None:
    """The prompt and the reference answer of a row, or ``None`` when it has none."""
    if "messages" in row:
        if not any(turn["role"] == "assistant" for turn in row["messages"][1:]):
            return None
        row = _last_answer(row)
    prompt = row.get("prompt")
    answer = row.get("completion", row.get("reference", row.get("chosen")))
    if row.get("label") is False or prompt is None or answer is None:
        return None
    return prompt, answer if isinstance(answer, str) else str(answer[-1]["content"])
