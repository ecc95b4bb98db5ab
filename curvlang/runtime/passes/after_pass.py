"""What follows from the sums of a pass: each block's by its owner, then told to all processes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from curvlang.diagnostics.source import Span
from curvlang.runtime.execute import Keep
from curvlang.runtime.guard import check_sums
from curvlang.runtime.passes.chunk_pass import PassWork
from curvlang.runtime.processes.distributed import World
from curvlang.runtime.processes.ledger import Ledger, Sums, joined
from curvlang.runtime.processes.owners import Unit, owners, units
from curvlang.runtime.processes.sharing import Halves
from curvlang.runtime.progress.listeners import Progress

Statistics = Mapping[tuple[int, str], Mapping[str, Tensor]]
"""By plan and block, then by name."""


@dataclass(slots=True)
class _Counter:
    """How many blocks of how many are finished, told one by one."""

    progress: Progress | None
    name: str
    total: int
    done: int = 0

    def one_more(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.name, self.done, self.total)


@dataclass(slots=True, eq=False)
class AfterPass:
    """What is computed between two passes, and after the last.

    Args:
        work: The plans and their executions.
        ledger: What an earlier run has left, and what this one leaves.
        processes: Which share the blocks.
        spans: Of every plan: where what it computes was asked for.
        progress: Called after every block, with the blocks of this process.
        turn: What a pass is called behind its number.
        made: What this process has computed.
    """

    work: PassWork
    ledger: Ledger
    processes: World
    spans: Sequence[Span]
    progress: Progress | None = None
    turn: str = ""
    made: dict[tuple[int, str], dict[str, Tensor]] = field(default_factory=dict)

    def known(self, number: int) -> Statistics:
        """What follows from a pass and is there, in all processes."""
        found = self.ledger.statistics(number)
        told = self.processes.exchange(self._key(number, "statistics"), json.dumps(sorted(found)))
        each = [{(k, name) for k, name in json.loads(text)} for text in told]
        return {place: found[place] for place in sorted(set.intersection(*each))}

    def close(self, number: int, known: Statistics, sums: Halves) -> None:
        """Finish a pass.

        Args:
            number: Of the pass.
            known: What was known of it before.
            sums: Over all examples; each block's are joined by its owner alone.
        """
        plans = [execution.plan for execution in self.work.executions]
        missing = [u for u in units(plans, number) if {(u.plan, x) for x in u.names} - set(known)]
        own = self._handed_out(number, missing, sums)
        total = sum((u.plan, name) not in known for u in own for name in u.names)
        told = _Counter(self.progress, f"after pass {number}{self.turn}", total)
        for k, execution in enumerate(self.work.executions):
            check_sums(execution.sums, self.work.tasks, self.spans[k])
            there = {name: dict(x) for (plan, name), x in known.items() if plan == k}
            names = frozenset().union(*(u.names for u in own if u.plan == k))
            execution.close(number, there, self._keeping(number, k, told), names)
        if missing and self.processes.size > 1:
            self._tell(number, missing)
        if self.processes.first:
            self.ledger.forget(number)

    def _handed_out(self, number: int, missing: Sequence[Unit], sums: Halves) -> list[Unit]:
        """The blocks that this process owns: their executions have the sums of them."""
        owned, here = owners(missing, self.processes.size), self.processes.rank
        device, whole = self.work.tasks[0].device, Sums()
        for rank, found in enumerate(owned):
            for k, (origin, half) in enumerate(sums if found else ()):
                key = self._key(number, f"sums {k}")
                if rank == here:
                    part = (
                        self.processes.receive(key, origin, device)
                        if half is None
                        else _of(found, half)
                    )
                    whole = joined(whole, part)
                elif half is not None:
                    self.processes.send(key, _of(found, half), rank)
        self.work.give(whole)
        return owned[here]

    def _keeping(self, number: int, plan: int, told: _Counter) -> Keep:
        def keep(block: str, statistics: dict[str, Tensor]) -> None:
            self.made[plan, block] = statistics
            self.ledger.finish(number, plan, block, statistics)
            told.one_more()

        return keep

    def _tell(self, number: int, missing: Sequence[Unit]) -> None:
        """Tell all processes what each has computed; a tensor of several blocks is told once."""
        device = self.work.tasks[0].device
        for rank, found in enumerate(owners(missing, self.processes.size)):
            mine = _by_tensor(self.made) if rank == self.processes.rank else None
            key = self._key(number, f"from {rank}")
            told = self.processes.share(key, mine, rank, device) if found else {}
            for places, x in told.items() if mine is None else ():
                for plan, block, name in json.loads(places):
                    self.work.executions[plan].learn(block, {name: x})
        self.made = {}

    def _key(self, number: int, what: str) -> str:
        return f"pass {number}{self.turn}, {what}"


def _of(found: Sequence[Unit], sums: Sums) -> Sums:
    """The sums of some blocks, given up."""
    places = {f"{unit.plan}/{name}" for unit in found for name in unit.names}
    return {key: sums.pop(key) for key in list(sums) if key.rpartition("/")[0] in places}


def _by_tensor(made: Mapping[tuple[int, str], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Every tensor once, by all the places that it has."""
    places: dict[int, list[tuple[int, str, str]]] = {}
    tensors: dict[int, Tensor] = {}
    for (plan, block), named in made.items():
        for name, x in named.items():
            places.setdefault(id(x), []).append((plan, block, name))
            tensors[id(x)] = x
    return {json.dumps(own): tensors[key] for key, own in places.items()}
