"""What is known of published models beside their shapes: number format, tokens that a base never learnt, template, stored bits."""

from __future__ import annotations

import re
from typing import Literal

from lora_advise.model_facts import ModelFacts

_BFLOAT16 = frozenset(
    [
        "baichuan2",
        "codellama",
        "codeqwen1.5",
        "deepseek-coder",
        "deepseek-llm",
        "deepseek-moe",
        "deepseek-r1",
        "deepseek-r1-distill",
        "deepseek-v2",
        "deepseek-v3",
        "falcon",
        "falcon3",
        "falcon-h1",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3n",
        "glm4",
        "glm4-0414",
        "glm4.5",
        "gpt-oss",
        "granite3",
        "granite3.3",
        "granite4",
        "internlm2",
        "internlm3",
        "llama3",
        "llama3.1",
        "llama3.2",
        "llama3.2-vision",
        "llama3.3",
        "llama4",
        "ministral",
        "mistral",
        "mistral-nemo",
        "mistral-small",
        "mixtral",
        "phi3",
        "phi3.5",
        "phi4",
        "phi4-mini",
        "qwen1.5",
        "qwen1.5-moe",
        "qwen2",
        "qwen2-moe",
        "qwen2-vl",
        "qwen2.5",
        "qwen2.5-coder",
        "qwen2.5-math",
        "qwen2.5-vl",
        "qwen3",
        "qwen3-coder",
        "qwen3-moe",
        "qwen3-next",
        "qwen3-vl",
        "qwen3.5",
        "qwq",
        "smollm2",
        "smollm3",
        "yi",
        "yi-1.5",
    ]
)
_FLOAT16 = frozenset(["llama1", "llama2", "aya", "command-r", "chatglm3", "opt", "pythia", "solar"])
_TURNS = {
    **dict.fromkeys(
        ("qwen1", "qwen1.5", "qwen2", "qwen2.5", "qwen2.5-coder", "qwen2.5-math"), ("<|im_start|>", "<|im_end|>")
    ),
    **dict.fromkeys(("llama3", "llama3.1"), ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
}
"""By family; a family that is not here was not checked."""
LIKELY_TURNS = {"qwen3": ("<|im_start|>", "<|im_end|>")}
"""Families whose makers did not say so of this generation, and did of those before."""
_HINTS = re.compile(
    r"(?:^|[-_./])(bnb-4bit|bnb-8bit|4bit|8bit|gptq|awq|int4|int8|fp8|hqq|aqlm|eetq|nf4)(?=$|[-_./])", re.IGNORECASE
)
_CHAT = re.compile(r"(?<![a-z])(?:chat|instruct|it)(?![a-z])", re.IGNORECASE)
_MIXED = re.compile(r"hermes|dolphin|chatml|openchat|orca|zephyr|tulu|sft|smaug|wizard|vicuna", re.IGNORECASE)
_PLAIN = re.compile(
    r"^(?:meta-)?(?:code-?)?(?:llama|mistral|mixtral|gemma|falcon|pythia|opt|phi)(?=[-_.]?v?\d|-)", re.IGNORECASE
)
GENERIC = frozenset({"default", "vanilla", "alpaca", "fewshot", "empty"})
"""Templates of no chat model in particular."""
_FORMATS: tuple[tuple[str, str], ...] = (
    (r"chatml|qwen|yi$|intern|smollm", "ChatML"), (r"llama[-_]?3", "Llama 3"), (r"llama[-_]?4", "Llama 4"),
    (r"llama[-_]?2", "Llama 2"), (r"mistral|mixtral|ministral", "Mistral"), (r"gemma[-_]?[23]?n?(?:$|[_-](?!4|chatml))", "Gemma"),
    (r"phi[-_]?3", "Phi-3"), (r"phi[-_]?4", "Phi-4"), (r"baichuan2", "Baichuan 2"), (r"baichuan$", "Baichuan"),
    (r"chatglm[23]", "ChatGLM"), (r"glm[-_]?4", "GLM-4"), (r"deepseek", "DeepSeek"), (r"vicuna", "Vicuna"), (r"falcon$", "Falcon"),
    (r"cohere|command", "Cohere"),
)  # fmt: skip


def native_dtype(model: ModelFacts | None) -> Literal["bfloat16", "float16"] | None:
    """The format in which the family's weights are published; None where it is another or was not looked up."""
    if model is None or model.family is None:
        return None
    return "bfloat16" if model.family in _BFLOAT16 else "float16" if model.family in _FLOAT16 else None


def untrained_turns(model: ModelFacts) -> tuple[str, ...]:
    """The tokens of chat turns that this base model never learnt; empty for others, and where nobody looked."""
    if model.variant != "base" or model.family is None:
        return ()
    return _TURNS.get(model.family, LIKELY_TURNS.get(model.family, ()))


def stored_as(name: str) -> str | None:
    """What a model's name says about how its weights are stored below 16 bits, in lower case: ``gptq``, ``int4``, ``bnb-4bit``."""
    found = _HINTS.search(name.rstrip("/\\"))
    return found[1].lower() if found else None


def is_chat(model: ModelFacts | None, name: str) -> bool:
    """Whether a model was tuned on conversations, by the catalogue or by its name."""
    if model is not None:
        return model.variant in ("instruct", "reasoning")
    return bool(_CHAT.search(name.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]))


def format_of(template: str | None) -> str | None:
    """The family of chat formats that a template's name means; None for one that was not looked at."""
    word = (template or "").strip().lower()
    return next((name for pattern, name in _FORMATS if re.match(pattern, word)), None)


def lacks_chatml(model: ModelFacts | None, name: str) -> bool:
    """Whether ``<|im_start|>`` and ``<|im_end|>`` are no tokens of that model's vocabulary, as far as its name tells."""
    short = name.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
    if _MIXED.search(short):
        return False
    if model is not None and model.template is not None:
        return format_of(model.template) in ("Llama 2", "Llama 3", "Mistral", "Gemma", "Phi-3")
    return bool(_PLAIN.search(short))
