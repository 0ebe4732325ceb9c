"""torchtune's configs and command lines: components, interpolation, recipes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_advise.document import Unresolved
from lora_advise.document_read import read_document
from lora_advise.interpolation import interpolated
from lora_advise.lint_files import Wanted, lint_document, readings_of
from lora_advise.unknown import unknown_fields

CONFIG = """\
output_dir: out
model:
  _component_: torchtune.models.llama3_1.lora_llama3_1_8b
  lora_attn_modules: ['q_proj', 'v_proj', 'output_proj']
  apply_lora_to_mlp: True
  lora_rank: 8
  lora_alpha: 16
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  max_seq_len: null
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: models/Meta-Llama-3.1-8B-Instruct/
  output_dir: ${output_dir}
dataset:
  _component_: torchtune.datasets.alpaca_cleaned_dataset
  packed: False
seed: null
batch_size: 2
epochs: 1
optimizer:
  _component_: torch.optim.AdamW
  fused: True
  weight_decay: 0.01
  lr: 3e-4
lr_scheduler:
  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
  num_warmup_steps: 100
loss:
  _component_: torchtune.modules.loss.LinearCrossEntropyLoss
max_steps_per_epoch: null
gradient_accumulation_steps: 8
clip_grad_norm: null
enable_activation_checkpointing: True
dtype: bf16
"""


def reading(text=CONFIG, name="8B_lora_single_device.yaml"):
    ((_, found),) = readings_of(read_document(name, text=text), Wanted())
    assert found.dialect.name == "torchtune"
    return found


def facts(*changes, name="8B_lora_single_device.yaml"):
    text = CONFIG
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return reading(text, name).facts


def test_what_a_config_says():
    found = facts()
    assert found.model.name.endswith("Meta-Llama-3.1-8B-Instruct/") or "Llama-3.1-8B-Instruct" in found.model.name
    assert (found.lora.r, found.lora.lora_alpha, found.lora.lora_dropout, found.method) == (8, 16.0, 0.0, "lora")
    assert found.lora.target_modules == ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    train = found.train
    assert (train.learning_rate, train.optim, train.weight_decay) == (3e-4, "adamw_torch_fused", 0.01)
    assert (train.warmup_steps, train.lr_scheduler_type, train.max_grad_norm) == (100, "cosine", None)
    assert (found.effective_batch, train.num_train_epochs, train.dtype) == (16, 1.0, "bfloat16")
    assert train.loss_on == "all", "alpaca's builder trains on the prompt too"
    assert {"max_length", "seed"} <= unknown_fields(train)
    assert (found.task.name, found.stack.sharding) == ("chat", "none")


def test_a_builder_says_that_the_base_is_quantised():
    assert facts(("lora_llama3_1_8b", "qlora_llama3_1_8b")).method == "qlora"
    assert facts(("  lora_rank: 8", "  lora_rank: 8\n  quantize_base: True")).method == "qlora"


@pytest.mark.parametrize(
    ("builder", "model_type"),
    [
        ("qwen2_5.lora_qwen2_5_0_5b", "qwen2"), ("qwen3.lora_qwen3_8b_instruct", "qwen3"), ("gemma2.qlora_gemma2_9b", "gemma2"),
        ("mistral.lora_mistral_7b", "mistral"), ("llama2.lora_llama2_13b", "llama"),
    ],
)  # fmt: skip
def test_the_builder_says_the_architecture(builder, model_type):
    found = facts(("llama3_1.lora_llama3_1_8b", builder), ("models/Meta-Llama-3.1-8B-Instruct/", "models/mine"))
    assert found.model.model_type == model_type
    assert found.model.variant is None, "a folder of one's own may hold either"


def test_a_folder_of_another_model_does_not_outvote_the_builder():
    assert facts(("llama3_1.lora_llama3_1_8b", "llama3_2.lora_llama3_2_1b")).model.total_params < 2e9


def test_modules_that_transformers_fuses_are_not_named():
    assert "target_modules" in unknown_fields(facts(("llama3_1.lora_llama3_1_8b", "phi3.lora_phi3_mini")).lora)


def test_the_recipe_says_the_sharding():
    assert "sharding" in unknown_fields(facts(name="mine.yaml").stack)
    assert facts(name="8B_lora_distributed.yaml").stack.sharding == "fsdp"
    assert facts(("dtype: bf16", "dtype: bf16\nfsdp_cpu_offload: True"), name="mine.yaml").stack.cpu_offload


def test_preference():
    found = facts(
        ("torchtune.modules.loss.LinearCrossEntropyLoss", "torchtune.rlhf.loss.DPOLoss\n  beta: 0.05"),
        ("alpaca_cleaned_dataset", "stack_exchange_paired_dataset"),
    )
    assert (found.task.name, found.train.beta, found.train.loss_on) == ("dpo", 0.05, "completion")


def test_interpolation_reaches_the_facts_with_its_place():
    text = "rank: 64\nlr: 1e-4\n" + CONFIG.replace("lora_rank: 8", "lora_rank: ${rank}").replace(
        "lr: 3e-4", "lr: ${lr}"
    )
    found = reading(text)
    assert (found.facts.lora.r, found.facts.train.learning_rate) == (64, 1e-4)
    (place,) = found.places["lora.r"]
    assert place.via is not None and place.via.line == 1
    assert not found.strangers, "a setting that others take is no stranger"


def test_what_cannot_be_resolved_is_unknown():
    found = facts(("lora_rank: 8", "lora_rank: ${oc.env:RANK}"), ("lr: 3e-4", "lr: ${nowhere}"))
    assert "r" in unknown_fields(found.lora) and "learning_rate" in unknown_fields(found.train)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), min_size=1, max_size=8))
def test_interpolation_ends(pairs):
    text = "".join(f"{left}: ${{{right}}}\n" for left, right in dict(pairs).items()) + "z: 1\n"
    config = interpolated(read_document("x.yaml", text=text).configs[0])
    assert all(isinstance(e.value, Unresolved) or "${" not in str(e.value) for e in config.entries)


def test_a_keyword_that_the_builder_does_not_take():
    report = lint_document(read_document("x.yaml", text=CONFIG.replace("lora_alpha", "lora_alhpa")), Wanted())
    (said,) = [i.finding.message for i in report.findings if i.finding.rule == "key-misspelt"]
    assert "lora_alpha" in said and "stops at it" in said
    top = lint_document(
        read_document("x.yaml", text=CONFIG.replace("clip_grad_norm: null", "clip_grad_nrom: 1.0")), Wanted()
    )
    (said,) = [i.finding.message for i in top.findings if i.finding.rule == "key-misspelt"]
    assert "clip_grad_norm" in said and "without a word" in said


def test_a_command_knows_only_what_it_replaces():
    text = (
        "tune run --nproc_per_node 4 lora_finetune_distributed --config llama3_1/8B_lora "
        "model=torchtune.models.llama3_1.qlora_llama3_1_8b model.lora_rank=64 optimizer.lr=2e-3"
    )
    found = reading(text, "run.sh").facts
    assert (found.lora.r, found.train.learning_rate, found.quant.load_in_4bit) == (64, 2e-3, True)
    assert (found.stack.sharding, found.hardware.count) == ("fsdp", 4)
    assert {"lora_alpha", "lora_dropout", "use_dora", "target_modules"} <= unknown_fields(found.lora)
    assert {"max_grad_norm", "max_steps", "packing", "save_strategy"} <= unknown_fields(found.train)


@pytest.mark.parametrize(
    "text",
    [
        "tune download meta-llama/Llama-3.1-8B --output-dir models", "tune run generate --config generation prompt=hello",
        "tune run eleuther_eval --config eval tasks=[truthfulqa]",
    ],
)  # fmt: skip
def test_what_does_not_train_is_not_read(text):
    assert not readings_of(read_document("run.sh", text=text), Wanted())


def test_a_config_without_an_optimizer_does_not_train():
    generation = "model:\n  _component_: torchtune.models.llama2.llama2_7b\nprompt: hi\n"
    assert not readings_of(read_document("generation.yaml", text=generation), Wanted())
