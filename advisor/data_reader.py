"""Streams the rows of a data file: JSON lines, a JSON list, CSV, TSV, parquet, plain text. Nothing is ever executed."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lora_advise.errors import LoraAdviseError
from lora_advise.report_words import restored

Row = dict[str, Any]

MAX_BYTES = 2 * 2**30
"""Larger files are refused, as the runner refuses them: it holds the rows in memory."""
MAX_ROWS = 5_000_000
"""More rows are refused: reading them takes minutes, and a plan needs only their number and lengths."""
MAX_ROW_BYTES = 64 * 2**20
"""A longer row is no training example but a broken file."""
_CHUNK = 2**20


def shown(text: object, limit: int = 80) -> str:
    """The text on one line, without control characters, cut to the limit: for messages about untrusted files."""
    clean = "".join(c if c.isprintable() else "?" for c in restored(str(text)))
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def shown_path(path: object, limit: int = 80) -> str:
    """The path like ``shown``, but cut at its front: the file's name is what tells it apart."""
    clean = shown(path, 4096)
    return clean if len(clean) <= limit else "..." + clean[3 - limit :]


def read_rows(path: str) -> Iterator[tuple[str, Row]]:
    """Every row with its place, ``line 7`` or ``row 7``.

    Raises LoraAdviseError with file and place for whatever cannot be read.
    """
    file = _checked(path)
    reader = {
        ".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json_list, ".csv": _table, ".tsv": _table,
        ".parquet": _parquet, ".txt": _text, ".md": _text,
    }.get(file.suffix.lower())  # fmt: skip
    if reader is None:
        raise LoraAdviseError(
            f"{shown_path(path)}: unknown kind of data file; use .jsonl, .json, .csv, .tsv, .parquet or .txt."
        )
    try:
        for number, row in enumerate(reader(file), 1):
            if number > MAX_ROWS:
                raise LoraAdviseError(
                    f"{shown_path(path)}: has more than the {MAX_ROWS:,} rows that are read; split it, or "
                    "describe it by --examples and --tokens-per-example instead of --data."
                )
            yield row
    except OSError as error:
        raise LoraAdviseError(f"{shown_path(path)}: cannot be read ({shown(error.strerror or error)}).") from error


def _checked(path: str) -> Path:
    """The file, when it is a regular one of a size that is read."""
    file = Path(path)
    try:
        is_file, is_folder = file.is_file(), file.is_dir()
        size = file.stat().st_size if is_file else 0
    except (OSError, ValueError) as error:
        raise LoraAdviseError(f"{shown_path(path)}: cannot be opened ({shown(error)}).") from error
    if is_folder:
        raise LoraAdviseError(f"{shown_path(path)}: is a folder; name the file in it.")
    if not is_file:
        raise LoraAdviseError(
            f"{shown_path(path)}: there is no such data file; data sets of the Hub are downloaded first."
        )
    if size > MAX_BYTES:
        raise LoraAdviseError(
            f"{shown_path(path)}: {size / 2**30:.1f} GiB is more than the {MAX_BYTES // 2**30} GiB that are read; "
            "split it, or describe it by --examples and --tokens-per-example instead of --data."
        )
    if size == 0:
        raise LoraAdviseError(f"{shown_path(path)}: is empty.")
    return file


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file."""
    with file.open("rb") as stream:
        number = 0
        while raw := stream.readline(MAX_ROW_BYTES + 1):
            number += 1
            if len(raw) > MAX_ROW_BYTES:
                raise LoraAdviseError(
                    f"{shown_path(file)}, line {number}: is longer than {MAX_ROW_BYTES // 2**20} MiB; "
                    "one line holds one example."
                )
            yield number, _decoded(file, number, raw)


def _decoded(file: Path, number: int, raw: bytes) -> str:
    if b"\0" in raw:
        raise LoraAdviseError(
            f"{shown_path(file)}, line {number}: is binary, not text; save the data as UTF-8 JSON lines."
        )
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise LoraAdviseError(
            f"{shown_path(file)}, line {number}: is not UTF-8 text (byte {error.start}); save the data as UTF-8."
        ) from error


def _json_lines(file: Path) -> Iterator[tuple[str, Row]]:
    for number, line in _lines(file):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise LoraAdviseError(
                    f"{shown_path(file)}, line {number}: broken JSON ({shown(error)}); every line holds one JSON object."
                ) from error
            yield _object(file, f"line {number}", row)


def _object(file: Path, place: str, row: object) -> tuple[str, Row]:
    if not isinstance(row, dict):
        raise LoraAdviseError(f"{shown_path(file)}, {place}: is {type(row).__name__}, not an object with named fields.")
    return place, row


def _json_list(file: Path) -> Iterator[tuple[str, Row]]:
    """Objects of a JSON list, one at a time; an object that holds one list stands for it when it is small."""
    with file.open("rb") as stream:
        start = stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        stream.seek(0)
        if start == b"{":
            yield from _json_object(file, stream)
        elif start == b"[":
            yield from _json_items(file, stream)
        else:
            raise LoraAdviseError(f"{shown_path(file)}: is not a JSON list of objects.")


def _json_items(file: Path, stream: BinaryIO) -> Iterator[tuple[str, Row]]:
    decoder, chunks = json.JSONDecoder(), _text_chunks(file, stream)
    buffer, at, number = next(chunks, "").lstrip()[1:], 0, 0
    while True:
        at = _after_gap(buffer, at)
        if buffer.startswith("]", at):
            return
        place = f"{shown_path(file)}, row {number + 1}"
        if buffer.startswith("{", at):
            try:
                item, at = decoder.raw_decode(buffer, at)
            except (ValueError, RecursionError) as error:
                if _complete(buffer, error):
                    raise LoraAdviseError(f"{place}: broken JSON ({shown(error)}).") from error
            else:
                number += 1
                yield f"row {number}", item
                continue
        elif at < len(buffer):
            raise LoraAdviseError(f"{place}: is not an object with named fields.")
        buffer, at = buffer[at:], 0
        if len(buffer) > MAX_ROW_BYTES:
            raise LoraAdviseError(f"{place}: is longer than {MAX_ROW_BYTES // 2**20} MiB.")
        more = "".join(next(chunks, "") for _ in range(max(1, len(buffer) // _CHUNK)))
        if not more:
            raise LoraAdviseError(f"{place}: the JSON list breaks off here.")
        buffer += more


def _after_gap(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at


def _complete(buffer: str, error: ValueError | RecursionError) -> bool:
    """Whether more text cannot mend the error: it lies well before the end of what was read."""
    return not isinstance(error, json.JSONDecodeError) or (
        "Unterminated" not in error.msg and error.pos < len(buffer) - 64
    )


def _text_chunks(file: Path, stream: BinaryIO) -> Iterator[str]:
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    while True:
        raw = stream.read(_CHUNK)
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise LoraAdviseError(
                f"{shown_path(file)}: is not UTF-8 text ({shown(error.reason)}); save the data as UTF-8."
            ) from error
        if "\0" in text:
            raise LoraAdviseError(f"{shown_path(file)}: is binary, not text; save the data as UTF-8 JSON.")
        if text:
            yield text
        if not raw:
            return


def _json_object(file: Path, stream: BinaryIO) -> Iterator[tuple[str, Row]]:
    if file.stat().st_size > MAX_ROW_BYTES:
        raise LoraAdviseError(f"{shown_path(file)}: is one large JSON object; save its rows as JSON lines (.jsonl).")
    try:
        content = json.loads("".join(_text_chunks(file, stream)))
    except (ValueError, RecursionError) as error:
        if isinstance(error, LoraAdviseError):
            raise
        hint = "; with one object per line it is named .jsonl" if "Extra data" in str(error) else ""
        raise LoraAdviseError(f"{shown_path(file)}: broken JSON ({shown(error)}){hint}.") from error
    lists = [value for value in content.values() if isinstance(value, list)] if isinstance(content, dict) else []
    if len(lists) != 1:
        raise LoraAdviseError(
            f"{shown_path(file)}: is one JSON object; a data file is a list of objects, or one object per line (.jsonl)."
        )
    for number, row in enumerate(lists[0], 1):
        yield _object(file, f"row {number}", row)


def _table(file: Path) -> Iterator[tuple[str, Row]]:
    reader = csv.DictReader(
        _text_lines(_lines(file)), delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True
    )
    try:
        for row in reader:
            if None in row or None in row.values():
                raise LoraAdviseError(
                    f"{shown_path(file)}, line {reader.line_num}: has another number of cells than the header."
                )
            yield f"line {reader.line_num}", dict(row)
    except csv.Error as error:
        raise LoraAdviseError(
            f"{shown_path(file)}, line {reader.line_num}: broken table ({shown(error)}); quote cells, or save as .jsonl."
        ) from error


def _text_lines(lines: Iterable[tuple[int, str]]) -> Iterator[str]:
    return (line for _, line in lines)


def _parquet(file: Path) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise LoraAdviseError(
            f"{shown_path(file)}: reading parquet needs pyarrow; pip install pyarrow, or save the data as .jsonl."
        ) from error
    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            unpacked = sum(table.metadata.row_group(i).total_byte_size for i in range(table.metadata.num_row_groups))
            if unpacked > 4 * MAX_BYTES:
                raise LoraAdviseError(
                    f"{shown_path(file)}: unpacks to {unpacked / 2**30:.0f} GiB, more than is read; split it."
                )
            for batch in table.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pyarrow.ArrowException, OverflowError) as error:
        raise LoraAdviseError(
            f"{shown_path(file)}: cannot be read as parquet ({shown(str(error).splitlines()[0])})."
        ) from error


def _text(file: Path) -> Iterator[tuple[str, Row]]:
    """One document per block between blank lines."""
    block: list[str] = []
    start = 1
    for number, line in _lines(file):
        if line.strip():
            if not block:
                start = number
            block.append(line)
        elif block:
            yield f"line {start}", {"text": "".join(block).strip()}
            block = []
    if block:
        yield f"line {start}", {"text": "".join(block).strip()}
