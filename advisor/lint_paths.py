"""Which files a lint looks at: those that are named, and in folders all that could be a config and git does not ignore."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lora_advise.errors import LoraAdviseError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

SUFFIXES = frozenset(
    {".yaml", ".yml", ".json", ".sh", ".bash", ".slurm", ".sbatch", ".py", ".ipynb"}
)  # fmt: skip
SKIPPED = frozenset({".git", ".hg", ".svn", "node_modules", "__pycache__", "site-packages", ".venv", "venv", ".tox"})
"""Folders that hold nobody's configs."""
MOST_FILES = 20_000
SIGNS = (b"learning_rate", b"lora", b"LoRA", b"finetuning_type", b"micro_batch", b"TrainingArguments", b"_component_", b"peft", b'"lr"', b"lr:")  # fmt: skip
"""One of these stands in every file that a trainer could have written or read; others are not parsed."""


class Candidate(NamedTuple):
    """A file to look at."""

    path: Path
    named: bool
    """Named by the user, not found in a folder: it must be readable."""


def candidates(paths: Sequence[str], exclude: Sequence[str] = ()) -> Iterator[Candidate]:
    """Every file once, in the order of the paths, folders in the order of their names.

    Raises LoraAdviseError for a path that does not exist and for a folder with too many files.
    """
    seen: set[str] = set()
    excluded = _spec(exclude)
    for name in paths:
        path = Path(name)
        if not os.path.lexists(path):
            raise LoraAdviseError(
                f"{name[:300]}: there is no such file or folder; name a config, or a folder with configs."
            )
        found = _walk(path) if path.is_dir() else iter((path,))
        for file in found:
            key = os.path.realpath(file)
            if key in seen or (path.is_dir() and excluded.match_file(file.as_posix())):
                continue
            seen.add(key)
            if len(seen) > MOST_FILES:
                raise LoraAdviseError(f"{name[:300]}: more than {MOST_FILES:,} files; name the folder of the configs.")
            yield Candidate(file, named=not path.is_dir())


def could_be_config(path: Path, limit: int) -> bool:
    """Whether one of the words that every training config has stands in the file."""
    with path.open("rb") as file:
        content = file.read(limit)
    return any(sign in content for sign in SIGNS)


def _spec(lines: Sequence[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(lines)


def _walk(root: Path) -> Iterator[Path]:
    """Files below a folder that git would not ignore. Links to folders are not followed."""
    ignored = list(_above(root))
    yield from _inside(root, ignored)


def _above(root: Path) -> Iterator[tuple[Path, GitIgnoreSpec]]:
    """The .gitignore files of the folders above, up to the repository's own."""
    folders = [root.resolve(), *root.resolve().parents]
    top = next((n for n, folder in enumerate(folders) if (folder / ".git").exists()), 0)
    for folder in reversed(folders[1 : top + 1]):
        if (spec := _ignore_file(folder)) is not None:
            yield folder, spec


def _ignore_file(folder: Path) -> GitIgnoreSpec | None:
    file = folder / ".gitignore"
    try:
        if not file.is_file() or file.stat().st_size > 2**20:
            return None
        return _spec(file.read_text("utf-8", errors="replace").splitlines())
    except OSError:
        return None


def _inside(folder: Path, ignored: list[tuple[Path, GitIgnoreSpec]]) -> Iterator[Path]:
    own = _ignore_file(folder)
    rules = [*ignored, (folder.resolve(), own)] if own is not None else ignored
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise LoraAdviseError(
            f"{folder}: cannot list it: {error.strerror}; change its permissions or leave it out."
        ) from None
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in SKIPPED and not _is_ignored(path, rules, folder=True):
                yield from _inside(path, rules)
        elif path.suffix.lower() in SUFFIXES and entry.is_file() and not _is_ignored(path, rules, folder=False):
            yield path


def _is_ignored(path: Path, rules: list[tuple[Path, GitIgnoreSpec]], *, folder: bool) -> bool:
    """The deepest .gitignore that says anything decides."""
    whole = path.parent.resolve() / path.name
    for base, spec in reversed(rules):
        result = spec.check_file(whole.relative_to(base).as_posix() + ("/" if folder else ""))
        if result.include is not None:
            return bool(result.include)
    return False
