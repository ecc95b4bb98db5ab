"""Means over all examples of what the code adds up over some of them."""

from __future__ import annotations

import torch

from curvlang.models.derivatives.hessian import hessian_entries
from curvlang.models.derivatives.layer_hessian import MEMORY, halves_by_layers, symmetric_part
from curvlang.models.derivatives.products import WHOLE, ggn_sum, hessian_product
from curvlang.models.tracing.blocks import trainable


def hessian_dense(model, loss, X, y, layers=None, method=None):
    """The Hessian, by the cheaper of two ways."""
    entries = hessian_entries(model, loss, X, y, layers, method)
    return entries.mean(entries.over(range(len(X))))


def hessian_by_layers(model, loss, X, y, blocks, *, held=MEMORY):
    """The Hessian from derivatives by the layers' outputs."""
    return symmetric_part(halves_by_layers(model, loss, (X, y), blocks, held)).mul_(2 / len(X))


def hessian_by_products(model, loss, X, y, way=None):
    """The Hessian as its product with the identity."""
    own = list(trainable(model).values())
    P = sum(p.numel() for p in own)
    return symmetric_part(hessian_product(model, loss, X, y, way)(torch.eye(P).to(own[0])))


def ggn_product(model, loss, X, y, way=None, portion=WHOLE):
    """Products with G = (1/N) Σ J_nᵀ Λ_n J_n, for v [P] or [P, k]."""
    over = ggn_sum(model, loss, X, y, way, portion)
    return lambda v: (over(range(len(X)), v.reshape(len(v), -1)) / len(X)).reshape(v.shape)
