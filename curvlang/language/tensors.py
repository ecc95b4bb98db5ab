"""Index spaces inside a transform: every tensor's letters, every free index, every function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.diagnostics.source import Span
from curvlang.ir.expr import (
    Apply,
    Binary,
    BinaryOperator,
    Call,
    Define,
    Delta,
    Expr,
    Index,
    Negate,
    Number,
    Project,
    Reduce,
    Ref,
    Size,
    Space,
    Target,
    Yield,
)
from curvlang.ir.functions import ELEMENTWISE, FUNCTIONS, MAKERS, TensorFunction
from curvlang.ir.indices import FreeIndices, walk
from curvlang.language.values import suggestion

Scope = dict[str, tuple[str, ...]]
"""Name of each tensor to the letters of its spaces."""

MODEL_LETTERS: Mapping[str, str] = {
    "n": "training example",
    "t": "shared position",
    "i": "input feature",
    "o": "output feature",
    "r": "column of the loss-curvature factor",
    "c": "model output",
    "p": "parameter",
    "l": "layer",
}
MODEL_LEAVES: Scope = {"H": ("p", "p"), "J": ("n", "c", "p"), "L": ("n", "c", "c"), "C": ("p", "p")}
LAYER_LEAVES: Scope = {
    "a": ("n", "t", "i"),
    "e": ("n", "t", "o"),
    "C": ("o", "i", "o", "i"),
    "H": ("o", "i", "o", "i"),
}
COLUMNS: Scope = {"g": ("n", "r", "t", "o")}
MEANING: Mapping[str, str] = {
    "g": "per-layer Gauss–Newton columns",
    "a": "per-layer inputs",
    "e": "per-layer loss gradients",
    "J": "the model's Jacobian",
    "L": "the loss Hessian at the output",
    "H": "the Hessian",
}

PROJECTED = ("i", "o", "p")
"""Letters of parameters, which a projection may replace."""
LEAF_NAMES = ("a", "g", "e", "H", "J", "C")
"""What a projection redefines; every other tensor keeps the spaces it was computed in."""

ROWS = ((Index("o"), Index("i"), Index("o", 1), Index("i", 1)), (Index("p"), Index("p", 1)))
MOST_SUGGESTED = 50
"""Mistakes of one transform for which the nearest name is looked up."""
DEEPEST = 200
"""Nesting of an expression that is still read; deeper is a slip or an attack."""


def letters(target: Target) -> tuple[str, ...]:
    """The spaces of a target's indices."""
    return tuple(x.space for x in target.indices)


class TensorChecker:
    """Checks the statements of one transform in order, from the tensors that its `needs` names."""

    def __init__(self, needs: Sequence[Target], scalars: frozenset[str]) -> None:
        self.scope: Scope = {}
        self.scalars = set(scalars)
        self.parameters = scalars
        self.spaces: set[str] = set(MODEL_LETTERS)
        self.problems: list[Diagnostic] = []
        self.free = FreeIndices()
        self.written: dict[str, tuple[Index, ...]] = {}
        self.declared: set[str] = set()
        self.made: dict[str, tuple[str, ...]] = {}
        self.orthonormal: set[str] = set()
        self.projected: dict[str, Span] = {}
        for target in needs:
            self._twice(target.indices, target.span)
            self.scope[target.name] = letters(target)
            self.written[target.name] = target.indices
            self.spaces.update(letters(target))
            self.made.update({x: () for x in letters(target) if x not in MODEL_LETTERS})

    def define(self, statement: Define) -> None:
        """A definition: the right side's free indices are the left side's."""
        value = statement.value
        for target in statement.targets:
            self._twice(target.indices, target.span)
        if (
            isinstance(value, Call)
            and value.function in FUNCTIONS
            and FUNCTIONS[value.function].results
        ):
            self._function(statement, value)
        elif len(statement.targets) > 1:
            self._say(
                "E0301",
                "several names on the left need a function of several results",
                statement.span,
                "one tensor comes from the right",
                ("use one name, or `eigh(A)` or `svd(A)` on the right",),
            )
        else:
            self._sides(statement.targets[0], value)
        for target in statement.targets:
            self._bind(target)

    def space(self, statement: Space) -> None:
        """A declared space: a letter of its own, and a length made of numbers."""
        letter = statement.letter
        if letter in self.spaces or not letter.isalpha():
            what = MODEL_LETTERS.get(letter, "in use already")
            self._say(
                "E0307",
                f"`space` makes a new index space, and `{letter}` is taken",
                statement.span,
                f"`{letter}`: {what}" if letter.isalpha() else "primes name no space of their own",
                ("use a letter of its own, such as `k`",),
            )
        for node in walk(statement.length):
            if isinstance(node, Ref) and (node.indices or node.name not in self.parameters):
                self._length(node.span, f"`{node.name}` is no number that is known before the data")
            elif isinstance(node, Call | Reduce | Delta):
                self._length(node.span, "computed from data")
            elif isinstance(node, Size):
                self._space(node.index, node.span)
        self.spaces.add(letter)
        self.declared.add(letter)

    def _length(self, span: Span, label: str) -> None:
        self._say(
            "E0323",
            "the length of a space is made of numbers, parameters and sizes",
            span,
            label,
            ("for example `space k = min(rank, size[i])`",),
        )

    def project(self, statement: Project) -> None:
        """A projection: a letter of parameters, a new letter, a basis with orthonormal columns."""
        old, new, basis = statement.old, statement.new, statement.basis
        if old not in PROJECTED:
            self._say(
                "E0324",
                f"`{old}` is not projected: only `i` and `o` of a layer, and `p` of the model, are",
                statement.span,
                MODEL_LETTERS.get(old, f"`{old}` is no space of parameters"),
            )
        elif old in self.projected:
            self.problems.append(
                Diagnostic(
                    "E0325",
                    f"`{old}` is projected twice in one transform",
                    (Label(statement.span, "again here"), Label(self.projected[old], "first here")),
                    ("put the second projection into a transform of its own",),
                )
            )
        self.projected.setdefault(old, statement.span)
        if new in MODEL_LETTERS or new == old:
            self._say(
                "E0307",
                f"a projection leads into a new space, and `{new}` is taken",
                statement.span,
                f"`{new}`: {MODEL_LETTERS.get(new, 'the space itself')}",
                (f"declare a space: `space k = min(16, size[{old}])`",),
            )
        elif new not in self.spaces:
            self._space(Index(new), statement.span)
        self._basis(statement, basis)

    def _basis(self, statement: Project, basis: Ref) -> None:
        self._visit(basis)
        if basis.name not in self.scope:
            return
        wanted = (statement.old, statement.new)
        if self.scope[basis.name] != wanted:
            have = ",".join(self.scope[basis.name])
            self._say(
                "E0305",
                f"the basis of this projection is over `{','.join(wanted)}`, "
                f"and `{basis.name}` is over `{have}`",
                basis.span,
                "rows of the old space, columns of the new one",
            )
        elif basis.name not in self.orthonormal:
            self._say(
                "E0326",
                f"the columns of `{basis.name}` are not known to be orthonormal",
                basis.span,
                "a projection is lifted back by the transpose of its basis",
                (f"write `Q[{','.join(wanted)}] = orthonormal({basis.name})` and project by `Q`",),
            )

    def yields(self, statement: Yield) -> None:
        """A yield: `C[o,i,o',i']`, or `C[p,p']` for the whole model."""
        target = statement.target
        if target.indices not in ROWS:
            self._say(
                "E0302",
                "a yield states the entries of the block",
                target.span,
                "rows, then the same columns with primes",
                ("write `yield C[o,i,o',i'] = …`, or `yield C[p,p'] = …` for the whole model",),
            )
        self._sides(target, statement.value)

    def _bind(self, target: Target) -> None:
        if target.name == "_":
            self.spaces.update(letters(target))
            return
        if target.indices:
            self.scope[target.name] = letters(target)
            self.written[target.name] = target.indices
        else:
            self.scalars.add(target.name)
        self.spaces.update(letters(target))

    def _sides(self, target: Target, value: Expr) -> None:
        if not self._expression(value):
            return
        left, right = set(target.indices), set(self.free(value))
        for index in sorted(right - left):
            place = _place(value, index)
            self._say(
                "E0303",
                f"the index `{index}` is free on the right and absent on the left",
                place,
                f"`{index}` is not summed",
                (
                    f"add `sum[{index}]` (or `mean[{index}]`) in front, or `{index}` to the left side",
                ),
            )
        for index in sorted(left - right):
            if index.space not in self.spaces:
                self._say(
                    "E0304",
                    f"the index `{index}` names no space",
                    target.span,
                    "nothing on the right has it",
                    suggestion(index.space, tuple(sorted(self.spaces))),
                )
                continue
            self._say(
                "E0304",
                f"the index `{index}` stands on the left and nowhere on the right",
                target.span,
                f"`{index}` has no meaning here",
                (f"use `{index}` on the right, or leave it out",),
            )

    def _function(self, statement: Define, call: Call) -> None:
        function = FUNCTIONS[call.function]
        groups = self._matrix(call, function)
        if groups is None:
            return
        if len(statement.targets) > len(function.results):
            self._say(
                "E0301",
                f"`{call.function}` gives {len(function.results)} tensors",
                statement.span,
                f"{len(statement.targets)} names for them",
            )
            return
        for k, (target, result) in enumerate(
            zip(statement.targets, function.results, strict=False)
        ):
            self.orthonormal.discard(target.name)
            if self._result(target, result, groups, call) and k in function.orthonormal:
                self.orthonormal.add(target.name)

    def _matrix(self, call: Call, function: TensorFunction) -> dict[str, tuple[str, ...]] | None:
        """The spaces of the rows and of the columns of a function's argument."""
        argument = self._tensor_argument(call)
        if argument is None:
            return None
        numbers = len(call.arguments) - 1
        if numbers != function.numbers:
            self._arity(call, 1 + function.numbers)
            return None
        (tensor, *_) = call.arguments
        assert isinstance(tensor, Ref)
        cut = tensor.cut or 1
        if not tensor.cut and len(argument) != 2 and function.argument != "*":
            written = ",".join(map(str, self.written.get(tensor.name, ())))
            self._say(
                "E0306",
                f"`{call.function}` takes a matrix, and this has {len(argument)} indices",
                call.span,
                "not a matrix",
                (f"say which indices are rows, as in `{tensor.name}[{written}]` with a `|` inside",)
                if len(argument) > 2
                else (),
            )
            return None
        rows, columns = argument[:cut], argument[cut:]
        if function.argument == "xx" and rows != columns:
            self._say(
                "E0306",
                f"`{call.function}` takes a square matrix of one space, "
                f"and this is over `{','.join(rows)}` and `{','.join(columns)}`",
                call.span,
                "rows and columns differ",
            )
            return None
        return {"x": rows, "y": columns}

    def _result(
        self, target: Target, result: str, groups: dict[str, tuple[str, ...]], call: Call
    ) -> bool:
        """Check one result's indices; the space a function makes takes the letter written there."""
        wanted = [space for letter in result for space in groups.get(letter, (None,))]
        if len(target.indices) != len(wanted):
            self._say(
                "E0305",
                f"this result of `{call.function}` has {len(wanted)} "
                f"ind{'ices' if len(wanted) > 1 else 'ex'}",
                target.span,
                f"`{target.name}` is written with {len(target.indices)}",
            )
            return False
        fine = True
        for index, space in zip(target.indices, wanted, strict=True):
            if space is None:
                fine &= self._makes(index.space, target, call, groups)
            elif space != index.space:
                self._say(
                    "E0305",
                    f"`{target.name}` has the space `{space}` here, not `{index.space}`",
                    target.span,
                    f"expected `{space}`",
                )
                fine = False
        return fine

    def _makes(
        self, letter: str, target: Target, call: Call, groups: dict[str, tuple[str, ...]]
    ) -> bool:
        """Whether a letter can name the space that a function makes: new, declared, or as long."""
        length = (call.function, *groups["x"]) if call.function == "svd" else groups["x"]
        taken = letter in MODEL_LETTERS or letter in groups["x"] or letter in groups["y"]
        if not taken and (
            letter in self.declared or self.made.setdefault(letter, length) == length
        ):
            return True
        what = MODEL_LETTERS.get(letter, "the matrix itself" if taken else "of another length")
        self._say(
            "E0307",
            f"`{call.function}` makes a new space here, and `{letter}` is taken",
            target.span,
            f"`{letter}`: {what}",
            ("use a letter of its own, such as `k`",),
        )
        return False

    def _tensor_argument(self, call: Call) -> tuple[str, ...] | None:
        """The spaces of a function's tensor, in the order it is read in."""
        match call.arguments:
            case (Ref(name=name, indices=indices, cut=cut), *rest) if cut or not indices:
                for other in rest:
                    if self.free(other) or any(
                        isinstance(x, Ref) and x.name not in self.scalars for x in walk(other)
                    ):
                        self._arity(call, 1 + FUNCTIONS[call.function].numbers)
                        return None
                if name not in self.scope:
                    self._unknown(name, call.arguments[0].span)
                    return None
                if not cut:
                    return self.scope[name]
                return self._grouped(name, indices, call.arguments[0].span)
            case _:
                self._say(
                    "E0308",
                    f"`{call.function}` takes a tensor as a whole",
                    call.span,
                    "an expression or an indexed tensor",
                    (
                        f"give the tensor a name first, then write `{call.function}(A)`, or "
                        f"`{call.function}(A[o,i | k])` to say which indices are rows",
                    ),
                )
                return None

    def _grouped(self, name: str, indices: tuple[Index, ...], span: Span) -> tuple[str, ...] | None:
        """`Y[o,i | k]` names each index of `Y` once, in any order."""
        written = self.written[name]
        if sorted(indices) == sorted(written):
            return tuple(x.space for x in indices)
        shown = ",".join(map(str, written))
        self._say(
            "E0327",
            f"`{name}` is read as a matrix by its own indices `{shown}`, each of them once",
            span,
            "other indices",
            (f"put a `|` between the rows and the columns of `{name}[{shown}]`",),
        )
        return None

    def _arity(self, call: Call, wanted: int) -> None:
        self._say(
            "E0309",
            f"`{call.function}` takes {wanted} argument{'s' if wanted > 1 else ''}",
            call.span,
            f"{len(call.arguments)} given",
        )

    def _expression(self, expr: Expr) -> bool:
        """Check every node; whether all of it is meaningful."""
        before = len(self.problems)
        self._visit(expr)
        return len(self.problems) == before

    def _visit(self, expr: Expr) -> None:
        match expr:
            case Number():
                pass
            case Size(index=index):
                self._space(index, expr.span)
            case Ref():
                self._ref(expr)
            case Delta(left=left, right=right):
                for index in (left, right):
                    self._space(index, expr.span)
                if left.space != right.space:
                    self._say(
                        "E0305",
                        f"`identity` has both indices in one space, not `{left}` and `{right}`",
                        expr.span,
                        "two spaces",
                    )
            case Negate(operand=operand):
                self._visit(operand)
            case Binary():
                self._binary(expr)
            case Apply(function=function, arguments=arguments):
                wanted = 2 if function in ("max", "min") else 1
                if len(arguments) != wanted:
                    self._say(
                        "E0309",
                        f"`{function}` takes {wanted} argument{'s' if wanted > 1 else ''}",
                        expr.span,
                        f"{len(arguments)} given",
                    )
                for argument in arguments:
                    self._visit(argument)
            case Reduce(indices=indices, body=body):
                self._visit(body)
                self._twice(indices, expr.span)
                inside = self.free(body)
                for index in indices:
                    if index not in inside:
                        self._say(
                            "E0315",
                            f"`{expr.kind}[{index}]` reduces over an index that nothing inside has",
                            expr.span,
                            f"no `{index}` in here",
                            _close_index(index, inside),
                        )
            case Call():
                self._call(expr)
            case _:
                assert_never(expr)

    def _call(self, call: Call) -> None:
        if call.function in MAKERS:
            if not call.indices:
                self._say(
                    "E0308",
                    f"`{call.function}` needs the indices of the tensor it makes",
                    call.span,
                    "no indices",
                    (f"write `{call.function}[k,i](0)`",),
                )
            for index in call.indices:
                self._space(index, call.span)
            self._twice(call.indices, call.span)
            self._seed(call)
            return
        if call.function not in FUNCTIONS:
            known = (*FUNCTIONS, *MAKERS, *ELEMENTWISE, "sum", "mean")
            self._say(
                "E0316",
                f"unknown function `{call.function}`",
                call.span,
                "",
                suggestion(call.function, known),
            )
            return
        if FUNCTIONS[call.function].results:
            self._say(
                "E0308",
                f"`{call.function}` gives whole tensors and stands alone on the right",
                call.span,
                "inside an expression",
                (f"first `B[…] = {call.function}(A)`, then use `B`",),
            )
            return
        self._matrix(call, FUNCTIONS[call.function])

    def _seed(self, call: Call) -> None:
        if len(call.arguments) != 1:
            self._arity(call, 1)
            return
        for node in walk(call.arguments[0]):
            if not isinstance(node, Number | Binary | Negate) and not (
                isinstance(node, Ref) and node.name in self.parameters and not node.indices
            ):
                self._say(
                    "E0309",
                    f"the seed of `{call.function}` is a number or a parameter",
                    node.span,
                    "not a number",
                )
                return

    def _ref(self, ref: Ref) -> None:
        if ref.cut:
            self._say(
                "E0328",
                "`|` splits a tensor into rows and columns only as a function's argument",
                ref.span,
                "an entry has plain indices",
                ("write commas, or give it to a function as in `orthonormal(Y[o,i | k])`",),
            )
            return
        if ref.name in self.scalars and not ref.indices:
            return
        if ref.name not in self.scope:
            self._unknown(ref.name, ref.span)
            return
        spaces = self.scope[ref.name]
        if len(spaces) != len(ref.indices):
            self._say(
                "E0305",
                f"`{ref.name}` has {len(spaces)} indices (`{','.join(spaces)}`), "
                f"not {len(ref.indices)}",
                ref.span,
                f"written with {len(ref.indices)}",
            )
            return
        for index, space in zip(ref.indices, spaces, strict=True):
            if index.space != space:
                self._say(
                    "E0305",
                    f"`{ref.name}` has the space `{space}` where `{index}` stands",
                    ref.span,
                    f"`{','.join(spaces)}` is how it was defined",
                    (f"write `{space}` there",),
                )

    def _binary(self, expr: Binary) -> None:
        self._visit(expr.left)
        self._visit(expr.right)
        left, right = set(self.free(expr.left)), set(self.free(expr.right))
        match expr.operator:
            case BinaryOperator.ADD | BinaryOperator.SUBTRACT:
                if not (left <= right or right <= left):
                    names = ", ".join(f"`{x}`" for x in sorted(left ^ right))
                    self._say(
                        "E0317",
                        f"the two sides of `{expr.operator}` have different indices: {names}",
                        expr.span,
                        "one side lacks them",
                        ("give both sides the same free indices",),
                    )
            case BinaryOperator.POWER:
                inside = {x.name for x in walk(expr.right) if isinstance(x, Ref)}
                if right or not inside <= self.parameters:
                    self._say(
                        "E0318",
                        "an exponent is a number",
                        expr.right.span,
                        "not a constant",
                        ("for the power of a matrix write `power(A, 1/2)`",),
                    )
            case BinaryOperator.MULTIPLY | BinaryOperator.DIVIDE:
                pass
            case _:
                assert_never(expr.operator)

    def _space(self, index: Index, span: Span) -> None:
        if index.space not in self.spaces:
            self._say(
                "E0304",
                f"the index `{index}` names no space",
                span,
                "",
                (
                    *suggestion(index.space, tuple(sorted(self.spaces))),
                    f"or declare it: `space {index.space} = 16`",
                ),
            )

    def _unknown(self, name: str, span: Span) -> None:
        everything = {**MODEL_LEAVES, **LAYER_LEAVES, **COLUMNS}
        if name in everything:
            written = f"{name}[{','.join(everything[name])}]"
            help_: tuple[str, ...] = (f"add it to `needs`: `needs {written}`",)
        else:
            # A text with that many mistakes is helped by none of them.
            few = len(self.problems) < MOST_SUGGESTED
            help_ = suggestion(name, (*self.scope, *self.scalars)) if few else ()
        self._say("E0319", f"unknown tensor `{name}`", span, "not in `needs`, not defined", help_)

    def _twice(self, indices: Sequence[Index], span: Span) -> None:
        for index in dict.fromkeys(x for x in indices if list(indices).count(x) > 1):
            self._say(
                "E0320",
                f"the index `{index}` stands twice",
                span,
                "",
                (f"write the second one with a prime: `{index}'`",),
            )

    def _say(
        self, code: str, headline: str, span: Span, label: str, help_: tuple[str, ...] = ()
    ) -> None:
        self.problems.append(Diagnostic(code, headline, (Label(span, label),), help_))


def _place(expr: Expr, index: Index) -> Span:
    """The first tensor that brings a free index in."""
    for node in walk(expr):
        if isinstance(node, Ref | Call) and index in node.indices:
            return node.span
        if isinstance(node, Delta) and index in (node.left, node.right):
            return node.span
    return expr.span


def _close_index(index: Index, inside: Sequence[Index]) -> tuple[str, ...]:
    free = ", ".join(f"`{x}`" for x in inside)
    return (f"free inside: {free}",) if free else ("leave the reduction out",)
