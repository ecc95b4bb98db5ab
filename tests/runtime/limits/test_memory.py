"""What may be allocated: the user's limit, a container's, and plans that stay within them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import curvlang as cv
from curvlang.diagnostics import free_memory
from curvlang.diagnostics.cgroup import left_in_group
from curvlang.facade import chains_of, chosen
from curvlang.language import task_text
from curvlang.models.builtin import task_from
from curvlang.runtime.limits.memory import amount, available, limited, require
from curvlang.runtime.prepare import prepare
from tests.oracles.allocations import peak_bytes
from tests.small import network, task

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (7, 7), ("7", 7), ("7 B", 7), ("2 GiB", 2**31), ("2gib", 2**31), ("500MB", 500 * 10**6),
        ("1.5 KiB", 1536), (" 1 TB ", 10**12),
    ],
)  # fmt: skip
def test_amounts(text, count):
    assert amount(text) == count


@pytest.mark.parametrize(
    "wrong", [0, -1, True, 1.5, "", "2 G", "GiB", "-2 GiB", "2 GiB free", "nan"]
)
def test_what_is_no_amount(wrong):
    with pytest.raises(cv.SpecError, match="E0804"), limited(wrong):
        pass


def test_a_limit_is_what_is_available():
    before = available(CPU)
    with limited("64 MiB"):
        assert available(CPU) == 2**26
        with limited("1 GiB"):
            assert available(CPU) == 2**26
        with limited(None), limited(1000):
            assert available(CPU) == 1000
    assert available(CPU) > 2**26 or before <= 2**26


def test_a_refusal_says_what_is_allowed():
    with limited("1 MiB"), pytest.raises(cv.MachineError) as told:
        require(2**21, CPU, "this run")
    (said,) = told.value.diagnostics
    assert said.headline.endswith("this run needs 2.0 MiB, and `memory` allows 1.0 MiB")
    assert "allow more `memory`" in said.help[-1]


def written(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_control_groups_of_version_2(tmp_path):
    groups = tmp_path / "cgroup"
    groups.write_text("0::/outer/inner\n")
    root = tmp_path / "fs"
    assert left_in_group(groups, root) is None
    written(root / "outer" / "inner", memory__max="max", memory__current="10")
    assert left_in_group(groups, root) is None
    # A group around it has the limit; cached files that nothing uses make way.
    stat = "anon 5\ninactive_file 30\nactive_file 7"
    written(root / "outer", memory__max="1000", memory__current="400", memory__stat=stat)
    assert left_in_group(groups, root) == 630
    written(root / "outer" / "inner", memory__max="500", memory__current="10")
    assert left_in_group(groups, root) == 490
    written(root / "outer" / "inner", memory__max="500", memory__current="501")
    assert left_in_group(groups, root) == 0


def test_control_groups_of_version_1(tmp_path):
    groups = tmp_path / "cgroup"
    groups.write_text("5:cpu,cpuacct:/\n4:memory:/box\n1:name=systemd:/\n")
    root = tmp_path / "fs"
    files = {
        "memory__usage_in_bytes": "300",
        "memory__stat": "inactive_file 1\ntotal_inactive_file 40",
    }
    # The container sees its own group as the root, not under the path that it has outside.
    written(root / "memory", memory__limit_in_bytes="1000", **files)
    assert left_in_group(groups, root) == 740
    written(root / "memory" / "box", memory__limit_in_bytes="800", **files)
    assert left_in_group(groups, root) == 540


def test_a_container_limits_what_is_available(monkeypatch):
    monkeypatch.setattr(free_memory, "left_in_group", lambda: 1000)
    assert available(CPU) == 800
    monkeypatch.setattr(free_memory, "left_in_group", lambda: None)
    assert available(CPU) > 800


@pytest.fixture(scope="module")
def digits() -> cv.Task:
    return task_from(task_text("digits", "<test>"), dtype=torch.float64)


def test_a_fit_stays_below_its_limit(digits):
    limit, found = 2**20, []
    free = peak_bytes(lambda: found.append(cv.fit("ekfac_empirical", digits)))
    small = peak_bytes(lambda: found.append(cv.fit("ekfac_empirical", digits, memory="1 MiB")))
    assert small < limit < free
    whole, parts = (x.operator.dense() for x in found)
    assert float((whole - parts).abs().max()) < 1e-12 * float(whole.abs().max())


def test_a_fit_that_cannot_is_refused(digits):
    with pytest.raises(cv.MachineError, match="`memory` allows"):
        cv.fit("ggn", digits, memory="1 MiB")
    with pytest.raises(cv.MachineError, match="`memory` allows"):
        cv.evaluate("ggn", digits, memory="1 MiB")


def test_large_sums_are_made_for_many_examples_at_once():
    """A whole matrix of P² numbers is added up for every batch: batches of one example would make it N times."""
    wide = task(network([3, 100, 36, 10]), "cross_entropy", n=300)
    (plan,) = prepare(chains_of(chosen(cv.load("ggn"))), wide, last=True).plans
    assert plan.batch > 100


def test_a_limit_holds_in_threads_and_ends_with_its_block():
    def seen():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(available, CPU).result()

    free = seen()
    with limited(2**20):
        assert seen() == 2**20
        with limited(2**10):
            assert seen() == 2**10
        assert seen() == 2**20
    assert seen() > 2**20
    assert free > 2**20


def test_limits_of_threads_that_overlap_leave_nothing_behind():
    first, second = limited(2**20), limited(2**10)
    first.__enter__()
    second.__enter__()
    assert available(CPU) == 2**10
    first.__exit__(None, None, None)
    assert available(CPU) == 2**10
    second.__exit__(None, None, None)
    assert available(CPU) > 2**20


def test_what_torch_keeps_for_reuse_on_a_gpu_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 10_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 300)
    assert available(torch.device("cuda:0")) == int(0.8 * (1000 + 700 - 300))
