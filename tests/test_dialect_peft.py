"""PEFT's ``adapter_config.json``: the adapter and nothing else."""

from __future__ import annotations

import json

import peft
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_advise.document_read import read_document
from lora_advise.lint_files import Wanted, lint_document, readings_of
from lora_advise.unknown import unknown_fields


def reading(**settings):
    text = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen3-4B", **settings})
    ((_, found),) = readings_of(read_document("adapter_config.json", text=text), Wanted())
    assert found.dialect.name == "peft"
    return found


@given(
    r=st.integers(1, 256), alpha=st.integers(1, 512), dropout=st.sampled_from([0.0, 0.05, 0.5]), rslora=st.booleans(),
    dora=st.booleans(), bias=st.sampled_from(["none", "all", "lora_only"]),
)  # fmt: skip
def test_what_peft_writes_is_read_back(tmp_path_factory, r, alpha, dropout, rslora, dora, bias):
    config = peft.LoraConfig(
        r=r, lora_alpha=alpha, lora_dropout=dropout, use_rslora=rslora, use_dora=dora, bias=bias, task_type="CAUSAL_LM",
        target_modules=["q_proj", "v_proj"], base_model_name_or_path="Qwen/Qwen3-4B",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("adapter")
    config.save_pretrained(folder)
    ((_, found),) = readings_of(read_document(folder / "adapter_config.json"), Wanted())
    lora = found.facts.lora
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (r, alpha, dropout)
    assert (lora.use_rslora, lora.use_dora, lora.bias) == (rslora, dora, bias)
    assert set(lora.target_modules) == {"q_proj", "v_proj"} and lora.task_type == "CAUSAL_LM"
    assert found.strangers == () and found.problems == ()
    assert found.versions["peft"] == peft.__version__


def test_there_is_no_training_in_it():
    facts = reading(r=8, lora_alpha=16, target_modules=["q_proj"]).facts
    assert facts.train is None and facts.task is None and facts.quant is None


@pytest.mark.parametrize("kind", ["IA3", "PROMPT_TUNING", "LOHA", "VERA", "OFT", "FOURIERFT"])
def test_other_kinds_are_no_lora(kind):
    found = reading(peft_type=kind, r=8, target_modules=["q_proj"])
    assert found.facts.lora is None and found.facts.model is not None


@pytest.mark.parametrize(
    ("name", "four"),
    [
        ("unsloth/Qwen3-4B-unsloth-bnb-4bit", True), ("unsloth/llama-3-8b-bnb-4bit", True), ("Qwen/Qwen3-4B-AWQ", None),
        ("Qwen/Qwen3-4B", None), ("someone/4bitter", None),
    ],
)  # fmt: skip
def test_the_base_name_is_the_only_hint_of_its_bits(name, four):
    quant = reading(r=8, base_model_name_or_path=name).facts.quant
    assert (quant.load_in_4bit if quant else None) is four


def test_modules_that_peft_chooses():
    assert reading(r=8, target_modules=None).facts.lora.target_modules == ("q_proj", "v_proj")
    unknown = reading(r=8, target_modules=None, base_model_name_or_path="mine/own").facts.lora
    assert "target_modules" in unknown_fields(unknown)
    assert reading(target_modules=".*q_proj").facts.lora.target_modules == ".*q_proj"


def test_rules_about_the_adapter_speak():
    text = json.dumps(
        {
            "peft_type": "LORA",
            "r": 8,
            "lora_alpha": 0,
            "target_modules": ["q_proj"],
            "base_model_name_or_path": "Qwen/Qwen3-4B",
        }
    )
    report = lint_document(read_document("adapter_config.json", text=text), Wanted())
    assert any("alpha" in item.finding.rule for item in report.findings)
