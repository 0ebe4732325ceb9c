"""Build real transformers classes on the meta device, to read their modules and to rebuild the model catalogue."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_advise.errors import LoraAdviseError

if TYPE_CHECKING:
    from torch import nn

Row = dict[str, Any]
Module = list[Any]
"""Path, d_in, d_out, count, role, kind, experts, bias: the columns of ``LinearModule`` as the data file keeps them."""

_INDEX = re.compile(r"(?<=\.)\d+(?=\.|$)")
_ROLES: tuple[tuple[str, str], ...] = (
    (
        r"lm_head$|embed_out$|output_layer$|^output_projection$|predictions\.decoder$|lm_head\.decoder$|^decoder$|vocab_projector",
        "lm_head",
    ),
    (r"predictions\.transform|lm_head\.dense|^head\.|classifier|^score$|vocab_transform", "head"),
    (
        r"projector|connector|merger|embed_vision|embed_audio|img_projection|modality_projection|projection_for",
        "projector",
    ),
    (r"_proj_for_|audio_embed\.(up|down)_proj", "projector"),
    (r"audio", "audio"),
    (r"vision|visual|image_embed|patch_embed", "vision"),
    (r"shared_expert_gate|router|moe\.gate|mlp\.gate(\.weight)?$|block_sparse_moe\.gate|mixer\.gate\.weight", "router"),
    (r"mlp\.gate\.wg|feed_forward\.gate(\.weight)?$", "router"),
    (r"shared_expert|shared_mlp", "shared_expert"),
    (r"experts|(input|output)_linear\.weight$", "expert"),
    (r"output_gate|forget_gate|self_attn\.(conv1d|b_proj|g_[ab]_proj)", "mixer"),
    (
        r"linear_attn|mamba|mixer\.(in_proj|out_proj|x_proj|dt_proj|conv1d)|\.conv\.|linear_[xy]|conv_1d|linear_out",
        "mixer",
    ),
    (r"self_attn|attention\.dense|attn|attention|Attention|temporal_block|mixer\.[qkvo]_proj", "attention"),
    (r"mlp|ffn|feed_forward|fc1|fc2|fc_in|fc_out|DenseReluDense|intermediate|output\.dense|\.h\.", "mlp"),
    (r"mixer\.(up|down)_proj|lin1|lin2|per_layer", "mlp"),
)
"""First match wins; a path that matches none has the role ``other``."""


def role_of(path: str, kind: str) -> str:
    """The role that a module plays, told from its full path."""
    if kind == "embedding":
        tower = re.search(r"vision|visual|audio|patch", path)
        return "embedding" if tower is None else ("audio" if tower.group() == "audio" else "vision")
    return next((role for pattern, role in _ROLES if re.search(pattern, path)), "other")


def with_roles(modules: list[Module]) -> list[Module]:
    """The modules with their roles; a "shared" MLP without routed experts beside it is the model's plain MLP."""
    roles = [role_of(m[0], m[5]) for m in modules]
    if "expert" not in roles:
        roles = ["mlp" if role == "shared_expert" else role for role in roles]
    return [[*m[:4], role, *m[5:]] for m, role in zip(modules, roles, strict=True)]


def build_on_meta(class_name: str, config: Row) -> nn.Module:
    """The model of that transformers class with that configuration, without memory for its weights."""
    import torch
    import transformers
    from transformers.initialization import no_init_weights

    settings = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"), no_init_weights():
        model: nn.Module = getattr(transformers, class_name)(settings)
    # Tying is part of the initialisation that was left out.
    tie: Any = getattr(model, "tie_weights", None)
    if tie is not None:
        tie()
    return model


def modules_on_meta(config: Row) -> Row:
    """What :func:`observe` sees of the class that a config.json names, with the resolved config and the model's kind.

    Raises LoraAdviseError for a model type that transformers does not know: remote code is never run.
    """
    class_name = class_named_by(config)
    try:
        model = build_on_meta(class_name, config)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        raise LoraAdviseError(
            f"transformers cannot build {class_name} from this config.json ({error}): "
            "give the file saved with the model."
        ) from error
    seen = observe(model)
    return {**seen, "config": model.config.to_dict(), "kind": kind_of(class_name, seen["modules"])}


def class_named_by(config: Row) -> str:
    """The transformers class of a config.json. Raises LoraAdviseError for a type that transformers does not know."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING_NAMES:
        raise LoraAdviseError(
            f"The model type {model_type!r} is unknown to transformers {transformers.__version__}, and code that comes "
            "with a model is never run: use a newer transformers, or name a model of the catalogue with the same layout."
        )
    named = [n for n in config.get("architectures") or () if isinstance(n, str) and hasattr(transformers, n)]
    return named[0] if named else _class_for(str(model_type))


def _class_for(model_type: str) -> str:
    from transformers.models.auto import modeling_auto as auto

    for mapping in (
        auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        auto.MODEL_MAPPING_NAMES,
    ):  # fmt: skip
        found = mapping.get(model_type)
        if found:
            return str(found if isinstance(found, str) else found[0])
    raise LoraAdviseError(
        f"transformers has no language model class for the model type {model_type!r}: name a model of the catalogue."
    )


def kind_of(class_name: str, modules: list[Module]) -> str:
    """Dense, MoE, hybrid and so on, told from the roles of the modules."""
    roles = {m[4] for m in modules}
    if "vision" in roles or "audio" in roles:
        return "vlm"
    if "mixer" in roles:
        return "hybrid" if "attention" in roles else "ssm"
    if "expert" in roles:
        return "moe"
    if class_name.endswith(("ForConditionalGeneration", "ForSeq2SeqLM")):
        return "encoder-decoder"
    return "dense" if class_name.endswith(("ForCausalLM", "LMHeadModel")) else "encoder"


def observe(model: nn.Module) -> Row:
    """Module families, tied paths and parameter counts of a model on any device."""
    found: dict[tuple[Any, ...], int] = {}
    tied: list[str] = []
    seen: set[int] = set()
    # Embeddings first: of two modules that share a weight, the head is the one called tied.
    for path, kind, d_in, d_out, experts, bias, weight in sorted(_matrices(model), key=lambda m: m[1] != "embedding"):
        star = _INDEX.sub("*", path)
        if id(weight) in seen:
            if kind == "embedding":
                continue
            tied.append(star)
        seen.add(id(weight))
        key = (star, d_in, d_out, role_of(star, kind), kind, experts, bias)
        found[key] = found.get(key, 0) + 1
    modules = with_roles([[p, i, o, n, role, kind, e, b] for (p, i, o, role, kind, e, b), n in found.items()])
    total = sum(p.numel() for p in model.parameters())
    once = sum(m[1] * m[2] * m[3] * m[6] for m in modules if m[0] not in tied)
    return {"modules": modules, "tied": sorted(set(tied)), "rest": total - once, "total": total}


def _matrices(model: nn.Module) -> Iterator[tuple[str, str, int, int, int, bool, Any]]:
    from torch import nn

    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        bias = getattr(module, "bias", None) is not None
        if isinstance(module, nn.Embedding):
            yield path, "embedding", *module.weight.shape, 1, False, weight
        elif isinstance(module, nn.Linear):
            yield path, "linear", module.in_features, module.out_features, 1, bias, weight
        elif type(module).__name__ == "Conv1D":
            yield path, "linear", *module.weight.shape, 1, bias, weight
        elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            yield path, "conv", module.weight[0].numel(), module.out_channels, 1, bias, weight
        else:
            yield from _bare_parameters(path, module)


def _bare_parameters(path: str, module: nn.Module) -> Iterator[tuple[str, str, int, int, int, bool, Any]]:
    """Router matrices and fused expert matrices, which PEFT reaches through ``target_parameters`` only."""
    bare = dict(module.named_parameters(recurse=False))
    for name, weight in bare.items():
        full = f"{path}.{name}"
        bias = f"{name}_bias" in bare or (name == "weight" and "bias" in bare)
        if weight.dim() == 3 and role_of(_INDEX.sub("*", full), "parameter") == "expert" and "bias" not in name:
            a, b = int(weight.shape[1]), int(weight.shape[2])
            d_in, d_out = (a, b) if _stored_in_first(module, name, weight) else (b, a)
            yield full, "parameter", d_in, d_out, int(weight.shape[0]), bias, weight
        elif weight.dim() == 2 and role_of(_INDEX.sub("*", full), "parameter") == "router" and name == "weight":
            yield full, "parameter", int(weight.shape[1]), int(weight.shape[0]), 1, bias, weight


def _stored_in_first(module: nn.Module, name: str, weight: Any) -> bool:
    """Whether an expert parameter is stored as (experts, in, out), as gpt-oss and Llama 4 do."""
    if getattr(module, "is_transposed", None) is not None:
        return bool(module.is_transposed)
    hidden = getattr(module, "hidden_size", None) or getattr(module, "hidden_dim", None)
    if hidden is None:
        return False
    first = int(weight.shape[1]) == hidden
    return first if "down" not in name else not first and int(weight.shape[2]) == hidden


def rebuild(row: Row) -> Row:
    """The row with its modules and counts read from the real class anew; rows of remote code stay as they are."""
    if row["class"] is None:
        return row
    seen = observe(build_on_meta(row["class"], row["config"]))
    routed = sum(m[1] * m[2] * m[3] * m[6] for m in seen["modules"] if m[4] == "expert")
    experts, chosen = row.get("num_experts"), row.get("num_experts_per_tok")
    active = seen["total"] - (routed * (experts - chosen) // experts if experts and chosen else 0)
    return {**row, **seen, "active": active}


def main() -> int:
    """Rebuild models.jsonl and its index beside the installed catalogue; returns the number of changed rows."""
    from importlib.resources import files

    folder = Path(str(files("lora_advise") / "data"))
    old = [json.loads(line) for line in (folder / "models.jsonl").read_text("utf-8").splitlines()]
    new = [rebuild(row) for row in old]
    write(folder, new)
    changed: int = sum(a != b for a, b in zip(old, new, strict=True))
    sys.stdout.write(f"{len(new)} models rebuilt, {changed} changed\n")
    return changed


def write(folder: Path, rows: list[Row]) -> None:
    """Write the rows, one a line, and the index: every id and alias with line, total parameters, kind and release."""
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    index = {
        name: [n, row["total"], row["kind"], row["release"] or ""]
        for n, row in enumerate(rows) for name in (row["id"], *row["aliases"])
    }  # fmt: skip
    (folder / "models.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "models_index.json").write_text(
        json.dumps(index, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8"
    )


if __name__ == "__main__":
    main()
