"""The processes that work together: who is there, who owns what, and how tensors get from one to another.

Every process runs the same program on the same task. A group that the caller initialised is used as it is;
under `torchrun` one is made on the first call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, MachineError
from curvlang.diagnostics.refusal import not_come
from curvlang.runtime.processes.launch import announced, forget, launched, local_rank
from curvlang.runtime.processes.link import JOINING, Link, patience
from curvlang.storage.repeated import again, once, repeats

Tensors = Mapping[str, Tensor]
"""Tensors by name."""

_links: list[Link] = []
"""The link of the group there is now; at most one."""
_alone: ContextVar[bool] = ContextVar("alone", default=False)


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """The processes of a run, seen from one of them. One process alone is a world of size 1.

    Args:
        rank: Number of this process.
        size: Number of processes.
        link: To the others; None in a world of one.
    """

    rank: int = 0
    size: int = 1
    link: Link | None = None

    @staticmethod
    def announced() -> World:
        """This process and the others, as a launcher has told it; none of them is joined or waited for."""
        return World(*announced())

    @staticmethod
    def forget() -> None:
        """Work as one process by itself from now on, whatever a launcher has told it."""
        forget()

    @property
    def first(self) -> bool:
        """Whether it is the process that prints and writes."""
        return self.rank == 0

    def owned(self, count: int, rank: int | None = None) -> range:
        """The contiguous share of `count` units that a process works on; this one by default."""
        own = self.rank if rank is None else rank
        return range(own * count // self.size, (own + 1) * count // self.size)

    def owner(self, unit: int, count: int) -> int:
        """The process that works on one of `count` units."""
        return next(r for r in range(self.size) if unit in self.owned(count, r))

    @contextmanager
    def run(self) -> Iterator[None]:
        """Work that all processes enter together; an error inside ends it in all of them.

        Keys of `tell` and `wait` belong to the innermost run. The others raise what failed: the same
        diagnostic, or E0831 for an error of another kind.
        """
        if self.link is None:
            yield
            return
        self.link.begin()
        try:
            yield
        except Exception as error:
            first = self.link.end(error)
            if first is None:
                raise
            # Two have failed at the same time: all end with the same error.
            raise first from error
        except BaseException as error:
            self.link.end(error)
            raise
        else:
            self.link.end(None)

    def check(self) -> None:
        """Raise what another process has failed with; costs next to nothing."""
        if self.link is not None:
            self.link.check()

    def tell(self, key: str, value: str = "") -> None:
        """Leave a short value under a key of this run."""
        if self.link is not None:
            self.link.tell(key, value)

    def told(self, key: str) -> bool:
        """Whether a value has been left under a key of this run; waits for nothing."""
        return self.link is not None and self.link.told(key)

    def claim(self, key: str) -> bool:
        """Whether this process is the first that asks for a key of this run."""
        return self.link is None or self.link.claim(key)

    def wait(self, key: str, origin: int) -> str:
        """The value that process `origin` leaves under a key.

        Raises:
            CurvlangError: What another process has failed with.
            MachineError: E0830, E0832 where `origin` does not come or is lost.
        """
        return "" if self.link is None else self.link.wait(key, origin)

    def exchange(self, key: str, value: str) -> tuple[str, ...]:
        """The values of all processes under a key, by rank."""
        if self.link is None:
            return (value,)
        self.tell(f"{key}/{self.rank}", value)
        return tuple(
            value if r == self.rank else self.wait(f"{key}/{r}", r) for r in range(self.size)
        )

    def send(self, key: str, tensors: Tensors, to: int) -> None:
        """Give tensors to another process; returns once it has them."""
        laid = {name: _Layout.of(x) for name, x in tensors.items()}
        told = [
            [n, x.shape, x.axes, str(x.dtype).removeprefix("torch."), x.repeats]
            for n, x in laid.items()
        ]
        self.tell(f"{key}>{to}", json.dumps(told))
        self.wait(f"{key}<{to}", to)
        for name, x in tensors.items():
            with _transfer(to):
                dist.send(_carried(once(x).permute(laid[name].axes)).contiguous(), to)

    def receive(self, key: str, origin: int, device: torch.device) -> dict[str, Tensor]:
        """The tensors that process `origin` sends under a key."""
        told = json.loads(self.wait(f"{key}>{self.rank}", origin))
        self.tell(f"{key}<{self.rank}")
        found = {}
        for name, shape, axes, dtype, count in told:
            layout = _Layout(shape, axes, getattr(torch, dtype), count)
            carrier = _carried(layout.empty(device))
            with _transfer(origin):
                dist.recv(carrier, origin)
            found[name] = layout.restored(carrier.to(device))
        return found

    def share(
        self, key: str, tensors: Tensors | None, origin: int, device: torch.device
    ) -> dict[str, Tensor]:
        """The tensors of process `origin`, in all processes; each gives them on to two others.

        Args:
            key: Of this run, used once.
            tensors: What is shared; only `origin` has it.
            origin: Whose.
            device: Where they are wanted.
        """
        place = (self.rank - origin) % self.size
        if place:
            above = ((place - 1) // 2 + origin) % self.size
            tensors = self.receive(key, above, device)
        assert tensors is not None
        for below in (2 * place + 1, 2 * place + 2):
            if below < self.size:
                self.send(key, tensors, (below + origin) % self.size)
        return dict(tensors)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Shape and order in memory of a tensor: one that is laid out otherwise is multiplied with other rounding.

    Args:
        shape: Of the tensor; its first axis once where it is one along it.
        axes: The slowest one first.
        dtype: Of its numbers.
        repeats: The length of a first axis that it is one along; 0 for another.
    """

    shape: list[int]
    axes: list[int]
    dtype: torch.dtype
    repeats: int = 0

    @staticmethod
    def of(x: Tensor) -> _Layout:
        """The layout of a tensor; of one with gaps that of a copy without."""
        count = len(x) if repeats(x) else 0
        x = once(x)

        def slowness(k: int) -> tuple[int, bool, int]:
            # Of two with one stride the axis of one entry is the faster: so torch lays it out again.
            return -x.stride(k), x.shape[k] == 1, k

        return _Layout(list(x.shape), sorted(range(x.ndim), key=slowness), x.dtype, count)

    def empty(self, device: torch.device) -> Tensor:
        """Memory for its numbers, the slowest axis first."""
        shape = [self.shape[k] for k in self.axes]
        return torch.empty(shape, dtype=self.dtype, device=device)

    def restored(self, x: Tensor) -> Tensor:
        """The tensor, from its numbers in the order of the memory."""
        x = x.permute([self.axes.index(k) for k in range(len(self.axes))])
        return again(x, self.repeats) if self.repeats else x


_ONE = World()


def world() -> World:
    """The processes that work together, as this one sees them.

    Raises:
        MachineError: E0830 where processes that `torchrun` announced do not come.
    """
    if _alone.get() or not dist.is_available():
        return _ONE
    if not dist.is_initialized():
        if not launched():
            return _ONE
        _initialise()
    size = dist.get_world_size()
    if size == 1:
        return _ONE
    link = _link(dist.get_rank(), size)
    return World(link.rank, size, link)


@contextmanager
def alone() -> Iterator[None]:
    """Work of this process by itself, whatever group it is in: inside, the world has size 1."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def _initialise() -> None:
    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    if cuda:
        torch.cuda.set_device(local_rank() or 0)
    limit = JOINING * patience()
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(seconds=limit)
        )
    except (dist.DistError, RuntimeError) as error:
        raise not_come(
            f"not all {announced()[1]} processes have",
            limit,
            [" ".join(str(error).split())[:200]],
            "start all of them, or fewer with `--nproc-per-node` and `--nnodes`",
        ) from error


def _link(rank: int, size: int) -> Link:
    """The link of the group there is, made once for each group."""
    base = dist.distributed_c10d._get_default_store()
    if _links and _links[0].base is base:
        return _links[0]
    for old in _links:
        old.stop()
    made = Link(base, PrefixStore("curvlang", base), rank, size, patience())
    made.live()
    _links[:] = [made]
    return made


def _carried(x: Tensor) -> Tensor:
    """A tensor where the group can carry it: on a GPU between GPUs that share a group, else in memory."""
    if x.device.type == "cuda" and "cuda:nccl" in dist.get_backend_config():
        return x
    if dist.get_backend() == "nccl":
        return x.to(torch.device("cuda", torch.cuda.current_device()))
    return x.cpu()


@contextmanager
def _transfer(rank: int) -> Iterator[None]:
    """A broken connection is a process that has been lost."""
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        raise MachineError(
            Diagnostic(
                Code.E0832,
                f"process {rank} was lost while tensors were sent",
                notes=(" ".join(str(error).split())[:200],),
                help=("look for its own output, then start the command again",),
            )
        ) from error
