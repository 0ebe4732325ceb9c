"""Which weights an adapter touches and how many parameters it has, by PEFT's own rules and without torch.

Read in peft 0.21.2: ``tuners/tuners_utils.py`` (``_maybe_include_all_linear_layers``, ``_inject_parameters``,
``_check_tied_modules``), ``tuners/lora/model.py`` (``_add_modules_to_save_to_tie``, ``_add_targets_to_tie``), ``utils/transformers_weight_conversion.py`` (``_convert_peft_config_moe``), ``utils/other.py``
(``_set_trainable``) and ``tuners/lora/layer.py`` (``ParamWrapper``).
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from lora_advise.adapter_paths import compiled, ends, matching, prefixes, share_of_names, stacks
from lora_advise.facts import LinearModule, LoraFacts, ModelFacts

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

_EMBEDDING_NAMES = ("embed_tokens", "lm_head")
"""The names by which PEFT notices that tied weights are part of an adapter (``utils/constants.py``)."""


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


class _Setting(NamedTuple):
    """An adapter on a model: the depth of each stack, the names saved in full, the paths that tying adds."""

    model: ModelFacts
    lora: LoraFacts
    depths: dict[str, int]
    saved: tuple[str, ...]
    tied: tuple[str, ...]

    def depth(self, path: str) -> int:
        """Number of layers in the stack of that path."""
        return self.depths.get(path.split("*", 1)[0], self.model.num_hidden_layers)


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
    setting = _setting(model, lora)
    selection = _selection(setting)
    found = []
    for module in (*model.modules, *_twins(model)):
        share = _share(setting, selection, module)
        if share:
            count = round(module.count * share)
            kept = module if count == module.count else module.changed({"count": max(1, count)})
            found.append(Target(kept, 2 if module.kind == "parameter" and module.name in selection.doubled else 1))
    return tuple(found)


def _setting(model: ModelFacts, lora: LoraFacts) -> _Setting:
    """With ``ensure_weight_tying`` PEFT saves or adapts the input embedding wherever a head that is tied to it is named."""
    saved = _saved_names(lora)
    setting = _Setting(model, lora, stacks(model), saved, ())
    pair = _tied_pair(model) if lora.ensure_weight_tying else ()
    if not pair:
        return setting
    if any(name.rsplit(".", 1)[-1] in _EMBEDDING_NAMES for name in saved):
        alike = [next((n for n in saved if any(ends(owner, n) for owner in prefixes(path))), None) for path in pair[1:]]
        return setting._replace(saved=(pair[0], *(n for n in saved if n not in alike)))
    asked = () if isinstance(lora.target_modules, str) else lora.target_modules
    return setting._replace(tied=pair if any(n.rsplit(".", 1)[-1] in _EMBEDDING_NAMES for n in asked) else ())


def _tied_pair(model: ModelFacts) -> tuple[str, ...]:
    """Paths of the input embedding and of all that share its weights; empty where the model ties nothing."""
    if not model.tie_word_embeddings:
        return ()
    heads = model.with_role("lm_head")
    shapes = {(head.d_out, head.d_in) for head in heads}
    source = next((m for m in model.modules if m.kind == "embedding" and (m.d_in, m.d_out) in shapes), None)
    if source is None:
        return ()
    shared = [head.path for head in heads if (head.d_out, head.d_in) == (source.d_in, source.d_out)]
    return (source.path, *shared, *(twin.path for twin in _twins(model)))


def _twins(model: ModelFacts) -> tuple[LinearModule, ...]:
    """Further places of an embedding that encoder and decoder share: the module table has it once, PEFT adapts each."""
    shared = [m for m in model.modules if m.kind == "embedding" and m.name == "shared"]
    return tuple(
        m.changed({"path": f"{m.path.removesuffix('shared')}{side}.embed_tokens"})
        for m in shared for side in ("encoder", "decoder")
    )  # fmt: skip


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
    rows = len(lora.trainable_token_indices or ())
    # An embedding may be narrower than the layers behind it (ALBERT, OPT 350M).
    width = next((m.d_out for m in model.with_role("embedding") if m.kind == "embedding"), model.hidden_size)
    return lora_params(model, lora) + saved_params(model, lora) + _bias_params(model, lora) + rows * width


def saved_params(model: ModelFacts, lora: LoraFacts) -> int:
    """Parameters of the full copies that ``modules_to_save`` trains: a tied output head gets a copy of its own, unless
    ``ensure_weight_tying`` keeps it tied. Norm weights inside such a module are not in the module table."""
    names = _setting(model, lora).saved
    total = 0
    for module in (*model.modules, *_twins(model)) if names else ():
        owners = prefixes(module.path.removesuffix(".weight") if module.kind == "parameter" else module.path)
        if any(owner.endswith(name) for owner in owners for name in names):
            total += module.weights + (module.d_out * module.count * module.experts if module.bias else 0)
    return total


def _saved_names(lora: LoraFacts) -> tuple[str, ...]:
    heads = _HEADS if lora.task_type in ("SEQ_CLS", "TOKEN_CLS") else ()
    return tuple(dict.fromkeys((*lora.modules_to_save, *heads)))


def _bias_params(model: ModelFacts, lora: LoraFacts) -> int:
    """PEFT frees what is called ``bias``: that of a fused expert matrix has another name."""
    if lora.bias == "none":
        return 0
    family = model.modules if lora.bias == "all" else targeted(model, lora)
    named = (m for m in family if m.kind != "parameter" or m.name == "weight")
    return sum(m.d_out * m.count * m.experts for m in named if m.bias)


def _selection(setting: _Setting) -> _Selection:
    model, lora = setting.model, setting.lora
    every = isinstance(lora.target_modules, str) and lora.target_modules.lower() == "all-linear"
    pattern = lora.target_modules if isinstance(lora.target_modules, str) and not every else None
    names = () if isinstance(lora.target_modules, str) else tuple(lora.target_modules)
    base = next((base for base, types in _CONVERTED.items() if model.model_type in types), None)
    # A conversion needs fused experts: with one nn.Linear per expert (transformers 4) PEFT leaves the names alone.
    if base is None or not any(m.kind == "parameter" and m.role == "expert" for m in model.modules):
        return _Selection(names, pattern, every, lora.target_parameters, frozenset())
    return _converted(setting, names, pattern, every, _EXPERT_NAMES[base])


def _converted(
    setting: _Setting, names: tuple[str, ...], pattern: str | None, every: bool, mapping: dict[str, str]
) -> _Selection:
    """PEFT rewrites names of transformers 4 into fused parameters, and doubles the rank of gate_up_proj."""
    if every:
        plain = _Selection((), None, True, (), frozenset())
        found = {m.name for m in setting.model.modules if _share(setting, plain, m)}
        names = tuple(sorted(found | set(mapping)))
    elif pattern is not None:
        names = _names_behind(setting, pattern, mapping)
        if not names:
            return _Selection((), pattern, False, setting.lora.target_parameters, frozenset())
    parameters = set(setting.lora.target_parameters)
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


def _names_behind(setting: _Setting, pattern: str, mapping: dict[str, str]) -> tuple[str, ...]:
    """Last names that a regular expression matches, fused experts probed under the names that they had before."""
    model = setting.model
    compiled(pattern)
    found = {m.name for m in model.modules if matching(pattern, m.path, setting.depth(m.path))}
    for old, new in mapping.items():
        holders = [m.path.rpartition(".")[0] for m in model.modules if m.name == new and m.kind == "parameter"]
        if any(matching(pattern, f"{holder}.{old}", setting.depth(holder)) for holder in holders):
            found.add(old)
    return tuple(sorted(n for n in found if n not in setting.lora.modules_to_save))


def _share(setting: _Setting, selection: _Selection, module: LinearModule) -> Fraction:
    """Which share of a family's occurrences is targeted, from 0 to 1; pro rata for a family of some layers only."""
    as_parameter = module.path if module.kind == "parameter" else f"{module.path}.weight"
    if any(ends(as_parameter, name) for name in selection.parameters):
        return Fraction(1)
    if module.kind == "parameter" or _excluded(setting, module):
        return Fraction(0)
    if module.path in setting.tied:
        return Fraction(1)
    if selection.every_linear:
        return Fraction(int(module.kind == "linear" and not _output_head(module, setting.lora)))
    depth = setting.depth(module.path)
    if selection.pattern is not None:
        return matching(compiled(selection.pattern).pattern, module.path, depth)
    return share_of_names(module.path, depth, selection.names, setting.lora.layers_to_transform)


def _output_head(module: LinearModule, lora: LoraFacts) -> bool:
    if module.role == "lm_head":
        return True
    return lora.task_type == "SEQ_CLS" and module.path in _HEADS


def _excluded(setting: _Setting, module: LinearModule) -> bool:
    """Excluded by name or pattern, or inside a module that is saved in full, which PEFT never adapts."""
    excluded = setting.lora.exclude_modules
    if isinstance(excluded, str):
        if excluded and matching(compiled(excluded).pattern, module.path, setting.depth(module.path)):
            return True
    elif excluded and any(ends(module.path, name) for name in excluded):
        return True
    return any(ends(owner, name) for owner in prefixes(module.path) for name in setting.saved)
