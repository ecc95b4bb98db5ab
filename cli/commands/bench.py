"""`curvlang bench`: what a spec costs on this machine, stage by stage, predicted and measured."""

from __future__ import annotations

import curvlang as cv

from ..options import (
    DataOption,
    DeviceOption,
    DtypeOption,
    InverseOption,
    JsonOption,
    MemoryOption,
    ModelOption,
    PrecisionOption,
    PythonOption,
    SeedOption,
    Spec,
    TaskOption,
    VerboseOption,
)
from ..terminal import print_json

EXAMPLES = (
    ("curvlang bench ekfac", "on the task that the spec names"),
    ("curvlang bench kfac --task digits_cnn --dtype float32", "another model, in float32"),
)


def command(
    spec: Spec,
    task: TaskOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    allow_python: PythonOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    dtype: DtypeOption = None,
    inverse: InverseOption = None,
    memory: MemoryOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Fit, invert and score once, and print time and memory of every stage beside their prediction.

    The model is not trained: its cost does not depend on its parameters.
    """
    found = cv.benchmark(
        spec,
        cv.TaskSource(task, data, model, allow_python),
        inverse=inverse,
        setup=cv.Setup.named(device, precision or dtype, memory, seed),
    )
    if as_json:
        print_json(found.to_json())
    else:
        found.show()
    return 0
