"""Settings of transformers and PEFT in somebody's own script: what is known of them, and what is not."""

from __future__ import annotations

import json

import pytest

from lora_advise.dialects import recognise
from lora_advise.document_read import read_document
from lora_advise.lint_files import Wanted, readings_of
from lora_advise.unknown import UnknownFact, unknown_fields

SETTINGS = {
    "model_name_or_path": "mistralai/Mistral-7B-v0.1", "lora_rank": 64, "lora_alpha": 16, "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2, "learning_rate": 1e-4, "max_seq_length": 1024, "fp16": True,
}  # fmt: skip


def reading(name="run.json", **settings):
    ((_, found),) = readings_of(read_document(name, text=json.dumps({**SETTINGS, **settings})), Wanted())
    assert found.dialect.name == "hf"
    return found


def command(text):
    ((_, found),) = readings_of(read_document("run.sh", text=text), Wanted())
    assert found.dialect.name == "hf"
    return found


def test_what_is_written_and_what_transformers_adds():
    found = reading()
    facts = found.facts
    assert (facts.lora.r, facts.lora.lora_alpha, facts.lora.use_rslora) == (64, 16.0, False)
    assert (facts.train.max_length, facts.train.dtype, facts.effective_batch) == (1024, "float16", 16)
    assert facts.train.num_train_epochs == 3.0
    assert found.inherited["train.num_train_epochs"] == "transformers' default"
    assert found.inherited["lora.use_rslora"] == "PEFT's default"


def test_what_only_the_script_knows_is_unknown():
    facts = reading().facts
    assert facts.task is None
    assert {"load_in_4bit", "load_in_8bit"} <= unknown_fields(facts.quant)
    assert {"lora_dropout", "target_modules", "modules_to_save"} <= unknown_fields(facts.lora)
    assert {"loss_on", "packing", "attn_implementation"} <= unknown_fields(facts.train)
    with pytest.raises(UnknownFact):
        _ = facts.method


def test_names_in_use_for_quantisation():
    assert reading(load_in_4bit=True).facts.method == "qlora"
    assert reading(use_4bit_quantization=True).facts.quant.load_in_4bit
    assert reading(bits=8).facts.quant.load_in_8bit
    assert not reading(bits=16).facts.quant.load_in_4bit


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("[q_proj,k_proj]", ("q_proj", "k_proj")), ("q_proj, v_proj", ("q_proj", "v_proj")), ("all-linear", "all-linear"),
        (["q_proj"], ("q_proj",)),
    ],
)  # fmt: skip
def test_targets(written, read):
    assert reading(lora_target_modules=written).facts.lora.target_modules == read


def test_a_switch_that_is_off_leaves_no_adapter():
    assert reading(use_lora=False).facts.lora is None


def test_task_from_the_file_or_the_script():
    assert reading("sft-qlora.json").facts.task.family == "sft"
    assert (
        command("python dpo_train.py --per_device_train_batch_size 1 --lora_r 8 --learning_rate 1e-5").facts.task.name
        == "dpo"
    )


def test_settings_of_alpaca_lora():
    facts = command(
        "python finetune.py --base_model a/b --lora_r=16 --micro_batch_size=8 --batch_size 128 --cutoff_len=512"
    ).facts
    assert (facts.train.per_device_train_batch_size, facts.train.gradient_accumulation_steps) == (8, 16)
    assert facts.train.max_length == 512
    assert "learning_rate" in unknown_fields(facts.train)


def test_evaluation_in_steps_without_a_number():
    assert reading(eval_strategy="steps", logging_steps=50).facts.train.eval_steps == 50
    assert reading(eval_strategy="steps", eval_steps=20).facts.train.eval_steps == 20


def test_outdated_arguments():
    found = reading(evaluation_strategy="epoch", warmup_ratio=0.1, group_by_length=True)
    assert found.facts.train.eval_strategy == "epoch"
    names = {found.dialect.renamed[n].old: found.dialect.renamed[n].since for _, n in found.outdated}
    assert names == {"evaluation_strategy": "4.51", "warmup_ratio": "5.15", "group_by_length": "5.2"}


@pytest.mark.parametrize(
    "settings",
    [{"learning_rate": 1e-4, "seed": 1},
     {"zero_optimization": {"stage": 2}, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 1}],
)  # fmt: skip
def test_other_json_files_are_left_alone(settings):
    (config,) = read_document("x.json", text=json.dumps(settings)).configs
    assert recognise(config) is None


def test_commands_that_do_not_train_language_models():
    text = "python run_glue.py --per_device_train_batch_size 8 --learning_rate 2e-5 --num_train_epochs 3"
    (config,) = read_document("x.sh", text=text).configs
    assert recognise(config) is None


@pytest.mark.parametrize(
    "program", ["swift sft", "megatron sft", "llamafactory-cli eval", "trl vllm-serve", "axolotl train"]
)
def test_commands_of_other_trainers_are_left_alone(program):
    text = f"{program} --per_device_train_batch_size 8 --learning_rate 2e-5 --num_train_epochs 3"
    (config,) = read_document("x.sh", text=text).configs
    assert (found := recognise(config)) is None or found.name != "hf"
