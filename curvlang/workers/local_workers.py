"""Workers of Dask on this machine: processes of their own, which end with the command and are replaced when they die."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from curvlang.workers.answers import failed

REPLACEMENTS = 20
"""Workers that are started in place of dead ones, before something must be wrong with the machine."""
FAILURES = 5
"""Workers that may die over one unit."""
_COMMAND = ("-m", "distributed.cli.dask_worker")
_OPTIONS = ("--no-nanny", "--no-dashboard", "--nthreads", "1", "--memory-limit", "0")


class LocalWorkers:
    """A scheduler in this process, and workers beside it.

    Workers are started as programs: a process with torch's threads must not be forked.

    Args:
        count: How many; they share the threads of this process.
    """

    def __init__(self, count: int) -> None:
        from distributed import Scheduler, SpecCluster

        self.threads = max(1, torch.get_num_threads() // count)
        self._count = count
        self._folder = tempfile.TemporaryDirectory(prefix="curvlang-workers-")
        options = {
            "host": "127.0.0.1",
            "port": 0,
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
            "allowed_failures": FAILURES,
        }
        self.cluster: Any = SpecCluster(
            workers={},
            scheduler={"cls": Scheduler, "options": options},
            silence_logs=logging.CRITICAL,
            name="curvlang",
        )
        self._started = 0
        self._left = REPLACEMENTS
        self._processes = [self._start() for _ in range(count)]

    def look(self) -> None:
        """Start a worker in the place of each that has died.

        Raises:
            MachineError: E0848 where they keep dying.
        """
        for k, process in enumerate(self._processes):
            if process.poll() is None:
                continue
            if not self._left:
                raise failed(
                    f"workers die as soon as they start: the last one ended with {process.returncode}",
                    "run it without `--workers`: what a worker dies of shows then",
                )
            self._left -= 1
            self._processes[k] = self._start()

    def kill(self) -> None:
        """End the workers, in the middle of a unit too."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def close(self) -> None:
        """End what is left, when the workers are no more."""
        self.cluster.close()
        self._folder.cleanup()

    def _start(self) -> subprocess.Popen[bytes]:
        self._started += 1
        folders = os.pathsep.join(x for x in sys.path if x)
        given = {
            "OMP_NUM_THREADS": str(self.threads),
            "PYTHONPATH": folders,
            # Each counts on its share of the memory that is free.
            "LOCAL_WORLD_SIZE": str(self._count),
        }
        place = Path(self._folder.name)
        with (place / f"{self._started}.log").open("wb") as log:
            return subprocess.Popen(
                [
                    sys.executable,
                    *_COMMAND,
                    self.cluster.scheduler_address,
                    *_OPTIONS,
                    "--host",
                    "127.0.0.1",
                    "--dashboard-address",
                    "127.0.0.1:0",
                    "--name",
                    f"local-{self._started}",
                    "--local-directory",
                    str(place),
                ],
                env=os.environ | given,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is this process's: it ends them.
                start_new_session=True,
            )
