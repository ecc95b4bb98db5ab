"""Where reading a spec stopped, and what could have stood there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.diagnostics.source import Source, Span

KEYWORDS = (
    "use",
    "curvature",
    "transform",
    "score",
    "inverse",
    "task",
    "evaluate",
    "study",
    "law",
)
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
    "PART": "`data`, `model`, `loss`, `train`, `checkpoints` or `models`",
    "STUDY_PATH": "`path`",
    "STUDY_CURVATURES": "`curvatures`",
    "STUDY_SEEDS": "`seeds`",
    "STUDY_INVERSES": "`inverses`",
    "STUDY_DAMPING": "`damping`",
    "STUDY_PROTOCOL": "`protocol`",
    "STUDY_BASELINES": "`baselines`",
    "STUDY_MEASURES": "`measures`",
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
class Unexpected:
    """What stood where reading stopped: `kind` is `character`, `token` or `end`."""

    kind: str
    text: str
    expected: frozenset[str]
    source: Source
    at: int

    @property
    def before(self) -> str:
        """The text up to here, without white space and comments at its end."""
        text, end = self.source.text, self.at
        while True:
            while end and text[end - 1].isspace():
                end -= 1
            line = max(text.rfind("\n", 0, end), text.rfind("\r", 0, end)) + 1
            comment = text.find("#", line, end)
            if comment < 0:
                return text[:end]
            end = comment

    @property
    def last(self) -> str:
        """The word or mark before this place."""
        text = self.before
        start = len(text)
        while start and (text[start - 1] in "_'" or text[start - 1].isalnum()):
            start -= 1
        return text[start:] or text[-1:]

    @property
    def marks(self) -> tuple[str, ...]:
        """The marks that this place belongs to: with the one after it, with the one before, alone."""
        following = self.source.text[self.at + len(self.text) :][:1]
        return self.text + following, self.last[-1:] + self.text, self.text

    def place(self, mark: str) -> Span | None:
        """Where one of these marks stands; None where white space is inside it."""
        for start in (self.at, self.at + len(self.text) - len(mark)):
            if start >= 0 and self.source.text.startswith(mark, start):
                return Span(self.source, start, start + len(mark))
        return None

    @property
    def end(self) -> Span:
        """The end of the text before here, without white space."""
        return Span(self.source, len(self.before), len(self.before))

    @property
    def wanted(self) -> tuple[str, ...]:
        """What could stand here, as a repair."""
        return (f"expected {expected_words(self.expected)}",) if self.expected else ()

    def say(self, code: Code, headline: str, help_: Iterable[str] = ()) -> Diagnostic:
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
