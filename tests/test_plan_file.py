"""The plan file: exact round trips, one clear sentence for every mistake, and nothing dangerous is read."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import typing
from pathlib import Path
from types import UnionType

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_advise.atomic_file import write_text
from lora_advise.checked import checked
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import (
    DataFacts,
    Facts,
    HardwareFacts,
    LoraFacts,
    Origin,
    QuantFacts,
    StackFacts,
    TaskFacts,
    TrainFacts,
)
from lora_advise.plan import Override, Plan
from lora_advise.plan_file import read_plan, write_plan
from lora_advise.schema import plan_schema
from lora_advise.section import field_types

TEXT = st.text(max_size=24) | st.sampled_from(
    [
        "no",
        "null",
        "true",
        "3e-4",
        "0o17",
        "1:30",
        "2026-01-01",
        "~",
        "- a",
        "a: b",
        "# c",
        "*x",
        "&x",
        "!t",
        "{",
        "日本",
        "'",
        '"',
        ".inf",
    ]
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([3e-4, 1e-5, 2.0, 1e22, 5e-324, 0.1 + 0.2])
NUMBERS = st.integers(min_value=1, max_value=10**15)


def strategy(annotation):
    """Values of one field, from its annotation."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return strategy(args[0])
    if origin in (typing.Union, UnionType):
        return st.one_of(*(strategy(arg) for arg in args))
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin is tuple:
        return st.lists(strategy(args[0]), max_size=4).map(tuple)
    if origin is dict:
        return st.dictionaries(TEXT, strategy(args[1]), max_size=3)
    return {bool: st.booleans(), int: NUMBERS, float: FLOATS, str: TEXT, type(None): st.none()}[annotation]


def sections(model):
    return st.fixed_dictionaries({name: strategy(kind) for name, kind in field_types(model).items()}).map(
        lambda values: checked(model, values)
    )


PLAIN = {
    "task": TaskFacts,
    "lora": LoraFacts,
    "quant": QuantFacts,
    "train": TrainFacts,
    "data": DataFacts,
    "hardware": HardwareFacts,
    "stack": StackFacts,
}
VALUES = st.none() | st.booleans() | NUMBERS | FLOATS | TEXT | st.lists(TEXT, max_size=3).map(tuple)
OVERRIDES = st.lists(st.builds(Override, field=TEXT, value=VALUES, because=st.none() | TEXT), max_size=3).map(tuple)
ORIGINS = st.dictionaries(TEXT, st.sampled_from(Origin), max_size=5)


@pytest.fixture
def resolve(sample):
    return lambda asked: (sample.model(name=asked, asked=None), ())


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    parts=st.fixed_dictionaries({name: st.none() | sections(model) for name, model in PLAIN.items()}),
    names=st.none() | st.tuples(TEXT, st.none() | TEXT, st.none() | TEXT),
    overrides=OVERRIDES,
    origins=ORIGINS,
    profile=st.sampled_from(["safe", "balanced"]),
)
def test_every_plan_comes_back_exactly(sample, resolve, parts, names, overrides, origins, profile):
    model = sample.model(name=names[0], asked=names[1], path=names[2]) if names else None
    plan = Plan(facts=Facts(model=model, **parts), origins=origins, overrides=overrides, profile=profile)
    assert read_plan(write_plan(plan, sample.decisions()), resolve) == plan


def test_comments_teach_and_snapshot(sample, resolve, snapshot):
    advice = sample.advice()
    text = write_plan(advice.plan, advice.decisions)
    snapshot("plan.yaml", text)
    assert read_plan(text, resolve) == advice.plan
    assert "lora-advise run FILE" in text
    assert max(len(line) for line in text.splitlines()) <= 120
    for decision in advice.decisions:
        words = " ".join(line.strip("# ") for line in text.splitlines())
        assert " ".join(decision.because.split()) in words, decision.field


def test_numbers_are_numbers_for_every_yaml_reader(sample):
    old = yaml.safe_load(write_plan(sample.plan(), sample.decisions()))
    assert old["training"]["learning_rate"] == 2e-4
    assert old["lora"]["target_modules"][0] == "q_proj"
    tiny = sample.facts().train.changed({"learning_rate": 3.3e-17, "weight_decay": 1e22})
    facts = sample.facts().changed({"train": tiny})
    assert yaml.safe_load(write_plan(Plan(facts=facts)))["training"]["learning_rate"] == 3.3e-17


@pytest.mark.parametrize("written", ["3e-4", "3E-4", ".0003", "0.0003", "'3e-4'", "+3e-4", "3.0e-04"])
def test_a_rate_may_be_written_in_any_way(sample, resolve, written):
    text = write_plan(sample.plan()).replace("learning_rate: 0.0002", f"learning_rate: {written}")
    assert read_plan(text, resolve).facts.train.learning_rate == 3e-4


def test_words_of_yaml_1_1_stay_words(sample, resolve):
    text = write_plan(sample.plan()).replace("eval_strategy: steps", "eval_strategy: no")
    assert read_plan(text, resolve).facts.train.eval_strategy == "no"


def test_optional_keys_and_sections_may_be_missing(resolve):
    plan = read_plan("version: 1\nlora: {r: 8, lora_alpha: 16}\n", resolve)
    assert plan == Plan(facts=Facts(lora=LoraFacts(r=8, lora_alpha=16.0)))


MISTAKES = {
    "unknown key": ("  r: 16", "  rank_r: 16\n  r: 16", r"line \d+: lora has no key 'rank_r'"),
    "did you mean": (
        "lora_dropout:",
        "lora_droput:",
        r"line \d+: lora has no key 'lora_droput'; did you mean 'lora_dropout'",
    ),
    "wrong section": (
        "  seed: 42",
        "  eval_share: 0.1",
        r"line \d+: training has no key 'eval_share'; it belongs in the section 'eva",
    ),
    "unknown section": ("stack:", "stak:", r"line \d+: a plan has no key 'stak'; did you mean 'stack'"),
    "wrong type": ("  r: 16", "  r: many", r"line \d+: lora\.r: 'many' should be a valid integer"),
    "fraction": ("  r: 16", "  r: 16.5", r"line \d+: lora\.r: '16\.5' should be a valid integer"),
    "bool for number": ("  r: 16", "  r: true", r"line \d+: lora\.r: true should be a number"),
    "out of range": ("  r: 16", "  r: 0", r"line \d+: lora\.r: '0' should be greater than or equal to 1"),
    "infinite": (
        "learning_rate: 0.0002",
        "learning_rate: 1e999",
        r"line \d+: training\.learning_rate should be a finite",
    ),
    "infinite nested": (
        "min_lr_rate: 0.1",
        "min_lr_rate: 1e999",
        r"line \d+: training\.lr_scheduler_kwargs should be a finite",
    ),
    "number for text": ('trl: "1.10"', "trl: 1.10", r"line \d+: stack\.versions: .*put text in quotes"),
    "choice": ("sharding: none", "sharding: fsdp3", r"line \d+: stack\.sharding: 'fsdp3' should be 'none', 'ddp'"),
    "evaluation": ("eval_steps: 60", "eval_steps: often", r"line \d+: evaluation\.eval_steps: 'often'"),
    "missing": ("  max_length: 1024\n", "", r"line \d+: training needs the key 'max_length'"),
    "repeated": ("  r: 16", "  r: 16\n  r: 8", r"line \d+: the key 'r' is given twice"),
    "alias": ("profile: balanced", "profile: &a balanced", r"line \d+: anchors and aliases"),
    "tag": ("profile: balanced", "profile: !!python/object:os.system x", r"line \d+: tags such as .*python"),
    "profile": ("profile: balanced", "profile: bold", r"line \d+: profile: 'bold' should be 'safe' or 'balanced'"),
    "newer": ("version: 1", "version: 2", r"line \d+: version 2 was written by a newer lora-advise"),
    "strange version": ("version: 1", "version: true", r"line \d+: version 'True' is not known"),
    "origin": ("  probed:", "  guessed:", r"line \d+: origins has no key 'guessed'; it has set, inherited"),
    "not a mapping": ("stack:", "stack: 3\nprofile2:", r"line \d+: "),
    "list": ("task:\n  name: qa\n  family: sft\n  trainer: sft", "task: [qa]", r"line \d+: task should be a mapping"),
    "override": ("    value: 16\n", "", r"line \d+: an override has a field, a value"),
    "indentation": ("  name: qa", "   name: qa", r"line \d+: not readable as YAML"),
    "document": ("profile: balanced", "profile: balanced\n---\na: 1", r"line \d+: a second document"),
    "control": ("profile: balanced", "profile: balanced\x07", r"not readable as YAML"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_with_its_line(sample, resolve, name):
    before, after, message = MISTAKES[name]
    text = write_plan(sample.plan())
    assert before in text
    with pytest.raises(LoraAdviseError, match=message) as caught:
        read_plan(text.replace(before, after, 1), resolve)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_line_is_the_right_one(sample, resolve):
    lines = write_plan(sample.plan(), sample.decisions()).splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("  eval_steps:"))
    lines[place] = "  eval_steps: often"
    with pytest.raises(LoraAdviseError, match=f"plan line {place + 1}: "):
        read_plan("\n".join(lines) + "\n", resolve)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [1,1]\nb: &b [*a,*a]\nc: [*b,*b]\n", "anchors and aliases"),
        ("a: &a [*a]\n", "anchors and aliases"),
        ("[" * 4000 + "\n", "nested deeper than|maximum nesting depth"),
        ("x: " + "{a: " * 400 + "\n", "nested deeper than|not readable"),
        ("? [a, b]\n: 1\n", "a key must be a word"),
        ("\n\n", "no plan in it"),
        ("- 1\n- 2\n", "no plan in it"),
        ("base_model: x\nadapter: lora\n", "a plan has no key 'base_model'"),
        ("version: 1\n" + "#" * 2**20, "larger than 1 MiB"),
        ("version: 1\nlora: {r: " + "9" * 5000 + ", lora_alpha: 1}\n", "lora.r"),
        ("version: 1\ntraining: null\nevaluation: {eval_steps: 1}\n", "evaluation needs a training section"),
    ],
)
def test_bombs_and_strangers_are_refused(text, message, resolve):
    with pytest.raises(LoraAdviseError, match=message):
        read_plan(text, resolve)


def test_files(tmp_path, sample, resolve):
    path = tmp_path / "plan.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + write_plan(sample.plan()).replace("\n", "\r\n").encode())
    assert read_plan(path, resolve) == sample.plan()
    assert read_plan(str(path), resolve) == sample.plan()
    path.write_bytes(b"version: 1\n\xff")
    with pytest.raises(LoraAdviseError, match="byte 11 is not UTF-8"):
        read_plan(path)
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(LoraAdviseError, match="larger than 1 MiB"):
        read_plan(path)
    for missing in (tmp_path / "none.yaml", tmp_path, "a\0b"):
        with pytest.raises(LoraAdviseError, match="cannot read it"):
            read_plan(missing)


def test_the_model_is_named_with_its_line_when_it_is_not_found(sample):
    def unknown(asked):
        raise LoraAdviseError(f"{asked} is not in the catalogue.")

    with pytest.raises(LoraAdviseError, match=r"plan line \d+: Qwen/Qwen2.5-7B-Instruct is not in the catalogue"):
        read_plan(write_plan(sample.plan()), unknown)


def test_an_infinite_number_is_not_written(sample):
    plan = Plan(facts=Facts(), overrides=(Override(field="lora.r", value=float("inf")),))
    with pytest.raises(LoraAdviseError, match="finite"):
        write_plan(plan)


def test_hostile_text_stays_inside_its_comment(sample, resolve):
    advice = sample.hostile()
    text = write_plan(advice.plan, advice.decisions)
    model = advice.facts.model
    assert read_plan(text, lambda asked: (sample.model(name=asked), ())).facts.model.name == model.name
    assert "\x1b" not in text
    assert "\x07" not in text


def test_the_schema_accepts_what_is_written_and_refuses_mistakes(sample):
    schema = plan_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = json.loads(json.dumps(yaml.safe_load(write_plan(sample.plan(), sample.decisions()))))
    assert not list(validator.iter_errors(good))
    empty = yaml.safe_load(write_plan(Plan(facts=Facts())))
    assert not list(validator.iter_errors(empty))
    for section, key, value in (
        ("lora", "rr", 1),
        ("lora", "r", "many"),
        ("evaluation", "seed", 1),
        ("training", "eval_steps", 1),
    ):
        bad = {**good, section: {**good[section], key: value}}
        assert list(validator.iter_errors(bad)), (section, key)
    assert schema["$id"].startswith("urn:lora-advise:")


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path):
    path = tmp_path / "plan.yaml"
    write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    path.chmod(0o640)
    write_text(path, "b\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    write_text(link, "c\n")
    assert link.is_symlink()
    assert path.read_text() == "c\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.yaml", "plan.yaml"]


def test_the_umask_holds_for_a_new_file(tmp_path):
    code = (
        "import os, sys; os.umask(0o027); from lora_advise.atomic_file import write_text; write_text(sys.argv[1], 'x')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], check=True)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_what_cannot_be_written_says_why(tmp_path):
    with pytest.raises(LoraAdviseError, match="is a folder"):
        write_text(tmp_path, "x")
    with pytest.raises(LoraAdviseError, match="does not exist; create it"):
        write_text(tmp_path / "no" / "x", "x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(LoraAdviseError, match="not a folder"):
        write_text(tmp_path / "file" / "x", "x")
    with pytest.raises(LoraAdviseError, match="cannot write it"):
        write_text(tmp_path / ("n" * 300), "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_device_is_written_directly():
    write_text(Path(os.devnull), "x")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
