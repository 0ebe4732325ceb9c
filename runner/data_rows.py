"""Reads a data file into rows: JSON lines, JSON, CSV, TSV, parquet, plain text. Nothing in it is ever executed."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

from lora_advise.errors import LoraAdviseError

Row = dict[str, Any]

MAX_BYTES = 2 * 2**30
"""Larger files are refused: they would be held in memory as rows."""


def read_rows(path: Path) -> list[Row]:
    """All rows of that file. Raises :class:`LoraAdviseError` that names the file and the line."""
    if not path.is_file():
        raise LoraAdviseError(f"{path}: there is no such data file; name it with --data.")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise LoraAdviseError(
            f"{path}: {size / 2**30:.1f} GiB is more than the {MAX_BYTES // 2**30} GiB that are read; split it."
        )
    reader = {
        ".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json, ".csv": _table, ".tsv": _table,
        ".parquet": _parquet, ".txt": _text, ".md": _text,
    }.get(path.suffix.lower())  # fmt: skip
    if reader is None:
        raise LoraAdviseError(f"{path}: unknown kind of data file; use .jsonl, .json, .csv, .tsv, .parquet or .txt.")
    try:
        rows = list(reader(path))
    except UnicodeDecodeError as error:
        raise LoraAdviseError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    if not rows:
        raise LoraAdviseError(f"{path}: holds no rows.")
    return rows


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            yield _object(path, number, _loads(path, number, line))


def _json(path: Path) -> Iterator[Row]:
    content = _loads(path, 1, path.read_text("utf-8-sig"))
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) != 1:
            raise LoraAdviseError(
                f"{path}: is one JSON object; a data file is a list of objects, or one object per line."
            )
        content = lists[0]
    if not isinstance(content, list):
        raise LoraAdviseError(f"{path}: is not a JSON list of objects.")
    for number, row in enumerate(content, 1):
        yield _object(path, number, row)


def _loads(path: Path, number: int, text: str) -> object:
    try:
        content: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoraAdviseError(f"{path}, line {number}: broken JSON ({str(error)[:120]}).") from error
    return content


def _object(path: Path, number: int, row: object) -> Row:
    if not isinstance(row, dict):
        raise LoraAdviseError(f"{path}, row {number}: is {type(row).__name__}, not an object with named fields.")
    return row


def _table(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        try:
            reader = csv.DictReader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise LoraAdviseError(
                        f"{path}, line {reader.line_num}: has another number of cells than the header."
                    )
                yield dict(row)
        except csv.Error as error:
            raise LoraAdviseError(f"{path}: broken table ({error}).") from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise LoraAdviseError(f"{path}: cannot be read as parquet ({str(error).splitlines()[0][:120]}).") from error


def _text(path: Path) -> Iterator[Row]:
    """One document per block between blank lines."""
    block: list[str] = []
    with path.open(encoding="utf-8-sig") as stream:
        for line in stream:
            if line.strip():
                block.append(line)
            elif block:
                yield {"text": "".join(block).strip()}
                block = []
    if block:
        yield {"text": "".join(block).strip()}


def split(rows: list[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Hold out ``ceil(share * rows)`` rows, the same ones for the same seed; the order of the others is kept."""
    if share <= 0:
        return rows, []
    held = ceil(len(rows) * share)
    if held >= len(rows):
        raise LoraAdviseError(f"train.eval_share {share:g} of {len(rows)} rows leaves nothing to train on; lower it.")
    # Which rows are held out is no secret: a seeded generator makes the split repeatable.
    chosen = set(random.Random(seed).sample(range(len(rows)), held))  # noqa: S311
    return [r for i, r in enumerate(rows) if i not in chosen], [r for i, r in enumerate(rows) if i in chosen]
