"""How long a run takes: arithmetic that can be checked by hand, order that must hold, measured runs, the command line."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_advise import advise
from lora_advise.catalogue import resolve_model
from lora_advise.cli import main
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import DataFacts, Facts, LoraFacts, QuantFacts, StackFacts, TaskFacts, TrainFacts
from lora_advise.gpus import cards, resolve_hardware
from lora_advise.plan import TimeEstimate
from lora_advise.throughput import check_price, exchange, forecast, padded_length
from lora_advise.throughput_rates import GDDR, GEFORCE, HBM, HOPPER, OLDER, OTHER, WORKSTATION, efficiency_of, link_of
from lora_advise.throughput_work import ADAPTER, LAYER, OPERATIONS, OPERATIONS_ADAPTER, passes, shape_of

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def run(
    model="meta-llama/Llama-3.1-8B", gpu="A100-80GB", count=1, method="lora", sharding="none", trainer="sft", data=None,
    framework="trl", **train,
):  # fmt: skip
    """A run with everything but the named things fixed."""
    made = {
        "learning_rate": 1e-4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_length": 2048,
        "packing": data is None, "loss_on": "all", "attn_implementation": "flash_attention_2", "max_steps": 100,
        "eval_strategy": "no",
    }  # fmt: skip
    return Facts(
        task=TaskFacts(name="sft", family="sft", trainer=trainer),
        model=resolve_model(model)[0],
        lora=None if method == "full" else LoraFacts(r=16, lora_alpha=32, target_modules=ALL),
        quant=QuantFacts(load_in_4bit=True) if method == "qlora" else None,
        train=TrainFacts(**{**made, **train}),
        data=data,
        hardware=resolve_hardware(gpu, str(count)),
        stack=StackFacts(framework=framework, sharding=sharding),
    )


def told(facts, price=None) -> TimeEstimate:
    """The estimate, where there must be one."""
    found = forecast(facts, price)
    assert isinstance(found, TimeEstimate), found
    return found


def middle(facts) -> float:
    """The middle of the band of all devices' tokens per second."""
    low, high = told(facts).rate_all
    return (low * high) ** 0.5


def test_flops_of_a_frozen_base_by_hand() -> None:
    facts = run(activation_checkpointing=False)
    made = passes(shape_of(facts), 1, 2048)
    # Llama 3.1 8B: 6.98e9 weights in the layers, 128,256 x 4,096 in the head, 32 x 4,096 features of attention.
    layers, head, features = 6_979_321_856, 128_256 * 4_096, 32 * 4_096
    adapters = 41_943_040
    forward = 2048 * (2 * (layers + head + adapters) + 4 * 2048 * features / 2)
    backward = 2048 * (2 * (layers + head + 2 * adapters) + 2.5 * 4 * 2048 * features / 2)
    assert made.forward.flops == pytest.approx(forward)
    assert made.backward.flops == pytest.approx(backward)
    assert made.recompute.flops == 0


def test_full_fine_tuning_adds_the_weight_gradients_and_checkpointing_a_forward_pass() -> None:
    lora = passes(shape_of(run(model="meta-llama/Llama-3.1-8B")), 1, 512)
    full = passes(shape_of(run(method="full")), 1, 512)
    weights = 6_979_321_856 + 128_256 * 4_096
    adapters = 41_943_040
    assert full.backward.flops - lora.backward.flops == pytest.approx(512 * (2 * weights - 4 * adapters))
    # The layers are computed again, the head is not.
    head = 2 * 512 * 128_256 * 4_096
    assert full.recompute.flops == pytest.approx(full.forward.flops - head)


def test_a_mixture_computes_its_chosen_experts_only_and_reads_those_that_are_met() -> None:
    shape = shape_of(run(model="mistralai/Mixtral-8x7B-Instruct-v0.1"))
    assert shape.linear == pytest.approx(shape.resident + shape.experts * 2 / 8)
    one, many = passes(shape, 1, 1).forward.weights, passes(shape, 1, 512).forward.weights
    assert one < many == pytest.approx(2 * (shape.resident + shape.experts + shape.head))


def test_the_tiled_head_of_trl_skips_tokens_without_loss() -> None:
    data = DataFacts(examples=1000, tokens_per_example=1000, completion_tokens=250)
    scored = shape_of(run(data=data, loss_on="completion"))
    assert scored.scored == pytest.approx(0.25)
    assert shape_of(run(data=data, loss_on="completion", framework="axolotl")).scored == 1
    assert passes(scored, 1, 1000).all.flops < passes(scored._replace(scored=1.0), 1, 1000).all.flops


def test_preference_training_runs_pairs_and_a_reference() -> None:
    sft, dpo, orpo = (passes(shape_of(run(trainer=t)), 2, 512) for t in ("sft", "dpo", "orpo"))
    assert dpo.tokens == orpo.tokens == 2 * sft.tokens
    assert dpo.reference.flops == pytest.approx(dpo.forward.flops)
    assert orpo.reference.flops == 0


def test_time_is_tokens_over_rate() -> None:
    found = told(run(count=2, sharding="ddp"))
    tokens = 2 * 4 * 2 * 2048
    assert found.step_tokens == tokens
    for end in (0, 1):
        assert found.step_seconds[end] == pytest.approx(tokens / found.rate_all[1 - end])
        assert found.rate_all[end] == pytest.approx(2 * found.rate[end])
        assert found.hours[end] == pytest.approx(100 * found.step_seconds[end] / 3600)
    assert found.step_seconds[0] >= sum(part.seconds for part in found.parts) / found.efficiency[1] * (1 - 1e-9)


def test_evaluation_adds_its_forward_passes() -> None:
    data = DataFacts(examples=1000, tokens_per_example=500, completion_tokens=100)
    off = told(run(data=data))
    on = told(run(data=data, eval_strategy="steps", eval_steps=20, eval_share=0.1, per_device_eval_batch_size=8))
    assert on.evaluation_batches == 5 * 13  # 100 steps / 20, 100 rows / 8
    for end in (0, 1):
        added = 65 * on.evaluation_seconds[end] / 3600
        assert on.hours[end] == pytest.approx(off.hours[end] + added)
    assert on.evaluation_seconds[0] < on.step_seconds[0]
    elsewhere = told(run(data=data.changed({"eval_path": "held-out.jsonl"}), eval_strategy="steps", eval_steps=20))
    assert any("separate file" in words for words in elsewhere.assumptions)


@settings(deadline=None, max_examples=40)
@given(
    method=st.sampled_from(["lora", "qlora", "full"]), batch=st.sampled_from([1, 2, 8, 32]),
    length=st.sampled_from([128, 1024, 8192]), gpu=st.sampled_from(["A100-80GB", "RTX4090", "L4", "T4", "H100", "MI300X"]),
    framework=st.sampled_from(["trl", "transformers", "unsloth", "torchtune"]),
)  # fmt: skip
def test_order_that_must_hold(method, batch, length, gpu, framework) -> None:
    asked = {"method": method, "gpu": gpu, "framework": framework, "per_device_train_batch_size": batch,
             "max_length": length, "model": "Qwen/Qwen2.5-1.5B-Instruct", "dtype": "float16"}  # fmt: skip
    plain = told(run(**asked))
    for low, high in (plain.rate, plain.rate_all, plain.step_seconds, plain.hours, plain.evaluation_seconds):
        assert 0 < low <= high
    # Without recomputation, with more devices, and with a faster card a run is never slower.
    assert middle(run(**{**asked, "activation_checkpointing": False})) >= middle(run(**asked))
    assert middle(run(**asked, count=4, sharding="ddp")) >= middle(run(**asked, count=2, sharding="ddp"))
    # Larger micro-batches never lower the rate.
    bigger = told(run(**{**asked, "per_device_train_batch_size": 2 * batch}))
    assert all(more >= less * (1 - 1e-9) for more, less in zip(bigger.rate, plain.rate, strict=True))
    # A longer row costs at least as much for each token.
    shape = shape_of(run(**asked))
    each = [passes(shape, batch, n).all.flops / (batch * n) for n in (length, 2 * length)]
    assert each[1] > each[0]
    # A step of twice the accumulation takes at most twice as long.
    longer = told(run(**{**asked, "gradient_accumulation_steps": 4}))
    assert longer.step_seconds[1] <= 2 * plain.step_seconds[1] * (1 + 1e-9)


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_unpacking_makes_qlora_slower_than_lora(batch) -> None:
    lora, qlora = (
        told(run(method=m, framework="llamafactory", per_device_train_batch_size=batch)) for m in ("lora", "qlora")
    )
    assert qlora.rate[0] < lora.rate[0]
    assert qlora.rate[1] < lora.rate[1]


def test_sharding_exchanges_what_its_kind_must() -> None:
    def sent(sharding, **changes):
        facts = run(count=4, sharding=sharding, **changes)
        return exchange(facts, shape_of(facts))

    adapters = 41_943_040 * 4
    assert sent("ddp").step == pytest.approx(2 * 0.75 * adapters)
    assert sent("ddp").batch == 0
    weights = 2 * 8_030_261_248
    assert sent("fsdp").batch == pytest.approx(0.75 * (2 * weights + adapters), rel=1e-3)
    assert sent("zero3").batch > sent("fsdp").batch > sent("zero2").batch > 0
    # bitsandbytes' uint8 storage is not sharded, so nothing of it is gathered.
    assert sent("fsdp", method="qlora").batch < sent("fsdp").batch / 5


def test_a_slow_link_and_host_memory_cost_time() -> None:
    joined = told(run(gpu="A100-80GB", count=4, sharding="fsdp"))
    apart = told(run(gpu="RTX4090", count=4, sharding="fsdp", method="full"))
    alone = told(run(gpu="RTX4090", method="full"))
    assert any("NVLink" in words for words in joined.assumptions)
    assert any("PCIe" in words for words in apart.assumptions)
    assert apart.rate[0] < 0.75 * alone.rate[0]
    facts = run(count=4, sharding="fsdp")
    offloaded = facts.changed({"stack": facts.stack.changed({"cpu_offload": True})})
    assert told(offloaded).rate[0] < joined.rate[0]
    assert "several hosts" in link_of(facts.hardware, 16)[1]


def test_padding_grows_with_the_micro_batch_up_to_the_longest_row() -> None:
    data = DataFacts(examples=1000, tokens_per_example=300, completion_tokens=100, p99_tokens=900, max_tokens=1000)
    facts = run(data=data)
    lengths = [padded_length(facts, facts.train, rows) for rows in (1, 4, 100, 10_000)]
    assert lengths[0] == 300
    assert lengths[2] == pytest.approx(900)
    assert lengths == sorted(lengths)
    assert lengths[3] == 1000
    packed = run(data=data, packing=True)
    assert padded_length(packed, packed.train) == 2048


@pytest.mark.parametrize(
    ("gpu", "band"),
    [("A100-80GB", HBM), ("A30", HBM), ("H100", HOPPER), ("B200", HOPPER), ("L40S", GDDR), ("A10G", GDDR), ("RTX3090", GEFORCE),
     ("RTX5090", GEFORCE), ("A6000", WORKSTATION), ("T4", OLDER), ("V100", OLDER), ("MI300X", OTHER), ("DGX Spark", OTHER)],
)  # fmt: skip
def test_every_class_has_its_band(gpu, band) -> None:
    hardware = resolve_hardware(gpu, None) if gpu != "V100" else resolve_hardware("V100 SXM2 16GB", None)
    assert efficiency_of(hardware) is band
    assert 0 < band.low < band.high <= 1


def test_every_card_has_a_time_or_a_reason() -> None:
    for card in cards():
        facts = run().changed({"hardware": card.facts(), "train": run(dtype="float16").train})
        found = forecast(facts)
        if isinstance(found, str):
            assert "--gpu" in found
            assert card.bf16_tflops is None or card.bandwidth_gb_s is None
        else:
            assert found.rate[1] > 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gpu": "24GB"}, "Cannot be told for a 24 GB card, whose speed is unknown; name the GPU with --gpu NAME"),
        ({"gpu": "GTX 1080 Ti"}, "is not in the table"),
        ({"dtype": "float32"}, "16-bit rates"),
        ({"trainer": "grpo", "max_completion_length": 512}, "grpo generates completions"),
        ({"trainer": "ppo", "max_completion_length": 512}, "alone take"),
    ],
)
def test_what_cannot_be_told_is_said(changes, says) -> None:
    found = forecast(run(**changes))
    assert isinstance(found, str)
    assert says in found


def test_missing_sections_are_named() -> None:
    with pytest.raises(LoraAdviseError, match="train section"):
        forecast(run().changed({"train": None}))
    with pytest.raises(LoraAdviseError, match="hardware section"):
        forecast(run().changed({"hardware": None}))


def test_cost_is_hours_times_devices_times_price() -> None:
    assert told(run()).cost is None
    found = told(run(count=4, sharding="ddp"), 1.5)
    assert found.cost == pytest.approx(tuple(4 * 1.5 * hours for hours in found.hours))


@pytest.mark.parametrize("price", ["0", "-1", "abc", "inf", "nan", "1e9", ""])
def test_a_price_that_cannot_be(price) -> None:
    with pytest.raises(LoraAdviseError, match="--price"):
        check_price(price)
    code, out, err = cli("--model", "7B", "--task", "qa", "--gpu", "RTX4090", f"--price={price}")
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1


def cli(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(words))
    return code, out.getvalue(), err.getvalue()


QUESTION = ("--model", "Qwen2.5-7B", "--task", "chat", "--gpu", "2xRTX4090")


def test_the_question_says_time_in_every_format() -> None:
    code, out, _ = cli(*QUESTION, "--price", "0.5", "--format", "json")
    assert code == 0
    answer = json.loads(out)
    made = answer["time"]
    assert made["price"] == 0.5
    assert made["cost"][0] == pytest.approx(made["hours"][0])  # two devices at a half each
    assert "--price 0.5" in answer["command"]
    assert answer["no_time"] == ""
    for form in ("text", "markdown", "html", "svg"):
        words = " ".join(cli(*QUESTION, "--price", "0.5", "--format", form)[1].replace("&#160;", " ").split())
        assert "Time" in words, form
        assert "tokens/s" in words, form
        assert "cost" in words, form
    brief = cli(*QUESTION, "--brief")[1]
    assert "tokens/s" in brief
    assert "cost" not in brief


def test_without_a_named_gpu_the_report_says_which_flag() -> None:
    answer = json.loads(cli("--model", "7B", "--task", "qa", "--gpu", "24GB", "--format", "json")[1])
    assert answer["time"] is None
    assert "--gpu NAME" in answer["no_time"]
    assert answer["no_time"] in " ".join(cli("--model", "7B", "--task", "qa", "--gpu", "24GB")[1].split())


def test_the_memory_command_says_time_and_cost(tmp_path: Path) -> None:
    plan = str(tmp_path / "plan.yaml")
    assert cli(*QUESTION, "--emit", plan, "--brief")[0] == 0
    asked = json.loads(cli(*QUESTION, "--format", "json")[1])["time"]
    report = json.loads(cli("memory", plan, "--format", "json", "--price", "3")[1])
    assert report["time"]["hours"] == asked["hours"]
    assert report["time"]["cost"][1] == pytest.approx(2 * 3 * asked["hours"][1])
    for form in ("text", "markdown"):
        shown = cli("memory", plan, "--format", form, "--price", "3")[1]
        assert "tokens/s" in shown
        assert "throughput-model" in shown
    assert cli("memory", plan, "--price", "free")[0] == 2


def test_python_takes_a_price_too() -> None:
    found = advise("Qwen2.5-7B", "chat", gpu="RTX4090", price=2)
    assert found.time is not None
    assert found.time.cost == pytest.approx(tuple(2 * hours for hours in found.time.hours))
    with pytest.raises(LoraAdviseError, match="--price"):
        advise("Qwen2.5-7B", "chat", gpu="RTX4090", price=0)


def test_a_forecast_is_quick() -> None:
    facts = advise("Qwen3-30B-A3B", "chat", gpu="8xH100").facts
    times = []
    for _ in range(50):
        start = time.process_time()
        forecast(facts)
        times.append(time.process_time() - start)
    assert sorted(times)[25] < 0.002


def benchmark(name: str):
    """A script of tests/benchmarks as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_coefficients_are_those_of_the_installed_libraries() -> None:
    pytest.importorskip("peft")
    trace = benchmark("trace_layer_traffic")
    bare, adapted = trace.layer(), trace.layer("amp", trace.ALL[:4])
    for way, found in enumerate((bare.forward, bare.backward)):
        assert found == pytest.approx(LAYER[way], abs=5)
    assert bare.operations == pytest.approx(OPERATIONS, abs=3)
    # q, k, v and o have 4 inputs of hidden width; outputs of hidden width twice and of key-value width twice.
    for way, (found, plain) in enumerate(zip(adapted[:2], (bare.forward, bare.backward), strict=True)):
        d_in, d_out = ADAPTER["amp"][way]
        assert found[0] - plain[0] == pytest.approx(4 * d_in + 2 * d_out, rel=0.2)
        assert found[1] - plain[1] == pytest.approx(2 * d_out, abs=3)
    added = [(a - b) / 4 for a, b in zip(adapted.operations, bare.operations, strict=True)]
    assert added == pytest.approx(OPERATIONS_ADAPTER, abs=1)


@pytest.fixture(scope="module")
def bench():
    module = benchmark("bench_throughput_accuracy")
    if not module.rows_module().TABLE.exists():
        pytest.skip("the table of measured runs is not beside this repository")
    return module


def test_measured_runs_lie_in_the_band(bench) -> None:
    rows, left = bench.rows_module().read()
    held = {row.id: bench.judged(row)[0] for row in rows}
    seen = [held[row.id] for row in rows if row.calibration]
    other = [held[row.id] for row in rows if not row.calibration]
    assert len(seen) >= 300
    assert len(other) >= 50
    assert sum(seen) >= 0.98 * len(seen)
    assert sum(other) >= 0.75 * len(other)
    assert sum(left.values()) > 0
    # A band that holds everything says nothing: on the best measured card its ends lie within a factor of two.
    widths = sorted(high / low for row in rows if "fms" in row.repository or "foundation" in row.repository
                    for low, high in [forecast(row.facts).rate])  # fmt: skip
    assert widths[len(widths) // 2] < 2


def test_the_page_of_errors_is_the_one_that_the_benchmark_makes(bench) -> None:
    assert bench.PAGE.read_text("utf-8") == bench.page(), (
        "run: python tests/benchmarks/bench_throughput_accuracy.py --write"
    )
