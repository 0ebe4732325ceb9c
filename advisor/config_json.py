"""Reading a config.json that somebody else wrote: bounded in size, an object, nothing executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora_advise.errors import LoraAdviseError

CONFIG_LIMIT = 4 * 2**20
"""Bytes of a config.json that are read at most, many times the size of a usual one."""


def read_config(path: Path) -> tuple[dict[str, Any], Path]:
    """The config of a model folder or config.json, and the file it was read from.

    Raises LoraAdviseError when there is none, when it is too large, or when it is not a JSON object.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        size = file.stat().st_size
        if size > CONFIG_LIMIT:
            raise LoraAdviseError(
                f"{file} has {size} bytes, more than the {CONFIG_LIMIT} that a config.json may have: "
                "give the config.json that was saved with the model."
            )
        return parse_config(file.read_bytes(), str(file)), file
    except OSError as error:
        raise LoraAdviseError(
            f"{file} cannot be read ({error.strerror or error}): "
            "give a folder with a config.json, that file itself, or a model id."
        ) from error


def parse_config(raw: bytes, place: str) -> dict[str, Any]:
    """The config as an object. Raises LoraAdviseError for anything but a JSON object."""
    try:
        config = json.loads(raw.decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise LoraAdviseError(
            f"{place} is not valid JSON ({error}): give the config.json that was saved with the model."
        ) from error
    if not isinstance(config, dict):
        raise LoraAdviseError(
            f"{place} holds a JSON {type(config).__name__}, not an object: give the model's config.json."
        )
    return config


def stored_as(config: dict[str, Any]) -> str | None:
    """How the checkpoint of this config stores its weights: its ``quant_method``, None for plain 16 or 32 bits.

    bitsandbytes in 8 bits is named ``bitsandbytes-8bit``, since only the 4-bit kind is what QLoRA trains on.
    """
    given = config.get("quantization_config")
    if not isinstance(given, dict):
        return None
    method = given.get("quant_method")
    eight = given.get("load_in_8bit") is True
    if method is None and (eight or given.get("load_in_4bit") is True):
        method = "bitsandbytes"
    if not isinstance(method, str) or not method.isprintable() or not 0 < len(method) <= 40:
        return "an unnamed format"
    return "bitsandbytes-8bit" if method == "bitsandbytes" and eight else method
