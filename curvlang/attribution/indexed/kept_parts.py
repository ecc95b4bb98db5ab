"""What of a score an index keeps: what is known of each training example alone, and what then follows of it without gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from curvlang.ir import expr as ir
from curvlang.ir.indices import walk
from curvlang.ir.score_program import (
    EXAMPLE,
    PARAMETER,
    QUERY,
    TRAINING_GRADIENT,
    Assignment,
    ExampleSum,
    Product,
    ScoreProgram,
    gradient_of,
    passes_of,
)

Indices = tuple[ir.Index, ...]


def kept_parts(program: ScoreProgram) -> dict[str, Indices] | None:
    """What is kept of every training example, by name, with its indices; None where that is a whole gradient.

    Args:
        program: The score.
    """
    if (program.solved_at | program.applied_at) - {()}:
        # The curvature at other models would be fitted once more, to all training examples.
        return None
    found = {
        name: indices
        for name, indices in _named(program).items()
        if _of_one_example(program, name, indices)
        and any(not _of_one_example(program, *x) for x in _readers(program, name))
    }
    left = _unread(program, found)
    return None if left or not found else found


def parts_program(program: ScoreProgram, names: Mapping[str, Indices]) -> ScoreProgram:
    """The program that computes what is kept, and nothing else."""
    return _cut(program, [ir.Ref(name, indices) for name, indices in names.items()])


def sums_program(program: ScoreProgram) -> ScoreProgram:
    """The program of the sums over all training examples that no query has a part in."""
    sums = [x for together in passes_of(program) for x in together]
    return _cut(program, [ir.Ref(x.name, x.indices) for x in sums if _queryless(program, x)])


def of_gradients(program: ScoreProgram, *, whole: bool) -> bool:
    """Whether gradients in the coordinates of C⁻¹ are all that a score needs of the training examples.

    Args:
        program: The score.
        whole: Whether the coordinates are all parameters; else it must see gradients through C⁻¹ alone.
    """
    if not program.by_products or program.checkpoints or program.models or program.doubts:
        return False
    if program.applied_at:
        # Functions of the spectrum need not be zero where C is.
        return False
    return whole or all(map(_through_inverse, program.products))


def _through_inverse(product: Product) -> bool:
    sides = [gradient_of(x) for x in product.reads]
    known = [x for x in sides if x is not None]
    return all(leaf != TRAINING_GRADIENT for leaf, _ in known) or any(n for _, n in known)


def _named(program: ScoreProgram) -> dict[str, Indices]:
    """Everything that a program names, but for gradients."""
    leaves = {
        name: x for name, x in program.leaves.items() if gradient_of(ir.Ref(name, ())) is None
    }
    return leaves | {name: x.indices for name, x in program.assignments.items()}


def _readers(program: ScoreProgram, name: str) -> Iterator[tuple[str, Indices]]:
    """What reads a name; the scores themselves under no name."""
    if name in _names(program.value):
        yield "", program.result
    for other in program.assignments.values():
        if any(name in _names(x) for x in other.reads):
            yield other.name, other.indices


def _of_one_example(program: ScoreProgram, name: str, indices: Indices) -> bool:
    """Whether something is a few numbers of each training example, which the others have no part in."""
    spaces = {x.space for x in indices}
    if name == "" or EXAMPLE not in spaces or spaces & {QUERY, PARAMETER}:
        return False
    own = program.assignments.get(name)
    return own is None or (_queryless(program, own) and not _after_sums(program, own))


def _behind(program: ScoreProgram, one: Assignment) -> Iterator[Assignment]:
    """An assignment and those that it rests on."""
    waiting, seen = [one], {one.name}
    while waiting:
        own = waiting.pop()
        yield own
        for name in {x for expr in own.reads for x in _names(expr)} - seen:
            if name in program.assignments:
                seen.add(name)
                waiting.append(program.assignments[name])


def _queryless(program: ScoreProgram, one: Assignment) -> bool:
    return not any(
        x.space == QUERY
        for own in _behind(program, one)
        for expr in own.reads
        for node in walk(expr)
        if isinstance(node, ir.Ref)
        for x in node.indices
    )


def _after_sums(program: ScoreProgram, one: Assignment) -> bool:
    return any(isinstance(x, ExampleSum) for x in _behind(program, one))


def _unread(program: ScoreProgram, kept: Mapping[str, Indices]) -> bool:
    """Whether scores still read gradients of training examples where these parts and all sums are known."""
    sums = {x.name for together in passes_of(program) for x in together if _queryless(program, x)}
    known = {*kept, *sums}
    waiting, seen = [program.value], set(known)
    for one in program.assignments.values():
        # A sum that queries have a part in goes through the examples once more.
        if isinstance(one, ExampleSum) and one.name not in known:
            waiting += one.reads
    while waiting:
        for node in walk(waiting.pop()):
            own = gradient_of(node)
            if own is not None and own[0] == TRAINING_GRADIENT:
                return True
            if isinstance(node, ir.Ref) and node.name not in seen:
                seen.add(node.name)
                one_more = program.assignments.get(node.name)
                waiting += () if one_more is None else one_more.reads
    return False


def _names(expr: ir.Expr) -> set[str]:
    return {x.name for x in walk(expr) if isinstance(x, ir.Ref)}


def _cut(program: ScoreProgram, wanted: list[ir.Ref]) -> ScoreProgram:
    """The part of a program that some names rest on."""
    names = {x.name for x in wanted}
    own = [program.assignments[x] for x in names if x in program.assignments]
    needed = {x.name for one in own for x in _behind(program, one)}
    assignments = {k: x for k, x in program.assignments.items() if k in needed}
    return replace(program, assignments=assignments, result=(), value=ir.Number(0.0))
