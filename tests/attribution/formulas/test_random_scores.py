"""Random scores: compiled, in turns and chunks, they are what their text says."""

from __future__ import annotations

import re
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import curvlang as cv
from curvlang.attribution.formulas.formula_scores import program_of
from curvlang.attribution.formulas.formula_stream import FormulaStream
from curvlang.attribution.formulas.points import Point, Points
from curvlang.attribution.streams.request import Request
from curvlang.language import loads
from curvlang.testing.score_comparison import scores_as_written
from tests.small import network
from tests.small import task as small

BOUND = 1e-7
"""Of the largest score: sums multiplied out cancel where the text subtracts first."""
NUMBERS = ("0.5", "2", "size[n]", "3")
FUNCTION = "inverse rooted(shift = 0.1): s -> 1 / sqrt(abs(s) + shift)"
ROWS = {"q": ["u[q,p]"], "n": ["v[n,p]"], "": []}


@lru_cache
def setting(spec):
    given_ = small(network([3, 4, 2]), "cross_entropy", n=7)
    op = cv.fit(spec, given_, progress=False)
    s, Q = torch.linalg.eigh(op.dense())

    def rooted(shift=0.1):
        return Q @ torch.diag(1 / (s.abs() + shift).sqrt()) @ Q.T

    return given_, op, op.inverse(0.1), {"rooted": rooted}


def _letters(text):
    """Queries and training examples among the indices of some tensors."""
    found = "".join(re.findall(r"\[([^\]]*)\]", text.replace("size[n]", "")))
    return [x for x in "qn" if x in found]


class Draft:
    """A score under construction: what is defined, by the indices that it has."""

    def __init__(self, draw):
        self.draw = draw
        self.lines = []
        self.rows = {key: list(x) for key, x in ROWS.items()}
        self.numbers = {"": list(NUMBERS), "q": [], "n": [], "qn": []}

    def pick(self, options):
        return self.draw(st.sampled_from(list(options)))

    def name(self, indices):
        name = f"x{len(self.lines)}"
        return f"{name}[{','.join(indices)}]" if indices else name

    def define(self, indices, value):
        target = self.name(indices)
        self.lines.append(f"{target} = {value}")
        return target

    def row(self):
        """Rows made of rows: solved, scaled, of entries, or a mean of them."""
        key = self.pick("qn") if not self.rows[""] else self.pick(("q", "n", ""))
        old = self.pick(self.rows[key])
        indices = [*key, "p"]
        match self.pick(("solve", "solve", "apply", "scale", "entries", "mean", "add", "random")):
            case "solve":
                new = self.define(indices, f"solve({old.partition('[')[0]})")
            case "apply":
                number = self.pick(("", "0.3", "2"))
                new = self.define(indices, f"apply(rooted({number}), {old.partition('[')[0]})")
            case "scale" if self.numbers[key]:
                factor = self.pick(self.numbers[key])
                new = self.define(indices, f"{old} / (1 + abs({factor}))")
            case "entries":
                new = self.define(indices, f"{old} / (0.5 + abs({old}))")
            case "mean" if key:
                key, indices = "", ["p"]
                kind = self.pick(("mean", "sum"))
                letter = old[old.index("[") + 1]
                new = self.define(indices, f"{kind}[{letter}] {old}")
            case "random":
                other = self.pick(self.rows[key])
                new = self.define(indices, f"{old} * {other} - 0.1 * {other}")
            case _:
                other = self.pick(self.rows[key])
                new = self.define(indices, f"{old} + 0.3 * {other}")
        self.rows[key].append(new)

    def number(self):
        """A number of products, or of other numbers."""
        choice = self.pick(("pair", "pair", "own", "mixed", "mean", "power"))
        everything = [x for rows in self.rows.values() for x in rows]
        if choice in ("pair", "own"):
            left = self.pick(self.rows["q"] if choice == "pair" else everything)
            right = self.pick(self.rows["n"] if choice == "pair" else everything)
            kind = self.pick(("sum", "sum", "mean"))
            letters = _letters(left + right)
            value = f"{kind}[p] {left} * {right}"
        elif choice == "power":
            left, right = self.pick(everything), self.pick(everything)
            letters = _letters(left + right)
            value = f"sum[p] ({left} - 0.5 * {right})^2"
        elif choice == "mean" and (known := [*self.numbers["n"], *self.numbers["qn"]]):
            old = self.pick(known)
            letters = [x for x in _letters(old) if x == "q"]
            value = f"{self.pick(('mean', 'sum'))}[n] {old}"
        else:
            known = [x for group in self.numbers.values() for x in group]
            left, right = self.pick(known), self.pick(known)
            letters = _letters(left + right)
            form = self.pick(("{} + {}", "{} * {}", "{} / (1 + abs({}))", "max({}, {})"))
            value = form.format(left, right)
            value = self.pick(("{}", "sqrt(abs({}))", "exp(-abs({}))")).format(value)
        key = "".join(letters)
        self.numbers[key].append(self.define(letters, value))

    def text(self):
        pair = self.define(["q", "n"], f"sum[p] {self.rows['q'][-1]} * {self.rows['n'][-1]}")
        terms = [x for group in self.numbers.values() for x in group[-2:]]
        value = f"{pair} / (1 + abs({self.pick(terms)})) + {self.pick(terms)}"
        body = "\n  ".join([*self.lines, f"yield s[q,n] = {value}"])
        return f"{FUNCTION}\nscore drawn {{\n  needs u[q,p], v[n,p]\n  {body}\n}}"


@st.composite
def scores(draw):
    draft = Draft(draw)
    for _ in range(draw(st.integers(0, 3))):
        draft.row()
    for _ in range(draw(st.integers(0, 4))):
        draft.number()
    return draft.text()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    scores(), st.sampled_from(["ekfac", "ggn", "identity"]), st.integers(1, 3), st.integers(1, 7)
)
def test_compiled_scores_are_what_their_text_says(text, spec, turn, size):
    check(text, spec, turn, size)


def check(text, spec, turn, size):
    """One score, compiled and read."""
    made, op, inverse, functions = setting(spec)
    found = loads(text).scores["drawn"]
    wanted = scores_as_written(found, inverse.dense(), made, functions=functions)
    points = Points(Point(made, inverse.operator, fitted=op), functions=found.functions)
    stream = FormulaStream(program_of(found), points, made.loss, Request(), turn=turn, size=size)
    scores_ = torch.full(stream.shape, torch.nan, dtype=torch.float64)
    for batch in stream.batches():
        scores_[batch.place] = batch.scores[""]
    scale = wanted.abs().max().clamp_min(1e-12)
    assert (scores_ - wanted).abs().max() <= BOUND * scale, text


def test_a_function_without_its_matrix_is_asked_for():
    made, _, inverse, functions = setting("ggn")
    body = "z[n,p] = apply(rooted(), v) yield s[q,n] = sum[p] u[q,p] * z[n,p]"
    found = loads(f"{FUNCTION} score mine {{ needs u[q,p], v[n,p] {body} }}").scores["mine"]
    with pytest.raises(AssertionError, match="applies `rooted`: give its matrix"):
        scores_as_written(found, inverse.dense(), made)
    assert scores_as_written(found, inverse.dense(), made, functions=functions).shape == (3, 7)
