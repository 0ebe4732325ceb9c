"""The advisor from outside: what an expert would check of a plan."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lora_advise import advise, read_plan, write_plan
from lora_advise.facts import Origin
from lora_advise.plan import Advice
from lora_advise.sources import registry


def same_after_the_file(advice: Advice) -> bool:
    return read_plan(write_plan(advice.plan, advice.decisions)) == advice.plan


@pytest.mark.parametrize(
    "case",
    [
        dict(model="Qwen/Qwen2.5-7B-Instruct", task="chat", examples=51, gpu="RTX4090"),
        dict(model="Qwen/Qwen2.5-7B-Instruct", task="chat", examples=100_000, gpu="A100-80GB"),
        dict(model="8B", task="dpo", examples=20_000, gpu="H100"),
        dict(model="3B", task="grpo", examples=7_000, gpu="H100"),
        dict(model="roberta-base", task="classification", examples=8_000, gpu="T4"),
        dict(model="Qwen/Qwen3-30B-A3B", task="code", gpus="2xH100"),
        dict(model="Qwen/Qwen2.5-VL-7B-Instruct", task="vision-language", gpu="A100-80GB"),
        dict(model="tiiuae/Falcon-H1-7B-Base", task="qa", gpu="L40S"),
        dict(model="70B", task="math", gpus="2xRTX4090"),
        dict(model="0.5B", task="language-transfer", gpu="24GB"),
        dict(model="8B", task="continued-pretraining", examples=200_000, gpus="4xA100"),
    ],
    ids=lambda c: f"{c['model']}-{c['task']}",
)
def test_plans_of_every_kind_survive_the_file(case: dict[str, object]) -> None:
    advice = advise(**case)  # type: ignore[arg-type]
    assert same_after_the_file(advice)
    assert advice.steps.steps >= 1


def test_every_decision_is_complete() -> None:
    advice = advise("32B", "qa")
    known = registry()
    assert len(advice.decisions) >= 30
    for decision in advice.decisions:
        assert decision.because.endswith((".", ".'")), decision.field
        assert decision.flips, decision.field
        assert decision.sources, decision.field
        assert all(s in known for s in decision.sources), (decision.field, decision.sources)
        assert decision.shown != "", decision.field


class TestSameModelOnOtherDevices:
    def test_rank_and_alpha_do_not_depend_on_the_gpu(self) -> None:
        seen = {
            (a.facts.lora.r, a.facts.lora.lora_alpha)
            for a in (
                advise("Qwen2.5-32B", "qa", gpu="H200"),
                advise("Qwen2.5-32B", "qa", gpu="H100-80GB"),
                advise("Qwen2.5-32B", "qa", gpu="RTX4090"),
                advise("Qwen2.5-32B", "qa", gpus="2xRTX4090"),
            )
            if a.facts.lora
        }
        assert len(seen) == 1

    def test_a_large_card_takes_sixteen_bit_lora(self) -> None:
        advice = advise("Qwen2.5-32B", "qa", gpu="H200")
        assert advice.facts.method == "lora"
        assert advice.facts.train is not None
        assert advice.facts.train.dtype == "bfloat16"
        assert advice.memory[0].fit == "fits"

    def test_80_gb_takes_qlora_or_says_tight(self) -> None:
        advice = advise("Qwen2.5-32B", "qa", gpu="H100-80GB")
        assert advice.facts.method == "qlora" or advice.memory[0].fit == "tight"

    def test_24_gb_says_what_does_not_fit_and_three_ways_out(self) -> None:
        advice = advise("Qwen2.5-32B", "qa", gpu="RTX4090")
        verdicts = {v.method: v.fit for v in advice.memory}
        assert verdicts["lora"] == "does not fit"
        assert len(advice.memory[0].ways_out) >= 3 or advice.memory[0].fit == "fits"

    def test_two_cards_are_judged_one_by_one(self) -> None:
        advice = advise("70B", "qa", gpus="2xRTX4090")
        first = advice.memory[0]
        assert first.count == 2
        assert first.memory_gib < 25
        assert advice.facts.data_parallel == 2


def test_fifty_one_examples() -> None:
    advice = advise("7B", "chat", examples=51, gpu="RTX4090")
    facts = advice.facts
    assert facts.lora is not None
    assert facts.lora.r <= 16
    assert facts.lora.lora_dropout <= 0.1
    assert advice.steps.effective_batch <= 8
    assert advice.steps.steps >= 50
    dropout = [
        g
        for g in advice.guides
        if "dropout" in g.topic.lower() or "dropout" in g.statement.lower() or "dropout" in g.says.lower()
    ]
    assert any(g.verdict == "disagree" for g in dropout)


def test_a_hundred_thousand_examples_take_one_pass() -> None:
    advice = advise("7B", "chat", examples=100_000, gpu="A100-80GB")
    assert advice.steps.epochs == 1
    assert advice.facts.lora is not None
    assert advice.facts.lora.lora_dropout == 0
    assert 16 <= advice.steps.effective_batch <= 64


def test_preference_and_rl_rates_are_far_below_supervised_ones() -> None:
    sft = advise("8B", "chat", gpu="H100").facts.train
    dpo = advise("8B", "dpo", gpu="H100").facts.train
    rl = advise("8B", "grpo", gpu="H100").facts.train
    assert sft is not None
    assert dpo is not None
    assert rl is not None
    assert dpo.learning_rate <= sft.learning_rate / 20
    assert rl.learning_rate <= sft.learning_rate / 20
    assert dpo.beta == 0.1
    assert rl.num_generations == 8


def test_a_classifier_trains_its_head_and_never_four_bits() -> None:
    advice = advise("FacebookAI/roberta-base", "classification", examples=5_000, gpu="T4")
    lora = advice.facts.lora
    assert lora is not None
    assert "classifier" in lora.modules_to_save
    assert lora.task_type == "SEQ_CLS"
    assert advice.facts.method == "lora"
    assert advice.facts.train is not None
    assert advice.facts.train.dtype == "float16"  # a T4 has no bf16


def test_experts_and_router_of_a_mixture_stay_frozen() -> None:
    advice = advise("Qwen/Qwen3-30B-A3B", "qa", gpu="H200")
    lora = advice.facts.lora
    assert lora is not None
    assert not lora.target_parameters
    targets = lora.target_modules
    assert (
        "gate" not in targets
        if isinstance(targets, tuple)
        else re.fullmatch(targets, "model.layers.0.mlp.gate") is None
    )


def test_the_vision_tower_stays_frozen() -> None:
    from lora_advise.adapters import targeted

    advice = advise("Qwen/Qwen2.5-VL-7B-Instruct", "vision-language", gpu="A100-80GB")
    facts = advice.facts
    assert facts.lora is not None
    assert facts.model is not None
    chosen = targeted(facts.model, facts.lora)
    assert chosen
    assert {m.role for m in chosen} <= {"attention", "mlp"}


def test_the_recurrent_mixers_of_a_hybrid_stay_frozen() -> None:
    from lora_advise.adapters import targeted

    facts = advise("tiiuae/Falcon-H1-7B-Base", "qa", gpu="L40S").facts
    assert facts.lora is not None
    assert facts.model is not None
    assert facts.model.recurrent_layers > 0
    assert {m.role for m in targeted(facts.model, facts.lora)} == {"attention", "mlp"}


class TestOverrides:
    def test_are_respected_recorded_and_computed_around(self) -> None:
        ours = advise("8B", "chat", gpu="H100")
        theirs = advise("8B", "chat", gpu="H100", alpha=128, because="paper X")
        assert theirs.facts.lora is not None
        assert theirs.facts.lora.lora_alpha == 128
        assert theirs.plan.overrides[0].because == "paper X"
        decision = theirs.decision("lora.lora_alpha")
        assert decision.overridden
        assert decision.advised == 32
        assert ours.facts.train is not None
        assert theirs.facts.train is not None
        assert theirs.facts.train.learning_rate == pytest.approx(ours.facts.train.learning_rate / 2)
        assert theirs.plan.origins["lora.lora_alpha"] is Origin.SET

    def test_the_linter_gives_its_opinion(self) -> None:
        advice = advise("8B", "chat", gpu="H100", alpha=512, r=16, lr=0.02)
        assert any(f.severity == "error" for f in advice.findings)
        assert any("scale" in f.rule or "rate" in f.rule for f in advice.findings)

    def test_a_plan_of_ours_has_no_findings(self) -> None:
        assert advise("8B", "chat", gpu="H100").findings == ()

    def test_the_rest_follows_a_forced_batch(self) -> None:
        advice = advise("8B", "chat", gpus="4xH100", batch=64)
        assert advice.steps.effective_batch == 64
        assert advice.steps.micro_batch * advice.steps.accumulation * advice.steps.devices == 64

    def test_plans_with_overrides_survive_the_file(self) -> None:
        advice = advise(
            "8B", "chat", gpu="H100", targets="q_proj,v_proj", r=64, rslora=True, because="paper: «Y» # not a comment"
        )
        assert same_after_the_file(advice)


def test_the_same_question_gets_the_same_answer() -> None:
    first = advise("14B", "code", gpu="A100-40GB", examples=3_000)
    second = advise("14B", "code", gpu="A100-40GB", examples=3_000)
    assert first == second


def test_without_a_gpu_every_usual_card_is_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    advice = advise("8B", "qa")
    assert {v.hardware for v in advice.memory} >= {f"{size} GB card" for size in (12, 16, 24, 48, 80, 141)}
    assert advice.plan.origins["hardware"] is Origin.ASSUMED
    assert any("--gpu" in n.text for n in advice.notes)


def test_data_are_probed(tmp_path: Path) -> None:
    rows = "\n".join(
        f'{{"prompt": "How tall is tower {i}?", "completion": "It is {i} metres tall."}}' for i in range(700)
    )
    file = tmp_path / "train.jsonl"
    file.write_text(rows)
    advice = advise("8B", "qa", data=str(file), gpu="H100")
    data = advice.facts.data
    assert data is not None
    assert data.examples == 700
    assert data.format == "prompt-completion"
    assert advice.plan.origins["data.examples"] is Origin.PROBED
    assert same_after_the_file(advice)


def test_gates() -> None:
    few = advise("8B", "chat", examples=20, gpu="H100")
    assert few.decision("gate").value == "prompt first"
    facts = advise("8B", "knowledge-injection", gpu="H100")
    assert facts.decision("gate").value == "retrieval first"
    assert any("RAG" in n.text for n in facts.notes)
    pretraining = advise("8B", "continued-pretraining", examples=3_000_000, gpu="H200")
    assert "full" in pretraining.decision("gate").value


def test_no_plan_of_a_listed_model_reaches_experts_routers_towers_or_embeddings() -> None:
    """PEFT rewrites some names into fused experts, and refuses others: what it would adapt is what the plan means."""
    from lora_advise import catalogue
    from lora_advise.adapter_limits import refused
    from lora_advise.adapters import targeted

    seen = 0
    for name in [i for i in catalogue.index() if catalogue.row(i)["id"] == i]:
        encoder = catalogue.facts(name).kind in ("encoder", "encoder-decoder")
        facts = advise(name, "classification" if encoder else "chat", gpu="80GB").facts
        assert facts.model is not None
        assert facts.lora is not None
        chosen = targeted(facts.model, facts.lora)
        assert {m.role for m in chosen} <= {"attention", "mlp", "shared_expert", "mixer"}, name
        assert chosen, name
        assert not refused(facts.model, chosen), name
        seen += 1
    assert seen >= 350


def test_a_step_of_grpo_counts_completions_as_trl_does() -> None:
    advice = advise("3B", "grpo", examples=4_000, gpu="H100")
    train = advice.facts.train
    assert train is not None
    prompts_per_step = advice.steps.effective_batch / (train.num_generations or 1)
    assert advice.steps.steps == advice.steps.examples / prompts_per_step == 500


def test_what_does_not_fit_is_said_before_the_settings() -> None:
    advice = advise("32B", "qa", gpu="RTX4060")
    verdict = advice.memory[0]
    (warning,) = (note for note in advice.notes if note.kind == "warning")
    assert verdict.fit == "does not fit"
    assert warning.text.startswith(f"Does not fit: {verdict.needs}. ")
    assert warning.text.endswith(f"names {len(verdict.ways_out)} ways out.")
    assert warning.sources == verdict.estimate.sources
    assert not [note for note in advise("8B", "qa", gpu="H200").notes if note.kind == "warning"]


def test_two_ways_back_are_alternatives() -> None:
    advice = advise("8B", "chat", gpu="RTX4090", r=16, alpha=128, lr=2e-3)
    (finding,) = advice.findings
    assert finding.fix == "train.learning_rate = 0.00015, or lora.lora_alpha = 4"


def test_evaluation_takes_as_many_rows_as_training() -> None:
    train = advise("8B", "qa", gpu="A100-80GB").facts.train
    assert train is not None
    assert train.per_device_eval_batch_size == train.per_device_train_batch_size > 1
