"""The folder of one run: what lies where, what may be touched, and from which checkpoint a run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora_advise.atomic_file import write_text
from lora_advise.errors import LoraAdviseError
from lora_advise.plan import Plan
from lora_advise.run_facts import read_run
from lora_advise.section import to_data, to_json

RECORD = "run.json"
PLAN = "plan.json"
PLAN_FOR_PEOPLE = "lora-advise.yaml"
ADAPTER = "adapter"
FULL_MODEL = "model"
CHECKPOINTS = "checkpoints"
CARD = "README.md"
DIAGNOSIS = "diagnosis.json"
FAILURE = "failure.txt"
OURS = (RECORD, PLAN, PLAN_FOR_PEOPLE, ADAPTER, FULL_MODEL, CHECKPOINTS, CARD, DIAGNOSIS, FAILURE)
"""Everything that a run writes; other files of the folder are the user's and stay as they are."""

_COMPARED = ("task", "model", "lora", "quant", "train", "data")


def check_folder(plan: Plan, out: Path, *, resume: bool, force: bool) -> Path | None:
    """Whether this run may use the folder; returns the checkpoint to go on from, if any. Changes nothing.

    Raises :class:`LoraAdviseError` when a run lies there and neither resume nor force is asked.
    """
    if out.exists() and not out.is_dir():
        raise LoraAdviseError(f"{out}: is a file, and a run needs a folder; name another with --out.")
    if resume:
        _same_plan(plan, out)
        return last_checkpoint(out)
    if _holds_run(out) and not force:
        raise LoraAdviseError(
            f"{out}: holds a run already; go on with --resume, name another folder with --out, "
            "or set the old run aside with --force."
        )
    return None


def claim_folder(plan: Plan, out: Path, decisions: tuple[Any, ...]) -> Path | None:
    """Make the folder, set an older run aside and keep the plan there; returns where the older run went."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoraAdviseError(
            f"{out}: the folder cannot be made ({error.strerror}); name another with --out."
        ) from error
    aside = set_aside(out) if _holds_run(out) else None
    write_plan_files(plan, out, decisions)
    return aside


def _holds_run(out: Path) -> bool:
    # A trainer makes its folder of checkpoints before it has any.
    made = any((out / name).exists() for name in (RECORD, PLAN, ADAPTER, FULL_MODEL))
    return made or any((out / CHECKPOINTS).glob("checkpoint-*"))


def set_aside(out: Path) -> Path:
    """Move an older run into ``previous-N`` beside the new one: nothing is ever deleted."""
    number = 1
    while (out / f"previous-{number}").exists():
        number += 1
    aside = out / f"previous-{number}"
    aside.mkdir()
    for name in OURS:
        if (out / name).exists():
            (out / name).rename(aside / name)
    return aside


def last_checkpoint(out: Path) -> Path:
    """The newest checkpoint that can be gone on from exactly: weights, optimizer, schedule, random state and step."""
    found = sorted(
        (p for p in (out / CHECKPOINTS).glob("checkpoint-*") if p.name.rsplit("-", 1)[-1].isdigit()),
        key=lambda p: int(p.name.rsplit("-", 1)[-1]),
    )
    if not found:
        raise LoraAdviseError(f"{out}: holds no checkpoint to go on from; start the run without --resume.")
    for checkpoint in reversed(found):
        absent = missing_parts(checkpoint)
        if not absent:
            return checkpoint
    raise LoraAdviseError(
        f"{found[-1]}: lacks {', '.join(missing_parts(found[-1]))}, so the run would not go on where it stopped; "
        "start again without --resume."
    )


def missing_parts(checkpoint: Path) -> list[str]:
    """What a checkpoint lacks for going on exactly."""
    weights = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")
    absent = [
        name for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt") if not (checkpoint / name).is_file()
    ]
    if not any(checkpoint.glob("rng_state*.pth")):
        absent.append("rng_state.pth")
    if not any((checkpoint / name).is_file() for name in weights):
        absent.append(weights[0])
    return absent


def _same_plan(plan: Plan, out: Path) -> None:
    """A checkpoint only continues the run that made it."""
    file = out / PLAN
    if not file.is_file():
        raise LoraAdviseError(f"{out}: holds no run of lora-advise to go on with; start the run without --resume.")
    try:
        before: dict[str, Any] = json.loads(file.read_text("utf-8"))["facts"]
    except (ValueError, KeyError, TypeError) as error:
        raise LoraAdviseError(f"{file}: is damaged, so the run cannot go on; start again without --resume.") from error
    record = out / RECORD
    if record.is_file() and read_run(record).outcome == "finished":
        raise LoraAdviseError(
            f"{out}: the run there is finished, so there is nothing to go on with; use another folder."
        )
    now = to_data(plan.facts)
    for section in _COMPARED:
        old, new = before.get(section) or {}, now.get(section) or {}
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                raise LoraAdviseError(
                    f"{out}: the run there had {section}.{name} {old.get(name)!r} and this plan has {new.get(name)!r}; "
                    "go on with the plan that began it, or start a new run in another folder."
                )


def write_plan_files(plan: Plan, out: Path, decisions: tuple[Any, ...]) -> None:
    """Keep the plan beside its run: exact for machines, commented for people."""
    from lora_advise.plan_file import write_plan

    write_text(out / PLAN, to_json(plan, indent=1))
    write_text(out / PLAN_FOR_PEOPLE, write_plan(plan, decisions))


def publish(made: Path, place: Path) -> None:
    """Rename a finished folder into place; an older one there is kept as ``NAME.old-N``."""
    if place.exists():
        number = 1
        while place.with_name(f"{place.name}.old-{number}").exists():
            number += 1
        place.rename(place.with_name(f"{place.name}.old-{number}"))
    made.rename(place)
