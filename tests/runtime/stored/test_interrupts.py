"""Ctrl-C during a fit that is kept says where it goes on, and the same request does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import curvlang as cv
from tests.small import network, task

OWN = task(network([3, 4, 3]), "cross_entropy")


def test_what_is_fitted_is_kept_and_the_request_goes_on(tmp_path):
    setup = cv.Setup(store=Path(tmp_path / "s"))
    request = cv.fit_request("kfac", OWN, setup)

    def stop(name, done, total):
        if "pass" in name:
            raise KeyboardInterrupt

    with pytest.raises(cv.Interrupted, match=r"what is fitted so far is kept in `.*s`"):
        request.run(progress=stop)
    kept = cv.fit_request("kfac", OWN, setup).run(progress=False).operator
    assert torch.equal(kept.dense(), cv.fit("kfac", OWN).dense())
