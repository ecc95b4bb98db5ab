"""The task of a `transformers.Trainer`: its model, and its data sets as its collator reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.fields import IGNORED, LABELS
from curvlang.models.execution.copies import unwrapped
from curvlang.models.language_models.libraries import quiet
from curvlang.models.language_models.tokenizer import TokenText
from curvlang.models.losses.loss import Loss
from curvlang.models.losses.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from curvlang.models.origin import Origin
from curvlang.models.recipe import Recipe
from curvlang.models.table_rows.class_labels import names_of
from curvlang.models.table_rows.target_rows import TargetText
from curvlang.models.task import Task
from curvlang.models.task_arguments import LabelOf
from curvlang.models.trainer_rows import TrainerRows

NEXT = ("ForCausalLM", "LMHeadModel")
"""Ends of the names of models that move labels by a position inside their own loss."""
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""How far the trainer's loss may be from the task's, relative to it, by the parameters' precision."""
HALF = 2e-2
"""Where that is half precision."""


def task_from(
    trainer: Any, *, query: Any = None, recipe: Recipe | None = None, name: str = "trainer"
) -> Task:
    """What a `transformers.Trainer` trained, on what, and the queries that it is evaluated on.

    The model is used as it is, and put into `eval()` mode, as `trainer.evaluate()` does. Rows are those that the
    trainer's collator makes of the examples, one by one, without padding. The loss is the model's own for such labels;
    of an example with several labels their sum. That its mean is the trainer's loss is tried on the first example.

    Args:
        trainer: With a `train_dataset`. Its `model_init`, where it has one, makes fresh models.
        query: A data set of the same kind; the trainer's `eval_dataset` where not given.
        recipe: How fresh models are trained; retraining needs it.
        name: For tables.

    Raises:
        SpecError: E0899 for a collator, a loss or data sets that a task cannot have.
    """
    asked = trainer.eval_dataset if query is None else query
    if trainer.train_dataset is None or asked is None or isinstance(asked, Mapping):
        raise _no_rows(trainer, asked)
    model = trainer.model.eval()
    with quiet():
        rows = TrainerRows.of(trainer, asked)
    config = getattr(_inner(model), "config", None)
    causal = type(unwrapped(_inner(model))).__name__.endswith(NEXT)
    loss = _loss(rows.labels, config, float(trainer.args.label_smoothing_factor))
    train, queries = rows.fields(numbers=loss.name == "mse")
    task = Task(
        model,
        loss,
        train,
        queries,
        recipe=recipe,
        name=name,
        build=None if trainer.model_init is None else _Fresh(trainer),
        shift_labels=causal if rows.by_position else None,
        origin=Origin("as the trainer has them"),
        text_of=_text_of(trainer.processing_class),
        label_of=_label_of(trainer, rows, loss, causal=causal),
    )
    with quiet():
        _check_loss(trainer, task, moved=causal and rows.by_position)
    return task


def _inner(model: Any) -> Any:
    """The model inside an adapter's."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _loss(labels: Tensor, config: Any, smoothing: float) -> Loss:
    """The model's own loss for labels of this kind, as `transformers` chooses it."""
    one = getattr(config, "num_labels", None) == 1
    if labels.ndim == 0 and one and getattr(config, "problem_type", None) in (None, "regression"):
        return MeanSquaredError()
    if not labels.is_floating_point():
        return CrossEntropy(label_smoothing=smoothing)
    said = getattr(config, "problem_type", None)
    return MeanSquaredError() if said == "regression" else BinaryCrossEntropy()


def _label_of(trainer: Any, rows: TrainerRows, loss: Loss, *, causal: bool) -> LabelOf | None:
    """How labels are shown: targets as text, classes by their names; numbers and next tokens as they are."""
    if rows.decoder:
        tokenizer = trainer.processing_class
        return TargetText(tokenizer) if hasattr(tokenizer, "decode") else None
    if loss.name == "mse" or (causal and rows.by_position):
        return None
    config = getattr(_inner(trainer.model), "config", None)
    return names_of({"id2label": getattr(config, "id2label", None)})


def _text_of(tokenizer: Any) -> TokenText | None:
    return TokenText(tokenizer) if hasattr(tokenizer, "decode") else None


class _Fresh:
    """Fresh models of a trainer, from a seed."""

    __slots__ = ("trainer",)

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def __call__(self, seed: int) -> nn.Module:
        """A model as the trainer's `model_init` makes it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made: nn.Module = self.trainer.model_init()
        return made.eval()


def _no_rows(trainer: Any, asked: Any) -> SpecError:
    """The refusal of a trainer without one data set for each part."""
    if trainer.train_dataset is None:
        what = "the trainer has no `train_dataset`"
        return refusal(Code.E0899, what, "give `Trainer(…, train_dataset=…)`")
    held = "" if asked is None else f": its `eval_dataset` has {', '.join(f'`{x}`' for x in asked)}"
    return refusal(
        Code.E0899,
        f"the trainer has no data set of queries{held}",
        "give one: `cv.task_from(trainer, query=dataset)`",
    )


_SAID = {
    "cross_entropy": "cross-entropy",
    "mse": "squared error",
    "bce_with_logits": "binary cross-entropy",
}


SEVERAL = 8
"""Examples whose loss is compared together: a weight of a class cancels in the mean of a single one."""


def _check_loss(trainer: Any, task: Task, *, moved: bool) -> None:
    """The trainer's loss is the mean of the task's over what is predicted: of the first example, and of several.

    Args:
        trainer: It.
        task: What was made of it.
        moved: Whether a position predicts the label of the next one.

    Raises:
        SpecError: E0899.
    """
    loader = trainer.get_eval_dataloader(trainer.train_dataset)
    count = len(loader.dataset)
    several = sorted({k * (count - 1) // max(1, SEVERAL - 1) for k in range(min(count, SEVERAL))})
    X, y = (x[:1].to(task.device) for x in task.train)
    with torch.no_grad():
        theirs = _trainers(trainer, _batch(loader, [0], task))
        ours = float(task.loss.per_example(task.model(X), y).sum()) / _predicted(y)
    _check_equal(theirs, ours, "the first example", task)
    batch = _batch(loader, several, task)
    _check_equal(
        _trainers(trainer, batch), _own(trainer, batch, task, moved=moved), "several examples", task
    )


def _batch(loader: Any, places: list[int], task: Task) -> dict[str, Any]:
    """Some training examples as the collator joins them."""
    made = loader.collate_fn([loader.dataset[k] for k in places])
    return {k: x.to(task.device) if isinstance(x, Tensor) else x for k, x in made.items()}


def _trainers(trainer: Any, batch: Mapping[str, Any]) -> float:
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, dict(batch)))


def _own(trainer: Any, batch: Mapping[str, Any], task: Task, *, moved: bool) -> float:
    """The mean of the task's loss over what is predicted in a batch, from the model's own outputs with its padding."""
    y = next(batch[name] for name in (*LABELS, "label_ids") if name in batch)
    with torch.no_grad():
        f = trainer.model(**batch).logits
    if task.loss.name == "mse":
        f = f.reshape(y.shape)
    if moved:
        f, y = f[:, :-1], y[:, 1:]
    wide = torch.float64 if f.dtype == torch.float64 else torch.float32
    y = y.to(wide) if y.is_floating_point() or task.loss.name == "mse" else y
    return float(task.loss.per_example(f.to(wide), y).sum()) / _predicted(y, len(y))


def _predicted(y: Tensor, examples: int = 1) -> int:
    """Labels that count, of positions; else examples."""
    return int((y != IGNORED).sum()) if y.ndim > 1 and not y.is_floating_point() else examples


def _check_equal(theirs: float, ours: float, of: str, task: Task) -> None:
    if abs(theirs - ours) > TOLERANCE.get(task.dtype, HALF) * max(abs(ours), HALF):
        raise refusal(
            Code.E0899,
            f"the trainer's loss of {of} is {theirs:.4g}, and the {_SAID[task.loss.name]} of the labels "
            f"{ours:.4g}",
            "give model, data and loss to `cv.Task`: what this trainer minimises is another loss",
        )
