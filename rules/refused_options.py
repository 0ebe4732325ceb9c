"""Options that a trainer refuses, or drops without a word, beside others."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.adapter_limits import TORCHTUNE_PROJECTIONS
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.option_tables import AXOLOTL, LLAMAFACTORY, sharding
from lora_advise.rules.said import Case, above, applies, fields, on, said, word

_STARTS = ("gaussian", "eva", "olora", "pissa", "corda", "loftq", "orthogonal", "mica", "lora_ga")
"""What Unsloth hands on to PEFT as ``init_lora_weights``, beside true, false and ``pissa_niter_<n>``."""
_EMBEDDINGS = ("embed_tokens", "lm_head")


def _ref_model_refused(config: Reading) -> bool:
    """As ``RLHFArguments.__post_init__`` decides."""
    kind, full = word(config, "rl", "dpo"), word(config, "adapter", "lora") == "full"
    free = kind == "grpo" and said(config, "beta") in (0, 0.0)
    return on(config, "ref_model") and not free and not (full and kind in ("dpo", "kto", "ppo", "grpo"))


def _fast_language_model(config: Reading) -> bool:
    return any(
        str(e.path[0]).startswith("FastLanguageModel.get_peft_model") for e in config.config.entries if len(e.path) == 1
    )


def _odd_saved(config: Reading) -> bool:
    names = said(config, "lora.modules_to_save")
    leaves = [str(name).rpartition(".")[2] for name in names] if isinstance(names, tuple) else []
    return any(leaf not in _EMBEDDINGS and "norm" not in leaf.lower() for leaf in leaves)


def _odd_start(config: Reading) -> bool:
    start = said(config, "lora.init_lora_weights")
    if not isinstance(start, str):
        return False
    count = start.removeprefix("pissa_niter_")
    return start not in _STARTS and not (count != start and count.isdigit())


def _odd_projections(config: Reading) -> bool:
    names = said(config, "target_modules")
    return isinstance(names, tuple) and any(str(name) not in TORCHTUNE_PROJECTIONS for name in names)


def _plain_builder(config: Reading) -> bool:
    package, _, builder = word(config, "model").rpartition(".")
    adapted = builder.startswith(("lora_", "qlora_", "dora_", "qdora_"))
    ours = package.startswith("torchtune.models.") and "vision" not in builder
    return ours and not adapted and (on(config, "lora.r") or on(config, "target_modules"))


_SAVED = Case(
    ("save_only_model", "train.load_best_model_at_end"),
    lambda c: (
        on(c, "save_only_model") and on(c, "train.load_best_model_at_end") and sharding(c) in ("zero2", "zero3", "fsdp")
    ),
    "Under DeepSpeed and FSDP the Trainer cannot load the best checkpoint of those that hold the model alone, and stops: drop "
    "save_only_model or load_best_model_at_end.",
)
_SEARCHED = Case(
    ("auto_find_batch_size", "deepspeed"), lambda c: on(c, "auto_find_batch_size") and sharding(c) == "zero3",
    "auto_find_batch_size does not work under ZeRO-3, and the Trainer stops: set the batch size.",
)  # fmt: skip
_TRAINER = (_SAVED, _SEARCHED)
SWIFT = (
    *_TRAINER,
    Case(("ref_model", "adapter"), _ref_model_refused,
         "A LoRA run has its reference in the base without the adapter, so ms-swift stops at ref_model: remove it."),
    Case(("lazy_tokenize", "packing"), lambda c: on(c, "lazy_tokenize") and (on(c, "packing") or on(c, "streaming")),
         "lazy_tokenize does not go with packing or streaming, and ms-swift stops: remove it."),
    Case(("fsdp", "save_only_model"), lambda c: word(c, "fsdp") == "fsdp2" and on(c, "save_only_model"),
         "ms-swift's fsdp2 saves sharded states, of which the model alone cannot be kept, and it stops: drop save_only_model."),
    Case(("adapter_path",), lambda c: isinstance(v := said(c, "adapter_path"), tuple) and len(v) > 1,
         "ms-swift trains a single adapter on and stops at more: merge them first."),
    Case(("quantization_method", "bits"), lambda c: word(c, "quantization_method") in ("bnb", "hqq", "eetq", "quanto") and said(c, "bits") is None,
         "quant_method needs quant_bits beside it, else ms-swift stops: add it."),
    Case(("bits", "quantization_method"),
         lambda c: word(c, "quantization_method") == "bnb" and said(c, "bits") is not None and word(c, "bits") not in ("4", "8"),
         "bitsandbytes quantises to 4 or 8 bits, and ms-swift stops at another number: write 4 or 8."),
    Case(("lora.target_parameters", "tuner_backend", "use_swift_lora"),
         lambda c: on(c, "lora.target_parameters") and (word(c, "tuner_backend") == "unsloth" or on(c, "use_swift_lora")),
         "ms-swift hands target_parameters to PEFT's own LoRA alone, so they are left out here: use tuner_backend peft.", Severity.WARNING),
)  # fmt: skip
TORCHTUNE = (
    Case(("target_modules",), _odd_projections,
         "torchtune puts adapters on q_proj, k_proj, v_proj and output_proj and passes over any other name in lora_attn_modules "
         "without a word: write output_proj for o_proj, and apply_lora_to_mlp: True for the MLP."),
    Case(("model", "lora.r", "target_modules"), _plain_builder,
         "That builder makes the model without an adapter, so torchtune stops at the settings of LoRA beside it: write the one whose "
         "name begins with lora_ or qlora_."),
    Case(("dtype",), lambda c: word(c, "dtype") == "fp16" and c.facts.lora is not None,
         "torchtune's LoRA recipes have no loss scaling and stop at fp16: write bf16 or fp32."),
    Case(("activation_offloading", "device"), lambda c: on(c, "activation_offloading") and word(c, "device", "cuda") == "cpu",
         "Activations are offloaded from a CUDA or XPU device alone, and torchtune stops on the CPU: switch it off."),
    Case(("tensor_parallel_dim",), lambda c: above(c, "tensor_parallel_dim", 1) and c.facts.lora is not None,
         "torchtune's LoRA recipes do not split tensors and stop at tensor_parallel_dim above 1: remove it."),
)  # fmt: skip
UNSLOTH = (
    Case(("lora.modules_to_save",), lambda c: _fast_language_model(c) and _odd_saved(c),
         "FastLanguageModel trains embed_tokens, lm_head and norms whole and stops at other modules: target them, or use FastModel."),
    Case(("lora.init_lora_weights",), _odd_start,
         f"Unsloth stops at that init_lora_weights: it takes true, false, pissa_niter_<n>, {', '.join(_STARTS)}."),
    Case(("lora.init_lora_weights",), lambda c: _fast_language_model(c) and said(c, "lora.init_lora_weights") == "eva",
         "EVA needs the layers' inputs, which FastLanguageModel's fused path does not show, and it stops: use FastModel."),
    Case(("fast_inference", "lora.modules_to_save", "lora.bias"),
         lambda c: _fast_language_model(c) and on(c, "fast_inference")
         and (on(c, "lora.modules_to_save") or word(c, "lora.bias", "none") != "none"),
         "With fast_inference Unsloth's vLLM copy takes low-rank updates alone, and it stops at modules_to_save and bias: drop them, or "
         "fast_inference."),
)  # fmt: skip
REFUSED: dict[str, tuple[Case, ...]] = {
    "axolotl": (*AXOLOTL, *_TRAINER), "llamafactory": (*LLAMAFACTORY, *_TRAINER), "ms-swift": SWIFT, "torchtune": TORCHTUNE,
    "unsloth": UNSLOTH, "trl": _TRAINER, "hf": _TRAINER,
}  # fmt: skip


@rule("option-refused-by-trainer", "KEY1114", Severity.ERROR, Confidence.FACT, ("trainer-code",))
def option_refused_by_trainer(config: Reading) -> Iterator[Hit]:
    """An option does not go with another one, or with this trainer, which stops or leaves it out.

    Why: trainers check combinations when they parse the file, or after the model is loaded; one that is left out without a
        word makes another run than the file says.
    Example:
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
            streaming: true
            max_steps: 1000
            max_samples: 10000
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
            streaming: true
            max_steps: 1000
    Evidence: each row of the table stands in the trainer's own validators, at the versions that docs/dialects.md names.
    Known problems: only what was read there; an older or newer version may refuse less.
    """
    for case in REFUSED.get(config.dialect.name, ()):
        if applies(case, config):
            yield Hit(case.words, fields(case, config), severity=case.severity)


REFUSED_OPTION_RULES = (option_refused_by_trainer,)
