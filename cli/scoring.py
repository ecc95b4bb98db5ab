"""The work behind `curvlang influence`: from a spec and options to a score file."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor

from curvlang.attribution.groups import group_members
from curvlang.attribution.influence import influence, self_influence
from curvlang.attribution.scorer import CompressedQueries, ReducedPrecision
from curvlang.attribution.top import Neighbour, Top, largest, top
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.facade import chains_of, chosen, evaluation_of, fit
from curvlang.language import default_inverse, load
from curvlang.language.chain import TaskSpec
from curvlang.models.data.characters import spelt
from curvlang.models.data.images import pictures
from curvlang.models.losses.metric import QueryMetric, query_metric
from curvlang.models.task import Task
from curvlang.models.tracing.per_position import position_count
from curvlang.operators.iterative.iteration import NotConverged
from curvlang.reporting.examples import InputTexts, images, show_largest, show_top, texts
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.prepare import prepare
from curvlang.storage.score_file import Scores, check_score_file, write_scores
from curvlang.version import VERSION

from .influence import Request
from .progress import Bars
from .running import device_of, dtype_of, warn
from .sources import fresh_task, task_of, trained_task

SHOWN = 3
"""Queries that `--top` shows where none are named."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was computed: for `--json`, and for the terminal."""

    data: dict[str, Any]
    text: str = field(default="")


def score(request: Request) -> Found:
    """Check everything, train, fit, score, write."""
    _check(request)
    device, dtype = device_of(request.device), dtype_of(request.dtype)
    spec = load(request.spec)
    if not request.quiet:
        warn([spec])
    curvature = chosen(spec)
    wanted = task_of(evaluation_of(spec, curvature), request.sources)
    fresh = fresh_task(wanted, request.sources, seed=request.seed, device=device)
    prepare(list(chains_of(curvature)), fresh.to(dtype=dtype), last=True)
    asked = query_metric(request.metric, fresh.loss)
    labels = _groups(request, fresh)
    if request.per_position:
        position_count(fresh)
    shown = _shown(request, len(labels[1]) if labels is not None else fresh.Q)
    with Bars(request.quiet) as bars:
        task = trained_task(fresh, request.seed, bars).to(dtype=dtype)
        op = fit(spec, task, curvature=curvature.name or None, seed=request.seed, progress=bars)
        with warnings.catch_warnings(record=True) as said:
            for category in _NOTED:
                warnings.simplefilter("always", category)
            arrays = _arrays(request, op, task, labels, bars)
    notes = _notes(request, op, curvature.name, task, asked)
    notes |= _warned(said)
    axes = _axes(request)
    stored = {name: a.cpu().numpy() for name, a in arrays.items()}
    named = {"group": tuple(labels[1])} if labels is not None else {}
    replaced = request.out.exists()
    path = write_scores(request.out, Scores(stored, axes, notes, named))
    shape = list(next(iter(stored.values())).shape)
    found = _top(request, arrays, task, shown, labels is not None)
    own = _largest(request, arrays, task)
    if not request.quiet and not request.json:
        _say(notes, axes, shape, list(arrays), f"{path}{' (replaced)' if replaced else ''}")
    data: dict[str, Any] = {
        **notes,
        "axes": list(axes),
        "shape": shape,
        "arrays": list(stored),
        "file": str(path),
        "replaced": replaced,
        "top": [_plain(one) for one in found],
        "largest": [_neighbour(one) for one in own],
    }
    if not found and not own:
        return Found(data)
    looks = _looks(wanted, task)
    if own:
        return Found(data, show_largest(own, looks))
    return Found(data, show_top(found, looks, asked.sign, named.get("group")))


_NOTED = {
    ReducedPrecision: "precision",
    CompressedQueries: "precision",
    NotConverged: "solver",
}
"""Warnings that stand in the notes, and under which word; others are shown as they come."""


def _warned(said: list[warnings.WarningMessage]) -> dict[str, str]:
    """What was warned of while scores were computed, by the word that it stands under."""
    found: dict[str, list[str]] = {}
    for x in said:
        if x.category in _NOTED:
            found.setdefault(_NOTED[x.category], []).append(str(x.message))
        else:
            warnings.warn_explicit(x.message, x.category, x.filename, x.lineno)
    return {key: "; ".join(dict.fromkeys(texts)) for key, texts in found.items()}


def _check(request: Request) -> None:
    """Options that exclude each other, and the file, before any work."""
    pairs = (
        ("--self", request.self_influence, "--per-layer", request.per_layer),
        ("--self", request.self_influence, "--per-position", request.per_position),
        ("--self", request.self_influence, "--group", request.group is not None),
        ("--self", request.self_influence, "--queries", request.queries is not None),
        ("--self", request.self_influence, "--metric", request.metric != "loss"),
        ("--self", request.self_influence, "--products", request.products is not None),
        ("--self", request.self_influence, "--compress", request.compress is not None),
        ("--damping", request.damping is not None, "--inverse", request.inverse is not None),
    )
    for one, first, other, second in pairs:
        if first and second:
            _refuse(f"`{one}` and `{other}` exclude each other", f"leave `{other}` out")
    if request.damping is not None and not (math.isfinite(request.damping) and request.damping > 0):
        _refuse(f"`--damping {request.damping:g}` is no λ", "give a number above 0")
    if request.products not in (None, "bfloat16"):
        _refuse(f"`--products {request.products}` is not known", "use `bfloat16`")
    if request.compress is not None and not 0 < request.compress < 1:
        _refuse(f"`--compress {request.compress:g}` is no share", "give a number between 0 and 1")
    if request.reduce not in ("sum", "mean"):
        _refuse(f"`--reduce {request.reduce}` is not known", "use `sum` or `mean`")
    if request.group not in (None, "label", "all"):
        _refuse(f"`--group {request.group}` is not known", "use `label` or `all`")
    if request.queries is not None and not request.top:
        _refuse("`--queries` says what `--top` shows", "add `--top 5`")
    check_score_file(request.out, by_layer=request.per_layer)


def _groups(request: Request, task: Task) -> tuple[Tensor, list[object]] | None:
    """A number for every query, and what the groups are called."""
    if request.group is None:
        return None
    y = task.query[1]
    if request.group == "all":
        return torch.zeros(task.Q, dtype=torch.int64), ["all"]
    if y.ndim != 1 or y.is_floating_point():
        _refuse(
            f"`--group label` needs one class for every query; targets have shape {list(y.shape)}",
            "use `--group all`",
        )
    return y, [label for label, _ in group_members(y, task.Q)]


def _shown(request: Request, rows: int) -> list[int]:
    """The queries (or groups) that are shown."""
    if request.queries is None:
        return list(range(min(SHOWN, rows)))
    parts = [part.strip() for part in request.queries.split(",")]
    wrong = [part for part in parts if not part.isdecimal() or int(part) >= rows]
    if wrong:
        _refuse(f"`--queries`: there is no query `{wrong[0]}`", f"numbers are 0…{rows - 1}")
    return [int(part) for part in parts]


def _arrays(
    request: Request,
    op: FittedOperator,
    task: Task,
    labels: tuple[Tensor, list[object]] | None,
    bars: Bars,
) -> dict[str, Tensor]:
    if request.self_influence:
        found = self_influence(
            op, task, damping=request.damping, inverse=request.inverse, progress=bars
        )
        return {"scores": found}
    scores = influence(
        op,
        task,
        metric=request.metric,
        damping=request.damping,
        inverse=request.inverse,
        per_layer=request.per_layer,
        per_position=request.per_position,
        groups=None if labels is None else labels[0],
        reduce=request.reduce,
        products=None if request.products is None else torch.bfloat16,
        compress=request.compress,
        progress=bars,
    )
    return scores if isinstance(scores, dict) else {"scores": scores}


def _axes(request: Request) -> tuple[str, ...]:
    if request.self_influence:
        return ("train",)
    first = "query" if request.group is None else "group"
    return (first, "train", "position") if request.per_position else (first, "train")


def _notes(
    request: Request, op: FittedOperator, name: str, task: Task, asked: QueryMetric
) -> dict[str, str]:
    """What the numbers mean: it stands in the file where the format has a place for it."""
    if request.self_influence:
        formula = "score[n] = ∇ℓ_nᵀ C⁻¹ ∇ℓ_n"
        sign = "never negative where C⁻¹ is positive semidefinite"
    else:
        formula = "score[q,n] = ∇m_qᵀ C⁻¹ ∇ℓ_n"
        sign = f"positive: {asked.sign}"
    notes = {
        "curvature": name or "curvature",
        "task": repr(task),
        "parameters": task.origin.text,
        "convention": f"{formula}, not divided by N",
        "sign": sign,
        "metric": asked.name,
        "inverse": _inverse_text(request, op),
        "curvlang": VERSION,
    }
    if request.group is not None:
        notes["groups"] = f"queries by {request.group}, {request.reduce}"
    return notes


def _inverse_text(request: Request, op: FittedOperator) -> str:
    """The inverse that is used, with every parameter's value."""
    if request.damping is not None:
        return f"(C + λI)⁻¹, λ = {request.damping:g}"
    if request.inverse is not None:
        return request.inverse
    rule = op.rule if op.rule is not None else default_inverse()
    where = "of the spec" if op.rule is not None else "default: λ = 0.1 × the mean eigenvalue"
    text = " ".join(rule.span.text.split()) if op.rule is not None else rule.inverse.name
    return f"{text} ({where})"


def _top(
    request: Request, arrays: Mapping[str, Tensor], task: Task, shown: list[int], grouped: bool
) -> list[Top]:
    """From the total over layers and positions, which the parts add up to."""
    if not request.top or request.self_influence:
        return []
    total = sum(arrays.values())
    assert isinstance(total, Tensor)
    total = total.sum(-1) if request.per_position else total
    return top(total, request.top, task, queries=shown, grouped=grouped)


def _largest(request: Request, arrays: Mapping[str, Tensor], task: Task) -> list[Neighbour]:
    if not request.top or not request.self_influence:
        return []
    return largest(arrays["scores"], request.top, task)


def _looks(wanted: TaskSpec, task: Task) -> InputTexts | None:
    """Images as images, text as text."""
    if wanted.data.name == "characters":
        return texts(task.train[0], task.query[0], spelt)
    seen = pictures(wanted, task)
    return None if seen is None else images(*seen)


def _say(
    notes: Mapping[str, str], axes: tuple[str, ...], shape: list[int], arrays: list[str], path: str
) -> None:
    """The header: what the numbers mean and where they are."""
    sizes = ", ".join(f"{axis} {n}" for axis, n in zip(axes, shape, strict=True))
    lines = [
        f"{key}: {notes[key]}"
        for key in ("curvature", "task", "parameters", "convention", "sign", "inverse")
    ]
    lines += [f"{key}: {notes[key]}" for key in ("groups", "precision", "solver") if key in notes]
    lines += [f"layers: {', '.join(arrays)}"] if arrays != ["scores"] else []
    print("\n".join([*lines, f"written to {path} [{sizes}]"]), file=sys.stderr)


def _plain(one: Top) -> dict[str, Any]:
    return {
        "query": one.query,
        "target": None if one.y is None else one.y.tolist(),
        "helpful": [_neighbour(n) for n in one.helpful],
        "harmful": [_neighbour(n) for n in one.harmful],
    }


def _neighbour(one: Neighbour) -> dict[str, Any]:
    target = None if one.y is None else one.y.tolist()
    return {"train": one.index, "score": one.score, "target": target}


def _refuse(what: str, repair: str) -> NoReturn:
    raise refusal(Code.E0708, what, repair)
