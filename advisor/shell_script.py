"""The commands of a shell script in their order, with what variables hold at each; control words are only followed.

Both branches of a condition and the body of a loop or function are read once. Nothing is executed.
"""

from __future__ import annotations

import dataclasses
import re

from lora_advise.document_places import Places
from lora_advise.errors import LoraAdviseError
from lora_advise.shell_fields import ASSIGNMENT, UNKNOWN, Field, arguments_in
from lora_advise.shell_tokens import Operator, Word
from lora_advise.shell_variables import Variables
from lora_advise.shell_words import MOST_WORDS, Lexer

INERT = frozenset({
    *("echo", "printf", "set", "shift", "test", "[", "[[", "alias", "return", "exit", "cd", "source", ".", "cat", "trap"),
    *("read", "unset", ":", "true", "false", "let", "getopts", "shopt", "ulimit", "wait", "kill", "break", "continue"),
    *("grep", "sed", "awk", "mkdir", "rm", "cp", "mv", "ls", "module"),
})  # fmt: skip
"""Commands that run no other, so that a flag in their arguments is none of a training program."""
_DECLARING = frozenset({"export", "declare", "local", "readonly", "typeset"})
_CLOSES = {"fi": ("if",), "done": ("loop",), "esac": ("case",), "}": ("group", "function")}
_OPENS = frozenset({"if", "then", "elif", "else", "while", "until", "do", "{", "function", "!", "time", "coproc"})
_TRAINS = re.compile(r"(?:.*/)?(?:python[\d.]*|torchrun|accelerate|deepspeed|tune|llamafactory-cli|lmf)")
"""Programs that take settings as ``key=value``."""
_OVERRIDE = re.compile(r"\+{0,2}[A-Za-z_][\w.]*=", re.ASCII)
_SHELLS = re.compile(r"(?:.*/)?(?:ba|z|da|k)?sh")
_STRING_OPTION = re.compile(r"-[A-Za-z]*c")
_PROMPT = re.compile(r"[$%]|\S*@\S*[$%]")
_QUOTED = re.compile(r"'[^']*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_NESTED = 5
"""How deep strings are read as commands: ``bash -c "…"`` within another."""


@dataclasses.dataclass
class Command:
    """A command's arguments, and the place of the whole."""

    fields: list[Field]
    start: int
    end: int
    environment: tuple[tuple[str, str], ...] = ()
    notes: list[str] = dataclasses.field(default_factory=list)


class Script:
    """Reads all commands that have an argument like a flag, or ``key=value``."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.commands: list[Command] = []
        self.variables = Variables(places)
        self._pattern = False
        self._function = False
        self._before = ""
        self._last: Command | None = None
        self._prefix: list[Field] = []
        self._level = self._arguments = 0
        lexer = Lexer(places)
        self.comments = tuple(lexer.comments)
        self._read(lexer.tokens)

    def _read(self, tokens: list[Word | Operator]) -> None:
        words: list[Word] = []
        for number, token in enumerate([*tokens, Operator("", len(self.places.text))]):
            if isinstance(token, Word):
                words.append(token)
                continue
            follows = tokens[number + 1] if number + 1 < len(tokens) else None
            if token.text == "(" and words and isinstance(follows, Operator) and follows.text == ")":
                self._function, self._pattern = True, False
            elif not self._pattern or (words and self._raw(words[0]) == "esac"):
                self._finish(words, token.text)
            self._around(token, bool(words))
            words = []
            if token.text != "\n":
                self._last = None
            self._before = token.text

    def _around(self, token: Operator, words: bool) -> None:
        if token.text == "(" and not words and not self._pattern:
            self.variables.enter("subshell", token.start)
        elif token.text == ")":
            if self.variables.scope == "case":
                self._pattern = False
            self.variables.leave(("subshell",))
        elif token.text.startswith(";") and token.text != ";" and self.variables.scope == "case":
            self.variables.turn()
            self._pattern = True

    def _raw(self, word: Word) -> str:
        return self.places.text[word.start : word.end]

    def _finish(self, words: list[Word], ended: str) -> None:
        rest = self._after_control(words)
        if not rest:
            return
        count = next((n for n, word in enumerate(rest) if not _assigns(word)), len(rest))
        if count == len(rest):
            perhaps = self._before in ("&&", "||")
            for word in rest:
                self.variables.assign(word, perhaps=perhaps)
            self._last = None
            return
        name = self._raw(rest[count])
        if name in _DECLARING:
            self._declare(name, rest[count + 1 :])
        elif name in ("read", "unset"):
            for word in rest[count + 1 :]:
                self.variables.set(self._raw(word), UNKNOWN if name == "read" else None)
        else:
            self._command(rest, count)
        if ended != "\n":
            self._last = None

    def _after_control(self, words: list[Word]) -> list[Word]:
        """What is left to be read as a command."""
        number = 0
        while number < len(words):
            head = self._raw(words[number])
            if head in ("for", "select") or (
                head == "case" and [*map(self._raw, words[number + 2 : number + 3])] == ["in"]
            ):
                self._loop_or_case(head, words[number : number + 2])
                return []
            if head in _CLOSES:
                self.variables.leave(_CLOSES[head])
                self._pattern = False
                return []
            if not self._control(head, words[number]) and not _PROMPT.fullmatch(head):
                return words[number:]
            number += 2 if head == "function" else 1
        return []

    def _control(self, head: str, word: Word) -> bool:
        """Follow a control word that a command may stand behind; whether it was one."""
        if head in ("if", "while", "until"):
            self.variables.enter("if" if head == "if" else "loop", word.start)
        elif head in ("elif", "else") and self.variables.scope == "if":
            self.variables.turn(last=head == "else")
        elif head == "{":
            self.variables.enter("function" if self._function else "group", word.start)
            self._function = False
        elif head == "function":
            self._function = True
        return head in _OPENS

    def _loop_or_case(self, head: str, words: list[Word]) -> None:
        self.variables.enter("case" if head == "case" else "loop", words[0].start)
        if head == "case":
            self._pattern = True
        elif len(words) > 1:
            self.variables.set(self._raw(words[1]), UNKNOWN)

    def _declare(self, command: str, words: list[Word]) -> None:
        for word in words:
            name = self.variables.assign(word) if _assigns(word) else self._raw(word)
            if command == "export" and not name.startswith("-"):
                self.variables.exported[name] = None

    def _command(self, words: list[Word], count: int) -> None:
        """Keep the command that begins after so many assignments, if it has settings."""
        own = [self.variables.assigned(word) for word in words[:count]]
        fields = [field for word in words[count:] for field in self.variables.fields(word)]
        self._arguments += len(fields)
        if self._arguments > MOST_WORDS:
            raise self.places.error(
                words[0].start, f"more than {MOST_WORDS:,} arguments by here, more than any launch has"
            )
        fields[:1] = [_unmarked(field) for field in fields[:1]]
        if not fields or fields[0].text in INERT or self._string(fields):
            return
        fields = [*self._prefix, *fields]
        if self._joins(fields):
            return
        if not any(map(_sets, fields)) and not (_TRAINS.fullmatch(fields[0].text) and any(map(_overrides, fields))):
            self._last = None
            return
        environment = dict(self.variables.environment())
        environment |= {name: self.variables.words_of(value) for name, value in own}
        self._last = Command(fields, words[0].start, words[-1].end, tuple(environment.items()))
        self.commands.append(self._last)

    def _joins(self, fields: list[Field]) -> bool:
        """Whether these are flags of the command above, which a comment or a missing backslash cut off."""
        if self._last is None or not fields[0].flag or self._before != "\n":
            return False
        last, first = self._last, fields[0]
        if self.places.text[last.fields[-1].start : last.fields[-1].end] in ("\\ ", "\\\t"):
            last.end = last.fields.pop().start
        line = self.places.at(first.start)[0]
        last.notes.append(
            f"Line {line}: a shell ends the command before {fields[0].text[:40]}, "
            f"because {self._reason(last.end, first.start)}; it is read here as meant, with what follows."
        )
        last.fields.extend(fields)
        last.end = max(last.end, fields[-1].end)
        return True

    def _reason(self, start: int, end: int) -> str:
        between = self.places.text[start:end] if 0 <= end - start < 10_000 else ""
        if "#" in between:
            return "a comment stands between its lines"
        if re.search(r"\\[ \t]+\r?\n", between):
            return "a blank follows the backslash at the end of the line above"
        return "an empty line stands between its lines" if "\\" in between else "no backslash ends the line above"

    def _string(self, fields: list[Field]) -> bool:
        """Read the string of ``eval "…"``, ``bash -c "…"`` and ``sbatch --wrap="…"`` as commands; whether there was one."""
        found = _string_at(fields)
        if found is None or self._level >= _NESTED:
            return False
        place, string = found
        before = (self._prefix, self._level, self._last)
        self._prefix, self._level = [*self._prefix, *fields[:place]], self._level + 1
        try:
            if _QUOTED.fullmatch(self.places.text, string.start, string.end):
                self._read_inside(string)
            else:
                self._split(fields[0].text == "eval", fields[place + 1 :], string)
        finally:
            self._prefix, self._level, self._last = before
        return True

    def _read_inside(self, string: Field) -> None:
        try:
            tokens = Lexer(self.places, string.start + 1, string.end - 1).tokens
        except LoraAdviseError:
            return
        before, self._before = self._before, ""
        self._read(tokens)
        self._before = before

    def _split(self, is_eval: bool, others: list[Field], string: Field) -> None:
        own = [*arguments_in(string), *(others[1:] if is_eval else ())]
        if own and own[0].text not in INERT and any(map(_sets, own)):
            end = max(string.end, own[-1].end) if is_eval else string.end
            environment = self.variables.environment()
            self.commands.append(Command([*self._prefix, *own], string.start, end, environment))


def _assigns(word: Word) -> bool:
    first = word.parts[0] if word.parts else None
    return first is not None and first.kind == "text" and not first.quoted and bool(ASSIGNMENT.match(first.text))


def _unmarked(field: Field) -> Field:
    """Without the ``!`` that lets a notebook run a command."""
    first = field.pieces[0] if field.pieces else None
    if first is None or not first.text.startswith("!") or not first.exact or first.quoted or first.text == "!":
        return field
    first = first._replace(text=first.text[1:], start=first.start + 1)
    return field._replace(pieces=(first, *field.pieces[1:]), start=field.start + 1)


def _sets(field: Field) -> bool:
    return field.text.startswith("--") and field.flag


def _overrides(field: Field) -> bool:
    return bool(field.pieces) and field.pieces[0].known and bool(_OVERRIDE.match(field.text))


def _string_at(fields: list[Field]) -> tuple[int, Field] | None:
    """How many arguments stand before a string that is run as a command, and the string."""
    if len(fields) > 1 and fields[0].text == "eval":
        return 0, fields[1]
    for number, field in enumerate(fields):
        if field.text.startswith("--wrap=") and field.pieces[0].exact and field.pieces[0].text.startswith("--wrap="):
            return number, field._replace(start=field.start + len("--wrap="))
        if field.text.endswith("sh") and _SHELLS.fullmatch(field.text):
            string = number + 2
            while string < len(fields) and fields[string - 1].text.startswith("-"):
                if _STRING_OPTION.fullmatch(fields[string - 1].text):
                    return number, fields[string]
                string += 1
    return None
