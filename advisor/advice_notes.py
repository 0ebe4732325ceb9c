"""What must be read before the settings: what was assumed, and what the device makes of the plan."""

from __future__ import annotations

from lora_advise.draft import Draft
from lora_advise.facts import Facts, Origin
from lora_advise.plan import MemoryVerdict, Note, StepBudget
from lora_advise.report_words import counted

CPU_RATE = 1e12
"""Operations per second of a CPU in this warning: what a large server reaches in 32 bits, well above a laptop."""


def say_assumptions(draft: Draft, related: tuple[str, ...]) -> None:
    """Tell what was not given and what stands in for it."""
    model, data = draft.model, draft.data
    if model.asked and model.path is None:
        others = f" Others of that name: {', '.join(related[:4])}." if related else ""
        draft.note(
            "assumption", f"{model.asked} is taken as {model.name} ({model.billions:.3g}B).{others}", "hub-metadata"
        )
    assumed = [
        n
        for n in ("examples", "tokens_per_example", "completion_tokens")
        if draft.origins.get(f"data.{n}") is Origin.ASSUMED
        and (n != "completion_tokens" or draft.task.trainer not in ("classification", "reward"))
    ]
    if assumed:
        known = "tokens_per_example" in assumed
        words = {"examples": counted(data.examples, "example"), "tokens_per_example": f"{counted(data.tokens_per_example, 'token')} each",
                 "completion_tokens": f"{data.completion_tokens:,} of {'them' if known else 'the tokens of each example'} in the "
                                      "completion"}  # fmt: skip
        flags = ", ".join("--" + n.replace("_", "-") for n in assumed)
        draft.note(
            "assumption",
            f"Assumed data: {', '.join(words[n] for n in assumed)}. Give --data FILE or {flags}.",
            "convention",
        )
    if draft.origins["hardware"] is Origin.ASSUMED:
        draft.note("assumption", f"No GPU was named or found: settings are for {draft.hardware.count} x {draft.hardware.name}, "
                   "the smallest usual device that carries the run; the table shows the others. Give --gpu.", "memory-model")  # fmt: skip
    if draft.framework != "trl":
        draft.note("assumption", f"Memory is predicted for {draft.framework} as its source code reads; no run of it was measured.",
                   "framework-memory-code")  # fmt: skip
    if data.duplicates:
        draft.note(
            "warning",
            f"{data.duplicates:,} of {counted(data.examples, 'row')} {'is an' if data.duplicates == 1 else 'are'} exact "
            f"duplicate{'s' * (data.duplicates != 1)}: remove {'it' if data.duplicates == 1 else 'them'} first.",
            "diagnosis-corpus",
        )
    if data.empty:
        draft.note(
            "warning",
            f"{counted(data.empty, 'row')} ha{'s' if data.empty == 1 else 've'} an empty answer and teach{'es' * (data.empty == 1)} nothing.",
            "arithmetic",
        )


def room_notes(verdict: MemoryVerdict) -> tuple[Note, ...]:
    """What must be known before the settings when the plan does not fit its device, or only just."""
    if verdict.fit == "fits":
        return ()
    said = "A tight fit" if verdict.fit == "tight" else "Does not fit"
    ways = len(verdict.ways_out)
    out = f" The memory forecast names {ways} way{'s' * (ways != 1)} out." if ways else ""
    return (Note(kind="warning", text=f"{said}: {verdict.needs}.{out}", sources=verdict.estimate.sources),)


def cpu_notes(facts: Facts, steps: StepBudget) -> tuple[Note, ...]:
    """That a run on a CPU takes days, where it would: 4 operations per parameter and token, more with checkpointing."""
    if facts.hardware is None or facts.hardware.kind != "cpu" or facts.model is None or facts.train is None:
        return ()
    passes = 6 if facts.train.activation_checkpointing or facts.lora is None else 4
    days = passes * facts.model.active_params * steps.tokens / CPU_RATE / 86_400
    if days < 1:
        return ()
    text = (
        f"Not practical on a CPU: {counted(steps.steps, 'step')} of {facts.model.name} are {passes} operations for each of "
        f"{facts.model.active_params / 1e9:.3g} B parameters and {steps.tokens / 1e6:.3g} M tokens, about {days:,.0f} days at 1 TFLOP/s. "
        "Rent a GPU, or take a smaller model."
    )
    return (Note(kind="warning", text=text, sources=("arithmetic",)),)
