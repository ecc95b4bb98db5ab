"""Statements as mathematics: Unicode for the terminal, LaTeX for a paper.

Both say the same: a mean is written with its normaliser and a sum, deltas are δ, a power is a
superscript. Index letters stay those of the language.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from curvlang.ir import expr as ir
from curvlang.ir.places import condition, is_places

_SUBSCRIPT = dict(zip("aehijklmnoprstuvx", "ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True))
_SUPERSCRIPT = dict(zip("-.0123456789", "⁻·⁰¹²³⁴⁵⁶⁷⁸⁹", strict=True))
_LENGTHS = {"n": "N", "t": "T", "r": "R", "c": "C", "p": "P", "l": "L"}
_ADD, _BODY, _MULTIPLY, _POWER = 1, 2, 3, 4
"""How tightly the place around an expression binds; a sum's body ends what is written there."""


@dataclass(frozen=True, slots=True)
class Unicode:
    """Mathematics as plain text: `A[i,i′] = 1/(N·T) Σₙₜ a[n,t,i] a[n,t,i′]`."""

    times: str = " "

    def index(self, index: ir.Index) -> str:
        return index.space + "′" * index.primes

    def tensor(self, name: str, indices: Sequence[ir.Index]) -> str:
        return f"{name}[{','.join(map(self.index, indices))}]" if indices else name

    def matrix(self, name: str, rows: Sequence[ir.Index], columns: Sequence[ir.Index]) -> str:
        groups = (",".join(map(self.index, group)) for group in (rows, columns))
        return f"{name}[{' | '.join(groups)}]"

    def delta(self, left: ir.Index, right: ir.Index) -> str:
        return self.tensor("δ", (left, right))

    def length(self, space: str) -> str:
        return _LENGTHS.get(space, f"|{space}|")

    def total(self, indices: Sequence[ir.Index]) -> str:
        if all(x.space in _SUBSCRIPT for x in indices):
            return "Σ" + "".join(_SUBSCRIPT[x.space] + "′" * x.primes for x in indices)
        return f"Σ[{','.join(map(self.index, indices))}]"

    def normaliser(self, spaces: Sequence[str]) -> str:
        inside = "·".join(map(self.length, spaces))
        return f"1/({inside})" if len(spaces) > 1 else f"1/{inside}"

    def quotient(self, above: str, below: str) -> str:
        return f"{above} / {below}"

    def power(self, base: str, exponent: ir.Expr) -> str:
        match exponent:
            case ir.Number(value=value):
                return base + "".join(_SUPERSCRIPT[x] for x in f"{value:g}")
            case ir.Negate(operand=ir.Number(value=value)):
                return base + "⁻" + "".join(_SUPERSCRIPT[x] for x in f"{value:g}")
            case _:
                return f"{base}^({self.number(exponent)})"

    def number(self, expr: ir.Expr) -> str:
        return mathematics(expr, self)

    def literal(self, value: float) -> str:
        return f"{value:g}"

    def function(self, name: str, arguments: Sequence[str]) -> str:
        if name == "abs":
            return f"|{arguments[0]}|"
        return f"{'√' if name == 'sqrt' else name}({', '.join(arguments)})"

    def group(self, text: str) -> str:
        return f"({text})"

    def condition(self, text: str) -> str:
        return f"[{text}]"


@dataclass(frozen=True, slots=True)
class Latex:
    r"""Mathematics as LaTeX: `A_{ii'} = \frac{1}{NT} \sum_{n,t} a_{nti}\, a_{nti'}`."""

    times: str = r"\, "

    def index(self, index: ir.Index) -> str:
        return index.space + "'" * index.primes

    def tensor(self, name: str, indices: Sequence[ir.Index]) -> str:
        return self.name(name) + ("_{" + "".join(map(self.index, indices)) + "}" if indices else "")

    def matrix(self, name: str, rows: Sequence[ir.Index], columns: Sequence[ir.Index]) -> str:
        groups = ("".join(map(self.index, group)) for group in (rows, columns))
        return f"{self.name(name)}_{{{','.join(groups)}}}"

    def name(self, name: str) -> str:
        if name == "_":
            return r"\cdot"
        # `A_2` is the second A of a chain; any other underscore is part of a name.
        word, _, number = name.rpartition("_")
        word = word.rstrip("_")
        if not (word and number.isdigit()):
            word, number = name, ""
        shown = word if len(word) == 1 else rf"\mathrm{{{word.replace('_', chr(92) + '_')}}}"
        return f"{shown}^{{({number})}}" if number else shown

    def literal(self, value: float) -> str:
        mantissa, _, exponent = f"{value:g}".partition("e")
        if not exponent:
            return mantissa
        power = f"10^{{{int(exponent)}}}"
        return power if mantissa == "1" else rf"{mantissa} \cdot {power}"

    def delta(self, left: ir.Index, right: ir.Index) -> str:
        return self.tensor(r"\delta", (left, right)).replace(r"\mathrm{\delta}", r"\delta")

    def length(self, space: str) -> str:
        return _LENGTHS.get(space, rf"\lvert {space} \rvert")

    def total(self, indices: Sequence[ir.Index]) -> str:
        return rf"\sum_{{{','.join(map(self.index, indices))}}}"

    def normaliser(self, spaces: Sequence[str]) -> str:
        return rf"\frac{{1}}{{{''.join(map(self.length, spaces))}}}"

    def quotient(self, above: str, below: str) -> str:
        return rf"\frac{{{above}}}{{{below}}}"

    def power(self, base: str, exponent: ir.Expr) -> str:
        return f"{base}^{{{mathematics(exponent, self)}}}"

    def function(self, name: str, arguments: Sequence[str]) -> str:
        match name:
            case "sqrt":
                return rf"\sqrt{{{arguments[0]}}}"
            case "abs":
                return rf"\lvert {arguments[0]} \rvert"
            case "exp" | "log" | "max" | "min":
                return rf"\{name}\left({', '.join(arguments)}\right)"
            case _:
                shown = name if name.startswith("\\") else rf"\operatorname{{{name}}}"
                return rf"{shown}\left({', '.join(arguments)}\right)"

    def group(self, text: str) -> str:
        return rf"\left({text}\right)"

    def condition(self, text: str) -> str:
        for sign, shown in (("<=", r"\le "), (">=", r"\ge "), ("!=", r"\ne "), ("==", "=")):
            text = text.replace(sign, shown)
        return rf"\mathbb{{1}}\left[{text}\right]"


Style = Unicode | Latex


def equation(node: ir.Statement, style: Style) -> str:
    """A definition or a yield as an equation."""
    match node:
        case ir.Define(targets=targets, value=value):
            left = ", ".join(style.tensor(t.name, t.indices) for t in targets)
        case ir.Yield(target=target, value=value):
            left = style.tensor(target.name, target.indices)
        case ir.Space(letter=letter, length=value):
            left = style.length(letter)
        case _:
            assert_never(node)
    return f"{left} = {mathematics(value, style)}"


def mathematics(expr: ir.Expr, style: Style, outer: int = 0) -> str:
    """The expression in a style, with as few parentheses as unambiguous reading allows."""
    match expr:
        case ir.Number(value=value):
            return style.literal(value)
        case ir.Ref(name=name, indices=own, cut=cut) if cut:
            # A tensor read as a matrix: rows | columns.
            return style.matrix(name, own[:cut], own[cut:])
        case ir.Ref(name=name, indices=own):
            return style.tensor(name, own)
        case ir.Delta(left=left, right=right):
            return style.delta(left, right)
        case ir.Size(index=index):
            return style.length(index.space)
        case ir.Negate(operand=operand):
            return _group(f"−{mathematics(operand, style, _MULTIPLY)}", outer > _ADD, style)
        case ir.Binary():
            return _binary(expr, style, outer)
        case ir.Reduce():
            return _group(_reduction(expr, style), outer > _BODY, style)
        case ir.Apply(function=function, arguments=arguments):
            return style.function(function, [mathematics(x, style) for x in arguments])
        case ir.Call() if is_places(expr):
            inside = condition(expr, style.index, lambda x: mathematics(x, style, _MULTIPLY))
            return style.condition(inside)
        case ir.Call(function=function, arguments=arguments, indices=own):
            name = style.tensor(function, own) if own else function
            return style.function(name, [mathematics(x, style) for x in arguments])
        case _:
            assert_never(expr)


def _reduction(expr: ir.Reduce, style: Style) -> str:
    """Nested reductions run together: `1/N Σₙᵣₜ` for `mean[n] sum[r,t]`."""
    means: list[str] = []
    bound: list[ir.Index] = []
    body: ir.Expr = expr
    while isinstance(body, ir.Reduce):
        if body.kind is ir.ReductionKind.MEAN:
            means.extend(x.space for x in body.indices)
        bound.extend(body.indices)
        body = body.body
    front = [style.normaliser(means)] if means else []
    inner = mathematics(body, style, _BODY)
    return " ".join([*front, style.total(bound), inner])


def _binary(expr: ir.Binary, style: Style, outer: int) -> str:
    match expr.operator:
        case ir.BinaryOperator.POWER:
            base = mathematics(expr.left, style, _POWER + 1)
            return style.power(base, expr.right)
        case ir.BinaryOperator.MULTIPLY:
            left = mathematics(expr.left, style, _MULTIPLY)
            # A sum on the right of a product covers all that follows it: no parentheses.
            last = _reduction(expr.right, style) if isinstance(expr.right, ir.Reduce) else ""
            right = last or mathematics(expr.right, style, _MULTIPLY)
            if isinstance(expr.left, ir.Number) and isinstance(expr.right, ir.Number):
                return _group(f"{left} · {right}", outer > _MULTIPLY, style)
            return _group(
                f"{left}{style.times}{right}", outer > (_BODY if last else _MULTIPLY), style
            )
        case ir.BinaryOperator.DIVIDE:
            deep = isinstance(style, Unicode)
            above = mathematics(expr.left, style, _MULTIPLY if deep else 0)
            below = mathematics(expr.right, style, _POWER if deep else 0)
            return _group(style.quotient(above, below), outer > _MULTIPLY, style)
        case ir.BinaryOperator.ADD | ir.BinaryOperator.SUBTRACT:
            minus = expr.operator is ir.BinaryOperator.SUBTRACT
            left = mathematics(expr.left, style, _ADD)
            right = mathematics(expr.right, style, _MULTIPLY if minus else _ADD)
            sign = "−" if minus and isinstance(style, Unicode) else str(expr.operator)
            return _group(f"{left} {sign} {right}", outer > _ADD, style)
        case _:
            assert_never(expr.operator)


def _group(text: str, needed: bool, style: Style) -> str:
    return style.group(text) if needed else text
