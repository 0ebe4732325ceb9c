"""How the run is watched: held-out share, how often, which checkpoint is kept, when to stop."""

from __future__ import annotations

from math import ceil

from lora_advise.draft import Draft
from lora_advise.report_words import counted

FEWEST = 5
"""Examples below which holding one out would cost a fifth of the data or more, and show nothing."""


def decide_split_share(draft: Draft) -> None:
    """Hold out 5 %, between 50 and 500 examples, and never more than a fifth."""
    n, family = draft.data.examples, draft.task.family
    if draft.data.eval_path or family == "rl" or (n < FEWEST and "train.eval_share" not in draft.overrides):
        draft.values["train.eval_share"] = 0.0
        return
    share = round(min(0.2, max(0.05, 50 / n), max(500 / n, 0.001)), 3)
    because = "5 % of the examples, at least 50 and at most 500."
    if 50 / n > 0.2:
        because = f"A fifth: the usual 5 %, but at least 50, would leave too little of {n:,} examples to train on."
    draft.decide(
        "train.eval_share", "evaluation", "Held out", share, shown=f"{share:.1%} ({counted(ceil(n * share), 'example')})",
        because=because,
        sources=("baseten-2026", "diagnosis-corpus"), confidence="convention",
        flips="A held-out file of your own (--eval-data), split by document or author.",
    )  # fmt: skip


def decide_evaluation(draft: Draft, steps: int) -> None:
    """Eight evaluations over the run, the best checkpoint kept, patience of three."""
    online = draft.task.family == "rl"
    if online or (draft.values["train.eval_share"] == 0 and not draft.data.eval_path):
        because = "The reward curve is the evaluation of online RL; judge samples by hand."
        if not online:
            because = f"Nothing can be held out of {counted(draft.data.examples, 'example')}; judge samples by hand."
        draft.decide(
            "train.eval_strategy", "evaluation", "Evaluation", "no", because=because,
            sources=("convention",), confidence="convention", flips="A verifiable held-out set.",
        )  # fmt: skip
        draft.values.update({"train.save_steps": max(1, steps // 4), "train.logging_steps": max(1, steps // 50)})
        return
    every = max(1, ceil(steps / 8))
    draft.values["train.eval_strategy"] = "steps"
    every = int(
        draft.decide(
            "train.eval_steps", "evaluation", "Evaluate every", every, shown=counted(every, "step"),
            because=f"Eight looks at held-out loss in {counted(steps, 'step')}: enough to see it turn.",
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
