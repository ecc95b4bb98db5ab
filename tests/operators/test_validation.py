"""Every structure refuses, where it is made, what its verbs would answer wrongly."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import curvlang as cv
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.operators import (
    BlockDiagonal,
    Dense,
    Diagonal,
    EigenBasis,
    Identity,
    Kronecker,
    Operator,
    PerOutput,
    Projected,
    Scaled,
    Stacked,
    Sum,
    stacked,
    validation,
)
from curvlang.operators.movement import moved
from tests.operators.zoo import NAMES, zoo
from tests.small import network, task


def made(operator, **other):
    """The structure, with other values of some fields."""
    own = {f.name: getattr(operator, f.name) for f in fields(operator)}
    return type(operator)(**{**own, **other})


def replaced(value, position, change):
    """A field's value with one of its tensors changed."""
    if isinstance(value, tuple):
        return tuple(change(x) if k == position else x for k, x in enumerate(value))
    return change(value)


def tensors_of(operator):
    """Name, position in the field, and each tensor that a structure holds itself."""
    for field in fields(operator):
        value = getattr(operator, field.name)
        for k, x in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(x, Tensor):
                yield field.name, k, x


LONGER = {
    "one more along an axis": lambda x, axis: torch.cat([x, x.narrow(axis, 0, 1)], axis),
    "one less along an axis": lambda x, axis: x.narrow(axis, 0, x.shape[axis] - 1),
}


def repeated(op, field, axis):
    """Whether another part repeats the length of an axis; else another length is another operator."""
    letters = "".join(axes for name, axes in op.axes.items() if getattr(op, name) is not None)
    if field not in op.axes:
        return True
    letter = op.axes[field][axis]
    inner = op.structure == "Projected" and None not in (op.left, op.right) and letter in "MK"
    return inner or letters.count(letter) > 1


@pytest.mark.parametrize("change", LONGER.values(), ids=LONGER)
@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_of_another_shape_is_refused(name, change):
    op = zoo(2)[name]
    for field, k, x in tensors_of(op):
        for axis in range(x.ndim):
            if x.shape[axis] < 2 or not repeated(op, field, axis):
                continue
            other = replaced(getattr(op, field), k, lambda t, axis=axis: change(t, axis))
            with pytest.raises(SpecError, match="E0611"):
                made(op, **{field: other})


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_with_another_number_of_axes_is_refused(name):
    op = zoo(2)[name]
    for field, k, x in tensors_of(op):
        for other in (x.unsqueeze(0), *([x[0]] if x.ndim else [])):
            with pytest.raises(SpecError, match="E0611"):
                made(op, **{field: replaced(getattr(op, field), k, lambda _, x=other: x)})


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_elsewhere_or_in_another_precision_is_refused(name):
    op = zoo(2)[name]
    held = list(op.held())
    for field, k, x in tensors_of(op):
        if len(held) < 2:
            continue
        changes = [lambda t: t.to("meta")]
        if x.is_floating_point():
            changes.append(lambda t: t.float())
        for change in changes:
            with pytest.raises(SpecError, match=r"E0611.* has parts (on|in) "):
                made(op, **{field: replaced(getattr(op, field), k, change)})


@pytest.mark.parametrize("name", NAMES)
def test_what_is_right_is_made_again(name):
    op = zoo(2)[name]
    again = made(op)
    assert (again.size, again.dtype, again.device) == (op.size, op.dtype, op.device)
    assert (op.size, op.dtype, op.device) == (12, torch.float64, torch.device("cpu"))


def eye(n, dtype=torch.float64):
    return Dense(torch.eye(n, dtype=dtype))


def at(*positions):
    return tuple(torch.tensor(p) for p in positions)


INDICES = {
    "an entry without a block": (at([0, 1], [1, 2]), "leaves 1 of 4"),
    "outside": (at([0, 1], [2, 4]), "outside 0…3"),
    "from the end": (at([0, 1], [2, -1]), "outside 0…3"),
    "too few": (at([0, 1], [2]), "blocks of sizes"),
    "a matrix of positions": (at([[0, 1]], [2, 3]), "blocks of sizes"),
    "truth values": (at([True, False], [True, True]), "torch.bool"),
    "one index": (at([0, 1, 2, 3]), "blocks of sizes"),
}


@pytest.mark.parametrize(("index", "why"), INDICES.values(), ids=INDICES)
def test_an_index_that_does_not_cover_the_vector_once_is_refused(index, why):
    with pytest.raises(SpecError, match="E0611") as caught:
        BlockDiagonal(("x", "y"), (eye(2), eye(2)), index)
    assert why in str(caught.value)


MADE = {
    "a rectangular factor": lambda: Kronecker(torch.zeros(2, 3), torch.zeros(4, 4)),
    "names of other blocks": lambda: BlockDiagonal(("x",), (eye(1), eye(1)), at([0], [1])),
    "no block": lambda: BlockDiagonal((), (), ()),
    "no term": lambda: Sum(()),
    "terms of two sizes": lambda: Sum((eye(2), eye(3))),
    "a spectrum for no basis": lambda: EigenBasis(torch.eye(2), None, torch.zeros(3, 2)),
    "another axis": lambda: PerOutput(torch.zeros(2, 3, 3), "outputs"),
    "no basis": lambda: Projected(eye(2), None, None, torch.zeros(()).double()),
    "a wide basis": lambda: Projected(eye(6), torch.zeros(2, 3).double(), torch.zeros(4, 2).double(), torch.zeros(()).double()),
    "another inner size": lambda: Projected(eye(5), torch.zeros(4, 2).double(), torch.zeros(4, 2).double(), torch.zeros(()).double()),
    "a side left over": lambda: Projected(eye(5), torch.zeros(4, 2).double(), None, torch.zeros(()).double()),
    "a length of nothing": lambda: Identity(torch.ones(()), 0),
    "other groups": lambda: Stacked(stacked([eye(2), eye(2)]).stack, 3, 2),
    "other rows": lambda: Stacked(stacked([eye(2), eye(2)]).stack, 2, 3),
    "one block": lambda: Stacked(eye(2), 2, 2),
}  # fmt: skip


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_parts_that_do_not_fit_are_refused(make):
    with pytest.raises(SpecError, match="E0611"):
        make()


def test_terms_of_a_sum_may_be_in_several_precisions():
    total = Sum((eye(2, torch.float32), eye(2)))
    v = torch.ones(2)
    assert torch.equal(total @ v, 2 * v)


def test_products_need_the_same_device_and_not_only_the_same_kind():
    with FakeTensorMode(allow_non_fake_inputs=True):
        here, there = (torch.ones(3, 1, device=f"cuda:{k}") for k in (0, 1))
        op = Identity(torch.ones((), device="cuda:0"), 3)
        assert (op @ here).device == here.device
        with pytest.raises(SpecError, match="E0606"):
            op @ there
        with pytest.raises(SpecError, match=r"E0611.*cuda:0 and cuda:1"):
            Sum((op, Diagonal(there.reshape(3))))
        index = torch.arange(3, device="cuda:1")
        with pytest.raises(SpecError, match=r"E0611.*cuda:0 and cuda:1"):
            BlockDiagonal(("x",), (op,), (index,))


def test_every_structure_of_the_zoo_is_covered():
    assert {op.structure for op in zoo(2).values()} == {
        kind.structure for kind in _leaves(Operator) if kind.__module__.startswith("curvlang")
    } - {"Stacked", "ConjugateGradients", "Neumann", "Arnoldi"}


def _leaves(kind):
    below = kind.__subclasses__()
    return [kind] if not below else [x for b in below for x in _leaves(b)]


def nan(*shape):
    return torch.full(shape, float("nan"), dtype=torch.float64)


SKEW = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=torch.float64)
VALUES = {
    "integers": (lambda: Dense(torch.eye(3, dtype=torch.int64)), "E0870", "int64"),
    "half precision": (lambda: Diagonal(torch.ones(3).half()), "E0870", "float16"),
    "an array": (lambda: Dense(torch.eye(2).numpy()), "E0870", "`ndarray`"),
    "no field": (lambda: Kronecker(None, torch.eye(2)), "E0870", "`NoneType`"),
    "no term": (lambda: Sum((eye(2), None)), "E0870", "`NoneType`"),
    "a matrix for an operator": (lambda: Sum((torch.eye(2), torch.eye(2))), "E0870", "`Tensor`"),
    "a name for names": (lambda: BlockDiagonal("x", (eye(1),), at([0])), "E0870", "`str`"),
    "a text for a number": (lambda: Scaled("2", eye(2)), "E0870", "`factor`"),
    "a factor of nothing": (lambda: Scaled(float("nan"), eye(2)), "E0607", "`factor`"),
    "entries of nothing": (lambda: Dense(nan(2, 2)), "E0607", "`matrix`"),
    "an infinite entry": (
        lambda: Diagonal(torch.tensor([1.0, float("inf")])),
        "E0607",
        "`entries`",
    ),
    "a basis of nothing": (lambda: EigenBasis(nan(2, 2), None, eye(2).matrix), "E0607", "`left`"),
    "half a matrix": (lambda: Dense(SKEW), "E0871", "by up to 2"),
    "half a factor": (lambda: Kronecker(eye(2).matrix, SKEW), "E0871", "`right`"),
    "half a block": (lambda: PerOutput(torch.stack([eye(2).matrix, SKEW])), "E0871", "`blocks`"),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_that_no_verb_has_an_answer_for_are_refused(name):
    make, code, word = VALUES[name]
    with pytest.raises(SpecError, match=code) as caught:
        make()
    assert word in str(caught.value)
    assert caught.value.diagnostics[0].help


def test_what_rounding_makes_asymmetric_is_taken():
    noisy = torch.eye(3) + 1e-6 * torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    assert Dense(noisy).size == 3
    large = torch.full((2,), 1.7e308, dtype=torch.float64)
    assert Diagonal(large).size == 2


def test_lists_are_tuples():
    whole = BlockDiagonal(["x", "y"], [eye(2), eye(2)], list(at([0, 1], [2, 3])))
    assert isinstance(whole.parts, tuple)
    assert torch.equal(Sum([whole, whole]).dense(), 2 * torch.eye(4, dtype=torch.float64))


def test_the_engine_reads_no_entry_twice(monkeypatch):
    """A fit, its inverse and its scores make operators of numbers that are known."""
    own = task(network([3, 4, 3]), "cross_entropy")
    # Rooms that are imported late take the function with its own name before it is replaced here.
    cv.influence(cv.fit("ekfac", own), own, damping=0.1)
    monkeypatch.setattr(validation, "all_finite", lambda _: pytest.fail("entries are read"))
    op = cv.fit("ekfac", own)
    assert cv.influence(op, own, damping=0.1).shape == (3, 7)
    op.inverse(0.1)
    monkeypatch.undo()


@pytest.mark.parametrize("spec", ["diagonal", "kfac", "ekfac", "block_ggn", "identity"])
@pytest.mark.parametrize("factor", [1e50, 1e-60])
def test_numbers_that_float32_does_not_hold_are_refused(spec, factor):
    """Of the factor alone, of a part, and of products of parts."""
    op = factor * cv.fit(spec, task(network([3, 4, 3]), "cross_entropy"))
    with pytest.raises(SpecError, match="E0872") as caught:
        op.to(torch.float32)
    assert "float64" in str(caught.value)
    back = ((1 / factor) * op).to(torch.float32)
    assert abs(float(back.trace()) * factor / float(op.trace()) - 1) < 1e-5


def test_products_of_factors_that_float32_does_not_hold():
    left, right = 1e25 * eye(2).matrix, 1e25 * eye(3).matrix
    with pytest.raises(SpecError, match="E0872"):
        moved(Kronecker(left, right), torch.float32)
    assert float(moved(Kronecker(left, right / 1e20), torch.float32).trace()) > 0
