"""Tensors that are one for all blocks of a stack: every verb is that of a stack that holds each block's own copy."""

from __future__ import annotations

import pytest
import torch

from curvlang.operators import (
    BlockDiagonal,
    Kronecker,
    Stacked,
    files,
    load_operator,
    save,
    stacked,
)
from curvlang.operators.movement import moved
from curvlang.operators.stacked import _filled, held_tensors
from curvlang.storage import tensors as stored
from curvlang.storage.repeated import again, of_once, once, repeats
from tests.operators.test_stacked import STACKING, VERBS, G, assert_close
from tests.operators.zoo import zoo

GENERATOR = torch.Generator().manual_seed(0)


def copies(op: Stacked) -> Stacked:
    """The same stack with every block's tensors in memory of their own."""
    units = (_filled(x, {id(t): t.clone() for t in held_tensors(x)}) for x in op.units())
    found = stacked(tuple(units))
    assert isinstance(found, Stacked)
    return found


def with_one_alike(name: str, place: int) -> Stacked:
    """A stack whose blocks have one of their tensors alike."""
    whole = stacked(tuple(zoo(seed)[name] for seed in range(G)))
    assert isinstance(whole, Stacked)
    held = held_tensors(whole.stack)
    alike = {id(x): again(x[:1].clone(), G) if k == place else x for k, x in enumerate(held)}
    found = Stacked(_filled(whole.stack, alike), G, whole.length)
    assert sum(map(repeats, held_tensors(found.stack))) == 1
    return found


def on_parts(op: Stacked) -> BlockDiagonal:
    return BlockDiagonal(tuple("abc"), (op,), (torch.arange(op.size),))


@pytest.mark.parametrize(
    ("name", "place"),
    [(name, k) for name in STACKING for k in range(len(held_tensors(zoo(0)[name])))],
)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_that_of_the_copies(name: str, verb: str, place: int) -> None:
    one = with_one_alike(name, place)
    held = copies(one)
    assert not any(map(repeats, held_tensors(held.stack)))
    assert_close(VERBS[verb](on_parts(one)), VERBS[verb](on_parts(held)))


def kronecker() -> Stacked:
    """[G, 2, 2] ⊗ [G, 3, 3] with one right factor."""
    left, right = (torch.randn(n, n, n, generator=GENERATOR).double() for n in (2, 3))
    right = right[0] @ right[0].T
    units = tuple(Kronecker(x @ x.T, right) for x in (left[0], left[1], left[0] + left[1]))
    found = stacked(units)
    assert isinstance(found, Stacked)
    return found


def test_blocks_that_share_a_tensor_stack_with_one() -> None:
    op = kronecker()
    assert isinstance(op.stack, Kronecker)
    assert (repeats(op.stack.left), repeats(op.stack.right)) == (False, True)
    assert op.memory() == 8 * (3 * 4 + 9)
    # Equal numbers in memory of their own are no one tensor: nothing is compared.
    assert not repeats(copies(op).stack.right)  # type: ignore[attr-defined]


def test_what_is_one_is_decomposed_once(monkeypatch) -> None:
    matrices = []
    plain = torch.linalg.eigh

    def counted(x):
        matrices.append(x.shape[:-2].numel() if x.ndim > 2 else 1)
        return plain(x)

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    inverse = kronecker().inverse(0.1)
    assert sorted(matrices) == [1, 3]
    assert isinstance(inverse, Stacked)
    assert repeats(inverse.stack.right)  # type: ignore[attr-defined]
    assert inverse.memory() == 8 * (3 * 4 + 9 + 3 * 6)


@pytest.mark.parametrize("path", ["x.safetensors", "x/"])
def test_it_is_written_once_and_read_as_one(path, tmp_path) -> None:
    for op in (kronecker(), kronecker().inverse(0.1)):
        save(op, f"{tmp_path}/{path}")
        found = load_operator(f"{tmp_path}/{path}")[0]
        assert isinstance(found, Stacked)
        assert torch.equal(found.dense(), op.dense())
        assert found.memory() == op.memory()
        sizes = [p.stat().st_size for p in tmp_path.rglob("*.safetensors")]
        assert sum(sizes) < op.memory() + 2048


def test_a_file_of_the_fourth_format_with_a_copy_for_every_block_is_read(tmp_path, monkeypatch):
    op = kronecker()
    with monkeypatch.context() as patch:
        patch.setattr(files, "FORMAT", 4)
        patch.setattr(stored, "repeats", lambda x: False)
        patch.setattr(stored, "once", torch.Tensor.contiguous)
        save(op, tmp_path / "x.safetensors")
    found = load_operator(tmp_path / "x.safetensors")[0]
    assert found.memory() > op.memory()
    assert torch.equal(found.dense(), op.dense())


def test_it_stays_one_in_another_precision() -> None:
    found = moved(kronecker(), torch.float32)
    assert found.memory() == 4 * (3 * 4 + 9)


def test_axes_in_another_order_are_kept(tmp_path) -> None:
    turned = again(torch.arange(6.0).reshape(2, 3).T[None], 4)
    kept, layout = stored.laid_out({"x": turned, "y": turned})
    assert kept["x"].numel() == 6
    found = stored.restored(kept, layout)
    for x in found.values():
        assert torch.equal(x, turned)
        assert x.stride() == turned.stride()


def test_functions_of_one_are_called_with_one() -> None:
    seen = []

    def function(x):
        seen.append(len(x))
        return 2 * x

    x = again(torch.ones(1, 3), 5)
    assert torch.equal(of_once(function, x), 2 * x)
    assert torch.equal(of_once(function, x.clone(memory_format=torch.contiguous_format)), 2 * x)
    assert seen == [1, 5]
    assert once(x).shape == (1, 3)
    assert not repeats(torch.ones(1, 3))
    assert not repeats(torch.tensor(1.0))
