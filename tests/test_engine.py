"""The engine: order, hiding, skipping, and rules about a run. And the learning-rate arithmetic that rules stand on."""

from __future__ import annotations

from math import isclose, sqrt

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_advise import rates
from lora_advise.engine import lint
from lora_advise.errors import LoraAdviseError
from lora_advise.example_facts import example
from lora_advise.facts import Facts
from lora_advise.finding import Confidence, Hit, Severity
from lora_advise.rule import rule
from lora_advise.rules import RULES


def made(name, code, severity=Severity.WARNING, confidence=Confidence.FACT):
    @rule(name, code, severity, confidence, ("arithmetic",))
    def check(lora):
        """One hit."""
        yield Hit(f"r is {lora.r}.", ("lora.r",))

    return check


def test_errors_come_first_then_codes():
    some = (
        made("late", "ZZZ902"),
        made("early", "ZZZ901"),
        made("worst", "ZZZ999", Severity.ERROR),
        made("mild", "AAA001", Severity.NOTE),
    )
    assert [f.rule for f in lint(example(), some).findings] == ["worst", "early", "late", "mild"]


def test_codes_of_four_digits_come_after_those_of_three():
    some = (made("tenth", "ZZZ1001"), made("ninth", "ZZZ901"))
    assert [f.rule for f in lint(example(), some).findings] == ["ninth", "tenth"]


def test_conventions_are_hidden_and_counted_until_asked_for():
    convention = made("habit", "ZZZ901", confidence=Confidence.CONVENTION)
    quiet, loud = lint(example(), [convention]), lint(example(), [convention], pedantic=True)
    assert (len(quiet.findings), len(quiet.hidden)) == (0, 1)
    assert (len(loud.findings), len(loud.hidden)) == (1, 0)


def test_a_rule_without_its_facts_is_skipped_and_named():
    result = lint(example({"lora": None}), [made("needs-lora", "ZZZ901")])
    assert result.findings == ()
    assert result.skipped == (("needs-lora", ("lora",)),)


def test_nothing_known_skips_every_rule_and_finds_nothing():
    result = lint(Facts(), RULES, pedantic=True)
    assert result.findings == ()
    about_facts = {r.name for r in RULES if not {"config", "comments"} & {*r.needs}}
    assert {name for name, _ in result.skipped} == about_facts


def test_a_hit_may_be_milder_than_its_rule():
    @rule("two-degrees", "ZZZ901", Severity.ERROR, Confidence.FACT, ("arithmetic",))
    def check(facts):
        """One hit."""
        yield Hit("It is mild.", ("lora.r",), (), Severity.NOTE, step=7)

    (finding,) = lint(example(), [check]).findings
    assert finding.severity is Severity.NOTE
    assert finding.step == 7
    assert finding.sources == ("arithmetic",)


def test_rules_about_a_run_get_it():
    @rule("needs-run", "ZZZ901", Severity.NOTE, Confidence.FACT, ("arithmetic",))
    def check(run):
        """One hit."""
        yield Hit(f"The run is {run}.", ("train.learning_rate",))

    assert lint(example(), [check]).skipped == (("needs-run", ("run",)),)
    assert lint(example(), [check], run="short").findings[0].message == "The run is short."


def test_a_rule_cannot_ask_for_an_unknown_section():
    with pytest.raises(TypeError, match="no section of the facts is called optimizer"):

        @rule("wrong", "ZZZ901", Severity.NOTE, Confidence.FACT, ("arithmetic",))
        def check(optimizer):
            """Nothing."""
            yield from ()


def test_examples_refuse_unknown_models_and_fields():
    with pytest.raises(LoraAdviseError, match="choose one of"):
        example({"model": "gpt-99"})
    with pytest.raises(ValueError, match="rank"):
        example({"lora": {"rank": 8}})


positive = st.floats(1e-8, 1.0)
alphas = st.floats(0.5, 4096)


slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@slow
@given(positive, alphas, alphas)
def test_conversion_keeps_e2_and_inverts(lr, before, after):
    converted = rates.convert_lr(lr, before, after)
    assert isclose(rates.e2(converted, after), rates.e2(lr, before), rel_tol=1e-9)
    assert isclose(rates.convert_lr(converted, after, before), lr, rel_tol=1e-9)
    assert isclose(rates.lr_for(rates.e2(lr, before), before), lr, rel_tol=1e-9)
    assert isclose(rates.alpha_for(rates.e2(lr, before), lr), before, rel_tol=1e-9)


@slow
@given(positive)
def test_rounding_is_near_idempotent_and_on_the_grid(x):
    rounded, down = rates.round_lr(x), rates.round_lr_down(x)
    assert rates.round_lr(rounded) == rounded
    assert 1 / 1.23 <= rounded / x <= 1.23
    assert down <= x * (1 + 1e-9)
    assert rates.round_lr(down) == down
    assert float(f"{rounded:e}".split("e")[0]) in (1, 1.5, 2, 3, 4, 5, 7)


@pytest.mark.parametrize("x", [0.0, -1e-4, float("nan"), float("inf")])
def test_rounding_refuses_what_is_no_rate(x):
    with pytest.raises(ValueError, match="positive and finite"):
        rates.round_lr(x)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (3e-4, "3e-4"),
        (1.5e-5, "1.5e-5"),
        (1e-3, "1e-3"),
        (0.02, "2e-2"),
        (0.0, "0"),
        (2.99999999e-4, "3e-4"),
        (1.0, "1e0"),
    ],
)
def test_rates_are_written_as_people_write_them(x, text):
    assert rates.format_lr(x) == text


@pytest.mark.parametrize(
    ("optim", "factor"),
    [("adamw_torch_fused", 1.0), ("paged_adamw_8bit", 1.0), ("lion_8bit", 4.0), ("sgd", None),
     ("adafactor", None), ("muon", None), ("schedule_free_adamw", None), ("galore_adamw", None), ("ademamix", 1.0)],
)  # fmt: skip
def test_optimizers_that_follow_other_laws_are_not_compared(optim, factor):
    assert rates.optimizer_factor(optim) == factor


def test_e2_of_a_run_follows_scaling_optimizer_and_ratio():
    def value(**lora):
        facts = example({"lora": lora})
        return rates.run_e2(facts.lora, facts.train)

    assert isclose(value(), 3e-4 * sqrt(32))
    assert isclose(value(r=64, lora_alpha=16, use_rslora=True), 3e-4 * sqrt(16 * 8))
    assert isclose(value(r=256), value(r=4)), "the rank drops out at fixed alpha"
    assert isclose(value(loraplus_lr_ratio=16.0), 4 * value())
    assert value(init_lora_weights="pissa") is None
    assert value(lora_alpha=0) is None


@pytest.mark.parametrize(
    ("lr", "alpha", "billions", "region"),
    [(4e-5, 32, 8, "very low"), (6e-5, 32, 8, "low"), (2e-4, 16, 8, "usual"), (3e-4, 32, 8, "usual"),
     (1e-3, 32, 8, "usual"), (1e-3, 32, 70, "high"), (1.5e-3, 32, 8, "high"), (3e-3, 32, 8, "diverges")],
)  # fmt: skip
def test_runs_of_known_outcome_lie_where_they_ended(lr, alpha, billions, region):
    """The Tinker sweep and QLoRA: 4e-5 under-driven, 2e-4 to 1e-3 fine, 70B diverged at 1e-3, nearly all at 3e-3."""
    assert rates.region(rates.e2(lr, alpha), rates.band("sft", billions)) == region


@pytest.mark.parametrize("lr", [1e-4, 2e-4, 4e-4, 5e-4])
def test_the_lora_papers_own_encoder_settings_are_usual(lr):
    for alpha in (8, 16):
        assert rates.region(rates.e2(lr, alpha), rates.band("classification", 0.35, "encoder")) == "usual"
