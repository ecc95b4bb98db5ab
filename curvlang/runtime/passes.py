"""The passes over the data: chunk by chunk, each chunk batch by batch, the sums of chunks folded by the tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from curvlang.compiler.derive.program import Partition
from curvlang.compiler.planning.chunks import Chunks, Node
from curvlang.compiler.planning.plan import Plan
from curvlang.models.losses.finite import in_part
from curvlang.models.padding.spans import Batch
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import check_batch
from curvlang.runtime.batch_leaves import BatchLeaves
from curvlang.runtime.execute import Execution
from curvlang.runtime.prepare import Preparation
from curvlang.runtime.processes.ledger import Begun, Folding, Ledger, Sums
from curvlang.runtime.progress.listeners import Progress

Place = tuple[int, int]
"""The number of a chunk, and of a batch in it."""
Leaves = dict[str, dict[str, Tensor]]
"""By block and name."""


@dataclass(slots=True, eq=False)
class PassWork:
    """What is done with every chunk of the examples.

    Args:
        prepared: The plans.
        executions: Of every plan.
        tasks: The task, or the task at several models.
        seed: Of sampled labels.
        kept: Leaves between passes, by plan and batch.
    """

    prepared: Preparation
    executions: tuple[Execution, ...]
    tasks: tuple[Task, ...]
    seed: int
    kept: dict[tuple[int, Place], Leaves] = field(default_factory=dict)

    @property
    def chunks(self) -> Chunks:
        """The examples of all tasks, in chunks."""
        return self.prepared.chunks

    def adding(self, number: int) -> list[Execution]:
        """Who adds anything up in a pass."""
        return [e for e in self.executions if e.plan.passes >= number and e.plan.adds(number)]

    def batches(self, k: int) -> Iterator[tuple[int, Task, Batch]]:
        """The batches of a chunk, each after how many examples of the tasks before its own."""
        (lo, hi), before, prepared = self.chunks.bounds(k), 0, self.prepared
        for task in self.tasks:
            within = range(max(lo - before, 0), min(hi - before, task.N))
            if within:
                for batch in task.cut(prepared.rows_at, within=within, whole=prepared.whole):
                    yield before, task, batch
            before += task.N

    def feed(self, number: int, place: Place, before: int, task: Task, batch: Batch) -> None:
        """A batch, to all that adds something up."""
        prepared = self.prepared
        shared = BatchLeaves(task, prepared, batch, batch.draws(self.seed, number, before))
        if number == 1 and prepared.picks:
            with in_part(task.model, batch.X, "train", batch.start):
                check_batch(task.model, batch.X, prepared.blocks[Partition.LAYER], sum(place))
        for execution in self.adding(number):
            execution.feed(number, self._leaves(execution.plan, place, number, shared))

    def _leaves(self, plan: Plan, place: Place, number: int, shared: BatchLeaves) -> Leaves:
        """A batch's leaves: those kept from the pass before, given up in the last one, or new ones."""
        key, kept = (id(plan), place), self.kept
        found = kept.pop(key) if key in kept else shared.leaves_for(plan.program)
        if plan.kept and number < plan.passes:
            kept[key] = found
        return found

    def sums(self) -> Sums:
        """What the executions have added up."""
        return {
            f"{k}/{block}/{name}": x
            for k, execution in enumerate(self.executions)
            for block, named in execution.sums.items()
            for name, x in named.items()
        }

    def take(self) -> Sums:
        """The same, given up: the next batch begins new sums."""
        found = self.sums()
        for execution in self.executions:
            execution.sums = {name: {} for name in execution.sums}
        return found

    def give(self, sums: Sums) -> None:
        """Give the executions the sums over all examples."""
        for key, x in sums.items():
            plan, _, rest = key.partition("/")
            block, _, name = rest.rpartition("/")
            self.executions[int(plan)].sums[block][name] = x


@dataclass(slots=True, eq=False)
class Passes:
    """Passes over the data, in order.

    Args:
        work: What is done with every chunk.
        ledger: What an earlier run has left, and what this one leaves.
        progress: Called after every batch.
        turn: What a pass is called behind its number.
    """

    work: PassWork
    ledger: Ledger
    progress: Progress | None = None
    turn: str = ""

    def run(self, number: int) -> None:
        """One pass: the executions then have the sums over all examples."""
        if not self.work.adding(number):
            return
        root, folding = self.work.chunks.root, Folding(self.work.chunks.count)
        known, begun = self.ledger.known(number), self.ledger.begun(number)
        for node in parts(root, known):
            if node in known:
                folding.add(node, known[node])
            else:
                self._chunk(number, node.lo, folding, begun.get(node.lo))
                folding.add(node, self.work.take())
        self.ledger.keep(number, folding.folded, None)
        self.work.give(folding.folded.pop(root))

    def _chunk(self, number: int, k: int, folding: Folding, begun: Begun | None) -> None:
        """The batches of a chunk, but for those that an earlier run has added up."""
        done, total = self.work.chunks.bounds(k)[0], self.work.chunks.total
        if begun is not None:
            self.work.give(begun.sums)
        for place, (before, task, batch) in enumerate(self.work.batches(k)):
            done += len(batch)
            if begun is not None and place < begun.batches:
                continue
            self.work.feed(number, (k, place), before, task, batch)
            if self.progress is not None:
                self.progress(f"pass {number}{self.turn}", done, total)
            self.ledger.keep(number, folding.folded, Begun(k, place + 1, self.work.sums()))


def parts(node: Node, known: Mapping[Node, object]) -> Iterator[Node]:
    """What a subtree is folded from, in the order of the chunks: subtrees that are known, and chunks."""
    if node in known or node.leaf:
        yield node
        return
    for child in node.children:
        yield from parts(child, known)
