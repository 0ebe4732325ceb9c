"""Real training runs on a tiny model that the tests make: seconds each, nothing is mocked."""

from __future__ import annotations

import io
import json
import math
import os
import random
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the [run] extra is not installed")
pytest.importorskip("trl", reason="the [run] extra is not installed")
os.environ["HF_HUB_OFFLINE"] = "1"

from lora_advise import advise
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import (
    DataFacts,
    Facts,
    HardwareFacts,
    LinearModule,
    LoraFacts,
    ModelFacts,
    QuantFacts,
    StackFacts,
    TaskFacts,
    TrainFacts,
)
from lora_advise.plan import Plan
from lora_advise.run_facts import read_run

pytestmark = pytest.mark.slow

COLOURS = {"boat": "blue", "house": "red", "tree": "green", "stone": "grey", "sun": "yellow", "night": "black"}
LLAMA = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a word-level tokenizer and a chat template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [
        *[
            "<pad>",
            "<eos>",
            "<unk>",
            "user",
            "assistant",
            ":",
            "what",
            "colour",
            "is",
            "the",
            "?",
            "it",
            "not",
            "good",
            "bad",
        ],
        *COLOURS,
        *COLOURS.values(),
        *(str(i) for i in range(20)),
    ]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<eos>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' ' }}"
        "{% if m['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        tie_word_embeddings=False,
        initializer_range=0.2,
        **LLAMA,
    )
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def model_facts(folder: Path) -> ModelFacts:
    shapes = {"q_proj": (64, 64), "k_proj": (64, 32), "v_proj": (64, 32), "o_proj": (64, 64)}
    mlp = {"gate_proj": (64, 128), "up_proj": (64, 128), "down_proj": (128, 64)}
    modules = [
        LinearModule(path=f"model.layers.*.self_attn.{n}", d_in=i, d_out=o, count=2, role="attention")
        for n, (i, o) in shapes.items()
    ]
    modules += [
        LinearModule(path=f"model.layers.*.mlp.{n}", d_in=i, d_out=o, count=2, role="mlp") for n, (i, o) in mlp.items()
    ]
    return ModelFacts(
        name="tiny",
        path=str(folder),
        model_type="llama",
        kind="dense",
        total_params=80_000,
        active_params=80_000,
        head_dim=16,
        vocab_size=47,
        tie_word_embeddings=False,
        modules=tuple(modules),
        **LLAMA,
    )


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        thing = rng.choice(list(COLOURS))
        made.append(
            {
                "messages": [
                    {"role": "user", "content": f"what colour is the {thing} ?"},
                    {"role": "assistant", "content": f"it is {COLOURS[thing]}"},
                ]
            }
        )
    return made


def write(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def make_plan(model: Path, data: Path, /, **changes: Any) -> Plan:
    """A plan for the tiny model; ``train``, ``lora``, ``data``, ``task`` and ``quant`` are merged over the defaults."""
    train = {
        "learning_rate": 5e-3,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "per_device_eval_batch_size": 16,
        "max_length": 64,
        "max_steps": 20,
        "warmup_steps": 2,
        "eval_steps": 10,
        "eval_share": 0.1,
        "save_steps": 10,
        "logging_steps": 5,
        "dtype": "float32",
        "activation_checkpointing": False,
    }
    lora = {"r": 8, "lora_alpha": 16}
    task = {"name": "qa", "family": "sft", "trainer": "sft"}
    about = {"path": str(data), "format": "messages", "examples": 96, "tokens_per_example": 14, "completion_tokens": 4}
    quant = changes.get("quant")
    facts = Facts(
        task=TaskFacts(**{**task, **changes.get("task", {})}),
        model=model_facts(model),
        lora=LoraFacts(**{**lora, **changes.get("lora", {})}),
        quant=QuantFacts(**quant) if quant else None,
        train=TrainFacts(**{**train, **changes.get("train", {})}),
        data=DataFacts(**{**about, **changes.get("data", {})}),
        hardware=HardwareFacts(name="CPU", memory_gib=16, kind="cpu", **changes.get("hardware", {})),
        stack=StackFacts(**changes.get("stack", {})),
    )
    return Plan(facts=facts)


def run(plan: Plan, out: Path, stream: io.StringIO | None = None, **options: Any) -> tuple[Any, str]:
    from rich.console import Console

    from lora_advise.runner.run import run_plan

    stream = stream or io.StringIO()
    outcome = run_plan(plan, out, console=Console(file=stream, width=200), **options)
    return outcome, stream.getvalue()


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "adapter_model.safetensors"))


def load_with_peft(model: Path, adapter: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model, dtype="float32"), adapter)


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str, Path]:
    """One LoRA run that several tests look at."""
    folder = tmp_path_factory.mktemp("lora")
    data = write(folder / "train.jsonl", rows(96))
    plan = make_plan(
        model,
        data,
        train={
            "max_steps": 60,
            "eval_steps": 20,
            "save_steps": 20,
            "dtype": "bfloat16",
            "optim": "paged_adamw_8bit",
            "activation_checkpointing": True,
        },
    )
    outcome, said = run(plan, folder / "out")
    return outcome, said, folder / "out"


def test_loss_falls_and_answers_become_right(trained: tuple[Any, str, Path]) -> None:
    outcome, said, out = trained
    record = read_run(out / "run.json")
    evals = [(e.step, e.eval_loss) for e in record.log if e.eval_loss is not None]
    assert [step for step, _ in evals] == [0, 20, 40, 60]
    assert evals[-1][1] < 0.5 * evals[0][1]
    assert record.outcome == "finished"
    assert record.steps_done == record.max_steps == 60
    assert record.exact_match_before == 0.0
    assert record.exact_match_after is not None
    assert record.exact_match_after > 0.5
    assert record.samples[0].before != record.samples[0].after
    assert "step 60/60" in said
    assert outcome.exit_code in {0, 1}
    assert not (out / "previous-1").exists()
    assert outcome.diagnosis is not None


def test_what_could_not_be_applied_is_said_and_recorded(trained: tuple[Any, str, Path]) -> None:
    outcome, said, out = trained
    for field in ("train.dtype bfloat16", "train.optim paged_adamw_8bit"):
        assert any(line.startswith(field) for line in outcome.deviations), field
        assert field in said
    assert read_run(out / "run.json").deviations == outcome.deviations


def test_checkpointing_of_a_plan_for_a_gpu_is_off_on_a_cpu(model: Path, tmp_path: Path) -> None:
    from lora_advise.runner.device import settle

    for_cpu = make_plan(model, write(tmp_path / "train.jsonl", rows(8)), train={"activation_checkpointing": True}).facts
    card = HardwareFacts(name="GeForce RTX 4090", memory_gib=24.0)
    for_gpu = for_cpu.changed({"hardware": card})
    assert settle(for_cpu).checkpointing
    assert settle(for_gpu).checkpointing == (settle(for_gpu).device == "cuda")


def test_record_holds_the_run(trained: tuple[Any, str, Path]) -> None:
    record = read_run(trained[2] / "run.json")
    assert record.trainable_params == 8 * (2 * ((64 + 64) * 2 + (64 + 32) * 2 + (64 + 128) * 3))
    assert record.throughput is not None
    assert record.throughput.tokens_per_s > 0
    assert record.memory is not None
    assert record.memory.peak_host_rss > 2**20
    assert {"torch", "transformers", "peft", "trl", "python"} <= set(record.environment)
    assert record.signals[0].norm_b == 0
    assert record.signals[-1].norm_b > 0
    assert record.signals[-1].relative_update_median > 0
    assert 1 <= record.signals[-1].effective_rank_median <= 8
    rates = [e.learning_rate for e in record.log if e.learning_rate is not None]
    assert max(rates) <= 5e-3
    assert rates[-1] < rates[1]


def test_adapter_loads_with_plain_peft_and_changes_the_model(model: Path, trained: tuple[Any, str, Path]) -> None:
    import torch

    adapter = trained[2] / "adapter"
    loaded = load_with_peft(model, adapter)
    assert all(v.abs().sum() > 0 for k, v in weights(adapter).items() if "lora_B" in k)
    ids = torch.tensor([[3, 5, 6, 7]])
    with torch.no_grad():
        changed = loaded(ids).logits
        with loaded.disable_adapter():
            assert not torch.allclose(changed, loaded(ids).logits)
    assert not (adapter / "training_args.bin").exists()
    assert (adapter / "tokenizer.json").is_file()
    said: dict[str, Any] = {}
    exec((adapter / "README.md").read_text().split("```python\n")[1].split("```")[0], said)
    assert said["model"].peft_config["default"].r == loaded.peft_config["default"].r


def test_existing_run_is_refused_and_force_keeps_it(
    model: Path, trained: tuple[Any, str, Path], tmp_path: Path
) -> None:
    out = trained[2]
    plan = make_plan(model, out.parent / "train.jsonl", train={"max_steps": 2, "eval_strategy": "no"})
    with pytest.raises(LoraAdviseError, match="holds a run already"):
        run(plan, out)
    other = tmp_path / "out"
    (other / "adapter").mkdir(parents=True)
    (other / "adapter" / "mine.txt").write_text("mine")
    (other / "notes.txt").write_text("notes")
    run(plan, other, force=True)
    assert (other / "previous-1" / "adapter" / "mine.txt").read_text() == "mine"
    assert (other / "notes.txt").read_text() == "notes"
    assert (other / "adapter" / "adapter_model.safetensors").is_file()


def test_qlora_on_this_machine(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    data = write(tmp_path / "train.jsonl", rows(64))
    plan = make_plan(model, data, quant={"load_in_4bit": True}, train={"max_steps": 24, "eval_steps": 12})
    outcome, _ = run(plan, tmp_path / "out")
    evals = [e.eval_loss for e in outcome.run.log if e.eval_loss is not None]
    assert evals[-1] < evals[0]
    assert outcome.run.environment["trained_dtype"] == "float32"
    assert any(line.startswith("quant.bnb_4bit_compute_dtype") for line in outcome.deviations)
    assert load_with_peft(model, tmp_path / "out" / "adapter").peft_config["default"].r == 8


def test_dpo(model: Path, tmp_path: Path) -> None:
    pairs = [
        {"prompt": f"what colour is the {t} ?", "chosen": f"it is {c}", "rejected": f"it is not {c}"}
        for t, c in COLOURS.items()
    ] * 6
    data = write(tmp_path / "train.jsonl", pairs)
    plan = make_plan(
        model,
        data,
        task={"name": "dpo", "family": "preference", "trainer": "dpo"},
        data={"format": "preference"},
        train={"max_steps": 12, "beta": 0.1, "learning_rate": 1e-3, "eval_steps": 6},
    )
    outcome, _ = run(plan, tmp_path / "out")
    losses = [e.loss for e in outcome.run.log if e.loss is not None]
    assert losses[0] == pytest.approx(math.log(2), abs=0.02)
    assert losses[-1] < 0.6
    assert any("rewards/margins" in e.extra for e in outcome.run.log)


@pytest.mark.parametrize("trainer", ["kto", "orpo", "simpo", "reward"])
def test_other_preference_trainers(model: Path, tmp_path: Path, trainer: str) -> None:
    pairs = [
        {"prompt": f"what colour is the {t} ?", "chosen": f"it is {c}", "rejected": f"it is not {c}"}
        for t, c in COLOURS.items()
    ] * 4
    data = write(tmp_path / "train.jsonl", pairs)
    family = "reward" if trainer == "reward" else "preference"
    plan = make_plan(
        model,
        data,
        task={"name": trainer, "family": family, "trainer": trainer},
        data={"format": "preference"},
        train={"max_steps": 4, "eval_steps": 4, "logging_steps": 1, "save_strategy": "no"},
    )
    outcome, _ = run(plan, tmp_path / "out")
    assert outcome.run.outcome == "finished", outcome.run.message
    assert all(math.isfinite(e.loss) for e in outcome.run.log if e.loss is not None)
    assert all(v.abs().sum() > 0 for k, v in weights(tmp_path / "out" / "adapter").items() if "lora_B" in k)


def test_classification(model: Path, tmp_path: Path) -> None:
    content = [
        {"text": f"the {t} is {'good' if i % 2 else 'bad'}", "label": "positive" if i % 2 else "negative"}
        for i in range(40)
        for t in COLOURS
    ]
    data = write(tmp_path / "train.jsonl", content)
    plan = make_plan(
        model,
        data,
        task={"name": "cls", "family": "classification", "trainer": "classification"},
        data={"format": "classification"},
        train={"max_steps": 30, "eval_steps": 15},
    )
    outcome, _ = run(plan, tmp_path / "out")
    accuracies = [e.extra["eval_accuracy"] for e in outcome.run.log if "eval_accuracy" in e.extra]
    assert accuracies[-1] > 0.95
    assert any("score" in name for name in weights(tmp_path / "out" / "adapter"))


def test_grpo_learns_from_exact_matches(model: Path, tmp_path: Path) -> None:
    content = [{"prompt": f"what colour is the {t} ?", "answer": c} for t, c in COLOURS.items()] * 2
    data = write(tmp_path / "train.jsonl", content)
    plan = make_plan(
        model,
        data,
        task={"name": "grpo", "family": "rl", "trainer": "grpo"},
        data={"format": "prompt"},
        train={
            "max_steps": 2,
            "num_generations": 4,
            "max_completion_length": 4,
            "logging_steps": 1,
            "eval_strategy": "no",
        },
    )
    outcome, _ = run(plan, tmp_path / "out")
    assert outcome.run.outcome == "finished", outcome.run.message
    assert any("reward" in e.extra for e in outcome.run.log)


def test_the_steps_of_grpo_are_those_of_the_sampler_of_trl() -> None:
    from trl.trainer.utils import RepeatSampler

    advice = advise("0.5B", "grpo", examples=4_000, tokens_per_example=100, gpu="A100-80GB")
    train = advice.facts.train
    assert train is not None
    group, batch = train.num_generations, advice.steps.effective_batch
    prompts = advice.facts.train_examples
    assert group == 8
    assert batch % group == 0
    fed = len(RepeatSampler(range(prompts), mini_repeat_count=group, batch_size=batch // group))
    assert advice.steps.rows == prompts * group
    assert advice.steps.epochs == 1
    assert advice.steps.steps == math.ceil(fed / batch) == 500


def test_rates_of_their_own_for_b_and_embeddings(model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", rows(32))
    plan = make_plan(
        model,
        data,
        lora={"modules_to_save": ("embed_tokens",), "loraplus_lr_ratio": 8.0, "use_dora": True, "use_rslora": True},
        train={"max_steps": 4, "embedding_learning_rate": 1e-4, "eval_strategy": "no"},
    )
    outcome, _ = run(plan, tmp_path / "out")
    assert outcome.run.outcome == "finished", outcome.run.message
    saved = weights(tmp_path / "out" / "adapter")
    assert any("embed_tokens" in name for name in saved)
    assert any("magnitude" in name for name in saved)


def test_targets_that_match_nothing_are_refused_before_training(model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", rows(16))
    with pytest.raises(LoraAdviseError, match=r"query_key_value.*match no module.*q_proj"):
        run(make_plan(model, data, lora={"target_modules": ("query_key_value",)}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_target_that_matches_nothing_beside_others_is_said(model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", rows(16))
    plan = make_plan(
        model, data, lora={"target_modules": ("q_proj", "wqkv")}, train={"max_steps": 1, "eval_strategy": "no"}
    )
    outcome, _ = run(plan, tmp_path / "out")
    assert any("wqkv" in line for line in outcome.deviations)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": {"path": "absent.jsonl"}}, "absent.jsonl: there is no such data file"),
        ({"data": {"format": "preference"}}, "the sft trainer needs messages"),
        ({"task": {"trainer": "grpo", "family": "rl"}, "data": {"format": "prompt-completion"}}, "row 1: does not fit"),
        ({"task": {"trainer": "ppo", "family": "rl"}}, "has no ppo trainer"),
        ({"train": {"lr_scheduler_type": "zigzag"}}, "SFTConfig refuses the plan"),
    ],
)
def test_plans_that_cannot_run_are_one_sentence(model: Path, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    data = write(tmp_path / "train.jsonl", rows(16))
    with pytest.raises(LoraAdviseError, match=says) as caught:
        run(make_plan(model, data, **change), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_model_that_is_not_here_is_one_sentence(model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", rows(16))
    plan = make_plan(model, data)
    absent = plan.facts.model.changed({"name": "nobody/no-such-model", "path": None})
    plan = plan.changed({"facts": plan.facts.changed({"model": absent})})
    with pytest.raises(
        LoraAdviseError, match=r"nobody/no-such-model: its tokenizer is not on this machine.*hf download"
    ):
        run(plan, tmp_path / "out")


def test_pickled_weights_are_not_loaded(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((model / name).read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    data = write(tmp_path / "train.jsonl", rows(16))
    with pytest.raises(LoraAdviseError, match="pickled weights are not loaded"):
        run(make_plan(folder, data), tmp_path / "out")


def test_missing_devices_are_made_up_for_by_accumulation(model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", rows(48))
    plan = make_plan(
        model, data, hardware={"count": 3}, stack={"sharding": "ddp"}, train={"max_steps": 2, "eval_strategy": "no"}
    )
    outcome, _ = run(plan, tmp_path / "out")
    assert any(
        "train.gradient_accumulation_steps is 3 instead of 1; the effective batch stays 24" in d
        for d in outcome.deviations
    )
    # 48 rows at 24 rows a step: two steps are one epoch.
    assert outcome.run.epochs_done == pytest.approx(1.0)


def test_a_loss_that_is_no_number_fails_the_run(model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", rows(64))
    plan = make_plan(
        model,
        data,
        train={
            "learning_rate": 1e30,
            "max_grad_norm": None,
            "warmup_steps": 0,
            "logging_steps": 1,
            "eval_strategy": "no",
            "optim": "sgd",
        },
    )
    outcome, said = run(plan, tmp_path / "out")
    assert outcome.run.outcome == "failed"
    assert outcome.run.steps_done < 20
    assert "learning_rate" in outcome.run.message
    assert outcome.run.message in said.replace("\n", " ")
    assert outcome.exit_code == 1
    assert not (tmp_path / "out" / "adapter").exists()
    assert any(e.loss is not None and not math.isfinite(e.loss) for e in read_run(tmp_path / "out" / "run.json").log)


LONG = {"max_steps": 12, "logging_steps": 1, "eval_steps": 6, "save_steps": 6}


def test_an_interrupted_run_goes_on_where_it_stopped(model: Path, tmp_path: Path, ctrl_c: Any) -> None:
    data = write(tmp_path / "train.jsonl", rows(96))
    plan = make_plan(model, data, train=LONG)
    out = tmp_path / "o ut"
    halted, said = run(plan, out, stream=ctrl_c("step 5/"))
    assert halted.exit_code == 130
    hint = next(line for line in said.splitlines() if line.startswith("Go on with: "))
    words = shlex.split(hint.removeprefix("Go on with: "))
    assert words == ["lora-advise", "run", str(out / "lora-advise.yaml"), "--out", str(out), "--resume"]
    stopped = read_run(out / "run.json")
    assert stopped.outcome == "interrupted"
    assert 5 <= stopped.steps_done <= 6
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    again, said = run(plan, out, resume=True)
    assert again.exit_code in {0, 1}
    assert f"Going on from checkpoint-{stopped.steps_done}" in said
    whole = read_run(out / "run.json")
    assert whole.outcome == "finished"
    assert whole.steps_done == 12
    assert [e.step for e in whole.log if e.loss is not None] == list(range(1, 13))
    assert [e.loss for e in whole.log if e.loss is not None][: stopped.steps_done] == [
        e.loss for e in stopped.log if e.loss is not None
    ]
    straight, _ = run(plan, tmp_path / "straight")
    ends = [next(e.eval_loss for e in reversed(r.log) if e.eval_loss is not None) for r in (whole, straight.run)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)


def test_resume_is_refused_without_its_parts_or_with_another_plan(model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", rows(32))
    plan = make_plan(model, data, train={"max_steps": 4, "eval_strategy": "no"})
    with pytest.raises(LoraAdviseError, match="no run of lora-advise to go on with"):
        run(plan, tmp_path / "out", resume=True)
    run(plan, tmp_path / "out")
    with pytest.raises(LoraAdviseError, match="is finished"):
        run(plan, tmp_path / "out", resume=True)
    record = tmp_path / "out" / "run.json"
    record.write_text(record.read_text().replace('"finished"', '"interrupted"'))
    with pytest.raises(LoraAdviseError, match=r"train\.learning_rate"):
        run(
            make_plan(model, data, train={"max_steps": 4, "eval_strategy": "no", "learning_rate": 1e-3}),
            tmp_path / "out",
            resume=True,
        )
    checkpoint = next((tmp_path / "out" / "checkpoints").glob("checkpoint-*"))
    (checkpoint / "optimizer.pt").unlink()
    with pytest.raises(LoraAdviseError, match=r"lacks optimizer\.pt"):
        run(plan, tmp_path / "out", resume=True)


def test_a_second_interrupt_aborts_at_once() -> None:
    from types import SimpleNamespace

    from lora_advise.runner.watch import Interrupts, interruptible

    interrupts = Interrupts()
    interrupts.on_train_begin()
    with interruptible(interrupts):
        signal.raise_signal(signal.SIGINT)
        assert interrupts.asked
        control = interrupts.on_step_end(SimpleNamespace(), None, SimpleNamespace())
        assert control.should_save
        assert control.should_training_stop
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_libraries_are_quiet_but_for_errors(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    import logging

    from lora_advise.runner.quiet import quiet_libraries

    backend = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with quiet_libraries():
        import transformers  # noqa: F401 - sets the level of its own logger when it is first imported

        logging.getLogger("transformers.trainer_utils").warning("mtime may not be reliable on this filesystem")
        backend.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s", "no module")
        logging.getLogger("transformers.trainer_utils").error("a real error")
    backend.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s", "no module")
    backend.warning("another warning")
    said = capfd.readouterr().err + caplog.text
    assert "mtime" not in said
    assert "gemm_4bit" not in said
    assert "a real error" in said
    assert "another warning" in said
