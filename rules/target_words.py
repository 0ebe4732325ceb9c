"""Rules about how a file names its targets: the word for all linear layers, no target at all, the output head."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.document import Entry, Unresolved
from lora_advise.facts import Facts, LoraFacts
from lora_advise.finding import Confidence, Hit, Rewrite, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.keys import place
from lora_advise.rules.rate import EMBEDDING_NAMES
from lora_advise.rules.targets import all_word

_WORDS = {
    "axolotl": "all-linear", "trl": "all-linear", "hf": "all-linear", "peft": "all-linear", "llamafactory": "all",
    "ms-swift": "all-linear", "megatron-swift": "all-linear", "unsloth": "all-linear", "unsloth-studio": "all-linear",
}  # fmt: skip
"""The word of each dialect."""
_IN_LISTS = ("ms-swift", "megatron-swift", "unsloth", "unsloth-studio")
"""Dialects that take their word as an entry of a list."""


def _fits(word: str, among: tuple[str, ...] | None, config: Reading) -> bool:
    """Whether the trainer takes that word there; ``among`` is the list it stands in."""
    name = config.dialect.name
    wanted = _WORDS[name]
    if name in _IN_LISTS:
        return word == wanted
    if name == "llamafactory":
        return word == wanted and (among is None or len(among) == 1)
    if name == "trl" and config.config.shape != "calls":
        return word.lower() == wanted and (among is None or len(among) == 1)
    return word.lower() == wanted and among is None


@rule("all-linear-misspelt", "TGT317", Severity.ERROR, Confidence.FACT, ("peft-code", "peer-checks"))
def all_linear_misspelt(config: Reading, lora: LoraFacts) -> Iterator[Hit]:
    """The word for all linear layers is not the one that this trainer takes, or stands where it takes none.

    Why: PEFT wants the bare text all-linear, which in a list is the name of a module that no model has. LLaMA-Factory wants
        all, ms-swift all-linear. Anything else stops the run after the model has been loaded, or, beside other names, is
        dropped without a word.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_modules: [all-linear]
            learning_rate: 0.0002
            micro_batch_size: 4
            gradient_accumulation_steps: 4
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 4
            gradient_accumulation_steps: 4
    Evidence: the comparisons in PEFT's _maybe_include_all_linear_layers, LLaMA-Factory's adapter.py and ms-swift's tuner.py.
    Known problems: an own script may translate such a word before PEFT sees it, so scripts' flags are not judged.
    """
    entry = config.written.get("target_modules") or config.written.get("lora.target_modules")
    if entry is None or config.dialect.name not in _WORDS or _own_script(config) or config.value("target_linear"):
        return
    value = entry.value
    words = tuple(map(str, value)) if isinstance(value, tuple) else _parts(value) if isinstance(value, str) else ()
    among = words if isinstance(value, tuple) or len(words) > 1 else None
    wrong = [word for word in words if all_word(word, config) and not _fits(word, among, config)]
    if not wrong:
        return
    wanted = _WORDS[config.dialect.name]
    new = (wanted,) if isinstance(value, tuple) and config.dialect.name in _IN_LISTS else wanted
    alone = "" if config.dialect.name in _IN_LISTS else " as one text, not in a list"
    key = "or lora_target_linear: true" if config.dialect.name == "axolotl" else ""
    where = " in a list" if among is not None else ""
    yield Hit(
        f'"{wrong[0][:60]}"{where} is not how {config.dialect.title} names all linear layers: it looks for modules of that name '
        f"and finds none. Write {wanted}{alone}{', ' if key else ''}{key}.",
        (place(entry),),
        rewrites=(Rewrite(entry, f"write {wanted}", value=new),),
    )


def _own_script(config: Reading) -> bool:
    return config.dialect.name == "hf" and config.config.shape != "calls"


def _parts(value: str) -> tuple[str, ...]:
    return tuple(part for part in (p.strip(" '\"") for p in value.strip().strip("[]").split(",")) if part)


@rule("adapter-wrapped-twice", "TGT319", Severity.ERROR, Confidence.FACT, ("trl-code", "peft-code"))
def adapter_wrapped_twice(config: Reading) -> Iterator[Hit]:
    """A model that get_peft_model has wrapped goes to a trainer that is given a peft_config as well.

    Why: the trainer would put a second adapter around the first. TRL raises.
    Example:
        trl: |
            from peft import LoraConfig, get_peft_model
            from transformers import AutoModelForCausalLM
            from trl import SFTConfig, SFTTrainer

            model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.1-8B")
            config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
            model = get_peft_model(model, config)
            args = SFTConfig(output_dir="out", learning_rate=2e-4, num_train_epochs=1, max_steps=600)
            trainer = SFTTrainer(model=model, args=args, train_dataset=rows, peft_config=config)
    Instead:
        trl: |
            from peft import LoraConfig, get_peft_model
            from transformers import AutoModelForCausalLM
            from trl import SFTConfig, SFTTrainer

            model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.1-8B")
            config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
            model = get_peft_model(model, config)
            args = SFTConfig(output_dir="out", learning_rate=2e-4, num_train_epochs=1, max_steps=600)
            trainer = SFTTrainer(model=model, args=args, train_dataset=rows)
    Evidence: trl 1.16, the check of SFTTrainer for a PeftModel beside a peft_config.
    Known problems: only where both calls name the same variable.
    """
    if config.config.shape != "calls" or config.dialect.name.startswith("unsloth"):
        return
    given, wrapped = config.written.get("peft_config"), config.config.get("get_peft_model", 0)
    model = config.written.get("trainer_model") or config.config.get("trainer", 0)
    if given is None or given.value is None or wrapped is None or model is None:
        return
    name = _variable(model)
    if name is not None and name == _variable(wrapped):
        yield Hit(
            f"{name} is wrapped by get_peft_model, and the trainer gets a peft_config too: TRL refuses a second adapter. Leave "
            "one of the two out.",
            (place(given),),
        )


def _variable(entry: Entry) -> str | None:
    """The variable that stands there; None for anything else."""
    source = entry.value.source if isinstance(entry.value, Unresolved) else ""
    return source if source.isidentifier() else None


@rule("targets-unset", "TGT318", Severity.ERROR, Confidence.FACT, ("peft-code", "peer-checks"))
def targets_unset(config: Reading, lora: LoraFacts, facts: Facts) -> Iterator[Hit]:
    """No module is named to adapt, and neither the trainer nor PEFT has a choice of its own for the model.

    Why: PEFT knows default modules for some architectures only and raises for the others. Axolotl passes on an empty list,
        for which PEFT raises always.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            learning_rate: 0.0002
            micro_batch_size: 4
            gradient_accumulation_steps: 4
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 4
            gradient_accumulation_steps: 4
    Evidence: peft 0.21.2, inject_adapter and the table of default modules.
    Known problems: an adapter that is continued brings its own modules; a run that names one is not judged.
    """
    if config.effective("targets_unset") is not True or not config.has("model"):
        return
    name = facts.model.name if facts.model is not None else "any model"
    word = "lora_target_linear: true" if config.dialect.name == "axolotl" else "all-linear as the target"
    yield Hit(
        f"No module is named to carry an adapter, and {config.dialect.title} has no choice of its own for {name}: PEFT raises "
        f"once the model has been loaded. Write {word}, or the names.",
        ("lora.target_modules",),
    )


@rule("head-adapter-bypassed", "TGT321", Severity.ERROR, Confidence.FACT, ("trl-code", "peer-checks"))
def head_adapter_bypassed(config: Reading, lora: LoraFacts, facts: Facts) -> Iterator[Hit]:
    """The output head gets an adapter, and the loss is computed from the head's bare weight.

    Why: a fused loss multiplies the hidden states by lm_head.weight itself and never calls the module, so the adapter on it
        gets no gradient. TRL refuses the pair when the trainer is built.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_modules: [q_proj, v_proj, up_proj, down_proj, lm_head]
            plugins: [axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin]
            cut_cross_entropy: true
            learning_rate: 0.0002
            micro_batch_size: 4
            gradient_accumulation_steps: 4
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_modules: [q_proj, v_proj, up_proj, down_proj]
            plugins: [axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin]
            cut_cross_entropy: true
            learning_rate: 0.0002
            micro_batch_size: 4
            gradient_accumulation_steps: 4
    Evidence: trl 1.16, SFTTrainer, DPOTrainer and GRPOTrainer; the fused linear losses of Liger and of cut cross-entropy.
    Known problems: TRL before its fused head was the default took the pair and trained it. Patterns are not looked into;
        Unsloth moves the head to modules_to_save, where it is trained.
    """
    targets = lora.target_modules
    heads = [n for n in (() if isinstance(targets, str) else targets) if n.rsplit(".", 1)[-1] in HEAD_NAMES]
    loss = _fused_loss(config, facts) if heads else None
    if loss is None:
        return
    entry = config.written.get("target_modules")
    does = "TRL refuses it" if loss == "TRL's own loss" else "it never gets a gradient"
    yield Hit(
        f"{heads[0]} carries an adapter, but {loss} reads the head's bare weight: {does}. Leave {heads[0]} out of the targets, or "
        "train it in full as a module to save.",
        (place(entry),) if entry is not None else ("lora.target_modules",),
    )


HEAD_NAMES = tuple(name for name in EMBEDDING_NAMES if name in ("lm_head", "embed_out"))


def _fused_loss(config: Reading, facts: Facts) -> str | None:
    """What reads the head's bare weight in this run; None where nothing is known to."""
    name = config.dialect.name
    if name.startswith("unsloth"):
        return None
    if name == "trl":
        family = facts.task.family if facts.task is not None else None
        return "TRL's own loss" if family in ("sft", "preference", "rl") and not _old(config) else None
    if config.effective("train.use_liger_kernel") is True or _on("liger_fused_linear_cross_entropy", config):
        return "Liger's fused loss"
    return "cut cross-entropy" if _on("cut_cross_entropy", config) else None


def _on(key: str, config: Reading) -> bool:
    entry = config.config.get(key)
    return entry is not None and entry.value is True


def _old(config: Reading) -> bool:
    """Whether the file is for a TRL before 1.16, the version that was read."""
    version = config.versions.get("trl", "1.16").split(".")
    return tuple(int(part) for part in version[:2] if part.isdigit()) < (1, 16)


TARGET_WORD_RULES = (all_linear_misspelt, adapter_wrapped_twice, targets_unset, head_adapter_bypassed)
