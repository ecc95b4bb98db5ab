"""What stands around the tables, as text: the header, the finding, comparisons and notes.

Names of steps stand in backticks, so that the terminal and the page can set them as code.
Every cell that shows – has its reason among `notes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from curvlang.evaluation.result import Comparison, Point, Protocol, Result, Step
from curvlang.evaluation.statistics.interval import Interval, one_query_note
from curvlang.reporting.notation import (
    bounds,
    correlation,
    difference,
    estimate,
    known,
    quantity,
    setting,
    settings,
)

BASELINE = "baseline"
"""The structure of rows that are scores alone, without a curvature."""
LOW_CEILING = 0.5
"""Below this split-half reliability, differences of LDS are mostly noise of the retraining."""


def at_shared(step: Step) -> Point | None:
    """The step's point at the λ that all steps are compared at."""
    return step.points[step.shared] if step.points else None


def shared_damping(result: Result) -> str:
    """`λ = .01`; empty for a named inverse without λ; says so where the steps differ."""
    found = {point.damping for step in result.steps if (point := at_shared(step))}
    match sorted(value for value in found if value is not None):
        case []:
            return ""
        case [one]:
            return f"λ = {setting(one)}"
        case _:
            return "each step's own λ"


def has_lds(result: Result) -> bool:
    """Whether any step has an LDS."""
    return any(point.lds is not None for step in result.steps for point in step.points)


def header(result: Result) -> tuple[tuple[str, str], ...]:
    """What was run, as (label, text) lines: enough to read every number below it."""
    lines = [
        ("task", task_line(result)),
        ("parameters", result.task.origin),
        ("convention", result.convention),
        ("inverse", inverse_line(result)),
        ("LDS", protocol_line(result)),
        ("ceiling", ceiling_line(result)),
    ]
    if result.defaults:
        lines.append(("defaults", settings(result.defaults)))
    return tuple((label, text) for label, text in lines if text)


def title(result: Result) -> str:
    """`mine on digits(hidden = [16])`."""
    arguments = f"({settings(result.task.arguments)})" if result.task.arguments else ""
    return f"{result.name} on {result.task.name}{arguments}"


def task_line(result: Result) -> str:
    """Model, loss, sizes and the trained model's quality, on one line."""
    task = result.task
    accuracy = task.query_accuracy
    parts = [
        task.model,
        task.loss,
        f"N = {task.train_examples}, Q = {task.query_examples}, P = {task.parameters}",
        f"train loss {quantity(task.train_loss)}, query loss {quantity(task.query_loss)}",
    ]
    if accuracy is not None and known(accuracy):
        parts.append(f"query accuracy {100 * accuracy:.1f} %")
    if task.weight_decay:
        parts.append(f"weight decay {setting(task.weight_decay)}")
    return " · ".join(parts)


def inverse_line(result: Result) -> str:
    """What C⁻¹ means, with the λ grid where there is one, and the λ of the comparison."""
    if not result.sweep:
        return result.inverse
    grid = ", ".join(setting(damping) for damping in result.sweep)
    shared = shared_damping(result)
    return f"{result.inverse}; λ swept over {grid}" + (f"; compared at {shared}" if shared else "")


def protocol_line(result: Result) -> str:
    """K, α, R, initialisation, seed and the bootstrap; says so where there was no LDS."""
    protocol = result.protocol
    if protocol is None:
        return "not computed: no models were retrained"
    return (
        f"K = {protocol.subsets} subsets, {left_out(protocol)} and is retrained R = {protocol.retrains} times ({protocol.initialisation} "
        f"initialisation), {counted(protocol.queries, 'query', 'queries')}, seed {protocol.seed}; "
        f"{interval_name(result)} from {protocol.bootstrap} bootstrap resamples"
    )


def counted(count: int, one: str, several: str) -> str:
    """`1 query`, `20 queries`."""
    return f"{count} {one if count == 1 else several}"


def left_out(protocol: Protocol) -> str:
    """`each keeps α = .5 of the training set`, or what it leaves out."""
    match protocol.groups:
        case "one":
            return "each leaves out one example"
        case "class":
            return "each leaves out one class"
        case _:
            return f"each keeps α = {setting(protocol.keep)} of the training set"


def ceiling_line(result: Result) -> str:
    """The noise ceiling with its interval; empty without LDS."""
    if result.protocol is None:
        return ""
    if result.ceiling is None or not known(result.ceiling.estimate):
        return "not computed: split halves need at least two retrains of each subset"
    best = max(0.0, result.ceiling.estimate) ** 0.5
    return (
        f"{estimate(result.ceiling)} is the noise ceiling: split-half reliability of the retrained "
        f"outcomes, Spearman–Brown corrected; a predictor without noise has LDS {correlation(best)}"
    )


def interval_name(result: Result) -> str:
    """`95 % interval`, by the protocol's level."""
    level = 0.95 if result.protocol is None else result.protocol.level
    return f"{100 * level:g} % interval"


def finding(result: Result) -> str:
    """One sentence: how the measure that matters moves along the chain, from its first step to its last."""
    chain = [step for step in result.steps if step.structure != BASELINE]
    found = [(s.label, p.lds.estimate) for s in chain if (p := at_shared(s)) and p.lds]
    if len(found) < 2 or not all(known(value) for _, value in found):
        return _forward_finding(result)
    where = shared_damping(result)
    (first, start), (last, end) = found[0], found[-1]
    steps = [(after[1] - before[1], after[0]) for before, after in pairwise(found)]
    change, label = max(steps, key=lambda step: abs(step[0]))
    opening = f"At {where} the" if where else "The"
    return (
        f"{opening} LDS goes from {correlation(start)} (`{first}`) to {correlation(end)} "
        f"(`{last}`); the largest step is `{label}`, {difference(change)}."
    )


def _forward_finding(result: Result) -> str:
    found = [(s.label, s.forward) for s in result.steps if known(s.forward)]
    if len(found) < 2:
        return ""
    (first, start), (last, end) = found[0], found[-1]
    return (
        f"The forward error goes from {quantity(start)} (`{first}`) to {quantity(end)} (`{last}`)."
    )


def comparison(item: Comparison) -> str:
    """One comparison as a sentence, with the difference and its interval.

    Raises:
        ValueError: Where the verdict is none of the three of the schema.
    """
    first, second = f"`{item.first}`", f"`{item.second}`"
    match item.verdict:
        case "better" | "worse":
            return f"{first} is {item.verdict} than {second}: LDS {_signed(item.difference)}"
        case "cannot be told apart":
            return f"{first} and {second} cannot be told apart: LDS {_signed(item.difference)}"
        case unknown:
            raise ValueError(f"`{unknown}` is not a verdict")


def _signed(interval: Interval) -> str:
    return f"{difference(interval.estimate)} {bounds(interval)}"


def notes(result: Result) -> tuple[str, ...]:
    """The evaluation's notes, then every missing number's reason, then cautions; none twice."""
    said = (*result.notes, *_estimates(result), *_own_notes(result))
    found = [*said, *_absences(result), *_cautions(result)]
    return tuple(dict.fromkeys(found))


def _own_notes(result: Result) -> Iterator[str]:
    """The notes of steps and settings; steps that share one are named together."""
    places: dict[str, list[str]] = {}
    for step in result.steps:
        for where, note in _step_notes(step):
            places.setdefault(note, []).append(f"`{step.label}`{where}")
    yield from (f"{', '.join(where)}: {note}" for note, where in places.items())


def _step_notes(step: Step) -> Iterator[tuple[str, str]]:
    """Where a step has a note, and the note; one for all settings where they have the same."""
    if step.note:
        yield "", step.note
    said = {point.note for point in step.points}
    if len(said) == 1 and len(step.points) > 1:
        yield from (("", note) for note in said if note)
        return
    for point in step.points:
        if point.note:
            at = "" if point.damping is None else f" at λ = {setting(point.damping)}"
            yield at, point.note


def _estimates(result: Result) -> Iterator[str]:
    """How errors that are estimates were made."""
    probes = [step.forward_probes for step in result.steps if step.forward_probes]
    points = [point for step in result.steps for point in step.points]
    counts = [point.inverse_gradients for point in points if point.inverse_gradients]
    behind = [f"forward errors are from {max(probes)} random vectors"] if probes else []
    behind += [f"inverse errors from {max(counts)} gradients"] if counts else []
    if behind:
        yield f"± is one standard error: {', '.join(behind)}"


def _absences(result: Result) -> Iterator[str]:
    if result.protocol is None:
        yield "no LDS: no models were retrained, so only errors are reported"
    for step in result.steps:
        missing = ", ".join(_missing(step, lds=result.protocol is not None))
        point = at_shared(step)
        if missing and not step.note and not (point and point.note):
            yield f"`{step.label}`: {missing} not computed, and the evaluation gave no reason"
    steps = [step for step in result.steps[1:] if step.structure != BASELINE]
    if undefined := sorted({name for step in steps for name in _unshared(step)}):
        yield (
            f"– as a share ({', '.join(undefined)}): the path's total, its last value minus its "
            "first, is zero or not known"
        )


def _missing(step: Step, *, lds: bool) -> Iterator[str]:
    """What a row should have and has not; a baseline has scores alone, hence no errors."""
    point = at_shared(step) or Point(None)
    errors = {
        "forward error": step.forward,
        "inverse error": point.inverse,
        "influence error": point.influence,
        "cosine": point.cosine,
    }
    if step.structure != BASELINE:
        yield from (name for name, value in errors.items() if not known(value))
    if lds and (point.lds is None or not known(point.lds.estimate)):
        yield "LDS"


def _unshared(step: Step) -> Iterator[str]:
    point = at_shared(step) or Point(None)
    lds = None if point.lds is None else point.lds.estimate
    pairs = (
        ("forward", step.forward, step.forward_share),
        ("inverse", point.inverse, point.inverse_share),
        ("influence", point.influence, point.influence_share),
        ("LDS", lds, point.lds_share),
    )
    yield from (name for name, value, part in pairs if known(value) and not known(part))


def _cautions(result: Result) -> Iterator[str]:
    ceiling = result.ceiling
    if result.protocol and has_lds(result) and (note := one_query_note(result.protocol.queries)):
        yield note
    if result.protocol and ceiling and known(ceiling.estimate) and ceiling.estimate < LOW_CEILING:
        yield (
            f"the noise ceiling {correlation(ceiling.estimate)} is below {correlation(LOW_CEILING)}"
            ": differences of LDS are mostly noise of the retraining; raise `retrains`"
        )
    if len(result.sweep) > 1 and has_lds(result):
        yield "the best λ is chosen on the subsets it is scored on, so the best LDS is optimistic"
