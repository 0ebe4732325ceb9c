"""Rules about lengths that a file gives in several places, and about packing."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import Facts, TrainFacts
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.conflicts import is_on


@rule("lengths-disagree", "DAT614", Severity.WARNING, Confidence.FACT, ("trainer-code", "length-reports"))
def lengths_disagree(config: Reading, facts: Facts) -> Iterator[Hit]:
    """The trainer is told a greater length than the model was loaded with.

    Why: Unsloth's loader fixes the length, 2,048 where nothing is said, and the trainer's own is cut down to it. Whatever lies
        behind is not trained on.
    Example:
        unsloth: |
            from trl import SFTConfig, SFTTrainer
            from unsloth import FastLanguageModel
            model, tokenizer = FastLanguageModel.from_pretrained("meta-llama/Llama-3.1-8B-Instruct", load_in_4bit=False)
            model = FastLanguageModel.get_peft_model(model, r=16, lora_alpha=32)
            trainer = SFTTrainer(
                model=model, processing_class=tokenizer,
                args=SFTConfig(learning_rate=2e-4, num_train_epochs=1, max_length=8192))
    Instead:
        unsloth: |
            from trl import SFTConfig, SFTTrainer
            from unsloth import FastLanguageModel
            model, tokenizer = FastLanguageModel.from_pretrained(
                "meta-llama/Llama-3.1-8B-Instruct", max_seq_length=8192, load_in_4bit=False)
            model = FastLanguageModel.get_peft_model(model, r=16, lora_alpha=32)
            trainer = SFTTrainer(
                model=model, processing_class=tokenizer,
                args=SFTConfig(learning_rate=2e-4, num_train_epochs=1, max_length=8192))
    Evidence: Unsloth reduces the trainer's length and prints that it does.
    Known problems: for vision and audio the length means little, so it is a note there.
    """
    if config.dialect.name != "unsloth" or config.config.shape != "calls":
        return
    loader = config.effective("loader_max_length")
    if not isinstance(loader, int) or not loader:
        return
    named = {name: value for name in ("max_length", "max_seq_length") if isinstance(value := config.value(name), int)}
    parts = [config.value(name) for name in ("max_prompt_length", "train.max_completion_length")]
    if all(isinstance(part, int) for part in parts):
        named["train.max_completion_length"] = sum(parts)
    longer = {name: value for name, value in named.items() if value > loader}
    if not longer:
        return
    name, value = max(longer.items(), key=lambda item: item[1])
    whose = "written in the loader" if config.has("loader_max_length") else "the loader's default"
    what = "prompt and completion together take" if name.startswith("train.") else f"{name} is"
    other = facts.model is not None and (facts.model.has_vision or facts.model.has_audio)
    yield Hit(
        f"{what} {value:,}, but the model is loaded for {loader:,} tokens ({whose}), and the smaller counts: give from_pretrained "
        f"max_seq_length={value}.",
        (f"config.{name}", "config.loader_max_length"),
        severity=Severity.NOTE if other or not _is_text(config) else None,
    )


def _is_text(config: Reading) -> bool:
    """Whether the program trains on text: images and sounds have loaders of their own, or a collator in the data's place."""
    for entry in config.config.entries:
        if len(entry.path) == 1 and ("Vision" in str(entry.path[0]) or "Whisper" in str(entry.path[0])):
            return False
        if entry.path[-1] == "skip_prepare_dataset" and entry.value is True:
            return False
    return True


@rule("packing-incompatible", "DAT615", Severity.ERROR, Confidence.FACT, ("trainer-code", "axolotl-schema", "trl-code"))
def packing_incompatible(config: Reading, train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """Packing is on beside something that cannot work with packed examples.

    Why: packed examples need an attention that keeps them apart, and a loss that knows where one ends. The trainer stops, or
        examples read each other.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0003
            micro_batch_size: 2
            sequence_len: 2048
            flash_attention: true
            sample_packing: true
            s2_attention: true
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0003
            micro_batch_size: 2
            sequence_len: 2048
            flash_attention: true
            sample_packing: true
    Evidence: the trainers' own checks; shifted sparse attention moves tokens between groups and cannot see borders.
    Known problems: only pairs that were read in the trainers' source.
    """
    for check in {
        "axolotl": (_axolotl,),
        "llamafactory": (_llamafactory,),
        "trl": (_trl,),
        "ms-swift": (_swift,),
        "torchtune": (_torchtune,),
    }.get(config.dialect.name, ()):
        for message, fields in check(config, facts):
            yield Hit(message, fields)


Found = Iterator[tuple[str, tuple[str, ...]]]


def _raw(config: Reading, key: str) -> bool:
    """Whether that key is written and true."""
    entry = config.config.get(key)
    return entry is not None and str(entry.value).lower() == "true"


def _axolotl(config: Reading, facts: Facts) -> Found:
    packed, flat = _raw(config, "sample_packing"), _raw(config, "batch_flattening")
    if packed and _raw(config, "s2_attention"):
        yield (
            "sample_packing and s2_attention are both on: shifted sparse attention cannot keep packed examples apart. Switch one off.",
            ("config.sample_packing", "config.s2_attention"),
        )
    if packed and config.value("rl"):
        yield (
            f"sample_packing is on with rl: {config.value('rl')}, which Axolotl refuses: pairs cannot be packed. Switch it off.",
            ("config.sample_packing", "config.rl"),
        )
    if packed and flat:
        yield (
            "batch_flattening and sample_packing are both on, and Axolotl refuses them together: keep one.",
            ("config.batch_flattening",),
        )


def _llamafactory(config: Reading, facts: Facts) -> Found:
    stage = str(config.value("stage", "sft"))
    if is_on(config, "shift_attn") and (is_on(config, "packing") or is_on(config, "neat_packing")):
        yield (
            "shift_attn and packing are both on: shifted sparse attention cannot keep packed examples apart. Switch one off.",
            ("config.shift_attn", "config.packing", "config.neat_packing"),
        )
    if is_on(config, "neat_packing") and stage not in ("sft", "pt"):
        yield (
            f"neat_packing is on in stage {stage}, and LLaMA-Factory takes it for sft alone: remove it.",
            ("config.neat_packing", "config.stage"),
        )


def _trl(config: Reading, facts: Facts) -> Found:
    if not is_on(config, "train.packing") or (facts.task is not None and facts.task.family != "sft"):
        return
    entry = config.written.get("max_length")
    if entry is not None and entry.value is None:
        yield (
            "packing needs a length to fill, and max_length is null: set max_length.",
            ("config.max_length", "train.packing"),
        )


def _swift(config: Reading, facts: Facts) -> Found:
    named = [name for name in ("packing", "padding_free") if is_on(config, name)]
    attention = str(config.value("attn_implementation", "sdpa")).lower()
    if not named or "flash" in attention:
        return
    if any(entry.path[-1] in ("attention_backend", "sequence_parallel_size") for entry in config.config.entries):
        return
    yield (
        f"{named[0]} is on with {attention} attention, and ms-swift takes it with flash attention alone: set attn_impl to flash_attn.",
        (f"config.{named[0]}", "config.attn_implementation"),
    )


def _torchtune(config: Reading, facts: Facts) -> Found:
    entry = config.config.get("tokenizer", "max_seq_len")
    if is_on(config, "train.packing") and (entry is None or entry.value is None):
        yield (
            "dataset.packed needs tokenizer.max_seq_len, which is not set: give it a length.",
            ("train.packing", "config.tokenizer.max_seq_len"),
        )


LENGTH_RULES = (lengths_disagree, packing_incompatible)
