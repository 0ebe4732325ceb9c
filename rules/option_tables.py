"""What Axolotl and LLaMA-Factory refuse together, as their own validators say it."""

from __future__ import annotations

from lora_advise.finding import Severity
from lora_advise.reading import Reading
from lora_advise.rules.said import Case, above, off, on, said, word

KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel")
_GONE = (
    "unsloth_cross_entropy_loss", "unsloth_lora_mlp", "unsloth_lora_qkv", "unsloth_lora_o", "unsloth_rms_norm", "unsloth_rope",
)  # fmt: skip
_ATTENTION = {
    "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flash_attention_torch", "flex_attention",
    "xformers", "sage", "fp8",
}  # fmt: skip


def _evaluates_nothing(config: Reading) -> bool:
    asked = on(config, "train.eval_steps") or on(config, "eval_strategy")
    said_so = said(config, "eval_share") == 0 and off(config, "test_datasets")
    return asked and said_so and word(config, "eval_strategy") not in ("no", "false")


def _kernels(config: Reading) -> bool:
    return any(on(config, name) for name in KERNELS)


def _adapted(config: Reading) -> bool:
    return word(config, "adapter") in ("lora", "qlora")


def sharding(config: Reading) -> str:
    """How the weights are spread over processes; raises UnknownFact where that is not known."""
    return config.facts.stack.sharding if config.facts.stack is not None else "none"


def _quantised(config: Reading) -> bool:
    return said(config, "bits") is not None


def _adapters(config: Reading) -> int:
    value = said(config, "adapter_path", "")
    return len(value) if isinstance(value, tuple) else len([part for part in str(value).split(",") if part.strip()])


AXOLOTL = (
    Case((*KERNELS, "load_in_8bit"), lambda c: _kernels(c) and word(c, "adapter") == "lora" and on(c, "load_in_8bit"),
         "Axolotl's LoRA kernels do not work on a base in 8 bits and it stops: switch the kernels off, or load in 4 or 16 bits."),
    Case((*KERNELS, "trust_remote_code"), lambda c: _kernels(c) and on(c, "trust_remote_code"),
         "Axolotl's LoRA kernels patch classes of transformers, so it stops beside trust_remote_code: switch one of them off."),
    Case(("flash_attn_fuse_mlp", "adapter"), lambda c: on(c, "flash_attn_fuse_mlp") and _adapted(c),
         "flash_attn_fuse_mlp hides the layers that an adapter is put on, so Axolotl stops: remove it."),
    Case(("use_onebitllms", "adapter"), lambda c: on(c, "use_onebitllms") and _adapted(c),
         "use_onebitllms takes no LoRA adapter and Axolotl stops: remove one of them."),
    Case(("quantize_moe_experts", "target_linear"), lambda c: on(c, "quantize_moe_experts") and on(c, "target_linear"),
         "quantize_moe_experts does not go with lora_target_linear and Axolotl stops: name the layers in lora_target_modules and "
         "the experts in lora_target_parameters."),
    Case(("quantize_moe_experts", "adapter", "load_in_4bit"),
         lambda c: on(c, "quantize_moe_experts") and (not _adapted(c) or (off(c, "load_in_4bit") and off(c, "load_in_8bit"))),
         "quantize_moe_experts needs an adapter and a base in 4 or 8 bits, else Axolotl stops: add them, or remove it."),
    Case(("qat", "load_in_4bit", "load_in_8bit"), lambda c: on(c, "qat") and (on(c, "load_in_4bit") or on(c, "load_in_8bit")),
         "Quantisation-aware training needs a base in full precision, so Axolotl stops: remove qat or the bits."),
    Case(("save_strategy", "save_steps"),
         lambda c: on(c, "train.save_strategy") and on(c, "save_steps") and word(c, "train.save_strategy") != "steps",
         "save_steps is given, but save_strategy is not steps, and Axolotl stops: remove one of them."),
    Case(("eval_strategy", "train.eval_steps"),
         lambda c: on(c, "eval_strategy") and on(c, "train.eval_steps") and word(c, "eval_strategy") != "steps",
         "eval_steps is given, but eval_strategy is not steps, and Axolotl stops: remove one of them."),
    Case(("eval_strategy", "evals_per_epoch"),
         lambda c: on(c, "eval_strategy") and on(c, "evals_per_epoch") and word(c, "eval_strategy") != "steps",
         "evals_per_epoch goes with no eval_strategy but steps, and Axolotl stops: remove one of them."),
    Case(("rl", "remove_unused_columns"), lambda c: word(c, "rl") == "kto" and word(c, "remove_unused_columns") != "false",
         "KTO needs remove_unused_columns: false, else Axolotl stops: add it."),
    Case(("fsdp_version", "rl", "load_in_4bit", "load_in_8bit"),
         lambda c: said(c, "fsdp_version") == 2 and word(c, "rl") in ("dpo", "kto", "orpo", "ipo")
         and (on(c, "load_in_4bit") or on(c, "load_in_8bit")),
         "FSDP2 does not shard a quantised base in preference training and Axolotl stops: use DeepSpeed or fsdp_version: 1."),
    Case(("peft_layers_to_transform", "unfrozen_parameters"),
         lambda c: on(c, "adapter") and on(c, "lora.layers_to_transform") and on(c, "unfrozen_parameters"),
         "unfrozen_parameters and peft_layers_to_transform contradict each other and Axolotl stops: remove one of them."),
    Case(("model", "gradient_checkpointing"), lambda c: "mpt" in word(c, "model") and on(c, "gradient_checkpointing"),
         "Axolotl refuses gradient_checkpointing for a model whose name has mpt in it: switch it off."),
    Case(("model", "fsdp"), lambda c: "falcon" in word(c, "model") and on(c, "fsdp"),
         "Axolotl refuses fsdp for a model whose name has falcon in it: use DeepSpeed."),
    Case(_GONE, lambda c: any(on(c, name) for name in _GONE),
         "Axolotl has dropped the unsloth_* kernels and stops at them: use lora_mlp_kernel, lora_qkv_kernel and lora_o_kernel."),
    Case(("attn_implementation",),
         lambda c: on(c, "attn_implementation") and "/" not in word(c, "attn_implementation")
         and word(c, "attn_implementation") not in _ATTENTION,
         "That is no attention that Axolotl knows, and it stops: write flash_attention_2, sdpa, eager or flex_attention."),
    Case(("eval_share", "train.eval_steps", "eval_strategy"), _evaluates_nothing,
         "Nothing is held out with val_set_size 0, so Axolotl stops at eval_steps and eval_strategy: raise it, or remove them."),
    Case(("adapter", "plugins"),
         lambda c: on(c, "adapter") and word(c, "adapter") not in ("lora", "qlora", "llama-adapter") and off(c, "plugins"),
         "Axolotl has no adapter of that name without a plugin that brings it, and stops: write lora or qlora."),
    Case(("pretraining_dataset", "eval_share"), lambda c: on(c, "pretraining_dataset") and on(c, "eval_share"),
         "val_set_size cannot be cut from a streamed pretraining_dataset and Axolotl stops: name test_datasets."),
    Case(("chat_template",), lambda c: word(c, "chat_template") == "jinja" and off(c, "chat_template_jinja"),
         "chat_template: jinja needs the template in chat_template_jinja, else Axolotl stops: add it."),
)  # fmt: skip

LLAMAFACTORY = (
    Case(("adapter_path", "adapter"), lambda c: on(c, "adapter_path") and word(c, "adapter", "lora") != "lora",
         "adapter_name_or_path goes with finetuning_type lora alone, and LLaMA-Factory stops: remove one of them."),
    Case(("lora.loraplus_lr_ratio", "lora.use_rslora", "lora.use_dora", "pissa_init", "adapter"),
         lambda c: word(c, "adapter", "lora") != "lora" and (
             said(c, "lora.loraplus_lr_ratio") is not None or on(c, "lora.use_rslora") or on(c, "lora.use_dora") or on(c, "pissa_init")),
         "These are settings of LoRA, and LLaMA-Factory stops at them under another finetuning_type: remove them."),
    Case(("create_new_adapter", "bits"), lambda c: on(c, "create_new_adapter") and on(c, "adapter_path") and _quantised(c),
         "create_new_adapter merges the old adapter first, which a quantised base does not take, and LLaMA-Factory stops: drop "
         "quantization_bit, or train the old adapter on."),
    Case(("adapter_path", "bits"), lambda c: _adapters(c) > 1 and _quantised(c),
         "A quantised base takes a single adapter, and LLaMA-Factory stops: merge them first."),
    Case(("adapter_path", "deepspeed"), lambda c: _adapters(c) > 1 and sharding(c) == "zero3",
         "ZeRO-3 takes a single adapter, and LLaMA-Factory stops: merge them first."),
    Case(("predict_with_generate", "stage"), lambda c: on(c, "predict_with_generate") and word(c, "stage", "sft") != "sft",
         "predict_with_generate works in stage sft alone, and LLaMA-Factory stops: remove it."),
    Case(("predict_with_generate", "deepspeed"), lambda c: on(c, "predict_with_generate") and sharding(c) == "zero3",
         "predict_with_generate does not work under ZeRO-3, and LLaMA-Factory stops: use stage 2."),
    Case(("predict_with_generate", "compute_accuracy"), lambda c: on(c, "predict_with_generate") and on(c, "compute_accuracy"),
         "predict_with_generate and compute_accuracy exclude each other, and LLaMA-Factory stops: keep one."),
    Case(("train_on_inputs", "mask_history", "stage"),
         lambda c: word(c, "stage", "sft") != "sft" and (on(c, "train_on_inputs") or on(c, "mask_history")),
         "train_on_prompt and mask_history belong to stage sft, and LLaMA-Factory stops elsewhere: remove them."),
    Case(("stage", "train.load_best_model_at_end"),
         lambda c: word(c, "stage") in ("rm", "ppo") and on(c, "train.load_best_model_at_end"),
         "The stages rm and ppo cannot load the best checkpoint, and LLaMA-Factory stops: remove load_best_model_at_end."),
    Case(("stage",), lambda c: word(c, "stage") == "ppo" and said(c, "reward_model") is None,
         "PPO needs a reward_model, else LLaMA-Factory stops: name it."),
    Case(("pissa_init", "deepspeed"), lambda c: on(c, "pissa_init") and sharding(c) == "zero3",
         "PiSSA's decomposition does not work on sharded weights, and LLaMA-Factory stops under ZeRO-3: run scripts/pissa_init.py "
         "first, or use stage 2."),
    Case(("pissa_init", "use_unsloth"), lambda c: on(c, "pissa_init") and on(c, "use_unsloth"),
         "LLaMA-Factory does not hand pissa_init on to Unsloth, so the adapter starts plain: remove one of them.", Severity.WARNING),
    Case(("pure_bf16", "deepspeed"), lambda c: on(c, "pure_bf16") and sharding(c) == "zero3",
         "pure_bf16 does not work under ZeRO-3, and LLaMA-Factory stops: use bf16."),
    Case(("use_unsloth", "deepspeed"), lambda c: (on(c, "use_unsloth") or on(c, "use_kt")) and sharding(c) == "zero3",
         "Unsloth and KTransformers do not work under ZeRO-3, and LLaMA-Factory stops: use stage 2, or no deepspeed."),
    Case(("fp8", "bits"), lambda c: on(c, "fp8") and _quantised(c),
         "FP8 training does not go with quantization_bit, and LLaMA-Factory stops: keep one."),
    Case(("bits", "quantization_method"),
         lambda c: _quantised(c) and word(c, "quantization_method", "bnb") == "bnb" and word(c, "bits") not in ("4", "8"),
         "bitsandbytes quantises to 4 or 8 bits, and LLaMA-Factory stops at another number: write 4 or 8."),
    Case(("streaming", "eval_share"), lambda c: on(c, "streaming") and above(c, "eval_share", 1e-6) and not above(c, "eval_share", 0.999),
         "Streamed data have no length of which a share could be held out, and LLaMA-Factory stops: give val_size as a number of rows."),
    Case(("streaming", "max_samples"), lambda c: on(c, "streaming") and said(c, "max_samples") is not None,
         "max_samples does not go with streaming, and LLaMA-Factory stops: limit the run with max_steps."),
    Case(("dpo_label_smoothing", "loss_type"),
         lambda c: word(c, "stage") == "dpo" and above(c, "dpo_label_smoothing", 1e-6) and word(c, "loss_type", "sigmoid") != "sigmoid",
         "dpo_label_smoothing goes with pref_loss sigmoid alone, and LLaMA-Factory stops: remove it."),
    Case(("use_llama_pro", "adapter"), lambda c: on(c, "use_llama_pro") and word(c, "adapter") == "full",
         "use_llama_pro freezes all but the new blocks, so LLaMA-Factory stops at it under finetuning_type full: remove one."),
    Case(("infer_backend",), lambda c: word(c, "infer_backend", "huggingface") in ("vllm", "sglang"),
         "infer_backend is for answering, and LLaMA-Factory stops at vllm and sglang in training: remove it."),
)  # fmt: skip
