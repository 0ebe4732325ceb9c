"""Rules about variants of LoRA that do not go with the base or with each other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lora_advise.facts import Facts, LoraFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.precision import initialization

WITHOUT_DORA = ("gptq", "awq", "aqlm", "eetq")
"""How a base may be stored for which PEFT has no DoRA."""
_IN_NAME = re.compile(rf"(?:^|[-_./])({'|'.join(WITHOUT_DORA)})(?:$|[-_.])", re.IGNORECASE)


def _stored_as(facts: Facts, config: Reading | None) -> str | None:
    """How the base is stored, by what is known of it or by its name."""
    names = [facts.model.name] if facts.model is not None else []
    if facts.model is not None and facts.model.checkpoint_quantization in WITHOUT_DORA:
        return facts.model.checkpoint_quantization
    if config is not None:
        names.append(str(config.value("model", "")))
    found = next((match for match in map(_IN_NAME.search, names) if match), None)
    return found[1].lower() if found else None


@rule("dora-on-foreign-quantization", "VAR907", Severity.ERROR, Confidence.FACT, ("peft-code",))
def dora_on_foreign_quantization(lora: LoraFacts, facts: Facts, config: Reading | None = None) -> Iterator[Hit]:
    """DoRA is used on a base that is stored as GPTQ, AWQ, AQLM or EETQ.

    Why: DoRA needs the full weight of every layer to take its norm. PEFT can read that back for bitsandbytes and HQQ only,
        and raises for the others.
    Example:
        axolotl: |
            base_model: TheBloke/Llama-2-7B-GPTQ
            gptq: true
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            peft_use_dora: true
            learning_rate: 0.0002
            micro_batch_size: 4
            gradient_accumulation_steps: 4
    Instead:
        axolotl: |
            base_model: TheBloke/Llama-2-7B-GPTQ
            gptq: true
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            peft_use_dora: false
            learning_rate: 0.0002
            micro_batch_size: 4
            gradient_accumulation_steps: 4
    Evidence: peft 0.21.2, the dispatchers of these backends.
    Known problems: where only the name of the base says how it is stored, a misleading name misleads.
    """
    stored = _stored_as(facts, config) if lora.use_dora else None
    if stored is not None:
        yield Hit(
            f"The base is stored as {stored.upper()}, for which PEFT has no DoRA: it raises when the adapter is made. Use plain "
            "LoRA, or the unquantized base with load_in_4bit.",
            ("lora.use_dora",),
            (Change("lora.use_dora", False),),
        )


@rule("svd-init-without-conversion", "VAR911", Severity.NOTE, Confidence.FACT, ("peft-code", "peer-checks"))
def svd_init_without_conversion(config: Reading, lora: LoraFacts) -> Iterator[Hit]:
    """An adapter that starts from the base's weights is saved as it is, and fits only the altered base.

    Why: PiSSA and its kin take a part out of the base weights. What is saved without conversion belongs to that altered base,
        and gives nonsense on the original one.
    Example:
        llamafactory: |
            model_name_or_path: meta-llama/Llama-3.1-8B-Instruct
            stage: sft
            do_train: true
            finetuning_type: lora
            lora_rank: 16
            lora_alpha: 16
            lora_target: all
            pissa_init: true
            dataset: alpaca
            template: llama3
            bf16: true
            learning_rate: 2.0e-5
            num_train_epochs: 1.0
            per_device_train_batch_size: 4
            gradient_accumulation_steps: 4
    Instead:
        llamafactory: |
            model_name_or_path: meta-llama/Llama-3.1-8B-Instruct
            stage: sft
            do_train: true
            finetuning_type: lora
            lora_rank: 16
            lora_alpha: 16
            lora_target: all
            pissa_init: true
            pissa_convert: true
            dataset: alpaca
            template: llama3
            bf16: true
            learning_rate: 2.0e-5
            num_train_epochs: 1.0
            per_device_train_batch_size: 4
            gradient_accumulation_steps: 4
    Evidence: save_pretrained's path_initial_model_for_weight_conversion in PEFT, pissa_convert in LLaMA-Factory.
    Known problems: LLaMA-Factory, Axolotl and saved adapters are judged; ms-swift converts by itself, and a program may do so
        later. A converted adapter says init_lora_weights true.
    """
    start = initialization(lora)
    if config.dialect.name not in ("llamafactory", "axolotl", "peft") or not start.startswith(
        ("pissa", "olora", "corda", "lora_ga")
    ):
        return
    if config.value("pissa_convert") is True:
        return
    way = {
        "llamafactory": "set pissa_convert",
        "peft": "whoever loads it repeats the decomposition; save it with path_initial_model_for_weight_conversion",
    }.get(config.dialect.name, "keep the initial adapter and convert afterwards")
    yield Hit(
        f"An adapter that starts as {start} is saved without conversion and fits only the altered base: {way}.",
        ("lora.init_lora_weights",),
    )


VARIANT_REFUSED_RULES = (dora_on_foreign_quantization, svd_init_without_conversion)
