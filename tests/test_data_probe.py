"""The data probe on real small files: every format, honest counts, one sentence for whatever is broken."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_advise import data_reader
from lora_advise.data_format import estimate_tokens
from lora_advise.data_probe import probe_data
from lora_advise.errors import LoraAdviseError

USER, BOT = {"role": "user", "content": "u" * 40}, {"role": "assistant", "content": "a" * 80}
ROWS = {
    "messages": {"messages": [USER, BOT]},
    "sharegpt": {"conversations": [{"from": "human", "value": "u" * 40}, {"from": "gpt", "value": "a" * 80}]},
    "alpaca": {"instruction": "u" * 40, "input": "", "output": "a" * 80},
    "prompt-completion": {"prompt": "u" * 40, "completion": "a" * 80},
    "text": {"text": "t" * 120},
    "preference": {"prompt": "u" * 40, "chosen": "a" * 80, "rejected": "b" * 40},
    "unpaired-preference": {"prompt": "u" * 40, "completion": "a" * 80, "label": True},
    "classification": {"text": "u" * 40, "label": "spam"},
    "prompt": {"prompt": "u" * 40},
}
EXPECTED = {
    "messages": (38, 24), "sharegpt": (38, 24), "alpaca": (38, 20), "prompt-completion": (38, 20), "text": (30, 30),
    "preference": (25, 15), "unpaired-preference": (38, 20), "classification": (11, 1), "prompt": (10, 0),
}  # fmt: skip


def lines(path: Path, rows: list[object]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("format", list(ROWS))
def test_formats_and_lengths(tmp_path: Path, format: str) -> None:
    facts = probe_data(lines(tmp_path / "a.jsonl", [ROWS[format]] * 3), None, "chat")
    assert facts.format == format
    assert facts.examples == 3
    assert facts.duplicates == 2
    assert facts.empty == 0
    assert (facts.tokens_per_example, facts.completion_tokens) == EXPECTED[format]
    assert facts.tokens_estimated


def test_the_same_rows_in_every_container(tmp_path: Path) -> None:
    rows = [{"prompt": f'question, {i}\n"quoted"', "completion": "é" * i + "答案"} for i in range(1, 40)]
    wanted = probe_data(lines(tmp_path / "a.jsonl", rows), None, "qa")
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (tmp_path / "c.json").write_text("\ufeff" + json.dumps({"version": 1, "data": rows}), encoding="utf-8")
    for name, delimiter in (("d.csv", ","), ("e.tsv", "\t")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, ["prompt", "completion"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    names = ["b.json", "c.json", "d.csv", "e.tsv"]
    arrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "f.parquet")
    for name in [*names, "f.parquet"]:
        found = probe_data(str(tmp_path / name), None, "qa")
        assert found.changed({"path": wanted.path}) == wanted, name


def test_text_files_hold_one_document_per_block(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"first line\nsecond line\n\n \n\nanother\r\n\r\nthird")
    facts = probe_data(str(path), None, "continued-pretraining")
    assert (facts.format, facts.examples) == ("text", 3)


def test_duplicates_empties_and_percentiles(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": "a" * (4 * n)} for n in range(1, 101)]
    rows += [
        {"prompt": "p", "completion": "a" * 4},
        {"prompt": "p", "completion": " "},
        {"prompt": "p", "completion": ""},
    ]
    facts = probe_data(lines(tmp_path / "a.jsonl", rows), None, "qa")
    assert (facts.examples, facts.duplicates, facts.empty) == (101, 1, 2)
    # 8 tokens of chat template and a quarter of a token of prompt around each answer of n tokens.
    assert facts.max_tokens == 109
    assert facts.p99_tokens == 108
    assert facts.completion_tokens == 50


def test_labels_and_the_task_decide_what_a_label_is(tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "label": ["good", "bad", "ugly"][i % 3]} for i in range(9)]
    assert probe_data(lines(tmp_path / "a.jsonl", rows), None, "classification").labels == 3
    numbered = [{"prompt": f"row {i}", "label": i % 2} for i in range(9)]
    facts = probe_data(lines(tmp_path / "b.jsonl", numbered), None, "classification")
    assert (facts.format, facts.labels) == ("classification", 2)
    marked = [{"prompt": "p", "completion": f"c{i}", "label": i % 2} for i in range(4)]
    assert probe_data(lines(tmp_path / "c.jsonl", marked), None, "kto").format == "unpaired-preference"
    assert probe_data(lines(tmp_path / "d.jsonl", marked), None, "qa").format == "prompt-completion"


def test_every_assistant_turn_counts_as_completion(tmp_path: Path) -> None:
    facts = probe_data(lines(tmp_path / "a.jsonl", [{"messages": [USER, BOT, USER, BOT]}]), None, "chat")
    assert facts.completion_tokens == 48
    silent = {"messages": [USER, {"role": "assistant", "content": ""}]}
    facts = probe_data(lines(tmp_path / "b.jsonl", [silent, {"messages": [USER, BOT]}]), None, "chat")
    assert (facts.examples, facts.empty) == (1, 1)


def test_conversational_preferences_count_the_shared_turns_once(tmp_path: Path) -> None:
    row = {"prompt": "u" * 40, "chosen": [USER, BOT], "rejected": [USER, {"role": "assistant", "content": "b" * 40}]}
    facts = probe_data(lines(tmp_path / "a.jsonl", [row]), None, "dpo")
    assert (facts.tokens_per_example, facts.completion_tokens, facts.max_tokens) == (33, 19, 38)


def test_pictures_and_typed_parts(tmp_path: Path) -> None:
    parts = [{"type": "image", "image": "x.png"}, {"type": "text", "text": "u" * 40}]
    facts = probe_data(
        lines(tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": parts}, BOT]}]), None, "vision-language"
    )
    assert facts.tokens_per_example == 38 + 576


def test_estimates_by_script() -> None:
    assert estimate_tokens("a" * 400) == 100
    assert estimate_tokens("汉" * 300) == 200
    assert estimate_tokens("щ" * 250) == 100
    assert estimate_tokens("aaaa汉汉汉") == pytest.approx(3)
    assert estimate_tokens("\ud800" * 5) == 2


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "line 2: is list"),
        ("a.jsonl", b'{"text": "a"}\n\xff\xfe\n', "line 2: is not UTF-8"),
        ("a.jsonl", b"PK\x03\x04\0\0", "binary"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n\n", "holds no rows"),
        ("a.jsonl", b'{"text": " "}\n', "every one of its 1 rows is empty"),
        ("a.jsonl", b'{"foo": "a"}\n', "the fields foo"),
        ("a.jsonl", b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n{"text": "b"}\n', "line 2: is not messages"),
        ("a.jsonl", b'{"messages": "hello"}\n', "not a list of messages"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n", "line 1: broken JSON"),
        ("a.jsonl", b'{"text": ' + b"9" * 9000 + b"}\n", "line 1"),
        ("a.json", b'[{"text": "a"}, {"text": "b"', "row 2: the JSON list breaks off"),
        ("a.json", b'[{"text": "a"}, {"text" "b"}, ' + b" " * 200 + b"]", "row 2: broken JSON"),
        ("a.json", b'[{"text": "a"}, 7]', "row 2"),
        ("a.json", b'{"text": "a"}\n{"text": "b"}\n', ".jsonl"),
        ("a.json", b'{"text": "a"}', "one JSON object"),
        ("a.json", b"7", "not a JSON list"),
        ("a.csv", b"text,label\na,b,c\n", "line 2"),
        ("a.csv", b'text\n"open\n', "broken table"),
        ("a.csv", b"Text\na\n", "the fields Text"),
        ("a.parquet", b"PAR1 nonsense", "parquet"),
        ("a.xlsx", b"PK", "unknown kind"),
        ("a.jsonl", b'{"\\u001b[31m": "a"}\n', "?[31m"),
    ],
)  # fmt: skip
def test_broken_files_are_one_sentence_with_the_place(tmp_path: Path, name: str, content: bytes, part: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(LoraAdviseError) as caught:
        probe_data(str(path), None, "chat")
    message = str(caught.value)
    assert part in message
    assert name in message
    assert "\n" not in message
    assert "\x1b" not in message


def test_paths_that_are_no_data_files(tmp_path: Path) -> None:
    for path in (str(tmp_path), str(tmp_path / "no.jsonl"), "tatsu-lab/alpaca", "/dev/zero", "a\0b.jsonl", "x" * 5000):
        with pytest.raises(LoraAdviseError):
            probe_data(path, None, "chat")


def test_a_long_path_keeps_the_name_of_the_file(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 60) / ("b" * 60)
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("not json\n", encoding="utf-8")
    with pytest.raises(LoraAdviseError, match=r"^\.\.\..*b{60}/train\.jsonl, line 1: "):
        probe_data(str(folder / "train.jsonl"), None, "chat")


def test_limits_are_said(tmp_path: Path, monkeypatch) -> None:
    path = lines(tmp_path / "a.jsonl", [ROWS["text"]] * 20)
    monkeypatch.setattr(data_reader, "MAX_ROWS", 10)
    with pytest.raises(LoraAdviseError, match="more than the 10 rows"):
        probe_data(path, None, "chat")
    monkeypatch.setattr(data_reader, "MAX_ROW_BYTES", 50)
    with pytest.raises(LoraAdviseError, match="line 1: is longer"):
        probe_data(path, None, "chat")
    monkeypatch.setattr(data_reader, "MAX_BYTES", 100)
    with pytest.raises(LoraAdviseError, match="--examples"):
        probe_data(path, None, "chat")


def test_rows_that_span_chunks_of_a_json_list(tmp_path: Path, monkeypatch) -> None:
    rows = [{"text": "汉" * n + '\\"' + "x" * n} for n in range(1, 60)]
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    whole = probe_data(str(tmp_path / "a.json"), None, "chat")
    for chunk in (1, 7, 64):
        monkeypatch.setattr(data_reader, "_CHUNK", chunk)
        assert probe_data(str(tmp_path / "a.json"), None, "chat") == whole


def test_the_evaluation_file_must_have_the_same_format(tmp_path: Path) -> None:
    train = lines(tmp_path / "a.jsonl", [ROWS["messages"]])
    same = lines(tmp_path / "b.jsonl", [ROWS["messages"]])
    assert probe_data(train, same, "chat").eval_path == same
    with pytest.raises(LoraAdviseError, match="evaluate on the format"):
        probe_data(train, lines(tmp_path / "c.jsonl", [ROWS["text"]]), "chat")
    with pytest.raises(LoraAdviseError, match="no such data file"):
        probe_data(train, str(tmp_path / "none.jsonl"), "chat")


def test_a_large_file_takes_seconds(tmp_path: Path) -> None:
    row = json.dumps(
        {"messages": [{"role": "user", "content": "word " * 60}, {"role": "assistant", "content": "word " * 60}]}
    )
    (tmp_path / "a.jsonl").write_text((row + "\n") * 40_000)
    (tmp_path / "b.json").write_text("[" + ",".join([row] * 40_000) + "]")
    for name in ("a.jsonl", "b.json"):
        started = time.process_time()
        assert probe_data(str(tmp_path / name), None, "chat").examples == 40_000
        assert time.process_time() - started < 20


cells = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "type", "text"]), inner, max_size=3)
    ),
    max_leaves=6,
)
names = st.sampled_from(
    [
        "messages",
        "conversations",
        "prompt",
        "completion",
        "text",
        "label",
        "chosen",
        "rejected",
        "instruction",
        "output",
        "input",
        "x",
    ]
)


@given(
    st.lists(st.dictionaries(names, cells, max_size=4), max_size=4),
    st.sampled_from(["chat", "classification", "kto", "dpo"]),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_rows_are_facts_or_one_sentence(tmp_path: Path, rows: list[dict[str, object]], task: str) -> None:
    path = tmp_path / "fuzz.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        facts = probe_data(str(path), None, task)
    except LoraAdviseError as error:
        message = str(error)
        assert "\n" not in message
    else:
        assert 1 <= facts.examples <= len(rows)
        assert facts.completion_tokens <= facts.tokens_per_example <= (facts.max_tokens or 0)


@given(st.binary(max_size=200), st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet"]))
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_bytes_are_facts_or_one_sentence(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"fuzz{suffix}"
    path.write_bytes(content)
    try:
        probe_data(str(path), None, "chat")
    except LoraAdviseError as error:
        message = str(error)
        assert "\n" not in message
