"""Runs a function of a module in several processes of one group: `gloo`, one thread a process.

    first, second = together(work, 2, *arguments)

`work(*arguments)` runs in every process; what it returns (tensors, numbers, texts, in lists, tuples and
dicts) comes back by rank. The processes are forked from a server that has imported curvlang, so that a call
takes a tenth of a second; there is one group for each call, and a limit of time.
"""

from __future__ import annotations

import io
import multiprocessing
import tempfile
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from curvlang.diagnostics.diagnostic import CurvlangError

LIMIT = 60.0
"""Seconds after which the processes of a call are ended."""


@dataclass(frozen=True)
class Failed:
    """What a process has ended with, in place of its result."""

    codes: tuple[str, ...]
    text: str


def together(work, size, *arguments, failing=False, limit=LIMIT):
    """What `work(*arguments)` returns in each of `size` processes, by rank.

    Args:
        work: A function of a module.
        size: Processes; 1 runs in a process of its own too, without a group.
        arguments: Of the function.
        failing: Whether a process may fail: it has a `Failed` in its place.
        limit: Seconds for all of it.
    """
    with started(work, size, *arguments) as (processes, ends):
        found = _results(processes, ends, time.monotonic() + limit)
    wrong = [x for x in found if isinstance(x, Failed)]
    assert failing or not wrong, "\n".join(x.text for x in wrong)
    return found


@contextmanager
def started(work, size, *arguments):
    """The processes of a call, and the ends where they give their results; killed when the block ends."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["curvlang", "tests.small", "tests.processes"])
    with tempfile.TemporaryDirectory() as folder:
        processes, ends = [], []
        for rank in range(size):
            here, there = context.Pipe(duplex=False)
            given = (work, arguments, rank, size, Path(folder) / "group", there)
            process = context.Process(target=_work, args=given, daemon=True)
            process.start()
            there.close()
            processes.append(process)
            ends.append(here)
        try:
            yield processes, ends
        finally:
            for process in processes:
                process.kill()
                process.join()


def _results(processes, ends, deadline):
    found = []
    for process, end in zip(processes, ends, strict=True):
        if not end.poll(max(0.0, deadline - time.monotonic())):
            found.append(Failed((), "no result within the limit of time"))
            continue
        try:
            kind, value = torch.load(io.BytesIO(end.recv_bytes()), weights_only=True)
        except EOFError:
            process.join(5)
            found.append(Failed((), f"ended with {process.exitcode}"))
            continue
        found.append(value if kind == "result" else Failed(tuple(value[0]), value[1]))
    return found


def _work(work, arguments, rank, size, file, end):
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{file}",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=LIMIT),
        )
        # One that fails at once would close connections that another is still making.
        dist.barrier()
    try:
        told = ("result", work(*arguments))
    except CurvlangError as error:
        told = ("failed", ([str(d.code) for d in error.diagnostics], str(error)))
    except BaseException:
        told = ("failed", ([], traceback.format_exc()))
    buffer = io.BytesIO()
    torch.save(told, buffer)
    end.send_bytes(buffer.getvalue())
    end.close()
    if size > 1:
        dist.destroy_process_group()
