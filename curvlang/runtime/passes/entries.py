"""Inverses by their entries: products with them, in passes over the examples; no matrix is ever formed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from torch import Tensor

from curvlang.compiler.algebra.per_example import EXAMPLES, per_example, reduced
from curvlang.compiler.algebra.spectral import environment
from curvlang.compiler.planning.plan import Limits
from curvlang.compiler.planning.planner import DEFAULT
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.ir import expr as ir
from curvlang.language.chain import (
    Chain,
    Curvature,
    Entries,
    EntryChain,
    Gram,
    Inverse,
    InverseUse,
    Matrix,
    Rows,
)
from curvlang.models.task import Task
from curvlang.models.tracing.half_precision import exact_gradients
from curvlang.operators import BlockDiagonal, ExampleMean, MatrixFree, Operator
from curvlang.operators.matrix_free import BlockOfJoint, JointProduct

BATCH_BYTES = 2**25
"""Of the gradients of a batch, of which there are a few copies."""

UNFORMED = Limits(dense=2_000**2)
"""Of a fit whose inverse is applied in passes: the entries of large blocks are of no use to it."""

Gradients = Callable[[], Iterator[Tensor]]
Numbers = Mapping[str, Tensor]
Node = Gram | Matrix | Rows


def gradients_of(tasks: Sequence[Task]) -> Gradients:
    """Gradients of the examples' own losses, batch by batch, at every model.

    Args:
        tasks: The task at one model, or at several; models in half precision are copied when they are asked.
    """
    exact = cache(lambda k: tasks[k].exact())

    def batches() -> Iterator[Tensor]:
        for k in range(len(tasks)):
            task: Task = exact(k)
            blocks = task.blocks()
            bytes_each = task.P * torch.empty((), dtype=task.precision).element_size()
            for X, y in task.batches(max(1, BATCH_BYTES // bytes_each)):
                yield exact_gradients(task.model, task.loss, X, y, blocks)

    return batches


def in_passes(inverse: Inverse, curvature: Curvature) -> bool:
    """Whether an inverse needs no entry of a curvature, which is known by its products as well."""
    if inverse.entries is None or not isinstance(curvature, Chain):
        return False
    kinds = [stage.arguments.get("fisher", "exact") for stage in curvature.stages]
    return "mc" not in kinds and all(stage.builtin for stage in curvature.stages)


def fit_limits(rule: InverseUse | None, curvature: Curvature) -> Limits:
    """Of a fit's plan: blocks whose entries the inverse does not read are not formed."""
    return UNFORMED if rule and in_passes(rule.inverse, curvature) else DEFAULT


def second_moments(tasks: Sequence[Task], places: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """Products with the mean of v vᵀ over examples, in one pass for any number of vectors.

    Args:
        tasks: The task at one model, or at several.
        places: The entries of every block; none for the whole matrix.
    """
    gradients = gradients_of(tasks)

    def product(x: Tensor) -> Tensor:
        found, count = torch.zeros_like(x), 0
        for v in gradients():
            count += len(v)
            for index in places or (slice(None),):
                own = v[:, index].to(x)
                found[index] += own.T @ (own @ x[index])
        return found / count

    return product


def by_entries(operator: Operator, use: InverseUse, examples: ExampleMean | None) -> Operator:
    """The matrix that an inverse states by its entries, block by block as the curvature has them.

    Args:
        operator: C.
        use: The inverse with its arguments.
        examples: The training examples.

    Raises:
        SpecError: E0263 where the examples are not there, E0330 for a parameter without a value.
    """
    entries = use.inverse.entries
    assert entries is not None
    if examples is None or examples.gradients is None:
        raise refusal(
            Code.E0263,
            f"`{use.inverse.name}` reads the gradients of the training examples, and this curvature was "
            "read from a file, or made by hand",
            "fit it again, `cv.fit(spec, task)`, or use `tikhonov(damping = …)`",
            labels=label_at(use.span),
        )
    numbers = {k: v for k, v in environment(use, {}).items() if k}
    numbers[EXAMPLES] = torch.tensor(float(examples.count), dtype=torch.float64)
    product = EntriesProduct(operator, entries, numbers, examples)
    text = f"{use.inverse.name} of {examples.count} examples, applied in passes"

    def made(of: Callable[[Tensor], Tensor], size: int, own: BlockOfJoint | None) -> Operator:
        return MatrixFree(of, size, operator.dtype, operator.device, own, text)

    if not isinstance(operator, BlockDiagonal):
        return made(product, operator.size, None)
    joint = JointProduct(product, operator.size, operator.dtype)
    blocks = [
        made(partial(_alone, product, index, operator.size), len(index), BlockOfJoint(joint, index))
        for index in operator.index
    ]
    return BlockDiagonal(operator.names, tuple(blocks), tuple(operator.block_places()))


def _alone(product: EntriesProduct, index: Tensor, length: int, v: Tensor) -> Tensor:
    """The product with one block, through that with all of them."""
    whole = v.new_zeros(length, v.shape[1])
    whole[index] = v
    return product(whole)[index]


@dataclass(slots=True)
class EntriesProduct:
    """K X for an inverse K by its entries.

    Args:
        operator: C, whose blocks K has.
        entries: K as sums of products.
        numbers: Parameters by name.
        examples: The training examples.
    """

    operator: Operator
    entries: Entries
    numbers: Numbers
    examples: ExampleMean
    _known: list[dict[str, Tensor]] = field(default_factory=list)

    def __call__(self, X: Tensor) -> Tensor:
        """[P, k] to [P, k]; as many passes as the longest product has Gram matrices."""
        numbers = self._statistics()
        chains = [(self._coefficients(x, numbers), x.nodes[::-1]) for x in self.entries.chains]
        return self._applied(chains, X, numbers)

    @property
    def places(self) -> tuple[Tensor, ...]:
        """The entries of every block."""
        if isinstance(self.operator, BlockDiagonal):
            return self.operator.index
        return (torch.arange(self.operator.size, device=self.operator.device),)

    def _applied(
        self,
        chains: Sequence[tuple[Tensor, tuple[Node, ...]]],
        X: Tensor,
        numbers: Sequence[Numbers],
    ) -> Tensor:
        """Σ coefficient · (nodes applied to X, the first one first); nodes of one X share its pass."""
        found = torch.zeros_like(X)
        after: dict[Node, list[tuple[Tensor, tuple[Node, ...]]]] = {}
        for coefficient, nodes in chains:
            if nodes:
                after.setdefault(nodes[0], []).append((coefficient, nodes[1:]))
            else:
                found += coefficient.to(X)[:, None] * X
        grams = [x for x in after if isinstance(x, Gram)]
        images = dict(zip(grams, self._grams(grams, X, numbers), strict=True)) if grams else {}
        for node, rest in after.items():
            match node:
                case Gram():
                    image = images[node]
                case Rows():
                    image = self._rows(node, X, numbers)
                case _:
                    image = self.operator.apply(X)
            found += self._applied(rest, image, numbers)
        return found

    def _rows(self, node: Rows, X: Tensor, numbers: Sequence[Numbers]) -> Tensor:
        """A diagonal matrix, or an outer product, times X, block by block."""
        found = torch.empty_like(X)
        for index, own in zip(self.places, numbers, strict=True):
            part = X[index]
            like = part.new_zeros(1, len(index))

            def row(formula: ir.Expr, like: Tensor = like, own: Numbers = own) -> Tensor:
                return per_example(formula, like, own).expand(like.shape[1])[:, None]

            inner = part if node.right is None else row(node.right).T @ part
            found[index] = row(node.left) * inner
        return found

    def _grams(self, grams: Sequence[Gram], X: Tensor, numbers: Sequence[Numbers]) -> list[Tensor]:
        """Σ_n w_n v_n (v_nᵀ X) of several weights w, block by block, in one pass."""
        places = self.places
        parts = [X[index] for index in places]
        sums = [[torch.zeros_like(x) for x in parts] for _ in grams]
        count = 0
        for v in self._gradients():
            count += len(v)
            for b, index in enumerate(places):
                own = v[:, index].to(X)
                inner = own @ parts[b]
                for k, gram in enumerate(grams):
                    weight = per_example(gram.weight, own, numbers[b]).to(X)
                    sums[k][b].addmm_(own.T, weight.expand(len(own))[:, None] * inner)
        found = []
        for gram, own_sums in zip(grams, sums, strict=True):
            whole = torch.empty_like(X)
            for index, part in zip(places, own_sums, strict=True):
                whole[index] = part / count if gram.mean else part
            found.append(whole)
        return found

    def _gradients(self) -> Iterator[Tensor]:
        assert self.examples.gradients is not None
        return self.examples.gradients()

    def _coefficients(self, chain: EntryChain, numbers: Sequence[Numbers]) -> Tensor:
        """A chain's number in every block, for each entry."""
        like = torch.zeros(1, 1, dtype=torch.float64, device=self.operator.device)
        found = torch.empty(self.operator.size, dtype=torch.float64, device=self.operator.device)
        for index, own in zip(self.places, numbers, strict=True):
            sized = like.expand(1, len(index))
            found[index] = per_example(chain.coefficient, sized, own)
        return found

    def _statistics(self) -> list[dict[str, Tensor]]:
        """Parameters and statistics of every block, numbers and rows; one pass for each statistic, once."""
        if self._known:
            return self._known
        found = [dict(self.numbers) for _ in self.places]
        for statistic in self.entries.statistics:
            assert isinstance(statistic.value, ir.Reduce)
            mean = statistic.value.kind is ir.ReductionKind.MEAN
            sums, count = [torch.zeros((), dtype=torch.float64) for _ in found], 0
            for v in self._gradients():
                count += len(v)
                for b, index in enumerate(self.places):
                    values = reduced(statistic.value, v[:, index], found[b])
                    sums[b] = sums[b] + values.double().cpu()
            for own_numbers, total in zip(found, sums, strict=True):
                own_numbers[statistic.name] = total / count if mean else total
        self._known = found
        return found
