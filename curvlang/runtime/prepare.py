"""Plans for the chains of a run: derived, sized to the task, within the memory there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from curvlang.compiler.derive.builder import JOINT, OWN
from curvlang.compiler.derive.derive import derive
from curvlang.compiler.derive.masking import masked, takes_means
from curvlang.compiler.derive.program import Fisher, Partition, Program, Result
from curvlang.compiler.planning.chunks import Chunks
from curvlang.compiler.planning.plan import (
    BATCH_AT_MOST,
    DENSE_AT_MOST,
    Geometry,
    Limits,
    Plan,
    keeping,
    plan_of,
)
from curvlang.compiler.planning.planner import DEFAULT, fixed_share, plan
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.language.chain import Chain
from curvlang.models.derivatives.flops import hessian_flops, leaves_flops
from curvlang.models.derivatives.product_methods import WORDS, hessian_way
from curvlang.models.fingerprint import digest
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock, bare_at_once, bare_names
from curvlang.runtime.limits.activations import activation_bytes, few_bytes
from curvlang.runtime.limits.columns import MANY, column_count, exact_bytes, require_columns
from curvlang.runtime.limits.footprint import (
    Phase,
    blocks_read,
    chunks_of,
    footprint,
    heaviest,
    largest,
    reads_hessian,
    sum_bytes,
)
from curvlang.runtime.limits.memory import available, require
from curvlang.runtime.limits.repairs import lighter
from curvlang.runtime.limits.turns import Blocks, Turn, in_turns, largest_turn, whole_plans
from curvlang.runtime.others import besides, words_apart
from curvlang.runtime.positions.alignment import (
    Alignment,
    alignments,
    check_lengths,
    follows,
    has_padding,
)

BATCH_SHARE = 8
"""One batch may take an eighth of the memory that is available, and at most `BATCH_BYTES`."""
BATCH_BYTES = 2**30
SMALL_BATCH = 2**27
"""On a processor a batch takes no more than this besides its sums: larger ones were slower, since their
free memory is read from the system each time."""
BESIDE_SUMS = 4
"""Where what a batch adds up is large itself, a batch may take this many times as much: every batch makes it
again and adds it to what is there."""
FEW = 8
"""Examples of a batch down to which batches become smaller before blocks take turns: the model runs once more
for every turn, and many times longer for examples one by one."""
KEPT_SHARE = 4
"""Leaves that are kept between passes may take a quarter of the memory that is available."""


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """Plans for the chains of a run, and the blocks of the model they are made for.

    `picks` says whether the model picks rows by their values (`models.routing`).
    `aligned` says which positions of every layer count in means over positions, where some are padding.
    `whole` says that rows keep their padding; where they do not, `fixed` is the share of a batch's bytes
    that does not fall with the positions.
    `turns` are groups of blocks that are fitted one after the other, where all of them do not fit.
    """

    programs: tuple[Program, ...]
    chains: tuple[tuple[Result, ...], ...]
    plans: tuple[Plan, ...]
    blocks: Mapping[Partition, tuple[LayerBlock, ...]]
    phases: tuple[Phase, ...]
    picks: bool = False
    aligned: Mapping[str, Sequence[Alignment]] = field(default_factory=dict)
    whole: bool = True
    fixed: float = 1.0
    turns: tuple[Turn, ...] = ()

    def in_turns(self) -> Iterator[Preparation]:
        """The same for each group of blocks that is fitted by itself; itself where there are none."""
        if not self.turns:
            yield self
        for turn in self.turns:
            yield replace(self, plans=turn.plans, blocks=turn.blocks, phases=turn.phases, turns=())

    @property
    def chunks(self) -> Chunks:
        """The examples in chunks."""
        return self.plans[0].cut

    @property
    def code(self) -> str:
        """Hash of all code of the run, of its batches, and of which blocks it is run for together."""
        texts = [
            f"{p.chunks} {p.batch} {block.geometry} {f.source}"
            for turn in self.in_turns()
            for p in turn.plans
            for block in p.blocks
            for f in (*block.passes, *block.finish, *(r.code for r in block.results.values()))
        ]
        return digest(*texts, repr(self.fixed), *(repr(sorted(turn.names)) for turn in self.turns))

    def rows_at(self, share: float) -> int:
        """Examples of a batch that have a share of all positions."""
        size = self.plans[0].batch
        return max(size, min(BATCH_AT_MOST, int(size / (self.fixed + (1 - self.fixed) * share))))

    def plan_of(self, result: Result) -> Plan:
        """The plan that computes a result."""
        return plan_of(result, self.plans)


def prepare(
    chains: Sequence[Chain],
    task: Task,
    *,
    last: bool = False,
    limits: Limits = DEFAULT,
    points: int = 1,
    trying: bool = False,
) -> Preparation:
    """Derive and plan the chains for a task; reads one example, computes nothing.

    Args:
        chains: Typed chains.
        task: Model, loss and data.
        last: Plan whole chains only, without what only their prefixes need.
        limits: Of batches, matrices and what is kept between passes.
        points: Models that every example is seen at.
        trying: Whether a refusal is not shown, so that it need not say what would fit.

    Raises:
        SpecError: Where the model is not covered or the plan is refused.
        MachineError: Where the plan's memory is more than the machine has.
    """
    asked = chains
    # Refusals speak of the chains as they are written.
    beside = besides(asked, task)
    padded = any(map(takes_means, chains)) and has_padding(task)
    if padded:
        chains = [masked(chain) for chain in chains]
        beside = beside and tuple(masked(chain) for chain in beside)
    found = _blocks_of(task)
    programs, results = derive(chains, last=last, beside=beside)
    for by in {program.partition for program in programs} - found.keys():
        found[by] = task.blocks(by)
    itemsize = torch.empty((), dtype=task.precision).element_size()
    with torch.no_grad():
        outputs = task.model(task.few[:1]).numel()
    geometries = [_geometries(program, found, task, outputs) for program in programs]
    total = points * task.N
    at_once = limits.batch or min(total, BATCH_AT_MOST)
    models = [_model_bytes(program, found, task, (at_once, outputs)) for program in programs]

    planned = _Planning(programs, geometries, models, (total, itemsize), limits)
    have = available(task.device) if limits.memory is None else limits.memory
    plans, turns = _fitting(planned, found, task, have)
    room = have - largest(footprint(plans, found, task)).bytes
    share = max(0, min(have // KEPT_SHARE, room))
    plans = keeping(plans, share if limits.keep is None else limits.keep)

    def again(other: Sequence[Chain]) -> object:
        seen = words_apart(other, task)
        return prepare(other, seen, last=last, limits=limits, points=points, trying=True)

    ways = () if trying else lighter(asked, plans, found, task, again)
    require_columns(plans, found, task, outputs, ways)
    phases = footprint(plans, found, task)
    worst = largest(phases)
    if turns:
        phases, plans = largest_turn(turns).phases, whole_plans(turns)
    else:
        require(
            worst.bytes, task.device, f"this run ({worst.name})", ways, heaviest(plans, worst.bytes)
        )
    if any(program.partition != Partition.MODEL for program in programs):
        check_lengths(task, found[Partition.LAYER])
    aligned = alignments(task, found[Partition.LAYER]) if padded else {}
    whole = _padded_whole(task, aligned)
    fixed = 1.0 if whole or limits.batch else max(map(fixed_share, plans), default=1.0)
    return Preparation(
        programs, results, plans, found, phases, task.facts.picks, aligned, whole, fixed, turns
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Planning:
    """Makes plans of all programs, with one size of batches.

    Args:
        programs: Of the run.
        geometries: The blocks of each.
        models: What the model holds for an example while each program's leaves are computed.
        sizes: Examples, and bytes of a number in the passes.
        limits: Of the run.
    """

    programs: Sequence[Program]
    geometries: Sequence[tuple[Geometry, ...]]
    models: Sequence[int]
    sizes: tuple[int, int]
    limits: Limits

    def __call__(self, memory: int) -> tuple[Plan, ...]:
        """Plans whose batches take so many bytes."""
        first = self._of_size(memory, self.limits.batch)
        count = chunks_of(first)
        size = self._common(first, Chunks(self.sizes[0], count))
        found = first if all(p.batch == size for p in first) else self._of_size(memory, size)
        return tuple(replace(p, chunks=count) for p in found)

    def _of_size(self, memory: int, size: int | None) -> tuple[Plan, ...]:
        total, itemsize = self.sizes
        return tuple(
            plan(
                program,
                g,
                total,
                memory=memory,
                itemsize=itemsize,
                limits=replace(self.limits, batch=size, model=held),
            )
            for program, g, held in zip(self.programs, self.geometries, self.models, strict=True)
        )

    def _common(self, plans: Sequence[Plan], chunks: Chunks) -> int:
        """Examples of every plan's batches: none crosses a chunk's end, and those of a chunk are alike."""
        smallest = min((p.batch for p in plans), default=1)
        if chunks.count == 1:
            return smallest
        return min(smallest, chunks.longest) if self.limits.batch else chunks.even(smallest)


def _padded_whole(task: Task, aligned: Mapping[str, Sequence[Alignment]]) -> bool:
    """Whether batches keep all of their padding."""
    padding = task.padding()
    return padding is None or bool(padding.kept) or not follows(aligned, padding)


def _fitting(
    planned: Callable[[int], tuple[Plan, ...]],
    found: Blocks,
    task: Task,
    have: int,
) -> tuple[tuple[Plan, ...], tuple[Turn, ...]]:
    """Plans that fit, with groups of blocks that take turns where all of them do not; else the smallest plans.

    Batches become smaller down to `FEW` examples, then blocks take turns, and only then do batches become
    smaller still.

    Args:
        planned: Plans whose batches take so many bytes.
        found: The model's blocks for each partition.
        task: Model and data.
        have: Bytes that are available.
    """

    def measured(plans: Sequence[Plan], blocks: Blocks = found) -> tuple[Phase, ...]:
        return footprint(plans, blocks, task)

    plans: tuple[Plan, ...] = ()
    for least in (FEW, 2, 1):
        plans = _in_memory(planned, measured, task.device, have, least)
        if largest(measured(plans)).bytes <= have:
            return plans, ()
        # Batches that were made small for all blocks at once need not be so small for some.
        usual = planned(max(1, have // BATCH_SHARE))
        tried = [p for p in (usual, plans) if p is plans or _smallest(p) >= least]
        tried.sort(key=_smallest, reverse=True)
        cut = (in_turns(keeping(p, 0), found, measured, have) for p in tried)
        if turns := next(filter(None, cut), ()):
            return plans, turns
    return plans, ()


def _smallest(plans: Sequence[Plan]) -> int:
    """Examples of the smallest batch."""
    return min((p.batch for p in plans), default=1)


def _in_memory(
    planned: Callable[[int], tuple[Plan, ...]],
    measured: Callable[[Sequence[Plan]], Sequence[Phase]],
    device: torch.device,
    have: int,
    least: int,
) -> tuple[Plan, ...]:
    """Plans with batches as large as pays, smaller where the run would not fit otherwise.

    Args:
        planned: Plans whose batches take so many bytes.
        measured: Predicted memory of plans.
        device: Where.
        have: Bytes that are available.
        least: Examples below which batches are not made smaller.
    """
    small = BATCH_BYTES if device.type == "cuda" else SMALL_BATCH
    plans = planned(max(1, min(small, have // BATCH_SHARE)))
    sums = max((b for p in plans for b in sum_bytes(p)), default=0)
    memory = min(
        small + BESIDE_SUMS * sums, max(have // BATCH_SHARE, min(have // 2, BESIDE_SUMS * sums))
    )
    if any(p.batch < min(p.cut.longest, BATCH_AT_MOST) for p in plans):
        plans = planned(max(1, memory))
    while (
        largest(measured(plans)).bytes > have and any(p.batch > least for p in plans) and memory > 1
    ):
        memory //= 2
        smaller = planned(max(1, memory))
        if all(p.batch < least for p in smaller):
            break
        plans = smaller
    return plans


def way_of(task: Task) -> str | None:
    """How products with a task's Hessian are formed; None without one. A few examples are run."""
    task = task.exact()
    try:
        return hessian_way(task.model, task.loss, *task.train)
    except SpecError:
        return None


def model_flops(prepared: Preparation, task: Task, way: str | None = None) -> dict[str, int]:
    """Operations of the model itself over a whole run, by what they are for.

    Args:
        prepared: The plans.
        task: Model, loss and data.
        way: Of products with the Hessian; tried where it is not given and there are such.
    """
    found: dict[str, int] = {}
    task = task.exact()
    if any(map(reads_hessian, prepared.plans)) and task.P**2 <= DENSE_AT_MOST:
        layers = prepared.blocks[Partition.LAYER]
        way = way or hessian_way(task.model, task.loss, *task.train)
        one = hessian_flops(task.model, task.loss, *task.train, layers, way)
        found[f"the Hessian, {WORDS[way]}"] = round(one * task.N)
    passes: dict[tuple[Partition, Fisher | None], int] = {}
    for p in prepared.plans:
        if p.passes:
            passes[p.reads] = max(passes.get(p.reads, 0), 1 if p.kept else p.passes)
    for (by, fisher), count in passes.items():
        blocks = prepared.blocks[by]
        one = leaves_flops(task.model, task.loss, *task.train, blocks, fisher)
        kind = f"columns {fisher}{_by_themselves(blocks)}" if fisher is not None else "inputs"
        found[f"the model, forward and backward ({kind}), {count} ×"] = round(one * task.N * count)
    return found


def _by_themselves(blocks: Sequence[LayerBlock]) -> str:
    """How the model runs for parameters outside any layer, which need each example by itself."""
    count = len(bare_names(blocks))
    if not count:
        return ""
    how = (
        "all examples of a batch at once" if bare_at_once(blocks) else "one example after the other"
    )
    return f"; again for {count} parameter{'s' * (count > 1)} outside any layer, {how}"


EXACT_MEASURED = 4
"""Exact columns are formed to measure a model where two examples' and what they are made of fit: four times
those of one."""


def _model_bytes(
    program: Program,
    found: Mapping[Partition, tuple[LayerBlock, ...]],
    task: Task,
    sizes: tuple[int, int],
) -> int:
    """What the model holds for an example while a program's leaves are computed.

    Args:
        program: Statements of one partition.
        found: The model's blocks for each partition.
        task: Model and data.
        sizes: Examples that go through the model at once, and numbers that it gives for one.
    """
    if not any(leaf.per_example for leaf in program.leaves.values()):
        return 0
    read = found[Partition.LAYER if program.partition.layers else program.partition]
    examples, outputs = sizes
    columns = _columns(program, task, outputs)
    if program.fisher == Fisher() and not few_bytes(task, read, examples, columns):
        exact = exact_bytes(task, read, outputs)
        if EXACT_MEASURED * exact > available(task.device):
            # The factor, and what it is made of.
            return exact + exact // 2
    return activation_bytes(task, task.loss, read, program.fisher, examples, columns)


def _columns(program: Program, task: Task, outputs: int) -> int:
    """Columns of an example that certainly go backward together: the whole matrix may be multiplied with instead."""
    if program.fisher is None or program.partition == Partition.MODEL:
        return 1
    count = column_count(program.fisher, task, outputs)
    return count if count <= MANY else 1


def _blocks_of(task: Task) -> dict[Partition, tuple[LayerBlock, ...]]:
    """The blocks by layer; what `a` and `g` give is checked once for every partition."""
    layers = task.blocks()
    return {Partition.MODEL: layers, Partition.LAYER: layers}


def _geometries(
    program: Program,
    found: Mapping[Partition, tuple[LayerBlock, ...]],
    task: Task,
    outputs: int,
) -> tuple[Geometry, ...]:
    """Sizes of every space."""
    r = 1 if program.fisher is None else column_count(program.fisher, task, outputs)
    if program.partition == Partition.MODEL:
        return (Geometry("model", {"p": task.P, "r": r, "c": outputs}),)
    return tuple(
        Geometry(
            b.name,
            {"t": b.positions, "r": r, "o": b.d_out, "i": b.d_in},
            b.shares,
            b.count,
            # What a position counts is the same in all blocks of a layer.
            b.repeated | {JOINT, OWN},
        )
        for b in blocks_read(program, found[program.partition])
    )
