"""Rules about settings of a file that contradict each other, or have no effect without another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lora_advise.finding import Confidence, Hit, Rewrite, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule

ON = ("true", "full", "1", "yes")


def is_on(config: Reading, name: str) -> bool:
    """Whether a switch is written and on; ``auto`` is neither."""
    return str(config.value(name)).lower() in ON


@rule("precision-flags-conflict", "KEY1107", Severity.ERROR, Confidence.FACT, ("transformers-code", "axolotl-schema"))
def precision_flags_conflict(config: Reading) -> Iterator[Hit]:
    """Both fp16 and bf16 are on.

    Why: they are two formats for the same thing. transformers stops; Axolotl takes bf16 without a word, so the file says
        something that does not happen.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 16
            sequence_len: 512
            bf16: true
            fp16: true
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 16
            sequence_len: 512
            bf16: true
            fp16: false
    Evidence: TrainingArguments raises "At most one of fp16 and bf16 can be True"; Axolotl's schema accepts both.
    Known problems: none.
    """
    if is_on(config, "bf16") and is_on(config, "fp16"):
        entry = config.written["fp16"]
        yield Hit(
            "fp16 and bf16 are both on: keep bf16, whose range does not overflow, and switch fp16 off; on a card without bf16 "
            "the other way round.",
            ("config.fp16", "config.bf16"),
            rewrites=(Rewrite(entry, "set fp16 to false", value=False),),
        )


@rule("adapter-switched-off", "KEY1108", Severity.ERROR, Confidence.FACT, ("trainer-code",))
def adapter_switched_off(config: Reading) -> Iterator[Hit]:
    """LoRA is set up, but the switch that turns adapters on is not.

    Why: the trainer then trains every weight: about ten times the memory, at a rate that is ten times too high for it.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.00001
            micro_batch_size: 4
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 4
    Evidence: Axolotl builds no PEFT model without adapter; TRL none without use_peft; LLaMA-Factory and ms-swift none under
        full.
    Known problems: a file that keeps LoRA's settings from an earlier run while it trains in full on purpose is a warning
        where its rate is one for full fine-tuning.
    """
    if config.facts.lora is not None or config.facts.train is None or config.dialect.name not in SWITCHES:
        return
    if config.effective("adapter_continued"):
        return
    written = [name for name in ("lora.r", "lora.lora_alpha") if config.has(name)]
    if not written:
        return
    switch, on = SWITCHES[config.dialect.name]
    rate = config.facts.train.learning_rate
    meant = rate < HIGHEST_FULL_RATE
    yield Hit(
        f"{switch} does not turn an adapter on, so these settings of LoRA have no effect and every weight is trained at {rate:g}; "
        f"write {on}, or remove them.",
        tuple(f"config.{name}" for name in written),
        severity=Severity.WARNING if meant else None,
    )


HIGHEST_FULL_RATE = 1e-4
"""Above it nobody trains all weights of a model on purpose."""
SWITCHES = {
    "axolotl": ("adapter", "adapter: lora"),
    "llamafactory": ("finetuning_type", "finetuning_type: lora"),
    "trl": ("use_peft", "use_peft: true"),
    "ms-swift": ("tuner_type", "tuner_type lora"),
    "unsloth-studio": ("training.training_type", "training_type: lora"),
}
"""What turns adapters on in each trainer."""


class Pair(NamedTuple):
    """Two settings of a trainer that exclude each other."""

    first: str
    second: str
    why: str
    severity: Severity = Severity.ERROR


PAIRS: dict[str, tuple[Pair, ...]] = {
    "axolotl": (
        Pair("test_datasets", "eval_share", "Axolotl refuses both: evaluation rows come from one of them"),
        Pair("evals_per_epoch", "train.eval_steps", "Axolotl refuses both"),
        Pair("saves_per_epoch", "save_steps", "Axolotl refuses both"),
        Pair("global_batch", "train.gradient_accumulation_steps", "Axolotl refuses both"),
        Pair("warmup_steps", "warmup_ratio", "Axolotl refuses both"),
        Pair(
            "lr_groups", "lora.loraplus_lr_ratio", "both make the optimizer's groups, and Axolotl refuses them together"
        ),
    ),
    "llamafactory": (
        Pair("eval_dataset", "eval_share", "LLaMA-Factory refuses both: evaluation rows come from one of them"),
        Pair("warmup_steps", "warmup_ratio", "the steps count and the ratio is dropped", Severity.WARNING),
        Pair("mask_history", "train_on_inputs", "LLaMA-Factory refuses both"),
    ),
    "ms-swift": (
        Pair("eval_dataset", "eval_share", "the share is dropped beside a validation set", Severity.WARNING),
        Pair("warmup_steps", "warmup_ratio", "ms-swift refuses both"),
    ),
    "trl": (Pair("warmup_steps", "warmup_ratio", "the steps count and the ratio is dropped", Severity.WARNING),),
    "hf": (Pair("warmup_steps", "warmup_ratio", "the steps count and the ratio is dropped", Severity.WARNING),),
    "unsloth": (Pair("warmup_steps", "warmup_ratio", "the steps count and the ratio is dropped", Severity.WARNING),),
}
"""By dialect, read in the trainers' validators."""
_SHARED = {("warmup_steps", "warmup_ratio")}


@rule("options-exclude-each-other", "KEY1109", Severity.ERROR, Confidence.FACT, ("trainer-code",))
def options_exclude_each_other(config: Reading) -> Iterator[Hit]:
    """Two settings are given of which the trainer takes one.

    Why: it stops at the pair, or drops one of them without a word.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 16
            sequence_len: 512
            warmup_steps: 10
            warmup_ratio: 0.03
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 16
            sequence_len: 512
            warmup_ratio: 0.03
    Evidence: the pairs stand in the trainers' own validators.
    Known problems: only pairs that were read there.
    """
    for pair in PAIRS.get(config.dialect.name, ()):
        first, second = config.value(pair.first), config.value(pair.second)
        if first and second and _one_call(config, pair):
            a, b = config.written[pair.first], config.written[pair.second]
            yield Hit(
                f"{a.path[-1]} and {b.path[-1]} are both given: {pair.why}; keep one.",
                (f"config.{pair.first}", f"config.{pair.second}"),
                severity=pair.severity,
            )


def _one_call(config: Reading, pair: Pair) -> bool:
    """In a program two calls may each have their own."""
    a, b = config.written[pair.first], config.written[pair.second]
    return config.config.shape != "calls" or a.path[0] == b.path[0]


@rule("qlora-without-4bit", "KEY1110", Severity.ERROR, Confidence.FACT, ("axolotl-schema",))
def qlora_without_4bit(config: Reading) -> Iterator[Hit]:
    """The adapter is called qlora, but the base is not loaded in 4 bits.

    Why: Axolotl stops: qlora means a base in 4 bits of bitsandbytes and nothing else.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: qlora
            load_in_4bit: false
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 16
            sequence_len: 512
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: qlora
            load_in_4bit: true
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 16
            sequence_len: 512
    Evidence: the validator of Axolotl's schema.
    Known problems: a merge command, which must not load in 4 bits, is not judged.
    """
    if config.dialect.name != "axolotl" or config.value("adapter") != "qlora" or config.effective("merge_lora"):
        return
    if config.value("load_in_8bit") is True:
        yield Hit(
            "adapter: qlora needs load_in_4bit: true, and load_in_8bit is on.",
            ("config.load_in_8bit", "config.adapter"),
        )
    elif config.value("load_in_4bit") is not True:
        yield Hit(
            "adapter: qlora needs load_in_4bit: true; without it write adapter: lora.",
            ("config.adapter", "config.load_in_4bit"),
        )


CONFLICT_RULES = (precision_flags_conflict, adapter_switched_off, options_exclude_each_other, qlora_without_4bit)
