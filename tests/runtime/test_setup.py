"""Each process of a machine has a GPU of its own."""

from __future__ import annotations

import torch

from curvlang.runtime import setup
from curvlang.runtime.setup import Setup


def test_a_process_takes_the_gpu_of_its_local_rank(monkeypatch):
    monkeypatch.setattr(setup, "usable", torch.device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert Setup.named().device == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert Setup.named().device == Setup.named("cuda").device == torch.device("cuda:3")
    assert Setup.named("cuda:1").device == torch.device("cuda:1")
    assert Setup.named("cpu").device == torch.device("cpu")
