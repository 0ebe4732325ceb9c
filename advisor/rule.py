"""The shape of a rule: metadata and a pure generator over the sections of the facts that it names as parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import NamedTuple

from lora_advise.finding import Confidence, Hit, Severity

SECTIONS = (
    "task",
    "model",
    "lora",
    "quant",
    "train",
    "data",
    "hardware",
    "stack",
    "facts",
    "run",
    "config",
    "comments",
)
"""What a rule may ask for by parameter name; ``facts`` is the whole tree and is always known, ``config`` a file as it is
written (:class:`lora_advise.reading.Reading`), ``comments`` what silences rules in it."""


class Rule(NamedTuple):
    """One check. ``needs`` are the sections without which it is skipped, ``wants`` those that it can do without."""

    name: str
    code: str
    severity: Severity
    confidence: Confidence
    sources: tuple[str, ...]
    needs: tuple[str, ...]
    since: str
    check: Callable[..., Iterator[Hit]]
    wants: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The first line of the rule's documentation."""
        return self.documentation.split("\n", 1)[0]

    @property
    def documentation(self) -> str:
        """The rule's docstring: Why, Example, Instead, Evidence, Known problems."""
        return inspect.cleandoc(self.check.__doc__ or "")


def rule(
    name: str,
    code: str,
    severity: Severity,
    confidence: Confidence,
    sources: tuple[str, ...],
    since: str = "0.1.0",
) -> Callable[[Callable[..., Iterator[Hit]]], Rule]:
    """Turn a generator function into a :class:`Rule`; its parameter names are the sections that it needs.

    A section whose parameter has a default is handed over where it is known.
    """

    def wrap(check: Callable[..., Iterator[Hit]]) -> Rule:
        code_object = check.__code__
        asked = code_object.co_varnames[: code_object.co_argcount]
        unknown = [n for n in asked if n not in SECTIONS]
        if unknown:
            raise TypeError(f"rule {name}: no section of the facts is called {unknown[0]}")
        needs = asked[: len(asked) - len(check.__defaults__ or ())]
        return Rule(name, code, severity, confidence, sources, needs, since, check, asked[len(needs) :])

    return wrap
