"""Units on the workers of Dask: started here, or those of a scheduler that exists."""

from __future__ import annotations

import importlib.util
import time
import uuid
import warnings
from collections.abc import Sequence
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, MachineError
from curvlang.diagnostics.refusal import refusal
from curvlang.runtime.processes.link import JOINING, PATIENCE_NAME, patience
from curvlang.workers.answers import (
    WorkerWarning,
    WorkOrder,
    answer,
    check_versions,
    failed,
    result_of,
    versions,
)
from curvlang.workers.executor import Results, Work
from curvlang.workers.local_workers import LocalWorkers

CONNECTING = 10.0
"""Seconds for a scheduler to answer."""
_PAUSE = 0.02
"""Seconds between two looks at what is done."""


class DaskWorkers:
    """Workers of Dask, had when the first unit is to be done.

    Args:
        wanted: How many are started on this machine, or the address of a scheduler.
    """

    def __init__(self, wanted: int | str) -> None:
        check_workers(wanted)
        self.wanted = wanted
        self._local: LocalWorkers | None = None
        self._client: Any = None
        self._said: set[str] = set()

    def agreed(self, units: Sequence[str]) -> list[str]:
        """As `Executor.agreed`."""
        return list(units)

    def run(self, work: Work, units: Sequence[str]) -> Results:
        """Every unit as soon as a worker has done it; those of a worker that dies are done by others."""
        if not units:
            return
        portable = work.portable()
        client = self._connected()
        threads = None if self._local is None else self._local.threads
        run = uuid.uuid4().hex
        order: Any = WorkOrder.of(portable, threads)
        if portable.about.data:
            # A task of its own: its data goes to each worker once, and again where one dies.
            order = client.submit(_same, order, key=f"order-{run}", pure=False)
        pending = {
            client.submit(answer, order, unit, key=f"{unit}-{run}", pure=False): unit
            for unit in units
        }
        try:
            while pending:
                done = [future for future in pending if future.done()]
                for future in done:
                    yield pending.pop(future), self._result(future)
                if not done:
                    self._look()
        finally:
            if pending:
                client.cancel(list(pending), force=True)

    def close(self) -> None:
        """End the workers that were started here, and leave the others."""
        if self._local is not None:
            self._local.kill()
        if self._client is not None:
            self._client.close()
        if self._local is not None:
            self._local.close()
        self._client = self._local = None

    def _connected(self) -> Any:
        from distributed import Client

        if self._client is not None:
            return self._client
        if isinstance(self.wanted, int):
            self._local = LocalWorkers(self.wanted)
            self._client = Client(self._local.cluster, set_as_default=False)
        else:
            self._client = _client(self.wanted)
        return self._client

    def _look(self) -> None:
        """See that there are workers, and wait a little."""
        if self._local is not None:
            self._local.look()
        time.sleep(_PAUSE)

    def _result(self, future: Any) -> bytes:
        """The result of a unit; what its worker warned of is said once."""
        if future.status == "cancelled":
            raise failed("the scheduler has dropped a unit", "start the command again")
        if future.status == "error":
            raise _lost(future.exception())
        content, said = result_of(future.result())
        for text in said:
            if text not in self._said:
                self._said.add(text)
                warnings.warn(text, WorkerWarning, stacklevel=2)
        return content


def _same(order: WorkOrder) -> WorkOrder:
    return order


def check_workers(wanted: int | str) -> None:
    """Refuse workers that cannot be had.

    Args:
        wanted: Their number, or the address of a scheduler.

    Raises:
        SpecError: E0849.
    """
    if isinstance(wanted, int) and wanted < 1:
        raise _impossible(f"{wanted} workers do nothing", "give a number from 1, or leave it out")
    if isinstance(wanted, str) and "://" not in wanted:
        raise _impossible(
            f"`{wanted}` is not the address of a scheduler",
            "write it as the scheduler prints it: `tcp://10.0.0.1:8786`",
        )
    if importlib.util.find_spec("distributed") is None:
        raise _impossible(
            "workers need `dask[distributed]`, which is not installed",
            'install it with `pip install "curvlang[scale]"`, or retrain in this process',
        )


def _impossible(headline: str, *repairs: str) -> Exception:
    return refusal(Code.E0849, headline, *repairs)


def _client(address: str) -> Any:
    """A client of a scheduler that has workers of this version."""
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECTING, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise MachineError(
            Diagnostic(
                Code.E0849,
                f"there is no scheduler at `{address}`",
                notes=(" ".join(str(error).split())[:200],),
                help=("start one with `dask scheduler`, and workers with `dask worker ADDRESS`",),
            )
        ) from error
    start, limit = time.monotonic(), patience() * JOINING
    while not client.scheduler_info(n_workers=-1)["workers"]:
        if time.monotonic() - start > limit:
            client.close()
            raise MachineError(
                Diagnostic(
                    Code.E0849,
                    f"the scheduler at `{address}` has had no workers for {limit:g} seconds",
                    help=(
                        f"start some with `dask worker {address} --nthreads 1`",
                        f"set `{PATIENCE_NAME}` to more seconds where they only take long to begin",
                    ),
                )
            )
        time.sleep(0.2)
    _check_all(client)
    return client


def _check_all(client: Any) -> None:
    """Versions of all workers there are; those that come later answer for themselves."""
    found: dict[str, Any] = client.run(versions, on_error="return")
    try:
        check_versions({name: _said(x) for name, x in found.items()})
    except Exception:
        client.close()
        raise


def _said(found: object) -> object:
    return f"{type(found).__name__}: {found}" if isinstance(found, BaseException) else found


def _lost(error: BaseException) -> MachineError:
    """Why a unit has no answer."""
    kind = type(error).__name__
    if kind == "KilledWorker":
        return failed(
            "several workers have died over the same unit",
            "look for its cause in their logs: workers that hold too much memory are killed",
        )
    return failed(
        f"a worker has failed: {kind}: {error}",
        "start workers from the environment of this process",
    )
