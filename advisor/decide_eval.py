"""How the run is watched: held-out share, how often, which checkpoint is kept, when to stop."""

from __future__ import annotations

from math import ceil

from lora_advise.draft import Draft


def decide_split_share(draft: Draft) -> None:
    """Hold out 5 %, between 50 and 500 examples, and never more than a fifth."""
    n, family = draft.data.examples, draft.task.family
    if draft.data.eval_path or family == "rl":
        draft.values["train.eval_share"] = 0.0
        return
    share = round(min(0.2, max(0.05, 50 / n), max(500 / n, 0.001)), 3)
    draft.decide(
        "train.eval_share", "evaluation", "Held out", share, shown=f"{share:.1%} ({ceil(n * share):,} examples)",
        because="5 % of the examples, at least 50 and at most 500 where that is less than a fifth.",
        sources=("baseten-2026", "diagnosis-corpus"), confidence="convention",
        flips="A held-out file of your own (--eval-data), split by document or author.",
    )  # fmt: skip


def decide_evaluation(draft: Draft, steps: int) -> None:
    """Eight evaluations over the run, the best checkpoint kept, patience of three."""
    if draft.task.family == "rl":
        draft.decide(
            "train.eval_strategy", "evaluation", "Evaluation", "no",
            because="The reward curve is the evaluation of online RL; judge samples by hand.",
            sources=("convention",), confidence="convention", flips="A verifiable held-out set.",
        )  # fmt: skip
        draft.values.update({"train.save_steps": max(1, steps // 4), "train.logging_steps": max(1, steps // 50)})
        return
    every = max(1, ceil(steps / 8))
    draft.values["train.eval_strategy"] = "steps"
    every = int(
        draft.decide(
            "train.eval_steps", "evaluation", "Evaluate every", every, shown=f"{every:,} steps",
            because=f"Eight looks at held-out loss in {steps:,} steps: enough to see it turn.",
            sources=("diagnosis-corpus", "baseten-2026"), confidence="convention", flips="Evaluation that takes longer than training.",
        )
    )  # fmt: skip
    best = draft.decide(
        "train.load_best_model_at_end", "evaluation", "Keep the best", True,
        because="Held-out loss has its minimum before the end in most runs of several passes.",
        sources=("baseten-2026", "raschka-2023"), confidence="measured",
        flips="A task metric that goes on improving after the loss has turned: choose by that metric.",
    )  # fmt: skip
    draft.values.update(
        {
            "train.save_steps": every,
            "train.metric_for_best_model": "eval_loss" if best else None,
            "train.logging_steps": max(1, min(10, ceil(steps / 50))),
            # What fits in training fits without gradients.
            "train.per_device_eval_batch_size": draft.values["train.per_device_train_batch_size"],
        }
    )
    draft.decide(
        "train.early_stopping_patience", "evaluation", "Early stopping", 3 if best else None,
        shown="after 3 evaluations without gain" if best else "off",
        because="Stops an overfitting run after three evaluations without improvement.", sources=("baseten-2026",),
        confidence="convention", flips="Noisy held-out loss on fewer than 50 examples: more patience.",
    )  # fmt: skip
