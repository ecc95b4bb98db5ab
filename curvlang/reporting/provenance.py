"""What a run leaves behind so that it can be repeated: versions, seeds, precision, hashes, seconds."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import asdict

import numpy as np
import torch

from curvlang.evaluation.evaluate import Evaluated
from curvlang.evaluation.protocol import LDS
from curvlang.language import used_files
from curvlang.language.chain import Spec
from curvlang.models.losses.metric import Metric, query_metric
from curvlang.models.task import Task
from curvlang.version import VERSION


def provenance(
    done: Evaluated,
    spec: Spec,
    task: Task,
    *,
    protocol: LDS | None,
    metric: str | Metric,
    seed: int,
) -> dict[str, object]:
    """What any evaluation leaves, from the command line or from Python.

    Args:
        done: The evaluation.
        spec: The spec as run.
        task: Trained model and data, in the precision of the analysis.
        protocol: How models were retrained; None for no LDS.
        metric: What the queries were asked for.
        seed: Of sampled labels and gradients.
    """
    return {
        "versions": {
            "curvlang": VERSION,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "used files": used_files(spec.source),
        "seed": seed,
        "device": str(task.device),
        "dtype": str(task.precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "task": {"model": repr(task), "parameters": task.origin.text},
        "inverse": done.result.inverse,
        "sweep": list(done.result.sweep),
        "metric": metric if isinstance(metric, str) else query_metric(metric, task.loss).name,
        "protocol": None if protocol is None else asdict(protocol),
        "hashes": _hashes(done, spec, task),
        "seconds": {name: round(value, 3) for name, value in done.times.items()},
        "models": _models(done),
    }


def _hashes(done: Evaluated, spec: Spec, task: Task) -> dict[str, str]:
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


def _models(done: Evaluated) -> dict[str, int] | None:
    if done.truth is None:
        return None
    return {
        "trained": done.truth.trained,
        "from the cache": done.truth.reused,
        "damaged files": len(done.truth.damaged),
    }
