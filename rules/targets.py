"""Rules about the names in target_modules: what they match, and what they leave out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches

from lora_advise.facts import LinearModule, LoraFacts, ModelFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule

PATTERN_SIGNS = re.compile(r"[*+?^$|()\[\]{}\\]")
"""Characters that only a regular expression has."""


ALL_WORDS = {"all", "alllinear", "alllinears", "alllinearlayers", "alllayers", "allmodules", "linearall", "alllin"}
"""Spellings of the word for all linear layers, without hyphens."""


def matches(module: LinearModule, entry: str) -> bool:
    """Whether a list entry of target_modules matches the module, as PEFT does: the whole path or its end after a
    dot."""
    entry = re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", entry)
    return module.path == entry or module.path.endswith("." + entry)


def adapted(model: ModelFacts, lora: LoraFacts) -> tuple[LinearModule, ...]:
    """The modules that PEFT would adapt."""
    from lora_advise.adapters import targeted

    return targeted(model, lora)


def language_targets(model: ModelFacts) -> tuple[str, ...]:
    """Names of the linear layers of the language model's blocks."""
    modules = model.with_role("attention", "mlp", "shared_expert")
    return tuple(dict.fromkeys(m.name for m in modules if m.kind == "linear"))


def all_word(entry: str, config: Reading | None = None) -> bool:
    """Whether an entry is PEFT's word for all linear layers; in a file, any word that was meant so (TGT317 judges those)."""
    if entry.lower() == "all-linear" and config is None:
        return True
    return config is not None and re.sub(r"[\s_\-]+", "", entry.lower()) in ALL_WORDS


def _meant(entry: str, names: list[str]) -> list[str]:
    """The modules that a wrong name may mean: the halves of a fused one, else the closest spelling."""
    halves = [name for name in dict.fromkeys(names) if set(name.split("_")) < set(entry.split("_"))]
    return halves or get_close_matches(entry, names, n=1, cutoff=0.6)


_USUAL = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj"}


_CONVERTED = {"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "gate"}


def _converted(model: ModelFacts, lora: LoraFacts, missing: list[str]) -> bool:
    """Whether PEFT makes parameters of fused experts of such names."""
    fused = bool(_CONVERTED & set(missing)) and any(m.kind == "parameter" for m in model.modules)
    return fused and any(m.kind == "parameter" for m in adapted(model, lora))


def _left_to_unsloth(missing: list[str], entries: list[str], config: Reading | None) -> bool:
    """Whether Unsloth takes care of the names: it has the usual list for every model, whose layers it splits, or whose experts
    it reaches by these names."""
    unsloth = config is not None and config.dialect.name.startswith("unsloth")
    return unsloth and set(missing) <= _USUAL and len(missing) < len(entries)


@rule("target-matches-nothing", "TGT301", Severity.ERROR, Confidence.FACT, ("peft-code",))
def target_matches_nothing(model: ModelFacts, lora: LoraFacts, config: Reading | None = None) -> Iterator[Hit]:
    """A name in target_modules matches no module of the model.

    Why: PEFT raises only when none of the names matches. A name that matches nothing beside others is dropped in
        silence,
        and that projection stays frozen.
    Example:
        lora: {target_modules: [q_proj, k_proj, v_proj, o_proj, gate_up_proj, down_proj]}
    Instead:
        lora: {target_modules: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]}
    Evidence: PEFT's target matching, run against the model's own module names.
    Known problems: one list meant for several architectures is a common habit; each unmatched name is then reported. Not so for
        Unsloth, whose own copies of models have other names, and which reaches experts by those of the usual list.
    """
    if isinstance(lora.target_modules, str):
        return
    if not lora.target_modules and not lora.target_parameters:
        yield Hit(
            f"target_modules is empty, so no module of {model.name} gets an adapter and nothing would be trained.",
            ("lora.target_modules",),
            (Change("lora.target_modules", language_targets(model)),),
        )
    entries = [e for e in lora.target_modules if not all_word(e, config) and not PATTERN_SIGNS.search(e)]
    entries = [e for e in entries if any(c.isalnum() for c in e)]
    missing = [e for e in entries if not any(matches(m, e) for m in model.modules if m.kind != "parameter")]
    missing = [e for e in missing if e not in _CONVERTED] if _converted(model, lora, missing) else missing
    if not missing or _left_to_unsloth(missing, entries, config):
        return
    kept = tuple(e for e in lora.target_modules if e not in missing)
    names = [m.name for m in model.modules if m.kind == "linear"]
    near = [name for entry in missing for name in _meant(entry, names)]
    hint = f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else "."
    if any(entry.endswith(",") for entry in missing):
        near = [entry.rstrip(",") for entry in missing if entry.rstrip(",") in names]
        hint = ": the comma belongs to the name, since spaces alone part them here."
    yield Hit(
        f"{', '.join(missing)} of target_modules {'matches' if len(missing) == 1 else 'match'} no module of "
        f"{model.name}, whose linear layers are {', '.join(dict.fromkeys(names))[:200]}{hint}",
        ("lora.target_modules",),
        (Change("lora.target_modules", tuple(dict.fromkeys((*kept, *near))) or language_targets(model)),),
        Severity.WARNING if kept else None,
    )


@rule("target-list-and-pattern-mixed", "TGT302", Severity.ERROR, Confidence.FACT, ("peft-code",))
def target_list_and_pattern_mixed(model: ModelFacts, lora: LoraFacts, config: Reading | None = None) -> Iterator[Hit]:
    """A bare name is given where PEFT reads a pattern, or a pattern where it reads names.

    Why: a string is matched as a regular expression against the whole path, so "q_proj" matches nothing; an entry of a
        list
        is a name, so ".*q_proj" and "all-linear" in a list match nothing either.
    Example:
        lora: {target_modules: q_proj}
    Instead:
        lora: {target_modules: all-linear}
    Evidence: PEFT's check_target_module_exists.
    Known problems: frameworks that turn a list of one into a string, or the reverse, may mean it well.
    """
    value = lora.target_modules
    if isinstance(value, str):
        if all_word(value, config) or PATTERN_SIGNS.search(value) or any(m.path == value for m in model.modules):
            return
        if config is not None and config.dialect.framework == "trl" and "," not in value:
            yield Hit(
                f'TRL makes the text "{value[:60]}" of a list of one name, and PEFT matches that against whole paths: it finds '
                "nothing. Write a pattern, or name a second module.",
                ("lora.target_modules",),
                (Change("lora.target_modules", rf".*\.{value}"),),
            )
            return
        yield Hit(
            f'target_modules is the string "{value[:60]}", which PEFT matches against whole paths: it finds nothing. '
            f"Write it as a list.",
            ("lora.target_modules",),
            (Change("lora.target_modules", tuple(part.strip() for part in value.split(",") if part.strip())),),
        )
        return
    wrong = [e for e in value if (e == "all-linear" and config is None) or PATTERN_SIGNS.search(e)]
    if wrong:
        text = "all-linear" if "all-linear" in wrong or len(wrong) > 1 else wrong[0]
        yield Hit(
            f'"{wrong[0][:60]}" stands in a list, where PEFT reads names and not patterns: it matches nothing. '
            "Write it as a single string.",
            ("lora.target_modules",),
            (Change("lora.target_modules", text),),
        )


@rule(
    "vision-tower-adapted",
    "TGT304",
    Severity.WARNING,
    Confidence.MEASURED,
    ("ms-swift-defaults", "llava-1.5", "qwen-vl"),
)
def vision_tower_adapted(model: ModelFacts, lora: LoraFacts) -> Iterator[Hit]:
    """The adapter reaches into the vision or audio tower of a multimodal model.

    Why: names like q_proj and the keyword all-linear match the tower as well. On text its adapters stay zero, and some
        servers
        and merges refuse them.
    Example:
        model: vision-language
        lora: {target_modules: all-linear}
        hardware: null
    Instead:
        model: vision-language
        lora: {target_modules: '.*language_model.*\\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)'}
        hardware: null
    Evidence: recipes keep the tower frozen; PEFT's matching reaches it.
    Known problems: a new image domain is a reason to adapt it.
    """
    if not (model.has_vision or model.has_audio):
        return
    tower = [m for m in adapted(model, lora) if m.role in ("vision", "audio")]
    if tower:
        prefix = ".*" if "." not in tower[0].path else ""
        paths = dict.fromkeys(
            m.path.split(".layers.")[0] for m in model.with_role("attention", "mlp") if ".layers." in m.path
        )
        pattern = (
            f"{prefix}({'|'.join(re.escape(p) for p in paths)})\\.layers\\..*\\.({'|'.join(language_targets(model))})"
        )
        yield Hit(
            f"{sum(m.count for m in tower)} matrices of the vision or audio tower would carry adapters "
            f"({', '.join(dict.fromkeys(m.path for m in tower))[:160]}): restrict target_modules to the language "
            "model.",
            ("lora.target_modules",),
            (Change("lora.target_modules", pattern),),
        )


@rule("recurrent-mixer-adapted", "TGT305", Severity.WARNING, Confidence.MEASURED, ("hybrid-2026",))
def recurrent_mixer_adapted(model: ModelFacts, lora: LoraFacts) -> Iterator[Hit]:
    """The adapter changes the recurrent mixers of a hybrid model.

    Why: linear-attention and state-space layers carry a state along the sequence; small changes add up over its length.
    Example:
        model: hybrid
        lora: {target_modules: all-linear}
        hardware: null
    Instead:
        model: hybrid
        lora: {target_modules: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]}
        hardware: null
    Evidence: one study: 14.8 points lost on GSM8K.
    Known problems: one paper, read in summary.
    """
    if model.kind != "hybrid":
        return
    mixers = [m for m in adapted(model, lora) if m.role == "mixer"]
    if mixers:
        yield Hit(
            f"The recurrent mixers {', '.join(dict.fromkeys(m.name for m in mixers))} would carry adapters in "
            f"{model.name}; adapting them cost 14.8 points on GSM8K: adapt {', '.join(language_targets(model))}.",
            ("lora.target_modules",),
            (Change("lora.target_modules", language_targets(model)),),
        )


@rule("router-adapted", "TGT306", Severity.WARNING, Confidence.CONVENTION, ("convention", "peft-code"))
def router_adapted(model: ModelFacts, lora: LoraFacts) -> Iterator[Hit]:
    """The adapter changes the router of a mixture of experts.

    Why: the keyword all-linear takes a router that is a plain linear layer. A router that moves sends tokens to experts
        that
        never saw their kind.
    Example:
        model: mixture-of-experts
        lora: {target_modules: [q_proj, k_proj, v_proj, o_proj, gate]}
        hardware: null
    Instead:
        model: mixture-of-experts
        lora: {target_modules: [q_proj, k_proj, v_proj, o_proj]}
        hardware: null
    Evidence: common practice; no study measured it.
    Known problems: with a balancing loss it may be harmless.
    """
    routers = [m for m in adapted(model, lora) if m.role == "router"]
    if routers:
        yield Hit(
            f"The router {', '.join(dict.fromkeys(m.name for m in routers))} would carry an adapter: "
            f"adapt {', '.join(language_targets(model))} and leave routing alone.",
            ("lora.target_modules",),
            (Change("lora.target_modules", language_targets(model)),),
        )


@rule("layer-index-out-of-range", "TGT307", Severity.ERROR, Confidence.FACT, ("peft-code", "arithmetic"))
def layer_index_out_of_range(model: ModelFacts, lora: LoraFacts) -> Iterator[Hit]:
    """layers_to_transform names a layer that the model does not have.

    Why: layers are counted from 0. An index beyond the last one is skipped in silence.
    Example:
        lora: {layers_to_transform: [0, 32]}
    Instead:
        lora: {layers_to_transform: [0, 31]}
    Evidence: PEFT's layer matching and the model's num_hidden_layers.
    Known problems: none.
    """
    given = lora.layers_to_transform or ()
    wrong = [i for i in given if not 0 <= i < model.num_hidden_layers]
    if wrong:
        kept = tuple(i for i in given if i not in wrong)
        yield Hit(
            f"layers_to_transform names layer {', '.join(map(str, wrong))}, but {model.name} has layers 0 to "
            f"{model.num_hidden_layers - 1}"
            + (": what is not there is skipped in silence." if kept else ": no layer is adapted."),
            ("lora.layers_to_transform",),
            (Change("lora.layers_to_transform", kept or None),),
            Severity.WARNING if kept else None,
        )


TARGET_RULES = (
    target_matches_nothing,
    target_list_and_pattern_mixed,
    vision_tower_adapted,
    recurrent_mixer_adapted,
    router_adapted,
    layer_index_out_of_range,
)
