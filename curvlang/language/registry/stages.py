"""Sources and built-in stages of a chain, and the words that go with them."""

from __future__ import annotations

from collections.abc import Mapping

from curvlang.language.registry.common import COUNT
from curvlang.language.registry.entry import Entry, Parameter
from curvlang.language.registry.kinds import Blocks, Choice, NameList

SOURCES: Mapping[str, Entry] = {"hessian": Entry("the Hessian of the mean training loss")}

LAYERS: Mapping[str, str] = {
    "Linear": "weight and bias, any leading shape; uses are summed; also `transformers`' Conv1D",
    "Conv1d, Conv2d, Conv3d": "any stride, padding, dilation; each group is a block of its own",
    "ConvTranspose1d, 2d, 3d": "as a convolution over the input with zeros in between",
    "Embedding, EmbeddingBag": "one-hot inputs, kept as the places of their ones; padding rows are constants",
    "MultiheadAttention": "of one input with itself: `in_proj` and `out_proj`",
    "LayerNorm, RMSNorm, GroupNorm, BatchNorm": "scale and shift; a stage that reads `a` or `g` alone needs `others = …`",
    "any other parameter": "tied, transformed, recurrent, bare: gradients by autograd; needs `others = …` likewise",
}
"""Layers of a model, and what is read of each."""

OTHERS: Mapping[str, str] = {
    "keep": "they stay as they are before the stage",
    "ignore": "they are taken as constants: no part of the problem",
}
"""What `others = …` may say of parameters that a stage does not fit, besides another stage."""

WEIGHTS: Mapping[str, str] = {"weight_decay": "the weight of the task's L2 term"}
"""Values of the task that a curvature may be multiplied with in a sum."""

STAGES: Mapping[str, Entry] = {
    "drop_residual": Entry(
        "the generalised Gauss–Newton matrix: the residual Σ ∂ℓ/∂f ∇²f is dropped",
        {
            "fisher": Parameter(
                Choice(("exact", "mc", "empirical")),
                "exact",
                "columns of the loss Hessian: exact, of sampled labels, or of the true label",
            ),
            "samples": Parameter(COUNT, 1, "labels sampled for each example, for `mc`"),
        },
    ),
    "block_diagonal": Entry(
        "blocks off the diagonal are dropped",
        {
            "by": Parameter(
                Blocks(),
                "layer",
                "what a block is of: a layer, a parameter tensor, a head of attention, output units, or the "
                "parameters that patterns name",
                note='names of parameters stand in quotes: `"*.attention.*"`, or in a list with a text for each block',
            ),
            "of": Parameter(
                NameList(empty=True),
                (),
                "patterns of the layers that `head`, `unit` and `neuron` cut; all that they can where none is given",
            ),
            "vocabulary": Parameter(
                Choice(("layers", "apart")),
                "layers",
                "`apart`: embeddings, and the layer that predicts their rows, are left to `others = …`",
            ),
        },
    ),
}
