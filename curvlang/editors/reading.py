"""Every word of a text with its role, found from the marks around it, in half-written text too.

The parser refuses what is broken; an editor shows text that is broken most of the time. Roles come
from one walk over the tokens of each item, so they are right wherever the text up to there is.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache

from curvlang.editors.vocabulary import COMMENT, INDEX, NAME, NUMBER, STRING, vocabulary
from curvlang.ir.score_program import APPLY, CARRY, SOLVE
from curvlang.language.registry import BASELINES
from curvlang.language.registry.entry import NONE

_TOKEN = re.compile(
    rf"(?P<comment>{COMMENT})|(?P<string>{STRING})|(?P<number>{NUMBER})"
    rf"|(?P<word>{NAME}'*)|(?P<mark>{'|'.join(map(re.escape, vocabulary().marks))}|[^\s\w])"
)
_INDEX = re.compile(INDEX)
LINES = ("lds", "protocol")
"""Lines whose arguments are those of the LDS."""
_JOINERS = frozenset(["|>", "=", "->", "+", "-", "*", "/", "(", ",", ":"])
"""Marks after which a word cannot start an item."""


class Role(StrEnum):
    """What a word is where it stands."""

    KEYWORD = "keyword"
    DEFINITION = "definition"
    CURVATURE = "curvature"
    STAGE = "stage"
    SCORE = "score"
    INVERSE = "inverse"
    TASK = "task"
    PART = "part"
    SOLVER = "solver"
    TENSOR = "tensor"
    INDEX = "index"
    FUNCTION = "function"
    PARAMETER = "parameter"
    SCALAR = "scalar"
    ARGUMENT = "argument"
    VALUE = "value"
    NAME = "name"
    FILE = "file"
    DOC = "doc"
    NUMBER = "number"
    COMMENT = "comment"
    MARK = "mark"


class Frame(StrEnum):
    """What an open bracket holds."""

    GROUP = "group"
    ARGUMENTS = "arguments"
    PARAMETERS = "parameters"
    INDICES = "indices"
    LIST = "list"
    CALL = "call"
    BODY = "body"
    WORDS = "words"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose arguments or values these are: `digits(seed = …)`, `lds subsets = …`.

    `part` is `data`, `model`, `loss` or `train` for a part of a task; `argument` is the name in
    front of the `=` before a value.
    """

    role: Role
    name: str
    part: str = ""
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Word:
    """A token with its role; `owner` is set inside arguments, and for parts and parameters."""

    role: Role
    text: str
    start: int
    end: int
    owner: Owner | None = None
    frame: Frame | None = None


@dataclass(slots=True)
class Item:
    """One definition: its keyword, name, words, and the parameters of its header."""

    keyword: str
    start: int
    name: Word | None = None
    words: list[Word] = field(default_factory=list)
    parameters: list[Word] = field(default_factory=list)
    by_name: dict[str, Word] = field(default_factory=dict)
    """The parameters again, the first of each name."""

    @property
    def end(self) -> int:
        """Behind its last word that is not a comment."""
        return next((w.end for w in reversed(self.words) if w.role is not Role.COMMENT), self.start)


@dataclass(frozen=True, slots=True)
class Reading:
    """The items of a text, in order; comments before the first one belong to none."""

    text: str
    items: tuple[Item, ...]

    def item_at(self, offset: int) -> Item | None:
        """The last item that starts at or before an offset."""
        at = bisect_right(self.items, offset, key=lambda item: item.start)
        return self.items[at - 1] if at else None

    def word_at(self, offset: int) -> Word | None:
        """The word that an offset is in or just after; a mark only where no word touches."""
        item = self.item_at(offset)
        touching = [] if item is None else [w for w in item.words if w.start <= offset <= w.end]
        return min(touching, key=lambda w: (w.role is Role.MARK, -w.start), default=None)


@dataclass(slots=True)
class _OpenBracket:
    """An open bracket; `around` is the innermost one, itself included, that has an owner or a body."""

    mark: str
    frame: Frame
    owner: Owner | None = None
    around: _OpenBracket | None = None


_OWNED = (Frame.ARGUMENTS, Frame.PARAMETERS, Frame.WORDS, Frame.BODY)


_CLOSES = {")": "(", "]": "[", "}": "{"}


@lru_cache(maxsize=32)
def read(text: str) -> Reading:
    """The roles of all words; kept, since one question about a text leads to the next."""
    reader = _Reader(text)
    tokens = [(m.lastgroup or "mark", m.group(0), m.start()) for m in _TOKEN.finditer(text)]
    following = _following(tokens)
    for (kind, token, start), after in zip(tokens, following, strict=True):
        reader.take(kind, token, start, after)
    return Reading(text, tuple(reader.items))


def _following(tokens: list[tuple[str, str, int]]) -> list[tuple[str, int]]:
    """For each token the next one that is not a comment, and where it starts."""
    found: list[tuple[str, int]] = []
    after = ("", -1)
    for kind, token, start in reversed(tokens):
        found.append(after)
        if kind != "comment":
            after = (token, start)
    return found[::-1]


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.known = vocabulary()
        self.items: list[Item] = []
        self.open: list[_OpenBracket] = []
        self.before: list[Word] = []
        self.seen: set[str] = set()
        self.marks: Counter[str] = Counter()
        self.measure = ""

    @property
    def item(self) -> Item:
        return self.items[-1]

    @property
    def frame(self) -> Frame | None:
        return self.open[-1].frame if self.open else None

    def previous(self, steps: int = 1) -> str:
        """The text of an earlier word of this item, comments left out."""
        return self.before[-steps].text if len(self.before) >= steps else ""

    def take(self, kind: str, token: str, start: int, after: tuple[str, int]) -> None:
        """One token more."""
        if kind == "word" and self._starts(token, start):
            self.items.append(Item(token, start))
            self.open, self.before, self.measure = [], [], ""
            self.marks, self.seen = Counter(), set()
        if not self.items:
            return
        owner = self._owner()
        match kind:
            case "word":
                role, owner = self._word(token, start + len(token), after)
            case "string":
                role = Role.FILE if self.previous() == "use" else Role.DOC
                role = Role.VALUE if owner is not None else role
            case "number":
                role = Role.NUMBER
            case "comment":
                role = Role.COMMENT
            case _:
                role = Role.MARK
        word = Word(role, token, start, start + len(token), owner, self.frame)
        self.item.words.append(word)
        if role is Role.DEFINITION and self.item.name is None:
            self.item.name = word
        if role is Role.PARAMETER:
            self.item.parameters.append(word)
            self.item.by_name.setdefault(token, word)
        if role is Role.MARK:
            self._bracket(token, start)
        if role is not Role.COMMENT:
            self.before.append(word)
            self.seen.add(token)

    def _starts(self, token: str, start: int) -> bool:
        if token not in self.known.items:
            return False
        if start == 0 or self.text[start - 1] == "\n":
            return True
        return not self.open and self.previous() not in (*_JOINERS, *self.known.words)

    def _bracket(self, mark: str, start: int) -> None:
        last = self.before[-1] if self.before else None
        if mark in _CLOSES:
            self._close(_CLOSES[mark])
        elif mark == "(":
            self._push(self._parenthesis(last))
        elif mark == "[":
            glued = last is not None and last.end == start
            index = last is not None and (
                (last.role in (Role.TENSOR, Role.FUNCTION) and glued)
                or last.text in self.known.reductions
            )
            self._push(_OpenBracket(mark, Frame.INDICES if index else Frame.LIST))
        elif mark == "{":
            inside = self.frame is Frame.PARAMETERS
            owner = self._owner() if inside else None
            self._push(_OpenBracket(mark, Frame.WORDS if inside else Frame.BODY, owner))

    def _push(self, opened: _OpenBracket) -> None:
        outer = self.open[-1].around if self.open else None
        opened.around = opened if opened.frame in _OWNED else outer
        self.open.append(opened)
        self.marks[opened.mark] += 1

    def _close(self, mark: str) -> None:
        """Close the innermost bracket of a kind and all inside it; without one nothing is closed."""
        if not self.marks[mark]:
            return
        while True:
            closed = self.open.pop().mark
            self.marks[closed] -= 1
            if closed == mark:
                return

    def _parenthesis(self, last: Word | None) -> _OpenBracket:
        compared = last is not None and last.role is Role.KEYWORD and last.text == "where"
        if self.frame is Frame.INDICES or compared or self.previous(4) == "split":
            return _OpenBracket("(", Frame.INDICES)
        match last:
            case Word(
                role=Role.STAGE
                | Role.SCORE
                | Role.TASK
                | Role.INVERSE
                | Role.PART
                | Role.SOLVER
                | Role.CURVATURE
                | Role.NAME
            ):
                part = last.owner.part if last.owner is not None else ""
                return _OpenBracket("(", Frame.ARGUMENTS, Owner(last.role, last.text, part))
            case Word(role=Role.DEFINITION, text=name):
                return _OpenBracket("(", Frame.PARAMETERS, Owner(Role.DEFINITION, name))
            case Word(role=Role.FUNCTION):
                return _OpenBracket("(", Frame.CALL)
            case _:
                return _OpenBracket("(", Frame.GROUP)

    def _owner(self) -> Owner | None:
        """The owner of the innermost arguments that are open here."""
        around = self.open[-1].around if self.open else None
        return None if around is None or around.frame is Frame.BODY else around.owner

    def _argument(self, name: str) -> Owner:
        """Remember which argument the values after `=` belong to."""
        opened = self.open[-1].around
        assert opened is not None
        assert opened.owner is not None
        opened.owner = replace(opened.owner, argument=name)
        return opened.owner

    def _word(self, token: str, end: int, after: tuple[str, int]) -> tuple[Role, Owner | None]:
        owner = self._owner()
        if self.frame is Frame.INDICES:
            return self._in_indices(token), None
        if not self.before and token == self.item.keyword:
            return Role.KEYWORD, None
        if self.previous() == "|>":
            return (Role.KEYWORD if token in self.known.words else Role.STAGE), owner
        if self.frame is Frame.WORDS:
            return Role.VALUE, owner
        if owner is not None and owner.role is not Role.DEFINITION:
            return self._in_arguments(token, after, owner)
        match self.item.keyword:
            case "curvature":
                return self._in_curvature(token), None
            case "transform" | "score":
                return self._in_transform(token, end, after)
            case "inverse" if "{" in self.seen:
                return self._in_body(token, end, after)
            case "inverse":
                return self._in_inverse(token, after), None
            case "task":
                return self._in_task(token, after)
            case _:
                return self._in_other(token, after)

    def _in_indices(self, token: str) -> Role:
        if self.open[-1].mark == "(" and token in self.item.by_name:
            return Role.SCALAR
        if token in self.known.functions:
            return Role.FUNCTION
        return Role.INDEX if _INDEX.fullmatch(token) else Role.NAME

    def _in_arguments(
        self, token: str, after: tuple[str, int], owner: Owner
    ) -> tuple[Role, Owner | None]:
        if after[0] == "=" and self.previous() in ("(", ","):
            return Role.ARGUMENT, self._argument(token)
        if after[0] == "(":
            return Role.FUNCTION, owner
        if token in self.item.by_name:
            return Role.SCALAR, owner
        return Role.VALUE, owner

    def _in_curvature(self, token: str) -> Role:
        if self.previous() == "curvature":
            return Role.DEFINITION
        source = self.previous() in ("=", "(", "+", "-", "*")
        if source or self.before[-1].role is Role.DOC:
            return Role.CURVATURE
        return Role.KEYWORD if token in self.known.keywords else Role.NAME

    def _in_transform(
        self, token: str, end: int, after: tuple[str, int]
    ) -> tuple[Role, Owner | None]:
        if self.previous() == self.item.keyword:
            return Role.DEFINITION, None
        if self.frame is Frame.PARAMETERS:
            return self._in_header(token)
        return self._in_body(token, end, after)

    def _in_body(self, token: str, end: int, after: tuple[str, int]) -> tuple[Role, Owner | None]:
        """A word of statements: those of a transform, or of an inverse by its entries."""
        if self.previous() == "when":
            return Role.SCALAR, None
        if self.previous() in ("space", "split", "with", "project", "->"):
            return Role.INDEX, None
        if self.previous() == "==":
            return Role.VALUE, Owner(Role.DEFINITION, self._own_name(), argument=self.previous(2))
        indexed = after == ("[", end)
        if self.item.keyword == "score" and token in (SOLVE, APPLY, CARRY) and after[0] == "(":
            return Role.FUNCTION, None
        if token in self.known.keywords and not indexed and after[0] not in ("=", ","):
            return Role.KEYWORD, None
        if token in self.known.reductions and after[0] in ("[", "("):
            return Role.FUNCTION, None
        if indexed:
            return (Role.FUNCTION if token in self.known.functions else Role.TENSOR), None
        return self._scalar(token, after, Role.TENSOR), None

    def _scalar(self, token: str, after: tuple[str, int], otherwise: Role) -> Role:
        if after[0] == "(":
            return Role.FUNCTION
        return Role.SCALAR if token in self.item.by_name else otherwise

    def _own_name(self) -> str:
        return self.item.name.text if self.item.name is not None else ""

    def _in_header(self, token: str) -> tuple[Role, Owner | None]:
        match self.previous():
            case "(" | ",":
                return Role.PARAMETER, self._argument(token)
            case ":":
                return Role.KEYWORD, self._owner()
            case _:
                return Role.VALUE, self._owner()

    def _in_inverse(self, token: str, after: tuple[str, int]) -> Role:
        if self.previous() == "inverse":
            return Role.DEFINITION
        if self.frame is Frame.PARAMETERS and self.previous() in ("(", ","):
            return Role.PARAMETER
        if not self.open and self.previous() in (":", ",") and "->" not in self.seen:
            return Role.PARAMETER
        if not self.open and "where" in self.seen and after[0] == "=":
            return Role.PARAMETER
        if token in self.known.words:
            return Role.KEYWORD
        return self._scalar(token, after, Role.SCALAR)

    def _in_task(self, token: str, after: tuple[str, int]) -> tuple[Role, Owner | None]:
        if self.previous() == "task":
            return Role.DEFINITION, None
        if self.frame is Frame.PARAMETERS:
            if after[0] == "=":
                return Role.PARAMETER, self._argument(token)
            return Role.VALUE, self._owner()
        last = self.before[-1]
        if last.role is Role.KEYWORD and last.text in self.known.lines:
            return Role.PART, Owner(Role.PART, token, last.text)
        return (Role.KEYWORD if token in self.known.keywords else Role.NAME), None

    def _in_other(self, token: str, after: tuple[str, int]) -> tuple[Role, Owner | None]:
        last = self.before[-1]
        found = self._after(last.text, after[0]) if last.role is Role.KEYWORD else None
        if found := found or (self._listed() if self.frame is Frame.BODY else None):
            return self._named(found, token)
        if after[0] == "=" or self._starts_argument(token):
            return Role.ARGUMENT, Owner(Role.KEYWORD, self.measure, argument=token)
        if last.text == "=":
            return Role.VALUE, Owner(Role.KEYWORD, self.measure, argument=self.previous(2))
        if token in self.known.keywords:
            if self.measure != "baselines" or token not in ("of", "with"):
                self.measure = token
            return Role.KEYWORD, None
        return Role.NAME, None

    def _starts_argument(self, token: str) -> bool:
        """Whether a word that nothing follows yet stands where a line has an argument's name."""
        free = token != NONE and token not in self.known.keywords
        return free and self.measure in LINES and self.previous() in (*LINES, ",")

    def _listed(self) -> Role | None:
        """The role of a further name of a study's line, after `>` or a comma."""
        match self.measure, self.previous():
            case ("path", ">") | ("curvatures", ","):
                return Role.CURVATURE
            case ("inverses", ","):
                return Role.INVERSE
            case ("baselines" | "measures", ","):
                return Role.PART
            case _:
                return None

    def _named(self, role: Role, token: str) -> tuple[Role, Owner | None]:
        """A baseline or a measure belongs to the line that it stands in; other baselines are scores."""
        if role is Role.PART and (self.measure != "baselines" or token in BASELINES):
            return role, Owner(role, token, self.measure)
        return Role.SCORE if role is Role.PART else role, None

    def _after(self, keyword: str, following: str) -> Role | None:
        header = self.item.keyword == "evaluate" and not self.open
        match keyword:
            case "evaluate" if following in ("of", "("):
                return Role.SCORE
            case "of" if header or self.measure == "baselines":
                return Role.CURVATURE
            case "evaluate" | "against" | "than" | "path" | "curvatures":
                return Role.CURVATURE
            case "with" | "inverses":
                return Role.INVERSE
            case "solve":
                return Role.SOLVER
            case "baselines" | "measures":
                return Role.PART
            case "on" if self.previous(3) == "of" and not header:
                return Role.NAME
            case "on" | "task":
                return Role.TASK
            case "of" | "for":
                return Role.NAME
            case "study":
                return Role.DEFINITION
            case _:
                return None


def words(reading: Reading) -> Iterator[tuple[Item, Word]]:
    """Every word of a text with its item."""
    for item in reading.items:
        for word in item.words:
            yield item, word
