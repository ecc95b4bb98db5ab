"""No file that curvlang reads can bring code with it: what would run some is not called anywhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "curvlang").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
FORBIDDEN = ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")
"""Modules whose readers run what a file says."""
HARMLESS = {("pickle", "UnpicklingError")}
"""The class of torch's error for a file that it refuses: naming it reads nothing."""
READERS = {
    "np": ("allow_pickle", False),
    "numpy": ("allow_pickle", False),
    "torch": ("weights_only", True),
}
"""Whose `load` takes which argument, stated in the call itself."""
GENERATED = {"curvlang/runtime/execute.py"}
"""Where curvlang runs the torch code that it has written itself."""


def faults(text: str, name: str = "") -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                yield from (x.name for x in names if x.name.partition(".")[0] in FORBIDDEN)
            case ast.ImportFrom(module=str(module), names=names) if (
                module.partition(".")[0] in FORBIDDEN
            ):
                yield from (x.name for x in names if (module, x.name) not in HARMLESS)
            case ast.Call(func=ast.Name(id="eval" | "exec" as word)):
                if word == "eval" or name not in GENERATED:
                    yield word
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr="load")):
                if owner in READERS and not _stated(node, *READERS[owner]):
                    yield f"{owner}.load"
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id="torch")), attr="load"):
                yield "torch.….load"
            case ast.Attribute(attr="read_pickle" | "load_pickle" | "unsafe_load" as word):
                yield word
            case _:
                pass


def _stated(call: ast.Call, argument: str, wanted: bool) -> bool:
    return any(
        k.arg == argument and isinstance(k.value, ast.Constant) and k.value.value is wanted
        for k in call.keywords
    )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_brings_code(path):
    assert list(faults(path.read_text("utf-8"), str(path.relative_to(ROOT)))) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import pickle", ["pickle"]),
        ("def f():\n    import joblib.numpy_pickle", ["joblib.numpy_pickle"]),
        ("from pickle import UnpicklingError", []),
        ("from pickle import UnpicklingError, loads", ["loads"]),
        ("torch.load(p)", ["torch.load"]),
        ("torch.load(p, weights_only=False)", ["torch.load"]),
        ("torch.load(p, weights_only=x)", ["torch.load"]),
        ("torch.load(p, weights_only=True)", []),
        ("torch.jit.load(p)", ["torch.….load"]),
        ("np.load(p)", ["np.load"]),
        ("np.load(p, allow_pickle=False)", []),
        ("frame = pd.read_pickle(p)", ["read_pickle"]),
        ("eval(text)", ["eval"]),
        ("model.eval()", []),
        ("exec(text)", ["exec"]),
    ],
)
def test_the_law_can_fail(text, found):
    assert list(faults(text)) == found
