"""Fits and scores in several precisions, as a share of what the card itself does in a large product."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from time import perf_counter

import torch
from torch import nn

import curvlang as cv
from curvlang.compiler.planning.cost import plan_cost
from curvlang.facade import chains_of, chosen
from curvlang.models.task import Task
from curvlang.runtime.prepare import model_flops, prepare

PRECISIONS = ("float32", "tf32", "bfloat16")
TURNS = 3
DAMPING = 0.1
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Size:
    """How large the measured work is.

    Args:
        product: Rows of the matrices whose product is the card's peak.
        width: Of the model's layers.
        layers: Hidden ones, all of one shape.
        examples: Training examples.
        queries: Queries.
    """

    product: int
    width: int
    layers: int
    examples: int
    queries: int


FULL, QUICK = Size(8192, 2048, 6, 16384, 256), Size(256, 16, 2, 64, 4)


@dataclass(frozen=True, slots=True)
class Speed:
    """A fit, and scores, in one precision.

    Args:
        precision: Of the products.
        peak: Operations a second of a large product in it.
        seconds: Of the fit, and of the scores.
        fit_share: Operations of the fit a second, of the peak.
        memory: Bytes that the allocator has reserved at most; 0 on a CPU.
        scores_apart: From those in float32, of the largest.
    """

    precision: str
    peak: float
    seconds: dict[str, float]
    fit_share: float
    memory: int
    scores_apart: float


def speeds(device: torch.device, size: Size, spec: str = "ekfac_empirical") -> Iterator[dict]:
    """Measure every precision in turn; scores of the first are the reference of the others."""
    reference = None
    for precision in PRECISIONS:
        with products_in(precision):
            peak = product_rate(device, DTYPES[precision], size.product)
            task = perceptron(size).to(dtype=DTYPES[precision], device=device)
            found, scores = measured(spec, task)
        reference = scores.double() if reference is None else reference
        gap = float((scores.double() - reference).abs().max() / reference.abs().max())
        operations = work(spec, task)
        share = operations / found["fit"] / peak
        yield asdict(Speed(precision, peak, found, share, reserved(device), gap))


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Products of float32 matrices by TensorFloat-32 inside, or in float32 itself."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def perceptron(size: Size) -> Task:
    """Layers of one shape between two others."""
    generator = torch.Generator().manual_seed(0)
    widths = [size.width] * (size.layers + 1) + [10]
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(widths):
        layers += [nn.Linear(d_in, d_out), nn.Tanh()]
    count = size.examples + size.queries
    X = torch.randn(count, size.width, generator=generator)
    y = torch.randint(10, (count,), generator=generator)
    train, query = slice(0, size.examples), slice(size.examples, count)
    model = nn.Sequential(*layers[:-1]).eval()
    return cv.Task(
        model, loss="cross_entropy", train=(X[train], y[train]), query=(X[query], y[query])
    )


def measured(spec: str, task: Task) -> tuple[dict[str, float], torch.Tensor]:
    """Seconds of the fastest fit and scores, and the scores."""
    best: dict[str, float] = {}
    for _ in range(TURNS):
        fitted, seconds = timed(lambda: cv.fit(spec, task, progress=False), task.device)
        best["fit"] = min(best.get("fit", seconds), seconds)

        def scored(op: object = fitted) -> torch.Tensor:
            return cv.influence(op, task, damping=DAMPING, progress=False)

        scores, seconds = timed(scored, task.device)
        best["scores"] = min(best.get("scores", seconds), seconds)
    return best, scores


def timed(run: Callable[[], object], device: torch.device) -> tuple:
    """What it gives, and seconds until the device is done with it."""
    finish(device)
    start = perf_counter()
    found = run()
    finish(device)
    return found, perf_counter() - start


def product_rate(device: torch.device, dtype: torch.dtype, n: int) -> float:
    """Operations a second of the fastest of several products of two matrices [n, n]."""
    a = torch.ones(n, n, dtype=dtype, device=device)
    a @ a
    return max(2 * n**3 / timed(lambda: a @ a, device)[1] for _ in range(2 * TURNS))


def work(spec: str, task: Task) -> float:
    """Operations of a fit: the model's passes, and the code of the plan; decompositions are not counted."""
    chains = list(chains_of(chosen(cv.load(spec))))
    prepared = prepare(chains, task, last=True)
    own = sum(plan_cost(p).flops for p in prepared.plans)
    return own + sum(model_flops(prepared, task).values())


def finish(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reserved(device: torch.device) -> int:
    """The most that the allocator has reserved."""
    return int(torch.cuda.max_memory_reserved(device)) if device.type == "cuda" else 0
