"""The statements of a transform: what every one defines, and in which spaces."""

from __future__ import annotations

from collections.abc import Sequence

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Label
from curvlang.diagnostics.source import Span
from curvlang.diagnostics.suggestion import suggestion
from curvlang.ir import expr as ir
from curvlang.ir.functions import FUNCTIONS
from curvlang.ir.indices import children, free_indices, walk
from curvlang.ir.places import UNDECLARED, inner_of
from curvlang.language.bodies.expressions import ExpressionChecker
from curvlang.language.bodies.letters import MODEL_LETTERS, PROJECTED, letters

ROWS = (
    (ir.Index("o"), ir.Index("i"), ir.Index("o", 1), ir.Index("i", 1)),
    (ir.Index("p"), ir.Index("p", 1)),
)


class TensorChecker(ExpressionChecker):
    """Checks the statements of one transform in order, from the tensors that its `needs` names."""

    def __init__(self, needs: Sequence[ir.Target], scalars: frozenset[str]) -> None:
        super().__init__(needs, scalars)
        self.declared: set[str] = set()
        self.made: dict[str, tuple[str, ...]] = {
            x: () for target in needs for x in letters(target) if x not in MODEL_LETTERS
        }
        self.orthonormal: set[str] = set()
        self.projected: dict[str, Span] = {}

    def define(self, statement: ir.Define) -> None:
        """A definition: the right side's free indices are the left side's."""
        value = statement.value
        for target in statement.targets:
            self._twice(target.indices, target.span)
        if (
            isinstance(value, ir.Call)
            and value.function in FUNCTIONS
            and FUNCTIONS[value.function].results
        ):
            self._function(statement, value)
        elif len(statement.targets) > 1:
            self.problems.say(
                Code.E0301,
                "several names on the left need a function of several results",
                Label(statement.span, "one tensor comes from the right"),
                "use one name, or `eigh(A)` or `svd(A)` on the right",
            )
        else:
            self._sides(statement.targets[0], value)
        for target in statement.targets:
            self._bind(target)

    def space(self, statement: ir.Space) -> None:
        """A declared space: a letter of its own, and a length made of numbers."""
        letter = statement.letter
        if letter in self.spaces or not letter.isalpha():
            what = MODEL_LETTERS.get(letter, "in use already")
            self.problems.say(
                Code.E0307,
                f"`space` makes a new index space, and `{letter}` is taken",
                Label(
                    statement.span,
                    f"`{letter}`: {what}"
                    if letter.isalpha()
                    else "primes name no space of their own",
                ),
                "use a letter of its own, such as `k`",
            )
        for node in walk(statement.length):
            if isinstance(node, ir.Ref) and (node.indices or node.name not in self.parameters):
                self._length(node.span, f"`{node.name}` is not known before the data is read")
            elif isinstance(node, ir.Call | ir.Reduce | ir.Delta):
                self._length(node.span, "computed from data")
            elif isinstance(node, ir.Size):
                self._space(node.index, node.span)
        self.spaces.add(letter)
        self.declared.add(letter)
        if statement.parts:
            self._split(statement)

    def _split(self, statement: ir.Space) -> None:
        old, *parts = statement.parts
        self.splits[tuple(parts)] = old
        if old == UNDECLARED:
            self.problems.say(
                Code.E0336,
                "a split gives the lengths of its parts, of all or of all but one",
                Label(statement.span, "lengths of these parts, and of nothing else"),
                f"write `with {parts[0]} = 2`: the last part has the rest",
            )
        elif old in self.examples or old not in self.spaces or len(set(parts)) < len(parts):
            self.problems.say(
                Code.E0337 if old in self.examples else Code.E0336,
                f"`{old}` cannot be split into `({','.join(parts)})`",
                Label(
                    statement.span,
                    "examples have no order"
                    if old in self.examples
                    else "no such index space"
                    if old not in self.spaces
                    else "a part stands twice",
                ),
                "split an index of features, positions or a space of your own into parts with "
                "letters of their own",
            )

    def _length(self, span: Span, label: str) -> None:
        self.problems.say(
            Code.E0323,
            "the length of a space is made of numbers, parameters and sizes",
            Label(span, label),
            "for example `space k = min(rank, size[i])`",
        )

    def project(self, statement: ir.Project) -> None:
        """A projection: a letter of parameters, a new letter, a basis with orthonormal columns."""
        old, new, basis = statement.old, statement.new, statement.basis
        if old not in PROJECTED:
            self.problems.say(
                Code.E0324,
                f"`{old}` is not projected: only `i` and `o` of a layer, and `p` of the model, are",
                Label(
                    statement.span, MODEL_LETTERS.get(old, f"`{old}` is not a space of parameters")
                ),
            )
        elif old in self.projected:
            headline = f"`{old}` is projected twice in one transform"
            first, help_ = (
                self.projected[old],
                "put the second projection into a transform of its own",
            )
            self.problems.twice(Code.E0325, headline, statement.span, first, help_)
        self.projected.setdefault(old, statement.span)
        if new in MODEL_LETTERS or new == old:
            self.problems.say(
                Code.E0307,
                f"a projection leads into a new space, and `{new}` is taken",
                Label(statement.span, f"`{new}`: {MODEL_LETTERS.get(new, 'the space itself')}"),
                f"declare a space: `space k = min(16, size[{old}])`",
            )
        elif new not in self.spaces:
            self._space(ir.Index(new), statement.span)
        self._basis(statement, basis)

    def _basis(self, statement: ir.Project, basis: ir.Ref) -> None:
        self._visit(basis)
        if basis.name not in self.scope:
            return
        wanted = (statement.old, statement.new)
        if self.scope[basis.name] != wanted:
            have = ",".join(self.scope[basis.name])
            self.problems.say(
                Code.E0305,
                f"the basis of this projection is over `{','.join(wanted)}`, "
                f"and `{basis.name}` is over `{have}`",
                Label(basis.span, "rows of the old space, columns of the new one"),
            )
        elif basis.name not in self.orthonormal:
            self.problems.say(
                Code.E0326,
                f"the columns of `{basis.name}` are not known to be orthonormal",
                Label(basis.span, "a projection is lifted back by the transpose of its basis"),
                f"write `Q[{','.join(wanted)}] = orthonormal({basis.name})` and project by `Q`",
            )

    def yields(self, statement: ir.Yield) -> None:
        """A yield: `C[o,i,o',i']`, or `C[p,p']` for the whole model."""
        target = statement.target
        if target.indices not in ROWS and not any(x.space == UNDECLARED for x in target.indices):
            self.problems.say(
                Code.E0302,
                "a yield states the entries of the block",
                Label(target.span, "rows, then the same columns with primes"),
                "write `yield C[o,i,o',i'] = …`, or `yield C[p,p'] = …` for the whole model",
            )
        self._sides(target, statement.value)

    def _bind(self, target: ir.Target) -> None:
        if target.name == "_":
            self.spaces.update(letters(target))
            return
        if target.indices:
            self.scope[target.name] = letters(target)
            self.written[target.name] = target.indices
        else:
            self.scalars.add(target.name)
        self.spaces.update(letters(target))

    def _sides(self, target: ir.Target, value: ir.Expr) -> None:
        if not self._expression(value):
            return
        found = inner_of(value)
        if found is not None:
            self._parts(target, *found)
        left, right = set(target.indices), set(self.free(value))
        for index in sorted(right - left):
            place = _place(value, index)
            self.problems.say(
                Code.E0303,
                f"the index `{index}` is free on the right and absent on the left",
                Label(place, f"`{index}` is not summed"),
                f"add `sum[{index}]` (or `mean[{index}]`) in front, or `{index}` to the left side",
            )
        for index in sorted(left - right):
            if index.space not in self.spaces:
                self.problems.say(
                    Code.E0304,
                    f"the index `{index}` belongs to no index space",
                    Label(target.span, "nothing on the right has it"),
                    *suggestion(index.space, tuple(sorted(self.spaces))),
                )
                continue
            self.problems.say(
                Code.E0304,
                f"the index `{index}` stands on the left and nowhere on the right",
                Label(target.span, f"`{index}` has no meaning here"),
                f"use `{index}` on the right, or leave it out",
            )

    def _parts(self, target: ir.Target, parts: Sequence[ir.Index], inner: ir.Expr) -> None:
        """Every part that the left side is written in stands on the right."""
        inside = self.free(inner)
        for index in (x for x in parts if x not in inside):
            self.problems.say(
                Code.E0304,
                f"the index `{index}` stands on the left and nowhere on the right",
                Label(target.span, f"`{index}` has no meaning here"),
                f"use `{index}` in every term on the right",
            )

    def _function(self, statement: ir.Define, call: ir.Call) -> None:
        function = FUNCTIONS[call.function]
        groups = self._matrix(call, function)
        if groups is None:
            return
        if len(statement.targets) > len(function.results):
            self.problems.say(
                Code.E0301,
                f"`{call.function}` gives {len(function.results)} tensors",
                Label(statement.span, f"{len(statement.targets)} names for them"),
            )
            return
        for k, (target, result) in enumerate(
            zip(statement.targets, function.results, strict=False)
        ):
            self.orthonormal.discard(target.name)
            if self._result(target, result, groups, call) and k in function.orthonormal:
                self.orthonormal.add(target.name)

    def _result(
        self, target: ir.Target, result: str, groups: dict[str, tuple[str, ...]], call: ir.Call
    ) -> bool:
        """Check one result's indices; the space a function makes takes the letter written there."""
        wanted = [space for letter in result for space in groups.get(letter, (None,))]
        if len(target.indices) != len(wanted):
            self.problems.say(
                Code.E0305,
                f"this result of `{call.function}` has {len(wanted)} "
                f"ind{'ices' if len(wanted) > 1 else 'ex'}",
                Label(target.span, f"`{target.name}` is written with {len(target.indices)}"),
            )
            return False
        fine = True
        for index, space in zip(target.indices, wanted, strict=True):
            if space is None:
                fine &= self._makes(index.space, target, call, groups)
            elif space != index.space:
                self.problems.say(
                    Code.E0305,
                    f"`{target.name}` has the space `{space}` here, not `{index.space}`",
                    Label(target.span, f"expected `{space}`"),
                )
                fine = False
        return fine

    def _makes(
        self, letter: str, target: ir.Target, call: ir.Call, groups: dict[str, tuple[str, ...]]
    ) -> bool:
        """Whether a letter can name the space that a function makes: new, declared, or as long."""
        length = (call.function, *groups["x"]) if call.function == "svd" else groups["x"]
        taken = letter in MODEL_LETTERS or letter in groups["x"] or letter in groups["y"]
        if not taken and (
            letter in self.declared or self.made.setdefault(letter, length) == length
        ):
            return True
        what = MODEL_LETTERS.get(letter, "the matrix itself" if taken else "of another length")
        self.problems.say(
            Code.E0307,
            f"`{call.function}` makes a new space here, and `{letter}` is taken",
            Label(target.span, f"`{letter}`: {what}"),
            "use a letter of its own, such as `k`",
        )
        return False


def _place(expr: ir.Expr, index: ir.Index) -> Span:
    """The first tensor that brings a free index in: one that no sum around it takes."""
    for part in children(expr):
        if index in free_indices(part):
            return _place(part, index)
    return expr.span
