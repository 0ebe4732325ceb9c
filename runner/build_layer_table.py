"""Rebuild the table of traced layers that the closed form of the memory forecast reads (``data/layers.json``)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from lora_advise import catalogue
from lora_advise.adapters import targets
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import ModelFacts
from lora_advise.memory_case import TOWERS, layer_key, ranks_of, width_of, widths_of
from lora_advise.memory_layers import DROPPED, QUANTITIES
from lora_advise.runner.layer_lines import LENGTH, MODES, RANK, Line, Setting, lines, run, window
from lora_advise.runner.meta_model import Blueprint, attention_of, blueprint
from lora_advise.runner.quiet import quiet_libraries
from lora_advise.runner.rehearse import REFUSALS

FEW = 4
"""Sizes up to which all of a dense, vision-language or state-space type are traced. Of a type with more, and with the adapters
of a Llama, the smallest and the largest are: a further one is taken in proportion to its hidden width."""
LLAMA = 7
"""Matrices of a Llama's layer."""
ALIKE = 0.05
"""Share within which adapters see as many features as a Llama's."""


def shapes() -> Iterator[ModelFacts]:
    """Models of the catalogue that transformers can build: of types of many sizes that are like a Llama two, of others all."""
    types: dict[tuple[str, str], list[ModelFacts]] = {}
    for model in _distinct():
        types.setdefault((model.model_type, model.kind), []).append(model)
    for models in types.values():
        models.sort(key=lambda m: m.total_params)
        every = len(models) <= FEW or models[0].kind not in ("dense", "vlm", "ssm") or DROPPED in _settings(models[0])
        yield from models if every else (models[0], models[-1])


def _distinct() -> Iterator[ModelFacts]:
    seen = set()
    for name in catalogue.index():
        row = catalogue.row(name)
        if row["class"] is None or row["kind"] == "encoder-decoder":
            continue
        model = catalogue.resolve_model(row["id"])[0]
        if (key := layer_key(model)) not in seen:
            seen.add(key)
            yield model


def _ranks(model: ModelFacts) -> float:
    """Ranks of the adapters of one layer, added up, as they were traced."""
    lora = run(model, Setting("amp"), LENGTH).lora
    return round(ranks_of(model, lora), 2) if lora else 0.0


def llama_table() -> dict[str, dict[str, list[list[float]]]]:
    """Every setting of a Llama-like layer, its lines as formulas.

    A line is bytes per token for each unit of hidden, query, key-value and MLP width, the rest, bytes per head, token and
    token of the row, and whether an unpacked matrix comes on top.
    """
    settings = [
        Setting(mode, everywhere, drop) for mode in MODES for everywhere in (True, False) for drop in (False, True)
    ]
    return {
        s.key: _formulas(s) for s in (*settings, Setting("amp", attention="eager"), Setting("nf4", attention="eager"))
    }


_BASE = {
    "hidden_size": 2560,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 7168,
}
_VARIED: tuple[dict[str, int], ...] = (
    {},
    {"hidden_size": 3840},
    {"num_attention_heads": 16},
    {"num_key_value_heads": 2},
    {"intermediate_size": 8192},
)
"""Shapes near those in use, so that the same moment of the layer is the highest in all of them."""


def _formulas(setting: Setting) -> dict[str, list[list[float]]]:
    from lora_advise.architecture import from_config

    rows: list[tuple[tuple[int, ...], dict[str, list[Line]]]] = []
    for changed in _VARIED:
        config = {**_BASE, **changed, "model_type": "llama", "num_hidden_layers": 8, "vocab_size": 512,
                  "max_position_embeddings": 4096, "tie_word_embeddings": False}  # fmt: skip
        model = from_config(config, "llama")
        rows.append((widths_of(width_of(model)), lines(Blueprint("LlamaForCausalLM", config, 8), model, setting)))
    sys.stderr.write(f"{setting.key}\n")
    return {name: [_formula(rows, name, n) for n in range(len(rows[0][1][name]))] for name in QUANTITIES}


def _formula(rows: list[tuple[tuple[int, ...], dict[str, list[Line]]]], name: str, place: int) -> list[float]:
    """Coefficients of one line: each row but the first changes one of the widths."""
    (widths, base), found = rows[0], list[float]()
    line = base[name][place]
    for n in range(4):
        other = rows[n + 1]
        found.append(round((other[1][name][place][0] - line[0]) / (other[0][n] - widths[n]), 3))
    rest = line[0] - sum(c * w for c, w in zip(found, widths, strict=True))
    return [*found, round(rest, 1), round(line[1] / int(_BASE["num_attention_heads"]), 3), line[2]]


def _settings(model: ModelFacts) -> dict[str, Setting]:
    """In which settings a model is traced: with dropout too where its adapters are others than a Llama's.

    Seven matrices of a Llama see five times the hidden width, the query width and the MLP's; fused ones see fewer.
    """
    found = {"amp": Setting("amp"), "nf4": Setting("nf4")}
    lora, width = run(model, Setting("amp"), LENGTH).lora, width_of(model)
    if lora is None or width.expert or model.kind == "encoder":
        return found
    inside = (t.module for t in targets(model, lora) if t.module.kind == "linear" and t.module.role not in TOWERS)
    seen = sum(module.d_in * module.count for module in inside) / model.num_hidden_layers
    llama = 5 * width.hidden + width.attention + width.dense
    if _ranks(model) == LLAMA * RANK and abs(seen - llama) <= ALIKE * llama:
        return found
    return {**found, DROPPED: Setting("nf4", dropout=True)}


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
        for name, setting in _settings(model).items():
            facts = run(model, setting, 64)
            try:
                plan = blueprint(facts)
                entry[name] = lines(plan, model, setting)
                entry |= {"window": window(plan), "attention": attention_of(plan, facts)}
            except (LoraAdviseError, *REFUSALS) as error:
                missing[f"{model.model_type}/{name}"] = " ".join(str(error).split())[:160]
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
        table: dict[str, Any] = {
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
