"""Rules about tokens that are added, changed, or used without ever having been trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lora_advise.document import Entry, Unresolved
from lora_advise.facts import LoraFacts, ModelFacts
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.program_settings import called
from lora_advise.published import GENERIC, LIKELY_TURNS, format_of, lacks_chatml, untrained_turns
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.rate import EMBEDDING_NAMES
from lora_advise.unknown import UnknownFact

CHATML = ("<|im_start|>", "<|im_end|>")
USUAL = frozenset(
    ("<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "[PAD]", "[UNK]", "<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>",
     "<|eot_id|>", "<|eot|>", "<|end|>", "<end_of_turn>", "<start_of_turn>")
)  # fmt: skip
"""Tokens that a model which is given them mostly has."""


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


@rule(
    "special-tokens-frozen",
    "TPL1301",
    Severity.ERROR,
    Confidence.FACT,
    ("axolotl-schema", "trainer-code", "untrained-token-reports"),
)
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
        return (
            added,
            tuple(f"config.{key}" for key in ("tokens", "added_tokens_overrides") if config.config.get(key)),
            True,
        )
    model = config.facts.model
    changed = [
        entry for key in ("bos_token", "eos_token", "unk_token", "additional_special_tokens")
        if (entry := config.config.get("special_tokens", key)) is not None and set(_listed(entry)) & set(CHATML)
    ]  # fmt: skip
    if not changed or not lacks_chatml(model, name):
        return None
    tokens = tuple(dict.fromkeys(token for entry in changed for token in _listed(entry) if token in CHATML))
    places = tuple(f"config.{'.'.join(map(str, entry.path))}" for entry in changed)
    return tokens, (*places, "config.special_tokens"), True


def _of_swift(config: Reading, name: str) -> Found | None:
    added = _listed(config.written.get("new_special_tokens"))
    return (added, ("config.new_special_tokens",), False) if added else None


def _is_new(token: str, config: Reading, name: str) -> bool:
    """Whether the model cannot be expected to have that token."""
    return token not in USUAL and (token not in CHATML or lacks_chatml(config.facts.model, name))


def _of_program(config: Reading, name: str) -> Found | None:
    """Calls that add tokens; a padding token alone needs no training."""
    if config.config.shape != "calls":
        return None
    tokens: list[str] = []
    places = []
    for entry in config.config.entries:
        call, *inner = entry.path
        last = str(call).partition("#")[0].rpartition(".")[2]
        plain = last in ("add_tokens", "add_new_tokens") and inner in ([0], [1], ["new_tokens"])
        special = (
            last == "add_special_tokens"
            and bool(inner)
            and inner[-1] in ("additional_special_tokens", "eos_token", "bos_token")
        )
        if last == "setup_chat_format" and not inner:
            new = list(CHATML) if lacks_chatml(config.facts.model, name) else []
        elif plain or special:
            new = [t for t in _listed(entry) if _is_new(t, config, name)]
        else:
            continue
        if new:
            tokens += new
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
    if not turns or template is None or not _writes_turns(config, model) or trains_tokens(lora, config):
        return
    unsure = model.family in LIKELY_TURNS
    yield Hit(
        f"{model.name} is a base model that {'may never have' if unsure else 'never'} learnt {' and '.join(turns)}, which the chat template "
        "puts around every turn, and embeddings and head stay frozen: it may not stop. Train the rows of these tokens "
        "(trainable_token_indices, or embed_tokens and lm_head in modules_to_save), or start from the instruct model.",
        (f"config.{template}", "config.model", "lora.modules_to_save", "lora.target_modules", "config.modules_to_save"),
        severity=Severity.NOTE if unsure else None,
    )


def _writes_turns(config: Reading, model: ModelFacts) -> bool:
    """Whether the template, where one is named, is that of the model's family, which has these tokens."""
    word = config.value("chat_template")
    if word is None or str(word).startswith("tokenizer_default"):
        return True
    return format_of(str(word)) == format_of(model.template)


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


TOKEN_RULES = (special_tokens_frozen, base_turn_tokens_frozen)
