"""Writes `docs/transformations`, and the tables of other pages between their marks.

Everything on a page is read from the specs, the checked chains, the plans and the tables of what
ships, so that a page cannot say what the code does not do.

    python docs/make_pages.py          write the pages
    python docs/make_pages.py --check  exit 1 where a page differs from what would be written
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from make_tables import DOCS, TABLES, renewed

from curvlang.compiler.explain.derivation import StageDerivation, derivation, latex, structure_name
from curvlang.compiler.explain.explain import Explanation
from curvlang.compiler.explain.listing import count
from curvlang.compiler.planning.cost import elements, function_cost, known_elements
from curvlang.compiler.planning.plan import BlockPlan, Limits, Plan
from curvlang.diagnostics.source import Source
from curvlang.language import load, shipped_files
from curvlang.language.chain import Chain, Law, Spec, TaskSpec
from curvlang.language.checking.names import shipped_names
from curvlang.language.checking.shipped import describe
from curvlang.language.registry import SOURCES, STAGES
from curvlang.language.syntax.docs import doc_of
from curvlang.language.syntax.nodes import BodySyntax, LawDef, TransformDef, When
from curvlang.language.syntax.parser import parse
from curvlang.language.task_sources import TaskSource
from curvlang.models.builtin import task_from
from curvlang.models.task import Task
from curvlang.runtime.prepare import prepare

FOLDER = DOCS / "transformations"
BATCH = 128
"""Examples of the batch whose cost is given; the plan of a run chooses its own."""
DEFAULT = "digits"
RENEW = "python docs/make_pages.py"


@dataclass(frozen=True)
class Shipped:
    """A spec that ships: its text, what checking made of it, and its plan on the default task."""

    name: str
    text: str
    spec: Spec

    @cached_property
    def chain(self) -> Chain:
        """The curvature that the file is named after."""
        found = self.spec.curvatures[self.name]
        assert isinstance(found, Chain), self.name
        return found

    @cached_property
    def evaluated(self) -> TaskSpec | None:
        """The task that the file evaluates it on; None for the default one."""
        return next(
            (
                x.task
                for x in self.spec.evaluations
                if x.curvature == self.name and x.task.name != DEFAULT
            ),
            None,
        )

    @property
    def task(self) -> Task:
        """Where its plan is made for."""
        return _task() if self.evaluated is None else task_from(self.evaluated)

    @cached_property
    def derived(self) -> tuple[StageDerivation, ...]:
        """Every stage of the chain, with its structure in the first block."""
        whole = prepare([self.chain], self.task, limits=Limits(batch=BATCH))
        return Explanation(whole.plans, whole.chains).stages()

    @cached_property
    def plans(self) -> tuple[Plan, ...]:
        """Plans of the last stage alone."""
        return prepare([self.chain], self.task, last=True, limits=Limits(batch=BATCH)).plans

    def source(self) -> str:
        """The file without its laws and comments."""
        items, _ = parse(Source(self.name, self.text))
        return "\n\n".join(x.span.text for x in items.items if not isinstance(x, LawDef))


@cache
def _task() -> Task:
    return task_from(TaskSource().of(None))


def shipped_specs() -> dict[str, Shipped]:
    """Every spec that ships and defines a curvature of its own name."""
    return {
        name: Shipped(name, text, spec)
        for name, text in shipped_files().items()
        if name in (spec := load(name)).curvatures
    }


def pages() -> dict[str, str]:
    """File name to text of every page."""
    specs = shipped_specs()
    transforms = shipped_names().transforms
    names = [*SOURCES, *STAGES, *transforms, *specs]
    found = {f"{n}.md": _page(n, specs, transforms) for n in dict.fromkeys(names)}
    return {"README.md": _index(specs, transforms), **found}


# The index ----------------------------------------------------------------------------------


def _index(specs: Mapping[str, Shipped], transforms: Mapping[str, TransformDef]) -> str:
    lines = [
        "# Transformations and specs",
        "",
        f"One page each: formula, source, exact cases, cost. Written by `{RENEW}` from the specs themselves.",
        "",
        "| stage | |",
        "|---|---|",
        *(_line(n, e.doc) for n, e in {**SOURCES, **STAGES}.items()),
        "",
        "| transform | |",
        "|---|---|",
        *(_line(n, doc_of(d)) for n, d in transforms.items()),
        "",
        f"Passes and FLOPs of the last stage: a batch of {BATCH} examples of the default task, all passes and layers.",
        "",
        "| spec | | structure | passes | FLOPs |",
        "|---|---|---|--:|--:|",
        *(_spec_line(s) for s in specs.values()),
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, doc: str) -> str:
    return f"| [`{name}`]({name}.md) | {doc} |"


def _spec_line(spec: Shipped) -> str:
    flops = sum(f.flops for p in spec.plans for b in p.blocks for f in b.passes)
    passes = max(p.passes for p in spec.plans)
    cells = (
        _doc(spec),
        structure_name(spec.derived[-1].shape),
        str(passes),
        count(flops) if flops else "",
    )
    return f"| [`{spec.name}`]({spec.name}.md) | " + " | ".join(cells) + " |"


def _doc(spec: Shipped) -> str:
    return doc_of(shipped_names().curvatures[spec.name])


# A page -------------------------------------------------------------------------------------


def _page(name: str, specs: Mapping[str, Shipped], transforms: Mapping[str, TransformDef]) -> str:
    parts: list[str] = [f"# {name}"]
    if name in STAGES or name in SOURCES:
        parts += _stage(name, specs)
    if name in transforms:
        parts += _transform(transforms[name], specs)
    if name in specs:
        parts += _spec(specs[name], specs)
    return "\n\n".join(parts) + "\n"


def _stage(name: str, specs: Mapping[str, Shipped]) -> Iterator[str]:
    entry = {**SOURCES, **STAGES}[name]
    yield "## Stage"
    yield f"{entry.doc[0].upper()}{entry.doc[1:]}. Built in."
    if entry.parameters:
        yield "\n".join(f"* `{key}: {describe(p)}`: {p.doc}" for key, p in entry.parameters.items())
    yield _used(name, specs)


def _transform(definition: TransformDef, specs: Mapping[str, Shipped]) -> Iterator[str]:
    name = definition.name
    yield "## Transform"
    yield _fenced("cv", definition.span.text)
    needs = [t.name for t in definition.needs]
    made = [x for x in _defined(definition.body) if x != "_"]
    yield "\n".join(
        [
            f"* Needs: {_code(needs)}.",
            f"* Defines for later stages: {_code(dict.fromkeys(made))}.",
            f"* {_used(name, specs)}",
        ]
    )
    shown = next((s for s in specs.values() if name in _stages(s)), None)
    if name not in specs and shown is not None:
        stage = shown.derived[_stages(shown).index(name)]
        yield f"Formula, with the arguments of `{shown.name}`:"
        yield _math([stage])
        yield _structure(stage)


def _spec(spec: Shipped, specs: Mapping[str, Shipped]) -> Iterator[str]:
    yield "## Spec"
    yield _doc(spec).rstrip(".") + "."
    yield _fenced("cv", spec.source())
    start = max((k for k, x in enumerate(spec.derived[:-1]) if _label(x) in specs), default=-1)
    if start >= 0:
        before = _label(spec.derived[start])
        yield f"Starts from [`{before}`]({before}.md). Then:"
    own = spec.derived[start + 1 :]
    yield _fenced("text", "\n".join(derivation(own)))
    yield _math(own)
    yield from _laws(spec.spec.laws)
    yield from _cost(spec)


def _label(stage: StageDerivation) -> str:
    return stage.result.label


def _stages(spec: Shipped) -> list[str]:
    return [stage.name for stage in spec.chain.stages]


def _used(name: str, specs: Mapping[str, Shipped]) -> str:
    written = re.compile(rf"""(=|"|\|>)\s*{name}\b""")
    using = [s for s in specs.values() if written.search(s.source())]
    links = ", ".join(f"[`{s.name}`]({s.name}.md)" for s in using)
    return f"Used by: {links or 'no spec that ships'}."


def _defined(body: Sequence[BodySyntax]) -> Iterator[str]:
    """Names that statements define, whatever holds them."""
    for statement in body:
        if isinstance(statement, When):
            yield from _defined((*statement.then, *statement.otherwise))
        elif hasattr(statement, "body"):
            yield from _defined(statement.body)
        elif hasattr(statement, "targets"):
            yield from (t.name for t in statement.targets)


def _structure(stage: StageDerivation) -> str:
    return f"Structure: {structure_name(stage.shape)} ({stage.shape.reason})."


def _math(stages: Sequence[StageDerivation]) -> str:
    rows = [x for x in latex(stages) if not x.startswith("%")]
    blocks = "\n".join(rows).replace("{align*}", "{aligned}").split("\\end{aligned}\n")
    return "\n\n".join(
        _fenced("math", x.removesuffix("\\end{aligned}") + "\\end{aligned}") for x in blocks
    )


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _code(names: Sequence[str] | Mapping[str, None]) -> str:
    return ", ".join(f"`{n}`" for n in names) or "nothing"


def _laws(laws: Sequence[Law]) -> Iterator[str]:
    if laws:
        yield "## Laws"
    kinds = (
        ("It holds that (`curvlang test` searches for a counterexample):", False),
        ("Some task shows that (negative twins):", True),
    )
    for title, exists in kinds:
        texts = dict.fromkeys(_text(law) for law in laws if law.exists is exists)
        rows = [f"* `{text}`" for text in texts]
        if rows:
            yield f"{title}\n\n" + "\n".join(rows)


def _text(law: Law) -> str:
    """The law as its spec writes it."""
    return " ".join(law.span.text.split()).removeprefix("law ")


def _cost(spec: Shipped) -> Iterator[str]:
    """What the last stage costs on the default task."""
    plans = [p for p in spec.plans if p.passes]
    yield "## Cost"
    if not plans:
        yield "No pass over the data of its own: the Hessian itself, or nothing of the data."
        return
    task = "default task (digits, 64–16–10)"
    if spec.evaluated is not None:
        task = f"task `{spec.evaluated.name}`"
    yield (
        f"On the {task}, a batch of {BATCH} examples; statistics are the "
        "numbers kept between passes."
    )
    rows = ["| block | pass | FLOPs | bytes moved | statistics |", "|---|--:|--:|--:|--:|"]
    rows += [row for p in plans for b in p.blocks for row in _cost_rows(p, b)]
    yield "\n".join(rows)


def _cost_rows(plan: Plan, block: BlockPlan) -> Iterator[str]:
    """A row for all passes of a block that cost the same."""
    alike: dict[str, list[int]] = {}
    for number, function in enumerate(block.passes, 1):
        cost = function_cost(function, known_elements(plan, block), plan.itemsize)
        kept = sum(elements(x.target.indices, block.sizes) for x in function.parts)
        cells = f"{count(cost.flops)} | {count(cost.bytes, 'B')} | {kept}"
        alike.setdefault(cells, []).append(number)
    sizes = " × ".join(str(block.sizes[x]) for x in ("o", "i", "p") if x in block.sizes)
    for cells, numbers in alike.items():
        yield f"| {block.geometry.name} ({sizes}) | {_passes(numbers)} | {cells} |"


def _passes(numbers: Sequence[int]) -> str:
    if len(numbers) <= 3:
        return ", ".join(map(str, numbers))
    return f"{numbers[0]}, {numbers[1]}, …, {numbers[-1]} ({len(numbers)} passes)"


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with `--check` name those that differ."""
    made = pages()
    FOLDER.mkdir(exist_ok=True)
    there = {p.name: p.read_text("utf-8") for p in FOLDER.glob("*.md")}
    stale = sorted(n for n in {*made, *there} if made.get(n) != there.get(n))
    tables = {name: renewed(name) for name in TABLES}
    stale += [name for name, text in tables.items() if text != (DOCS / name).read_text("utf-8")]
    if "--check" in arguments:
        print("\n".join(stale))
        return 1 if stale else 0
    for name, text in tables.items():
        (DOCS / name).write_text(text, "utf-8")
    for name in {*stale} - {*tables}:
        if name in made:
            (FOLDER / name).write_text(made[name], "utf-8")
        else:
            (FOLDER / name).unlink()
    print(f"{len(made)} pages, {len(stale)} renewed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
