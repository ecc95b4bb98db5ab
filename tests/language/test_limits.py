"""Checking, formatting and completing take time linear in the text, or a limit is named."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest

from curvlang.compiler.algebra.spectral import reads_spectrum
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.render import render
from curvlang.diagnostics.source import Source
from curvlang.editors.completion import complete
from curvlang.editors.document import Document
from curvlang.editors.hover import hover
from curvlang.editors.positions import Lines
from curvlang.editors.symbols import occurrences, outline
from curvlang.language import check_text, load, loads
from curvlang.language.syntax.files import LARGEST
from curvlang.language.syntax.formatter import format_source, format_text
from curvlang.language.syntax.problems import MOST_SHOWN
from tests.language.shapes import SHAPES, YIELD, each, transform

SIZES = (150, 300)
"""Parts of a text: few enough to count calls, more than most limits take."""
GROWTH = 2.6
"""Calls at twice the size: 2 where they are linear, 4 where they are quadratic."""
SECONDS = 5.0
"""Of the processor, for one question about a long text."""


def checked(text: str) -> None:
    render(check_text(text, "x.cv"))


def formatted(text: str) -> None:
    format_text(text)
    try:
        format_source(Source("x.cv", text))
    except SpecError:
        pass


def completed(text: str) -> None:
    for after in ("", "\ncurvature z = ggn |> "):
        document = Document("x.cv", text + after)
        complete(document, len(document.text))


def asked(text: str) -> None:
    document = Document("x.cv", text)
    for symbol in outline(document):
        Lines(text).position(symbol.start)
    for offset in (len(text) // 3, len(text) // 2, len(text) - 1):
        word = document.word_at(offset)
        if word is not None:
            hover(document, word)
            occurrences(document, word)


QUESTIONS: dict[str, Callable[[str], None]] = {
    "check": checked, "format": formatted, "complete": completed,
}  # fmt: skip


def calls(question: Callable[[str], None], text: str) -> int:
    """Functions that a question calls, those written in C included."""
    count = 0

    def see(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event.endswith("call")

    sys.setprofile(see)
    try:
        question(text)
    finally:
        sys.setprofile(None)
    return count


HEAVY = (
    "cells",
    "repeated",
    "repeated in a list",
    "rounds",
    "task and parameters",
    "values of a study",
)
"""Shapes whose every part is worth thousands of calls: timed below, not counted."""


@pytest.mark.parametrize("shape", [x for x in SHAPES if x not in HEAVY])
def test_twice_the_text_takes_at_most_some_two_times_the_calls(shape):
    first, second = (SHAPES[shape](n) for n in SIZES)
    checked(first)  # What is kept between questions is there for both.
    allowed = GROWTH * max(calls(checked, first + "\n"), 10_000)
    assert calls(checked, second) < allowed


@pytest.mark.parametrize("shape", SHAPES)
def test_what_used_to_double_with_every_part_is_answered(shape):
    text = SHAPES[shape](40)
    for question in (checked, formatted, completed, asked):
        assert seconds(question, text) < SECONDS


def largest(shape: str) -> str:
    """A long text of a shape, a third of the longest that is read."""
    n = 1
    while len(SHAPES[shape](2 * n).encode()) < LARGEST // 3:
        n *= 2
    return SHAPES[shape](n)


def seconds(question: Callable[[str], None], text: str) -> float:
    start = time.process_time()
    question(text)
    return time.process_time() - start


@pytest.mark.parametrize(
    "shape",
    ["unknown names", "a name again", "arguments again", "one beginning", "unknown on a line",
     "indices again", "when of many", "lds", "a path", "laws", "open quotes"],
)  # fmt: skip
def test_a_long_text_is_checked_soon(shape):
    assert seconds(checked, largest(shape)) < SECONDS


@pytest.mark.parametrize("shape", ["brackets behind nothing", "equals behind nothing"])
def test_a_long_text_is_formatted_and_asked_about_soon(shape):
    text = largest(shape)
    for question in (formatted, asked):
        assert seconds(question, text) < SECONDS


def test_checking_stops_and_says_so():
    found = check_text(each(5_000, lambda k: f"curvature c{k} = u{k}", "\n"))
    assert len(found) == MOST_SHOWN
    assert "checking stops after 100 errors" in found[-1].notes[0]
    assert not any(d.notes for d in found[:-1])
    (last,) = check_text("curvature c = u")
    assert last.notes == ()


@pytest.mark.parametrize(
    ("shape", "n", "code", "said"),
    [
        ("sums that double", 7, "E0234", "at most 100 terms, and this one has 128"),
        ("a sum of one", 101, "E0234", "101"),
        ("rounds", 2000, "E0235", "200000 operations"),
        ("words of one", 65, "E0236", "more than 64 readings"),
        ("laws", 60, "E0119", "at most 1000 laws"),
        ("cells", 6, "E0917", "have 5400 cells up to here; at most 5000"),
        ("task and parameters", 600, "E0917", "values; at most 200000"),
        ("repeated in a list", 11, "E0701", "a list has at most 10000 entries"),
        ("if inside if", 201, "E0108", "more than 200 deep"),
    ],
)
def test_limits_are_named(shape, n, code, said):
    found = {d.code: d.headline for d in check_text(SHAPES[shape](n))}
    assert said in found[code]


@pytest.mark.parametrize(
    ("shape", "n"),
    [
        ("sums that double", 5),
        ("a sum of one", 100),
        ("words of one", 64),
        ("laws", 31),
        ("cells", 5),
    ],
)
def test_what_stays_below_a_limit_is_taken(shape, n):
    assert check_text(SHAPES[shape](n).replace("/", "")) == []


def test_every_branch_of_many_choices_is_read():
    """Seven choices of two words are 128 combinations: a mistake in any branch is still found."""
    words = each(7, lambda k: f"w{k}: {{a, b}} = a")
    for wrong in range(14):

        def choice(k: int, wrong: int = wrong) -> str:
            first, second = ("no" if wrong == x else "1" for x in (2 * k, 2 * k + 1))
            inner = f"when w{(k + 1) % 7} == b {{ s{k} = {second} }}"
            return f"when w{k} == a {{ s{k} = {first} }} else {{ {inner} }}"

        found = check_text(transform(each(7, choice, "\n"), f"t({words})"))
        assert [d.headline for d in found] == ["unknown tensor `no`"]


def test_files_in_a_diamond_are_read_once(tmp_path):
    """Each file uses two that use two: 2^40 ways down to the last."""
    for k in range(40):
        for side in "ab":
            text = f'use "a{k + 1}.cv"\nuse "b{k + 1}.cv"\ncurvature {side}{k} = ggn'
            (tmp_path / f"{side}{k}.cv").write_text(text)
    for side in "ab":
        (tmp_path / f"{side}40.cv").write_text(f"curvature {side}40 = ggn")
    assert load(str(tmp_path / "a0.cv")).curvatures["a0"]


def test_names_that_double_are_looked_into_once():
    spec = loads(SHAPES["where that doubles"](60))
    (evaluation,) = spec.evaluations
    assert evaluation.inverse is not None
    assert not reads_spectrum(evaluation.inverse, evaluation.inverse.inverse.body)


def test_every_stage_is_offered_behind_a_long_chain():
    names = each(300, lambda k: f"transform t{k} {{ {YIELD} }}", "\n")
    text = f"{names}\ncurvature x = ggn |> block_diagonal(by = layer)" + " |> t0" * 90 + " |> "
    assert seconds(lambda t: complete(Document("x.cv", t), len(t)) and None, text) < SECONDS


@pytest.mark.parametrize(
    ("name", "code"), [("/dev/zero", "E0113"), ("loop.cv", "E0110"), ("n" * 5_000, "E0110")]
)
def test_what_is_no_file_is_said(name, code, tmp_path, monkeypatch):
    """An endless device, a link to itself, a name that no file system takes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop.cv").symlink_to("loop.cv")
    with pytest.raises(SpecError) as caught:
        load(name)
    used = check_text(f'use "{name}"\ncurvature x = ggn', "mine.cv")
    assert [d.code for d in (*caught.value.diagnostics, *used)] == [code, code]
