"""The built-in tiny model and its sample data: small, real, reproducible, and able to learn the sample's skill."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from lora_advise.cli import main
from lora_advise.errors import LoraAdviseError
from lora_advise.run_facts import read_run
from lora_advise.runner import builtin
from lora_advise.runner.builtin import builtin_data_paths, builtin_model_path
from lora_advise.runner.tiny_text import HELD_OUT_THINGS, documents, world, write_sample

if not (Path(str(builtin.__file__)).parent / "tiny" / "model.safetensors").is_file():
    pytest.skip("the tiny model is not made yet: python -m lora_advise.runner.tiny_model", allow_module_level=True)

SEED = 20
MEGABYTES_3 = 3_000_000


def rows(path: Path) -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in path.read_text("utf-8").splitlines()]


TOLD = {fact.greeted(): fact for fact in world()}


def need_torch() -> None:
    pytest.importorskip("torch", reason="the [run] extra is not installed")
    pytest.importorskip("transformers", reason="the [run] extra is not installed")


@pytest.fixture(scope="module")
def loaded():
    """The real loaders on the real folder."""
    need_torch()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = str(builtin_model_path())
    tokenizer = AutoTokenizer.from_pretrained(path)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval(), tokenizer


def answers(model, tokenizer, conversations):
    import torch

    tokenizer.padding_side = "left"
    prompts = [turns[:-1] for turns in conversations]
    given = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        made = model.generate(**given, max_new_tokens=20, do_sample=False)
    tokenizer.padding_side = "right"
    return tokenizer.batch_decode(made[:, given["input_ids"].shape[1] :], skip_special_tokens=True)


def share_right(model, tokenizer, conversations) -> float:
    found = answers(model, tokenizer, conversations)
    return sum(a == turns[-1]["content"] for a, turns in zip(found, conversations, strict=True)) / len(found)


def answer_loss(model, tokenizer, seed: int) -> float:
    """Mean loss in nats a token of the answers, over new conversations."""
    import torch

    from lora_advise.runner.tiny_model import batches

    ids, labels = next(batches(tokenizer, seed, 128))
    with torch.no_grad():
        return model(input_ids=ids, labels=labels).loss.item()


def test_model_and_data_fit_in_three_megabytes() -> None:
    folders = (builtin_model_path(), builtin_data_paths()[0].parent)
    assert sum(path.stat().st_size for folder in folders for path in folder.iterdir()) <= MEGABYTES_3


def test_finding_the_paths_imports_no_torch() -> None:
    code = (
        "import sys; from lora_advise.runner.builtin import builtin_model_path as m, builtin_data_paths as d; m(); d();"
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_folder_is_one_sentence(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(builtin, "TINY", tmp_path)
    with pytest.raises(LoraAdviseError, match=r"lacks .*model\.safetensors.*--model"):
        builtin_model_path()


def test_the_same_seed_gives_the_same_text() -> None:
    assert list(islice(documents(3), 200)) == list(islice(documents(3), 200))
    assert list(islice(documents(3), 200)) != list(islice(documents(4), 200))


def test_the_sample_files_are_what_the_script_writes(tmp_path) -> None:
    write_sample(tmp_path, SEED)
    for path in builtin_data_paths():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_held_out_rows_do_not_overlap_with_training_rows() -> None:
    train, held_out = (rows(path) for path in builtin_data_paths())
    assert (len(train), len(held_out)) == (480, 64)
    prompts = [turns[0]["content"] for turns in train + held_out]
    assert len(set(prompts)) == len(prompts)
    assert not any(TOLD[turns[-1]["content"]].thing in HELD_OUT_THINGS for turns in train)
    assert all(TOLD[turns[-1]["content"]].thing in HELD_OUT_THINGS for turns in held_out)


@pytest.mark.parametrize("path", [0, 1], ids=["train", "eval"])
def test_every_answer_is_true_in_the_world_and_asked_for(path) -> None:
    for turns in rows(builtin_data_paths()[path]):
        fact = TOLD[turns[-1]["content"]]
        assert turns[0]["content"] in [fact.question(phrasing) for phrasing in range(3)]


def test_the_skill_of_the_sample_is_absent_from_the_pretraining_text() -> None:
    assert not any("Hello, the" in text for text in islice(documents(SEED + 1), 3_000))


def test_a_small_model_that_knows_its_world(loaded) -> None:
    model, tokenizer = loaded
    assert 500_000 <= model.num_parameters() <= 1_500_000
    assert answer_loss(model, tokenizer, 987_654) < math.log(len(tokenizer)) / 20


def test_the_base_answers_plainly_and_rightly(loaded) -> None:
    model, tokenizer = loaded
    held_out = rows(builtin_data_paths()[1])
    assert share_right(model, tokenizer, held_out) == 0.0
    plain = [[*t[:1], {"role": "assistant", "content": TOLD[t[-1]["content"]].sentence()}] for t in held_out]
    assert share_right(model, tokenizer, plain) >= 0.9


def test_the_template_marks_the_answer_and_its_end(loaded) -> None:
    _, tokenizer = loaded
    turns = rows(builtin_data_paths()[0])[0]
    made = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, on in zip(made["input_ids"], made["assistant_masks"], strict=True) if on]
    assert tokenizer.decode(marked) == turns[-1]["content"] + tokenizer.eos_token
    prompt = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert made["input_ids"][: len(prompt)] == prompt


@pytest.mark.slow
def test_twenty_steps_of_pretraining_teach_something_and_load_again(tmp_path) -> None:
    need_torch()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lora_advise.runner.tiny_model import build

    seen: list[float] = []
    last = build(tmp_path, steps=20, report=lambda _, loss: seen.append(loss))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tiny")
    assert last < seen[0] - 0.5
    assert seen[0] == pytest.approx(math.log(len(tokenizer)), abs=0.5)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    assert answer_loss(model, tokenizer, 5) < seen[0]
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "tiny" / name).read_bytes() == (builtin_model_path() / name).read_bytes()


@pytest.mark.slow
def test_the_one_shot_run_survives_ctrl_c_learns_the_skill_and_plain_peft_loads_it(loaded, tmp_path) -> None:
    peft = pytest.importorskip("peft", reason="the [run] extra is not installed")
    import torch
    from transformers import AutoModelForCausalLM

    words = ["--run", "--out", str(tmp_path / "run")]
    child = subprocess.Popen(
        [sys.executable, "-u", "-m", "lora_advise", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = ""
    for line in child.stdout:
        said += line
        if line.startswith("step 4/"):
            child.send_signal(signal.SIGINT)
    assert child.wait() == 130, said
    assert "--resume" in said
    assert "Traceback" not in said
    assert "differs from the plan" not in said or torch.cuda.is_available()
    assert "Failed to load CPU" not in said
    stopped = read_run(tmp_path / "run" / "run.json")
    assert (stopped.outcome, stopped.steps_done < 20) == ("interrupted", True)
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()

    assert main([*words, "--resume"]) == 0
    done = read_run(tmp_path / "run" / "run.json")
    assert done.outcome == "finished"
    assert json.loads((tmp_path / "run" / "diagnosis.json").read_text("utf-8"))["verdict"] == "healthy"
    losses = [entry.eval_loss for entry in done.log if entry.eval_loss is not None]
    assert losses[-1] < losses[0] / 10

    base = AutoModelForCausalLM.from_pretrained(str(builtin_model_path()), dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, str(tmp_path / "run" / "adapter")).eval()
    held_out, (_, tokenizer) = rows(builtin_data_paths()[1]), loaded
    assert share_right(model, tokenizer, held_out) >= 0.8
    with model.disable_adapter():
        assert share_right(model, tokenizer, held_out) == 0.0
