"""The work behind `curvlang eval`: from specs and options to tables and run folders."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from curvlang.compiler.derive.derive import describe_value
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Interrupted
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.render import render
from curvlang.evaluation.evaluate import Evaluated, evaluate_curvature
from curvlang.evaluation.protocol import LDS, SWEEP, protocol_from
from curvlang.evaluation.result_file import plain
from curvlang.facade import chains_of, evaluation_of
from curvlang.language import analyse, curvature_named, load, no_curvature
from curvlang.language.chain import Combination, Curvature, Evaluation, Spec, TaskSpec
from curvlang.models.builtin import absolute, is_trained
from curvlang.models.losses.metric import query_metric
from curvlang.models.task import Task
from curvlang.operators import usable
from curvlang.reporting.provenance import provenance
from curvlang.reporting.runfolder import check_folder, write_run
from curvlang.reporting.table import show
from curvlang.runtime.prepare import prepare
from curvlang.storage.cache import Cache
from curvlang.testing.notation import part_notation
from curvlang.training.subsets import draw_subsets
from curvlang.version import VERSION

from .color import use_color
from .eval import Options
from .progress import Bars
from .sources import Sources, fresh_task, task_of, trained_task

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def evaluate_all(specs: Sequence[str], options: Options) -> list[Any]:
    """Evaluate every curvature of every spec; all specs are checked before anything runs."""
    device = device_of(options.device)
    dtype = dtype_of(options.dtype)
    loaded = [load(given) for given in specs]
    if not options.quiet:
        warn(loaded)
    jobs = [(spec, curvature) for spec in loaded for curvature in _wanted(spec)]
    if not jobs:
        raise no_curvature(loaded[0])
    folders = _folders(jobs, options)
    for folder in folders:
        check_folder(folder)
    trained: dict[str, tuple[Task, Task]] = {}
    try:
        return [
            _one(spec, curvature, options, device, dtype, trained, folder)
            for (spec, curvature), folder in zip(jobs, folders, strict=True)
        ]
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(f"finished retraining is kept in `{Cache().root}`") from error


def warn(loaded: Sequence[Spec]) -> None:
    """What `check` would say about files that have no errors."""
    found = dict.fromkeys(d for spec in loaded for d in analyse(spec.source)[1])
    if found:
        print(render(found, color=use_color()), file=sys.stderr)


def device_of(name: str) -> torch.device:
    """The device that an option names; `auto` takes CUDA where there is any."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return usable(name)


def dtype_of(name: str) -> torch.dtype:
    """The precision that an option names."""
    if name not in DTYPES:
        raise refusal(
            Code.E0708, f"`--dtype {name}` is not known", f"use one of {', '.join(DTYPES)}"
        )
    return DTYPES[name]


def _wanted(spec: Spec) -> list[Curvature]:
    """What the file defines and what it evaluates; not what only preconditions a solver."""
    named = [e.curvature for e in spec.evaluations]
    helpers = [e.solver.preconditioner for e in spec.evaluations if e.solver is not None]
    names = {n: None for n, c in spec.curvatures.items() if n in named or c not in helpers}
    return [curvature_named(name, spec) for name in (names | dict.fromkeys(named))]


def protocol_of(evaluation: Evaluation | None, options: Options) -> LDS | None:
    """The LDS protocol of the spec, else the default one; made small by `--quick`."""
    if options.no_lds:
        return None
    found = protocol_from((evaluation.lds or {}) if evaluation is not None else {})
    return found.quick() if options.quick else found


def _one(
    spec: Spec,
    curvature: Curvature,
    options: Options,
    device: torch.device,
    dtype: torch.dtype,
    trained: dict[str, tuple[Task, Task]],
    folder: Path,
) -> Any:
    start, training = time.perf_counter(), 0.0
    evaluation = evaluation_of(spec, curvature)
    wanted = task_of(evaluation, options.sources)
    protocol = protocol_of(evaluation, options)
    inverse = evaluation.inverse if evaluation is not None else None
    reference = None
    if evaluation is not None and evaluation.error_against is not None:
        reference = curvature_named(evaluation.error_against, spec)
    with Bars(options.quiet) as bars:
        key = repr((wanted.name, wanted.data, wanted.model, wanted.loss, wanted.train))
        if key not in trained:
            fresh = fresh_task(wanted, options.sources, seed=options.seed, device=device)
            query_metric(options.metric, fresh.loss)
            _check_plan(curvature, fresh.to(dtype=dtype), protocol)
            base = trained_task(fresh, options.seed, bars)
            training = time.perf_counter() - start
            trained[key] = (base, base.to(dtype=dtype))
        base, task = trained[key]
        done = evaluate_curvature(
            curvature,
            task,
            truth_task=base,
            reference=reference,
            inverse=inverse,
            solver=evaluation.solver if evaluation is not None else None,
            sweep=SWEEP,
            protocol=protocol,
            metric=options.metric,
            seed=options.seed,
            init_seed=options.seed,
            cache=Cache(),
            progress=bars,
            version=VERSION,
            arguments=wanted.arguments,
            notes=_notes(evaluation, options),
        )
    done.times = {"training": training, **done.times, "total": time.perf_counter() - start}
    left = provenance(done, spec, task, protocol=protocol, metric=options.metric, seed=options.seed)
    write_run(
        folder,
        done.result,
        done.scores,
        spec.source.text,
        _provenance(left, wanted, task, _repeat(spec, curvature, options, device)),
        step_scores=done.step_scores if options.step_scores else None,
        times=done.times,
    )
    _show(done, folder, options)
    return plain(done.result.to_json())


def _check_plan(curvature: Curvature, fresh: Task, protocol: LDS | None) -> None:
    """What the model's layers, the memory or the protocol rule out, before anything is trained."""
    prepare(list(chains_of(curvature)), fresh, last=isinstance(curvature, Combination))
    if protocol is not None:
        draw_subsets(fresh.N, 1, protocol.keep, protocol.seed)


def _notes(evaluation: Evaluation | None, options: Options) -> list[str]:
    notes = []
    if options.quick:
        notes.append("--quick: a small protocol, for trying things; intervals are wide")
    if evaluation is None:
        notes.append(
            "the spec names no evaluation: task, inverse and protocol are the defaults shown"
        )
    return notes


def _show(done: Evaluated, folder: Path, options: Options) -> None:
    if options.json:
        return
    show(done.result, Console(highlight=False))
    if options.quiet:
        return
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    if done.truth is not None:
        notes.print(
            f"retrained {done.truth.trained} models, {done.truth.reused} from the cache",
            style="dim",
        )
        if done.truth.damaged:
            notes.print(
                f"damaged files of the cache, not used: {len(done.truth.damaged)}; their models "
                "were trained again"
            )
    if options.verbose:
        for line in _solves(done):
            notes.print(line, style="dim")
        for name, seconds in done.times.items():
            notes.print(f"{name:>18}: {seconds:7.2f} s", style="dim")
    notes.print(f"written to {folder}/ (open report.html)")


def _solves(done: Evaluated) -> Iterator[str]:
    """What the solver took at every step and λ."""
    for step in done.result.steps:
        for point in step.points:
            if point.solve is not None:
                at = "" if point.damping is None else f" at λ = {point.damping:g}"
                yield (
                    f"{step.label}{at}: {point.solve.method}, {point.solve.iterations} iterations, "
                    f"{point.solve.products} products, residual {point.solve.residual:.1e}"
                )


def _folders(jobs: Sequence[tuple[Spec, Curvature]], options: Options) -> list[Path]:
    """The run folder of each job: `--out` itself for one, a folder in it by name for several.

    Without `--out`, and where two of several have one name, the hash of what was asked stands
    behind the name.
    """
    names = [curvature.name or "curvature" for _, curvature in jobs]
    hashed = [
        f"{name}-{_hash(spec, curvature, options)}"
        for name, (spec, curvature) in zip(names, jobs, strict=True)
    ]
    if options.out is None:
        return [Path("runs") / name for name in hashed]
    if len(jobs) == 1:
        return [options.out]
    return [
        options.out / (name if names.count(name) == 1 else long)
        for name, long in zip(names, hashed, strict=True)
    ]


def _hash(spec: Spec, curvature: Curvature, options: Options) -> str:
    """Of what was asked, so that the same question has the same folder."""
    evaluation = evaluation_of(spec, curvature)
    asked = (
        spec.source.text,
        curvature.name or "curvature",
        task_of(evaluation, options.sources),
        protocol_of(evaluation, options),
        options.seed,
        options.dtype,
        *(() if options.metric == "loss" else (options.metric,)),
        VERSION,
    )
    return hashlib.sha256(repr(asked).encode()).hexdigest()[:8]


def _repeat(spec: Spec, curvature: Curvature, options: Options, device: torch.device) -> list[str]:
    """The command that repeats the run when given inside its folder."""
    one = f":{curvature.name}" if curvature.name in spec.curvatures else ""
    task = _sources(evaluation_of(spec, curvature), options.sources)
    chosen = (
        ("--quick", options.quick),
        ("--no-lds", options.no_lds),
        ("--step-scores", options.step_scores),
    )
    flags = [flag for flag, on in chosen if on]
    fixed = ["--seed", str(options.seed), "--dtype", options.dtype, "--device", str(device)]
    metric = [] if options.metric == "loss" else ["--metric", options.metric]
    return ["curvlang", "eval", f"spec.cv{one}", *task, *fixed, *metric, *flags]


def _sources(evaluation: Evaluation | None, given: Sources) -> list[str]:
    """The task's options; lines of the spec that name files are given with whole paths."""
    task = task_of(evaluation, given)
    whole = given
    if given.data is None and task.data.name == "file":
        whole = replace(whole, data=part_notation(absolute(task.data, ("path", "query"))))
    if given.model is None and is_trained(task):
        whole = replace(whole, model=part_notation(absolute(task.model, ("weights",))))
    return whole.options()


def _provenance(
    left: dict[str, object], wanted: TaskSpec, task: Task, repeat: list[str]
) -> dict[str, object]:
    """All that is needed to repeat the run: what any run leaves, the command, and the task as written."""
    parts = {
        kind: {"name": part.name, **{k: describe_value(v) for k, v in part.arguments.items()}}
        for kind, part in (
            ("data", wanted.data),
            ("model", wanted.model),
            ("loss", wanted.loss),
            ("train", wanted.train),
        )
    }
    return {
        **left,
        "repeat": repeat,
        "command": ["curvlang", "eval", *sys.argv[2:]],
        "task": {"name": wanted.name, **parts, "parameters": task.origin.text},
    }
