"""The facts: one frozen tree that advice, lint, memory, reports and the runner all read.

A section or field that is not known is ``None``; nothing is guessed silently. Where a value came from is kept beside
the tree (see :class:`Origin`), so a report can say "set by you", "measured in the file" or "assumed".
Field names are those of PEFT and transformers wherever these have one.
"""

from math import ceil, sqrt
from typing import Annotated, Literal

from lora_advise.model_facts import GIB as GIB
from lora_advise.model_facts import LinearModule as LinearModule
from lora_advise.model_facts import ModelFacts as ModelFacts
from lora_advise.model_facts import ModelKind as ModelKind
from lora_advise.model_facts import Origin as Origin
from lora_advise.model_facts import Role as Role
from lora_advise.section import AtLeast, Section, field

TaskFamily = Literal["sft", "pretraining", "preference", "rl", "reward", "classification"]
Method = Literal["lora", "qlora", "full"]
Sharding = Literal["none", "ddp", "fsdp", "zero2", "zero3"]


class TaskFacts(Section):
    """What the run is for."""

    name: str
    """Canonical task name, a key of ``lora_advise.tasks.TASKS``."""
    family: TaskFamily
    trainer: Literal["sft", "dpo", "kto", "orpo", "simpo", "grpo", "ppo", "reward", "classification"] = "sft"


class LoraFacts(Section):
    """The adapter, in PEFT's words (``peft.LoraConfig``)."""

    r: Annotated[int, AtLeast(1)]
    lora_alpha: float
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] | str = "all-linear"
    """Names (matched as suffixes by PEFT), or one string: ``all-linear`` or a regular expression over full paths."""
    target_parameters: tuple[str, ...] = ()
    exclude_modules: tuple[str, ...] | str | None = None
    modules_to_save: tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] | None = None
    trainable_token_indices: tuple[int, ...] | None = None
    ensure_weight_tying: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str = True
    loraplus_lr_ratio: float | None = None
    task_type: Literal["CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "FEATURE_EXTRACTION"] | None = "CAUSAL_LM"

    @property
    def scale(self) -> float:
        """The factor on BA: alpha/r, or alpha/sqrt(r) with rsLoRA (arXiv 2106.09685; arXiv 2312.03732)."""
        return self.lora_alpha / (sqrt(self.r) if self.use_rslora else self.r)

    @property
    def alpha_eff(self) -> float:
        """scale * r: alpha for standard scaling, alpha * sqrt(r) for rsLoRA; what learning rates compare by."""
        return self.scale * self.r


class QuantFacts(Section):
    """How the frozen base weights are stored, in bitsandbytes' words."""

    load_in_4bit: bool = False
    load_in_8bit: bool = False
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    bnb_4bit_use_double_quant: bool = True
    bnb_4bit_compute_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    bnb_4bit_quant_storage: Literal["uint8", "bfloat16", "float16", "float32"] = "uint8"


class TrainFacts(Section):
    """The training run, in transformers' and TRL's words. Lengths are tokens, batches are sequences."""

    learning_rate: float
    embedding_learning_rate: float | None = None
    lr_scheduler_type: str = "cosine"
    lr_scheduler_kwargs: dict[str, float] = field(default_factory=dict)
    warmup_steps: int = 0
    optim: str = "adamw_torch"
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    max_grad_norm: float | None = 1.0
    per_device_train_batch_size: Annotated[int, AtLeast(1)]
    gradient_accumulation_steps: Annotated[int, AtLeast(1)]
    per_device_eval_batch_size: int = 1
    num_train_epochs: float = 1.0
    max_steps: int | None = None
    max_length: int
    packing: bool = False
    loss_on: Literal["completion", "assistant", "all"] = "completion"
    """Which tokens carry loss: the completion, every assistant turn, or all tokens."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    activation_checkpointing: bool = True
    attn_implementation: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    use_liger_kernel: bool = False
    neftune_noise_alpha: float | None = None
    eval_strategy: Literal["no", "steps", "epoch"] = "steps"
    eval_steps: int | None = None
    eval_share: float = 0.0
    """Share of the examples held out for evaluation when no separate file is given."""
    save_strategy: Literal["no", "steps", "epoch"] = "steps"
    save_steps: int | None = None
    save_total_limit: int | None = 2
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    early_stopping_patience: int | None = None
    logging_steps: int = 10
    seed: int = 42
    beta: float | None = None
    """Preference strength (DPO, KTO, ORPO) or KL weight (GRPO)."""
    num_generations: int | None = None
    """Completions per prompt in online RL."""
    max_completion_length: int | None = None


class DataFacts(Section):
    """The training data. Counts are of the training file before the evaluation split; tokens are means."""

    path: str | None = None
    eval_path: str | None = None
    format: (
        Literal[
            "messages",
            "prompt-completion",
            "text",
            "alpaca",
            "sharegpt",
            "preference",
            "unpaired-preference",
            "prompt",
            "classification",
        ]
        | None
    ) = None
    examples: Annotated[int, AtLeast(1)]
    tokens_per_example: Annotated[int, AtLeast(1)]
    completion_tokens: Annotated[int, AtLeast(0)]
    p99_tokens: int | None = None
    max_tokens: int | None = None
    labels: int | None = None
    duplicates: int | None = None
    empty: int | None = None
    tokens_estimated: bool = True
    """Whether tokens were estimated from characters instead of counted by the model's tokenizer."""


class HardwareFacts(Section):
    """What the run has: ``count`` equal devices."""

    name: str
    count: Annotated[int, AtLeast(1)] = 1
    memory_gib: float
    """Memory of one device in GiB as the driver reports it."""
    compute_capability: str | None = None
    bf16: bool | None = None
    fp8: bool | None = None
    flash_attention_2: bool | None = None
    bitsandbytes_4bit: bool | None = None
    bandwidth_gb_s: float | None = None
    bf16_tflops: float | None = None
    kind: Literal["cuda", "rocm", "xpu", "mps", "hpu", "npu", "cpu"] = "cuda"
    nvlink: bool | None = None
    """Whether the devices are joined by NVLink or its like; None when not known."""


class StackFacts(Section):
    """Which libraries run it."""

    framework: str = "trl"
    versions: dict[str, str] = field(default_factory=dict)
    sharding: Sharding = "none"
    cpu_offload: bool = False


class Facts(Section):
    """Everything that is known of one fine-tuning run. Unknown sections are ``None``."""

    task: TaskFacts | None = None
    model: ModelFacts | None = None
    lora: LoraFacts | None = None
    quant: QuantFacts | None = None
    train: TrainFacts | None = None
    data: DataFacts | None = None
    hardware: HardwareFacts | None = None
    stack: StackFacts | None = None

    @property
    def method(self) -> Method:
        """full without an adapter, qlora on a 4-bit base, else lora."""
        if self.lora is None:
            return "full"
        return "qlora" if self.quant is not None and self.quant.load_in_4bit else "lora"

    @property
    def data_parallel(self) -> int:
        """Number of model replicas (or shards that each see their own batch): every device, under DDP, FSDP or ZeRO."""
        if self.hardware is None or self.stack is None or self.stack.sharding == "none":
            return 1
        return self.hardware.count

    @property
    def effective_batch(self) -> int | None:
        """Sequences per optimizer step: micro-batch * accumulation * data-parallel devices."""
        if self.train is None:
            return None
        return self.train.per_device_train_batch_size * self.train.gradient_accumulation_steps * self.data_parallel

    @property
    def train_examples(self) -> int | None:
        """Examples left for training after the evaluation split."""
        if self.data is None:
            return None
        if self.train is None or self.data.eval_path or self.train.eval_strategy == "no":
            return self.data.examples
        return max(1, self.data.examples - ceil(self.data.examples * self.train.eval_share))

    @property
    def group_size(self) -> int:
        """Completions that one prompt brings into a batch: GRPO's group, else 1.

        TRL counts completions in a batch: its sampler repeats every prompt ``num_generations`` times.
        """
        if self.task is None or self.task.trainer != "grpo" or self.train is None:
            return 1
        return self.train.num_generations or 1

    @property
    def sequences(self) -> int | None:
        """Rows that one epoch feeds: examples (a group of completions each in GRPO), or packed blocks of ``max_length``."""
        examples = self.train_examples
        if examples is None or self.train is None or self.data is None:
            return examples
        if not self.train.packing:
            return examples * self.group_size
        return max(1, ceil(examples * self.data.tokens_per_example / self.train.max_length))

    @property
    def optimizer_steps(self) -> int | None:
        """ceil(rows / effective batch) * epochs, or ``max_steps`` where that is set."""
        if self.train is None:
            return None
        if self.train.max_steps is not None and self.train.max_steps > 0:
            return self.train.max_steps
        rows, batch = self.sequences, self.effective_batch
        if rows is None or batch is None:
            return None
        return max(1, ceil(ceil(rows / batch) * self.train.num_train_epochs))
