"""Shell scripts and command lines: arguments as a shell would pass them, exact places, bounded whatever is given."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import string
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_advise.document import MAX_BYTES, Comment, Unresolved, span_at
from lora_advise.document_shell import read_shell
from lora_advise.errors import LoraAdviseError

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"


def only(text):
    (config,) = read_shell(text, "run.sh").configs
    return config


def value(script, *path):
    return only(script).get(*path).value


def written(text, span):
    return text[span.start : span.end]


def check_places(document):
    """What must hold of every entry: spans inside the text, with the right line and column; plain values are as written."""
    text = document.text
    for config in document.configs:
        assert config.span == span_at(text, config.span.start, config.span.end)
        for entry in (*config.entries, *config.shadowed):
            for span in filter(None, (entry.span, entry.key, entry.via)):
                assert 0 <= span.start <= span.end <= len(text)
                assert span == span_at(text, span.start, span.end)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("8", 8), ("20_000", 20_000), ("-1", -1), ("+3", 3), ("0.", 0.0), (".5", 0.5), ("1e-5", 1e-5), ("2.0E-4", 2e-4),
        ("-1e-3", -1e-3), ("'8'", 8), ('"1e-4"', 1e-4), ("true", True), ("True", True), ("false", False), ("None", None),
        ("null", None), ("none", "none"), ("no", "no"), ("auto", "auto"), ("nan", "nan"), ("1e999", "1e999"),
        ("1" * 200, "1" * 200), ("1_", "1_"), ("a,b", "a,b"), ("''", ""), ("$'a\\tb\\x41'", "a\tbA"), ("a\\ b", "a b"),
        ("'it'\\''s'", "it's"), ('"\\$x \\d"', "$x \\d"), ("2%", "2%"), ("[q_proj,k_proj]", ("q_proj", "k_proj")),
        ("'[q, \"k\"]'", ("q", "k")), ("'[\"q\"]'", ("q",)), ("[]", ()), ("[1,2.5]", (1, 2.5)),
        ("'{\"a\": [1, {\"b\": null}]}'", {"a": (1, {"b": None})}), ("\"{'a': 1}\"", "{'a': 1}"), ("a#b", "a#b"),
        ("'" + "[" * 90 + "]" * 90 + "'", "[" * 90 + "]" * 90), ("{{lr}}", "{{lr}}"), ("#c", True),
    ],
)  # fmt: skip
def test_values(given, meant):
    found = value(f"python x.py --a {given}\n", "a")
    assert found == meant
    assert type(found) is type(meant)
    if given != "#c" and not isinstance(meant, bool):
        assert value(f"python x.py --a={given}\n", "a") == meant


def test_flags_of_every_spelling():
    text = "train --lora-r 8 --no_x --no-y --lr=1e-4 -b 2 --m a 'b c' -1 --bf16 --c='d e' \"--f\" 1 \"--g=h i\"\n"
    config = only(text)
    meant = {"lora_r": 8, "no_x": True, "no_y": True, "lr": 1e-4, "b": 2, "m": ("a", "b c", -1), "bf16": True, "c": "d e", "f": 1, "g": "h i"}  # fmt: skip
    assert {e.path[0]: e.value for e in config.entries if len(e.path) == 1} == meant
    assert written(text, config.get("lora_r").key) == "--lora-r"
    assert written(text, config.get("lr").key) == "--lr"
    assert written(text, config.get("lr").span) == "1e-4"
    assert config.get("bf16").span == config.get("bf16").key
    assert written(text, config.get("c").span) == "'d e'"
    assert config.get("c").quoted
    assert [written(text, e.span) for e in config.under("m")] == ["a", "'b c'", "-1"]
    assert written(text, config.get("m").span) == "a 'b c' -1"
    assert (written(text, config.get("g").key), written(text, config.get("g").span)) == ("--g", "h i")


def test_the_last_of_a_flag_wins():
    config = only("x --lora_r 8 --m a b --lora-r=16 --m c")
    assert [(e.path, e.value) for e in config.entries] == [(("lora_r",), 16), (("m",), "c")]
    assert [e.path for e in config.shadowed] == [("lora_r",), ("m",), ("m", 0), ("m", 1)]


@pytest.mark.parametrize(
    ("command", "program", "launcher", "own"),
    [
        ("accelerate launch --multi_gpu --num_processes 4 train.py --lr 1", "accelerate launch train.py",
         {"multi_gpu": True, "num_processes": 4}, {"lr": 1}),
        ("accelerate launch --config_file=a.yaml -m axolotl.cli.train c.yaml --lr 1 d.yaml",
         "accelerate launch axolotl.cli.train", {"config_file": "a.yaml", "m": True}, {"lr": 1}),
        ("torchrun --nproc_per_node=8 --standalone x.py --a", "torchrun x.py", {"nproc_per_node": 8, "standalone": True}, {"a": True}),
        ("deepspeed --include localhost:0,1 t.py --deepspeed z.json", "deepspeed t.py", {"include": "localhost:0,1"}, {"deepspeed": "z.json"}),
        ("python -u -m torch.distributed.run --nproc-per-node 2 t.py --a 1", "python torch.distributed.run t.py", {"nproc_per_node": 2}, {"a": 1}),
        ("python3 -m pkg.train --a 1", "python3 pkg.train", {}, {"a": 1}),
        ("nohup python t.py --a 1 > log 2>&1 &", "python t.py", {}, {"a": 1}),
        ("env A=1 sudo -E nice -n 10 swift sft --a 1", "swift sft", {"E": True, "n": 10}, {"a": 1}),
        ("srun --nodes=2 -n 8 -l python t.py --a 1", "srun python t.py", {"nodes": 2, "n": 8, "l": True}, {"a": 1}),
        ("sbatch --gres gpu:8 train.sh --a 1", "sbatch train.sh", {"gres": "gpu:8"}, {"a": 1}),
        ("docker run --rm -it --gpus all -v /a:/b image:1 trl sft --a 1", "trl sft", {"rm": True, "it": True, "gpus": "all", "v": "/a:/b"}, {"a": 1}),
        ("docker run --gpus all image:1 --model a", "docker run image:1", {"gpus": "all"}, {"model": "a"}),
        ("uv run --with trl trl sft --a 1", "trl sft", {"with": "trl"}, {"a": 1}),
        ("uv run train.py --a 1", "train.py", {}, {"a": 1}),
        ("tune run --nproc_per_node 2 lora_finetune --config x lora_rank=8", "tune run lora_finetune", {"nproc_per_node": 2}, {"config": "x", "lora_rank": 8}),
        ("$PYTHON train.py --a 1", "$PYTHON train.py", {}, {"a": 1}),
        ("/usr/bin/torchrun -- t.py --a 1", "/usr/bin/torchrun t.py", {}, {"a": 1}),
        ("!python t.py --a 1", "python t.py", {}, {"a": 1}),
        ("$ swift sft --a 1", "swift sft", {}, {"a": 1}),
        ("me@box:~$ swift sft --a 1", "swift sft", {}, {"a": 1}),
        ("--a 1 --b", "", {}, {"a": 1, "b": True}),
    ],
)  # fmt: skip
def test_launchers(command, program, launcher, own):
    config = only(command)
    assert " ".join(config.program) == program
    assert {e.path[1]: e.value for e in config.entries if e.path[0] == "launcher" and len(e.path) == 2} == launcher
    assert {e.path[0]: e.value for e in config.entries if len(e.path) == 1} == own


def test_arguments_and_overrides():
    text = "tune run rec --config c.yaml model.lora_rank=8 +x=[a,b] plain\nllamafactory-cli train a.yaml lora_rank=4\n"
    tune, factory = read_shell(text, "run.sh").configs
    assert written(text, tune.get("launcher", "positional", 0).span) == "rec"
    assert tune.get("config").value == "c.yaml"
    rank = tune.get("model", "lora_rank")
    assert (rank.value, written(text, rank.key), written(text, rank.span)) == (8, "model.lora_rank", "8")
    assert tune.get("x").value == ("a", "b")
    assert [e.value for e in tune.under("positional")] == ["model.lora_rank=8", "+x=[a,b]", "plain"]
    assert factory.program == ("llamafactory-cli", "train")
    assert [factory.get("positional", 0).value, factory.get("lora_rank").value] == ["a.yaml", 4]
    assert value("swift deploy --adapters a=x/y b=z", "adapters") == ("a=x/y", "b=z")
    assert value("axolotl train --lora_r 8 c.yaml", "positional", 0) == "c.yaml"


def test_variables_and_where_their_literals_stand():
    text = 'LR=1e-4; export RANK="16"\nX=$LR\npython t.py --lr $X --r "$RANK" --d ${D:-3e-5} --o out/$LR --u $U --p ${RANK%6} --e "${E:=z}" --f $E\n'
    config = only(text)
    lr, rank, default = config.get("lr"), config.get("r"), config.get("d")
    assert (lr.value, written(text, lr.span), written(text, lr.via), lr.via.line) == (1e-4, "$X", "1e-4", 1)
    assert (rank.value, written(text, rank.span), written(text, rank.via), rank.quoted) == (16, '"$RANK"', '"16"', True)
    assert (default.value, written(text, default.via)) == (3e-5, "3e-5")
    assert (config.get("o").value, config.get("o").via) == ("out/1e-4", None)
    assert config.get("u").value == Unresolved("$U")
    assert config.get("p").value == Unresolved("${RANK%6}")
    assert (config.get("e").value, config.get("f").value) == ("z", "z")
    assert config.environment == (("RANK", "16"),)


def test_strings_and_lists_of_flags():
    text = 'R=8\nOPTS="--r $R --lr 1e-4 \\\n  --d $(date)"\nARGS=(\n  --a 1 # one\n  "--b=x y"\n)\nARGS+=(--c)\nx $OPTS "${ARGS[@]}"\n'
    config = only(text)
    assert [(e.path[0], e.value) for e in config.entries] == [("r", 8), ("lr", 1e-4), ("d", Unresolved("$(date)")), ("a", 1), ("b", "x y"), ("c", True)]  # fmt: skip
    assert [written(text, e.span) for e in config.entries] == ["$R", "1e-4", "$(date)", "1", "x y", "--c"]
    assert [e.span.line for e in config.entries] == [2, 2, 3, 5, 6, 8]
    assert written(text, config.get("r").via) == "8"


def test_what_cannot_be_known_is_said():
    config = only('torchrun $DIST t.py --a $(nproc) --b `x` --m <MODEL> --bf16 "$@"')
    assert [config.get(name).value for name in "abm"] == [
        Unresolved("$(nproc)"),
        Unresolved("`x`"),
        Unresolved("<MODEL>"),
    ]
    assert config.get("bf16").value is True
    assert config.get("positional", 0).value == Unresolved('"$@"')
    assert [note.split(" is ")[0] for note in config.notes] == ["Line 1: $DIST", 'Line 1: "$@"']


def test_environment_of_a_command():
    first, second = read_shell("export A=1\nB=2\nC=$B D=$X swift sft --a 1\nswift sft --a 2", "run.sh").configs
    assert first.environment == (("A", "1"), ("C", "2"), ("D", "$X"))
    assert second.environment == (("A", "1"),)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("if c; then R=1; else R=2; fi\nx --r $R", Unresolved("$R")),
        ("if c; then R=1; else R=1; fi\nx --r $R", 1),
        ("R=4; if c; then R=1; fi\nx --r $R", Unresolved("$R")),
        ('if [ -z "$R" ]; then\n  R=1\nfi\nx --r $R', 1),
        ("R=4; if c; then x --r $R; R=1; fi", 4),
        ("[ -n $C ] && R=3\nx --r $R", 3),
        ("R=4; (R=5); x --r $R", 4),
        ("R=4; { R=5; }; x --r $R", 5),
        ("for R in 1 2; do x --r $R; done", Unresolved("$R")),
        ("for ((i=0; i<3; i++)); do x --r 7; done", 7),
        ("while read -r R; do\n x --r $R\ndone < file", Unresolved("$R")),
        ("f() { x --r $1; }\nf 3", Unresolved("$1")),
        ("function f {\n local R=2\n x --r $R\n}", 2),
        ("R=8\nwhile [[ $# -gt 0 ]]; do case $1 in --r|-r) R=$2; shift 2;; --q=*) R=\"${1#*=}\";; *) break;; esac; done\nx --r $R", 8),
        ("cat > c <<'E'\ny --r 1 '\nE\nx --r 2", 2),
        ("cat <<-E\n\ty --r 1\n\tE\nx --r 2", 2),
        ("y <<< '--r' && x --r 3", 3),
        ('bash -c "cd a && x --r 3"', 3),
        ("C='x --r 3'; eval \"$C\"", 3),
        ('C="x --r 3"\n$C', 3),
        ('sbatch --wrap="x --r 3"', 3),
        ("( cd a; x --r 3 ) | tee log", 3),
        ("[[ $a == --z && $b ]] || x --r 3", 3),
        ("echo --z 1; x --r 3", 3),
        ("unset R; x --r ${R:-5}", 5),
        ("R=; x --r ${R:-5}", 5),
    ],
)  # fmt: skip
def test_control_words_are_followed(script, found):
    assert value(script, "r") == found


def test_several_commands_in_one_line():
    configs = read_shell("a --x 1 && b --x 2 ; c --x 3 | d --x 4 & e --x 5 || f --x 6", "run.sh").configs
    assert [(c.program, c.get("x").value) for c in configs] == [((name,), n) for n, name in enumerate("abcdef", 1)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_continued_lines(end):
    text = end.join(["A=1 \\", "  train \\", "  --a 1 \\", "  --b 'x' \\", "", "next --c 2", ""])
    first, second = read_shell(text, "run.sh").configs
    assert [(e.path, e.value, e.span.line) for e in first.entries] == [(("a",), 1, 3), (("b",), "x", 4)]
    assert (first.environment, first.span.line, second.get("c").value, second.span.line) == ((("A", "1"),), 1, 2, 6)
    check_places(read_shell(text, "run.sh"))


@pytest.mark.parametrize(
    ("between", "why"),
    [
        (" \\\n  # --x 1 \\\n", "a comment stands between"),
        (" \\ \n", "a blank follows the backslash"),
        (" \\\n\n", "an empty line stands between"),
        ("\n", "no backslash ends"),
    ],
)
def test_what_a_shell_cuts_off_is_read_with_a_note(between, why):
    config = only(f"train --a 1{between}  --b 2\n")
    assert {e.path[0]: e.value for e in config.entries}.items() >= {"b": 2}.items()
    assert why in config.notes[0]
    assert "--b" in config.notes[0]
    if shutil.which("bash"):
        shell = f"train() {{ printf '%s ' \"$@\"; }}\ntrain --a 1{between}  --b 2\n"
        assert "--b" not in subprocess.run(["bash", "-c", shell], capture_output=True, text=True).stdout


def test_comments_and_their_lines():
    text = "#!/bin/bash\n#SBATCH --gres=gpu:8\nx --a 1 # lora-advise: ignore \n  # alone\ny '# no' --b 2#no\n"
    document = read_shell("\ufeff" + text, "run.sh")
    assert document.comments == (
        Comment(1, "!/bin/bash", True, 2),
        Comment(2, "SBATCH --gres=gpu:8", True, 1),
        Comment(3, "lora-advise: ignore", False, 9),
        Comment(4, "alone", True, 3),
    )
    assert [c.program for c in document.configs] == [("x",), ("y",)]


@pytest.mark.parametrize(
    ("script", "place", "said"),
    [
        ("x --a 1\nx --b 'c", "run.sh line 2, column 7", "quote that opens here is never closed"),
        ('x "a', "line 1, column 3", "close it"),
        ("x $(a", "line 1", "never closed"),
        ("A=(1", "line 1, column 3", "has no )"),
        ("x ${A:-b", "line 1, column 3", "brace"),
        ("if a; then " * 50, "line 1", "deeper than 40"),
        ("x " + "${A:-" * 60 + "}" * 60, "line 1", "deeper than 40"),
        ("A=(a b)\n" + 'A+=("${A[@]}")\n' * 60, "line", "expand to more than"),
        ("x " + "--a 1 " * 30_000, "line 1", "settings by here"),
        ("x\n" * MAX_BYTES, "line", "is not read"),
    ],
)
def test_what_is_refused(script, place, said):
    with pytest.raises(LoraAdviseError) as caught:
        read_shell(script, "run.sh")
    assert place in str(caught.value)
    assert said in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_variable_made_of_itself_is_unknown_before_it_is_large():
    assert value("A=xxxxxxxx\n" + 'A="$A$A"\n' * 60 + "x --a $A", "a") == Unresolved("$A")


HARD = st.sampled_from(
    [*"'\"`$\\;&|<>()#{}[]!=*? \t\n", "\r\n", "\\\n", "${", "${A:-", "$(", "$'", "<<", "<<E\n", "E\n", "A=", "A=(", "A+=", "--a",
     "--b=", "-1", "if ", "then ", "else\n", "fi\n", "for x in ", "case a in ", "esac", "do ", "done", "[[ ", "]]", "eval ",
     "bash -c ", "python x.py ", "$A", '"${A[@]}"', '"$@"', "export ", "docker run ", "--wrap=", "torchrun ", "\0", "é", "𝒳"]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(HARD, max_size=30).map("".join)))
@settings(max_examples=400, deadline=None)
def test_any_text_is_read_or_refused_in_a_sentence(text):
    try:
        document = read_shell(text, "run.sh")
    except LoraAdviseError as error:
        assert "\n" not in str(error)
        return
    assert document.text == text
    check_places(document)


NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=8)


@given(st.dictionaries(NAMES, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12), min_size=1),
       st.booleans())  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_what_is_quoted_comes_back(given, equals):
    text = "x " + " ".join(f"--{name}{'=' if equals else ' '}{shlex.quote(text)}" for name, text in given.items())
    config = only(text)
    check_places(read_shell(text, "run.sh"))
    for name, wanted in given.items():
        entry = config.get(name)
        assert written(text, entry.key) == f"--{name}"
        if not equals and wanted.startswith("-"):
            continue
        assert written(text, entry.span) == shlex.quote(wanted)
        if not isinstance(entry.value, (tuple, dict)):
            assert entry.text == wanted
        if isinstance(entry.value, str):
            assert entry.value == wanted


WORDS = st.lists(
    st.sampled_from(
        ["a", "1e-4", "x=y", "[q,k]", "é", "\\ ", "\\$", "\\'", '\\"', "'s q'", "'$A'", '"d q"', '"$A"', '"${B}"', "$A", "${A}", "$B",
         '"\\$x \\" \\\\ \\d"', "${Z:-dd}", "${A:-dd}", "${E:-ee}", "${E-ff}", "${A:+p q}", "${A+p}", "${Y:=zz}", "$'t\\tx'",
         '"${Z:-d e}"', "${Z:-'s t'}", '${Z:-"u v"}', '"a$A b"', "\\\n", "#", '"x\\\ny"', "${A:-${B}}", '"${L[@]}"', "${L[@]}", '"$D"',
         "$D", " ", " ", " "]
    ),
    max_size=8,
).map("".join)  # fmt: skip
SETUP = st.lists(
    st.sampled_from(
        ["A=av\n", "A='a v'\nB=\"$A x\"\n", "A=1\nA+=2\n", 'D="--d1 v --d2 $B"\n', "if true; then\nB=3\nfi\n", "# c 'x\n", "C=$A$B\n",
         "L=(x --y 'b c')\nL+=($A)\n", "A=x B=y\n", "export A=ex\n", "cat <<'Q' >&2\nA='\nQ\n"]
    ),
    max_size=4,
).map("".join)  # fmt: skip


@pytest.mark.skipif(not shutil.which("bash"), reason="compares with bash, which is not here")
@given(SETUP, WORDS)
@settings(max_examples=120, deadline=None)
def test_bash_passes_the_same_arguments(setup, words):
    """Every argument but the flag's own is positional, so that they can be told one by one."""
    script = f"A=a\nB=b\nE=\nD=d\nL=(l)\n{setup}train -- --flag {words}\n"
    shell = f"train() {{ printf '%s\\0' \"$@\"; }}\n{script}"
    done = subprocess.run(["bash", "-f", "-c", shell], capture_output=True, text=True)
    if "unexpected" in done.stderr:
        with pytest.raises(LoraAdviseError):
            read_shell(script, "run.sh")
        return
    config = only(script)
    if any(isinstance(entry.value, Unresolved) for entry in config.entries):
        return
    assert ["--", *(entry.text for entry in arguments(config))] == done.stdout.split("\0")[:-1]


def arguments(config):
    """After ``--``; lists in brackets have no text of their own, so their span is taken."""
    for entry in config.under("positional"):
        yield entry._replace(text="[" + ",".join(entry.value) + "]") if isinstance(entry.value, tuple) else entry


SCRIPTS = sorted(
    p for pattern in ("settings/*_sh/*/*", "settings/trl_cli/*/*", "sick/*.sh") for p in CORPUS.glob(pattern)
)


@pytest.mark.skipif(not SCRIPTS, reason="the corpus of real launch commands lies beside the repository, not in it")
def test_every_script_of_the_corpus_has_a_command():
    assert len(SCRIPTS) > 100
    for path in SCRIPTS:
        document = read_shell(path.read_bytes().decode("utf-8-sig"), path.name)
        check_places(document)
        assert document.configs, path
        assert all(config.program and not config.notes for config in document.configs), path
        flags = document.text.count(" --")
        found = sum(
            e.key is not None for c in document.configs for e in (*c.entries, *c.shadowed) if e.path[0] != "positional"
        )
        assert found == flags, path


def test_a_launch_script_is_read_fast():
    text = (
        "LR=1e-4\nswift sft \\\n" + "".join(f"    --setting_{n} value_{n} \\\n" for n in range(50)) + "    --lr $LR\n"
    )
    read_shell(text, "run.sh")
    best = min(timed(text) for _ in range(5))
    assert best < 0.01


def timed(text):
    start = time.perf_counter()
    read_shell(text, "run.sh")
    return time.perf_counter() - start


@pytest.mark.parametrize(
    "part", ["x --a\n", "''", "\\a", "<<A ", "$A ", "! ", "A=1 ", "sh ", 'bash -c "x --a"\n', "if x; then A=1; fi\n", "#\n", "`", "[[ a && "]
)  # fmt: skip
def test_a_file_of_the_largest_size_costs_no_square(part):
    def cost(size):
        text, start = part * (size // len(part)), time.process_time()
        with contextlib.suppress(LoraAdviseError):
            read_shell(text, "run.sh")
        return time.process_time() - start

    assert cost(MAX_BYTES) < max(2.0, 40 * cost(MAX_BYTES // 8))
