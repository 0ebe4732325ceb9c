"""The command line, described: one parser for the question and one per command."""

from __future__ import annotations

import argparse
from typing import NoReturn

from lora_advise import __version__
from lora_advise.errors import LoraAdviseError

COMMANDS: dict[str, str] = {
    "run": "train, evaluate and diagnose a plan",
    "diagnose": "judge a training log: healthy, unstable, overfit, underfit",
    "lint": "judge the configs of any trainer, before they run",
    "memory": "predict the peak memory of a run: parts, verdict, ways out, other stacks, a sweep",
    "doctor": "check this machine: versions, devices, disk, the calibration, what stops a command",
    "diff": "say what changed between two configs in effective terms",
    "rule": "explain a rule of the linter",
    "models": "list the models of the catalogue",
    "gpus": "list the GPUs of the catalogue",
    "tasks": "list the tasks and their other names",
    "source": "explain where a number comes from",
    "schema": "print the JSON Schema of a plan or of the JSON report",
    "completion": "print a shell completion script",
}
"""Every command beside the question itself, with its one-line description."""

EPILOG = """examples:
  lora-advise --model 32B --task qa
  lora-advise --model Qwen2.5-7B --task chat --data train.jsonl --gpu RTX4090
  lora-advise --model 70B --task math --gpus 8xH100 --emit lora-advise.yaml
  lora-advise --model 8B --task code --r 64 --because "paper X" --format markdown
  lora-advise --run                   train the built-in tiny model, offline

commands (lora-advise COMMAND -h tells more):
""" + "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())


class Parser(argparse.ArgumentParser):
    """argparse, except that a usage error is one sentence and a LoraAdviseError."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the whole usage."""
        raise LoraAdviseError(f"{message}; see {self.prog} -h")


def advise_parser() -> Parser:
    """The parser of the question: ``lora-advise --model M --task T …``."""
    parser = Parser(
        prog="lora-advise", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG, allow_abbrev=False,
        description="Settings for LoRA and QLoRA fine-tuning that will fit, learn and not diverge, with evidence.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"lora-advise {__version__}")
    _question(parser)
    _overrides(parser)
    _output(parser)
    return parser


def _question(parser: Parser) -> None:
    group = parser.add_argument_group("the question")
    group.add_argument(
        "--model", metavar="M", help="a size (32B, 0.5b, 30B-A3B, 8x7B), a Hugging Face id, a folder or a config.json"
    )
    group.add_argument(
        "--task", metavar="T", help="what for: chat, qa, classification, code, math, dpo, grpo, ... (lora-advise tasks)"
    )
    group.add_argument("--data", metavar="FILE", help="training data: JSONL, JSON, CSV, TSV, Parquet or text")
    group.add_argument("--eval-data", metavar="FILE", help="held-out data; else a share is split off")
    group.add_argument("--examples", type=int, metavar="N", help="number of training examples")
    group.add_argument(
        "--tokens-per-example", type=int, metavar="N", help="mean tokens of an example, prompt and completion"
    )
    group.add_argument("--completion-tokens", type=int, metavar="N", help="mean tokens of its completion")
    group.add_argument(
        "--gpu", metavar="G", help="a GPU (RTX4090, H100-80GB), a size (24GB), several (2xRTX4090), or cpu"
    )
    group.add_argument("--gpus", metavar="N", help="how many, or count and name (2xRTX4090)")
    group.add_argument(
        "--framework", metavar="F", help="trl (default), axolotl, llamafactory, unsloth, ms-swift, torchtune"
    )
    group.add_argument(
        "--price", metavar="X", help="price of one GPU for an hour, in any currency: tells what the run costs"
    )
    group.add_argument(
        "--profile", choices=("safe", "balanced"), default="balanced", help="safe lowers the learning rate by a third"
    )


def _overrides(parser: Parser) -> None:
    group = parser.add_argument_group("your own choices (respected and recorded; the rest is computed around them)")
    for flag, metavar, text in (
        ("--method", "lora|qlora|full", "the method"),
        ("--r", "N", "rank"),
        ("--alpha", "X", "lora_alpha"),
        ("--dropout", "P", "lora_dropout"),
        ("--targets", "NAMES", "target_modules: names with commas, all-linear, or a regular expression"),
        ("--lr", "X", "learning rate"),
        ("--epochs", "X", "num_train_epochs"),
        ("--max-steps", "N", "optimizer steps instead of epochs"),
        ("--batch", "N", "effective batch"),
        ("--micro-batch", "N", "per_device_train_batch_size"),
        ("--accumulation", "N", "gradient_accumulation_steps"),
        ("--max-length", "N", "tokens"),
        ("--optim", "NAME", "optimizer"),
        ("--scheduler", "NAME", "lr_scheduler_type"),
        ("--warmup-steps", "N", "warmup"),
        ("--weight-decay", "X", "weight decay"),
        ("--clip", "X", "max_grad_norm"),
        ("--dtype", "NAME", "bfloat16, float16 or float32"),
        ("--sharding", "NAME", "none, ddp, fsdp, zero2 or zero3"),
        ("--seed", "N", "seed"),
    ):
        group.add_argument(flag, metavar=metavar, help=text)
    group.add_argument("--rslora", action="store_const", const=True, help="rank-stabilised scaling alpha/sqrt(r)")
    group.add_argument("--dora", action="store_const", const=True, help="weight-decomposed LoRA")
    group.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="any other field of the plan")
    group.add_argument("--because", metavar="REASON", help="why, kept with the plan")


def _output(parser: Parser) -> None:
    group = parser.add_argument_group("the answer")
    group.add_argument("--format", choices=("text", "markdown", "html", "svg", "json"), default="text")
    group.add_argument("-o", "--output", metavar="FILE", help="write the report there instead of to the terminal")
    group.add_argument("--brief", action="store_true", help="only the recommendation at a glance")
    group.add_argument("--compare-guides", action="store_true", help="every statement of the seed guides beside ours")
    group.add_argument(
        "--emit", metavar="PLAN", help="write the plan, a YAML file for people and for `lora-advise run`"
    )
    group.add_argument("--run", action="store_true", help="train, evaluate and diagnose; alone: a tiny built-in model")
    _run_options(group)


def _run_options(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--out", metavar="DIR", default="lora-advise-out", help="folder of the run (default: %(default)s)"
    )
    group.add_argument("--resume", action="store_true", help="go on from the last checkpoint in DIR")
    group.add_argument(
        "--force", action="store_true", help="start anew in a folder that holds a run; the old one is kept aside"
    )


def command_parser(name: str) -> Parser:
    """The parser of one command."""
    parser = Parser(
        prog=f"lora-advise {name}", description=COMMANDS[name][0].upper() + COMMANDS[name][1:] + ".", allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog=f"example:\n  {_EXAMPLES[name]}",
    )  # fmt: skip
    add = parser.add_argument
    if name == "run":
        add("plan", metavar="PLAN", help="a plan file, written by --emit")
        _run_options(parser)
    elif name == "diagnose":
        add("log", metavar="LOG", help="run.json of our runner, trainer_state.json, or a list of log entries")
        add("--plan", metavar="PLAN", help="the plan of that run, for changes in numbers")
        add("--format", choices=("text", "json"), default="text")
    elif name == "lint":
        _lint(parser)
    elif name == "memory":
        add(
            "plan", nargs="?", metavar="FILE", help="a plan, or any trainer's config; without one, the question's flags"
        )
        add("--exact", action="store_true", help="rehearse the step with the installed libraries, without a device")
        add("--full-depth", action="store_true", help="the same with every layer, instead of a line through two depths")
        add(
            "--versions",
            nargs="+",
            default=[],
            metavar="NAME=V",
            help="libraries of the run: transformers=4.45.2 trl=0.12 (default: the newest known)",
        )
        add("--grid", nargs="+", default=[], metavar="AXIS=N,N", help="sweep: seq=1024,2048 batch=1,2,4 r=8,16")
        add("--format", choices=("text", "markdown", "html", "svg", "json"), default="text")
        add("-o", "--output", metavar="FILE", help="write the report there instead of to the terminal")
        _question(parser)
        _overrides(parser)
        parser.set_defaults(run=False, compare_guides=False)
    elif name == "diff":
        add("first", metavar="A", help="a config of any trainer, or a plan")
        add("second", metavar="B", help="another, of the same or of another trainer")
        add("--gpu", metavar="G", help="the device, for the memory of both")
        add("--model", metavar="M", help="the model, where the files do not say it")
        add("--examples", metavar="N", help="number of training examples, for steps")
        add("--format", choices=("text", "markdown", "json"), default="text")
        add("--exit-code", action="store_true", help="exit 1 where they differ")
    elif name == "doctor":
        add("--format", choices=("text", "json"), default="text")
    elif name == "rule":
        add("rule", nargs="?", metavar="NAME", help="name or code of a rule")
        add("--all", action="store_true", help="every rule, a line each")
        add("--format", choices=("text", "json"), default="text")
    elif name == "source":
        add("source", nargs="?", metavar="ID", help="a source id; without one all are listed")
    elif name in ("models", "gpus", "tasks"):
        add("pattern", nargs="?", default="", help="only names that contain this")
    elif name == "schema":
        add("what", nargs="?", choices=("plan", "advice", "lint"), default="plan")
    elif name == "completion":
        add("shell", choices=("bash", "zsh", "tcsh"))
    return parser


def _lint(parser: Parser) -> None:
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="configs, scripts, notebooks or folders; - reads standard input")
    add("--dialect", metavar="NAME", help="whose files they are, where the content does not tell: axolotl, trl, ...")
    add(
        "--framework", action="append", default=[], metavar="NAME==V",
        help="version of a trainer or library of the run: axolotl==0.18, transformers==4.57",
    )  # fmt: skip
    known = parser.add_argument_group("what the files do not say")
    known.add_argument("--gpu", metavar="G", help="a GPU (RTX4090), a size (24GB), several (2xRTX4090), or cpu")
    known.add_argument("--gpus", metavar="N", help="how many")
    known.add_argument("--model", metavar="M", help="a size, a Hugging Face id, a folder or a config.json")
    known.add_argument("--task", metavar="T", help="what the runs are for (lora-advise tasks)")
    known.add_argument("--data", metavar="FILE", help="the training data")
    known.add_argument("--examples", metavar="N", help="number of training examples")
    known.add_argument("--tokens-per-example", metavar="N", help="mean tokens of an example")
    rules = parser.add_argument_group("the rules")
    rules.add_argument(
        "--select", action="append", default=[], metavar="RULES", help="only these: names, codes, families"
    )
    rules.add_argument("--ignore", action="append", default=[], metavar="RULES", help="not these")
    rules.add_argument("--pedantic", action="store_true", help="also show conventions")
    rules.add_argument(
        "--config", metavar="FILE", help="settings; default: the nearest lora-advise.toml or pyproject.toml"
    )
    rules.add_argument("--isolated", action="store_true", help="no settings file")
    rules.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="leave out, as .gitignore writes it"
    )
    parser.add_argument(
        "--only-configs", action="store_true", help="skip named files that are no training config, as in folders"
    )
    answer = parser.add_argument_group("the answer")
    answer.add_argument(
        "--format",
        choices=("text", "concise", "json", "sarif", "github", "gitlab", "junit", "markdown"),
        default="text",
    )
    answer.add_argument("-o", "--output", metavar="FILE", help="write it there instead of to the terminal")
    answer.add_argument("--statistics", action="store_true", help="count the findings of each rule instead")
    answer.add_argument(
        "--fail-on", choices=("error", "warning", "note", "never"), help="exit 1 from this severity on (default: error)"
    )
    answer.add_argument("--stdin-filename", metavar="NAME", default="-", help="what standard input is called")
    mend = parser.add_argument_group("mending")
    mend.add_argument("--fix", action="store_true", help="make the changes that leave the run as it is")
    mend.add_argument("--unsafe-fixes", action="store_true", help="also make those that change the run")
    mend.add_argument("--diff", action="store_true", help="show what would be changed, and change nothing")
    mend.add_argument("--add-ignore", metavar="REASON", help="write a comment for every finding that is left")


_EXAMPLES = {
    "run": "lora-advise run lora-advise.yaml --out runs/first",
    "diagnose": "lora-advise diagnose outputs/checkpoint-500/trainer_state.json",
    "lint": "lora-advise lint configs/ train.sh --gpu RTX4090",
    "memory": "lora-advise memory --model 8B --method qlora --gpu RTX4090 --grid seq=1024,2048,4096 batch=1,2,4",
    "diff": "lora-advise diff old.yaml new.yaml --gpu RTX4090",
    "doctor": "lora-advise doctor --format json",
    "rule": "lora-advise rule scale-times-rate-diverges",
    "models": "lora-advise models qwen3",
    "gpus": "lora-advise gpus 4090",
    "tasks": "lora-advise tasks",
    "source": "lora-advise source tinker-sweep",
    "schema": "lora-advise schema plan > plan.schema.json",
    "completion": 'eval "$(lora-advise completion bash)"',
}
