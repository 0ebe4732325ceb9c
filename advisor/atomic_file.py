"""Files are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from lora_advise.errors import LoraAdviseError


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text through a temporary file in the same folder, keeping the mode of a file that is replaced.

    A symbolic link keeps pointing where it points; a pipe or device is written directly.
    Raises LoraAdviseError where the folder is missing, the path is a folder or nothing may be written.
    """
    target = Path(path)
    try:
        _write(target, text)
    except OSError as error:
        raise LoraAdviseError(f"{path}: cannot write it: {_why(target, error)}.") from None


def keep_aside(path: Path, text: str) -> Path | None:
    """Copy the file there to ``NAME.old-N`` unless it holds that text already; returns where it went, None for no copy.

    Raises LoraAdviseError where the copy cannot be made, so that nothing is overwritten without it.
    """
    import shutil

    target = Path(os.path.realpath(path))
    try:
        if not target.is_file() or (
            target.stat().st_size == len(text.encode()) and target.read_bytes() == text.encode()
        ):
            return None
        number = 1
        while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
            number += 1
        shutil.copy2(target, aside)
    except OSError as error:
        raise LoraAdviseError(f"{path}: the file there cannot be kept aside: {_why(path, error)}.") from None
    return aside


def _write(path: Path, text: str) -> None:
    target = Path(os.path.realpath(path))
    mode: int | None = None
    if target.exists():
        found = target.stat().st_mode
        if stat.S_ISDIR(found):
            raise IsADirectoryError(str(path))
        if not stat.S_ISREG(found):
            target.write_text(text, encoding="utf-8")
            return
        if not os.access(target, os.W_OK):
            raise PermissionError(str(path))
        mode = stat.S_IMODE(found)
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        with os.fdopen(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "w", encoding="utf-8", newline=""
        ) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _why(path: Path, error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return f"it is a folder; name a file in it, such as {path / 'lora-advise.yaml'}"
    if isinstance(error, FileNotFoundError) and path.parent.is_dir():
        return f"files cannot be made in {path.parent}; choose another folder"
    if isinstance(error, FileNotFoundError):
        return f"the folder {path.parent} does not exist; create it first (mkdir -p) or choose another"
    if isinstance(error, NotADirectoryError):
        return f"{path.parent} is a file, not a folder; choose another path"
    if isinstance(error, PermissionError):
        return "there is no permission; change it (chmod u+w) or choose another path"
    return f"{(error.strerror or 'unknown problem').lower()}; choose another path"
