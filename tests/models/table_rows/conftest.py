"""One small checkpoint for all tests of this room, and tables that leave nothing behind."""

from __future__ import annotations

import pytest

from tests.models.language_models.checkpoints import saved


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path
