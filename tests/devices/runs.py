"""Every stage of a spec on a task, on the host and on the simulated card: equal numbers, and no wait inside a loop over batches."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

import curvlang as cv
from curvlang.language.checking.shipped import shipped
from curvlang.models.derivatives import products
from curvlang.models.task import Task
from curvlang.training.one_by_one import ModulesInTurn
from curvlang.training.stacked_any import StackedModules
from curvlang.training.stacked_mlp import StackedMLP
from tests.devices.simulated_card import Waits, on_host, simulated_card
from tests.models.language_models.checkpoints import QUERIES, TEXTS, lines, saved
from tests.small import network
from tests.small import task as small_task

DAMPING = 0.1
BATCH = 2
EXAMPLES, QUERIED = 3, 2
"""Two batches, the last one shorter."""
EQUAL = 1e-9
"""The card computes with the host's own kernels here: what differs is the order of a few sums."""
SMALL = {
    "digits": "hidden = [2]",
    "digits_cnn": "channels = [2, 2], groups = 2, norm = group",
    "characters": "context = 3, width = 2, heads = 1, hidden = 2",
    "diabetes": "hidden = [2]",
}
"""Arguments that make a shipped task small; others run as they are."""
ENGINES = (ModulesInTurn, StackedModules, StackedMLP)
"""What trains models: their steps are a loop over batches too."""
OF_MODELS: Mapping[str, str] = {
    "models/tracing/verify.py:_direction": "the batches 0, 1, 3, 7, … of a model that picks rows are looked at",
    "models/tracing/verify.py:_check_gradients_finite": "likewise",
    "models/tracing/verify.py:_close": "likewise",
    "models/tracing/blocks.py:check_rows": "likewise",
}
"""Lines of every pass."""
OF_SOLVERS: Mapping[str, str] = {
    "operators/iterative/iteration.py:check_finite": "self-influence solves for the gradients of every batch, "
    "and a solver refuses vectors that are not finite",
    "operators/iterative/iteration.py:relative": "likewise: it ends by the size of its residual",
    "operators/iterative/neumann.py:_check": "likewise: it ends where the recursion diverges",
    "operators/iterative/arnoldi.py:leading_eigenpairs": "likewise: its pairs are found at the first batch, once",
    "operators/iterative/arnoldi.py:_random": "likewise",
    "operators/iterative/arnoldi.py:solve": "likewise: a singular inverse is refused",
}
"""Lines of inverses by iteration, which have their own loops."""
ALLOWED: Mapping[str, str] = {**OF_MODELS, **OF_SOLVERS}
"""Lines that wait inside a loop over batches, and why that is right."""
LANGUAGE_MODEL = "pretrained"
"""The task of a checkpoint, whose rows are read from a file batch by batch."""
TRANSFORMERS = ("characters", LANGUAGE_MODEL)


def specs() -> list[str]:
    """Every spec that ships and defines a curvature."""
    files = {x.where.partition(":")[0] for x in shipped() if x.kind == "curvature"}
    return sorted(x.removesuffix(".cv") for x in files - {"prelude.cv"})


def tasks() -> list[str]:
    """Every task that ships, and that of a checkpoint."""
    named = sorted(x.name for x in shipped() if x.kind == "task")
    return sorted([*named, LANGUAGE_MODEL], key=TRANSFORMERS.__contains__)


def tiny() -> Task:
    """A perceptron with two layers of one shape, small enough for every spec."""
    return small_task(network([3, 3, 3, 2]), "cross_entropy", n=EXAMPLES)


def made(name: str, folder: Path) -> Task:
    """A task that ships, small and with few examples, in float64 on the host."""
    if name == LANGUAGE_MODEL:
        path = saved(folder / "checkpoint", width=4)
        query = f'query = "{lines(folder / "query.jsonl", QUERIES)}"'
        data = f'dataset("{lines(folder / "train.jsonl", TEXTS[:EXAMPLES])}", {query})'
        return cv.task(cv.TaskSource(model=str(path), data=data), dtype=torch.float64)
    found = cv.task(f"{name}({SMALL.get(name, '')})", dtype=torch.float64)
    return found.examples(slice(0, EXAMPLES)).queries(slice(0, QUERIED))


def _fit(run: Run) -> object:
    run.op = cv.fit(run.spec, run.task, progress=False)
    return run.op.diagonal()


def _inverse(run: Run) -> object:
    op = run.fitted
    v = torch.linspace(-1, 1, op.shape[0], dtype=torch.float64, device=run.task.device)
    return op @ v, op.inverse(DAMPING) @ v, op.trace(), op.frobenius()


def _evaluation(run: Run) -> object:
    task, protocol = run.task, None
    if task.recipe is not None:
        task = task.replaced(recipe=replace(task.recipe, epochs=2))
        protocol = cv.LDS(subsets=3, retrains=1, queries=QUERIED, bootstrap=10)
    found = cv.evaluate(run.spec, task, protocol=protocol, damping=DAMPING, progress=False)
    # What took how long is not a number of the evaluation.
    return [float(x) for x in re.findall(r"-?\d+\.\d+(?! s)", found.table())]


def _top(run: Run) -> object:
    found = cv.top_examples(run.fitted, run.task, k=2, **run.options)
    return [(n.index, n.score) for one in found for n in (*one.helpful, *one.harmful)]


STAGES: Mapping[str, Callable[[Run], object]] = {
    "plan": lambda run: str(cv.explain(run.spec, run.task)).count("\n") * 0,
    "fit": _fit,
    "inverse": _inverse,
    "scores": lambda run: cv.influence(run.fitted, run.task, **run.options),
    "by layer": lambda run: cv.influence(run.fitted, run.task, per_layer=True, **run.options),
    "by position": lambda run: cv.influence(run.fitted, run.task, per_position=True, **run.options),
    "by token": lambda run: (
        cv.influence(run.fitted, run.task, per_token=True, **run.options).scores
    ),
    "self-influence": lambda run: cv.self_influence(run.fitted, run.task, **run.options),
    "top": _top,
    "evaluation": _evaluation,
}
"""What is done with a spec and a task. The last one measures every step of the chain, trains models and scores them."""


@dataclass(slots=True, eq=False)
class Run:
    """A spec on a task, stage after stage."""

    spec: str
    task: Task
    op: object = None
    options: dict = field(default_factory=lambda: {"damping": DAMPING, "progress": False})

    @property
    def fitted(self):
        """The operator; a spec that cannot be fitted is refused again."""
        return self.op if self.op is not None else cv.fit(self.spec, self.task, progress=False)

    def stage(self, name: str) -> object:
        """What a stage gives, or the code with which it is refused."""
        try:
            return STAGES[name](self)
        except cv.SpecError as error:
            return error.diagnostics[0].code


@dataclass(slots=True)
class Outcome:
    """What a stage did on the card.

    Args:
        code: With which it is refused, on the host too.
        apart: How far its numbers are from the host's.
        waits: Inside loops over batches, by the line that waits.
    """

    code: str = ""
    apart: float = 0.0
    waits: Counter = field(default_factory=Counter)

    def __str__(self) -> str:
        return self.code or "✓"

    @property
    def stalls(self) -> list[str]:
        """The lines that wait in a loop without a reason."""
        return sorted({where for where, _ in self.waits} - set(ALLOWED))


def stages_of(spec: str, name: str) -> tuple[str, ...]:
    """The stages that a spec is run through on a task: on transformers one spec is evaluated, whose steps are others'."""
    brief = name in TRANSFORMERS and spec != "ekfac_lm"
    return tuple(x for x in STAGES if not (brief and x == "evaluation"))


def outcomes(spec: str, task: Task, stages=tuple(STAGES)) -> dict[str, Outcome]:
    """Every stage on the host, then on the card."""
    with small_batches():
        host = Run(spec, task)
        wanted = {name: on_host(host.stage(name)) for name in stages}
    with simulated_card() as waits, small_batches(waits):
        card = Run(spec, task.to(device="cuda"))
        found = {}
        for name in stages:
            waits.in_loops.clear()
            found[name] = _compared(card.stage(name), wanted[name], Counter(waits.in_loops))
    return found


def _compared(found: object, wanted: object, waits: Counter) -> Outcome:
    found = on_host(found)
    if isinstance(wanted, str) or isinstance(found, str):
        assert str(found) == str(wanted), f"the card: {found}; the host: {wanted}"
        return Outcome(code=str(found), waits=waits)
    pairs = list(zip(tensors_in(found), tensors_in(wanted), strict=True))
    return Outcome(apart=max((_apart(x, y) for x, y in pairs), default=0.0), waits=waits)


def tensors_in(value) -> Iterator[Tensor]:
    """Every tensor and number of a result, in order."""
    match value:
        case Tensor():
            yield value
        case dict():
            for x in value.values():
                yield from tensors_in(x)
        case tuple() | list():
            for x in value:
                yield from tensors_in(x)
        case float() | int():
            yield torch.tensor(float(value))


def _apart(x: Tensor, y: Tensor) -> float:
    largest = max(float(y.abs().max()), 1e-300) if y.numel() else 1.0
    return float((x.double() - y.double()).abs().max()) / largest if y.numel() else 0.0


@contextmanager
def small_batches(waits: Waits | None = None) -> Iterator[None]:
    """Every loop over batches takes `BATCH` examples at a time; what waits inside one is counted."""
    waits = waits or Waits()
    cuts, batches, pieces = Task.cuts, Task.batches, products._batches

    def small_cuts(self, rows_at, *given, **named):
        return _inside(cuts(self, lambda share: min(BATCH, rows_at(share)), *given, **named), waits)

    def small(self, size, *given, **named):
        return _inside(batches(self, min(BATCH, size), *given, **named), waits)

    def small_pieces(X, y, within, size, device):
        return _inside(pieces(X, y, within, min(BATCH, size), device), waits)

    def stepping(step):
        def inside(self, *given):
            with waits.inside():
                return step(self, *given)

        return inside

    with ExitStack() as stack:
        stack.enter_context(patch.object(Task, "cuts", small_cuts))
        stack.enter_context(patch.object(Task, "batches", small))
        stack.enter_context(patch.object(products, "_batches", small_pieces))
        for engine in ENGINES:
            stack.enter_context(patch.object(engine, "step", stepping(engine.step)))
        yield


def _inside(batches: Iterator, waits: Waits) -> Iterator:
    """The same batches; whoever has one is inside the loop until the next one is asked for."""
    for batch in batches:
        with waits.inside():
            yield batch
