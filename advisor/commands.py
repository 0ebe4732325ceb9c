"""The commands beside the question: each takes parsed arguments and returns an exit code."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_advise.errors import LoraAdviseError

if TYPE_CHECKING:
    from lora_advise.facts import Facts
    from lora_advise.plan import Decision, Plan


def run_command(name: str, args: Namespace) -> int:
    """Run one command by name."""
    return {
        "run": _run, "diagnose": _diagnose, "lint": _lint, "memory": _memory, "rule": _rule, "models": _models, "gpus": _gpus,
        "tasks": _tasks, "diff": _diff, "source": _source, "schema": _schema, "completion": _completion, "doctor": _doctor,
    }[name](args)  # fmt: skip


def require_training(what: str = "training") -> None:
    """Refuse in one sentence when the training libraries, which ``what`` needs, are not installed."""
    from lora_advise.preflight import missing

    absent = missing()
    if absent:
        raise LoraAdviseError(f"{what} needs {', '.join(absent)}; install them with: pip install 'lora-advise[run]'")


def train(plan: Plan, out: Path, *, resume: bool, force: bool, decisions: tuple[Decision, ...] = ()) -> int:
    """Train, evaluate and diagnose; 0 healthy or cannot tell, 1 a diagnosis with changes, 130 interrupted."""
    require_training()
    from lora_advise.cli import console
    from lora_advise.runner.run import run_plan

    outcome = run_plan(plan, out, resume=resume, force=force, decisions=decisions, console=console())
    return outcome.exit_code


def _run(args: Namespace) -> int:
    from lora_advise.plan_file import read_plan

    require_training()
    return train(read_plan(Path(args.plan)), Path(args.out), resume=args.resume, force=args.force)


def _diagnose(args: Namespace) -> int:
    from lora_advise.cli import console
    from lora_advise.diagnosis import diagnose, report_text
    from lora_advise.plan_file import read_plan
    from lora_advise.run_facts import read_run

    facts = read_plan(Path(args.plan)).facts if args.plan else None
    diagnosis = diagnose(facts, read_run(Path(args.log)))
    if args.format == "json":
        from lora_advise.section import to_json

        print(to_json(diagnosis, indent=2), end="")
    else:
        report_text(diagnosis, console())
    return 1 if (diagnosis.cause or "").startswith("suspicious") else diagnosis.exit_code


def _lint(args: Namespace) -> int:
    from lora_advise.lint_command import lint_command

    return lint_command(args)


def _memory(args: Namespace) -> int:
    from lora_advise.cli import console, hand_over, price_of
    from lora_advise.config_facts import known_facts
    from lora_advise.memory_report import forecast, parse_grid
    from lora_advise.report_forecast import markdown, print_forecast, render
    from lora_advise.section import to_json

    axes = parse_grid(args.grid)
    facts, assumed = _planned(args) if args.plan else _asked(args)
    if args.versions:
        facts = _with_versions(facts, args.versions)
    with known_facts(args.plan or "the question"):
        report = forecast(facts, axes, assumed, price_of(args))
    if args.exact or args.full_depth:
        require_training("memory --exact")
        from lora_advise.runner.rehearse import rehearse

        report = report.changed({"rehearsal": rehearse(facts, full=args.full_depth)})
    if args.format == "text" and not args.output:
        print_forecast(report, console())
    elif args.format == "json":
        hand_over(to_json(report, indent=2), args.output)
    elif args.format in ("html", "svg"):
        from importlib import import_module

        hand_over(import_module(f"lora_advise.report_forecast_{args.format}").render(report), args.output)
    else:
        hand_over(render(report) if args.format == "text" else markdown(report), args.output)
    return 1 if report.verdict.fit == "does not fit" else 0


def _with_versions(facts: Facts, words: list[str]) -> Facts:
    from lora_advise.memory_versions import parse_versions
    from lora_advise.memory_ways_out import apply

    return apply(facts, {"stack.versions": parse_versions(words)})


def _asked(args: Namespace) -> tuple[Facts, tuple[str, ...]]:
    """The facts of the plan that the flags ask for, and what it assumes."""
    from lora_advise.advising import answer
    from lora_advise.cli import request_of

    args.task = args.task or "chat"
    advice = answer(request_of(args))
    return advice.plan.facts, tuple(note.text for note in advice.notes if note.kind == "assumption")


def _planned(args: Namespace) -> tuple[Facts, tuple[str, ...]]:
    """The facts of a plan or of a trainer's config, with the device and settings that the flags put in their place."""
    from lora_advise.advising import local_or_assumed, named_hardware
    from lora_advise.cli import overrides_of
    from lora_advise.config_facts import known_facts, reading_of
    from lora_advise.lint_given import given_sections
    from lora_advise.memory import with_method
    from lora_advise.memory_report import with_evaluation
    from lora_advise.memory_ways_out import apply

    given = given_sections(model=args.model, task=args.task)
    reading = reading_of(args.plan, given)
    facts, values, said = reading.facts, overrides_of(args), list(reading.notes)
    if reading.dialect.name == "plan":
        for flag in ("model", "task", "data", "eval_data", "examples", "tokens_per_example", "completion_tokens"):
            if getattr(args, flag) is not None:
                raise LoraAdviseError(f"--{flag.replace('_', '-')} belongs to a question; {args.plan} says it already.")
    if facts.model is None:
        raise LoraAdviseError(f"{args.plan}: the model is not known from the file; give --model.")
    if "effective_batch" in values:
        raise LoraAdviseError("--batch: memory depends on the micro-batch; give --micro-batch with a file.")
    if method := values.pop("method", None):
        facts = with_method(facts, method)
    if hardware := named_hardware(args.gpu, args.gpus):
        values["hardware"] = hardware
    elif facts.hardware is None or "memory_gib" not in vars(facts.hardware):
        count = vars(facts.hardware).get("count", 1) if facts.hardware else 1
        values["hardware"], words = local_or_assumed(count)
        said.append(words)
    if args.framework:
        values["stack.framework"] = args.framework
    with known_facts(args.plan):
        return apply(facts, with_evaluation(facts, values)), tuple(said)


def _diff(args: Namespace) -> int:
    from lora_advise.cli import hand_over
    from lora_advise.config_diff import compare, render
    from lora_advise.lint_given import given_sections

    found = compare(args.first, args.second, given_sections(gpu=args.gpu, model=args.model, examples=args.examples))
    hand_over(render(found, args.format), None)
    return 1 if found.rows and args.exit_code else 0


def _rule(args: Namespace) -> int:
    from lora_advise.report_findings import explain_rule, list_rules

    if args.rule is None and not args.all:
        raise LoraAdviseError("name a rule, or pass --all to list them.")
    print(
        list_rules(as_json=args.format == "json")
        if args.rule is None
        else explain_rule(args.rule, as_json=args.format == "json")
    )
    return 0


def _models(args: Namespace) -> int:
    from lora_advise.catalogue_list import list_models

    rows = [row for row in list_models() if args.pattern.lower() in " ".join(map(str, row)).lower()]
    _table(("model", "parameters", "kind", "type", "context", "licence"), rows, f"no model matches {args.pattern!r}")
    return 0


def _gpus(args: Namespace) -> int:
    from lora_advise.gpus import list_gpus

    rows = [row for row in list_gpus() if args.pattern.lower() in " ".join(map(str, row)).lower()]
    _table(
        ("GPU", "GiB", "capability", "bf16", "fp8", "GB/s", "bf16 TFLOP/s"), rows, f"no GPU matches {args.pattern!r}"
    )
    return 0


def _tasks(args: Namespace) -> int:
    from lora_advise.tasks import TASKS

    rows = [(t.name, t.label, t.purpose, ", ".join(t.synonyms)) for t in TASKS.values()]
    rows = [row for row in rows if args.pattern.lower() in " ".join(row).lower()]
    _table(("task", "what", "purpose", "also called"), rows, f"no task matches {args.pattern!r}")
    return 0


def _source(args: Namespace) -> int:
    from lora_advise.sources import registry

    known = registry()
    if args.source is None:
        _table(("id", "kind", "title"), [(s.id, s.kind, s.title) for s in known.values()], "no sources")
        return 0
    if args.source not in known:
        import difflib

        close = difflib.get_close_matches(args.source, known, n=3)
        raise LoraAdviseError(
            f"no source is called {args.source[:40]!r}; did you mean {', '.join(close) or 'one of lora-advise source'}?"
        )
    found = known[args.source]
    print(f"{found.title}\n  kind:  {found.kind}, read: {found.read}\n  where: {found.where}\n  says:  {found.says}")
    return 0


def _schema(args: Namespace) -> int:
    import json

    from lora_advise.schema import advice_schema, lint_schema, plan_schema

    schema = {"plan": plan_schema, "advice": advice_schema, "lint": lint_schema}[args.what]()
    print(json.dumps(schema, indent=2, ensure_ascii=False))
    return 0


def _completion(args: Namespace) -> int:
    import shtab

    from lora_advise.cli_parser import COMMANDS, advise_parser, command_parser

    parser = advise_parser()
    parser.prog = "lora-advise"
    choices = parser.add_subparsers()
    for name, text in COMMANDS.items():
        choices.add_parser(name, help=text, parents=[command_parser(name)], add_help=False, conflict_handler="resolve")
    print(shtab.complete(parser, args.shell))
    return 0


def _doctor(args: Namespace) -> int:
    from lora_advise.doctor import examine

    found = examine()
    if args.format == "json":
        from lora_advise.section import to_json

        print(to_json(found, indent=2), end="")
    else:
        from lora_advise.cli import console
        from lora_advise.report_doctor import print_doctor

        print_doctor(found, console())
    return found.exit_code


def _table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]], none: str) -> None:
    """Print rows as a plain table, or one sentence when there are none."""
    from rich.table import Table

    from lora_advise.cli import console

    if not rows:
        print(none, file=sys.stderr)
        return
    table = Table(box=None, pad_edge=False)
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console().print(table, markup=False)
