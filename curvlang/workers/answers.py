"""What a worker says: the result of a unit, or why there is none, with the warnings; all of it as bytes."""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import CurvlangError, Diagnostic, MachineError
from curvlang.diagnostics.refusal import refusal
from curvlang.runtime.processes.errors import decoded, encoded
from curvlang.version import VERSION
from curvlang.workers.executor import PortableWork

_ONE_AT_A_TIME = threading.Lock()
"""torch's settings belong to the process: units of one process wait for each other."""


class WorkerWarning(UserWarning):
    """What a worker warns of, said once in the process that it works for."""


def versions() -> dict[str, str]:
    """What the numbers of this process depend on."""
    return {"curvlang": VERSION, "torch": torch.__version__.partition("+")[0]}


@dataclass(frozen=True, slots=True, eq=False)
class WorkOrder:
    """What a worker is sent.

    Args:
        work: What is to be done.
        versions: Of the process that sends it.
        folders: Where that process finds modules.
        threads: Of torch; None for the worker's own.
    """

    work: PortableWork
    versions: Mapping[str, str]
    folders: tuple[str, ...]
    threads: int | None = None

    @staticmethod
    def of(work: PortableWork, threads: int | None = None) -> WorkOrder:
        """The order of this process."""
        return WorkOrder(work, versions(), tuple(x for x in sys.path if x), threads)


def answer(order: WorkOrder, unit: str) -> bytes:
    """What a worker says to a unit: a line that describes it, and its result.

    Args:
        order: What it was sent.
        unit: The unit.
    """
    said: dict[str, object] = {"worker": _name(), "versions": versions()}
    content = b""
    if said["versions"] == order.versions:
        with _ONE_AT_A_TIME, warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            sys.path.extend(x for x in order.folders if x not in sys.path)
            if order.threads is not None:
                torch.set_num_threads(order.threads)
            try:
                content = order.work.function(order.work.about, unit)
            except CurvlangError as error:
                said["refused"] = encoded(error, 0)
            except Exception as error:
                said["failed"] = f"{type(error).__name__}: {error}"
                traceback.print_exc()
        said["warnings"] = [str(w.message) for w in found if _own(w.category)]
    return json.dumps(said).encode() + b"\n" + content


def result_of(said: bytes) -> tuple[bytes, list[str]]:
    """A unit's result, and what its worker warned of.

    Args:
        said: What it answered.

    Raises:
        CurvlangError: What it refused; E0847 where it is of another version, E0848 where it failed.
    """
    line, _, content = said.partition(b"\n")
    found = json.loads(line)
    check_versions({found["worker"]: found["versions"]})
    if "refused" in found:
        raise decoded(found["refused"])
    if "failed" in found:
        raise failed(
            f"the worker `{found['worker']}` has failed: {found['failed']}",
            "look for the traceback in its own output",
        )
    return content, found["warnings"]


def failed(headline: str, *repairs: str) -> MachineError:
    """The refusal of units whose worker has ended without an answer, or with an error of its own."""
    return MachineError(Diagnostic(Code.E0848, headline, help=repairs))


def check_versions(found: Mapping[str, object], own: Mapping[str, str] | None = None) -> None:
    """Refuse workers whose numbers could be others.

    Args:
        found: The versions of every worker, by its name; or why it does not say them.
        own: The versions of this process; as they are, where not given.

    Raises:
        SpecError: E0847.
    """
    own = own or versions()
    for worker, theirs in found.items():
        if isinstance(theirs, Mapping):
            differ = [name for name in own if theirs.get(name) != own[name]]
            if not differ:
                continue
            name = differ[0]
            what = f"has {name} {theirs.get(name)}, and this process {name} {own[name]}"
        else:
            what = f"cannot import this version of curvlang: {theirs}"
        raise refusal(
            Code.E0847,
            f"the worker `{worker}` {what}",
            "start workers from the same environment: "
            + " ".join(f"`{name}=={version}`" for name, version in own.items()),
        )


def _name() -> str:
    """The machine and the process."""
    return f"{platform.node()}, process {os.getpid()}"


def _own(category: type[Warning]) -> bool:
    return category.__module__.startswith("curvlang.")
