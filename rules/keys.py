"""Rules about the keys and values of a file, as its trainer reads them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from itertools import takewhile

from lora_advise.document import Entry, Unresolved
from lora_advise.finding import Confidence, Hit, Rewrite, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.slips import slips
from lora_advise.sheet import dotted

NEAR = 0.88
"""How alike a key must be to one of the trainer's to be taken for a slip of the pen; an abbreviation may be less so."""
ABBREVIATED = 0.75


def nearest(key: str, config: Reading, group: tuple[str | int, ...] = ()) -> str | None:
    """The trainer's key that was meant, which the file does not set; None where none looks like it.

    ``group`` is the closed group in which it stands; empty for a key of the file itself.
    """
    known = config.dialect.known | {lens.key for lens in config.dialect.lenses if "." not in lens.key}
    if group and config.dialect.closed is not None:
        known = config.dialect.closed(config.config).get(str(group[0]), frozenset())
    there = {
        str(entry.path[len(group)])
        for entry in config.config.entries
        if entry.path[: len(group)] == group and entry.path != group
    }
    close = difflib.get_close_matches(key, known, 5, ABBREVIATED)
    for other in close:
        alike = difflib.SequenceMatcher(None, key, other).ratio()
        if other not in there and (alike >= NEAR or (len(key) > 5 and other.startswith(key))):
            return other
    return None


def _group(entry: Entry, config: Reading) -> tuple[str | int, ...]:
    """The closed group of a setting's key; empty where it is in none."""
    closed = config.dialect.closed(config.config) if config.dialect.closed else {}
    return entry.path[:1] if len(entry.path) == 2 and entry.path[0] in closed else ()


def _refused(entry: Entry, config: Reading) -> bool:
    """Whether the trainer stops at a key that it does not know, there."""
    return config.dialect.strict or bool(_group(entry, config))


def strangers(config: Reading) -> Iterator[Entry]:
    """Settings whose keys the trainer does not have; where it does not mind them, an empty one is no setting."""
    return (entry for entry in config.strangers if entry.value is not None or _refused(entry, config))


def _consequence(entry: Entry, config: Reading) -> str:
    """What the trainer does with a key that it does not have."""
    if not _refused(entry, config):
        return "leaves it out without a word"
    return "stops with a TypeError" if config.config.shape == "calls" else "stops at it"


def _certain(entry: Entry, config: Reading) -> bool:
    """Whether the trainer surely stops there: its keys hang on its version, which must be the one whose keys are known."""
    if not _refused(entry, config):
        return False
    library, _, newest = config.dialect.newest.partition(" ")
    version = config.versions.get(library)
    return version is not None and _numbers(version)[:2] == _numbers(newest)[:2]


def place(entry: Entry) -> str:
    """The field by which a finding is shown at a setting."""
    return f"config.{dotted(entry.path)}"


def name_of(entry: Entry) -> str:
    """The key as a person reads it."""
    return dotted(entry.path)[:120]


def shown(entry: Entry) -> str:
    """The value as a person reads it."""
    value = entry.value.source if isinstance(entry.value, Unresolved) else entry.text or str(entry.value)
    return repr(value[:60]) if isinstance(value, str) else str(value)


@rule("key-misspelt", "KEY1101", Severity.ERROR, Confidence.FACT, ("file-itself",))
def key_misspelt(config: Reading) -> Iterator[Hit]:
    """A key that the trainer does not have looks like one that it has.

    Why: most trainers drop an unknown key without a word, so the setting that was meant keeps its default and the run is
        another than the file says. Strict ones stop.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alhpa: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 16
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 16
    Evidence: the keys are those that the trainer's own code declares, at the version that docs/dialects.md names.
    Known problems: keys of a plugin, of a fork or of a newer version are not known; only those that look like a known key
        which the file does not set are reported here.
    """
    for entry in strangers(config):
        key = str(entry.path[-1])
        near = nearest(key, config, _group(entry, config))
        if near is None or key in config.meant:
            continue
        owner = f"{entry.path[0]}"[:60] if len(entry.path) > 1 else config.dialect.title
        yield Hit(
            f"{owner} has no key {key[:60]!r} and {_consequence(entry, config)}: did you mean {near}?",
            (place(entry),),
            rewrites=(Rewrite(entry, f"rename {key[:60]} to {near}", key=near),),
        )
    for entry, meant in slips(config):
        key = name_of(entry)
        yield Hit(
            f"{key} looks like {meant} with a slip in it; a script that reads {meant} does not see it.",
            (place(entry),),
            severity=Severity.WARNING,
            rewrites=(Rewrite(entry, f"rename {key} to {meant}", key=meant),),
        )


@rule("key-unknown", "KEY1102", Severity.NOTE, Confidence.FACT, ("file-itself",))
def key_unknown(config: Reading) -> Iterator[Hit]:
    """A key is none of the trainer's, so it has no effect.

    Why: a setting of another trainer, of an older version or of nobody does nothing where it stands. Where the trainer is
        strict, it stops the run.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 16
            cutoff_len: 512
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 16
            sequence_len: 512
    Evidence: the keys are those that the trainer's own code declares, at the version that docs/dialects.md names.
    Known problems: keys of plugins, forks and newer versions are not known, so it is a note, a warning where another trainer
        has the key and this one is not given its own word for it, and an error only where the trainer refuses what it does
        not know. A program's keywords hang on the version of its libraries: without that, a warning.
    """
    for entry in strangers(config):
        key = str(entry.path[-1])
        own = config.meant.get(key)
        own = None if own == key else own
        if own is None and nearest(key, config, _group(entry, config)) is not None:
            continue
        missing = own is not None and config.config.get(*own.split(".")) is None
        severity = Severity.WARNING if missing or _refused(entry, config) else None
        way = f"its word for it is {own}" if own else "remove it, or write what was meant in its own words"
        owner = f"{config.dialect.title} ({config.dialect.newest})" if len(entry.path) < 2 else str(entry.path[0])[:60]
        rename = (Rewrite(entry, f"rename {key[:60]} to {own}", key=own),) if own and missing and "." not in own else ()
        yield Hit(
            f"{key[:60]!r} is no key of {owner}, which {_consequence(entry, config)}; {way}.",
            (place(entry),),
            severity=Severity.ERROR if _certain(entry, config) else severity,
            rewrites=rename,
        )


@rule("key-given-twice", "KEY1103", Severity.WARNING, Confidence.FACT, ("file-itself",))
def key_given_twice(config: Reading) -> Iterator[Hit]:
    """A setting is given twice with different values, and only the last counts.

    Why: YAML readers, argument parsers and Python dictionaries take the last one without a word; who reads the first is
        misled.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0001
            micro_batch_size: 16
            learning_rate: 0.0002
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            micro_batch_size: 16
            learning_rate: 0.0002
    Evidence: PyYAML, argparse and ast.literal_eval all keep the last value.
    Known problems: a value that is given again on purpose, to override an included part, is reported too. A program may well
        set an attribute twice, so programs are not judged.
    """
    if config.config.shape == "calls":
        return
    for entry in config.config.shadowed:
        later = config.config.get(*entry.path)
        if later is None or later.value == entry.value:
            continue
        yield Hit(
            f"{name_of(entry)} is given twice: {shown(entry)} on line {entry.span.line} is replaced by {shown(later)} on line "
            f"{later.span.line}; keep one of them.",
            (f"shadowed.{config.config.shadowed.index(entry)}", place(later)),
        )


@rule("key-renamed", "KEY1104", Severity.WARNING, Confidence.FACT, ("file-itself",))
def key_renamed(config: Reading) -> Iterator[Hit]:
    """A key has another name, or none, in the trainer's newest version.

    Why: an old name stops the run or is dropped after the next upgrade; a file that names the new one works on both sides
        of the change that it was written for.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 16
            evaluation_strategy: "no"
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 16
    Evidence: the versions are the first whose source lacks the old name; docs/dialects.md lists them.
    Known problems: a file for an older version is right with the old name: say which, with --framework or in a requirements
        file beside it. Where no version is known it is a note, and a name that still works is not reported.
    """
    for entry, number in config.outdated:
        change = config.dialect.renamed[number]
        if _older(config.versions.get(change.library), change.since):
            continue
        severity = {"error": Severity.ERROR, "ignored": Severity.WARNING, "deprecated": Severity.NOTE}[change.effect]
        known = config.versions.get(change.library) is not None
        if not known:
            # Nobody says which version runs it, and with an older one the old name is right.
            severity = Severity.NOTE
        if not known and change.effect == "deprecated":
            continue
        does = {"error": "refuses it", "ignored": "drops it", "deprecated": "still takes it"}[change.effect]
        now = f"it is {change.new} now" if change.new else "nothing takes its place"
        note = f" {change.note}" if change.note else ""
        rewrites: tuple[Rewrite, ...] = ()
        there = config.config.get(*change.new.split(".")) if change.new is not None else None
        if there is not None:
            now = f"{change.new} is given too, as {shown(there)}, and counts"
            rewrites = (Rewrite(entry, f"remove {change.old}", drop=True, safe=there.value == entry.value),)
        elif change.new is not None:
            words, safe = f"rename {change.old} to {change.new}", known and not change.note
            rewrites = (Rewrite(entry, words, key=change.new, safe=safe),)
        yield Hit(
            f"{change.library} {change.since} and later {does}: {change.old}; {now}.{note}",
            (place(entry),), severity=severity, rewrites=rewrites,
        )  # fmt: skip


def _older(version: str | None, since: str) -> bool:
    """Whether a version that is known lies before the change."""
    return version is not None and _numbers(version) < _numbers(since)


def _numbers(version: str) -> tuple[int, ...]:
    """The release as numbers, up to the first part without digits."""
    digits = ("".join(c for c in part if c.isdigit()) for part in version.split("+", maxsplit=1)[0].split("."))
    return tuple(map(int, takewhile(bool, digits)))


KEY_RULES = (key_misspelt, key_unknown, key_given_twice, key_renamed)
