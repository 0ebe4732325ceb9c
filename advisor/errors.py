"""The one error that reaches the user as a sentence."""

from __future__ import annotations


class LoraAdviseError(ValueError):
    """Something that the user gave cannot be judged: the message names the thing, the place and the way out (exit 2)."""


def first_line(error: Exception) -> str:
    """What a library says, or the error's name: one line of at most 200 characters."""
    return " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())[:200]
