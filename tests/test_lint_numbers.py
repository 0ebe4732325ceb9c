"""Numbers that a reader of YAML 1.1 takes for text: a finding where the trainer breaks on them, and nowhere else."""

from __future__ import annotations

import pytest

from lora_advise.document_read import read_document
from lora_advise.lint_files import NoConfig, Wanted, lint_document
from lora_advise.lint_mend import mended_file

OWN_SCRIPT = "model_name_or_path: mine\nlora_r: 16\nper_device_train_batch_size: 8\nlearning_rate: {}\n"


def lines(name: str, text: str) -> list[int]:
    report = lint_document(read_document(name, text=text), Wanted())
    assert not isinstance(report, NoConfig)
    return [item.line for item in report.shown if item.finding.rule == "number-as-text"]


@pytest.mark.parametrize(
    ("number", "breaks"), [("3e-4", True), ("'3.0e-4'", True), ("3.0e-4", False), ("0.0003", False)]
)
def test_in_yaml_the_dot_decides(number: str, breaks: bool) -> None:
    assert lines("run.yaml", OWN_SCRIPT.format(number)) == ([4] if breaks else [])


def test_in_json_a_bare_number_is_one() -> None:
    text = '{"model_name_or_path": "mine", "lora_r": 16, "per_device_train_batch_size": 8, "learning_rate": 3e-4}'
    assert lines("run.json", text) == []


def test_the_fix_writes_a_number_that_every_reader_takes_for_one() -> None:
    report = lint_document(read_document("run.yaml", text=OWN_SCRIPT.format("3e-4")), Wanted())
    after, made = mended_file(report, lambda document: lint_document(document, Wanted()), unsafe=False)
    assert made == 1
    assert after.document.text == OWN_SCRIPT.format("0.0003")


LLAMAFACTORY = "model_name_or_path: meta-llama/Llama-3.1-8B\nstage: sft\ndo_train: true\nfinetuning_type: lora\ndataset: mine\nlora_rank: {}\n"
PROGRAM = """\
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer
peft_config = LoraConfig(r={}, lora_alpha=32, target_modules="all-linear")
SFTTrainer(model="meta-llama/Llama-3.1-8B", args=SFTConfig(learning_rate=2e-4), peft_config=peft_config).train()
"""


@pytest.mark.parametrize(("name", "text", "line"), [("run.yaml", LLAMAFACTORY, 6), ("train.py", PROGRAM, 3)])
def test_a_number_in_quotes_is_written_whole(name: str, text: str, line: int) -> None:
    assert lines(name, text.format(16)) == []
    quoted = text.format('"16"')
    assert lines(name, quoted) == [line]
    report = lint_document(read_document(name, text=quoted), Wanted())
    after, _ = mended_file(report, lambda document: lint_document(document, Wanted()), unsafe=False)
    assert after.document.text == text.format(16)


def test_a_trainer_that_turns_it_back_is_left_alone() -> None:
    text = "base_model: meta-llama/Llama-3.1-8B\nadapter: lora\nlora_r: 16\nmicro_batch_size: 4\nlearning_rate: 3e-4\n"
    assert lines("run.yaml", text) == []
