"""One command in several processes: the first prints, files are written once, an error is said once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from curvlang.cli import ranks as module
from curvlang.cli.main import run
from curvlang.cli.ranks import Ranks, ranks

TASK = "digits(hidden = [2], epochs = 1)"
SCORES = ["influence", "kfac", "--damping", "0.1", "--task", TASK]
PLACES = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}


def launched(arguments, folder, processes=2):
    """The command under `torchrun`: one thread a process."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [sys.executable, *launcher, "-m", "curvlang", *arguments],
        capture_output=True, text=True, cwd=folder, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CURVLANG_CACHE": str(folder / "cache")},
    )  # fmt: skip


def test_two_processes_write_and_print_what_one_does(tmp_path, monkeypatch, capsys):
    found = launched([*SCORES, "--out", "two.npy"], tmp_path)
    assert found.returncode == 0, found.stderr
    monkeypatch.chdir(tmp_path)
    assert run([*SCORES, "--out", "one.npy"]) == 0
    one, two = (np.load(tmp_path / f"{n}.npy") for n in ("one", "two"))
    assert np.abs(one - two).max() <= 1e-10 * np.abs(one).max()
    said = [x for x in found.stderr.splitlines() if x and not x.startswith("W1")]
    alone = capsys.readouterr().err.replace("one.npy", "two.npy").splitlines()
    assert [x for x in said if "OMP_NUM_THREADS" not in x and set(x) != {"*"}] == alone


def test_a_refusal_is_said_once_with_its_exit_code(tmp_path):
    found = launched(["influence", "nosuch"], tmp_path)
    assert found.returncode != 0
    assert found.stderr.count("error[E0110]") == 1
    assert "exitcode  : 2" in found.stderr


@pytest.mark.parametrize(("rank", "text"), [("0", "kfac: 1 curvature, no errors\n"), ("1", "")])
def test_a_command_that_does_not_compute_is_answered_by_the_first(rank, text, monkeypatch, capfd):
    for name, value in (PLACES | {"RANK": rank}).items():
        monkeypatch.setenv(name, value)
    assert run(["check", "kfac"]) == 0
    assert capfd.readouterr().out == text


def test_without_a_launcher_there_is_one_process(monkeypatch):
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    assert ranks() == Ranks()
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert ranks().size == 1


class World:
    """The keys of two processes, in one."""

    def __init__(self, keys):
        self.keys = keys

    def tell(self, key, value=""):
        self.keys.add(key)

    def told(self, key):
        return key in self.keys

    def claim(self, key):
        first = key not in self.keys
        self.keys.add(key)
        return first


def test_what_went_wrong_is_said_by_the_first_or_by_the_one_it_does_not_hear_of(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    for order in ((0, 1), (1,)):
        said, keys = [], set()
        for rank in order:
            Ranks(rank, 2, World(keys)).say(lambda rank=rank, said=said: said.append(rank))
        assert said == [order[0]]


def test_a_traceback_is_shown_by_one():
    keys = set()
    assert [Ranks(k, 2, World(keys)).raises() for k in (0, 1)] == [True, False]
    assert Ranks().raises()


def test_the_others_write_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("curvlang.cli.commands.influence.writes", lambda result: False)
    assert run([*SCORES, "--out", "x.csv"]) == 0
    assert not Path("x.csv").exists()
