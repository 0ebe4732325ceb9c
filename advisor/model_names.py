"""How people name models: sizes, ids without an owner, other separators, mirrors; and which model a bare size means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Literal

Variant = Literal["base", "instruct", "reasoning"]

SIZE_TOLERANCE = 0.07
"""A size names a model whose parameter count is within 7 % of it: marketing sizes are rounded (6.74e9 is sold as 7B).
"""

PREFERRED: dict[str, str] = {
    "0.5b": "Qwen/Qwen2.5-0.5B-Instruct",
    "0.6b": "Qwen/Qwen3-0.6B",
    "1b": "meta-llama/Llama-3.2-1B-Instruct",
    "1.5b": "Qwen/Qwen2.5-1.5B-Instruct",
    "1.7b": "Qwen/Qwen3-1.7B",
    "2b": "google/gemma-2-2b-it",
    "3b": "Qwen/Qwen2.5-3B-Instruct",
    "4b": "Qwen/Qwen3-4B",
    "7b": "Qwen/Qwen2.5-7B-Instruct",
    "8b": "meta-llama/Llama-3.1-8B-Instruct",
    "9b": "google/gemma-2-9b-it",
    "12b": "mistralai/Mistral-Nemo-Instruct-2407",
    "13b": "meta-llama/Llama-2-13b-chat-hf",
    "14b": "Qwen/Qwen2.5-14B-Instruct",
    "20b": "openai/gpt-oss-20b",
    "24b": "mistralai/Mistral-Small-24B-Instruct-2501",
    "27b": "google/gemma-2-27b-it",
    "30b-a3b": "Qwen/Qwen3-30B-A3B",
    "32b": "Qwen/Qwen2.5-32B-Instruct",
    "70b": "meta-llama/Llama-3.3-70B-Instruct",
    "72b": "Qwen/Qwen2.5-72B-Instruct",
    "120b": "openai/gpt-oss-120b",
    "405b": "meta-llama/Llama-3.1-405B-Instruct",
    "8x7b": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "8x22b": "mistralai/Mixtral-8x22B-Instruct-v0.1",
}
"""What a bare size means first: the dense instruct model of that size that fine-tuning guides use most."""

OWNER_ORDER = (
    "Qwen",
    "meta-llama",
    "google",
    "mistralai",
    "microsoft",
    "HuggingFaceTB",
    "allenai",
    "ibm-granite",
    "tiiuae",
)
"""The order of owners for a size that the table above does not name; later owners come in alphabetical order."""

MIRRORS = frozenset({"unsloth", "nousresearch"})
"""Owners that upload other owners' models under the same name with the same architecture."""

_SIZE = re.compile(
    r"(?P<experts>\d+x)?(?P<number>\d+(?:\.\d+)?)(?P<unit>[mbt])(?P<active>-a\d+(?:\.\d+)?b)?", re.IGNORECASE
)
_QUANTISED = re.compile(r"(-unsloth)?-bnb-(4|8)bit$|-(awq|gptq(-int[48])?|fp8|gguf|4bit|8bit|bf16)$")
_VARIANT = re.compile(r"-(instruct|chat|it|base|pt|hf|thinking|sft|dpo)(?=-|$)")
_REASONING = re.compile(
    r"thinking|reasoning|(?<![a-z0-9])r1(?![a-z0-9])|qwq|openthinker|deep-\d|magistral", re.IGNORECASE
)
_INSTRUCT = re.compile(
    r"instruct|chat|(?<![a-z])it(?![a-z])|zephyr|vicuna|hermes|sft|dpo|-rl$|tulu|assistant", re.IGNORECASE
)
_BASE = re.compile(r"(?<![a-z])(base|pt)(?![a-z])", re.IGNORECASE)


def parse_size(asked: str) -> float | None:
    """The number of parameters that a size such as ``32B``, ``600M`` or ``30B-A3B`` states; None when it is no size.

    For ``8x7B`` this is experts times size, an upper bound: attention is shared, so the label decides, not the number.
    """
    match = _SIZE.fullmatch(asked.strip())
    if match is None:
        return None
    unit = {"m": 1e6, "b": 1e9, "t": 1e12}[match["unit"].lower()]
    return float(match["number"]) * unit * int((match["experts"] or "1x")[:-1])


def is_composite(asked: str) -> bool:
    """Whether a size also states experts (``8x7B``) or active parameters (``30B-A3B``), and so is a label."""
    match = _SIZE.fullmatch(asked.strip())
    return match is not None and bool(match["experts"] or match["active"])


_SEPARATORS = re.compile(r"[\s_\-]+").sub


def basename(model_id: str) -> str:
    """The id without its owner."""
    return model_id.rsplit("/", 1)[-1]


def normal(name: str) -> str:
    """Lower case with one kind of separator, so that ``Llama_3.1 8B`` and ``llama-3.1-8b`` are the same."""
    return _SEPARATORS("-", name.strip().lower()).strip("-")


def squeezed(name: str) -> str:
    """The normal form without separators and the ``meta`` prefix, for names written in one word."""
    return re.sub(r"[-.]", "", normal(name).removeprefix("meta-"))


def stem(name: str) -> str:
    """The normal basename without its variant and quantisation suffixes."""
    plain = _QUANTISED.sub("", normal(basename(name)))
    return _VARIANT.sub("", plain)


def without_quantisation(name: str) -> str:
    """The normal basename without a suffix such as ``-bnb-4bit``."""
    return _QUANTISED.sub("", normal(basename(name)))


def variant_in(name: str) -> Variant | None:
    """What the name says about its training; None when it says nothing."""
    short = basename(name)
    if _REASONING.search(short):
        return "reasoning"
    if _INSTRUCT.search(short):
        return "instruct"
    return "base" if _BASE.search(short) else None


def saying_size(ids: Iterable[str], asked: str) -> list[str]:
    """The ids that carry that size as a word (``32B`` in ``Qwen2.5-32B-Instruct``, not in ``132B``)."""
    word = normal(asked)
    pattern = rf"(?<![a-z0-9.]){re.escape(word)}(?![a-z0-9.])"
    if not is_composite(asked):
        pattern += r"(?!-a\d)"
    search = re.compile(pattern).search
    return [i for i in ids if word in (name := normal(basename(i))) and search(name)]


def preference(model_id: str) -> tuple[int, int, str]:
    """The sort key among models of one size: owner, then instruct before base before reasoning, then the name."""
    owner = model_id.split("/", 1)[0]
    rank = OWNER_ORDER.index(owner) if owner in OWNER_ORDER else len(OWNER_ORDER)
    return rank, {"instruct": 0, None: 1, "base": 1, "reasoning": 2}[variant_in(model_id)], model_id


def closest(asked: str, ids: Iterable[str], limit: int = 3) -> list[str]:
    """The ids whose names look most like what was asked."""
    full = {normal(i): i for i in ids}
    short: dict[str, str] = {}
    for i in full.values():
        short.setdefault(normal(basename(i)), i)
    key = normal(asked)
    near = [full[k] for k in get_close_matches(key, full, limit, 0.6)] if "/" in asked else []
    near += [short[k] for k in get_close_matches(normal(basename(asked)), short, limit, 0.5)]
    return list(dict.fromkeys(near))[:limit]


def pick(found: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The model that several equally good matches mean, and the others."""
    ordered = sorted(
        found, key=lambda i: (preference(i)[0], {None: 0, "base": 0, "instruct": 1, "reasoning": 2}[variant_in(i)], i)
    )
    return ordered[0], tuple(ordered[1:])
