"""Diagnostics of a text, collected up to a limit, so that broken files are answered soon."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label, Severity
from curvlang.diagnostics.record import Repair
from curvlang.diagnostics.source import Span
from curvlang.diagnostics.suggestion import Known, suggestion

LEAVE_OUT = Repair("leave one out", "")
"""The repair of what stands twice, which an editor can make."""
MOST_SHOWN = 100
"""Different errors after which checking stops: who corrects those runs it again."""
_MOST_TOLD = 10_000
"""Errors, the same ones again and again included."""


class EnoughError(Exception):
    """Raised where the limit is reached; `analyse` catches it."""


class Problems(list[Diagnostic]):
    """Diagnostics found so far, in order.

    `unread` are names whose definitions could not be read: the mistake in them is reported already.
    """

    unread: frozenset[str] = frozenset()

    def say(self, code: Code, headline: str, place: Span | Label, *help: str) -> None:
        """One more, at a place; a label says something about it."""
        label = place if isinstance(place, Label) else Label(place)
        self.append(Diagnostic(code, headline, (label,), help))

    def twice(self, code: Code, headline: str, again: Span, first: Span, help_: str) -> None:
        """One more about what stands at two places and may stand at one."""
        labels = (Label(again, "again here"), Label(first, "first here"))
        self.append(Diagnostic(code, headline, labels, (help_,)))

    def unknown(self, code: Code, kind: str, name: str, place: Span, known: Known) -> None:
        """One more about a name that is not known, with the one that was meant."""
        if name not in self.unread:
            self.say(code, f"unknown {kind} `{name}`", place, *suggestion(name, known))


class Collector(Problems):
    """Diagnostics of a file: counts the errors and raises `EnoughError` at the limit."""

    def __init__(self, found: Iterable[Diagnostic] = ()) -> None:
        super().__init__()
        self.errors = 0
        self._different: set[Diagnostic] = set()
        self.extend(found)

    def append(self, problem: Diagnostic, /) -> None:
        super().append(problem)
        if problem.severity is not Severity.ERROR:
            return
        self.errors += 1
        self._different.add(problem)
        if len(self._different) >= MOST_SHOWN or self.errors >= _MOST_TOLD:
            raise EnoughError

    def extend(self, found: Iterable[Diagnostic], /) -> None:
        for problem in found:
            self.append(problem)

    def __iadd__(self, found: Iterable[Diagnostic], /) -> Collector:  # type: ignore[misc,override]
        self.extend(found)
        return self

    def shown(self, *, stopped: bool) -> list[Diagnostic]:
        """Every diagnostic once; the last one says where checking has stopped."""
        # A task is checked where it stands and again where it is used: shown once.
        every = list(dict.fromkeys(self))
        if stopped:
            last = every[-1]
            note = f"checking stops after {MOST_SHOWN} errors, here: what follows is not looked at"
            every[-1] = replace(last, notes=(*last.notes, note))
        return every
