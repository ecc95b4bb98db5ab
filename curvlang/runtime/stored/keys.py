"""What decides the numbers of a fit, as hashes: the identity of a store, and the key of each result in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.language.chain import Chain, Curvature, Stage
from curvlang.language.sums import states_decay, weighted_chains
from curvlang.models.content import ONLY_HERE, own_code
from curvlang.models.fingerprint import digest, model_parts, parameter_parts
from curvlang.models.losses.loss import show_dtype
from curvlang.models.task import Task
from curvlang.storage.fits.identity import Identity

VERSION = "1"
"""Counts changes of how the same fit is computed that change its numbers: labels drawn otherwise, say."""


class TaskContent:
    """The content of a task that a fit reads, each hash taken once; queries are not part of it.

    Args:
        task: The task.
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    @cached_property
    def model(self) -> str:
        """Architecture, mode, parameters and buffers.

        Raises:
            SpecError: E0840 where a part of it cannot be read.
        """
        code = tuple(own_code(self.task.model))
        _check_known(code)
        # Dropout and batch statistics follow the mode, which a model's text does not show.
        modes = repr([module.training for module in self.task.model.modules()])
        parts = (*model_parts(self.task.model), modes, *code)
        return digest(*parts, *parameter_parts(self.task.model))

    @cached_property
    def data(self) -> str:
        """The training examples, and which of their positions count."""
        return self.data_in(None)

    def data_in(self, dtype: torch.dtype | None) -> str:
        """The same in another precision."""
        mask = () if self.task.mask is None else (self.task.mask,)
        return digest(*mask, after=self.task.hashed_training(dtype))

    @cached_property
    def loss(self) -> str:
        """The loss.

        Raises:
            SpecError: E0840 where a part of it cannot be read.
        """
        _check_known((self.task.loss.identity,))
        return digest(self.task.loss.identity)


@dataclass(frozen=True, slots=True)
class FitSettings:
    """What of a run, beside chain and task, decides the numbers of its results.

    Args:
        seed: Of sampled columns.
        dense: Entries that a matrix without structure may have (`Limits.dense`).
    """

    seed: int
    dense: int


def identity_of_fit(curvature: Curvature, content: TaskContent, seed: int) -> Identity:
    """What the store of a fit is of.

    Args:
        curvature: The spec's.
        content: Of the task in the precision of the passes.
        seed: Of sampled columns.
    """
    task = content.task
    weights = [f"{weight} {formula(chain.stages)}" for weight, chain in weighted_chains(curvature)]
    return Identity(
        content.model,
        content.data,
        digest(content.loss, repr(task.weight_decay)),
        digest(VERSION, *weights, repr(states_decay(curvature))),
        curvature.name,
        repr(task),
        seed,
        fitted_in(task),
    )


def fitted_in(task: Task) -> str:
    """What of the precision of a task decides a fit, by name."""
    return show_dtype(task.precision) if task.policy is None else task.policy.fitted


def formula(stages: Sequence[Stage]) -> str:
    """Hash of all that a chain is defined by; names and documentation do not count."""
    return digest(repr([stage.key for stage in stages]))


def result_key(
    chain: Chain, length: int, contents: Sequence[TaskContent], settings: FitSettings
) -> str:
    """The key of the curvature of the mean loss after some stages of a chain.

    Args:
        chain: The chain.
        length: How many of its stages.
        contents: Of the task, or of the task at several models.
        settings: Seed and limits.
    """
    hashes = [x for one in contents for x in (one.model, one.data, one.loss)]
    precision = fitted_in(contents[0].task)
    found = digest(VERSION, formula(chain.stages[:length]), *hashes, precision, repr(settings))
    return found[:32]


def training_key(fresh: Task, seed: int, dtype: torch.dtype) -> str:
    """The key of a model trained from a seed: initialisation, data, loss and recipe.

    Args:
        fresh: A task whose model is initialised.
        seed: Of the initialisation and of the minibatches.
        dtype: Precision of the fit: the data are hashed in the wider one, once for both.
    """
    content = TaskContent(fresh)
    data = content.data_in(torch.promote_types(fresh.dtype, dtype))
    said = (repr(fresh.recipe), repr(fresh.weight_decay), str(seed))
    return digest(VERSION, content.model, data, content.loss, *said)[:32]


def _check_known(texts: Sequence[str]) -> None:
    """Refuse what another process could not recognise."""
    if any(ONLY_HERE in text for text in texts):
        raise refusal(
            Code.E0840,
            "results cannot be kept in a store: the loss or the model holds an object whose content "
            "cannot be read, such as an open file or a lock, so that no other run can recognise it",
            "take the object out of the loss or the model, or work without a store",
        )
