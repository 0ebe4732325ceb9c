"""Rules about chat templates, and about padding with a token that means something else."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.document import Entry, Unresolved
from lora_advise.facts import Facts, LoraFacts
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.program_settings import called
from lora_advise.published import GENERIC, format_of, is_chat
from lora_advise.reading import Reading
from lora_advise.rule import rule


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
    entry = next(
        (
            e
            for e in config.config.entries
            if e.path[-1] in ("pad_token", "pad_token_id") and len(e.path) > 1 and _is_end(e)
        ),
        None,
    )
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
    if not is_chat(model, name) or str(config.value("stage", "")) == "pt":
        return
    own, written = format_of(model.template) if model is not None else None, format_of(word)
    generic = word.strip().lower() in GENERIC and config.dialect.name in (
        "llamafactory",
        "ms-swift",
        "unsloth",
        "axolotl",
    )
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


TEMPLATE_RULES = (pad_is_eos, template_of_another_model, quantized_embeddings_resized)
