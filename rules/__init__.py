"""Rules of the linter."""

from __future__ import annotations

from lora_advise.rule import Rule

RULES: tuple[Rule, ...] = ()
"""Every rule, in the order of its code."""
