"""Settings of scripts that nobody knows: only what is beyond doubt, and never before a trainer's own dialect."""

from __future__ import annotations

import pytest

from lora_advise.dialects import dialect, names
from lora_advise.document_read import read_document
from lora_advise.lint_files import Wanted, readings_of
from lora_advise.unknown import unknown_fields


def reading(text, name="run.yaml"):
    found = readings_of(read_document(name, text=text), Wanted())
    assert len(found) == 1
    return found[0][1]


NESTED = """\
model:
  name: Qwen/Qwen3-4B
lora:
  rank: 16
  alpha: 32
  target_modules: [q_proj, v_proj]
training:
  quantization: 4bit
  epochs: 3
  batch_size: 1
  learning_rate: 2e-4
"""


def test_groups_with_usual_names():
    found = reading(NESTED)
    assert found.dialect.name == "other"
    facts = found.facts
    assert (facts.lora.r, facts.lora.lora_alpha, facts.lora.target_modules) == (16, 32.0, ("q_proj", "v_proj"))
    assert (facts.train.learning_rate, facts.train.num_train_epochs, facts.method) == (2e-4, 3.0, "qlora")
    assert facts.model.name == "Qwen/Qwen3-4B" and found.problems == ()


def test_nothing_is_assumed():
    facts = reading(NESTED).facts
    assert {"use_rslora", "use_dora", "lora_dropout", "bias"} <= unknown_fields(facts.lora)
    assert {"per_device_train_batch_size", "optim", "packing", "dtype", "seed"} <= unknown_fields(facts.train)
    assert facts.task is None


@pytest.mark.parametrize(
    "text",
    [
        "adapter: lora\nlearning_rate: 2.0e-6\n", "method: qlora\nlr: 1e-4\nepochs: 2\n", "lora_r: 8\nlora_alpha: 16\nlr: 1e-4\n",
        "r: 8\nlora_alpha: 16\nlr: 1e-4\n", "lora:\n  r: 8\n  alpha: 16\ntrain:\n  lr: 1e-4\n",
    ],
)  # fmt: skip
def test_unmistakable_settings(text):
    assert reading(text).facts.lora is not None


def test_method_and_bits():
    assert reading("method: qlora\nlr: 1e-4\n").facts.quant.load_in_4bit
    assert reading("adapter: lora\nbits: 8\nlr: 1e-4\nlora_dim: 4\n").facts.quant.load_in_8bit
    assert "load_in_4bit" in unknown_fields(reading("adapter: lora\nlr: 1e-4\n").facts.quant)


@pytest.mark.parametrize(
    "text",
    [
        "learning_rate: 1e-4\nepochs: 3\nbatch_size: 8\n", "r: 8\nalpha: 2\n", "version: 2\nservices:\n  lora: {image: x}\n",
        "peft_type: IA3\nr: 8\n", "rank: 3\nalpha: 0.5\nlr: 0.1\n",
    ],
)  # fmt: skip
def test_other_peoples_files_are_left_alone(text):
    found = readings_of(read_document("x.yaml", text=text), Wanted())
    assert all(item.dialect.name != "other" for _, item in found)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("adapter: qlora\nload_in_4bit: true\ndeepspeed: zero3.json\n", "axolotl"),
        ("adapter: lora\nsample_packing: true\ns2_attention: true\n", "axolotl"),
        ("finetuning_type: lora\nlearning_rate: 2e-5\n", "llamafactory"), ("use_peft: true\nload_in_4bit: false\n", "trl"),
    ],
)  # fmt: skip
def test_parts_of_files_belong_to_their_trainers(text, name):
    assert reading(text).dialect.name == name


def test_a_real_trainer_wins():
    assert names()[-1] == "other", "it is asked last, and the earlier wins a draw"
    config = read_document("x.yaml", text=NESTED).configs[0]
    assert dialect("other").recognise(config) == 1


def test_epochs_and_a_batch_are_no_training_arguments():
    text = "base_model: Qwen/Qwen3-4B\nepochs: 30\nbatch_size: 2\ngradient_accumulation_steps: 4\nlearning_rate: 2.0e-4\nlora_rank: 16\nlora_alpha: 32\nload_in_4bit: true\n"
    found = reading(text)
    assert (found.dialect.name, found.facts.train.num_train_epochs) == ("other", 30.0)
    assert "per_device_train_batch_size" in unknown_fields(found.facts.train), "of one device, or of all of them?"
