"""`nn.MultiheadAttention`: its two matrices, seen where `functional.linear` multiplies by them.

The module calls no submodule: queries, keys and values are one product with `in_proj_weight` where
all three are the same input, and the heads are joined by `out_proj`. Inside, positions come first.
"""

from __future__ import annotations

from torch import nn

from curvlang.models.layers.linear import Linear


class InProjection(Linear):
    """`in_proj_weight` [3 D, D] of self-attention."""

    name = "MultiheadAttention (in)"
    weight = "in_proj_weight"
    bias = "in_proj_bias"
    folds = False

    def refuses(self, module: nn.Module) -> str | None:
        """Keys and values of other widths have matrices of their own."""
        if getattr(module, "in_proj_weight", None) is None:
            return "`kdim` or `vdim` differ from `embed_dim`"
        if getattr(module, "bias_k", None) is not None:
            return "`add_bias_kv` adds positions that are parameters"
        return None

    def dense_rows(self, module: nn.Module) -> bool:
        """No module returns it."""
        return False


class OutProjection(Linear):
    """`out_proj` of attention."""

    name = "MultiheadAttention (out)"
    folds = False

    def dense_rows(self, module: nn.Module) -> bool:
        """No module returns it."""
        return False
