"""How the data are fed: length, packing and which tokens carry loss."""

from __future__ import annotations

from math import ceil

from lora_advise.draft import Draft


def decide_data(draft: Draft) -> None:
    """Choose max_length, packing and loss masking."""
    decide_length(draft)
    decide_packing(draft)
    decide_masking(draft)
    decide_neftune(draft)


def decide_length(draft: Draft) -> None:
    """The 99th percentile of the data, rounded up to 64, inside the model's context."""
    data, model = draft.data, draft.model
    if data.p99_tokens:
        want = data.p99_tokens * (1.1 if data.tokens_estimated else 1.0)
        because = f"99 % of the examples have at most {data.p99_tokens:,} tokens" + (
            " by estimate, plus a tenth." if data.tokens_estimated else "."
        )
        longer = f"; the longest has {data.max_tokens:,}" if data.max_tokens and data.max_tokens > want else ""
        because = because.rstrip(".") + longer + "."
    else:
        want = 2.0 * data.tokens_per_example
        because = (
            f"Twice the mean of {data.tokens_per_example:,} tokens, as no length histogram is known (pass --data)."
        )
    length = max(128, 64 * ceil(want / 64))
    if draft.task.family == "pretraining":
        length = max(length, 2048)
        because = "Documents are packed into blocks of at least 2,048 tokens."
    if draft.task.family == "rl":
        length = max(128, 64 * ceil((data.tokens_per_example - data.completion_tokens) * 2 / 64))
        because = "Twice the mean prompt; completions have their own limit."
    limit = model.max_position_embeddings
    if limit and draft.task.family == "rl":
        limit //= 2  # the other half is for the completion
    if limit and length > limit:
        draft.note("warning", f"The data ask for {length:,} tokens, {model.name} takes {limit:,}{' beside a completion' if draft.task.family == 'rl' else ''}: longer {'prompts' if draft.task.family == 'rl' else 'examples'} are cut.",
                   "arithmetic")  # fmt: skip
        length, because = limit, because + f" Cut to the model's context of {limit:,}."
    draft.decide(
        "train.max_length", "data", "Max length", length, because=because, sources=("arithmetic",), confidence="derived",
        flips="A tokenizer count of your own data; memory, when the longest batch does not fit.",
    )  # fmt: skip


def decide_packing(draft: Draft) -> None:
    """Pack documents; leave examples apart unless an attention kernel keeps them from seeing each other."""
    packing = draft.task.family == "pretraining"
    draft.decide(
        "train.packing", "data", "Packing", packing,
        because="Plain documents are concatenated into full blocks."
        if packing
        else "Examples stay apart: without a variable-length attention kernel packed neighbours see each other, and packing "
        "changes the number of steps.",
        sources=("trl-code", "transformers-code"), confidence="derived",
        flips="flash-attn installed and examples much shorter than max_length: packing saves the padding.",
    )  # fmt: skip


def decide_masking(draft: Draft) -> None:
    """Loss on the answer, on every assistant turn, or on everything."""
    task = draft.task
    value = "all" if task.family in ("pretraining", "reward") else task.loss_on
    if draft.data.format == "text" and task.family == "sft":
        value = "all"
    elif draft.data.format in ("messages", "sharegpt") and value == "completion" and task.family == "sft":
        value = "assistant"
    elif draft.data.format in ("prompt-completion", "alpaca") and value == "assistant":
        value = "completion"
    if task.trainer in ("classification", "reward"):
        scored = task.trainer == "reward"
        draft.decide(
            "train.loss_on", "data", "Loss on", value, shown="the preferred answer's score" if scored else "the class",
            because="One score per answer; no token is predicted." if scored else "One label per text; no token is predicted.",
            sources=("trl-code" if scored else "transformers-code",), confidence="derived", flips="Nothing: it is what the head computes.",
        )  # fmt: skip
        return
    why = {
        "completion": "Loss on the answer only: the prompt is given at inference, and learning it gained nothing "
        "(38.6 against 37.5 MMLU).",
        "assistant": "Loss on every assistant turn, none on the user's.",
        "all": "Plain text carries loss on every token.",
    }
    draft.decide(
        "train.loss_on", "data", "Loss on", value,
        shown={"completion": "completion only", "assistant": "assistant turns", "all": "all tokens"}[value],
        because=why[value], sources=("dettmers-2023", "unsloth-guide", "sft-mask"), confidence="measured",
        flips="Very short answers after long prompts that are themselves worth learning.",
    )  # fmt: skip


def decide_neftune(draft: Draft) -> None:
    """Noise on embeddings helps chat style and nothing else."""
    chatty = draft.task.name in ("chat", "roleplay") and draft.data.examples < 50_000
    draft.decide(
        "train.neftune_noise_alpha", "data", "NEFTune noise", None, shown="off", sweep=(None, 5.0) if chatty else None,
        because="It lifted AlpacaEval from 29.8 to 64.7 % on Alpaca, partly by longer answers, and leaderboard tasks not at "
        "all" + ("; worth one run for style." if chatty else "."),
        sources=("neftune-2023",), confidence="measured", flips="A chat or style task judged by preference: alpha 5.",
    )  # fmt: skip
