"""A study, checked: its curvatures, its sweeps multiplied out, a task and a protocol for each cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.source import Span
from curvlang.ir.expr import Binary, Expr, Negate, Ref
from curvlang.ir.indices import walk
from curvlang.language.bodies.values import show, value
from curvlang.language.chain import (
    Curvature,
    InverseUse,
    Part,
    Study,
    StudyCell,
    TaskSpec,
    Value,
)
from curvlang.language.checking.arguments import arguments, checked
from curvlang.language.checking.chains import Chains
from curvlang.language.checking.check_scores import BaselineChecker, twice
from curvlang.language.checking.inverses import check_use
from curvlang.language.checking.names import Names
from curvlang.language.registry import (
    GRID,
    LDS,
    MEASURES,
    NONE,
    SEED,
    SEEDS,
    Parameter,
)
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.problems import LEAVE_OUT, Collector

TaskOf = Callable[[s.Use, Mapping[str, Value]], TaskSpec | None]
"""A task use with the swept values in scope, checked."""

MOST_CELLS = 1000
"""Cells of a study, seeds counted; more is a slip."""
MOST_CELLS_OF_FILE = 5000
"""Cells of all studies of a file."""
MOST_VALUES = 200_000
"""Values that the cells of a study state together: arguments, and what a task is made of."""


@dataclass(slots=True)
class Cells:
    """Cells of all studies of a file so far."""

    count: int = 0


@dataclass(slots=True)
class StudyChecker:
    """Checks studies against the names that a file sees.

    Args:
        names: What the file sees.
        chains: Types curvatures.
        task: Checks a task.
        problems: Collects diagnostics.
        default: The name of the task of a study that states none.
        cells: Counts the cells of all studies of the file.
    """

    names: Names
    chains: Chains
    task: TaskOf
    problems: Collector
    default: str
    cells: Cells

    def study(self, item: s.StudyDef) -> Study | None:
        """The typed study; None (and diagnostics) where something in it is wrong."""
        before = self.problems.errors
        for line in item.repeated:
            headline = f"`{line.word}` stands twice in one study"
            self.problems.twice(Code.E0718, headline, line.span, line.first, LEAVE_OUT)
        path, others = self._curvatures(item)
        inverses = self._inverses(item)
        damping = self._damping(item)
        self._unused_damping(item, inverses)
        seeds = self._seeds(item)
        baselines = BaselineChecker(self.names, self.chains, self.problems).all(item.baselines)
        measures = self._measures(item.measures)
        if baselines and item.silent is not None:
            self.problems.say(
                Code.E0920,
                "baselines are judged by the LDS, and `protocol none` leaves it out",
                item.baselines[0].span,
                "leave out the baselines, or state a protocol",
            )
        axes = self._axes(item)
        self._size(item, axes, seeds)
        if self.problems.errors > before:
            return None
        cells = tuple(self._cells(item, axes))
        self._models(item, cells, seeds)
        if self.problems.errors > before:
            return None
        return Study(
            name=item.name,
            doc=item.doc,
            cells=cells,
            axes=axes,
            path=path,
            others=others,
            inverses=inverses,
            damping=damping,
            seeds=seeds,
            baselines=baselines,
            measures=measures,
            span=item.span,
        )

    def _curvatures(self, item: s.StudyDef) -> tuple[tuple[Curvature, ...], tuple[Curvature, ...]]:
        for sign in item.signs:
            if sign.text != ">":
                self.problems.say(
                    Code.E0911,
                    f"the curvatures of a path stand with `>` between them, not `{sign.text}`",
                    sign.span,
                    "write `path hessian > ggn`: from the exact one to the roughest",
                )
        first: dict[str, Span] = {}
        for word in (*item.path, *item.curvatures):
            if word.text in first:
                headline = f"the study compares `{word.text}` with itself"
                self.problems.twice(
                    Code.E0912, headline, word.span, first[word.text], "leave one out"
                )
            first.setdefault(word.text, word.span)
        if not first:
            self.problems.say(
                Code.E0913,
                f"the study `{item.name}` names no curvature",
                item.name_span,
                "add a line `path hessian > ggn > block_ggn`, or `curvatures diagonal, identity`",
            )
        found = (
            tuple(c for w in words if (c := self.chains.named(w)) is not None)
            for words in (item.path, item.curvatures)
        )
        path, others = found
        return path, others

    def _inverses(self, item: s.StudyDef) -> tuple[InverseUse, ...] | None:
        alone = [use.name for use in item.inverses] == [NONE]
        if alone and NONE not in self.names.inverses:
            self._uninverted(item, item.inverses[0])
            return None
        made = (check_use(use, self.names.inverses, self.problems) for use in item.inverses)
        found: dict[str, InverseUse] = {}
        for use in made:
            if use is None:
                continue
            text = " ".join(use.span.text.split())
            if text in found:
                self.problems.say(
                    Code.E0914, f"the inverse `{text}` stands twice", use.span, "leave one out"
                )
            found[text] = use
        return tuple(found.values())

    def _uninverted(self, item: s.StudyDef, none: s.Use) -> None:
        """Refuse `inverses none` beside what reads an inverse."""
        if item.silent is None or item.measures:
            self.problems.say(
                Code.E0920,
                "scores and measures read an inverse, and `inverses none` leaves it out",
                none.span,
                "write `protocol none` and no measures, or name an inverse",
            )
        if none.arguments:
            self.problems.say(
                Code.E0920, "`none` takes no arguments", none.span, "write `inverses none`"
            )

    def _measures(self, uses: tuple[s.Use, ...]) -> tuple[Part, ...]:
        """Measures with their arguments, each once."""
        found: dict[str, Part] = {}
        for use in uses:
            entry = MEASURES.get(use.name)
            if entry is None:
                self.problems.unknown(Code.E0920, "measure", use.name, use.name_span, MEASURES)
                continue
            if use.name in found:
                twice(use, self.problems)
            found[use.name] = Part(use.name, arguments(use, entry, {}, self.problems), use.span)
        return tuple(found.values())

    def _damping(self, item: s.StudyDef) -> tuple[float, ...] | None:
        if item.damping is None:
            return None
        found = self._list(item.damping, "damping", "damping [1e-3, 1e-2, 1e-1]")
        return tuple(
            float(x)
            for x in self._each(found, "damping", GRID, item.damping)
            if isinstance(x, int | float)
        )

    def _unused_damping(self, item: s.StudyDef, inverses: tuple[InverseUse, ...] | None) -> None:
        """A grid of λ that no inverse reads."""
        read = inverses is not None and (not inverses or any(x.damping_open for x in inverses))
        if item.damping is None or read:
            return
        self.problems.say(
            Code.E0915,
            "`damping` is swept, and no inverse of the study leaves its damping open",
            item.damping.span,
            "add an inverse without a `damping` of its own, `tikhonov`, or leave the line out",
        )

    def _seeds(self, item: s.StudyDef) -> tuple[int, ...]:
        if item.seeds is None:
            return (0,)
        made = value(item.seeds, {}, self.problems)
        if isinstance(made, tuple):
            found = self._list(item.seeds, "seeds", "seeds 3")
            each = self._each(found, "seeds", SEED, item.seeds)
            return tuple(x for x in each if isinstance(x, int))
        (count,) = self._each([] if made is None else [made], "seeds", SEEDS, item.seeds) or (0,)
        return tuple(range(count)) if isinstance(count, int) else ()

    def _each(
        self, given: Sequence[Value], name: str, parameter: Parameter, written: s.ValueSyntax
    ) -> list[Value]:
        """The values of a line that are right; the others are said."""
        found = []
        for x in given:
            try:
                found.append(checked(name, x, parameter, written.span))
            except SpecError as error:
                self.problems += error.diagnostics
        return found

    def _axes(self, item: s.StudyDef) -> dict[str, tuple[Value, ...]]:
        axes: dict[str, tuple[Value, ...]] = {}
        used = set(_used(item))
        for sweep in item.sweeps:
            name = sweep.name.text
            if name in axes:
                self.problems.say(
                    Code.E0914, f"`{name}` is swept twice", sweep.name.span, "leave one out"
                )
            if name not in used:
                self.problems.say(
                    Code.E0915,
                    f"`{name}` is swept, and neither the task nor the protocol reads it",
                    sweep.name.span,
                    f"use it, as in `digits(hidden = [16] * {name})`, or drop the `for`",
                )
            axes[name] = self._list(sweep.values, name, f"for {name} in [1, 4, 8]")
        return axes

    def _list(self, given: s.ValueSyntax, name: str, example: str) -> tuple[Value, ...]:
        """A list with at least one value, none of them twice."""
        made = value(given, {}, self.problems)
        if made is None:
            return ()
        if not isinstance(made, tuple) or not made:
            what = "an empty list" if made == () else f"`{show(made)}`"
            self.problems.say(
                Code.E0914,
                f"`{name}` takes its values from a list, not from {what}",
                given.span,
                f"write `{example}`",
            )
            return ()
        twice = next((x for x, count in Counter(made).items() if count > 1), None)
        if twice is not None:
            self.problems.say(
                Code.E0914, f"`{show(twice)}` stands twice in a list", given.span, "leave one out"
            )
        return made

    def _size(
        self, item: s.StudyDef, axes: Mapping[str, tuple[Value, ...]], seeds: tuple[int, ...]
    ) -> None:
        count = prod(map(len, axes.values())) * max(1, len(seeds))
        if count > MOST_CELLS:
            self.problems.say(
                Code.E0917,
                f"the study `{item.name}` has {count} cells; at most {MOST_CELLS} are run",
                item.name_span,
                "sweep fewer values, or write several studies",
            )
            return
        self.cells.count += count
        if self.cells.count > MOST_CELLS_OF_FILE:
            self.problems.say(
                Code.E0917,
                f"the studies of this file have {self.cells.count} cells up to here; "
                f"at most {MOST_CELLS_OF_FILE} are run",
                item.name_span,
                "put this study into a file of its own",
            )
            return
        values = prod(map(len, axes.values())) * self._values(item)
        if values > MOST_VALUES:
            self.problems.say(
                Code.E0917,
                f"the cells of the study `{item.name}` state {values} values; "
                f"at most {MOST_VALUES} are read",
                item.name_span,
                "sweep fewer values, or a task with fewer parameters",
            )

    def _values(self, item: s.StudyDef) -> int:
        """Values that one cell states: its arguments, and the parts of the task."""
        use = item.task
        task = self.names.tasks.get(use.name if use is not None else self.default)
        given = [*(use.arguments if use is not None else ()), *(item.protocol or ())]
        if task is not None:
            given += [*task.parameters, *(a for _, part in task.parts for a in part.arguments)]
        return sum(_size(argument.value) for argument in given)

    def _cells(
        self, item: s.StudyDef, axes: Mapping[str, tuple[Value, ...]]
    ) -> Iterator[StudyCell]:
        silent = item.silent is not None
        if item.silent is not None and item.silent.text != "none":
            self.problems.say(
                Code.E0916,
                f"`protocol {item.silent.text}` is not a protocol",
                item.silent.span,
                "write `protocol subsets = 100, retrains = 20`, or `protocol none`",
            )
            return
        use = item.task or s.Use(self.default, (), item.name_span, item.name_span)
        for chosen in product(*axes.values()):
            scope = dict(zip(axes, chosen, strict=True))
            task = self.task(use, scope)
            lds = None
            if not silent:
                line = s.Use("protocol", item.protocol or (), item.name_span, item.name_span)
                lds = arguments(line, LDS, scope, self.problems)
            if task is not None:
                yield StudyCell(scope, task, lds)

    def _models(
        self, item: s.StudyDef, cells: tuple[StudyCell, ...], seeds: tuple[int, ...]
    ) -> None:
        """Several seeds of a model that comes with its weights would be one model."""
        given = [c for c in cells if c.task.model.arguments.get("weights", NONE) != NONE]
        if given and len(seeds) > 1 and item.seeds is not None:
            self.problems.say(
                Code.E0921,
                f"the model comes with its weights: {len(seeds)} seeds would be one model",
                item.seeds.span,
                "leave `seeds` out",
            )


def _size(given: s.ValueSyntax) -> int:
    """Values that stand in a value."""
    match given:
        case s.Text():
            return 1
        case s.ListValue(items=items, times=times):
            return 1 + sum(map(_size, items)) + (0 if times is None else _size(times))
        case _:
            return sum(1 for _ in walk(given))


def _used(item: s.StudyDef) -> Iterator[str]:
    """Names that the task and the protocol read."""
    for argument in (*(item.task.arguments if item.task else ()), *(item.protocol or ())):
        yield from _names(argument.value)


def _names(given: s.ValueSyntax | Expr) -> Iterator[str]:
    match given:
        case s.ListValue(items=items, times=times):
            for inner in items:
                yield from _names(inner)
            if times is not None:
                yield from _names(times)
        case Ref(name=name):
            yield name
        case Binary(left=left, right=right):
            yield from _names(left)
            yield from _names(right)
        case Negate(operand=operand):
            yield from _names(operand)
        case _:
            return
