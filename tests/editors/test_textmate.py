"""The TextMate grammar, read by a highlighter of its own on Oniguruma."""

from __future__ import annotations

import json

import pytest

from curvlang.editors import textmate
from curvlang.language.syntax.files import shipped_files

highlight = pytest.importorskip("babi.highlight", reason="babi is part of the extra `dev`")
onigurumacffi = pytest.importorskip("onigurumacffi", reason="babi brings it")

GOLDEN = """# a comment
use "mine.cv"
transform t(sharing: {expand, reduce} = expand) {
  needs a[n,t,i]
  A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
  when sharing == reduce { V[i,k], s[k] = eigh(A) }
}
curvature x = 0.9 * kfac |> t(sharing = reduce)
inverse f(damping = mean(s)): s -> 1e-3 / s
task d { data digits(seed = 0) }
evaluate x with f on d { influence of test on train }
"""
EXPECTED = {
    "# a comment": "comment.line.number-sign",
    '"mine.cv"': "string.quoted.double",
    "use": "storage.type",
    "transform": "storage.type",
    "curvature": "storage.type",
    "t": "entity.name.type",
    "sharing": "variable.other",
    "needs": "keyword.control",
    "when": "keyword.control",
    "==": "keyword.operator",
    "A": "variable.other.tensor",
    "i": "variable.parameter.index",
    "i'": "variable.parameter.index",
    "[": "punctuation",
    "eigh": "support.function",
    "mean": "support.function",
    "0.9": "constant.numeric",
    "1e-3": "constant.numeric",
    "|>": "keyword.operator.pipe",
    "f": "entity.name.type",
    "->": "keyword.operator",
    "data": "keyword.control",
    "digits": "entity.name.function",
    "seed": "variable.parameter",
    "with": "keyword.control",
    "influence": "keyword.control",
    "train": "variable.other",
}


@pytest.fixture(scope="module")
def scopes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grammars")
    (folder / "source.curvlang.json").write_text(textmate.shipped(), "utf-8")
    compiler = highlight.Grammars(str(folder)).compiler_for_scope("source.curvlang")

    def of(text):
        state, found = compiler.root_state, []
        for k, line in enumerate(text.splitlines(keepends=True)):
            state, regions = highlight.highlight_line(compiler, state, line, k == 0)
            found += [(line[r.start : r.end], r.scope[1:]) for r in regions]
        return found, len(state.entries)

    return of


def test_the_golden_snippet(scopes):
    found, depth = scopes(GOLDEN)
    assert "".join(word for word, _ in found) == GOLDEN
    assert depth == 1
    first = {}
    for word, scope in found:
        first.setdefault(word.strip(), scope[-1].removesuffix(".curvlang") if scope else "")
    assert {word: first.get(word) for word in EXPECTED} == EXPECTED


@pytest.mark.parametrize("name", shipped_files())
def test_every_word_of_what_ships_has_a_scope(scopes, name):
    found, depth = scopes(shipped_files()[name])
    assert [word for word, scope in found if word.strip() and not scope] == []
    assert depth == 1


def test_an_open_bracket_ends_at_the_next_mark(scopes):
    found, depth = scopes("A[i = 2\ncurvature x = y\n")
    assert depth == 1
    assert ("curvature", ("storage.type.curvlang",)) in found


def test_a_sign_without_meaning_has_no_scope(scopes):
    found, _ = scopes("x ? y\n")
    assert [word.strip() for word, scope in found if word.strip() and not scope] == ["?"]


def patterns(node):
    match node:
        case dict():
            for key, value in node.items():
                if key in ("match", "begin", "end"):
                    yield value
                else:
                    yield from patterns(value)
        case list():
            for value in node:
                yield from patterns(value)
        case _:
            pass


def test_every_pattern_compiles_in_oniguruma():
    found = list(patterns(json.loads(textmate.shipped())))
    assert len(found) > 15
    for pattern in found:
        onigurumacffi.compile(pattern)
