"""The task of a `transformers.Trainer`: its model, and its data sets as its collator reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.fields import IGNORED, LABELS, Fields
from curvlang.models.execution.copies import unwrapped
from curvlang.models.language_models.libraries import quiet
from curvlang.models.language_models.tokenizer import TokenText
from curvlang.models.losses.losses import CrossEntropy
from curvlang.models.origin import Origin
from curvlang.models.padding.ragged_rows import RaggedColumn
from curvlang.models.recipe import Recipe
from curvlang.models.task import Task

MASK = "attention_mask"
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
    trainer's collator makes of the examples, one by one, without padding. The loss of an example is the sum over the
    tokens that it predicts; that its mean is the trainer's loss is tried on the first example.

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
        train, queries = _fields(trainer, trainer.train_dataset), _fields(trainer, asked)
    labels = train.values[LABELS[0]]
    by_position = isinstance(labels, RaggedColumn)
    task = Task(
        model,
        CrossEntropy(label_smoothing=float(trainer.args.label_smoothing_factor)),
        train,
        queries,
        recipe=recipe,
        name=name,
        build=None if trainer.model_init is None else _Fresh(trainer),
        shift_labels=type(unwrapped(_inner(model))).__name__.endswith(NEXT)
        if by_position
        else None,
        origin=Origin("as the trainer has them"),
        text_of=_text_of(trainer.processing_class),
    )
    with quiet():
        _check_loss(trainer, task)
    return task


def _inner(model: Any) -> Any:
    """The model inside an adapter's."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


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


def _fields(trainer: Any, rows: Any) -> Fields:
    """All examples as the trainer's collator makes them, each by itself."""
    loader = trainer.get_eval_dataloader(rows)
    collate, rows = loader.collate_fn, loader.dataset
    made = [_row(collate([rows[n]])) for n in range(len(rows))]
    again = _row(collate([rows[0]]))
    if any(not torch.equal(again[name], x) for name, x in made[0].items()):
        raise refusal(
            Code.E0899,
            "the trainer's collator makes other rows each time: it draws what is masked",
            "give data sets whose labels are fixed, and a collator that draws nothing",
        )
    if LABELS[0] not in again:
        known = ", ".join(f"`{x}`" for x in again)
        raise refusal(
            Code.E0899,
            f"the trainer's collator gives no `{LABELS[0]}`: it gives {known}",
            "give a collator that makes labels, such as `DataCollatorForLanguageModeling(tokenizer, mlm=False)`",
        )
    return Fields({name: _column([row[name] for row in made]) for name in again})


def _row(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The fields of one example, without the positions that its mask leaves out."""
    found = {name: x[0] for name, x in batch.items() if isinstance(x, Tensor)}
    mask = found.pop(MASK, None)
    if mask is None or mask.ndim != 1:
        return found if mask is None else {**found, MASK: mask}
    return {name: x[mask != 0] if x.shape[:1] == mask.shape else x for name, x in found.items()}


def _column(rows: Sequence[Tensor]) -> Tensor | RaggedColumn:
    return torch.stack(list(rows)) if rows[0].ndim == 0 else RaggedColumn(tuple(rows))


def _check_loss(trainer: Any, task: Task) -> None:
    """The trainer's loss of the first example is the mean of the task's over the tokens that it predicts.

    Raises:
        SpecError: E0899.
    """
    loader = trainer.get_eval_dataloader(trainer.train_dataset)
    batch = {
        name: x.to(task.device) if isinstance(x, Tensor) else x
        for name, x in loader.collate_fn([loader.dataset[0]]).items()
    }
    X, y = (x[:1].to(task.device) for x in task.train)
    with torch.no_grad():
        theirs = float(trainer.compute_loss(trainer.model, batch))
        ours = float(task.loss.per_example(task.model(X), y).sum()) / int((y != IGNORED).sum())
    if abs(theirs - ours) > TOLERANCE.get(task.dtype, HALF) * max(abs(ours), HALF):
        raise refusal(
            Code.E0899,
            f"the trainer's loss of the first example is {theirs:.4g}, and the cross-entropy of its labels {ours:.4g}",
            "give model, data and loss to `cv.Task`: what this trainer minimises is another loss",
        )
