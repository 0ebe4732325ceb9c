"""The rehearsal: the installed libraries' step without a device, on the command line and against the closed form."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from pathlib import Path

import pytest

from lora_advise.adapters import trainable_params
from lora_advise.catalogue import resolve_model
from lora_advise.cli import main
from lora_advise.facts import Facts, LoraFacts, QuantFacts, StackFacts, TaskFacts, TrainFacts
from lora_advise.memory import estimate
from lora_advise.memory_ways_out import apply

torch = pytest.importorskip("torch", reason="a rehearsal needs the [run] extra")
pytest.importorskip("trl", reason="a rehearsal needs the [run] extra")

from lora_advise.errors import LoraAdviseError  # noqa: E402
from lora_advise.runner.rehearse import rehearse  # noqa: E402

pytestmark = pytest.mark.slow


def cases():
    path = Path(__file__).parent / "benchmarks" / "rehearsal_cases.py"
    spec = importlib.util.spec_from_file_location("rehearsal_cases", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = cases()
PLAIN, PACKED = CASES.SETTINGS[0], CASES.SETTINGS[1]


def run(model: str, setting=PLAIN, **changes) -> Facts:
    """One run of a catalogue model; changes are field paths with two underscores for the dot."""
    facts = CASES.run_of(resolve_model(model)[0], setting)
    return apply(facts, {name.replace("__", "."): value for name, value in changes.items()})


def error(facts: Facts) -> float:
    return 100 * (estimate(facts).allocated / rehearse(facts).allocated - 1)


@pytest.mark.parametrize("setting", [PLAIN, PACKED], ids=["16 bits", "4 bits"])
@pytest.mark.parametrize(
    "model",
    [
        "Qwen/Qwen2.5-7B-Instruct", "meta-llama/Llama-3.1-70B-Instruct", "Qwen/Qwen3-4B", "google/gemma-2-2b",
        "Qwen/Qwen3-30B-A3B", "deepseek-ai/DeepSeek-V2-Lite", "microsoft/phi-2", "tiiuae/Falcon-H1-1.5B-Base",
        "Qwen/Qwen2.5-VL-7B-Instruct", "EleutherAI/pythia-1.4b",
    ],
)  # fmt: skip
def test_the_closed_form_is_near_the_rehearsal_in_every_kind_of_model(model, setting) -> None:
    assert abs(error(run(model, setting))) <= 2.5


@pytest.mark.parametrize("setting", CASES.SETTINGS, ids=str)
def test_and_in_every_setting(setting) -> None:
    assert abs(error(run("meta-llama/Llama-3.2-1B-Instruct", setting))) <= 3


@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-0.5B-Instruct", "allenai/OLMoE-1B-7B-0924", "google/gemma-3-1b-pt"])
def test_a_line_through_two_depths_is_the_full_depth(model) -> None:
    facts = run(model)
    line, whole = rehearse(facts), rehearse(facts, full=True)
    assert whole.traced == (whole.layers,)
    assert len(line.traced) == 2
    assert line.allocated == pytest.approx(whole.allocated, rel=0.002)
    # The allocator's blocks do not grow in a straight line.
    assert line.reserved == pytest.approx(whole.reserved, rel=0.2)
    assert whole.reserved >= whole.allocated - 2 * 8_519_680
    assert line.trainable_params == whole.trainable_params
    for stage, same in zip(
        line.stages, (s for s in whole.stages if s.stage in {x.stage for x in line.stages}), strict=True
    ):
        assert stage.bytes == pytest.approx(same.bytes, rel=0.01), stage.stage


@pytest.mark.parametrize(
    "adapter",
    [
        {"r": 16}, {"r": 8, "use_dora": True}, {"r": 64, "use_rslora": True}, {"r": 4, "modules_to_save": ("lm_head",)},
        {"r": 16, "target_modules": ("q_proj", "v_proj")},
    ],
    ids=str,
)  # fmt: skip
def test_trained_parameters_are_those_of_the_plan(adapter) -> None:
    lora = LoraFacts(**{"lora_alpha": 16, "target_modules": "all-linear", **adapter})
    facts = run("HuggingFaceTB/SmolLM2-360M-Instruct").changed({"lora": lora})
    assert facts.model is not None
    assert rehearse(facts).trainable_params == trainable_params(facts.model, lora)


def test_what_moves_memory_moves_it_the_right_way() -> None:
    base = rehearse(run("Qwen/Qwen2.5-0.5B-Instruct"))
    longer = rehearse(run("Qwen/Qwen2.5-0.5B-Instruct", train__max_length=4096))
    kept = rehearse(run("Qwen/Qwen2.5-0.5B-Instruct", train__activation_checkpointing=False))
    packed = rehearse(run("Qwen/Qwen2.5-0.5B-Instruct", PACKED))
    full = rehearse(run("Qwen/Qwen2.5-0.5B-Instruct").changed({"lora": None}))
    eager = rehearse(run("Qwen/Qwen2.5-0.5B-Instruct", train__attn_implementation="eager"))
    assert packed.allocated < base.allocated < longer.allocated
    assert base.allocated < min(kept.allocated, eager.allocated, full.allocated)
    assert full.trainable_params > 50 * base.trainable_params
    assert base.reserved >= base.allocated


@pytest.mark.parametrize(("trainer", "family"), [("dpo", "preference"), ("reward", "reward")])
def test_other_trainers(trainer, family) -> None:
    task = TaskFacts(name=trainer, family=family, trainer=trainer)
    found = rehearse(run("Qwen/Qwen2.5-0.5B-Instruct").changed({"task": task}))
    assert found.allocated > 2 * 494_032_768  # its weights in 16 bits


def test_an_encoder_with_a_new_head() -> None:
    task = TaskFacts(name="classification", family="classification", trainer="classification")
    facts = run("FacebookAI/roberta-base", train__max_length=256, train__per_device_train_batch_size=8).changed(
        {
            "task": task,
            "lora": LoraFacts(
                r=8,
                lora_alpha=16,
                target_modules=("query", "value"),
                modules_to_save=("classifier",),
                task_type="SEQ_CLS",
            ),
        }
    )
    found = rehearse(facts)
    assert found.layers == 12
    # query and value of 12 layers, and a head of two matrices for two labels
    assert found.trainable_params == 12 * 2 * 8 * (768 + 768) + 768 * 768 + 768 + 2 * 768 + 2


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (run("Qwen/Qwen2.5-0.5B-Instruct").changed({"stack": StackFacts(framework="unsloth")}), "unsloth is not among them"),
        (run("Qwen/Qwen2.5-0.5B-Instruct").changed({"stack": StackFacts(sharding="fsdp")}), "rehearses one device"),
        (run("Qwen/Qwen2.5-0.5B-Instruct").changed({"task": TaskFacts(name="grpo", family="rl", trainer="grpo")}), "for grpo leave it out"),
        (run("Qwen/Qwen2.5-0.5B-Instruct", train__optim="lion_32bit"), "no shape model"),
        (run("google-t5/t5-small"), "encoder-decoder"),
        (run("Qwen/Qwen2.5-0.5B-Instruct").changed({"lora": LoraFacts(r=8, lora_alpha=8, target_modules=("nothing",))}), "match no module"),
        (run("internlm/internlm2-1_8b"), "never run"),
    ],
)  # fmt: skip
def test_what_cannot_be_rehearsed_is_one_sentence(facts, message) -> None:
    with pytest.raises(LoraAdviseError, match=message) as caught:
        rehearse(facts)
    assert "\n" not in str(caught.value)


def say(*words: str) -> tuple[int, str]:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = main(["memory", *words])
    return code, said.getvalue()


def test_the_command_shows_both_ways_and_their_difference() -> None:
    words = ["--model", "Qwen2.5-0.5B-Instruct", "--task", "chat", "--gpu", "24GB", "--exact"]
    code, text = say(*words)
    assert code == 0
    for part in (
        "Rehearsed with the installed libraries",
        f"torch {torch.__version__.partition('+')[0]}",
        "Closed form",
        "evaluation",
        "Traced",
    ):
        assert part in text
    data = json.loads(say(*words, "--format", "json")[1])
    found = data["rehearsal"]
    assert sum(part["bytes"] for part in found["parts"]) == pytest.approx(found["allocated"], rel=1e-4)
    assert max(stage["bytes"] for stage in found["stages"]) == found["allocated"]
    markdown = say(*words, "--format", "markdown")[1]
    assert "## Rehearsed with the installed libraries" in markdown
    page = say(*words, "--format", "html")[1]
    assert "Rehearsed with the installed libraries" in page
    assert "straight line" in page
    assert say("--model", "Qwen2.5-0.5B-Instruct", "--gpu", "24GB")[1].count("Rehearsed") == 0


def test_the_libraries_are_as_before_afterwards() -> None:
    from transformers import AttentionInterface
    from trl.trainer import sft_trainer

    before = (torch.autocast, torch.is_autocast_enabled, sft_trainer.get_peft_model, torch.get_default_dtype())
    rehearse(run("Qwen/Qwen2.5-0.5B-Instruct", train__attn_implementation="flash_attention_2"))
    with pytest.raises(LoraAdviseError):
        rehearse(run("Qwen/Qwen2.5-0.5B-Instruct", train__optim="lion_32bit"))
    assert (torch.autocast, torch.is_autocast_enabled, sft_trainer.get_peft_model, torch.get_default_dtype()) == before
    assert "rehearsed_attention" not in AttentionInterface.valid_keys(AttentionInterface())
    assert not torch.is_autocast_enabled("cpu")
    assert torch.nn.functional.dropout(torch.ones(4), 0.5, True).is_meta is False


def test_a_mistral_layer_takes_what_was_measured_on_a_gpu() -> None:
    """Bytes a token of one layer's backward pass in published A100 runs (sources: rehearsal-trace, fms-measured)."""
    from lora_advise.memory_case import case_of
    from lora_advise.memory_layers import layer_size

    model = resolve_model("mistralai/Mistral-7B-v0.1")[0]
    facts = Facts(
        model=model, task=TaskFacts(name="chat", family="sft"), stack=StackFacts(framework="axolotl"),
        lora=LoraFacts(r=16, lora_alpha=16, lora_dropout=0.1, target_modules=("q_proj", "k_proj", "v_proj", "o_proj")),
        quant=QuantFacts(load_in_4bit=True),
        train=TrainFacts(
            learning_rate=1e-4, per_device_train_batch_size=4, gradient_accumulation_steps=1, max_length=4096,
            attn_implementation="flash_attention_2",
        ),
    )  # fmt: skip
    # Reentrant checkpoints hold the output (2 B a hidden unit), transformers of that time copied keys and values to all heads.
    of_the_time = 2 * 4096 + 4 * (4096 - 1024)
    packed = layer_size(case_of(facts), "hump", 4, 4096)
    assert packed.activations / (4 * 4096) + of_the_time == pytest.approx(303_384, rel=0.002)
    plain = facts.changed({"quant": QuantFacts(), "stack": StackFacts(framework="peft")})
    bare = layer_size(case_of(plain), "hump", 4, 4096)
    assert bare.activations / (4 * 4096) + of_the_time == pytest.approx(336_282, rel=0.003)
