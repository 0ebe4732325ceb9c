"""Diagnosis from outside: logs go in, a verdict with numbers comes out."""

from __future__ import annotations

import io
import json
import math
import random
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_advise.checked import checked
from lora_advise.diagnosis import DECISIONS, Diagnosis, diagnose, report_text
from lora_advise.engine import lint
from lora_advise.example_facts import EXAMPLE_MODELS
from lora_advise.facts import Facts, LoraFacts, TaskFacts, TrainFacts
from lora_advise.prescribe import Case, raise_rate
from lora_advise.prescribe_changes import PRESCRIPTIONS
from lora_advise.rule import Rule
from lora_advise.rules.run_rules import RUN_RULES
from lora_advise.run_facts import AdapterSignal, Run, log_entries
from lora_advise.section import to_json
from lora_advise.signal_curves import curves
from lora_advise.sources import registry


def expand(column: list[Any]) -> list[Any]:
    """A column as written in the rules' examples: plain values, or pairs of value and count."""
    return [v for value, count in column for v in [value] * count] if isinstance(column[0], list) else column


def run_of(table: dict[str, Any]) -> Run:
    """A run from columns; missing values are null."""
    columns = {name: expand(values) for name, values in table.items() if isinstance(values, list)}
    count = max(map(len, columns.values()))
    steps = columns.setdefault("step", [table.get("every", 10) * (i + 1) for i in range(count)])
    if "epoch_per_step" in table:
        columns["epoch"] = [s * table["epoch_per_step"] for s in steps]
    norms = columns.pop("norm_b", [])
    rows = [{name: v[i] for name, v in columns.items() if i < len(v) and v[i] is not None} for i in range(count)]
    return Run(
        log=log_entries(rows),
        max_steps=table.get("max_steps"),
        num_train_epochs=table.get("num_train_epochs"),
        signals=tuple(AdapterSignal(step=s, norm_b=b, norm_a=1.0) for s, b in zip(steps, norms, strict=False)),
    )


def curve(shape: Callable[[float], float], count: int = 60, noise: float = 0.01, seed: int = 3) -> list[float]:
    """A curve over the run's share 0 to 1 with relative noise."""
    chance = random.Random(seed)
    return [shape(i / (count - 1)) * math.exp(chance.gauss(0, noise)) for i in range(count)]


def sparse(shape: Callable[[float], float], count: int = 60, evals: int = 6) -> list[float | None]:
    """Evaluations at ``evals`` evenly spaced entries."""
    every = count // evals
    return [shape(i / (count - 1)) if (i + 1) % every == 0 else None for i in range(count)]


def decay(x: float) -> float:
    return 1.4 + 0.8 * math.exp(-12 * x)


FACTS = Facts(
    task=TaskFacts(name="qa", family="sft"),
    lora=LoraFacts(r=16, lora_alpha=32),
    train=TrainFacts(
        learning_rate=2e-3, per_device_train_batch_size=4, gradient_accumulation_steps=4, max_length=1024,
        num_train_epochs=5, warmup_steps=0, max_grad_norm=None,
    ),
)  # fmt: skip
RATE = [2e-4 * (1 - i / 70) for i in range(60)]


def test_a_decay_that_levels_off_is_healthy() -> None:
    found = diagnose(
        None, run_of({"loss": curve(decay), "eval_loss": sparse(lambda x: decay(x) + 0.03), "learning_rate": RATE})
    )
    assert (found.verdict, found.cause, found.confidence) == ("healthy", None, "high")
    assert found.changes == ()
    assert "training loss" in found.summary


def test_without_evaluation_healthy_says_what_it_cannot_see() -> None:
    found = diagnose(None, run_of({"loss": curve(decay)}))
    assert found.verdict == "healthy"
    assert found.confidence != "high"
    assert "overfitting would not show" in found.summary
    assert any("held-out" in sentence for sentence in found.log_next)


def test_divergence_is_unstable_and_lowers_the_rate_by_e2() -> None:
    loss = curve(lambda x: decay(x) if x < 0.5 else 1.4 * math.exp(3 * (x - 0.5)))
    found = diagnose(FACTS, run_of({"loss": loss, "learning_rate": [2e-3] * 60}))
    assert (found.verdict, found.cause) == ("unstable", "divergence")
    first = found.changes[0]
    assert (first.field, first.current, first.value) == ("train.learning_rate", 2e-3, 3e-4)
    assert "e2-metric" in first.sources
    assert found.step is not None
    assert 250 <= found.step <= 400


def test_nan_that_the_trainer_prints_as_zero_is_unstable() -> None:
    loss = [*curve(decay, 20), *[0.0] * 20]
    found = diagnose(None, run_of({"loss": loss, "grad_norm": [*[0.4] * 20, *[math.nan] * 20]}))
    assert (found.verdict, found.cause, found.step) == ("unstable", "numerics", 210)
    assert "RUN012" in {f.code for f in found.findings}


def test_a_memorised_loss_that_rounds_to_zero_is_no_nan() -> None:
    loss = [2.0, 0.8, 0.2, 0.05, 0.009, 0.004, 0.001, 0.0005, 0.0002, 0.0001, 0.0, 0.0, 0.0, 0.0]
    found = diagnose(None, run_of({"loss": loss}))
    assert found.verdict != "unstable"


def test_a_u_shaped_evaluation_is_overfit_and_stops_at_the_turn() -> None:
    table = {
        "loss": curve(lambda x: 0.5 + 1.5 * math.exp(-3 * x)), "epoch_per_step": 5 / 600,
        "eval_loss": sparse(lambda x: 1.3 + 2 * (x - 0.4) ** 2, evals=10),
    }  # fmt: skip
    found = diagnose(FACTS, run_of(table))
    assert (found.verdict, found.cause, found.confidence) == ("overfit", "eval_rise", "high")
    by_field = {c.field: c for c in found.changes if c.field}
    assert found.step == 240
    assert by_field["train.load_best_model_at_end"].value is True
    assert (by_field["train.num_train_epochs"].current, by_field["train.num_train_epochs"].value) == (5, 2.0)


def test_the_training_loss_alone_is_never_called_overfit() -> None:
    table = {"loss": curve(lambda x: 0.02 + 2 * math.exp(-20 * x)), "epoch_per_step": 12 / 600}
    found = diagnose(None, run_of(table))
    assert (found.verdict, found.cause) == ("cannot tell", "memorised: not evaluated")
    assert any(c.field == "train.eval_steps" for c in found.changes)


def test_a_flat_high_loss_is_underfit_and_raises_the_rate() -> None:
    facts = FACTS.changed({"train": FACTS.train.changed({"learning_rate": 1e-6})})  # type: ignore[union-attr]
    found = diagnose(facts, run_of({"loss": curve(lambda x: 2.4 - 0.02 * x)}))
    assert (found.verdict, found.cause) == ("underfit", "hardly_moves")
    assert (found.changes[0].field, found.changes[0].value) == ("train.learning_rate", 3e-4)


def test_a_run_that_stopped_while_it_paid_names_the_gain() -> None:
    table = {"loss": curve(lambda x: 2.0 * (x + 0.05) ** -0.4), "epoch_per_step": 1 / 600, "num_train_epochs": 1}
    found = diagnose(None, run_of({**table, "eval_loss": sparse(lambda x: 2.1 * (x + 0.05) ** -0.4)}))
    assert (found.verdict, found.cause) == ("underfit", "stopped_early")
    assert found.gain_per_doubling is not None
    assert 0.18 < found.gain_per_doubling < 0.28
    assert (found.changes[0].field, found.changes[0].value) == ("train.num_train_epochs", 2.0)
    assert f"{found.gain_per_doubling:.0%}" in found.changes[0].because


def test_a_restart_of_the_schedule_is_named() -> None:
    rate = [2e-4 * (1 - i / 40) for i in range(40)] + [1.5e-4 * (1 - i / 20) for i in range(20)]
    found = diagnose(None, run_of({"loss": curve(decay), "learning_rate": rate}))
    assert (found.verdict, found.cause, found.step) == ("unstable", "lr_restart", 410)
    assert "num_train_epochs" in found.changes[0].action


def test_restarts_on_purpose_are_not_a_mistake() -> None:
    rate = [2e-4 * (1 - (i % 15) / 15) for i in range(60)]
    assert diagnose(None, run_of({"loss": curve(decay), "learning_rate": rate})).verdict == "healthy"


def test_a_loss_below_what_its_accuracy_allows_is_suspicious() -> None:
    found = diagnose(None, run_of({"loss": [0.02] * 10, "mean_token_accuracy": [0.55] * 10}))
    assert (found.verdict, found.cause, found.confidence) == ("cannot tell", "suspicious: loss normalisation", "high")
    assert all(c.field is None for c in found.changes), "no setting mends a wrong figure"


def test_an_adapter_that_stays_zero_is_frozen() -> None:
    found = diagnose(None, run_of({"loss": curve(decay, 12), "norm_b": [0.0] * 12}))
    assert (found.verdict, found.cause) == ("cannot tell", "suspicious: no weight changes")
    assert (
        diagnose(None, run_of({"loss": curve(decay, 12), "norm_b": [0.1 * i for i in range(1, 13)]})).verdict
        == "healthy"
    )


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_points_cannot_tell_and_say_what_to_log(count: int) -> None:
    found = diagnose(None, run_of({"loss": [2.0, 1.7, 1.6][:count]}) if count else Run())
    assert (found.verdict, found.cause) == ("cannot tell", "too_short")
    assert found.log_next


def test_a_short_run_that_logged_every_step_is_told_to_train_longer() -> None:
    run = run_of({"every": 1, "loss": [2.0, 1.9, 1.7, 1.6], "eval_loss": [2.0, 1.9, 1.8, 1.7]})
    train = FACTS.train.changed({"logging_steps": 1, "eval_steps": 1, "max_steps": 4})
    found = diagnose(FACTS.changed({"train": train}), run)
    assert found.cause == "too_short"
    assert [change.field for change in found.changes] == [None]
    assert "at least 25" in found.changes[0].action
    assert not [line for line in found.log_next if "_steps 1" in line]


def test_a_policy_objective_is_not_judged() -> None:
    loss = [0.02 * math.sin(i) for i in range(60)]
    assert diagnose(None, run_of({"loss": loss})).cause == "not_a_likelihood"


def test_facts_are_optional_and_the_log_gives_the_current_rate() -> None:
    loss = curve(lambda x: decay(x) if x < 0.5 else 1.4 * math.exp(3 * (x - 0.5)))
    found = diagnose(None, run_of({"loss": loss, "learning_rate": [3e-3] * 60}))
    assert (found.changes[0].current, found.changes[0].value) == (3e-3, 1e-3)


def test_json_and_terminal_hold_the_same_and_nothing_is_markup() -> None:
    from rich.console import Console

    run = run_of({"loss": curve(lambda x: decay(x) * (1 + 3 * x))}).changed(
        {"outcome": "failed", "message": "[red]boom[/red]\x1b[2J"}
    )
    found = diagnose(FACTS, run)
    assert checked(Diagnosis, json.loads(to_json(found))) == found
    failed = diagnose(None, run_of({"loss": curve(decay)}).changed({"outcome": "failed", "message": run.message}))
    console = Console(file=io.StringIO(), width=100)
    report_text(found, console)
    report_text(failed, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in text
    assert "[red]boom[/red]" in text
    assert found.findings[0].code in text


def example(rule: Rule, heading: str) -> Run:
    found = re.search(heading + r": (\{.*?\})\s*(?:Instead|Evidence):", rule.documentation, re.DOTALL)
    assert found, f"{rule.name} has no {heading}"
    return run_of(json.loads(found[1]))


QUIET = Facts(
    train=TrainFacts(learning_rate=2e-4, per_device_train_batch_size=1, gradient_accumulation_steps=1, max_length=512)
)


@pytest.mark.parametrize("rule", RUN_RULES, ids=lambda r: r.name)
def test_every_rule_is_documented_by_logs_that_are_executed(rule: Rule) -> None:
    fired = [f.rule for f in lint(QUIET, RUN_RULES, run=example(rule, "Example"), pedantic=True).findings]
    assert fired == [rule.name]
    assert [f.rule for f in lint(QUIET, RUN_RULES, run=example(rule, "Instead"), pedantic=True).findings] == []
    for heading in ("Why:", "Evidence:", "Known problems:"):
        assert heading in rule.documentation


def test_codes_sources_and_causes_are_complete() -> None:
    codes = [r.code for r in RUN_RULES]
    assert codes == sorted(set(codes))
    assert all(re.fullmatch(r"RUN\d{3}", c) for c in codes)
    assert len({r.name for r in RUN_RULES}) == len(RUN_RULES)
    assert {s for r in RUN_RULES for s in r.sources} <= set(registry())
    names = {r.name for r in RUN_RULES}
    assert all(set(line.rules) <= names for line in DECISIONS)
    assert {line.cause for line in DECISIONS} - set(PRESCRIPTIONS) == {"not_a_likelihood"}


def test_rules_without_a_run_are_skipped_and_counted() -> None:
    assert len(lint(Facts(), RUN_RULES).skipped) == len(RUN_RULES)


NUMBER = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 12), st.just(0.0))
ENTRY = st.fixed_dictionaries(
    {"step": st.integers(0, 500)},
    optional=dict.fromkeys(("loss", "eval_loss", "learning_rate", "grad_norm", "mean_token_accuracy", "epoch"), NUMBER),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ENTRY, max_size=60), st.one_of(st.none(), st.integers(-1, 1000)), st.sampled_from([None, FACTS]))
def test_any_log_gets_the_same_verdict_twice_and_never_crashes(
    rows: list[dict[str, Any]], planned: int | None, facts: Facts | None
) -> None:
    first = diagnose(facts, Run(log=log_entries(rows), max_steps=planned))
    again = diagnose(facts, Run(log=log_entries(rows), max_steps=planned))
    assert first == again
    assert json.loads(to_json(first))["verdict"] in ("healthy", "unstable", "overfit", "underfit", "cannot tell")
    assert first.summary
    if not any(row.get("eval_loss") is not None for row in rows):
        assert first.verdict != "overfit"


SHAPES: dict[str, dict[str, Any]] = {
    "healthy": {"loss": curve(decay), "eval_loss": sparse(decay)},
    "unstable": {"loss": curve(lambda x: decay(x) if x < 0.5 else 1.4 * math.exp(3 * (x - 0.5)))},
    "overfit": {
        "loss": curve(lambda x: 1.0 + math.exp(-3 * x)),
        "eval_loss": sparse(lambda x: 1.5 + (x - 0.4) ** 2, evals=10),
    },
    "underfit": {
        "loss": curve(lambda x: 2.0 * (x + 0.05) ** -0.4),
        "eval_loss": sparse(lambda x: 2.1 * (x + 0.05) ** -0.4),
    },
}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(SHAPES)), st.floats(0.6, 1.2))
def test_the_verdict_does_not_depend_on_the_unit_of_the_loss(name: str, unit: float) -> None:
    """Nats or bits: shapes are judged by ratios. Only levels (below 0.3, above 8) are absolute, and none is crossed
    here."""
    table = dict(SHAPES[name])
    for column in ("loss", "eval_loss"):
        table[column] = [None if v is None else v * unit for v in table.get(column, [])] or [None]
    assert diagnose(None, run_of(table)).verdict == name


def test_a_step_that_comes_again_replaces_what_followed() -> None:
    first = [{"step": 10 * i, "loss": 9.0 + i} for i in range(1, 30)]
    second = [{"step": 10 * (i + 1), "loss": v} for i, v in enumerate(curve(decay))]
    both, alone = (diagnose(None, Run(log=log_entries(rows))) for rows in ([*first, *second], second))
    assert (both.verdict, both.summary) == (alone.verdict, alone.summary)


def test_a_hundred_thousand_entries_take_seconds() -> None:
    chance = random.Random(1)
    count = 100_000
    rows = [
        {"step": i + 1, "epoch": 3 * i / count, "loss": 1 + math.exp(-i / 9000) + chance.gauss(0, 0.04),
         "grad_norm": abs(chance.gauss(0.5, 0.1)), "learning_rate": 2e-4 * (1 - i / count)}
        for i in range(count)
    ]  # fmt: skip
    run = Run(log=log_entries(rows), max_steps=count)
    diagnose(None, Run())
    started = time.process_time()
    sorted(chance.random() for _ in range(1_000_000))
    unit = time.process_time() - started
    started = time.process_time()
    found = diagnose(None, run)
    # Sorting a million numbers takes 0.3 to 0.5 s on the machines this was written for; a slow machine slows both.
    assert time.process_time() - started < 8 * unit
    assert found.verdict == "healthy"


@pytest.mark.parametrize(
    ("vocabulary", "first", "fires"),
    [
        (675, 9.2, True),
        (675, 6.4, False),
        (32_000, 9.2, False),
        (32_000, 10.5, True),
        (None, 12.4, False),
        (None, 12.6, True),
    ],
)
def test_the_first_loss_is_compared_with_guessing_of_this_vocabulary(
    vocabulary: int | None, first: float, fires: bool
) -> None:
    model = None if vocabulary is None else EXAMPLE_MODELS["llama-3.1-8b"].changed({"vocab_size": vocabulary})
    facts = FACTS.changed({"model": model})
    losses = [first, 2.0, *[1.8 - 0.001 * i for i in range(30)]]
    result = lint(facts, RUN_RULES, run=run_of({"loss": losses}))
    found = [f for f in result.findings if f.rule == "loss-starts-above-chance"]
    assert bool(found) is fires
    if fires and vocabulary:
        assert f"ln({vocabulary:,})" in found[0].message


@pytest.mark.parametrize(("rate", "offers"), [(3e-4, None), (5e-4, None), (1e-4, 3e-4), (2e-4, 3e-4)])
def test_a_rate_at_or_above_the_usual_one_is_not_raised(rate: float, offers: float | None) -> None:
    lora = LoraFacts(r=16, lora_alpha=32)
    train = FACTS.train.changed({"learning_rate": rate})  # type: ignore[union-attr]
    run = run_of({"loss": [2.0, 1.9, 1.8]})
    case = Case(FACTS.changed({"train": train, "lora": lora}), run, curves(run), None)
    found = raise_rate(case, 2.0)
    assert (None if found is None else found.value) == offers
