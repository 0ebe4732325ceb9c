"""Who starts a run, and in how many processes: ``torchrun``, ``accelerate launch``, ``deepspeed``, or a trainer's own command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from lora_advise.document import Config, Unresolved
from lora_advise.facts import Sharding
from lora_advise.sheet import Sheet
from lora_advise.side_files import DEEPSPEED_MATCHED, Sharded, accelerate_of, deepspeed_numbers, deepspeed_of

_DEVICES = ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_TRL_CONFIGS: dict[str, Sharded] = {
    "single_gpu": Sharded("none", False, 1), "multi_gpu": Sharded("ddp", False, 8), "zero1": Sharded("ddp", False, 8),
    "zero2": Sharded("zero2", False, 8), "zero3": Sharded("zero3", False, 8), "fsdp1": Sharded("fsdp", False, 8),
    "fsdp2": Sharded("fsdp", False, 8),
}  # fmt: skip
"""trl 1.16, ``trl/accelerate_configs``."""

_COMMANDS = (
    ("trl", "trl"), ("llamafactory-cli", "llamafactory"), ("lmf", "llamafactory"), ("swift", "swift"), ("megatron", "swift"),
)  # fmt: skip
_FORWARDED = ("num_processes", "accelerate_config", "config_file", "multi_gpu")
"""Flags that ``trl`` hands on to accelerate and that the command therefore has among its own."""


class Launch(NamedTuple):
    """How a command starts its processes."""

    launcher: str
    """``accelerate``, ``torchrun``, ``deepspeed``, ``trl``, ``llamafactory``, ``swift``, ``cluster``, ``python``; empty where no command starts it."""
    processes: int | None
    """Of all machines together; None where only the machine at hand says."""
    sharding: Sharding | None = None
    """What the launcher itself sets; None where it sets nothing, or where that is not known."""
    cpu_offload: bool | None = None
    settled: bool = True
    """Whether the launcher's part in the sharding is known."""


def launch(config: Config, document: str = "") -> Launch:
    """Read a command's launcher. Never raises: what stands only when the program runs is unknown."""
    if config.shape != "command":
        return Launch("", None)
    name = _launcher([word.rsplit("/", 1)[-1] for word in config.program])
    if name in ("accelerate", "trl"):
        return _accelerate(config, name, document)
    counts: dict[str, Callable[[Config], int | None]] = {
        "torchrun": _torchrun, "deepspeed": _deepspeed, "llamafactory": _llamafactory, "swift": _swift,
        "cluster": lambda _: None, "python": lambda _: 1,
    }  # fmt: skip
    return Launch(name, counts[name](config) if name else None, settled=name != "cluster")


def visible_devices(config: Config) -> int | None:
    """How many devices the command's environment shows; None where it does not say."""
    for name, value in config.environment:
        if name in _DEVICES:
            return len([part for part in value.split(",") if part.strip()]) if "$" not in value else None
    return None


def environment(config: Config, name: str) -> str | None:
    """A variable that the command sets."""
    return next((value for key, value in reversed(config.environment) if key == name), None)


def _launcher(words: list[str]) -> str:
    if not words:
        return ""
    if "accelerate" in words or "accelerate.commands.launch" in words:
        return "accelerate"
    if any(w in ("torchrun", "torch.distributed.run", "torch.distributed.launch") for w in words):
        return "torchrun"
    if "deepspeed" in words[:1]:
        return "deepspeed"
    for word, name in _COMMANDS:
        if word in words[:-1]:
            return name
    return "cluster" if words[0] in ("srun", "mpirun", "mpiexec") else "python"


def _accelerate(config: Config, name: str, document: str) -> Launch:
    """``trl sft`` hands ``--accelerate_config`` and accelerate's own flags on to ``accelerate launch``."""
    file = (_word(config, "accelerate_config") if name == "trl" else None) or _word(config, "config_file")
    base = Sharded()
    if file is not None:
        base = (_TRL_CONFIGS.get(file) if name == "trl" else None) or accelerate_of(file, document)
    return _on_accelerate(config, name, base, file is not None)


def _on_accelerate(config: Config, name: str, base: Sharded, file: bool) -> Launch:
    flagged = _entry(config, "num_processes") is not None
    processes = _count(config, "num_processes") if flagged else base.processes
    if not flagged and processes is None and not file:
        processes = visible_devices(config)
    kind = base.sharding
    if _is_on(config, "use_deepspeed"):
        kind = deepspeed_of(f"zero{_word(config, 'zero_stage') or 2}", "").sharding
    elif _is_on(config, "use_fsdp"):
        kind = "fsdp"
    elif _is_on(config, "multi_gpu"):
        kind = "ddp"
    elif processes == 1 and (kind == "ddp" or not file):
        kind = "none"
    offload = False if kind in ("none", "ddp") else base.cpu_offload
    return Launch(name, processes, kind, offload, settled=kind is not None or (not file and processes is not None))


def _torchrun(config: Config) -> int | None:
    return _product(_given(config, "nproc_per_node", 1), _given(config, "nnodes", 1))


def _deepspeed(config: Config) -> int | None:
    include = _word(config, "include")
    if include is not None:
        nodes = [node.partition(":")[2] for node in include.split("@")]
        return sum(len(node.split(",")) for node in nodes) if all(nodes) else None
    if _entry(config, "num_gpus") is None:
        return visible_devices(config) if _entry(config, "hostfile") is None else None
    return _product(_count(config, "num_gpus"), _given(config, "num_nodes", 1))


def _llamafactory(config: Config) -> int | None:
    """One process for each visible device, where ``NPROC_PER_NODE`` does not say otherwise."""
    return _product(_variable(config, "NPROC_PER_NODE", visible_devices(config)), _variable(config, "NNODES", 1))


def _swift(config: Config) -> int | None:
    """As many processes as ``NPROC_PER_NODE`` says; without it the command starts none of its own."""
    return _product(_variable(config, "NPROC_PER_NODE", 1), _variable(config, "NNODES", 1))


def _variable(config: Config, name: str, default: int | None) -> int | None:
    """A count from the environment; None where it is not a number."""
    stated = environment(config, name)
    return default if stated is None else int(stated) if stated.isdecimal() and len(stated) < 7 else None


def _entry(config: Config, name: str) -> Any:
    for entry in config.entries:
        if entry.path[:1] == ("launcher",) and str(entry.path[-1]).replace("-", "_") == name and len(entry.path) == 2:
            return entry
    return config.get(name) if name in _FORWARDED else None


def _word(config: Config, name: str) -> str | None:
    entry = _entry(config, name)
    return None if entry is None or entry.value is None or isinstance(entry.value, Unresolved) else str(entry.value)


def _count(config: Config, name: str) -> int | None:
    word = _word(config, name)
    return int(word) if word is not None and word.isdecimal() and len(word) < 7 and int(word) > 0 else None


def _given(config: Config, name: str, default: int) -> int | None:
    return default if _entry(config, name) is None else _count(config, name)


def _is_on(config: Config, name: str) -> bool:
    entry = _entry(config, name)
    return entry is not None and str(entry.value).lower() in ("none", "true", "")


def _product(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one * other


def put_sharding(sheet: Sheet) -> None:
    """Put ``stack.sharding``, ``stack.cpu_offload`` and ``processes`` on the sheet, from the launcher and from the trainer's
    ``deepspeed``, ``fsdp`` and ``fsdp_config``. ``processes`` is no fact: it is for whoever knows the devices."""
    put_launch(sheet)
    own = _own_sharding(sheet)
    if own is not None:
        put_spread(sheet, own, "deepspeed", "fsdp", "fsdp_config")


def put_launch(sheet: Sheet) -> None:
    """The launcher's part of :func:`put_sharding`."""
    started = launch(sheet.config, sheet.document)
    if started.processes is not None:
        sheet.facts["processes"] = started.processes
    if started.sharding is not None:
        put_spread(sheet, Sharded(started.sharding, started.cpu_offload), said="the launcher")
    elif started.processes is not None and started.processes > 1 and started.settled:
        put_spread(sheet, Sharded("ddp", False), said="the launcher")
    elif not started.settled or (started.processes is None and started.launcher):
        sheet.unknown |= {"stack.sharding", "stack.cpu_offload"}


def put_spread(sheet: Sheet, found: Sharded, *names: str, said: str = "") -> None:
    """Put how the run is spread on the sheet; what is not known of it is unknown, whatever was there before."""
    for fact, value in (("stack.sharding", found.sharding), ("stack.cpu_offload", found.cpu_offload)):
        if value is None:
            sheet.unknown.add(fact)
            sheet.facts.pop(fact, None)
        else:
            sheet.put(fact, value, *names, said=said)


def _own_sharding(sheet: Sheet) -> Sharded | None:
    """What the trainer's own settings say; None where they say nothing."""
    deepspeed, fsdp = sheet.value("deepspeed"), sheet.value("fsdp")
    if deepspeed:
        numbers = deepspeed_numbers(deepspeed, sheet.document)
        sheet.facts["deepspeed_numbers"] = {key: (DEEPSPEED_MATCHED[key], value) for key, value in numbers.items()}
        return deepspeed_of(deepspeed, sheet.document)
    words = " ".join(map(str, fsdp)) if isinstance(fsdp, tuple) else str(fsdp or "").lower()
    if words in ("", "false", "none"):
        return None
    return Sharded("ddp" if "no_shard" in words else "fsdp", "offload" in words)
