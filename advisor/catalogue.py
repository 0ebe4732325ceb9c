"""The model catalogue: what a size, a name, an id or a local folder means, with exact modules."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from lora_advise import model_names as names
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import LinearModule, ModelFacts
from lora_advise.model_kernels import STORED
from lora_advise.package_data import read_json, read_text

Row = dict[str, Any]

_COLUMNS = ("path", "d_in", "d_out", "count", "role", "kind", "experts", "bias")
_DIMENSIONS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
    "vocab_size", "tie_word_embeddings", "max_position_embeddings", "num_experts",
    "num_experts_per_tok", "recurrent_layers",
)  # fmt: skip


def resolve_model(asked: str) -> tuple[ModelFacts, tuple[str, ...]]:
    """The model that was asked for, and the ids of others that the question could have meant.

    ``asked`` is a size (``32B``, ``8x7B``, ``30B-A3B``), an id or name in any case, a model folder or a config.json.
    An existing path wins. Raises LoraAdviseError, with the nearest names, for anything else.
    """
    asked = asked.strip()
    if not asked:
        raise LoraAdviseError(
            "The model is empty: give a size such as 7B, an id such as Qwen/Qwen2.5-7B-Instruct, or a folder."
        )
    path = Path(asked).expanduser()
    if _exists(path):
        return _from_path(path), ()
    if names.parse_size(asked) is not None:
        chosen, related = _by_size(asked)
        return facts(chosen, asked), related
    found = _by_name(asked)
    if found is not None:
        chosen, related = found
        return facts(chosen, None if chosen == asked else asked), related
    return _from_hub(asked), ()


def facts(model_id: str, asked: str | None = None) -> ModelFacts:
    """The facts of a catalogue id, spelled as the catalogue spells it. Raises KeyError for another spelling."""
    entry = row(model_id)
    own = model_id == entry["id"]
    known = {key: entry[key] for key in _DIMENSIONS if key in entry}
    return ModelFacts(
        name=model_id, asked=asked, model_type=entry["model_type"], kind=entry["kind"],
        total_params=entry["total"], active_params=entry["active"],
        has_vision=any(m[4] == "vision" for m in entry["modules"]),
        has_audio=any(m[4] == "audio" for m in entry["modules"]),
        variant=entry.get("variant") if own else names.variant_in(model_id) or entry.get("variant"),
        license=entry.get("license") if own or _owner(model_id) == _owner(entry["id"]) else None,
        template=entry.get("template"), family=entry.get("family"), checkpoint_quantization=STORED.get(model_id),
        modules=tuple(LinearModule(**dict(zip(_COLUMNS, m, strict=True))) for m in entry["modules"]),
        **known,
    )  # fmt: skip


def row(model_id: str) -> Row:
    """The catalogue's row for an id or alias: config, modules, published count with its source, unchecked fields."""
    entry: Row = json.loads(_lines()[index()[model_id][0]])
    return entry


def unchecked(model_id: str) -> tuple[str, ...]:
    """Fields of that model that no source confirmed (licence, release, template, context, variant)."""
    return tuple(row(model_id).get("unchecked", ()))


@cache
def index() -> dict[str, tuple[int, int, str, str]]:
    """Every id and alias with its line in the data file, total parameters, kind and release (``2024-09``)."""
    data: dict[str, list[Any]] = read_json("models_index.json")
    return {model_id: (line, total, kind, release) for model_id, (line, total, kind, release) in data.items()}


@cache
def _lines() -> list[str]:
    return read_text("models.jsonl").splitlines()


def _owner(model_id: str) -> str:
    return model_id.split("/", 1)[0].lower()


def _exists(path: Path) -> bool:
    try:
        return (path.is_dir() and (path / "config.json").exists()) or path.is_file()
    except (OSError, ValueError):
        return False


def _is_folder(asked: str) -> bool:
    try:
        return Path(asked).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):
        return False


def _from_path(path: Path) -> ModelFacts:
    from lora_advise.config_json import read_config

    config, file = read_config(path)
    return _from_config(config, str(path), str(file))


def _from_config(config: dict[str, Any], name: str, path: str | None = None) -> ModelFacts:
    """By formulas where the type has them, by the catalogue's model of the same dimensions, else by the real class."""
    from lora_advise.architecture import from_config, layout_of
    from lora_advise.config_json import stored_as

    known_type = isinstance(config.get("model_type"), str)
    twin = _same_dimensions(config) if known_type and layout_of(config) is None else None
    stored = {"checkpoint_quantization": stored_as(config)}
    if twin is None:
        return from_config(config, name, path).changed(stored)
    return facts(twin).changed({"name": name, "path": path, "license": None, "variant": None, **stored})


def _same_dimensions(config: dict[str, Any]) -> str | None:
    """The catalogue's model whose every config key has the same value here; a fine-tune of it has them all."""
    from lora_advise.architecture import flatten

    flat = flatten(config)
    mark = f'"model_type":{json.dumps(config.get("model_type"))}'
    for entry in (json.loads(line) for line in _lines() if mark in line):
        known = flatten(entry["config"])
        if entry["config"].get("model_type") == config.get("model_type") and known.items() <= flat.items():
            return str(entry["id"])
    return None


def _by_size(asked: str) -> tuple[str, tuple[str, ...]]:
    """The preferred model of a size, and the other models of that size."""
    stated = names.parse_size(asked) or 0.0
    decoders = {
        i: total for i, (_, total, kind, _) in index().items() if kind not in {"encoder", "encoder-decoder", "vlm"}
    }
    labelled = names.saying_size(decoders, asked)
    if names.is_composite(asked):
        matching = labelled
    else:
        by_label = [i for i in labelled if abs(decoders[i] - stated) <= 0.25 * stated]
        by_count = [i for i, total in decoders.items() if abs(total - stated) <= names.SIZE_TOLERANCE * stated]
        matching = list(dict.fromkeys(by_label + by_count))
    ordered = sorted(matching, key=lambda i: (i not in labelled, names.preference(i)))
    first = names.PREFERRED.get(asked.strip().lower())
    if first is not None and first in index():
        ordered = [first, *(i for i in ordered if i != first)]
    if not ordered:
        raise LoraAdviseError(
            f"No model of the catalogue has the size {asked}: the nearest are {_nearest_sizes(decoders, stated)}."
        )
    newest = sorted(ordered[1:], key=lambda i: index()[i][3], reverse=True)
    return ordered[0], tuple(sorted(newest, key=lambda i: i not in labelled)[:8])


def _nearest_sizes(decoders: dict[str, int], stated: float) -> str:
    below = sorted((i for i in decoders if decoders[i] <= stated), key=lambda i: (-decoders[i], names.preference(i)))[
        :1
    ]
    above = sorted((i for i in decoders if decoders[i] > stated), key=lambda i: (decoders[i], names.preference(i)))[:1]
    return " and ".join(f"{i} ({decoders[i] / 1e9:.3g}B)" for i in below + above)


def _by_name(asked: str) -> tuple[str, tuple[str, ...]] | None:
    """The catalogue id that a name means: exact id, exact basename, other separators, then its variants."""
    ids = list(index())
    key, short = names.normal(asked), names.without_quantisation(asked)
    owner = _owner(asked) if "/" in asked else None
    if asked in index():
        return asked, _siblings(asked)
    whole = [i for i in ids if names.normal(i) == key]
    if whole:
        return whole[0], _siblings(whole[0])
    if owner is not None and owner not in names.MIRRORS:
        return None
    tests: tuple[Callable[[str], bool], ...] = (
        lambda i: names.normal(names.basename(i)) == short,
        lambda i: names.squeezed(names.basename(i)) == names.squeezed(short),
        lambda i: names.stem(i) == names.stem(short),
    )
    for test in tests:
        found = [i for i in ids if test(i)]
        if found:
            chosen, others = names.pick(found)
            return chosen, tuple(dict.fromkeys((*others, *_siblings(chosen))))
    return None


def _siblings(model_id: str) -> tuple[str, ...]:
    """Ids with the same name up to the variant suffix."""
    stem = names.stem(model_id)
    return tuple(i for i in index() if i != model_id and names.stem(i) == stem)


def base_of(model: ModelFacts, related: tuple[str, ...]) -> tuple[ModelFacts, tuple[str, ...]]:
    """The base model of the same size and family where the catalogue has one, and the others; else what was given."""
    found = next(
        (i for i in _siblings(model.name) if _owner(i) == _owner(model.name) and facts(i).variant == "base"), None
    )
    if model.variant == "base" or found is None:
        return model, related
    return facts(found, model.asked), (model.name, *(i for i in related if i != found))


def _from_hub(asked: str) -> ModelFacts:
    """An unlisted ``owner/name`` from the Hub. Raises LoraAdviseError with the closest names."""
    if _is_folder(asked):
        raise LoraAdviseError(
            f"The folder {asked} has no config.json: give a folder that was saved with save_pretrained, or a model id."
        )
    if asked.count("/") == 1 and not asked.startswith((".", "/", "~")) and all(asked.split("/")):
        from lora_advise.hub import config_from_hub

        config = config_from_hub(asked)
        if config is not None:
            return _from_config(config, asked)
        reached = (
            f"{asked[:200]} is not in the catalogue and its config.json could not be had from the Hub "
            "(offline, unreachable or no such id)"
        )
    else:
        reached = f"{asked[:200]} is no model of the catalogue and no existing folder or file"
    near = names.closest(asked[:100], index())
    hint = f"; the closest names are {', '.join(near)}" if near else ""
    raise LoraAdviseError(
        f"{reached}{hint}: give one of the catalogue's ids, a size such as 7B, or a folder with a config.json."
    )
