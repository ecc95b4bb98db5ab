"""What has no example index: the Hessian's entries, and the products of H and of the exact GGN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from curvlang.compiler.algebra.shapes import GramShape, LeafShape
from curvlang.compiler.derive.program import Partition, Result
from curvlang.compiler.planning.chunks import product_chunks
from curvlang.compiler.planning.plan import DENSE_AT_MOST, Plan
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.derived_rows import selected_pair
from curvlang.models.data.rows import Pair, Rows
from curvlang.models.derivatives.column_product import LayersGGN
from curvlang.models.derivatives.hessian import hessian_entries
from curvlang.models.derivatives.product_methods import ggn_way, hessian_way
from curvlang.models.derivatives.products import WHOLE, Method, Portion, SumOver, hessian_sum
from curvlang.models.execution.widened import accumulation_dtype
from curvlang.models.losses.finite import in_part
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import BatchChecks, LayerBlock
from curvlang.operators import BlockDiagonal, ExampleMean, Identity, MatrixFree, Operator, added
from curvlang.operators.matrix_free import BlockOfJoint, JointProduct
from curvlang.runtime.guard import check_hessian, guarded
from curvlang.runtime.limits.footprint import hessian_chunks, most_positions
from curvlang.runtime.limits.memory import require
from curvlang.runtime.limits.portions import column_portion, product_portion
from curvlang.runtime.passes.entries import gradients_of, second_moments
from curvlang.runtime.passes.example_sums import summed
from curvlang.runtime.prepare import Preparation
from curvlang.runtime.vanishing import warn_of_zero


def _inputs(task: Task) -> Iterator[Tensor]:
    """Of all training examples, batch by batch."""
    return (x for x, _ in task.batches(WHOLE.examples))


class Static:
    """The Hessian leaf, computed once where any program reads its entries: the mean over all models.

    Second derivatives, and products with them, are those of a copy in float32 where the model is in
    half precision. `zero` says that the Gauss-Newton matrix is zero, where it is.
    """

    def __init__(self, tasks: Sequence[Task], prepared: Preparation) -> None:
        self.tasks = tasks
        self.task = tasks[0]
        self.prepared = prepared
        self._matrix: Tensor | None = None
        self._joints: dict[Partition, JointProduct] = {}
        self._empirical_joints: dict[Partition, JointProduct] = {}
        self.zero = warn_of_zero(prepared.programs, self.task)
        if any(has_products(r) and r.fisher is None for chain in prepared.chains for r in chain):
            # A model without second derivatives is refused before anything else is computed.
            _ = self.hessian_way

    @cached_property
    def exact(self) -> tuple[Task, ...]:
        """The tasks in the precision in which derivatives are multiplied and added up."""
        return tuple(t.exact() for t in self.tasks)

    @cached_property
    def hessian_way(self) -> str:
        """How products with the Hessian are formed: tried on a few examples."""
        self._check_alone()
        task = self.exact[0]
        return hessian_way(task.model, task.loss, *task.train)

    @cached_property
    def ggn_way(self) -> str | None:
        """How products with the exact GGN are formed where they are not by columns."""
        self._check_alone()
        task = self.exact[0]
        return ggn_way(task.model, task.loss, *task.train)

    def _check_alone(self) -> None:
        """Products take whole batches: examples that influence each other are refused before."""
        if self.prepared.picks:
            for task in self.exact:
                checks = BatchChecks(task.model)
                for number, (x, _) in enumerate(task.batches(WHOLE.examples)):
                    with in_part(task.model, x, "train", number * WHOLE.examples):
                        checks.see_outputs(x)
                checks.settle(partial(_inputs, task))

    def leaves_of(self, p: Plan) -> dict[str, dict[str, Tensor]]:
        """By block and name; of several blocks of one shape with an axis for them in front."""
        named = [name for name, leaf in p.program.leaves.items() if leaf.kind == "H"]
        found: dict[str, dict[str, Tensor]] = {}
        for block in p.blocks:
            reads = {x for r in block.results.values() for x in r.code.reads}
            reads |= {x for f in (*block.passes, *block.finish) for x in f.reads}
            if any(name in reads for name in named):
                entries = self._block(p.partition, block.geometry.name)
                lead = [] if block.count == 1 else [block.count]
                found[block.geometry.name] = {
                    name: entries.reshape([*lead, *(block.sizes[x.space] for x in leaf.indices)])
                    for name, leaf in p.program.leaves.items()
                    if name in named
                }
        return found

    def _block(self, partition: Partition, name: str) -> Tensor:
        """Entries of a block, or of several of one shape, [G, size, size]."""
        exact = accumulation_dtype(self.task.device)
        if self.task.P**2 <= DENSE_AT_MOST:
            if self._matrix is None:
                require(5 * 8 * self.task.P**2, self.task.device, "the dense Hessian")
                found = (self._dense(t).to(exact) for t in self.exact)
                whole = next(found)
                for other in found:
                    whole = whole + other
                self._matrix = whole if len(self.tasks) == 1 else whole / len(self.tasks)
                check_hessian(self._matrix, self.tasks)
            if partition == Partition.MODEL:
                return self._matrix
            index = self._layer(partition, name).places
            return self._matrix[index[:, :, None], index[:, None]]
        index = self._layer(partition, name).places
        return _restricted(self.hessian(), index, self.task.P, self.task.precision).to(exact)

    def _dense(self, task: Task) -> Tensor:
        """The dense Hessian at one model."""
        # Where rows are picked by value, no layer's output is known to be its examples'.
        layers = () if self.prepared.picks else self.prepared.blocks[Partition.LAYER]
        X, y = task.train
        with in_part(task.model, X, "train", 0):
            method = Method(self.hessian_way, self._portion(self.hessian_way))
            entries = hessian_entries(task.model, task.loss, X, y, layers, method)
            chunks = hessian_chunks(layers, task.P, task.N)
            return entries.mean(summed(entries.over, chunks, task.device))

    def _layer(self, partition: Partition, name: str) -> LayerBlock:
        return next(b for b in self.prepared.blocks[partition] if b.name == name)

    def hessian(self) -> Callable[[Tensor], Tensor]:
        """Products with the whole Hessian."""
        whole = self._hessian_products([t.train for t in self.exact])
        return guarded(whole, self.exact)

    def _hessian_products(self, data: Sequence[Pair]) -> Callable[[Tensor], Tensor]:
        way = self.hessian_way
        portion = self._portion(way)
        return _mean(
            [
                self._product(hessian_sum(t.model, t.loss, *pair, way, portion), pair[0])
                for t, pair in zip(self.exact, data, strict=True)
            ]
        )

    def _product(self, over: SumOver, X: Rows) -> Callable[[Tensor], Tensor]:
        """Products with a mean over examples, shared by processes that are in step."""
        positions = most_positions(self.prepared.blocks[Partition.LAYER])

        def product(v: Tensor) -> Tensor:
            chunks = product_chunks(len(X), positions, *v.shape)
            return summed(lambda within: over(within, v), chunks, v.device, v) / len(X)

        return product

    def product(self, result: Result, name: str) -> Callable[[int], Callable[..., Operator]]:
        """Matrix-free operators of the blocks of a name, through products of the whole matrix."""

        def of(number: int) -> Callable[..., Operator]:
            def make(source: LeafShape | GramShape) -> Operator:
                _refuse_without_products(result)
                return self._products(result, (name, number), *self.exact[0].train)

            return make

        return of

    def by_example(self, result: Result) -> ExampleMean:
        """The examples, and the same curvature on some of them alone where it has products."""
        gradients = gradients_of(self.tasks)
        if not known_by_example(result):
            return ExampleMean(self.task.N, None, gradients)
        task, train = self.task, self.exact[0].train

        def of(rows: Tensor) -> Operator:
            some = selected_pair(train, rows.to(train[0].device))
            return regularised(self._products(result, None, *some), task)

        return ExampleMean(task.N, of, gradients)

    def _ggn(self, X: Rows, y: Rows, blocks: Sequence[LayerBlock]) -> list[LayersGGN]:
        """Products with the exact GGN at every model."""
        way = lambda: self.ggn_way  # noqa: E731
        return [
            LayersGGN(t.model, t.loss, X, y, blocks, way, self._ggn_portion) for t in self.exact
        ]

    def _portion(self, way: str, *, ggn: bool = False) -> Portion:
        """What products take at once."""
        return product_portion(self.exact[0], self.prepared.blocks[Partition.LAYER], way, ggn=ggn)

    def _ggn_portion(self, columns: int | None) -> Portion:
        """What products with the GGN take at once: by so many columns, or by tangents."""
        if columns is not None:
            layers = self.prepared.blocks[Partition.LAYER]
            return column_portion(self.exact[0], layers, columns)
        assert self.ggn_way is not None
        return self._portion(self.ggn_way, ggn=True)

    def _products(
        self, result: Result, chosen: tuple[str, int] | None, X: Rows, y: Rows
    ) -> Operator:
        """One of the blocks of a name, or all of all names, on given examples."""
        task = self.task
        empirical = result.fisher is not None and result.fisher.kind == "empirical"
        if result.fisher is None:
            whole = self._hessian_products([(X, y)] * len(self.exact))
        elif empirical:
            return self._empirical(result, chosen, (X, y))
        else:
            layers = self.prepared.blocks[Partition.LAYER]
            whole = _mean([self._product(ggn.whole_sum, X) for ggn in self._ggn(X, y, layers)])
        whole = guarded(whole, self.exact)
        if result.partition == Partition.MODEL:
            return MatrixFree(whole, task.P, task.precision, task.device)
        joint = None if result.fisher is None else self._joint(result.partition, chosen, X, y)

        def block(index: Tensor) -> Operator:
            inner = lambda v: whole(_padded(v, index, task.P))[index]  # noqa: E731
            own = None if joint is None else BlockOfJoint(joint, index)
            return MatrixFree(inner, len(index), task.precision, task.device, own)

        if chosen is not None:
            name, number = chosen
            return block(self._layer(result.partition, name).places[number])
        found = self.prepared.blocks[result.partition]
        names = tuple(name for b in found for name in b.names)
        index = tuple(own.to(task.device) for b in found for own in b.places)
        return BlockDiagonal(names, tuple(map(block, index)), index)

    def _empirical(self, result: Result, chosen: tuple[str, int] | None, train: Pair) -> Operator:
        """The empirical Fisher matrix by its products, mean v vᵀ x in passes over the examples."""
        task = self.task
        found = (
            [] if result.partition == Partition.MODEL else self.prepared.blocks[result.partition]
        )
        places = tuple(own.to(task.device) for b in found for own in b.places)
        product = second_moments([t.replaced(train=train) for t in self.exact], places)
        if not found:
            return MatrixFree(product, task.P, task.precision, task.device)
        names = tuple(name for b in found for name in b.names)
        made = JointProduct(product, task.P, task.precision)
        joint = (
            made if chosen is None else self._empirical_joints.setdefault(result.partition, made)
        )

        def block(index: Tensor) -> Operator:
            inner = lambda v: joint.product(_padded(v, index, task.P))[index]  # noqa: E731
            return MatrixFree(
                inner, len(index), task.precision, task.device, BlockOfJoint(joint, index)
            )

        if chosen is not None:
            name, number = chosen
            return block(self._layer(result.partition, name).places[number].to(task.device))
        return BlockDiagonal(names, tuple(map(block, places)), places)

    def _joint(
        self, partition: Partition, chosen: tuple[str, int] | None, X: Rows, y: Rows
    ) -> JointProduct:
        """The product of all blocks; one for all blocks that are made one after the other."""
        if chosen is not None and partition in self._joints:
            return self._joints[partition]
        every = self._ggn(X, y, self.prepared.blocks[partition])
        each = [self._product(ggn.blocks_sum, X) for ggn in every]
        product = guarded(_mean(each), self.exact)
        made = JointProduct(product, self.task.P, self.task.precision)
        if chosen is not None:
            self._joints[partition] = made
        return made


def _mean(products: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """Products with the mean of matrices."""
    if len(products) == 1:
        return products[0]
    return lambda v: torch.stack([product(v) for product in products]).mean(0)


def has_products(result: Result) -> bool:
    """Whether a result is the Hessian, the exact Gauss-Newton or the empirical Fisher matrix, whole or in blocks."""
    return result.builtin and (result.fisher is None or result.fisher.kind != "mc")


def known_by_example(result: Result) -> bool:
    """Whether a result is known on some examples alone, by its products."""
    if not has_products(result) or not result.partition.layers:
        return False
    return result.beside is None or has_products(result.beside)


def _refuse_without_products(result: Result) -> None:
    """H, the exact GGN and the empirical Fisher have products; sampled columns would change between them."""
    if has_products(result):
        return
    if result.builtin:
        what = f"with `fisher = {result.fisher}`"
        repair = "use `fisher = exact`, or a structured stage after it"
    else:
        what = f"after `{result.stage}`"
        repair = (
            f"write `{result.stage} |> low_rank(rank = …)`, which multiplies with it and never forms it "
            "(exact where the rank is at least that of the block: at most the number of examples "
            "for a mean over examples of outer products)"
        )
    raise refusal(Code.E0810, f"the curvature {what} does not fit and has no products", repair)


def _padded(v: Tensor, index: Tensor, total: int) -> Tensor:
    out = v.new_zeros(total, v.shape[1])
    out[index] = v
    return out


def _restricted(
    product: Callable[[Tensor], Tensor], places: Tensor, total: int, dtype: torch.dtype
) -> Tensor:
    """Entries of blocks [G, size] from products with their own unit vectors, 64 at a time."""
    G, size = places.shape
    columns = places.reshape(-1)
    parts = []
    for chunk in torch.arange(len(columns), device=places.device).split(64):
        basis = torch.zeros(total, len(chunk), dtype=dtype, device=places.device)
        each = torch.arange(len(chunk), device=places.device)
        basis[columns[chunk], each] = 1
        found = product(basis)
        parts.append(found[places[chunk // size], each[:, None]])
    entries = torch.cat(parts).reshape(G, size, size)
    return (entries + entries.mT) / 2


def regularised(operator: Operator, task: Task) -> Operator:
    """The curvature of the objective: that of the mean loss plus the task's λ·I, exactly."""
    if not task.weight_decay:
        return operator
    scale = torch.tensor(task.weight_decay, dtype=operator.dtype, device=operator.device)
    return added((operator, Identity(scale, operator.size)))
