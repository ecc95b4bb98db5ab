"""What is measured: every workload with its sizes, its small sizes, and who can do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.bench.contest import Entry, Sizes

PEERS = ("kronfluence", "curvlinops", "dattri", "loop", "hand", "bfloat16")
ROUNDED = 0.1
"""By how much scores in bfloat16 may differ from ours in float32, of the largest."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A case of a workload: `letter` groups cases; `about` says what is done and on what."""

    letter: str
    about: str
    full: Sizes
    quick: Sizes
    entries: Mapping[str, Entry]

    def sizes(self, quick: bool) -> Sizes:
        return self.quick if quick else self.full


def _entries(module: str, **functions: str) -> dict[str, Entry]:
    """Entries by name; what follows a `|` says what was run of the whole."""
    found = {}
    for name, text in functions.items():
        function, _, partly = text.partition("|")
        found[name] = Entry(f"tests.bench.contestants.{module}", function, partly)
    return found


_SCORES = _entries(
    "attribution", ours="ours", hand="by_hand", kronfluence="kronfluence", curvlinops="curvlinops"
)
_SEQUENCES = {name: entry for name, entry in _SCORES.items() if name != "curvlinops"}
_FACTORS = _entries("factors", ours="ours", hand="by_hand", curvlinops="curvlinops")
_MATRICES = _entries("matrices", ours="ours", hand="by_hand", curvlinops="curvlinops")
_TRAINING = _entries(
    "training", ours="ours", hand="by_hand", loop="loop|3 models, times the number of models"
)
_RANKS = _entries(
    "ranks", ours="ours", hand="by_hand", dattri="dattri",
    loop="loop|2 resamples, times the number of resamples",
)  # fmt: skip
_SHIPPED = _entries("shipped", ours="ours")

_SMALL = {"kind": "mlp", "widths": [64, 48, 10], "N": 128, "Q": 8}
_WIDE = [784, 1024, 1024, 1024]


def _digits(depth: int, epochs: int, models: int) -> Sizes:
    return {"depth": depth, "epochs": epochs, "models": models}


WORKLOADS = (
    *(
        Workload(
            "a", f"EK-FAC of a perceptron 784–1024–1024–1024–10, N = {N}, 100 queries",
            {"kind": "mlp", "widths": [*_WIDE, 10], "N": N, "Q": 100}, _SMALL, _SCORES,
        )
        for N in (1000, 5000)
    ),
    Workload(
        "b", "EK-FAC of a decoder's linear layers, 4 × 256 wide, T = 128, N = 512, 32 queries",
        {"kind": "decoder", "tokens": 256, "context": 128, "width": 256, "heads": 4, "layers": 4,
         "N": 512, "Q": 32},
        {"kind": "decoder", "tokens": 16, "context": 8, "width": 16, "heads": 2, "layers": 1,
         "N": 16, "Q": 4},
        _SEQUENCES,
    ),
    Workload(
        "c", "EK-FAC of a residual network on 3 × 32 × 32 pixels, N = 1000, 32 queries",
        {"kind": "residual", "channels": 16, "side": 32, "N": 1000, "Q": 32},
        {"kind": "residual", "channels": 4, "side": 8, "N": 32, "Q": 4},
        _SCORES,
    ),
    *(
        Workload(
            "d", f"K-FAC and EK-FAC, exact columns, {C} outputs, N = 1000",
            {"kind": "mlp", "widths": [*_WIDE[:3], C], "N": 1000, "Q": 1},
            {"kind": "mlp", "widths": [64, 48, C], "N": 128, "Q": 1}, _FACTORS,
        )
        for C in (10, 100)
    ),
    *(
        Workload(
            "e", f"dense GGN and Hessian in float64, P = {P}, N = 1437, scores of 100 queries",
            {"kind": "tanh", "widths": widths, "N": 1437, "Q": 100, "dtype": "float64"},
            {"kind": "tanh", "widths": [16, 8, 4], "N": 64, "Q": 8, "dtype": "float64"}, _MATRICES,
        )
        for P, widths in ((3114, [64, *[16] * 8, 10]), (10_002, [64, 72, 64, 10]))
    ),
    *(
        Workload(
            "f", f"retraining 500 models of depth {depth}, 100 epochs",
            _digits(depth, 100, 500), _digits(depth, 2, 25), _TRAINING,
        )
        for depth in (1, 4, 8)
    ),
    Workload(
        "g", "LDS with 1000 bootstrap resamples, K = 1000 subsets, Q = 1000 queries",
        {"K": 1000, "Q": 1000, "N": 1000, "resamples": 1000},
        {"K": 50, "Q": 20, "N": 50, "resamples": 50},
        _RANKS,
    ),
    Workload(
        "h", "`curvlang eval` of every shipped spec on the digits",
        {"specs": 100, "lds": 1}, {"specs": 2, "lds": 0}, _SHIPPED,
    ),
    Workload(
        "i", "EK-FAC of a decoder of GPT-2's size, 12 × 768 wide, 64 × 128 tokens, 16 queries",
        {"kind": "decoder", "tokens": 1024, "context": 128, "width": 768, "heads": 12, "layers": 12,
         "N": 64, "Q": 16},
        {"kind": "decoder", "tokens": 16, "context": 8, "width": 24, "heads": 2, "layers": 2,
         "N": 16, "Q": 4},
        {name: entry for name, entry in _SEQUENCES.items() if name != "hand"},
    ),
    Workload(
        "j", "EK-FAC of a decoder, 6 × 384 wide, T = 256, N = 256, 32 queries; also in bfloat16",
        {"kind": "decoder", "tokens": 256, "context": 256, "width": 384, "heads": 6, "layers": 6,
         "N": 256, "Q": 32, "memory": "4 GiB"},
        {"kind": "decoder", "tokens": 16, "context": 8, "width": 24, "heads": 2, "layers": 2,
         "N": 16, "Q": 4},
        {name: entry for name, entry in _SEQUENCES.items() if name != "hand"}
        | {"bfloat16": Entry("tests.bench.contestants.attribution", "bfloat16", differs=ROUNDED)},
    ),
)  # fmt: skip


def chosen(letters: str, quick: bool) -> list[Workload]:
    """The cases of the letters; small sizes that say the same are run once."""
    found: list[Workload] = []
    for workload in WORKLOADS:
        known = quick and any(
            w.letter == workload.letter and w.quick == workload.quick for w in found
        )
        if workload.letter in letters and not known:
            found.append(workload)
    return found
