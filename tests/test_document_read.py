"""Which reader a file gets, by its name or content, and what is refused before any reader sees it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_advise.document import MAX_BYTES
from lora_advise.document_read import TooLargeError, read_document, sniffed
from lora_advise.errors import LoraAdviseError

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"
SUFFIXES = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".sh": "shell", ".py": "python", ".ipynb": "notebook"}
NOTEBOOK = json.dumps(
    {
        "cells": [{"cell_type": "code", "source": ["lr = 2e-4\n"], "metadata": {}, "outputs": [], "execution_count": None}],
        "metadata": {}, "nbformat": 4, "nbformat_minor": 5,
    }
)  # fmt: skip
EXAMPLES = {
    "yaml": ["lora_r: 8\n", "# swift sft --x 1\n- a: 1\n", "", "words", "\n  a: 1\n  b: |\n    import x\n", "{a: 1}", "'r' : 8", "a:\r\n  b: 1"],
    "json": ['{"r": 8}', "[]", "{", '// words\n{"r": 8}', '\n ["a"]', '{"cells": 3}', "{}"],
    "python": ["import torch\n", "from peft import LoraConfig", "x = LoraConfig(r=8)\n", "#!/usr/bin/env python3\nx\n",
               '"""Usage:\n  python x.py --lr 1\n"""\nimport os\n', "# -*- coding: utf-8 -*-\n\n@dataclass\nclass A:\n  r: int = 8\n"],
    "shell": ["swift sft \\\n  --lora_rank 8\n", "#!/bin/bash\na: b\n", "export A=1\n", "LR=2e-4\npython train.py --lr $LR\n",
              "CUDA_VISIBLE_DEVICES=0 accelerate launch train.py", "--lr 3e-4 --bf16\n", "$ trl sft --config x.yaml",
              "set -e\n", "python train.py lr:x --lr=1"],
    "notebook": [NOTEBOOK, json.dumps(json.loads(NOTEBOOK), indent=1)],
}  # fmt: skip


def said(path, **given):
    with pytest.raises(LoraAdviseError) as caught:
        read_document(path, **given)
    return str(caught.value)


@pytest.mark.parametrize(("format", "text"), [(name, text) for name, texts in EXAMPLES.items() for text in texts])
def test_content_tells_the_format(format, text):
    if text.startswith("//"):
        assert read_document("x.jsonc", text=text).format == "json"
    else:
        assert sniffed(text) == format
    if text not in ("{", ""):
        assert read_document("-" if format != "json" else "x.json", text=text).format == format


@pytest.mark.parametrize(("suffix", "format"), SUFFIXES.items())
def test_the_suffix_tells_the_format(tmp_path, suffix, format):
    path = tmp_path / f"config{suffix.upper()}"
    path.write_bytes(EXAMPLES[format][0].encode())
    document = read_document(path)
    assert (document.format, document.name) == (format, str(path))


def test_a_format_that_is_given_goes_first(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text('{"r": 8}')
    assert read_document(path).format == "json"
    assert read_document(str(path), format="yaml").format == "yaml"


def test_bytes_are_kept_as_they_are(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfr: 8\r\nlr: 3e-4\r\n")
    assert read_document(path).text == "r: 8\r\nlr: 3e-4\r\n"
    assert read_document(path, text="\ufeffr: 8").text == "r: 8"


def test_standard_input():
    done = subprocess.run(
        [sys.executable, "-c", "from lora_advise.document_read import read_document as r; d = r('-'); print(d.format, d.name)"],
        input=b"lora_r: 8\n", capture_output=True,
    )  # fmt: skip
    assert done.stdout.split() == [b"yaml", b"stdin"], done.stderr


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    assert "cannot read it" in said(tmp_path / "missing.yaml")
    assert "cannot read it" in said(tmp_path)
    assert "cannot read it: not a path" in said("a\0b.yaml")
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    assert f"{path} line 2: byte 8 is not UTF-8" in said(path)
    assert "TOML" in said("x.toml", text="a = 1")
    hidden = tmp_path / "a\x1b[31m\nb.yaml"
    hidden.write_bytes(b"[")
    assert "\x1b" not in said(hidden) and "\n" not in said(hidden)


def test_large_files_are_refused_without_being_read(tmp_path):
    path = tmp_path / "x.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)
    start = time.perf_counter()
    with pytest.raises(TooLargeError, match="larger than 1 MiB"):
        read_document(path)
    assert time.perf_counter() - start < 1
    with pytest.raises(TooLargeError):
        read_document("x", text=" " * (MAX_BYTES + 1))


def test_a_notebook_may_be_larger(tmp_path):
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps({**json.loads(NOTEBOOK), "words": "x" * 2 * MAX_BYTES}))
    assert read_document(path).format == "notebook"


@pytest.mark.parametrize(
    ("format", "extra"), [("yaml", {"yaml"}), ("json", set()), ("shell", set()), ("python", {"ast"})]
)
def test_only_what_a_format_needs_is_imported(format, extra):
    program = (
        "import io, sys\nfrom lora_advise.document_read import read_document\n"
        f"read_document('x', text={EXAMPLES[format][0]!r}, format={format!r})\n"
        "print(*({name.split('.')[0] for name in sys.modules} & {'yaml', 'pydantic', 'rich', 'jinja2', 'torch'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == extra & {"yaml"}


def test_every_config_of_the_corpus_is_read():
    if not CORPUS.is_dir():
        pytest.skip("the corpus of configs is not beside this checkout")
    files = [path for path in sorted((CORPUS / "configs").rglob("*")) if path.suffix in SUFFIXES]
    assert len(files) > 300
    for path in files:
        document = read_document(path)
        assert document.format == SUFFIXES[path.suffix] == sniffed(document.text), path
        assert any(config.entries for config in document.configs), path


def test_the_format_of_every_script_of_the_corpus_shows_in_its_content():
    if not CORPUS.is_dir():
        pytest.skip("the corpus of configs is not beside this checkout")
    for path in sorted((CORPUS / "settings").rglob("*")):
        if path.is_file():
            assert sniffed(path.read_text("utf-8")) == SUFFIXES[path.suffix], path


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=80), suffix=st.sampled_from([".yaml", ".json", ""]))
def test_any_bytes_are_read_or_refused(raw, suffix):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
        try:
            read_document("-", format={".yaml": "yaml", ".json": "json"}.get(suffix))
        except LoraAdviseError as error:
            assert str(error).startswith("stdin") and str(error).endswith(".")
