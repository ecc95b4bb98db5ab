"""Which process this is, by what a launcher has told it."""

from __future__ import annotations

import os

import pytest

from curvlang.runtime.processes.launch import NAMES, announced, forget, launched, local_rank
from curvlang.runtime.progress.display import place


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in (*NAMES, "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "3"}, (1, 3)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1)),
        ({"RANK": "x", "WORLD_SIZE": "3"}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": ""}, (0, 1)),
        ({"WORLD_SIZE": "3"}, (0, 3)),
    ],
)
def test_what_is_announced(given, found, monkeypatch):
    for name, text in given.items():
        monkeypatch.setenv(name, text)
    assert announced() == place() == found
    assert not launched()  # where they meet is not known


def test_a_launched_process_knows_where_to_meet_and_may_forget_it(monkeypatch):
    given = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }
    for name, text in given.items():
        monkeypatch.setenv(name, text)
    assert launched()
    assert local_rank() == 1
    forget()
    assert (announced(), launched(), local_rank()) == ((0, 1), False, None)
    assert "MASTER_ADDR" in os.environ
