"""The card beside an adapter: what it is, how it was made, how to load it."""

from __future__ import annotations

from lora_advise.facts import Facts
from lora_advise.run_facts import Run
from lora_advise.runner.load_model import model_source

_CAUSAL = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({base!r})
model = PeftModel.from_pretrained(model, {folder!r})
tokenizer = AutoTokenizer.from_pretrained({folder!r})
"""
_CLASSES = """\
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained({base!r}, num_labels={labels})
model = PeftModel.from_pretrained(model, {folder!r})
tokenizer = AutoTokenizer.from_pretrained({folder!r})
"""


def card(facts: Facts, run: Run, folder: str, labels: int | None = None) -> str:
    """The card in markdown, for the run's folder and for the adapter's."""
    model = model_source(facts.model) if facts.model else "?"
    trainer = facts.task.trainer if facts.task else "sft"
    snippet = (_CLASSES if labels else _CAUSAL).format(base=model, folder=folder, labels=labels)
    lines = [
        "---",
        f"library_name: {'peft' if facts.lora else 'transformers'}",
        "tags: [lora-advise]",
        "---",
        f"# {_code(trainer)} of {_code(facts.model.name if facts.model else '?')}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _facts(facts, run)),
    ]
    if facts.lora:
        lines += ["", "## Use", "", "```python", snippet + "```"]
    if run.deviations:
        lines += ["", "## Where the run differs from the plan", "", *(f"- {_plain(line)}" for line in run.deviations)]
    return "\n".join(lines) + "\n"


def _facts(facts: Facts, run: Run) -> list[tuple[str, str]]:
    train, lora = facts.train, facts.lora
    losses = [entry.eval_loss for entry in run.log if entry.eval_loss is not None]
    rows: list[tuple[str, str]] = [("Method", facts.method)]
    if lora:
        rows.append(
            ("Adapter", f"r {lora.r}, alpha {lora.lora_alpha:g}, targets {_code(_targets(lora.target_modules))}")
        )
    if train:
        rows.append(
            ("Learning rate", f"{train.learning_rate:g}, {train.lr_scheduler_type}, {train.warmup_steps} warmup steps")
        )
        rows.append(("Effective batch", str(facts.effective_batch)))
        rows.append(("Seed", str(train.seed)))
    rows.append(("Steps", f"{run.steps_done} of {run.max_steps}, {run.outcome}"))
    if losses:
        rows.append(("Evaluation loss", f"{losses[0]:.4f} before, {losses[-1]:.4f} after"))
    if run.exact_match_before is not None and run.exact_match_after is not None:
        change = f"{run.exact_match_before:.0%} before, {run.exact_match_after:.0%} after"
        rows.append(("Exact matches", f"{change}, of {run.exact_match_rows} held-out rows"))
    rows.append(("Device", _plain(run.device or "?")))
    shown = (f"{k} {v}" for k, v in run.environment.items() if k in {"torch", "transformers", "peft", "trl"})
    rows.append(("Versions", ", ".join(shown)))
    return rows


def _targets(targets: tuple[str, ...] | str) -> str:
    return targets if isinstance(targets, str) else ", ".join(targets)


def _plain(text: str) -> str:
    """Text that cannot become markup or a second table row."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _code(text: str) -> str:
    return f"`{_plain(text)}`"
