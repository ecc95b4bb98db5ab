"""All that is checked and measured on a GPU, in less than ten minutes on one card: prints it, and writes one JSON.

python -m tests.gpu --out gpu.json
python -m tests.gpu --device cpu --quick      the same at small size: does it run to its end?
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import torch

from tests.devices.runs import STAGES, made, small_batches, specs, tasks, tiny
from tests.gpu.equality import EQUAL, Equality, equality
from tests.gpu.speed import FULL, QUICK, speeds

QUICK_SPECS = ("diagonal", "ekfac")
TASK_SPEC = "ekfac_lm"
"""The spec that fits every task."""


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="`cuda`, `cuda:1` or `cpu`")
    parser.add_argument("--quick", action="store_true", help="few specs, small sizes")
    parser.add_argument("--out", type=Path, default=None, help="everything found, to a JSON file")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Run; 1 where a device does not compute what the CPU does."""
    said = arguments(given)
    device = torch.device(said.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("there is no GPU here; `--device cpu --quick` runs the script at small size")
        return 2
    warnings.simplefilter("ignore")
    began = perf_counter()
    found = {"device": name_of(device), "torch": torch.__version__, "quick": said.quick}
    found |= {"equal within": EQUAL, "equality": dict(equalities(device, said.quick))}
    found["speed"] = list(spoken(speeds(device, QUICK if said.quick else FULL)))
    found["seconds"] = perf_counter() - began
    if said.out is not None:
        said.out.write_text(json.dumps(found, indent=1) + "\n")
    faults = [f"{pair}: {x}" for pair, one in found["equality"].items() for x in one["faults"]]
    print("\n".join(faults) or "every stage is equal to the CPU's", f"({found['seconds']:.0f} s)")
    return 1 if faults else 0


def equalities(device: torch.device, quick: bool):
    """By spec and task: every spec on a small perceptron, and one spec on every task."""
    stages = tuple(STAGES)[:4] if quick else tuple(STAGES)
    with small_batches(), tempfile.TemporaryDirectory() as folder:
        for spec in QUICK_SPECS if quick else specs():
            yield told(f"{spec} on a perceptron", equality(spec, tiny(), device, stages))
        for name in () if quick else tasks():
            task = made(name, Path(folder))
            yield told(f"{TASK_SPEC} on {name}", equality(TASK_SPEC, task, device, stages))


def told(name: str, found: Equality) -> tuple[str, dict]:
    """A line on the way, and what is kept."""
    far = max((x for x in found.apart.values() if not isinstance(x, str)), default=0.0)
    print(f"{name}: {far:.1e} apart, {sum(found.waits.values())} waits", flush=True)
    return name, asdict(found) | {"faults": found.faults}


def spoken(rows):
    """Speeds, a line each."""
    for row in rows:
        seconds = ", ".join(f"{what} {x:.3g} s" for what, x in row["seconds"].items())
        print(
            f"{row['precision']}: peak {row['peak'] / 1e12:.3g} TFLOP/s, {seconds}, "
            f"fit at {row['fit_share']:.1%} of the peak, scores {row['scores_apart']:.1e} apart",
            flush=True,
        )
        yield row


def name_of(device: torch.device) -> str:
    """The card, or the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
