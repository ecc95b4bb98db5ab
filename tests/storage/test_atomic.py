"""The one writer: permissions, links, threads, folders in the way, and what the system refuses."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from curvlang.diagnostics.diagnostic import MachineError, SpecError
from curvlang.evaluation.study.files import write_file
from curvlang.language.syntax.files import rewrite
from curvlang.operators import Diagonal, save
from curvlang.storage.atomic import Destination, probe, whole, write
from curvlang.storage.cache import Cache, default_root
from curvlang.storage.score_file import Scores, write_scores
from curvlang.storage.swap import write_folder

SCORES = Scores({"scores": np.ones((2, 3))}, ("query", "train"), {}, {})
WRITERS = {
    "file": lambda path: write(path / "x", b"x"),
    "cache": lambda path: Cache(path).put("abcd", "x", np.ones(2)),
    "operator": lambda path: save(Diagonal(torch.ones(2)), path / "x"),
    "sharded": lambda path: save(Diagonal(torch.ones(2)), f"{path}/x/"),
    "npy": lambda path: write_scores(path / "x.npy", SCORES),
    "safetensors": lambda path: write_scores(path / "x.safetensors", SCORES),
    "csv": lambda path: write_scores(path / "x.csv", SCORES),
    "parquet": lambda path: write_scores(path / "x.parquet", SCORES),
    "cell": lambda path: write_file(path / "cells/x.json", b"{}"),
    "folder": lambda path: write_folder(path / "x", {"inside/a": b"a", "b": b"b"}),
}


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("writer", WRITERS)
def test_permissions_are_those_that_the_umask_gives(writer, umask, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "umask", None)
        WRITERS[writer](tmp_path / "made")
    for place in (tmp_path / "made").rglob("*"):
        allowed = (0o777 if place.is_dir() else 0o666) & ~umask
        assert place.stat().st_mode & 0o777 == allowed, place


def test_a_spec_that_is_formatted_keeps_its_permissions(tmp_path):
    path = tmp_path / "mine.cv"
    path.write_text("old")
    path.chmod(0o640)
    rewrite(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o640)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link(there, tmp_path):
    target = tmp_path / "elsewhere/data.bin"
    if there:
        target.parent.mkdir()
        target.write_bytes(b"old")
    for name in ("link.npy", "link"):
        link = tmp_path / name
        link.symlink_to(target)
        write_scores(link, SCORES) if name.endswith("npy") else write(link, b"new")
        assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert [p.name for p in target.parent.iterdir()] == ["data.bin"]


def test_a_folder_of_that_name_stays(tmp_path):
    (tmp_path / "x/y").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write(tmp_path / "x", b"")
    with pytest.raises(SpecError, match=r"E0605.*it is a folder(.|\n)*x/`"):
        save(Diagonal(torch.ones(2)), tmp_path / "x")
    assert [p.name for p in tmp_path.rglob("*")] == ["x", "y"]


def test_writers_at_once_give_one_of_their_files(tmp_path):
    path = tmp_path / "x"
    contents = [bytes([k]) * 50_000 for k in range(8)]
    threads = [
        threading.Thread(target=lambda c=c: [write(path, c) for _ in range(10)]) for c in contents
    ]
    for thread in threads:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in threads):
        seen.add(path.read_bytes() if path.exists() else contents[0])
    for thread in threads:
        thread.join()
    assert seen <= set(contents)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize(
    ("thing", "code"),
    [
        ("scores", "E0585"),
        ("spec", "E0822"),
        ("folder", "E0905"),
        ("operator", "E0605"),
        ("cache", "E0803"),
    ],
)
def test_what_the_system_refuses_is_told(number, thing, code, tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"old")

    def refuse(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    full = number in (errno.ENOSPC, errno.EDQUOT)
    kind = MachineError if full or thing == "cache" else SpecError
    destination = Destination(tmp_path / "x", thing, "all is well")
    with pytest.raises(kind) as refused, destination.refusals(2048):
        write(tmp_path / "x", b"new")
    shown = str(refused.value)
    assert ("E0802" if full else code) in shown
    assert ("needs 2.0 KiB" if full else os.strerror(number)) in shown
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_an_interruption_leaves_what_was_there(tmp_path):
    write(tmp_path / "x", b"old")

    def interrupted():
        with whole(tmp_path / "x") as part:
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    script = (
        "import os, sys, pathlib; from curvlang.storage.atomic import whole\n"
        "with whole(pathlib.Path(sys.argv[1])) as part:\n"
        "    part.write_bytes(b'half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], check=False)
    assert [p.name.endswith(".partial") for p in tmp_path.iterdir()] == [True]
    probe(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.delenv("CURVLANG_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert default_root() == tmp_path / ".cache/curvlang"
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "big disk"))
        assert default_root() == tmp_path / "big disk/curvlang"
    # Kept by an earlier version: it is not lost.
    (tmp_path / ".cache/curvlang").mkdir(parents=True)
    assert default_root() == tmp_path / ".cache/curvlang"
    monkeypatch.setenv("CURVLANG_CACHE", "mine")
    assert str(default_root()) == "mine"
