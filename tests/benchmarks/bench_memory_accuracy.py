"""The forecast against measured runs: ``python tests/benchmarks/bench_memory_accuracy.py`` prints the page.

With ``--write`` it replaces ``docs/memory-accuracy.md``. The table of measured runs lies outside the repository.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from lora_advise.facts import GIB
from lora_advise.memory import estimate, fit, spread_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "memory-accuracy.md"
TYPICAL = 1.03
"""Reserved over allocated where a replay of the allocator lands (memory model, section 8): the point of comparison."""
LIMIT = 6.0
"""Per cent beyond which a row counts as a miss."""


def _reader():
    if "measured_rows" not in sys.modules:
        spec = importlib.util.spec_from_file_location("measured_rows", Path(__file__).with_name("measured_rows.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules["measured_rows"] = module
        spec.loader.exec_module(module)
    return sys.modules["measured_rows"]


class Compared(NamedTuple):
    """A run beside its forecast, in GiB."""

    run: object
    allocated: float
    low: float
    high: float
    driver: tuple[float, float]

    @property
    def error(self) -> float:
        """Per cent of the measured figure; positive when the forecast is above it."""
        point = self.allocated * (TYPICAL if self.run.metric == "reserved" else 1.0)
        return 100 * (point / self.run.measured - 1)

    @property
    def inside(self) -> bool:
        """Whether the band of the run's own metric holds the measured figure."""
        return self.low <= self.run.measured <= self.high


def compare(run) -> Compared:
    """The forecast of a run. Where only a cap on lengths is known, the band begins at what is resident."""
    found = estimate(run.facts, run.stack)
    wide = spread_of(run.facts, run.stack)
    bands = {"allocated": (wide.low, wide.high), "reserved": found.reserved, "device": found.device}
    low, high = bands[run.metric]
    low = low if run.exact else min(low, wide.resident)
    return Compared(run, found.allocated / GIB, low / GIB, high / GIB, tuple(x / GIB for x in found.device))


class Measured(NamedTuple):
    """Everything that the page is made of."""

    groups: dict[str, list[Compared]]
    verdicts: Counter
    left: list
    total: int


def measure() -> Measured:
    """Read the table and compare every row that can be."""
    runs, left = _reader().read()
    groups: dict[str, list[Compared]] = defaultdict(list)
    for run in runs:
        if run.group != "oom":
            groups[run.group].append(compare(run))
    verdicts = Counter(fit(run.facts) for run in runs if run.group == "oom")
    return Measured(groups, verdicts, left, len(runs) + len(left))


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which that share of the rows lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def errors_by(rows: list[Compared], key: Callable[[Compared], str], title: str) -> list[str]:
    """A table of errors, one line for each value of ``key``."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row.error)
    found["all"] = [row.error for row in rows]
    lines = [f"| {title} | rows | median | 95 % within | worst |", "|---|---:|---:|---:|---:|"]
    for name in sorted(found, key=lambda n: (n == "all", n)):
        size = [abs(e) for e in found[name]]
        worst = max(found[name], key=abs)
        lines.append(
            f"| {name} | {len(size)} | {statistics.median(size):.2f} % | {percentile(size, 0.95):.2f} % | {worst:+.2f} % |"
        )
    return [*lines, ""]


def bands_by(rows: list[Compared], key: Callable[[Compared], str], title: str) -> list[str]:
    """A table of bands, one line for each value of ``key``."""
    found: dict[str, list[Compared]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    found["all"] = rows
    lines = [
        f"| {title} | rows | inside | above the band | below it | top over bottom, median |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in sorted(found, key=lambda n: (n == "all", n)):
        here = found[name]
        above = sum(r.run.measured > r.high for r in here)
        inside = sum(r.inside for r in here)
        width = statistics.median(r.high / max(r.low, 0.01) for r in here)
        lines.append(
            f"| {name} | {len(here)} | {inside} ({100 * inside / len(here):.0f} %) | {above} | "
            f"{len(here) - inside - above} | {width:.2f} |"
        )
    return [*lines, ""]


def method(row: Compared) -> str:
    """The method in words, with the kind of 4-bit storage."""
    run = row.run
    name = {"lora": "LoRA", "dora": "DoRA", "qlora": "QLoRA", "full": "full"}[run.row["method"]]
    return name + (", GPTQ" if run.stack.packing == "gptq" else ", NF4" if name == "QLoRA" else "")


def stack(row: Compared) -> str:
    """The stack by what moves its memory: library, kernels, versions."""
    run = row.run
    parts = [run.stack_name]
    if run.stack.triton:
        parts.append("Triton kernels")
    if run.stack.loss == "liger":
        parts.append("Liger loss")
    stated = run.facts.stack.versions.get("transformers")
    if stated:
        parts.append("transformers " + ".".join(stated.split(".")[:2]))
    return ", ".join(parts)


def devices(row: Compared) -> str:
    """Number of devices."""
    return f"FSDP, {row.run.row['gpus']} devices"


def gpu(row: Compared) -> str:
    """The card."""
    return row.run.gpu


def source(row: Compared) -> str:
    """The repository and its metric."""
    return f"{row.run.repository}, {row.run.metric}"


def misses(rows: list[Compared], missed: Callable[[Compared], bool]) -> list[str]:
    """Every missed row, alike ones together, with what is known of the reason."""
    found: dict[tuple[str, str, str], list[Compared]] = defaultdict(list)
    for row in rows:
        if missed(row):
            name = row.run.facts.model.name.split("/")[-1]
            found[stack(row), f"{name}, {method(row)}", reason(row)].append(row)
    lines = ["| stack | run | rows | error | reason |", "|---|---|---:|---:|---|"]
    for (library, run, why), here in sorted(found.items()):
        low, high = min(r.error for r in here), max(r.error for r in here)
        span = f"{low:+.0f} %" if round(low) == round(high) else f"{low:+.0f} to {high:+.0f} %"
        lines.append(f"| {library} | {run} | {len(here)} | {span} | {why} |")
    return [*lines, ""] if found else ["None.", ""]


def reason(row: Compared) -> str:
    """Why a row is missed, as far as that is known."""
    run = row.run
    name = run.repository
    if "ms-swift" in name:
        return "lengths vary and the figure is what torch held by the end; flash attention may have been off (table's note)"
    if "axolotl" in name:
        return "rounded by its authors, some from other settings than the file's; no versions"
    if "MetaMathQA" in run.row["source"] and run.facts.method == "full":
        return "trained norms keep inputs that adapters do not, and reserved counts an evaluation with generation"
    if "MetaMathQA" in run.row["source"]:
        return "adapters on the MLP alone, which the layer table counts as on all matrices"
    if run.facts.stack.sharding == "fsdp":
        return "the layer at work: the traced table is an upper bound for these targets"
    if run.stack.saves_inputs:
        return "bitsandbytes before 0.43.2: what it kept is known, when it was freed is not"
    return "the layer at work is above its measured height; the traced table is an upper bound for these targets"


INTRO = """# How accurate the memory forecast is

Generated by `python tests/benchmarks/bench_memory_accuracy.py --write`; do not edit. `tests/test_memory_measured.py`
holds the limits.

The forecast is a closed form: resident bytes from storage formats, activations from traces of the libraries' code. It is
compared here with peaks that other people measured and published: {total} rows from the benchmark of FMS acceleration
(A100), can-i-finetune-this (RTX 4080), PEFT's method comparison (L40S), LitGPT (A10G, A100), torchtune, Qwen, ms-swift,
Axolotl and others. The table itself stays outside this repository; figures here are its errors. Quality A means a
machine-written figure with stated settings, B a figure from a table with some settings missing, C a claim.

**Three kinds of figures.** *Allocated* is what tensors hold at the peak, and what the forecast computes. *Reserved* is
what torch's allocator took from the driver, blocks that fit nothing included. *Device* is what nvidia-smi shows: reserved,
CUDA context and libraries. Allocated has an error; reserved and device have a band.
"""

KNOWN = """## What is first principles, and what was decided after seeing rows

First principles, from storage formats or read code: bytes of 16-bit, NF4, LLM.int8 and GPTQ weights; adapters, gradients
and optimizer states; what is replicated under FSDP; fp32 parameters of trained FSDP units under mixed precision
(accelerate); whole gradients between micro-batches under FSDP (`no_sync`); logits of 12 or 14 B per token and vocabulary
entry by transformers version, and 2 or 4 B more where a loop holds its outputs; prepare_model_for_kbit_training in TRL
before 0.27 and whole logits before 1.7 (its history); DoRA's two products; repeated keys and values.

From traces: what a layer keeps, and the height of its backward pass.

Decided after seeing rows, each with a reason beside it in the code; none is a fitted number:

- when a term applies: rotary tables of every layer before transformers 4.43, inputs kept by bitsandbytes before 0.43.2,
  fp32 embeddings of the plain fp16 script, experts in a loop before transformers 5, which transformers release each date
  of the A100 benchmark stands for;
- the FSDP1 law (inputs and their gradients of frozen units stay to the end; two-device rows made it, four-device rows agree; that
  full fine-tuning is an exception came from four-device rows);
  LitGPT's FSDP keeps gathered layers;
- what Triton kernels save: 4 B per token and vocabulary entry of the loss, 6 hidden widths per layer, 2 more where the
  adapters of quantised layers are fused too;
- plain attention for fp32 inputs with grouped queries (one row).

Set to published figures, so that they agree by construction:

- a factor of two on the activations of layers that were not traced (LitGPT, torchtune, Unsloth, models whose code comes
  with the checkpoint);
- as many bytes again as the loss takes, in reserved, where logits are whole (A100 benchmark, ms-swift);
- 645 tokens as the longest batch of PEFT's comparison (one number for all of its rows; memory model).

| repository | seen while the model was made? |
|---|---|
| foundation-model-stack/fms-acceleration | in-sample: structure was decided on it. Its GPTQ peaks were not used: only the storage of two checkpoints was checked on the memory at the end of a step. |
| DaoyuanLi2816/can-i-finetune-this | in-sample: one rule (plain attention) came from it |
| huggingface/peft (MetaMathQA) | in-sample for the padded length; the methods are predicted |
| Lightning-AI/litgpt, meta-pytorch/torchtune | in-sample for the factor of two and for LitGPT's FSDP; their code was read |
| modelscope/ms-swift | in-sample for the width of reserved under whole logits |
| QwenLM/Qwen | out-of-sample for LoRA; the 16-bit loss of its fp16 runs was decided after seeing them |
| axolotl-ai-cloud/axolotl, huggingface/peft (70B examples) | out-of-sample: nothing was set on them |
"""

OTHERS = """## Other estimators

Errors of the other tools on 20 of these rows (9 A100 rows against nvidia-smi, 11 RTX 4080 rows against reserved), as the
memory model measured them (source `memory-model`): mean of absolute errors, median in brackets, worst under and over.
Three were run as packages, the others written anew from their formulas. Those rows and metrics are not those of the
tables above, so compare the order of magnitude only.

| estimator | LoRA, QLoRA | mean error | worst | rows under-predicted |
|---|---|---:|---:|---:|
| fitcheck-llm 0.3.1 | both | 11.0 % (9.3) | -23 / +26 % | 9 of 20 |
| canifinetune 0.4.1 | both | 27.4 % (24.8) | -9 / +74 % | 1 of 20 |
| training_hub, middle value | both | 50.3 % (51.6) | -83 / +1 % | 19 of 20 |
| fm-training-estimator, theory | both | 53.3 % (62.5) | -91 / +63 % | 15 of 20 |
| Unsloth Studio (made for its own kernels) | both | 53.7 % (57.7) | -84 / -11 % | 20 of 20 |
| weights and 16 B per adapter parameter | - | 79.9 % (82.7) | -96 / -50 % | 20 of 20 |
| LLaMA-Factory's table | both | 80.9 % (83.6) | -96 / -51 % | 20 of 20 |
| EleutherAI cookbook, LoRA states added | no | 137 % (72) | -74 / +433 % | 11 of 20 |
| gpu_poor | rank fixed at 8 | 254 % (45) | -46 / +713 % | 11 of 20 |
| accelerate estimate-memory, Adam column | no | 330 % (200) | +17 / +1369 % | 0 of 20 |
"""


def page(found: Measured | None = None) -> str:
    """The page in markdown."""
    found = found or measure()
    single, fsdp = found.groups["single"], found.groups["fsdp"]
    lines = [INTRO.format(total=found.total)]
    lines += ["## Allocated, one device", "", *_scope(found), ""]
    lines += errors_by(single, stack, "stack") + errors_by(single, method, "method") + errors_by(single, gpu, "card")
    lines += [f"Beyond {LIMIT:.0f} %:", "", *misses(single, lambda r: abs(r.error) > LIMIT)]
    lines += ["## Allocated, FSDP", "", "FSDP1, full shard, A100.", ""]
    lines += errors_by(fsdp, devices, "sharding") + errors_by(fsdp, stack, "stack") + errors_by(fsdp, method, "method")
    lines += [f"Beyond {LIMIT:.0f} %:", "", *misses(fsdp, lambda r: abs(r.error) > LIMIT)]
    lines += _reserved(found)
    lines += _bands(found)
    lines += [
        KNOWN,
        OTHERS,
        "## Time",
        "",
        "One estimate takes less than 20 ms (`tests/benchmarks/bench_memory.py`).",
        "",
    ]
    return "\n".join(lines)


def _scope(found: Measured) -> list[str]:
    compared = sum(len(rows) for rows in found.groups.values()) + sum(found.verdicts.values())
    reasons = Counter((left.row["quality"], left.reason) for left in found.left)
    lines = [
        "Quality A, transformers, PEFT and TRL stacks. Of the whole table "
        f"{compared} rows are compared on this page and {len(found.left)} are not:",
        "",
        "| quality | not compared because of | rows |",
        "|---|---|---:|",
    ]
    return lines + [
        f"| {grade} | {why} | {n} |" for (grade, why), n in sorted(reasons.items(), key=lambda x: (-x[1], x))
    ]


def _reserved(found: Measured) -> list[str]:
    rows = found.groups["reserved"]
    return [
        "## Reserved, PEFT's method comparison",
        "",
        f"The whole run's reserved memory against {TYPICAL} times allocated, where a replay of the allocator lands. No "
        "activation checkpointing, padded batches.",
        "",
        *errors_by(rows, method, "method"),
        f"Beyond {LIMIT:.0f} %:",
        "",
        *misses(rows, lambda r: abs(r.error) > LIMIT),
    ]


def _bands(found: Measured) -> list[str]:
    other = found.groups["other"]
    driver = [
        row._replace(run=row.run._replace(row=row.run.row | {"value_gib": seen}), low=row.driver[0], high=row.driver[1])
        for row in found.groups["single"] + found.groups["fsdp"]
        if (seen := row.run.row["other_metrics"].get("nvidia_smi_peak_gib"))
    ]
    lines = [
        "## Bands",
        "",
        "Rows whose figure is reserved or the driver's, and rows of stacks without versions: does the",
        "",
    ]
    lines[2] += " band of their own metric hold the figure?"
    lines += ["Where a row states only a cap on lengths, its band begins at what is resident.", ""]
    lines += bands_by(other + found.groups["reserved"], source, "source and metric")
    lines += ["Outside:", "", *misses(other + found.groups["reserved"], lambda r: not r.inside)]
    lines += ["nvidia-smi beside the A100 benchmark's allocated peaks:", ""]
    lines += bands_by(driver, lambda r: "FSDP" if r.run.group == "fsdp" else "one device", "runs")
    said = ", ".join(f"{n} {word}" for word, n in sorted(found.verdicts.items()))
    lines += [
        "## Runs that ran out of memory",
        "",
        f"{sum(found.verdicts.values())} rows report that they did. The verdict on their card: {said}.",
        "",
    ]
    return lines


def main() -> None:
    """Print the page, or write it."""
    if not _reader().TABLE.exists():
        sys.exit("The table of measured runs is not beside this repository; nothing was compared.")
    text = page()
    if "--write" in sys.argv[1:]:
        PAGE.write_text(text, "utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
