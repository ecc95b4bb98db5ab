"""What the playground does with a text: check, format, explain. Runs where neither torch nor numpy is installed.

The page loads this file in the browser, next to the rooms of curvlang that it imports; a test runs it here
with torch and numpy blocked. Every function takes and gives JSON, as messages between threads do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from curvlang.compiler.derive.derive import derive
from curvlang.compiler.derive.program import Fisher, Partition, Program
from curvlang.compiler.explain.explain import Explanation
from curvlang.compiler.explain.explain_sum import explain_sum
from curvlang.compiler.planning.plan import Geometry, Plan
from curvlang.compiler.planning.planner import plan
from curvlang.diagnostics.diagnostic import Diagnostic, SpecError
from curvlang.diagnostics.render import as_data, render
from curvlang.diagnostics.source import Source
from curvlang.editors.vocabulary import vocabulary
from curvlang.language import check_text, loads
from curvlang.language.chain import Chain, Combination, Curvature, Spec
from curvlang.language.checking.spec import errors
from curvlang.language.sums import sum_text, weighted_chains
from curvlang.language.syntax.files import shipped_files, shipped_scores
from curvlang.language.syntax.formatter import format_source

NAME = "playground.cv"
MEMORY = 2**27
"""Bytes that a batch of the plan may take: as on a processor."""
MOST = 4096
"""Units of a layer, so that a plan takes the browser no longer than a second."""
PROMISE = "Nothing was run: the plan follows from the formula and the sizes."


@dataclass(frozen=True, slots=True)
class Network:
    """Sizes of a model that nothing builds: fully connected layers without bias, a loss of classes.

    Args:
        widths: Units from the inputs to the outputs, such as `[64, 16, 10]`.
        positions: Positions T of every example.
        examples: Training examples N.
    """

    widths: tuple[int, ...]
    positions: int
    examples: int

    @property
    def layers(self) -> Iterator[tuple[int, int]]:
        """Inputs and outputs of every layer."""
        return zip(self.widths[:-1], self.widths[1:], strict=True)

    def geometries(self, program: Program) -> tuple[Geometry, ...]:
        """Sizes of the blocks of a program."""
        columns = self._columns(program.fisher)
        if program.partition == Partition.MODEL:
            size = sum(i * o for i, o in self.layers)
            sizes = {"p": size, "r": columns, "c": self.positions * self.widths[-1]}
            return (Geometry("model", sizes),)
        spaces = {"t": self.positions, "r": columns}
        return tuple(
            Geometry(f"layer {k} ({i} → {o})", {**spaces, "o": o, "i": i})
            for k, (i, o) in enumerate(self.layers, 1)
        )

    def _columns(self, fisher: Fisher | None) -> int:
        """Columns of the factor of the loss curvature: one for each output where it is exact."""
        if fisher is None or fisher.kind == "empirical":
            return 1
        return fisher.samples if fisher.kind == "mc" else self.positions * self.widths[-1]


def examples() -> str:
    """Specs and scores that ship, by name."""
    files = {name: text for name, text in shipped_files().items() if name != "prelude"}
    return json.dumps({**files, **{f"score: {k}": v for k, v in shipped_scores().items()}})


def words() -> str:
    """Words of the language by what they are, for highlighting."""
    found = vocabulary()
    return json.dumps(
        {
            "items": list(found.items),
            "words": [*found.words, *found.lines],
            "functions": [*found.functions, *found.reductions],
        }
    )


def check(text: str) -> str:
    """Every problem of a text: as the terminal shows them, and with places and repairs."""
    found = check_text(text, NAME)
    return _answer(found, "" if found else f"{NAME}: {_contents(loads(text, NAME))}, no errors")


def formatted(text: str) -> str:
    """The text in the one format; the problems where it is not a spec."""
    try:
        return json.dumps({"text": format_source(Source(NAME, text)), "shown": "", "failed": False})
    except SpecError as error:
        return _answer(error.diagnostics, "")


def explained(text: str, name: str, widths: Sequence[int], positions: int, rows: int) -> str:
    """Formula, structure and cost of a curvature of the text, for a network of these sizes.

    Args:
        text: The spec.
        name: Which curvature; the last one where it is empty.
        widths: Units from the inputs to the outputs.
        positions: Positions of every example.
        rows: Training examples.
    """
    problems = check_text(text, NAME)
    if errors(problems):
        return _answer(problems, "")
    spec = loads(text, NAME)
    if not spec.curvatures:
        return _answer(
            [], "There is no curvature here to explain: write `curvature mine = …`.", True
        )
    chosen = name if name in spec.curvatures else [*spec.curvatures][-1]
    network = Network(tuple(widths), positions, rows)
    try:
        shown = _explain(spec.curvatures[chosen], network)
    except SpecError as error:
        return _answer(error.diagnostics, "")
    return json.dumps(
        {"shown": shown, "failed": False, "curvatures": [*spec.curvatures], "problems": []}
    )


def _explain(curvature: Curvature, network: Network) -> str:
    chains = _chains(curvature)
    programs, results = derive(chains)
    unknown = next((p.partition for p in programs if not p.partition.layers), None)
    if unknown is not None:
        return (
            f"Blocks by {unknown.written} need the model's own parameters, which the browser does not have:\n"
            f"curvlang explain {NAME} --task …"
        )
    plans = tuple(_planned(program, network) for program in programs)
    sizes = "–".join(map(str, network.widths))
    headline = f"{chains[-1].name} on a network of {sizes}, N = {network.examples}"
    headline += f", T = {network.positions}" if network.positions > 1 else ""
    notes: tuple[str, ...] = ()
    if isinstance(curvature, Combination):
        notes = explain_sum(sum_text(curvature), [chain[-1] for chain in results], plans)
    return Explanation(plans, results, f"{headline}\n{PROMISE}", notes=notes).text(code=False)


def _chains(curvature: Curvature) -> tuple[Chain, ...]:
    """The chain, or those of a sum."""
    if isinstance(curvature, Chain):
        return (curvature,)
    return tuple(chain for _, chain in weighted_chains(curvature))


def _planned(program: Program, network: Network) -> Plan:
    return plan(program, network.geometries(program), network.examples, memory=MEMORY)


def _contents(spec: Spec) -> str:
    """`2 curvatures, 1 score`."""
    kinds = {"curvature": spec.curvatures, "score": spec.scores, "study": spec.studies}
    counts = [(len(found), kind) for kind, found in kinds.items() if found]
    several = {"study": "studies"}
    return ", ".join(f"{n} {k if n == 1 else several.get(k, k + 's')}" for n, k in counts) or "read"


def _answer(problems: Sequence[Diagnostic], shown: str, failed: bool | None = None) -> str:
    wrong = bool(errors(list(problems))) if failed is None else failed
    return json.dumps(
        {
            "problems": [{**as_data(d), "repairs": _repairs(d)} for d in problems],
            "shown": render(problems, color=True) if problems else shown,
            "failed": wrong,
        }
    )


def _repairs(diagnostic: Diagnostic) -> list[dict[str, Any]]:
    """Replacements that an editor may make."""
    return [
        {"start": e.span.start, "end": e.span.end, "text": e.text, "title": e.title}
        for e in diagnostic.edits
        if e.span.source.name == NAME
    ]
