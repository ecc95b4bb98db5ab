"""Hypothesis, by which tasks, programs and counterexamples are drawn; a refusal where it is not installed."""

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal

try:
    import hypothesis as hypothesis
    from hypothesis import strategies as strategies
except ImportError as error:
    raise refusal(
        Code.E0724,
        "laws are checked on tasks that `hypothesis` draws, which is not installed",
        'install it with `pip install "curvlang[laws]"`',
    ) from error
