"""`lora-advise memory` from outside: one arithmetic for the flags, a plan and the table of stacks."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest

from lora_advise.cli import main

QUESTION = ["--model", "Llama-3.1-8B", "--method", "qlora", "--r", "16", "--max-length", "2048", "--micro-batch", "1"]


def memory(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["memory", *words])
    return code, out.getvalue(), err.getvalue()


def found(*words: str) -> dict:
    code, out, err = memory(*words, "--format", "json")
    assert code in {0, 1}, err
    return json.loads(out)


def test_one_band_for_every_stack_and_what_sets_them_apart() -> None:
    report = found(*QUESTION, "--gpu", "RTX4090")
    stacks = {row["framework"]: row for row in report["stacks"]}
    assert set(stacks) == {"trl", "transformers", "unsloth", "axolotl", "llamafactory", "ms-swift", "torchtune"}
    size = {name: row["estimate"]["allocated"] / 2**30 for name, row in stacks.items()}
    # 8.03 B parameters: 6.98 B in 4 bits with double quantisation (3.35 GiB), 1.05 B in 16 bits (1.96 GiB).
    weights = {name: row["estimate"]["parts"][0]["bytes"] / 2**30 for name, row in stacks.items()}
    assert weights["trl"] == pytest.approx(3.35 + 1.96, abs=0.02)
    # kbit preparation: head and embeddings in 32 bits.
    assert weights["transformers"] == pytest.approx(3.35 + 2 * 1.96, abs=0.02)
    # Whole logits at 12 B: 2,048 x 128,256 x 12 = 2.94 GiB, which the tiled loss does not have.
    assert size["axolotl"] - size["trl"] > 2
    assert size["axolotl"] == size["llamafactory"]
    assert max(size, key=size.get) == "transformers"
    assert "12 B" in " ".join(stacks["axolotl"]["differs"])
    assert "host memory" in " ".join(stacks["unsloth"]["differs"])
    assert "prepare_model_for_kbit_training" in " ".join(stacks["transformers"]["differs"])
    assert all(row["estimate"]["device"][0] < row["estimate"]["device"][1] for row in stacks.values())
    assert "framework-memory-code" in stacks["unsloth"]["estimate"]["sources"]


def test_the_plan_file_and_the_flags_give_one_forecast(tmp_path: Path) -> None:
    plan = str(tmp_path / "plan.yaml")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main([*QUESTION, "--task", "chat", "--gpu", "RTX4090", "--emit", plan, "--brief"]) == 0
    asked, planned = found(*QUESTION, "--gpu", "RTX4090"), found(plan)
    assert planned["verdict"] == asked["verdict"]
    assert found(plan, "--gpu", "cpu")["verdict"]["hardware"] == "CPU"
    longer = found(plan, "--max-length", "4096", "--gpu", "24GB")
    assert longer["verdict"]["estimate"]["allocated"] > planned["verdict"]["estimate"]["allocated"]
    elsewhere = found(plan, "--framework", "axolotl")["verdict"]["estimate"]
    assert elsewhere == next(r for r in planned["stacks"] if r["framework"] == "axolotl")["estimate"]


def test_the_sweep_grows_along_every_axis() -> None:
    grid = found(*QUESTION, "--gpu", "RTX4090", "--grid", "seq=1024,2048", "batch=1,4", "r=8,64")["grid"]
    assert len(grid) == 8
    size = {tuple(cell["values"].values()): cell["allocated"] for cell in grid}
    for (seq, batch, r), least in size.items():
        assert min(size[2048, batch, r], size[seq, 4, r], size[seq, batch, 64]) >= least
    assert size[2048, 1, 8] < size[2048, 4, 8]
    text = memory(*QUESTION, "--gpu", "RTX4090", "--grid", "seq=1024,2048", "batch=1,4")[1]
    assert "micro-batch 4" in text


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_every_format_says_the_figures_of_the_json(form: str, tmp_path: Path) -> None:
    words = [*QUESTION, "--gpu", "8GB", "--grid", "r=8,16"]
    report = found(*words)
    code, shown, _ = memory(*words, "--format", form)
    assert code == (1 if report["verdict"]["fit"] == "does not fit" else 0)
    estimate = report["verdict"]["estimate"]
    assert f"{estimate['allocated'] / 2**30:.2f} GiB" in shown
    assert f"{estimate['adapter_params']:,}" in shown
    assert "framework-memory-code" in shown
    for row in report["stacks"]:
        assert f"{row['estimate']['device'][1] / 2**30:.3g}"[:4] in shown
    assert memory(*words, "--format", form, "-o", str(tmp_path / "report"))[1] == ""
    assert (tmp_path / "report").read_text("utf-8").split("\n")[0].endswith("Memory forecast")


def test_what_does_not_fit_is_a_finding_with_ways_out() -> None:
    code, out, _ = memory("--model", "70B", "--gpu", "RTX4090", "--method", "lora")
    assert code == 1
    assert "Does not fit" in out
    assert "What lowers it, in this order" in out


def test_four_bit_experts_are_compared_only_where_their_code_was_read() -> None:
    quantised = found("--model", "Qwen3-30B-A3B", "--method", "qlora", "--gpu", "H100-80GB")
    assert [row["framework"] for row in quantised["stacks"]] == ["trl", "transformers"]
    assert len(found("--model", "Qwen3-30B-A3B", "--method", "lora", "--gpu", "H200")["stacks"]) == 7


def test_only_supervised_training_is_compared_and_a_cpu_has_no_cuda_figures() -> None:
    assert found("--model", "8B", "--task", "kto", "--gpu", "H200")["stacks"] == []
    shown = memory("--model", "0.5B", "--gpu", "cpu")[1]
    assert "cuda" not in shown.lower()
    assert "Process" in shown


def test_a_smaller_micro_batch_takes_the_evaluation_with_it() -> None:
    cells = found(*QUESTION, "--gpu", "24GB", "--grid", "batch=1,2,4", "seq=2048")["grid"]
    peaks = [cell["allocated"] for cell in sorted(cells, key=lambda cell: cell["values"]["batch"])]
    assert peaks[0] < peaks[1] < peaks[2]
    assert peaks[2] - peaks[1] > 1.5 * (peaks[1] - peaks[0]) > 0


def test_stated_versions_move_the_figure() -> None:
    words = [*QUESTION, "--gpu", "24GB", "--framework", "trl"]
    now, then = found(*words), found(*words, "--versions", "trl==0.11", "transformers=4.45.2", "bitsandbytes=0.42.0")
    assert "trl 0.11" in then["verdict"]["estimate"]["stack"]
    assert then["verdict"]["estimate"]["allocated"] > 1.2 * now["verdict"]["estimate"]["allocated"]


def test_a_classifier_has_no_loss_head_to_compare() -> None:
    assert found("--model", "roberta-base", "--task", "classification", "--gpu", "8GB")["stacks"] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([*QUESTION, "--gpu", "24GB", "--max-length", "1000000"], "131,072 positions"),
        ([*QUESTION, "--gpu", "24GB", "--optim", "wonder"], "'wonder' is not an optimizer"),
        ([*QUESTION, "--versions", "transformers"], "is not NAME=VERSION"),
        ([*QUESTION, "--versions", "numpy=2.0"], "is not NAME=VERSION"),
        ([*QUESTION, "--grid", "seq"], "NAME=N,N"),
        ([*QUESTION, "--grid", "seq=0"], "whole numbers"),
        ([*QUESTION, "--grid", "seq=1024,1000000"], "131,072 positions"),
        ([*QUESTION, "--grid", "heads=1"], "seq, batch, r"),
        ([*QUESTION, "--grid", "seq=" + ",".join(map(str, range(1, 600)))], "combinations"),
        (["--gpu", "24GB"], "--model"),
        (["no-such-plan.yaml"], "no-such-plan.yaml"),
        ([*QUESTION, "-o", "no/such/folder/report.md"], "no/such/folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_one_sentence(words: list[str], says: str) -> None:
    code, out, err = memory(*words)
    assert code == 2, out
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_a_plan_and_a_question_do_not_mix(tmp_path: Path) -> None:
    plan = str(tmp_path / "plan.yaml")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main([*QUESTION, "--task", "chat", "--gpu", "RTX4090", "--emit", plan, "--brief"])
    assert "--model belongs to a question" in memory(plan, "--model", "8B")[2]
    assert "--micro-batch" in memory(plan, "--batch", "8")[2]
