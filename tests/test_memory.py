"""What must hold of every memory forecast, whatever its constants: sums, directions, verdicts, ways out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_advise import memory
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import (
    GIB,
    DataFacts,
    Facts,
    HardwareFacts,
    LinearModule,
    LoraFacts,
    ModelFacts,
    StackFacts,
    TaskFacts,
    TrainFacts,
)
from lora_advise.memory_stack import stack_of


def decoder(h=4096, f=14336, kv=1024, layers=32, vocab=128256, tied=False, experts=0, chosen=0):
    """A Llama-like model; with ``experts`` their weights are fused, as transformers 5 has them."""
    block = "model.layers.*"
    shapes = [
        ("self_attn.q_proj", h, h),
        ("self_attn.k_proj", h, kv),
        ("self_attn.v_proj", h, kv),
        ("self_attn.o_proj", h, h),
    ]
    modules = [LinearModule(path=f"{block}.{p}", d_in=i, d_out=o, count=layers, role="attention") for p, i, o in shapes]
    if experts:
        modules += [
            LinearModule(
                path=f"{block}.mlp.experts.{p}",
                d_in=i,
                d_out=o,
                count=layers,
                role="expert",
                kind="parameter",
                experts=experts,
            )
            for p, i, o in (("gate_up_proj", h, 2 * f), ("down_proj", f, h))
        ]
    else:
        modules += [
            LinearModule(path=f"{block}.mlp.{p}", d_in=i, d_out=o, count=layers, role="mlp")
            for p, i, o in (("gate_proj", h, f), ("up_proj", h, f), ("down_proj", f, h))
        ]
    modules += [
        LinearModule(path="model.embed_tokens", d_in=vocab, d_out=h, role="embedding", kind="embedding"),
        LinearModule(path="lm_head", d_in=h, d_out=vocab, role="lm_head"),
    ]
    total = sum(m.weights for m in modules) - (vocab * h if tied else 0) + (2 * layers + 1) * h
    return ModelFacts(
        name="test",
        model_type="llama",
        kind="moe" if experts else "dense",
        total_params=total,
        active_params=total,
        hidden_size=h,
        num_hidden_layers=layers,
        num_attention_heads=h // 128,
        num_key_value_heads=kv // 128,
        head_dim=128,
        intermediate_size=f,
        vocab_size=vocab,
        tie_word_embeddings=tied,
        max_position_embeddings=131072,
        num_experts=experts or None,
        num_experts_per_tok=chosen or None,
        modules=tuple(modules),
    )


EIGHT_B = decoder()


def run(
    model=EIGHT_B,
    method="lora",
    gib=24.0,
    count=1,
    sharding="none",
    trainer="sft",
    framework="trl",
    kind="cuda",
    r=16,
    lora=None,
    **train,
):
    """The facts of one run."""
    plan = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "max_length": 2048,
        "learning_rate": 2e-4,
    }
    facts = Facts(
        task=TaskFacts(name="chat", family="sft", trainer=trainer),
        model=model,
        lora=LoraFacts(r=r, lora_alpha=32, **(lora or {})),
        train=TrainFacts(**(plan | train)),
        hardware=HardwareFacts(name="card", memory_gib=gib, count=count, kind=kind),
        stack=StackFacts(framework=framework, sharding=sharding),
    )
    return memory.with_method(facts, method)


def part(estimate, name):
    return next((p.bytes for p in estimate.parts if p.name == name), 0)


runs = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["lora", "qlora", "full"]),
        "trainer": st.sampled_from(["sft", "dpo", "kto", "orpo", "simpo", "grpo", "reward", "classification"]),
        "framework": st.sampled_from(["trl", "axolotl", "llamafactory", "unsloth", "peft"]),
        "sharding": st.sampled_from(["none", "ddp", "fsdp", "zero2", "zero3"]),
        "count": st.sampled_from([1, 2, 8]),
        "r": st.sampled_from([1, 8, 16, 64, 256]),
        "per_device_train_batch_size": st.integers(1, 64),
        "gradient_accumulation_steps": st.sampled_from([1, 4]),
        "max_length": st.integers(16, 131072),
        "activation_checkpointing": st.booleans(),
        "attn_implementation": st.sampled_from(["sdpa", "flash_attention_2", "eager"]),
        "optim": st.sampled_from(
            ["adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd"]
        ),
        "use_liger_kernel": st.booleans(),
        "packing": st.booleans(),
    }
)


@given(runs)
@settings(max_examples=150, deadline=None)
def test_parts_add_up_and_bands_are_in_order(choices):
    e = memory.estimate(run(**choices))
    assert sum(p.bytes for p in e.parts) == e.allocated
    assert all(p.bytes > 0 for p in e.parts)
    assert e.reserved[0] <= e.reserved[1]
    assert e.allocated <= e.reserved[1]
    if stack_of(run(**choices)).traced:
        assert e.allocated <= e.reserved[0]
    assert e.reserved[0] < e.device[0] < e.device[1]


@given(runs)
@settings(max_examples=150, deadline=None)
def test_more_work_never_needs_less_memory(choices):
    here = memory.estimate(run(**choices)).allocated
    for field in ("per_device_train_batch_size", "max_length", "r"):
        assert memory.estimate(run(**(choices | {field: choices[field] * 2}))).allocated >= here, field
    deeper = run(model=decoder(layers=40), **choices)
    assert memory.estimate(deeper).allocated > here


@given(runs)
@settings(max_examples=60, deadline=None)
def test_a_verdict_agrees_with_its_own_numbers(choices):
    facts = run(gib=80.0, **choices)
    verdict = memory.judge(facts)
    low, high = verdict.estimate.device
    expected = "fits" if high <= 80 * GIB else "tight" if low <= 80 * GIB else "does not fit"
    assert verdict.fit == expected
    assert len(verdict.ways_out) >= 3 or verdict.fit == "fits"
    assert verdict.usable < 80 * GIB
    if verdict.longest:
        assert memory.fit(one_row(facts, verdict.longest)) == "fits"
        assert verdict.longest == 131072 or memory.fit(one_row(facts, verdict.longest + 256)) != "fits"


def one_row(facts, length):
    completion = {"max_completion_length": None}
    train = facts.train.changed({"per_device_train_batch_size": 1, "max_length": length} | completion)
    return facts.changed({"train": train})


def test_four_bits_take_a_quarter_and_a_bit_of_the_linear_weights():
    linear = sum(m.weights for m in EIGHT_B.modules if m.kind == "linear" and m.role != "lm_head")
    rest = EIGHT_B.total_params - linear
    assert part(memory.estimate(run(method="lora")), "weights") == 2 * EIGHT_B.total_params
    expected = linear * (0.5 + 1 / 64 + 4 / (64 * 256)) + 2 * rest
    assert part(memory.estimate(run(method="qlora")), "weights") == pytest.approx(expected, abs=4)


def test_fused_experts_are_not_quantised():
    moe = decoder(h=2048, f=768, kv=512, layers=24, experts=64, chosen=8)
    lora, qlora = (part(memory.estimate(run(model=moe, method=m)), "weights") for m in ("lora", "qlora"))
    experts = sum(m.weights for m in moe.modules if m.role == "expert")
    assert qlora > 2 * experts
    assert qlora < lora


def test_ddp_is_one_device_and_the_gradient_buckets():
    choices = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    alone, many = memory.estimate(run(**choices)), memory.estimate(run(count=4, sharding="ddp", **choices))
    assert many.allocated - alone.allocated == part(many, "buffers") == 4 * alone.adapter_params


def test_sharding_divides_the_weights():
    whole = part(memory.estimate(run(count=4, sharding="ddp")), "weights")
    assert part(memory.estimate(run(count=4, sharding="fsdp")), "weights") == pytest.approx(whole / 4, rel=0.01)
    assert part(memory.estimate(run(count=4, sharding="zero3")), "weights") == pytest.approx(whole / 4, rel=0.01)
    assert part(memory.estimate(run(count=4, sharding="zero2")), "weights") == whole


def test_four_bit_weights_in_uint8_are_not_sharded():
    facts = run(method="qlora", count=4, sharding="fsdp")
    replicated = facts.changed({"quant": facts.quant.changed({"bnb_4bit_quant_storage": "uint8"})})
    assert part(memory.estimate(replicated), "weights") > 3 * part(memory.estimate(facts), "weights")


def test_adapters_of_trl_are_fp32_on_16_bits_and_bf16_on_4():
    lora, qlora = memory.estimate(run(method="lora")), memory.estimate(run(method="qlora"))
    assert part(lora, "adapters") == lora.adapter_file == 4 * lora.adapter_params
    assert part(qlora, "adapters") == qlora.adapter_file == 2 * qlora.adapter_params
    assert lora.adapter_params == qlora.adapter_params == 16 * 2_621_440


@pytest.mark.parametrize(
    ("optim", "per_parameter"), [("adamw_torch_fused", 8), ("adamw_8bit", 2.03125), ("paged_adamw_8bit", 0), ("sgd", 0)]
)
def test_optimizer_states(optim, per_parameter):
    e = memory.estimate(run(optim=optim))
    assert part(e, "optimizer") == pytest.approx(per_parameter * e.adapter_params, abs=1)


def test_whole_logits_cost_more_than_tiles():
    long = {"max_length": 8192, "per_device_train_batch_size": 4}
    tiled, whole = memory.estimate(run(framework="trl", **long)), memory.estimate(run(framework="axolotl", **long))
    fused = memory.estimate(run(framework="axolotl", use_liger_kernel=True, **long))
    assert part(whole, "loss") == 12 * 128256 * 4 * 8192
    assert whole.allocated > tiled.allocated
    assert whole.allocated > fused.allocated


def test_pairs_double_the_rows_and_a_classifier_has_no_logits():
    sft, dpo = (memory.estimate(run(trainer=t, max_length=8192)) for t in ("sft", "dpo"))
    assert part(dpo, "checkpoints") == 2 * part(sft, "checkpoints")
    assert not any(p.name == "loss" for p in memory.estimate(run(trainer="classification", framework="axolotl")).parts)


def test_a_known_longest_example_caps_the_row():
    facts = run(max_length=8192)
    data = DataFacts(examples=100, tokens_per_example=300, completion_tokens=100, max_tokens=1024)
    capped = facts.changed({"data": data})
    assert memory.estimate(capped).allocated == memory.estimate(run(max_length=1024)).allocated
    packed = capped.changed({"train": capped.train.changed({"packing": True})})
    assert memory.estimate(packed).allocated >= memory.estimate(run(max_length=8192)).allocated


def test_full_fine_tuning_of_an_8b_needs_four_times_the_weights_and_the_step():
    e = memory.estimate(run(method="full", optim="adamw_torch", per_device_train_batch_size=1))
    assert e.peak_stage == "optimizer step"
    assert e.allocated == pytest.approx(10 * EIGHT_B.total_params, rel=0.01)
    assert e.adapter_params == e.adapter_file == 0


def test_dora_and_saved_modules_cost_memory():
    plain = memory.estimate(run()).allocated
    assert memory.estimate(run(lora={"use_dora": True})).allocated > plain
    saved = memory.estimate(run(lora={"modules_to_save": ("embed_tokens", "lm_head")}))
    assert part(saved, "saved") == 2 * 2 * 128256 * 4096
    assert part(saved, "gradients") >= part(saved, "saved")


def test_seventy_b_does_not_fit_24_gib_and_there_are_ways_out():
    big = decoder(h=8192, f=28672, layers=80)
    verdict = memory.judge(run(model=big, gib=24.0))
    assert verdict.fit == "does not fit"
    assert verdict.micro_batch == verdict.longest == 0
    changes = [w.change for w in verdict.ways_out]
    assert len(changes) >= 3
    assert changes[0].startswith("micro-batch 1")
    assert any("QLoRA" in c for c in changes)
    assert any("FSDP" in c for c in changes)
    assert all(w.saves > 0 and w.costs for w in verdict.ways_out)


def test_ways_out_lead_to_a_run_that_fits():
    from lora_advise.memory_ways_out import apply

    facts = run(gib=16.0, per_device_train_batch_size=8, max_length=4096)
    assert memory.fit(facts) != "fits"
    for way in memory.ways_out(facts):
        before = memory.estimate(facts).allocated
        facts = apply(facts, way.values)
        assert before - memory.estimate(facts).allocated == pytest.approx(way.saves, abs=64)
        assert way.enough == (memory.fit(facts) == "fits")
    assert memory.fit(facts) == "fits"


def test_a_run_on_a_cpu_has_three_ways_out_where_its_weights_are_too_many():
    from lora_advise import advise
    from lora_advise.memory_ways_out import apply

    advice = advise("moonshotai/Kimi-K2-Base", "qa", gpu="cpu", tokens_per_example=12_000, completion_tokens=300)
    host, cards, smaller = advice.memory[0].ways_out
    assert host.enough and cards.enough and "a model of at most" in smaller.change
    larger = apply(advice.facts, host.values).hardware
    assert larger is not None
    for gib, expected in ((larger.memory_gib, "fits"), (larger.memory_gib / 2, "does not fit")):
        held = larger.changed({"memory_gib": gib})
        assert memory.fit(advice.facts.changed({"hardware": held})) == expected
    on_cards = apply(advice.facts, cards.values)
    assert on_cards.train.dtype == "bfloat16"
    assert memory.fit(on_cards) == "fits"


def test_the_micro_batch_is_the_largest_power_of_two_that_fits():
    facts = run(gib=80.0)
    best = memory.largest_micro_batch(facts)
    assert best & (best - 1) == 0
    assert 1 <= best < 64
    for batch, expected in ((best, True), (2 * best, False)):
        train = facts.train.changed({"per_device_train_batch_size": batch})
        assert (memory.fit(facts.changed({"train": train})) == "fits") is expected


def test_shared_memory_is_not_all_ours():
    mac = HardwareFacts(name="M3", memory_gib=64, kind="mps")
    assert memory.usable_bytes(mac) == 48 * GIB
    assert memory.usable_bytes(HardwareFacts(name="A100", memory_gib=80)) == int(79.5 * GIB)


@pytest.mark.parametrize("section", ["model", "train"])
def test_a_missing_section_is_named(section):
    with pytest.raises(LoraAdviseError, match=section):
        memory.estimate(run().changed({section: None}))


def test_a_missing_device_is_named():
    with pytest.raises(LoraAdviseError, match="hardware"):
        memory.judge(run().changed({"hardware": None}))


def test_every_source_is_registered():
    from lora_advise.sources import registry

    assert set(memory.estimate(run()).sources) <= set(registry())
