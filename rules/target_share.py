"""Rules about the share of a model that its adapter reaches: attention alone, or no expert."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lora_advise.facts import Facts, LinearModule, LoraFacts, ModelFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.targets import adapted, language_targets, matches
from lora_advise.unknown import UnknownFact

ATTENTION_NAMES = {
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "qkv_proj",
    "query_key_value",
    "c_attn",
    "W_pack",
    "wqkv",
    "Wqkv",
}
"""What decoders call their attention projections."""
_OTHER_KINDS = re.compile(
    r"whisper|llasa|orpheus|csm|oute|wav2vec|bert|clip|vit|t5|bart|speech|tts|asr|moe|mixtral|deepseek|mamba|jamba|lfm|nemotron|gpt-oss|next|hybrid"
    r"|\d+x\d+b|a\d+(?:\.\d+)?b|scout|maverick|kimi|glm-?4\.[5-9]|minimax|phi-?3\.5-moe",
    re.IGNORECASE,
)
"""Parts of the names of models for which attention alone may be a choice: encoders, speech, mixtures, hybrids."""
_TAIL = re.compile(r"(?:\(\??:?([\w|]+)\)|(?<![\w\\])([A-Za-z]\w*))\$?\)?$")
"""The alternatives, or the one name, at the end of a pattern."""


def _expert_targets(lora: LoraFacts) -> bool:
    try:
        return bool(lora.target_parameters)
    except UnknownFact:
        return False


def _names(targets: tuple[str, ...] | str) -> tuple[str, ...]:
    """The names of the modules that a list or the end of a pattern asks for; empty where they cannot be told."""
    if not isinstance(targets, str):
        return tuple(dict.fromkeys(name.rsplit(".", 1)[-1] for name in targets if any(c.isalnum() for c in name)))
    if targets in ATTENTION_NAMES:
        return ()
    tail = _TAIL.search(targets.strip())
    return tuple((tail[1] or tail[2]).split("|")) if tail else ()


def _chosen(model: ModelFacts, lora: LoraFacts) -> list[LinearModule]:
    """The linear layers that a list of names or a pattern reaches."""
    targets = lora.target_modules
    if not isinstance(targets, str):
        return [m for m in model.modules if m.kind == "linear" and any(matches(m, e) for e in targets)]
    if targets == "all-linear":
        return []
    return [m for m in adapted(model, lora) if m.kind == "linear"]


def _attention_alone(lora: LoraFacts, model: ModelFacts | None, config: Reading | None) -> tuple[str, ...] | None:
    """The names of the adapted attention projections; None where anything else may be adapted too."""
    names = _names(lora.target_modules)
    if model is None:
        called = str(config.value("model", "")) if config is not None else ""
        alone = bool(names) and set(names) <= ATTENTION_NAMES and not _OTHER_KINDS.search(called)
        return names if alone else None
    chosen = _chosen(model, lora) if model.kind in ("dense", "vlm") else []
    mlp = [m for m in model.with_role("mlp") if m.kind == "linear"]
    if not mlp or not chosen or any(m.role != "attention" for m in chosen):
        return None
    return tuple(dict.fromkeys(m.name for m in chosen))


@rule(
    "attention-only-targets",
    "TGT303",
    Severity.WARNING,
    Confidence.MEASURED,
    ("lwr-2025", "dettmers-2023", "peft-metamath"),
)
def attention_only_targets(lora: LoraFacts, facts: Facts, config: Reading | None = None) -> Iterator[Hit]:
    """Only attention projections are adapted, although the MLP carries most of the gain.

    Why: at equal parameters an adapter on the MLP beats one on attention, and adding attention to the MLP adds little.
    Example:
        lora: {target_modules: [q_proj, v_proj]}
    Instead:
        lora: {target_modules: all-linear}
    Evidence: MLP at r 10 reached 49.4 %, query and value at r 32 47.8 % with as many parameters; QLoRA needed all layers to
        match full fine-tuning.
    Known problems: not said of encoders, hybrids, mixtures of experts, or models whose MLP has no linear layers. A note where
        the model is not known, where the modules are PEFT's own default, and in preference optimization and RL, which fill
        little of an adapter. Serving many adapters fast is a reason to keep few modules.
    """
    model = facts.model
    names = None if _expert_targets(lora) else _attention_alone(lora, model, config)
    if names is None:
        return
    left = config is not None and "lora.target_modules" in config.inherited
    mild = model is None or left or (facts.task is not None and facts.task.family in ("preference", "rl"))
    mlp = dict.fromkeys(m.name for m in model.with_role("mlp") if m.kind == "linear") if model is not None else ()
    rank = f", and r {lora.r} is spent where it gains least" if _rank(lora) >= 64 else ""
    who = f" ({config.inherited[_FIELD]})" if left and config is not None else ""
    which = f" ({', '.join(mlp)})" if mlp else ""
    yield Hit(
        f"Adapters are put on {', '.join(names)} alone{who}{rank}: adapt the MLP too{which}, with a smaller r if memory is "
        "short.",
        (_FIELD,),
        (Change(_FIELD, language_targets(model)),) if model is not None else (),
        Severity.NOTE if mild else None,
    )


_FIELD = "lora.target_modules"


def _rank(lora: LoraFacts) -> int:
    try:
        return lora.r
    except UnknownFact:
        return 0


@rule("experts-unreached", "TGT320", Severity.NOTE, Confidence.FACT, ("peft-code", "transformers-code"))
def experts_unreached(config: Reading, model: ModelFacts, lora: LoraFacts) -> Iterator[Hit]:
    """All linear layers are to be adapted, but the experts of the mixture are no linear layers and stay frozen.

    Why: transformers 5 keeps the experts of a layer in one parameter of three dimensions. The word for all linear layers then
        reaches attention and shared experts, a small part of the weights.
    Example:
        axolotl: |
            base_model: Qwen/Qwen3-30B-A3B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 4
            gradient_accumulation_steps: 4
    Instead:
        axolotl: |
            base_model: Qwen/Qwen3-30B-A3B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_modules: [q_proj, k_proj, v_proj, o_proj]
            learning_rate: 0.0002
            micro_batch_size: 4
            gradient_accumulation_steps: 4
    Evidence: the module table of the model, against the trainer's way to find linear layers.
    Known problems: attention alone is a sound and cheap choice for a mixture; it is a note for those who wrote all and expect
        all. Nothing is said where the modules are named one by one, nor for Unsloth, which reaches experts by itself.
    """
    experts = model.with_role("expert")
    if not experts or config.dialect.framework == "unsloth" or not _wrote_all(config) or _expert_targets(lora):
        return
    share = sum(m.weights for m in experts) / max(1, model.total_params)
    if share < 0.5 or any(m.role == "expert" for m in adapted(model, lora)):
        return
    parameters = sorted({".".join(m.path.rsplit(".", 3)[-3:]) for m in experts if m.kind == "parameter"})
    way = f" To train them name {' and '.join(parameters)} in target_parameters." if parameters else ""
    yield Hit(
        f"The experts of {model.name}, {100 * share:.0f} % of its weights, are no linear layers and stay frozen.{way}",
        ("lora.target_modules",),
    )


def _wrote_all(config: Reading) -> bool:
    """Whether the file asks for all linear layers by the trainer's word for it."""
    if config.value("target_linear"):
        return True
    value = config.value("target_modules")
    words = (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ()
    return any(str(word).lower() in ("all", "all-linear") for word in words)


@rule("fused-experts-half-targeted", "TGT323", Severity.ERROR, Confidence.FACT, ("peft-code", "transformers-code"))
def fused_experts_half_targeted(model: ModelFacts, lora: LoraFacts, facts: Facts) -> Iterator[Hit]:
    """One of the two projections is named that a mixture of experts has fused into one parameter.

    Why: transformers 5 keeps gate_proj and up_proj of all experts in one parameter. PEFT turns the two names into that
        parameter, and raises where only one of them is there.
    Example:
        trl: |
            model_name_or_path: Qwen/Qwen3-30B-A3B
            dataset_name: trl-lib/Capybara
            packing: true
            attn_implementation: flash_attention_2
            use_peft: true
            lora_dropout: 0.0
            lora_target_modules: [q_proj, v_proj, up_proj, down_proj]
            learning_rate: 2.0e-4
            num_train_epochs: 1
            max_steps: 600
    Instead:
        trl: |
            model_name_or_path: Qwen/Qwen3-30B-A3B
            dataset_name: trl-lib/Capybara
            packing: true
            attn_implementation: flash_attention_2
            use_peft: true
            lora_dropout: 0.0
            lora_target_modules: [q_proj, v_proj, gate_proj, up_proj, down_proj]
            learning_rate: 2.0e-4
            num_train_epochs: 1
            max_steps: 600
    Evidence: peft 0.21.2, _convert_peft_config_moe.
    Known problems: with transformers 4 the names are modules of their own, and nothing is said of it where that version is
        known; where none is, it is a warning.
    """
    from lora_advise.rules.saved_modules import version_of

    framework = facts.stack.framework if facts.stack is not None else ""
    version = version_of(facts, "transformers")
    if isinstance(lora.target_modules, str) or framework == "unsloth" or () < version < (5,) or _expert_targets(lora):
        return
    for pair in (("gate_proj", "up_proj"), ("w1", "w3")):
        given = [name for name in pair if any(n == name or n.endswith(f".{name}") for n in lora.target_modules)]
        fused = (
            any(m.kind == "parameter" and m.name == "gate_up_proj" for m in adapted(model, lora))
            if len(given) == 1
            else False
        )
        if fused:
            other = pair[1 - pair.index(given[0])]
            yield Hit(
                f"{given[0]} stands without {other}: the experts of {model.name} have both in one parameter, and PEFT raises. Name "
                f"{other} too, or leave {given[0]} out.",
                (_FIELD,),
                (Change(_FIELD, (*lora.target_modules, other)),),
                None if version >= (5,) else Severity.WARNING,
            )


TARGET_SHARE_RULES = (attention_only_targets, experts_unreached, fused_experts_half_targeted)
