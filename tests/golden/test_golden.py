"""What `explain` prints, kept as text: a change shows in the review. `--rewrite-golden` renews it."""

from __future__ import annotations

from pathlib import Path

import pytest

import curvlang as cv
from tests.small import network, task

HERE = Path(__file__).parent


def compare(name: str, text: str, rewrite: bool) -> None:
    path = HERE / name
    if rewrite:
        path.write_text(text + "\n")
    assert path.read_text() == text + "\n"


@pytest.mark.parametrize("name", ["ekfac", "kfac_reduce", "diagonal"])
def test_explanation(name, request):
    given = task(network([3, 4, 2], "tanh"), "cross_entropy", n=6, positions=2, d_in=3)
    plan = cv.explain(name, given)
    # The memory of the model's own Hessian is not part of what is kept here.
    text = "\n".join(x for x in str(plan).splitlines() if "memory in" not in x)
    compare(f"explain_{name}.txt", text, request.config.getoption("--rewrite-golden"))


def test_latex(request):
    given = task(network([3, 4, 2], "tanh"), "cross_entropy", n=6)
    text = cv.explain("ekfac", given).latex()
    compare("explain_ekfac.tex", text, request.config.getoption("--rewrite-golden"))
