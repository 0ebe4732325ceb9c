"""Activations of the decoder layers: what a layer keeps, and how high its forward and backward passes rise.

The figures are traced: ``data/layers.json`` is what the libraries' own code does on the meta device, written by
``runner/build_layer_table.py``. A Llama-like layer is a formula in its widths for every precision, choice of targets and
dropout; other model types have what they add to it, for the sizes of the catalogue. A quantity is the highest of a few
straight lines, since another moment of the layer is the highest for long rows or few tokens.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, NamedTuple

from lora_advise.memory_case import Case, widths_of
from lora_advise.package_data import read_json

Quantity = Literal["kept", "hump", "forward", "forward_kept", "hump_kept", "evaluation"]
"""What a layer keeps without checkpointing; how far the backward and the forward pass rise above the layer inputs with
checkpointing, and above what is kept without; the forward pass of an evaluation."""

BASES = {"no-amp": "amp", "bf16": "amp", "kbit": "nf4", "kbit-amp": "nf4"}
"""The precision in which model types were traced, for those in which they were not."""
TYPE, HIDDEN = 0, 1
"""Places in the key of a layer."""
WHOLE_MASK, LAYER_MASK = 1.0, 2.0
"""Bytes per entry of the boolean mask that the model makes once, and of its copy in the query's dtype in every layer."""


class Size(NamedTuple):
    """Bytes of activations, and of an unpacked 4-bit matrix that is alive at the same moment."""

    activations: float
    matrix: float = 0.0


class _Line(NamedTuple):
    token: float
    square: float
    matrix: bool


def layer_size(case: Case, quantity: Quantity, rows: int, length: int) -> Size:
    """That quantity of one layer for these rows, its adapters' rank and its attention's masks included."""
    tokens, entries = rows * length, rows * length * length
    extra = _rank_bytes(case) * tokens + _mask_bytes(case, quantity, rows, length)
    matrix = case.weights.dequant * _SCALES.get(quantity, 0.0)
    sizes = [
        Size(line.token * tokens + line.square * entries + extra, matrix if line.matrix else 0.0)
        for line in _lines(case, quantity)
    ]
    return max(sizes, key=sum)


_SCALES = {
    "hump": 1 + 1 / 32,
    "hump_kept": 1 + 1 / 32,
    "forward": 1 + 1 / 16,
    "forward_kept": 1 + 1 / 16,
    "evaluation": 1 + 1 / 16,
}
"""A matrix in 16 bits, and the scales of its blocks of 64 in fp32, once or twice."""


def checkpoints_per_token(case: Case) -> int:
    """Bytes per token of the layer inputs that checkpointing keeps: one of hidden width for every layer.

    Unsloth keeps them in host memory; two buffers for their way back and the last layer's input stay.
    """
    layers = min(3, case.width.layers) if case.stack.offloads_checkpoints else case.width.layers
    return case.stack.residual_bytes * case.width.hidden * layers


def traced(case: Case) -> bool:
    """Whether layers of this model type were traced."""
    return case.key[TYPE] == "llama" or _row(case) is not None


def masked(case: Case, rows: int, length: int) -> bool:
    """Whether a mask reaches sdpa: padded rows, packed rows, or rows longer than a sliding window."""
    row = _row(case)
    window = row["window"] if row is not None else None
    return case.attn == "sdpa" and (rows > 1 or case.packing or bool(window and length >= window))


def mask_entries(case: Case, rows: int, length: int) -> int:
    """Entries of the model's mask; packed rows are one row of all tokens."""
    if not masked(case, rows, length):
        return 0
    return (rows * length) ** 2 if case.packing else rows * length * length


def _mask_bytes(case: Case, quantity: Quantity, rows: int, length: int) -> float:
    """Keys and values are copied to all heads beside a mask, and every layer makes a copy of it in the query's dtype."""
    entries = mask_entries(case, rows, length)
    if not entries or quantity not in ("kept", "hump") or _writes_scores(case):
        return 0.0
    width = case.width
    layer = 4.0 * max(0, width.attention - width.kv) * rows * length + LAYER_MASK * entries
    return layer * (width.softmax_layers / width.layers if quantity == "kept" else 1.0)


def _writes_scores(case: Case) -> bool:
    return case.attn == "eager" or (case.stack.mode == "kbit" and case.width.kv < case.width.attention)


def _rank_bytes(case: Case) -> float:
    """Bytes per token of the products with A, which B's gradient needs: fp32 where nothing casts the adapters down."""
    return (4.0 if case.stack.mode in ("no-amp", "kbit") else 2.0) * case.ranks


def _lines(case: Case, quantity: Quantity) -> list[_Line]:
    """The lines of this run: the traced layer's of its type, moved by what its adapters and precision change in a Llama."""
    table, row = _table(), _row(case)
    setting = table["llama"][_setting(case, quantity, table)]
    here = setting[quantity]
    if case.stack.experts == "loop" and case.width.expert:
        return [_looped(case, quantity, line, setting, table) for line in here]
    if row is None:
        return [_line(case, quantity, line, table) for line in here]
    mode = BASES.get(case.stack.mode, case.stack.mode)
    mode = mode if mode in row else "amp"
    own = row[mode][quantity]
    if case.attn == "eager" and row["attention"] != "eager":
        return [_line(case, quantity, line, table) for line in here]
    base = table["llama"][f"{mode}/all/plain"][quantity]
    share = case.width.hidden / row["key"][HIDDEN]
    moved = _value(here[0], case) - _value(base[0], case)
    found = []
    for line in own:
        matching = base[1] if line[2] and len(base) > 1 else base[0]
        rank = 2.0 * row["ranks"] - 2.0 * table["rank"] * 7
        added = line[0] - rank - _at(matching, row["widths"])
        square = 0.0 if row["attention"] == "eager" and case.attn == "flash_attention_2" else line[1]
        plain = _value(matching, case) + moved - _traced_ranks(case, quantity, table)
        found.append(_Line(plain + share * added, square, bool(line[2])))
    return found


def _looped(case: Case, quantity: Quantity, line: list[float], setting: dict[str, Any], table: dict[str, Any]) -> _Line:
    """Experts one after the other: what is kept counts once per chosen expert, the rest for one expert's tokens only."""
    width, kept = case.width, setting["kept"][0][3]
    dense = _at(line, (width.hidden, width.attention, width.kv, width.dense))
    experts = width.expert * width.chosen * (kept + max(0.0, line[3] - kept) / max(1, width.experts))
    return _Line(dense + experts - _traced_ranks(case, quantity, table), line[5] * width.heads, bool(line[6]))


def _traced_ranks(case: Case, quantity: Quantity, table: dict[str, Any]) -> float:
    """Bytes per token of the ranks with which the Llama layer was traced: seven adapters, in full fine-tuning none.

    The backward pass of full fine-tuning is that of 16-bit adapters on everything, above which it keeps both norms' inputs.
    """
    if case.method == "full" and quantity not in ("hump", "hump_kept"):
        return 0.0
    norms = 4.0 * case.width.hidden if case.method == "full" and quantity == "hump" else 0.0
    return -norms + (4.0 if case.stack.mode in ("no-amp", "kbit") else 2.0) * float(table["rank"]) * 7


def _line(case: Case, quantity: Quantity, line: list[float], table: dict[str, Any]) -> _Line:
    return _Line(_value(line, case) - _traced_ranks(case, quantity, table), line[5] * case.width.heads, bool(line[6]))


def _value(line: list[float], case: Case) -> float:
    return _at(line, widths_of(case.width))


def _at(line: list[float], widths: Any) -> float:
    return sum(c * w for c, w in zip(line, widths, strict=False)) + line[4]


def _setting(case: Case, quantity: Quantity, table: dict[str, Any]) -> str:
    mode = case.stack.mode
    if case.method == "full" and case.attn != "eager":
        return "bf16/all/plain" if quantity in ("hump", "hump_kept") else "full/all/plain"
    if case.attn == "eager":
        return f"{BASES.get(mode, mode)}/eager"
    # Without an MLP of its own beside the experts, adapters on everything are adapters on attention.
    everywhere = case.all_targets or not case.width.dense
    key = f"{mode}/{'all' if everywhere else 'attention'}/{'dropout' if case.dropout else 'plain'}"
    return key if key in table["llama"] else "amp/all/plain"


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = read_json("layers.json")
    types: dict[Any, list[Any]] = {}
    for row in found["models"]:
        types.setdefault(row["key"][TYPE], []).append(row)
    return {**found, "types": types}


def _row(case: Case) -> Any:
    """The traced model with these dimensions, else the one of that type whose hidden width is nearest."""
    return _nearest(case.key)


@cache
def _nearest(key: tuple[str | int | None, ...]) -> Any:
    rows = _table()["types"].get(key[TYPE], ())
    exact = [row for row in rows if tuple(row["key"]) == key]
    if exact or not rows:
        return exact[0] if exact else None
    return min(rows, key=lambda row: abs(row["key"][HIDDEN] - int(key[HIDDEN] or 0)))
