"""The guides beside a concrete plan."""

from __future__ import annotations

from lora_advise import guide_statements, guides
from lora_advise.facts import LoraFacts, TaskFacts
from lora_advise.plan import GuideComparison, Plan
from lora_advise.sources import registry


def rows(sample, **sections) -> dict[str, GuideComparison]:
    """The comparison of the sample plan with some fields of its sections changed."""
    facts = sample.facts()
    for name, changes in sections.items():
        old = getattr(facts, name)
        facts = facts.changed({name: old.changed(changes) if isinstance(changes, dict) else changes})
    return {row.statement: row for row in guides.compare(Plan(facts=facts), sample.decisions())}


def test_every_statement_is_complete() -> None:
    ids = list(guide_statements.statements())
    assert [sum(name.startswith(f"S{n}.") for name in ids) for n in range(3)] == [41, 33, 33]
    for statement in guide_statements.statements().values():
        assert statement.verdict in ("agree", "refine", "disagree", "unsupported")
        assert statement.reason.endswith("."), statement.id
        assert statement.sources, statement.id
        assert not set(statement.sources) - set(registry()), statement.id
        assert guide_statements.guide_of(statement.id).startswith(f"guide {statement.id.split('.')[0]}")
    for row in guide_statements.contradictions():
        assert not set(row["sources"]) - set(registry()), row["topic"]
        assert row["one"]
        assert row["other"]
        assert row["reading"]


def test_little_data_is_a_disagreement_on_dropout(sample) -> None:
    found = rows(sample, data={"examples": 51})
    row = found["S0.38"]
    assert row.verdict == "disagree"
    assert row.topic == "lora.lora_dropout"
    assert "0.3 to 0.5" in row.says
    assert "51 examples" in row.says
    assert row.we_say.startswith("0.0")
    assert "S0.38" not in rows(sample)


def test_a_plan_that_follows_the_guide_agrees(sample) -> None:
    found = rows(sample, data={"examples": 51}, lora={"lora_dropout": 0.4})
    assert found["S0.38"].verdict == "agree"
    assert found["S0.38"].reason.startswith("The values meet here.")
    assert found["S1.20"].verdict == "disagree"


def test_alpha_twice_the_rank(sample) -> None:
    found = rows(sample)
    assert found["S1.14"].verdict == "agree"
    assert found["S0.15"].verdict == "agree"
    other = rows(sample, lora={"r": 64})
    assert other["S1.14"].verdict == "refine"
    assert "128" in other["S1.14"].says
    assert found["S0.14"].verdict == "disagree"


def test_size_decides_which_statements_of_s2_concern_the_plan(sample) -> None:
    assert {"S2.7", "S2.11"} <= set(rows(sample))
    big = rows(sample, model={"total_params": 32_800_000_000}, lora={"r": 8})
    assert {"S2.7", "S2.10"}.isdisjoint(big)
    assert big["S2.8"].verdict == "disagree"
    assert "32.8B" in big["S2.8"].says
    assert big["S2.25"].verdict == "disagree"
    assert big["S2.27"].verdict == "refine"
    huge = rows(sample, model={"total_params": 70_600_000_000})
    assert huge["S2.10"].verdict == "disagree"
    assert huge["S2.14"].verdict == "unsupported"


def test_accumulation_forgets_the_devices(sample) -> None:
    assert rows(sample)["S2.28"].verdict == "agree"
    four = rows(sample, hardware={"count": 4}, stack={"sharding": "ddp"})
    assert four["S2.28"].verdict == "disagree"
    assert "16 steps" in four["S2.28"].says
    assert four["S2.30"].verdict == "agree"
    assert four["S2.30"].we_say == "64 = 4 x 4 x 4"


def test_rates_by_method_and_task(sample) -> None:
    quantized = rows(sample)
    assert quantized["S1.24"].verdict == "agree"
    assert "S1.23" not in quantized
    plain = rows(sample, quant=None, train={"learning_rate": 3e-4})
    assert plain["S1.23"].verdict == "agree"
    assert "S1.24" not in plain
    preference = rows(
        sample,
        quant=None,
        train={"learning_rate": 5e-6},
        task=TaskFacts(name="dpo", family="preference", trainer="dpo"),
    )
    assert preference["S1.23"].verdict == "disagree"
    assert "does not tell tasks apart" in preference["S1.23"].reason


def test_full_tuning_has_no_adapter_to_compare(sample) -> None:
    found = rows(sample, lora=None, quant=None, train={"learning_rate": 1e-5})
    assert not any(row.topic.startswith("lora.") for row in found.values())
    assert found["S0.24"].verdict == "agree"


def test_targets_by_role(sample) -> None:
    found = rows(sample)
    assert found["S1.19"].verdict == "agree"
    assert found["S1.17"].verdict == "disagree"
    narrow = rows(sample, lora=LoraFacts(r=16, lora_alpha=32, target_modules=("q_proj", "v_proj")))
    assert narrow["S1.17"].verdict == "agree"
    assert narrow["S0.39"].verdict == "agree"
    assert narrow["S1.19"].verdict == "disagree"


def test_disagreements_come_first_and_nothing_twice(sample) -> None:
    found = guides.compare(
        Plan(facts=sample.facts().changed({"data": sample.facts().data.changed({"examples": 51})})),
        (),
    )
    order = ["disagree", "unsupported", "refine", "agree"]
    places = [order.index(row.verdict) for row in found]
    assert places == sorted(places)
    assert len({row.statement for row in found}) == len(found)
    assert all(row.says and row.we_say for row in found)


def test_unknown_sections_compare_nothing(sample) -> None:
    assert guides.compare(Plan(facts=sample.facts().changed({"data": None})), ()) == ()
