"""The modules of a model, computed from its config.json by formulas that were proved against the real classes."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import LinearModule, ModelFacts
from lora_advise.package_data import read_json

LARGEST = 10**9
"""No dimension of a real model comes near this."""
MANY = 10_000
"""No real model has as many layers, experts or heads; the largest of the catalogue have 126, 512 and 128."""

_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


@cache
def architectures() -> dict[str, Any]:
    """Formulas by model type: module shapes, counts, and the parameters outside modules."""
    data: dict[str, Any] = read_json("architectures.json")
    return data


def from_config(config: dict[str, Any], name: str, path: str | None = None) -> ModelFacts:
    """Facts of the model that this config.json describes.

    Raises LoraAdviseError for an unknown model type or a missing dimension; with the ``[run]`` extra installed the
    real class is built without weights instead, remote code never.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise LoraAdviseError(f"{path or name} has no model_type: give the config.json of a transformers model.")
    formulas = layout_of(config)
    if formulas is None:
        return _from_class(config, model_type, name, path)
    values = resolve_values(config, formulas, path or name)
    modules, tied_weights = _modules(formulas, values, path or name)
    rest = sum(_product(dims, values, path or name) for dims in formulas["rest"])
    total = sum(m.weights for m in modules) - tied_weights + rest
    return facts_of({**values, **flatten(config)}, name, path, modules, (total, tied_weights > 0), formulas["kind"])


def layout_of(config: dict[str, Any]) -> dict[str, Any] | None:
    """The formulas of the class that the config names, else of the type's usual class; sub-models must be those proved."""
    flat = flatten(config)
    fitting = [
        layout
        for layout in architectures().get(config["model_type"], ())
        if all(flat.get(key, value) == value for key, value in layout["needs"].items())
    ]
    named = config.get("architectures") or ()
    chosen: dict[str, Any] | None = next((layout for layout in fitting if layout["class"] in named), None)
    return chosen or (fitting[0] if fitting else None)


def resolve_values(config: dict[str, Any], formulas: dict[str, Any], place: str) -> dict[str, int]:
    """Every name that the formulas use with its number: set in the config, the class's default, or derived."""
    flat = flatten(config)
    values: dict[str, int] = {}
    for key, default in formulas["values"].items():
        values[key] = _value(key, default, flat, values, place)
    return values


def _value(key: str, default: Any, flat: dict[str, Any], values: dict[str, int], place: str) -> int:
    counted = key.split("#", maxsplit=1)[0] + "#"
    if "#" in key and counted in flat:
        return int(flat.get(key, 0))
    names = [key, *_SPELLINGS.get(key.rsplit(".", 1)[-1], ())]
    head = key.rsplit(".", 1)[0] + "." if "." in key else ""
    for candidate in names:
        found = flat.get(candidate if "." in candidate else head + candidate)
        if isinstance(found, (bool, int)) or (isinstance(found, float) and found.is_integer()):
            if not 0 <= found <= _largest(key):
                raise LoraAdviseError(f"{place} says {key} = {found}, which no model has: correct that key.")
            return int(found)
        if found is None and isinstance(default, int) and (candidate if "." in candidate else head + candidate) in flat:
            return 0
    if isinstance(default, str):
        return evaluate(default, values, place)
    stated = next((flat[n] for n in (c if "." in c else head + c for c in names) if n in flat), None)
    if stated is not None and default is None:
        raise LoraAdviseError(f"{place} says {key} = {str(stated)[:40]!r}, which is no whole number: correct that key.")
    if default is None:
        raise LoraAdviseError(
            f"{place} does not say {key}, which the size of the model needs: add that key to the config.json."
        )
    return int(default)


def _largest(key: str) -> int:
    counted = key.rsplit(".", 1)[-1].endswith(("layer", "layers", "expert", "experts", "head", "heads", "blocks"))
    return MANY if counted else LARGEST


_SPELLINGS: dict[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd", "d_model", "dim"),
    "num_hidden_layers": ("n_layer", "num_layers", "n_layers", "encoder_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "encoder_attention_heads"),
    "intermediate_size": ("n_inner", "ffn_dim", "d_ff"),
    "max_position_embeddings": ("n_positions", "max_seq_len"),
}
"""Older spellings of the standard keys, as the attribute maps of transformers' config classes list them."""


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted names; a list of layer types becomes a count for each (``layer_types#mamba``)."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        elif isinstance(value, list) and all(isinstance(v, str) for v in value):
            for item in value:
                flat[f"{prefix}{key}#{item}"] = flat.get(f"{prefix}{key}#{item}", 0) + 1
            flat[f"{prefix}{key}#"] = len(value)
        else:
            flat[f"{prefix}{key}"] = value
            if key == "feed_forward_proj":
                flat[prefix + "is_gated_act"] = str(value).startswith("gated")
    return flat


def evaluate(formula: str, values: dict[str, int], place: str = "") -> int:
    """The value of an arithmetic formula over config keys: + - * //, ``a if b else c`` and nothing else."""
    return int(_node(_parsed(formula), values, place))


@cache
def _parsed(formula: str) -> ast.AST:
    return ast.parse(formula.replace("#", "__of__"), mode="eval").body


def _node(node: ast.AST, values: dict[str, int], place: str) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, (ast.Name, ast.Attribute)):
        return values[ast.unparse(node).replace("__of__", "#")]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _node(node.left, values, place), _node(node.right, values, place)
        if isinstance(node.op, ast.FloorDiv) and right == 0:
            raise LoraAdviseError(
                f"{place} has a zero where a model needs a number ({ast.unparse(node.right)}): correct that key."
            )
        return int(_OPERATORS[type(node.op)](left, right))
    if isinstance(node, ast.IfExp):
        return _node(node.body if _node(node.test, values, place) else node.orelse, values, place)
    raise ValueError(f"no such operation in formulas: {ast.dump(node)}")


def _modules(formulas: dict[str, Any], values: dict[str, int], place: str) -> tuple[tuple[LinearModule, ...], int]:
    """The module families with a count above zero, and how many of their weights are stored in another module."""
    tied = {path for path, test in formulas["tied"].items() if evaluate(str(test), values, place)}
    counts: dict[tuple[Any, ...], int] = {}
    for path, d_in, d_out, count, role, kind, experts, bias in formulas["modules"]:
        times, matrices = evaluate(str(count), values, place), evaluate(str(experts), values, place)
        if times <= 0 or matrices <= 0:
            continue
        sides = evaluate(str(d_in), values, place), evaluate(str(d_out), values, place)
        if min(sides) <= 0:
            raise LoraAdviseError(
                f"{place} gives {path} a side of {min(sides)}: "
                "the dimensions in that config.json contradict each other."
            )
        key = (path, *sides, role, kind, matrices, bool(evaluate(str(bias), values, place)))
        counts[key] = counts.get(key, 0) + times
    families = tuple(
        LinearModule(path=path, d_in=d_in, d_out=d_out, count=n, role=role, kind=kind, experts=experts, bias=bias)
        for (path, d_in, d_out, role, kind, experts, bias), n in counts.items()
    )
    return families, sum(family.weights for family in families if family.path in tied)


def _product(factors: list[str | int], values: dict[str, int], place: str) -> int:
    product = 1
    for factor in factors:
        product *= evaluate(str(factor), values, place)
    return product


_KEYS: dict[str, tuple[str, ...]] = {
    "num_experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "num_experts_per_tok": ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads"),
    "vocab_size": ("vocab_size",),
    "head_dim": ("head_dim", "d_kv"),
}


def dimension(flat: dict[str, Any], key: str) -> int | None:
    """One standard dimension of the language model, wherever the config spells it."""
    for section in ("text_config.", "llm_config.", "language_config.", ""):
        for spelling in (key, *_KEYS.get(key, ()), *_SPELLINGS.get(key, ())):
            found = flat.get(section + spelling)
            if isinstance(found, (int, bool)):
                return int(found)
            if isinstance(found, list) and found and all(isinstance(v, int) for v in found):
                return int(max(found))
    return None


def facts_of(
    flat: dict[str, Any],
    name: str,
    path: str | None,
    modules: tuple[LinearModule, ...],
    total: tuple[int, bool],
    kind: str,
) -> ModelFacts:
    """The facts of a model from its flat config, its modules, and its parameter count with whether the head is tied."""
    size = {key: dimension(flat, key) for key in (*_SPELLINGS, *_KEYS)}
    attends = any(m.role == "attention" for m in modules)
    heads, hidden = (size["num_attention_heads"] or 0) * attends, size["hidden_size"] or 0
    latent = dimension(flat, "qk_nope_head_dim")
    groups = size["num_key_value_heads"]
    if heads and groups and heads % groups:
        raise LoraAdviseError(
            f"{path or name} has {heads} attention heads for {groups} key-value heads, which do not divide them evenly: "
            "correct num_key_value_heads."
        )
    head_dim = (size["head_dim"] or hidden // heads) if heads else 0
    if latent is not None:
        head_dim = latent + (dimension(flat, "qk_rope_head_dim") or 0)
    experts, chosen = size["num_experts"], size["num_experts_per_tok"]
    from lora_advise.checked import checked

    return checked(ModelFacts, {
        "name": name, "path": path, "model_type": flat["model_type"], "kind": kind, "total_params": total[0],
        "active_params": active_params(modules, total[0], experts, chosen),
        "hidden_size": hidden, "num_hidden_layers": size["num_hidden_layers"] or 0, "num_attention_heads": heads,
        "num_key_value_heads": size["num_key_value_heads"] or heads, "head_dim": head_dim,
        "intermediate_size": size["intermediate_size"] or _width(flat, modules), "vocab_size": size["vocab_size"] or 0,
        "tie_word_embeddings": total[1],
        "max_position_embeddings": size["max_position_embeddings"],
        "num_experts": experts or None, "num_experts_per_tok": chosen if experts else None,
        "has_vision": any(m.role == "vision" for m in modules), "has_audio": any(m.role == "audio" for m in modules),
        "recurrent_layers": recurrent_layers(modules), "modules": modules,
    })  # fmt: skip


def _width(flat: dict[str, Any], modules: tuple[LinearModule, ...]) -> int:
    """The MLP width of a config that does not state it under a standard name."""
    stated = dimension(flat, "moe_intermediate_size")
    return stated or next((m.d_out for m in modules if m.role == "mlp"), 0)


def active_params(modules: tuple[LinearModule, ...], total: int, experts: int | None, chosen: int | None) -> int:
    """Parameters that one token uses: all but the experts that the router does not choose."""
    if not experts or not chosen:
        return total
    routed = sum(m.weights for m in modules if m.role == "expert")
    return total - routed * (experts - chosen) // experts


def recurrent_layers(modules: tuple[LinearModule, ...]) -> int:
    """Layers with a state-space or linear-attention mixer: the largest count among the mixer's linear modules."""
    return max((m.count for m in modules if m.role == "mixer" and m.kind == "linear"), default=0)


def _from_class(config: dict[str, Any], model_type: str, name: str, path: str | None) -> ModelFacts:
    if find_spec("transformers") is None or find_spec("torch") is None:
        raise LoraAdviseError(
            f"{path or name} has the model type {model_type!r}, whose layout is not known here: "
            "install lora-advise[run], which builds the class without its weights, or name a model of the catalogue."
        )
    from lora_advise.runner.build_catalogue import modules_on_meta

    try:
        seen = modules_on_meta(config)
    except LoraAdviseError as error:
        raise LoraAdviseError(f"{path or name}: {error}") from None
    columns = ("path", "d_in", "d_out", "count", "role", "kind", "experts", "bias")
    modules = tuple(LinearModule(**dict(zip(columns, m, strict=True))) for m in seen["modules"])
    return facts_of(flatten(seen["config"]), name, path, modules, (seen["total"], bool(seen["tied"])), seen["kind"])
