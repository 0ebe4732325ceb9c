"""How PEFT matches names and patterns against the paths of modules, on families of layers instead of single ones.

Read in peft 0.21.2: ``tuners/tuners_utils.py`` (``check_target_module_exists``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import ModelFacts

LONGEST_PATTERN = 2000
"""Characters of a regular expression that we are willing to run: configs are written by strangers."""

_LANGUAGE = frozenset({"attention", "mlp", "mixer", "expert", "shared_expert", "router"})


def ends(key: str, name: str) -> bool:
    """Whether a path is that name or ends with it, as names in ``target_modules`` match."""
    return key == name or key.endswith(f".{name}")


def prefixes(path: str) -> list[str]:
    """The path and those of all modules around it, from the outermost."""
    parts = path.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def stacks(model: ModelFacts) -> dict[str, int]:
    """How many layers each stack has, by the path in front of the layer index: a vision tower has a depth of its own."""
    found: dict[str, tuple[int, int, bool]] = {}
    for module in model.modules:
        if "*" not in module.path:
            continue
        head, stars = module.path.split("*", 1)[0], module.path.count("*")
        fewest, depth, language = found.get(head, (stars, 0, False))
        # Further stars are places within a layer (experts), which would count a layer more than once.
        if stars <= fewest:
            depth = max(module.count, depth if stars == fewest else 0)
        found[head] = (min(stars, fewest), depth, language or module.role in _LANGUAGE)
    # In a hybrid no single family may be in every layer.
    return {h: max(n, model.num_hidden_layers) if lang else n for h, (_, n, lang) in found.items()}


def share_of_names(path: str, depth: int, names: tuple[str, ...], layers: tuple[int, ...] | None) -> Fraction:
    """Share of a family's layers that a list of names matches, within ``layers_to_transform``."""
    if layers:
        return _share_in_layers(path, depth, names, frozenset(layers))
    if any(part.isdigit() for name in names for part in name.split(".")):
        return _of_layers(path, depth, lambda _, key: any(ends(key, name) for name in names))
    return Fraction(int(any(ends(path, name) for name in names)))


def _share_in_layers(path: str, depth: int, names: tuple[str, ...], layers: frozenset[int]) -> Fraction:
    """PEFT finds the layer's index behind two names at least, and leaves out what has none; a full path always counts."""
    head, star, tail = path.partition("*")
    if not star or head.count(".") < 2 or not tail:
        return _of_layers(path, depth, lambda _, key: key in names)
    return _of_layers(
        path, depth, lambda index, key: key in names or (index in layers and any(ends(key, name) for name in names))
    )


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern of a configuration. Raises LoraAdviseError for one that is too long or no regular expression."""
    if len(pattern) > LONGEST_PATTERN:
        raise LoraAdviseError(
            f"The module pattern in lora.target_modules or lora.exclude_modules has {len(pattern):,} characters; "
            f"give a list of module names, or a pattern of at most {LONGEST_PATTERN:,}."
        )
    try:
        return re.compile(pattern)
    except re.error as error:
        raise LoraAdviseError(
            f"The module pattern {pattern[:80]!r} in lora.target_modules or lora.exclude_modules is not a regular "
            f"expression ({error}); give a list of module names, or correct it."
        ) from error


@lru_cache(maxsize=4096)
def matching(pattern: str, path: str, depth: int) -> Fraction:
    """Share of a family's layers that the pattern matches from first to last character."""
    test = compiled(pattern).fullmatch
    return _of_layers(path, depth, lambda _, key: test(key) is not None)


def _of_layers(path: str, depth: int, test: Callable[[int, str], bool]) -> Fraction:
    """Share of layer indices for which the path passes; further indices (experts) are represented by 0."""
    if "*" not in path:
        return Fraction(int(test(-1, path)))
    head, tail = path.split("*", 1)
    tail = tail.replace("*", "0")
    hits = sum(test(index, f"{head}{index}{tail}") for index in range(depth))
    return Fraction(hits, depth)
