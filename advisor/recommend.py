"""From model, task, data and hardware to a plan: every decision in the order in which they depend on each other."""

from __future__ import annotations

from math import ceil

from lora_advise.decide_adapter import (
    decide_alpha,
    decide_rank,
    decide_regularisers,
    decide_saved_modules,
    exceeds_capacity,
)
from lora_advise.decide_batch import decide_batch, decide_split
from lora_advise.decide_data import decide_data
from lora_advise.decide_eval import decide_evaluation, decide_split_share
from lora_advise.decide_method import Candidate, assemble, decide_method
from lora_advise.decide_precision import decide_precision
from lora_advise.decide_purpose import decide_purpose, decide_sweep
from lora_advise.decide_rate import decide_beta, decide_rate, decide_schedule
from lora_advise.decide_targets import decide_targets
from lora_advise.draft import Draft
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts
from lora_advise.plan import Plan, StepBudget


def recommend(draft: Draft) -> tuple[Plan, StepBudget]:
    """Fill the draft with decisions and return the plan with its step budget.

    Rank and alpha are settled before the device is looked at, so they are the same on every GPU.
    """
    draft.values.update(
        {f: v for f, v in draft.overrides.items() if f.startswith(("lora.", "train.", "quant.", "stack."))}
    )
    targets = decide_targets(draft)
    decide_purpose(draft, exceeds=exceeds_capacity(draft, targets))
    rank = decide_rank(draft, targets)
    decide_alpha(draft, rank)
    decide_saved_modules(draft)
    decide_data(draft)
    decide_beta(draft)
    decide_split_share(draft)
    decide_precision(draft)
    batch, epochs = decide_batch(draft)
    decide_regularisers(draft, epochs)
    candidate, micro = decide_method(draft)
    replicas = draft.hardware.count if candidate.sharding != "none" else 1
    _, accumulation, effective = decide_split(draft, batch, micro, replicas)
    draft.values["train.gradient_accumulation_steps"] = accumulation
    facts = assemble(draft, candidate)
    steps = facts.optimizer_steps or 1
    rate = decide_rate(draft, facts.lora, facts.method, steps)
    decide_schedule(draft, rate, steps, facts.method)
    decide_evaluation(draft, steps)
    decide_sweep(draft, rate, rank)
    _apply_remaining_overrides(draft)
    if candidate.method == "full":
        _forget_adapter(draft)
    facts = assemble(draft, candidate)
    plan = Plan(facts=facts, origins=dict(draft.origins), overrides=draft.recorded_overrides(), profile=draft.profile)
    return plan, budget(facts, effective)


def _forget_adapter(draft: Draft) -> None:
    """Full fine-tuning has no adapter: what was decided and said of one is no part of the answer."""
    draft.decisions[:] = [d for d in draft.decisions if d.topic != "adapter"]
    draft.notes[:] = [note for note in draft.notes if "allen-zhu-2024" not in note.sources]


def _apply_remaining_overrides(draft: Draft) -> None:
    """Overrides of fields that no decider asked about are still the user's word."""
    for field, value in draft.overrides.items():
        draft.values[field] = value


def budget(facts: Facts, effective: int) -> StepBudget:
    """The step budget of the plan: rows, batch, epochs, steps and tokens."""
    train, data = facts.train, facts.data
    if train is None or data is None:
        raise LoraAdviseError("A step budget needs the train and data sections of the plan.")
    steps = facts.optimizer_steps or 1
    examples = facts.train_examples or data.examples
    group = facts.group_size
    return StepBudget(
        examples=examples, rows=facts.sequences or examples, micro_batch=train.per_device_train_batch_size,
        accumulation=train.gradient_accumulation_steps, devices=facts.data_parallel, effective_batch=effective,
        epochs=train.num_train_epochs, steps=steps, warmup_steps=train.warmup_steps,
        eval_every=train.eval_steps if train.eval_strategy == "steps" else None,
        tokens=ceil(examples * group * data.tokens_per_example * train.num_train_epochs),
        supervised_tokens=examples * group * (data.tokens_per_example if train.loss_on == "all" else data.completion_tokens),
    )  # fmt: skip


__all__ = ["Candidate", "Draft", "recommend"]
