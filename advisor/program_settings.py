"""Programs that train: the calls of a Python file or notebook, gathered into one config for each trainer in it.

In such a config the trainer's arguments stand under their bare names (``learning_rate``), whichever class they were given
to; those of the other calls stand behind the call's role: ``LoraConfig.r``, ``get_peft_model.r``, ``from_pretrained.dtype``,
``BitsAndBytesConfig.load_in_4bit``, ``trainer.peft_config``. The calls themselves keep their names (``SFTConfig``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from lora_advise.document import Config, Entry, Path, Span, Unresolved

ARGUMENTS, TRAINER, LORA, WRAP, LOADER, QUANT, MASK = (
    "", "trainer", "LoraConfig", "get_peft_model", "from_pretrained", "BitsAndBytesConfig", "train_on_responses_only",
)  # fmt: skip
"""Roles of calls, as their settings' paths begin; the trainer's arguments have none."""
_TRL_CONFIGS = re.compile(
    r"(?:SFT|DPO|KTO|ORPO|CPO|GRPO|RLOO|PPO|Reward|GKD|GOLD|BCO|PRM|OnlineDPO|NashMD|XPO|SDFT|SDPO|TPO|AsyncGRPO)Config"
)
_NO_MODEL = re.compile(r"Tokenizer|Processor|FeatureExtractor|Config|Peft|Scheduler|Pipeline|^VAE|Dataset|Tool")
_MOST_HOPS = 8


class Call(NamedTuple):
    """One call of the program."""

    label: str
    """As the reader writes it, with its number: ``SFTConfig#2``."""
    own: Entry
    entries: tuple[Entry, ...]

    @property
    def callee(self) -> str:
        """``SFTConfig``, ``FastLanguageModel.get_peft_model``."""
        return self.label.partition("#")[0]

    def get(self, *names: str | int) -> Entry | None:
        """The first of these arguments that the call has."""
        return next((e for name in names for e in self.entries if e.path[1:] == (name,)), None)


class _Run(NamedTuple):
    chosen: dict[str, str]
    """Roles by the label of the call that has it."""
    at: int


def role_of(callee: str) -> str | None:
    """What a call is for; None for all those that are none of a run's own parts."""
    owner, _, last = callee.rpartition(".")
    if last.endswith("TrainingArguments") or _TRL_CONFIGS.fullmatch(last):
        return ARGUMENTS
    if last.endswith("Trainer") and not owner:
        return TRAINER
    if last in (LORA, QUANT, WRAP, MASK):
        return last
    if last == LOADER and owner and not _NO_MODEL.search(owner):
        return LOADER
    return None


def arguments_class(config: Config) -> str | None:
    """The class that the trainer's arguments are given to; None where the program shows no such call."""
    return next((str(e.path[0]) for e in _own(config) if role_of(str(e.path[0])) == ARGUMENTS), None)


def trainer_class(config: Config) -> str | None:
    """The trainer's class; None for a program without one."""
    return next((str(e.path[0]) for e in _own(config) if role_of(str(e.path[0])) == TRAINER), None)


def called(config: Config, *names: str) -> tuple[str, ...]:
    """The run's calls whose last part is one of these, with their owners: ``FastLanguageModel.get_peft_model``."""
    labels = (str(e.path[0]).partition("#") for e in _own(config))
    callees = (callee for callee, mark, _ in labels if not mark or role_of(callee) is None)
    return tuple(dict.fromkeys(c for c in callees if c.rpartition(".")[2] in names))


def is_open(config: Config, role: str) -> bool:
    """Whether the program gives that call arguments that stand only when it runs (``SFTConfig(**settings)``)."""
    marks = [str(e.path[0]) for e in _own(config) if role_of(str(e.path[0]).partition("#")[0]) == role]
    return any(
        re.search(rf"\s{re.escape(mark.partition('#')[0])}(?:#\d+)?\(\*", note)
        for mark in marks
        for note in config.notes
    )


def _own(config: Config) -> Iterator[Entry]:
    return (e for e in config.entries if len(e.path) == 1 and isinstance(e.value, dict) and e.text == "")


def runs_of(config: Config) -> tuple[Config, ...]:
    """One config for each trainer of a program, one for each call of arguments where there is no trainer, else one.

    Configs of other documents are their own only run.
    """
    if config.shape != "calls":
        return (config,)
    calls = _calls(config)
    trainers = [c for c in calls if role_of(c.callee) == TRAINER]
    runs = [_of_trainer(trainer, calls) for trainer in trainers]
    if not trainers:
        runs = [_of_arguments(c, calls) for c in calls if role_of(c.callee) == ARGUMENTS]
    runs = runs or [_of_arguments(None, calls)]
    return tuple(_config(config, run, calls, alone=len(runs) == 1) for run in runs)


def _calls(config: Config) -> list[Call]:
    """The calls in the order of the text; fields of classes and options of a command line are none."""
    owners = {e.path[0]: e for e in _own(config)}
    inner: dict[Any, list[Entry]] = {label: [] for label in owners}
    for entry in config.entries:
        if len(entry.path) > 1 and entry.path[0] in inner:
            inner[entry.path[0]].append(entry)
    return [Call(str(label), owners[label], tuple(found)) for label, found in inner.items()]


def _of_trainer(trainer: Call, calls: list[Call]) -> _Run:
    """The parts that a trainer is given, found by the values that they are bound to, else by the order of the text."""
    at = trainer.own.span.start
    chosen = {trainer.label: TRAINER}
    stated = trainer.get("args", "config", 1)
    arguments = _made(stated, calls)
    if arguments is None and stated is not None and stated.path[1] != 1:
        arguments = _before([c for c in calls if role_of(c.callee) == ARGUMENTS], at, sole=True)
    _choose(chosen, arguments, ARGUMENTS)
    _model(chosen, trainer.get("model", 0), calls, at)
    _choose(chosen, _made(trainer.get("peft_config"), calls), LORA)
    if LORA not in chosen.values() and _adapts(trainer, chosen, calls):
        _choose(chosen, _before([c for c in calls if role_of(c.callee) == LORA], at), LORA)
    _quantised(chosen, trainer, calls, at)
    for call in calls:
        if role_of(call.callee) == MASK and _masks(call, trainer, calls):
            _choose(chosen, call, MASK)
    return _Run(chosen, at)


def _of_arguments(arguments: Call | None, calls: list[Call]) -> _Run:
    """A run whose trainer is not to be seen: the parts that stand before its arguments, or those that there are."""
    at = arguments.own.span.start if arguments else max((c.own.span.start for c in calls), default=0) + 1
    chosen: dict[str, str] = {}
    _choose(chosen, arguments, ARGUMENTS)
    for role in (WRAP, LORA, LOADER, QUANT, MASK):
        _choose(chosen, _before([c for c in calls if role_of(c.callee) == role], at), role)
    return _Run(chosen, at)


def _choose(chosen: dict[str, str], call: Call | None, role: str) -> None:
    if call is not None and role not in chosen.values() and role_of(call.callee) == role:
        chosen[call.label] = role


def _made(entry: Entry | None, calls: Iterable[Call]) -> Call | None:
    """The call whose result a setting is."""
    if entry is None:
        return None
    place = entry.via or entry.span
    return next((c for c in calls if (c.own.span.start, c.own.span.end) == (place.start, place.end)), None)


def _before(calls: list[Call], at: int, *, sole: bool = False) -> Call | None:
    """The last of them before that place, else the first; with ``sole`` only one that nothing else could be."""
    if sole and len(calls) > 1:
        return None
    earlier = [c for c in calls if c.own.span.start < at]
    return earlier[-1] if earlier else next(iter(calls), None)


def _model(chosen: dict[str, str], entry: Entry | None, calls: list[Call], at: int) -> None:
    """From the trainer's model through the calls that it went through to the one that loaded it."""
    for _ in range(_MOST_HOPS):
        call = _made(entry, calls)
        if call is None:
            break
        at = call.own.span.start
        for role in (WRAP, LOADER):
            _choose(chosen, call, role)
        for argument in (call.get("peft_config"), call.get(1)):
            _choose(chosen, _made(argument, calls), LORA)
        entry = call.get("model", 0)
    if entry is not None and isinstance(entry.value, str):
        return
    if LOADER not in chosen.values():
        if WRAP not in chosen.values():
            _choose(chosen, _before([c for c in calls if role_of(c.callee) == WRAP], at), WRAP)
        _choose(chosen, _before([c for c in calls if role_of(c.callee) == LOADER], at), LOADER)


def _adapts(trainer: Call, chosen: dict[str, str], calls: list[Call]) -> bool:
    """Whether the program puts an adapter on the model in a way that the trail to its configuration does not show."""
    stated = trainer.get("peft_config")
    if stated is not None:
        return stated.value is not None
    if WRAP in chosen.values():
        return True
    ways = ("add_adapter", "LoraModel", "inject_adapter_in_model")
    return any(c.callee.rpartition(".")[2] in ways for c in calls)


def _quantised(chosen: dict[str, str], trainer: Call, calls: list[Call], at: int) -> None:
    """The quantisation that the loader or the trainer is given; any that there is where no loader is to be seen."""
    loader = next((c for c in calls if chosen.get(c.label) == LOADER), None)
    arguments = next((c for c in calls if chosen.get(c.label) == ARGUMENTS), None)
    stated = [c.get("quantization_config") for c in (loader, trainer) if c is not None]
    if arguments is not None:
        inside = (arguments.label, "model_init_kwargs", "quantization_config")
        stated.append(next((e for e in arguments.entries if e.path == inside), None))
    given = [e for e in stated if e is not None and e.value is not None]
    for entry in given:
        _choose(chosen, _made(entry, calls), QUANT)
    if not given and loader is None:
        _choose(chosen, _before([c for c in calls if role_of(c.callee) == QUANT], at), QUANT)


def _masks(call: Call, trainer: Call, calls: list[Call]) -> bool:
    """Whether it is that trainer whose prompts a call masks: the one that it is given, else the last before it."""
    made = _made(call.get("trainer", 0), calls)
    if made is not None and role_of(made.callee) == TRAINER:
        return made.label == trainer.label
    earlier = [c for c in calls if role_of(c.callee) == TRAINER and c.own.span.start < call.own.span.start]
    return bool(earlier) and earlier[-1].label == trainer.label


def _config(config: Config, run: _Run, calls: list[Call], *, alone: bool) -> Config:
    """The config of one run: its own parts under their roles, what belongs to no run as it is, other runs' parts not at all."""
    labels = {c.label: c for c in calls}

    def placed(entry: Entry) -> Entry | None:
        path = _path(entry.path, run, labels)
        return None if path is None else entry._replace(path=path)

    entries = tuple(e for e in map(placed, config.entries) if e is not None)
    chosen = [e for e in config.shadowed if str(e.path[0]) in run.chosen]
    shadowed = tuple(e for e in map(placed, chosen) if e is not None)
    return config._replace(
        entries=entries, shadowed=shadowed, span=config.span if alone else _span(labels, run, config)
    )


def _path(path: Path, run: _Run, labels: dict[str, Call]) -> Path | None:
    label = str(path[0])
    call = labels.get(label)
    role = None if call is None else role_of(call.callee)
    if call is None or role is None:
        return path
    if label not in run.chosen:
        if role in (LOADER, QUANT):
            return (label if "#" in label else f"{label}#1", *path[1:])
        return None
    if len(path) == 1:
        return (call.callee,)
    if role == ARGUMENTS:
        return ("output_dir", *path[2:]) if path[1] == 0 else path[1:] if isinstance(path[1], str) else None
    return None if role in (LORA, QUANT) and isinstance(path[1], int) else (role, *path[1:])


def _span(labels: dict[str, Call], run: _Run, config: Config) -> Span:
    """From the first to the last of the run's own calls."""
    spans = [labels[label].own.span for label in run.chosen]
    if not spans:
        return config.span
    return min(spans)._replace(end=max(s.end for s in spans))


def is_known(entry: Entry | None) -> bool:
    """Whether a setting is there with a value that the text says."""
    return entry is not None and entry.value is not None and not isinstance(entry.value, Unresolved)
