"""How many processes a command starts, how the run is spread over them, and the files that say so."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_advise.document_read import read_document
from lora_advise.launchers import launch
from lora_advise.lint_files import Wanted, readings_of
from lora_advise.side_files import accelerate_of, deepspeed_of, side_config
from lora_advise.unknown import UnknownFact


def launched(text, name="run.sh"):
    (config,) = read_document(name, text=text).configs
    return launch(config)


@pytest.mark.parametrize(
    ("text", "processes", "sharding"),
    [
        ("python train.py --x 1", 1, None),
        ("torchrun --nproc_per_node=8 --nnodes 2 train.py --x 1", 16, None),
        ("torchrun train.py --x 1", 1, None),
        ("torchrun --nproc_per_node=gpu train.py --x 1", None, None),
        ("torchrun --nproc_per_node=$N train.py --x 1", None, None),
        ("python -m torch.distributed.run --nproc_per_node 2 train.py --x 1", 2, None),
        ("deepspeed --num_gpus 6 train.py --x 1", 6, None),
        ("deepspeed --include localhost:0,1 train.py --x 1", 2, None),
        ("deepspeed train.py --x 1", None, None),
        ("accelerate launch train.py --x 1", None, None),
        ("accelerate launch --num_processes 4 --multi_gpu train.py --x 1", 4, "ddp"),
        ("CUDA_VISIBLE_DEVICES=0 accelerate launch train.py --x 1", 1, "none"),
        ("accelerate launch --config_file ds_zero3.yaml --num_processes 4 train.py --x 1", 4, "zero3"),
        ("accelerate launch --config_file mine.yaml --num_processes 1 train.py --x 1", 1, None),
        ("accelerate launch --use_fsdp --num_processes 4 train.py --x 1", 4, "fsdp"),
        ("accelerate launch --use_deepspeed --zero_stage 3 --num_processes 4 train.py --x 1", 4, "zero3"),
        ("trl sft --accelerate_config zero2 --num_processes 2 --x 1", 2, "zero2"),
        ("trl sft --x 1", None, None),
        ("NPROC_PER_NODE=4 swift sft --x 1", 4, None),
        ("swift sft --x 1", 1, None),
        ("CUDA_VISIBLE_DEVICES=0,1 llamafactory-cli train --x 1", 2, None),
        ("srun -n 4 python train.py --x 1", None, None),
    ],
)
def test_processes(text, processes, sharding):
    found = launched(text)
    assert (found.processes, found.sharding) == (processes, sharding)


@pytest.mark.parametrize(
    ("name", "sharding", "offload"),
    [
        ("examples/deepspeed/ds_z3_config.json", "zero3", None), ("ds_z2_offload_config.json", "zero2", True), ("zero2", "zero2", None),
        ("configs/deepspeed_zero1.yaml", "ddp", False), ("fsdp2.yaml", "fsdp", None), ("multi_gpu.yaml", "ddp", False),
        ("llama3_config.json", None, None), ("my.yaml", None, None),
    ],
)  # fmt: skip
def test_names_of_files(name, sharding, offload):
    for found in (deepspeed_of(name, ""), accelerate_of(name, "")):
        assert (found.sharding, found.cpu_offload) == (sharding, offload)


def run(tmp_path, flags, start="python train.py"):
    document = tmp_path / "run.sh"
    document.write_text(f"{start} --per_device_train_batch_size 1 --learning_rate 1e-4 --lora_r 8 {flags}\n")
    ((_, found),) = readings_of(read_document(document), Wanted())
    return found.facts


def test_a_deepspeed_file_beside_the_config_is_read(tmp_path):
    (tmp_path / "ds").mkdir()
    settings = {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}
    (tmp_path / "ds" / "mine.json").write_text(json.dumps(settings))
    stack = run(tmp_path, "--deepspeed ds/mine.json", "torchrun --nproc_per_node 4 train.py").stack
    assert (stack.sharding, stack.cpu_offload) == ("zero3", True)


def test_content_goes_before_the_name(tmp_path):
    (tmp_path / "zero3.json").write_text('{"zero_optimization": {"stage": 2}}')
    assert run(tmp_path, "--deepspeed zero3.json").stack.sharding == "zero2"


def test_an_accelerate_file_says_how_many(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "distributed_type: FSDP\nnum_processes: 4\nfsdp_config:\n  fsdp_offload_params: true\n"
    )
    facts = run(tmp_path, "", "accelerate launch --config_file a.yaml train.py")
    assert (facts.stack.sharding, facts.stack.cpu_offload, facts.data_parallel) == ("fsdp", True, 4)


def test_an_accelerate_file_names_a_deepspeed_file(tmp_path):
    inner = tmp_path / "inner.json"
    inner.write_text('{"zero_optimization": {"stage": "3"}}')
    text = f"distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config:\n  deepspeed_config_file: {inner}\n"
    (tmp_path / "a.yaml").write_text(text)
    facts = run(tmp_path, "", "accelerate launch --config_file a.yaml train.py")
    assert (facts.stack.sharding, facts.data_parallel) == ("zero3", 2)


def test_what_stands_only_at_run_time_is_unknown(tmp_path):
    with pytest.raises(UnknownFact):
        _ = run(tmp_path, "--deepspeed $CONFIG").stack.sharding


def test_a_plain_run_and_a_spread_one(tmp_path):
    assert run(tmp_path, "").stack.sharding == "none"
    assert run(tmp_path, "", "torchrun --nproc_per_node 2 train.py").stack.sharding == "ddp"
    assert run(tmp_path, "--fsdp 'full_shard auto_wrap offload'").stack.cpu_offload


def test_what_is_no_plain_small_config_is_not_read(tmp_path):
    document = tmp_path / "run.sh"
    document.write_text("x")
    (tmp_path / "big.json").write_text("[" + " " * (2**20 + 10) + "]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "secret.txt").write_text('{"zero_optimization": {"stage": 3}}')
    for name in ("big.json", "broken.json", "folder.json", "secret.txt", "absent.json", "$HOME/a.json", "a\0.json", ""):
        assert side_config(name, str(document)) is None
    (tmp_path / "near.json").write_text("{}")
    assert side_config("near.json", "") is None
    assert side_config("near.json", str(document)) is not None


@given(st.text(max_size=40), st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.dictionaries(st.sampled_from(["zero_optimization", "stage", "offload_param", "device"]), inner, max_size=3), max_leaves=8))  # fmt: skip
def test_no_value_breaks_the_reading(name, value):
    deepspeed_of(name, "")
    accelerate_of(name, "")
    deepspeed_of(value, "")
