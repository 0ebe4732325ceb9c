"""How one trainer spells the facts: its keys, what each means, and what it does where a file is silent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from lora_advise.document import Config
    from lora_advise.sheet import Sheet

Kind = Literal["number", "count", "flag", "word", "names", "any"]
"""number: int or float; count: a whole number; flag: true or false; names: a list, or one text with commas."""


class Lens(NamedTuple):
    """One key of a trainer."""

    name: str
    """The fact that it sets (``lora.r``), or a name without a dot for a setting that only rules about files look at
    (``fp16``) or that a step of the dialect turns into facts. The same idea has the same name in every dialect."""
    key: str
    """As the newest version spells it; dots for nesting (``bnb_config_kwargs.bnb_4bit_quant_type``)."""
    kind: Kind = "any"
    former: tuple[str, ...] = ()
    """Older spellings that mean the same and are still read by us."""
    write: Callable[[Any], Any] | None = None
    """The fact's value as this trainer writes it; as it is where None."""
    read: Callable[[Any], Any] | None = None
    """The trainer's value as the fact has it, after ``kind``."""
    choices: tuple[str, ...] = ()
    """Every word that the key takes, where the trainer stops at any other; empty where it takes more than these."""


class Renamed(NamedTuple):
    """A key that a version renamed or dropped."""

    old: str
    new: str | None
    """None where nothing took its place."""
    library: str
    since: str
    """The first version of that library on which the old one has that effect."""
    effect: Literal["error", "ignored", "deprecated"]
    """What the newest version does with the old one."""
    source: str
    note: str = ""


class Step(NamedTuple):
    """Facts that hang on several keys, or on none. When it meets a value that is not known, its facts are unknown."""

    facts: tuple[str, ...]
    run: Callable[[Sheet], None]


class Dialect(NamedTuple):
    """A trainer's way to write a run."""

    name: str
    """``axolotl``; what ``--dialect`` and ``--framework`` take."""
    title: str
    """``Axolotl``."""
    framework: str
    """The stack that runs it, as ``StackFacts.framework`` names it."""
    lenses: tuple[Lens, ...]
    steps: tuple[Step, ...]
    defaults: Mapping[str, Any]
    """Facts that the trainer sets where the file is silent: its own defaults, and those of the libraries below it."""
    known: frozenset[str]
    """Further keys that the trainer has and that say nothing to us; empty where it takes any key."""
    recognise: Callable[[Config], int]
    """How many keys of the config are this trainer's own; 0 where it is not this trainer's."""
    renamed: tuple[Renamed, ...] = ()
    text_numbers: Literal["fine", "quoted", "break"] = "fine"
    """Whether a number in quotes breaks the run, or also one that YAML 1.1 reads as text (``3e-4``)."""
    strict: bool = False
    """Whether the trainer refuses an unknown key."""
    written: Literal["yaml", "json", "command", "python"] = "yaml"
    """How a new setting is put into a file of it."""
    newest: str = ""
    """The newest version whose keys these are, with the library's name: ``axolotl 0.18.0``."""
    known_in: Callable[[Config], frozenset[str]] | None = None
    """For programs, whose keys hang on the classes that they call: ``known`` for one config."""
    prepare: Callable[[Config], Config] | None = None
    """What the trainer does to a config before it reads any setting, such as filling in ``${other.key}``."""
    closed: Callable[[Config], Mapping[str, frozenset[str]]] | None = None
    """Groups of a config whose inner keys are all known, with these keys: the trainer refuses any other in there."""
