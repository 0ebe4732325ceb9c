"""What somebody new to the tool tries: choices that contradict each other, odd values, wrong files, other locales."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lora_advise import advise, read_plan
from lora_advise.catalogue import resolve_model
from lora_advise.cli import main
from lora_advise.errors import LoraAdviseError
from lora_advise.plan import Advice

QUESTION = ("--model", "7B", "--task", "qa", "--gpu", "RTX4090")


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def notes(advice: Advice) -> str:
    return "\n".join(note.text for note in advice.notes)


class TestHeads:
    @pytest.mark.parametrize(
        "model",
        ["microsoft/deberta-v3-small", "microsoft/deberta-v3-large", "microsoft/mdeberta-v3-base",
         "distilbert/distilbert-base-uncased", "FacebookAI/roberta-base"],
    )  # fmt: skip
    @pytest.mark.parametrize("task", ["classification", "reward"])
    def test_new_heads_of_every_encoder_pass_the_linter(self, model: str, task: str) -> None:
        assert not advise(model, task, gpu="T4").findings


class TestBrief:
    @pytest.mark.parametrize("form", ["text", "markdown", "html", "svg"])
    def test_is_shorter_in_every_format(self, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        long, short = tmp_path / "long", tmp_path / "short"
        assert ask(capsys, *QUESTION, "--format", form, "-o", str(long))[0] == 0
        assert ask(capsys, *QUESTION, "--format", form, "--brief", "-o", str(short))[0] == 0
        text = short.read_text("utf-8")
        assert "3e-4" in text
        assert "Memory forecast" not in re.sub(r"[\s\xa0]|&#160;", " ", text)
        assert len(text) < 0.6 * len(long.read_text("utf-8"))

    def test_is_refused_for_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, err = ask(capsys, *QUESTION, "--format", "json", "--brief")
        assert (code, out) == (2, "")
        assert err.startswith("lora-advise: --brief: the JSON report")


class TestBatch:
    @pytest.mark.parametrize("gpu", ["RTX4090", "12GB", "H100", "2xRTX4090"])
    @pytest.mark.parametrize("model", ["7B", "3B", "14B"])
    def test_naming_our_own_micro_batch_changes_nothing(self, model: str, gpu: str) -> None:
        ours = advise(model, "qa", gpu=gpu)
        assert ours.facts.train is not None
        named = advise(model, "qa", gpu=gpu, micro_batch=ours.facts.train.per_device_train_batch_size)
        assert named.facts == ours.facts

    def test_a_contradiction_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, _, err = ask(capsys, *QUESTION, "--batch", "16", "--micro-batch", "8", "--accumulation", "5")
        assert code == 2
        assert "--batch: 16 contradicts micro-batch 8 x accumulation 5, which is 40" in err

    def test_three_that_agree_are_taken(self) -> None:
        advice = advise("7B", "qa", gpu="H100", batch=40, micro_batch=8, accumulation=5)
        assert advice.steps.effective_batch == 40

    def test_a_batch_that_cannot_be_split_is_said(self) -> None:
        advice = advise("7B", "qa", gpu="H100", batch=7, micro_batch=3)
        assert advice.steps.effective_batch == 9
        assert "An effective batch of 7 cannot be split so" in notes(advice)


class TestSmallData:
    @pytest.mark.parametrize("task", ["dpo", "kto", "orpo"])
    def test_preferences_get_smaller_batches_and_more_passes(self, task: str) -> None:
        advice = advise("7B", task, examples=600, gpu="H100")
        assert advice.steps.steps >= 100
        few = advise("7B", task, examples=60, gpu="H100")
        assert few.steps.effective_batch == 8
        assert few.steps.epochs == 3
        assert "Only 18 optimizer steps" in notes(few)

    def test_the_linter_counts_preference_steps_too(self) -> None:
        found = advise("7B", "dpo", examples=300, gpu="H100", batch=32, epochs=1).findings
        assert "too-few-steps" in [f.rule for f in found]

    @pytest.mark.parametrize(("examples", "rank", "steps"), [(20, 8, 60), (40, 8, 60), (51, 16, 100), (120, 16, 100)])
    def test_few_examples_get_a_small_rank_and_enough_steps(self, examples: int, rank: int, steps: int) -> None:
        advice = advise("7B", "chat", examples=examples, gpu="RTX4090")
        assert advice.facts.lora is not None
        assert advice.facts.train is not None
        assert advice.facts.lora.r == rank
        assert advice.steps.steps >= steps
        assert advice.facts.train.learning_rate <= 3e-4

    def test_one_example_is_not_held_out(self) -> None:
        advice = advise("7B", "chat", examples=1, gpu="RTX4090")
        assert advice.facts.train is not None
        assert advice.facts.train.eval_strategy == "no"
        assert "1 example" in advice.decision("train.eval_strategy").because

    def test_a_fifth_is_called_a_fifth(self) -> None:
        assert (
            advise("7B", "chat", examples=51, gpu="RTX4090").decision("train.eval_share").because.startswith("A fifth")
        )


class TestData:
    ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
        ("messages", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "c"}),
        ("classification", {"text": "a", "label": "b"}),
    )

    @pytest.mark.parametrize(
        ("row", "task", "model"),
        [(0, "dpo", "7B"), (1, "chat", "7B"), (2, "chat", "7B"), (0, "classification", "FacebookAI/roberta-base")],
    )
    def test_the_wrong_task_for_the_data_is_refused(
        self, row: int, task: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        name, content = self.ROWS[row]
        file = tmp_path / "d.jsonl"
        file.write_text(json.dumps(content) + "\n", "utf-8")
        code, out, err = ask(capsys, "--model", model, "--task", task, "--gpu", "H100", "--data", str(file))
        assert (code, out) == (2, "")
        assert f"holds {name} data, and the" in err

    @pytest.mark.parametrize(
        ("row", "says"),
        [
            ({"messages": [{"role": "user", "content": "a"}]}, "none of its 1 conversations has an assistant's turn"),
            ({"prompt": "a", "completion": ""}, "lacks an answer"),
        ],
    )
    def test_what_is_empty_is_named(self, row: dict[str, Any], says: str, tmp_path: Path) -> None:
        file = tmp_path / "d.jsonl"
        file.write_text(json.dumps(row) + "\n", "utf-8")
        with pytest.raises(LoraAdviseError, match=says):
            advise("7B", "chat", data=str(file))

    def test_a_path_is_readable_under_an_ascii_locale(self, tmp_path: Path) -> None:
        folder = tmp_path / "dir with space"
        folder.mkdir()
        (folder / "数据.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', "utf-8")
        ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        words = [sys.executable, "-m", "lora_advise", *QUESTION, "--brief", "--data", "dir with space/数据.jsonl"]
        done = subprocess.run(words, cwd=tmp_path, env=ascii_only, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "dir with space/\\u6570\\u636e.jsonl" in done.stdout.decode("ascii")


class TestFullFineTuning:
    def test_has_no_adapter_in_its_report_and_our_own_method_beside_it(self) -> None:
        advice = advise("7B", "qa", gpu="RTX4090", method="full")
        assert advice.decision("method").advised == "lora"
        assert not [d for d in advice.decisions if d.field.startswith("lora.")]
        assert "rank" not in str(advice.decision("sweep").value)
        fit = next(f for f in advice.findings if f.rule == "does-not-fit")
        assert fit.fix is not None
        assert "method = lora" in fit.fix

    def test_refuses_adapter_settings(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, _, err = ask(capsys, *QUESTION, "--method", "full", "--r", "8")
        assert code == 2
        assert "lora.r: full fine-tuning has no adapter" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--scheduler", "foo"), "--scheduler: 'foo' should be one of linear, cosine"),
        (("--targets", ""), "--targets: no module is named"),
        (("--targets", " , "), "--targets: no module is named"),
        (("--r", "99999999"), "--r: 99999999 is more than the smaller side"),
        (("-o", ""), "-o: the name of the file is empty"),
        (("--emit", " "), "--emit: the name of the file is empty"),
    ],
)
def test_values_that_cannot_be_are_refused(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = ask(capsys, *QUESTION, *words)
    assert code == 2
    assert says in err


class TestEmit:
    def test_keeps_what_lay_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        plan = tmp_path / "my plan.yaml"
        plan.write_text("edited by hand\n", "utf-8")
        code, _, err = ask(capsys, *QUESTION, "--emit", str(plan))
        assert code == 0
        assert (tmp_path / "my plan.yaml.old-1").read_text("utf-8") == "edited by hand\n"
        assert f"lora-advise run {shlex.quote(str(plan))}" in err
        assert read_plan(plan).facts.train is not None

    def test_makes_no_copy_of_the_same_plan(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for _ in range(2):
            ask(capsys, *QUESTION, "--emit", str(tmp_path / "plan.yaml"))
        assert [path.name for path in tmp_path.iterdir()] == ["plan.yaml"]


class TestSources:
    @pytest.mark.parametrize(
        ("question", "field", "sources", "confidence"),
        [
            (dict(model="7B", task="math", examples=1_000, tokens_per_example=4_000, completion_tokens=3_500),
             "train.num_train_epochs", ("long-cot-2026",), "measured"),
            (dict(model="FacebookAI/roberta-base", task="classification"), "train.num_train_epochs", ("hu-2021",), "measured"),
            (dict(model="7B", task="dpo"), "effective_batch", ("alignment-handbook",), "convention"),
            (dict(model="7B", task="continued-pretraining"), "train.num_train_epochs", ("muennighoff-2023",), "measured"),
        ],
    )  # fmt: skip
    def test_a_reason_names_its_own_sources(
        self, question: dict[str, Any], field: str, sources: tuple[str, ...], confidence: str
    ) -> None:
        decision = advise(gpu="H100", **question).decision(field)
        assert (decision.sources, decision.confidence) == (sources, confidence)

    def test_a_t5_is_not_said_to_be_a_roberta(self) -> None:
        because = advise("google-t5/t5-base", "summarization", gpu="H100").decision("lora.target_modules").because
        assert "RoBERTa" not in because
        assert "none of them on such a model" in because


class TestCpu:
    def test_speaks_of_the_cpu(self) -> None:
        advice = advise("7B", "qa", gpu="cpu")
        assert "16-bit" not in advice.decision("method").because
        assert "Not practical on a CPU" in notes(advice)
        from lora_advise import report_text

        assert (
            "nvidia-smi"
            not in report_text.render(advice).split("What to try next")[0].split("Allocator slack")[1][:200]
        )

    def test_checkpointing_is_off_only_where_everything_fits(self) -> None:
        small, large = (advise(m, "qa", gpu="cpu").facts for m in ("0.5B", "72B"))
        assert small.train is not None
        assert large.train is not None
        assert not small.train.activation_checkpointing or small.hardware.memory_gib < 8  # type: ignore[union-attr]
        assert large.train.activation_checkpointing

    def test_is_one_device(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, _, err = ask(capsys, "--model", "7B", "--task", "qa", "--gpu", "cpu", "--gpus", "2")
        assert code == 2
        assert "a CPU is one device" in err


def test_what_fits_just_about_is_not_said_not_to_fit() -> None:
    advice = advise("32B", "qa", gpu="H100-80GB")
    rows = {v.method: v.fit for v in advice.memory}
    because = advice.decision("method").because
    if advice.facts.method == "qlora" and rows["lora"] == "fits":
        assert re.search(r"16-bit LoRA fits with only \d % to spare", because)
    assert "does not fit" not in because or rows["lora"] == "does not fit"


class TestSentences:
    def test_an_assumed_completion_is_a_part_of_the_tokens(self) -> None:
        advice = advise("7B", "qa", gpu="H100", examples=10_000, tokens_per_example=8_000)
        assert "Assumed data: 3,000 of the tokens of each example in the completion." in notes(advice)

    def test_a_classifier_has_no_completion(self) -> None:
        from lora_advise import report_text

        text = report_text.render(advise("FacebookAI/roberta-base", "classification", gpu="T4"))
        for word in ("completion", "with loss", "MMLU"):
            assert word not in text.replace("completion bash", ""), word

    def test_one_is_singular(self) -> None:
        from lora_advise import report_text

        text = report_text.render(advise("7B", "chat", gpu="H100", examples=1, epochs=1, warmup_steps=1))
        assert not re.search(r"\b1 (examples|epochs|warmup steps|steps|rows|optimizer steps)\b", text)


class TestConfigs:
    BASE: dict[str, Any] = {  # noqa: RUF012 - a constant of the test
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False,
    }  # fmt: skip

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"hidden_size": "4096"}, "says hidden_size = '4096', which is no whole number"),
            ({"hidden_size": 4096.5}, "says hidden_size = '4096.5', which is no whole number"),
            ({"num_hidden_layers": 10**9}, "which no model has"),
            ({"num_key_value_heads": 7}, "32 attention heads for 7 key-value heads"),
        ],
    )
    def test_what_no_model_can_have_is_refused(self, change: dict[str, Any], says: str, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(self.BASE | change), "utf-8")
        with pytest.raises(LoraAdviseError) as caught:
            resolve_model(str(tmp_path))
        assert says in str(caught.value)

    def test_a_byte_order_mark_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(self.BASE), "utf-8-sig")
        assert resolve_model(str(tmp_path))[0].hidden_size == 4096

    def test_a_folder_without_a_config_is_called_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "cfg" / "none").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(LoraAdviseError, match=r"The folder cfg/none has no config\.json"):
            resolve_model("cfg/none")


class TestChoices:
    @pytest.mark.parametrize(
        ("size", "task", "model"),
        [
            ("7B", "continued-pretraining", "Qwen/Qwen2.5-7B"),
            ("8B", "language-transfer", "meta-llama/Llama-3.1-8B"),
            ("7B", "chat", "Qwen/Qwen2.5-7B-Instruct"),
            ("Qwen/Qwen2.5-7B-Instruct", "continued-pretraining", "Qwen/Qwen2.5-7B-Instruct"),
        ],
    )
    def test_a_size_means_a_base_model_for_pretraining(self, size: str, task: str, model: str) -> None:
        assert advise(size, task, gpu="H100").facts.model.name == model  # type: ignore[union-attr]

    def test_data_beyond_an_adapter_are_not_said_to_suit_one(self) -> None:
        gate = advise("7B", "chat", gpu="H100", examples=5_000_000).decision("gate")
        assert gate.value == "LoRA, or full fine-tuning"

    def test_a_t5_without_bf16_computes_in_32_bits(self) -> None:
        train = advise("google-t5/t5-base", "summarization", gpu="T4").facts.train
        assert train is not None
        assert train.dtype == "float32"

    def test_a_base_model_for_chat_is_told_of_templates(self) -> None:
        assert "may have no chat template" in notes(advise("mistralai/Mistral-7B-v0.1", "chat", gpu="H100"))

    def test_four_bits_in_fp16_are_told_of_failures(self) -> None:
        because = advise("7B", "kto", gpu="V100-16GB").decision("method").because
        assert "In fp16 only about 80 % of 7B QLoRA runs finished" in because

    def test_grpo_stays_inside_the_context(self) -> None:
        from lora_advise.runner.builtin import builtin_model_path

        facts = advise(str(builtin_model_path()), "grpo", gpu="cpu").facts
        assert facts.train is not None
        assert facts.model is not None
        assert facts.train.max_completion_length is not None
        assert facts.train.max_length + facts.train.max_completion_length <= (facts.model.max_position_embeddings or 0)
