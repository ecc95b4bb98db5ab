"""How fast this machine is, measured: products, decompositions and copies of several sizes.

A rate is not a single number: a product of two 8 × 8 matrices is all overhead, one of 1024 × 1024 is
all arithmetic. Times between the sizes measured are interpolated on logarithmic axes; below the
smallest size a call takes as long as the smallest one, above the largest the rate stays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from curvlang.models.execution.precision import Precision
from curvlang.runtime.limits.freed import return_freed

PRODUCTS = (4, 32, 128, 512, 1024)
"""Rows of the square matrices that are multiplied."""
SIDES = (1, 4, 16, 64)
"""Shortest sides of the thin matrices that are multiplied."""
THIN = (256, 128)
"""How many thin products are asked for at once, more than a cache holds, and their other sides."""
DECOMPOSED = (16, 64, 256, 512, 1024)
"""Rows of the symmetric matrices that are decomposed, in float64."""
COPIED = (2**10, 2**16, 2**21, 2**23, 2**26)
"""Bytes of the tensors that are copied."""
LEAST = 0.01
"""Seconds that every size is repeated for; the fastest repetition counts."""
TIMES, MOST = 3, 0.1
"""Repetitions of a size at least, unless they take these seconds: one alone may have waited for a processor."""

Points = Sequence[tuple[float, float]]
"""Work and seconds, by growing work."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds of single calls by their work: operations of products and decompositions, bytes moved.

    `products` holds a table for each precision; `thin` the operations a second of products of which one
    side is short, by that side. `copies` are into memory that is there, `made` into
    a tensor made for them, whose pages the system has to find first: where it is large that takes
    several times as long. `call` is what one line of generated code takes besides its work.
    """

    products: Mapping[torch.dtype, Points]
    thin: Mapping[torch.dtype, Points]
    decompositions: Points
    copies: Points
    made: Points
    call: float

    def product(self, flops: float, dtype: torch.dtype, side: int | None = None) -> float:
        """Seconds of one product of this many operations, its matrices with this shortest side."""
        seconds = interpolated(self.products[dtype], flops)
        if side is None or side > self.thin[dtype][-1][0]:
            return seconds
        return max(seconds, flops / interpolated(self.thin[dtype], side))

    def decomposition(self, flops: float) -> float:
        """Seconds of one decomposition, by the operations of its formula in the cost model."""
        return interpolated(self.decompositions, flops)

    def make(self, moved: float) -> float:
        """Seconds of one elementwise call that reads and writes this many bytes and allocates its result."""
        return interpolated(self.made, moved)

    def copy(self, moved: float) -> float:
        """Seconds of one elementwise call that reads and writes this many bytes in place."""
        return interpolated(self.copies, moved)

    def peak_flops(self, dtype: torch.dtype) -> float:
        """The largest rate of products, operations a second."""
        return max(work / seconds for work, seconds in self.products[dtype])

    @property
    def peak_bytes(self) -> float:
        """The rate of the largest copy, bytes read and written a second."""
        work, seconds = self.copies[-1]
        return work / seconds


def interpolated(points: Points, work: float) -> float:
    """Seconds for an amount of work, linear between the points on logarithmic axes."""
    if work <= points[0][0]:
        return points[0][1]
    for (w0, s0), (w1, s1) in pairwise(points):
        if work <= w1:
            share = math.log(work / w0) / math.log(w1 / w0)
            return math.exp(math.log(s0) + share * math.log(s1 / s0))
    return points[-1][1] * work / points[-1][0]


def measured_rates(
    device: torch.device, held: int | None = None, policy: Precision | None = None
) -> Rates:
    """Measure the machine: about a second.

    Args:
        device: Where.
        held: Bytes that the measurement may take; larger sizes are then left out.
        policy: What is computed in: products in half precision are measured where it asks for them.
    """
    narrow = () if policy is None else (policy.operands, policy.scored)
    kinds = tuple(dict.fromkeys([torch.float32, torch.float64, *(x for x in narrow if x)]))
    most = math.inf if held is None else held
    rows = [n for n in PRODUCTS if 3 * 8 * n * n <= most]
    decomposed = [n for n in DECOMPOSED if 4 * 8 * n * n <= most]
    copied = [size for size in COPIED if 2 * size <= most]
    thin = min(THIN[0], most // (8 * THIN[1] * (THIN[1] + 2 * SIDES[-1])))
    return Rates(
        {dtype: [_product(n, dtype, device) for n in rows] for dtype in kinds},
        {dtype: [_thin(side, dtype, device, int(thin)) for side in SIDES] for dtype in kinds},
        [_decomposition(n, device) for n in decomposed],
        [_copy(size, device) for size in copied],
        [_made(size, device) for size in copied],
        _call(device),
    )


def _product(n: int, dtype: torch.dtype, device: torch.device) -> tuple[float, float]:
    a = torch.ones(n, n, dtype=dtype, device=device)
    out = torch.empty_like(a)
    return 2.0 * n**3, fastest(lambda: torch.mm(a, a, out=out), device)


def _thin(side: int, dtype: torch.dtype, device: torch.device, count: int) -> tuple[float, float]:
    """Operations a second of [side, long] times [long, long], several at once, each of its own."""
    long = THIN[1]
    a = torch.ones(count, side, long, dtype=dtype, device=device)
    b = torch.ones(count, long, long, dtype=dtype, device=device)
    out = torch.empty_like(a)
    seconds = fastest(lambda: torch.bmm(a, b, out=out), device)
    return float(side), 2.0 * count * side * long * long / seconds


def _decomposition(n: int, device: torch.device) -> tuple[float, float]:
    """The cost model counts 9 n³ for a symmetric matrix with its eigenvectors."""
    from curvlang.ir.functions import FUNCTIONS

    generator = torch.Generator().manual_seed(0)
    root = torch.randn(n, n, dtype=torch.float64, generator=generator).to(device)
    matrix = root @ root.T
    return float(FUNCTIONS["eigh"].flops(n, n)), fastest(lambda: torch.linalg.eigh(matrix), device)


def _copy(size: int, device: torch.device) -> tuple[float, float]:
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * size, fastest(lambda: target.copy_(source), device)


def _made(size: int, device: torch.device) -> tuple[float, float]:
    source = torch.ones(size, dtype=torch.uint8, device=device)
    return 2.0 * size, fastest(source.clone, device)


def _call(device: torch.device) -> float:
    """A contraction of nothing much as generated code writes it: parsing, shapes, the interpreter."""
    a = torch.ones(4, 4, dtype=torch.float64, device=device)
    whole = fastest(lambda: torch.einsum("no,ni->oi", a, a), device)
    return max(0.0, whole - _product(4, torch.float64, device)[1])


def fastest(run: Callable[[], object], device: torch.device, least: float = LEAST) -> float:
    """Seconds of the fastest of several calls: what the machine can do, other work left out."""
    run()
    best, spent, times = math.inf, 0.0, 0
    while spent < least or (times < TIMES and spent < MOST):
        start = clock(device)
        run()
        taken = clock(device) - start
        best, spent, times = min(best, taken), spent + taken, times + 1
    return best


def clock(device: torch.device) -> float:
    """Seconds now, when everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass(slots=True)
class Watch:
    """Stretches of work by name: seconds, those of processors, peak memory above the start, seconds spent waiting.

    Args:
        device: Where the work runs.
    """

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    processor: dict[str, float] = field(default_factory=dict)
    waited: float = 0.0
    worked: float = 0.0
    _start: float = 0.0
    _base: int = 0
    _waiting: float = 0.0
    _working: float = 0.0

    def __post_init__(self) -> None:
        """Begin the first stretch."""
        return_freed()
        self._base = _held(self.device)
        self.restart()

    def restart(self) -> None:
        """Begin a stretch now; what came before it counts nowhere."""
        reset_peak(self.device)
        self._waiting, self._working = waiting(), time.process_time()
        self._start = clock(self.device)

    def __call__(self, name: str) -> None:
        """End a stretch, and begin the next."""
        now = clock(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._start
        peak = max(0, peak_bytes(self.device) - self._base)
        self.peaks[name] = max(self.peaks.get(name, 0), peak)
        self.waited += max(0.0, waiting() - self._waiting)
        worked = time.process_time() - self._working
        self.processor[name] = self.processor.get(name, 0.0) + worked
        self.worked += worked
        self.restart()

    @property
    def total(self) -> float:
        """Seconds of all stretches."""
        return sum(self.seconds.values())

    @property
    def disturbed(self) -> float:
        """Share of the time in which threads could have run that other work had the processor."""
        both = self.waited + self.worked
        return self.waited / both if both else 0.0


def waiting() -> float:
    """Seconds that threads of this process have waited for a processor; 0 where that is not told."""
    total = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[1])
        except OSError:
            continue  # a thread that has ended between listing and reading
    return total / 1e9


_STATUS = Path("/proc/self/status")


def peak_bytes(device: torch.device) -> int:
    """The most that was held since the last reset."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if _STATUS.exists():
        return _status("VmHWM")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _held(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return _status("VmRSS") if _STATUS.exists() else peak_bytes(device)


def _status(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak(device: torch.device) -> None:
    """Restart the measurement of the peak; without effect where the system keeps one peak per process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest entry of what is wanted."""
    scale = float(wanted.abs().max())
    return float((found.double() - wanted.double()).abs().max()) / (scale or 1.0)
