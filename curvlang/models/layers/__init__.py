"""Layers as `a[n,t,i]` and `g[n,r,t,o]`: the table of covered ones."""

from collections.abc import Mapping

from torch import nn

from curvlang.models.layers.attention import InProjection, OutProjection
from curvlang.models.layers.conv import Convolution, TransposedConvolution
from curvlang.models.layers.embedding import Embedding, EmbeddingBag
from curvlang.models.layers.layer import Input, Layer
from curvlang.models.layers.linear import Linear, TransposedLinear
from curvlang.models.layers.norm import BATCH_NORM, GROUP_NORM, LAYER_NORM, RMS_NORM
from curvlang.models.layers.one_hot import OneHot

LAYERS: Mapping[str, Layer] = {
    "torch.nn.modules.linear.Linear": Linear(),
    "transformers.pytorch_utils.Conv1D": TransposedLinear(),
    "torch.nn.modules.conv.Conv1d": Convolution(),
    "torch.nn.modules.conv.Conv2d": Convolution(),
    "torch.nn.modules.conv.Conv3d": Convolution(),
    "torch.nn.modules.conv.ConvTranspose1d": TransposedConvolution(),
    "torch.nn.modules.conv.ConvTranspose2d": TransposedConvolution(),
    "torch.nn.modules.conv.ConvTranspose3d": TransposedConvolution(),
    "torch.nn.modules.sparse.Embedding": Embedding(),
    "torch.nn.modules.sparse.EmbeddingBag": EmbeddingBag(),
    "torch.nn.modules.normalization.LayerNorm": LAYER_NORM,
    "torch.nn.modules.normalization.RMSNorm": RMS_NORM,
    "torch.nn.modules.normalization.GroupNorm": GROUP_NORM,
    "torch.nn.modules.batchnorm.BatchNorm1d": BATCH_NORM,
    "torch.nn.modules.batchnorm.BatchNorm2d": BATCH_NORM,
    "torch.nn.modules.batchnorm.BatchNorm3d": BATCH_NORM,
}
"""Covered layer types by their full names; adding one is a file here and its line.

By name, so that a type of another library is known without importing it. The type has to be
exactly this one: a subclass may compute something else.
"""

IN_PROJECTION = InProjection()
OUT_PROJECTION = OutProjection()


def layer_of(module: nn.Module) -> Layer | None:
    """How a module of a covered type shows itself; None for any other type."""
    kind = type(module)
    return LAYERS.get(f"{kind.__module__}.{kind.__qualname__}")


__all__ = ["IN_PROJECTION", "LAYERS", "OUT_PROJECTION", "Input", "Layer", "OneHot", "layer_of"]
