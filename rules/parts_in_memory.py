"""Rules about parts of a model that take more memory than they seem to: embeddings, fused experts, evaluation."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import GIB, Facts, LoraFacts, ModelFacts, QuantFacts, TaskFacts, TrainFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.rate import EMBEDDING_NAMES
from lora_advise.unknown import unknown_fields

LARGE_VOCABULARY = 100_000
TOKEN_SETTINGS = (
    "tokens",
    "special_tokens",
    "added_tokens_overrides",
    "new_special_tokens",
    "add_tokens",
    "add_special_tokens",
)


@rule("experts-stay-16-bit", "MEM509", Severity.WARNING, Confidence.FACT, ("transformers-code", "peer-checks"))
def experts_stay_16_bit(
    model: ModelFacts, quant: QuantFacts, facts: Facts, config: Reading | None = None
) -> Iterator[Hit]:
    """The base is loaded in 4 bits, but its experts stay in 16.

    Why: bitsandbytes replaces linear layers. Since transformers 5 the experts of a mixture are bare three-dimensional
        parameters, which it passes over, and they are most of the model.
    Example:
        model: mixture-of-experts
        quant: {load_in_4bit: true}
        lora: {target_modules: [q_proj, k_proj, v_proj, o_proj]}
        hardware: null
    Instead:
        model: mixture-of-experts
        lora: {target_modules: [q_proj, k_proj, v_proj, o_proj]}
        hardware: null
    Evidence: the quantizer's code replaces nn.Linear alone; only Axolotl (quantize_moe_experts) and Unsloth quantize experts.
    Known problems: transformers 4 kept experts as linear layers; a stated version below 5 silences it, and so does a
        checkpoint whose experts were made linear. When the device is known the forecast, which counts it, decides instead.
    """
    if facts.hardware is not None and "memory_gib" not in unknown_fields(facts.hardware):
        return
    experts = sum(m.weights for m in model.with_role("expert") if m.kind == "parameter")
    if not quant.load_in_4bit or experts < model.total_params / 4 or _experts_are_quantised(model, facts, config):
        return
    wide, narrow = experts * 2 / GIB, experts * 0.516 / GIB
    way = (
        " quantize_moe_experts: true does it in Axolotl."
        if config is not None and config.dialect.name == "axolotl"
        else ""
    )
    yield Hit(
        f"load_in_4bit leaves the fused experts of {model.name} in 16 bits: {wide:,.1f} GiB instead of {narrow:,.1f}. Plan for that, "
        f"or take a trainer that quantizes experts.{way}",
        ("quant.load_in_4bit", "model.name"),
    )


def _experts_are_quantised(model: ModelFacts, facts: Facts, config: Reading | None) -> bool:
    if config is None:
        versions = facts.stack.versions if facts.stack is not None else {}
        return versions.get("transformers", "5").startswith(("3.", "4."))
    name = str(config.value("model", "")).lower()
    own = config.config.get("quantize_moe_experts")
    linear = config.config.get("llama4_linearized_experts")
    if (own is not None and own.value is True) or (linear is not None and linear.value is True):
        return True
    if (
        "linearized" in name
        or "bnb" in name
        or config.dialect.name in ("unsloth", "unsloth-studio", "torchtune", "peft")
    ):
        return True
    return config.versions.get("transformers", "5").startswith(("3.", "4."))


@rule(
    "whole-embeddings-trained",
    "MEM510",
    Severity.WARNING,
    Confidence.FACT,
    ("arithmetic", "peft-code", "whole-embedding-reports"),
)
def whole_embeddings_trained(config: Reading, model: ModelFacts, lora: LoraFacts, facts: Facts) -> Iterator[Hit]:
    """Embeddings or head of a large vocabulary are trained in full beside the adapter.

    Why: at 128,000 rows one of these matrices has more weights than all the adapter. They take gradients and optimizer
        states, and every checkpoint of the adapter holds them whole.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B-Instruct
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            lora_modules_to_save: [embed_tokens, lm_head]
            embedding_lr: 0.00003
            learning_rate: 0.0003
            micro_batch_size: 16
            sequence_len: 512
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B-Instruct
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0003
            micro_batch_size: 16
            sequence_len: 512
    Evidence: V * d weights each, 16 bytes of weights, gradient and Adam states per weight in float32; adapters of gigabytes
        were reported.
    Known problems: new tokens, a new language and continued pretraining need them, so there nothing is said.
    """
    named = [name for name in lora.modules_to_save if name.rsplit(".", 1)[-1] in EMBEDDING_NAMES]
    if not named or model.vocab_size < LARGE_VOCABULARY or _needs_embeddings(facts, config):
        return
    weights = len(named) * model.vocab_size * model.hidden_size
    few = "the few rows that matter can be trained alone (trainable_token_indices)"
    yield Hit(
        f"{' and '.join(named)} of {model.name} {'are' if len(named) > 1 else 'is'} trained in full: {weights / 1e6:,.0f} million weights, "
        f"up to {weights * 16 / GIB:.1f} GiB with gradients and optimizer states, and {weights * 2 / GIB:.1f} GiB or more in every saved "
        f"adapter. Leave them out, or {few}.",
        ("lora.modules_to_save",),
        (Change("lora.modules_to_save", tuple(n for n in lora.modules_to_save if n not in named)),),
    )


def _needs_embeddings(facts: Facts, config: Reading) -> bool:
    """Whether tokens are added or changed, or the task is one that learns a language."""
    task = facts.task
    if task is not None and (task.family == "pretraining" or "language" in task.name):
        return True
    found = {str(entry.path[0]) for entry in config.config.entries if entry.value not in (None, False, ())}
    if "special_tokens" in found:
        keys = {str(e.path[1]) for e in config.config.entries if e.path[0] == "special_tokens" and len(e.path) > 1}
        found -= set() if keys - {"pad_token"} else {"special_tokens"}
    return bool(found & set(TOKEN_SETTINGS)) or any(
        str(key).endswith(("add_tokens", "add_new_tokens")) for key in found
    )


@rule("eval-batch-inherited", "MEM511", Severity.WARNING, Confidence.FACT, ("transformers-code", "arithmetic"))
def eval_batch_inherited(config: Reading, task: TaskFacts, train: TrainFacts, model: ModelFacts) -> Iterator[Hit]:
    """Evaluation runs at a batch several times as large as the training's, which nobody set.

    Why: the default is 8 whatever the micro-batch is, and evaluation keeps the logits of every token: batch * length *
        vocabulary. A run that fits stops at its first evaluation.
    Example:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: sft
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 4096
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
            bf16: true
            per_device_train_batch_size: 1
            gradient_accumulation_steps: 16
            val_size: 0.05
            eval_strategy: steps
            eval_steps: 100
    Instead:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            stage: sft
            finetuning_type: lora
            dataset: mine
            template: qwen
            cutoff_len: 4096
            num_train_epochs: 1.0
            learning_rate: 3.0e-4
            bf16: true
            per_device_train_batch_size: 1
            per_device_eval_batch_size: 1
            gradient_accumulation_steps: 16
            val_size: 0.05
            eval_strategy: steps
            eval_steps: 100
    Evidence: TrainingArguments has 8; the logits of the example are 18.5 GiB in float32.
    Known problems: with short sequences it is harmless, so only logits above 8 GiB count.
    """
    size, micro = train.per_device_eval_batch_size, train.per_device_train_batch_size
    if train.eval_strategy == "no" or task.family not in ("sft", "pretraining") or size < 4 * micro:
        return
    if "train.per_device_eval_batch_size" not in config.inherited or train.use_liger_kernel:
        return
    logits = size * train.max_length * model.vocab_size * 4 / GIB
    if logits <= 8:
        return
    yield Hit(
        f"Evaluation takes {size} sequences at a time, the default, where training takes {micro}: up to {logits:.1f} GiB of logits at "
        f"{train.max_length:,} tokens. Set per_device_eval_batch_size to {micro}.",
        ("train.per_device_eval_batch_size", "train.eval_strategy"),
        (Change("train.per_device_eval_batch_size", micro),),
    )


PARTS_IN_MEMORY_RULES = (experts_stay_16_bit, whole_embeddings_trained, eval_batch_inherited)
