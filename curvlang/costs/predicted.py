"""What a fit and its scores will cost, stage by stage: operations, bytes, and seconds by measured rates.

Generated code is known line by line, and so is its time: products by their operations, everything
else by the bytes it moves. The model is the user's own: its time is measured on two small batches
and grows linearly from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from curvlang.attribution.blocks import ScoredBlock, basis_operands, scored_in
from curvlang.attribution.passes import batch_size, scored_load
from curvlang.attribution.score_orders import rank_of, rotates_back
from curvlang.attribution.streams.cut import score_cut
from curvlang.compiler.codegen.function import Function
from curvlang.compiler.codegen.instructions import Call
from curvlang.compiler.derive.program import Fisher as ProgramFisher
from curvlang.compiler.derive.program import Partition
from curvlang.compiler.planning.cost import (
    Cost,
    function_cost,
    known_elements,
    line_elements,
    total,
)
from curvlang.compiler.planning.plan import DENSE_AT_MOST, BlockPlan, Plan
from curvlang.costs.rates import Rates, fastest
from curvlang.ir.functions import FUNCTIONS
from curvlang.language.chain import Entries, Gram
from curvlang.models.derivatives.flops import hessian_flops, leaves_flops
from curvlang.models.derivatives.hessian import hessian_entries
from curvlang.models.derivatives.layer_columns import gram_flops
from curvlang.models.derivatives.product_methods import hessian_way
from curvlang.models.derivatives.products import Method
from curvlang.models.layers.embedding import Embedding
from curvlang.models.losses.draws import Draws
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.models.tracing.half_precision import exact_leaves
from curvlang.models.tracing.leaves import Fisher, LeafRequest
from curvlang.operators import (
    BlockDiagonal,
    CholeskyInverse,
    Dense,
    EigenBasis,
    Kronecker,
    MatrixFree,
    Operator,
    Scaled,
    Stacked,
    aligned,
)
from curvlang.runtime.limits.footprint import gram_by_layers, hessian_chunks, reads_hessian
from curvlang.runtime.limits.portions import product_portion
from curvlang.runtime.prepare import Preparation
from curvlang.storage.repeated import repeats

PROBES = (4, 64, 512)
"""Examples of the batches on which the model is timed; the largest where the ones before it take little."""
QUICK = 0.01
"""Seconds that are little."""
_Product = tuple[float, float, int]
"""Operations, numbers moved, and the shortest side of what is multiplied."""


@dataclass(frozen=True, slots=True)
class StagePrediction:
    """A stage: its cost and the seconds predicted from it; None where they cannot be predicted.

    `batches` says how often the stage goes through the model, or 1.
    """

    name: str
    cost: Cost
    seconds: float | None
    batches: int = 1


def predicted_fit(prepared: Preparation, task: Task, rates: Rates | None) -> list[StagePrediction]:
    """Every stage of a fit, in the order and by the names under which `fit_chains` tells them.

    Args:
        prepared: The plans.
        task: Model and data; the model is timed on a few examples.
        rates: The machine's; None for costs alone.
    """
    found: list[StagePrediction] = []
    if any(map(reads_hessian, prepared.plans)):
        layers = prepared.blocks[Partition.LAYER]
        exact = task.exact()
        given = (exact.model, exact.loss, *exact.train)
        way = hessian_way(*given)
        cost = Cost(round(hessian_flops(*given, layers, way) * task.N), 8 * task.P**2)
        seconds = None if rates is None else _hessian_seconds(exact, layers, way)
        found.append(StagePrediction("Hessian", cost, seconds))
    for number in range(1, max((p.passes for p in prepared.plans), default=0) + 1):
        found.append(_pass(prepared, task, number, rates))
        found.append(_between(prepared.plans, number, rates))
    found.append(_results(prepared.plans, rates))
    return found


TRIED = 18
"""Examples that go forward and backward while it is tried which layers show `a` and `g`: `facts_of`, `blocks`."""
MEASURED = 3
"""Those on which it is measured what a model holds: one, then two."""


def predicted_trial(prepared: Preparation, task: Task, rates: Rates | None) -> StagePrediction:
    """What a model is run for before the first pass, once for each task.

    Args:
        prepared: The plans.
        task: Model and data, which need not have been tried.
        rates: The machine's; None for costs alone.
    """
    first = Partition.LAYER, ProgramFisher(kind="empirical"), TRIED
    runs: list[tuple[Partition, ProgramFisher | None, int]] = [first]
    held = dict.fromkeys(p.reads for p in prepared.plans if p.model)
    runs += [(by, fisher, MEASURED) for by, fisher in held]
    cost, seconds = Cost(), 0.0
    for by, fisher, count in runs:
        blocks = prepared.blocks[by]
        one = leaves_flops(task.model, task.loss, *task.train, blocks, fisher)
        cost += Cost(round(one * count))
        if rates is not None:
            seconds += model_seconds(task, blocks, fisher, MEASURED, count)
    return StagePrediction("plan", cost, None if rates is None else seconds)


def _pass(prepared: Preparation, task: Task, number: int, rates: Rates | None) -> StagePrediction:
    """The model once for every set of leaves, and the generated code of every block."""
    active = [p for p in prepared.plans if p.passes >= number and p.adds(number)]
    cost, seconds = Cost(), 0.0
    narrow = None if task.policy is None else task.policy.operands
    for by, fisher in dict.fromkeys(p.reads for p in active if number == 1 or not p.kept):
        blocks = prepared.blocks[by]
        one = leaves_flops(task.model, task.loss, *task.train, blocks, fisher)
        cost += Cost(round(one * task.N))
        if rates is not None:
            seconds += model_seconds(task, blocks, fisher, active[0].batch, task.N)
    for p in active:
        share = p.total / p.batch
        layered = gram_by_layers(p, prepared.blocks, number)
        if layered and rates is not None:
            seconds += share * _gram_seconds(p, prepared.blocks[Partition.LAYER], task, rates)
        for block in p.blocks:
            function, known = block.passes[number - 1], known_elements(p, block)
            cost += function_cost(function, known, p.itemsize).times(share)
            if rates is not None and not layered:
                returned = sum(known.get(name, 0) for name in function.returned)
                sums = rates.copy(returned * (p.itemsize + 24)) if returned else 0.0
                dtype = torch.float32 if p.itemsize == 4 else torch.float64
                kind = _Kind(dtype, narrow)
                seconds += share * (_code_seconds(function, known, kind, rates) + sums)
    batches = max((p.batches for p in active), default=1)
    return StagePrediction(f"pass {number}", cost, seconds if rates is not None else None, batches)


def _gram_seconds(p: Plan, layers: Sequence[LayerBlock], task: Task, rates: Rates) -> float:
    """One batch of a Gram matrix by pairs of layers: products, and every entry put and added."""
    products = gram_flops(layers, p.blocks[0].sizes["r"], p.batch)
    moved = task.P**2 * (4 * p.itemsize + 24)
    return sum(rates.product(f, task.precision) for f in products) + rates.copy(moved)


_Code = tuple[Plan, BlockPlan, Function]
"""Code of a block that runs between passes, in float64."""


def _between(plans: Sequence[Plan], number: int, rates: Rates | None) -> StagePrediction:
    """What is finished once a pass is done: decompositions, in float64."""
    return _of_codes(f"after pass {number}", _finishing(plans, number), rates)


def _finishing(plans: Sequence[Plan], number: int) -> list[_Code]:
    return [(p, b, b.finish[number]) for p in plans if p.passes >= number for b in p.blocks]


def _results(plans: Sequence[Plan], rates: Rates | None) -> StagePrediction:
    codes = [(p, b, r.code) for p in plans for b in p.blocks for r in b.results.values()]
    return _of_codes("results", codes, rates)


def _of_codes(name: str, codes: Sequence[_Code], rates: Rates | None) -> StagePrediction:
    cost = total(function_cost(function, known_elements(p, b), 8) for p, b, function in codes)
    if rates is None:
        return StagePrediction(name, cost, None)
    return StagePrediction(name, cost, sum((_exact_seconds(x, rates) for x in codes), 0.0))


def _exact_seconds(code: _Code, rates: Rates) -> float:
    p, block, function = code
    known = known_elements(p, block)
    return _code_seconds(function, known, _Kind(torch.float64), rates)


def decomposition_seconds(
    plans: Sequence[Plan], number: int, rates: Rates | None
) -> list[tuple[str, float]]:
    """Seconds of what is finished after a pass, block by block: what owners are chosen by."""
    return [
        (code[1].geometry.name, 0.0 if rates is None else _exact_seconds(code, rates))
        for code in _finishing(plans, number)
    ]


@dataclass(frozen=True, slots=True)
class _Kind:
    """The precision of code.

    Args:
        dtype: Of its tensors.
        operands: What its products take their operands in, where that is less.
    """

    dtype: torch.dtype
    operands: torch.dtype | None = None

    def product(self, rates: Rates, flops: float, side: int, moved: float) -> float:
        """Seconds of a product, and of its operands' conversion; `moved` what reading and writing takes."""
        if self.operands is None:
            return max(rates.product(flops, self.dtype, side), moved)
        return rates.product(flops, self.operands, side) + moved


def _code_seconds(
    function: Function,
    known: Mapping[str, int],
    kind: _Kind,
    rates: Rates,
) -> float:
    """One call: products take their operations, other lines what they move, if that is longer.

    Args:
        function: The code.
        known: Elements of what it reads.
        kind: Its precision.
        rates: The machine's.
    """
    itemsize = kind.dtype.itemsize
    seconds = 0.0
    for line, elements in line_elements(function, known):
        moved = rates.make(elements * itemsize)
        seconds += rates.call
        if line.flops and isinstance(line.operation, Call):
            seconds += line.count * rates.decomposition(line.flops)
        elif line.side:
            seconds += kind.product(rates, line.count * line.flops, line.side, moved)
        else:
            seconds += moved
    return seconds


def model_seconds(
    task: Task,
    blocks: Sequence[LayerBlock],
    fisher: ProgramFisher | None,
    batch: int,
    examples: int,
) -> float:
    """Forward and backward over some examples, from the times of two small batches."""
    wants = {"a"} | ({"g"} if fisher is not None else set())
    columns = Fisher() if fisher is None else Fisher(fisher.kind, fisher.samples)

    def run(size: int) -> float:
        return _timed(task, blocks, columns, wants, size)

    return _line(run, min(batch, task.N), -(-examples // batch), examples)


def _line(run: Callable[[int], float], most: int, batches: int, examples: int) -> float:
    """Seconds of some batches with so many examples in all, by those of a few small ones."""
    sizes = sorted({min(size, most) for size in PROBES})
    times: list[float] = []
    for size in sizes:
        if len(times) < 2 or times[-1] < QUICK:
            times.append(run(size))
    if len(times) == 1:
        return times[0] / sizes[0] * examples
    each = max(0.0, times[-1] - times[0]) / (sizes[len(times) - 1] - sizes[0])
    return batches * max(0.0, times[0] - each * sizes[0]) + each * examples


def _hessian_seconds(task: Task, layers: Sequence[LayerBlock], way: str) -> float | None:
    """The dense Hessian, by those of a few examples; None where blocks of it are formed by products."""
    if task.P**2 > DENSE_AT_MOST:
        return None
    portion = product_portion(task, layers, way)
    X, y = task.train
    entries = hessian_entries(task.model, task.loss, X, y, layers, Method(way, portion))

    def run(size: int) -> float:
        return fastest(lambda: entries.over(range(size)), task.device, least=0.0)

    return _line(run, task.N, hessian_chunks(layers, task.P, task.N).count, task.N)


def _timed(
    task: Task, blocks: Sequence[LayerBlock], fisher: Fisher, wants: set[str], size: int
) -> float:
    X, y = next(task.batches(size))
    request = LeafRequest(wants, fisher, Draws(0))

    def run() -> object:
        return exact_leaves(task.model, task.loss, X, y, blocks, request)

    return fastest(run, task.device)


def predicted_inverse(
    operator: Operator, inverse: Operator, rates: Rates | None
) -> StagePrediction:
    """What the inverse of a fitted curvature asks for.

    Args:
        operator: C.
        inverse: Its inverse: what form it has says how it is found.
        rates: The machine's.
    """
    cost, seconds = Cost(), 0.0
    for rows, decomposed in inverted_matrices(operator, inverse):
        flops = float(FUNCTIONS["eigh"].flops(rows, rows)) if decomposed else rows**3 / 3
        cost += Cost(round(flops), 16 * rows * rows)
        if rates is not None:
            exact = rates.product(flops, torch.float64)
            seconds += rates.decomposition(flops) if decomposed else exact
    return StagePrediction("inverse", cost, None if rates is None else seconds)


def inverted_matrices(operator: Operator, inverse: Operator) -> Iterator[tuple[int, bool]]:
    """Rows of every matrix, and whether it is decomposed (else it has a Cholesky factor)."""
    match operator, inverse:
        case BlockDiagonal(), BlockDiagonal():
            one, other = aligned([operator, inverse])
            for pair in zip(one.parts, other.parts, strict=True):
                yield from inverted_matrices(*pair)
        case Stacked(stack=stack, groups=groups), Stacked(stack=inverted):
            for matrix, decomposed in _inverted(stack, inverted):
                yield from [(matrix.shape[-1], decomposed)] * (1 if repeats(matrix) else groups)
        case _:
            yield from ((len(x), decomposed) for x, decomposed in _inverted(operator, inverse))


def _inverted(operator: Operator, inverse: Operator) -> Iterator[tuple[Tensor, bool]]:
    """The matrices of a block, or of a stack of blocks."""
    match operator, inverse:
        case _, MatrixFree():
            return  # Applied by products: nothing is found before they are asked for.
        case _, CholeskyInverse(root=root):
            yield root, False
        case Scaled(operator=inner), _:
            yield from _inverted(inner, inverse)
        case Kronecker(left=left, right=right), EigenBasis():
            yield from ((left, True), (right, True))
        case Dense(matrix=matrix), _:
            yield matrix, True
        case _:
            pass


def predicted_in_passes(
    entries: Entries, prepared: Preparation, task: Task, rates: Rates | None
) -> StagePrediction:
    """Scores under an inverse by its entries: it is applied to the queries' gradients in passes.

    Args:
        entries: The inverse as sums of products.
        prepared: The fit, whose layers say what scores cost.
        task: Queries and training examples.
        rates: The machine's.
    """
    layers = prepared.blocks[Partition.LAYER]
    passes = max(sum(isinstance(x, Gram) for x in chain.nodes) for chain in entries.chains)
    grams = sum(isinstance(x, Gram) for chain in entries.chains for x in chain.nodes)
    # A pass forms every example's gradient, and reads it for the queries once on each side; with its
    # conversion, its weight and the places of its block each number of it is moved ten times. A number or a row
    # that all examples give takes a pass of its own.
    flops = grams * 4 * task.Q * task.N * task.P
    moved = (passes * 10 + len(entries.statistics) * 4) * 8 * task.N * task.P
    scores = predicted_scores([False] * len(layers), task, layers, rates)
    cost = Cost(flops, moved) + scores.cost
    if rates is None:
        return StagePrediction("scores", cost, None)
    seconds = rates.product(float(flops), torch.float64) + moved / rates.peak_bytes
    return StagePrediction("scores", cost, seconds + (scores.seconds or 0.0))


def rotations(given: Sequence[ScoredBlock] | None) -> tuple[bool, ...] | None:
    """Whether each part of an inverse has a basis that inputs are rotated to; None without blocks."""
    if given is None:
        return None
    return tuple(x.left is not None or x.right is not None for x in given)


def score_ranks(given: Sequence[ScoredBlock] | None, task: Task) -> tuple[int | None, ...] | None:
    """Ranks with which the spectra of an inverse are multiplied; None for one taken as it is."""
    if given is None:
        return None
    found = []
    for x in given:
        factors = None
        if x.by_leaves:
            assert x.spectrum is not None
            factors = rank_of(x.spectrum, task.Q * task.N)
        found.append(None if factors is None else len(factors.left))
    return tuple(found)


def predicted_scores(
    rotated: Sequence[bool] | None,
    task: Task,
    blocks: Sequence[LayerBlock],
    rates: Rates | None,
    ranks: Sequence[int | None] | None = None,
) -> StagePrediction:
    """Scores of all queries against all training examples; the search for ranks is not counted.

    Args:
        rotated: What `rotations` says of the inverse.
        task: Queries and training examples.
        blocks: The blocks of its parts, or the model's by layer.
        rates: The machine's.
        ranks: What `score_ranks` says of them; without it no spectrum is factored.
    """
    N, Q = task.N, task.Q
    size = torch.empty((), dtype=task.precision).element_size()
    one = leaves_flops(task.model, task.loss, *task.train, blocks, ProgramFisher(kind="empirical"))
    turned: list[_Product] = []
    products: list[_Product] = []
    most = batch_size(task, blocks, scored_load(task, blocks, Q))
    batch = min(score_cut(N, most, Q).size, most)
    bases = rotated or [False] * len(blocks)
    for layer, basis, rank in zip(blocks, bases, ranks or [None] * len(blocks), strict=True):
        turned += _basis_products(layer, basis, N, Q)
        products += _block_products(layer, basis, N, Q, rank)
    if rotated is None:
        P = task.P
        products += [(2.0 * Q * P**2, P**2, Q), (0.0, 4.0 * Q * P, P)]
    cost = Cost(
        round(one * (N + Q) + sum(f for f, _, _ in turned + products)),
        round(size * sum(m for _, m, _ in turned + products)),
    )
    if rates is None:
        return StagePrediction("scores", cost, None)
    batches = -(-N // batch)
    seconds = model_seconds(task, blocks, ProgramFisher(kind="empirical"), batch, N + Q)
    for some, operands in ((turned, basis_operands(task)), (products, scored_in(task))):
        kind = _Kind(task.precision, operands if operands != task.precision else None)
        for flops, moved, side in some:
            call = kind.product(rates, flops / batches, side, rates.make(moved * size / batches))
            seconds += batches * (call + rates.call)
    return StagePrediction("scores", cost, seconds, batches)


def _basis_products(layer: LayerBlock, rotated: bool, N: int, Q: int) -> Iterator[_Product]:
    """Changes of basis of a block over all examples; of blocks of one shape, of all together."""
    if not rotated:
        return
    G, T, O, I = layer.count, layer.positions, layer.d_out, layer.d_in
    T = T if G == 1 else max(2, T)
    back = rotates_back(Q, N, T, O, I)
    seen = G * (Q if back else N + Q)
    yield 2.0 * seen * T * O * O, 2.0 * seen * T * O, O
    yield 2.0 * seen * T * I * I, 2.0 * seen * T * I, I
    if back:
        yield 2.0 * G * Q * O * I * (O + I), 2.0 * G * Q * O * I, min(O, I)


def _block_products(
    layer: LayerBlock, rotated: bool, N: int, Q: int, rank: int | None
) -> Iterator[_Product]:
    """Products of a block's queries with all examples; of blocks of one shape, of all together."""
    G = layer.count
    if G > 1:
        one = replace(layer, count=1, positions=max(2, layer.positions))
        for flops, moved, side in _block_products(one, rotated, N, Q, None):
            yield G * flops, G * moved, side
        return
    T, O, I = layer.positions, layer.d_out, layer.d_in
    if T > 1 and not rotated and isinstance(layer.kind, Embedding) and T < I:
        # Queries are read at the places that inputs name.
        yield 2.0 * N * Q * T * O, 1.0 * N * Q * T * O + Q * O * I, 1
        return
    if T > 1:
        yield 2.0 * (N + Q) * T * O * I, 1.0 * (N + Q) * O * I, min(T, O, I)
        yield 2.0 * N * Q * O * I, 1.0 * N * O * I + Q * O * I, Q
        return
    if rank is not None:
        yield 2.0 * N * Q * rank * O, 2.0 * N * Q * rank, O
        yield 2.0 * N * Q * rank * I, 2.0 * N * Q * rank, I
        return
    inner, outer = min(O, I), max(O, I)
    yield 2.0 * N * Q * inner * outer, 1.0 * N * Q * inner, outer
    yield 2.0 * N * Q * inner, 1.0 * N * Q * inner, 1
