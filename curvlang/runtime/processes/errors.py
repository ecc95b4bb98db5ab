"""Errors as text, so that all processes of a run end with the diagnostic of the one that failed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import (
    CurvlangError,
    Diagnostic,
    Label,
    MachineError,
    SpecError,
)
from curvlang.diagnostics.record import Severity
from curvlang.diagnostics.source import Source, Span
from curvlang.models.tracing.watching import OutsideError


def encoded(error: BaseException, rank: int) -> str:
    """What is told to the other processes about an error."""
    found: dict[str, Any] = {"rank": rank}
    if isinstance(error, OutsideError):
        found["outside"] = error.layers
    elif isinstance(error, CurvlangError):
        found["kind"] = "machine" if isinstance(error, MachineError) else "spec"
        found["diagnostics"] = [_record(d) for d in error.diagnostics]
    else:
        text = " ".join(str(error).split())
        found["other"] = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return json.dumps(found)


def decoded(told: str | bytes) -> CurvlangError:
    """The error of another process, as the error to raise here."""
    found = json.loads(told)
    if "outside" in found:
        return OutsideError(found["outside"])
    if "diagnostics" in found:
        kind = MachineError if found["kind"] == "machine" else SpecError
        return kind([_diagnostic(d) for d in found["diagnostics"]])
    return MachineError(
        Diagnostic(
            Code.E0831,
            f"process {found['rank']} has ended with an error",
            notes=(found["other"],),
            help=("its own output has the traceback",),
        )
    )


def _record(diagnostic: Diagnostic) -> dict[str, Any]:
    return {
        "code": str(diagnostic.code),
        "headline": diagnostic.headline,
        "labels": [
            [x.span.source.name, x.span.source.text, x.span.start, x.span.end, x.message]
            for x in diagnostic.labels
        ],
        "help": [str(x) for x in diagnostic.help],
        "notes": list(diagnostic.notes),
        "severity": str(diagnostic.severity),
    }


def _diagnostic(found: dict[str, Any]) -> Diagnostic:
    return Diagnostic(
        Code[found["code"]],
        found["headline"],
        tuple(_label(x) for x in found["labels"]),
        tuple(found["help"]),
        tuple(found["notes"]),
        Severity(found["severity"]),
    )


def _label(found: Sequence[Any]) -> Label:
    name, text, start, end, message = found
    return Label(Span(Source(name, text), start, end), message)
