"""The passes over the data: chunk by chunk, each chunk batch by batch, the sums of chunks folded by the tree."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from curvlang.compiler.derive.program import Partition
from curvlang.compiler.planning.chunks import Chunks, Node
from curvlang.compiler.planning.plan import Plan
from curvlang.models.losses.finite import in_part
from curvlang.models.padding.spans import Batch, BatchRows
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import BatchChecks
from curvlang.runtime.execute import Execution
from curvlang.runtime.passes.batch_leaves import BatchLeaves
from curvlang.runtime.prepare import Preparation
from curvlang.runtime.processes.distributed import World
from curvlang.runtime.processes.ledger import Begun, Folding, Ledger, Sums
from curvlang.runtime.processes.sharing import Halves, Share, SharedFold
from curvlang.runtime.progress.listeners import Progress

Place = tuple[int, int]
"""The number of a chunk, and of a batch in it."""
Leaves = dict[str, dict[str, Tensor]]
"""By block and name."""
LOOK = 0.2
"""Seconds between two looks at whether another process has failed."""


@dataclass(slots=True, eq=False)
class PassWork:
    """What is done with every chunk of the examples.

    Args:
        prepared: The plans.
        executions: Of every plan.
        tasks: The task, or the task at several models.
        seed: Of sampled labels.
        kept: Leaves between passes, by plan and batch.
        checks: Of every task whose model picks rows.
    """

    prepared: Preparation
    executions: tuple[Execution, ...]
    tasks: tuple[Task, ...]
    seed: int
    kept: dict[tuple[int, Place], Leaves] = field(default_factory=dict)
    checks: dict[int, BatchChecks] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin the checks."""
        self.checks = {id(task): BatchChecks(task.model) for task in self.tasks}

    @property
    def chunks(self) -> Chunks:
        """The examples of all tasks, in chunks."""
        return self.prepared.chunks

    def adding(self, number: int) -> list[Execution]:
        """Who adds anything up in a pass."""
        return [e for e in self.executions if e.plan.passes >= number and e.plan.adds(number)]

    def batches(self, k: int) -> Iterator[tuple[int, Task, BatchRows]]:
        """The batches of a chunk, unread, each after how many examples of the tasks before its own."""
        (lo, hi), before, prepared = self.chunks.bounds(k), 0, self.prepared
        for task in self.tasks:
            within = range(max(lo - before, 0), min(hi - before, task.N))
            if within:
                for rows in task.cuts(prepared.rows_at, within=within, whole=prepared.whole):
                    yield before, task, rows
            before += task.N

    def feed(self, number: int, place: Place, before: int, task: Task, batch: Batch) -> None:
        """A batch, to all that adds something up."""
        prepared = self.prepared
        shared = BatchLeaves(task, prepared, batch, batch.draws(self.seed, number, before))
        if number == 1 and prepared.picks:
            with in_part(task.model, batch.X, "train", batch.start):
                self.checks[id(task)].see(batch.X, prepared.blocks[Partition.LAYER], sum(place))
        for execution in self.adding(number):
            execution.feed(number, self._leaves(execution.plan, place, number, shared))

    def settle(self, nodes: Sequence[Node]) -> None:
        """Read what the checks of the batches of these chunks have put off."""

        def inputs(task: Task) -> Iterator[Tensor]:
            for k in (k for node in nodes for k in range(node.lo, node.hi)):
                yield from (task.read(own).X for _, other, own in self.batches(k) if other is task)

        for task in self.tasks:
            self.checks[id(task)].settle(partial(inputs, task))

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
    """Passes over the data, in order, shared by the processes: each works on consecutive chunks.

    Args:
        work: What is done with every chunk.
        ledger: What an earlier run has left, and what this one leaves.
        processes: Which share the chunks.
        progress: Called after every batch, with the examples of this process.
        turn: What a pass is called behind its number.
    """

    work: PassWork
    ledger: Ledger
    processes: World = World()
    progress: Progress | None = None
    turn: str = ""
    done: int = 0
    total: int = 0
    _looked: float = 0.0

    def run(self, number: int) -> Halves:
        """One pass: the sums over all examples, up to the last joint, which is left to who needs the sums."""
        if not self.work.adding(number):
            return ()
        root, known = self.work.chunks.root, self.ledger.known(number)
        share = Share.of(root, self._agreed(number, known), self.processes)
        folding, begun = Folding(root.hi), self.ledger.begun(number)
        self.done, self.total = 0, sum(map(self._examples, share.own))
        for node in share.own:
            if node in share.known:
                folding.add(node, known[node])
                self.done += self._examples(node)
            else:
                self._chunk(number, node.lo, folding, begun.get(node.lo))
                folding.add(node, self.work.take())
        self.work.settle(share.own)
        self.ledger.keep(number, folding.folded, None)
        device = self.work.tasks[0].device
        fold = SharedFold(share, folding.folded, self.processes, self.name(number), device)
        return fold.halves(root)

    def name(self, number: int) -> str:
        """What a pass is called."""
        return f"pass {number}{self.turn}"

    def _agreed(self, number: int, known: Mapping[Node, Sums]) -> frozenset[Node]:
        """The subtrees that all processes know of."""
        told = json.dumps(sorted([node.lo, node.hi] for node in known))
        found = self.processes.exchange(f"{self.name(number)}, subtrees", told)
        each = [frozenset(Node(*node) for node in json.loads(x)) for x in found]
        return frozenset.intersection(*each)

    def _examples(self, node: Node) -> int:
        bounds = self.work.chunks.bounds
        return bounds(node.hi - 1)[1] - bounds(node.lo)[0]

    def _chunk(self, number: int, k: int, folding: Folding, begun: Begun | None) -> None:
        """The batches of a chunk, but for those that an earlier run has added up."""
        if begun is not None:
            self.work.give(begun.sums)
        for place, (before, task, rows) in enumerate(self.work.batches(k)):
            self.done += len(rows)
            if begun is not None and place < begun.batches:
                continue
            self.work.feed(number, (k, place), before, task, task.read(rows))
            if self.progress is not None:
                self.progress(self.name(number), self.done, self.total)
            self.ledger.keep(number, folding.folded, Begun(k, place + 1, self.work.sums()))
            self._look()

    def _look(self) -> None:
        """See from time to time whether another process has failed."""
        now = time.monotonic()
        if now - self._looked > LOOK:
            self._looked = now
            self.processes.check()
