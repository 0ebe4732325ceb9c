"""JSON configs: exact places, what Python's reader accepts, comments, and one clear sentence for everything else."""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_advise.document import MAX_ENTRIES, Comment, span_at
from lora_advise.document_json import read_json
from lora_advise.errors import LoraAdviseError

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus" / "configs"


def only(text):
    (config,) = read_json(text, "config.json").configs
    return config


def said(text):
    with pytest.raises(LoraAdviseError) as caught:
        read_json(text, "config.json")
    return str(caught.value)


def frozen(tree):
    if isinstance(tree, list):
        return tuple(map(frozen, tree))
    return {key: frozen(item) for key, item in tree.items()} if isinstance(tree, dict) else tree


def check(document):
    """Every place reads back, by Python's own reader, as the value that the entry has."""
    text = document.text
    for config in document.configs:
        for entry in (*config.entries, *config.shadowed):
            written = text[entry.span.start : entry.span.end]
            assert entry.span == span_at(text, entry.span.start, entry.span.end)
            if entry.key is not None:
                assert json.loads(text[entry.key.start - 1 : entry.key.end + 1]) == entry.path[-1]
            if "/" not in written:
                assert repr(frozen(json.loads(written))) == repr(entry.value)
            if not isinstance(entry.value, (tuple, dict)):
                assert written == (f'"{entry.text}"' if entry.quoted else entry.text)


def test_every_node_has_an_entry_with_its_place():
    text = '{\r\n  "r": 8,\r\n  "modules": ["q_proj", "v_\\u0070roj"],\r\n  "x": {"lr": 3e-4, "n": null}\r\n}'
    config = only(text)
    assert [(e.path, e.value, e.quoted, e.text) for e in config.entries] == [
        (("r",), 8, False, "8"), (("modules",), ("q_proj", "v_proj"), False, ""),
        (("modules", 0), "q_proj", True, "q_proj"), (("modules", 1), "v_proj", True, "v_\\u0070roj"),
        (("x",), {"lr": 3e-4, "n": None}, False, ""), (("x", "lr"), 3e-4, False, "3e-4"), (("x", "n"), None, False, "null"),
    ]  # fmt: skip
    rate = config.get("x", "lr")
    assert (rate.span.line, rate.span.column) == (4, 15)
    assert text[rate.key.start : rate.key.end] == "lr"
    assert text[config.span.start : config.span.end] == text


@pytest.mark.parametrize(
    ("written", "meant"),
    [("-0.5E+3", -500.0), ("1e-4", 1e-4), ("12", 12), ("-7", -7), ("true", True), ("false", False), ("null", None),
     ("Infinity", math.inf), ("-Infinity", -math.inf), ("1e999", math.inf), ('"3e-4"', "3e-4"), ('""', ""), ("9" * 5000, math.inf)],
)  # fmt: skip
def test_values(written, meant):
    found = only(f'{{"a": {written}}}').get("a").value
    assert found == meant and type(found) is type(meant)


def test_not_a_number_is_one():
    assert math.isnan(only('{"a": NaN}').get("a").value)


def test_the_last_of_equal_keys_counts():
    config = only('{"r": 8, "o": {"x": 1}, "r": 16, "o": 2}')
    assert [(e.path, e.value) for e in config.entries] == [(("r",), 16), (("o",), 2)]
    assert [(e.path, e.value) for e in config.shadowed] == [(("r",), 8), (("o",), {"x": 1}), (("o", "x"), 1)]


def test_comments_are_read():
    text = '// top\n{ /* in */ "url": "http://x", // end\n  /* alone\n  too */\n "a": 1 }'
    document = read_json(text, "x")
    assert document.comments == (
        Comment(1, "top", True, 1), Comment(2, "in", False, 3), Comment(2, "end", False, 31),
        Comment(3, "alone\n  too", True, 3),
    )  # fmt: skip
    assert [entry.value for entry in document.configs[0].entries] == ["http://x", 1]


def test_a_list_and_a_lone_value():
    assert [entry.path for entry in only('[{"a": 1}]').entries] == [(0,), (0, "a")]
    assert only("[]").entries == only("{}").entries == ()
    assert "single value" in only('"words"').notes[0]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "line 1, column 1", "no JSON"), (" \n", "line 2, column 1", "no JSON"),
        ('{"a": 1,\n}', "line 1, column 8", "remove the comma"), ("[1,]", "line 1, column 3", "remove the comma"),
        ("{a: 1}", "line 1, column 2", "key in double quotes"), ("{'a': 1}", "line 1, column 2", "key in double quotes"),
        ('{"a": True}', "line 1, column 7", "write true in place of True"), ('{"a": None}', "line 1, column 7", "write null"),
        ('{"a": 01}', "line 1, column 7", "'01'"), ('{"a": .5}', "line 1, column 7", "'.5'"), ('{"a": 1.}', "line 1, column 7", "'1.'"),
        ('{\n"a" 1}', "line 2, column 5", "a colon"), ("[1 2]", "line 1, column 4", "a comma or ]"),
        ('{"a": "x\ny"}', "line 1, column 7", "closing quote"), (r'{"a": "\q"}', "line 1, column 7", "escape"),
        ('{"a": [1', "line 1, column 9", "ends before a comma or ]"), ('{"a": 1} x', "line 1, column 10", "end of the file"),
        ("/* x", "line 1, column 1", "has no end"), ("\x00", "line 1, column 1", "control character"),
        ("[" * 50, "line 1, column 42", "nested deeper"), ('{"a": }', "line 1, column 7", "a value"),
    ],
)  # fmt: skip
def test_errors_name_the_place_and_the_way_out(text, place, words):
    message = said(text)
    assert message.startswith(f"config.json {place}: ") and words in message and message.endswith(".")


SCALARS = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats() | st.text(max_size=12)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(
    tree=st.dictionaries(st.text(max_size=8), TREES, max_size=5), indent=st.sampled_from([None, 2]), ascii=st.booleans()
)
def test_what_python_writes_comes_back(tree, indent, ascii):
    document = read_json(json.dumps(tree, indent=indent, ensure_ascii=ascii), "x")
    found = {e.path[0]: e.value for e in document.configs[0].entries if len(e.path) == 1}
    assert repr(found) == repr(frozen(tree))
    check(document)


PIECES = st.sampled_from(
    ["{", "}", "[", "]", ",", ":", '"a"', '"r"', '"', "\\", "\\n", "1", "-", "0", ".5", "e3", "NaN", "true", "nul", " ", "\n", "\r\n",
     "// c\n", "/* c */", "/", "*", '"a": 1', '"a": [1, 2], ', "é", "\x00", "\ud800"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=20).map("".join) | st.text(max_size=40)


@settings(max_examples=600, deadline=None)
@given(TEXTS)
def test_any_text_is_read_or_refused_in_a_sentence(text):
    try:
        document = read_json(text, "config.json")
    except LoraAdviseError as error:
        assert str(error).startswith("config.json line ") and str(error).endswith(".")
        document = None
    try:
        json.loads(text.lstrip("\ufeff"))
    except ValueError:
        assert document is None or document.comments, "only comments are read beyond what Python reads"
    else:
        assert document is not None
    if document is not None:
        check(document)


def test_hostile_text_costs_little():
    size = 2**20
    texts = [
        piece * (size // len(piece))
        for piece in ("[", '{"a":', "[1,", '"a', "1", "//\n", "/*", "/**/", "\n", "\\", "-", "1.1e")
    ]
    texts += [
        f'"{"x" * size}',
        f'"{chr(92)}n{"x" * size}"',
        "/*" + "*" * size,
        "[" + "1," * (size // 2),
        "{" + '"a":1,' * (size // 6),
    ]
    texts += ["[" + "/**/1," * (size // 6)]
    for text in texts:
        start = time.perf_counter()
        with contextlib.suppress(LoraAdviseError):
            assert len(read_json(text, "x").configs[0].entries) <= MAX_ENTRIES
        assert time.perf_counter() - start < 5, text[:20]


def test_fifty_lines_take_milliseconds():
    text = json.dumps({f"setting_{n}": [n, str(n)] for n in range(50)}, indent=1)
    took = []
    for _ in range(5):
        start = time.perf_counter()
        read_json(text, "x")
        took.append(time.perf_counter() - start)
    assert min(took) < 0.01


def test_every_config_of_the_corpus_means_what_python_loads():
    if not CORPUS.is_dir():
        pytest.skip("the corpus of configs is not beside this checkout")
    files = sorted(CORPUS.rglob("*.json"))
    assert len(files) > 60
    for path in files:
        document = read_json(path.read_bytes().decode("utf-8-sig"), path.name)
        check(document)
        found = {e.path[0]: e.value for e in document.configs[0].entries if len(e.path) == 1}
        assert found == frozen(json.loads(document.text)), path
