"""Disk and host memory of a run: the forecast against the files that real runs write."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_advise.cli import main
from lora_advise.memory import estimate
from lora_advise.memory_disk import kept
from lora_advise.memory_ways_out import apply
from lora_advise.plan_file import read_plan


def cli(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = main(list(words))
    return code, out.getvalue()


def forecast(*words: str) -> dict:
    code, out = cli("memory", *words, "--format", "json")
    assert code in (0, 1), out
    return json.loads(out)["verdict"]["estimate"]


RUNS = {
    "lora": ("--r", "64"),
    "saved-head": ("--r", "64", "--set", "lora.modules_to_save=lm_head"),
    "embeddings": ("--r", "64", "--targets", "q_proj,v_proj,embed_tokens"),
    "full": ("--method", "full"),
}
LOOSE = 60_000
"""Bytes of names and headers that a large file does not notice: about 500 for each tensor and state."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_checkpoints_have_the_size_that_was_forecast(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "run"
    assert cli("--run", "--out", str(out), "--max-steps", "4", "--dtype", "float32", *RUNS[kind])[0] in (0, 1)
    made = forecast(str(out / "lora-advise.yaml"))
    folders = sorted((out / "checkpoints").glob("checkpoint-*"))
    assert 0 < len(folders) < made["checkpoints_kept"] <= 3
    name = "model.safetensors" if kind == "full" else "adapter_model.safetensors"
    for folder in folders:
        weights, states = (folder / name).stat().st_size, (folder / "optimizer.pt").stat().st_size
        assert weights + states == pytest.approx(made["checkpoint_disk"], rel=0.02, abs=LOOSE)
        if kind != "full":
            assert weights == pytest.approx(made["adapter_file"], rel=0.02)
            assert (out / "adapter" / name).stat().st_size == pytest.approx(made["adapter_file"], rel=0.02)
        everything = sum(path.stat().st_size for path in folder.iterdir())
        assert everything == pytest.approx(made["checkpoint_disk"], rel=0.05, abs=150_000)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory):
    plan = str(tmp_path_factory.mktemp("plans") / "plan.yaml")
    assert cli("--model", "8B", "--task", "chat", "--gpu", "24GB", "--method", "lora", "--emit", plan)[0] == 0
    return read_plan(Path(plan)).facts


def at(facts, **train):
    return apply(facts, {f"train.{name}": value for name, value in train.items()})


def test_states_on_disk_follow_the_optimizer(facts) -> None:
    adapter = estimate(facts).adapter_file
    sizes = {
        name: estimate(at(facts, optim=name)).checkpoint_disk - adapter
        for name in (
            "adamw_torch",
            "adamw_8bit",
            "paged_adamw_8bit",
            "paged_adamw_32bit",
            "adafactor",
            "sgd",
            "lion_32bit",
        )
    }
    assert sizes["adamw_torch"] == 2 * adapter  # two fp32 moments for each fp32 parameter
    assert sizes["paged_adamw_32bit"] == sizes["adamw_torch"]
    assert sizes["paged_adamw_8bit"] == sizes["adamw_8bit"]
    assert sizes["adamw_8bit"] == pytest.approx(sizes["adamw_torch"] * (1 + 4 / 256) / 4, rel=1e-6)
    assert sizes["lion_32bit"] == adapter
    assert sizes["sgd"] == 0
    assert 0 < sizes["adafactor"] < sizes["adamw_8bit"]


@given(
    steps=st.integers(1, 5000),
    every=st.integers(1, 700),
    limit=st.one_of(st.none(), st.integers(1, 9)),
    best=st.booleans(),
)
def test_no_more_checkpoints_than_are_made_or_kept(
    facts, steps: int, every: int, limit: int | None, best: bool
) -> None:
    there = at(facts, max_steps=steps, save_steps=every, save_total_limit=limit, load_best_model_at_end=best)
    found = kept(there, there.train)
    assert 1 <= found <= math.ceil(steps / every)
    if limit is not None:
        assert found <= max(limit, 2 if best else 1) + 1
    assert kept(there, there.train.changed({"save_strategy": "no"})) == 0


@pytest.fixture(scope="module")
def rotate():
    """The trainer's own function; its import takes seconds, which no example should pay."""
    return pytest.importorskip("transformers.trainer_utils").rotate_checkpoints


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_rotation_never_has_more_folders_than_forecast(facts, rotate, tmp_path_factory, data) -> None:
    """The trainer's own rotation, run on empty folders, with the best checkpoint wherever it may be."""
    steps, every = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    limit, best = data.draw(st.integers(1, 4)), data.draw(st.booleans())
    there = at(facts, max_steps=steps, save_steps=every, save_total_limit=limit, load_best_model_at_end=best)
    folder = tmp_path_factory.mktemp("rotation")
    most, winner = 0, None
    for step in sorted({*range(every, steps + 1, every), steps}):
        made = folder / f"checkpoint-{step}"
        made.mkdir()
        if best and (winner is None or data.draw(st.booleans())):
            winner = str(made)
        most = max(most, len(list(folder.iterdir())))
        rotate(str(folder), save_total_limit=limit, best_model_checkpoint=winner, use_mtime=False)
    assert most <= kept(there, there.train)


def test_host_memory_holds_a_copy_only_in_another_number_format(facts) -> None:
    params = facts.model.total_params
    found = {dtype: estimate(at(facts, dtype=dtype)) for dtype in ("bfloat16", "float16", "float32")}
    assert [made.host_copy for made in found.values()] == [0, 2 * params, 4 * params]
    assert all(made.host_load - made.host_copy == 2 * params for made in found.values())
    four = apply(at(facts, dtype="float16"), {"quant.load_in_4bit": True})
    assert estimate(four).host_copy == 0


@pytest.mark.slow
def test_a_mapped_checkpoint_is_not_held_and_a_converted_one_is(tmp_path: Path) -> None:
    """Loads a real checkpoint of 100 MB in processes of their own and reads what the kernel says they hold."""
    import subprocess
    import sys

    pytest.importorskip("torch")
    status = Path("/proc/self/status")
    if not status.is_file() or "RssAnon" not in status.read_text("ascii"):
        pytest.skip("only Linux tells mapped and held memory apart")
    script = """
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
def held():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon")) * 1024
folder, dtype = sys.argv[1:]
if dtype == "make":
    config = LlamaConfig(hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8, vocab_size=8000)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
else:
    before = held()
    model = LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    print((held() - before) / (sum(p.numel() for p in model.parameters()) * 2))
"""

    def run(dtype: str) -> str:
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path), dtype], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    run("make")
    assert float(run("bfloat16")) < 0.2
    assert float(run("float32")) == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_the_report_says_disk_and_host_memory(form: str) -> None:
    words = ("--model", "8B", "--gpu", "RTX4090", "--dtype", "float16", "--method", "lora")
    made = forecast(*words)
    shown = " ".join(cli("memory", *words, "--format", form)[1].split())
    assert f"{made['checkpoint_disk'] / 2**20:.3g} MiB a checkpoint" in shown
    assert f"{made['checkpoints_kept']} at once at most" in shown
    assert f"{made['host_copy'] / 2**30:.1f} GiB must be held besides" in shown
    assert "no checkpoints are saved" in cli("memory", *words, "--set", "train.save_strategy=no")[1]
