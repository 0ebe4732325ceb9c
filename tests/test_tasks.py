"""Tasks are found by name, synonym and Chinese name; unknown ones get the closest names."""

from __future__ import annotations

import pytest

from lora_advise.errors import LoraAdviseError
from lora_advise.tasks import PURPOSES, TASKS, resolve_task, task_names


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("qa", "qa"),
        ("Question Answering", "qa"),
        ("math/reasoning", "math"),
        ("GRPO", "grpo"),
        ("rl", "grpo"),
        ("function_calling", "tool-use"),
        ("角色扮演", "roleplay"),
        ("知识注入", "knowledge-injection"),
        ("行为对齐", "chat"),
        ("模式学习", "extraction"),
        ("behaviour alignment", "chat"),
        ("knowledge injection", "knowledge-injection"),
        ("pattern learning", "extraction"),
        ("简单分类", "classification"),
        ("复杂推理", "math"),
        ("语言迁移", "language-transfer"),
        ("cpt", "continued-pretraining"),
        ("vlm", "vision-language"),
    ],
)
def test_names(asked: str, expected: str) -> None:
    assert resolve_task(asked).name == expected


def test_unknown_task_names_the_closest() -> None:
    with pytest.raises(LoraAdviseError, match=r"--task: 'sumarization' .*summarization"):
        resolve_task("sumarization")


def test_hopeless_task_lists_them_all() -> None:
    with pytest.raises(LoraAdviseError, match="continued-pretraining"):
        resolve_task("zzzzzzzzzz")


def test_no_synonym_belongs_to_two_tasks() -> None:
    for task in TASKS.values():
        for synonym in task.synonyms:
            assert resolve_task(synonym).name == task.name, synonym
    assert len(task_names()) > 100


def test_the_purposes_of_the_seed_guide_are_tasks() -> None:
    for purpose, task in PURPOSES.items():
        assert TASKS[task].purpose == purpose


def test_rates_lie_in_their_intervals() -> None:
    for task in TASKS.values():
        low, high = task.rate_range
        assert low <= task.rate <= high
        assert task.typical[2] <= task.typical[1]
