"""Inputs nobody means to write, and what must hold for each: a diagnostic, soon, at a true place."""

from __future__ import annotations

import gc
import random
import re
import time
import tracemalloc
import unicodedata

from curvlang.diagnostics.diagnostic import Diagnostic, Severity, SpecError
from curvlang.diagnostics.render import as_data, render
from curvlang.diagnostics.source import Source
from curvlang.language import check_text, loads, shipped_files
from curvlang.language.chain import Spec
from curvlang.language.syntax.files import decode
from curvlang.language.syntax.formatter import format_text
from curvlang.language.syntax.parser import parse
from tests.language.shapes import SHAPES

SLOWEST = 1.0
"""Seconds of the processor that one input may take."""
TOKEN = re.compile(
    r'#[^\n]*|"[^"\n]*"|[\d.]+(?:[eE][+-]?\d+)?|\w+\'*|\|>|->|[=!<>]=|\s+|.', re.DOTALL
)
MARKS = [
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    "|>",
    "->",
    "|",
    "=",
    "==",
    ",",
    ":",
    "+",
    "-",
    "*",
    "/",
    "^",
    "'",
    '"',
    "#",
    "\n",
    " ",
]
NASTY = [
    "1e999", "-1e999", "10^400", "1e308 * 10", "0 / 0", "2^(1/0)", "1e-320", "9" * 400, "0.1.2", "1e", ".",
    "\0", "\t", "\r", "\r\n", "\f", "\v", "\ufeff", "\u2028", "\u2029", "\x85", "\xa0", "\u200b", "\u200f", "\u202e",
    "é", "e\u0301", "曲率", "σ²", "ﬁ", "İ", "ß", "α'", "𝔸", "\U0001f600", "👩‍👩‍👧", "\ud800", "\udfff", "\x1b[31m", "\x07",
    "i''''''''''''", "x" * 3000, "[" * 300, "(" * 300, "{" * 300, "-" * 300, "a + " * 300, "sum[i] " * 300,
    "[16] * 1e9", "[[1] * 9999] * 9999", "[16] * 1e999", "[16] * -1", "a[i] * " * 250, "if s > 0 then " * 250, "# " + "y" * 3000,
    "transform", "curvature", "when", "else", "needs", "yield", "space", "project", "repeat", "law", "study", "use \"x.cv\"", "evaluate",
]  # fmt: skip


def tokens() -> list[str]:
    """Every token of every shipped spec, in order, file after file."""
    return [t for text in shipped_files().values() for t in TOKEN.findall(text)]


ALL_TOKENS = tokens()
FILES = list(shipped_files().values())
SEEDS = [*FILES, *FILES, *(make(n) for make in SHAPES.values() for n in (3, 12))]
"""What is mutated: what ships, and what was dear to check."""


def mutated_tokens(rng: random.Random) -> str:
    """A seed with tokens dropped, doubled, moved, exchanged or put in."""
    found = TOKEN.findall(rng.choice(SEEDS))
    if len(found) > 400:
        start = rng.randrange(len(found) - 300)
        found = found[start : start + rng.randint(5, 300)]
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8, 20])):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(6):
            case 0:
                del found[at : at + rng.choice([1, 1, 2, 5])]
            case 1:
                found[at:at] = found[at : at + rng.choice([1, 3, 10])]
            case 2:
                found.insert(at, rng.choice(MARKS))
            case 3:
                found.insert(at, rng.choice(ALL_TOKENS))
            case 4:
                found.insert(at, rng.choice(NASTY))
            case _:
                found[at : at + 1] = [rng.choice([*MARKS, *NASTY, rng.choice(ALL_TOKENS)])]
    text = "".join(found)
    return rng.choice(
        [text, text, text, text.replace("\n", "\r\n"), text.replace("\n", "\r"), "\ufeff" + text]
    )


def mutated_bytes(rng: random.Random) -> bytes:
    """A seed with bytes changed; not always text any more."""
    data = bytearray(rng.choice(SEEDS).encode())
    for _ in range(rng.choice([1, 2, 5, 30])):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                del data[at : at + rng.choice([1, 7])]
            case 1:
                data[at:at] = bytes([rng.randrange(256)])
            case 2:
                data[at : at + 1] = bytes([rng.choice(b"()[]{}|>=,'\"#\n\r\t *^")])
            case _:
                if at < len(data):
                    data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def assembled(rng: random.Random) -> str:
    """Tokens and nasty pieces thrown together."""
    pool = [ALL_TOKENS, MARKS, NASTY]
    return rng.choice(["", " "]).join(
        rng.choice(rng.choice(pool)) for _ in range(rng.choice([1, 3, 10, 40, 120]))
    )


def reflowed(rng: random.Random) -> tuple[str, str]:
    """A shipped spec, and the same tokens with other white space and with comments."""
    text = rng.choice(FILES)
    out = []
    for token in TOKEN.findall(text):
        if token[0] == "#":
            token += "\n"
        elif token.isspace():
            token = rng.choice(
                [" ", "  ", "\t", "\n", "\r\n", "\r", "\n\n\n", "\f ", ' # σ { [ " 曲率\n', "\n#\n"]
            )
        out.append(token)
    return text, "".join(out)


def assert_survives(given: str | bytes) -> None:
    """No traceback, no hang; true places; formatting that keeps the tree."""
    # What Hypothesis remembers of a long run is swept through at every collection: not our time.
    gc.disable()
    try:
        start = time.process_time()
        _survives(given)
        took = time.process_time() - start
    finally:
        gc.enable()
    assert took < 3 * SLOWEST, f"{took:.1f} s"


def _survives(given: str | bytes) -> None:
    text = read(given)
    if text is None:
        return
    found = check_text(text, "x.cv")
    assert_places(text, found, render(found))
    for diagnostic in found:
        as_data(diagnostic)
    errors = [d for d in found if d.severity is Severity.ERROR]
    assert bool(errors) is (loaded(text) is None)
    assert_formats(text)


def read(given: str | bytes) -> str | None:
    """The text; None where it is none, which is said."""
    if isinstance(given, str):
        return given
    try:
        return decode("x.cv", given)
    except SpecError as error:
        render(error.diagnostics)
        return None


def loaded(text: str) -> Spec | None:
    try:
        return loads(text, "x.cv")
    except SpecError:
        return None


def assert_places(text: str, found: list[Diagnostic], shown: str) -> None:
    """Every span lies inside its text; lines and columns are an editor's."""
    for diagnostic in found:
        assert diagnostic.headline
        for label in diagnostic.labels:
            span = label.span
            if not span.source.text:
                continue
            size = len(span.source.text)
            assert 0 <= span.start <= span.end <= size, (
                diagnostic.code,
                span.start,
                span.end,
                size,
            )
            line, column = span.source.position(span.start)
            assert (line, column) == editor_position(span.source.text, span.start)
    for row in shown.split("\n"):
        assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in row), repr(row)
    shown.encode()


def editor_position(text: str, offset: int) -> tuple[int, int]:
    """Line and column, counted from 1, where CRLF, LF and CR end lines."""
    before = re.split(r"\r\n|\n|\r(?!\n)", text[:offset])
    if text[:offset].endswith("\r") and text[offset : offset + 1] == "\n":
        # Between the two characters of one line end.
        before = [*before[:-2], before[-2] + "\r"] if len(before) > 1 and not before[-1] else before
    return len(before), len(before[-1]) + 1


def assert_formats(text: str) -> None:
    """Idempotent, also on what cannot be read; a text that reads keeps its tree and its comments."""
    tidy = format_text(text)
    assert format_text(tidy) == tidy
    before, problems = parse(Source("x", text))
    if not problems:
        after, again = parse(Source("x", tidy))
        assert not again
        assert after == before
        assert comments(tidy) == comments(text)


def comments(text: str) -> list[str]:
    found = re.findall(r'"[^"\n\r]*"|(#[^\n\r]*)', text)
    return [c.rstrip() for c in found if c]


def memory_of(text: str) -> int:
    """Peak bytes that checking and showing a text takes."""
    tracemalloc.start()
    render(check_text(text, "x.cv"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak
