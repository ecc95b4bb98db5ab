"""What is read back from a file is what was written: structure, inverse, solver, scores and bytes."""

from __future__ import annotations

import random

import pytest
import torch

import curvlang as cv
from curvlang.language import shipped
from curvlang.operators import load_operator, save
from tests.operators.zoo import zoo
from tests.small import network
from tests.small import task as small

SPEC = """
inverse as_it_is(scale = 2): s -> scale * s
inverse bounded(low = 0.1): s -> if s < low then 1 / low else 1 / s
curvature factored = block_ggn |> kronecker_factor
curvature whole = ggn
evaluate factored with bounded(low = 0.3) on digits
evaluate whole with tikhonov(damping = 0.2) on digits { solve cg(preconditioner = factored, tolerance = 1e-10) }
"""
SHIPPED = [x.name for x in shipped() if x.kind == "curvature"]


def task():
    return small(network([3, 4, 3]), "cross_entropy")


def kept(op, folder):
    """The operator read back; what that writes is the same file."""
    first, second = folder / "first.safetensors", folder / "second.safetensors"
    op.save(first)
    again = cv.load_operator(first)
    again.save(second)
    assert first.read_bytes() == second.read_bytes()
    return again


def assert_same(again, op):
    assert repr(again) == repr(op)
    assert again.parameters == op.parameters
    assert again.rule == op.rule
    assert again.memory() == op.memory()
    assert torch.equal(again.dense(), op.dense())


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_curvature(name, tmp_path):
    own = task()
    op = cv.fit(name, own)
    again = kept(op, tmp_path)
    assert_same(again, op)
    assert torch.equal(cv.influence(again, own), cv.influence(op, own))


@pytest.mark.parametrize("curvature", ["factored", "whole"])
def test_inverse_and_solver_of_the_spec(curvature, tmp_path):
    own = task()
    op = cv.fit(cv.loads(SPEC), own, curvature=curvature)
    again = kept(op, tmp_path)
    assert_same(again, op)
    assert torch.equal(cv.influence(again, own), cv.influence(op, own))
    plain = cv.load_operator(tmp_path / "first.safetensors")
    plain.rule = plain.solver = None
    assert not torch.allclose(cv.influence(plain, own), cv.influence(op, own))
    if curvature == "whole":
        took = []
        again.inverse(report=took.append) @ torch.ones(op.shape[0], dtype=torch.float64)
        assert took
        assert (
            again.solver.text
            == op.solver.text
            == "cg(preconditioner = factored, tolerance = 1e-10)"
        )
        assert torch.equal(again.solver.preconditioner.dense(), op.solver.preconditioner.dense())


def test_inverses_that_the_spec_declares_are_known_by_name(tmp_path):
    own = task()
    for curvature in ("factored", "whole"):
        op = cv.fit(cv.loads(SPEC), own, curvature=curvature)
        g = torch.func.vmap(
            torch.func.grad(
                lambda p, x, y: own.loss.per_example(
                    torch.func.functional_call(own.model, p, (x[None],)), y[None]
                )[0]
            ),
            (None, 0, 0),
        )(dict(own.model.named_parameters()), *own.train)
        rows = torch.cat([v.detach().flatten(1) for v in g.values()], 1)
        for one in (op, kept(op, tmp_path)):
            found = cv.influence(one, own, inverse="as_it_is(scale = 3)")
            assert torch.allclose(found, 3 * rows[:3] @ op.dense() @ rows.T)
            with pytest.raises(cv.SpecError, match="E0712"):
                cv.influence(one, own, inverse="as_it_was(scale = 3)")


def test_an_unknown_name_is_marked_in_the_text_that_was_given():
    op = cv.fit(cv.loads(SPEC), task(), curvature="factored")
    with pytest.raises(cv.SpecError) as refused:
        cv.influence(op, task(), inverse="nothing(a = 1)")
    (label, *_) = refused.value.diagnostics[0].labels
    assert label.span.text == "nothing"
    assert label.span.source.text == "nothing(a = 1)"


@pytest.mark.parametrize("name", [n for n, op in zoo(0).items() if op.spectrum_known])
def test_every_structure(name, tmp_path):
    op = zoo(4)[name]
    save(op, tmp_path / "one", {"any": [1, "text"]})
    again, notes, others = load_operator(tmp_path / "one")
    save(again, tmp_path / "two", notes, others)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert notes == {"any": [1, "text"]}
    assert type(again) is type(op)
    assert again.memory() == op.memory()
    v = torch.linspace(-1, 1, op.size, dtype=torch.float64)
    assert torch.equal(again @ v, op @ v)


def test_any_byte_that_changes_is_noticed(tmp_path):
    path = tmp_path / "op.safetensors"
    cv.fit(cv.loads(SPEC), task(), curvature="whole").save(path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    drawn = random.Random(0)
    places = {*drawn.sample(range(header), 150), *drawn.sample(range(header, len(whole)), 50)}
    for place in places | {0, 7, 8, header - 1, header, len(whole) - 1}:
        changed = bytearray(whole)
        changed[place] ^= 1 << drawn.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(cv.SpecError, match="E0605"):
            cv.load_operator(path)
    for other in (whole[:-1], whole + b"\0", b"", whole[:header]):
        path.write_bytes(other)
        with pytest.raises(cv.SpecError, match="E0605"):
            cv.load_operator(path)
