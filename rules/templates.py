"""Rules about chat templates and the tokens that they are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lora_advise.document import Entry, Unresolved
from lora_advise.facts import Facts, LoraFacts, ModelFacts
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.program_settings import called
from lora_advise.published import GENERIC, LIKELY_TURNS, format_of, is_chat, lacks_chatml, untrained_turns
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.rate import EMBEDDING_NAMES
from lora_advise.unknown import UnknownFact

CHATML = ("<|im_start|>", "<|im_end|>")


def trains_tokens(lora: LoraFacts, config: Reading) -> bool:
    """Whether embeddings, head or rows of them are trained beside the adapter. Raises UnknownFact where nobody knows.

    Targets that are not known count as none of them: they are mostly left to a default, and no default has these.
    """
    try:
        targets = lora.target_modules if isinstance(lora.target_modules, tuple) else ()
    except UnknownFact:
        targets = ()
    written = _listed(config.written.get("target_modules")) + _listed(config.written.get("modules_to_save"))
    names = (*targets, *(name for word in written for name in word.replace(",", " ").split()))
    if any(name.rsplit(".", 1)[-1] in (*EMBEDDING_NAMES, "all-embedding") for name in names):
        return True
    saved = any(name.rsplit(".", 1)[-1] in EMBEDDING_NAMES for name in lora.modules_to_save)
    return saved or lora.trainable_token_indices is not None


def _listed(entry: Entry | None) -> tuple[str, ...]:
    value: Any = None if entry is None else entry.value
    if isinstance(value, (tuple, dict)):
        return tuple(str(item) for item in value if not isinstance(item, Unresolved))
    return (value,) if isinstance(value, str) and value else ()


@rule("special-tokens-frozen", "TPL1301", Severity.ERROR, Confidence.FACT, ("axolotl-schema", "trainer-code", "untrained-token-reports"))
def special_tokens_frozen(config: Reading, lora: LoraFacts) -> Iterator[Hit]:
    """Tokens are added or changed, and neither embeddings nor head are trained.

    Why: the row of a new token is random, and an adapter on other layers cannot mend it: the model does not know the token, nor
        when to write it, so it never stops.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0003
            micro_batch_size: 16
            sequence_len: 512
            special_tokens: {eos_token: "<|im_end|>"}
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0003
            micro_batch_size: 16
            sequence_len: 512
            special_tokens: {eos_token: "<|end_of_text|>"}
    Evidence: Axolotl stops at such tokens; ms-swift adds the rows and says nothing; the reports are of models that never stop.
    Known problems: whether a token is in the vocabulary is known by the model's name for ChatML's tokens alone, so others that
        a file sets as bos, eos or unk are not reported. LLaMA-Factory and TRL train such rows themselves.
    """
    name = str(config.value("model", ""))
    found = {
        "axolotl": _of_axolotl, "ms-swift": _of_swift, "megatron-swift": _of_swift,
    }.get(config.dialect.name, _of_program)(config, name)  # fmt: skip
    if found is None or trains_tokens(lora, config):
        return
    tokens, places, raises = found
    more = ", so it stops" if raises else ""
    yield Hit(
        f"{', '.join(tokens[:4])[:120]} {'is' if len(tokens) == 1 else 'are'} new to the model, and neither embeddings nor head are trained{more}: the "
        "rows stay random. Train them (modules_to_save: embed_tokens and lm_head, or trainable_token_indices), or use tokens that the "
        "model has.",
        (*places, "lora.modules_to_save"), severity=None if raises else Severity.WARNING,
    )  # fmt: skip


Found = tuple[tuple[str, ...], tuple[str, ...], bool]
"""Tokens, the settings that add them, and whether the trainer stops at it."""


def _of_axolotl(config: Reading, name: str) -> Found | None:
    added = _listed(config.config.get("tokens")) + _listed(config.config.get("added_tokens_overrides"))
    if added:
        return added, tuple(f"config.{key}" for key in ("tokens", "added_tokens_overrides") if config.config.get(key)), True
    model = config.facts.model
    changed = [
        entry for key in ("bos_token", "eos_token", "unk_token", "additional_special_tokens")
        if (entry := config.config.get("special_tokens", key)) is not None and set(_listed(entry)) & set(CHATML)
    ]  # fmt: skip
    if not changed or not lacks_chatml(model, name):
        return None
    tokens = tuple(dict.fromkeys(token for entry in changed for token in _listed(entry) if token in CHATML))
    return tokens, tuple(f"config.{'.'.join(map(str, entry.path))}" for entry in changed), True


def _of_swift(config: Reading, name: str) -> Found | None:
    added = _listed(config.written.get("new_special_tokens"))
    return (added, ("config.new_special_tokens",), False) if added else None


def _of_program(config: Reading, name: str) -> Found | None:
    """Calls that add tokens; a padding token alone needs no training."""
    if config.config.shape != "calls":
        return None
    tokens: list[str] = []
    places = []
    for entry in config.config.entries:
        call, *inner = entry.path
        last = str(call).partition("#")[0].rpartition(".")[2]
        if (last in ("add_tokens", "add_new_tokens") and inner in ([0], [1], ["new_tokens"])) or (last == "add_special_tokens" and inner and inner[-1] in ("additional_special_tokens", "eos_token", "bos_token")):
            tokens += _listed(entry)
        else:
            continue
        places.append(f"config.{'.'.join(map(str, entry.path))}")
    return (tuple(dict.fromkeys(tokens)), tuple(places), False) if tokens else None


@rule("base-turn-tokens-frozen", "TPL1302", Severity.WARNING, Confidence.MEASURED, ("untrained-token-reports",))
def base_turn_tokens_frozen(config: Reading, model: ModelFacts, lora: LoraFacts) -> Iterator[Hit]:
    """A chat template is used on a base model whose tokens for turns were never trained, and they stay so.

    Why: the tokens are in the vocabulary, but no text of pretraining had them: all of them look alike to the model. An adapter
        that leaves embeddings and head alone cannot tell it when a turn ends.
    Example:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B
            stage: sft
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
            bf16: true
    Instead:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: sft
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
            bf16: true
    Evidence: said by the makers for Qwen, shown for Qwen 2.5, and for Llama 3 and 3.1 by trainers' authors: models that never
        stop, or write reserved tokens.
    Known problems: only these families were looked at; for Qwen 3 nobody said so, and it is a note. With enough data such
        runs can come out well, since the adapter learns around the rows.
    """
    turns, template = untrained_turns(model), _template(config)
    if not turns or template is None or trains_tokens(lora, config):
        return
    unsure = model.family in LIKELY_TURNS
    yield Hit(
        f"{model.name} is a base model that {'may never have' if unsure else 'never'} learnt {' and '.join(turns)}, which the chat template "
        "puts around every turn, and embeddings and head stay frozen: it may not stop. Train the rows of these tokens "
        "(trainable_token_indices, or embed_tokens and lm_head in modules_to_save), or start from the instruct model.",
        (f"config.{template}", "config.model", "lora.modules_to_save", "lora.target_modules", "config.modules_to_save"),
        severity=Severity.NOTE if unsure else None,
    )


def _template(config: Reading) -> str | None:
    """The setting that puts a chat template around the data; None where none does, or where it is one of plain text."""
    name = config.dialect.name
    if name in ("llamafactory", "trl", "axolotl") and config.config.shape != "calls":
        word = str(config.value("chat_template", "")).lower()
        if word in ("", "none", *GENERIC) or (name == "llamafactory" and str(config.value("stage", "sft")) == "pt"):
            return None
        return "chat_template"
    if name == "ms-swift":
        task = config.facts.task
        plain = task is None or task.family != "sft" or config.value("use_chat_template") in (False, "false")
        return None if plain or str(config.value("chat_template", "")) in ("default", "dummy") else "model"
    calls = called(config.config, "get_chat_template", "setup_chat_format") if config.config.shape == "calls" else ()
    return calls[0] if calls else None


@rule("pad-is-eos", "TPL1303", Severity.WARNING, Confidence.MEASURED, ("pad-eos-reports", "transformers-code"))
def pad_is_eos(config: Reading) -> Iterator[Hit]:
    """The padding token is the end token, in a program whose loss leaves padding out.

    Why: the collator masks every token with the number of the padding token, and so the end of every answer. The model never
        learns to stop.
    Example:
        trl: |
            from transformers import AutoModelForCausalLM, AutoTokenizer
            from peft import LoraConfig
            from trl import SFTConfig, SFTTrainer
            tokenizer = AutoTokenizer.from_pretrained("mine")
            tokenizer.pad_token = tokenizer.eos_token
            model = AutoModelForCausalLM.from_pretrained("mine")
            trainer = SFTTrainer(
                model=model, args=SFTConfig(output_dir="out", learning_rate=2e-4, num_train_epochs=1), tokenizer=tokenizer,
                peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    Instead:
        trl: |
            from transformers import AutoModelForCausalLM, AutoTokenizer
            from peft import LoraConfig
            from trl import SFTConfig, SFTTrainer
            tokenizer = AutoTokenizer.from_pretrained("mine")
            model = AutoModelForCausalLM.from_pretrained("mine")
            trainer = SFTTrainer(
                model=model, args=SFTConfig(output_dir="out", learning_rate=2e-4, num_train_epochs=1), processing_class=tokenizer,
                peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    Evidence: DataCollatorForLanguageModeling of transformers sets labels to -100 where the token is the padding token; the
        reports are of models that never stop.
    Known problems: TRL's own collator masks by position since 0.17, and preference trainers always did: a trainer that is given
        processing_class is silent unless the collator of transformers is called.
    """
    if config.config.shape != "calls" or config.facts.train is None:
        return
    entry = next((e for e in config.config.entries if e.path[-1] in ("pad_token", "pad_token_id") and len(e.path) > 1 and _is_end(e)), None)
    if entry is None or not _masks_by_number(config):
        return
    yield Hit(
        "The padding token is the end token, so the loss leaves out the end of every answer together with the padding, and the model does "
        "not learn to stop. Take another token for padding, such as an unused one of the vocabulary.",
        (f"config.{'.'.join(map(str, entry.path))}",),
    )


def _is_end(entry: Entry) -> bool:
    """Whether it is set to the same tokenizer's end token."""
    return isinstance(entry.value, Unresolved) and entry.value.source.strip().endswith((".eos_token", ".eos_token_id"))


def _masks_by_number(config: Reading) -> bool:
    """Whether the loss leaves out every token with the number of the padding token."""
    if called(config.config, "DataCollatorForLanguageModeling", "DataCollatorForCompletionOnlyLM"):
        masked = config.config.get("DataCollatorForLanguageModeling", "mlm")
        return masked is None or masked.value is not True
    task = config.facts.task
    old = config.config.get("trainer", "tokenizer") is not None
    return old and task is not None and task.family == "sft" and config.dialect.name in ("trl", "unsloth")


@rule("template-of-another-model", "TPL1304", Severity.WARNING, Confidence.FACT, ("template-reports", "file-itself"))
def template_of_another_model(config: Reading, facts: Facts) -> Iterator[Hit]:
    """A model that was tuned on conversations is given the template of another, or one of no model.

    Why: it learnt its own marks of turns. With others it has to learn them anew from your data, and answers that come through
        the usual template are gibberish, or never end.
    Example:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: sft
            finetuning_type: lora
            dataset: mine
            template: llama3
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
            bf16: true
    Instead:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: sft
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
            bf16: true
    Evidence: three reports of LLaMA-Factory's template default on Qwen and ChatGLM chat models.
    Known problems: formats are compared by family, and only where both are known. Whoever moves a chat model to ChatML on
        purpose is told so in a note.
    """
    word = config.value("chat_template")
    if not isinstance(word, str):
        return
    name, model = str(config.value("model", "")), facts.model
    if not is_chat(model, name):
        return
    own, written = format_of(model.template) if model is not None else None, format_of(word)
    generic = word.strip().lower() in GENERIC and config.dialect.name in ("llamafactory", "ms-swift", "unsloth", "axolotl")
    if not generic and (own is None or written is None or own == written):
        return
    whose = "is made for no chat model" if generic else f"is that of {written}"
    should = f"; it learnt {own}" if own else ""
    yield Hit(
        f"The template {word[:40]!r} {whose}, and {(model.name if model else name)[:80]} was tuned on conversations{should}: use the template "
        "of its own family, in training, export and serving alike.",
        ("config.chat_template", "config.model"),
        severity=Severity.NOTE if written == "ChatML" and not generic else None,
    )


@rule("quantized-embeddings-resized", "TPL1305", Severity.ERROR, Confidence.FACT, ("trainer-code", "peer-checks"))
def quantized_embeddings_resized(config: Reading, lora: LoraFacts) -> Iterator[Hit]:
    """Tokens are added to a base that is loaded in 4 or 8 bits.

    Why: LLaMA-Factory cannot resize the embeddings of a quantized model. It says so at once for resize_vocab, and only after
        loading for added tokens.
    Example:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: sft
            finetuning_type: lora
            quantization_bit: 4
            add_tokens: <one>,<two>
            dataset: mine
            template: qwen
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
            bf16: true
    Instead:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: sft
            finetuning_type: lora
            add_tokens: <one>,<two>
            dataset: mine
            template: qwen
            cutoff_len: 1024
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
            bf16: true
    Evidence: the two checks in its source.
    Known problems: only LLaMA-Factory refuses it.
    """
    if config.dialect.name != "llamafactory" or not config.value("bits"):
        return
    named = [name for name in ("resize_vocab", "add_tokens", "add_special_tokens") if config.value(name)]
    if named:
        yield Hit(
            f"{config.written[named[0]].path[-1]} resizes the embeddings, which LLaMA-Factory cannot do on a base in {config.value('bits')} "
            "bits: load it in 16 bits, or leave the tokens out.",
            (f"config.{named[0]}", "config.bits"),
        )


TEMPLATE_RULES = (
    special_tokens_frozen, base_turn_tokens_frozen, pad_is_eos, template_of_another_model, quantized_embeddings_resized,
)  # fmt: skip
