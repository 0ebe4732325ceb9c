"""Repairs of data, pipeline and numerics: what comes before any rate or budget is touched."""

from __future__ import annotations

from lora_advise.prescribe import Case, Proposal, lower_rate, setting, work

CORPUS = ("diagnosis-corpus",)


def labels(case: Case) -> list[Proposal]:
    """The supervised tokens are wrong or missing: look at them before anything is tuned."""
    found = [
        work(
            "Print three rows as tokens with their labels, and see which tokens carry loss.",
            "A wrong template, padding in the labels or an answer that was cut off is visible at once.",
            CORPUS,
        ),
        work(
            "Count the rows without a supervised token after truncation; drop them or raise train.max_length.",
            "The mean over no token is NaN, and such rows also dilute the loss of the others.",
            CORPUS,
        ),
    ]
    if case.facts.data is not None and case.facts.train is not None:
        longest, limit = case.facts.data.p99_tokens, case.facts.train.max_length
        if longest and longest > limit:
            because = f"One row in a hundred is longer than {longest} tokens, so its answer may be cut off entirely."
            found.insert(0, setting(case, "train.max_length", longest, because, ("arithmetic",)))
    return found


def normalisation(case: Case) -> list[Proposal]:
    """The loss is divided by the wrong number of tokens."""
    del case
    return [
        work(
            "Update trl and transformers, and rerun 20 steps.",
            "Losses were divided by the wrong token count under gradient accumulation and several devices in "
            "earlier versions.",
            ("transformers-code", "trl-code"),
        ),
        work(
            "Print three rows as tokens with their labels; compare the loss with that of one forward pass by hand.",
            "The bound error <= loss / ln 2 is exact, so the log cannot be right.",
            ("arithmetic",),
        ),
    ]


def frozen(case: Case) -> list[Proposal]:
    """No weight changes."""
    found = []
    train = case.facts.train
    if train is None or train.activation_checkpointing:
        found.append(
            work(
                "Call model.enable_input_require_grads(), or checkpoint with use_reentrant=False.",
                "Reentrant checkpointing passes no gradient to adapters when the frozen embeddings need none.",
                ("transformers-code", "peft-code"),
            )
        )
    found += [
        work(
            "Give the trainer a peft_config or a PeftModel, not both.",
            "Wrapping twice can leave the optimizer with parameters of the wrong adapter.",
            ("trl-code", "trl-3926"),
        ),
        work(
            "Print the trainable parameters and those of the optimizer's groups; both must hold every lora_B.",
            "A parameter that the optimizer does not hold never moves.",
            ("peft-code",),
        ),
        work(
            "Check the scheduler: no warmup longer than the run, no resume past its end.",
            "A rate of 0 changes nothing.",
            ("transformers-code",),
        ),
    ]
    return found


def numerics(case: Case) -> list[Proposal]:
    """NaN or infinite losses: precision, kernel and rows before the rate."""
    found: list[Proposal] = []
    train, quant, hardware = case.facts.train, case.facts.quant, case.facts.hardware
    if train is not None and train.dtype == "float16":
        if hardware is not None and hardware.bf16 is False:
            found.append(
                setting(
                    case, "train.dtype", "float32", "This device has no bfloat16, and fp16 overflows at 65,504.", CORPUS
                )
            )
        else:
            found.append(
                setting(
                    case, "train.dtype", "bfloat16", "bfloat16 has the range of fp32; fp16 overflows at 65,504.", CORPUS
                )
            )
    if quant is not None and quant.load_in_4bit and quant.bnb_4bit_compute_dtype == "float16":
        because = "Activations of many models overflow fp16 inside the 4-bit matrix products."
        found.append(
            setting(case, "quant.bnb_4bit_compute_dtype", "bfloat16", because, ("bnb-code", "diagnosis-corpus"))
        )
    if train is None or train.attn_implementation != "eager":
        because = "Masked rows and padding give NaN in some attention kernels; the plain one shows whether it is that."
        found.append(setting(case, "train.attn_implementation", "eager", because, CORPUS))
    return [*found, labels(case)[-1], lower_rate(case)]


def duplicates(case: Case) -> list[Proposal]:
    """Rows that come more than once."""
    del case
    return [
        work(
            "Remove duplicate and overlapping rows, split by document, shuffle, rerun.",
            "Within one epoch only repeated text can be recognised.",
            CORPUS,
        )
    ]


def restart(case: Case) -> list[Proposal]:
    """The schedule was recomputed in mid-run."""
    found = [
        work(
            "Resume with the num_train_epochs and max_steps of the first start; for more epochs start a new run "
            "from the adapter, "
            "with warmup.",
            "The schedule is computed from the planned steps, so other plans give another rate at the same step.",
            ("transformers-code",),
        ),
    ]
    if case.facts.train is None or not case.facts.train.lr_scheduler_type.startswith("constant"):
        because = "A constant rate does not depend on how many steps are planned."
        found.append(setting(case, "train.lr_scheduler_type", "constant_with_warmup", because, ("transformers-code",)))
    return found
