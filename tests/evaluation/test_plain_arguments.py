"""Plain arguments of every public function pass one table, before anything else is looked at."""

from __future__ import annotations

import inspect
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch

import curvlang as cv
from curvlang.diagnostics.plain_arguments import ARGUMENTS
from tests.models.support import assert_refused
from tests.small import network, task

OTHERS = {("LDS", "seed"), ("LDS", "bootstrap")}
"""Parameters of a spec's line: the table of the language has them."""
NOT_PLAIN = {("Task", "train"), ("coverage", "task")}
"""Names that mean data there."""


def public():
    """Every public function and dataclass with the arguments that have a rule."""
    for name in cv.__all__:
        made = getattr(cv, name)
        if inspect.isfunction(made):
            names = inspect.signature(made).parameters
        elif (
            is_dataclass(made) and name in ("Setup", "Scoring", "EvaluationSettings")
        ) or name in ("TaskSource", "StudyRequest"):
            names = [x.name for x in fields(made)]
        else:
            continue
        yield from ((name, x) for x in names if x in ARGUMENTS)


@pytest.mark.parametrize(("name", "argument"), sorted(set(public()) - NOT_PLAIN - OTHERS))
def test_every_plain_argument_is_looked_at_first(name, argument):
    function = getattr(cv, name)
    given = {
        n: object()
        for n, p in inspect.signature(function).parameters.items()
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    }
    if "setup" in given:
        given["setup"] = cv.Setup()
    if name == "fit":
        given["task"] = task(network([3, 4, 3]), "cross_entropy")
    with pytest.raises(cv.SpecError) as caught:
        function(**(given | {argument: object()}))
    assert caught.value.diagnostics[0].code == "E0563"
    assert f"`{argument}`" in caught.value.diagnostics[0].headline


REFUSED = {
    "a negative seed": (lambda: cv.Setup(seed=-1), "E0874", "0 or more"),
    "a seed beyond 64 bits": (lambda: cv.Setup(seed=2**64), "E0874", "at most"),
    "a truth value": (lambda: cv.Setup(seed=True), "E0563", "integer"),
    "half a precision": (lambda: cv.Setup(dtype=torch.float16), "E0563", "torch.float64"),
    "half of a task": (lambda: cv.task("digits", dtype=torch.bfloat16), "E0563", "torch.float64"),
    "a device of no machine": (lambda: cv.Setup(device="tpu"), "E0610", "`cpu`"),
    "an amount of no unit": (lambda: cv.Setup(memory="lots"), "E0804", "GiB"),
    "one resample": (lambda: cv.lds([[1.0]], [[1]], [[1.0]], bootstrap=1), "E0874", "2 or more"),
    "a level of 1": (lambda: cv.lds([[1.0]], [[1]], [[1.0]], level=1), "E0874", "between 0 and 1"),
    "no laws' examples": (lambda: cv.check_laws("kfac", examples=0), "E0874", "1 or more"),
    "an empty name": (lambda: cv.fit("kfac", T, curvature=""), "E0563", "`curvature`"),
    "passes in float16": (lambda: cv.fit("kfac", T, dtype=torch.float16), "E0563", "float32"),
    "a cache in a number": (lambda: cv.Cache(5), "E0563", "folder"),
    "words as a number": (lambda: cv.search(5), "E0563", "words"),
    "groups as a number": (lambda: cv.influence(OP, T, groups=5), "E0591", "for every query"),
    "reduced, no groups": (lambda: cv.influence(OP, T, reduce="mean"), "E0591", "add `groups`"),
    "products of a name": (lambda: cv.influence(OP, T, products="x"), "E0563", "bfloat16"),
    "queries of a name": (lambda: cv.top(S, queries=["a"]), "E0563", "`queries`"),
}
T = task(network([3, 4, 3]), "cross_entropy")
OP = cv.fit("kfac", T)
S = torch.zeros(3, 7)


@pytest.mark.parametrize("name", REFUSED)
def test_what_nothing_can_be_computed_with_is_refused(name):
    call, code, repair = REFUSED[name]
    assert_refused(code, call, repair)


def test_numbers_of_numpy_and_torch_are_numbers():
    for three in (np.int64(3), torch.tensor(3)):
        assert cv.Setup(seed=three).seed == 3
        assert type(cv.Setup(seed=three).seed) is int
        found = cv.fit("ekfac_mc", T, seed=three)
        assert torch.equal(found.dense(), cv.fit("ekfac_mc", T, seed=3).dense())
    assert cv.Scoring(per_layer=np.True_).per_layer is True
    drawn = cv.lds(
        np.eye(3, 6), np.eye(4, 6) > 0, np.eye(4, 3), bootstrap=np.int32(9), seed=np.int8(2)
    )
    assert drawn.interval.has_ends


def test_a_task_in_half_precision_is_fitted_in_its_own():
    half = T.to(dtype=torch.float16)
    same = cv.fit("kfac", half, dtype=torch.float16)
    assert torch.equal(same.dense(), cv.fit("kfac", half).dense())
