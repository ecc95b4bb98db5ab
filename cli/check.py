"""`curvlang check`: parse and check, no torch; with `--task` also which parameters are covered."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .sources import DataOption, ModelOption, PythonOption, Sources

if TYPE_CHECKING:
    from curvlang.diagnostics.diagnostic import Diagnostic
    from curvlang.language.chain import Spec

_PLURAL = {"curvature": "curvatures", "study": "studies"}


def command(
    specs: Annotated[list[str], typer.Argument(help="Paths, or names of specs that ship.")],
    task: Annotated[
        str | None,
        typer.Option(help="Also show which parameters of this task's model are covered."),
    ] = None,
    data: DataOption = None,
    model: ModelOption = None,
    allow_python: PythonOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Diagnostics as JSON.")] = False,
) -> int:
    """Parse and check specs: every problem of every file, exit 2 where there is an error.

    With `--task` the task's model is built and its first gradients are computed: which parameters
    are covered, which not and why, and the share of the squared gradient norm that each carries.
    """
    from curvlang.diagnostics.diagnostic import Severity
    from curvlang.diagnostics.render import as_data, render

    from .color import use_color

    found: list[Diagnostic] = []
    rows: list[dict[str, Any]] = []
    checked: dict[str, Spec | None] = {}
    for given in specs:
        checked[given], problems = _checked(given, allow_python)
        found += problems
        rows += [{"spec": given, **as_data(d)} for d in problems]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif found:
        print(render(found, color=use_color()), file=sys.stderr)
    failed = any(d.severity is Severity.ERROR for d in found)
    if failed or as_json:
        return 2 if failed else 0
    for given, spec in checked.items():
        count = 0 if spec is None else len(spec.curvatures)
        studies = 0 if spec is None else len(spec.studies)
        parts = [(count, "curvature")] if count or not studies else []
        parts += [(studies, "study")] if studies else []
        shown = ", ".join(f"{n} {_PLURAL[word] if n != 1 else word}" for n, word in parts)
        print(f"{given}: {shown}, no errors")
    if task is not None or data is not None or model is not None:
        read = [spec for spec in checked.values() if spec is not None]
        unfit = _show_coverage(read, Sources(task, data, model, allow_python))
        if unfit:
            print("\n" + render(unfit, color=use_color()), file=sys.stderr)
            return 2
    return 0


def _checked(given: str, allow_python: bool) -> tuple[Spec | None, list[Diagnostic]]:
    """A spec with all there is to say about it, its functions included."""
    from curvlang.diagnostics.diagnostic import SpecError
    from curvlang.language import analyse, load
    from curvlang.language.files import read, split_name
    from curvlang.language.spec import errors

    try:
        path, name = split_name(given)
        spec, problems = analyse(read(path))
        if name is not None and not problems:
            load(given)
    except SpecError as error:
        return None, list(error.diagnostics)
    if not errors(problems) and not allow_python:
        problems = [*problems, *_functions(spec)]
    return spec, problems


def _functions(spec: Spec) -> list[Diagnostic]:
    """What the file's own tasks would run."""
    from curvlang.language.syntax.nodes import TaskDef
    from curvlang.language.syntax.parser import parse
    from curvlang.language.user_files import code_in
    from curvlang.language.uses import task_in

    file, _ = parse(spec.source)
    names = [item.name for item in file.items if isinstance(item, TaskDef)]
    return [d for name in names for d in code_in(task_in(spec, name))]


def _show_coverage(specs: list[Spec], sources: Sources) -> list[Diagnostic]:
    """The parameters of the task's model, by name and by layer type; stages that do not fit them."""
    import torch

    from curvlang.facade import chains_of
    from curvlang.language import default_task
    from curvlang.language.uses import task_in
    from curvlang.models.tracing.coverage import coverage
    from curvlang.reporting.coverage import by_type
    from curvlang.runtime.others import misfits

    from .sources import fresh_task, with_lines

    spec = specs[0]
    wanted = default_task() if sources.task is None else task_in(spec, sources.task)
    wanted = with_lines(wanted, sources)
    made = fresh_task(wanted, sources, seed=0, device=torch.device("cpu"))
    found = coverage(made.model, made)
    at = "the weights given" if sources.model else "the model as it is initialised, not trained"
    print(f"\n{made!r}, gradients at {at}\n\n{found}\n\n{by_type(found)}")
    chains = [chain for x in specs for c in x.curvatures.values() for chain in chains_of(c)]
    return misfits(chains, made)
