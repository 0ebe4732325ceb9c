"""YAML as other trainers' configs have it: values as a person means them, exact places, bounded whatever is given."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_advise.document import MAX_ENTRIES, Comment, Unresolved, span_at
from lora_advise.document_yaml import read_yaml
from lora_advise.errors import LoraAdviseError

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus" / "configs"


def only(text):
    (config,) = read_yaml(text, "config.yaml").configs
    return config


def value(written, key="a"):
    return only(f"{key}: {written}\n").get(key).value


def said(text):
    with pytest.raises(LoraAdviseError) as caught:
        read_yaml(text, "config.yaml")
    return str(caught.value)


def check_places(document):
    """What must hold of every entry: its spans are the text of value and key, with the right line and column."""
    text = document.text
    for config in document.configs:
        for entry in (*config.entries, *config.shadowed):
            for span in filter(None, (entry.span, entry.key, entry.via)):
                assert 0 <= span.start <= span.end <= len(text)
                assert span == span_at(text, span.start, span.end)
            written = text[entry.span.start : entry.span.end]
            place = entry.via or entry.span
            if entry.via is not None:
                assert written.startswith("*")
            if entry.quoted:
                assert text[place.start] == text[place.end - 1] in "'\""
                assert entry.text == text[place.start + 1 : place.end - 1]
            elif entry.text:
                assert entry.text == text[place.start : place.end]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("3e-4", 3e-4), ("1E4", 1e4), ("2.0e-4", 2e-4), (".5", 0.5), ("1.", 1.0), ("-1", -1), ("+3", 3),
        ("1_000", 1000), ("20_000", 20_000), ("1_000.5", 1000.5), ("1__0", "1__0"), ("_1", "_1"), ("1_", "1_"),
        ("0x10", 16), ("0o17", 15), ("010", 10), ("1:30", "1:30"), ("2026-01-01", "2026-01-01"), ("1.2.3", "1.2.3"),
        (".inf", math.inf), ("-.INF", -math.inf), ("inf", "inf"), ("nan", "nan"), ("9" * 30, 1e30),
        ("true", True), ("False", False), ("TRUE", True), ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("y", "y"),
        ("null", None), ("~", None), ("", None), ("auto", "auto"), ("'3e-4'", "3e-4"), ('"true"', "true"), ("''", ""),
        ("${output_dir}/x", "${output_dir}/x"), ("'{{ lr }}'", "{{ lr }}"), ("{{ lr }}", Unresolved("{{ lr }}")),
        ("{{ lr | default(3e-4) }}", Unresolved("{{ lr | default(3e-4) }}")), ("a # b", "a"), ("a#b", "a#b"),
        ("!!float 3", 3.0), ('!!float "3e-4"', 3e-4), ("!!str 3e-4", "3e-4"), ('!!int "8"', 8), ("!!bool true", True),
        ("!!null ''", None), ("!<tag:yaml.org,2002:int> 8", 8), ("!!int x", Unresolved("!!int x")), ("!!str", ""),
        ("!!int true", Unresolved("!!int true")), ("!include x.yaml", Unresolved("!include x.yaml")),
        ("!!python/tuple [1, 2]", Unresolved("!!python/tuple [1, 2]")), ("!!seq [1, x]", (1, "x")),
        ("!!binary aGk=", Unresolved("!!binary aGk=")), ("[1, [2, 3e-4], {b: c}]", (1, (2, 3e-4), {"b": "c"})),
        ("[q_proj, k_proj,]", ("q_proj", "k_proj")), ("{}", {}), ("[]", ()), ("|\n  x\n  y\n", "x\ny\n"), (">-\n  x\n  y", "x y"),
        ("'(?=[^#]*) # x'", "(?=[^#]*) # x"),
    ],
)  # fmt: skip
def test_values_are_what_a_person_means(written, meant):
    found = value(written)
    assert found == meant
    assert type(found) is type(meant)


def test_not_a_number_is_one():
    assert math.isnan(value(".nan"))


def test_text_says_how_a_value_is_written():
    config = only("a: no\nb: 3e-4\nc: '3e-4'\nd: True\ne:\nf: [1]\n")
    assert [(e.text, e.quoted) for e in config.entries] == [
        ("no", False), ("3e-4", False), ("3e-4", True), ("True", False), ("", False), ("", False), ("1", False),
    ]  # fmt: skip


def test_every_node_has_an_entry_with_its_place():
    text = "model:\n  lora: [q_proj, 'v_proj']\n  rank:\ndata:\n- path: x\n- \n"
    config = only(text)
    assert [entry.path for entry in config.entries] == [
        ("model",), ("model", "lora"), ("model", "lora", 0), ("model", "lora", 1), ("model", "rank"),
        ("data",), ("data", 0), ("data", 0, "path"), ("data", 1),
    ]  # fmt: skip
    written = {e.path: text[e.span.start : e.span.end] for e in config.entries}
    assert written["model", "lora"] == "[q_proj, 'v_proj']"
    assert written["model", "lora", 1] == "'v_proj'"
    assert written["model",] == "lora: [q_proj, 'v_proj']\n  rank:"
    assert written["model", "rank"] == "rank", "a key without a value has the place of the key"
    assert written["data", 1] == ""
    assert config.get("data", 1).span.line == 6
    assert config.get("model").value == {"lora": ("q_proj", "v_proj"), "rank": None}
    assert [text[e.key.start : e.key.end] for e in config.under("model")] == ["lora", "rank"]


def test_places_survive_windows_lines_marks_and_indentation():
    text = "\r\n  learning_rate: 3e-4 # é\r\n\r\n  'lora_r': 8\r\n"
    document = read_yaml("\ufeff" + text, "config.yaml")
    assert document.text == text
    rate, rank = document.configs[0].entries
    assert (rate.span.line, rate.span.column, rank.span.line, rank.span.column) == (2, 18, 4, 13)
    assert rank.key is not None and text[rank.key.start : rank.key.end] == "lora_r"
    assert document.comments == (Comment(2, "é", False, 23),)


def test_aliases_point_to_the_literal():
    text = "a: &rate 3e-4\nb: *rate\nc: &m\n  x: 1\nd: *m\n"
    config = only(text)
    alias = config.get("b")
    assert alias.value == 3e-4 and alias.text == "3e-4"
    assert text[alias.span.start : alias.span.end] == "*rate"
    assert text[alias.via.start : alias.via.end] == "3e-4"
    assert config.get("d").value == {"x": 1}
    assert config.get("d", "x").span == config.get("c", "x").span


def test_merge_keys_bring_in_what_the_mapping_has_not():
    text = (
        "one: &one {rank: 1, alpha: 1}\ntwo: &two {rank: 2, bias: none}\n"
        "a:\n  rank: 9\n  <<: [*one]\nb:\n  <<: *one\n  <<: *two\nc: &c\n  <<: *two\n  x: 1\nd:\n  <<: *c\n  x: 2\n"
        "e:\n  <<: {rank: 5}\n  '<<': 3\n"
    )
    config = only(text)
    expected = yaml.safe_load(text)
    assert {key: config.get(key).value for key in "abcde"} == {key: expected[key] for key in "abcde"}
    alpha = config.get("a", "alpha")
    assert text[alpha.span.start : alpha.span.end] == "1" and alpha.span.line == 1
    assert config.shadowed == (), "what a mapping takes over and replaces is no repetition"
    assert config.notes == ()
    assert {e.path for e in config.under("d")} == {("d", "rank"), ("d", "bias"), ("d", "x")}


def test_of_merged_mappings_with_one_key_the_first_counts_and_a_note_says_so():
    config = only("one: &one {rank: 1}\ntwo: &two {rank: 2}\na:\n  <<: [*one, *two]\n")
    assert config.get("a", "rank").value == 1
    assert "line 4" in config.notes[0] and "6.0.4" in config.notes[0]


def test_merging_what_is_no_mapping_is_noted():
    config = only("a:\n  <<: 3\n  b: 1\n")
    assert config.get("a").value == {"b": 1}
    assert "line 2" in config.notes[0]


def test_the_last_of_equal_keys_counts():
    config = only("r: 8\nlora: {alpha: 1}\nr: 16\nlora:\n  alpha: 2\n")
    assert [(e.path, e.value) for e in config.shadowed] == [
        (("r",), 8), (("lora",), {"alpha": 1}), (("lora", "alpha"), 1),
    ]  # fmt: skip
    assert [(e.path, e.span.line) for e in config.entries] == [(("r",), 3), (("lora",), 5), (("lora", "alpha"), 5)]


def test_keys_that_are_no_words_are_passed_over_with_a_note():
    config = only("? [a, b]\n: 1\n4: x\n&k key: 1\n*k : 2\n? lone\n# c\n? last\n")
    assert [entry.path for entry in config.entries] == [("4",), ("key",), ("lone",), ("last",)]
    assert [entry.path for entry in config.shadowed] == [("key",)] and config.shadowed[0].value == 1
    assert config.get("key").value == 2
    assert "line 1" in config.notes[0]


def test_each_document_is_a_config():
    document = read_yaml("a: 1\n---\n# only words\n---\nb: 2\n...\n---\n", "config.yaml")
    assert [config.entries[0].path for config in document.configs] == [("a",), ("b",)]


@pytest.mark.parametrize("text", ["", "\n", "# words\n", "---\n", "null\n", "{}", "\ufeff"])
def test_an_empty_document_is_a_config_without_settings(text):
    config = only(text)
    assert config.entries == () and config.notes == ()


def test_a_lone_value_is_noted():
    config = only("Just some prose.\n")
    assert config.entries == () and "single value" in config.notes[0]


def test_comments_are_found_and_nothing_else():
    text = (
        "# top\n  # in\nr: 8 # 64\ncolour: '#fff # no'\ntext: | # header\n  # no\n  x # no\n# after\nurl: http://x/#no\n"
        "l: [a, # one\n  b] # two\nplain: a\n  b#no\n  c # three\nempty:   # four\n"
    )
    assert [(c.line, c.text, c.alone) for c in read_yaml(text, "x").comments] == [
        (1, "top", True), (2, "in", True), (3, "64", False), (5, "header", False), (8, "after", True),
        (10, "one", False), (11, "two", False), (14, "three", False), (15, "four", False),
    ]  # fmt: skip


class Listening(yaml.SafeLoader):
    """PyYAML's own scanner, which tells where it passes over comments."""

    def __init__(self, text):
        self.heard = set()
        super().__init__(text)

    def peek(self, index=0):
        char = super().peek(index)
        passing = sys._getframe(1).f_code.co_name
        if char == "#" and (passing == "scan_to_next_token" or passing.endswith("_ignored_line")):
            self.heard.add(self.line + 1)
        return char


PIECES = st.sampled_from(
    ["a", "lr", ": ", ":\n", "\n", "\n  ", "  ", "- ", "# c", " # d", "#", "'", '"', "|\n", ">-\n", "[", "]", "{", "}", ", ",
     "&x ", "*x", "*x ", "<<: ", "<<: *x\n", "!!int ", "!!float ", "!t ", "!<a#b> ", "3e-4", "8", "1_0", "null", "? ", "---\n",
     "...\n", "\r\n", "\t", "é", "\x85", "%YAML 1.1\n", "{{ x }}", "\\", "~", "true"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=30).map("".join) | st.text(max_size=60)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def frozen(tree):
    if isinstance(tree, list):
        return tuple(map(frozen, tree))
    return {str(key): frozen(item) for key, item in tree.items()} if isinstance(tree, dict) else tree


@settings(max_examples=200, deadline=None)
@given(tree=st.dictionaries(st.text(max_size=8), TREES, max_size=5), flow=st.sampled_from([True, False, None]))
def test_what_pyyaml_writes_comes_back(tree, flow):
    text = yaml.safe_dump(tree, default_flow_style=flow, default_style='"', allow_unicode=True, sort_keys=False)
    document = read_yaml(text, "config.yaml")
    assert {e.path[0]: e.value for e in document.configs[0].entries if len(e.path) == 1} == frozen(tree)
    check_places(document)


@settings(max_examples=600, deadline=None)
@given(TEXTS)
def test_any_text_is_read_or_refused_in_a_sentence(text):
    try:
        document = read_yaml(text, "config.yaml")
    except LoraAdviseError as error:
        assert str(error).startswith("config.yaml line ") and str(error).endswith(".")
        return
    check_places(document)
    for comment in document.comments:
        line = document.text.split("\n")[comment.line - 1]
        assert line[comment.column - 1] == "#"
        assert comment.alone == (not line[: comment.column - 1].strip())


@settings(max_examples=600, deadline=None)
@given(TEXTS)
def test_comments_are_where_pyyaml_hears_them(text):
    try:
        document = read_yaml(text, "config.yaml")
        loader = Listening(document.text)
        list(iter(lambda: loader.check_event() and loader.get_event(), False))
    except (LoraAdviseError, yaml.YAMLError):
        return
    if not set(document.text) & set("\r\x85\u2028\u2029"):
        assert {comment.line for comment in document.comments} == loader.heard


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_without_libyaml_it_is_the_same(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(yaml, "CSafeLoader", raising=False)
        try:
            slow = read_yaml(text, "x")
        except LoraAdviseError:
            return
    try:
        fast = read_yaml(text, "x")
    except LoraAdviseError:
        return
    assert repr(fast.configs) == repr(slow.configs)


def test_errors_name_line_and_way_out():
    assert said("a: 1\nb: [1, 2\nc: 3\n").startswith("config.yaml line 3, column 2: not readable as YAML: ")
    assert "spaces, not tabs" in said("a:\n\tb: 1\n")
    assert "template" in said("{% if x %}\na: 1\n")
    assert "U+0000" in said("a: \x00\n")
    assert "line 2, column 4" in said("b: 1\na: *nowhere\n") and "no anchor" in said("a: *nowhere\n")
    assert "within its own anchor" in said("a: &a [*a]\n")


def hostile():
    size = 2**20
    many = "x, " * 10
    yield "a0: &a0 [" + many + "]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 10}]\n" for n in range(1, 40))
    yield "a0: &a0 {x: 1}\n" + "".join(
        f"a{n}: &a{n}\n  <<: [{f'*a{n - 1}, ' * 10}]\n  k{n}: 1\n" for n in range(1, 3000)
    )
    yield "a: &a\n" + "  x: 1\n" * 15_000 + "b:\n" + "  <<: *a\n" * 10_000
    yield "".join(f"%TAG !{n}! x\n" for n in range(size // 14)) + "---\na: 1\n"
    for piece in (
        "[",
        "{",
        "- ",
        "? ",
        "---\n",
        "#\n",
        "a: 1\n",
        "&a ",
        "[a, ",
        "'",
        "!",
        "!!str ",
        "%",
        "a: |\n",
        "{{",
    ):
        yield piece * (size // len(piece))
    yield "a: &x" + "\n " * (size // 2) + "b"
    yield "{" + "a, " * (size // 3) + "}"
    yield "a: |\n" + " #\n" * (size // 3)
    yield "a: " + "9" * size
    yield "a: " + "1_0" * (size // 3)


def test_hostile_text_costs_little():
    for text in hostile():
        start = time.perf_counter()
        try:
            document = read_yaml(text, "x")
            assert sum(len(config.entries) for config in document.configs) <= MAX_ENTRIES
        except LoraAdviseError:
            pass
        assert time.perf_counter() - start < 5, text[:40]


def test_fifty_lines_take_milliseconds():
    text = "".join(f"setting_{n}: {n}e-4  # words\n" for n in range(50))
    read_yaml(text, "x")
    took = []
    for _ in range(5):
        start = time.perf_counter()
        read_yaml(text, "x")
        took.append(time.perf_counter() - start)
    assert min(took) < 0.01


def test_every_config_of_the_corpus_means_what_pyyaml_loads():
    if not CORPUS.is_dir():
        pytest.skip("the corpus of configs is not beside this checkout")
    files = [path for path in sorted(CORPUS.rglob("*")) if path.suffix in (".yaml", ".yml")]
    assert len(files) > 200
    for path in files:
        document = read_yaml(path.read_bytes().decode("utf-8-sig"), path.name)
        check_places(document)
        (config,) = document.configs
        ours = {entry.path[0]: entry.value for entry in config.entries if len(entry.path) == 1}
        assert without_rates(ours) == without_rates(frozen(yaml.safe_load(document.text))), path


def without_rates(tree):
    """With numbers that YAML 1.1 reads as text made numbers: there alone do the two differ."""
    if isinstance(tree, tuple):
        return tuple(map(without_rates, tree))
    if isinstance(tree, dict):
        return {key: without_rates(item) for key, item in tree.items()}
    if isinstance(tree, str) and "e-" in tree:
        try:
            return float(tree)
        except ValueError:
            return tree
    return tree
