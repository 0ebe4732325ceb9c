"""The catalogue as a list for people."""

from __future__ import annotations

from lora_advise.catalogue import index, row


def list_models() -> list[tuple[str, str, str, str, str, str]]:
    """Every id and alias: name, parameters in billions, kind, model type, context in tokens, licence."""
    rows = []
    for name in index():
        entry = row(name)
        context = entry.get("context") or entry.get("max_position_embeddings")
        rows.append((
            name, f"{entry['total'] / 1e9:.3g}B", str(entry["kind"]), str(entry["model_type"]),
            f"{context:,}" if context else "", str(entry.get("license") or "") if name == entry["id"] else "",
        ))  # fmt: skip
    return rows
