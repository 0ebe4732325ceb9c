"""Rules about modules on which PEFT refuses an adapter."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import LoraFacts, ModelFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.rule import rule
from lora_advise.rules.targets import adapted, language_targets


@rule("targets-refused-by-peft", "TGT316", Severity.ERROR, Confidence.FACT, ("peft-code",))
def targets_refused_by_peft(model: ModelFacts, lora: LoraFacts) -> Iterator[Hit]:
    """target_modules reaches the output projection of a Mamba mixer, on which PEFT refuses to put an adapter.

    Why: the fused kernel of the mixer reads the bare weight of out_proj and conv1d, so an adapter there would be passed by.
        PEFT raises a ValueError when the run starts.
    Example:
        model: state-space
        train: {attn_implementation: eager}
        lora: {target_modules: [in_proj, out_proj]}
        hardware: null
    Instead:
        model: state-space
        train: {attn_implementation: eager}
        lora: {target_modules: [in_proj]}
        hardware: null
    Evidence: peft 0.21.2, _check_lora_target_modules_mamba: falcon_h1, mamba, mamba2, falcon_mamba and nemotron_h.
    Known problems: other types with Mamba mixers, jamba among them, are not on PEFT's list, and nothing is said of them.
    """
    from lora_advise.adapter_limits import refused

    chosen = adapted(model, lora)
    barred = refused(model, chosen)
    if barred:
        names = dict.fromkeys(m.name for m in barred)
        kept = tuple(dict.fromkeys(m.name for m in chosen if m.kind == "linear" and m not in barred))
        yield Hit(
            f"An adapter of PEFT on {', '.join(names)} of {model.name} (model type {model.model_type}) raises when the run "
            "starts: leave it out of target_modules.",
            ("lora.target_modules",),
            (Change("lora.target_modules", language_targets(model) or kept),),
        )


REFUSED_TARGET_RULES = (targets_refused_by_peft,)
