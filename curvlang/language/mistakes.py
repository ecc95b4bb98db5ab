"""Typical mistakes and the message each deserves: the parser's help."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.diagnostics.source import Source, Span

KEYWORDS = ("use", "curvature", "transform", "inverse", "task", "evaluate", "study", "law")
"""Words that start an item."""

_WORDS = {
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a text in double quotes",
    "INDEX": "an index letter",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "EQUAL": "`=`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "PLUS": "`+`",
    "MINUS": "`-`",
    "STAR": "`*`",
    "SLASH": "`/`",
    "CIRCUMFLEX": "`^`",
    "MORETHAN": "`>`",
    "__ANON_0": "`|>`",
    "__ANON_1": "`==`",
    "__ANON_2": "`->`",
    "REDUCE": "`sum[…]` or `mean[…]`",
    "PART": "`data`, `model`, `loss` or `train`",
    "STUDY_KEY": "`task`, `path` or `seeds`",
    "$END": "the end of the file",
    "COMPARE": "a comparison",
    "EQUALITY": "`==` or `!=`",
    "RELATION": "`equals`, `differs_from` or `averages_to`",
    "BOUND": "`within` or `by`",
    "EACH": "`in each block`",
}
_ITEMS = frozenset(k.upper() for k in KEYWORDS)
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Found:
    """What stood where reading stopped: `kind` is `character`, `token` or `end`."""

    kind: str
    text: str
    expected: frozenset[str]
    source: Source
    at: int

    @property
    def before(self) -> str:
        """The text up to here, without white space and comments at its end."""
        text = self.source.text[: self.at]
        while (cut := re.sub(r"#[^\n]*$", "", text.rstrip())) != text:
            text = cut
        return text

    @property
    def last(self) -> str:
        """The word or mark before this place."""
        found = re.search(r"[\w']+$|\S$", self.before)
        return found.group(0) if found else ""

    @property
    def wanted(self) -> tuple[str, ...]:
        """What could stand here, as a repair."""
        return (f"expected {expected_words(self.expected)}",) if self.expected else ()

    def say(self, code: str, headline: str, help_: Iterable[str] = ()) -> Diagnostic:
        """A diagnostic at this place."""
        start = max(0, self.at - 1) if self.kind == "end" else self.at
        span = Span(self.source, start, start + max(1, len(self.text)))
        return Diagnostic(code, headline, (Label(span, "here"),), tuple(help_))


def expected_words(expected: frozenset[str]) -> str:
    """What could stand there, in words, the first few of them."""
    rest = set(expected)
    words: list[str] = []
    if len(rest & _ITEMS) > 3:
        rest -= _ITEMS
        words.append("a definition such as `curvature …`")
    words += sorted(_WORDS.get(x, f"`{x.lower()}`") for x in rest)
    return ", ".join(words[:_SHOWN]) + (" …" if len(words) > _SHOWN else "")


def explain(found: Found) -> Diagnostic:
    """The diagnostic of the first mistake in the table that this looks like."""
    for rule in _TABLE:
        diagnostic = rule(found)
        if diagnostic is not None:
            return diagnostic
    return found.say("E0101", f"`{found.text}` cannot stand here", found.wanted)


def _end(found: Found) -> Diagnostic | None:
    if found.kind != "end":
        return None
    if "RBRACE" in found.expected:
        headline = "the file ends inside `{ … }`"
        return found.say("E0103", headline, ("close the block with `}`",))
    headline = "the file ends in the middle of a definition"
    return found.say("E0103", headline, found.wanted)


def _sign(found: Found) -> Diagnostic | None:
    """Signs that other languages have and this one writes otherwise."""
    pair = found.last[-1:] + found.text
    if found.text == "|" or pair == "|>":
        return found.say("E0102", f"`{found.text}` is not an operator", ("join stages by `|>`",))
    if pair == "**":
        return found.say("E0104", "`**` is not an operator", ("write powers with `^`",))
    if pair == "==":
        headline = "`==` compares, and only `when` compares"
        return found.say("E0104", headline, ("define with a single `=`",))
    if found.text in ("“", "”", "„", "‘"):
        headline = f"`{found.text}` is a typographic quote"
        return found.say("E0102", headline, ('texts stand between straight quotes, `"…"`',))
    if found.text == '"' and found.kind == "character":
        return found.say("E0102", "a text is not closed on its line", ('end it with `"`',))
    if found.text in ("'", "’"):
        return found.say("E0102", "a prime belongs to an index letter", ("write `i'` in `[…]`",))
    return None


def _character(found: Found) -> Diagnostic | None:
    if found.kind != "character":
        return None
    headline = f"`{found.text}` (U+{ord(found.text):04X}) has no meaning here"
    return found.say("E0102", headline, found.wanted)


def _index(found: Found) -> Diagnostic | None:
    if "INDEX" not in found.expected:
        return None
    headline = f"`{found.text}` is not an index: an index is one letter, with primes"
    return found.say("E0105", headline, found.wanted)


def _product(found: Found) -> Diagnostic | None:
    """`2 a[i]`: the tensor after the gap was taken for the next definition."""
    gap = re.search(r"([\w'\])]+)[ \t]+((?:[^\W\d]\w*)(?:\[[^\]\n]*\])?)$", found.before)
    line = found.before.rpartition("\n")[2]
    if "EQUAL" in found.expected and gap is not None and "=" in line:
        first, second = gap.group(1), gap.group(2)
        at = Found("token", second, found.expected, found.source, gap.start(2))
        headline = f"`{second}` follows `{first}` with nothing between them"
        return at.say("E0104", headline, ("multiplication is always written: put `*` there",))
    return None


def _unclosed(found: Found) -> Diagnostic | None:
    if found.text not in KEYWORDS:
        return None
    for terminal, bracket in (("RBRACE", "}"), ("RPAR", ")"), ("RSQB", "]")):
        if terminal in found.expected:
            headline = f"`{found.text}` starts a definition inside a bracket that is still open"
            return found.say("E0109", headline, (f"close the one before with `{bracket}`",))
    return None


def _named(found: Found) -> Diagnostic | None:
    if found.last in ("curvature", "transform", "inverse", "task", "study"):
        return found.say("E0101", f"`{found.last}` needs a name", found.wanted)
    if found.expected == {"EQUAL"} and found.text in (")", ","):
        headline = "an argument has a name and a value"
        return found.say("E0101", headline, (f"write `name = {found.last}`",))
    return None


def _keyword(found: Found) -> Diagnostic | None:
    if "CURVATURE" not in found.expected:
        return None
    near = get_close_matches(found.text, KEYWORDS, 1, 0.7)
    if not near:
        return None
    return found.say("E0101", f"`{found.text}` starts no item", (f"did you mean `{near[0]}`?",))


_TABLE: tuple[Callable[[Found], Diagnostic | None], ...] = (
    _end,
    _sign,
    _character,
    _index,
    _product,
    _unclosed,
    _named,
    _keyword,
)
