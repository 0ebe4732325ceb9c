"""Rules about rates that are judged without the whole adapter: its scale unknown, its run too short, its rank very large."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from lora_advise.facts import Facts, LoraFacts, TrainFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.rates import format_lr, optimizer_factor, round_lr, run_e2
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.scale import judge, speaks_of_rewards
from lora_advise.unknown import UnknownFact

LOWEST_RATE = 5e-6
"""Below it no published supervised adapter was trained on purpose (lwr-2025, tinker-sweep, trl-lr-table)."""
LOWEST_REWARD_RATE = 3e-6
SHORTEST_TRAVEL = 5e-3
"""lr * steps * sqrt(alpha_eff): 1e-5 over 100 steps at alpha 16, 4e-3, left a model unchanged."""


def _rate(train: TrainFacts) -> float | None:
    """The learning rate as AdamW would need it; None for an optimizer with a law of its own."""
    try:
        factor = optimizer_factor(train.optim)
    except UnknownFact:
        factor = 1.0
    return None if factor is None else train.learning_rate * factor


def _judged_by_scale(facts: Facts) -> bool:
    """Whether another rule has a lower bound for this run's lr * sqrt(alpha_eff)."""
    try:
        judged = judge(facts)
    except UnknownFact:
        return False
    return judged is not None and judged[1].low_warn is not None


@rule(
    "rate-of-full-tuning", "LRS112", Severity.WARNING, Confidence.MEASURED, ("lwr-2025", "tinker-sweep", "tinker-docs")
)
def rate_of_full_tuning(
    lora: LoraFacts, train: TrainFacts, facts: Facts, config: Reading | None = None
) -> Iterator[Hit]:
    """An adapter is trained at a learning rate that hardly moves it, whatever its rank and alpha.

    Why: full fine-tuning of large models takes 1e-6 to 1e-5, LoRA about ten times as much. A rate that was copied from there
        runs through without an error and leaves the model as it was.
    Example:
        task: {name: reward, family: reward, trainer: reward}
        data: {format: preference}
        train: {learning_rate: 0.000002}
        lora: {task_type: SEQ_CLS, modules_to_save: [score]}
    Instead:
        task: {name: reward, family: reward, trainer: reward}
        data: {format: preference}
        train: {learning_rate: 0.0001}
        lora: {task_type: SEQ_CLS, modules_to_save: [score]}
    Evidence: LoRA's best rate was 9.8 times that of full fine-tuning over 14 models; 4e-5 at alpha 32 already cost 2.9 % on
        average in a sweep of 35 models, and lower rates were not even tried.
    Known problems: only what adapter-under-driven cannot judge, since alpha, rank or task is unknown. An adapter that is
        continued may want such a rate; preference optimization and RL are judged by rl-rate-low.
    """
    task = facts.task
    if (task is not None and task.family in ("preference", "rl")) or _judged_by_scale(facts):
        return
    if (task is None and speaks_of_rewards(config)) or (config is not None and config.has("adapter_path")):
        return
    rate = _rate(train)
    bound = LOWEST_REWARD_RATE if task is not None and task.family == "reward" else LOWEST_RATE
    if rate is None or not 0 < rate < bound:
        return
    better = 1e-4
    yield Hit(
        f"The learning rate {format_lr(train.learning_rate)} is one of full fine-tuning and leaves an adapter nearly as it "
        f"starts: LoRA needs about ten times as much. Start from {format_lr(better)}, or 2e-4 to 3e-4 at alpha 32.",
        ("train.learning_rate",),
        (Change("train.learning_rate", better * train.learning_rate / rate),),
    )


HARDLY_ANY = 500
"""Examples below which nothing but more of them helps."""


@rule("travel-too-short", "LRS113", Severity.WARNING, Confidence.MEASURED, ("arithmetic", "scale-experiment"))
def travel_too_short(lora: LoraFacts, train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """The rate times the number of steps is so small that the adapter ends where it starts.

    Why: AdamW moves a weight by at most about the learning rate in each step, so lr * steps bounds the way that B can go
        from zero. A low rate needs many steps, a short run a high rate.
    Example:
        task: {name: continued-pretraining, family: pretraining}
        train: {learning_rate: 0.00001, max_steps: 80, warmup_steps: 5, loss_on: all}
        data: {format: text}
    Instead:
        task: {name: continued-pretraining, family: pretraining}
        train: {learning_rate: 0.0001, max_steps: 80, warmup_steps: 5, loss_on: all}
        data: {format: text}
    Evidence: 1e-5 over 100 steps at alpha 16, a product of 4e-3, was reported as a run without any effect; runs that learn
        come to 0.1 and more.
    Known problems: a run of ten steps or less is a trial of the machinery, so it is only a note. The schedule, which makes
        the way shorter still, is not counted. Of fewer than 500 examples the rules about these speak.
    """
    if facts.task is not None and facts.task.family not in ("sft", "classification", "pretraining"):
        return
    steps, value = facts.optimizer_steps, run_e2(lora, train)
    if steps is None or value is None or value * steps >= SHORTEST_TRAVEL or facts.task is None:
        return
    if train.max_steps is None and train.num_train_epochs <= 0:
        return
    if train.max_steps is None and facts.data is not None and facts.data.examples < HARDLY_ANY:
        return
    rate = round_lr(max(train.learning_rate * SHORTEST_TRAVEL * 20 / (value * steps), train.learning_rate))
    rate = min(rate, round_lr(3e-4 * sqrt(32) / (value / train.learning_rate)))
    trial = train.max_steps is not None and train.max_steps <= 10
    yield Hit(
        f"{steps} step{'s' if steps != 1 else ''} at {format_lr(train.learning_rate)} move the adapter by at most "
        f"{format_lr(value * steps)} (lr * steps * sqrt(alpha_eff)); below {format_lr(SHORTEST_TRAVEL)} it stays nearly "
        f"zero. Set the learning rate to {format_lr(rate)}, and train for more steps.",
        ("train.learning_rate", "train.max_steps"),
        (Change("train.learning_rate", rate), *_longer(train, rate * (value / train.learning_rate) * steps)),
        Severity.NOTE if trial else None,
    )


def _longer(train: TrainFacts, travel: float) -> tuple[Change, ...]:
    """More steps, where the best rate alone is not enough."""
    if travel >= SHORTEST_TRAVEL or train.max_steps is None:
        return ()
    return (Change("train.max_steps", max(100, 10 * train.max_steps)),)


@rule("rate-high-at-large-rank", "LRS114", Severity.WARNING, Confidence.MEASURED, ("e2-metric", "scale-experiment"))
def rate_high_at_large_rank(config: Reading, lora: LoraFacts, train: TrainFacts, facts: Facts) -> Iterator[Hit]:
    """A rank of 256 or more runs at a common rate, and nothing says what alpha is.

    Why: many scripts set alpha to the rank or to twice the rank. At r 256 that multiplies every step by what the rate of
        r 16 was not chosen for: the best rate falls with the square root of alpha.
    Example:
        hf: |
            {"model_name_or_path": "meta-llama/Llama-3.1-8B", "lora_rank": 256, "learning_rate": 0.0002, "bf16": true,
             "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "max_grad_norm": 1.0}
    Instead:
        hf: |
            {"model_name_or_path": "meta-llama/Llama-3.1-8B", "lora_rank": 256, "learning_rate": 0.0002, "bf16": true,
             "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "max_grad_norm": 1.0, "lora_alpha": 32}
    Evidence: one reported run, r 256 at 2e-4, whose loss rose from 4.3 to 15. At a fixed alpha the rank hardly changes the
        best rate (190 runs of our own).
    Known problems: only where alpha is unknown; a known one is judged by scale-times-rate-high.
    """
    if facts.task is not None and facts.task.family in ("preference", "rl"):
        return
    rate = _rate(train)
    if rate is None or rate < 2e-4 or lora.r < 256:
        return
    try:
        if lora.lora_alpha > 0:
            return
    except UnknownFact:
        pass
    e2 = rate * sqrt(lora.r)
    yield Hit(
        f"Rank {lora.r} at {format_lr(train.learning_rate)}, and alpha is not said: were it {lora.r}, the product "
        f"lr * sqrt(alpha) would be {format_lr(e2)}, were it {2 * lora.r}, {format_lr(e2 * sqrt(2))}, where the best is "
        "1.7e-3. Set alpha to 32, or the learning rate to 1e-4.",
        ("train.learning_rate", "lora.r"),
        (Change("train.learning_rate", 1e-4),),
    )


RATE_LOW_RULES = (rate_of_full_tuning, travel_too_short, rate_high_at_large_rank)
