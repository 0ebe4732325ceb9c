"""Settings that count only beside another one: a table for each trainer, judged by what the run will really use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.said import above, key_of, on, said, word
from lora_advise.unknown import UnknownFact


class Needs(NamedTuple):
    """Settings and the switch without which they do nothing."""

    names: tuple[str, ...]
    """Lenses or keys; a star stands for any end."""
    switched: Callable[[Reading], bool]
    switch: str
    """What turns them on, as the file would say it."""
    severity: Severity | None = None
    """None for a note: they are left out. An error where the trainer stops."""


def _bits(config: Reading) -> bool:
    return config.facts.quant is not None and config.facts.quant.load_in_4bit


def _checkpoints(config: Reading) -> bool:
    return config.facts.train is not None and config.facts.train.activation_checkpointing


def _uses_betas(config: Reading) -> bool:
    """Whether the optimizer is one that transformers gives Adam's numbers to."""
    return config.facts.train is None or config.facts.train.optim not in _WITHOUT_BETAS


_WITHOUT_BETAS = ("sgd", "adagrad", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "adafactor")


def _stage(*stages: str) -> Callable[[Reading], bool]:
    return lambda config: word(config, "stage", "sft") in stages


def _is(name: str, *words: str) -> Callable[[Reading], bool]:
    return lambda config: word(config, name) in words


def _has(name: str) -> Callable[[Reading], bool]:
    return lambda config: on(config, name)


def _starts_as(kind: str) -> Callable[[Reading], bool]:
    return lambda config: kind in (word(config, "lora.init_lora_weights"), word(config, "init_lora_weights"))


def _stored_quantised(config: Reading) -> bool:
    """Whether the base's own name says that it is quantised, where the bits need no method."""
    return any(part in word(config, "model") for part in ("gptq", "awq", "int4", "int8", "fp8", "aqlm", "bnb", "4bit"))


_ADAM = Needs(("train.adam_beta1", "train.adam_beta2", "adam_epsilon"), _uses_betas, "an optimizer of Adam's kind")
_KWARGS = Needs(("gradient_checkpointing_kwargs",), _checkpoints, "gradient_checkpointing")
_EMBEDDING_RATE = Needs(("loraplus_lr_embedding",), _has("lora.loraplus_lr_ratio"), "loraplus_lr_ratio")
_BNB = Needs(
    ("quant.bnb_4bit_quant_type", "quant.bnb_4bit_use_double_quant", "quant.bnb_4bit_quant_storage", "quant.bnb_4bit_compute_dtype"),
    _bits, "load_in_4bit",
)  # fmt: skip
_VLLM = Needs(("vllm_*",), _has("use_vllm"), "use_vllm")
_PEFT = (
    *(Needs((f"{kind}_config", f"LoraConfig.{kind}_config"), _starts_as(kind), f"init_lora_weights = {kind}")
      for kind in ("loftq", "eva", "corda", "lora_ga")),
    Needs(("layers_pattern",), lambda c: said(c, "lora.layers_to_transform") is not None or said(c, "layers_to_transform") is not None,
          "layers_to_transform", Severity.ERROR),
)  # fmt: skip
AXOLOTL = (
    Needs(("torch_compile_options",), _has("torch_compile"), "torch_compile", Severity.ERROR),
    Needs(("peft_layers_pattern",), _has("lora.layers_to_transform"), "peft_layers_to_transform", Severity.ERROR),
    Needs(("fp8_config",), _has("fp8"), "fp8", Severity.ERROR),
    Needs(("activation_offloading",), _checkpoints, "gradient_checkpointing", Severity.ERROR),
    Needs(("do_bench_eval",), lambda c: on(c, "evals_per_epoch") or on(c, "train.eval_steps"), "evals_per_epoch", Severity.ERROR),
    Needs(("load_in_4bit",), lambda c: word(c, "adapter") != "lora" or on(c, "quantize_moe_experts") or _stored_quantised(c),
          "adapter: qlora", Severity.WARNING),
    Needs(("bnb_config_kwargs",), lambda c: on(c, "load_in_4bit") and word(c, "adapter") == "qlora",
          "adapter: qlora and load_in_4bit"),
    _KWARGS, _EMBEDDING_RATE, _ADAM,
)  # fmt: skip
LLAMAFACTORY = (
    Needs(("pissa_iter",), _has("pissa_init"), "pissa_init"),
    Needs(("quant.bnb_4bit_quant_type", "quant.bnb_4bit_use_double_quant", "quantization_method"),
          lambda c: said(c, "bits") is not None, "quantization_bit"),
    Needs(("loss_type",), _stage("dpo"), "stage: dpo"),
    Needs(("beta", "pref_ftx"), _stage("dpo", "kto"), "stage: dpo"),
    Needs(("simpo_gamma",), lambda c: word(c, "loss_type") == "simpo" and word(c, "stage") == "dpo", "pref_loss: simpo"),
    Needs(("kto_chosen_weight", "kto_rejected_weight"), _stage("kto"), "stage: kto"),
    Needs(("ppo_*", "reward_model", "reward_model_type"), _stage("ppo"), "stage: ppo"),
    Needs(("freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules"),
          lambda c: word(c, "adapter") == "freeze" or on(c, "use_llama_pro"), "finetuning_type: freeze"),
    Needs(("oft_*",), _is("adapter", "oft"), "finetuning_type: oft"),
    *(Needs((f"{kind}_*",), _has(f"use_{kind}"), f"use_{kind}") for kind in ("galore", "apollo", "badam")),
    Needs(("create_new_adapter",), _has("adapter_path"), "adapter_name_or_path"),
    _EMBEDDING_RATE, _ADAM,
)  # fmt: skip
SWIFT = (
    Needs(("bits",), lambda c: on(c, "quantization_method") or key_of(c, "bits") != "quant_bits" or _stored_quantised(c), "quant_method",
          Severity.WARNING),
    Needs(("quant.bnb_4bit_quant_type", "quant.bnb_4bit_use_double_quant", "quant.bnb_4bit_quant_storage", "bnb_4bit_compute_dtype"),
          _bits, "quant_method bnb with quant_bits 4"),
    Needs(("hqq_axis",), _is("quantization_method", "hqq"), "quant_method hqq"),
    Needs(("lora_ga_*",), _is("init_weights", "lora-ga"), "init_weights lora-ga"),
    Needs(("reft_*",), _is("adapter", "reft", "bone"), "tuner_type reft"),
    *(Needs((f"{kind}_*",), _is("adapter", kind), f"tuner_type {kind}") for kind in ("adalora", "vera", "boft", "llamapro")),
    Needs(("fourier_*",), _is("adapter", "fourierft"), "tuner_type fourierft"),
    Needs(("galore_*",), _has("use_galore"), "use_galore"),
    Needs(("lisa_step_interval",), lambda c: above(c, "lisa_activated_layers", 0), "lisa_activated_layers"),
    Needs(("packing_length",), _has("packing"), "packing"),
    Needs(("zero_hpz_partition_size", "deepspeed_autotp_size"), _has("deepspeed"), "deepspeed"),
    _KWARGS, _ADAM,
)  # fmt: skip
TRL = (
    _BNB, _VLLM, _KWARGS, _ADAM, *_PEFT,
    Needs(("packing_strategy",), lambda c: on(c, "train.packing") or on(c, "eval_packing"), "packing"),
)  # fmt: skip
TORCHTUNE = (
    Needs(("activation_offloading",), _checkpoints, "enable_activation_checkpointing", Severity.ERROR),
)  # fmt: skip
UNSLOTH = (Needs(("max_lora_rank", "gpu_memory_utilization"), _has("fast_inference"), "fast_inference"), *_PEFT, _ADAM)
SWITCHED: dict[str, tuple[Needs, ...]] = {
    "axolotl": AXOLOTL, "llamafactory": LLAMAFACTORY, "ms-swift": SWIFT, "trl": TRL, "hf": (_KWARGS, _ADAM, *_PEFT), "peft": _PEFT,
    "torchtune": TORCHTUNE, "unsloth": UNSLOTH,
}  # fmt: skip
"""Read in the trainers' code; a setting that an optimizer or a loss of one's own may read is in none of them."""


def _given(config: Reading, names: tuple[str, ...]) -> list[str]:
    """Those of the settings that the file has with a value that asks for something."""
    found = []
    for name in names:
        if name.endswith("*"):
            tops = (str(e.path[0]) for e in config.config.entries if len(e.path) == 1)
            found += [key for key in tops if key.startswith(name[:-1]) and on(config, key)]
        elif on(config, name):
            found.append(name)
    return found


@rule("setting-without-switch", "KEY1112", Severity.NOTE, Confidence.FACT, ("trainer-code",))
def setting_without_switch(config: Reading) -> Iterator[Hit]:
    """A setting counts only beside another one, which is not on.

    Why: it is left out without a word, so who reads the file believes that something happens which does not. Where the trainer
        stops at it instead, it is an error.
    Example:
        llamafactory: |
            model_name_or_path: meta-llama/Llama-3.1-8B-Instruct
            stage: sft
            do_train: true
            finetuning_type: lora
            lora_rank: 16
            lora_alpha: 32
            lora_target: all
            pissa_iter: 16
            dataset: alpaca
            template: llama3
            cutoff_len: 512
            bf16: true
            learning_rate: 1.0e-4
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
            lora_alpha: 32
            lora_target: all
            dataset: alpaca
            template: llama3
            cutoff_len: 512
            bf16: true
            learning_rate: 1.0e-4
            num_train_epochs: 1.0
            per_device_train_batch_size: 4
            gradient_accumulation_steps: 4
    Evidence: the place where each trainer reads the setting, at the versions that docs/dialects.md names.
    Known problems: only pairs that were read there. A switch that is on by default counts as on.
    """
    for row in SWITCHED.get(config.dialect.name, ()):
        try:
            given = _given(config, row.names)
            if not given or row.switched(config):
                continue
        except UnknownFact:
            continue
        keys = ", ".join(dict.fromkeys(key_of(config, name) for name in given))
        verb = f"{'count' if len(given) > 1 else 'counts'} only with {row.switch}"
        does = (
            f", and {config.dialect.title} stops without it"
            if row.severity is Severity.ERROR
            else ", and here without effect"
        )
        yield Hit(
            f"{keys} {verb}{does}: add that, or remove {'them' if len(given) > 1 else 'it'}.",
            tuple(f"config.{name}" for name in given),
            severity=row.severity,
        )


WITHOUT_SWITCH_RULES = (setting_without_switch,)
