"""Which weights an adapter touches and how many parameters it has, by PEFT's own rules and without torch.

Read in peft 0.21.2: ``tuners/tuners_utils.py`` (``check_target_module_exists``, ``_maybe_include_all_linear_layers``,
``_inject_parameters``), ``utils/transformers_weight_conversion.py`` (``_convert_peft_config_moe``), ``utils/other.py``
(``_set_trainable``) and ``tuners/lora/layer.py`` (``ParamWrapper``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import LinearModule, LoraFacts, ModelFacts

LONGEST_PATTERN = 2000
"""Characters of a regular expression that we are willing to run: configs are written by strangers."""

_EXPERT_NAMES = {
    "mixtral": {"gate": "gate.weight", "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"},
    "qwen2_moe": {
        "gate": "gate.weight", "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"
    },
}  # fmt: skip
"""Names of transformers 4, and the parameters that PEFT makes of them (``_MOE_TARGET_MODULE_MAPPING``)."""

_CONVERTED = {
    "mixtral": ("mixtral", "minimax", "minimax_m2"),
    "qwen2_moe": (
        "afmoe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe", "glm4_moe", "glm4_moe_lite",
        "glm_moe_dsa", "glm4v_moe", "longcat_flash", "solar_open", "mellum", "qwen3_moe", "qwen3_omni_moe",
        "qwen3_omni_moe_thinker", "qwen3_omni_moe_text", "qwen3_next", "hunyuan_v1_moe", "flex_olmo", "olmoe",
        "exaone_moe", "cohere2_moe",
    ),
}  # fmt: skip
"""Model types that PEFT converts (transformers 5.23 ``conversion_mapping.py``); qwen2_moe itself is not among them."""

_HEADS = ("classifier", "score")
"""What PEFT adds to ``modules_to_save`` for SEQ_CLS and TOKEN_CLS (``peft_model.py``)."""


class Target(NamedTuple):
    """A module family with an adapter. ``ranks`` is 2 where PEFT doubles the rank of a fused gate and up projection."""

    module: LinearModule
    ranks: int = 1

    @property
    def per_rank(self) -> int:
        """Adapter parameters for each unit of r."""
        return self.ranks * self.module.lora_params(1)


class _Selection(NamedTuple):
    """What is targeted after PEFT's conversion of MoE names."""

    names: tuple[str, ...]
    pattern: str | None
    every_linear: bool
    parameters: tuple[str, ...]
    doubled: frozenset[str]


def targeted(model: ModelFacts, lora: LoraFacts) -> tuple[LinearModule, ...]:
    """The module families that receive an adapter, with ``count`` lowered where only some layers do.

    ``all-linear`` means every linear layer but the output head, vision and audio towers and ``nn.Linear`` routers
    included; for the MoE types that PEFT converts it also means the fused experts. An unknown name matches nothing.
    """
    return tuple(target.module for target in targets(model, lora))


def targets(model: ModelFacts, lora: LoraFacts) -> tuple[Target, ...]:
    """Like :func:`targeted`, with the factor on the rank. Raises LoraAdviseError for a pattern that cannot be read."""
    key = (id(model), id(lora))
    known = _REMEMBERED.get(key)
    if known is None:
        if len(_REMEMBERED) >= _KEPT:
            _REMEMBERED.clear()
        known = _REMEMBERED[key] = (model, lora, _targets(model, lora))
    return known[2]


_KEPT = 64
_REMEMBERED: dict[tuple[int, int], tuple[ModelFacts, LoraFacts, tuple[Target, ...]]] = {}
"""Answers by the identity of the frozen facts, which the entry keeps alive: one advice asks for the same pair often."""


def _targets(model: ModelFacts, lora: LoraFacts) -> tuple[Target, ...]:
    selection = _selection(model, lora)
    found = []
    for module in model.modules:
        share = _share(model, lora, selection, module)
        if share:
            count = round(module.count * share)
            kept = module if count == module.count else module.changed({"count": max(1, count)})
            found.append(Target(kept, 2 if module.kind == "parameter" and module.name in selection.doubled else 1))
    return tuple(found)


def params_per_rank(model: ModelFacts, lora: LoraFacts) -> int:
    """Sum of d_in + d_out over every adapted matrix: adapter parameters for each unit of r."""
    return sum(target.per_rank for target in targets(model, lora))


def lora_params(model: ModelFacts, lora: LoraFacts) -> int:
    """Parameters of A and B, and of the magnitude vectors under DoRA."""
    chosen = targets(model, lora)
    pairs = lora.r * sum(target.per_rank for target in chosen)
    if not lora.use_dora:
        return pairs
    return pairs + sum(t.module.d_out * t.module.count for t in chosen if t.module.kind != "parameter")


def trainable_params(model: ModelFacts, lora: LoraFacts) -> int:
    """Everything that receives a gradient: adapters, copies of ``modules_to_save``, biases, trained token rows.

    Biases of norm layers are not in the module table, so ``bias="all"`` is a lower bound for models that have them.
    """
    tokens = len(lora.trainable_token_indices or ()) * model.hidden_size
    return lora_params(model, lora) + saved_params(model, lora) + _bias_params(model, lora) + tokens


def saved_params(model: ModelFacts, lora: LoraFacts) -> int:
    """Parameters of the full copies that ``modules_to_save`` trains (a tied output head gets a copy of its own)."""
    names = _saved_names(lora)
    total = 0
    for module in model.modules:
        owners = _prefixes(module.path.removesuffix(".weight") if module.kind == "parameter" else module.path)
        if any(owner.endswith(name) for owner in owners for name in names):
            total += module.weights + (module.d_out * module.count * module.experts if module.bias else 0)
    shared = lora.ensure_weight_tying and model.tie_word_embeddings
    if shared and any("embed_tokens".endswith(n) for n in names) and any("lm_head".endswith(n) for n in names):
        total -= model.vocab_size * model.hidden_size
    return total


def _saved_names(lora: LoraFacts) -> tuple[str, ...]:
    heads = _HEADS if lora.task_type in ("SEQ_CLS", "TOKEN_CLS") else ()
    return tuple(dict.fromkeys((*lora.modules_to_save, *heads)))


def _bias_params(model: ModelFacts, lora: LoraFacts) -> int:
    if lora.bias == "none":
        return 0
    family = model.modules if lora.bias == "all" else targeted(model, lora)
    return sum(m.d_out * m.count * m.experts for m in family if m.bias)


def _prefixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _selection(model: ModelFacts, lora: LoraFacts) -> _Selection:
    every = isinstance(lora.target_modules, str) and lora.target_modules.lower() == "all-linear"
    pattern = lora.target_modules if isinstance(lora.target_modules, str) and not every else None
    names = () if isinstance(lora.target_modules, str) else tuple(lora.target_modules)
    base = next((base for base, types in _CONVERTED.items() if model.model_type in types), None)
    # A conversion needs fused experts: with one nn.Linear per expert (transformers 4) PEFT leaves the names alone.
    if base is None or not any(m.kind == "parameter" and m.role == "expert" for m in model.modules):
        return _Selection(names, pattern, every, lora.target_parameters, frozenset())
    return _converted(model, lora, names, pattern, every, _EXPERT_NAMES[base])


def _converted(
    model: ModelFacts,
    lora: LoraFacts,
    names: tuple[str, ...],
    pattern: str | None,
    every: bool,
    mapping: dict[str, str],
) -> _Selection:
    """PEFT rewrites names of transformers 4 into fused parameters, and doubles the rank of gate_up_proj."""
    if every:
        plain = _Selection((), None, True, (), frozenset())
        found = {m.name for m in model.modules if _share(model, lora, plain, m)}
        names = tuple(sorted(found | set(mapping)))
    elif pattern is not None:
        names = _names_behind(model, lora, pattern, mapping)
        if not names:
            return _Selection((), pattern, False, lora.target_parameters, frozenset())
    parameters = set(lora.target_parameters)
    kept, fused = [], set()
    for name in names:
        old = next((old for old in mapping if name == old or name.endswith(f".{old}")), None)
        if old is None:
            kept.append(name)
            continue
        parameters.add(mapping[old])
        if mapping[old] == "gate_up_proj":
            fused.add(old)
    doubled = frozenset({"gate_up_proj"}) if len(fused) == 2 else frozenset()
    return _Selection(tuple(kept), None, False, tuple(sorted(parameters)), doubled)


def _names_behind(model: ModelFacts, lora: LoraFacts, pattern: str, mapping: dict[str, str]) -> tuple[str, ...]:
    """Last names that a regular expression matches, fused experts probed under the names that they had before."""
    compiled = _compiled(pattern)
    found = {m.name for m in model.modules if _matching(compiled.pattern, m.path, model.num_hidden_layers)}
    for old, new in mapping.items():
        holders = (m.path.rpartition(".")[0] for m in model.modules if m.name == new and m.kind == "parameter")
        if any(_matching(compiled.pattern, f"{holder}.{old}", model.num_hidden_layers) for holder in holders):
            found.add(old)
    return tuple(sorted(n for n in found if n not in lora.modules_to_save))


def _share(model: ModelFacts, lora: LoraFacts, selection: _Selection, module: LinearModule) -> Fraction:
    """Which share of a family's occurrences is targeted, from 0 to 1."""
    as_parameter = module.path if module.kind == "parameter" else f"{module.path}.weight"
    if any(_ends(as_parameter, name) for name in selection.parameters):
        return Fraction(1)
    if module.kind == "parameter" or _excluded(lora, module, model.num_hidden_layers):
        return Fraction(0)
    if selection.every_linear:
        return Fraction(int(module.kind == "linear" and not _output_head(module, lora)))
    if selection.pattern is not None:
        return _matching(_compiled(selection.pattern).pattern, module.path, model.num_hidden_layers)
    share = max((_named(module.path, name, model.num_hidden_layers) for name in selection.names), default=Fraction(0))
    return share * _layer_share(lora, model.num_hidden_layers) if "*" in module.path else share


def _output_head(module: LinearModule, lora: LoraFacts) -> bool:
    if module.role == "lm_head":
        return True
    return lora.task_type == "SEQ_CLS" and module.path in _HEADS


def _layer_share(lora: LoraFacts, layers: int) -> Fraction:
    """Share of layers that ``layers_to_transform`` keeps; families of some layers only are taken pro rata."""
    if not lora.layers_to_transform:
        return Fraction(1)
    return Fraction(len({i for i in lora.layers_to_transform if 0 <= i < layers}), layers)


def _excluded(lora: LoraFacts, module: LinearModule, layers: int) -> bool:
    """Excluded by name or pattern, or inside a module that is saved in full, which PEFT never adapts."""
    excluded = lora.exclude_modules
    if isinstance(excluded, str):
        if excluded and _matching(_compiled(excluded).pattern, module.path, layers):
            return True
    elif excluded and any(_ends(module.path, name) for name in excluded):
        return True
    return any(_ends(owner, name) for owner in _prefixes(module.path) for name in _saved_names(lora))


def _named(path: str, name: str, layers: int) -> Fraction:
    if any(part.isdigit() for part in name.split(".")):
        return _of_layers(path, layers, lambda key: _ends(key, name))
    return Fraction(int(_ends(path, name)))


def _ends(key: str, name: str) -> bool:
    return key == name or key.endswith(f".{name}")


def _compiled(pattern: str) -> re.Pattern[str]:
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
def _matching(pattern: str, path: str, layers: int) -> Fraction:
    compiled = re.compile(pattern)
    return _of_layers(path, layers, lambda key: compiled.fullmatch(key) is not None)


def _of_layers(path: str, layers: int, test: Callable[[str], bool]) -> Fraction:
    """Share of layer indices for which the path passes; further indices (experts) are represented by 0."""
    if "*" not in path:
        return Fraction(int(test(path)))
    head, tail = path.split("*", 1)
    tail = tail.replace("*", "0")
    hits = sum(test(f"{head}{index}{tail}") for index in range(layers))
    return Fraction(hits, layers)
