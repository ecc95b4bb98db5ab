"""A folder to start from: a spec with a transform, laws and a task, and its tests."""

from __future__ import annotations

import os
import re
from pathlib import Path

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.plain_arguments import validated
from curvlang.diagnostics.refusal import refusal
from curvlang.language import search
from curvlang.storage.atomic import write

SPEC = """\
# A curvature approximation of your own: change the formula, then run
#   curvlang check {name}.cv            every mistake, with its place and a repair
#   curvlang explain {name}.cv          structure, passes over the data, cost
#   curvlang test {name}.cv             the laws below, on drawn tasks
#   curvlang eval {name}.cv --quick     error, influence and LDS along the chain

transform {name}_factors {{
  "Curvature of the inputs alone: replace it by what you want to try."
  needs a[n,t,i]  # inputs: example n, position t, input i
  A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
  yield C[o,i,o',i'] = identity[o,o'] * A[i,i']
}}

curvature {name} = block_ggn |> {name}_factors

# A claim, and where it must not hold.
law {name} is positive_semidefinite
law {name} differs_from block_ggn

task {name}_task {{
  data    digits  # yours: file("train.csv", target = label)
  model   mlp(hidden = [16])
  loss    cross_entropy
  train   sgd(epochs = 100)
}}

evaluate {name} with tikhonov(damping = 0.1) on {name}_task {{
  error against hessian
  lds subsets = 100, retrains = 5
}}
"""
TEST = '''\
"""What `{name}.cv` claims, and what holds for every curvature: `pip install pytest "curvlang[laws]"`, then `python -m pytest`."""

from pathlib import Path

import curvlang as cv
from curvlang.testing import assert_as_written, assert_inverse_inverts, assert_laws, tasks
from hypothesis import given, settings

SPEC = cv.load(Path(__file__).with_name("{name}.cv"))


def test_laws():
    assert_laws(SPEC, examples=10)


@settings(max_examples=10, deadline=None)
@given(tasks("examples > 1"))
def test_on_drawn_tasks(task):
    assert_as_written(SPEC, task)
    assert_inverse_inverts(cv.fit(SPEC, task))
'''


@validated
def first_files(name: str, folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """Write a spec, with a task in it, and its tests, ready to be run and changed.

    Args:
        name: What the curvature is called: a name of the language, of none that ships.
        folder: Where the files are written; a folder of that name where it is None.

    Returns:
        The files: `NAME.cv` and `test_NAME.py`.

    Raises:
        SpecError: E0720 for a name that cannot be taken, where such files exist already, or for a folder
            that cannot be written to; nothing is overwritten.
    """
    _check_name(name)
    place = Path(name if folder is None else folder)
    texts = {place / f"{name}.cv": SPEC, place / f"test_{name}.py": TEST}
    for path in texts:
        if path.exists():
            raise refusal(
                Code.E0720, f"`{path}` exists already", "choose another name or another folder"
            )
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, text.format(name=name).encode())
    except OSError as error:
        raise refusal(
            Code.E0720,
            f"`{place}` cannot be written to: {error.strerror}",
            "name another folder",
        ) from error
    return list(texts)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        shown = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_") or "mine"
        shown = f"my_{shown}" if shown[0].isdecimal() else shown
        raise refusal(
            Code.E0720,
            f"`{name}` cannot be the name of a curvature",
            f"take small letters, digits and `_`, and no digit in front: `{shown}`",
        )
    if any(x.name == name for x in search([])):
        raise refusal(
            Code.E0720, f"`{name}` is the name of something that ships", f"call it `my_{name}`"
        )
