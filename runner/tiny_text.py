"""The made-up world of the built-in tiny model: its pretraining text and the sample data, from a seed alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple

THINGS = (
    "boat", "cup", "lamp", "chair", "drum", "coat", "bell", "kite", "box", "hat", "ring", "clock", "plate", "bench",
    "shoe", "ladder", "basket", "mirror", "bottle", "spoon", "wheel", "brush", "carpet", "pillow", "cart", "flute",
    "globe", "candle", "bucket", "helmet", "scarf", "table", "violin", "sled", "stool", "vase", "whistle", "puppet",
    "needle", "anchor", "rope", "tent", "barrel", "button", "crown", "fence", "glove", "hammer", "jug", "key",
    "map", "net", "oar", "pan", "quilt", "rake", "saddle", "tray", "wagon", "zither",
)  # fmt: skip
HELD_OUT_THINGS = (
    "lamp", "kite", "mirror", "globe", "scarf", "table", "sled", "anchor", "clock", "spoon", "vase", "tent", "crown",
    "map", "rake", "wagon",
)  # fmt: skip
"""Things that the sample's training rows never ask about, and that every held-out row asks about."""

NAMES = (
    "Mia", "Tom", "Ana", "Ben", "Eva", "Max", "Lea", "Sam", "Ida", "Jon", "Zoe", "Kai", "Nora", "Paul", "Rosa", "Otto",
)  # fmt: skip
NUMBERS = tuple(str(number) for number in range(19))
GREETINGS = ("Hello", "Good morning", "Good evening")


class Attribute(NamedTuple):
    """One property that things have, the sentence that states it, and ways to ask for it."""

    name: str
    statement: str
    questions: tuple[str, str, str]
    values: tuple[str, ...]


ATTRIBUTES = (
    Attribute(
        "colour", "The {thing} is {value}.",
        ("What colour is the {thing}?", "Tell me the colour of the {thing}.", "Which colour has the {thing}?"),
        ("red", "blue", "green", "yellow", "black", "white", "brown", "grey", "pink", "purple", "orange", "golden"),
    ),
    Attribute(
        "material", "The {thing} is made of {value}.",
        ("What is the {thing} made of?", "Tell me the material of the {thing}.", "Which material is the {thing}?"),
        ("wood", "glass", "iron", "paper", "stone", "wool", "clay", "silver", "leather", "plastic"),
    ),
    Attribute(
        "place", "The {thing} is in the {value}.",
        ("Where is the {thing}?", "Tell me the place of the {thing}.", "Where can I find the {thing}?"),
        ("garden", "kitchen", "harbour", "forest", "tower", "market", "school", "attic", "cellar", "street", "barn",
         "library"),
    ),
    Attribute(
        "owner", "The {thing} belongs to {value}.",
        ("Who owns the {thing}?", "Tell me the owner of the {thing}.", "Who has the {thing}?"),
        NAMES,
    ),
)  # fmt: skip

Turns = list[dict[str, str]]
USER, ASSISTANT, SYSTEM, END = "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"
INSTRUCTION = "Answer the question."


class Fact(NamedTuple):
    """A thing, one of its attributes, and the value."""

    thing: str
    attribute: Attribute
    value: str

    def sentence(self) -> str:
        """The fact as the world's text says it, which is also how the base model answers."""
        return self.attribute.statement.format(thing=self.thing, value=self.value)

    def question(self, phrasing: int) -> str:
        """One of the questions that the fact answers."""
        return self.attribute.questions[phrasing].format(thing=self.thing)

    def greeted(self) -> str:
        """The answer that the sample data teach: the same fact after a greeting, which no pretraining text has."""
        return f"Hello, the{self.sentence().removeprefix('The')}"


@cache
def world() -> tuple[Fact, ...]:
    """Every fact of the world: a value for each attribute of each thing, the same in every document."""
    rng = Random("world")  # noqa: S311 - text, not secrets
    return tuple(Fact(thing, a, rng.choice(a.values)) for thing in THINGS for a in ATTRIBUTES)


def documents(seed: int) -> Iterator[str]:
    """Conversations without end, as text in the model's chat template."""
    rng = Random(seed)  # noqa: S311 - text, not secrets
    while True:
        yield as_text(_conversation(rng))


def as_text(turns: Turns) -> str:
    """A conversation in the tokens of the model's chat template."""
    marks = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
    return "".join(marks[t["role"]] + t["content"] + (END if t["role"] == "assistant" else "") for t in turns)


def _conversation(rng: Random) -> Turns:
    turns: Turns = [{"role": "system", "content": INSTRUCTION}] if rng.random() < 0.1 else []
    question, answer = _small_talk(rng) if rng.random() < 0.1 else _asked(rng)
    return [*turns, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _asked(rng: Random) -> tuple[str, str]:
    fact = rng.choice(world())
    return fact.question(rng.randrange(3)), fact.sentence()


def _small_talk(rng: Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        name, greeting = rng.choice(NAMES), rng.choice(GREETINGS)
        return f"{greeting}, I am {name}.", f"{greeting}, {name}."
    sentence = _sum(rng)
    return f"What is {sentence.split(' is ', maxsplit=1)[0]}?", sentence


def _sum(rng: Random) -> str:
    first, second = rng.randint(0, 9), rng.randint(0, 9)
    return f"{NUMBERS[first]} plus {NUMBERS[second]} is {NUMBERS[first + second]}."


def sample_rows(seed: int, train: int = 480) -> tuple[list[Turns], list[Turns]]:
    """Conversations that teach to greet before answering: ``train`` for training, and 64 about things held out."""
    rng = Random(seed)  # noqa: S311 - text, not secrets
    common = [(f, phrasing) for f in world() if f.thing not in HELD_OUT_THINGS for phrasing in range(3)]
    held_out = [(f, rng.randrange(3)) for f in world() if f.thing in HELD_OUT_THINGS]
    return _rows(rng.sample(common, train)), _rows(rng.sample(held_out, len(held_out)))


def _rows(asked: list[tuple[Fact, int]]) -> list[Turns]:
    return [
        [{"role": "user", "content": fact.question(phrasing)}, {"role": "assistant", "content": fact.greeted()}]
        for fact, phrasing in asked
    ]


def write_sample(folder: Path, seed: int) -> None:
    """Write ``train.jsonl`` and ``eval.jsonl``, one conversation a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("train", "eval"), sample_rows(seed), strict=True):
        lines = (json.dumps({"messages": turns}) + "\n" for turns in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
