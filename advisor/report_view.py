"""What every report shows, in the order in which it is shown: one view of the advice that all formats render."""

from __future__ import annotations

from collections.abc import Iterable

from lora_advise.plan import Advice, Decision, MemoryVerdict
from lora_advise.report_memory import LEGEND, memory_rows, part_rows, way_rows
from lora_advise.report_rows import (
    FindingRow,
    GuideRow,
    HeadRow,
    NoteRow,
    SettingRow,
    SourceRow,
    View,
    WhyGroup,
    WhyRow,
)
from lora_advise.report_time import time_detail, time_line
from lora_advise.report_words import amount, capital, counted, plain, sweep_words, worded

GLANCE = (
    "method", "train.learning_rate", "train.embedding_learning_rate", "train.lr_scheduler_type", "train.warmup_steps",
    "lora.r", "lora.lora_alpha", "lora.target_modules", "lora.target_parameters", "lora.modules_to_save",
    "lora.lora_dropout", "effective_batch", "train.num_train_epochs", "train.max_length", "train.packing",
    "train.loss_on", "train.beta", "train.num_generations", "train.max_completion_length", "train.optim",
    "train.weight_decay", "train.dtype", "train.activation_checkpointing", "train.eval_share", "train.eval_steps",
)  # fmt: skip
"""The settings that everybody asks for first, in reading order; whatever the user chose himself joins them."""

TOPICS = {
    "purpose": "Is fine-tuning the right tool?",
    "method": "Method",
    "adapter": "Adapter",
    "rate": "Learning rate and optimizer",
    "batch": "Batch and length of the run",
    "data": "Data",
    "precision": "Precision and memory",
    "evaluation": "Evaluation",
    "next": "What to try next",
}
CONFIDENCE = {
    "measured": "measured: a table or paper shows it",
    "derived": "derived: follows by arithmetic",
    "convention": "convention: common practice",
}
_KIND_ORDER = {"warning": 0, "assumption": 1, "advice": 2}
_ORIGINS = {"set": "given", "probed": "read", "assumed": "assumed", "inherited": "inherited", "decided": ""}


def view_of(advice: Advice) -> View:
    """Arrange the advice for reading. Pure: the same advice gives the same view."""
    facts = advice.facts
    first = advice.memory[0] if advice.memory else None
    name = facts.model.name if facts.model else "this model"
    return View(
        title=plain(f"{_method_word(facts.method)} settings for {name}"),
        tool=plain(f"lora-advise {advice.tool_version}"),
        headline=_headline(advice),
        notes=tuple(
            NoteRow(note.kind, plain(note.text), note.sources)
            for note in sorted(advice.notes, key=lambda note: _KIND_ORDER[note.kind])
        ),
        settings=_settings(advice),
        steps=_steps(advice),
        steps_detail=_steps_detail(advice),
        time=time_line(advice.time, advice.no_time),
        time_detail=time_detail(advice.time),
        memory=memory_rows(advice.memory),
        parts_title=_parts_title(first) if first else "",
        parts=part_rows(first) if first else (),
        ways_out=way_rows(first) if first else (),
        memory_legend=LEGEND,
        memory_sources=first.estimate.sources if first else (),
        findings=_findings(advice),
        linter=_linter(advice),
        why=_why(advice),
        guides=_guides(advice),
        next_steps=tuple(plain(step) for step in advice.next_steps),
        related=tuple(plain(model) for model in advice.related_models),
        sources=cited(advice),
        command=plain(advice.command),
    )


def _parts_title(verdict: MemoryVerdict) -> str:
    return plain(f"{_method_word(verdict.method)} on {verdict.hardware}, peak in {verdict.estimate.peak_stage}")


def _method_word(method: str) -> str:
    return {"lora": "LoRA", "qlora": "QLoRA", "full": "Full fine-tuning"}[method]


def _origin(advice: Advice, *fields: str) -> str:
    for field in fields:
        origin = advice.plan.origins.get(field)
        if origin is not None:
            return _ORIGINS[origin.value]
    return ""


def _headline(advice: Advice) -> tuple[HeadRow, ...]:
    facts = advice.facts
    rows: list[HeadRow] = []
    if model := facts.model:
        size = f"{amount(model.total_params)} parameters"
        if model.active_params != model.total_params:
            size += f" ({amount(model.active_params)} active)"
        asked = f", asked as {model.asked}" if model.asked and model.asked != model.name else ""
        rows.append(
            HeadRow(
                "Model", plain(f"{model.name}: {size}, {model.kind}{asked}"), _origin(advice, "model.name", "model")
            )
        )
    if task := facts.task:
        rows.append(
            HeadRow("Task", plain(f"{_task_label(task.name)} ({task.trainer})"), _origin(advice, "task.name", "task"))
        )
    if data := facts.data:
        path = f"{data.path}: " if data.path else ""
        words = f"{path}{counted(data.examples, 'example')} of {counted(data.tokens_per_example, 'token')}"
        if _answers(advice):
            words += f", {data.completion_tokens:,} in the completion"
        rows.append(HeadRow("Data", plain(words), _origin(advice, "data.examples", "data")))
    if hardware := facts.hardware:
        rows.append(
            HeadRow(
                "Hardware",
                plain(f"{hardware.count} x {hardware.name}, {hardware.memory_gib:.4g} GiB each"),
                _origin(advice, "hardware.name", "hardware"),
            )
        )
    rows.extend(
        HeadRow("Right tool?", plain(f"{capital(decision.shown)}. {decision.because}"))
        for decision in advice.decisions
        if decision.topic == "purpose"
    )
    return tuple(rows)


def _answers(advice: Advice) -> bool:
    """Whether the task is to write text, so that a part of each example is a completion."""
    return advice.facts.task is None or advice.facts.task.trainer not in ("classification", "reward")


def _task_label(name: str) -> str:
    from lora_advise.tasks import TASKS

    profile = TASKS.get(name)
    return profile.label if profile else name


def _settings(advice: Advice) -> tuple[SettingRow, ...]:
    order = {field: place for place, field in enumerate(GLANCE)}
    chosen = [d for d in advice.decisions if d.field in order or (d.overridden and d.topic not in ("purpose", "next"))]
    chosen.sort(key=lambda d: order.get(d.field, len(order)))
    return tuple(
        SettingRow(
            d.field,
            plain(d.label),
            _shown(advice, d),
            sweep_words(d.field, d.sweep),
            d.overridden,
            worded(d.advised) if d.overridden else "",
        )
        for d in chosen
        if d.overridden
        or d.value not in (None, ())
        or d.field not in ("lora.target_parameters", "lora.modules_to_save")
    )


def _shown(advice: Advice, decision: Decision) -> str:
    if decision.field != "effective_batch" or "=" in decision.shown:
        return plain(decision.shown)
    steps = advice.steps
    devices = f" x {steps.devices} devices" if steps.devices > 1 else ""
    return (
        f"{steps.effective_batch:,} = micro-batch {steps.micro_batch:,} x accumulation {steps.accumulation:,}{devices}"
    )


def _steps(advice: Advice) -> str:
    steps = advice.steps
    per_epoch = -(-steps.rows // max(1, steps.effective_batch))
    group = advice.facts.group_size
    rows = counted(steps.rows, "row") if group == 1 else f"{counted(steps.examples, 'prompt')} x {group} completions"
    product = f"{rows} / {steps.effective_batch:,} per step x {counted(steps.epochs, 'epoch')}"
    if abs(per_epoch * steps.epochs - steps.steps) <= 1:
        return f"{product} = {counted(steps.steps, 'optimizer step')}"
    return f"{counted(steps.steps, 'optimizer step')}, not the {product} of whole epochs"


def _steps_detail(advice: Advice) -> str:
    steps = advice.steps
    watched = f"evaluation every {counted(steps.eval_every, 'step')}" if steps.eval_every else "no evaluation"
    watched = watched.replace("every 1 step", "after every step")
    carrying = f", {amount(steps.supervised_tokens)} with loss in one pass" if _answers(advice) else ""
    return (
        f"{counted(steps.warmup_steps, 'warmup step')}, {watched}; {amount(steps.tokens)} tokens seen in all{carrying}"
    )


def _why(advice: Advice) -> tuple[WhyGroup, ...]:
    groups = []
    for topic, title in TOPICS.items():
        rows = tuple(_why_row(advice, d) for d in advice.decisions if d.topic == topic)
        if rows:
            groups.append(WhyGroup(title, rows))
    return tuple(groups)


def _why_row(advice: Advice, decision: Decision) -> WhyRow:
    yours = ""
    if decision.overridden:
        reason = (
            f" Your reason: {decision.override_reason}." if decision.override_reason else " No reason was recorded."
        )
        yours = f"Your choice; we would take {worded(decision.advised)}.{reason}"
    return WhyRow(
        plain(decision.label), _shown(advice, decision), plain(decision.because), decision.sources, decision.confidence,
        plain(decision.flips), sweep_words(decision.field, decision.sweep), plain(yours),
    )  # fmt: skip


def _findings(advice: Advice) -> tuple[FindingRow, ...]:
    return tuple(
        FindingRow(f.severity, plain(f.rule), plain(f.code), plain(f.message), plain(f.fix or ""), f.sources)
        for f in advice.findings
    )


def _linter(advice: Advice) -> str:
    count = len(advice.findings)
    said = (
        "finds nothing wrong with this plan"
        if not count
        else f"has {count} finding{'s' if count > 1 else ''} on this plan"
    )
    skipped = len(advice.skipped_rules)
    rest = f"; {skipped} rule{'s' if skipped > 1 else ''} skipped for want of facts" if skipped else ""
    return f"The linter {said}{rest}."


def _guides(advice: Advice) -> tuple[GuideRow, ...]:
    return tuple(
        GuideRow(plain(g.guide), plain(g.topic), plain(g.says), plain(g.we_say), g.verdict, plain(g.reason), g.sources)
        for g in advice.guides
    )


def cited(advice: Advice) -> tuple[SourceRow, ...]:
    """Every source that the advice cites, once, in the order of first mention."""
    from lora_advise.sources import registry

    known = registry()
    lists: list[Iterable[str]] = [note.sources for note in advice.notes]
    lists += [verdict.estimate.sources for verdict in advice.memory[:1]]
    lists += [advice.time.sources] if advice.time else []
    lists += [finding.sources for finding in advice.findings]
    lists += [decision.sources for decision in advice.decisions]
    lists += [guide.sources for guide in advice.guides]
    names = dict.fromkeys(name for sources in lists for name in sources)
    return tuple(
        SourceRow(name, plain(known[name].title), plain(known[name].where))
        if name in known
        else SourceRow(plain(name), plain(name), "")
        for name in names
    )
