"""Loads the tokenizer and the base model of a plan: safetensors only, never code from a repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_advise.errors import LoraAdviseError, first_line
from lora_advise.facts import Facts, ModelFacts, QuantFacts
from lora_advise.runner.device import Effective


def model_source(model: ModelFacts) -> str:
    """The folder or hub id to load from."""
    if model.path is None:
        return model.name
    folder = Path(model.path)
    if folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise LoraAdviseError(f"{model.path}: there is no such model folder; name a folder or a hub id with --model.")
    if not any(folder.glob("*.safetensors")):
        raise LoraAdviseError(
            f"{folder}: holds no .safetensors weights, and pickled weights are not loaded because they can run code; "
            "convert them with save_pretrained(safe_serialization=True)."
        )
    return str(folder)


def load_tokenizer(model: ModelFacts) -> Any:
    """The tokenizer with a padding token. Raises :class:`LoraAdviseError` in one sentence when it is not to be had."""
    from transformers import AutoTokenizer

    source = model_source(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unavailable("tokenizer", source, error) from error
    if tokenizer.eos_token is None:
        raise LoraAdviseError(
            f"{source}: its tokenizer has no end-of-text token; set eos_token in tokenizer_config.json."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(facts: Facts, effective: Effective, tokenizer: Any, labels: list[Any] | None = None) -> Any:
    """The base model on its device, quantised as the plan says; ``labels`` name the classes of a classifier."""
    import torch
    from transformers import AutoConfig

    model, task = facts.model, facts.task
    if model is None or task is None:
        raise LoraAdviseError("the plan names no model or no task; make one with: lora-advise --emit.")
    source = model_source(model)
    arguments: dict[str, Any] = {
        "dtype": effective.torch_dtype,
        "attn_implementation": effective.attention,
        "use_safetensors": True,
        "trust_remote_code": False,
    }
    if facts.quant is not None and (facts.quant.load_in_4bit or facts.quant.load_in_8bit):
        arguments["quantization_config"] = _quantization(facts.quant, effective)
        arguments["device_map"] = {"": torch.cuda.current_device() if effective.device == "cuda" else effective.device}
    if task.trainer == "reward":
        arguments["num_labels"] = 1
    elif labels is not None:
        names = [str(label) for label in labels]
        arguments |= {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {n: i for i, n in enumerate(names)},
        }
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        arguments |= _dequantized(config, source, quantised="quantization_config" in arguments)
        loaded = _auto_class(config, task.trainer).from_pretrained(source, **arguments)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise _unavailable("model", source, error) from error
    loaded.config.use_cache = False
    text = loaded.config.get_text_config()
    # A vision-language model's own flag does not reach its language model, which would keep keys and values.
    text.use_cache = False
    text.pad_token_id = tokenizer.pad_token_id
    return loaded


def _dequantized(config: Any, source: str, *, quantised: bool) -> dict[str, Any]:
    """What turns a checkpoint below 16 bits into 16-bit weights while it loads. Raises for one that bitsandbytes is to
    quantize again.
    """
    import transformers

    from lora_advise.config_json import stored_as
    from lora_advise.model_kernels import DEQUANTIZED, foreign_format

    stored = stored_as(config.to_dict())
    if quantised and foreign_format(stored):
        raise LoraAdviseError(
            f"{source}: is stored in {stored}, and transformers does not quantize a quantized checkpoint again; set "
            "quant.load_in_4bit and quant.load_in_8bit to false, or name a copy of the model in 16 bits."
        )
    if stored not in DEQUANTIZED:
        return {}
    name = {"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config"}[stored]
    made = getattr(transformers, name, None)
    if made is None:
        raise LoraAdviseError(
            f"{source}: is stored in {stored}, and the installed transformers {transformers.__version__} has no {name} to turn it "
            "into 16-bit weights; update transformers."
        )
    return {"quantization_config": made(dequantize=True)}


def _auto_class(config: Any, trainer: str) -> Any:
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForSequenceClassification,
    )

    if trainer in {"reward", "classification"}:
        return AutoModelForSequenceClassification
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if config.get_text_config() is not config:
        return AutoModelForImageTextToText
    raise ValueError(f"models of type {config.model_type} do not generate text one token after the other")


def _quantization(quant: QuantFacts, effective: Effective) -> Any:
    from transformers import BitsAndBytesConfig

    from lora_advise.preflight import missing

    if missing(quantised=True):
        raise LoraAdviseError("a quantised base needs bitsandbytes; install it with: pip install 'lora-advise[run]'.")
    if quant.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = quant.bnb_4bit_compute_dtype
    if effective.dtype == "float32" and compute != "float32":
        effective.deviations.append(f"quant.bnb_4bit_compute_dtype {compute}: on {effective.device} it is float32.")
        compute = "float32"
    elif effective.dtype == "float16" and compute == "bfloat16":
        effective.deviations.append(
            "quant.bnb_4bit_compute_dtype bfloat16: this GPU does not support it, so it is float16."
        )
        compute = "float16"
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=quant.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_quant_storage=quant.bnb_4bit_quant_storage,
    )


def _unavailable(what: str, source: str, error: Exception) -> LoraAdviseError:
    import os

    if "scaled_dot_product_attention" in str(error):
        return LoraAdviseError(
            f"{source}: transformers has no sdpa attention for this model; set train.attn_implementation to eager."
        )
    offline = os.environ.get("HF_HUB_OFFLINE", "0").lower() in {"1", "true", "yes", "on"}
    if not Path(source).exists() and isinstance(error, OSError):
        why = "the hub is switched off by HF_HUB_OFFLINE" if offline else "the hub did not give it"
        return LoraAdviseError(
            f"{source}: its {what} is not on this machine and {why}; download it first "
            f"(hf download {source}), log in if it is gated, or name a local folder with --model."
        )
    return LoraAdviseError(f"{source}: its {what} cannot be loaded: {first_line(error)}")
