"""What a run leaves behind so that it can be repeated: versions, seeds, precision, hashes, seconds."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import asdict

import numpy as np
import torch

from curvlang.evaluation.experiment import Outcome
from curvlang.evaluation.question import Run
from curvlang.language import used_files
from curvlang.language.chain import Spec
from curvlang.models.losses.metric import Metric, query_metric
from curvlang.models.task import Task
from curvlang.version import VERSION


def provenance(done: Outcome, spec: Spec, run: Run, metric: str | Metric) -> dict[str, object]:
    """What any evaluation leaves, from the command line or from Python.

    Args:
        done: The evaluation.
        spec: The spec as run.
        run: How it was run.
        metric: What the queries were asked for.
    """
    task = done.bench.base.to(precision=run.precision)
    return {
        "versions": {
            "curvlang": VERSION,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "used files": used_files(spec.source),
        "seed": run.seed,
        "device": str(task.device),
        "dtype": str(run.precision),
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "task": {"model": repr(task), "parameters": task.origin.text},
        "inverse": done.result.inverse,
        "sweep": list(done.result.sweep),
        "metric": metric if isinstance(metric, str) else query_metric(metric, task.loss).name,
        "protocol": None if run.protocol is None else asdict(run.protocol),
        "hashes": _hashes(done, spec, task),
        "seconds": {name: round(value, 3) for name, value in done.times.items()},
        "models": _models(done),
    }


def _hashes(done: Outcome, spec: Spec, task: Task) -> dict[str, str]:
    found = {
        "spec": hashlib.sha256(spec.source.text.encode()).hexdigest(),
        "data": task.data_fingerprint(),
        "trained model": task.fingerprint(),
    }
    if done.truth is not None:
        kept = np.packbits(done.truth.kept.numpy())
        found["subsets"] = hashlib.sha256(kept.tobytes()).hexdigest()
        found["ground truth"] = hashlib.sha256(done.truth.outcome.numpy().tobytes()).hexdigest()
    return found


def _models(done: Outcome) -> dict[str, int] | None:
    if done.truth is None:
        return None
    return {
        "trained": done.truth.trained,
        "from the cache": done.truth.reused,
        "damaged files": len(done.truth.damaged),
    }
