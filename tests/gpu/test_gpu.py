"""On a GPU, every stage of every spec is the CPU's within 1e-9 in float64; without one, the script runs to its end on the CPU.

`pytest -m gpu` chooses what needs a GPU; `python -m tests.gpu --out gpu.json` runs that and the benchmarks.
"""

from __future__ import annotations

import json

import pytest
import torch

from tests.devices.runs import STAGES, made, small_batches, specs, tasks, tiny
from tests.gpu.__main__ import TASK_SPEC, main
from tests.gpu.equality import equality
from tests.gpu.speed import PRECISIONS, QUICK, speeds

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CARD = torch.device("cuda")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("spec", specs())
def test_every_spec_is_equal_to_the_cpu(spec):
    with small_batches():
        assert equality(spec, tiny(), CARD, tuple(STAGES)).faults == []


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", tasks())
def test_every_task_is_equal_to_the_cpu(name, tmp_path):
    with small_batches():
        assert equality(TASK_SPEC, made(name, tmp_path), CARD, tuple(STAGES)).faults == []


@pytest.mark.gpu
@needs_gpu
def test_every_precision_is_measured():
    found = list(speeds(CARD, QUICK))
    assert [row["precision"] for row in found] == list(PRECISIONS)
    assert all(row["memory"] > 0 for row in found)


def test_the_script_runs_to_its_end_on_the_cpu(tmp_path, capsys):
    assert main(["--device", "cpu", "--quick", "--out", str(tmp_path / "gpu.json")]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["precision"] for row in found["speed"]] == list(PRECISIONS)
    assert all(one["faults"] == [] for one in found["equality"].values())
    # The CPU against itself is equal to the last bit, and float32 with itself.
    assert max(one["apart"]["fit"] for one in found["equality"].values()) == 0
    assert found["speed"][0]["scores_apart"] == 0 < found["speed"][2]["scores_apart"] < 0.1
    assert "equal to the CPU's" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_script_says_so(capsys):
    assert main([]) == 2
    assert "--device cpu --quick" in capsys.readouterr().out
