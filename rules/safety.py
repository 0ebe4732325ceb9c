"""Rules about what a config gives away."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lora_advise.facts import ModelFacts
from lora_advise.finding import Confidence, Hit, Rewrite, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.keys import place

SECRETS = (
    (re.compile(r"hf_[A-Za-z0-9]{30,}"), "Hugging Face token"),
    (re.compile(r"sk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}"), "API key"),
    (re.compile(r"gh[pousr]_[A-Za-z0-9]{36,}"), "GitHub token"),
    (re.compile(r"AKIA[0-9A-Z]{16}"), "AWS key"),
)
_WANDB_KEY = re.compile(r"[0-9a-f]{40}")


@rule("secret-in-config", "SAF1401", Severity.WARNING, Confidence.FACT, ("file-itself",))
def secret_in_config(config: Reading) -> Iterator[Hit]:
    """A token or key stands in the file.

    Why: configs are shared, committed and uploaded with the model; whoever reads the file can use the token.
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
            hub_model_id: me/mine
            wandb_name: hf_abcdefghijklmnopqrstuvwxyzABCDEFGH
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
            hub_model_id: me/mine
    Evidence: the shapes that the services publish for their tokens.
    Known problems: a token that was made up for an example looks the same.
    """
    for entry in config.config.entries:
        if not isinstance(entry.value, str) or len(entry.value) > 4096:
            continue
        kind = next((words for shape, words in SECRETS if shape.search(entry.value)), None)
        if kind is None and "wandb" in str(entry.path[-1]).lower() and _WANDB_KEY.fullmatch(entry.value):
            kind = "Weights & Biases key"
        if kind is not None:
            yield Hit(
                f"{str(entry.path[-1])[:60]} holds what looks like a {kind}: revoke it, and give it by the environment.",
                (place(entry),),
            )


_CODE_OF_THEIR_OWN = (
    "baichuan",
    "bailing_moe",
    "chatglm",
    "deepseek",
    "internlm2",
    "internvl_chat",
    "mimo",
    "minicpm",
    "phi3small",
    "qwen",
)
"""Model types of the catalogue that transformers 5.24 has no class for."""


@rule("remote-code-trusted", "SAF1402", Severity.NOTE, Confidence.CONVENTION, ("transformers-code",))
def remote_code_trusted(config: Reading, model: ModelFacts) -> Iterator[Hit]:
    """The model repository's own Python code may run, though transformers has a class for the model.

    Why: trust_remote_code runs what stands in the repository at the time of loading. Where transformers has the class itself, it
        runs for nothing, and another version of the repository may run something else.
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
            trust_remote_code: true
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
    Evidence: AutoModel takes the repository's class, where it names one, before its own when trust_remote_code is true.
    Known problems: usual practice: trainers' own examples set it for any model, so it is hidden by default.
    """
    entry = config.written.get("trust_remote_code")
    if entry is not None and str(entry.value).lower() == "true" and model.model_type not in _CODE_OF_THEIR_OWN:
        yield Hit(
            f"trust_remote_code runs Python code out of the model's repository, and transformers has a class for {model.model_type}: "
            "remove it.",
            ("config.trust_remote_code",),
            rewrites=(Rewrite(entry, "set trust_remote_code to false", value=False),),
        )


SAFETY_RULES = (secret_in_config, remote_code_trusted)
