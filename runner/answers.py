"""Greedy answers to held-out prompts, with the adapter and without: what the run changed, in words."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from lora_advise.run_facts import Sample
from lora_advise.runner.chat import question_and_answer
from lora_advise.runner.data_rows import Row

SHOWN = 3
SCORED = 32
LONGEST = 128
"""Answers are cut after this many tokens; exact matches are only counted where no reference is longer."""

Question = tuple[str | list[dict[str, str]], str]


def questions(rows: list[Row], limit: int) -> list[Question]:
    """The first held-out rows that have a prompt and a reference answer."""
    found = (question_and_answer(row) for row in rows)
    return [pair for pair in found if pair is not None][:limit]


def answer(model: Any, tokenizer: Any, asked: list[Question], *, adapter: bool) -> list[str]:
    """One greedy answer for each prompt; with ``adapter`` off the base model answers."""
    if not asked:
        return []
    longest = max(len(tokenizer(reference, add_special_tokens=False)["input_ids"]) for _, reference in asked)
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    training = model.training
    model.eval()
    answers: list[str] = []
    switched = nullcontext() if adapter or not hasattr(model, "disable_adapter") else model.disable_adapter()
    try:
        with torch.no_grad(), switched:
            for first in range(0, len(asked), 8):
                batch = [_prompt_text(tokenizer, prompt) for prompt, _ in asked[first : first + 8]]
                # A chat template writes its own begin-of-text token.
                plain = [isinstance(prompt, str) for prompt, _ in asked[first : first + 8]]
                inputs = tokenizer(batch, return_tensors="pt", padding=True, add_special_tokens=all(plain))
                inputs = {k: v.to(model.device) for k, v in inputs.items() if k in {"input_ids", "attention_mask"}}
                made = model.generate(
                    **inputs, max_new_tokens=min(LONGEST, longest + 16), do_sample=False, use_cache=True,
                    pad_token_id=tokenizer.pad_token_id, eos_token_id=_stops(model, tokenizer),
                )  # fmt: skip
                new = made[:, inputs["input_ids"].shape[1] :]
                answers += [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
    finally:
        tokenizer.padding_side = side
        model.train(training)
    return answers


def _stops(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends an answer: the model's own and the tokenizer's."""
    own = getattr(model.generation_config, "eos_token_id", None)
    ids = own if isinstance(own, list) else [] if own is None else [own]
    return sorted({*ids, tokenizer.eos_token_id})


def _prompt_text(tokenizer: Any, prompt: str | list[dict[str, str]]) -> str:
    if isinstance(prompt, str):
        return prompt
    return str(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))


def samples(asked: list[Question], before: list[str], after: list[str]) -> tuple[Sample, ...]:
    """The first few questions with both answers."""
    return tuple(
        Sample(prompt=_shown(prompt), expected=reference[:2000], before=old[:2000], after=new[:2000])
        for (prompt, reference), old, new in list(zip(asked, before, after, strict=True))[:SHOWN]
    )


def _shown(prompt: str | list[dict[str, str]]) -> str:
    text = prompt if isinstance(prompt, str) else next((t["content"] for t in reversed(prompt)), "")
    return text[-2000:]


def exact_matches(asked: list[Question], said: list[str]) -> float:
    """Share of answers that equal their reference exactly, surrounding spaces apart."""
    return sum(a == reference.strip() for (_, reference), a in zip(asked, said, strict=True)) / len(asked)


def scorable(tokenizer: Any, asked: list[Question]) -> bool:
    """Whether every reference is short enough to be written out in full."""
    return bool(asked) and all(len(tokenizer(r, add_special_tokens=False)["input_ids"]) <= LONGEST for _, r in asked)
