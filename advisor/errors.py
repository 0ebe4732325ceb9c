"""The one error that reaches the user as a sentence."""

from __future__ import annotations


class LoraAdviseError(ValueError):
    """Something that the user gave cannot be judged: the message names the thing, the place and the way out (exit 2)."""
