"""Grammar, Pygments lexer and TextMate grammar say the same words."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lark.lexer import PatternStr
from pygments.token import Comment, Error, Keyword, Name, Number, Operator, String

from curvlang.editors import textmate
from curvlang.editors.pygments_lexer import CvLexer
from curvlang.editors.vocabulary import one_of, read, vocabulary
from curvlang.language.syntax.files import shipped_files
from curvlang.language.syntax.tables import build, grammar
from curvlang.language.syntax.unexpected import KEYWORDS

ROOT = Path(__file__).parents[2]


def snippets():
    """Every specification that a document or a shipped file shows as right."""
    found = {f"{name}.cv": text for name, text in shipped_files().items()}
    # The pages of diagnostics show mistakes on purpose.
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for k, text in enumerate(
            re.findall(r"```cv\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
        ):
            if path.parent.name != "diagnostics" or k:  # a page's first one is the mistake
                found[f"{path.name} {k}"] = text
    return found


def literals():
    """What lark itself finds in the grammar: fixed words and marks, without the patterns."""
    terminals = build(grammar()).terminals
    return {t.pattern.value for t in terminals if isinstance(t.pattern, PatternStr)}


def classes(text):
    return [(str(kind)[len("Token.") :], word) for kind, word in CvLexer().get_tokens(text)]


def test_the_vocabulary_is_what_lark_reads():
    words = vocabulary()
    for literal in literals():
        assert literal in words.keywords or literal in words.marks, literal
    assert set(words.items) == set(KEYWORDS)
    for word in words.lines:
        assert re.search(rf"\b{word}\b", grammar())


def test_a_new_word_is_found():
    changed = grammar().replace("?item: use", "?item: extra | use") + (
        '\nextra: "extra" NAME "again" "<~" OWN\nOWN.3: /(alpha|beta)(?!\\w)/\n'
    )
    words = read(changed)
    assert words.items[0] == "extra"
    assert "again" in words.words
    assert {"alpha", "beta"} <= set(words.lines)
    assert "<~" in words.marks
    assert not {"extra", "again", "alpha"} & vocabulary().keywords


def test_the_textmate_grammar_is_up_to_date():
    assert textmate.shipped() == textmate.text(), "run `python -m curvlang.editors.textmate`"


def test_the_textmate_grammar_says_every_word():
    patterns = json.dumps(json.loads(textmate.shipped()), ensure_ascii=False)
    words = vocabulary()
    for group in (words.items, words.words, words.lines, words.reductions, words.functions):
        assert json.dumps(one_of(group))[1:-1] in patterns


@pytest.mark.parametrize("name", snippets())
def test_no_token_of_a_specification_is_an_error(name):
    text = snippets()[name]
    found = list(CvLexer().get_tokens(text))
    assert [word for kind, word in found if kind in Error] == []
    assert "".join(word for _, word in found).strip() == text.strip()
    assert any(kind in Keyword for kind, _ in found)


@pytest.mark.parametrize("text", ["curvature x = hessian ? ggn", 'use "open', "a @ b", "x & y"])
def test_what_the_grammar_does_not_know_is_an_error(text):
    assert any(kind in Error for kind, _ in CvLexer().get_tokens(text))


def test_every_keyword_is_highlighted_as_one():
    for word in vocabulary().keywords:
        (first, *_) = CvLexer().get_tokens(f"{word} x")
        assert first[0] in Keyword, word


def test_tokens_of_a_line():
    assert [
        (kind, word)
        for kind, word in CvLexer().get_tokens("G[o,o'] = mean[n] sum(x)^2 + 1e-3 # λ")
        if word.strip()
    ] == [
        (Name.Variable, "G"), *_marks("["), (Name.Entity, "o"), *_marks(","), (Name.Entity, "o'"),
        *_marks("]"), (Operator, "="), (Name.Builtin, "mean"), *_marks("["), (Name.Entity, "n"),
        *_marks("]"), (Name.Builtin, "sum"), *_marks("("), (Name, "x"), *_marks(")"),
        (Operator, "^"), (Number, "2"), (Operator, "+"), (Number, "1e-3"),
        (Comment.Single, "# λ"),
    ]  # fmt: skip
    kinds = dict(map(reversed, CvLexer().get_tokens('curvature σ = "doc" x |> y(by = layer)')))
    assert kinds["σ"] is Name.Class
    assert kinds['"doc"'] is String.Double
    assert kinds["y"] is Name.Function
    assert kinds["by"] is Name.Attribute


def _marks(mark):
    from pygments.token import Punctuation

    return [(Punctuation, mark)]


def test_highlighting_imports_no_torch():
    code = "import sys, curvlang.editors.pygments_lexer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
