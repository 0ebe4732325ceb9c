"""The tables of rules about settings name settings that exist; placeholders, closed lists and other trainers' words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_advise.data_keys import keys_of
from lora_advise.dialects import dialect, names, same_idea
from lora_advise.document_read import read_document
from lora_advise.lint_files import Wanted, lint_document, readings_of
from lora_advise.rules.contradictions import SPELLINGS
from lora_advise.rules.refused_options import REFUSED
from lora_advise.rules.slips import is_slip
from lora_advise.rules.without_switch import SWITCHED
from lora_advise.sheet import is_placeholder

GONE = {
    "unsloth_cross_entropy_loss", "unsloth_lora_mlp", "unsloth_lora_qkv", "unsloth_lora_o", "unsloth_rms_norm", "unsloth_rope",
    "noisy_embedding_alpha", "pretrain_multipack_buffer_size",
}  # fmt: skip
"""Old keys that Axolotl's validators look for before its schema is built."""
SHARED = keys_of("transformers-TrainingArguments")


def rows():
    for table in (REFUSED, SPELLINGS):
        yield from ((name, case.settings) for name, cases in table.items() for case in cases)
    yield from ((name, row.names) for name, found in SWITCHED.items() for row in found)


def settings_of(name):
    """Lenses and keys of a trainer, in files and in programs."""
    shapes = [dialect(name), dialect(name, "calls")]
    lenses = {word for kind in shapes for lens in kind.lenses for word in (lens.name, lens.key)}
    return (
        lenses
        | {key for kind in shapes for key in kind.known}
        | keys_of(name)
        | SHARED
        | GONE
        | keys_of("peft-LoraConfig")
    )


@pytest.mark.parametrize("name", sorted({name for name, _ in rows()}))
def test_every_setting_of_a_table_exists(name):
    known = settings_of(name)
    for owner, settings in rows():
        if owner != name:
            continue
        there = [
            setting for setting in settings
            if setting in known
            or (setting.endswith("*") and any(key.startswith(setting[:-1]) for key in known))
            or setting.partition(".")[0] in known
            or setting.removeprefix("LoraConfig.") in known
        ]  # fmt: skip
        assert there, (name, settings)
        if name in ("axolotl", "llamafactory", "ms-swift", "torchtune"):
            assert len(there) == len(settings), (name, set(settings) - set(there))


def problems(text, name="llamafactory"):
    document = read_document("run.yaml", text=text, format="yaml")
    ((_, reading),) = readings_of(document, Wanted(name))
    return [problem.key for problem in reading.problems]


LLAMAFACTORY = "model_name_or_path: a/b\nstage: sft\ndo_train: true\ndataset: a\nfinetuning_type: lora\n"


@pytest.mark.parametrize("value", ["$LR", "${LR}", "'{{ lr }}'", "<lr>", "__LR__", "'%(lr)s'", "???", "'{lr}'"])
def test_what_is_filled_in_later_is_no_mistake(value):
    assert problems(f"{LLAMAFACTORY}learning_rate: {value}\nlora_rank: {value}\n") == []


@pytest.mark.parametrize("value", ["fast", "1e-4x", "[1, 2]", "'{{ lr'", "'$'"])
def test_what_is_no_number_is_one(value):
    assert problems(f"{LLAMAFACTORY}learning_rate: {value}\n") == ["learning_rate"]


@given(st.text(min_size=1, max_size=30))
def test_a_placeholder_for_words_is_one_for_numbers(value):
    if is_placeholder(value):
        assert is_placeholder(value, "number")
    assert not is_placeholder(value.replace("$", "").replace("{", "").replace("%", "").replace("?", ""))


@pytest.mark.parametrize("name", [name for name in names() if name != "plan"])
def test_a_closed_list_takes_all_of_its_words(name):
    for kind in (dialect(name), dialect(name, "calls")):
        for lens in kind.lenses:
            assert len(set(lens.choices)) == len(lens.choices)
            assert not lens.choices or lens.kind == "word"


@pytest.mark.parametrize("word", ["no", "steps", "epoch", "best"])
def test_words_of_the_list_pass(word):
    assert problems(f"{LLAMAFACTORY}save_strategy: {word}\n") == []


def test_a_long_list_is_not_recited():
    document = read_document("run.yaml", text=f"{LLAMAFACTORY}optim: AdamW\n", format="yaml")
    said = [
        f.finding.message
        for f in lint_document(document, Wanted("llamafactory")).shown
        if f.finding.rule == "value-unreadable"
    ]
    assert said == [
        "optim is 'AdamW'; LLaMA-Factory needs one of its 43 words, such as adamw_torch or adamw_torch_fused or adamw_torch_xla."
    ]


@pytest.mark.parametrize(
    ("key", "name", "own"),
    [
        ("lora_rank", "axolotl", "lora_r"), ("cutoff_len", "axolotl", "sequence_len"), ("lora_r", "llamafactory", "lora_rank"),
        ("sequence_len", "trl", "max_length"), ("lora_target", "ms-swift", "target_modules"), ("wholly_unknown", "trl", None),
    ],
)  # fmt: skip
def test_other_trainers_words(key, name, own):
    assert same_idea(key, dialect(name)) == own


@given(st.sampled_from(sorted(SHARED)), st.data())
def test_a_doubled_letter_is_a_slip_and_a_plural_is_none(key, data):
    place = data.draw(st.integers(0, len(key) - 1))
    if key[place] != "_":
        assert is_slip(key[: place + 1] + key[place:], key)
    assert not is_slip(key + "s", key) or key.endswith("s")
    assert not is_slip(key, key)


PROGRAM = """
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer
lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", colour=3)
args = SFTConfig(output_dir="out", learning_rate=2e-4, taste=1)
SFTTrainer("meta-llama/Llama-3.1-8B", args=args, train_dataset=data, peft_config=lora).train()
"""


@pytest.mark.parametrize(
    ("versions", "severity"), [({}, "warning"), ({"trl": "0.12"}, "warning"), ({"trl": "1.16.0"}, "error")]
)
def test_a_programs_keywords_hang_on_the_version(versions, severity):
    document = read_document("run.py", text=PROGRAM, format="python")
    found = [
        f.finding for f in lint_document(document, Wanted(versions=versions)).shown if f.finding.rule == "key-unknown"
    ]
    assert [f.severity.value for f in found] == [severity] * 2
    assert all("TypeError" in f.message for f in found)


def test_a_deepspeed_file_beside_the_config_is_compared(tmp_path):
    (tmp_path / "z3.json").write_text(
        '{"zero_optimization": {"stage": 3}, "gradient_accumulation_steps": 8, "gradient_clipping": 1.0}'
    )
    run = tmp_path / "run.yaml"
    run.write_text(f"{LLAMAFACTORY}gradient_accumulation_steps: 4\ndeepspeed: z3.json\n")
    shown = lint_document(read_document(str(run)), Wanted("llamafactory")).shown
    said = [f.finding.message for f in shown if f.finding.rule == "deepspeed-values-disagree"]
    assert len(said) == 1
    assert "gradient_accumulation_steps 8" in said[0]
    assert "gradient_accumulation_steps 4" in said[0]
