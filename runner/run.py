"""Runs a plan: train, evaluate, save the adapter, record, diagnose."""

from __future__ import annotations

import shlex
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_advise.errors import LoraAdviseError
from lora_advise.plan import Decision, Plan
from lora_advise.run_facts import Run, read_run, write_run
from lora_advise.runner.launch import launch, launch_command, main_process, needs_launch, processes
from lora_advise.runner.quiet import quiet_libraries, settled_heap
from lora_advise.runner.run_folder import (
    CHECKPOINTS,
    DIAGNOSIS,
    FAILURE,
    PLAN_FOR_PEOPLE,
    RECORD,
    check_folder,
    claim_folder,
    last_checkpoint,
)

if TYPE_CHECKING:
    from lora_advise.diagnosis import Diagnosis
    from lora_advise.runner.job import Job
    from lora_advise.runner.record import Ending

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended. ``exit_code``: 0 healthy or cannot tell, 1 failed or to be changed, 130 interrupted."""

    run: Run
    out_dir: Path
    exit_code: int
    diagnosis: Diagnosis | None = None

    @property
    def deviations(self) -> tuple[str, ...]:
        """Where the run differed from the plan, one sentence each."""
        return self.run.deviations


def run_plan(
    plan: Plan, out_dir: Path, *, resume: bool = False, force: bool = False,
    decisions: tuple[Decision, ...] = (), console: Any = None,
) -> RunOutcome:  # fmt: skip
    """Run a plan into a folder. Ctrl-C once ends it after the current step so that it can go on later.

    Raises :class:`LoraAdviseError` for a plan that cannot be run, before anything in the folder is changed.
    """
    out_dir = Path(out_dir)
    check_folder(plan, out_dir, resume=resume, force=force)
    if needs_launch(plan.facts):
        if not resume:
            claim_folder(plan, out_dir, decisions)
        code = launch(launch_command(plan.facts, out_dir / PLAN_FOR_PEOPLE, out_dir, resume=resume))
        if not (out_dir / RECORD).is_file():
            raise LoraAdviseError(
                f"{out_dir}: the launched processes ended with code {code} and left no record; see above."
            )
        return RunOutcome(read_run(out_dir / RECORD), out_dir, code)
    return train_here(plan, out_dir, resume=resume, decisions=decisions, console=console)


def train_here(
    plan: Plan, out: Path, *, resume: bool = False, decisions: tuple[Decision, ...] = (), console: Any = None
) -> RunOutcome:
    """Run a plan in this process, alone or as one of several that were launched together."""
    from rich.console import Console

    console = console or Console()
    console.quiet = console.quiet or not main_process()
    began, before = time.monotonic(), _record_of(out) if resume else None
    with settled_heap() as settle, quiet_libraries():
        from lora_advise.runner.job import make_job
        from lora_advise.runner.record import begin_peaks, calibrate, make_record, now

        started = now()
        try:
            job = make_job(plan.facts, out, console, resumed=resume, signals=before.signals if before else ())
        except KeyboardInterrupt:
            console.print("Interrupted before the first step; nothing was written.")
            return RunOutcome(Run(outcome="interrupted", steps_done=0), out, INTERRUPTED)
        settle()
        checkpoint = last_checkpoint(out) if resume else None
        if processes() == 1 and not resume:
            aside = claim_folder(plan, out, decisions)
            if aside:
                console.print(f"The older run is kept in {aside}.", markup=False)
        _announce(job, console, checkpoint)
        loading = begin_peaks()
        ending = _train(job, out, checkpoint)
        if ending.outcome == "finished":
            ending.samples, ending.matches = _compare(job)
        run = make_record(job, ending, started=started, wall_s=time.monotonic() - began, before=before, loading=loading)
        if ending.outcome != "failed" and not ending.aborted:
            from lora_advise.runner.save import save_result

            save_result(job, run, out)
        said = calibrate(job, run, ending.peaks) if main_process() else None
    if said:
        console.print(said, markup=False, highlight=False)
    return _close(job, run, out, console)


def _record_of(out: Path) -> Run | None:
    return read_run(out / RECORD) if (out / RECORD).is_file() else None


def _announce(job: Job, console: Any, checkpoint: Path | None) -> None:
    from lora_advise.runner.device import device_name

    if checkpoint:
        console.print(f"Going on from {checkpoint.name}.", markup=False, highlight=False)
    rows = len(job.trainer.train_dataset)
    console.print(
        f"Training on {device_name()}: {rows} rows, {len(job.held_out)} held out.", markup=False, highlight=False
    )
    for line in job.deviations:
        console.print(f"  differs from the plan: {line}", markup=False, highlight=False)


def _train(job: Job, out: Path, checkpoint: Path | None) -> Ending:
    """Train and evaluate; whatever happens in a training step is an ending, not an exception."""
    import torch

    from lora_advise.runner.record import Ending, end_peaks
    from lora_advise.runner.watch import interruptible

    try:
        with interruptible(job.interrupts):
            metrics = dict(job.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).metrics)
            state, peaks = job.trainer.state, end_peaks()
            if job.watch.problem:
                return Ending("failed", job.watch.problem, metrics)
            if job.interrupts.asked and state.global_step < state.max_steps:
                said = f"Interrupted after step {state.global_step} of {state.max_steps}."
                return Ending("interrupted", said, metrics, peaks=peaks)
            _last_evaluation(job)
            return Ending("finished", None, metrics, peaks=peaks)
    except KeyboardInterrupt:
        step = job.trainer.state.global_step
        return Ending("interrupted", f"Aborted at step {step}; only earlier checkpoints are kept.", aborted=True)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
            return Ending("failed", _out_of_memory(job))
        if main_process():
            (out / FAILURE).write_text(traceback.format_exc(), encoding="utf-8")
        reason = " ".join(str(error).split())[:200]
        return Ending("failed", f"The training step failed: {reason} (the full trace is in {out / FAILURE})")
    finally:
        job.progress.close()


def _last_evaluation(job: Job) -> None:
    """Evaluate the last step too, so that the curve ends where the run does."""
    state, arguments = job.trainer.state, job.trainer.args
    if not job.held_out or str(arguments.eval_strategy.value) == "no" or arguments.load_best_model_at_end:
        return
    if not any("eval_loss" in row and row.get("step") == state.global_step for row in state.log_history):
        job.trainer.evaluate()


def _out_of_memory(job: Job) -> str:
    from lora_advise.memory import ways_out

    ways = [way.change for way in ways_out(job.facts)]
    return "The device ran out of memory." + (f" Ways out, cheapest first: {'; '.join(ways)}." if ways else "")


def _compare(job: Job) -> tuple[tuple[Any, ...], tuple[float, float, int] | None]:
    """Held-out answers before and after, and how many are exactly right where that can be counted."""
    import torch

    from lora_advise.runner import answers

    task = job.facts.task
    if task is None or task.trainer in {"reward", "classification"} or job.facts.lora is None or processes() > 1:
        return (), None
    model, tokenizer = job.trainer.model, job.tokenizer
    quick = job.effective.device == "cuda" or model.get_nb_trainable_parameters()[1] < 3e8
    asked = answers.questions(job.held_out, answers.SCORED if quick else answers.SHOWN)
    scored = quick and task.family == "sft" and answers.scorable(tokenizer, asked)
    asked = asked if scored else asked[: answers.SHOWN]
    try:
        old = answers.answer(model, tokenizer, asked, adapter=False)
        new = answers.answer(model, tokenizer, asked, adapter=True)
    except (torch.OutOfMemoryError, KeyboardInterrupt) as error:
        why = "Ctrl-C" if isinstance(error, KeyboardInterrupt) else "there was no memory left"
        job.deviations.append(f"Answers before and after are missing: {why} while they were generated.")
        return (), None
    matches = (answers.exact_matches(asked, old), answers.exact_matches(asked, new), len(asked)) if scored else None
    return answers.samples(asked, old, new), matches


def _close(job: Job, run: Run, out: Path, console: Any) -> RunOutcome:
    """Write the record, say how it went, diagnose."""
    if not main_process():
        return RunOutcome(run, out, INTERRUPTED if run.outcome == "interrupted" else 0)
    write_run(run, out / RECORD)
    if run.message:
        console.print(run.message, markup=False)
    if run.outcome == "interrupted":
        if any((out / CHECKPOINTS).glob("checkpoint-*")):
            console.print(
                f"Go on with: lora-advise run {shlex.quote(str(out / PLAN_FOR_PEOPLE))} --out {shlex.quote(str(out))} --resume",
                markup=False,
                soft_wrap=True,
            )
        return RunOutcome(run, out, INTERRUPTED)
    from lora_advise.atomic_file import write_text
    from lora_advise.diagnosis import diagnose, report_text
    from lora_advise.section import to_json

    _summary(run, out, console)
    diagnosis = diagnose(job.facts, run)
    write_text(out / DIAGNOSIS, to_json(diagnosis, indent=2))
    report_text(diagnosis, console)
    healthy = run.outcome == "finished" and diagnosis.verdict in {"healthy", "cannot tell"}
    return RunOutcome(run, out, 0 if healthy else 1, diagnosis)


def _summary(run: Run, out: Path, console: Any) -> None:
    losses = [entry.eval_loss for entry in run.log if entry.eval_loss is not None]
    if losses:
        console.print(f"Evaluation loss: {losses[0]:.4f} before, {losses[-1]:.4f} after.", highlight=False)
    if run.exact_match_before is not None and run.exact_match_after is not None:
        console.print(
            f"Exact matches on {run.exact_match_rows} held-out rows: {run.exact_match_before:.0%} before, "
            f"{run.exact_match_after:.0%} after.",
            highlight=False,
        )
    for sample in run.samples:
        for name, text in (
            ("prompt", sample.prompt),
            ("expected", sample.expected),
            ("before", sample.before),
            ("after", sample.after),
        ):
            console.print(f"  {name:9}{_one_line(text)}", markup=False, highlight=False)
    console.print(f"Written to {out}.", markup=False, highlight=False)


def _one_line(text: str) -> str:
    """One printable line: answers of a model are foreign text and may hold control characters."""
    line = " ".join(text.split())
    shown = "".join(c if c.isprintable() else "�" for c in line)
    return shown if len(shown) <= 160 else shown[:157] + "…"
