"""Activations of the decoder layers: what a layer keeps, and how high its forward and backward passes rise.

The figures are traced: ``data/layers.json`` is what the libraries' own code does on the meta device, written by
``runner/build_layer_table.py``. A Llama-like layer is a formula in its widths for every precision, choice of targets and
dropout; other model types have what they add to it, for the sizes of the catalogue. A quantity is the highest of a few
straight lines, since another moment of the layer is the highest for long rows or few tokens.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from lora_advise.memory_case import Case, widths_of
from lora_advise.memory_traced import HEADS, TYPE, Weighted, rows_of, table

Quantity = Literal["kept", "hump", "forward", "forward_kept", "hump_kept", "evaluation"]
"""What a layer keeps without checkpointing; how far the backward and the forward pass rise above the layer inputs with
checkpointing, and above what is kept without; the forward pass of an evaluation."""
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)

BASES = {"no-amp": "amp", "bf16": "amp", "kbit": "nf4", "kbit-amp": "nf4"}
"""The precision in which model types were traced, for those in which they were not."""
DROPPED = "nf4/dropout"
"""What a model is traced in besides where its adapters see other features than a Llama's."""
NEXT_TO_NOTHING = 0.03
"""Share of a layer within which a type counts as a Llama."""
ROUGH = ("mamba", "falcon_mamba", "recurrent_gemma", "bloom", "gpt_neo")
"""Types that only a rehearsal knows well: without attention, a precision that was not traced came out 13 % off; with eager
attention of an older kind, sizes between the traced ones 8 %; Griffin's recurrent blocks 8 %, and 16 % for one short row."""
WIDENED = 1.9
"""How many streams of 16 bits a layer's input is at least where norms in fp32 make it twice as wide."""
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
    extra = (_rank_bytes(case) + _beside_experts(case, quantity)) * tokens + _mask_bytes(case, quantity, rows, length)
    matrix = case.weights.dequant * UNPACKED.get(quantity, 0.0)
    sizes = [
        Size(line.token * tokens + line.square * entries + extra, matrix if line.matrix else 0.0)
        for line in _lines(case, quantity)
    ]
    return max(sizes, key=sum)


UNPACKED: dict[str, float] = {
    "hump": 1 + 1 / 32,
    "hump_kept": 1 + 1 / 32,
    "forward": 1 + 1 / 16,
    "forward_kept": 1 + 1 / 16,
    "evaluation": 1 + 1 / 16,
}
"""Unpacked matrices that are alive at each of these points: in 16 bits, with the scales of their blocks of 64 in fp32."""


def checkpoints_per_token(case: Case) -> float:
    """Bytes per token of the layer inputs that checkpointing keeps: one of hidden width for every layer.

    Unsloth keeps them in host memory; two buffers for their way back and the last layer's input stay.
    """
    layers = min(3, case.width.layers) if case.stack.offloads_checkpoints else case.width.layers
    return _input(case) * layers


def _input(case: Case) -> float:
    """Bytes per token of one layer's input, at least the residual stream.

    Autocast makes LayerNorm's output fp32, and a 4-bit product gives back its input's dtype: the stream of such a type is
    fp32. Some types hand several streams or chosen positions from layer to layer.
    """
    stream = float(case.stack.residual_bytes * case.width.hidden)
    rows = rows_of(case.key) if case.stack.traced else ()
    mode = _traced_mode(case, rows)
    found = sum(weight * row[mode]["inputs"][0][0] for row, weight in rows) if rows else 0.0
    if case.stack.mode == "no-amp" and found > WIDENED * stream and case.width.softmax_layers:
        # Without autocast no norm widens the stream; one that is fp32 by itself is a state-space model's.
        found /= 2
    return found if found > stream * (1 + NEXT_TO_NOTHING) else stream


def _base(case: Case, rows: Weighted) -> tuple[str, str]:
    """The traced setting nearest to the run's: its name in the rows, and the Llama layer it is compared with."""
    mode = _traced_mode(case, rows)
    if _eager(case):
        return mode, f"{mode}/eager"
    if case.width.expert:
        return mode, f"{mode}/attention/plain"
    if mode == "nf4" and case.dropout and case.all_targets and all(DROPPED in row for row, _ in rows):
        return DROPPED, "nf4/all/dropout"
    return mode, f"{mode}/all/plain"


def _traced_mode(case: Case, rows: Weighted) -> str:
    """The precision among those in which this type was traced that is the nearest to the run's."""
    mode = BASES.get(case.stack.mode, case.stack.mode)
    return mode if rows and mode in rows[0][0] else "amp"


def traced(case: Case) -> bool:
    """Whether the closed form knows layers of this model type: others are for a rehearsal."""
    if _eager(case) and case.stack.mode not in ("amp", "nf4"):
        # Eager attention was traced in two precisions only, and is 10 % off in another.
        return False
    return case.key[TYPE] == "llama" or (case.key[TYPE] not in ROUGH and bool(rows_of(case.key)))


def masked(case: Case, rows: int, length: int) -> bool:
    """Whether a mask reaches sdpa: padded rows, packed rows, or rows longer than a sliding window."""
    rows_of_type = rows_of(case.key)
    window = rows_of_type[0][0]["window"] if rows_of_type else None
    return case.attn == "sdpa" and not _eager(case) and (rows > 1 or case.packing or bool(window and length >= window))


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
    # One head for keys and values is expanded without a copy, but in GPT-BigCode.
    viewed = case.key[HEADS + 1] == 1 and case.key[TYPE] != "gpt_bigcode"
    copied = 0 if viewed else max(0, width.attention - width.kv)
    # Copies set a fused product free that the value alone would hold; GPT-BigCode's value is a cast copy of its own.
    held = case.fused_query and case.key[TYPE] != "gpt_bigcode"
    freed = 2.0 * (width.attention + 2 * width.kv) if copied and held else 0.0
    layer = (4.0 * copied - freed) * rows * length + LAYER_MASK * entries
    return layer * (width.attention_layers / width.layers if quantity == "kept" else 1.0)


def _writes_scores(case: Case) -> bool:
    return case.attn == "eager" or (case.stack.mode == "kbit" and case.width.kv < case.width.attention)


def _rank_bytes(case: Case) -> float:
    """Bytes per token of the products with A, which B's gradient needs: fp32 where nothing casts the adapters down."""
    return (4.0 if case.stack.mode in ("no-amp", "kbit") else 2.0) * case.ranks


def _beside_experts(case: Case, quantity: Quantity) -> float:
    """Bytes per token that adapters beside attention keep in a mixture, which was traced with adapters on attention alone.

    A fused expert with adapters is a trained weight: its gradient needs the gathered input and the inner product of every
    chosen expert. A shared expert's or a dense layer's adapters keep what they keep in a Llama of that width.
    """
    width = case.width
    if not width.expert or quantity not in ("kept", "hump"):
        return 0.0
    kept = 2.0 * width.chosen * (width.hidden + width.expert) if case.merged_kept else 0.0
    if case.mlp_share and case.method != "full":
        dense = (width.hidden * case.mlp_share, 0, 0, width.dense)
        drop = "dropout" if case.dropout else "plain"
        everywhere, alone = (_bare(f"{case.stack.mode}/{t}/{drop}", "kept", 0, dense) for t in ("all", "attention"))
        return kept + everywhere - alone
    return kept + (2.0 * width.hidden if kept else 0.0)


def _lines(case: Case, quantity: Quantity) -> list[_Line]:
    """The lines of this run: the traced layer's of its type, moved by what its adapters and precision change in a Llama."""
    rows, widths = rows_of(case.key), widths_of(case.width)
    key = _setting(case, quantity)
    here = _llama(key)[quantity]
    if case.stack.experts == "loop" and case.width.expert:
        return [_looped(case, key, n, quantity) for n in range(len(here))]
    own = _norms(case, quantity) - _bare_attention(case, quantity)
    as_llama = [
        _Line(_bare(key, quantity, n, widths) + own, line[5] * case.width.heads, bool(line[6]))
        for n, line in enumerate(here)
    ]
    if not rows or (_writes_scores(case) and not _eager(case)):
        return as_llama
    mode, base = _base(case, rows)
    plain = f"{_traced_mode(case, rows)}/{'attention' if case.width.expert else 'all'}/plain" if _eager(case) else base
    moved = _bare(_setting(case, quantity, eager=False), quantity, 0, widths) - _bare(plain, quantity, 0, widths)
    if _is_llama(rows, mode, quantity, base):
        return as_llama
    found = []
    for n, line in enumerate(rows[0][0][mode][quantity]):
        place = n if n < len(_llama(base)[quantity]) else 0
        added = sum(weight * _added(row, mode, quantity, n, (base, place)) for row, weight in rows)
        square = line[1] / max(1, rows[0][0]["key"][HEADS]) * case.width.heads
        square = 0.0 if _eager(case) and case.attn == "flash_attention_2" else square
        token = _bare(base, quantity, place, widths) + moved + added + own
        found.append(_Line(token, square, bool(line[2])))
    return found


def _is_llama(rows: Weighted, mode: str, quantity: Quantity, base: str) -> bool:
    """Whether these traced layers differ from a Llama's by next to nothing: then the formula of the setting itself is nearer."""
    if base.endswith("eager"):
        return False
    for row, _ in rows:
        for n, line in enumerate(row[mode][quantity]):
            place = n if n < len(_llama(base)[quantity]) else 0
            if abs(_added(row, mode, quantity, n, (base, place))) > NEXT_TO_NOTHING * abs(line[0]):
                return False
    return True


def _added(row: dict[str, Any], mode: str, quantity: Quantity, n: int, base: tuple[str, int]) -> float:
    """What that traced model adds to a Llama layer of its widths, bytes per token."""
    own = row[mode][quantity][n][0] - 2.0 * row["ranks"]
    return float(own - _bare(base[0], quantity, base[1], row["widths"]))


def _bare(key: str, quantity: Quantity, n: int, widths: Any) -> float:
    """Bytes per token of a Llama layer of these widths in that setting, without what the adapters' ranks add."""
    line = _llama(key)[quantity][min(n, len(_llama(key)[quantity]) - 1)]
    mode, _, rest = key.partition("/")
    adapters = 0 if mode == "full" else 4 if rest.startswith("attention") else 7
    wide = 4.0 if mode in ("no-amp", "kbit") else 2.0
    return float(sum(c * w for c, w in zip(line, widths, strict=False)) + line[4] - wide * table()["rank"] * adapters)


def _llama(key: str) -> Any:
    return table()["llama"][key]


def _bare_attention(case: Case, quantity: Quantity) -> float:
    """What adapters on attention keep, where only the MLP has adapters: attention alone keeps 8 h + 4 q without them."""
    if case.attention_targets or not case.all_targets or case.width.expert or quantity not in ("kept", "hump"):
        return 0.0
    hidden, query = _llama(f"{case.stack.mode}/attention/{'dropout' if case.dropout else 'plain'}")["kept"][0][:2]
    kept = (hidden - 8.0) * case.width.hidden + (query - 4.0) * case.width.attention
    return 0.0 if case.stack.mode == "kbit" else float(kept)


def _norms(case: Case, quantity: Quantity) -> float:
    """Full fine-tuning is traced as 16-bit adapters on everything; above these it keeps the inputs of both norms."""
    trained = case.method == "full" and quantity == "hump" and not case.stack.triton
    return 4.0 * case.width.hidden if trained else 0.0


def _eager(case: Case) -> bool:
    """Whether this model type has no attention but eager."""
    rows = rows_of(case.key)
    return bool(rows) and rows[0][0]["attention"] == "eager"


def _looped(case: Case, key: str, n: int, quantity: Quantity) -> _Line:
    """Experts one after the other: what is kept counts once per chosen expert, the rest for one expert's tokens only.

    Each chosen expert gathers its tokens, and its output is kept for the router's gradient.
    """
    width, line, kept = case.width, _llama(key)[quantity][n], _llama(key)["kept"][0][3]
    dense = _bare(key, quantity, n, (width.hidden, width.attention, width.kv, width.dense))
    experts = width.expert * width.chosen * (kept + max(0.0, line[3] - kept) / max(1, width.experts))
    gathered = 2.0 * case.stack.residual_bytes * width.hidden * width.chosen if quantity in ("kept", "hump") else 0.0
    return _Line(dense + experts + gathered, line[5] * width.heads, bool(line[6]))


def _setting(case: Case, quantity: Quantity, *, eager: bool = True) -> str:
    """The key of the Llama layer that is nearest to this run."""
    mode = case.stack.mode
    if eager and case.attn == "eager":
        return f"{BASES.get(mode, mode)}/eager"
    if case.method == "full":
        return "bf16/all/plain" if quantity in ("hump", "hump_kept") else "full/all/plain"
    everywhere = case.all_targets and not case.width.expert
    return f"{mode}/{'all' if everywhere else 'attention'}/{'dropout' if case.dropout else 'plain'}"
