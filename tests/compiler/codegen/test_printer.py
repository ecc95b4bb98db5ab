"""A tensor may have any name that the grammar allows: it never meets a word of generated code."""

from __future__ import annotations

import builtins
import keyword
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from curvlang.compiler.codegen.instructions import Kernel
from curvlang.compiler.codegen.printer import CALLED, identifiers
from curvlang.ir.functions import FUNCTIONS, MAKERS
from curvlang.language import check_text
from curvlang.runtime.kernels import einsums, functions
from curvlang.testing import assert_compiled_equals_interpreted

SIZES = {"n": 4, "t": 2, "r": 2, "o": 2, "i": 3, "c": 2, "p": 4}
TEXT = """transform mine {{
  needs a[n,t,i], g[n,r,t,o]
  {0}[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
  {1}[o,o'] = mean[n,r,t] g[n,r,t,o] * g[n,r,t,o']
  {2}[i,i'] = {0}[i,i'] + identity[i,i'] * random_normal[i](0)^2
  {3}[i,k], {4}[k] = eigh({2})
  {5}[o,m], _[m] = eigh({1})
  {6}[m,k] = mean[n] sum[r] (sum[t,o,i] {5}[o,m] * g[n,r,t,o] * a[n,t,i] * {3}[i,k])^2
  {7} = norm({1}) + size[o]
  {8}[i] = mean[n] max(sum[t] a[n,t,i], 0.5)
  yield C[o,i,o',i'] = {7} * {1}[o,o'] * {8}[i] * {8}[i']
    + sum[m,k] {5}[o,m] * {3}[i,k] * ({6}[m,k] + {4}[k]^2) * {5}[o',m] * {3}[i',k]
}}
curvature x = block_ggn |> mine
"""
OWN = ("a", "g", "C", "_")
"""Names that the text above reads as something else."""
MADE = (
    "x1",
    "x2",
    "y0_1",
    "y2_1",
    "pass_1",
    "after_1",
    "result",
    "mean__1",
    "entries__1",
    "M_rest__1",
)
"""What the compiler itself calls tensors and functions."""
NAMES = sorted(
    {
        *keyword.kwlist,
        *keyword.softkwlist,
        *dir(builtins),
        *dir(torch),
        *dir(torch.Tensor),
        *dir(torch.linalg),
        *dir(einsums),
        *dir(functions),
        *Kernel,
        *FUNCTIONS,
        *MAKERS,
        *MADE,
        "s²", "s2", "ﬁ", "fi", "lambda_", "lambda__", "given", "loaded", "torch_", "ａ",
    }
    - {*OWN}
)  # fmt: skip
WORST = ("square_sum", "gram", "rotate", "number", "eye", "torch", "lambda", "__debug__", "None")


@cache
def allowed(name):
    """Whether the language takes a tensor of this name."""
    return not list(check_text(TEXT.format(name, *"BDEFHKLM"), "x.cv"))


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(NAMES).filter(allowed), min_size=9, max_size=9, unique=True))
def test_names_of_tensors_meet_nothing(names):
    assume(not check_text(TEXT.format(*names), "x.cv"))
    assert_compiled_equals_interpreted(TEXT.format(*names), SIZES, 2)


@pytest.mark.parametrize("name", [*WORST, *MADE])
def test_words_of_generated_code(name):
    assert allowed(name)
    for place in (0, 5, 7):
        names = list("BDEFHKLMQ")
        names[place] = name
        assert_compiled_equals_interpreted(TEXT.format(*names), SIZES, 4)


def test_every_word_of_generated_code_is_known():
    """What code can call is what the printer keeps free, name by name."""
    assert set(functions.namespace(torch.float64, torch.device("cpu"))) == CALLED


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.sampled_from(NAMES), st.text(min_size=1)), unique=True))
def test_every_name_has_an_identifier_of_its_own(names):
    found = identifiers(names)
    assert len(set(found.values())) == len(found)
    for name in names:
        if name != "_":
            assert found[name] not in CALLED
            exec(f"def f({found[name]}):\n    {found[name]} = 0")
