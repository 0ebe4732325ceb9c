"""Several devices: the launch command, and what one device does with a plan for many."""

from __future__ import annotations

import os
import subprocess
import sys
from math import ceil
from pathlib import Path

import torch

from lora_advise.facts import Facts


def processes() -> int:
    """How many processes train together, as torchrun and accelerate say it; 1 without them."""
    return max(1, int(os.environ.get("WORLD_SIZE", "1") or 1))


def main_process() -> bool:
    """Whether this process writes files and prints."""
    return int(os.environ.get("RANK", "0") or 0) == 0


def needs_launch(facts: Facts) -> bool:
    """Whether the plan wants more devices than this process has, and they are here."""
    wanted = facts.data_parallel
    return wanted > 1 and processes() == 1 and torch.cuda.is_available() and torch.cuda.device_count() >= wanted


def launch_command(facts: Facts, plan: Path, out: Path, *, resume: bool) -> list[str]:
    """The command that trains this plan on its devices with accelerate."""
    sharding = facts.stack.sharding if facts.stack else "none"
    dtype = facts.train.dtype if facts.train else "bfloat16"
    kind = {
        "fsdp": [
            "--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP",
            "--fsdp_state_dict_type", "FULL_STATE_DICT",
        ],
        "zero2": ["--use_deepspeed", "--zero_stage", "2"],
        "zero3": ["--use_deepspeed", "--zero_stage", "3"],
    }.get(sharding, ["--multi_gpu"])  # fmt: skip
    offload = (
        ["--fsdp_offload_params", "true"] if sharding == "fsdp" and facts.stack and facts.stack.cpu_offload else []
    )
    return [
        sys.executable, "-m", "accelerate.commands.launch",
        "--num_processes", str(facts.data_parallel), "--num_machines", "1", "--dynamo_backend", "no",
        "--mixed_precision", {"bfloat16": "bf16", "float16": "fp16"}.get(dtype, "no"), *kind, *offload,
        "-m", "lora_advise.runner.worker", str(plan), str(out), *(["--resume"] if resume else []),
    ]  # fmt: skip


def launch(command: list[str]) -> int:
    """Run the command; Ctrl-C reaches its processes, which finish their step, and this one waits for them."""
    with subprocess.Popen(command) as child:  # noqa: S603
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue


def on_these_devices(facts: Facts, deviations: list[str]) -> Facts:
    """The plan for the devices that are here: accumulation makes up for missing ones, so the effective batch stays."""
    wanted, here = facts.data_parallel, processes()
    if facts.train is None or facts.hardware is None or facts.stack is None or wanted == here:
        return facts
    before = facts.train.gradient_accumulation_steps
    accumulation = max(1, ceil(before * wanted / here))
    train = facts.train.changed({"gradient_accumulation_steps": accumulation})
    stack = facts.stack if here > 1 else facts.stack.changed({"sharding": "none"})
    batch = train.per_device_train_batch_size * accumulation * here
    deviations.append(
        f"hardware.count {wanted}: this run has {here} device{'s' if here > 1 else ''}, so "
        f"train.gradient_accumulation_steps is {accumulation} instead of {before} "
        f"and the effective batch {batch} instead of {facts.effective_batch}."
        if batch != facts.effective_batch
        else f"hardware.count {wanted}: this run has {here} device{'s' if here > 1 else ''}, so "
        f"train.gradient_accumulation_steps is {accumulation} instead of {before}; the effective batch stays {batch}."
    )
    hardware = facts.hardware.changed({"count": here})
    return facts.changed({"train": train, "stack": stack, "hardware": hardware})
