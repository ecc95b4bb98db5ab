from __future__ import annotations

import pytest

from curvlang.models.architectures import decoder, mlp
from curvlang.models.fingerprint import model_parts


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (mlp.Pooling("mean"), " curvlang.models.mlp.Pooling"),
        (decoder.Attention(4, 2), " curvlang.models.decoder.Attention"),
        (decoder.Block(4, 2, 8, "gelu"), " curvlang.models.decoder.Block"),
    ],
)
def test_own_models_keep_their_name_wherever_their_file_is(model, name):
    """Cached ground truth is found by these names: a file that moves must not change them."""
    assert list(model_parts(model))[1] == name


def test_a_subclass_has_its_own_name():
    class Mine(mlp.Pooling):
        pass

    assert list(model_parts(Mine("mean")))[1].endswith("Mine")
