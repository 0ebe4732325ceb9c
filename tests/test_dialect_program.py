"""Python programs on TRL, transformers and PEFT: which calls make a run, and what the libraries do where they are silent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_advise.document_read import read_document
from lora_advise.lint_files import NoConfig, Wanted, lint_document, readings_of
from lora_advise.unknown import UnknownFact

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus" / "settings"
FORMATS = ("unsloth_py", "unsloth_ipynb", "notebook_peft", "notebook_trl")
IMPORTS = """
import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
"""
QLORA = """
bnb = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.1-8B", quantization_config=bnb, dtype=torch.bfloat16)
peft_config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
args = SFTConfig(output_dir="out", learning_rate=2e-4, per_device_train_batch_size=4, max_length=2048)
trainer = SFTTrainer(model=model, args=args, train_dataset=data, peft_config=peft_config)
trainer.train()
"""


def readings(text, name="train.py", **given_sections):
    return [r for _, r in readings_of(read_document(name, text=IMPORTS + text), Wanted(given=given_sections))]


def reading(text, **given_sections):
    (found,) = readings(text, **given_sections)
    return found


def unknown(section, field):
    with pytest.raises(UnknownFact):
        getattr(section, field)


def rules(text):
    report = lint_document(read_document("train.py", text=IMPORTS + text), Wanted())
    return {} if isinstance(report, NoConfig) else {f.finding.rule: f for f in report.findings}


def test_a_qlora_program_is_read_through_its_names():
    found = reading(QLORA)
    facts = found.facts
    assert (found.dialect.name, facts.task.trainer, facts.model.name) == ("trl", "sft", "meta-llama/Llama-3.1-8B")
    assert (facts.lora.r, facts.lora.lora_alpha, facts.lora.target_modules) == (16, 32, "all-linear")
    assert (facts.quant.load_in_4bit, facts.quant.bnb_4bit_compute_dtype, facts.quant.bnb_4bit_use_double_quant) == (
        True, "bfloat16", False,
    )  # fmt: skip
    assert (facts.train.learning_rate, facts.train.max_length, facts.train.dtype) == (2e-4, 2048, "bfloat16")
    assert facts.train.activation_checkpointing and found.inherited["train.activation_checkpointing"] == "TRL's default"
    assert facts.method == "qlora"


def test_settings_keep_their_places():
    document = read_document("train.py", text=IMPORTS + QLORA)
    ((_, found),) = readings_of(document, Wanted())
    for fact, written in (("train.learning_rate", "2e-4"), ("lora.r", "16"), ("quant.load_in_4bit", "True")):
        (entry, *_) = found.places[fact]
        assert document.text[entry.span.start : entry.span.end] == written


def test_two_trainers_are_two_runs_that_share_their_model():
    text = QLORA + "\n".join(
        (
            "dpo = DPOConfig(learning_rate=5e-6, beta=0.2)",
            "DPOTrainer(model=model, args=dpo, train_dataset=pairs, peft_config=LoraConfig(r=8, lora_alpha=8)).train()",
        )
    )
    first, second = readings(text)
    assert (first.facts.task.trainer, second.facts.task.trainer) == ("sft", "dpo")
    assert (first.facts.train.learning_rate, second.facts.train.learning_rate) == (2e-4, 5e-6)
    assert (first.facts.lora.r, second.facts.lora.r) == (16, 8)
    assert second.facts.train.beta == 0.2 and first.facts.train.beta is None
    assert first.facts.model.name == second.facts.model.name and second.facts.quant.load_in_4bit


def test_transformers_own_trainer_has_other_defaults_than_trls():
    text = """
model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.1-8B", load_in_8bit=True)
model = prepare_model_for_kbit_training(model)
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "v_proj"]))
trainer = Trainer(model=model, train_dataset=data, args=TrainingArguments("out", learning_rate=3e-4, fp16=True))
"""
    found = reading(text)
    assert found.dialect.name == "hf" and found.facts.quant.load_in_8bit
    train = found.facts.train
    assert (train.per_device_train_batch_size, train.weight_decay, train.logging_steps, train.dtype) == (
        8,
        0.0,
        500,
        "float16",
    )
    assert train.activation_checkpointing
    assert found.inherited["train.activation_checkpointing"] == "prepare_model_for_kbit_training"
    assert found.facts.lora.target_modules == ("q_proj", "v_proj")
    unknown(train, "max_length")
    assert found.config.get("output_dir").value == "out"


def test_the_data_decide_the_length_where_it_is_none():
    unknown(reading(QLORA.replace("max_length=2048", "max_length=None")).facts.train, "max_length")
    assert reading(QLORA.replace(", max_length=2048", "")).facts.train.max_length == 1024


def test_what_stands_only_when_the_program_runs_is_unknown():
    found = reading(QLORA.replace("learning_rate=2e-4", "learning_rate=rate()").replace("r=16", "r=rank"))
    unknown(found.facts.train, "learning_rate")
    unknown(found.facts.lora, "r")
    assert found.facts.lora.lora_alpha == 32


def test_nothing_is_inherited_where_keywords_are_spread():
    found = reading(QLORA.replace("max_length=2048", "**settings"))
    unknown(found.facts.train, "weight_decay")
    assert found.facts.train.learning_rate == 2e-4
    found = reading(QLORA.replace("lora_alpha=32", "**adapter"))
    unknown(found.facts.lora, "lora_alpha")
    assert found.facts.lora.r == 16


def test_arguments_that_are_made_elsewhere_leave_the_training_unknown():
    found = reading(
        QLORA.replace("args=args", "args=parse()").replace("args = SFTConfig", "other = TrainingArguments")
        + "x = SFTConfig(seed=1)"
    )
    unknown(found.facts.train, "learning_rate")
    unknown(found.facts.train, "weight_decay")


def test_a_configuration_that_no_model_gets_is_no_adapter():
    found = reading(QLORA.replace(", peft_config=peft_config", ""))
    assert found.facts.lora is None and found.facts.method == "full"


def test_no_adapter_where_the_trainer_is_told_so():
    assert reading(QLORA.replace("peft_config=peft_config", "peft_config=None")).facts.lora is None


def test_a_quantisation_that_is_not_given_to_the_loader_does_nothing():
    assert not reading(QLORA.replace("quantization_config=bnb, ", "")).facts.quant.load_in_4bit
    found = reading(QLORA.replace("quantization_config=bnb", "quantization_config=bnb if small else None"))
    unknown(found.facts.quant, "load_in_4bit")


def test_a_program_that_only_merges_does_not_train():
    text = """
from peft import PeftModel
base = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.1-8B", dtype=torch.bfloat16)
model = PeftModel.from_pretrained(base, "adapter").merge_and_unload()
model.save_pretrained("merged")
"""
    found = reading(text)
    assert found.facts.train is None and found.facts.task is None


@pytest.mark.parametrize(
    "text",
    [
        "print(load_dataset('x'))",
        "model = AutoModelForCausalLM.from_pretrained('meta-llama/Llama-3.1-8B')\nprint(model.generate(x))",
        "from peft import IA3Config\nTrainer(model=get_model(), args=TrainingArguments('o'), peft=IA3Config())",
    ],
)
def test_other_programs_are_no_configs(text):
    assert readings(text) == []


def test_keywords_that_a_class_does_not_have_are_found_with_what_was_meant():
    text = QLORA.replace("lora_alpha=32", "lora_alhpa=32").replace("max_length=2048", "max_lenght=2048")
    found = reading(text)
    assert {e.path for e in found.strangers} == {("LoraConfig", "lora_alhpa"), ("max_lenght",)}
    report = lint_document(read_document("train.py", text=IMPORTS + text), Wanted())
    said = [f.finding.message for f in report.findings if f.finding.rule == "key-misspelt"]
    assert len(said) == 2 and any("lora_alpha" in s for s in said) and any("max_length" in s for s in said)


def test_a_key_of_another_class_is_a_stranger():
    assert [e.path for e in reading(QLORA.replace("max_length=2048", "num_generations=4")).strangers] == [
        ("num_generations",)
    ]
    assert reading(QLORA).strangers == ()


def test_a_key_of_another_class_is_not_renamed_to_itself():
    text = QLORA.replace("SFT", "DPO").replace("max_length=2048", "packing=True")
    report = lint_document(read_document("train.py", text=IMPORTS + text), Wanted())
    (said,) = [f.finding.message for f in report.findings if f.finding.rule == "key-unknown"]
    assert said.startswith("'packing' is no key") and "its word for it" not in said


def test_a_new_head_is_not_called_by_the_old_ones_name():
    text = """
model = get_peft_model(AutoModelForSequenceClassification.from_pretrained("roberta-large"), LoraConfig(r=8))
Trainer(model=model, args=TrainingArguments(output_dir="o", learning_rate=3e-4), train_dataset=d).train()
"""
    text = "from transformers import AutoModelForSequenceClassification\n" + text
    report = lint_document(read_document("train.py", text=IMPORTS + text), Wanted())
    (said,) = [f.finding.message for f in report.findings if f.finding.rule == "new-head-frozen"]
    assert "put classifier into modules_to_save" in said


def test_old_names_are_outdated_and_not_strangers():
    found = reading(QLORA.replace("max_length=2048", 'max_seq_length=2048, evaluation_strategy="steps"'))
    assert {str(e.path[-1]) for e, _ in found.outdated} == {"max_seq_length", "evaluation_strategy"}
    assert found.strangers == () and found.facts.train.max_length == 2048
    assert "key-renamed" in rules(QLORA.replace("max_length=2048", "max_seq_length=2048"))


def test_a_notebook_says_the_same_as_its_script():
    lines = (IMPORTS + QLORA).splitlines(keepends=True)
    cells = [{"cell_type": "code", "source": part, "metadata": {}, "outputs": []} for part in (lines[:7], lines[7:])]
    notebook = json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    ((_, found),) = readings_of(read_document("train.ipynb", text=notebook), Wanted())
    assert found.facts == reading(QLORA).facts


@settings(max_examples=40, deadline=None)
@given(
    lr=st.floats(1e-6, 1e-2), r=st.integers(1, 256), alpha=st.integers(1, 512), batch=st.integers(1, 64),
    inline=st.booleans(), order=st.randoms(),
)  # fmt: skip
def test_numbers_are_read_wherever_the_call_stands(lr, r, alpha, batch, inline, order):
    keywords = [f"learning_rate={lr!r}", f"per_device_train_batch_size={batch}", "bf16=True"]
    order.shuffle(keywords)
    call = f"SFTConfig({', '.join(keywords)})"
    head = "" if inline else f"args = {call}\n"
    text = f"{head}t = SFTTrainer('Qwen/Qwen3-0.6B', args={call if inline else 'args'}, peft_config=LoraConfig(r={r}, lora_alpha={alpha}))"
    facts = reading(text).facts
    assert (facts.train.learning_rate, facts.train.per_device_train_batch_size) == (lr, batch)
    assert (facts.lora.r, facts.lora.lora_alpha, facts.model.name) == (r, alpha, "Qwen/Qwen3-0.6B")


@pytest.mark.parametrize("folder", FORMATS)
def test_every_program_of_the_corpus_is_read(folder):
    if not CORPUS.is_dir():
        pytest.skip("the corpus of configs is not beside this checkout")
    files = sorted(p for p in (CORPUS / folder).rglob("*") if p.is_file())
    assert files
    for path in files:
        document = read_document(path)
        found = [r for _, r in readings_of(document, Wanted())]
        assert found, path
        assert not any(r.strangers or r.problems for r in found), path
        report = lint_document(document, Wanted())
        assert not [f for f in report.findings if f.finding.severity.value == "error"], path
