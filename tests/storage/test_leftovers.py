"""Hidden names and locks: what a living process works on stays, whatever the name is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from curvlang.storage.leftovers import belongs_to, clear, hidden_name, locked, remove


@pytest.mark.parametrize("name", ["scores.npy", "x" * 250, "ü" * 120, "a[b]*.csv", "."])
def test_hidden_names_belong_to_their_target(name, tmp_path):
    target = tmp_path / name / "y" if name == "." else tmp_path / name
    hidden = hidden_name(target)
    hidden.parent.mkdir(exist_ok=True)
    hidden.write_text("half")
    assert belongs_to(target)(hidden.name)
    assert not belongs_to(target)(target.name)
    assert not belongs_to(Path(f"{target}x"))(hidden.name)
    clear(hidden.parent, belongs_to(target))
    assert not hidden.exists()


def test_a_lock_is_held_once_and_given_back(tmp_path):
    with locked(tmp_path) as first, locked(tmp_path) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path) as third, locked(tmp_path / "none") as fourth:
        assert (third, fourth) == (True, False)


def test_a_lock_ends_with_the_process_that_held_it(tmp_path):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with locked(tmp_path):
            os.write(write, b"held")
            os.read(os.pipe()[0], 1)
    assert os.read(read, 4) == b"held"
    with locked(tmp_path) as held:
        assert not held
    os.kill(child, 9)
    os.waitpid(child, 0)
    with locked(tmp_path) as held:
        assert held


def test_removal_follows_no_link(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "link")
    remove(tmp_path / "none")
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept/file").exists()
