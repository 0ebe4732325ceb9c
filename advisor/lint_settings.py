"""A team's own settings: ``lora-advise.toml``, or ``[tool.lora-advise]`` in ``pyproject.toml``."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lora_advise.errors import LoraAdviseError

Level = Literal["error", "warning", "note", "off"]
LEVELS = ("error", "warning", "note", "off")
FILES = ("lora-advise.toml", "pyproject.toml")
KEYS = (
    "select", "ignore", "severity", "fail-on", "pedantic", "exclude", "gpu", "gpus", "task", "examples", "model", "versions",
    "per-file-ignores", "rules", "plugins",
)  # fmt: skip
MAX_BYTES = 2**20


class FileIgnore(NamedTuple):
    """Rules that are ignored in files of a pattern, with the reason."""

    pattern: str
    rules: tuple[str, ...]
    reason: str


class Settings(NamedTuple):
    """What a settings file says; the command line goes before it."""

    path: str | None = None
    select: tuple[str, ...] = ()
    """Names, codes or prefixes of codes; empty means all."""
    ignore: tuple[str, ...] = ()
    severity: Mapping[str, Level] = {}
    fail_on: str | None = None
    pedantic: bool = False
    exclude: tuple[str, ...] = ()
    gpu: str | None = None
    gpus: str | None = None
    task: str | None = None
    examples: int | None = None
    model: str | None = None
    versions: Mapping[str, str] = {}
    per_file: tuple[FileIgnore, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = {}
    """Options by rule."""
    plugins: tuple[str, ...] = ()


def find_settings(start: Path) -> Settings:
    """The settings of the nearest folder that has any, from ``start`` upwards; none where no folder has."""
    for folder in (start.resolve(), *start.resolve().parents):
        for name in FILES:
            path = folder / name
            try:
                there = path.is_file()
            except OSError:
                there = False
            if there and (found := read_settings(path, required=name == FILES[0])) is not None:
                return found
    return Settings()


def read_settings(path: Path, *, required: bool = True) -> Settings | None:
    """The settings of that file; None for a ``pyproject.toml`` without the table.

    Raises LoraAdviseError for a file that cannot be read, an unknown key, rule or value.
    """
    content: Any = _toml(path)
    if path.name == "pyproject.toml":
        tool = content.get("tool")
        content = tool.get("lora-advise") if isinstance(tool, dict) else None
        if content is None and not required:
            return None
    if not isinstance(content, dict):
        raise LoraAdviseError(f"{path}: it has no table [tool.lora-advise]; add one, or name another file.")
    return _settings(content, str(path))


def _toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise LoraAdviseError(f"{path}: cannot read it: {error.strerror}; change its permissions.") from None
    if len(raw) > MAX_BYTES:
        raise LoraAdviseError(f"{path}: larger than 1 MiB; settings have a few lines.")
    try:
        found: dict[str, Any] = tomllib.loads(raw.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LoraAdviseError(f"{path}: not readable as TOML: {' '.join(str(error).split())[:200]}.") from None
    return found


def _settings(content: dict[str, Any], where: str) -> Settings:
    for key in content:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(KEYS)}."
            raise LoraAdviseError(f"{where}: lora-advise has no setting {key[:60]!r}; {hint}")
    severity = _table(content, "severity", where)
    for name, level in severity.items():
        if level not in LEVELS:
            raise LoraAdviseError(f"{where}: severity.{name} is {str(level)[:40]!r}; it is one of {', '.join(LEVELS)}.")
    fail_on = _one(content, "fail-on", str, where)
    if fail_on not in (None, "error", "warning", "note", "never"):
        raise LoraAdviseError(f"{where}: fail-on is {fail_on[:40]!r}; it is one of error, warning, note, never.")
    gpus = content.get("gpus")
    return Settings(
        where, _words(content, "select", where), _words(content, "ignore", where), severity, fail_on,
        bool(_one(content, "pedantic", bool, where)), _words(content, "exclude", where), _one(content, "gpu", str, where),
        None if gpus is None else str(gpus), _one(content, "task", str, where), _one(content, "examples", int, where),
        _one(content, "model", str, where), {k: str(v) for k, v in _table(content, "versions", where).items()},
        _per_file(content, where), _table(content, "rules", where), _words(content, "plugins", where),
    )  # fmt: skip


def _one(content: dict[str, Any], key: str, kind: type[Any], where: str) -> Any:
    value = content.get(key)
    if value is None or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
        return value
    words = {str: "text in quotes", bool: "true or false", int: "a whole number"}[kind]
    raise LoraAdviseError(f"{where}: {key} is {str(value)[:60]!r}; it should be {words}.")


def _words(content: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = content.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise LoraAdviseError(f'{where}: {key} should be a list of texts, such as ["{key}-this"].')
    return tuple(value)


def _table(content: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, dict):
        raise LoraAdviseError(f"{where}: {key} should be a table [tool.lora-advise.{key}].")
    return value


def _per_file(content: dict[str, Any], where: str) -> tuple[FileIgnore, ...]:
    """``"old/*.yaml" = {rules = ["LRS101"], reason = "kept as they were published"}``; a reason is asked for."""
    found = []
    for pattern, row in _table(content, "per-file-ignores", where).items():
        rows = row if isinstance(row, list) else [row]
        for item in rows:
            whole = (
                isinstance(item, dict) and isinstance(item.get("rules"), list) and isinstance(item.get("reason"), str)
            )
            if not whole or not item["reason"].strip() or not all(isinstance(r, str) for r in item["rules"]):
                raise LoraAdviseError(
                    f'{where}: per-file-ignores."{pattern[:80]}" should be {{rules = ["NAME"], reason = "why"}}.'
                )
            found.append(FileIgnore(pattern, tuple(item["rules"]), item["reason"].strip()))
    return tuple(found)
