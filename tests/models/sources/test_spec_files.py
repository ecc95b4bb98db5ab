"""Files that a spec names stay on disk where they are large, and give the same bits as in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import curvlang as cv
from curvlang.models.data import derived_rows
from curvlang.models.task import Task
from tests.models.sources.support import N, X, Y, assert_same_results

FILES = {
    "image": np.random.default_rng(1).standard_normal((N, 1, 4, 4)).astype("f4"),
    "x": X,
    "double": X.astype("f8"),
    "half": X.astype("f2"),
    "count": np.arange(N * 2).reshape(N, 2).astype("i4"),
    "flag": (np.arange(N) % 2 == 0),
    "y": Y,
    "y_float": Y.astype("f4"),
    "number": X[:, 0] * 2,
}
SPEC = """
task mine {{ data file("{path}", {arguments}) model mlp(hidden = [3]) loss {loss} train sgd }}
evaluate ggn on mine
"""


def task_of(path: Path, arguments: str, loss: str) -> Task:
    spec = cv.loads(SPEC.format(path=path, arguments=arguments, loss=loss))
    return cv.task(spec.evaluations[0].task)


@pytest.fixture(params=[".npz", ".safetensors"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    found = tmp_path / f"d{request.param}"
    if request.param == ".npz":
        np.savez(found, **FILES)
    else:
        save_file({k: torch.from_numpy(x) for k, x in FILES.items()}, found)
    return found


@pytest.mark.parametrize(
    ("arguments", "loss"),
    [
        ("inputs = [x], target = y", "cross_entropy"),
        ("inputs = [double, flag], target = y_float", "cross_entropy"),
        ("inputs = [half, count], target = number", "mse"),
        ("inputs = [x], target = [number, double]", "mse"),
    ],
)
def test_a_large_file_gives_the_bits_of_a_small_one(
    path: Path, arguments: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = task_of(path, arguments, loss)
    assert isinstance(memory.train[0], torch.Tensor)
    monkeypatch.setattr(derived_rows, "HELD", 0)
    task = task_of(path, arguments, loss)
    assert isinstance(task.train[0], cv.StoredRows)
    assert isinstance(task.query[1], cv.StoredRows)
    assert_same_results(memory, task)


def test_scaled_inputs_agree_to_rounding(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = "inputs = [x], target = y, scale = standard"
    memory = task_of(path, arguments, "cross_entropy")
    monkeypatch.setattr(derived_rows, "HELD", 0)
    task = task_of(path, arguments, "cross_entropy")
    assert isinstance(task.train[0], cv.StoredRows)
    torch.testing.assert_close(task.train[0][:], memory.train[0][:], rtol=1e-6, atol=1e-7)


WRONG = {
    "nan": ({"x": np.where(np.arange(N)[:, None] == 5, np.nan, X)}, "cross_entropy", "E0554.*row 6"),
    "huge": ({"x": X.astype("f8") * 1e300}, "cross_entropy", "E0553.*float32 cannot hold"),
    "half classes": ({"y": Y + 0.5}, "cross_entropy", "E0553.*which is not a class number"),
    "class -1": ({"y": np.where(np.arange(N) == 3, -1, Y)}, "cross_entropy", "E0553.*class -1.*row 4"),
    "one short": ({"y": Y[1:]}, "cross_entropy", "E0553.*24 rows.*23"),
    "beyond": ({"x": np.full((N, 2), 2**63, "u8")}, "cross_entropy", "E0407.*beyond int64"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("held", [0, 2**26])
def test_what_is_wrong_is_said_alike(
    case: str, held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derived_rows, "HELD", held)
    changed, loss, message = WRONG[case]
    np.savez(tmp_path / "d.npz", **({"x": X, "y": Y} | changed))
    with pytest.raises(cv.SpecError) as caught:
        task_of(tmp_path / "d.npz", "inputs = [x], target = y", loss)
    if case != "beyond" or not held:
        caught.match(message)


def test_a_compressed_file_is_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derived_rows, "HELD", 64)
    np.savez_compressed(tmp_path / "d.npz", x=X, y=Y)
    task = task_of(tmp_path / "d.npz", "inputs = [x], target = y", "cross_entropy")
    assert isinstance(task.train[0], torch.Tensor)
