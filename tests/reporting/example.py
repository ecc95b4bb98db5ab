"""Results to report on: the digits study with measured LDS, and awkward ones made from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from curvlang.evaluation.result import Comparison, Point, Protocol, Result, Step, TaskSummary
from curvlang.evaluation.statistics.interval import Interval

SWEEP = (0.001, 0.01, 0.1)
LDS = {
    "hessian": (-0.018, 0.321, 0.634),
    "ggn": (0.484, 0.615, 0.627),
    "block_ggn": (0.589, 0.654, 0.618),
    "kfac": (0.617, 0.633, 0.597),
    "ekfac": (0.626, 0.632, 0.590),
}
FORWARD = {"hessian": 0.0, "ggn": 0.35, "block_ggn": 0.68, "kfac": 0.88, "ekfac": 0.83}
INVERSE = {"hessian": 0.041, "ggn": 0.22, "block_ggn": 0.51, "kfac": 1.74, "ekfac": 0.93}
INFLUENCE = {"hessian": 0.0, "ggn": 0.112, "block_ggn": 0.187, "kfac": 0.238, "ekfac": 0.241}
STAGES = {
    "hessian": ("hessian", "Dense", 11_214_848, 1),
    "ggn": ("drop_residual", "Dense", 11_214_848, 1),
    "block_ggn": ("block_diagonal(by = layer)", "Dense", 8_593_408, 1),
    "kfac": ("kronecker_factor(sharing = expand)", "Kronecker", 36_896, 1),
    "ekfac": ("eigen_correct", "EigenBasis", 46_368, 2),
}
SHARED = 1
HALF_WIDTH = 0.023


def structures(label: str) -> Mapping[str, str]:
    """Each block of a step with its structure, as the compiler words them."""
    word = STAGES[label][1]
    if label in {"hessian", "ggn"}:
        return {"all": "Dense 1184×1184"}
    if word == "Dense":
        return {"0.weight": "Dense 1024×1024", "2.weight": "Dense 160×160"}
    return {"0.weight": f"{word} 16×16 ⊗ 64×64", "2.weight": f"{word} 10×10 ⊗ 16×16"}


def interval(estimate: float, half: float = HALF_WIDTH) -> Interval:
    return Interval(estimate, estimate - half, estimate + 0.9 * half)


def shares(values: list[float]) -> list[float | None]:
    """(e_k − e_{k−1}) / (e_last − e_first), None first; the definition, written again."""
    total = values[-1] - values[0]
    return [None, *((b - a) / total for a, b in pairwise(values))]


def points(label: str, share: Mapping[str, float | None]) -> tuple[Point, ...]:
    return tuple(
        Point(
            damping,
            inverse=INVERSE[label] * (0.1 / damping) ** 0.2 * 0.63,
            inverse_share=share["inverse"],
            influence=INFLUENCE[label] * (0.01 / damping) ** 0.1,
            influence_share=share["influence"],
            cosine=1.0 - INFLUENCE[label] ** 2,
            lds=interval(LDS[label][k]),
            lds_share=share["lds"],
        )
        for k, damping in enumerate(SWEEP)
    )


def digits_steps() -> tuple[Step, ...]:
    labels = list(LDS)
    columns = {
        "forward": shares(list(FORWARD.values())),
        "inverse": shares(list(INVERSE.values())),
        "influence": shares(list(INFLUENCE.values())),
        "lds": shares([LDS[label][SHARED] for label in labels]),
    }
    found = []
    for k, label in enumerate(labels):
        stage, structure, memory, passes = STAGES[label]
        share = {name: column[k] for name, column in columns.items()}
        best = max(range(len(SWEEP)), key=lambda j, row=LDS[label]: row[j])
        found.append(
            Step(
                label,
                stage,
                structure,
                structures(label),
                memory,
                passes,
                FORWARD[label],
                share["forward"],
                points(label, share),
                best,
                SHARED,
            )
        )
    return tuple(found)


TASK = TaskSummary(
    "digits",
    {"hidden": [16], "activation": "tanh", "epochs": 100},
    "mlp 64–16–10 tanh",
    "cross_entropy",
    1617,
    180,
    1184,
    0.0523,
    0.1184,
    0.9667,
    {"name": "sgd", "lr": 0.03, "momentum": 0.0, "batch": 32, "epochs": 100, "schedule": "cosine"},
    0.0,
    "trained here by sgd(lr = 0.03, momentum = 0, batch = 32, epochs = 100, schedule = cosine); "
    "final training loss 0.0523",
)


def digits() -> Result:
    """Five steps, three λ, comparisons of neighbours, a ceiling: everything there can be."""
    return Result(
        name="ekfac",
        version="0.1.0",
        reference="hessian",
        task=TASK,
        inverse="tikhonov: s -> 1 / (s + damping)",
        sweep=SWEEP,
        protocol=Protocol(100, 0.5, 20, 180, "fresh", 0, 1000),
        ceiling=Interval(0.78, 0.764, 0.795),
        steps=digits_steps(),
        comparisons=(
            Comparison("ggn", "hessian", interval(0.294), "better"),
            Comparison("block_ggn", "ggn", interval(0.039), "better"),
            Comparison("kfac", "block_ggn", Interval(-0.021, -0.03, -0.013), "worse"),
            Comparison("ekfac", "kfac", Interval(-0.001, -0.008, 0.006), "cannot be told apart"),
        ),
        notes=("the first stage is the reference: its errors are 0 by definition",),
        defaults={"task": "digits", "sweep": list(SWEEP), "dtype": "float64"},
    )


def without_lds() -> Result:
    """Errors only: no protocol, no ceiling, no comparison."""
    whole = digits()
    steps = tuple(
        replace(
            step,
            best=None,
            points=tuple(replace(point, lds=None, lds_share=None) for point in step.points),
        )
        for step in whole.steps
    )
    return replace(whole, protocol=None, ceiling=None, steps=steps, comparisons=())


def named_inverse() -> Result:
    """One named inverse without λ: the sweep is empty."""
    whole = digits()
    steps = tuple(
        replace(step, best=None, shared=0, points=(replace(step.points[1], damping=None),))
        for step in whole.steps
    )
    return replace(whole, inverse="pseudo(rtol = 1e-6)", sweep=(), steps=steps)


def alone() -> Result:
    """A chain of one step: the reference itself, nothing to compare."""
    whole = digits()
    first = whole.steps[0]
    points = tuple(
        replace(p, inverse_share=None, influence_share=None, lds_share=None) for p in first.points
    )
    return replace(whole, name="hessian", steps=(replace(first, points=points),), comparisons=())


def damaged() -> Result:
    """Numbers that failed in every way: NaN, None, ∞, a constant, intervals without ends."""
    whole = digits()
    nan, inf = math.nan, math.inf
    points = (
        Point(0.001, note="conjugate gradients did not converge in 1000 iterations"),
        Point(0.01, nan, nan, nan, nan, nan, Interval(nan, nan, nan), nan),
        Point(0.1, inf, inf, 1.2e7, -3.0, -0.0, Interval(0.0, nan, nan), None, "constant scores"),
    )
    broken = replace(whole.steps[2], forward=None, forward_share=None, points=points, best=None)
    steps = (*whole.steps[:2], broken, *whole.steps[3:])
    return replace(whole, steps=steps, ceiling=Interval(nan, nan, nan))


def hostile() -> Result:
    """Names that are markup somewhere: in HTML, in rich, in SVG or in matplotlib's mathtext."""
    whole = digits()
    name = "<script>alert(1)</script> & [bold]$x_1$[/bold]"
    step = replace(whole.steps[1], label=name, stage=name, structure='"><img src=x onerror=y>')
    task = replace(whole.task, name=name, model="<b>mlp</b>")
    steps = (whole.steps[0], step, *whole.steps[2:])
    return replace(whole, name=name, task=task, steps=steps, notes=(name, "</style><script>"))


def many(count: int = 11) -> Result:
    """A long chain with long names, for tables and labels that must not run into each other."""
    whole = digits()
    steps = tuple(
        replace(
            whole.steps[k % 5],
            label=f"shampoo_variant_{k}" if k % 3 == 0 else f"step_{k}",
            stage=f"kronecker_factor(sharing = reduce, others = diagonal, rank = {k})",
            forward=0.1 + 0.07 * k,
        )
        for k in range(count)
    )
    return replace(whole, steps=steps, comparisons=())


EXAMPLES = {
    "digits": digits,
    "without_lds": without_lds,
    "named_inverse": named_inverse,
    "alone": alone,
    "damaged": damaged,
    "hostile": hostile,
    "many": many,
}
