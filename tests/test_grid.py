"""Properties over the whole grid of questions: models x tasks x data x devices x profiles."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_advise import advise, read_plan, write_plan
from lora_advise.catalogue_list import list_models
from lora_advise.document_read import read_document
from lora_advise.errors import LoraAdviseError
from lora_advise.lint_files import Wanted, lint_document
from lora_advise.model_kernels import attention_refused, foreign_format
from lora_advise.tasks import TASKS

MODELS = [row[0] for row in list_models()]
DEVICES = [
    "12GB",
    "T4",
    "RTX4090",
    "2xRTX4090",
    "L40S",
    "A100-40GB",
    "H100-80GB",
    "4xA100-80GB",
    "8xH100",
    "H200",
    "MI300X",
    "cpu",
    None,
]
REQUEST_FINDINGS = {"few-examples", "does-not-fit", "memory-tight", "hardly-any-examples", "kto-batch-of-one"}
"""Rules that speak of what was asked: too little data, a device on which nothing fits, or one row of KTO where it needs two."""


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    model=st.sampled_from(MODELS),
    task=st.sampled_from(sorted(TASKS)),
    examples=st.one_of(st.none(), st.sampled_from([1, 7, 51, 120, 400, 1_500, 9_000, 60_000, 400_000, 5_000_000])),
    tokens=st.one_of(st.none(), st.sampled_from([(40, 5), (500, 200), (3_000, 2_500), (12_000, 300)])),
    gpu=st.sampled_from(DEVICES),
    profile=st.sampled_from(["safe", "balanced"]),
)
def test_every_question_gets_a_sound_plan(
    model: str, task: str, examples: int | None, tokens: tuple[int, int] | None, gpu: str | None, profile: str
) -> None:
    lengths = {} if tokens is None else {"tokens_per_example": tokens[0], "completion_tokens": tokens[1]}
    try:
        advice = advise(model, task, examples=examples, gpu=gpu, profile=profile, **lengths)  # type: ignore[arg-type]
    except LoraAdviseError as error:
        assert "encoder" in str(error) or "vision" in str(error), error  # the only pairs that cannot be
        return
    facts, steps = advice.facts, advice.steps
    assert facts.train is not None
    assert facts.lora is not None
    assert steps.steps >= 1
    assert facts.model is not None
    assert not attention_refused(facts.model.model_type, facts.train.attn_implementation)
    assert facts.method == "lora" or not foreign_format(facts.model.checkpoint_quantization)
    assert steps.effective_batch == steps.micro_batch * steps.accumulation * steps.devices == facts.effective_batch
    for decision in advice.decisions:
        in_range(decision.value, decision.sweep, decision.field)
    first = advice.memory[0]
    assert first.method == facts.method
    assert (first.fit == "does not fit") == (first.micro_batch == 0)
    if first.fit == "does not fit":
        assert len(first.ways_out) >= 3
        better = [v for v in advice.memory if v.hardware == first.hardware and v.fit == "fits" and v.method != "full"]
        assert not better, "a method that fits was passed over"
    written = lint_document(read_document("plan.yaml", text=write_plan(advice.plan)), Wanted())
    assert written.dialects == ("plan",)
    assert {found.finding.rule for found in written.findings} <= REQUEST_FINDINGS, [f.finding for f in written.findings]
    assert facts.lora.r in (8, 16, 32, 64, 128, 256)
    assert {f.rule for f in advice.findings} <= REQUEST_FINDINGS, [f.message for f in advice.findings]
    assert read_plan(write_plan(advice.plan, advice.decisions)) == advice.plan


def in_range(value: object, sweep: tuple[object, ...] | None, field: str) -> None:
    numbers = [x for x in sweep or () if isinstance(x, (int, float))]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and numbers:
        assert min(numbers) <= value <= max(numbers), (field, value, sweep)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_rank_and_alpha_never_follow_the_memory(task: str) -> None:
    model = "Qwen/Qwen2.5-VL-7B-Instruct" if task == "vision-language" else "Qwen/Qwen2.5-7B-Instruct"
    seen = set()
    for gpu in ("12GB", "RTX4090", "H200", "8xH100"):
        lora = advise(model, task, gpu=gpu).facts.lora
        assert lora is not None
        seen.add((lora.r, lora.lora_alpha))
    assert len(seen) == 1
