"""Writes what a run made: the adapter with its tokenizer and card, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from lora_advise.atomic_file import write_text
from lora_advise.run_facts import Run
from lora_advise.runner.card import card
from lora_advise.runner.job import Job
from lora_advise.runner.launch import main_process
from lora_advise.runner.run_folder import ADAPTER, CARD, FULL_MODEL, publish


def save_result(job: Job, run: Run, out: Path) -> Path:
    """Save the adapter (or the whole model of a full fine-tuning) under the run's folder."""
    name = ADAPTER if job.facts.lora else FULL_MODEL
    making = out / f".{name}.making"
    if main_process():
        shutil.rmtree(making, ignore_errors=True)
    # Every process takes part: sharded weights are gathered here.
    job.trainer.save_model(str(making))
    if not main_process():
        return out / name
    job.tokenizer.save_pretrained(str(making))
    # A pickle of the trainer's arguments: nobody needs to load it, and pickles can run code.
    (making / "training_args.bin").unlink(missing_ok=True)
    labels = getattr(job.trainer.model.config, "num_labels", None) if _has_head(job) else None
    write_text(making / CARD, card(job.facts, run, str(out / name), labels))
    publish(making, out / name)
    write_text(out / CARD, card(job.facts, run, str(out / name), labels))
    return out / name


def _has_head(job: Job) -> bool:
    return job.facts.task is not None and job.facts.task.trainer in {"reward", "classification"}
