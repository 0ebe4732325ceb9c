"""Rebuild the table of traced layers that the closed form of the memory forecast reads (``data/layers.json``)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from lora_advise import catalogue
from lora_advise.adapters import lora_params, targets
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts, LoraFacts, ModelFacts, QuantFacts, StackFacts, TaskFacts, TrainFacts
from lora_advise.memory_case import layer_key, width_of, widths_of
from lora_advise.runner.meta_model import Blueprint, attention_of, blueprint
from lora_advise.runner.quiet import quiet_libraries
from lora_advise.runner.rehearsal_depth import depths_of
from lora_advise.runner.rehearsal_step import Traced, trace
from lora_advise.runner.rehearse import REFUSALS

STATIC = ("weights", "adapters", "optimizer", "gradients")
LENGTH = 2048
"""Long enough that activations, not unpacked matrices, decide which moment of a layer is the highest."""
SHORT = 128
"""For mixers whose reference code walks through the row token by token."""
MANY = 16_384
"""Tokens at which activations outweigh every unpacked matrix."""
_UNPACKED = {
    "hump": 1 + 1 / 32,
    "hump_kept": 1 + 1 / 32,
    "forward": 1 + 1 / 16,
    "forward_kept": 1 + 1 / 16,
    "evaluation": 1 + 1 / 16,
}
"""Matrices in 16 bits, and their scales in fp32 beside them, that are alive at each of these points."""
PER_TYPE = 2
"""Sizes of a dense type that are traced; a further one is taken in proportion to its hidden width."""
WALKS = ("recurrent_gemma", "kimi_linear", "minimax", "olmo_hybrid", "qwen3_next", "qwen3_5", "qwen3_5_moe")
RANK = 8
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MODES = {
    # framework, four bits, 16-bit adapters
    "amp": ("trl", False, False), "nf4": ("trl", True, False), "kbit-amp": ("transformers", True, False),
    "no-amp": ("peft", False, False), "kbit": ("peft", True, False), "bf16": ("peft", False, True),
}  # fmt: skip
"""How each precision of the closed form comes about."""
QUANTITIES = ("kept", "hump", "forward", "forward_kept", "hump_kept", "evaluation")
"""Bytes of one layer: kept without checkpointing; above the layer inputs in the backward and the forward pass with
checkpointing; the same two above what is kept without; of the forward pass of an evaluation."""


class Setting(NamedTuple):
    """What a layer's memory depends on beside its dimensions."""

    mode: str
    everywhere: bool = True
    """Adapters on all linear layers, or on attention only."""
    dropout: bool = False

    @property
    def key(self) -> str:
        """As the table spells it."""
        return f"{self.mode}/{'all' if self.everywhere else 'attention'}/{'dropout' if self.dropout else 'plain'}"


def run(model: ModelFacts, setting: Setting, length: int, *, rows: int = 1, checkpointing: bool = True) -> Facts:
    """A run of that many rows of that length. Several rows have padding, so attention gets a mask."""
    framework, packed, _ = MODES[setting.mode]
    return Facts(
        task=TaskFacts(name="chat", family="sft"), model=model, stack=StackFacts(framework=framework),
        lora=LoraFacts(
            r=RANK, lora_alpha=16, lora_dropout=0.1 if setting.dropout else 0.0,
            target_modules="all-linear" if setting.everywhere else ATTENTION,
        ),
        quant=QuantFacts(load_in_4bit=packed),
        train=TrainFacts(
            learning_rate=1e-4, per_device_train_batch_size=rows, gradient_accumulation_steps=1, max_length=length,
            per_device_eval_batch_size=rows,
            optim="adamw_torch_fused", activation_checkpointing=checkpointing, attn_implementation="sdpa",
        ),
    )  # fmt: skip


def measure(
    plan: Blueprint, model: ModelFacts, setting: Setting, length: int, rows: int = 1, *, padded: bool | None = None
) -> dict[str, float]:
    """The quantities of one layer for that many rows of that length, in bytes."""
    half, found = MODES[setting.mode][2], dict[str, float]()
    inputs = _residual(setting) * model.hidden_size * length * rows * plan.layers
    for checkpointing in (True, False):
        facts = run(model, setting, length, rows=rows, checkpointing=checkpointing)
        depths = depths_of(plan, facts, full=False)
        traces = [trace(plan, facts, depth, half_adapters=half, padded=padded) for depth in depths.traced]
        peaks = [{name: _above(peak) for name, peak in depths.grouped(t).items()} for t in traces]
        at = _line(traces, peaks, plan.layers)
        if checkpointing:
            found["hump"] = max(at[n] for n in at if n.startswith("backward")) - inputs
            found["forward"] = at["forward"] - inputs
            found["evaluation"] = at["evaluation"]
        else:
            slope = (peaks[-1]["forward"] - peaks[0]["forward"]) / max(1, traces[-1].depth - traces[0].depth)
            kept = slope if len(traces) > 1 else at["forward"] / plan.layers
            found["kept"] = kept
            found["forward_kept"] = at["forward"] - kept * plan.layers
            found["hump_kept"] = max(at[n] for n in at if n.startswith("backward")) - kept * plan.layers
    copies = _copies(facts, model, setting)
    for name in found:
        whole = plan.layers if name in ("forward", "evaluation") else name in ("kept", "hump")
        found[name] -= whole * copies / plan.layers
    return found


def _copies(facts: Facts, model: ModelFacts, setting: Setting) -> float:
    """Bytes of the 16-bit copies that autocast makes of fp32 adapters: of all in a forward pass, of a layer's in its turn."""
    return 2.0 * lora_params(model, facts.lora) if facts.lora and setting.mode in ("amp", "kbit-amp") else 0.0


def _copies(facts: Facts, model: ModelFacts, setting: Setting) -> float:
    """Bytes of the 16-bit copies that autocast makes of fp32 adapters: of all in a forward pass, of a layer's in its turn."""
    return 2.0 * lora_params(model, facts.lora) if facts.lora and setting.mode in ("amp", "kbit-amp") else 0.0


_UNPACKED = {
    "hump": 1 + 1 / 32,
    "hump_kept": 1 + 1 / 32,
    "forward": 1 + 1 / 16,
    "forward_kept": 1 + 1 / 16,
    "evaluation": 1 + 1 / 16,
}
"""Matrices in 16 bits, and their scales in fp32 beside them, that are alive at each of these points."""


def _residual(setting: Setting) -> int:
    return 4 if setting.mode.startswith("kbit") else 2


def _above(peak: Any) -> float:
    return float(peak.bytes - sum(peak.parts.get(part, 0) for part in STATIC))


def _line(traces: list[Traced], peaks: list[dict[str, float]], layers: int) -> dict[str, float]:
    first, last = traces[0].depth, traces[-1].depth
    times = (layers - last) / (last - first) if last > first else 0.0
    return {
        name: value + times * (value - peaks[0].get(name, value))
        for name, value in peaks[-1].items() if name in peaks[0] or len(traces) == 1
    }  # fmt: skip


def per_token(plan: Blueprint, model: ModelFacts, setting: Setting, rows: int = 1) -> dict[str, list[float]]:
    """Each quantity as bytes per token, and per token and token of the row where attention has such terms.

    In 4 bits a third figure: bytes per token where the highest moment has no unpacked matrix; the first is the one with it.
    """
    length = min(SHORT if model.model_type in WALKS else LENGTH, (_window(plan) or 2 * LENGTH) // 2)
    high = measure(plan, model, setting, length, rows)
    matrix = _unpacked(run(model, setting, length), model)
    squares = dict.fromkeys(QUANTITIES, 0.0)
    if rows > 1 or attention_of(plan, run(model, setting, length)) == "eager" or model.kind in ("hybrid", "ssm"):
        squares = _squares(high, measure(plan, model, setting, length // 2, rows), length, rows)
    found = {n: [round(high[n] / (rows * length) - squares[n] * length, 1), round(squares[n], 3)] for n in QUANTITIES}
    if not matrix or rows > 1:
        return found
    many = MANY // length
    few, more = (measure(plan, model, setting, length, n * many, padded=False) for n in (1, 2))
    for name in QUANTITIES:
        slope = (more[name] - few[name]) / (many * length)
        above, own = few[name] - slope * many * length, _UNPACKED.get(name, 0) * matrix
        if above > own / 2:
            found[name] = [round(slope - squares[name] * length, 1), found[name][1], 0.0]
        else:
            small = (high[name] - own) / length - squares[name] * length
            found[name] = [round(small, 1), found[name][1], round(slope - squares[name] * length, 1)]
    return found


def _squares(high: dict[str, float], low: dict[str, float], length: int, rows: int) -> dict[str, float]:
    """What of each quantity grows with the square of the length, from two lengths, one twice the other."""
    found = {}
    for name in QUANTITIES:
        a, b = low[name] / (rows * (length // 2)), high[name] / (rows * length)
        square = (b - a) / (length - length // 2)
        found[name] = 0.0 if abs(square) * length < 0.004 * abs(b) else square
    return found


def _window(plan: Blueprint) -> int | None:
    """Tokens that a sliding layer sees; a longer row needs a mask."""
    import transformers

    text = transformers.AutoConfig.for_model(**json.loads(json.dumps(plan.config))).get_text_config()
    kinds = getattr(text, "layer_types", None) or ()
    slides = any("sliding" in str(kind) for kind in kinds) or (not kinds and getattr(text, "use_sliding_window", True))
    window = getattr(text, "sliding_window", None)
    return int(window) if slides and isinstance(window, int) and window > 0 else None


def _unpacked(facts: Facts, model: ModelFacts) -> float:
    """Bytes of the largest quantised matrix in 16 bits, which the closed form counts by itself."""
    from lora_advise.memory_stack import stack_of
    from lora_advise.memory_weights import weights_of

    return float(weights_of(facts, model, stack_of(facts)).dequant)


def shapes() -> Iterator[ModelFacts]:
    """Models of the catalogue that transformers can build: of a dense type the smallest and the largest, else all shapes."""
    types: dict[str, list[ModelFacts]] = {}
    for model in _distinct():
        types.setdefault(model.model_type, []).append(model)
    for models in types.values():
        models.sort(key=lambda m: m.total_params)
        few = models if models[0].kind != "dense" or len(models) <= PER_TYPE else [models[0], models[-1]]
        yield from few


def _distinct() -> Iterator[ModelFacts]:
    seen = set()
    for name in catalogue.index():
        row = catalogue.row(name)
        if row["class"] is None or row["kind"] in ("encoder", "encoder-decoder"):
            continue
        model = catalogue.resolve_model(row["id"])[0]
        if (key := layer_key(model)) not in seen:
            seen.add(key)
            yield model


def _ranks(model: ModelFacts) -> float:
    """Ranks of the adapters of one layer, added up, as they were traced."""
    lora = run(model, Setting("amp"), LENGTH).lora
    found = targets(model, lora) if lora else ()
    return round(RANK * sum(t.module.count for t in found if t.module.kind == "linear") / model.num_hidden_layers, 2)


def llama_table() -> dict[str, dict[str, Any]]:
    """Every setting of a Llama-like layer: bytes per token for each unit of hidden, query, key-value and MLP width.

    ``masked`` is what padding adds, with the bytes per token and token of the row in the end.
    """
    found: dict[str, dict[str, Any]] = {}
    for mode in ("amp",):
        found[f"{mode}/masked"] = _masked(Setting(mode))
    for mode in MODES:
        for everywhere in (True, False):
            for dropout in (False, True):
                setting = Setting(mode, everywhere, dropout)
                found[setting.key] = _coefficients(setting)
    return found


_BASE = {
    "hidden_size": 2560,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 7168,
}
_VARIED = (
    {},
    {"hidden_size": 3840},
    {"num_attention_heads": 16},
    {"num_key_value_heads": 2},
    {"intermediate_size": 8192},
)
"""Shapes near those in use, so that the same moment of the layer is the highest in all of them."""


def _masked(setting: Setting) -> dict[str, list[float]]:
    """What padding adds to a Llama layer: bytes per token for each width, and per token and token of the row."""
    plain, padded = _rows(setting, 1), _rows(setting, 2)
    differing = [
        (widths, {n: [wide[n][0] - narrow[n][0], wide[n][1] - narrow[n][1]] for n in QUANTITIES})
        for (widths, narrow), (_, wide) in zip(plain, padded, strict=True)
    ]
    return {name: [*_line_of(differing, name, 0)[:4], round(differing[0][1][name][1], 3)] for name in QUANTITIES}


def _coefficients(setting: Setting) -> dict[str, list[list[float]]]:
    rows = _rows(setting, 1)
    return {name: _solve(rows, name) for name in QUANTITIES}


def _rows(setting: Setting, batch: int) -> list[tuple[tuple[int, ...], dict[str, list[float]]]]:
    """Widths and quantities of a Llama layer, and of four others that differ in one width each."""
    from lora_advise.architecture import from_config

    found = []
    for changed in _VARIED:
        config = {**_BASE, **changed, "model_type": "llama", "num_hidden_layers": 8, "vocab_size": 512,
                  "max_position_embeddings": 4096, "tie_word_embeddings": False}  # fmt: skip
        plan = Blueprint("LlamaForCausalLM", config, 8)
        names = ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
        widths = tuple(int(config[n]) * (config["head_dim"] if "heads" in n else 1) for n in names)
        found.append((widths, per_token(plan, from_config(config, "llama"), setting, batch)))
    return found


def _solve(rows: list[tuple[tuple[int, ...], dict[str, list[float]]]], name: str) -> list[list[float]]:
    """Coefficients of the four widths and what is left, for each figure of a quantity but the square.

    Each row but the first changes one of the widths.
    """
    return [_line_of(rows, name, place) for place in (0, 2) if place < len(rows[0][1][name])]


def _line_of(rows: list[tuple[tuple[int, ...], dict[str, list[float]]]], name: str, place: int) -> list[float]:
    (widths, base), found = rows[0], list[float]()
    for n in range(4):
        other = rows[n + 1]
        found.append(round((other[1][name][place] - base[name][place]) / (other[0][n] - widths[n]), 3))
    rest = base[name][place] - sum(c * w for c, w in zip(found, widths, strict=True))
    return [*found, round(rest, 1)]


def model_table(wanted: list[str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Each shape's quantities under autocast and in 4 bits, and why a model type is missing."""
    found, missing = [], {}
    for model in shapes():
        if wanted and model.model_type not in wanted:
            continue
        entry: dict[str, Any] = {
            "key": list(layer_key(model)), "model": model.name, "widths": list(widths_of(width_of(model))),
            "ranks": _ranks(model),
        }  # fmt: skip
        for setting in (Setting("amp"), Setting("nf4")):
            facts = run(model, setting, 64)
            try:
                plan = blueprint(facts)
                entry[setting.mode] = per_token(plan, model, setting)
                entry["window"] = _window(plan)
            except (LoraAdviseError, *REFUSALS) as error:
                missing[f"{model.model_type}/{setting.mode}"] = " ".join(str(error).split())[:160]
        sys.stderr.write(f"{model.name} {sorted(entry)}\n")
        if "amp" in entry:
            found.append(entry)
    return found, missing


def main(arguments: list[str]) -> int:
    """Write the table beside the installed data; arguments name model types, none means all."""
    path = Path(str(files("lora_advise") / "data" / "layers.json"))
    with quiet_libraries():
        rows, missing = model_table(arguments)
        old = json.loads(path.read_text("utf-8")) if path.exists() else {}
        if arguments:
            rows += [row for row in old.get("models", ()) if row["key"][0] not in arguments]
            missing = {k: v for k, v in old.get("missing", {}).items() if k.split("/")[0] not in arguments} | missing
        table = {
            "traced_with": {name: version(name) for name in ("torch", "transformers", "peft", "trl", "bitsandbytes")},
            "rank": RANK, "llama": old["llama"] if arguments and old else llama_table(),
            "models": sorted(rows, key=lambda row: json.dumps(row["key"])), "missing": dict(sorted(missing.items())),
        }  # fmt: skip
    head = {name: value for name, value in table.items() if name != "models"}
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in table["models"])
    path.write_text(json.dumps(head, indent=1)[:-2] + ',\n "models": [\n' + lines + "\n]\n}\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
