"""Every test has a cache of its own, and Hypothesis no deadline."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="module")
def settings_of_the_process():
    """What a module leaves set for the whole process would decide over tests that come after it."""
    before = _settings()
    yield
    assert _settings() == before, "this module leaves a setting of the process changed"


def _settings():
    log = logging.getLogger("curvlang")
    return {
        "log": (logging.root.manager.disable, log.level, log.propagate, list(log.handlers)),
        "type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


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
