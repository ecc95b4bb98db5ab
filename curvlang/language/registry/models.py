"""Models, with their parameters."""

from __future__ import annotations

from collections.abc import Mapping

from curvlang.language.registry.common import COUNT, WEIGHTS
from curvlang.language.registry.entry import NONE, Entry, Parameter
from curvlang.language.registry.kinds import Choice, NumberList, String, Truth

POSITIONS = ("kept", "averaged", "summed")
"""What a model does with the positions of an example before the loss."""

ACTIVATIONS = ("tanh", "relu", "gelu", "sigmoid", "silu", "identity", "elu", "softplus")


def _activation(default: str) -> Parameter:
    return Parameter(Choice(ACTIVATIONS), default, "function between the layers")


MODELS: Mapping[str, Entry] = {
    "mlp": Entry(
        "a multilayer perceptron",
        {
            "hidden": Parameter(NumberList(COUNT), (16,), "widths of the hidden layers"),
            "activation": _activation("tanh"),
            "bias": Parameter(Truth(), False, "whether layers have biases"),
            "positions": Parameter(
                Choice(POSITIONS), "kept", "what the loss sees of an example's positions"
            ),
            "initialisation": Parameter(
                Choice(("torch", "he")),
                "torch",
                "uniform in ±1/√fan_in, or normal with variance 2/fan_in",
            ),
            "weights": WEIGHTS,
        },
    ),
    "cnn": Entry(
        "3 × 3 convolutions, each halved by average pooling, and a linear layer",
        {
            "channels": Parameter(
                NumberList(COUNT, empty=False), (8, 16), "channels of the convolutions"
            ),
            "groups": Parameter(
                COUNT, 1, "groups of every convolution but the first, and of norms"
            ),
            "norm": Parameter(
                Choice((NONE, "group")), NONE, "`group`: a GroupNorm after every convolution"
            ),
            "activation": _activation("relu"),
            "bias": Parameter(Truth(), True, "whether layers have biases"),
            "weights": WEIGHTS,
        },
    ),
    "decoder": Entry(
        "a pre-norm decoder transformer: embeddings of tokens and positions, causal attention",
        {
            "width": Parameter(COUNT, 12, "features of a position"),
            "heads": Parameter(COUNT, 2, "heads of attention; they divide the width"),
            "layers": Parameter(COUNT, 1, "blocks of attention and perceptron"),
            "hidden": Parameter(COUNT, 24, "width inside a block's perceptron"),
            "activation": _activation("gelu"),
            "weights": WEIGHTS,
        },
    ),
    "attention": Entry(
        "a layer of self-attention over an example's positions: queries, keys, values, and what joins the heads",
        {
            "heads": Parameter(COUNT, 2, "heads of attention"),
            "size": Parameter(COUNT, 4, "features of a head"),
            "bias": Parameter(Truth(), True, "whether layers have biases"),
            "positions": Parameter(
                Choice(POSITIONS), "kept", "what the loss sees of an example's positions"
            ),
            "weights": WEIGHTS,
        },
    ),
    "pretrained": Entry(
        "a model that `save_pretrained` of `transformers` has written, or one of a hub; no code of it runs",
        {
            "path": Parameter(String(), doc="its folder, from the spec's own, or a name"),
            "adapter": Parameter(
                String(), NONE, "a folder of `peft`: its matrices alone are studied (LoRA)"
            ),
        },
        first="path",
    ),
    "python": Entry(
        "a module from a function, `package.module:function` (needs --allow-python)",
        {
            "function": Parameter(String(), doc="`package.module:function`"),
            "weights": WEIGHTS,
        },
        first="function",
        open=True,
        runs_code=True,
    ),
}
