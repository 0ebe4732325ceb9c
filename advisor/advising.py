"""From a question to the full answer: resolve, recommend, judge memory, lint, compare with the guides."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from typing import Any

from lora_advise import __version__
from lora_advise.advice_notes import cpu_notes, room_notes, say_assumptions
from lora_advise.calibration import calibration_notes
from lora_advise.draft import Draft
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import DataFacts, Facts, HardwareFacts, ModelFacts, Origin
from lora_advise.overrides import SHORT, check_choices, collect
from lora_advise.plan import Advice, FindingView, MemoryVerdict, Plan
from lora_advise.request import Request
from lora_advise.tasks import TaskProfile, resolve_task

FRAMEWORKS = ("trl", "axolotl", "llamafactory", "unsloth", "ms-swift", "torchtune")
"""Trainers that people carry a plan to."""


def advise(  # noqa: PLR0913 - the flags of the command line
    model: str,
    task: str,
    *,
    data: str | None = None,
    eval_data: str | None = None,
    examples: int | None = None,
    tokens_per_example: int | None = None,
    completion_tokens: int | None = None,
    gpu: str | None = None,
    gpus: str | int | None = None,
    framework: str | None = None,
    profile: str = "balanced",
    because: str | None = None,
    compare_guides: bool = False,
    price: float | None = None,
    **overrides: Any,
) -> Advice:
    """Advise on one fine-tuning run; keywords beyond the named ones are overrides (``r=64, lr=1e-4``).

    Lengths are tokens, ``examples`` rows, ``price`` is for a GPU and hour. Raises LoraAdviseError for what cannot be judged.
    """
    from lora_advise.checked import FactError, checked
    from lora_advise.throughput import check_price

    asked = {
        "model": model, "task": task, "data": data, "eval_data": eval_data, "examples": examples,
        "tokens_per_example": tokens_per_example, "completion_tokens": completion_tokens, "gpu": gpu,
        "gpus": None if gpus is None else str(gpus), "framework": framework, "profile": profile, "because": because,
        "compare_guides": compare_guides, "price": check_price(price), "overrides": collect(overrides, flag=str),
    }  # fmt: skip
    try:
        request = checked(Request, asked)
    except FactError as error:
        raise LoraAdviseError(f"advise: {error}") from None
    return answer(request)


def answer(request: Request) -> Advice:
    """The full answer to one request. Raises LoraAdviseError for anything that cannot be judged."""
    from lora_advise.recommend import recommend
    from lora_advise.throughput import forecast

    draft, related, known = prepare(request)
    plan, steps = recommend(draft)
    findings, skipped = opinion(plan)
    memory = memory_table(plan.facts, known)
    time = forecast(plan.facts, request.price)
    return Advice(
        tool_version=__version__, command=command_of(request), plan=plan, decisions=tuple(draft.decisions), steps=steps,
        memory=memory, notes=(*draft.notes, *room_notes(memory[0]), *cpu_notes(plan.facts, steps), *calibration_notes(plan.facts.hardware)), guides=guides_beside(plan, draft),
        findings=findings, skipped_rules=skipped, related_models=related, next_steps=next_steps(request, plan),
        time=None if isinstance(time, str) else time, no_time=time if isinstance(time, str) else "",
    )  # fmt: skip


def prepare(request: Request) -> tuple[Draft, tuple[str, ...], bool]:
    """Resolve the request into a draft; also the other models it could have meant, and whether a device is known."""
    from lora_advise import model_names as names
    from lora_advise.catalogue import base_of, resolve_model

    task = resolve_task(request.task)
    model, related = resolve_model(request.model)
    if task.family == "pretraining" and model.asked and names.parse_size(model.asked) is not None:
        model, related = base_of(model, related)
    task = suited(task, model)
    data, origins = data_facts(request, task)
    hardware, origin = hardware_facts(request)
    check_choices(request.overrides)
    framework = request.framework or "trl"
    if framework not in FRAMEWORKS:
        raise LoraAdviseError(f"--framework: {framework[:40]!r} is not known; use one of {', '.join(FRAMEWORKS)}.")
    draft = Draft(
        model=model, task=task, data=data, hardware=hardware or _placeholder(), profile=request.profile,
        framework=framework, overrides=dict(request.overrides), because=request.because, origins=origins,
    )  # fmt: skip
    draft.origins["model.name"] = Origin.ASSUMED if model.asked else Origin.SET
    if hardware is None:
        from lora_advise.hardware_choice import assumed_hardware

        draft.hardware = assumed_hardware(draft)
        origin = Origin.ASSUMED
    draft.origins["hardware"] = origin
    say_assumptions(draft, related)
    return draft, related, hardware is not None


def suited(task: TaskProfile, model: ModelFacts) -> TaskProfile:
    """The task as this kind of model does it. Raises LoraAdviseError where it cannot."""
    if model.kind == "encoder" and task.family not in ("classification", "reward"):
        raise LoraAdviseError(
            f"--task {task.name}: {model.name} is an encoder and does not generate text; "
            "use --task classification, or a decoder such as Qwen/Qwen2.5-0.5B-Instruct."
        )
    if task.name == "vision-language" and not model.has_vision:
        raise LoraAdviseError(
            f"--task vision-language: {model.name} has no vision tower; use a model such as Qwen/Qwen2.5-VL-7B-Instruct."
        )
    if task.name == "classification" and model.kind != "encoder":
        return replace(task, family="sft", trainer="sft")
    return task


def data_facts(request: Request, task: TaskProfile) -> tuple[DataFacts, dict[str, Origin]]:
    """What is known of the data: probed from the file, given by flags, or assumed for the task."""
    origins: dict[str, Origin] = {}
    if request.data is not None:
        from lora_advise.data_format import unfit
        from lora_advise.data_probe import probe_data
        from lora_advise.data_reader import shown_path

        facts = probe_data(request.data, request.eval_data, task.name)
        if (why := unfit(shown_path(request.data), facts.format, task.trainer)) is not None:
            raise LoraAdviseError(why)
        origins = {f"data.{name}": Origin.PROBED for name in ("examples", "tokens_per_example", "completion_tokens")}
    else:
        examples, tokens, completion = task.typical
        tokens = request.tokens_per_example or max(tokens, request.completion_tokens or 0)
        share = task.typical[2] / task.typical[1]
        completion = min(tokens, completion if request.tokens_per_example is None else max(1, round(tokens * share)))
        facts = DataFacts(
            examples=examples, tokens_per_example=tokens, completion_tokens=completion, eval_path=request.eval_data
        )
        origins = {f"data.{name}": Origin.ASSUMED for name in ("examples", "tokens_per_example", "completion_tokens")}
    given = {
        name: value
        for name in ("examples", "tokens_per_example", "completion_tokens")
        if (value := getattr(request, name)) is not None
    }
    origins.update({f"data.{name}": Origin.SET for name in given})
    facts = facts.changed(given)
    if facts.completion_tokens > facts.tokens_per_example:
        raise LoraAdviseError(
            f"--completion-tokens: {facts.completion_tokens} is more than the {facts.tokens_per_example} tokens of an "
            "example; give --tokens-per-example for the whole example, prompt and completion."
        )
    return facts, origins


def hardware_facts(request: Request) -> tuple[HardwareFacts | None, Origin]:
    """The device that was named, or the local one; ``None`` where neither is known."""
    from lora_advise.local_gpu import probe

    named = named_hardware(request.gpu, request.gpus)
    return (probe(), Origin.PROBED) if named is None else (named, Origin.SET)


def named_hardware(gpu: str | None, gpus: str | None) -> HardwareFacts | None:
    """The device of ``--gpu`` and ``--gpus``. Raises LoraAdviseError for one that is not known."""
    from lora_advise.gpus import resolve_hardware

    if gpu is not None and gpu.strip().lower() == "cpu":
        if gpus is not None and str(gpus).strip() != "1":
            raise LoraAdviseError(f"--gpus: {str(gpus)[:40]} with --gpu cpu; a CPU is one device, so leave --gpus out.")
        return cpu()
    return resolve_hardware(gpu, gpus)


def cpu() -> HardwareFacts:
    """This machine without an accelerator; memory is its RAM in GiB."""
    try:
        ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        ram = 8.0
    return HardwareFacts(
        name="CPU", memory_gib=round(ram, 2), kind="cpu", bf16=False, fp8=False, flash_attention_2=False,
        bitsandbytes_4bit=True,
    )  # fmt: skip


def _placeholder() -> HardwareFacts:
    return HardwareFacts(name="24 GB card", memory_gib=24.0)


def local_or_assumed(count: int = 1) -> tuple[HardwareFacts, str]:
    """The device of this machine, else a card of 24 GB, so often; and the sentence that says so."""
    from lora_advise.local_gpu import probe

    found = probe()
    if found is not None:
        return found, f"No device is named; {found.name} of this machine is taken."
    card = _placeholder().changed({"count": count})
    return (
        card,
        f"No device is named and this machine has none: {count} x {card.name} is assumed; --gpu says which it is.",
    )


def memory_table(facts: Facts, known: bool) -> tuple[MemoryVerdict, ...]:
    """Every method on the chosen device, the plan's first; with no device known also the usual card sizes."""
    from lora_advise.hardware_choice import ladder, methods_on

    return methods_on(facts) if known else methods_on(facts) + ladder(facts)


def opinion(plan: Plan) -> tuple[tuple[FindingView, ...], tuple[str, ...]]:
    """What our own linter says of the plan: nothing, unless the user's choices or data give it cause."""
    from lora_advise.engine import lint

    result = lint(plan.facts)
    views = tuple(
        FindingView(
            rule=f.rule, code=f.code, severity=f.severity.value, confidence=f.confidence.value, message=f.message,
            fields=f.fields, fix=f.fix, sources=f.sources,
        )
        for f in result.findings
    )  # fmt: skip
    return views, tuple(name for name, _ in result.skipped)


def guides_beside(plan: Plan, draft: Draft) -> Any:
    """What the three seed guides say of the same settings."""
    from lora_advise.guides import compare

    return compare(plan, tuple(draft.decisions))


def command_of(request: Request) -> str:
    """The command line that asks the same question."""
    words = ["lora-advise", "--model", request.model, "--task", request.task]
    plain = {
        "--data": request.data, "--eval-data": request.eval_data, "--examples": request.examples,
        "--tokens-per-example": request.tokens_per_example, "--completion-tokens": request.completion_tokens,
        "--gpu": request.gpu, "--gpus": request.gpus, "--framework": request.framework,
        "--price": None if request.price is None else f"{request.price:.12g}",
        "--profile": request.profile if request.profile != "balanced" else None,
    }  # fmt: skip
    for flag, value in plain.items():
        if value is not None:
            words += [flag, str(value)]
    for field, value in request.overrides.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words += ["--set", f"{field}={text}"]
    if request.because:
        words += ["--because", request.because]
    return " ".join(shlex.quote(word) for word in words)


def next_steps(request: Request, plan: Plan) -> tuple[str, ...]:
    """What to do with this answer, as commands."""
    command = command_of(request)
    steps = []
    if request.data is None:
        steps.append("Name your data so that lengths, steps and capacity are computed from it: --data train.jsonl")
    if plan.origins.get("hardware") is Origin.ASSUMED:
        steps.append("Name your device so that the micro-batch is computed for it: --gpu RTX4090, --gpus 2xA100-80GB")
    steps.append(f"Write the plan: {command} --emit lora-advise.yaml")
    steps.append("Train, evaluate and diagnose: lora-advise run lora-advise.yaml")
    if not request.overrides:
        steps.append(
            f"Change a choice and keep the reason: {command} --r 64 --because 'paper X' (also {', '.join(f'--{s}' for s in list(SHORT)[2:5])}, ...)"
        )
    return tuple(steps)
