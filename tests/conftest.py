"""Every test has a cache of its own, and Hypothesis no deadline."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    parser.addoption("--rewrite-golden", action="store_true", help="renew tests/golden")
    parser.addoption(
        "--programs", type=int, default=40, help="random tensor programs to compile and compare"
    )
    parser.addoption(
        "--fuzz", type=int, default=300, help="random inputs to the parser, checker and formatter"
    )


@pytest.fixture(scope="module")
def one_thread():
    """Workers have one thread each in tests; bits are the same where the number of threads is."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
