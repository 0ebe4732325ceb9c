"""ms-swift's commands and files, with those on Megatron: its own defaults and what it rewrites without a word."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_advise.adapters import targeted
from lora_advise.document_read import read_document
from lora_advise.lint_files import Wanted, lint_document, readings_of
from lora_advise.unknown import UnknownFact, unknown_fields

QWEN = "--model Qwen/Qwen2.5-7B-Instruct --dataset data.jsonl"


def reading(command, dialect="ms-swift"):
    ((_, found),) = readings_of(read_document("run.sh", text=command), Wanted())
    assert found.dialect.name == dialect
    return found


def swift(flags="", *, method="sft", before="", model=QWEN):
    return reading(f"{before} swift {method} {model} {flags}")


def megatron(flags="", *, method="sft", before=""):
    return reading(f"{before} megatron {method} {QWEN} {flags}", "megatron-swift")


def test_the_defaults():
    facts = swift().facts
    assert (facts.lora.r, facts.lora.lora_alpha, facts.lora.lora_dropout) == (8, 32.0, 0.05)
    assert facts.lora.target_modules == "all-linear"
    train = facts.train
    assert (train.learning_rate, train.weight_decay, train.adam_beta2, train.lr_scheduler_type) == (
        1e-4,
        0.1,
        0.95,
        "cosine",
    )
    assert (train.per_device_train_batch_size, train.gradient_accumulation_steps, train.num_train_epochs) == (
        1,
        16,
        3.0,
    )
    assert train.activation_checkpointing and train.loss_on == "assistant" and train.eval_strategy == "no"
    assert facts.task.name == "chat"
    assert {"max_length", "dtype"} <= unknown_fields(train)


def test_full_tuning_has_no_adapter_and_another_rate():
    facts = swift("--tuner_type full").facts
    assert facts.lora is None and facts.train.learning_rate == 1e-5
    assert megatron().facts.lora is None, "Megatron-SWIFT tunes in full where nobody says otherwise"


@given(micro=st.integers(1, 64), processes=st.integers(1, 32))
def test_accumulation_makes_sixteen_sequences(micro, processes):
    found = swift(f"--per_device_train_batch_size {micro}", before=f"NPROC_PER_NODE={processes}").facts
    assert found.train.gradient_accumulation_steps == max(1, math.ceil(16 / micro / processes))
    assert found.data_parallel == processes


def test_grpo_accumulates_nothing():
    train = swift("--rlhf_type grpo", method="rlhf").facts.train
    assert (train.gradient_accumulation_steps, train.beta, train.num_generations) == (1, 0.04, 8)
    assert "max_length" in unknown_fields(swift("--rlhf_type grpo --max_length 4096", method="rlhf").facts.train)


@pytest.mark.parametrize(
    ("flags", "dtype", "compute"),
    [
        ("--torch_dtype bfloat16", "bfloat16", "bfloat16"), ("--torch_dtype float16", "float16", "float32"),
        ("--torch_dtype float32", "float16", "float32"),
    ],
)  # fmt: skip
def test_precision_follows_the_weights(flags, dtype, compute):
    facts = swift(f"{flags} --quant_method bnb --quant_bits 4").facts
    assert facts.quant.load_in_4bit and not facts.quant.load_in_8bit
    assert (facts.train.dtype, facts.quant.bnb_4bit_compute_dtype) == (dtype, compute)


def test_bits_without_a_method_quantise_nothing():
    assert not swift("--quant_bits 4").facts.quant.load_in_4bit
    assert "load_in_4bit" in unknown_fields(swift("--quant_bits 4 --quant_method hqq").facts.quant)


def test_evaluation_goes_with_saving_where_there_is_something_to_evaluate():
    silent = swift("--eval_steps 50").facts.train
    assert silent.eval_strategy == "no"
    held = swift("--split_dataset_ratio 0.01 --save_steps 70").facts.train
    assert (held.eval_strategy, held.eval_steps, held.eval_share) == ("steps", 70, 0.01)
    given_set = swift("--val_dataset v.jsonl --split_dataset_ratio 0.1 --save_strategy epoch").facts.train
    assert (given_set.eval_strategy, given_set.eval_share) == ("epoch", 0.0)


@pytest.mark.parametrize(
    ("flags", "method", "loss"),
    [
        ("", "sft", "assistant"), ("--loss_scale all", "sft", "all"), ("--loss_scale last_round+react", "sft", "completion"),
        ("--loss_scale hermes", "sft", "assistant"), ("", "pt", "all"), ("--rlhf_type dpo", "rlhf", "completion"),
        ("--rlhf_type orpo", "rlhf", "assistant"),
    ],
)  # fmt: skip
def test_loss(flags, method, loss):
    assert swift(flags, method=method).facts.train.loss_on == loss


@pytest.mark.parametrize(
    ("kind", "task", "beta"),
    [("dpo", "dpo", 0.1), ("simpo", "simpo", 2.0), ("kto", "kto", 0.1), ("rm", "reward", None)],
)
def test_methods(kind, task, beta):
    facts = swift(f"--rlhf_type {kind}", method="rlhf").facts
    assert (facts.task.name, facts.train.beta) == (task, beta)
    assert facts.lora.task_type == ("SEQ_CLS" if kind == "rm" else "CAUSAL_LM")


def test_a_run_with_a_teacher_is_no_grpo():
    assert swift("--rlhf_type grpo --teacher_model Qwen/Qwen3-8B --num_generations 1", method="rlhf").facts.task is None


def test_all_linear_of_a_vision_model_is_its_language_part():
    vision = "--model Qwen/Qwen3-VL-4B-Instruct --dataset d.jsonl"
    facts = swift("--target_modules all-linear", model=vision).facts
    roles = {module.role for module in targeted(facts.model, facts.lora)}
    assert roles == {"attention", "mlp"}
    freed = swift("--freeze_vit false", model=vision).facts
    assert "vision" in {module.role for module in targeted(freed.model, freed.lora)}


def test_a_list_is_not_split_at_commas():
    assert swift("--target_modules q_proj v_proj").facts.lora.target_modules == ("q_proj", "v_proj")
    assert swift("--target_modules q_proj,v_proj").facts.lora.target_modules == ("q_proj,v_proj",)
    assert swift("--target_regex '.*q_proj'").facts.lora.target_modules == ".*q_proj"


def test_an_adapter_that_is_trained_on_brings_its_own_settings():
    found = swift("--adapters out/checkpoint-10 --lora_rank 64").facts.lora
    assert {"r", "lora_alpha", "target_modules"} <= unknown_fields(found)


def test_a_yaml_file_with_its_environment():
    text = "ENV:\n  NPROC_PER_NODE: 4\nmodel: Qwen/Qwen3-4B\ndataset: d.jsonl\ntuner_type: lora\nlora_rank: 16\nlearning_rate: 2e-4\n"
    ((_, found),) = readings_of(read_document("run.yaml", text=text), Wanted())
    assert (found.dialect.name, found.facts.lora.r, found.facts.train.learning_rate) == ("ms-swift", 16, 2e-4)
    assert (found.facts.data_parallel, found.facts.train.gradient_accumulation_steps) == (4, 4)
    assert not found.strangers


def test_an_old_name_is_read_and_reported():
    found = swift("--train_type lora --lora_rank 4")
    assert found.facts.lora.r == 4
    report = lint_document(read_document("run.sh", text=f"swift sft {QWEN} --train_type lora"), Wanted())
    said = [item.finding.message for item in report.findings if item.finding.rule == "key-renamed"]
    assert said and "tuner_type" in said[0]


def test_an_unknown_flag_stops_the_run():
    report = lint_document(read_document("run.sh", text=f"swift sft {QWEN} --lora_alhpa 16"), Wanted())
    (said,) = [item.finding.message for item in report.findings if item.finding.rule == "key-misspelt"]
    assert "lora_alpha" in said and "stops" in said


def test_the_batch_of_megatron_is_given_whole():
    facts = megatron("--tuner_type lora --micro_batch_size 4 --global_batch_size 64", before="NPROC_PER_NODE=8").facts
    assert facts.effective_batch == 64 and facts.train.learning_rate == 1e-4
    assert facts.lora.target_modules == "all-linear"
    with pytest.raises(UnknownFact):
        _ = megatron("--tuner_type lora --micro_batch_size 3 --global_batch_size 64").facts.effective_batch


def test_the_warmup_of_megatron():
    share = megatron("--tuner_type lora --lr_warmup_fraction 0.05 --train_iters 200").facts
    assert share.train.warmup_steps == 10
    assert megatron("--lr_warmup_iters 7").facts.train.warmup_steps == 7


def test_experts_of_megatron_are_not_those_of_transformers():
    found = reading("megatron sft --model Qwen/Qwen3-30B-A3B --dataset d --tuner_type lora", "megatron-swift")
    assert "target_modules" in unknown_fields(found.facts.lora)


def test_a_file_for_ray_has_a_group_for_the_trainer():
    text = """\
rlhf_type: grpo
model: Qwen/Qwen3-4B
dataset: d
micro_batch_size: 1
global_batch_size: 16
num_train_epochs: 1
lr: 1e-5
lr_warmup_fraction: 0.05
train:
  gpus: 4
  tuner_type: lora
  lora_rank: 32
rollout:
  gpus: 4
"""
    ((_, found),) = readings_of(read_document("ray.yaml", text=text), Wanted())
    assert (found.dialect.name, found.facts.lora.r, found.facts.train.learning_rate) == ("megatron-swift", 32, 1e-5)
    assert not found.strangers


@pytest.mark.parametrize(
    "command",
    [
        "swift infer --model Qwen/Qwen3-4B --adapters a", "swift export --adapters a --merge_lora true", "swift deploy --model x",
        "megatron export --model x --to_mcore true", "swift eval --model x --eval_dataset arc",
    ],
)  # fmt: skip
def test_what_does_not_train_has_no_run(command):
    for _, found in readings_of(read_document("run.sh", text=command), Wanted()):
        assert found.dialect.name == "swift-tools"
        assert (found.facts.train, found.facts.lora, found.facts.task) == (None, None, None)
        assert not found.strangers


@pytest.mark.parametrize(
    "start",
    ["swift sft", "python swift/cli/sft.py", "torchrun --nproc_per_node 2 swift/cli/sft.py", "python -m swift.cli.sft"],
)
def test_ways_to_start(start):
    assert reading(f"{start} {QWEN} --tuner_type lora").facts.task.name == "chat"
