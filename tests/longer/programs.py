"""Random scores and random transforms, thousands of each, compiled against read: `python -m tests.longer.programs --count 2000`."""

from __future__ import annotations

import argparse
import time
from collections import Counter

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from curvlang.testing.programs import programs
from tests.attribution.formulas.test_random_scores import check, scores
from tests.compiler.test_programs import assert_compiled_equals_interpreted, sizes


def main() -> None:
    """Both, with how many were drawn; a failure is shrunk and raised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    drawn: Counter[str] = Counter()
    often = settings(
        max_examples=asked.count, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )  # fmt: skip

    @seed(asked.seed)
    @often
    @given(
        scores(),
        st.sampled_from(["ekfac", "ggn", "identity"]),
        st.integers(1, 3),
        st.integers(1, 7),
    )
    def run_scores(text: str, spec: str, turn: int, size: int) -> None:
        drawn["scores"] += 1
        check(text, spec, turn, size)

    @seed(asked.seed)
    @often
    @given(programs(), sizes, st.integers(1, 5), st.integers(0, 9))
    def run_programs(text: str, size: dict[str, int], batch: int, own: int) -> None:
        drawn["programs"] += 1
        assert_compiled_equals_interpreted(text, size, batch, own)

    for name, run in (("scores", run_scores), ("programs", run_programs)):
        start = time.perf_counter()
        run()
        print(f"{name}: {drawn[name]} drawn, none differing, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
