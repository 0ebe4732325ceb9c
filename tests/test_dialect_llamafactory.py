"""LLaMA-Factory's files and commands: its own defaults and what it rewrites without a word."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_advise.adapters import targeted
from lora_advise.dialects import recognise
from lora_advise.document_read import read_document
from lora_advise.lint_files import Wanted, readings_of
from lora_advise.unknown import UnknownFact, unknown_fields

BASE = {
    "model_name_or_path": "Qwen/Qwen3-4B", "stage": "sft", "do_train": True, "finetuning_type": "lora", "dataset": "identity",
    "template": "qwen3", "bf16": True,
}  # fmt: skip


def reading(**settings):
    text = json.dumps({**BASE, **settings})
    ((_, found),) = readings_of(read_document("run.json", text=text), Wanted())
    assert found.dialect.name == "llamafactory"
    return found


def facts(**settings):
    return reading(**settings).facts


def test_the_defaults():
    found = facts()
    assert (found.lora.r, found.lora.lora_alpha, found.lora.lora_dropout) == (8, 16.0, 0.0)
    assert (found.train.learning_rate, found.train.max_length, found.train.num_train_epochs) == (5e-5, 2048, 3.0)
    assert found.lora.target_modules == "all-linear"
    assert found.train.activation_checkpointing and not found.train.packing
    assert found.train.loss_on == "assistant"


@given(rank=st.integers(1, 512), alpha=st.one_of(st.none(), st.integers(0, 1024)))
def test_alpha_is_twice_the_rank_where_it_is_unset_or_zero(rank, alpha):
    found = reading(lora_rank=rank, **({} if alpha is None else {"lora_alpha": alpha}))
    assert found.facts.lora.lora_alpha == (alpha or 2 * rank)
    assert ("lora.lora_alpha" in found.inherited) == (not alpha)


@pytest.mark.parametrize(
    ("settings", "packing", "length"),
    [
        ({}, False, 2048), ({"packing": True}, True, 2047), ({"neat_packing": True, "cutoff_len": 4096}, True, 4095),
        ({"stage": "pt"}, True, 2048), ({"stage": "pt", "packing": False}, False, 2048),
    ],
)  # fmt: skip
def test_packing(settings, packing, length):
    train = facts(**settings).train
    assert (train.packing, train.max_length) == (packing, length)


def test_four_bits():
    quant = facts(quantization_bit=4).quant
    assert quant.load_in_4bit and quant.bnb_4bit_quant_type == "nf4" and quant.bnb_4bit_use_double_quant
    assert quant.bnb_4bit_compute_dtype == quant.bnb_4bit_quant_storage == "bfloat16"
    assert facts(quantization_bit=8).quant.load_in_8bit
    assert not facts(quantization_bit=4, double_quantization=False).quant.bnb_4bit_use_double_quant
    assert {"load_in_4bit", "load_in_8bit"} <= unknown_fields(
        facts(quantization_bit=4, quantization_method="hqq").quant
    )


def test_without_mixed_precision_the_weights_own_type_decides():
    with pytest.raises(UnknownFact):
        _ = facts(bf16=False).train.dtype
    assert facts(bf16=False, fp16=True).train.dtype == "float16"
    assert facts(bf16=False, pure_bf16=True).train.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("settings", "task", "beta"),
    [
        ({"stage": "dpo"}, "dpo", 0.1), ({"stage": "dpo", "pref_loss": "orpo", "pref_beta": 0.3}, "orpo", 0.3),
        ({"stage": "dpo", "pref_loss": "simpo"}, "simpo", 0.1), ({"stage": "kto"}, "kto", 0.1), ({"stage": "rm"}, "reward", None),
        ({"stage": "pt"}, "continued-pretraining", None), ({}, "chat", None),
    ],
)  # fmt: skip
def test_stages(settings, task, beta):
    found = facts(**settings)
    assert (found.task.name, found.train.beta) == (task, beta)


def test_an_adapter_that_is_trained_on_brings_its_own_rank():
    lora = facts(adapter_name_or_path="saves/x", lora_rank=64).lora
    assert {"r", "lora_alpha", "target_modules"} <= unknown_fields(lora)
    assert facts(adapter_name_or_path="saves/x", lora_rank=64, create_new_adapter=True).lora.r == 64


def test_pissa_and_saved_modules():
    assert facts(pissa_init=True).lora.init_lora_weights == "pissa_niter_16"
    assert facts(pissa_init=True, pissa_iter=-1).lora.init_lora_weights == "pissa"
    assert facts(pissa_init=True, use_unsloth=True).lora.init_lora_weights is True
    assert facts(additional_target="embed_tokens,lm_head").lora.modules_to_save == ("embed_tokens", "lm_head")
    assert "modules_to_save" in unknown_fields(facts(resize_vocab=True).lora)


def test_full_and_frozen_runs_have_no_adapter():
    assert facts(finetuning_type="full").lora is None
    assert facts(finetuning_type="freeze").lora is None


@pytest.mark.parametrize("target", ["all", "q_proj,v_proj,gate_proj"])
def test_the_vision_tower_stays_out(target):
    found = facts(model_name_or_path="Qwen/Qwen2.5-VL-3B-Instruct", lora_target=target)
    roles = {module.role for module in targeted(found.model, found.lora)}
    assert "attention" in roles
    assert not roles & {"vision", "projector"}


def test_experts_are_no_linear_layers():
    found = facts(model_name_or_path="Qwen/Qwen3-30B-A3B")
    assert "expert" not in {module.role for module in targeted(found.model, found.lora)}


def test_checkpointing_and_attention():
    assert not facts(disable_gradient_checkpointing=True).train.activation_checkpointing
    assert facts(flash_attn="fa2").train.attn_implementation == "flash_attention_2"
    assert facts(flash_attn="disabled").train.attn_implementation == "eager"


def test_own_optimizers_are_not_optim():
    assert "optim" in unknown_fields(facts(use_muon=True, optim="adamw_torch").train)


def test_every_key_of_the_parser_is_known_and_no_other():
    assert not reading(plot_loss=True, tool_format="qwen", ddp_timeout=1, kt_config={}).strangers
    assert [entry.path for entry in reading(lora_alhpa=16).strangers] == [("lora_alhpa",)]


def test_former_names():
    found = reading(stage="dpo", dpo_beta=0.2)
    assert found.facts.train.beta == 0.2
    assert [found.dialect.renamed[n].new for _, n in found.outdated] == ["pref_beta"]
    found = reading(evaluation_strategy="epoch", warmup_ratio=0.1, overwrite_output_dir=True)
    assert found.facts.train.eval_strategy == "epoch"
    assert [found.dialect.renamed[n].new for _, n in found.outdated] == ["eval_strategy"]


def test_an_export_is_read_without_a_run():
    found = reading(model_name_or_path="a/b", adapter_name_or_path="c", template="x", export_dir="d")
    assert found.facts.train is None
    assert found.facts.lora is None
    assert found.value("export_dir") == "d"


@pytest.mark.parametrize(
    "settings",
    [
        {"model_name_or_path": "a/b", "template": "x", "infer_backend": "vllm"},
        {**BASE, "do_train": False},
        {"model_name_or_path": "a/b", "adapter_name_or_path": "c", "template": "x", "finetuning_type": "lora"},
        {"base_model": "a/b", "adapter": "lora", "lora_r": 8, "datasets": []},
    ],
)
def test_what_does_not_train_is_left_alone(settings):
    (config,) = read_document("run.json", text=json.dumps(settings)).configs
    found = recognise(config)
    assert found is None or found.name != "llamafactory"


@pytest.mark.parametrize(
    ("start", "count"),
    [
        ("llamafactory-cli train", None), ("CUDA_VISIBLE_DEVICES=0 llamafactory-cli train", 1),
        ("CUDA_VISIBLE_DEVICES=0,1,2,3 llamafactory-cli train", 4), ("FORCE_TORCHRUN=1 NNODES=2 NPROC_PER_NODE=8 lmf train", 16),
        ("torchrun --nproc_per_node 2 src/train.py", 2), ("python src/train.py", 1),
    ],
)  # fmt: skip
def test_commands(start, count):
    flags = (
        "--stage sft --do_train --finetuning_type lora --lora_rank 4 --dataset d --template t --model_name_or_path a/b"
    )
    ((_, found),) = readings_of(read_document("run.sh", text=f"{start} {flags}"), Wanted())
    assert found.dialect.name == "llamafactory"
    assert found.facts.lora.r == 4
    if count is None:
        with pytest.raises(UnknownFact):
            _ = found.facts.data_parallel
    else:
        assert found.facts.data_parallel == count


V1 = "model: Qwen/Qwen3-4B\npeft_config:\n  name: lora\n  r: 16\n  target_modules: all\ntrain_dataset: data/v1_sft_demo.yaml\n"


def test_the_second_engine_has_defaults_of_its_own():
    ((_, found),) = readings_of(read_document("train_lora_sft.yaml", text=V1), Wanted())
    assert found.dialect.name == "llamafactory-v1"
    lora, train = found.facts.lora, found.facts.train
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules) == (16, 16.0, 0.05, "all-linear")
    assert (train.learning_rate, train.lr_scheduler_type, train.weight_decay, train.dtype) == (
        1e-4,
        "constant",
        0.01,
        "bfloat16",
    )
    assert found.facts.task.family == "sft" and found.facts.effective_batch == 1
    assert not found.strangers


def test_the_second_engine_spreads_by_plugin():
    text = V1 + "micro_batch_size: 2\nglobal_batch_size: 16\n"
    ((_, alone),) = readings_of(read_document("x.yaml", text=text), Wanted())
    assert alone.facts.train.gradient_accumulation_steps == 8
    ((_, spread),) = readings_of(read_document("x.yaml", text=text + "dist_config:\n  name: fsdp2\n"), Wanted())
    assert spread.facts.stack.sharding == "fsdp"
    assert "gradient_accumulation_steps" in unknown_fields(spread.facts.train)
    assert spread.facts.task is None


def test_an_export_of_the_second_engine_does_not_train():
    text = "model: a/b\npeft_config:\n  name: lora\n  adapter_name_or_path: x\n  export_dir: y\n"
    assert recognise(read_document("x.yaml", text=text).configs[0]) is None
