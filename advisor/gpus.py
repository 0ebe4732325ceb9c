"""Which GPU is meant: names, sizes and counts as people write them, and what is known of each card.

The table holds 146 devices (source gpu-datasheets; every card lists its own sources in ``data/gpus.json``). Memory is
what the driver reports where that was found, else the size on the box.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import HardwareFacts
from lora_advise.package_data import read_json

TABLE_SIZES = (12, 16, 24, 48, 80, 141)
"""Sizes in GB of the usual cards, for tables that show every size."""
TYPICAL_CARDS: dict[int, tuple[str, ...]] = {
    12: ("RTX 3060 12GB", "RTX 4070"),
    16: ("T4", "RTX 4080", "RTX 5060 Ti 16GB"),
    24: ("RTX 3090", "RTX 4090", "A10G", "L4"),
    48: ("RTX A6000", "L40S", "RTX 6000 Ada"),
    80: ("A100 80GB", "H100 80GB"),
    141: ("H200",),
}
"""Cards that people mean by each of the table's sizes."""
MOST_DEVICES = 4096
"""More devices than this in one run are taken for a typing mistake."""

_SIZE = re.compile(r"(\d{1,4}(?:\.\d+)?) *(?:gib|gb|g)(?: *(?:card|gpu|vram))?")
_COUNT_FIRST = re.compile(r"(\d{1,4}) *[x×*] *(.+)")
_COUNT_LAST = re.compile(r"(.+?) *[x×*] *(\d{1,4})")
_COUNT_SPACE = re.compile(r"(\d{1,2}) +(.*[a-z].*)")
_VENDORS = {
    "nvidia",
    "geforce",
    "amd",
    "radeon",
    "instinct",
    "intel",
    "apple",
    "tesla",
    "huawei",
    "gpu",
    "gpus",
    "card",
}

Kind = Literal["cuda", "rocm", "xpu", "mps", "hpu", "npu", "cpu"]


@dataclass(frozen=True, slots=True)
class Card:
    """One row of the table. Memory in GB as sold and MiB as reported; bandwidth in GB/s; dense bf16 rate in TFLOP/s."""

    name: str
    aliases: tuple[str, ...]
    kind: Kind
    card_class: str
    memory_gb: int
    memory_mib: int | None
    capability: str | None
    bf16: bool
    fp8: bool
    flash_attention_2: bool | None
    bitsandbytes_4bit: bool | None
    bandwidth_gb_s: float | None
    bf16_tflops: float | None
    joined: bool | None
    memory_options: tuple[int, ...]
    unified: bool
    year: int | None
    verified: bool
    sources: tuple[str, ...]

    @property
    def memory_gib(self) -> float:
        """GiB as the driver reports them; the size on the box where no report was found."""
        return round(self.memory_mib / 1024, 2) if self.memory_mib else float(self.memory_gb)

    def facts(self, count: int = 1) -> HardwareFacts:
        """The card as a section of the facts."""
        return HardwareFacts(
            name=self.name, count=count, memory_gib=self.memory_gib, compute_capability=self.capability, bf16=self.bf16,
            fp8=self.fp8, flash_attention_2=self.flash_attention_2, bitsandbytes_4bit=self.bitsandbytes_4bit,
            bandwidth_gb_s=self.bandwidth_gb_s, bf16_tflops=self.bf16_tflops, kind=self.kind, nvlink=self.joined,
        )  # fmt: skip


def _card(row: dict[str, Any], sources: list[str]) -> Card:
    row["card_class"] = row.pop("class")
    row["aliases"], row["memory_options"] = tuple(row["aliases"]), tuple(row["memory_options"])
    row["sources"] = tuple(sources[i] for i in row["sources"])
    return Card(**row)


@cache
def cards() -> tuple[Card, ...]:
    """Every card of the table, in its order."""
    table = read_json("gpus.json")
    return tuple(_card(dict(zip(table["columns"], row, strict=True)), table["sources"]) for row in table["cards"])


def list_gpus() -> tuple[tuple[str, ...], ...]:
    """Name, GiB, compute capability, bf16, fp8, GB/s and dense bf16 TFLOP/s of every card, as text."""
    return tuple(
        (
            card.name, f"{card.memory_gib:.1f}", card.capability or "-",
            "yes" if card.bf16 else "no", "yes" if card.fp8 else "no",
            f"{card.bandwidth_gb_s:g}" if card.bandwidth_gb_s else "-",
            f"{card.bf16_tflops:g}" if card.bf16_tflops else "-",
        )
        for card in cards()
    )  # fmt: skip


def card_of_size(gb: float) -> HardwareFacts:
    """A card of which only the size is known: nothing is assumed of its capabilities.

    GB as sold are taken as GiB, except where every card of that size reports less (141 GB are 140.4 GiB; source
    gpu-datasheets).
    """
    if not 1 <= gb <= 1024:
        raise LoraAdviseError(
            f"A GPU with {gb:g} GB: give the memory of one device between 1 and 1024 GB, such as 24GB."
        )
    reported = [card.memory_gib for card in cards() if card.memory_gb == gb and card.memory_mib]
    return HardwareFacts(name=f"{gb:g} GB card", memory_gib=min(float(gb), max(reported, default=float(gb))))


def resolve_hardware(gpu: str | None, gpus: str | None) -> HardwareFacts | None:
    """The devices that ``--gpu`` and ``--gpus`` name together; None when neither is given.

    ``gpu`` is a name or a size, with or without a count; ``gpus`` a count, or count and name. A count alone is taken of
    the GPUs of this machine. Raises LoraAdviseError for unknown names, and where the two contradict each other.
    """
    first, second = _split("--gpu", gpu), _split("--gpus", gpus)
    if first is None and second is None:
        return None
    count_1, name_1 = first or (None, None)
    count_2, name_2 = second or (None, None)
    if count_1 and count_2 and count_1 != count_2:
        raise LoraAdviseError(
            f"--gpu {_shown(gpu)} names {count_1} devices and --gpus {_shown(gpus)} {count_2}; give one count."
        )
    count = count_1 or count_2 or 1
    found = [_named(flag, name) for flag, name in (("--gpu", name_1), ("--gpus", name_2)) if name]
    if not found:
        return _local(count)
    if found[0] != found[-1]:
        raise LoraAdviseError(
            f"--gpu {_shown(gpu)} is {found[0].name} and --gpus {_shown(gpus)} is {found[1].name}; "
            "name one kind of device, a run needs equal ones."
        )
    return found[0].changed({"count": count})


def _shown(text: str | None) -> str:
    clean = "".join(c if c.isprintable() else "?" for c in text or "")
    return clean if len(clean) <= 60 else clean[:57] + "..."


def _split(flag: str, text: str | None) -> tuple[int | None, str | None] | None:
    """Count and name in what one flag says; either may be missing."""
    if text is None:
        return None
    words = " ".join(text.lower().replace("_", " ").split())
    if not words or len(words) > 200:
        raise LoraAdviseError(
            f"{flag} {_shown(text)}: name a device, such as {'RTX4090' if flag == '--gpu' else '2xRTX4090'} or 24GB."
        )
    if _SIZE.fullmatch(words):
        return None, words
    if words.isdecimal() and flag == "--gpus":
        return _count(flag, words), None
    if _key(words) in _by_key():
        return None, words
    if words.isdecimal():
        raise LoraAdviseError(
            f"{flag} {_shown(words)}: write {_shown(words)}GB for a memory size, "
            f"--gpus {_shown(words)} for a number of devices."
        )
    for pattern, count, name in ((_COUNT_FIRST, 1, 2), (_COUNT_LAST, 2, 1), (_COUNT_SPACE, 1, 2)):
        match = pattern.fullmatch(words)
        if match and (_SIZE.fullmatch(match[name]) or find_card(match[name]) is not None):
            return _count(flag, match[count]), match[name]
    match = _COUNT_FIRST.fullmatch(words)
    return (_count(flag, match[1]), match[2]) if match else (None, " ".join(text.split()))


def _count(flag: str, digits: str) -> int:
    count = int(digits) if len(digits) <= 6 else MOST_DEVICES + 1
    if not 1 <= count <= MOST_DEVICES:
        raise LoraAdviseError(f"{flag} {_shown(digits)}: the number of devices lies between 1 and {MOST_DEVICES}.")
    return count


def _local(count: int) -> HardwareFacts:
    from lora_advise.local_gpu import probe

    here = probe()
    if here is None:
        raise LoraAdviseError(
            f"--gpus {count}: of which device? No GPU was found here; give --gpus {count}xRTX4090, or --gpu NAME too."
        )
    if here.count < count:
        raise LoraAdviseError(
            f"--gpus {count}: this machine has {here.count} x {here.name}; name others as --gpus {count}xNAME."
        )
    return here.changed({"count": count})


def _named(flag: str, name: str) -> HardwareFacts:
    size = _SIZE.fullmatch(name)
    if size:
        return card_of_size(float(size[1]))
    card = find_card(name)
    if card is not None:
        return card.facts()
    close = _closest(name.lower())
    near = f" (near: {', '.join(close)})" if close else ""
    raise LoraAdviseError(
        f"{flag} {_shown(name)}: no one GPU of that name is known{near}; "
        "spell the name out, give the memory of one device such as 24GB, or see `lora-advise gpus`."
    )


def _words(text: str) -> list[str]:
    """The words of a name without vendors; sizes in one spelling (``80 GiB`` is ``80gb``)."""
    spaced = re.sub(r"(\d) *(?:gib|gb|g)\b", r"\1gb ", text.lower().replace("hbm3", " ").replace("(r)", " "))
    return [word for word in re.findall(r"[a-z0-9.+]+", spaced) if word not in _VENDORS]


def _key(text: str) -> str:
    return "".join(_words(text))


@cache
def _by_key() -> dict[str, Card]:
    """Every spelling without blanks; a name wins over an alias, an earlier card over a later one."""
    names = {_key(card.name): card for card in reversed(cards())}
    aliases = {_key(alias): card for card in reversed(cards()) for alias in card.aliases}
    return {**aliases, **names}


def find_card(name: str) -> Card | None:
    """The card of that name or alias, loosely spelled; None when none fits, or several that no alias decides.

    An alias decides where a name fits several cards (``A100`` is the A100 SXM4 80GB); a size after the name chooses
    among its variants, SXM before PCIe. Apple chips without a size count as the smallest one sold.
    """
    found, words = _by_key().get(_key(name)), _words(name)
    size = next((int(word[:-2]) for word in words if re.fullmatch(r"\d{1,4}gb", word)), None)
    if found is None and size is not None:
        base = [word for word in words if not re.fullmatch(r"\d+(\.\d+)?gb", word)]
        found = _sized(base, size) if base else None
    elif found is None and any(len(word) > 2 and re.search(r"\d", word) for word in words):
        fitting = [card for card in cards() if set(words) <= set(_words(card.name))]
        found = fitting[0] if len(fitting) == 1 else None
    if found is not None and found.memory_options:
        return _with_memory(found, size)
    return found


def _sized(base: list[str], size: int) -> Card | None:
    """The variant of a card that has that many GB, as sold or as reported."""

    def fits(card: Card) -> bool:
        spellings = [_words(card.name), *(_words(alias) for alias in card.aliases)]
        named = set(base) <= set(spellings[0]) or any("".join(base) == "".join(spelling) for spelling in spellings)
        return named and (size in (card.memory_gb, round(card.memory_gib)) or size in card.memory_options)

    default = _by_key().get("".join(base))
    fitting = sorted(
        (card for card in cards() if fits(card)), key=lambda card: (card != default, "SXM" not in card.name)
    )
    return fitting[0] if fitting else None


def _with_memory(card: Card, size: int | None) -> Card | None:
    """A chip that is sold with several sizes: the one named, else the smallest."""
    if size is not None and size not in card.memory_options:
        return None
    gb = size or min(card.memory_options)
    return replace(card, name=f"{card.name} {gb} GB", memory_gb=gb)


def _closest(name: str) -> list[str]:
    import difflib

    keys = difflib.get_close_matches(_key(name), list(_by_key()), n=8, cutoff=0.5)
    words = set(_words(name))
    shared = [card.name for card in cards() if len(words & set(_words(card.name))) > len(words) / 2]
    return list(dict.fromkeys(shared + [_by_key()[key].name for key in keys]))[:4]
