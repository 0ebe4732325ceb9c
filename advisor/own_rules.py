"""Rules of a team's own package: a module that the settings name, or an entry point, with a tuple ``RULES``."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from lora_advise.errors import LoraAdviseError
from lora_advise.rule import Rule

GROUP = "lora_advise.rules"
"""The group of entry points that a package may offer its rules under."""


def load_rules(plugins: tuple[str, ...]) -> tuple[Rule, ...]:
    """The rules of these plugins: names of entry points of the group ``lora_advise.rules``, or of modules.

    Only what the settings name is imported. Raises LoraAdviseError for what cannot be imported, has no ``RULES``, or
    takes a name or code that is ours.
    """
    from lora_advise.rules import RULES

    offered = {point.name: point for point in entry_points(group=GROUP)}
    taken = {word for rule in RULES for word in (rule.name, rule.code)}
    found: list[Rule] = []
    for name in plugins:
        try:
            loaded = offered[name].load() if name in offered else import_module(name)
        except (ImportError, AttributeError, SyntaxError) as error:
            raise LoraAdviseError(
                f"plugins: {name[:80]!r} cannot be imported ({' '.join(str(error).split())[:120]}); install the package, or name "
                f"an entry point of the group {GROUP}."
            ) from None
        rules = loaded if isinstance(loaded, tuple) else getattr(loaded, "RULES", None)
        if not isinstance(rules, tuple) or not all(isinstance(rule, Rule) for rule in rules):
            raise LoraAdviseError(
                f"plugins: {name[:80]!r} has no tuple RULES of rules made with lora_advise.rule.rule."
            )
        for rule in rules:
            if {rule.name, rule.code} & taken:
                raise LoraAdviseError(
                    f"plugins: {name[:80]!r}: the rule {rule.name} ({rule.code}) takes a name that is in use."
                )
            taken |= {rule.name, rule.code}
        found += rules
    return tuple(found)
