"""What docs/scale.md shows is run as far as one machine goes, and its lines are written as it says."""

from __future__ import annotations

import re
import shlex
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from curvlang.cli.main import run

import curvlang as cv
from curvlang.models.data import derived_rows
from curvlang.reporting import scaling
from curvlang.runtime.progress import lines
from curvlang.runtime.progress.stages import Stages
from curvlang.workers.dask_workers import DaskWorkers
from tests.costs.test_scaling import RATES

TEXT = (Path(__file__).parents[2] / "docs/scale.md").read_text("utf-8")

STUDY = """
task tiny(epochs = 1) {
  data   diabetes
  model  mlp(hidden = [2])
  loss   mse
  train  sgd(lr = 0.01, batch = 16, epochs = epochs)
}

study tiny {
  task      tiny(epochs = few) for few in [1]
  path      ggn > kfac
  seeds     1
  damping   [1]
  protocol  subsets = 5, retrains = 1, bootstrap = 10
}
"""


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_prediction_has_the_rows_that_are_shown(capsys, monkeypatch):
    # On this small task computing and sending take about as long: with rates that are measured, either
    # is the bottleneck.
    monkeypatch.setattr(scaling, "measured_rates", lambda device, policy: RATES)
    (command,) = blocks("sh")
    _, *arguments = shlex.split(command)
    assert run(arguments) == 0
    said = capsys.readouterr().out
    shown = next(x for x in blocks("text") if x.startswith("Prediction")).splitlines()
    assert shown[0] in said
    assert shown[1] in said
    found = said[said.index("Prediction") :].splitlines()
    for line in shown[2:]:
        first = re.split(r"\s{2,}", line.strip())[0].split(" in `")[0]
        first = re.sub(r"[\d.]+ (ms|s)\b.*", "", first)
        assert any(x.strip().startswith(first) for x in found), line


def test_the_jobs_command_runs_in_one_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in blocks("bash")[:2]:
        _, arguments = text.replace("\\\n", " ").split("-m curvlang ")
        small = ["--task", "digits(hidden = [2], epochs = 1)", "--quiet"]
        assert run([*shlex.split(arguments), *small]) == 0
        assert np.load("scores.npy").shape == (180, 1617)
        Path("scores.npy").unlink()


def test_the_store_is_filled_and_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (text,) = blocks("console")
    for line in text.splitlines():
        _, *arguments = shlex.split(line)
        assert run([*arguments, "--task", "digits(hidden = [2], epochs = 1)"]) == 0, line
    assert "finished" in capsys.readouterr().out
    kept = cv.load_operator("fits/ekfac")
    assert np.load("scores.npy").shape == (180, 1617)
    assert kept.shape == (64 * 2 + 2 * 10,) * 2


def test_workers_do_what_it_says(tmp_path, monkeypatch, capsys):
    """With one worker for all lines, which each of them finds by its address."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path / "cache"))
    Path("depth.cv").write_text(STUDY)
    workers = DaskWorkers(1)
    workers._connected()
    address = workers._local.cluster.scheduler_address
    small = {"eval": ["--task", "diabetes(hidden = [2], epochs = 1)", "--quick"], "study": []}
    (text,) = blocks("shell")
    for line in text.splitlines():
        said = re.sub(r"--workers 4|--scheduler \S+", f"--scheduler {address}", line)
        _, name, *arguments = shlex.split(said.replace(" depth ", " depth.cv "))
        assert address in arguments, line
        assert run([name, *arguments, *small[name]]) == 0, line
    workers.close()
    said = capsys.readouterr().err
    assert "retrained 60 models, 0 from the cache" in said
    assert "retrained 0 models, 60 from the cache" in said
    assert "cell 1 of 1" in said


@pytest.mark.parametrize("held", [None, 0], ids=["read once", "read by batches"])
def test_data_that_stays_on_disk_is_read_as_it_says(held, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if held is not None:
        monkeypatch.setattr(derived_rows, "HELD", held)
    scope: dict[str, object] = {}
    for code in blocks("python"):
        exec(code, scope)


def test_the_line_of_a_log_is_the_one_that_is_shown(monkeypatch):
    class Day(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 3, 1, 14, 0, 22)

    monkeypatch.setattr(lines, "datetime", Day)
    stages = Stages(0.0)
    stages.report(0.0, "pass 1", 0, 5000)
    stage = stages.report(34.0, "pass 1", 1200, 5000)
    assert lines.line("curvlang fit, rank 0 of 4", stages, stage, 34.0) + "\n" in blocks("text")


def test_a_day_has_as_many_lines_as_it_says():
    now, count = 0.0, 0
    while now < 24 * 3600:
        now += lines.pause(now)
        count += 1
    assert 140 < count < 165
