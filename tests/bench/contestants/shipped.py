"""`curvlang eval` of every shipped spec on the digits, end to end, in one process."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path

from curvlang.cli.main import run

from curvlang.costs.rates import Watch
from curvlang.language.syntax.files import shipped_files
from tests.bench.contest import Results, Sizes, Turn


def ours(sizes: Sizes) -> Turn:
    names = sorted(name for name in shipped_files() if name != "prelude")[: sizes["specs"]]
    options = ["--no-lds"] if sizes["lds"] == 0 else []

    def turn(watch: Watch) -> Results:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["CURVLANG_CACHE"] = str(Path(folder) / "cache")
            for name in names:
                said = io.StringIO()
                with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                    code = run(["eval", name, "--out", str(Path(folder) / name), *options])
                if code:
                    raise RuntimeError(f"eval {name}: exit {code}\n{said.getvalue()[-500:]}")
                watch(name)
        return {}

    return turn
