"""Functions that a spec names, `package.module:function`: called only where that was allowed."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.collect import examples_of
from curvlang.models.data.data import Data, RawExamples
from curvlang.models.data.fields import Fields
from curvlang.models.data.rows import Pair, largest
from curvlang.models.language_models.libraries import other_build

RETURNED = {"train", "query", "labels", "inputs", "shift_labels"}
"""What a data function may return, by name."""


def user_model(function: str, arguments: Mapping[str, Any], seed: int) -> nn.Module:
    """The module that a function returns, its global random numbers drawn from a seed.

    Raises:
        SpecError: E0551 where the function is not there, fails, or returns no module.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = _called(function, arguments)
    if not isinstance(made, nn.Module):
        raise _wrong(
            function, f"returned a `{type(made).__name__}`, no module", "return a `torch.nn.Module`"
        )
    return made.eval()


def user_data(function: str, arguments: Mapping[str, Any], loss: str) -> Data:
    """Training examples and queries that a function returns, in any form that `Task` takes.

    Examples that are dicts keep their fields; `labels`, `inputs` and `shift_labels` beside `train`
    and `query` are the task's.

    Raises:
        SpecError: E0551 where the function is not there, fails, or returns something else.
    """
    made = _called(function, arguments)
    if isinstance(made, tuple | list) and len(made) == 2:
        made = {"train": made[0], "query": made[1]}
    if not isinstance(made, Mapping) or not {"train", "query"} <= set(made) <= RETURNED:
        raise _wrong(
            function,
            f"returned {_shape_of(made)}, not training examples and queries",
            'return `{"train": (X, y), "query": (Xq, yq)}`, for dicts also '
            "`labels`, `inputs`, `shift_labels`",
        )
    options = {k: v for k, v in made.items() if k not in ("train", "query")}
    train, query = examples_of(made["train"], "train"), examples_of(made["query"], "query")
    if isinstance(train, Fields) or isinstance(query, Fields) or options:
        empty = (torch.empty(0), torch.empty(0))
        return Data(empty, empty, 0, 0, "fields", given=RawExamples(train, query, options))
    return Data(train, query, _outputs(train, query, loss), _inputs(train), "regression")


def _shape_of(made: Any) -> str:
    if isinstance(made, Mapping):
        return "a dict of " + ", ".join(f"`{k}`" for k in made)
    return f"a `{type(made).__name__}`"


def _outputs(train: Pair, query: Pair, loss: str) -> int:
    """Classes under cross-entropy, else numbers of a target."""
    y, yq = train[1], query[1]
    if loss == "cross_entropy":
        return 1 + max(map(largest, (y, yq)))
    return int(y.shape[-1]) if y.ndim > 1 else 1


def _inputs(train: Pair) -> int:
    return int(train[0].shape[-1]) if train[0].ndim > 1 else 1


def _called(function: str, arguments: Mapping[str, Any]) -> Any:
    found = function_named(function)
    try:
        return found(**{k: _plain(v) for k, v in arguments.items()})
    except SpecError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        build = other_build(error)
        own = last.filename == __file__  # the call itself: arguments that it does not take
        given = ", ".join(f"`{name}`" for name in arguments) or "nothing"
        raise refusal(
            Code.E0551,
            f"`{function}` raised {type(error).__name__}: {error}",
            build
            or (
                f"it is called with {given}: give what it takes"
                if own
                else "call the function in Python with the same arguments"
            ),
            notes=() if own else (f"at line {last.lineno} of `{last.filename}`",),
        ) from error


def function_named(function: str) -> Callable[..., Any]:
    """The function, or class, of a name `package.module:function`; modules of the working folder are found.

    Raises:
        SpecError: E0551.
    """
    module, colon, name = function.partition(":")
    if not colon or not module or not name:
        raise _wrong(
            function, "is not a `package.module:function`", 'write `python("my_models:make")`'
        )
    with _working_folder():
        try:
            loaded = importlib.import_module(module)
        except Exception as error:
            raise _wrong(
                function,
                f"cannot be imported: {type(error).__name__}: {error}",
                other_build(error) or _import_repair(module, error),
            ) from error
    made = loaded
    for part in name.split("."):
        if not hasattr(made, part):
            raise _wrong(function, f"`{module}` has no `{name}`", "give the function's name")
        made = getattr(made, part)
    if not callable(made):
        raise _wrong(function, "is not a function", "give the name of a function")
    found: Callable[..., Any] = made
    return found


def _import_repair(module: str, error: Exception) -> str:
    """What helps: another folder where the module itself is not found, else the module's own error."""
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{module}.".startswith(f"{missing}."):
        return "run curvlang where `import` finds the module, or install it"
    return f"make `import {module}` run in Python: the error is the module's own"


@contextmanager
def _working_folder() -> Iterator[None]:
    """Modules of the working folder are found, as `python -m` finds them."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _wrong(function: str, what: str, repair: str) -> Exception:
    return refusal(Code.E0551, f"`{function}` {what}", repair)
