"""Which arguments of a command belong to what launches a program, and where the program's own begin.

Switches of ``accelerate launch`` 1.15 and ``torchrun`` 2.13 are those that their parsers declare without a value; of other
launchers those of their manuals. Every other launcher flag takes one value, unless a script follows it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lora_advise.shell_fields import ASSIGNMENT, Field


class _Launcher(NamedTuple):
    switches: frozenset[str]
    named: bool = True
    """Whether it is named in ``Config.program``; what changes nothing about the run (``nohup``) is not."""
    skipped: int = 0
    """Words between its flags and the program: the image of ``docker run``."""
    short: str = ""
    """Letters of switches of one letter."""


_TORCH = _Launcher(
    frozenset({"standalone", "module", "no_python", "run_path", "virtual_local_rank", "use_env"}), short="m"
)
_ACCELERATE = _Launcher(
    frozenset({
        *("cpu", "debug", "downcast_bf16", "dynamo_use_dynamic", "dynamo_use_fullgraph", "enable_cpu_affinity"),
        *("dynamo_use_regional_compilation", "fp8_use_autocast_during_eval", "module", "multi_gpu", "no_python", "tpu"),
        *("no_tpu_cluster", "tpu_cluster", "tpu_use_sudo", "quiet", "same_network", "use_deepspeed", "use_fsdp"),
        *("use_megatron_lm", "use_parallelism_config", "multi_cpu", "use_mps_device", "use_xpu", "ipex"),
    }),
    short="mq",
)  # fmt: skip
_DEEPSPEED = _Launcher(
    frozenset({
        *("module", "no_python", "no_local_rank", "no_ssh_check", "no_ssh", "force_multi", "elastic_training"),
        *("bind_cores_to_rank", "save_pid"),
    })
)  # fmt: skip
_SLURM = _Launcher(
    frozenset(
        {"exclusive", "pty", "label", "overlap", "unbuffered", "overcommit", "kill_on_bad_exit", "wait", "parsable"}
    ),
    short="luKOsv",
)
_DOCKER = _Launcher(
    frozenset({"rm", "privileged", "init", "detach", "interactive", "tty", "read_only", "no_healthcheck"}),
    named=False,
    skipped=1,
    short="itdP",
)
_UV = _Launcher(
    frozenset({
        *("active", "frozen", "locked", "no_sync", "isolated", "no_project", "quiet", "verbose", "all_extras", "no_dev"),
        *("dev", "script", "module", "offline", "no_config", "exact", "no_capture_output", "live_stream"),
    }),
    named=False,
    short="msqv",
)  # fmt: skip
_PLAIN = _Launcher(frozenset({"preserve_env", "ignore_environment", "login"}), named=False, short="iEHpvae")
_LAUNCHERS: dict[tuple[str, ...], _Launcher] = {
    ("accelerate", "launch"): _ACCELERATE,
    ("torchrun",): _TORCH,
    ("tune", "run"): _TORCH,
    ("deepspeed",): _DEEPSPEED,
    ("srun",): _SLURM,
    ("sbatch",): _SLURM,
    ("mpirun",): _Launcher(frozenset({"allow_run_as_root", "oversubscribe"})),
    ("mpiexec",): _Launcher(frozenset({"allow_run_as_root", "oversubscribe"})),
    ("docker", "run"): _DOCKER,
    ("docker", "exec"): _DOCKER,
    ("singularity", "exec"): _DOCKER._replace(
        switches=frozenset({"nv", "rocm", "cleanenv", "contain", "writable_tmpfs"})
    ),
    ("apptainer", "exec"): _DOCKER._replace(
        switches=frozenset({"nv", "rocm", "cleanenv", "contain", "writable_tmpfs"})
    ),
    ("timeout",): _PLAIN._replace(skipped=1),
    **{
        (tool, "run"): _UV
        for tool in ("uv", "poetry", "pipenv", "pdm", "conda", "mamba", "micromamba", "pixi", "hatch")
    },
    **{
        (tool,): _PLAIN
        for tool in ("nohup", "exec", "eval", "time", "sudo", "env", "nice", "ionice", "stdbuf", "setsid")
    },
    **{(tool,): _PLAIN for tool in ("numactl", "command", "xvfb-run", "bash", "sh", "taskset", "caffeinate")},
}
_MODULES = {
    "torch.distributed.run": _TORCH,
    "torch.distributed.launch": _TORCH,
    "accelerate.commands.launch": _ACCELERATE,
    "deepspeed.launcher.runner": _DEEPSPEED,
}
_PYTHON = re.compile(r"(?:.*/)?(?:python[\d.]*|pypy3?)(?:\.exe)?")
_STARTS = re.compile(r".*\.(?:py|sh)|(?:.*/)?python[\d.]*|torchrun")
"""What is a program and not the value of the flag before it."""
_SUBCOMMAND = re.compile(r"[a-z][a-z0-9_-]*", re.ASCII)


@dataclass
class Launch:
    """A command taken apart."""

    program: list[str] = field(default_factory=list)
    flags: list[tuple[Field, Field | None]] = field(default_factory=list)
    """Flags of launchers, each with its value."""
    words: list[Field] = field(default_factory=list)
    """What a launcher was told to launch."""
    unread: list[Field] = field(default_factory=list)
    """Unknown arguments among those of launchers."""
    environment: list[tuple[str, str]] = field(default_factory=list)
    begin: int = 0
    """How many arguments stand before the program's own."""


def taken_apart(fields: Sequence[Field], raw: Sequence[str]) -> Launch:
    """Launchers and program of a command; ``raw`` names arguments that are not known, as written."""
    launch = Launch()
    while launch.begin < len(fields) and not fields[launch.begin].flag:
        spec, count = _spec(raw, launch.begin)
        if spec is None:
            module = _program(launch, fields, raw)
            spec, count = (_MODULES.get(module), 0) if module else (None, 0)
            if spec is None:
                break
        elif spec.named:
            launch.program.extend(raw[launch.begin : launch.begin + count])
        launch.begin += count
        before = launch.begin
        image = _flags(launch, spec, fields, raw)
        if launch.begin >= len(fields) or fields[launch.begin].flag:
            launch.program.extend(() if spec.named else (*raw[before - count : before], *image))
        elif spec.named and not _spec(raw, launch.begin)[0] and not _is_python(raw, launch.begin):
            launch.words.append(fields[launch.begin])
    return launch


def _spec(raw: Sequence[str], at: int) -> tuple[_Launcher | None, int]:
    name = raw[at].rsplit("/", 1)[-1]
    for words in ((name, *raw[at + 1 : at + 2]), (name,)):
        if words in _LAUNCHERS:
            return _LAUNCHERS[words], len(words)
    return None, 0


def _flags(launch: Launch, spec: _Launcher, fields: Sequence[Field], raw: Sequence[str]) -> list[str]:
    """Go over the launcher's flags, up to the program; the words that are skipped between them."""
    skipped: list[str] = []
    while launch.begin < len(fields):
        if spec.skipped and len(skipped) == spec.skipped:
            break
        here, at = fields[launch.begin], launch.begin
        follows = raw[at + 1] if at + 1 < len(fields) else ""
        launch.begin += 1
        if here.text == "--" and here.known:
            continue
        if here.flag or _is_short(here):
            takes = (
                bool(follows)
                and not _is_switch(here, spec)
                and not fields[at + 1].flag
                and not _STARTS.fullmatch(follows)
            )
            launch.flags.append((here, fields[at + 1] if takes else None))
            launch.begin += takes
        elif ASSIGNMENT.match(here.text) and not spec.named:
            name, _, value = raw[at].partition("=")
            launch.environment.append((name, value))
        elif spec.skipped:
            skipped.append(raw[at])
        elif not here.known and follows and not fields[at + 1].flag:
            launch.unread.append(here)
        else:
            launch.begin -= 1
            break
    return skipped


def _is_switch(flag: Field, spec: _Launcher) -> bool:
    name = flag.text.lstrip("-").replace("-", "_")
    return (
        "=" in name
        or name in spec.switches
        or (not flag.text.startswith("--") and bool(spec.short) and set(name) <= set(spec.short))
    )


def _is_short(field: Field) -> bool:
    return field.known and len(field.text) > 1 and field.text[0] == "-" and field.text[1].isdecimal()


def _program(launch: Launch, fields: Sequence[Field], raw: Sequence[str]) -> str:
    """Take the program's words; the module's name in ``python -m module``."""
    name, module = raw[launch.begin], ""
    launch.program.append(name)
    launch.begin += 1
    if _is_python(raw, launch.begin - 1):
        module = _python(launch, fields, raw)
        if not module:
            return ""
        name = "" if module in _MODULES else module
    follows = raw[launch.begin] if launch.begin < len(fields) else ""
    if name and not re.search(r"[/$]|\.(?:py|sh)$", name) and _SUBCOMMAND.fullmatch(follows):
        launch.program.append(follows)
        launch.begin += 1
    return module


def _is_python(raw: Sequence[str], at: int) -> bool:
    unknown = raw[at].startswith("$") and at + 1 < len(raw) and raw[at + 1].endswith(".py")
    return unknown or bool(_PYTHON.fullmatch(raw[at]))


def _python(launch: Launch, fields: Sequence[Field], raw: Sequence[str]) -> str:
    while launch.begin < len(fields):
        option = raw[launch.begin]
        launch.begin += 1
        if not fields[launch.begin - 1].flag:
            launch.program.append(option)
            return ""
        if option in ("-m", "-W", "-X", "-c") and launch.begin < len(fields):
            launch.begin += 1
            if option == "-m":
                launch.program.append(raw[launch.begin - 1])
                return raw[launch.begin - 1]
        elif option.startswith("--"):
            launch.begin -= 1
            return ""
    return ""
