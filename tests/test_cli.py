"""The command line from outside: exit codes, one clear line, files whole or absent."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lora_advise.cli import main


def cli(*words: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """The command in this process: what is imported once serves every question."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for name, value in env.items():
            patch.setenv(name, value)
        if cwd:
            patch.chdir(cwd)
        try:
            code = main(list(words))
        except SystemExit as left:
            code = left.code
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def process(*words: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a user starts it."""
    return subprocess.run([sys.executable, "-m", "lora_advise", *words], capture_output=True, text=True, timeout=120)


def test_the_question_of_the_readme() -> None:
    done = process("--model", "32B", "--task", "qa")
    assert done.returncode == 0, done.stderr
    assert "Rank" in done.stdout
    assert "\x1b[" not in done.stdout  # no colour when piped
    assert "Traceback" not in done.stderr


def test_the_report_in_the_readme_is_what_comes_out() -> None:
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf-8")
    command, _, report = readme.split("```console\n$ lora-advise ", 1)[1].split("```", 1)[0].partition("\n")
    assert cli(*command.split(), COLUMNS="80").stdout.rstrip() == report.rstrip()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "nonsense-9000", "--task", "qa"], "nonsense-9000"),
        (["--model", "8B", "--task", "qqa"], "--task"),
        (["--model", "8B", "--task", "qa", "--gpu", "RTX9999"], "RTX9999"),
        (["--model", "8B", "--task", "qa", "--r", "0"], "--r"),
        (["--model", "8B", "--task", "qa", "--lr", "abc"], "--lr"),
        (["--model", "8B", "--task", "qa", "--lr", "nan"], "--lr"),
        (["--model", "8B", "--task", "qa", "--lr", "-1"], "--lr"),
        (["--model", "8B", "--task", "qa", "--examples", "-5"], "--examples"),
        (["--model", "8B", "--task", "qa", "--examples", "many"], "--examples"),
        (["--model", "8B", "--task", "qa", "--dropout", "1.5"], "--dropout"),
        (["--model", "8B", "--task", "qa", "--set", "lora.rr=3"], "lora.r"),
        (["--model", "8B", "--task", "qa", "--set", "nonsense"], "FIELD=VALUE"),
        (["--model", "8B", "--task", "qa", "--method", "magic"], "--method"),
        (["--model", "8B", "--task", "qa", "--framework", "magic"], "--framework"),
        (["--model", "8B", "--task", "qa", "--data", "no/such/file.jsonl"], "no/such/file.jsonl"),
        (["--model", "8B", "--task", "qa", "-o", "no/such/folder/report.md"], "no/such/folder"),
        (["--model", "8B", "--task", "qa", "--emit", "no/such/folder/plan.yaml"], "no/such/folder"),
        (
            ["--model", "8B", "--task", "qa", "--completion-tokens", "900", "--tokens-per-example", "100"],
            "--completion-tokens",
        ),
        (["--model", "roberta-base", "--task", "chat"], "encoder"),
        (["--task", "qa"], "--model"),
        (["--model", "8B"], "--task"),
        (["--nonsense"], "--nonsense"),
        (["advize"], "advize"),
        (["run", "no-such-plan.yaml"], "no-such-plan.yaml"),
        (["rule", "no-such-rule"], "no-such-rule"),
        (["source", "no-such-source"], "no-such-source"),
        (["diagnose", "no-such-log.json"], "no-such-log.json"),
    ],
    ids=lambda w: " ".join(w)[-40:] if isinstance(w, list) else None,
)
def test_wrong_input_gets_one_clear_line(words: list[str], says: str, tmp_path: Path) -> None:
    done = cli(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_input_ends_the_process_with_two() -> None:
    done = process("--model", "nonsense-9000", "--task", "qa")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "llama"}', "\x00\x01", "null"])
def test_a_broken_config_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    done = cli("--model", str(tmp_path), "--task", "qa")
    assert done.returncode == 2, done.stdout
    assert "config.json" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_local_config_json_is_judged(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 32768,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = cli("--model", str(tmp_path / "config.json"), "--task", "qa", "--gpu", "24GB", "--format", "json")
    assert done.returncode == 0, done.stderr
    model = json.loads(done.stdout)["plan"]["facts"]["model"]
    assert model["total_params"] == 494_032_768  # Qwen2-0.5B as published


@pytest.mark.parametrize("form", ["text", "markdown", "html", "svg", "json"])
def test_every_format_to_file_and_stdout(form: str, tmp_path: Path) -> None:
    done = cli("--model", "8B", "--task", "qa", "--gpu", "RTX4090", "--format", form)
    assert done.returncode == 0, done.stderr
    file = tmp_path / f"report.{form}"
    again = cli("--model", "8B", "--task", "qa", "--gpu", "RTX4090", "--format", form, "-o", str(file))
    assert again.returncode == 0, again.stderr
    assert again.stdout == ""
    if form != "text":
        assert file.read_text().strip() == done.stdout.strip()


def test_emit_then_lint_then_read(tmp_path: Path) -> None:
    done = cli("--model", "8B", "--task", "qa", "--gpu", "RTX4090", "--emit", "plan.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "plan.yaml").read_text()
    assert "lora-advise run" in text
    assert cli("lint", "plan.yaml", cwd=tmp_path).returncode == 0
    (tmp_path / "bad.yaml").write_text(text.replace("learning_rate: ", "learning_rate: 0.9 # "))
    bad = cli("lint", "bad.yaml", cwd=tmp_path)
    assert bad.returncode == 1, bad.stdout + bad.stderr
    assert "E2" in bad.stdout


@pytest.mark.parametrize(
    "word", ["run", "diagnose", "lint", "memory", "rule", "models", "gpus", "tasks", "source", "schema", "completion"]
)
def test_every_command_helps_with_an_example(word: str) -> None:
    done = cli(word, "-h")
    assert done.returncode == 0
    assert "example" in done.stdout


def test_help_and_version() -> None:
    assert "examples:" in cli("-h").stdout
    assert cli("--version").stdout.startswith("lora-advise ")


def test_lists() -> None:
    assert "Qwen/Qwen3-8B" in cli("models", "qwen3-8b").stdout
    assert "4090" in cli("gpus", "4090").stdout
    assert "角色扮演" in cli("tasks").stdout
    assert "Tinker" in cli("source", "tinker-sweep").stdout
    assert "scale-times-rate-diverges" in cli("rule", "--all").stdout
    assert "Example" in cli("rule", "scale-times-rate-diverges").stdout


def test_completion_is_a_script() -> None:
    for shell in ("bash", "zsh"):
        done = cli("completion", shell)
        assert done.returncode == 0, done.stderr
        assert "--model" in done.stdout


def test_schemas_are_json() -> None:
    for what in ("plan", "advice"):
        assert json.loads(cli("schema", what).stdout)["$schema"].startswith("https://json-schema.org/")


def test_control_characters_in_a_name_do_not_reach_the_terminal() -> None:
    done = cli("--model", "evil\x1b[31m[bold]", "--task", "qa")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr


def test_an_existing_report_survives_a_failed_one(tmp_path: Path) -> None:
    file = tmp_path / "report.md"
    file.write_text("precious")
    assert cli("--model", "nonsense", "--task", "qa", "--format", "markdown", "-o", str(file)).returncode == 2
    assert file.read_text() == "precious"


def test_the_light_path_imports_nothing_heavy() -> None:
    code = (
        "import sys, io, contextlib\nfrom lora_advise.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n    main(['--model', '32B', '--task', 'qa'])\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'numpy', 'datasets', 'trl') if m in sys.modules])\n"
        "print(sorted({'rules', 'advisor', 'runner', 'templates'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"], done.stderr
