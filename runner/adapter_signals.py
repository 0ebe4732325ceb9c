"""What the adapter's weights say while they are trained: norms, drift, effective rank. Cheap: r x r matrices only."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import median
from typing import Any

import torch

from lora_advise.run_facts import AdapterSignal

RANKED_PAIRS = 64
"""Spectra are taken of at most this many pairs, evenly spread over the depth."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One LoRA pair: A is (r, d_in), B is (d_out, r); ``start`` is A before the first step."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    base_norm: float | None
    start: torch.Tensor


@torch.no_grad()  # type: ignore[untyped-decorator]
def find_pairs(model: Any) -> tuple[Pair, ...]:
    """Every pair on a linear layer of the trained adapter; fused expert parameters and embeddings are left out."""
    pairs = []
    for module in model.modules():
        if type(module).__name__ == "ParamWrapper" or "default" not in getattr(module, "lora_A", {}):
            continue
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        if a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1]:
            weight = getattr(module.get_base_layer(), "weight", None)
            # A quantised weight is packed bytes: its norm is not that of the matrix.
            known = weight is not None and weight.is_floating_point() and not hasattr(weight, "quant_state")
            norm = float(torch.linalg.vector_norm(weight, dtype=torch.float32)) if known else None
            pairs.append(Pair(a, b, float(module.scaling["default"]), norm, a.detach().float().clone()))
    return tuple(pairs)


@torch.no_grad()  # type: ignore[untyped-decorator]
def measure(pairs: tuple[Pair, ...], step: int, clipped_share: float | None) -> AdapterSignal:
    """One reading of all pairs. The norm of BA is that of (B'B)(AA'), which is r x r."""
    updates, ranks = [], []
    b_squared = a_squared = drift = start = 0.0
    every = max(1, len(pairs) // RANKED_PAIRS)
    for index, pair in enumerate(pairs):
        a, b = pair.a.detach().float(), pair.b.detach().float()
        a_squared += float((a * a).sum())
        b_squared += float((b * b).sum())
        drift += float(((a - pair.start) ** 2).sum())
        start += float((pair.start**2).sum())
        product = (b.T @ b) @ (a @ a.T)
        squared = max(float(product.trace()), 0.0)
        if pair.base_norm:
            updates.append(pair.scale * sqrt(squared) / pair.base_norm)
        if index % every == 0 and squared > 0 and bool(torch.isfinite(product).all()):
            largest = float(torch.linalg.eigvals(product.cpu()).real.max())
            if largest > 0:
                ranks.append(squared / largest)
    return AdapterSignal(
        step=step,
        norm_b=sqrt(b_squared),
        norm_a=sqrt(a_squared),
        relative_update_median=median(updates) if updates else None,
        relative_update_max=max(updates) if updates else None,
        a_drift=sqrt(drift / start) if start else None,
        effective_rank_median=median(ranks) if ranks else None,
        clipped_share=clipped_share,
    )
