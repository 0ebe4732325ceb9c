"""The made-up world of the built-in tiny model: its pretraining text and the sample data, from a seed alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

THINGS = (
    "boat", "cup", "lamp", "chair", "drum", "coat", "bell", "kite", "box", "hat", "ring", "clock", "plate", "bench",
    "shoe", "ladder", "basket", "mirror", "bottle", "spoon", "wheel", "brush", "carpet", "pillow", "cart", "flute",
    "globe", "candle", "bucket", "helmet", "scarf", "table", "violin", "sled", "stool", "vase", "whistle", "puppet", "needle", "anchor",
)  # fmt: skip
HELD_OUT_THINGS = ("lamp", "kite", "mirror", "globe", "scarf", "table", "sled", "anchor")
"""Things that the sample's training rows never ask about, and that every held-out row asks about."""

NAMES = (
    "Mia", "Tom", "Ana", "Ben", "Eva", "Max", "Lea", "Sam", "Ida", "Jon", "Zoe", "Kai", "Nora", "Paul", "Rosa", "Otto",
)  # fmt: skip
NUMBERS = tuple(str(number) for number in range(19))
GREETINGS = ("Hello", "Good morning", "Good evening")


class Attribute(NamedTuple):
    """One property that things have, and the sentences that speak of it."""

    name: str
    statement: str
    question: str
    values: tuple[str, ...]


ATTRIBUTES = (
    Attribute("colour", "The {thing} is {value}.", "What colour is the {thing}?",
              ("red", "blue", "green", "yellow", "black", "white", "brown", "grey", "pink", "purple", "orange",
               "golden")),
    Attribute("material", "The {thing} is made of {value}.", "What is the {thing} made of?",
              ("wood", "glass", "iron", "paper", "stone", "wool", "clay", "silver", "leather", "plastic")),
    Attribute("place", "The {thing} is in the {value}.", "Where is the {thing}?",
              ("garden", "kitchen", "harbour", "forest", "tower", "market", "school", "attic", "cellar", "street",
               "barn", "library")),
    Attribute("owner", "The {thing} belongs to {value}.", "Who owns the {thing}?", NAMES),
)  # fmt: skip

Turns = list[dict[str, str]]
USER, ASSISTANT, SYSTEM, END = "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"
INSTRUCTION = "Answer the question about the text."


class Fact(NamedTuple):
    """A thing, one of its attributes, and the value."""

    thing: str
    attribute: Attribute
    value: str

    def sentence(self) -> str:
        """The fact as the world's text says it, which is also how the base model answers."""
        return self.attribute.statement.format(thing=self.thing, value=self.value)

    def question(self) -> str:
        """The question that the fact answers."""
        return self.attribute.question.format(thing=self.thing)

    def record(self) -> str:
        """The answer that the sample data teach; no pretraining text looks like it."""
        return f"item: {self.thing}; {self.attribute.name}: {self.value}"


def draw_facts(rng: Random, count: int, things: tuple[str, ...] = THINGS) -> list[Fact]:
    """Different facts about two to four things, in random order; no two facts answer the same question."""
    chosen = rng.sample(things, min(len(things), rng.randint(2, 4)))
    pairs = [(thing, attribute) for thing in chosen for attribute in ATTRIBUTES]
    return [Fact(thing, attribute, rng.choice(attribute.values)) for thing, attribute in rng.sample(pairs, count)]


def documents(seed: int) -> Iterator[str]:
    """Pretraining documents without end: conversations, index cards, word lists and sums."""
    rng = Random(seed)  # noqa: S311 - text, not secrets
    kinds = (_conversation, _card, _repetition, _sums)
    while True:
        (kind,) = rng.choices(kinds, weights=(60, 20, 15, 5))
        yield kind(rng)


def as_text(turns: Turns) -> str:
    """A conversation in the tokens of the model's chat template."""
    marks = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
    return "".join(marks[t["role"]] + t["content"] + (END if t["role"] == "assistant" else "") for t in turns)


def _conversation(rng: Random) -> str:
    turns: Turns = [{"role": "system", "content": INSTRUCTION}] if rng.random() < 0.1 else []
    for question, answer in _small_talk(rng) if rng.random() < 0.15 else _reading(rng):
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return as_text(turns)


def _reading(rng: Random) -> list[tuple[str, str]]:
    """Facts, then one to four questions about them, each answered with a full sentence."""
    facts = draw_facts(rng, rng.randint(2, 5))
    asked = rng.sample(facts, min(len(facts), rng.randint(1, 4)))
    text = " ".join(fact.sentence() for fact in facts)
    return [(f"{text} {f.question()}" if i == 0 else f.question(), f.sentence()) for i, f in enumerate(asked)]


def _small_talk(rng: Random) -> list[tuple[str, str]]:
    if rng.random() < 0.5:
        name, greeting = rng.choice(NAMES), rng.choice(GREETINGS)
        return [(f"{greeting}, I am {name}.", f"{greeting}, {name}.")]
    sentence = _sum(rng)
    return [(f"What is {sentence.split(' is ', maxsplit=1)[0]}?", sentence)]


def _card(rng: Random) -> str:
    """Facts, then a card for each of one or two things that gathers what was said of it."""
    facts = draw_facts(rng, rng.randint(3, 5))
    text = " ".join(fact.sentence() for fact in facts)
    for thing in sorted({fact.thing for fact in facts}, key=lambda _: rng.random())[:2]:
        known = [fact for fact in facts if fact.thing == thing]
        rng.shuffle(known)
        text += f"\nCard for the {thing}." + "".join(f"\n{fact.attribute.name}: {fact.value}" for fact in known)
    return text + END


def _repetition(rng: Random) -> str:
    """A list of words, twice: copying what stood before is the skill behind every answer."""
    words = rng.sample(THINGS + NAMES + tuple(v for a in ATTRIBUTES[:3] for v in a.values), rng.randint(4, 12))
    listed = ", ".join(words)
    return f"List: {listed}. Again: {listed}.{END}"


def _sum(rng: Random) -> str:
    first, second = rng.randint(0, 9), rng.randint(0, 9)
    return f"{NUMBERS[first]} plus {NUMBERS[second]} is {NUMBERS[first + second]}."


def _sums(rng: Random) -> str:
    return " ".join(_sum(rng) for _ in range(rng.randint(2, 5))) + END


def sample_rows(seed: int, train: int = 480, held_out: int = 64) -> tuple[list[Turns], list[Turns]]:
    """Conversations that teach to answer with a record: for training, and held out with things never asked about."""
    rng = Random(seed)  # noqa: S311 - text, not secrets
    seen: set[str] = set()
    common = tuple(thing for thing in THINGS if thing not in HELD_OUT_THINGS)
    return _ask(rng, train, common, seen), _ask(rng, held_out, HELD_OUT_THINGS, seen)


def _ask(rng: Random, count: int, things: tuple[str, ...], seen: set[str]) -> list[Turns]:
    rows: list[Turns] = []
    while len(rows) < count:
        facts = draw_facts(rng, rng.randint(3, 5), things)
        asked = rng.choice(facts)
        prompt = " ".join(fact.sentence() for fact in facts) + " " + asked.question()
        if prompt not in seen:
            seen.add(prompt)
            rows.append([{"role": "user", "content": prompt}, {"role": "assistant", "content": asked.record()}])
    return rows


def write_sample(folder: Path, seed: int) -> None:
    """Write ``train.jsonl`` and ``eval.jsonl``, one conversation a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("train", "eval"), sample_rows(seed), strict=True):
        lines = (json.dumps({"messages": turns}) + "\n" for turns in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
