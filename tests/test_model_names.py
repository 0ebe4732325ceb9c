"""Sizes and names as people type them."""

import pytest

from lora_advise import model_names as names


@pytest.mark.parametrize(
    ("asked", "parameters"),
    [("32B", 32e9), ("0.5b", 0.5e9), ("600M", 600e6), ("1T", 1e12), ("30B-A3B", 30e9), ("8x7B", 56e9), (" 7b ", 7e9)],
)
def test_sizes(asked, parameters):
    assert names.parse_size(asked) == parameters


@pytest.mark.parametrize("asked", ["", "B", "7", "7 billion", "qwen-7B", "7B-chat", "-7B", "7.B"])
def test_not_sizes(asked):
    assert names.parse_size(asked) is None


@pytest.mark.parametrize(
    ("model_id", "asked", "says"),
    [
        ("Qwen/Qwen2.5-32B-Instruct", "32B", True),
        ("x/Model-132B", "32B", False),
        ("x/Model-1.7B", "7B", False),
        ("Qwen/Qwen3-30B-A3B", "30B", False),
        ("Qwen/Qwen3-30B-A3B", "30B-A3B", True),
        ("mistralai/Mixtral-8x7B-v0.1", "8x7b", True),
        ("mistralai/Mixtral-8x7B-v0.1", "7b", False),
    ],
)
def test_a_size_is_a_whole_word_of_an_id(model_id, asked, says):
    assert names.saying_size([model_id], asked) == [model_id] * says


@pytest.mark.parametrize(
    ("model_id", "variant"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "instruct"),
        ("google/gemma-2-9b-it", "instruct"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "reasoning"),
        ("Qwen/QwQ-32B", "reasoning"),
        ("google/gemma-3-4b-pt", "base"),
        ("Qwen/Qwen3-8B-Base", "base"),
        ("meta-llama/Llama-3.1-8B", None),
        ("ibm-granite/granite-3.0-2b", None),
    ],
)
def test_what_a_name_says_of_the_training(model_id, variant):
    assert names.variant_in(model_id) == variant


def test_variants_and_quantised_uploads_have_one_stem():
    stems = {
        names.stem(i)
        for i in ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct", "unsloth/Qwen2.5-7B-Instruct-bnb-4bit", "qwen2.5_7b")
    }
    assert stems == {"qwen2.5-7b"}


def test_closest_names_come_from_the_basename_when_the_owner_is_wrong():
    ids = ["Qwen/Qwen2.5-7B-Instruct", "meta-llama/Llama-3.1-8B", "google/gemma-2-9b"]
    assert names.closest("somebody/Qwen2.5-7B-Instrct", ids)[0] == ids[0]
    assert names.closest("zzzzzzzzzzzz", ids) == []
