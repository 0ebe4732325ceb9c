"""Data files become the rows that trainers read; run logs of any trainer become a run record. Nothing here needs torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import DataFacts, TaskFacts
from lora_advise.preflight import missing
from lora_advise.run_facts import AdapterSignal, LogEntry, Run, read_run, write_run
from lora_advise.runner.chat import mask_rows, question_and_answer
from lora_advise.runner.data_rows import read_rows, split
from lora_advise.runner.data_shapes import detect, shape_rows
from lora_advise.section import to_json

CORPUS = Path(__file__).resolve().parents[1] / ".." / "shared" / "corpus" / "logs"


def about(path: str = "x.jsonl", format: str | None = None) -> DataFacts:
    return DataFacts(path=path, format=format, examples=1, tokens_per_example=1, completion_tokens=1)


def task(trainer: str) -> TaskFacts:
    return TaskFacts(name="t", family="sft", trainer=trainer)


def shaped(row: dict[str, Any], format: str | None, trainer: str = "sft") -> list[dict[str, Any]]:
    return shape_rows([row], about(format=format), task(trainer))


CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    ("row", "format", "trainer", "expected"),
    [
        ({"messages": CHAT}, "messages", "sft", {"messages": CHAT}),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            "sharegpt",
            "sft",
            {"messages": CHAT},
        ),
        (
            {"instruction": "Add", "input": "1 2", "output": "3"},
            "alpaca",
            "sft",
            {"messages": [{"role": "user", "content": "Add\n\n1 2"}, {"role": "assistant", "content": "3"}]},
        ),
        ({"question": "q", "answer": 7}, "prompt-completion", "sft", {"prompt": "q", "completion": "7"}),
        ({"text": "a"}, "text", "sft", {"text": "a"}),
        (
            {"prompt": "p", "chosen": "c", "rejected": "r", "id": 3},
            "preference",
            "dpo",
            {"prompt": "p", "chosen": "c", "rejected": "r"},
        ),
        ({"chosen": CHAT, "rejected": CHAT}, "preference", "reward", {"chosen": CHAT, "rejected": CHAT}),
        (
            {"prompt": "p", "completion": "c", "label": "false"},
            "unpaired-preference",
            "kto",
            {"prompt": "p", "completion": "c", "label": False},
        ),
        ({"prompt": "p", "answer": "4"}, "prompt", "grpo", {"prompt": "p", "reference": "4"}),
        ({"text": "t", "label": 1}, "classification", "classification", {"text": "t", "label": 1}),
    ],
)
def test_every_format_takes_its_trainers_shape(
    row: dict[str, Any], format: str, trainer: str, expected: dict[str, Any]
) -> None:
    assert shaped(row, format, trainer) == [expected]
    if trainer != "grpo":
        assert shaped(row, None, trainer) == [expected], "the format is found without being named"


@pytest.mark.parametrize(
    ("row", "format", "trainer", "says"),
    [
        ({"text": "a"}, "text", "dpo", "the dpo trainer needs preference"),
        ({"messages": "Hi"}, "messages", "sft", "row 1.*not a list of messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages", "sft", "unknown role 'wizard'"),
        ({"messages": [{"role": "user"}]}, "messages", "sft", "has no content"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages", "sft", "picture or sound"),
        ({"prompt": "p", "completion": "c", "label": "maybe"}, "unpaired-preference", "kto", "not true or false"),
        ({"prompt": "p"}, "prompt", "grpo", "no reference answer"),
        ({"prompt": "p"}, "prompt-completion", "sft", "has no completion.*Its fields are prompt"),
    ],
)
def test_rows_that_do_not_fit_are_named(row: dict[str, Any], format: str, trainer: str, says: str) -> None:
    with pytest.raises(LoraAdviseError, match=says):
        shaped(row, format, trainer)


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n', 2),
        ("a.json", '[{"text": "a"}]', 1),
        ("b.json", '{"data": [{"text": "a"}, {"text": "b"}]}', 2),
        ("a.csv", 'text,label\n"a, b",1\nc,0\n', 2),
        ("a.tsv", "text\tlabel\na\t1\n", 1),
        ("a.txt", "one\ntwo\n\n\nthree\n", 2),
    ],
)
def test_files_are_read(tmp_path: Path, name: str, text: str, count: int) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    rows = read_rows(tmp_path / name)
    assert len(rows) == count
    assert "text" in rows[0]


def test_parquet_is_read(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    parquet.write_table(arrow.table({"messages": [CHAT], "n": [1]}), tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet") == [{"messages": CHAT, "n": 1}]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"text": 1}\n{"text"\n', "line 2: broken JSON"),
        ("a.jsonl", b"[1]\n", "row 1: is list"),
        ("a.jsonl", b"\n", "holds no rows"),
        ("a.jsonl", b'{"a": "\xff"}\n', "not UTF-8"),
        ("a.json", b"[" * 100_000, "broken JSON"),
        ("a.json", b'{"a": 1}', "one JSON object"),
        ("a.csv", b"a,b\n1\n", "line 2: has another number of cells"),
        ("a.parquet", b"PAR1 nonsense", "cannot be read as parquet"),
        ("a.pkl", b"x", "unknown kind of data file"),
    ],
)
def test_broken_files_are_one_sentence(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LoraAdviseError, match=says) as caught:
        read_rows(tmp_path / name)
    assert "\n" not in str(caught.value)


@given(st.integers(2, 300), st.floats(0.01, 0.6), st.integers(0, 5))
def test_the_split_is_whole_disjoint_and_repeatable(count: int, share: float, seed: int) -> None:
    rows = [{"n": i} for i in range(count)]
    if math.ceil(count * share) >= count:
        with pytest.raises(LoraAdviseError, match="leaves nothing"):
            split(rows, share, seed)
        return
    train, held = split(rows, share, seed)
    assert sorted(r["n"] for r in train + held) == list(range(count))
    assert len(held) == math.ceil(count * share)
    assert split(rows, share, seed) == (train, held)


class Plain:
    """A tokenizer as far as masking looks at one: its template marks no answers."""

    chat_template = "{{ messages }}"


def test_loss_masks() -> None:
    said: list[str] = []
    chat = [{"messages": CHAT}]
    assert mask_rows(chat, "all", Plain, said) == (chat, {"assistant_only_loss": False})
    last = [{"prompt": CHAT[:1], "completion": CHAT[1:]}]
    assert mask_rows(chat, "assistant", Plain, said) == (last, {"completion_only_loss": True})
    assert mask_rows(last, "completion", Plain, said) == (last, {"completion_only_loss": True})
    assert said == []
    mask_rows([{"text": "a"}], "completion", Plain, said)
    assert "every token carries loss" in said[0]
    with pytest.raises(LoraAdviseError, match="nothing to learn"):
        mask_rows([{"messages": CHAT[1:]}], "completion", Plain, said)


def test_questions_have_a_reference_answer() -> None:
    assert question_and_answer({"messages": CHAT}) == (CHAT[:1], "Hello")
    assert question_and_answer({"prompt": "p", "chosen": "c"}) == ("p", "c")
    assert question_and_answer({"prompt": "p", "completion": "c", "label": False}) is None
    assert question_and_answer({"text": "t"}) is None


def test_detection_does_not_guess() -> None:
    assert detect({"foo": 1}) == "unknown"


def test_what_is_missing_is_found_without_imports() -> None:
    assert set(missing()) <= {"torch", "transformers", "peft", "trl", "accelerate", "datasets"}


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    entry = LogEntry(step=1, loss=math.nan, grad_norm=math.inf, extra={"a": -math.inf})
    run = Run(log=(entry,), signals=(AdapterSignal(step=1, norm_b=0.0, norm_a=1.0),), outcome="failed", max_steps=4)
    write_run(run, tmp_path / "run.json")
    json.loads((tmp_path / "run.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    again = read_run(tmp_path / "run.json")
    assert math.isnan(again.log[0].loss)
    assert again.log[0].grad_norm == math.inf
    assert to_json(again) == to_json(run)


def test_foreign_logs_are_read(tmp_path: Path) -> None:
    history = [
        {"step": 1, "loss": 2.5, "learning_rate": 1e-4, "epoch": 0.5, "entropy": 1.0},
        {"step": 2, "eval_loss": 2.0, "eval_runtime": 1.0},
        {"step": 2, "train_runtime": 3.0, "train_loss": 2.2, "train_samples_per_second": 8.0},
    ]
    state = {"log_history": history, "max_steps": 2, "num_train_epochs": 1, "logging_steps": 1, "global_step": 2}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "list.json").write_text(json.dumps(history))
    (tmp_path / "lines.jsonl").write_text("\n".join(json.dumps(row) for row in history))
    (tmp_path / "nan.json").write_text('[{"step": 1, "loss": NaN}, {"step": 2, "loss": null}]')
    run = read_run(tmp_path)
    assert (run.max_steps, run.steps_done, run.logging_steps, run.wall_s) == (2, 2, 1, 3.0)
    assert run.log[0].loss == 2.5
    assert run.log[0].extra == {"entropy": 1.0}
    assert run.log[1].eval_loss == 2.0
    assert run.outcome == "finished"
    assert read_run(tmp_path / "list.json").log == read_run(tmp_path / "lines.jsonl").log == run.log
    losses = [e.loss for e in read_run(tmp_path / "nan.json").log]
    assert math.isnan(losses[0])
    assert losses[1] is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("{}", "holds no training log"),
        ('[{"loss": 1}]', "has a step"),
        ("[" * 100_000, "nested too deeply|not JSON"),
        ('{"log": [{"step": -1}]}', r"log\.0\.step"),
    ],
)
def test_what_is_no_log_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "log.json").write_text(text)
    with pytest.raises(LoraAdviseError, match=says) as caught:
        read_run(tmp_path / "log.json")
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["step", "loss", "log", "log_history", "eval_loss", "x"]), inner, max_size=4
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_is_a_run_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.mktemp("log") / "log.json"
    path.write_text(json.dumps(content))
    try:
        assert isinstance(read_run(path), Run)
    except LoraAdviseError as error:
        assert "\n" not in str(error)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of real logs is not beside this checkout")
def test_real_logs_are_read() -> None:
    for path in sorted(CORPUS.glob("*.json")):
        run = read_run(path)
        state = json.loads(path.read_text("utf-8"))
        written = state.get("log_history", []) if isinstance(state, dict) else state
        assert len(run.log) >= min(3, len({entry.get("step") for entry in written})), path.name
        assert all(e.step >= 0 for e in run.log)
