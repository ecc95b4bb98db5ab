"""The one place where instructions become Python text.

A tensor may have any name that a spec can give it: here it gets an identifier that reads like the name
and is none of the words that generated code uses.
"""

from __future__ import annotations

import keyword
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import assert_never

from curvlang.compiler.codegen.instructions import (
    Argument,
    AxisSum,
    Call,
    Constant,
    Einsum,
    Gram,
    Instruction,
    Kernel,
    Mask,
    Operand,
    Operation,
    Pointwise,
    Reshape,
    Rotation,
    Selection,
    View,
    unused,
)
from curvlang.ir.functions import FUNCTIONS, MAKERS

CALLED = frozenset({"torch", *Kernel, *FUNCTIONS, *MAKERS})
"""Every name that generated code reads and does not assign."""
Naming = Callable[[str], str]


def source(
    name: str, reads: Sequence[str], body: Sequence[Instruction], returned: Mapping[str, str]
) -> str:
    """The text of a function.

    Args:
        name: Its name.
        reads: Tensors that it takes, in this order.
        body: What it does.
        returned: Tensors that it returns, by what they are called there.
    """
    known = [*reads, *(x for line in body for x in line.targets), *returned.values()]
    return text(name, reads, body, returned, identifiers(known).__getitem__)


def text(
    name: str,
    reads: Sequence[str],
    body: Sequence[Instruction],
    returned: Mapping[str, str],
    naming: Naming,
) -> str:
    """The text of a function whose tensors are called what `naming` says.

    The first line is the head, the last one returns; those between are the instructions.
    """
    head = f"def {name}({', '.join(map(naming, reads))}):"
    lines = [statement(line, naming) for line in body]
    inside = ", ".join(f"{key!r}: {naming(value)}" for key, value in returned.items())
    return "\n    ".join([head, *lines, f"return {{{inside}}}"]) + "\n"


def identifiers(names: Iterable[str]) -> dict[str, str]:
    """A Python identifier for every name, each its own.

    >>> identifiers(["A", "lambda", "gram", "s²", "s2"])
    {'_': '_', 'A': 'A', 'lambda': 'lambda_', 'gram': 'gram_', 's²': 's2', 's2': 's2_'}
    """
    found = {"_": "_"}
    taken = {*CALLED, *keyword.kwlist, "__debug__", "_"}
    for name in names:
        if name not in found:
            found[name] = unused(_plain(name), taken)
            taken.add(found[name])
    return found


def _plain(name: str) -> str:
    """The name as Python reads identifiers: two spellings of one must not differ."""
    normal = unicodedata.normalize("NFKC", name)
    plain = "".join(x if f"_{x}".isidentifier() else "_" for x in normal)
    return plain if plain.isidentifier() else f"_{plain}"


def statement(instruction: Instruction, naming: Naming) -> str:
    """One line of code."""
    left = ", ".join(map(naming, instruction.targets))
    match instruction.operation:
        case Call(function=function):
            results = len(FUNCTIONS[function].results)
            # Results that nothing names are dropped.
            left += ", *_" if len(instruction.targets) < results else "," * (results == 1)
        case _:
            pass
    return f"{left} = {expression(instruction.operation, naming)}"


def expression(operation: Operation, naming: Naming) -> str:
    """The right side of one line."""
    match operation:
        case Einsum(operands=operands, output=output):
            equation = f"{','.join(x.letters for x in operands)}->{output}"
            return f"torch.einsum({equation!r}, {', '.join(naming(x.name) for x in operands)})"
        case Gram(columns=columns, groups=groups):
            return f"{Kernel.GRAM}({naming(columns)}{f', {groups}' if groups > 1 else ''})"
        case Rotation(rows=rows, matrix=matrix, transposed=transposed):
            turned = ".T" if transposed else ""
            return f"{Kernel.ROTATE}({naming(rows)}, {naming(matrix)}{turned})"
        case AxisSum(operand=name, axes=axes, squares=squares):
            if squares:
                return f"{Kernel.SQUARE_SUM}({naming(name)}, {axes})"
            return f"{naming(name)}.sum({axes})"
        case Pointwise():
            return _pointwise(operation, naming)
        case View():
            return _view(operation, naming)
        case Constant(maker=maker, shape=shape, seed=None):
            return f"{maker}({_joined(shape)})"
        case Constant(maker=maker, shape=shape, seed=seed):
            return f"{maker}(({_joined(shape)},), {seed!r})"
        case Mask(function=function, shape=shape, numbers=numbers):
            return f"{Kernel.MASK}({function!r}, ({_joined(shape)},), {numbers!r})"
        case Reshape(operand=name, shape=shape):
            return f"{naming(name)}.reshape({_joined(shape)})"
        case Call(function=function, operand=name, order=order, shape=shape, numbers=numbers):
            moved = f".permute({order})" if order else ""
            grouped = f".reshape({_joined(shape)})" if shape else ""
            return f"{function}({', '.join([naming(name) + moved + grouped, *map(repr, numbers)])})"
        case Selection(operand=name, count=count, last=last, shape=shape):
            part = f"-{count}:" if last else f":{count}"
            kept = f"[..., {part}].contiguous()" if count is not None else ""
            return f"{naming(name)}{kept}{f'.reshape({_joined(shape)})' if shape else ''}"
        case _:
            assert_never(operation)


def _pointwise(operation: Pointwise, naming: Naming) -> str:
    arguments, output = operation.arguments, operation.output
    match operation.function:
        case "+" | "*" | "/" as sign:
            return f" {sign} ".join(_spread(x, output, naming) for x in arguments)
        case "^":
            base, exponent = arguments
            return _power(_tensor(base, output, naming), exponent)
        case function:
            name = {"max": "maximum", "min": "minimum"}.get(function, function)
            inside = ", ".join(_tensor(x, output, naming) for x in arguments)
            return f"torch.{name}({inside})"


def _power(base: str, exponent: Argument) -> str:
    match exponent:
        case 2.0:
            return f"{base}.square()"
        case -1.0:
            return f"{base}.reciprocal()"
        case 0.5:
            return f"{base}.sqrt()"
        case _:
            return f"{base} ** {exponent!r}"


def _view(operation: View, naming: Naming) -> str:
    operand, output = operation.operand, operation.output
    own = operand.letters if isinstance(operand, Operand) else ""
    if isinstance(operand, Operand) and own == output:
        return naming(operand.name)
    if own and set(own) == set(output):
        return f"{_spread(operand, own, naming)}.permute({tuple(map(own.index, output))})"
    if own and set(output) < set(own):
        (axis,) = (k for k, x in enumerate(own) if x not in output)
        return f"{_spread(operand, own, naming)}.squeeze({axis})"
    added = f".expand({_joined(operation.shape)})" if output else ""
    return _tensor(operand, output, naming) + added


def _tensor(argument: Argument, output: str, naming: Naming) -> str:
    """An argument of a function of tensors: one without an axis in the precision of the others."""
    written = _spread(argument, output, naming)
    if isinstance(argument, Operand) and argument.letters:
        return written
    return f"{Kernel.NUMBER}({written})"


def _spread(argument: Argument, output: str, naming: Naming) -> str:
    """An argument with axes of length one for the letters that it lacks."""
    if not isinstance(argument, Operand):
        return repr(argument)
    if not argument.letters or argument.letters == output:
        return naming(argument.name)
    inside = ", ".join(":" if x in argument.letters else "None" for x in output)
    return f"{naming(argument.name)}[{inside}]"


def _joined(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
