"""A store of scores: what is written stays, what is half written does not count, others are refused."""

from __future__ import annotations

import errno
from dataclasses import replace

import numpy as np
import pytest
import zarr

import curvlang as cv
from curvlang.storage import score_store
from curvlang.storage.arrays import npy_parts
from curvlang.storage.score_layout import StoreLayout
from curvlang.storage.score_store import check_content, check_store, known, opened

LAYOUT = StoreLayout(
    ("0.weight", "a/b"), (5, 10), (3, 4), ("query", "train"), "float64", {"metric": "loss"}, {}
)


@pytest.fixture(params=["here", "elsewhere"])
def place(request, tmp_path):
    """A folder, and an address of fsspec."""
    return {"here": tmp_path / "x.zarr", "elsewhere": f"memory://{tmp_path.name}/x.zarr"}[
        request.param
    ]


def numbers(chunk, seed=0):
    shape = [s.stop - s.start for s in LAYOUT.place(chunk)]
    draw = np.random.default_rng([seed, *chunk])
    return {name: draw.normal(size=shape) for name in LAYOUT.names}


def test_chunks_are_kept_and_read(place):
    check_store(place)
    assert known(place) is None
    with opened(place, LAYOUT) as store:
        for chunk in LAYOUT.all[::2]:
            store.write(chunk, numbers(chunk))
        store.note({"sign": "positive"}, {"query": ("a", "b")})
    with opened(place, LAYOUT) as store:
        assert store.finished() == set(LAYOUT.all[::2])
        assert store.notes == {"sign": "positive"}
        for name in LAYOUT.names:
            found = store.rows(name, range(5))
            for chunk in LAYOUT.all:
                part = found[LAYOUT.place(chunk)]
                if chunk in LAYOUT.all[::2]:
                    assert np.array_equal(part, numbers(chunk)[name])
                else:
                    assert np.isnan(part).all()


def test_numbers_that_do_not_give_their_checksum_are_absent(tmp_path):
    path = tmp_path / "x.zarr"
    with opened(path, LAYOUT) as store:
        for chunk in LAYOUT.all:
            store.write(chunk, numbers(chunk))
    files = sorted((path / "scores" / "0.weight" / "c").rglob("*"))
    cut, changed = [f for f in files if f.is_file()][:2]
    cut.write_bytes(cut.read_bytes()[:-5])
    changed.write_bytes(b"\1" + changed.read_bytes()[1:])
    with opened(path, LAYOUT) as store:
        assert store.finished() == set(LAYOUT.all[2:])


@pytest.mark.parametrize("step", ["create_array", "require_group"])
def test_a_store_that_was_only_begun_goes_on(tmp_path, monkeypatch, step):
    path = tmp_path / "x.zarr"

    def killed(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Group, step, killed)
        with pytest.raises(KeyboardInterrupt), opened(path, LAYOUT):
            pass
    (path / "zarr.0123.partial").write_bytes(b"half")
    with opened(path, LAYOUT) as store:
        store.write((0, 0), numbers((0, 0)))
        assert store.finished() == {(0, 0)}
    assert not list(path.rglob("*.partial"))


def test_what_is_not_a_store_of_these_scores_is_refused(tmp_path):
    def code(action):
        with pytest.raises(cv.SpecError) as caught:
            action()
        return str(caught.value.diagnostics[0].code)

    (tmp_path / "file.zarr").touch()
    assert code(lambda: check_store(tmp_path / "file.zarr")) == "E0882"
    (tmp_path / "full.zarr").mkdir()
    (tmp_path / "full.zarr" / "notes.txt").touch()
    assert code(lambda: check_store(tmp_path / "full.zarr")) == "E0882"
    zarr.open_group(tmp_path / "other.zarr", mode="w").create_array("x", shape=(2,), dtype="f8")
    assert code(lambda: check_store(tmp_path / "other.zarr")) == "E0882"
    zarr.create_array(tmp_path / "array.zarr", shape=(2,), dtype="f8")
    assert code(lambda: check_store(tmp_path / "array.zarr")) == "E0882"
    zarr.open_group(tmp_path / "old.zarr", mode="w", zarr_format=2)
    assert code(lambda: check_store(tmp_path / "old.zarr")) == "E0882"
    with opened(tmp_path / "x.zarr", LAYOUT):
        assert code(lambda: opened(tmp_path / "x.zarr", LAYOUT).__enter__()) == "E0883"
    group = zarr.open_group(tmp_path / "x.zarr")
    group.attrs[score_store.OURS] = {**group.attrs[score_store.OURS], "format": 99}
    assert code(lambda: check_store(tmp_path / "x.zarr")) == "E0882"
    assert code(lambda: check_store("s3://bucket/x.zarr")) == "E0880"


def test_another_content_is_refused_by_name(place):
    with opened(place, LAYOUT) as store:
        store.write((0, 0), numbers((0, 0)))
    with pytest.raises(cv.SpecError, match="another metric: loss, not margin"):
        check_content(place, {"metric": "margin"})
    with pytest.raises(cv.SpecError, match=r"another model`?$|another model\n"):
        check_content(place, {"metric": "loss", "model": "0" * 64})
    with pytest.raises(cv.SpecError), opened(place, replace(LAYOUT, content={"metric": "logit"})):
        pass
    with opened(place, LAYOUT) as store:
        assert store.finished() == {(0, 0)}


def test_a_full_disk_leaves_what_is_written(tmp_path, monkeypatch):
    path = tmp_path / "x.zarr"
    with opened(path, LAYOUT) as store:
        store.write((0, 0), numbers((0, 0)))

        def full(*args, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(zarr.Array, "__setitem__", full)
            with pytest.raises(cv.MachineError, match="the disk is full") as caught:
                store.write((0, 1), numbers((0, 1)))
        assert "run the same command to go on" in str(caught.value)
        assert store.finished() == {(0, 0)}


@pytest.mark.parametrize("shape", [(7,), (3, 7), (3, 7, 2)])
def test_an_npy_file_in_parts_is_the_file(tmp_path, shape):
    whole = np.random.default_rng(0).normal(size=shape).astype("float32")
    np.save(tmp_path / "whole.npy", whole)
    with npy_parts(tmp_path / "parts.npy", shape, "float32") as file:
        for start in (4, 0):
            own = slice(start, min(start + 4, 7))
            if len(shape) == 1:
                file.write((own,), whole[own])
                continue
            for rows in (slice(1, 3), slice(0, 1)):
                file.write((rows, own), whole[rows, own])
    assert (tmp_path / "parts.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_disk_that_is_too_small_is_known_before_the_work(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "x.npy").write_bytes(b"earlier")
    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    file = npy_parts(tmp_path / "x.npy", (10, 10), "float64")
    with pytest.raises(cv.MachineError, match="the disk is full"):
        file.__enter__()
    assert (tmp_path / "x.npy").read_bytes() == b"earlier"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("scheme", ["file://", "local://"])
def test_a_path_may_be_written_as_an_address(tmp_path, scheme):
    path = tmp_path / "x.zarr"
    with opened(f"{scheme}{path}", LAYOUT) as store:
        store.write((0, 0), numbers((0, 0)))
        with pytest.raises(cv.SpecError, match="E0883"), opened(path, LAYOUT):
            pass
    with opened(path, LAYOUT) as store:
        assert store.finished() == {(0, 0)}


@pytest.mark.parametrize("name", ["s3://bucket/x.npy", "memory://a/x.csv", "file:///tmp/x.parquet"])
def test_a_file_at_an_address_is_refused(tmp_path, monkeypatch, name):
    """A folder of that name would be made here, and nothing would be where it is looked for."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(cv.SpecError, match="E0583"):
        cv.check_score_file(name)
    assert not list(tmp_path.iterdir())


def test_errors_of_a_file_system_are_refusals(monkeypatch):
    class UnreachableError(Exception):
        pass

    def failing(*args, **options):
        raise UnreachableError("no credentials")

    monkeypatch.setattr(zarr, "open_group", failing)
    with pytest.raises(cv.SpecError, match=r"E0884.*no credentials"):
        check_store("memory://there/x.zarr")
    with pytest.raises(cv.SpecError, match="E0884"):
        check_store("://x.zarr")


def test_a_store_is_known_as_soon_as_it_is_there(tmp_path, monkeypatch):
    """Killed after the first file: the next run goes on and does not find a stranger's group."""
    from zarr.core.group import Group

    def killed(*args, **options):
        raise KeyboardInterrupt

    path = tmp_path / "x.zarr"
    with monkeypatch.context() as patch:
        patch.setattr("zarr.core.attributes.Attributes.update", killed)
        patch.setattr(Group, "create_array", killed)
        patch.setattr(Group, "require_group", killed)
        with pytest.raises(KeyboardInterrupt), opened(path, LAYOUT):
            pass
    assert [x.name for x in path.iterdir()] == ["zarr.json"]
    with opened(path, LAYOUT) as store:
        assert store.finished() == set()
