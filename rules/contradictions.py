"""Rules about settings that say one thing twice, and differently: spellings, batch sizes, an adapter that is continued."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import TrainFacts
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.said import Case, applies, entry_of, fields, key_of, off, on, said
from lora_advise.unknown import UnknownFact

_FLAGS = (
    "xformers_attention",
    "sage_attention",
    "flex_attention",
    "flash_attention",
    "sdp_attention",
    "eager_attention",
)
"""In the order in which Axolotl asks them; the first that is on counts."""


def _flags(config: Reading) -> list[str]:
    return [name for name in _FLAGS if on(config, name)]


def _differ(config: Reading, one: str, other: str) -> bool:
    a, b = said(config, one), said(config, other)
    return a is not None and b is not None and str(a) != str(b)


SPELLINGS: dict[str, tuple[Case, ...]] = {
    "axolotl": (
        Case(("attn_implementation", *_FLAGS), lambda c: on(c, "attn_implementation") and bool(_flags(c)),
             "Axolotl refuses attn_implementation beside one of the older flags for attention: keep attn_implementation."),
        Case(_FLAGS, lambda c: off(c, "attn_implementation") and len(_flags(c)) > 1,
             "More than one flag for attention is on, of which Axolotl takes one by an order of its own: write attn_implementation.",
             Severity.WARNING),
        Case(("noisy_embedding_alpha", "train.neftune_noise_alpha"),
             lambda c: on(c, "noisy_embedding_alpha") and on(c, "train.neftune_noise_alpha"),
             "noisy_embedding_alpha is the old name of neftune_noise_alpha, and Axolotl refuses both: keep the new one."),
        Case(("pretrain_multipack_buffer_size", "streaming_multipack_buffer_size"),
             lambda c: on(c, "pretrain_multipack_buffer_size") and on(c, "streaming_multipack_buffer_size"),
             "pretrain_multipack_buffer_size is the old name of streaming_multipack_buffer_size, and Axolotl refuses both."),
        Case(("fsdp_version", "fsdp_config.fsdp_version"), lambda c: _differ(c, "fsdp_version", "fsdp_config.fsdp_version"),
             "fsdp_version says one version and fsdp_config another: keep one of them.", Severity.WARNING),
    ),
    "llamafactory": (
        Case(("packing", "neat_packing"), lambda c: on(c, "neat_packing") and str(said(c, "packing")).lower() == "false",
             "neat_packing turns packing on whatever packing says: remove packing: false, or neat_packing.", Severity.WARNING),
    ),
    "ms-swift": (
        Case(("target_regex", "target_modules"), lambda c: on(c, "target_regex") and said(c, "target_modules") is not None,
             "target_regex takes the place of target_modules, which is not looked at: keep one of them.", Severity.WARNING),
    ),
}  # fmt: skip


@rule("spellings-disagree", "KEY1111", Severity.ERROR, Confidence.FACT, ("trainer-code",))
def spellings_disagree(config: Reading) -> Iterator[Hit]:
    """One idea is written in two of a trainer's spellings.

    Why: the trainer takes one of them by an order of its own, or stops; who changes the other wonders why nothing happens.
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
            attn_implementation: sdpa
            flash_attention: true
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
            attn_implementation: sdpa
    Evidence: the trainers' validators. A warning where one is dropped, an error where the run stops.
    Known problems: a key beside its own former name is reported as renamed, not here.
    """
    for case in SPELLINGS.get(config.dialect.name, ()):
        if applies(case, config):
            yield Hit(case.words, fields(case, config), severity=case.severity)


@rule("batch-keys-conflict", "KEY1113", Severity.ERROR, Confidence.FACT, ("trainer-code",))
def batch_keys_conflict(config: Reading) -> Iterator[Hit]:
    """The whole batch that is written cannot be made of the micro-batches that are written.

    Why: the trainer stops, or rounds the number of accumulation steps down, and the batch is smaller than the file says.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 6
            batch_size: 16
            sequence_len: 512
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 8
            batch_size: 16
            sequence_len: 512
    Evidence: Axolotl divides batch_size by micro_batch_size and drops the rest, and stops where the micro-batch is missing;
        Megatron-SWIFT stops where the global batch is no multiple of the micro-batch times the data-parallel processes.
    Known problems: how many processes there are is judged only where a launcher says so.
    """
    try:
        whole, micro = _count(said(config, "global_batch")), _count(said(config, "train.per_device_train_batch_size"))
        steps = said(config, "train.gradient_accumulation_steps")
    except UnknownFact:
        return
    if not whole:
        return
    name, shown = (
        config.dialect.name,
        (f"config.{entry}" for entry in ("global_batch", "train.per_device_train_batch_size")),
    )
    big, small = key_of(config, "global_batch"), key_of(config, "train.per_device_train_batch_size")
    if name == "axolotl" and not micro and not steps:
        yield Hit(
            f"{big} alone does not say how large a micro-batch is, and Axolotl stops: add micro_batch_size.",
            ("config.global_batch",),
        )
    elif name in ("axolotl", "megatron-swift") and micro and not steps and whole % micro:
        made = whole // micro * micro
        does = (
            "Megatron-SWIFT stops"
            if name == "megatron-swift"
            else "Axolotl divides by 0"
            if not made
            else f"Axolotl makes {made} of it"
        )
        yield Hit(
            f"{big} {whole} is no multiple of {small} {micro}, and {does}: write a multiple.",
            tuple(field for field in shown if entry_of(config, field.removeprefix("config.")) is not None),
            severity=None if name == "megatron-swift" or not made else Severity.WARNING,
        )


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


_SHAPE = {
    "axolotl": ("lora.r", "lora.lora_alpha", "target_modules", "target_linear", "lora.lora_dropout"),
    "llamafactory": ("lora.r", "lora_alpha", "target_modules", "lora.lora_dropout"),
    "ms-swift": ("lora.r", "lora.lora_alpha", "target_modules", "target_regex", "lora.lora_dropout"),
}
"""What an adapter brings with it when it is trained on."""


def _continued(config: Reading) -> str | None:
    """The setting that names an adapter to train on; None where a new one is made."""
    if config.dialect.name == "axolotl" and (on(config, "inference") or on(config, "merge_lora")):
        return None
    name = "lora_model_dir" if config.dialect.name == "axolotl" else "adapter_path"
    if off(config, name) or (config.dialect.name == "llamafactory" and on(config, "create_new_adapter")):
        return None
    return name


@rule("resumed-adapter-keys-inert", "KEY1115", Severity.WARNING, Confidence.FACT, ("trainer-code",))
def resumed_adapter_keys_inert(config: Reading) -> Iterator[Hit]:
    """An adapter is trained on, and the file gives a rank, alpha or targets, which count for a new one alone.

    Why: PEFT builds the adapter from the adapter_config.json beside its weights. What the file says of its shape has no effect,
        and no warning says so.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_model_dir: ./first-run
            lora_r: 16
            lora_alpha: 32
            learning_rate: 0.0002
            micro_batch_size: 16
            sequence_len: 512
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_model_dir: ./first-run
            learning_rate: 0.0002
            micro_batch_size: 16
            sequence_len: 512
    Evidence: all three trainers call PeftModel.from_pretrained with the adapter's folder and leave their own settings out.
    Known problems: a file that repeats the adapter's own numbers is right and is reported too. Checkpoints that a run is resumed
        from are not judged.
    """
    try:
        source = _continued(config) if config.dialect.name in _SHAPE else None
    except UnknownFact:
        return
    given = [name for name in _SHAPE.get(config.dialect.name, ()) if config.has(name)]
    if source is None or not given:
        return
    keys = ", ".join(key_of(config, name) for name in given)
    yield Hit(
        f"{keys} {'have' if len(given) > 1 else 'has'} no effect: the adapter in {key_of(config, source)} keeps its own rank, alpha and "
        "targets. Remove them, or merge that adapter and start a new one.",
        tuple(f"config.{name}" for name in (*given, source)),
    )


@rule("deepspeed-values-disagree", "KEY1118", Severity.ERROR, Confidence.FACT, ("transformers-code",))
def deepspeed_values_disagree(config: Reading, train: TrainFacts) -> Iterator[Hit]:
    """A number of the DeepSpeed file is not the run's own.

    Why: transformers compares them before the first step and stops with a list of what does not match.
    Example:
        hf: |
            {"model_name_or_path": "meta-llama/Llama-3.1-8B", "lora_r": 16, "lora_alpha": 32, "learning_rate": 2e-4,
             "num_train_epochs": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "max_length": 512,
             "bf16": true, "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
             "deepspeed": {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": 8}}
    Instead:
        hf: |
            {"model_name_or_path": "meta-llama/Llama-3.1-8B", "lora_r": 16, "lora_alpha": 32, "learning_rate": 2e-4,
             "num_train_epochs": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "max_length": 512,
             "bf16": true, "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
             "deepspeed": {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto"}}
    Evidence: HfTrainerDeepSpeedConfig raises "Please correct the following DeepSpeed config values that mismatch".
    Known problems: a DeepSpeed file is read only where it lies, beside the config or under a whole path. auto_find_batch_size
        leaves the batch out of the comparison, and so does this rule.
    """
    searched = on(config, "auto_find_batch_size")
    for key, (fact, there) in config.effective("deepspeed_numbers", {}).items():
        if searched and "batch" in key:
            continue
        try:
            here = getattr(train, fact.partition(".")[2])
        except UnknownFact:
            continue
        if here is not None and float(here) != there:
            yield Hit(
                f"The DeepSpeed file has {key} {there:g}, and the run {fact.partition('.')[2]} {here:g}, so transformers stops: write "
                '"auto" in the DeepSpeed file.',
                ("config.deepspeed", fact),
            )


CONTRADICTION_RULES = (spellings_disagree, batch_keys_conflict, resumed_adapter_keys_inert, deepspeed_values_disagree)
