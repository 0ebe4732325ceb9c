"""Notebooks as documents: all cells as one program, with places in the notebook's JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_advise.document import MAX_BYTES, Unresolved, span_at
from lora_advise.document_notebook import read_notebook
from lora_advise.document_python import read_python
from lora_advise.errors import LoraAdviseError

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus" / "settings"


def notebook(*cells, lines=True, **dump):
    """The JSON of a notebook with these sources; a pair is a cell of another type."""
    listed = []
    for cell in cells:
        kind, source = cell if isinstance(cell, tuple) else ("code", cell)
        listed.append(
            {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True) if lines else source}
        )
    return json.dumps({"cells": listed, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, **dump)


def config(*cells, **how):
    return read_notebook(notebook(*cells, **how), "train.ipynb").configs[0]


def written(document, span):
    """What stands at a place, without the JSON around it."""
    raw = document.text[span.start : span.end]
    return json.loads(f'"{raw}"')


def check_spans(document):
    for found in document.configs:
        for entry in (*found.entries, *found.shadowed):
            for span in filter(None, (entry.span, entry.key, entry.via)):
                assert span._replace(cell=0) == span_at(document.text, span.start, span.end)
                assert span.cell >= 1


def test_places_are_those_of_the_json():
    text = notebook(
        ("markdown", "# LoraConfig(r=1)"), "lr = 2e-4\nr = 8", 'x = LoraConfig(lr=lr, m="q\\d", é=["a"])', indent=1
    )
    document = read_notebook(text, "train.ipynb")
    check_spans(document)
    (found,) = document.configs
    assert (document.format, document.text, found.shape) == ("notebook", text, "calls")
    rate = found.get("LoraConfig", "lr")
    assert (rate.value, rate.span.cell, rate.via.cell) == (2e-4, 3, 2)
    assert text.split("\n")[rate.via.line - 1][rate.via.column - 1 :].startswith("2e-4")
    word = found.get("LoraConfig", "m")
    assert text[word.span.start : word.span.end] == r"\"q\\d\""
    assert (word.value, word.text, word.quoted) == ("q\\d", "q\\d", True)
    assert text[found.get("LoraConfig", "é").key.start :].startswith("\\u00e9=")


@pytest.mark.parametrize("lines", [True, False])
def test_names_carry_over_from_cell_to_cell(lines):
    found = config(
        "import peft\nR = 8", "R = 16", "c = LoraConfig(\n  r=R,\n  names=['q',\n    'v'])", "c.r = 4", lines=lines
    )
    assert found.program == ("peft",)
    assert found.get("LoraConfig", "r").value == 4
    assert [entry.value for entry in found.shadowed] == [16]
    assert found.get("LoraConfig", "names").value == ("q", "v")


MAGIC = [
    "!pip install unsloth", "%pip install x", "%%capture\n", "%%time\n", "  !ls", "?LoraConfig", "LoraConfig?", "a.b??",
    "if x:\n    !pip install y", "y = !ls", "y = %timeit 3", "!pip install \\\n  peft \\\n  trl", "%matplotlib inline",
]  # fmt: skip


@pytest.mark.parametrize("magic", MAGIC)
def test_what_is_for_the_shell_is_no_python(magic):
    text = notebook(f"{magic}\nx = LoraConfig(r=8)\n", "LoraConfig(y=y)")
    document = read_notebook(text, "train.ipynb")
    found = document.configs[0]
    assert found.notes == ()
    assert written(document, found.get("LoraConfig", "r").span) == "8"
    assert found.get("LoraConfig#2", "y").value == Unresolved("y")


def test_lines_of_texts_are_no_magic():
    assert config("LoraConfig(p='''\n!a\n%b\n''')").get("LoraConfig", "p").value == "\n!a\n%b\n"


def test_cells_in_other_languages_are_left_out():
    found = config("%%bash\npython train.py --r 8", "%%writefile x.py\nLoraConfig(r=1)", "LoraConfig(r=8)")
    assert found.notes == ()
    assert [entry.path for entry in found.entries] == [("LoraConfig",), ("LoraConfig", "r")]
    assert found.entries[0].span.cell == 3


def test_cells_that_do_not_parse_are_left_out_and_said():
    found = config("LoraConfig(r=", "  x = 3\n  LoraConfig(r=x)", "print 'x'", ("raw", "y"), "")
    assert found.get("LoraConfig", "r").value == 3
    assert [note.split(":")[0] for note in found.notes] == ["Cell 1 is left out", "Cell 3 is left out"]
    many = config(*["print 'x'"] * 50)
    assert len(many.notes) == 21
    assert many.notes[-1].startswith("30 more cells")


def test_what_cannot_be_spread_names_its_cell():
    assert config("x = 1", "LoraConfig(**load())").notes[0].startswith("Cell 2: LoraConfig(**load())")


def test_comments_have_lines_of_the_json():
    text = notebook("x = 1  # one\n!ls # none\n", "# two\ny = '# none'", "print 'x' # none", indent=1)
    comments = read_notebook(text, "x.ipynb").comments
    assert [(c.text, c.alone) for c in comments] == [("one", False), ("two", True)]
    for comment in comments:
        assert text.split("\n")[comment.line - 1][comment.column - 1 :].startswith(f"# {comment.text}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "x.ipynb line 1, column 1: no JSON ('{' is missing)"),
        ("[]", "'{' is missing"),
        ("{}", "it has no list of cells"),
        ('{"cells": 3}', "it has no list of cells"),
        ('{"cells": []} x', "it has no list of cells"),
        ('{"worksheets": [{"cells": []}]}', "save it as nbformat 4"),
        ('{"cells": [\n{"source": ["a]}', "line 2"),
        ('{"a":' * 50_000, "JSON that cannot be read"),
        ("[" * 50_000, "'{' is missing"),
        ('{"x": ' + "9" * 5000 + "}", "JSON that cannot be read"),
        ('{"cells": [{"cell_type": "code", "source": "' + "\\n" * (MAX_BYTES + 1) + '"}]}', "too long"),
        ('{"cells": [' + '{"cell_type": "code", "source": "x x"},' * 10_001 + "1]}", "too long"),
        (" " * (16 * MAX_BYTES + 1), "clear its outputs"),
        (notebook("%x\n" * 200_000), "too long"),
        (notebook("f(g())\n" * 20_000, "f(g())\n" * 20_000), "too long"),
    ],
)
def test_what_is_no_notebook_is_said_in_a_sentence(text, said):
    with pytest.raises(LoraAdviseError) as caught:
        read_notebook(text, "x.ipynb")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


def test_outputs_with_pictures_cost_little():
    picture = {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo\\n" * 1_000_000}}
    cell = {"cell_type": "code", "outputs": [picture], "source": ["LoraConfig(r=8)"]}
    text = json.dumps({"metadata": {"n": float("nan")}, "cells": [cell]})
    assert len(text) > 12 * MAX_BYTES
    began = time.process_time()
    document = read_notebook(text, "x.ipynb")
    assert time.process_time() - began < 5
    assert written(document, document.configs[0].get("LoraConfig", "r").span) == "8"


SCRIPTS = [
    "lr = 2e-4\nname = 'é\U0001f600\\n\"x\"'\n", "k = {'r': 8, 'ü': [1, 2]}\nLoraConfig(**k)\n", "LoraConfig(lr=lr, n=name)\n",
    "# \U0001f600 one\nif x:\n\tLoraConfig(r=1)  # two\n", "args = SFTConfig(a=lr,\n  b='''\n\tt''')\nargs.a = 3\n", "\n", "import torch\nx = 1;y = LoraConfig(d=torch.bfloat16)",
    "class C:\n    lr = 1\nLoraConfig(lr=C.lr)",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(SCRIPTS), min_size=1, max_size=6),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 1, 4]),
)
@settings(max_examples=150, deadline=None)
def test_a_notebook_says_what_a_script_of_its_cells_says(cells, lines, escaped, indent):
    document = read_notebook(notebook(*cells, lines=lines, ensure_ascii=escaped, indent=indent), "x")
    check_spans(document)
    script = read_python("\n".join(cells), "x")
    found, wanted = document.configs[0], script.configs[0]
    assert (found.program, found.notes) == (wanted.program, wanted.notes)
    for kind in ("entries", "shadowed"):
        mine, theirs = getattr(found, kind), getattr(wanted, kind)
        assert [e[:2] + e[4:6] for e in mine] == [e[:2] + e[4:6] for e in theirs]
        for entry, other in zip(mine, theirs, strict=True):
            if not lines or "\n" not in script.text[other.span.start : other.span.end]:
                assert written(document, entry.span) == script.text[other.span.start : other.span.end]
            if entry.key:
                assert written(document, entry.key) == script.text[other.key.start : other.key.end]
    assert [c.text for c in document.comments] == [c.text for c in script.comments]


SOURCES = st.text("()[]=.,'\"\\#\n\r\t abLoraConfig1*%!?é\U0001f600", max_size=60) | st.text(max_size=20)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["code", "x = 1"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["cells", "source", "cell_type", "x"]), inner)
    ),
    max_leaves=12,
)


@given(
    st.lists(SOURCES, max_size=4).map(lambda cells: notebook(*cells))
    | JSONS.map(json.dumps)
    | st.text('{}[]:,"\\ cells1')
)
@settings(max_examples=400, deadline=None)
def test_any_text_is_a_document_or_an_error(text):
    try:
        document = read_notebook(text, "x.ipynb")
    except LoraAdviseError as error:
        assert str(error)
    else:
        check_spans(document)


def test_the_corpus_is_read():
    if not CORPUS.is_dir():
        pytest.skip("the corpus of real configurations is not here")
    ranks = 0
    for path in sorted(
        p for kind in ("unsloth_ipynb", "notebook_peft", "notebook_trl") for p in (CORPUS / kind).rglob("*.ipynb")
    ):
        document = read_notebook(path.read_bytes().decode("utf-8-sig"), path.name)
        check_spans(document)
        (found,) = document.configs
        assert found.notes == ()
        ranks += any(entry.path[1:] == ("r",) and isinstance(entry.value, int) for entry in found.entries)
    assert ranks > 55
