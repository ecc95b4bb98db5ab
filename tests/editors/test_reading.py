"""Roles of words, candidates and hover without the protocol; broken text never breaks them."""

from __future__ import annotations

import doctest
import random
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.editors import positions
from curvlang.editors.completion import Rank, complete
from curvlang.editors.document import Document, origins
from curvlang.editors.hover import hover
from curvlang.editors.positions import Lines
from curvlang.editors.reading import Role, read
from curvlang.editors.structure import structures
from curvlang.editors.symbols import occurrences, outline, rename, replaced
from curvlang.language import load, shipped
from curvlang.language.syntax.files import shipped_files

UNKNOWN = {"examples", "positions", "network", "linear", "is"}


@pytest.mark.parametrize("name", shipped_files())
def test_every_name_of_what_ships_is_found(name):
    """A word that names something is defined somewhere, and its definition carries its name."""
    document = Document(f"/nowhere/{name}.cv", shipped_files()[name])
    checked = 0
    for item in document.reading.items:
        for word in item.words:
            if word.role in (Role.CURVATURE, Role.STAGE, Role.INVERSE, Role.TASK, Role.SCALAR):
                places = origins(document, word)
                builtin = word.text in {x.name for x in shipped() if not x.where}
                assert builtin or places, word
                for place in places:
                    assert place.text[place.start : place.end] == word.text
                assert hover(document, word)
                checked += 1
    assert checked or name in ("flat",)


@pytest.mark.parametrize("name", shipped_files())
def test_every_stage_of_what_ships_fits_where_it_stands(name):
    document = Document(f"/nowhere/{name}.cv", shipped_files()[name])
    for item in document.reading.items:
        for word in item.words:
            if word.role is Role.STAGE:
                ranks = {c.text: c.rank for c in complete(document, word.start)}
                assert ranks[word.text] is Rank.FITS, word.text


def test_a_stage_that_does_not_fit_comes_last_and_says_why():
    document = Document("x.cv", "curvature x = hessian |> ")
    found = complete(document, len(document.text))
    fits = [c.text for c in found if c.rank is Rank.FITS]
    unfit = {c.text: c.detail for c in found if c.rank is Rank.UNFIT}
    assert "drop_residual" in fits
    assert "which no stage before it defines" in unfit["kronecker_factor"]
    assert [c.rank for c in found] == sorted(c.rank for c in found)


def test_structures_are_those_of_the_compiler():
    (chain,) = load("ekfac").curvatures.values()
    found = structures(chain)
    assert [s.label for s in found] == list(chain.labels)
    assert [s.structure for s in found][-2:] == ["Kronecker", "EigenBasis"]
    assert [s.scope for s in found][:3] == ["whole model", "whole model", "each layer"]


def test_solvers_and_their_preconditioners_are_known():
    text = "evaluate ggn on digits { solve cg(preconditioner = kfac, tolerance = 1e-3) }"
    document = Document("x.cv", text)
    assert document.problems == ()
    word = document.word_at(text.index("cg"))
    assert word is not None
    assert "conjugate gradients" in str(hover(document, word))
    (place,) = origins(document, document.word_at(text.index("kfac")))
    assert place.name.endswith("kfac.cv")
    assert {"cg", "neumann"} <= {c.text for c in complete(document, text.index("cg"))}
    assert "ekfac" in [c.text for c in complete(document, text.index("kfac"))]
    assert "iterations" in [c.text for c in complete(document, text.index("tolerance"))]


def test_baselines_and_measures_are_known():
    text = (
        "study x { path ggn baselines gradient_cosine, source of kfac, metagradient(models = 2) "
        "measures mislabelled(share = 0.2) }"
    )
    document = Document("x.cv", text)
    assert document.problems == ()
    for name, shown in (("source", "Bae"), ("mislabelled", "ROC"), ("models", "models: int")):
        word = document.word_at(text.index(name))
        assert word is not None
        assert shown in str(hover(document, word))
    (place,) = origins(document, document.word_at(text.index("kfac")))
    assert place.name.endswith("kfac.cv")
    assert {"source", "metagradient"} <= {c.text for c in complete(document, text.index("source"))}
    assert "proximal_response" in [c.text for c in complete(document, text.index("mislabelled"))]
    assert "ekfac" in [c.text for c in complete(document, text.index("kfac"))]
    assert "models" in [c.text for c in complete(document, text.index("models"))]


def test_names_bound_in_an_inverse_are_known():
    text = "inverse f(d = 1) per block: g, a -> p / (g + a + d)\n  where p = mean(a) / mean(g)\n"
    document = Document("x.cv", text)
    for words in ("g, a", "d = 1", "p = mean"):
        first = text.index(words)
        uses = [w.start for w in document.reading.items[0].words if w.text == words[0]]
        assert len(uses) > 1
        for use in uses:
            word = document.word_at(use)
            assert word is not None
            assert [p.start for p in origins(document, word)] == [first]


def test_words_of_laws_are_known():
    text = "curvature x = ggn\nlaw x is positive_semidefinite\nlaw trace(x) equals trace(ggn)\n"
    document = Document("x.cv", text)
    assert document.problems == ()
    for words, shown in (("positive", "no eigenvalue below zero"), ("trace", "diagonal entries")):
        word = document.word_at(text.index(words))
        assert word is not None
        assert shown in str(hover(document, word))
    word = document.word_at(text.index("x is"))
    assert word is not None
    assert [p.start for p in origins(document, word)] == [text.index("x")]
    assert len(occurrences(document, word)) == 3
    assert "symmetric" in [c.text for c in complete(document, text.index("positive"))]


def test_names_of_broken_text_are_known():
    text = "transform mine { needs a[n,t,i]\n  A[i,i'] = mean[n,t] a[n,t,i] * \ncurvature x = ggn |> mine"
    document = Document("x.cv", text)
    word = document.word_at(text.index("mine", 20))
    assert word is not None
    assert [p.start for p in origins(document, word)] == [text.index("mine")]
    inside = [c.text for c in complete(document, text.index("* ") + 2)]
    assert inside[0] == "a[n,t,i]"


def test_a_renaming_renames_all_and_nothing_else():
    text = (
        "transform t(f: float = 1, w: {f, g} = f) { needs a[n,t,i]\n  f2[i] = f * mean[n,t] a[n,t,i]\n"
        "  when w == f { B[i,i'] = f2[i] * f2[i'] } else { B[i,i'] = f * f2[i] * f2[i'] }\n"
        "  yield C[o,i,o',i'] = identity[o,o'] * B[i,i'] }\n"
        "curvature x = block_ggn |> t(f = 2, w = f)\n"
    )
    document = Document("x.cv", text)
    assert document.problems == ()
    word = document.word_at(text.index("f: float"))
    assert word is not None
    made = replaced(text, rename(document, word, "factor"), "factor")
    assert made == text.replace("(f: float", "(factor: float").replace(
        "= f *", "= factor *"
    ).replace("(f = 2", "(factor = 2")
    word = document.word_at(text.index("f2"))
    assert word is not None
    assert len(occurrences(document, word)) == 5
    with pytest.raises(SpecError, match="taken"):
        rename(document, word, "a")


def test_offsets_and_positions_are_inverse():
    text = "aσ\n𝛼b\r\n\u2028c\n"
    for encoding in ("utf-8", "utf-16", "utf-32"):
        lines = Lines(text, encoding)
        for offset in range(len(text) + 1):
            if text[max(0, offset - 1) : offset + 1] != "\r\n":
                assert lines.offset(*lines.position(offset)) == offset
    assert Lines(text).offset(1, 99) == text.index("\r")
    assert Lines(text).offset(99, 0) == len(text)
    assert doctest.testmod(positions).failed == 0


def everything(document, offset):
    """Every question an editor asks at a place."""
    found = document.word_at(offset)
    complete(document, offset)
    outline(document)
    if found is not None:
        hover(document, found)
        for place in origins(document, found):
            assert 0 <= place.start <= place.end
        occurrences(document, found)


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(list(shipped_files())))
def test_mutated_specs_never_break_the_editor(rng: random.Random, name):
    text = list(shipped_files()[name])
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(text) + 1)
        text[at : at + rng.choice([0, 1, 9])] = rng.choice(
            ["", "[", "}", "|>", "é", "\t", "'", "sum", "(", "=", "\r\n", '"', "when", "\nuse "]
        )
    made = "".join(text)
    document = Document("x.cv", made)
    for _ in range(4):
        everything(document, rng.randrange(len(made) + 1))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.integers(0, 60))
def test_noise_never_breaks_the_editor(text, offset):
    everything(Document("x.cv", text), min(offset, len(text)))
    assert all(w.text == text[w.start : w.end] for i in read(text).items for w in i.words)


def test_a_long_file_is_fast():
    body = shipped_files()["prelude"].partition("\ninverse")[0]
    text, number = "", 0
    while text.count("\n") < 2000:
        number += 1
        text += body.replace("transform ", f"transform x{number}_")
    text += "\ncurvature x = block_ggn |> x1_kronecker_factor |> "
    document = Document("x.cv", text)
    start = time.process_time()
    everything(document, len(text))
    # An order above what is measured (0.4 s): only a change of growth fails here.
    assert time.process_time() - start < 10


def test_the_editor_half_imports_no_torch():
    code = (
        "import sys; from curvlang.editors.document import Document;"
        "from curvlang.editors.hover import hover;"
        "d = Document('x.cv', 'curvature x = ekfac');"
        "assert 'EigenBasis' in hover(d, d.word_at(10));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_lines_of_a_study():
    text = "study x {\n  path hessian > ggn\n  curvatures kfac, ekfac\n  inverses tikhonov, pseudo(rtol = 1)\n}"
    document = Document("/nowhere/x.cv", text)
    found = {w.text: w.role for item in document.reading.items for w in item.words}
    assert {found[x] for x in ("hessian", "ggn", "kfac", "ekfac")} == {Role.CURVATURE}
    assert {found[x] for x in ("tikhonov", "pseudo")} == {Role.INVERSE}
    assert found["rtol"] is Role.ARGUMENT
