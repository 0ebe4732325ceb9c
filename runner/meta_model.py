"""The plan's model on the meta device, at any depth, in the plan's precision, quantised as bitsandbytes lays it out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lora_advise.errors import LoraAdviseError, first_line
from lora_advise.facts import Facts, ModelFacts, QuantFacts
from lora_advise.runner.build_catalogue import Row, class_named_by
from lora_advise.runner.meta_repairs import left_wide, repaired

TOWERS = ("vision", "visual", "audio", "image", "speech")
"""Parts of a path that lead into a tower beside the language model."""


class Blueprint(NamedTuple):
    """A transformers class, its configuration, and the depth that it has."""

    class_name: str
    config: Row
    layers: int
    head: str = "generate"
    """``generate`` for language models, ``classify`` for one score per label."""


def blueprint(facts: Facts) -> Blueprint:
    """What to build. Raises LoraAdviseError where the installed transformers has no class for it."""
    import transformers

    model = facts.model
    if model is None:
        raise LoraAdviseError("A rehearsal needs a model; give --model.")
    name, config = _described(model)
    if not hasattr(transformers, name):
        raise LoraAdviseError(
            f"--exact: transformers {transformers.__version__} has no {name}, which {model.name} needs; leave --exact out."
        )
    if model.kind == "encoder-decoder":
        raise LoraAdviseError(
            f"--exact: {model.name} is an encoder-decoder, which is not rehearsed; leave --exact out."
        )
    trainer = facts.task.trainer if facts.task else "sft"
    if trainer in ("classification", "reward"):
        name = _classifier(model.name, config)
    settings = transformers.AutoConfig.for_model(**config).get_text_config()
    depth = getattr(settings, "num_hidden_layers", None) or model.num_hidden_layers
    return Blueprint(name, config, depth, "classify" if trainer in ("classification", "reward") else "generate")


def _described(model: ModelFacts) -> tuple[str, Row]:
    """Class and config of a listed model or of a folder's config.json."""
    if model.path is None:
        from lora_advise import catalogue

        row = catalogue.row(model.name)
        if row["class"] is None:
            raise LoraAdviseError(
                f"--exact: {model.name} needs code that comes with the model, which is never run; leave --exact out."
            )
        return str(row["class"]), dict(row["config"])
    from lora_advise.config_json import read_config

    config, _ = read_config(Path(model.path))
    return class_named_by(config), config


def _classifier(name: str, config: Row) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    found = KNOWN.get(config["model_type"])
    if found is None:
        raise LoraAdviseError(f"--exact: transformers has no classifier of the type {config['model_type']!r} ({name}).")
    return str(found)


def build(plan: Blueprint, facts: Facts, depth: int) -> Any:
    """The model with ``depth`` layers and frozen as loaded: 16 or 32 bits, or quantised.

    Raises LoraAdviseError where transformers cannot build it.
    """
    import transformers
    from transformers.initialization import no_init_weights

    settings = _settings(plan, facts, depth)
    dtype = getattr(torch, facts.train.dtype if facts.train else "bfloat16")
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"), no_init_weights():
            model = repaired(getattr(transformers, plan.class_name))(settings)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise LoraAdviseError(
            f"--exact: transformers cannot build {plan.class_name} on the meta device ({first_line(error)}); leave --exact out."
        ) from error
    finally:
        torch.set_default_dtype(default)
    # Tying is part of the initialisation that was left out.
    model.tie_weights()
    model.config.use_cache = model.config.get_text_config().use_cache = False
    if facts.quant is not None and (facts.quant.load_in_4bit or facts.quant.load_in_8bit):
        _quantise(model, facts.quant)
    return model


def _settings(plan: Blueprint, facts: Facts, depth: int) -> Any:
    """The configuration with that many layers; lists with an entry for each layer are cut to them."""
    import transformers

    settings = transformers.AutoConfig.for_model(**json.loads(json.dumps(plan.config)))
    text = settings.get_text_config()
    if depth != plan.layers:
        for name, value in list(vars(text).items()):
            if isinstance(value, (list, tuple)) and len(value) == plan.layers:
                setattr(text, name, value[:depth])
        text.num_hidden_layers = depth
    _rotate(text)
    attention = attention_of(plan, facts)
    for part in (settings, text):
        part._attn_implementation = attention
    if plan.head == "classify":
        scored = facts.task is not None and facts.task.trainer == "reward"
        settings.num_labels = 1 if scored else (facts.data.labels if facts.data else None) or 2
    return settings


def _rotate(text: Any) -> None:
    """GLM-4V's class splits a head's rotary half in sections, but takes the whole head where its config is silent."""
    if text.model_type == "glm4v_text" and "partial_rotary_factor" not in text.rope_parameters:
        sections = text.rope_parameters.get("mrope_section", _GLM_SECTIONS)
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        text.rope_parameters["partial_rotary_factor"] = 2 * sum(sections) / head


_GLM_SECTIONS = (8, 12, 12)
"""Rotary pairs for time, height and width (transformers ``modeling_glm4v.py``: Glm4vTextRotaryEmbedding)."""


def attention_of(plan: Blueprint, facts: Facts) -> str:
    """The attention that the class can run: eager where it has no other."""
    import transformers

    from lora_advise.runner.cuda_shapes import FLASH

    wanted = facts.train.attn_implementation if facts.train else "sdpa"
    made = getattr(transformers, plan.class_name)
    if wanted == "flash_attention_2" and getattr(made, "_supports_flash_attn", False):
        return FLASH
    return "sdpa" if wanted == "sdpa" and getattr(made, "_supports_sdpa", False) else "eager"


def layers_of(model: nn.Module, depth: int) -> list[nn.Module]:
    """The decoder (or encoder) layers of the language model, in order; none where layers share their weights."""
    found = [
        module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and not any(t in path for t in TOWERS)
    ]
    return list(max(found, key=lambda layers: sum(p.numel() for p in layers.parameters()), default=[]))


def signature(layer: nn.Module) -> tuple[Any, ...]:
    """What tells layers apart: classes, shapes, and the kind of attention that they were given."""
    kinds = tuple(
        getattr(module, name)
        for module in layer.modules()
        for name in ("layer_type", "attention_type", "is_sliding", "sliding_window", "block_type", "use_rope")
        if isinstance(getattr(module, name, None), (str, int, bool))
    )
    shapes = tuple((name, tuple(p.shape)) for name, p in layer.named_parameters())
    return type(layer).__name__, kinds, shapes


def _quantise(model: Any, quant: QuantFacts) -> None:
    """Replace linear layers as transformers does when it loads, and lay the packed weights out on the meta device."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from transformers import BitsAndBytesConfig, PreTrainedConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.auto import AutoHfQuantizer
    from transformers.utils.quantization_config import QuantizationMethod

    wanted = BitsAndBytesConfig(load_in_8bit=True) if not quant.load_in_4bit else BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=quant.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=quant.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=quant.bnb_4bit_compute_dtype, bnb_4bit_quant_storage=quant.bnb_4bit_quant_storage,
    )  # fmt: skip
    quantizer = AutoHfQuantizer.from_config(wanted, pre_quantized=False)
    skipped = quantizer.get_modules_to_not_convert(model, wanted.llm_int8_skip_modules, model._keep_in_fp32_modules)
    skipped += left_wide(model.config.get_text_config().model_type)
    biases = {name: getattr(module, "bias", None) for name, module in model.named_modules()}
    replace_with_bnb_linear(model, modules_to_not_convert=skipped, quantization_config=wanted)
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            _pack(module, quant)
            module.bias = biases[name]
        elif isinstance(module, Linear8bitLt):
            _round(module)
            module.bias = biases[name]
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = quant.load_in_4bit, not quant.load_in_4bit
    model.is_quantized = True
    for module in model.modules():
        # Some mixers look there for the way to take (``quantizers/base.py`` of transformers).
        if isinstance(getattr(module, "config", None), PreTrainedConfig):
            module.config._is_quantized = True
    model.quantization_method = QuantizationMethod.BITS_AND_BYTES
    model.hf_quantizer, model.config.quantization_config = quantizer, wanted


def _pack(module: Any, quant: QuantFacts) -> None:
    """The storage of one 4-bit matrix: packed weights, block scales, and the scales of these."""
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Params4bit

    storage = getattr(torch, quant.bnb_4bit_quant_storage)
    count, blocks = module.weight.numel(), -(-module.weight.numel() // 64)
    new = {"device": "meta", "dtype": torch.float32}
    absmax, offset, outer = torch.empty(blocks, **new), None, None
    if quant.bnb_4bit_use_double_quant:
        absmax, offset = torch.empty(blocks, device="meta", dtype=torch.uint8), torch.empty((), **new)
        outer = QuantState(
            absmax=torch.empty(-(-blocks // 256), **new),
            code=torch.empty(256, **new),
            blocksize=256,
            dtype=torch.float32,
        )
    state = QuantState(
        absmax=absmax, shape=torch.Size(module.weight.shape), code=torch.empty(16, **new), blocksize=64,
        quant_type=quant.bnb_4bit_quant_type, dtype=getattr(torch, quant.bnb_4bit_compute_dtype), offset=offset,
        state2=outer,
    )  # fmt: skip
    packed = torch.empty((-(-count // (2 * storage.itemsize)), 1), device="meta", dtype=storage)
    module.weight = Params4bit(
        packed, requires_grad=False, quant_state=state, blocksize=64, quant_type=quant.bnb_4bit_quant_type,
        compress_statistics=quant.bnb_4bit_use_double_quant, quant_storage=storage, module=module, bnb_quantized=True,
    )  # fmt: skip
    module.quant_state = state


def _round(module: Any) -> None:
    """The storage of one 8-bit matrix: a byte per weight and an fp32 scale for each output."""
    from bitsandbytes.nn import Int8Params

    rounded = torch.empty(module.weight.shape, device="meta", dtype=torch.int8)
    scales = torch.empty(module.weight.shape[0], device="meta", dtype=torch.float32)
    module.weight = Int8Params(rounded, requires_grad=False, has_fp16_weights=False, CB=rounded, SCB=scales)


def held_by(model: nn.Module) -> list[torch.Tensor]:
    """Everything that the model keeps on its device: parameters, buffers, and the scales of quantised matrices."""
    found: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        state = getattr(module, "quant_state", None)
        for part in (state, getattr(state, "state2", None)):
            tensors = [getattr(part, name, None) for name in ("absmax", "code", "offset")] if part is not None else []
            found += [t for t in tensors if isinstance(t, torch.Tensor)]
        scales = getattr(getattr(module, "weight", None), "SCB", None)
        found += [scales] if isinstance(scales, torch.Tensor) else []
    return [t for t in found if t.is_meta]
