"""Which GPUs this machine has, asked of the vendors' own tools: torch is not needed and nothing is allocated."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from typing import Any

from lora_advise.facts import HardwareFacts
from lora_advise.gpus import Card, Kind, find_card

TIMEOUT_S = 3.0
"""A tool that has not answered by then is taken for absent: a driver that hangs must not hang the advice."""
_FIELDS = "index,uuid,name,memory.total,compute_cap,mig.mode.current"

Device = tuple[str, float, str | None]
"""Name, memory in GiB and compute capability of one device."""


def probe() -> HardwareFacts | None:
    """The GPUs of this machine; None where there is none, or none that may be used.

    Of unequal GPUs the smallest counts, as often as it is there, and the name says so. CUDA_VISIBLE_DEVICES is
    honoured. GPUs that are cut into MIG slices are passed over, because their total memory is not what a run gets.
    """
    for tool, ask, kind in (
        ("nvidia-smi", _nvidia, "cuda"),
        ("rocm-smi", _rocm_smi, "rocm"),
        ("amd-smi", _amd_smi, "rocm"),
    ):
        path = shutil.which(tool)
        if path is not None:
            devices = ask(path)
            if devices:
                return _facts(devices, kind)  # type: ignore[arg-type]  # the tuple's literals widen to str
    return _apple() if sys.platform == "darwin" else None


def _output(*command: str) -> str | None:
    """What the command prints; empty when it fails, None when it hangs or cannot be started."""
    import subprocess

    try:
        done = subprocess.run(  # noqa: S603 - a fixed command, found on the user's own PATH
            command,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout[:1_000_000] if done.returncode == 0 else ""


def _nvidia(tool: str) -> list[Device]:
    """Devices by nvidia-smi; drivers that do not know a field are asked for fewer."""
    for fields in (_FIELDS, "index,uuid,name,memory.total,compute_cap", "index,uuid,name,memory.total"):
        text = _output(tool, f"--query-gpu={fields}", "--format=csv,noheader,nounits")
        if text is None:
            return []
        rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
        rows = [row for row in rows if len(row) == fields.count(",") + 1]
        if rows:
            return [device for row in _visible(rows) if (device := _nvidia_device(row))]
    return []


def _nvidia_device(row: list[str]) -> Device | None:
    name, memory = row[2], row[3]
    capability = row[4] if len(row) > 4 and row[4][:1].isdigit() else None
    if len(row) > 5 and row[5].lower() == "enabled":
        return None
    try:
        return name, round(float(memory) / 1024, 2), capability
    except ValueError:
        # Chips that share the host's memory (GB10, Jetson) report none: the table knows them.
        card = find_card(name)
        return (name, card.memory_gib, capability) if card else None


def _visible(rows: list[list[str]]) -> list[list[str]]:
    """The rows that CUDA_VISIBLE_DEVICES allows; like CUDA, it stops at the first entry that names no device."""
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return rows
    chosen: list[list[str]] = []
    for word in (part.strip() for part in setting.split(",")):
        match = [row for row in rows if word and (row[0] == word or row[1].startswith(word))]
        if len(match) != 1 or match[0] in chosen:
            break
        chosen += match
    return chosen


def _json(text: str | None) -> Any:
    import json

    try:
        return json.loads(text or "")
    except (ValueError, RecursionError):
        return None


def _rocm_smi(tool: str) -> list[Device]:
    """Devices by rocm-smi: one object per card, memory in bytes."""
    answer = _json(_output(tool, "--showproductname", "--showmeminfo", "vram", "--json"))
    found: list[Device] = []
    for card in answer.values() if isinstance(answer, dict) else []:
        if isinstance(card, dict) and str(card.get("VRAM Total Memory (B)", "")).isdecimal():
            name = next(
                (str(card[key]) for key in ("Card Series", "Card series", "Card Model", "Card model") if card.get(key)),
                "AMD GPU",
            )
            found.append((name[:80], round(int(card["VRAM Total Memory (B)"]) / 2**30, 2), None))
    return found


def _amd_smi(tool: str) -> list[Device]:
    """Devices by amd-smi: a list of GPUs, or an object that holds one, memory in MB of 2**20 bytes."""
    answer = _json(_output(tool, "static", "--asic", "--vram", "--json"))
    if isinstance(answer, dict):
        answer = answer.get("gpu_data")
    found: list[Device] = []
    for gpu in answer if isinstance(answer, list) else []:
        asic, vram = (gpu.get("asic"), gpu.get("vram")) if isinstance(gpu, dict) else (None, None)
        size = vram.get("size") if isinstance(vram, dict) else None
        value = size.get("value") if isinstance(size, dict) else None
        if isinstance(value, int | float) and value > 0:
            name = str(asic.get("market_name") or "AMD GPU") if isinstance(asic, dict) else "AMD GPU"
            found.append((name[:80], round(value / 1024, 2), None))
    return found


def _apple() -> HardwareFacts | None:
    """An Apple chip with its unified memory; None on other Macs."""
    chip = (_output("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string") or "").strip()
    memory = (_output("/usr/sbin/sysctl", "-n", "hw.memsize") or "").strip()
    if not chip.startswith("Apple ") or not memory.isdecimal():
        return None
    return _facts([(chip[:80], round(int(memory) / 2**30, 2), None)], "mps")


def _facts(devices: list[Device], kind: Kind) -> HardwareFacts:
    """The smallest device with the number of its equals, and what the table knows of it."""
    name, memory, capability = min(devices, key=lambda device: device[1])
    count = sum(device[:2] == (name, memory) for device in devices)
    others = Counter(device[0] for device in devices if device[:2] != (name, memory))
    shown = name
    if others:
        shown += f" (the smallest here; unused: {', '.join(f'{n} x {other}' for other, n in others.items())})"
    known = find_card(name) or _chip(name)
    if known is not None:
        facts = known.facts(count).changed({"name": shown, "memory_gib": memory, "kind": kind})
        return facts.changed({"compute_capability": capability}) if capability else facts
    return HardwareFacts(name=shown, count=count, memory_gib=memory, kind=kind, **_by_capability(capability))


def _chip(name: str) -> Card | None:
    """The row of a chip whose memory the table lists in other sizes, or whose name carries more words."""
    words = name.replace("(", " ").split()
    return next((card for n in range(len(words) - 1, 1, -1) if (card := find_card(" ".join(words[:n])))), None)


def _by_capability(capability: str | None) -> dict[str, Any]:
    """What the compute capability alone tells of an unknown NVIDIA GPU (source gpu-datasheets)."""
    try:
        version = tuple(int(part) for part in (capability or "").split("."))
    except ValueError:
        return {}
    return {
        "compute_capability": capability, "bf16": version >= (8, 0), "fp8": version >= (8, 9),
        "flash_attention_2": version >= (8, 0), "bitsandbytes_4bit": version >= (6, 0),
    }  # fmt: skip


def driver_version() -> str | None:
    """The version of NVIDIA's driver; None where its tool is not there or does not answer."""
    tool = shutil.which("nvidia-smi")
    text = _output(tool, "--query-gpu=driver_version", "--format=csv,noheader") if tool else None
    return (text or "").strip().splitlines()[0].strip()[:40] if (text or "").strip() else None
