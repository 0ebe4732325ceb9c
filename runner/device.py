"""The device of a run and what the plan asks of it: number format, attention, optimizer, checkpointing."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec

import torch

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts, TrainFacts
from lora_advise.model_kernels import attention_refused


@dataclass(slots=True)
class Effective:
    """What the run really uses, after the device has been asked. Each difference from the plan is a sentence."""

    device: str
    dtype: str
    attention: str
    optim: str
    checkpointing: bool
    liger: bool
    deviations: list[str] = field(default_factory=list)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The number format as torch names it."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found


def device_kind() -> str:
    """cuda, mps or cpu: the first that is there."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_name() -> str:
    """The device as a person calls it."""
    kind = device_kind()
    if kind == "cuda":
        return str(torch.cuda.get_device_name(0))
    return "Apple GPU" if kind == "mps" else f"CPU, {torch.get_num_threads()} threads"


def settle(facts: Facts) -> Effective:
    """Decide what this machine can do of the plan; every other choice of the plan is applied as it stands."""
    train = facts.train
    if train is None:
        raise LoraAdviseError("the plan has no train section, so it cannot be run; make one with: lora-advise --emit.")
    kind = device_kind()
    said: list[str] = []
    return Effective(
        device=kind,
        dtype=_dtype(train, kind, said),
        attention=_attention(train, kind, facts.model.model_type if facts.model else "", said),
        optim=_optim(train, kind, said),
        checkpointing=_checkpointing(facts, train, kind, said),
        liger=_liger(train, kind, said),
        deviations=said,
    )


def _dtype(train: TrainFacts, kind: str, said: list[str]) -> str:
    if kind != "cuda" and train.dtype != "float32":
        said.append(f"train.dtype {train.dtype}: this run is on {kind}, where it is float32.")
        return "float32"
    if kind == "cuda" and train.dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        said.append("train.dtype bfloat16: this GPU does not support it, so it is float16.")
        return "float16"
    return train.dtype


def _attention(train: TrainFacts, kind: str, model_type: str, said: list[str]) -> str:
    if train.attn_implementation == "flash_attention_2" and (kind != "cuda" or find_spec("flash_attn") is None):
        why = f"this run is on {kind}" if kind != "cuda" else "flash-attn is not installed"
        instead = "eager" if attention_refused(model_type, "sdpa") else "sdpa"
        said.append(f"train.attn_implementation flash_attention_2: {why}, so it is {instead}.")
        return instead
    return train.attn_implementation


def _optim(train: TrainFacts, kind: str, said: list[str]) -> str:
    name = train.optim
    needs_cuda = name.startswith("paged_") or "8bit" in name or "bnb" in name
    if kind == "cuda" or not needs_cuda:
        return name
    if "adamw" not in name:
        raise LoraAdviseError(
            f"train.optim {name}: needs a CUDA device and has no equal here; set train.optim to adamw_torch "
            "with a learning rate for AdamW."
        )
    said.append(f"train.optim {name}: needs a CUDA device, so it is adamw_torch (same update, 32-bit states).")
    return "adamw_torch"


def _checkpointing(facts: Facts, train: TrainFacts, kind: str, said: list[str]) -> bool:
    meant = facts.hardware is not None and facts.hardware.kind == "cpu"
    if train.activation_checkpointing and kind == "cpu" and not meant:
        said.append(
            "train.activation_checkpointing: off on a CPU, which the plan was not made for: it costs time there."
        )
        return False
    return train.activation_checkpointing


def _liger(train: TrainFacts, kind: str, said: list[str]) -> bool:
    if train.use_liger_kernel and (kind != "cuda" or find_spec("liger_kernel") is None):
        why = f"this run is on {kind}" if kind != "cuda" else "liger-kernel is not installed"
        said.append(f"train.use_liger_kernel: {why}, so it is off.")
        return False
    return train.use_liger_kernel
