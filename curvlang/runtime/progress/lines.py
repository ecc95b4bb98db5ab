"""A line of progress for a log: what, how far, since when, and when it will be done."""

from __future__ import annotations

from datetime import datetime, timedelta

from curvlang.runtime.progress.stages import Stage, Stages

FIRST = 10.0
"""Seconds before the first line."""
GROWTH = 0.5
"""The next line comes when the run has gone on for this share of its time so far."""
LONGEST = 600.0
"""Seconds between two lines at most."""


def pause(elapsed: float) -> float:
    """Seconds until the next line, by how long the run has gone on: many at first, few of a long run.

    >>> [pause(s) for s in (0, 10, 60, 3600)]
    [10.0, 10.0, 30.0, 600.0]
    """
    return min(LONGEST, max(FIRST, GROWTH * elapsed))


def line(who: str, stages: Stages, stage: Stage, now: float) -> str:
    """`curvlang fit, pass 1: 1200 of 5000 after 34 s, about 107 s left, until 14:02:10`."""
    subject = ", ".join(x for x in (who, stage.name) if x)
    counted = "done after " if stage.over else ""
    if stage.total:
        counted = f"{stage.done} of {stage.total} after "
    text = f"{subject}: {counted}{now - stage.began:.0f} s"
    if stage.how:
        text += f" ({stage.how})"
    left = stage.left(now)
    planned = stage.rate(now) is None
    late = planned and left == 0 and not (stage.finished or stage.over)
    if late:
        text += f", longer than the {stage.predicted:.0f} s of the plan"
    elif left is not None and not (stage.finished or stage.over):
        text += f", about {left:.0f} s left{' by the plan' if planned else ''}, until {clock(left)}"
    whole = stages.left(now)
    if whole is not None and not late:
        text += f"; in all about {whole:.0f} s left, until {clock(whole)}"
    return text


def clock(seconds: float) -> str:
    """The time of day in some seconds, with its date where that is another one."""
    now = datetime.now()
    then = now + timedelta(seconds=seconds)
    return f"{then:%H:%M:%S}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M}"
