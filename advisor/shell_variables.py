"""Variables of a shell script as far as the script itself says what they hold, and words with these literals in place.

Nothing is executed. What is set in one branch of a condition counts after it unless another value was possible there.
"""

from __future__ import annotations

import re

from lora_advise.document import MAX_BYTES, MAX_DEPTH
from lora_advise.document_places import Places
from lora_advise.shell_fields import ASSIGNMENT, FLAG, UNKNOWN, Field, Piece, Value, arguments_in, split
from lora_advise.shell_tokens import Part, Word

_LONGEST = 2**16
"""Characters of a value; a longer one counts as unknown, since variables made of variables grow without bound."""
_ARGUMENT = re.compile(r"\$\{?(?:[1-9]|OPTARG)\b")


class _Scope:
    def __init__(self, kind: str, mark: int) -> None:
        self.kind, self.mark = kind, mark
        self.branches: list[dict[str, Value | None]] = []
        self.exhaustive = False


class Variables:
    """The variables at one point of a script."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.exported: dict[str, None] = {}
        self._values: dict[str, Value | None] = {}
        self._undo: list[tuple[str, Value | None]] = []
        self._scopes: list[_Scope] = []
        self._spent = 0

    @property
    def scope(self) -> str:
        """The kind of the innermost block, empty outside of all."""
        return self._scopes[-1].kind if self._scopes else ""

    def spend(self, count: int, at: int) -> None:
        """Raises LoraAdviseError when the script has been expanded to many times the size that a file may have."""
        self._spent += count
        if self._spent > 4 * MAX_BYTES:
            raise self.places.error(at, f"variables expand to more than {4 * MAX_BYTES:,} characters by here")

    def set(self, name: str, value: Value | None, *, perhaps: bool = False) -> None:
        """Bind a name; ``perhaps``: in ``test … && NAME=value``, where another value that is known makes it unknown."""
        before = self._values.get(name)
        if perhaps and before is not None and not (value and before.same(value)):
            value = UNKNOWN
        self._undo.append((name, before))
        self._values[name] = value

    def enter(self, kind: str, at: int) -> None:
        """Begin a block."""
        if len(self._scopes) >= MAX_DEPTH:
            raise self.places.error(at, f"blocks are nested deeper than {MAX_DEPTH} levels")
        self._scopes.append(_Scope(kind, len(self._undo)))

    def turn(self, *, last: bool = False) -> None:
        """Begin the next branch of a block: what the branch before set does not hold in it."""
        if self._scopes:
            self._scopes[-1].branches.append(self._rewind(self._scopes[-1].mark))
            self._scopes[-1].exhaustive |= last

    def leave(self, kinds: tuple[str, ...]) -> None:
        """End the innermost block if it is of one of these kinds."""
        if self.scope not in kinds:
            return
        scope = self._scopes.pop()
        if scope.kind == "group":
            return
        branches = [*scope.branches, self._rewind(scope.mark)]
        if scope.kind != "subshell":
            for name in dict.fromkeys(name for branch in branches for name in branch):
                self.set(name, self._merged(name, branches, scope.exhaustive))

    def _merged(self, name: str, branches: list[dict[str, Value | None]], exhaustive: bool) -> Value | None:
        values = [branch[name] for branch in branches if name in branch]
        if not exhaustive or len(values) < len(branches):
            values.append(self._values.get(name))
        known = [value for value in values if value is not None]
        if any(value.known for value in known):
            known = [value for value in known if not self._is_argument(value)] or known
        first = known[0] if known else None
        return first if first is None or all(value.same(first) for value in known[1:]) else UNKNOWN

    def _is_argument(self, value: Value) -> bool:
        """Whether it is an argument of the script itself: what stood before is the default for it."""
        piece = value.pieces[0] if len(value.pieces) == 1 else None
        return piece is not None and not piece.known and bool(_ARGUMENT.match(self.places.text, piece.start))

    def _rewind(self, mark: int) -> dict[str, Value | None]:
        ends = {name: self._values.get(name) for name, _ in self._undo[mark:]}
        for name, before in reversed(self._undo[mark:]):
            self._values[name] = before
        del self._undo[mark:]
        return ends

    def assign(self, word: Word, *, perhaps: bool = False) -> str:
        """Do what ``NAME=value``, ``NAME+=value`` or ``NAME=(…)`` says; the name."""
        name, value = self.assigned(word)
        self.set(name, value, perhaps=perhaps)
        return name

    def assigned(self, word: Word) -> tuple[str, Value]:
        """The name and its new value. Only for words of which ``ASSIGNMENT`` matches the first part."""
        head = word.parts[0]
        found = ASSIGNMENT.match(head.text)
        name, appends, skipped = (found[1], found[2], found.end()) if found else (head.text, "", len(head.text))
        before = self._values.get(name) if appends else None
        if before is not None and (not before.known or (before.items is None) != (word.items is None)):
            return name, UNKNOWN
        if word.items is not None:
            new = tuple(field for item in word.items for field in self.fields(item))
            old = (before and before.items) or ()
            self.spend(len(old) + len(new), word.start)
            return name, Value((), word.start, word.end, (*old, *new))
        rest = Part("text", head.text[skipped:], head.start + skipped, head.end)
        parts = (rest, *word.parts[1:]) if rest.text else word.parts[1:]
        pieces = (
            *(before.pieces if before else ()),
            *(p._replace(quoted=False, splits=False) for p in self._pieces(parts)),
        )
        size = sum(len(piece.text) + 1 for piece in pieces)
        self.spend(size, word.start)
        return name, Value(pieces, rest.start, word.end) if size <= _LONGEST else UNKNOWN

    def environment(self) -> tuple[tuple[str, str], ...]:
        """Exported names and their values; as written where a value is unknown."""
        self.spend(len(self.exported) + 1, 0)
        known = [(name, value) for name in self.exported if (value := self._values.get(name)) is not None]
        return tuple((name, self.words_of(value)) for name, value in known if value.items is None)

    def words_of(self, value: Value) -> str:
        """A value as text, for people; as written where something is unknown."""
        self.spend(value.end - value.start + 1, value.start)
        known = value.known and all(piece.known for piece in value.pieces)
        return "".join(p.text for p in value.pieces) if known else self.places.text[value.start : value.end]

    def fields(self, word: Word) -> list[Field]:
        """The arguments that a word becomes: one, or as many as an unquoted variable or a list holds."""
        part = word.parts[0] if len(word.parts) == 1 else None
        if part is None or part.kind not in ("variable", "list") or word.items is not None:
            pieces = self._pieces(word.parts)
            fields = split(pieces, many=False) if any(piece.splits for piece in pieces) else []
            return fields if len(fields) > 1 else [Field(tuple(pieces), word.start, word.end)] if pieces else []
        if part.kind == "list":
            held = self._values.get(part.text)
            if held is not None and held.items is not None:
                self.spend(sum(field.end - field.start + 1 for field in held.items), word.start)
                return list(held.items) if part.quoted else [one for item in held.items for one in _apart(item)]
            return [Field((Piece("", word.start, word.end, known=False),), word.start, word.end, None, True, True)]
        pieces = self._variable(part)
        if not part.quoted:
            return split(pieces, many=self._values.get(part.text) in (None, UNKNOWN))
        return [Field(tuple(pieces), word.start, word.end, self._place(part, pieces))]

    def _place(self, part: Part, pieces: list[Piece]) -> tuple[int, int] | None:
        if not pieces or not all(piece.known for piece in pieces):
            return None
        value = self._values.get(part.text)
        return pieces[0].via or (value and (value.start, value.end)) or (pieces[0].start, pieces[-1].end)

    def _pieces(self, parts: tuple[Part, ...]) -> list[Piece]:
        out: list[Piece] = []
        for part in parts:
            if part.kind == "text":
                out.append(Piece(part.text, part.start, part.end, part.exact, part.quoted))
            elif part.kind == "variable":
                out.extend(self._variable(part))
            else:
                out.append(Piece("", part.start, part.end, quoted=part.quoted, known=False))
        return out

    def _variable(self, part: Part) -> list[Piece]:
        value, operator = self._values.get(part.text), part.operator
        unknown = Piece("", part.start, part.end, quoted=part.quoted, known=False)
        if value is not None and (not value.known or value.items is not None):
            return [unknown]
        empty = value is not None and not value.pieces and operator.startswith(":")
        if operator.endswith("+"):
            return (
                [unknown] if value is None else [] if empty else _standing(part, self._pieces(part.default), None, self)
            )
        if value is not None and not empty:
            return _standing(part, list(value.pieces), (value.start, value.end), self)
        if not operator or operator.endswith("?"):
            return [unknown] if value is None else []
        pieces = self._pieces(part.default)
        place = (pieces[0].start, pieces[-1].end) if pieces else (part.start, part.end)
        if operator.endswith("="):
            self.set(part.text, Value(tuple(p._replace(quoted=False, splits=False) for p in pieces), *place))
        return _standing(part, pieces, place, self)


def _standing(part: Part, pieces: list[Piece], place: tuple[int, int] | None, variables: Variables) -> list[Piece]:
    """One word stands where the variable's name does; a text of several, or a flag, where it was written."""
    text = "".join(piece.text for piece in pieces)
    variables.spend(len(text) + len(pieces), part.start)
    if part.quoted and not pieces:
        return [Piece("", part.start, part.end, quoted=True)]
    if not pieces or any(c.isspace() for c in text) or FLAG.match(text):
        return [
            piece._replace(quoted=part.quoted or piece.quoted, splits=not (part.quoted or piece.quoted))
            for piece in pieces
        ]
    via = (pieces[0].via or place) if len(pieces) == 1 else place
    known = all(piece.known for piece in pieces)
    return [Piece(text if known else "", part.start, part.end, False, part.quoted, known, via if known else None)]


def _apart(item: Field) -> list[Field]:
    """An item of a list that stands without quotes: blanks in it separate arguments."""
    fields = arguments_in(item)
    return fields if len(fields) != 1 else [item]
