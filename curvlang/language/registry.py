"""What ships, as signatures: built-in stages, data sets, models, losses, optimisers, measures.

Pure tables that the language half checks against without importing torch; the code behind a name
stands in `curvlang.models`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from curvlang.language.chain import Value


@dataclass(frozen=True, slots=True)
class Rule:
    """A parameter's type, default, and what its value must satisfy.

    `type` is one of `int float bool word text ints floats count number curvature any`; `words` lists the
    words allowed. A `number` is a number or one of the words.
    """

    type: str
    default: Value | None = None
    words: tuple[str, ...] = ()
    check: Callable[[float], bool] | None = None
    must: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of help and the parameters of something that ships."""

    doc: str
    parameters: Mapping[str, Rule] = field(default_factory=dict)


def _positive(x: float) -> bool:
    return x > 0


def _not_negative(x: float) -> bool:
    return x >= 0


def _open_unit(x: float) -> bool:
    return 0 < x < 1


_SEED = Rule("int", 0, check=_not_negative, must="0 or more")

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
            "fisher": Rule("word", "exact", ("exact", "mc", "empirical")),
            "samples": Rule("int", 1, check=_positive, must="1 or more"),
        },
    ),
    "block_diagonal": Entry(
        "blocks off the diagonal are dropped: one block per layer, or per parameter tensor",
        {"by": Rule("word", "layer", ("layer", "parameter"))},
    ),
}

DATA: Mapping[str, Entry] = {
    "digits": Entry(
        "1797 images of 8 × 8 pixels, 10 classes (scikit-learn's bundled set)",
        {
            "test": Rule("float", 0.1, check=_open_unit, must="between 0 and 1"),
            "seed": _SEED,
            "scale": Rule("word", "standard", ("standard", "unit", "none")),
        },
    ),
    "random": Entry(
        "standard normal inputs and drawn targets; its seed also initialises the model of a law",
        {
            "examples": Rule("int", 8, check=_positive, must="1 or more"),
            "inputs": Rule("int", 3, check=_positive, must="1 or more"),
            "outputs": Rule("int", 3, check=_positive, must="1 or more"),
            "positions": Rule("int", 1, check=_positive, must="1 or more"),
            "seed": _SEED,
        },
    ),
}

POSITIONS = ("kept", "averaged", "summed")
"""What a model does with the positions of an example before the loss."""

ACTIVATIONS = ("tanh", "relu", "gelu", "sigmoid", "silu", "identity", "elu", "softplus")

MODELS: Mapping[str, Entry] = {
    "mlp": Entry(
        "a multilayer perceptron",
        {
            "hidden": Rule("ints", (16,), check=_positive, must="1 or more each"),
            "activation": Rule("word", "tanh", ACTIVATIONS),
            "bias": Rule("bool", False),
            "positions": Rule("word", "kept", POSITIONS),
        },
    ),
}

LOSSES: Mapping[str, Entry] = {
    "cross_entropy": Entry(
        "softmax cross-entropy, summed over an example's positions or averaged",
        {
            "positions": Rule("word", "sum", ("sum", "mean")),
            "label_smoothing": Rule(
                "float", 0.0, check=lambda x: 0 <= x <= 1, must="between 0 and 1"
            ),
            "ignore_index": Rule("int", -100),
            "weight": Rule("floats", (), check=_not_negative, must="0 or more each"),
        },
    ),
    "mse": Entry("mean over the outputs of the squared error"),
    "bce_with_logits": Entry(
        "mean over the outputs of the logistic loss; targets from 0 to 1",
        {"pos_weight": Rule("floats", (), check=_not_negative, must="0 or more each")},
    ),
}

OPTIMISERS: Mapping[str, Entry] = {
    "sgd": Entry(
        "minibatch gradient descent with heavy-ball momentum",
        {
            "lr": Rule("float", 0.03, check=_positive, must="above 0"),
            "momentum": Rule("float", 0.0, check=lambda x: 0 <= x < 1, must="at least 0, below 1"),
            "batch": Rule("int", 32, check=_positive, must="1 or more"),
            "epochs": Rule("int", 100, check=_not_negative, must="0 or more"),
            "schedule": Rule("word", "cosine", ("cosine", "constant")),
            "weight_decay": Rule("float", 0.0, check=_not_negative, must="0 or more"),
        },
    ),
}

PARTS: Mapping[str, Mapping[str, Entry]] = {
    "data": DATA,
    "model": MODELS,
    "loss": LOSSES,
    "train": OPTIMISERS,
}

LDS = Entry(
    "linear datamodelling score by retraining on random subsets",
    {
        "subsets": Rule("int", 100, check=lambda x: x >= 2, must="2 or more"),
        "keep": Rule("float", 0.5, check=_open_unit, must="between 0 and 1"),
        "retrains": Rule("int", 5, check=_positive, must="1 or more"),
        "queries": Rule("count", "all", ("all",), check=_positive, must="`all`, or 1 or more"),
        "initialisation": Rule("word", "fresh", ("fresh", "shared")),
        "seed": _SEED,
        "bootstrap": Rule("int", 1000, check=_positive, must="1 or more"),
    },
)

_SOLVER: Mapping[str, Rule] = {
    "preconditioner": Rule("curvature", "none"),
    "preconditioner_damping": Rule(
        "number", "same", ("same",), check=_positive, must="`same` (as the inverse), or above 0"
    ),
}

SOLVERS: Mapping[str, Entry] = {
    "cg": Entry(
        "conjugate gradients on (C + λI) x = v, until the relative residual is small",
        {
            **_SOLVER,
            "tolerance": Rule("float", 1e-6, check=_open_unit, must="between 0 and 1"),
            "iterations": Rule("int", 1000, check=_positive, must="1 or more"),
        },
    ),
    "neumann": Entry(
        "x ← x + lr · P (v − (C + λI) x) from 0, with P the damped inverse of the preconditioner",
        {
            **_SOLVER,
            "lr": Rule("float", 1.0, check=_positive, must="above 0"),
            "steps": Rule("int", 100, check=_positive, must="1 or more"),
            "batch": Rule("count", "all", ("all",), check=_positive, must="`all`, or 1 or more"),
            "seed": _SEED,
        },
    ),
}
"""Solvers of `solve …`: what they apply is `1 / (s + λ)`, exactly or up to a stated residual."""

NOT_NEGATIVE = ("damping", "rtol", "lr", "steps", "relative")
"""Inverse parameters that a negative number makes no sense for."""
