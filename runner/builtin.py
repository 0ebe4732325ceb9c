"""Where the built-in tiny model and the sample data lie in the package; imports nothing heavy."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from lora_advise.errors import LoraAdviseError

TINY = files("lora_advise.runner") / "tiny"
SAMPLE = files("lora_advise.runner") / "sample"


def builtin_model_path() -> Path:
    """The folder of the built-in tiny model, loadable with ``from_pretrained``."""
    return _present(Path(str(TINY)), "model.safetensors")


def builtin_data_paths() -> tuple[Path, Path]:
    """The sample data: training rows and held-out rows, as JSON lines with ``messages``."""
    folder = Path(str(SAMPLE))
    return _present(folder, "train.jsonl") / "train.jsonl", _present(folder, "eval.jsonl") / "eval.jsonl"


def _present(folder: Path, name: str) -> Path:
    """That folder, if the installed package holds that file of it as a file on disk."""
    if not (folder / name).is_file():
        raise LoraAdviseError(
            f"The installed package lacks {folder / name}; install lora-advise again, unpacked and not from a zip "
            "archive, or name a model with --model and data with --data."
        )
    return folder
