"""What is read back from a file is what was written: structure, inverse, solver, scores and bytes."""

from __future__ import annotations

import random

import pytest
import torch

import curvlang as cv
from curvlang.language import shipped
from curvlang.operators import (
    BlockDiagonal,
    Dense,
    EigenBasis,
    StoredBlocks,
    Sum,
    load_operator,
    save,
    stacked,
)
from curvlang.operators.files import to_tree
from curvlang.storage import tensor_folder
from curvlang.storage.tensor_folder import read_sealed_folder, write_sealed_folder
from curvlang.storage.tensors import read_sealed, write_sealed
from tests.operators.zoo import zoo
from tests.small import network
from tests.small import task as small
from tests.storage.crashes import content

SPEC = """
inverse as_it_is(scale = 2): s -> scale * s
inverse bounded(low = 0.1): s -> if s < low then 1 / low else 1 / s
curvature factored = block_ggn |> kronecker_factor
curvature whole = ggn
evaluate factored with bounded(low = 0.3) on digits
evaluate whole with tikhonov(damping = 0.2) on digits { solve cg(preconditioner = factored, tolerance = 1e-10) }
"""
SHIPPED = [
    x.name
    for x in shipped()
    if x.kind == "curvature" and not x.name.endswith("_by_head") and x.name != "datainf"
]
"""The model below has no heads; an inverse that is applied to examples does not lie in a file (E0263)."""


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


def kept_in_folders(op, folder):
    """The same by a folder of files."""
    op.save(f"{folder}/first/")
    again = cv.load_operator(folder / "first")
    again.save(f"{folder}/second/")
    assert content(folder / "first") == content(folder / "second")
    assert len(content(folder / "first")) > len(getattr(op.operator, "parts", op.blocks))
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
    for again in (kept(op, tmp_path), kept_in_folders(op, tmp_path)):
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
    save(op, f"{tmp_path}/many/", {"any": [1, "text"]})
    apart, _, _ = load_operator(tmp_path / "many")
    v = torch.linspace(-1, 1, op.size, dtype=torch.float64)
    for found in (again, apart):
        assert to_tree(found, "x", {}) == to_tree(op, "x", {})
        assert found.memory() == op.memory()
        assert torch.equal(found @ v, op @ v)
        assert torch.equal(found.inverse(0.317) @ v, op.inverse(0.317) @ v)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0)])
def test_axes_lie_in_memory_as_they_did(axes, tmp_path):
    held = torch.arange(24.0).reshape(2, 3, 4).permute(axes)
    write_sealed(tmp_path / "x", {"a.x": held, "a.y": held, "b.z": held.mT}, {})
    write_sealed_folder(tmp_path / "y", {"a.x": held, "a.y": held, "b.z": held.mT}, {})
    for found, _ in (read_sealed(tmp_path / "x"), read_sealed_folder(tmp_path / "y")):
        assert torch.equal(found["a.x"], held)
        assert found["a.x"].stride() == held.stride()
        assert found["a.y"] is found["a.x"]
        assert torch.equal(found["b.z"], held.mT)


def test_blocks_are_read_one_at_a_time(tmp_path, monkeypatch):
    one = [Dense(torch.eye(2) * k) for k in range(1, 4)]
    places = (torch.tensor([0, 1, 4, 5]), torch.tensor([2, 3]))
    op = BlockDiagonal(("a", "c", "b"), (stacked([one[0], one[2]]), one[1]), places)
    save(op, f"{tmp_path}/op/")
    asked = []
    read = tensor_folder.tensors_in
    monkeypatch.setattr(
        tensor_folder, "tensors_in", lambda path: asked.append(path.name) or read(path)
    )
    blocks = StoredBlocks(tmp_path / "op")
    assert (list(blocks), len(blocks), asked) == (["a", "c", "b"], 3, [])
    for name, scale in (("a", 1), ("b", 2), ("c", 3)):
        assert torch.equal(blocks[name].dense(), scale * torch.eye(2))
    assert asked == [
        "op.parts.0.stack.safetensors",
        "op.parts.1.safetensors",
        "op.parts.0.stack.safetensors",
    ]
    with pytest.raises(KeyError):
        blocks["d"]
    save(one[2], f"{tmp_path}/op/")
    assert torch.equal(StoredBlocks(tmp_path / "op")["model"].dense(), 3 * torch.eye(2))
    (tmp_path / "op/op.safetensors").unlink()
    with pytest.raises(cv.SpecError, match=r"E0605.*op\.safetensors"):
        StoredBlocks(tmp_path / "op")["model"]


def test_any_byte_of_a_folder_that_changes_is_noticed(tmp_path):
    folder, other = tmp_path / "op", tmp_path / "other"
    cv.fit("ekfac", task()).save(f"{folder}/")
    cv.fit("kfac", task()).save(f"{other}/")
    drawn = random.Random(0)
    files = sorted(folder.iterdir())

    def damaged(file, content):
        whole = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(cv.SpecError, match="E0605"):
            cv.load_operator(folder)
        file.write_bytes(whole)

    for file in files:
        whole = file.read_bytes()
        for place in drawn.sample(range(len(whole)), 40):
            changed = bytearray(whole)
            changed[place] ^= 1 << drawn.randrange(8)
            damaged(file, changed)
        for other_bytes in (whole[:-1], whole + b"\0", b"", files[0].read_bytes()[::-1]):
            damaged(file, other_bytes)
        swapped = files[(files.index(file) + 1) % len(files)].read_bytes()
        damaged(file, swapped)
        theirs = other / file.name
        if theirs.exists() and theirs.read_bytes() != whole:
            damaged(file, theirs.read_bytes())
        file.rename(tmp_path / "away")
        with pytest.raises(cv.SpecError, match="E0605"):
            cv.load_operator(folder)
        (tmp_path / "away").rename(file)
    cv.load_operator(folder)


def test_folders_and_files_of_others_stay(tmp_path):
    op = cv.fit("kfac", task())
    for name, file in (("mine", "thesis.tex"), ("tensors", "x.safetensors")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("mine")
        with pytest.raises(cv.SpecError, match="E0605"):
            op.save(f"{tmp_path / name}/")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(cv.SpecError, match=r"E0605.*it is a file"):
        op.save(f"{tmp_path / 'file'}/")
    assert {p.read_text() for p in tmp_path.rglob("*") if p.is_file()} == {"mine"}


def test_paths_that_are_none(tmp_path):
    op = cv.fit("kfac", task())
    for path in (None, 3, b"x"):
        with pytest.raises(cv.SpecError, match=r"E0563.*`path`"):
            op.save(path)
        with pytest.raises(cv.SpecError, match=r"E0563.*`path`"):
            cv.load_operator(path)
    for path in (tmp_path / ("x" * 300), f"{tmp_path}/{'x' * 300}/", "/proc/x", "/proc/x/"):
        for asked in (op.save, cv.load_operator):
            with pytest.raises(cv.SpecError, match="E0605"):
                asked(path)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "data")
    op.save(link)
    assert link.is_symlink()
    assert torch.equal(cv.load_operator(tmp_path / "data").dense(), op.dense())


@pytest.mark.parametrize(
    "text",
    [
        {"format": 99, "trees": {}, "notes": {}},
        {"trees": {}, "notes": {}},
        {"format": 3, "notes": {}},
        {"format": 3, "trees": {"op": 3}, "notes": {}},
        {"format": 3, "trees": {"op": {"kind": "Dense", "scale": 2}}, "notes": {}},
        {"format": 2, "trees": {}, "notes": {}},
        {"format": 3, "trees": {"op": {"kind": "None"}}, "notes": {}},
        {"format": 3, "trees": {"op": {"kind": "Dense", "matrix": {"tensor": "x"}}}, "notes": {}},
        {
            "format": 3,
            "trees": {"op": {"kind": "Dense", "matrix": {"tensor": "op.matrix"}}},
            "notes": {"label": 1},
        },
    ],
)
def test_a_sealed_text_that_no_operator_wrote(text, tmp_path):
    held = {"op.matrix": torch.eye(2)}
    write_sealed(tmp_path / "x", held, text)
    write_sealed_folder(tmp_path / "y", held, text)
    for path in ("x", "y"):
        with pytest.raises(cv.SpecError, match="E0605"):
            cv.load_operator(tmp_path / path)
    if text.get("format") == 99:
        with pytest.raises(cv.SpecError, match="has format 99, and this version of curvlang reads"):
            cv.load_operator(tmp_path / "x")


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


@pytest.mark.parametrize("count", [1, 2])
def test_a_basis_that_two_files_share_is_one(count, tmp_path):
    """A sum of two curvatures in one eigenbasis stays in it, also where each came from its own file."""
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    bases = [(torch.linalg.qr(draw(3, 3)).Q, torch.linalg.qr(draw(2, 2)).Q) for _ in range(count)]
    found = []
    for name in "ab":
        blocks = [EigenBasis(u, v, draw(3, 2).square()) for u, v in bases]
        op = blocks[0] if count == 1 else stacked(blocks)
        save(op, tmp_path / name)
        found += [op, load_operator(tmp_path / name)[0]]
    first, first_read, second, second_read = found
    inverses = [
        one.each(lambda *x: Sum(x).spectral_form(), other).inverse(0.1)
        for one, other in ((first, second), (first_read, second_read), (first, second_read))
    ]
    wanted = (first.dense() + second.dense() + 0.1 * torch.eye(6 * count)).inverse()
    for inverse in inverses:
        assert isinstance(inverse if count == 1 else inverse.stack, EigenBasis)
        assert torch.equal(inverse.dense(), inverses[0].dense())
        assert torch.allclose(inverse.dense(), wanted)
