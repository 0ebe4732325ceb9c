"""What stated library versions do to a forecast."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_advise.catalogue import facts as model_facts
from lora_advise.facts import Facts, HardwareFacts, LoraFacts, QuantFacts, StackFacts, TrainFacts
from lora_advise.memory import estimate
from lora_advise.memory_stack import stack_of
from lora_advise.memory_versions import version

MODEL = "meta-llama/Meta-Llama-3-8B"


def run(framework, versions, model=MODEL, method="qlora", sharding="none", count=1, **train):
    settings = {
        "learning_rate": 1e-4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_length": 2048,
        "attn_implementation": "flash_attention_2",
    } | train  # fmt: skip
    return Facts(
        model=model_facts(model),
        lora=None if method == "full" else LoraFacts(r=16, lora_alpha=16),
        quant=QuantFacts(load_in_4bit=True) if method == "qlora" else None,
        train=TrainFacts(**settings),
        hardware=HardwareFacts(name="A100", memory_gib=80, count=count),
        stack=StackFacts(framework=framework, versions=versions, sharding=sharding),
    )


def part(facts, name):
    return sum(p.bytes for p in estimate(facts).parts if p.name == name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4.45.2", (4, 45, 2)),
        ("v5.13.1", (5, 13, 1)),
        ("0.15.2.dev0", (0, 15, 2)),
        ("2.7.1+cu126", (2, 7, 1)),
        ("main", ()),
    ],
)
def test_versions_are_read_from_their_leading_numbers(text, expected):
    assert version(text) == expected


@given(st.text(max_size=200))
def test_any_text_is_a_version_or_none(text):
    assert all(isinstance(number, int) for number in version(text))


@given(st.dictionaries(st.sampled_from(["transformers", "trl", "bitsandbytes", "peft"]), st.text(max_size=12)))
def test_any_stated_versions_give_an_estimate(versions):
    assert estimate(run("trl", versions)).allocated > 0


def test_unstated_versions_are_the_current_ones():
    current = run("transformers", {"transformers": "5.13.1", "bitsandbytes": "0.50.2", "peft": "0.21.2"})
    assert estimate(run("transformers", {})).allocated == estimate(current).allocated


@pytest.mark.parametrize(
    ("stated", "kind", "expected"),
    [
        ("4.45.2", MODEL, 12), ("4.46.0", MODEL, 14), ("4.48.3", MODEL, 14), ("4.49.0", MODEL, 12), ("5.13.1", MODEL, 12),
        ("4.47.1", "mistralai/Mistral-7B-v0.1", 12), ("4.48.3", "mistralai/Mistral-7B-v0.1", 14),
    ],
)  # fmt: skip
def test_logits_follow_transformers(stated, kind, expected):
    assert stack_of(run("transformers", {"transformers": stated}, kind)).logit_bytes == expected


def test_a_loop_that_holds_its_outputs_pays_for_them_in_the_heads_precision():
    assert stack_of(run("peft", {"transformers": "5.8.1"})).logit_bytes == 16
    assert stack_of(run("peft", {"transformers": "5.8.1"}, method="lora")).logit_bytes == 14


def test_trl_before_0_27_prepares_a_quantised_base():
    old, new = (estimate(run("trl", {"trl": v})) for v in ("0.26.2", "0.27.0"))
    assert stack_of(run("trl", {"trl": "0.26.2"})).residual_bytes == 4
    assert stack_of(run("trl", {"trl": "0.27.0"})).residual_bytes == 2
    assert old.allocated > new.allocated


def test_trl_before_1_7_writes_whole_logits():
    assert stack_of(run("trl", {"trl": "1.6.0"})).loss == "full"
    assert stack_of(run("trl", {"trl": "1.7.0"})).loss == "tiled"
    assert estimate(run("trl", {"trl": "1.6.0"})).allocated > estimate(run("trl", {"trl": "1.7.0"})).allocated


def test_old_bitsandbytes_keeps_inputs():
    with_gc, without = ({"activation_checkpointing": on} for on in (True, False))
    for settings in (with_gc, without):
        old, new = (run("transformers", {"bitsandbytes": v}, **settings) for v in ("0.43.1", "0.43.2"))
        assert estimate(old).allocated >= estimate(new).allocated
    assert estimate(run("transformers", {"bitsandbytes": "0.43.1"}, **without)).allocated > estimate(new).allocated


def test_old_transformers_keeps_a_rotary_table_in_every_layer():
    old = run("transformers", {"transformers": "4.42.4"}, "mistralai/Mistral-7B-v0.1")
    new = run("transformers", {"transformers": "4.43.3"}, "mistralai/Mistral-7B-v0.1")
    assert part(old, "caches") == 2**29
    assert part(new, "caches") == 0


def test_experts_of_old_transformers_are_quantised():
    old, new = (
        part(run("transformers", {"transformers": v}, "mistralai/Mixtral-8x7B-Instruct-v0.1"), "weights")
        for v in ("4.57.1", "5.0.0")
    )
    assert 22 * 2**30 < old < 24 * 2**30
    assert new > 3 * old


def test_a_gptq_checkpoint_is_told_by_its_library():
    """Mistral 7B in groups of 128: half a byte, a scale and a zero point for each group, an int32 for each input."""
    model = "mistralai/Mistral-7B-v0.1"
    linear = 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    index = 32 * 4 * (6 * 4096 + 14336)
    rest = 2 * (2 * 32000 * 4096 + 65 * 4096)
    gptq = part(run("transformers", {"auto_gptq": "0.7.1", "transformers": "4.45.2"}, model), "weights")
    norms = 2 * 65 * 4096  # fp32 in a script that prepares the model
    head = 2 * 2 * 32000 * 4096
    assert gptq == pytest.approx(linear * (0.5 + 2.5 / 128) + index + rest + norms + head, rel=1e-4)


def test_fsdp_holds_trained_parameters_in_fp32_under_mixed_precision():
    facts = run(
        "transformers", {}, method="full", sharding="fsdp", count=2, per_device_train_batch_size=1, max_length=16
    )
    params = facts.model.total_params
    found = estimate(facts)
    weights, optimizer, gradients, step = (part(facts, n) for n in ("weights", "optimizer", "gradients", "step"))
    assert found.peak_stage == "optimizer step"
    assert weights == pytest.approx(4 * params / 2, rel=1e-3)
    assert optimizer == pytest.approx(8 * params / 2, rel=1e-3)
    assert gradients == step == pytest.approx(4 * params / 2, rel=1e-3)


def test_fsdp_keeps_whole_gradients_between_micro_batches():
    settings = dict(method="full", sharding="fsdp", count=8, per_device_train_batch_size=8, max_length=4096)
    one, two = (run("transformers", {}, gradient_accumulation_steps=n, **settings) for n in (1, 2))
    assert estimate(two).allocated - estimate(one).allocated > one.model.total_params


def test_layers_that_were_not_traced_have_a_wider_band():
    known, unknown = (estimate(run(f, {}, method="lora")) for f in ("trl", "litgpt"))
    assert unknown.reserved[1] / unknown.reserved[0] > known.reserved[1] / known.reserved[0]
    assert unknown.reserved[0] < unknown.allocated < unknown.reserved[1]


def test_the_stack_is_named_by_its_stated_version():
    assert stack_of(run("trl", {"trl": "0.26.2"})).name == "TRL (trl 0.26.2)"
    assert stack_of(run("trl", {})).name.startswith("TRL 1.16")
