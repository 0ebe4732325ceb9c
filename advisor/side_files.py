"""Files that a config names beside itself: a DeepSpeed file, an accelerate file. Read as bounded data, only where they lie."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from lora_advise.document import Config, Unresolved
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Sharding

_STAGE = re.compile(r"(?:zero|z|stage|s)[-_ ]?([0-3])(?![0-9])")
_NAMED: tuple[tuple[str, Sharding], ...] = (
    ("fsdp", "fsdp"), ("multi_gpu", "ddp"), ("multigpu", "ddp"), ("ddp", "ddp"), ("single_gpu", "none"),
)  # fmt: skip
_STAGES: dict[int, Sharding] = {0: "ddp", 1: "ddp", 2: "zero2", 3: "zero3"}
_KINDS: dict[str, Sharding] = {"fsdp": "fsdp", "multi_gpu": "ddp", "multi_npu": "ddp", "multi_xpu": "ddp", "no": "none"}


class Sharded(NamedTuple):
    """How a run is spread over processes, as far as it is known; None where it is not."""

    sharding: Sharding | None = None
    cpu_offload: bool | None = None
    processes: int | None = None


def side_config(written: str, document: str) -> Config | None:
    """The first config of a file that a document names; None where it is not there or cannot be read.

    ``document`` is the document's own path: relative names count from its folder. At most MAX_BYTES are read.
    """
    from lora_advise.document_read import read_document

    path = _path(written, document)
    if path is None:
        return None
    try:
        configs = read_document(path).configs
    except LoraAdviseError:
        return None
    return configs[0] if configs else None


def _path(written: str, document: str) -> Path | None:
    """The file's place; None for a name with a variable, for one that is no plain file, and for a document without a folder."""
    if not written or len(written) > 300 or "$" in written or "\0" in written:
        return None
    path = Path(written)
    if path.suffix.lower() not in (".json", ".yaml", ".yml"):
        return None
    if not path.is_absolute():
        if not document or not Path(document).is_file():
            return None
        path = Path(document).parent / path
    try:
        return path if path.is_file() else None
    except OSError:
        return None


def deepspeed_of(value: Any, document: str) -> Sharded:
    """What a ``deepspeed`` setting means: a mapping, a name such as ``zero2``, or a file, by its content or else its name."""
    if isinstance(value, dict):
        return _deepspeed_mapping(value)
    name = str(value)
    config = side_config(name, document)
    if config is not None:
        return _deepspeed_mapping({"zero_optimization": mapping_at(config, "zero_optimization")})
    return _by_name(name)


def deepspeed_numbers(value: Any, document: str) -> dict[str, float]:
    """Numbers of a DeepSpeed file that transformers compares with its own arguments, by their keys with dots."""
    config = None if isinstance(value, dict) else side_config(str(value), document)
    top = value if isinstance(value, dict) else {str(e.path[0]): e.value for e in config.under()} if config else {}
    found: dict[str, float] = {}
    for key in DEEPSPEED_MATCHED:
        inner: Any = top
        for part in key.split("."):
            inner = inner.get(part) if isinstance(inner, dict) else None
        if isinstance(inner, (int, float)) and not isinstance(inner, bool):
            found[key] = float(inner)
    return found


DEEPSPEED_MATCHED = {
    "train_micro_batch_size_per_gpu": "train.per_device_train_batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation_steps", "gradient_clipping": "train.max_grad_norm",
    "optimizer.params.lr": "train.learning_rate", "optimizer.params.weight_decay": "train.weight_decay",
    "scheduler.params.warmup_max_lr": "train.learning_rate",
}  # fmt: skip
"""transformers 5.24, ``HfTrainerDeepSpeedConfig.trainer_config_process``: the key there, and the fact."""


def _deepspeed_mapping(settings: Any) -> Sharded:
    zero = settings.get("zero_optimization")
    if not isinstance(zero, dict):
        return Sharded("ddp", False)
    stage = zero.get("stage", 0)
    if isinstance(stage, bool) or not isinstance(stage, (int, str)) or str(stage) not in ("0", "1", "2", "3"):
        return Sharded()
    devices = [zero.get(key) for key in ("offload_optimizer", "offload_param")]
    moved = any(isinstance(d, dict) and str(d.get("device", "none")) in ("cpu", "nvme") for d in devices)
    return Sharded(_STAGES[int(stage)], moved)


def accelerate_of(name: str, document: str) -> Sharded:
    """What ``accelerate launch --config_file`` means, by the file's content where it lies there, else by its name."""
    config = side_config(name, document)
    if config is None:
        return _by_name(name)
    kind = str(_plain(config, "distributed_type", "no")).lower()
    count = _plain(config, "num_processes", None)
    processes = count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None
    if kind == "deepspeed":
        found = _accelerate_deepspeed(config, document)
        return found._replace(processes=processes)
    offload = str(mapping_at(config, "fsdp_config").get("fsdp_offload_params", False)).lower() == "true"
    return Sharded(_KINDS.get(kind), offload if kind == "fsdp" else False, processes)


def _accelerate_deepspeed(config: Config, document: str) -> Sharded:
    inner = mapping_at(config, "deepspeed_config")
    if inner.get("deepspeed_config_file"):
        return deepspeed_of(inner["deepspeed_config_file"], document)
    stage = inner.get("zero_stage")
    if isinstance(stage, bool) or not isinstance(stage, int) or stage not in _STAGES:
        return Sharded()
    devices = [str(inner.get(key, "none")) for key in ("offload_optimizer_device", "offload_param_device")]
    return Sharded(_STAGES[stage], any(device in ("cpu", "nvme") for device in devices))


def _by_name(name: str) -> Sharded:
    """What the last part of a path says; whether weights go to the CPU is known only from a name that says so."""
    last = name.replace("\\", "/").lower().rsplit("/", 1)[-1]
    stage = None if "fsdp" in last else _STAGE.search(last)
    sharding = _STAGES[int(stage[1])] if stage else next((kind for word, kind in _NAMED if word in last), None)
    spread_only = sharding in ("none", "ddp")
    return Sharded(sharding, False if spread_only else True if "offload" in last else None)


def mapping_at(config: Config, key: str) -> dict[str, Any]:
    """The mapping under a top-level key; empty where there is none."""
    entry = config.get(key)
    return entry.value if entry is not None and isinstance(entry.value, dict) else {}


def _plain(config: Config, key: str, default: Any) -> Any:
    entry = config.get(key)
    return default if entry is None or entry.value is None or isinstance(entry.value, Unresolved) else entry.value
