"""Tensors of a transform as its text states them: what is in scope at a place, and its letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from curvlang.editors.reading import Frame, Item, Role, Word
from curvlang.editors.vocabulary import vocabulary
from curvlang.language.bodies.letters import (
    COLUMNS,
    LAYER_LEAVES,
    MEANING,
    MODEL_LEAVES,
    MODEL_LETTERS,
)
from curvlang.language.bodies.scores import SCORE_LEAVES, SCORE_LETTERS

LEAVES: Mapping[str, tuple[str, ...]] = {**MODEL_LEAVES, **LAYER_LEAVES, **COLUMNS}


def leaves_of(item: Item) -> Mapping[str, tuple[str, ...]]:
    """What the bodies of this kind of item may need, with their indices."""
    if item.keyword == "score":
        return {name: leaf.indices for name, leaf in SCORE_LEAVES.items()}
    return LEAVES


def letters_of(item: Item) -> Mapping[str, str]:
    """The letters of index spaces that bodies of this kind of item know."""
    return SCORE_LETTERS if item.keyword == "score" else MODEL_LETTERS


class Binding(StrEnum):
    """How a tensor comes into a body."""

    NEEDS = "needs"
    DEFINES = "defines"
    YIELDS = "yields"


@dataclass(frozen=True, slots=True)
class Bound:
    """A tensor where it is bound, with its indices as written and the line that binds it."""

    name: Word
    indices: tuple[str, ...]
    binding: Binding
    line: str = ""

    @property
    def written(self) -> str:
        """`A[i,i']`, or the bare name of a number."""
        return f"{self.name.text}[{','.join(self.indices)}]" if self.indices else self.name.text


def bound(item: Item, text: str) -> tuple[Bound, ...]:
    """Every tensor that a transform or a score needs, defines or yields, in order of the text."""
    words = [w for w in item.words if w.role is not Role.COMMENT]
    found: list[Bound] = []
    for k, word in enumerate(words):
        if word.role is Role.KEYWORD and word.text == "needs":
            found += _needs(words, k + 1)
        elif word.text == "=" and word.role is Role.MARK and word.owner is None:
            found += _left_side(words, k, text)
    return tuple(found)


def _target(words: Sequence[Word], at: int) -> tuple[tuple[str, ...], int] | None:
    """The indices of a target that starts at a word, and the position after it."""
    if at >= len(words) or words[at].role is not Role.TENSOR:
        return None
    if at + 1 >= len(words) or words[at + 1].text != "[":
        return (), at + 1
    end = at + 2
    while end < len(words) and words[end].text != "]":
        if words[end].text not in (",", "(", ")") and words[end].role is not Role.INDEX:
            return None
        end += 1
    return tuple(w.text for w in words[at + 2 : end] if w.role is Role.INDEX), end + 1


def _needs(words: Sequence[Word], at: int) -> list[Bound]:
    found: list[Bound] = []
    while (target := _target(words, at)) is not None:
        indices, end = target
        found.append(Bound(words[at], indices, Binding.NEEDS))
        if end >= len(words) or words[end].text != ",":
            break
        at = end + 1
    return found


def _left_side(words: Sequence[Word], equals: int, text: str) -> list[Bound]:
    """The targets before a `=`, the last one first until no comma joins them."""
    found: list[Bound] = []
    end = equals
    line = _line(text, words[equals].start)
    while end > 0:
        start = _start_of_target(words, end)
        target = None if start is None else _target(words, start)
        if start is None or target is None or target[1] != end:
            break
        yields = start > 0 and words[start - 1].text == "yield"
        binding = Binding.YIELDS if yields else Binding.DEFINES
        found.append(Bound(words[start], target[0], binding, line))
        if start < 1 or words[start - 1].text != ",":
            break
        end = start - 1
    return found[::-1]


def _start_of_target(words: Sequence[Word], end: int) -> int | None:
    """Where the target that ends before `end` starts."""
    if words[end - 1].text != "]":
        return end - 1 if words[end - 1].role is Role.TENSOR else None
    at = end - 2
    while at > 0 and words[at].text != "[":
        if words[at].text != "," and words[at].role is not Role.INDEX:
            return None
        at -= 1
    return at - 1 if at > 0 and words[at - 1].role is Role.TENSOR else None


def _line(text: str, offset: int) -> str:
    start = text.rfind("\n", 0, offset) + 1
    return _line_from(text, start)


@lru_cache(maxsize=8)
def _line_from(text: str, start: int) -> str:
    """A line without its gaps; kept, since a long one may bind thousands of names."""
    end = text.find("\n", start)
    return " ".join(text[start : end if end >= 0 else len(text)].split())


def in_scope(item: Item, text: str, offset: int) -> dict[str, Bound]:
    """The tensors that an expression at this place can read, the latest binding of each."""
    before = [w for w in item.words if w.end <= offset and w.role is not Role.COMMENT]
    known = [b for b in bound(item, text) if b.name.end < offset]
    if known and known[-1].binding is Binding.DEFINES and _goes_on(before):
        # The statement that is being written defines its own name only when it is finished.
        known = [b for b in known if b.line != known[-1].line or b.binding is Binding.NEEDS]
    return {b.name.text: b for b in known if b.binding is not Binding.YIELDS and b.name.text != "_"}


def _goes_on(before: Sequence[Word]) -> bool:
    """Whether an expression is still open: after an operator, or after `sum[…]`."""
    if not before or before[-1].text in ("=", "+", "-", "*", "/", "^", "(", ","):
        return True
    opening = next((k for k in range(len(before) - 1, 0, -1) if before[k].text == "["), 0)
    return before[-1].text == "]" and before[opening - 1].text in vocabulary().reductions


def binding_of(item: Item, text: str, word: Word) -> Bound | None:
    """Where the tensor of a word is bound: at the word itself, else the last time before it."""
    every = bound(item, text)
    own = next((b for b in every if b.name.start == word.start), None)
    before = [b for b in every if b.name.text == word.text and b.name.end <= word.start]
    return own or (before[-1] if before else None)


def letter_meaning(item: Item, text: str, letter: str) -> str:
    """What an index letter ranges over, in this body."""
    space = letter.rstrip("'")
    if space in letters_of(item):
        return letters_of(item)[space]
    for word in item.words:
        if word.role is Role.INDEX and word.frame is not Frame.INDICES and word.text == space:
            return f"a space of its own: `{_line(text, word.start)}`"
    for made in bound(item, text):
        if space in (x.rstrip("'") for x in made.indices):
            return f"a space made by `{made.line}`" if made.line else f"a space of `{made.written}`"
    return "no space: nothing binds it"


def leaf_meaning(name: str, item: Item | None = None) -> str:
    """What the model gives under this name, or nothing; in scores other leaves than in transforms."""
    if item is not None and item.keyword == "score":
        return SCORE_LEAVES[name].doc if name in SCORE_LEAVES else ""
    return MEANING.get(name, "the curvature so far" if name == "C" else "")
