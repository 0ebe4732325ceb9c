"""Python scripts that train: the arguments of their calls with their places, by the syntax tree alone, never executed."""

from __future__ import annotations

from lora_advise.document import MAX_BYTES, MAX_ENTRIES, Config, Document
from lora_advise.document_places import Places
from lora_advise.errors import LoraAdviseError
from lora_advise.python_calls import Calls
from lora_advise.python_names import Program
from lora_advise.python_text import Code, NoPython, Piece, TooLarge, parse
from lora_advise.python_walk import Walk

TOO_LARGE = "too long or too deeply nested, so this is no program that trains; leave it out"


def read_python(text: str, name: str) -> Document:
    """The settings of a Python file: one config with all of its calls.

    Raises LoraAdviseError with the line for text that Python 3 cannot parse, or that is larger than any script.
    """
    text = text.lstrip("\ufeff")
    places = Places(text, name)
    if len(text) > MAX_BYTES:
        raise places.error(0, f"more than {MAX_BYTES:,} characters, so this is no script; leave it out")
    code = Code(places, text, [Piece(0, 0, len(text))])
    program = Program()
    try:
        Walk(program).module(parse(text))
    except NoPython as problem:
        raise no_python(code, problem) from None
    except (RecursionError, TooLarge):
        raise places.error(0, TOO_LARGE) from None
    config = read_calls(program, code)
    comments = tuple(code.comments())
    if len(comments) > MAX_ENTRIES:
        raise places.error(0, f"more than {MAX_ENTRIES:,} comments, so this is no script; leave it out")
    return Document(name, text, "python", (config,), comments)


def read_calls(program: Program, code: Code, notes: tuple[str, ...] = ()) -> Config:
    """The settings of a program that was walked over. Raises LoraAdviseError when there are too many."""
    try:
        return Calls(program, code).config(notes)
    except RecursionError:
        raise code.places.error(0, TOO_LARGE) from None


def no_python(code: Code, problem: NoPython) -> LoraAdviseError:
    """The error for a file that does not parse."""
    start = code.lines[min(problem.line, len(code.lines)) - 1]
    said = f"Python 3 cannot parse it ({problem.said}), so nothing was read; correct it, or leave it out"
    return code.places.error(start, said)
