"""`curvlang fmt`: one way to space and indent a spec. Only white space changes, never a token."""

from __future__ import annotations

import re
from collections.abc import Iterator

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.source import Source
from curvlang.language.syntax.parser import parse
from curvlang.language.syntax.unexpected import KEYWORDS

_TOKEN = re.compile(
    r"""
    (?P<comment>\#[^\n\r]*)
  | (?P<string>"[^"\n\r]*")
  | (?P<number>(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)
  | (?P<word>[^\W\d]\w*'*)
  | (?P<mark>\|>|->|==|!=|>=|<=|[^\s\w])
    """,
    re.VERBOSE,
)
_MOST_PARTS = 16
"""Parts of an index that are kept together: more letters in brackets are not looked at."""
_LETTER = re.compile(r"[^\W\d_]'*")
_PAIRS = ("|>", "->", "==", "!=", ">=", "<=")
"""Marks of two characters."""
_UNARY_AFTER = {
    "(",
    "[",
    ",",
    "=",
    "+",
    "-",
    "*",
    "/",
    "^",
    "then",
    "else",
    "if",
    "repeat",
    "->",
    "<",
    ">",
    "<=",
    ">=",
}
_PARTS = ("data", "model", "loss", "train", "checkpoints", "models")
_STUDY = (
    "task",
    "path",
    "curvatures",
    "seeds",
    "inverses",
    "damping",
    "protocol",
    "baselines",
    "measures",
)


def format_text(text: str) -> str:
    r"""The text with its white space set; comments and tokens are kept as they are.

    >>> print(format_text("curvature   x=hessian\n|>  drop_residual"), end="")
    curvature x = hessian
      |> drop_residual
    """
    lines: list[str] = []
    depth, open_brackets, blank = 0, 0, 0
    in_law = False
    for raw in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        tokens = [(m.lastgroup or "", m.group(0)) for m in _TOKEN.finditer(raw)]
        # `lastgroup` names the outermost alternative that matched.
        if not tokens:
            blank += bool(lines)
            continue
        first = tokens[0][1]
        closing = 1 if first == "}" else 0
        if blank:
            lines.append("")
        blank = 0
        in_law = depth == 0 and (first == "law" or (in_law and first not in KEYWORDS))
        carried = first in ("|>", "+", "-", "where") or (
            in_law and first != "law" and first[0] != "#"
        )
        continuation = 1 if (open_brackets or (depth == 0 and carried)) else 0
        lines.append("  " * (depth - closing + continuation) + _line(tokens, raw))
        for kind, token in tokens:
            if kind in ("comment", "string"):
                continue
            depth += {"{": 1, "}": -1}.get(token, 0)
            open_brackets += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token, 0)
        depth, open_brackets = max(0, depth), max(0, open_brackets)
    return "\n".join(_aligned(lines)) + "\n" if lines else ""


def format_source(source: Source) -> str:
    """The text of a source with its white space set.

    Raises:
        SpecError: Where the text cannot be read: white space of broken text is left alone.
    """
    file, problems = parse(source)
    if problems:
        raise SpecError(problems)
    text = format_text(source.text)
    again, _ = parse(Source(source.name, text))
    if again != file:
        raise AssertionError(f"formatting would change the meaning of {source.name}")
    return text


def _line(tokens: list[tuple[str, str]], raw: str) -> str:
    out = ""
    brackets: list[str] = []
    previous = ""
    unary = False
    for k, (kind, token) in enumerate(tokens):
        if kind == "comment":
            out += ("  " if out else "") + token.rstrip()
            break
        if token in ("(", "["):
            index = (token == "[" and k > 0 and _indexes(tokens, k)) or _parts(tokens, k)
            glued = k > 0 and _glued(tokens, k)
            inside = index and bool(brackets) and brackets[-1] == "index"
            tight = glued or inside or not out or out.endswith(("(", "[", "^")) or unary
            out += token if tight else " " + token
            brackets.append("index" if index else token)
            unary = False
        elif token in (")", "]"):
            out = out.rstrip(" ") + token
            if brackets:
                brackets.pop()
            unary = False
        elif token == "{" and previous == ":":
            out += " {"
            brackets.append("words")
        elif token == "}" and brackets and brackets[-1] == "words":
            out += token
            brackets.pop()
        elif token in (",", ":") or token == "^":
            out += token
        elif token == "-" and (not previous or previous in _UNARY_AFTER):
            out += ("" if not out or out.endswith(("(", "[", "^")) else " ") + token
            unary = True
            previous = token
            continue
        elif token == "|" and brackets and brackets[-1] == "(":
            brackets.append("bars")
            out += token if out.endswith("(") else " " + token
        elif token == "|" and brackets and brackets[-1] == "bars":
            brackets.pop()
            out += token
        elif brackets and brackets[-1] == "bars" and out.endswith("|"):
            out += token
        elif brackets and brackets[-1] == "index":
            apart = token == "|" or out.endswith("|") or _one_token(out, token)
            out += " " + token if apart else token
        else:
            opened = bool(brackets) and brackets[-1] == "words" and out.endswith("{")
            tight = not out or out.endswith(("(", "[", "^")) or unary or opened
            out += token if tight and not _one_token(out, token) else " " + token
            unary = False
        previous = token
        if token not in ("(", "["):
            unary = False
    return out


def _one_token(before: str, after: str) -> bool:
    """Whether two tokens would be read as one with nothing between them: `- >`, `i j`."""
    both = before[-1:] + after[:1]
    return len(both) > 1 and (both in _PAIRS or all(x.isalnum() or x in "_'." for x in both))


def _indexes(tokens: list[tuple[str, str]], at: int) -> bool:
    """Whether a `[` opens indices: `A[i,i']`, not `hidden = [16]`."""
    kind, before = tokens[at - 1]
    return kind == "word" and before not in ("in", "return") and not _lists(tokens, at)


def _parts(tokens: list[tuple[str, str]], at: int) -> bool:
    """Whether a bracket opens an index in parts: `g[n,(h,d)]`, `o == (h,d)`, not `min(x, y)`."""
    if tokens[at][1] != "(" or (at and tokens[at - 1][0] == "word"):
        return False
    inside = [token for _, token in tokens[at + 1 : at + 1 + 2 * _MOST_PARTS]]
    end = inside.index(")") if ")" in inside else 0
    letters, commas = inside[0:end:2], inside[1:end:2]
    return len(letters) > 1 and set(commas) == {","} and all(map(_LETTER.fullmatch, letters))


def _lists(tokens: list[tuple[str, str]], at: int) -> bool:
    """Whether a bracket opens the list of a study's line: `damping [1e-3, 1]`, not `damping[i] = …`."""
    return at == 1 and tokens[0][1] in _STUDY and not any(t == "=" for _, t in tokens)


def _glued(tokens: list[tuple[str, str]], at: int) -> bool:
    """Whether a bracket follows its name directly: `eigh(A)`, `A[i]`, `random_normal[k](0)`."""
    kind, before = tokens[at - 1]
    if kind == "word":
        return not _lists(tokens, at) and before not in (
            "in",
            "if",
            "then",
            "else",
            "with",
            "on",
            "for",
            "curvature",
        )
    return before == "]" and tokens[at][1] == "(" and not _reduces(tokens, at)


def _reduces(tokens: list[tuple[str, str]], at: int) -> bool:
    """Whether the indices before a bracket are those of a sum or a mean: `sum[r] (a + b)`."""
    at -= 2
    while at > 0 and (tokens[at][0] == "word" or tokens[at][1] in (",", "|", "'")):
        at -= 1
    return at > 0 and tokens[at][1] == "[" and tokens[at - 1][1] in ("sum", "mean")


def _aligned(lines: list[str]) -> Iterator[str]:
    """Parts of a task in one column: `data    digits(…)`; lines of a study likewise."""
    width, parts = 0, 7
    for k, line in enumerate(lines):
        stripped = line.lstrip()
        word = stripped.split(" ", 1)[0]
        if not line.startswith(" "):
            width = _widest(lines, k + 1, _STUDY) if word == "study" else 0
            parts = max(7, _widest(lines, k + 1, _PARTS)) if word == "task" else 7
        own = max(parts if word in _PARTS else 0, width if word in _STUDY else 0)
        if own and line.startswith("  ") and " " in stripped:
            rest = stripped.split(" ", 1)[1].lstrip()
            yield f"{line[: len(line) - len(stripped)]}{word.ljust(own)} {rest}"
        else:
            yield line


def _widest(lines: list[str], first: int, words: tuple[str, ...]) -> int:
    """The longest of some words that start a line of the block whose lines start here."""
    widest = 0
    for k in range(first, len(lines)):
        line = lines[k]
        if line and not line.startswith(" "):
            break
        word = line.strip().split(" ", 1)[0]
        widest = max(widest, len(word) if word in words else 0)
    return widest
