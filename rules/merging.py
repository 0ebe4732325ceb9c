"""Rules about what happens after training: merging an adapter, serving it."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.document import Unresolved
from lora_advise.facts import LoraFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.program_settings import LOADER, called
from lora_advise.published import stored_as
from lora_advise.reading import Reading
from lora_advise.rule import rule

WAY_OUT = "Load the base in 16 bits, merge there, and quantize the merged model afterwards."


@rule(
    "merge-into-quantized-base",
    "SRV1004",
    Severity.WARNING,
    Confidence.FACT,
    ("peft-code", "trainer-code", "merge-reports"),
)
def merge_into_quantized_base(config: Reading) -> Iterator[Hit]:
    """An adapter is merged into a base that is loaded, or stored, in 4 or 8 bits.

    Why: the merged weights are rounded to the few values that the quantized base has, so small updates vanish and large ones
        come out wrong: the merged model answers otherwise than base and adapter together. Formats such as GPTQ cannot take a
        merge at all.
    Example:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4
            adapter_name_or_path: saves/adapter
            template: qwen
            export_dir: merged
    Instead:
        llamafactory: |
            model_name_or_path: Qwen/Qwen2.5-7B-Instruct
            adapter_name_or_path: saves/adapter
            template: qwen
            export_dir: merged
    Evidence: PEFT warns of rounding errors; LLaMA-Factory and Axolotl refuse it; four reports of merged models that had lost
        what they learned.
    Known problems: Unsloth and ms-swift merge into a 16-bit copy by themselves and are silent here. A program that loads its
        base a second time is taken to do so for the merge.
    """
    for found in (_export, _axolotl, _program):
        yield from found(config)


def _export(config: Reading) -> Iterator[Hit]:
    """LLaMA-Factory's export."""
    if config.dialect.name != "llamafactory" or not config.has("export_dir") or not config.has("adapter_path"):
        return
    kind, bits = stored_as(str(config.value("model", ""))), config.value("bits")
    if kind is not None or bits:
        what = f"a base stored as {kind.upper()}" if kind else f"a base loaded in {bits} bits"
        yield Hit(
            f"The adapter is merged into {what}, which LLaMA-Factory refuses: the weights cannot take it. {WAY_OUT}",
            ("config.model", "config.export_dir", "config.bits"), severity=Severity.ERROR,
        )  # fmt: skip
    elif config.value("export_bits"):
        yield Hit(
            "An adapter is given beside export_quantization_bit, which LLaMA-Factory refuses: merge and export in 16 bits first, and "
            "quantize the result in a second export.",
            ("config.export_bits", "config.adapter_path"), severity=Severity.ERROR,
        )  # fmt: skip


def _axolotl(config: Reading) -> Iterator[Hit]:
    entry = config.config.get("merge_lora")
    if config.dialect.name != "axolotl" or entry is None or entry.value is not True:
        return
    loaded = [name for name in ("load_in_4bit", "load_in_8bit") if config.value(name) is True]
    if loaded:
        yield Hit(
            f"merge_lora with {loaded[0]} merges into a quantized base, which Axolotl refuses for qlora: set {loaded[0]} to false for the "
            "merge.",
            ("config.merge_lora", f"config.{loaded[0]}"), severity=Severity.ERROR,
        )  # fmt: skip


def _program(config: Reading) -> Iterator[Hit]:
    """Programs that call PEFT's merge, or MLX's, on the one base that they load."""
    if config.config.shape != "calls":
        return
    mlx = any(module.partition(".")[0] in ("mlx_tune", "mlx_lm") for module in config.config.program)
    merges = (
        called(config.config, "save_pretrained_merged")
        if mlx
        else called(config.config, "merge_and_unload", "merge_adapter")
    )
    if not merges or (config.dialect.name == "unsloth" and not mlx) or _loads_again(config):
        return
    bits = [name for name in ("load_in_4bit", "load_in_8bit") if config.value(name) is True]
    kind = stored_as(str(config.value("model", "")))
    if not bits and kind is None:
        return
    how = f"{bits[0]} is on" if bits else f"its name says {str(kind).upper()}"
    yield Hit(
        f"{merges[0].rpartition('.')[2]} merges the adapter into a quantized base ({how}): its weights are rounded to the base's few values, "
        f"and small updates are lost. {WAY_OUT}",
        (f"config.{merges[0]}", *(f"config.{name}" for name in bits), *(() if bits else ("config.model",))),
    )


def _loads_again(config: Reading) -> bool:
    """Whether the program loads more than one model, as it does to merge in 16 bits, or takes the merge's base from a function."""
    loads = [
        str(e.path[0]) for e in config.config.entries
        if len(e.path) == 1 and isinstance(e.value, dict) and ".from_pretrained" in str(e.path[0])
        and not any(word in str(e.path[0]) for word in ("Tokenizer", "Processor", "PeftConfig", "GenerationConfig", "AutoConfig"))
    ]  # fmt: skip
    again = [name for name in loads if name.partition(".")[0] != "PeftModel"]
    numbered = {
        str(e.path[0])
        for e in config.config.entries
        if str(e.path[0]).startswith((f"{LOADER}#", "BitsAndBytesConfig#"))
    }
    return len(again) > 1 or bool(numbered) or any("AutoPeft" in name for name in loads)


@rule("served-rank-below-adapter", "SRV1005", Severity.ERROR, Confidence.FACT, ("vllm-lora", "trainer-code"))
def served_rank_below_adapter(config: Reading, lora: LoraFacts) -> Iterator[Hit]:
    """The server that goes with the run is told a rank below the adapter's.

    Why: vLLM sets aside room for adapters up to max_lora_rank and refuses larger ones.
    Example:
        unsloth: |
            from unsloth import FastLanguageModel
            model, tokenizer = FastLanguageModel.from_pretrained(
                "meta-llama/Llama-3.1-8B-Instruct", max_seq_length=1024, fast_inference=True, max_lora_rank=16, load_in_4bit=False)
            model = FastLanguageModel.get_peft_model(model, r=32, lora_alpha=32)
    Instead:
        unsloth: |
            from unsloth import FastLanguageModel
            model, tokenizer = FastLanguageModel.from_pretrained(
                "meta-llama/Llama-3.1-8B-Instruct", max_seq_length=1024, fast_inference=True, max_lora_rank=32, load_in_4bit=False)
            model = FastLanguageModel.get_peft_model(model, r=32, lora_alpha=32)
    Evidence: vLLM's check when an adapter is loaded.
    Known problems: only where both ranks are written.
    """
    for name in ("max_lora_rank", "vllm_max_lora_rank"):
        most = config.value(name)
        if isinstance(most, int) and not isinstance(most, Unresolved) and most < lora.r:
            yield Hit(
                f"The server takes adapters up to rank {most} ({name}), and this one has {lora.r}: set {name} to {lora.r} or more.",
                (f"config.{name}", "lora.r"), (Change(f"config.{name}", lora.r),),
            )  # fmt: skip


MERGING_RULES = (merge_into_quantized_base, served_rank_below_adapter)
