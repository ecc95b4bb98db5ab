"""A parameter of a transform that has the name of a tensor is refused, wherever the tensor is from."""

import pytest

from curvlang.language import check_text

TEXT = """transform mine({name}: float = 0.5) {{
  needs a[n,t,i]
  A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
  yield C[o,i,o',i'] = identity[o,o'] * A[i,i']
}}
curvature twofold = block_ggn |> mine{given}
"""


@pytest.mark.parametrize("given", ["", "({name} = 2)"])
@pytest.mark.parametrize(("name", "tensor"), [("a", "a[n,t,i]"), ("A", "A[i,i']")])
def test_a_parameter_named_as_a_tensor(name, tensor, given):
    (found,) = check_text(TEXT.format(name=name, given=given.format(name=name)), "mine.cv")
    assert (found.code, found.labels[0].span.text) == ("E0343", tensor)
    assert found.labels[1].span.text.startswith(f"{name}: float")
