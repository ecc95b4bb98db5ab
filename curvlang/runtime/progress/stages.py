"""How far a run is: its stages, the seconds that they took, and those that are left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stage:
    """A stretch of work of one name.

    Args:
        name: What is done, without how it goes.
        began: When.
        predicted: Seconds that the plan gives it; None where it gives none.
    """

    name: str
    began: float
    predicted: float | None = None
    how: str = ""
    done: int = 0
    total: int = 0
    since: tuple[float, int] | None = None
    """When the first report came, and what was done by then: a part of it may be kept from an earlier run."""
    said: bool = False
    over: bool = False

    @property
    def finished(self) -> bool:
        """Whether all of it is done, as far as it is counted."""
        return 0 < self.total <= self.done

    def report(self, now: float, done: int, total: int, how: str) -> None:
        """Take in how far it is."""
        self.done, self.total, self.how = done, total, how
        if self.since is None:
            self.since = (now, done)

    def rate(self, now: float) -> float | None:
        """Units a second since the first report; None before a second one, and for iterations."""
        if self.since is None or self.how:
            return None
        start, before = self.since
        more = self.done - before
        return more / (now - start) if more > 0 and now > start else None

    def left(self, now: float) -> float | None:
        """Seconds that are left, by its own rate; by the plan before that is known; else None."""
        rate = self.rate(now)
        if rate is not None:
            return (self.total - self.done) / rate
        if self.predicted is None or self.how:
            return None
        return max(0.0, self.predicted - (now - self.began))


@dataclass(slots=True)
class Stages:
    """The stages of a run in the order in which they come, the present one last.

    Args:
        now: When the run began.
    """

    now: float
    plan: dict[str, float] = field(default_factory=dict)
    present: Stage | None = None
    over: set[str] = field(default_factory=set)
    idle: float = 0.0

    def __post_init__(self) -> None:
        """The first stage begins with the run."""
        self.idle = self.now

    def foresee(self, plan: Mapping[str, float], now: float) -> None:
        """Take in the seconds that a plan gives to stages, and begin the first of them."""
        self.plan, self.over = dict(plan), set()
        self._begin_next(now)

    def report(self, now: float, name: str, done: int, total: int, how: str = "") -> Stage:
        """How far the stage of a name is; another stage than the present one begins where that ended."""
        present = self.present
        again = present is not None and done < present.done
        if present is None or present.name != name or again:
            if present is not None:
                self.over.add(present.name)
            began = self.idle if present is None or present.finished else now
            present = self.present = Stage(name, began, self.plan.get(name))
        present.report(now, done, total, how)
        if present.finished:
            self.idle = now
        return present

    def end(self, now: float, name: str) -> Stage | None:
        """A stage has ended; the next one that is planned begins. Returns what has ended."""
        ended = self.present if self.present is not None and self.present.name == name else None
        self.over.add(name)
        self.idle = now
        if ended is not None:
            ended.over, self.present = True, None
        self._begin_next(now)
        return ended

    def _begin_next(self, now: float) -> None:
        coming = [name for name in self.plan if name not in self.over]
        if self.present is None and coming:
            self.present = Stage(coming[0], now, self.plan[coming[0]])

    def left(self, now: float) -> float | None:
        """Seconds until the end of all stages that are planned; None where that is not known."""
        present = self.present
        if present is None or present.name not in self.plan:
            return None
        own = present.left(now)
        later = [s for n, s in self.plan.items() if n not in self.over and n != present.name]
        return None if own is None or not later else own + sum(later)
