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

    `type` is one of `int float bool word text names ints floats count number curvature any`; `words` lists the
    words allowed. A `number` is a number or one of the words. `note` says what cannot be stated here.
    """

    type: str
    default: Value | None = None
    words: tuple[str, ...] = ()
    check: Callable[[float], bool] | None = None
    must: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of help and the parameters of something that ships.

    Args:
        doc: One line.
        parameters: By name.
        first: The parameter that a text in front, without a name, is the value of.
        open: Whether other parameters are passed on as they are.
        runs_code: Whether it calls a function that the spec names.
    """

    doc: str
    parameters: Mapping[str, Rule] = field(default_factory=dict)
    first: str = ""
    open: bool = False
    runs_code: bool = False


def _positive(x: float) -> bool:
    return x > 0


def _not_negative(x: float) -> bool:
    return x >= 0


def _open_unit(x: float) -> bool:
    return 0 < x < 1


_SEED = Rule("int", 0, check=_not_negative, must="0 or more")
_SHARE = Rule("float", 0.1, check=_open_unit, must="between 0 and 1")
NONE = "none"
"""The value of a parameter that names a file or a column where there is none."""
_WEIGHTS = Rule("text", NONE)
_SIZE = Rule("int", 1, check=_positive, must="1 or more")

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
        {
            "by": Rule(
                "word",
                "layer",
                ("layer", "parameter"),
                note="blocks by attention head, by group of units or by group of layers cannot be stated; "
                "`per_output` has a block for every output unit",
            )
        },
    ),
}

DATA: Mapping[str, Entry] = {
    "digits": Entry(
        "1797 images of 8 × 8 pixels, 10 classes (scikit-learn's bundled set)",
        {
            "test": _SHARE,
            "seed": _SEED,
            "scale": Rule("word", "standard", ("standard", "unit", "none")),
            "layout": Rule("word", "flat", ("flat", "image")),
        },
    ),
    "diabetes": Entry(
        "442 patients, ten measurements and the progression of a disease (scikit-learn's bundled set)",
        {"test": _SHARE, "seed": _SEED},
    ),
    "characters": Entry(
        "sequences of characters from eleven sonnets of Shakespeare, 27 letters; targets are the next ones",
        {
            "context": Rule("int", 8, check=_positive, must="1 or more"),
            "test": _SHARE,
            "seed": _SEED,
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
    "file": Entry(
        "columns of an npz, csv, tsv, parquet or safetensors file; queries by share, by column or from a file",
        {
            "path": Rule("text"),
            "inputs": Rule("names", ("all",)),
            "target": Rule("names", ("y",)),
            "query": Rule("text", NONE),
            "split": Rule("text", NONE),
            "test": _SHARE,
            "seed": _SEED,
            "scale": Rule("word", NONE, (NONE, "standard")),
        },
        first="path",
    ),
    "python": Entry(
        "training and query examples from a function, `package.module:function` (needs --allow-python)",
        {"function": Rule("text")},
        first="function",
        open=True,
        runs_code=True,
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
            "weights": _WEIGHTS,
        },
    ),
    "cnn": Entry(
        "3 × 3 convolutions, each halved by average pooling, and a linear layer behind",
        {
            "channels": Rule("ints", (8, 16), check=_positive, must="1 or more each"),
            "groups": _SIZE,
            "norm": Rule("word", "none", ("none", "group")),
            "activation": Rule("word", "relu", ACTIVATIONS),
            "bias": Rule("bool", True),
            "weights": _WEIGHTS,
        },
    ),
    "decoder": Entry(
        "a pre-norm decoder transformer: embeddings of tokens and positions, causal attention",
        {
            "width": Rule("int", 12, check=_positive, must="1 or more"),
            "heads": Rule("int", 2, check=_positive, must="1 or more"),
            "layers": _SIZE,
            "hidden": Rule("int", 24, check=_positive, must="1 or more"),
            "activation": Rule("word", "gelu", ACTIVATIONS),
            "weights": _WEIGHTS,
        },
    ),
    "python": Entry(
        "a module from a function, `package.module:function` (needs --allow-python)",
        {"function": Rule("text"), "weights": _WEIGHTS},
        first="function",
        open=True,
        runs_code=True,
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


def _steps(lr: float) -> Mapping[str, Rule]:
    """What every optimiser takes."""
    return {
        "lr": Rule("float", lr, check=_positive, must="above 0"),
        "batch": Rule("int", 32, check=_positive, must="1 or more"),
        "epochs": Rule("int", 100, check=_not_negative, must="0 or more"),
        "schedule": Rule("word", "cosine", ("cosine", "constant", "linear")),
        "warmup": Rule("int", 0, check=_not_negative, must="0 or more (steps)"),
        "clip": Rule("float", 0.0, check=_not_negative, must="above 0, or 0 for no clipping"),
        "weight_decay": Rule("float", 0.0, check=_not_negative, must="0 or more"),
    }


_ADAM: Mapping[str, Rule] = {
    "beta1": Rule("float", 0.9, check=lambda x: 0 <= x < 1, must="at least 0, below 1"),
    "beta2": Rule("float", 0.999, check=lambda x: 0 <= x < 1, must="at least 0, below 1"),
    "eps": Rule("float", 1e-8, check=_positive, must="above 0"),
}

METRICS: Mapping[str, Entry] = {
    "loss": Entry("the query's loss: positive scores lower it"),
    "margin": Entry(
        "the logit of the true class less logsumexp of the others: positive scores raise it"
    ),
    "logit": Entry("the logit of the true class: positive scores raise it"),
}
"""What queries are asked for (`--metric`)."""

OPTIMISERS: Mapping[str, Entry] = {
    "sgd": Entry(
        "minibatch gradient descent with heavy-ball momentum; weight decay is an L2 term",
        {
            **_steps(0.03),
            "momentum": Rule("float", 0.0, check=lambda x: 0 <= x < 1, must="at least 0, below 1"),
            "nesterov": Rule("bool", False),
        },
    ),
    "adam": Entry("Adam; weight decay is an L2 term", {**_steps(0.003), **_ADAM}),
    "adamw": Entry(
        "Adam with decoupled weight decay, which is no L2 term and adds nothing to the Hessian",
        {**_steps(0.003), **_ADAM},
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
        "groups": Rule("word", "random", ("random", "one", "class")),
        "seed": _SEED,
        "bootstrap": Rule("int", 1000, check=_positive, must="1 or more"),
    },
)

BASELINES: Mapping[str, Entry] = {
    "gradient_cosine": Entry("cosine of the query's gradient and the training example's"),
    "representation_cosine": Entry("cosine of what enters the last module with parameters"),
    "projected_ensemble": Entry(
        "projected gradients of the margin, whitened, over models (Park et al. 2023, arXiv:2303.14186)",
        {
            "models": Rule("int", 5, check=_positive, must="1 or more"),
            "dimension": Rule("int", 256, check=_positive, must="1 or more"),
            "seed": _SEED,
        },
    ),
    "source": Entry(
        "the derivative through training in stationary segments of a curvature (Bae et al. 2024, arXiv:2405.12186)",
        {
            "curvature": Rule("curvature"),
            "segments": Rule("int", 3, check=_positive, must="1 or more"),
            "checkpoints": Rule("int", 2, check=_positive, must="1 or more"),
            "models": Rule("int", 1, check=_positive, must="1 or more"),
        },
    ),
    "metagradient": Entry(
        "exact derivative of the query's loss by an example's weight, through every step of training",
        {"models": Rule("int", 1, check=_positive, must="1 or more")},
    ),
}
"""Scores that a study compares with those of curvatures."""

MEASURES: Mapping[str, Entry] = {
    "mislabelled": Entry(
        "area under the ROC curve of finding changed labels by influence on themselves",
        {
            "share": Rule("float", 0.1, check=_open_unit, must="between 0 and 1"),
            "seed": _SEED,
        },
    ),
    "proximal_response": Entry(
        "rank agreement with the proximal Bregman response (Bae et al. 2022, arXiv:2209.05364)",
        {
            "examples": Rule("int", 20, check=lambda x: x >= 2, must="2 or more"),
            "steps": Rule("int", 30, check=_positive, must="1 or more"),
            "seed": _SEED,
        },
    ),
    "brittleness": Entry(
        "share of right predictions that flip without their supporters (Ilyas et al. 2022, arXiv:2202.00622)",
        {
            "share": Rule("float", 0.05, check=_open_unit, must="between 0 and 1"),
            "queries": Rule("int", 10, check=_positive, must="1 or more"),
            "retrains": Rule("int", 3, check=_positive, must="1 or more"),
            "seed": _SEED,
        },
    ),
}
"""Ground truths of a study beside retraining on subsets."""

NAMED: Mapping[str, Mapping[str, Entry]] = {**PARTS, "baselines": BASELINES, "measures": MEASURES}
"""What a line of a task or a study may name, by the line's keyword."""

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
