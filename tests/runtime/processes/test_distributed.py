"""What processes tell and send each other, and how the others end when one fails."""

from __future__ import annotations

import atexit
import os
import signal
import time

import pytest
import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import MachineError
from curvlang.diagnostics.refusal import refusal
from curvlang.runtime.processes.distributed import World, alone, world
from tests.processes import Failed, together

CPU = torch.device("cpu")


def test_one_process_is_a_world_of_one():
    found = world()
    assert (found.rank, found.size, found.first) == (0, 1, True)
    assert found.owned(5) == range(5)
    assert found.exchange("key", "mine") == ("mine",)
    x = {"x": torch.ones(2)}
    with found.run():
        assert found.share("x", x, 0, CPU)["x"] is x["x"]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 64])
def test_shares_are_contiguous_and_all(size, count):
    owned = [World(r, size).owned(count) for r in range(size)]
    assert [k for share in owned for k in share] == list(range(count))
    assert max(map(len, owned)) - min(map(len, owned)) <= 1
    assert all(World(0, size).owner(k, count) == r for r in range(size) for k in owned[r])


def exchanged():
    here = world()
    with here.run():
        told = here.exchange("a", f"of {here.rank}")
        with here.run():
            again = here.exchange("a", f"again {here.rank}")
    with alone():
        assert world().size == 1
    return [list(told), list(again)]


@pytest.mark.parametrize("size", [2, 4])
def test_all_learn_what_each_tells(size):
    found = together(exchanged, size)
    told = [[f"{what} {r}" for r in range(size)] for what in ("of", "again")]
    assert found == [told] * size


def shared(origin):
    here = world()
    mine = {
        "a": torch.arange(6, dtype=torch.float64).reshape(2, 3).T + here.rank,
        "none": torch.empty(0, 3),
        "n": torch.tensor(7),
        "row": torch.arange(6.0).reshape(6, 1).T,
    }
    with here.run():
        return here.share("x", mine if here.rank == origin else None, origin, CPU)


def test_tensors_reach_all_from_any_process():
    for found in together(shared, 4, 2):
        assert torch.equal(found["a"], torch.arange(6.0).double().reshape(2, 3).T + 2)
        assert found["none"].shape == (0, 3)
        assert found["none"].dtype == torch.float32
        assert int(found["n"]) == 7
        # Laid out as before, axes of one entry included: products of it are rounded alike.
        assert found["a"].stride() == (1, 3)
        assert found["row"].stride() == (1, 1)


def raising(kind):
    here = world()
    begun = time.monotonic()
    try:
        with here.run():
            if here.rank == 1:
                if kind == "refusal":
                    raise refusal(Code.E0407, "the task has no `train` examples", "pass some")
                raise ZeroDivisionError("division by zero")
            here.wait("never", 1)
    except BaseException:
        assert time.monotonic() - begun < 5
        raise


def test_an_error_of_one_ends_all_with_its_diagnostic():
    found = together(raising, 2, "refusal", failing=True)
    assert [x.codes for x in found] == [("E0407",)] * 2
    assert found[0].text == found[1].text


def test_another_error_of_one_ends_all():
    first, second = together(raising, 2, "other", failing=True)
    assert first.codes == ("E0831",)
    assert "division by zero" in first.text
    assert "ZeroDivisionError" in second.text


def after_an_error():
    here = world()
    caught = []
    for number in range(2):
        try:
            with here.run():
                if number == 0:
                    raise refusal(Code.E0407, "refused in all", "pass some")
                return [caught, list(here.exchange("x", str(number)))]
        except Exception as error:
            caught.append(type(error).__name__)
    return None


def test_an_error_in_all_is_over_when_it_is_caught():
    assert together(after_an_error, 2) == [[["SpecError"], ["1", "1"]]] * 2


def killed():
    here = world()
    with here.run():
        here.exchange("there", "")
        if here.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        here.wait("never", 1)


def stopped():
    os.environ["CURVLANG_PATIENCE"] = "1"
    killed()


def test_a_process_that_is_killed_is_missed_after_the_patience():
    first, second = together(stopped, 2, failing=True)
    assert first.codes == ("E0832",)
    assert "for 1 second" in first.text
    assert second == Failed((), "ended with -9")


def absent():
    os.environ["CURVLANG_PATIENCE"] = "0.2"
    here = world()
    if here.rank == 0:
        with here.run():
            here.wait("never", 1)
    time.sleep(4)


def test_a_process_that_never_comes_is_named():
    first, _ = together(absent, 2, failing=True)
    assert first.codes == ("E0830",)


def test_a_process_that_has_ended_is_noticed():
    first, _ = together(leaving, 2, failing=True)
    assert first.codes == ("E0832",)
    assert "has ended" in first.text


def leaving():
    here = world()
    if here.rank == 0:
        with here.run():
            here.wait("never", 1)
    # What an interpreter does when it ends; a forked process of a test leaves it out.
    atexit._run_exitfuncs()


@pytest.mark.parametrize("text", ["", "abc", "0", "-1", "nan", "inf"])
def test_patience_is_a_positive_number(text, monkeypatch):
    from curvlang.runtime.processes.link import patience

    monkeypatch.setenv("CURVLANG_PATIENCE", text)
    with pytest.raises(Exception, match="E0834") as caught:
        patience()
    assert not isinstance(caught.value, MachineError)
