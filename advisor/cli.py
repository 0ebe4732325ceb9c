"""``lora-advise``: exit code 0 is fine, 1 findings, 2 cannot judge or usage error, 130 interrupted."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_advise.cli_parser import COMMANDS, advise_parser, command_parser
from lora_advise.errors import LoraAdviseError

if TYPE_CHECKING:
    from rich.console import Console

    from lora_advise.plan import Advice
    from lora_advise.request import Request


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Plugins of pydantic (Logfire's, say) have no business here, and looking for them reads every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        if words and words[0] in COMMANDS:
            from lora_advise.commands import run_command

            return run_command(words[0], command_parser(words[0]).parse_args(words[1:]))
        if words and not words[0].startswith("-"):
            raise LoraAdviseError(f"{words[0][:60]!r} is no command{_closest(words[0])}; see lora-advise -h")
        return ask(advise_parser().parse_args(words))
    except LoraAdviseError as error:
        print(f"lora-advise: {_plain(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lora-advise: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def ask(args: Namespace) -> int:
    """Answer the question, write what was asked for, and run it if told to."""
    from lora_advise.advising import answer

    check_output(args)
    if args.run:
        from lora_advise.commands import require_training

        require_training()
    advice = answer(request_of(args))
    if (args.output and args.format == "text") or args.format != "text":
        deliver(advice, args)
    else:
        show(advice, args)
    if args.emit:
        emit(advice, args.emit)
    if args.run:
        from lora_advise.commands import train

        return train(advice.plan, Path(args.out), resume=args.resume, force=args.force, decisions=advice.decisions)
    return 0


def check_output(args: Namespace) -> None:
    """Refuse what no report can be, before the work is done. Raises LoraAdviseError."""
    if args.brief and args.format == "json":
        raise LoraAdviseError(
            "--brief: the JSON report is for programs and always whole; drop --brief or choose another --format."
        )
    for flag, value in (("-o", args.output), ("--emit", args.emit)):
        if value is not None and not value.strip():
            raise LoraAdviseError(f"{flag}: the name of the file is empty; give one.")


def request_of(args: Namespace) -> Request:
    """The request that the flags make. Raises LoraAdviseError for flags that cannot be."""
    from lora_advise.request import Request

    if args.run and args.model is None:
        fill_builtin(args)
    if args.model is None or args.task is None:
        missing = "--model" if args.model is None else "--task"
        raise LoraAdviseError(f"{missing} is missing; ask for instance: lora-advise --model 32B --task qa")
    overrides = overrides_of(args)
    for flag, least in {"examples": 1, "tokens_per_example": 1, "completion_tokens": 0}.items():
        value = getattr(args, flag)
        if value is not None and value < least:
            raise LoraAdviseError(f"--{flag.replace('_', '-')}: {value} must be at least {least}.")
    names = ("model", "task", "data", "eval_data", "examples", "tokens_per_example", "completion_tokens", "gpu", "gpus",
             "framework", "profile", "because", "compare_guides")  # fmt: skip
    return Request(**{name: getattr(args, name) for name in names}, overrides=overrides, price=price_of(args))


def price_of(args: Namespace) -> float | None:
    """The price of ``--price``. Raises LoraAdviseError for one that cannot be."""
    if args.price is None:
        return None
    from lora_advise.throughput import check_price

    return check_price(args.price)


def overrides_of(args: Namespace) -> dict[str, Any]:
    """Field paths and values of the flags that overrule a decision. Raises LoraAdviseError for values that cannot be."""
    from lora_advise.overrides import SHORT, collect, parse_set

    found = collect({short: getattr(args, short) for short in SHORT if getattr(args, short, None) is not None})
    found.update(parse_set(text) for text in args.set)
    return found


def fill_builtin(args: Namespace) -> None:
    """``--run`` alone: the tiny model and the sample data of the package, on whatever device there is."""
    from lora_advise.runner.builtin import builtin_data_paths, builtin_model_path

    args.model = str(builtin_model_path())
    args.task = args.task or "qa"
    if args.gpu is None and args.gpus is None:
        from lora_advise.local_gpu import probe

        args.gpu = None if probe() else "cpu"
    if args.data is None:
        train, held_out = builtin_data_paths()
        args.data, args.eval_data = str(train), str(held_out)


def show(advice: Advice, args: Namespace) -> None:
    """Print the report on the terminal."""
    from lora_advise.report_text import print_report

    print_report(advice, console(), brief=args.brief or args.run, guides=args.compare_guides)


def console() -> Console:
    """A console that is plain when piped and keeps to 80 to 200 columns."""
    from rich.console import Console

    made = Console(highlight=False, emoji=False)
    made.width = min(200, max(80, made.width))
    return made


def deliver(advice: Advice, args: Namespace) -> None:
    """Render the report and write it to the file or to standard output. Raises LoraAdviseError for a brief JSON."""
    report = import_module(f"lora_advise.report_{args.format}")
    hand_over(report.render(advice, brief=True) if args.brief else report.render(advice), args.output)


def hand_over(text: str, output: str | None) -> None:
    """Write a finished report to a file, or print it."""
    if output:
        from lora_advise.atomic_file import write_text

        write_text(Path(output), text)
        print(_plain(f"wrote {output}"), file=sys.stderr)
    else:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")


def emit(advice: Advice, path: str) -> None:
    """Write the plan file; what lay there is kept beside it, since it may have been edited."""
    from lora_advise.atomic_file import keep_aside, write_text
    from lora_advise.plan_file import write_plan

    text = write_plan(advice.plan, advice.decisions)
    aside = keep_aside(Path(path), text)
    write_text(Path(path), text)
    kept = f"; the older file is kept as {aside}" if aside else ""
    print(_plain(f"wrote {path}{kept}; train with: lora-advise run {shlex.quote(path)}"), file=sys.stderr)


def _closest(word: str) -> str:
    import difflib

    close = difflib.get_close_matches(word, COMMANDS, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _plain(text: str) -> str:
    """A message without control characters, so that a file name cannot drive the terminal."""
    from lora_advise.report_words import restored

    return "".join(c if c.isprintable() else "?" for c in restored(text))


if __name__ == "__main__":
    sys.exit(main())
