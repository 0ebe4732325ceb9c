"""Rules about what can be served afterwards."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.facts import LoraFacts, TaskFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.rate import EMBEDDING_NAMES

VLLM_MAX_RANK = 512
"""The largest value that vLLM accepts for max_lora_rank (vllm-lora)."""
GENERATING = ("sft", "pretraining", "preference", "rl")


@rule("rank-unservable", "SRV1001", Severity.WARNING, Confidence.FACT, ("vllm-lora",))
def rank_unservable(lora: LoraFacts) -> Iterator[Hit]:
    """The rank is larger than vLLM can serve without merging.

    Why: vLLM reserves space by max_lora_rank, which ends at 512.
    Example:
        lora: {r: 1024, lora_alpha: 1024}
        train: {learning_rate: 0.00005}
        hardware: null
        data: null
    Instead:
        lora: {r: 512, lora_alpha: 512}
        train: {learning_rate: 0.00007}
        hardware: null
        data: null
    Evidence: the list of ranks in vLLM's LoRAConfig.
    Known problems: a merged model has no rank.
    """
    if lora.r > VLLM_MAX_RANK:
        yield Hit(
            f"vLLM serves adapters up to r {VLLM_MAX_RANK}, and this one has r {lora.r}: merge it, or lower r.",
            ("lora.r",),
            (Change("lora.r", VLLM_MAX_RANK),),
        )


@rule("saved-modules-unservable", "SRV1002", Severity.NOTE, Confidence.CONVENTION, ("vllm-lora",))
def saved_modules_unservable(task: TaskFacts, lora: LoraFacts, config: Reading | None = None) -> Iterator[Hit]:
    """Modules trained in full must be merged before the adapter can be served.

    Why: servers of adapters load A and B only; full matrices in the file make them refuse it.
    Example:
        lora: {modules_to_save: [model.norm]}
    Instead:
        lora: {modules_to_save: []}
    Evidence: vLLM's adapter loader.
    Known problems: nothing is wrong when a merge is planned. Embeddings are named only where the file itself asks for a
        server of adapters.
    """
    embeddings = any(n.rsplit(".", 1)[-1] in EMBEDDING_NAMES for n in lora.modules_to_save)
    if task.family in GENERATING and lora.modules_to_save and (not embeddings or _names_a_server(config)):
        yield Hit(
            f"{', '.join(lora.modules_to_save)} would be stored in full beside the adapter, which servers of adapters "
            "refuse: plan a merge.",
            ("lora.modules_to_save",),
            (Change("lora.modules_to_save", ()),),
        )


def _names_a_server(config: Reading | None) -> bool:
    """Whether a file asks for an engine that serves the adapter unmerged."""
    entries = [config.config.get(key) for key in ("vllm_enable_lora", "fast_inference")] if config is not None else []
    return any(entry is not None and str(entry.value).lower() == "true" for entry in entries)


@rule("dora-unservable", "SRV1003", Severity.NOTE, Confidence.CONVENTION, ("vllm-lora", "dora-2024"))
def dora_unservable(lora: LoraFacts) -> Iterator[Hit]:
    """A DoRA adapter must be merged before vLLM can serve it.

    Why: its magnitude vector has no place in the servers' kernels, and unmerged inference took more than twice the
        time.
    Example:
        lora: {use_dora: true}
    Instead:
        lora: {use_dora: false}
    Evidence: vLLM refuses it; PEFT's documentation gives 139 % more inference time.
    Known problems: nothing is wrong when a merge is planned.
    """
    if lora.use_dora:
        yield Hit(
            "vLLM does not serve DoRA adapters unmerged: plan a merge, or train plain LoRA.",
            ("lora.use_dora",),
            (Change("lora.use_dora", False),),
        )


SERVING_RULES = (rank_unservable, saved_modules_unservable, dora_unservable)
