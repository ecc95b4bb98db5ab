"""Tasks, inverses and solvers that an option or an argument states, outside any file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label, SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.source import Source, Span
from curvlang.language.bodies.values import show
from curvlang.language.chain import (
    Evaluation,
    InverseUse,
    Part,
    ScoreFormula,
    Solver,
    Spec,
    TaskSpec,
)
from curvlang.language.checking.spec import analyse, errors

ENDS = (Code.E0101, Code.E0103)
"""Of a word that cannot stand where it stands, and of a text that ends too early."""


def task_text(text: str, name: str) -> TaskSpec:
    """The task that a use such as `digits(hidden = [16] * 8)` states, outside any file.

    Raises:
        SpecError: With every problem found.
    """
    found = _evaluation(text, name, "evaluate hessian on ", "").task
    return replace(found, span=whole(name, text))


def task_in(spec: Spec, text: str) -> TaskSpec:
    """The task that a use states, as the spec's own file sees it.

    Raises:
        SpecError: With every problem found.
    """
    wrapped = Source(spec.source.name, f"{spec.source.text}\nevaluate hessian on {text}")
    found, problems = analyse(wrapped)
    if errors(problems):
        raise SpecError(errors(problems))
    return found.evaluations[-1].task


def part_text(kind: str, text: str, name: str) -> Part:
    """The `data` or `model` line that a text such as `file("x.csv", target = y)` states.

    Raises:
        SpecError: With every problem found.
    """
    lines = {"data": "random", "model": "mlp", "loss": "mse", "train": "sgd"}
    kinds = list(lines)
    place = kinds.index(kind)
    before = " ".join(f"{k} {lines[k]}" for k in kinds[:place])
    after = " ".join(f"{k} {lines[k]}" for k in kinds[place + 1 :])
    task = _evaluation(
        text, name, f"task given {{ {before} {kind} ", f" {after} }} evaluate hessian on given"
    ).task
    found: Part = getattr(task, kind)
    return replace(found, span=whole(name, text))


def inverse_text(text: str, name: str, declared: str = "") -> InverseUse:
    """The inverse that a use such as `tikhonov(damping = 1e-3)` states, outside any file.

    Args:
        text: The use.
        name: What messages call it.
        declared: Declarations of inverses that it may name besides those that ship.
    """
    before = f"{declared}\nevaluate hessian with " if declared else "evaluate hessian with "
    found = _evaluation(text, name, before, " on digits").inverse
    assert found is not None
    return replace(found, span=whole(name, text))


def declared_inverses(spec: Spec) -> str:
    """The text of the inverses that a spec declares, each complete in itself."""
    found = [inverse.span.text for inverse in spec.inverses.values() if inverse.span.text]
    return "\n".join(found)


def declared(spec: Spec) -> str:
    """The text of the inverses and the scores that a spec declares, each complete in itself."""
    scores = [score.text for score in spec.scores.values() if score.text]
    return "\n".join(filter(None, (declared_inverses(spec), *scores)))


def score_text(text: str, name: str, declared: str = "") -> ScoreFormula:
    """The score that a use such as `relatif` or `mine(power = 1)` states, outside any file.

    Args:
        text: The use.
        name: What messages call it.
        declared: Declarations of scores that it may name besides those that ship.

    Raises:
        SpecError: With every problem found.
    """
    before = f"{declared}\nevaluate " if declared else "evaluate "
    found = _evaluation(text, name, before, " of hessian").score
    assert found is not None
    return replace(found, span=whole(name, text))


def score_kept(score: ScoreFormula) -> dict[str, str]:
    """A score as text, from which `score_read` makes it again."""
    given = ", ".join(f"{name} = {show(x)}" for name, x in score.arguments.items())
    own = [x.span for x in score.functions.values()]
    functions = [x.text for x in own if not x.source.name.startswith("<shipped>")]
    declared = "\n".join((*functions, score.text))
    return {"text": f"{score.name}({given})" if given else score.name, "declared": declared}


def score_read(kept: Mapping[str, str], name: str) -> ScoreFormula:
    """What `score_kept` kept."""
    return score_text(kept["text"], name, kept["declared"])


def inverse_kept(use: InverseUse) -> dict[str, str]:
    """A use and its declaration as text, from which `inverse_read` makes them again.

    Raises:
        SpecError: E0754 for an inverse that was not read from a text.
    """
    text = " ".join(use.span.text.split())
    for declared in ("", use.inverse.span.text):
        try:
            if text and inverse_text(text, "<inverse>", declared) == use:
                return {"text": text, "declared": declared}
        except SpecError:
            continue
    raise refusal(
        Code.E0754,
        f"the inverse `{use.inverse.name}` of this operator has no text that it could be kept as",
        "take the inverse from a spec: `cv.fit(spec, task)`",
    )


def inverse_read(kept: Mapping[str, str], name: str) -> InverseUse:
    """What `inverse_kept` kept."""
    return inverse_text(kept["text"], name, kept["declared"])


def solver_text(text: str, name: str, inverse: str = "") -> Solver:
    """The solver that a line such as `cg(preconditioner = mine)` states, outside any file."""
    clause = f"with {inverse} " if inverse else ""
    found = _evaluation(text, name, f"evaluate hessian {clause}on digits {{ solve ", " }").solver
    assert found is not None
    return replace(found, span=whole(name, text))


def whole(name: str, text: str) -> Span:
    """All of a text that was given by itself."""
    return Span(Source(name, text), 0, len(text))


def study_lines(spec: Spec, kind: str, texts: Sequence[str]) -> tuple[Part, ...]:
    """The `baselines` or `measures` that texts such as `relatif of ekfac` state.

    Args:
        spec: Whose file they may name curvatures of.
        kind: `baselines` or `measures`.
        texts: One for each.

    Raises:
        SpecError: With every problem found.
    """
    if not texts:
        return ()
    text = ", ".join(texts)
    before = (
        f"{spec.source.text}\nstudy asked_for {{\n  task digits\n  curvatures hessian\n  {kind} "
    )
    wrapped = Source(f"<{kind}>", f"{before}{text}\n}}")
    found, problems = analyse(wrapped)
    own, first = Source(wrapped.name, text), len(before)
    if errors(problems):
        raise SpecError(_in_text(errors(problems), wrapped, own, first))
    parts: tuple[Part, ...] = getattr(found.studies["asked_for"], kind)
    return tuple(
        replace(x, span=Span(own, x.span.start - first, x.span.end - first)) for x in parts
    )


def _evaluation(text: str, name: str, before: str, after: str) -> Evaluation:
    """The evaluation around a text; what is wrong is shown in the text alone, as it was given."""
    wrapped = Source(name, before + text + after)
    spec, problems = analyse(wrapped)
    if errors(problems):
        raise SpecError(_in_text(errors(problems), wrapped, Source(name, text), len(before)))
    return spec.evaluations[0]


def _in_text(
    problems: Iterable[Diagnostic], wrapped: Source, given: Source, offset: int
) -> list[Diagnostic]:
    def moved(label: Label) -> Label:
        if label.span.source != wrapped:
            return label
        start, end = (
            min(max(x - offset, 0), len(given.text)) for x in (label.span.start, label.span.end)
        )
        return replace(label, span=Span(given, start, end))

    def shown(problem: Diagnostic) -> Diagnostic:
        found = replace(problem, labels=tuple(map(moved, problem.labels)))
        return _unfinished(found, given) if problem.code in ENDS and past(problem) else found

    def past(problem: Diagnostic) -> bool:
        own = [label.span for label in problem.labels if label.span.source == wrapped]
        return any(span.start - offset >= len(given.text.rstrip()) for span in own)

    return [shown(problem) for problem in problems]


def _unfinished(problem: Diagnostic, given: Source) -> Diagnostic:
    """What a word after the text was blamed for: the text is not complete."""
    what = "ends in the middle" if given.text.strip() else "is empty"
    return replace(
        problem,
        code=Code.E0103,
        headline=f"the text `{given.text}` {what}",
        help=("complete it: a name, and its arguments in brackets that are closed",),
    )
