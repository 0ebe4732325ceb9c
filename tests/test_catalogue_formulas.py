"""The formulas of data/architectures.json against the catalogue, and config.json files that are broken or hostile."""

import json
import sys

import pytest

from lora_advise import architecture, catalogue, config_json
from lora_advise.architecture import from_config
from lora_advise.catalogue import resolve_model
from lora_advise.errors import LoraAdviseError

ROWS = [row for i in catalogue.index() if (row := catalogue.row(i))["id"] == i]
LLAMA = {
    "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192, "vocab_size": 128256,
    "tie_word_embeddings": True,
}  # fmt: skip


def test_the_common_model_types_have_formulas():
    assert len(architecture.architectures()) >= 37


@pytest.mark.parametrize("model_type", sorted(architecture.architectures()))
def test_formulas_give_the_rows_of_the_catalogue(model_type):
    rows = [r for r in ROWS if r["model_type"] == model_type and r["class"] and architecture.layout_of(r["config"])]
    assert rows
    for row in rows:
        model = from_config(row["config"], row["id"])
        known = catalogue.facts(row["id"])
        assert set(model.modules) == set(known.modules), row["id"]
        assert (model.total_params, model.active_params) == (known.total_params, known.active_params), row["id"]
        assert model.recurrent_layers == known.recurrent_layers, row["id"]
        assert (model.hidden_size, model.num_hidden_layers) == (known.hidden_size, known.num_hidden_layers), row["id"]


def test_a_config_with_keys_left_out_takes_the_defaults_of_its_class():
    short = {k: v for k, v in LLAMA.items() if k not in {"head_dim", "tie_word_embeddings"}}
    full, model = from_config({**LLAMA, "tie_word_embeddings": False}, "x"), from_config(short, "x")
    assert model.modules == full.modules
    assert model.total_params == full.total_params


def test_the_config_of_every_listed_model_is_known_without_transformers(tmp_path, monkeypatch):
    """By the formulas of its type, or as the twin of the row that has the same dimensions."""
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)  # importing them raises ImportError
    path = tmp_path / "config.json"
    for row in ROWS:
        path.write_text(json.dumps({**row["config"], "torch_dtype": "bfloat16"}))
        found, _ = resolve_model(str(tmp_path))
        known = catalogue.facts(row["id"])
        assert set(found.modules) == set(known.modules), row["id"]
        assert found.total_params == known.total_params, row["id"]
        assert (found.name, found.path) == (str(tmp_path), str(path))


def test_tied_embeddings_are_counted_once():
    tied, untied = from_config(LLAMA, "x"), from_config({**LLAMA, "tie_word_embeddings": False}, "x")
    assert untied.total_params - tied.total_params == 128256 * 2048


def write(folder, text):
    (folder / "config.json").write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "holds a JSON list"),
        ('"x"', "holds a JSON str"),
        ("{}", "no model_type"),
        ('{"model_type": 3}', "no model_type"),
        (json.dumps({**LLAMA, "hidden_size": -1}), "hidden_size = -1"),
        (json.dumps({**LLAMA, "num_hidden_layers": 10**12}), "num_hidden_layers = 1000000000000"),
        (json.dumps({k: v for k, v in LLAMA.items() if k != "hidden_size"}), "does not say hidden_size"),
        (json.dumps({**LLAMA, "head_dim": None, "num_attention_heads": 0}), "zero|side of 0"),
        ("[" * 100_000, "is not valid JSON"),
        ("\x00", "is not valid JSON"),
        ('{"model_type": "llama", "hidden_size": 1e400}', "says hidden_size = .inf., which is no whole number"),
    ],
)
def test_a_broken_config_is_one_clear_error(tmp_path, text, message):
    with pytest.raises(LoraAdviseError, match=message):
        resolve_model(write(tmp_path, text))


def test_a_huge_config_is_not_read(tmp_path):
    with pytest.raises(LoraAdviseError, match="more than"):
        resolve_model(write(tmp_path, '{"a": "' + "x" * config_json.CONFIG_LIMIT + '"}'))


@pytest.mark.parametrize("formula", ["__import__('os')", "a.__class__", "a**a", "[a]", "(lambda: 1)()", "'x'", "a(1)"])
def test_formulas_are_arithmetic_only(formula):
    with pytest.raises((ValueError, KeyError)):
        architecture.evaluate(formula, {"a": 2})


def test_formulas_compute():
    values = {"a": 7, "b": 2, "text_config.c": 3, "layer_types#full_attention": 4}
    assert architecture.evaluate("(a + 1) // b * text_config.c - layer_types#full_attention", values) == 8
    assert architecture.evaluate("a if b else 0", values) == 7
