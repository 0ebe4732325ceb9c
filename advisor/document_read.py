"""Reads an outside file as a document: bounded, as UTF-8, in the format that its name or its content says."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from lora_advise.document import MAX_BYTES, Document, Format
from lora_advise.errors import LoraAdviseError
from lora_advise.report_words import plain

STDIN = "-"
_NOTEBOOK_BYTES = 16 * MAX_BYTES
_SUFFIXES: dict[str, Format] = {
    ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".jsonc": "json", ".py": "python", ".ipynb": "notebook",
    ".sh": "shell", ".bash": "shell", ".zsh": "shell", ".ksh": "shell", ".slurm": "shell", ".sbatch": "shell",
}  # fmt: skip
_NOTEBOOK = re.compile(r'"nbformat"\s*:|"cells"\s*:\s*\[')
_JSON = re.compile(r"(?:\{(?!\{)|\[)\s*(?:[\"}\]{\[]|//|/\*|\Z)")
_PYTHON = re.compile(
    r"^(?:import \w|from [\w.]+ import |(?:async )?def \w+\(|class \w+[(:]|@\w|[A-Za-z_][\w.]* = \S|[A-Za-z_][\w.]*\(|['\"]{3})",
    re.MULTILINE,
)
_SHELL = re.compile(
    r"^[ \t]*(?:(?:\$ )?(?:[A-Z_][A-Z0-9_]*=\S*[ \t]+)*"
    r"(?:accelerate|axolotl|deepspeed|export|llamafactory-cli|megatron|nohup|python3?|set|srun|swift|torchrun|trl|tune|uv)"
    r"[ \t]+[^:\s]|--\w[\w.-]*(?:[ \t=]|\r?$)|[A-Za-z_]\w*=)",
    re.MULTILINE,
)
_SETTING = re.compile(r"^[ \t]*(?:- +)?[\"']?[\w.-]+[\"']?[ \t]*:(?:[ \t\r]|$)", re.MULTILINE)


class TooLargeError(LoraAdviseError):
    """A file that is larger than any config."""


def read_document(path: str | Path, *, text: str | None = None, format: Format | None = None) -> Document:
    """The document at that path; ``-`` is standard input. With ``text`` nothing is opened, the path is only a name.

    Without ``format`` the suffix decides, and for other suffixes the content. At most MAX_BYTES are read, 16 times as many
    of a notebook. Raises LoraAdviseError for what cannot be read (TooLargeError for size): with the line where there is one.
    """
    name = "stdin" if str(path) == STDIN else str(path)
    known = format or _SUFFIXES.get(Path(name).suffix.lower())
    if Path(name).suffix.lower() == ".toml" and known is None:
        raise LoraAdviseError(f"{shown(name)}: TOML files are not read; give the trainer's own config.")
    limit = _NOTEBOOK_BYTES if known == "notebook" else MAX_BYTES
    text = _decoded(_bytes(path, name, limit), name) if text is None else text.removeprefix("\ufeff")
    if len(text) > limit:
        raise _too_large(name, limit)
    return _reader(known or sniffed(text))(text, name)


def sniffed(text: str) -> Format:
    """The format that the content looks like: YAML where nothing speaks for another."""
    start = text.lstrip("\ufeff \t\r\n")
    if start.startswith("#!"):
        return "python" if "python" in start.partition("\n")[0] else "shell"
    if _JSON.match(start):
        return "notebook" if _NOTEBOOK.search(start) else "json"
    first: dict[Format, re.Match[str] | None] = {
        "yaml": _SETTING.search(text), "python": _PYTHON.search(text), "shell": _SHELL.search(text),
    }  # fmt: skip
    found = [(match.start(), name) for name, match in first.items() if match]
    return min(found)[1] if found else "yaml"


def shown(name: str) -> str:
    """A file's name in a message: on one line, bounded."""
    return plain(name)[-200:]


def _bytes(path: str | Path, name: str, limit: int) -> bytes:
    try:
        if str(path) == STDIN:
            raw = _bounded(sys.stdin.buffer, limit)
        else:
            with Path(path).open("rb") as file:
                raw = _bounded(file, limit)
    except (OSError, ValueError) as error:
        why = plain(getattr(error, "strerror", None) or "not a path")
        raise LoraAdviseError(f"{shown(name)}: cannot read it: {why}; name a config file that can be read.") from None
    if len(raw) > limit:
        raise _too_large(name, limit)
    return raw


def _bounded(file: BinaryIO, limit: int) -> bytes:
    return file.read(limit + 1)


def _too_large(name: str, limit: int) -> TooLargeError:
    return TooLargeError(
        f"{shown(name)}: larger than {limit // 2**20} MiB; a config has a few kilobytes, so leave it out."
    )


def _decoded(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise LoraAdviseError(
            f"{shown(name)} line {line}: byte {error.start} is not UTF-8; save the file as UTF-8."
        ) from None


def _reader(format: Format) -> Callable[[str, str], Document]:
    """The reader of a format, imported only now."""
    if format == "yaml":
        from lora_advise.document_yaml import read_yaml as read
    elif format == "json":
        from lora_advise.document_json import read_json as read
    elif format == "shell":
        from lora_advise.document_shell import read_shell as read
    elif format == "python":
        from lora_advise.document_python import read_python as read
    elif format == "notebook":
        from lora_advise.document_notebook import read_notebook as read
    else:
        raise LoraAdviseError(f"No reader for {plain(format)[:40]}; use yaml, json, python, notebook or shell.")
    return read
