"""Layers as `a[n,t,i]` and `g[n,r,t,o]`: the table of covered ones."""

from collections.abc import Mapping

from torch import nn

from curvlang.models.layers.layer import Layer
from curvlang.models.layers.linear import LINEAR

LAYERS: Mapping[type[nn.Module], Layer] = {nn.Linear: LINEAR}
"""Covered layer types; adding one is a file here and its line."""

__all__ = ["LAYERS", "Layer"]
