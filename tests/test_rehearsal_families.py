"""Families whose step needs something special: what is rehearsed of them, and what is said of a run that would fail."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import weakref
from pathlib import Path

import pytest

from lora_advise.catalogue import resolve_model
from lora_advise.cli import main
from lora_advise.facts import Facts, LoraFacts, QuantFacts
from lora_advise.memory import estimate
from lora_advise.memory_ways_out import apply

torch = pytest.importorskip("torch", reason="a rehearsal needs the [run] extra")
pytest.importorskip("trl", reason="a rehearsal needs the [run] extra")

from lora_advise.errors import LoraAdviseError  # noqa: E402
from lora_advise.runner.cuda_shapes import grouped  # noqa: E402
from lora_advise.runner.rehearse import rehearse  # noqa: E402
from lora_advise.runner.storage_trace import StorageTrace  # noqa: E402

pytestmark = pytest.mark.slow


def cases():
    path = Path(__file__).parent / "benchmarks" / "rehearsal_cases.py"
    spec = importlib.util.spec_from_file_location("rehearsal_cases", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = cases()
PLAIN, PACKED, KBIT = CASES.SETTINGS[0], CASES.SETTINGS[1], CASES.SETTINGS[6]
EIGHT = QuantFacts(load_in_8bit=True)
SCOUT = "meta-llama/Llama-4-Scout-17B-16E-Instruct"


def run(model: str, setting=PLAIN, **changes) -> Facts:
    """One run of a catalogue model; changes are field paths with two underscores for the dot."""
    facts = CASES.run_of(resolve_model(model)[0], setting)
    return apply(facts, {name.replace("__", "."): value for name, value in changes.items()})


def error(facts: Facts) -> float:
    return 100 * (estimate(facts).allocated / rehearse(facts).allocated - 1)


@pytest.mark.parametrize("setting", [PLAIN, PACKED], ids=["16 bits", "4 bits"])
def test_glm_4v_is_near_the_rehearsal(setting) -> None:
    assert abs(error(run("zai-org/GLM-4.1V-9B-Thinking", setting))) <= 2.5


@pytest.mark.parametrize("setting", [PLAIN, PACKED], ids=["16 bits", "4 bits"])
def test_llama_4_is_near_the_rehearsal_which_says_what_a_run_needs(setting) -> None:
    from transformers import modeling_outputs

    facts = run(SCOUT, setting, train__max_length=1024)
    found = rehearse(facts)
    assert abs(100 * (estimate(facts).allocated / found.allocated - 1)) <= 2.5
    assert any("image_outputs = None" in note and "base_model" in note for note in found.notes)
    assert not hasattr(modeling_outputs.MoeCausalLMOutputWithPast, "image_outputs")


def test_deepseek_v4_is_rehearsed_beside_its_block_diagonal_matrix() -> None:
    facts = run("deepseek-ai/DeepSeek-V4-Flash", PACKED, train__max_length=256)
    assert abs(error(facts)) <= 2.5
    assert facts.lora is not None and facts.lora.exclude_modules == ("o_a_proj",)


@pytest.mark.parametrize("model", ["allenai/OLMoE-1B-7B-0924", "openai/gpt-oss-20b", "Qwen/Qwen3-30B-A3B"])
def test_experts_that_kbit_preparation_casts_up(model) -> None:
    facts = run(model, KBIT)
    found = rehearse(facts)
    assert abs(100 * (estimate(facts).allocated / found.allocated - 1)) <= 2.5
    experts = sum(m.weights for m in facts.model.with_role("expert"))
    weights = next(part.bytes for part in found.parts if part.name == "weights")
    assert weights > 4 * experts


def test_a_grouped_product_in_fp32_keeps_what_the_16_bit_kernel_keeps() -> None:
    def peaks(dtype, product) -> dict[str, int]:
        experts = torch.empty(8, 96, 64, device="meta", dtype=dtype).transpose(-2, -1)
        offsets = torch.empty(8, device="meta", dtype=torch.int32)
        rows = torch.empty(1024, 64, device="meta", dtype=dtype, requires_grad=True)
        watch = StorageTrace(padded=False)
        watch.hold([experts, rows, offsets], "weights")
        with watch:
            watch.enter("forward", "activations")
            out = product(rows * 1, experts, offsets) * 1
            watch.enter("backward", "backward")
            out.backward(torch.empty_like(out))
        return {name: peak.bytes for name, peak in watch.peaks.items()}

    half = peaks(torch.bfloat16, lambda a, b, offs: torch._grouped_mm(a, b, offs=offs))
    full = peaks(torch.float32, lambda a, b, offs: grouped(a, b, offs=offs))
    offsets = 512  # as the allocator rounds them, in both
    assert {name: 2 * (size - offsets) for name, size in half.items()} == {n: s - offsets for n, s in full.items()}


@pytest.mark.parametrize("checkpointing", [True, False], ids=["checkpoints", "no checkpoints"])
@pytest.mark.parametrize(
    "model", ["meta-llama/Llama-3.2-1B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen3-30B-A3B"]
)
def test_an_8_bit_base(model, checkpointing) -> None:
    facts = run(model, train__activation_checkpointing=checkpointing, train__max_length=1024).changed({"quant": EIGHT})
    found, plain = rehearse(facts), rehearse(facts.changed({"quant": QuantFacts()}))
    assert abs(100 * (estimate(facts).allocated / found.allocated - 1)) <= 4
    size = {name: next(p.bytes for p in r.parts if p.name == "weights") for name, r in (("8", found), ("16", plain))}
    packed = sum(m.weights for m in facts.model.modules if m.kind == "linear" and m.role != "lm_head")
    rows = sum(m.d_out * m.count for m in facts.model.modules if m.kind == "linear" and m.role != "lm_head")
    assert size["16"] - size["8"] == pytest.approx(packed - 4 * rows, rel=0.01)


def test_checkpoints_do_not_free_the_inputs_of_8_bit_products() -> None:
    """The real kernels on the CPU do what the rehearsal found: only a reentrant checkpoint lets the input go."""
    bnb = pytest.importorskip("bitsandbytes")
    from torch.utils.checkpoint import checkpoint

    layer = bnb.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False, threshold=6.0)
    layer.weight = bnb.nn.Int8Params(torch.randn(64, 64), requires_grad=False)._quantize("cpu")
    layer.eval()  # in training the CPU has a product of its own

    def alive(reentrant: bool) -> bool:
        seen = []

        def block(x):
            inner = x * 2
            seen.append(weakref.ref(inner))
            return layer(inner) * 3

        out = checkpoint(block, torch.randn(16, 64, dtype=torch.bfloat16, requires_grad=True), use_reentrant=reentrant)
        gc.collect()
        assert out.requires_grad
        return seen[0]() is not None

    assert alive(reentrant=False)
    assert not alive(reentrant=True)
    facts = run("meta-llama/Llama-3.2-1B-Instruct", train__max_length=1024)
    kept = {
        bits: next(p.bytes for p in rehearse(facts.changed({"quant": quant})).parts if p.name == "activations")
        for bits, quant in ((8, EIGHT), (16, QuantFacts()))
    }
    # Norm outputs, attention's output and the MLP's inner product of 16 layers, 2 bytes each.
    assert kept[8] - kept[16] == pytest.approx(16 * 1024 * 2 * (2 * 2048 + 2048 + 8192), rel=0.1)


def test_a_falcon_mamba_in_4_bits_takes_the_way_of_quantised_models() -> None:
    found = rehearse(run("tiiuae/falcon-mamba-7b", PACKED, train__max_length=64))
    weights = next(part.bytes for part in found.parts if part.name == "weights")
    assert weights < 0.75 * 7_272_665_088


def test_gemma_3n_in_4_bits_says_what_a_run_needs() -> None:
    from lora_advise.runner.meta_repairs import repair_notes

    facts = run("google/gemma-3n-E2B", PACKED, train__max_length=128)
    found = rehearse(facts)
    assert any("llm_int8_skip_modules" in note and "prediction_coefs" in note for note in found.notes)
    assert found.allocated < 2 * facts.model.total_params
    assert repair_notes("Gemma3nForCausalLM", "gemma3n_text", quantised=False) == []


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (run("state-spaces/mamba-130m-hf", PACKED), "bare weight of dt_proj"),
        (run("state-spaces/mamba-130m-hf").changed({"quant": EIGHT}), "bare weight of dt_proj"),
        (run(SCOUT, lora__exclude_modules=None), "cannot have an adapter on router"),
        (run("microsoft/Phi-3.5-MoE-instruct", lora__exclude_modules=None), "cannot have an adapter on router"),
        (run("mistralai/Mixtral-8x7B-v0.1", CASES.SETTINGS[3], lora__target_modules="all-linear"), "no dropout on fused experts"),
        (run("EleutherAI/gpt-neo-1.3B", train__max_length=3072), "3072 tokens, and EleutherAI/gpt-neo-1.3B has 2048 positions"),
    ],
)  # fmt: skip
def test_a_run_that_would_fail_is_one_sentence_with_its_reason(facts, message) -> None:
    with pytest.raises(LoraAdviseError, match=message) as caught:
        rehearse(facts)
    assert "\n" not in str(caught.value)
    assert "meta device" not in str(caught.value)


@pytest.mark.parametrize("model", [SCOUT, "microsoft/Phi-3.5-MoE-instruct", "deepseek-ai/DeepSeek-V4-Flash"])
def test_the_advisor_puts_no_adapter_where_one_raises(model, tmp_path) -> None:
    from lora_advise.adapter_limits import refused
    from lora_advise.adapters import targeted
    from lora_advise.plan_file import read_plan

    plan = tmp_path / "plan.yaml"
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(["--model", model, "--task", "chat", "--gpu", "8xH200", "--method", "lora", "--emit", str(plan)])
    assert code in (0, 1)
    facts = read_plan(plan).facts
    assert facts.model is not None and facts.lora is not None
    chosen = targeted(facts.model, facts.lora)
    assert chosen and not refused(facts.model, chosen)
    everything = targeted(facts.model, LoraFacts(r=8, lora_alpha=16, target_modules="all-linear"))
    assert refused(facts.model, everything)
