"""``lora-advise lint`` from outside: files, folders, settings, suppressions, fixes, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lora_advise.cli import main

GOOD = """\
base_model: meta-llama/Llama-3.1-8B
adapter: lora
lora_r: 16
lora_alpha: 32
lora_target_linear: true
learning_rate: 0.0002
micro_batch_size: 4
gradient_accumulation_steps: 4
num_epochs: 1
sequence_len: 2048
gradient_checkpointing: true
"""
BAD = GOOD.replace("0.0002", "0.02  # too high")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lint(capsys, *words):
    code = main(["lint", *map(str, words)])
    return code, capsys.readouterr()


def test_a_good_file_is_clean(folder, capsys):
    (folder / "good.yaml").write_text(GOOD)
    code, out = lint(capsys, "good.yaml")
    assert code == 0
    assert "no findings" in out.out


def test_a_bad_file_is_an_error_at_its_line(folder, capsys):
    (folder / "bad.yaml").write_text(BAD)
    code, out = lint(capsys, "bad.yaml", "--format", "concise")
    assert code == 1
    assert "bad.yaml:6:16: LRS101 scale-times-rate-diverges error" in out.out


@pytest.mark.parametrize(("level", "code"), [("error", 1), ("warning", 1), ("never", 0)])
def test_fail_on(folder, capsys, level, code):
    (folder / "bad.yaml").write_text(BAD)
    assert lint(capsys, "bad.yaml", "--fail-on", level)[0] == code


def test_folders_are_walked_and_gitignore_counts(folder, capsys):
    (folder / ".git").mkdir()
    (folder / "a").mkdir()
    (folder / "a" / "bad.yaml").write_text(BAD)
    (folder / "a" / "data.json").write_text('{"rows": [1, 2]}')
    (folder / "out").mkdir()
    (folder / "out" / "bad.yaml").write_text(BAD)
    (folder / ".gitignore").write_text("out/\n")
    code, out = lint(capsys, ".", "--format", "json")
    report = json.loads(out.out)
    assert code == 1
    assert "out/bad.yaml" not in out.out
    assert "a/bad.yaml" in out.out
    assert report


def test_what_cannot_be_judged_is_one_sentence_and_exit_2(folder, capsys):
    (folder / "note.yaml").write_text("shopping: [milk]\n")
    (folder / "broken.yaml").write_text("a: [1\n")
    for words in (("note.yaml",), ("broken.yaml",), ("missing.yaml",), ("note.yaml", "--dialect", "nobody")):
        code, out = lint(capsys, *words)
        assert code == 2, words
        assert len(out.err.strip().splitlines()) == 1, out.err
        assert "Traceback" not in out.err
    assert lint(capsys, "note.yaml", "--only-configs")[0] == 0


def test_standard_input(folder):
    found = subprocess.run(
        [sys.executable, "-m", "lora_advise.cli", "lint", "-", "--format", "concise"],
        input=BAD, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 1, found.stderr
    assert ":6:16: LRS101" in found.stdout


def test_unsafe_fixes_keep_everything_else(folder, capsys):
    text = BAD.replace("\n", "\r\n")
    path = folder / "bad.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    code, out = lint(capsys, path, "--fix")
    assert code == 1
    assert path.read_bytes() == b"\xef\xbb\xbf" + text.encode(), "a change of the run is not made by --fix"
    code, out = lint(capsys, path, "--unsafe-fixes", "--diff")
    assert "+learning_rate: 0.0003  # too high" in out.out.replace("\r", "")
    assert path.read_bytes() == b"\xef\xbb\xbf" + text.encode()
    code, _ = lint(capsys, path, "--unsafe-fixes")
    assert code == 0
    assert path.read_bytes() == b"\xef\xbb\xbf" + text.replace("0.02 ", "0.0003 ").encode()
    assert lint(capsys, path, "--unsafe-fixes")[0] == 0


def test_suppressions(folder, capsys):
    (folder / "bad.yaml").write_text(BAD.replace("# too high", "# lora-advise: ignore[LRS101] we study divergence"))
    code, out = lint(capsys, "bad.yaml")
    assert code == 0
    assert "Suppressed" in out.out
    (folder / "bad.yaml").write_text("# lora-advise: ignore-file[LRS] we study divergence\n" + BAD)
    assert lint(capsys, "bad.yaml")[0] == 0
    (folder / "good.yaml").write_text("# lora-advise: ignore-file[LRS101] we study divergence\n" + GOOD)
    assert "suppression-unused" in lint(capsys, "good.yaml")[1].out


def test_add_ignore_starts_clean(folder, capsys):
    (folder / "bad.yaml").write_text(BAD)
    assert lint(capsys, "bad.yaml", "--add-ignore", "as it was published")[0] == 0
    code, _ = lint(capsys, "bad.yaml", "--fail-on", "note")
    assert code == 0, (folder / "bad.yaml").read_text()
    assert "as it was published" in (folder / "bad.yaml").read_text()
    assert lint(capsys, "bad.yaml", "--add-ignore", " ")[0] == 2


@pytest.mark.parametrize("name", ["lora-advise.toml", "pyproject.toml"])
def test_settings(folder, capsys, name):
    head = "" if name.startswith("lora") else "[tool.lora-advise]\n"
    table = "" if name.startswith("lora") else "tool.lora-advise."
    (folder / "bad.yaml").write_text(BAD)
    (folder / name).write_text(f'{head}ignore = ["LRS101"]\n')
    assert lint(capsys, "bad.yaml")[0] == 0
    assert lint(capsys, "bad.yaml", "--isolated")[0] == 1
    (folder / name).write_text(f'[{table}severity]\nscale-times-rate-diverges = "note"\n')
    code, out = lint(capsys, "bad.yaml", "--format", "concise")
    assert code == 0
    assert "LRS101 scale-times-rate-diverges note" in out.out
    (folder / name).write_text(f'[{table}per-file-ignores]\n"bad.*" = {{rules = ["LRS"], reason = "published"}}\n')
    assert lint(capsys, "bad.yaml")[0] == 0
    for wrong in (
        f"{head}slect = []",
        f'{head}ignore = ["no-such-rule"]',
        f"{head}ignore = 3",
        f"{head}fail-on = 1",
        "= =",
    ):
        (folder / name).write_text(wrong)
        code, out = lint(capsys, "bad.yaml")
        assert code == 2, wrong
        assert len(out.err.strip().splitlines()) == 1


def test_rules_of_a_team(folder, capsys, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "lint.md").read_text("utf-8")
    (folder / "our_rules.py").write_text(text.split("```python\n")[1].split("```")[0])
    (folder / "lora-advise.toml").write_text('plugins = ["our_rules"]\n')
    (folder / "good.yaml").write_text(GOOD)
    monkeypatch.syspath_prepend(str(folder))
    _, out = lint(capsys, "good.yaml", "--format", "concise")
    assert "OWN1 seed-not-ours warning The seed is 42; ours is 1234." in out.out
    (folder / "lora-advise.toml").write_text('plugins = ["not_there"]\n')
    assert lint(capsys, "good.yaml")[0] == 2


def test_what_the_file_does_not_say(folder, capsys):
    (folder / "good.yaml").write_text(GOOD)
    _, out = lint(capsys, "good.yaml", "--gpu", "16GB", "--format", "concise")
    assert "MEM501 does-not-fit error" in out.out
    _, out = lint(capsys, "good.yaml", "--examples", "40", "--format", "concise")
    assert "few-examples" in out.out or "too-few-steps" in out.out


def test_memory_and_diff_read_the_same_file(folder, capsys):
    (folder / "good.yaml").write_text(GOOD)
    (folder / "bad.yaml").write_text(BAD)
    assert main(["memory", "good.yaml", "--gpu", "H100-80GB", "--format", "json"]) == 0
    verdict = json.loads(capsys.readouterr().out)["verdict"]
    assert verdict["fit"] == "fits"
    assert main(["diff", "good.yaml", "bad.yaml"]) == 0
    assert "learning rate times sqrt(alpha_eff)" in capsys.readouterr().out
    assert main(["diff", "good.yaml", "bad.yaml", "--exit-code"]) == 1
    capsys.readouterr()
    assert main(["diff", "good.yaml", "good.yaml", "--exit-code"]) == 0


def test_nothing_heavy_is_imported():
    code = "import sys\nfrom lora_advise.cli import main\nmain(['lint', sys.argv[1]])\nprint(*sys.modules, file=sys.stderr)"
    path = Path(__file__).parent / "rules" / "dropout-inert.yml"
    found = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    loaded = set(found.stderr.split())
    assert not {"torch", "transformers", "numpy", "jinja2"} & loaded


def test_versions_are_read_beside_the_file(folder, capsys):
    (folder / "old.yaml").write_text(GOOD + "evaluation_strategy: steps\n")
    assert "key-renamed note" in lint(capsys, "old.yaml", "--format", "concise")[1].out
    (folder / "requirements.txt").write_text("torch\naxolotl[flash-attn]==0.3.0\n")
    from lora_advise.lint_versions import versions_beside

    versions_beside.cache_clear()
    assert "key-renamed" not in lint(capsys, "old.yaml")[1].out
    assert "key-renamed error" in lint(capsys, "old.yaml", "--framework", "axolotl==0.16", "--format", "concise")[1].out
    lint(capsys, "old.yaml", "--framework", "axolotl==0.16", "--fix")
    assert "\neval_strategy: steps\n" in (folder / "old.yaml").read_text()
