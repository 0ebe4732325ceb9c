"""From a cause to an ordered list of changes, with values computed from the facts and from the log.

What can be proven comes before what is likely: data and pipeline first, then the rate, then the budget, capacity last.
One change is made per rerun, since two at once cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, isfinite

from lora_advise.curve import interpolate, median
from lora_advise.prescribe import Case, Proposal, lower_rate, raise_rate, setting, work
from lora_advise.prescribe_repairs import CORPUS, duplicates, frozen, labels, normalisation, numerics, restart
from lora_advise.signal_budget import gain
from lora_advise.signal_eval import eval_rise
from lora_advise.signal_stability import excursion


def instability(case: Case) -> list[Proposal]:
    """Divergence, spikes, swings: the rate, its warmup, clipping, then noise."""
    climb = excursion(case.curves)
    worked = None
    if climb is not None and case.finding is not None and case.finding.rule == "learning-rate-too-high":
        rate = case.curves.shape.learning_rate[climb.start]
        worked = rate if isfinite(rate) and climb.size > 0.4 else None
    found = [lower_rate(case, worked)]
    warmup = max(20, round(0.05 * case.steps))
    train = case.facts.train
    if case.steps >= 100 and (train is None or train.warmup_steps < warmup):
        found.append(
            setting(case, "train.warmup_steps", warmup, "Five percent of the steps, at least 20.", ("convention",))
        )
    norms = sorted(v for v in case.curves.raw.grad_norm if isfinite(v) and v > 0)
    if len(norms) >= 20:
        limit = float(f"{norms[int(0.9 * len(norms))]:.2g}")
        if train is None or train.max_grad_norm is None or limit < train.max_grad_norm:
            because = f"Nine in ten gradient norms of this run stay below {limit:g}; what is above is the outliers."
            found.append(setting(case, "train.max_grad_norm", limit, because, ("convention",)))
    if train is not None:
        doubled = 2 * train.gradient_accumulation_steps
        found.append(
            setting(
                case,
                "train.gradient_accumulation_steps",
                doubled,
                "Twice the batch halves the variance of the gradient.",
                ("shallue-2018",),
            )
        )
    if case.finding is not None and case.finding.rule == "loss-spikes":
        found.append(
            work(
                f"Look at the rows of the batch at step {case.finding.step}; remove them if spikes follow them.",
                "A spike that comes with the same rows is the data's.",
                CORPUS,
            )
        )
    return found


def kernel(case: Case) -> list[Proposal]:
    """Exploding gradients beside a sound loss: software before rates."""
    return [
        work(
            "Update transformers, the attention kernel and bitsandbytes, then rerun 20 steps.",
            "The loss is sound while the gradients explode: the backward pass is at fault (a scaling bug in one "
            "attention kernel did just that).",
            ("transformers-45676", "diagnosis-corpus"),
        ),
        *instability(case),
    ]


def overfit(case: Case) -> list[Proposal]:
    """Stop at the minimum of the evaluation loss; only then regularise."""
    found: list[Proposal] = []
    rise = eval_rise(case.curves)
    train = case.facts.train
    if rise is not None:
        found.append(
            work(
                f"Use the checkpoint nearest to step {rise.step} of this run.",
                f"Its evaluation loss is {rise.lowest:.4g}, the last one {rise.last:.4g}.",
                CORPUS,
            )
        )
        if train is None or not train.load_best_model_at_end:
            because = (
                "The run then ends with the checkpoint of the lowest evaluation loss; save_steps must equal eval_steps."
            )
            found.append(setting(case, "train.load_best_model_at_end", True, because, ("transformers-code",)))
        found += _stop_at(case, rise.step)
    else:
        found += log_more(case)
        if case.epochs is not None and case.epochs > 1:
            half = float(max(1, round(case.epochs / 2)))
            found.append(
                setting(
                    case, "train.num_train_epochs", half, "Half the passes over the same rows.", CORPUS, case.epochs
                )
            )
    if case.facts.lora is not None and case.facts.lora.lora_dropout < 0.05:
        found.append(
            setting(case, "lora.lora_dropout", 0.05, "A little noise on the adapter's input.", ("convention",))
        )
    found.append(
        work(
            "Add or deduplicate data, or mix in 10 to 25 % of general data.",
            "More distinct rows move the turning point; dropout and weight decay hardly do.",
            ("convention",),
        )
    )
    if case.facts.lora is not None and case.facts.lora.r > 8:
        because = "Fewer parameters; the last thing to try, since rank hardly moves the turning point."
        found.append(setting(case, "lora.r", case.facts.lora.r // 2, because, ("convention",)))
    return found


def _stop_at(case: Case, step: int) -> list[Proposal]:
    """Shorten the run to its turning point: fewer epochs from one epoch on, else fewer steps and half the rate."""
    turn = interpolate(step, case.curves.raw.step, case.curves.raw.epoch)
    now = case.epochs
    if isfinite(turn) and turn >= 0.95 and now is not None and round(turn) < now:
        because = f"The evaluation loss turned at epoch {turn:.1f}."
        return [setting(case, "train.num_train_epochs", float(round(turn)), because, CORPUS, now)]
    because = f"The evaluation loss turned at step {step}" + (f", at {turn:.1f} epochs." if isfinite(turn) else ".")
    found = [setting(case, "train.max_steps", step, because, CORPUS, case.curves.last_step)]
    if case.rate is not None and isfinite(turn) and turn < 1:
        because = "A turn within the first epoch is mostly the rate's, not repetition's."
        found.append(setting(case, "train.learning_rate", case.rate / 2, because, CORPUS, case.rate))
    return found


def longer(case: Case) -> list[Proposal]:
    """It still paid to go on: more steps with the gain that the slope promises, else a higher rate."""
    promised = gain(case.curves)
    losses = case.curves.evaluations[1]
    last = losses[-1] if losses else exp(median(case.curves.smoothed[-3:]))
    because = "The loss still fell when the run ended."
    if promised is not None and promised.estimate > 0:
        which = "evaluation" if losses else "training"
        because = (
            f"Twice the budget promises {promised.estimate:.0%} ({promised.low:.0%} to {promised.high:.0%}) less: "
            f"the {which} loss "
            f"{last:.3g} would go to about {last * (1 - promised.estimate):.3g}."
        )
    planned = case.facts.train.max_steps if case.facts.train is not None else None
    found: list[Proposal] = []
    if planned:
        found.append(setting(case, "train.max_steps", 2 * planned, because, CORPUS))
    elif case.epochs is None:
        found.append(setting(case, "train.max_steps", 2 * case.steps, because, CORPUS, case.steps))
    elif case.epochs < 3:
        found.append(setting(case, "train.num_train_epochs", 2 * case.epochs, because, CORPUS, case.epochs))
    higher = raise_rate(case, 2.0)
    if higher is not None:
        found.append(higher)
    if planned is None and case.epochs is not None and case.epochs >= 3:
        found.append(setting(case, "train.num_train_epochs", 2 * case.epochs, because, CORPUS, case.epochs))
    return found


def stronger(case: Case) -> list[Proposal]:
    """The loss hardly moved: the rate, the scale, the targets, then the rank."""
    found: list[Proposal] = []
    higher = raise_rate(case)
    if higher is not None:
        found.append(higher)
    lora = case.facts.lora
    if lora is not None and lora.scale < 0.5:
        found.append(
            setting(case, "lora.lora_alpha", float(lora.r), "A scale below 1/2 shrinks every step.", ("e2-metric",))
        )
    if lora is None or lora.target_modules != "all-linear":
        because = "Adapters on every linear layer are what matches full fine-tuning; attention alone is not enough."
        found.append(setting(case, "lora.target_modules", "all-linear", because, ("dettmers-2023", "lwr-2025")))
    if lora is not None:
        found.append(
            setting(case, "lora.r", 2 * lora.r, "More capacity, when rate and targets are right.", ("lwr-2025",))
        )
    return found


def few(case: Case) -> list[Proposal]:
    """Too few optimizer steps: a smaller batch or more passes, then the rate."""
    found: list[Proposal] = []
    train = case.facts.train
    if train is not None and train.gradient_accumulation_steps > 1:
        because = f"Twice the updates from the same rows; this run had {case.curves.last_step}."
        found.append(
            setting(
                case,
                "train.gradient_accumulation_steps",
                train.gradient_accumulation_steps // 2,
                because,
                ("tinker-docs",),
            )
        )
    return [*found, *longer(case)]


def log_more(case: Case) -> list[Proposal]:
    """Log and evaluate often enough that the next run can be judged, or train long enough that it can be."""
    found = []
    if case.curves.count < min(25, case.steps or 25):
        every = max(1, case.steps // 50)
        because = f"Fifty entries over {case.steps} steps."
        found.append(setting(case, "train.logging_steps", every, because, CORPUS, case.run.logging_steps))
    if len(case.curves.evaluations[1]) < min(6, case.steps or 6):
        because = "Eight evaluations on at least 200 held-out rows show a turn and its noise."
        found.append(setting(case, "train.eval_steps", max(1, case.steps // 8), because, CORPUS))
    if 0 < case.steps < 25:
        because = f"Nothing can be told from {case.steps} steps, however often they are logged."
        found.append(work("Train for at least 25 optimizer steps.", because, CORPUS))
    return [change for change in found if change.field is None or change.value != change.current]


PRESCRIPTIONS: dict[str, Callable[[Case], list[Proposal]]] = {
    "suspicious: evaluation is NaN": labels,
    "suspicious: trivial labels": labels,
    "suspicious: loss normalisation": normalisation,
    "suspicious: no weight changes": frozen,
    "suspicious: duplicated rows": duplicates,
    "numerics": numerics,
    "divergence": instability,
    "loss_spikes": instability,
    "gradient_explosion": kernel,
    "eval_oscillation": instability,
    "lr_too_high": instability,
    "lr_restart": restart,
    "eval_rise": overfit,
    "eval_rise: mild": overfit,
    "gap": overfit,
    "memorised: not evaluated": log_more,
    "stopped_early": longer,
    "few_updates": few,
    "hardly_moves": stronger,
    "too_short": log_more,
    "too_few_points": log_more,
}
"""What to do for each cause of a diagnosis; a cause without an entry needs no change."""
